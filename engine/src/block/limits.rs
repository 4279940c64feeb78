//! A node's rules ([`BlockLimits`]) and the arithmetic on them.
//!
//! All values are bytes. Zero stands for "no limit" or "no preference" where QEMU says so (`block_int-common.h`).

use super::zoned::ZoneLimits;

/// Largest length of a node and end of a request in bytes: `i64::MAX` rounded down to the largest request alignment
/// that a format may ask for (QEMU's `BDRV_MAX_LENGTH`, 1 GiB granularity).
pub const MAX_LENGTH_BYTES: u64 = (i64::MAX as u64) & !((1 << 30) - 1);

/// Largest read or write in bytes: a positive 32-bit number, whole sectors of 512 (QEMU's `BDRV_REQUEST_MAX_BYTES`).
pub const MAX_REQUEST_BYTES: u64 = (i32::MAX as u64) & !511;

/// What a device demands of the requests that it gets. QEMU's `BlockLimits`, bytes throughout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockLimits {
    /// Alignment of offset and length; a power of two from 1 up.
    pub request_alignment: u32,
    /// Largest transfer; a multiple of `request_alignment` (and of `opt_transfer`), 0 for no limit.
    pub max_transfer: u32,
    /// Preferred transfer; a multiple of `request_alignment`, 0 for no preference.
    pub opt_transfer: u32,
    /// Most segments in one transfer, at least 1.
    pub max_iov: u32,
    /// Alignment of memory address and segment length below which a copy is needed; a power of two.
    pub min_mem_alignment: u32,
    /// Preferred alignment of memory, used for bounce buffers; a power of two, at least `min_mem_alignment`.
    pub opt_mem_alignment: u32,
    /// Largest discard; a multiple of `pdiscard_alignment`, 0 for no limit.
    pub max_pdiscard: u64,
    /// Preferred discard alignment; a multiple of `request_alignment`, 0 for that.
    pub pdiscard_alignment: u32,
    /// Largest write-zeroes; a multiple of `pwrite_zeroes_alignment`, 0 for no limit.
    pub max_pwrite_zeroes: u64,
    /// Preferred write-zeroes alignment; a multiple of `request_alignment`, 0 for that.
    pub pwrite_zeroes_alignment: u32,
    /// Largest transfer that goes to the hardware without the kernel's I/O scheduler, 0 for `max_transfer`.
    pub max_hw_transfer: u64,
    /// Most segments of such a transfer, 0 for `max_iov`.
    pub max_hw_iov: u32,
    /// What its zones demand, if it is zoned.
    pub zoned: Option<ZoneLimits>,
}

impl Default for BlockLimits {
    /// A byte-granular device without limits: what null and mem are.
    fn default() -> BlockLimits {
        BlockLimits {
            request_alignment: 1,
            max_transfer: 0,
            opt_transfer: 0,
            max_iov: 1024,
            min_mem_alignment: 1,
            opt_mem_alignment: 4096,
            max_pdiscard: 0,
            pdiscard_alignment: 0,
            max_pwrite_zeroes: 0,
            pwrite_zeroes_alignment: 0,
            max_hw_transfer: 0,
            max_hw_iov: 0,
            zoned: None,
        }
    }
}

/// A rule of [`BlockLimits`] that does not hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LimitsError {
    /// A value that must be a power of two is not.
    #[error("{field} is {value}, but must be a power of two of at most {max}")]
    NotPowerOfTwo {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// The largest value allowed.
        max: u64,
    },
    /// A value that must be a multiple of another is not.
    #[error("{field} is {value}, but must be a multiple of {of} ({of_value})")]
    NotMultiple {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// The field that it must be a multiple of.
        of: &'static str,
        /// The value of that field.
        of_value: u64,
    },
    /// A value is below the smallest allowed.
    #[error("{field} is {value}, but must be at least {min}")]
    TooSmall {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// The smallest value allowed.
        min: u64,
    },
}

/// The largest alignment that a node may ask for, in bytes. QEMU bounds it by `INT_MAX`; a bounce buffer has to hold
/// one block, so it is lower here.
pub const MAX_ALIGNMENT: u32 = 1 << 20;

