//! What the controller is like: everything that a test or a person may want to have otherwise.
//!
//! Invariant: a [`ModelConfig`] that [`validate`](ModelConfig::validate) lets through describes a controller that the
//! specification allows.

use std::time::Duration;

use corelane_dma::Backing;

use crate::device::DeviceError;
use crate::fault::FaultScript;
use crate::protection::Protection;
use crate::zone::ZoneConfig;

/// How the polling thread waits when nothing is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Idle {
    /// It never stops looking: lowest latency, one core busy.
    Spin,
    /// It looks for a while, then lets others run between looks, then sleeps between looks (at most a millisecond).
    BackOff,
}

/// What a namespace keeps its blocks in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NamespaceBacking {
    /// Nothing: reads leave the host's memory as it is, writes are forgotten. For measuring everything else.
    Null,
    /// As `Null`, but reads fill the host's memory with zeroes.
    Zero,
    /// RAM; it reads as zeroes at first.
    Ram(Backing),
    /// The next node that [`Model::with_nodes`](crate::Model::with_nodes) was given. Its length is the namespace's size.
    Node,
}

/// A namespace. They are numbered from 1 in the order given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamespaceConfig {
    /// Its size in bytes; what is no whole block is cut off.
    pub size_bytes: u64,
    /// The size of a block as a power of two, 9 to 16.
    pub lba_shift: u8,
    /// Metadata bytes that every block of the format has.
    pub metadata_bytes: u16,
    /// Whether the metadata lies at the end of each block (else in a buffer of its own).
    pub metadata_extended: bool,
    /// Protection information in the metadata. Blocks with metadata are served where they are kept in RAM.
    pub protection: Option<Protection>,
    /// What its blocks are kept in.
    pub backing: NamespaceBacking,
    /// NOIOB: optimal I/O boundary in blocks; 0: not reported.
    pub io_boundary_blocks: u16,
    /// NPWG, NPWA and NOWS as one: preferred write granularity in blocks; 0: not reported.
    pub write_blocks: u16,
    /// NPDG and NPDA as one: preferred deallocate granularity in blocks; 0: not reported.
    pub deallocate_blocks: u16,
    /// How much one Copy takes.
    pub copy: CopyLimits,
    /// By what hosts can have data placed, if they can. Not with metadata.
    pub placement: Option<PlacementConfig>,
    /// The zones that it is divided into, if it is zoned. Not of a node.
    pub zones: Option<ZoneConfig>,
}

/// How much one Copy takes (NVM command set 4.1.5.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopyLimits {
    /// MSSRL: blocks of a source range, at least 1.
    pub range_blocks: u16,
    /// MCL: blocks of all source ranges, at least 1.
    pub blocks: u32,
    /// MSRC: source ranges, less one.
    pub ranges_less_one: u8,
}

/// By how many handles hosts can have data of a namespace placed (TP4146).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlacementConfig {
    /// Reclaim unit handles, 1 to 128.
    pub handles: u16,
    /// Reclaim groups, 1 to 16: each handle can be used in each. With more than one, placement identifiers are no numbers in a row.
    pub groups: u16,
}

impl PlacementConfig {
    /// The placement identifiers with their handles, in the order of the status: the group in the upper bits.
    pub(crate) fn identifiers(self) -> impl Iterator<Item = (u16, u16)> {
        let bits = u32::from(self.groups).next_power_of_two().trailing_zeros();
        let group = move |group: u16| group.checked_shl(16 - bits).unwrap_or(0);
        (0..self.handles).flat_map(move |handle| (0..self.groups).map(move |of| (group(of) | handle, handle)))
    }
}

/// How much of the host's memory a controller asks for (NVMe base 2.0, section 8.9), in units of 4 KiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostMemoryWish {
    /// HMPRE: what it would like, at least 1.
    pub preferred: u32,
    /// HMMIN: what it needs at least, at most as much as it would like; 0: any.
    pub least: u32,
    /// HMMINDS: the least length of a piece; 0: any.
    pub least_piece: u32,
    /// HMMAXD: the most pieces; 0: any number.
    pub most_pieces: u16,
}

impl Default for CopyLimits {
    /// 128 ranges of up to 128 blocks, 1,024 blocks together.
    fn default() -> CopyLimits {
        CopyLimits { range_blocks: 128, blocks: 1024, ranges_less_one: 127 }
    }
}

