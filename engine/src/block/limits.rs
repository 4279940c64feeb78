//! A node's rules ([`BlockLimits`]) and the arithmetic on them.
//!
//! All values are bytes. Zero stands for "no limit" or "no preference" where QEMU says so (`block_int-common.h`).

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
