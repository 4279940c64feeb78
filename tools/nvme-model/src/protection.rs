//! Protection information (NVM command set 5.2): checksums, and how guard and tags lie in a block's metadata.

use crc::{CRC_16_T10_DIF, CRC_32_ISCSI, CRC_64_NVME, Crc};

static CRC16: Crc<u16> = Crc::<u16>::new(&CRC_16_T10_DIF);
static CRC32: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
static CRC64: Crc<u64> = Crc::<u64>::new(&CRC_64_NVME);

/// Which guard there is (PIF).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guard {
    /// CRC-16 T10-DIF: 8 bytes in all.
    Crc16,
    /// CRC-32C: 16 bytes in all.
    Crc32,
    /// CRC-64/NVME: 16 bytes in all.
    Crc64,
}

/// Protection information that is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Protection {
    /// Type 1, 2 or 3.
    pub kind: u8,
    /// Its guard.
    pub guard: Guard,
    /// Whether it is the first bytes of the metadata, not the last.
    pub first: bool,
}

/// A block's protection information.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tags {
    pub(crate) guard: u64,
    pub(crate) application: u16,
    /// Storage and reference tag as one; there are no storage tags.
    pub(crate) reference: u128,
}

impl Guard {
    pub(crate) fn pi_bytes(self) -> usize {
        if self == Guard::Crc16 { 8 } else { 16 }
    }

    /// An extended format (ELBAF): PIF in bits 8:7, STS in bits 6:0. A guard of 32 bits has 16 bits of storage tag at least,
    /// which are left at 0 here.
    pub(crate) fn format(self) -> u32 {
        match self {
            Guard::Crc16 => 0,
            Guard::Crc32 => 1 << 7 | 16,
            Guard::Crc64 => 2 << 7,
        }
    }

    fn guard_bytes(self) -> usize {
        match self {
            Guard::Crc16 => 2,
            Guard::Crc32 => 4,
            Guard::Crc64 => 8,
        }
    }

    /// How many bits there are for the reference tag.
    pub(crate) fn reference_bits(self) -> u32 {
        8 * (self.pi_bytes() - self.guard_bytes() - 2) as u32
    }

    /// The checksum of all parts, one after the other (5.3.1.3).
    pub(crate) fn of<'a>(self, parts: impl Iterator<Item = &'a [u8]>) -> u64 {
        match self {
            Guard::Crc16 => {
                let mut digest = CRC16.digest();
                parts.for_each(|part| digest.update(part));
                digest.finalize().into()
            }
            Guard::Crc32 => {
                let mut digest = CRC32.digest();
                parts.for_each(|part| digest.update(part));
                digest.finalize().into()
            }
            Guard::Crc64 => {
                let mut digest = CRC64.digest();
                parts.for_each(|part| digest.update(part));
                digest.finalize()
            }
        }
    }
}

impl Protection {
    /// Where it lies in `metadata_bytes` bytes of metadata.
    pub(crate) fn place(self, metadata_bytes: usize) -> std::ops::Range<usize> {
        let len = self.guard.pi_bytes();
        let start = if self.first { 0 } else { metadata_bytes - len };
        start..start + len
    }

    /// The guard of a block: of its data, and of the metadata that lies before the protection information.
    pub(crate) fn guard_of(self, data: &[u8], metadata: &[u8]) -> u64 {
        let place = self.place(metadata.len());
        self.guard.of([data, &metadata[..place.start]].into_iter())
    }

    /// What the metadata of a block says.
    pub(crate) fn read(self, metadata: &[u8]) -> Tags {
        let bytes = &metadata[self.place(metadata.len())];
        let number = |part: &[u8]| part.iter().fold(0_u128, |sum, byte| sum << 8 | u128::from(*byte));
        let (guard, rest) = bytes.split_at(self.guard.guard_bytes());
        let (application, reference) = rest.split_at(2);
        Tags {
            guard: number(guard) as u64,
            application: number(application) as u16,
            reference: number(reference),
        }
    }

