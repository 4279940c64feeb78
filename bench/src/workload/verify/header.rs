//! The header at the start of each verified block: who wrote it, when in the sequence, and the digest of the rest.
//!
//! Little-endian, [`HEADER_BYTES`] long:
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..8 | magic `CLverify` |
//! | 8..10 | version of the format, 1 |
//! | 10 | [`VerifyKind`] code |
//! | 11 | 0: pseudo-random payload, 1: payload from `verify_pattern` |
//! | 12..16 | length of the block, header included |
//! | 16..24 | offset of the block in the file |
//! | 24..32 | seed of the payload |
//! | 32..40 | number of the write in its job, from 0 |
//! | 40..44 | index of the job among its clones |
//! | 44..48 | crc32c of the header with this field zero |
//! | 48..80 | digest of the payload, zero-filled |
//!
//! Invariant: every byte is covered by the header's checksum, or is the checksum: no changed byte goes unseen.

use super::digest::VerifyKind;
use thiserror::Error;

/// Length of the header, and so of the smallest block that can be verified by a digest.
pub const HEADER_BYTES: usize = 80;

/// First bytes of each header.
pub(super) const MAGIC: [u8; 8] = *b"CLverify";
const VERSION: u16 = 1;
const CHECKSUM: std::ops::Range<usize> = 44..48;
/// Where the payload's seed lies.
pub(super) const SEED: std::ops::Range<usize> = 24..32;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which digest protects the payload.
    pub kind: VerifyKind,
    /// Whether the payload is `verify_pattern` instead of pseudo-random bytes.
    pub patterned: bool,
    /// Length of the block, header included.
    pub bytes: u32,
    /// Offset of the block in the file.
    pub offset: u64,
    /// Seed of the payload.
    pub seed: u64,
    /// Number of the write in its job, from 0.
    pub sequence: u64,
    /// Index of the job among its clones.
    pub job_index: u32,
    /// Digest of the payload, zero-filled.
    pub digest: [u8; 32],
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum HeaderFault {
    /// The first bytes are others.
    #[error("no verify header (it would start with {:02x?}, not {found:02x?})", MAGIC)]
    Magic {
        /// What is there.
        found: [u8; 8],
    },
    /// The header's own checksum is wrong.
    #[error("verify header damaged: its checksum is {found:#010x}, but its bytes give {computed:#010x}")]
    Checksum {
        /// The checksum in the header.
        found: u32,
        /// That of the header's bytes.
        computed: u32,
    },
    /// The header is sound, but of a format that this program does not know.
    #[error("verify header of version {version}, kind {kind}; this program reads version {} only", VERSION)]
    Unknown {
        /// Its version.
        version: u16,
        /// Its kind of digest.
        kind: u8,
    },
}

fn field<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut value = [0; N];
    value.copy_from_slice(&bytes[at..at + N]);
    value
}

fn checksum(bytes: &[u8; HEADER_BYTES]) -> u32 {
    let head = crc32c::crc32c(&bytes[..CHECKSUM.start]);
    crc32c::crc32c_append(crc32c::crc32c_append(head, &[0; 4]), &bytes[CHECKSUM.end..])
}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[10] = self.kind.code();
        out[11] = u8::from(self.patterned);
        out[12..16].copy_from_slice(&self.bytes.to_le_bytes());
        out[16..24].copy_from_slice(&self.offset.to_le_bytes());
        out[SEED].copy_from_slice(&self.seed.to_le_bytes());
        out[32..40].copy_from_slice(&self.sequence.to_le_bytes());
        out[40..44].copy_from_slice(&self.job_index.to_le_bytes());
        out[48..80].copy_from_slice(&self.digest);
        let sum = checksum(&out);
        out[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads a header: magic first, then the checksum, then the fields.
    ///
    /// # Errors
    /// [`HeaderFault`] says what is wrong.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, HeaderFault> {
        let magic = field(bytes, 0);
        if magic != MAGIC {
            return Err(HeaderFault::Magic { found: magic });
        }
        let (found, computed) = (u32::from_le_bytes(field(bytes, CHECKSUM.start)), checksum(bytes));
        if found != computed {
            return Err(HeaderFault::Checksum { found, computed });
        }
        let version = u16::from_le_bytes(field(bytes, 8));
        let unknown = HeaderFault::Unknown { version, kind: bytes[10] };
        let kind = VerifyKind::from_code(bytes[10]).filter(|_| version == VERSION).ok_or(unknown)?;
        Ok(Self {
            kind,
            patterned: bytes[11] != 0,
            bytes: u32::from_le_bytes(field(bytes, 12)),
            offset: u64::from_le_bytes(field(bytes, 16)),
            seed: u64::from_le_bytes(field(bytes, SEED.start)),
            sequence: u64::from_le_bytes(field(bytes, 32)),
            job_index: u32::from_le_bytes(field(bytes, 40)),
            digest: field(bytes, 48),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            kind: VerifyKind::Sha256,
            patterned: false,
            bytes: 4096,
            offset: 1 << 40,
            seed: 0x0123_4567_89ab_cdef,
            sequence: 77,
            job_index: 3,
            digest: std::array::from_fn(|i| i as u8),
        }
    }

    #[test]
    fn survives_the_round_trip() {
        assert_eq!(Header::decode(&header().encode()), Ok(header()));
    }

    #[test]
    fn any_changed_bit_is_seen() {
        let good = header().encode();
        for bit in 0..HEADER_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&bad).is_err(), "bit {bit}");
        }
    }
}