impl NamespaceConfig {
    /// `size_bytes` bytes of RAM in blocks of 4 KiB.
    pub fn ram(size_bytes: u64) -> NamespaceConfig {
        NamespaceConfig {
            backing: NamespaceBacking::Ram(Backing::Pages),
            ..NamespaceConfig::null(size_bytes)
        }
    }

    /// A node of the block layer, in blocks of 4 KiB.
    pub fn node() -> NamespaceConfig {
        NamespaceConfig { backing: NamespaceBacking::Node, ..NamespaceConfig::null(0) }
    }

    /// A null namespace of `size_bytes` bytes in blocks of 4 KiB.
    pub fn null(size_bytes: u64) -> NamespaceConfig {
        NamespaceConfig {
            size_bytes,
            lba_shift: 12,
            metadata_bytes: 0,
            metadata_extended: false,
            protection: None,
            backing: NamespaceBacking::Null,
            io_boundary_blocks: 0,
            write_blocks: 0,
            deallocate_blocks: 0,
            copy: CopyLimits::default(),
            placement: None,
            zones: None,
        }
    }

    /// The number of blocks: those of whole zones, where there are zones.
    pub(crate) fn blocks(&self) -> u64 {
        let unit = self.zones.as_ref().map_or(1, |zones| zones.zone_bytes.max(1));
        (self.size_bytes - self.size_bytes % unit) >> self.lba_shift
    }
}

/// A controller.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModelConfig {
    /// Serial number, up to 20 ASCII characters.
    pub serial: String,
    /// Model number, up to 40 ASCII characters.
    pub model: String,
    /// Firmware revision, up to 8 ASCII characters.
    pub firmware: String,
    /// The namespaces, at least one.
    pub namespaces: Vec<NamespaceConfig>,
    /// Entries that a queue may have (CAP.MQES + 1), 2 to 65,536.
    pub max_queue_entries: u32,
    /// I/O queue pairs, 1 to 1,024.
    pub max_queue_pairs: u16,
    /// MSI-X vectors, 1 to 512.
    pub vectors: u32,
    /// CAP.DSTRD: doorbells are 2 ^ (2 + stride) bytes apart; 0 to 8. With 4 each has a cache line of its own.
    pub doorbell_stride: u8,
    /// CAP.TO in units of 500 ms.
    pub ready_timeout: u8,
    /// How long the controller takes to become ready.
    pub ready_delay: Duration,
    /// MDTS: the largest transfer as a power of two of 4 KiB pages; 0: no limit.
    pub mdts: u8,
    /// CAP.MPSMAX: the largest memory page as a power of two of 4 KiB; 0 to 4.
    pub max_page_shift: u8,
    /// Whether there is a volatile write cache.
    pub write_cache: bool,
    /// Whether there is Compare.
    pub compare: bool,
    /// Whether there is Dataset Management.
    pub deallocate: bool,
    /// Whether there is Write Zeroes.
    pub write_zeroes: bool,
    /// Whether there is Verify.
    pub verify: bool,
    /// Whether there is Write Uncorrectable.
    pub write_uncorrectable: bool,
    /// Whether there is Copy, with descriptors of format 0.
    pub copy: bool,
    /// Whether Compare and Write can be fused. Not over nodes, and not together with faults.
    pub fused: bool,
    /// VSL: the largest Verify as a power of two of 4 KiB pages; 0: no limit.
    pub vsl: u8,
    /// WUSL: the largest Write Uncorrectable as a power of two of 4 KiB pages; 0: no limit.
    pub wusl: u8,
    /// AWUN, AWUPF and ACWU as one: blocks that are written atomically, at least 1.
    pub atomic_blocks: u16,
    /// Whether there are shadow doorbells (Doorbell Buffer Config).
    pub shadow_doorbells: bool,
    /// Whether the I/O commands take SGLs.
    pub sgls: bool,
    /// WZSL: the largest Write Zeroes as a power of two of 4 KiB pages; 0: no limit.
    pub wzsl: u8,
    /// DMRL: ranges of a Dataset Management command; 0: not reported.
    pub dmrl: u8,
    /// DMRSL: blocks of a range of it; 0: not reported.
    pub dmrsl: u32,
    /// DMSL: blocks of all its ranges; 0: not reported.
    pub dmsl: u64,
    /// ZASL: the largest Zone Append as a power of two of 4 KiB pages; 0: as MDTS.
    pub zasl: u8,
    /// The length of its memory buffer (CMB) for submission queues in units of 4 KiB; 0: it has none. For a host in the same process
    /// only: BAR 2, where it is, is not served over vfio-user.
    pub memory_buffer_pages: u16,
    /// The memory of the host's that it asks for, and uses.
    pub host_memory: Option<HostMemoryWish>,
    /// AERL: how many Asynchronous Event Requests it holds, less one.
    pub aerl: u8,
    /// The core that the polling thread stays on.
    pub core: Option<usize>,
    /// How the polling thread waits.
    pub idle: Idle,
    /// What goes wrong.
    pub faults: FaultScript,
}