    /// Has the metadata of a block say so.
    pub(crate) fn write(self, metadata: &mut [u8], tags: Tags) {
        let place = self.place(metadata.len());
        let bytes = &mut metadata[place];
        let len = bytes.len();
        let at = self.guard.guard_bytes();
        bytes[..at].copy_from_slice(&tags.guard.to_be_bytes()[8 - at..]);
        bytes[at..at + 2].copy_from_slice(&tags.application.to_be_bytes());
        bytes[at + 2..].copy_from_slice(&tags.reference.to_be_bytes()[16 - (len - at - 2)..]);
    }

    /// Whether the tags say that nothing of the block is to be checked.
    pub(crate) fn is_escaped(self, tags: Tags) -> bool {
        let ones = (1_u128 << self.guard.reference_bits()) - 1;
        tags.application == 0xFFFF && (self.kind != 3 || tags.reference == ones)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Guard; 3] = [Guard::Crc16, Guard::Crc32, Guard::Crc64];

    fn of(guard: Guard, bytes: &[u8]) -> u64 {
        guard.of([bytes].into_iter())
    }

    #[test]
    fn checksums_have_their_published_check_values() {
        assert_eq!(ALL.map(|guard| of(guard, b"123456789")), [0xD0DB, 0xE306_9283, 0xAE8B_1486_0A79_9888]);
    }

    /// The test cases of the specification (NVM 1.0d, 5.2.1.2 and 5.2.1.3.5) for blocks of 4 KiB.
    #[test]
    fn checksums_are_those_of_the_specification() {
        let rising: Vec<u8> = (0..4096).map(|at| at as u8).collect();
        let falling: Vec<u8> = rising.iter().map(|byte| !byte).collect();
        let cases = [
            (vec![0; 4096], 0x98F9_4189, 0x6482_D367_EB22_B64E),
            (vec![0xFF; 4096], 0x25C1_FE13, 0xC0DD_BA73_02EC_A3AC),
            (rising, 0x9C71_FE32, 0x3E72_9F5F_6750_449C),
            (falling, 0x2149_41A8, 0x9A2D_F64B_8E9E_517E),
        ];
        for (block, crc32, crc64) in cases {
            assert_eq!(
                (of(Guard::Crc32, &block), of(Guard::Crc64, &block)),
                (crc32, crc64),
                "{:x?}",
                &block[..4]
            );
        }
    }

    /// A checksum bit by bit, as its definition has it.
    fn by_definition(guard: Guard, bytes: &[u8]) -> u64 {
        let reflected = |polynomial: u64, ones: u64| {
            ones ^ bytes.iter().fold(ones, |crc, byte| {
                let step = |crc: u64, _| crc >> 1 ^ if crc & 1 != 0 { polynomial } else { 0 };
                (0..8).fold(crc ^ u64::from(*byte), step)
            })
        };
        match guard {
            Guard::Crc16 => bytes.iter().fold(0_u64, |crc, byte| {
                let step = |crc: u64, _| (crc << 1 ^ if crc & 0x8000 != 0 { 0x8BB7 } else { 0 }) & 0xFFFF;
                (0..8).fold(crc ^ u64::from(*byte) << 8, step)
            }),
            Guard::Crc32 => reflected(0x82F6_3B78, 0xFFFF_FFFF),
            Guard::Crc64 => reflected(0x9A6C_9329_AC4B_C9B5, u64::MAX),
        }
    }