impl BlockLimits {
    /// Checks every rule that the fields' documentation states.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn validate(&self) -> Result<(), LimitsError> {
        power_of_two("request_alignment", self.request_alignment)?;
        power_of_two("min_mem_alignment", self.min_mem_alignment)?;
        power_of_two("opt_mem_alignment", self.opt_mem_alignment)?;
        at_least("opt_mem_alignment", self.opt_mem_alignment.into(), self.min_mem_alignment.into())?;
        at_least("max_iov", self.max_iov.into(), 1)?;
        let align = ("request_alignment", u64::from(self.request_alignment));
        multiple("opt_transfer", self.opt_transfer.into(), align)?;
        multiple("max_transfer", self.max_transfer.into(), align)?;
        multiple("max_transfer", self.max_transfer.into(), ("opt_transfer", self.opt_transfer.into()))?;
        multiple("pdiscard_alignment", self.pdiscard_alignment.into(), align)?;
        multiple("max_pdiscard", self.max_pdiscard, ("pdiscard_alignment", self.discard_alignment().into()))?;
        multiple("pwrite_zeroes_alignment", self.pwrite_zeroes_alignment.into(), align)?;
        let zeroes = ("pwrite_zeroes_alignment", u64::from(self.zeroes_alignment()));
        multiple("max_pwrite_zeroes", self.max_pwrite_zeroes, zeroes)?;
        let Some(zones) = &self.zoned else { return Ok(()) };
        at_least("zone_size", zones.zone_size, align.1)?;
        multiple("zone_size", zones.zone_size, align)?;
        multiple("zone_capacity", zones.zone_capacity, align)?;
        at_least("zone_size", zones.zone_size, zones.zone_capacity)?;
        at_least("max_append", zones.max_append.into(), align.1)?;
        multiple("max_append", zones.max_append.into(), align)?;
        at_least("zone_size", zones.zone_size, zones.max_append.into())
    }

    /// The largest aligned transfer in bytes, with "no limit" spelled out.
    pub fn transfer_bound(&self) -> u64 {
        let top = MAX_REQUEST_BYTES & !(u64::from(self.request_alignment) - 1);
        match self.max_transfer {
            0 => top,
            max => u64::from(max).min(top),
        }
    }

    /// The alignment that a discard should have, in bytes.
    pub fn discard_alignment(&self) -> u32 {
        if self.pdiscard_alignment == 0 { self.request_alignment } else { self.pdiscard_alignment }
    }

    /// The largest discard in bytes, a multiple of [`discard_alignment`](Self::discard_alignment).
    pub fn discard_bound(&self) -> u64 {
        bound(self.max_pdiscard, self.discard_alignment())
    }

    /// The alignment that a write-zeroes should have, in bytes.
    pub fn zeroes_alignment(&self) -> u32 {
        if self.pwrite_zeroes_alignment == 0 { self.request_alignment } else { self.pwrite_zeroes_alignment }
    }

    /// The largest write-zeroes in bytes, a multiple of [`zeroes_alignment`](Self::zeroes_alignment).
    pub fn zeroes_bound(&self) -> u64 {
        bound(self.max_pwrite_zeroes, self.zeroes_alignment())
    }

    /// `max_hw_transfer` as QEMU's `blk_get_max_hw_transfer` reads it: the smaller of it and the transfer bound.
    pub fn hw_transfer_bound(&self) -> u64 {
        match self.max_hw_transfer {
            0 => self.transfer_bound(),
            max => max.min(self.transfer_bound()),
        }
    }

    /// `max_hw_iov` as QEMU's `blk_get_max_hw_iov` reads it: the smaller of it and `max_iov`.
    pub fn hw_iov_bound(&self) -> u32 {
        match self.max_hw_iov {
            0 => self.max_iov,
            max => max.min(self.max_iov),
        }
    }

    /// The smallest aligned range that covers `offset..offset + bytes`, as (offset, bytes). The caller has checked
    /// that the range ends below [`MAX_LENGTH_BYTES`].
    pub fn cover(&self, offset: u64, bytes: u64) -> (u64, u64) {
        let align = u64::from(self.request_alignment);
        let start = offset & !(align - 1);
        let end = (offset + bytes).next_multiple_of(align);
        (start, end - start)
    }
}

fn bound(max: u64, align: u32) -> u64 {
    let align = u64::from(align);
    let top = MAX_LENGTH_BYTES - MAX_LENGTH_BYTES % align;
    if max == 0 { top } else { max.min(top) }
}

fn power_of_two(field: &'static str, value: u32) -> Result<(), LimitsError> {
    if value.is_power_of_two() && value <= MAX_ALIGNMENT {
        return Ok(());
    }
    Err(LimitsError::NotPowerOfTwo { field, value: value.into(), max: MAX_ALIGNMENT.into() })
}

fn at_least(field: &'static str, value: u64, min: u64) -> Result<(), LimitsError> {
    if value >= min { Ok(()) } else { Err(LimitsError::TooSmall { field, value, min }) }
}