impl ModelConfig {
    /// A controller with these namespaces and nothing unusual.
    pub fn new(namespaces: Vec<NamespaceConfig>) -> ModelConfig {
        ModelConfig {
            serial: "CL00000001".to_owned(),
            model: "Corelane NVMe Model".to_owned(),
            firmware: "1.0".to_owned(),
            namespaces,
            max_queue_entries: 4096,
            max_queue_pairs: 64,
            vectors: 65,
            doorbell_stride: 4,
            ready_timeout: 10,
            ready_delay: Duration::ZERO,
            mdts: 7,
            max_page_shift: 4,
            write_cache: true,
            compare: true,
            deallocate: true,
            write_zeroes: true,
            verify: true,
            write_uncorrectable: true,
            copy: true,
            fused: false,
            vsl: 0,
            wusl: 0,
            atomic_blocks: 8,
            shadow_doorbells: false,
            sgls: false,
            wzsl: 0,
            dmrl: 0,
            dmrsl: 0,
            dmsl: 0,
            zasl: 0,
            memory_buffer_pages: 0,
            host_memory: None,
            aerl: 3,
            core: None,
            idle: Idle::BackOff,
            faults: FaultScript::default(),
        }
    }

    /// Checks every value.
    ///
    /// # Errors
    /// [`DeviceError::Config`], which names the setting and what would be right.
    pub fn validate(&self) -> Result<(), DeviceError> {
        let pages_of_shadow = (u64::from(self.max_queue_pairs) + 1) * 2 * (4 << self.doorbell_stride.min(10));
        let checks = [
            text("the length of the serial number", &self.serial, 20),
            text("the length of the model number", &self.model, 40),
            text("the length of the firmware revision", &self.firmware, 8),
            range("the number of namespaces", self.namespaces.len() as u64, 1, 1024),
            range("the number of queue entries", self.max_queue_entries.into(), 2, 65536),
            range("the number of queue pairs", self.max_queue_pairs.into(), 1, 1024),
            range("the number of vectors", self.vectors.into(), 1, 512),
            range("the doorbell stride", self.doorbell_stride.into(), 0, 8),
            range("the maximum page size shift", self.max_page_shift.into(), 0, 4),
            range("MDTS", self.mdts.into(), 0, 20),
            range("WZSL", self.wzsl.into(), 0, 20),
            range("VSL", self.vsl.into(), 0, 20),
            range("WUSL", self.wusl.into(), 0, 20),
            range("ZASL", self.zasl.into(), 0, if self.mdts == 0 { 20 } else { self.mdts.into() }),
            range("the number of blocks written atomically", self.atomic_blocks.into(), 1, 65_535),
            self.check_fused(),
            self.host_memory.map_or(Ok(()), |wish| {
                range("HMPRE", wish.preferred.into(), 1, u32::MAX.into())?;
                range("HMMIN", wish.least.into(), 0, wish.preferred.into())
            }),
            if self.shadow_doorbells {
                range("the bytes of the shadow doorbells", pages_of_shadow, 1, 4096)
            } else {
                Ok(())
            },
        ];
        checks.into_iter().collect::<Result<(), _>>()?;
        self.check_faults(&self.faults)?;
        let largest_bytes = if self.mdts == 0 { u64::MAX } else { 4096 << self.mdts };
        self.namespaces.iter().try_for_each(|namespace| {
            namespace.validate()?;
            range("the block size with this MDTS", 1 << namespace.lba_shift, 512, largest_bytes)
        })
    }
}