    proptest! {
        #[test]
        fn checksums_are_those_of_their_definition(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            cut in 0.0..1.0,
        ) {
            let (first, second) = bytes.split_at((bytes.len() as f64 * cut) as usize);
            for guard in ALL {
                prop_assert_eq!(guard.of([first, second].into_iter()), by_definition(guard, &bytes));
            }
        }

        #[test]
        fn a_changed_bit_changes_the_guard(
            mut bytes in proptest::collection::vec(any::<u8>(), 512),
            bit in 0..512 * 8_usize,
        ) {
            let before = ALL.map(|guard| of(guard, &bytes));
            bytes[bit / 8] ^= 1 << (bit % 8);
            for (guard, before) in ALL.into_iter().zip(before) {
                prop_assert_ne!(of(guard, &bytes), before);
            }
        }

        #[test]
        fn tags_are_read_as_they_were_written(
            (guard, application, reference) in (any::<u64>(), any::<u16>(), any::<u128>()),
            (first, more) in (any::<bool>(), 0..40_usize),
        ) {
            for kind in ALL {
                let mask = |bits: u32| (1_u128 << bits) - 1;
                let tags = Tags {
                    guard: (u128::from(guard) & mask(8 * kind.guard_bytes() as u32)) as u64,
                    application,
                    reference: reference & mask(kind.reference_bits()),
                };
                let protection = Protection { kind: 1, guard: kind, first };
                let mut metadata = vec![0x55; kind.pi_bytes() + more];
                protection.write(&mut metadata, tags);
                prop_assert_eq!(protection.read(&metadata), tags);
                // Nothing else was touched.
                let place = protection.place(metadata.len());
                prop_assert!(metadata[..place.start].iter().chain(&metadata[place.end..]).all(|byte| *byte == 0x55));
            }
        }
    }

    /// NVM 1.0d, 5.2.1.1.
    #[test]
    fn a_guard_covers_the_metadata_that_lies_before_it() {
        let (data, metadata) = (vec![7; 512], (0..24).collect::<Vec<u8>>());
        for guard in ALL {
            let all = [&data[..], &metadata[..24 - guard.pi_bytes()]].concat();
            let last = Protection { kind: 1, guard, first: false };
            assert_eq!(last.guard_of(&data, &metadata), of(guard, &all));
            let first = Protection { kind: 1, guard, first: true };
            assert_eq!(first.guard_of(&data, &metadata), of(guard, &data));
        }
    }

    /// NVM 1.0d, 5.2.2.
    #[test]
    fn tags_of_ones_are_not_checked() {
        for guard in ALL {
            let ones = (1_u128 << guard.reference_bits()) - 1;
            let escaped = |kind, application, reference| {
                let tags = Tags { guard: 0, application, reference };
                Protection { kind, guard, first: true }.is_escaped(tags)
            };
            assert_eq!([1, 2, 3].map(|kind| escaped(kind, 0xFFFF, 5)), [true, true, false]);
            assert_eq!([1, 2, 3].map(|kind| escaped(kind, 0xFFFF, ones)), [true; 3]);
            assert_eq!([1, 2, 3].map(|kind| escaped(kind, 0xFFFE, ones)), [false; 3]);
        }
    }

    #[test]
    fn tags_lie_as_the_specification_draws_them() {
        let tags = Tags { guard: 0x1122_3344_5566_7788, application: 0x99AA, reference: 0xBBCC_DDEE_FF01 };
        let written = |guard, first, len: usize| {
            let protection = Protection { kind: 1, guard, first };
            let mut metadata = vec![0x55; len];
            protection.write(&mut metadata, tags);
            let back = protection.read(&metadata);
            assert_eq!(back.application, tags.application);
            metadata
        };
        assert_eq!(written(Guard::Crc16, false, 8), [0x77, 0x88, 0x99, 0xAA, 0xDD, 0xEE, 0xFF, 0x01]);
        assert_eq!(written(Guard::Crc16, true, 10)[8..], [0x55, 0x55]);
        let long =
            [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xAA, 0xBB, 0xCC, 0xDD, 0xEE, 0xFF, 0x01];
        assert_eq!(written(Guard::Crc64, false, 20)[4..], long);
        let middle = [0x55, 0x66, 0x77, 0x88, 0x99, 0xAA, 0, 0, 0, 0, 0xBB, 0xCC, 0xDD, 0xEE, 0xFF, 0x01];
        assert_eq!(written(Guard::Crc32, false, 16), middle);
    }
}