/// Zero (no limit, no preference) on either side satisfies every rule.
fn multiple(field: &'static str, value: u64, (of, of_value): (&'static str, u64)) -> Result<(), LimitsError> {
    if of_value == 0 || value.is_multiple_of(of_value) {
        return Ok(());
    }
    Err(LimitsError::NotMultiple { field, value, of, of_value })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn disk() -> BlockLimits {
        BlockLimits {
            request_alignment: 512,
            max_transfer: 131_072,
            opt_transfer: 4096,
            max_iov: 128,
            min_mem_alignment: 4,
            opt_mem_alignment: 4096,
            max_pdiscard: 1 << 30,
            pdiscard_alignment: 4096,
            max_pwrite_zeroes: 1 << 25,
            pwrite_zeroes_alignment: 512,
            max_hw_transfer: 0,
            max_hw_iov: 0,
            zoned: None,
        }
    }

    const ZONES: ZoneLimits = ZoneLimits {
        zone_size: 1 << 20,
        zone_capacity: 1 << 19,
        max_open: 4,
        max_active: 8,
        max_append: 4096,
        cross_reads: false,
    };

    #[test]
    fn sensible_limits_are_accepted() {
        assert_eq!(BlockLimits { zoned: Some(ZONES), ..disk() }.validate(), Ok(()));
        assert_eq!(BlockLimits::default().validate(), Ok(()));
        assert_eq!(disk().validate(), Ok(()));
    }

    #[test]
    fn each_broken_rule_names_its_field() {
        type Break = fn(&mut BlockLimits);
        let cases: [(&str, Break); 15] = [
            ("request_alignment", |l| l.request_alignment = 0),
            ("request_alignment", |l| l.request_alignment = 513),
            ("request_alignment", |l| l.request_alignment = 1 << 21),
            ("min_mem_alignment", |l| l.min_mem_alignment = 3),
            ("opt_mem_alignment", |l| l.opt_mem_alignment = 2),
            ("max_iov", |l| l.max_iov = 0),
            ("opt_transfer", |l| l.opt_transfer = 100),
            ("max_transfer", |l| l.max_transfer = 4096 + 512),
            ("max_pdiscard", |l| l.max_pdiscard = 4097),
            ("pdiscard_alignment", |l| l.pdiscard_alignment = 700),
            ("max_pwrite_zeroes", |l| l.max_pwrite_zeroes = 1000),
            ("zone_size", |l| l.zoned = Some(ZoneLimits { zone_size: 0, ..ZONES })),
            ("zone_size", |l| l.zoned = Some(ZoneLimits { zone_size: 1000, ..ZONES })),
            ("zone_size", |l| l.zoned = Some(ZoneLimits { zone_capacity: 1 << 21, ..ZONES })),
            ("max_append", |l| l.zoned = Some(ZoneLimits { max_append: 0, ..ZONES })),
        ];
        for (field, break_it) in cases {
            let mut limits = disk();
            break_it(&mut limits);
            let err = limits.validate().expect_err(field).to_string();
            assert!(err.starts_with(field), "{err} should name {field}");
        }
    }

    #[test]
    fn no_limit_is_spelled_out() {
        let limits = BlockLimits { request_alignment: 4096, ..BlockLimits::default() };
        assert_eq!(limits.transfer_bound() % 4096, 0);
        assert!(limits.transfer_bound() <= MAX_REQUEST_BYTES);
        assert_eq!(limits.discard_bound() % 4096, 0);
        assert_eq!(limits.hw_transfer_bound(), limits.transfer_bound());
        assert_eq!(BlockLimits { max_hw_iov: 7, ..limits }.hw_iov_bound(), 7);
    }

    proptest! {
        #[test]
        fn cover_is_the_smallest_aligned_range(shift in 0u32..=20, offset in 0..1u64 << 40, bytes in 0..1u64 << 32) {
            let limits = BlockLimits { request_alignment: 1 << shift, ..BlockLimits::default() };
            let align = 1u64 << shift;
            let (start, len) = limits.cover(offset, bytes);
            prop_assert_eq!(start % align, 0);
            prop_assert_eq!(len % align, 0);
            prop_assert!(start <= offset && offset - start < align);
            prop_assert!(start + len >= offset + bytes && start + len - (offset + bytes) < align);
        }

        #[test]
        fn accepted_limits_give_aligned_bounds(
            align in 0u32..=20, opt in 0u32..8, max in 0u32..64, discard in 0u32..64, max_discard in 0u64..64,
        ) {
            let align = 1u32 << align;
            let limits = BlockLimits {
                request_alignment: align,
                opt_transfer: opt * align,
                max_transfer: max * align,
                pdiscard_alignment: discard * align,
                max_pdiscard: max_discard * u64::from(align),
                ..BlockLimits::default()
            };
            if limits.validate().is_ok() {
                prop_assert!(limits.transfer_bound() > 0);
                prop_assert_eq!(limits.transfer_bound() % u64::from(align), 0);
                prop_assert!(limits.discard_bound() > 0);
                prop_assert_eq!(limits.discard_bound() % u64::from(limits.discard_alignment()), 0);
            }
        }
    }
}