impl ModelConfig {
    /// A node's commands end in another lane, where no fault is made.
    fn check_fused(&self) -> Result<(), DeviceError> {
        let nodes = self.namespaces.iter().any(|one| one.backing == NamespaceBacking::Node);
        if self.fused && (nodes || !self.faults.rules.is_empty()) {
            let expected = "0: neither over nodes nor together with faults are commands fused".to_owned();
            return Err(DeviceError::Config { what: "whether commands are fused", value: 1, expected });
        }
        Ok(())
    }

    /// Whether there is a namespace whose data can be placed.
    pub(crate) fn has_placement(&self) -> bool {
        self.namespaces.iter().any(|one| one.placement.is_some())
    }

    /// Whether there is a zoned namespace.
    pub(crate) fn has_zones(&self) -> bool {
        self.namespaces.iter().any(|one| one.zones.is_some())
    }

    pub(crate) fn check_faults(&self, faults: &FaultScript) -> Result<(), DeviceError> {
        let nodes = self.namespaces.iter().any(|one| one.backing == NamespaceBacking::Node);
        if nodes && !faults.rules.is_empty() {
            let reason = "faults are made on namespaces in memory only: ram, null and zero".to_owned();
            return Err(DeviceError::Node { reason });
        }
        Ok(())
    }
}

impl NamespaceConfig {
    fn validate(&self) -> Result<(), DeviceError> {
        range("the block size shift of a namespace", self.lba_shift.into(), 9, 16)?;
        if let Some(protection) = self.protection {
            range("the type of protection information", protection.kind.into(), 1, 3)?;
            let least = protection.guard.pi_bytes() as u64;
            range(
                "the metadata with this protection information",
                self.metadata_bytes.into(),
                least,
                65_535,
            )?;
        }
        if let Some(placement) = self.placement {
            range("the reclaim unit handles of a namespace", placement.handles.into(), 1, 128)?;
            range("the reclaim groups of a namespace", placement.groups.into(), 1, 16)?;
            range("the metadata of a namespace with placement", self.metadata_bytes.into(), 0, 0)?;
        }
        range("MSSRL of a namespace", self.copy.range_blocks.into(), 1, 65_535)?;
        range("MCL of a namespace", self.copy.blocks.into(), 1, u32::MAX.into())?;
        range("the size of a namespace", self.size_bytes, 1 << self.lba_shift, i64::MAX as u64)?;
        let Some(zones) = &self.zones else { return Ok(()) };
        if self.backing == NamespaceBacking::Node {
            let reason = "zones are of namespaces in memory only: ram, null and zero".to_owned();
            return Err(DeviceError::Node { reason });
        }
        zones.validate(self.size_bytes, self.lba_shift)
    }
}

fn range(what: &'static str, value: u64, low: u64, high: u64) -> Result<(), DeviceError> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(DeviceError::Config { what, value, expected: format!("from {low} to {high}") })
}

fn text(what: &'static str, text: &str, max: u64) -> Result<(), DeviceError> {
    if text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return range(what, text.len() as u64, 0, max);
    }
    let expected = "of printable ASCII characters only".to_owned();
    Err(DeviceError::Config { what, value: text.len() as u64, expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> ModelConfig {
        ModelConfig::new(vec![NamespaceConfig::null(1 << 20)])
    }

    #[test]
    fn the_default_is_valid() {
        good().validate().unwrap();
    }

    #[test]
    fn every_wrong_value_is_named() {
        type Change = fn(&mut ModelConfig);
        let cases: [(Change, &str); 8] = [
            (|config| config.serial = "x".repeat(21), "serial"),
            (|config| config.model = "m\u{e4}".to_owned(), "model"),
            (|config| config.namespaces.clear(), "namespaces"),
            (|config| config.max_queue_entries = 1, "entries"),
            (|config| config.vectors = 513, "vectors"),
            (|config| config.shadow_doorbells = true, "shadow"),
            (|config| config.namespaces[0].lba_shift = 8, "block size"),
            (|config| (config.namespaces[0].lba_shift, config.mdts) = (16, 1), "MDTS"),
        ];
        for (change, word) in cases {
            let mut config = good();
            change(&mut config);
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn shadow_doorbells_fit_with_a_small_stride() {
        let mut config = good();
        (config.shadow_doorbells, config.doorbell_stride) = (true, 0);
        config.validate().unwrap();
    }
}
