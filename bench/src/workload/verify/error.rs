//! What can be wrong with a block, in words that let a person find it in the file.

use super::digest::VerifyKind;
use super::header::{HEADER_BYTES, HeaderFault};
use std::fmt;
use thiserror::Error;

/// Why a job cannot be verified as asked.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum VerifierError {
    /// Blocks that do not hold a header.
    #[error(
        "verify={kind} puts a header of {HEADER_BYTES} bytes into each block, but blocks of {block_bytes} bytes are asked for; raise bs, or use verify=pattern"
    )]
    BlockTooSmall {
        /// fio's name of the kind.
        kind: &'static str,
        /// The smallest block.
        block_bytes: u32,
    },
    /// `verify=pattern` alone.
    #[error("verify=pattern needs a verify_pattern, for example verify_pattern=0xdeadbeef")]
    NoPattern,
}

/// The first byte of a block that is not as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its offset in the file.
    pub offset: u64,
    /// Its position in the block.
    pub position: u32,
    /// What was written.
    pub expected: u8,
    /// What is there.
    pub found: u8,
}

impl Difference {
    pub(super) fn new(block_offset: u64, position: usize, expected: u8, found: u8) -> Self {
        let offset = block_offset + position as u64;
        Self { offset, position: u32::try_from(position).unwrap_or(u32::MAX), expected, found }
    }
}

/// What is wrong.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The buffer is not a block; a fault of the caller.
    #[error("{found} bytes were given, and a block needs {needed} for its header at least")]
    Length {
        /// Bytes given.
        found: usize,
        /// Bytes of a header.
        needed: usize,
    },
    /// Nothing of the block is there: never written, or overwritten whole by someone else.
    #[error("the block was never written here, or someone else overwrote all of it")]
    NotWritten,
    /// The header is damaged or missing.
    #[error("{0}")]
    Header(HeaderFault),
    /// The header is sound, but of another write.
    #[error("the header is of another write: {field} is {found}, expected {expected}")]
    Field {
        /// Which field.
        field: &'static str,
        /// What it must be.
        expected: u64,
        /// What it is.
        found: u64,
    },
    /// The payload does not have the digest that the header promises.
    #[error("{} of the payload is {}, the header says {}", kind.name(), Hex(*kind, found), Hex(*kind, expected))]
    Digest {
        /// Which digest.
        kind: VerifyKind,
        /// In the header, zero-filled.
        expected: [u8; 32],
        /// Of the payload, zero-filled.
        found: [u8; 32],
    },
    /// The bytes are not those that were written.
    #[error("the content is not what was written")]
    Content,
}

struct Hex<'a>(VerifyKind, &'a [u8; 32]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.1[..self.0.digest_bytes()].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A block that does not hold what was written to it.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub struct VerifyError {
    /// Offset of the block in the file.
    pub offset: u64,
    /// Length of the block.
    pub bytes: u32,
    /// Position in the block and length of the part that was checked, when it was not the whole.
    pub part: Option<(u32, u32)>,
    /// What is wrong.
    pub fault: Fault,
    /// The first wrong byte, when the block's content could be made again.
    pub first: Option<Difference>,
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "verify: bad block at offset {}, length {}", self.offset, self.bytes)?;
        if let Some((from, bytes)) = self.part {
            write!(f, " (its {bytes} bytes from position {from} on, which no later write replaced)")?;
        }
        write!(f, ": {}", self.fault)?;
        if let Some(first) = self.first {
            write!(
                f,
                "; first wrong byte at file offset {} (position {} in the block): expected {:#04x}, found {:#04x}",
                first.offset, first.position, first.expected, first.found
            )?;
        }
        Ok(())
    }
}
