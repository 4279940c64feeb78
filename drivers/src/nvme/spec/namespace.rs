//! Identify: a namespace of the NVM command set (NVM 4.1.5.1).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::assert_layout;

/// An LBA format: 4 bytes (NVM figure 98).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct LbaFormat {
    /// MS: bytes of metadata of each block.
    pub metadata_bytes: U16,
    /// LBADS: the block's size as a power of two.
    pub data_shift: u8,
    /// RP in bits 1:0: how fast it is, 0 is best.
    pub performance: u8,
}

/// A namespace (NVM figure 97).
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct IdentifyNamespace {
    /// NSZE: its size in blocks.
    pub nsze: U64,
    /// NCAP: how many blocks may be allocated.
    pub ncap: U64,
    /// NUSE: how many are.
    pub nuse: U64,
    /// NSFEAT.
    pub nsfeat: u8,
    /// NLBAF: formats, counted from 0.
    pub nlbaf: u8,
    /// FLBAS: the format in use.
    pub flbas: u8,
    /// MC.
    pub mc: u8,
    /// DPC.
    pub dpc: u8,
    /// DPS: which protection is on.
    pub dps: u8,
    /// NMIC.
    pub nmic: u8,
    /// RESCAP.
    pub rescap: u8,
    /// FPI.
    pub fpi: u8,
    /// DLFEAT: what deallocated blocks read as.
    pub dlfeat: u8,
    /// NAWUN: blocks that are written atomically, counted from 0.
    pub nawun: U16,
    /// NAWUPF: the same across a loss of power.
    pub nawupf: U16,
    /// NACWU: blocks that a fused Compare and Write treats atomically, counted from 0.
    pub nacwu: U16,
    /// NABSN: blocks between the boundaries that atomic writes may not cross, counted from 0; 0 for none.
    pub nabsn: U16,
    /// NABO: the first of these boundaries, in blocks.
    pub nabo: U16,
    /// NABSPF: as NABSN, across a loss of power.
    pub nabspf: U16,
    /// NOIOB: blocks that a transfer should not cross, 0 for none.
    pub noiob: U16,
    /// NVMCAP, in bytes.
    pub nvmcap: [u8; 16],
    /// NPWG: preferred granularity of writes in blocks, counted from 0.
    pub npwg: U16,
    /// NPWA: their preferred alignment in blocks, counted from 0.
    pub npwa: U16,
    /// NPDG: preferred granularity of deallocation in blocks, counted from 0.
    pub npdg: U16,
    /// NPDA: its preferred alignment in blocks, counted from 0.
    pub npda: U16,
    /// NOWS: preferred size of writes in blocks, counted from 0.
    pub nows: U16,
    /// MSSRL: most blocks of a range of Copy.
    pub mssrl: U16,
    /// MCL: most blocks of a Copy.
    pub mcl: U32,
    /// MSRC: most ranges of a Copy, counted from 0.
    pub msrc: u8,
    reserved_81: [u8; 11],
    /// ANAGRPID.
    pub anagrpid: U32,
    reserved_96: [u8; 3],
    /// NSATTR: bit 0 says that it is write protected.
    pub nsattr: u8,
    /// NVMSETID.
    pub nvmsetid: U16,
    /// ENDGID.
    pub endgid: U16,
    /// NGUID.
    pub nguid: [u8; 16],
    /// EUI64.
    pub eui64: [u8; 8],
    /// LBAF0 to LBAF63.
    pub formats: [LbaFormat; 64],
    /// Of the vendor.
    pub vendor: [u8; 3712],
}

assert_layout!(IdentifyNamespace, 4096, {
    nsze: 0, nsfeat: 24, nlbaf: 25, flbas: 26, mc: 27, dps: 29, dlfeat: 33, nawun: 34, noiob: 46, nvmcap: 48,
    npwg: 64, npwa: 66, npdg: 68, npda: 70, nows: 72, mssrl: 74, mcl: 76, msrc: 80, anagrpid: 92, nsattr: 99,
    nvmsetid: 100, endgid: 102, nguid: 104, eui64: 120, formats: 128, vendor: 384,
});

impl IdentifyNamespace {
    /// The number of the format in use: bits 3:0 of FLBAS, and 6:5 above them where there are more than 16 formats.
    pub fn format_index(&self) -> usize {
        let low = usize::from(self.flbas & 0xf);
        if self.nlbaf < 16 { low } else { usize::from(self.flbas >> 5 & 0b11) << 4 | low }
    }

    /// The format in use, unless its number is larger than there are formats.
    pub fn format(&self) -> Option<LbaFormat> {
        let index = self.format_index();
        if index > usize::from(self.nlbaf) { None } else { self.formats.get(index).copied() }
    }

    /// FLBAS bit 4: metadata follows each block's data, instead of lying elsewhere.
    pub fn extended_blocks(&self) -> bool {
        self.flbas >> 4 & 1 == 1
    }

    /// Bytes of metadata behind each block's data in the format in use. Limits of the controller that are in bytes count them
    /// (Base 5.1.13, CTRATT bit 16).
    pub fn interleaved_bytes(&self) -> u64 {
        let format = self.format().filter(|_| self.extended_blocks());
        format.map_or(0, |format| format.metadata_bytes.get().into())
    }

    /// NSFEAT bit 1 (NSABP): NAWUN, NAWUPF and NACWU hold for this namespace, instead of the controller's values.
    pub fn has_atomics(&self) -> bool {
        self.nsfeat >> 1 & 1 == 1
    }

    /// NSFEAT bit 4 (OPTPERF): NPWG, NPWA, NPDG, NPDA and NOWS are there.
    pub fn has_preferences(&self) -> bool {
        self.nsfeat >> 4 & 1 == 1
    }

    /// DLFEAT bits 2:0 = 001b: deallocated blocks read as zeroes.
    pub fn deallocated_reads_zero(&self) -> bool {
        self.dlfeat & 0b111 == 0b001
    }

    /// DLFEAT bit 3: Write Zeroes may deallocate.
    pub fn zeroes_may_deallocate(&self) -> bool {
        self.dlfeat >> 3 & 1 == 1
    }

    /// NSATTR bit 0: writes are refused.
    pub fn is_write_protected(&self) -> bool {
        self.nsattr & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn the_format_is_found_among_few_and_many() {
        let mut identify = IdentifyNamespace::new_zeroed();
        identify.formats[3].data_shift = 12;
        (identify.nlbaf, identify.flbas) = (7, 0b0110_0011);
        assert_eq!(
            identify.format().map(|format| format.data_shift),
            Some(12),
            "the upper bits mean nothing here"
        );
        identify.flbas = 8;
        assert_eq!(identify.format(), None);
        (identify.nlbaf, identify.flbas) = (40, 0b0100_0001);
        assert_eq!(identify.format_index(), 33);
        assert!(identify.format().is_some());
        (identify.nlbaf, identify.flbas) = (255, 0b0110_1111);
        assert_eq!(identify.format_index(), 63);
        assert!(identify.format().is_some());
    }
}
