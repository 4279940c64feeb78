//! What a verified write puts into its block, and whether a read finds it there.
//!
//! A block is a [`Header`] and a payload that the header's seed (or `verify_pattern`) reproduces. So a whole block is
//! checked by header and digest as fio does it; of a block that later writes overlap in part, any rest is checked by
//! making its bytes again; and of a damaged block the first wrong byte is named.
//!
//! `verify=pattern` has no header, as in fio: the block is the pattern, from its first byte.
//!
//! Invariant: a block changed in any one byte fails its check.

mod digest;
mod error;
mod header;
mod payload;
mod scan;

pub use digest::VerifyKind;
pub use error::{Difference, Fault, VerifierError, VerifyError};
pub use header::{HEADER_BYTES, Header, HeaderFault};
pub use payload::{MAX_PATTERN_BYTES, Pattern, PatternError};
pub use scan::{HeaderScan, Scanned};

use crate::workload::rng::{GOLDEN, mix64};
use digest::Digester;

use payload::Payload;

/// Which write put a block where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockStamp {
    /// Offset of the block in the file.
    pub offset: u64,
    /// Length of the block.
    pub bytes: u32,
    /// Number of the write in its job, from 0.
    pub sequence: u64,
}

impl BlockStamp {
    /// The byte after the last.
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.bytes)
    }
}

/// How the blocks of one job are made and checked.
#[derive(Clone, Debug)]
pub struct Verifier {
    kind: VerifyKind,
    pattern: Option<Pattern>,
    seed: u64,
    job_index: u32,
}

impl Verifier {
    /// For one job. `seed` is the job's [`job_seed`](super::job_seed), `min_block_bytes` the smallest block it writes.
    /// A pattern given with a digest fills the payload behind the header, as in fio.
    ///
    /// # Errors
    /// [`VerifierError`] when the smallest block does not hold a header, or `verify=pattern` comes without pattern.
    pub fn new(
        kind: VerifyKind,
        pattern: Option<Pattern>,
        seed: u64,
        job_index: u32,
        min_block_bytes: u32,
    ) -> Result<Self, VerifierError> {
        if kind == VerifyKind::Pattern {
            if pattern.is_none() {
                return Err(VerifierError::NoPattern);
            }
        } else if (min_block_bytes as usize) < HEADER_BYTES {
            return Err(VerifierError::BlockTooSmall { kind: kind.name(), block_bytes: min_block_bytes });
        }
        Ok(Self { kind, pattern, seed, job_index })
    }

    /// How it verifies.
    pub fn kind(&self) -> VerifyKind {
        self.kind
    }

    /// Fills a buffer, as long as the block, with what `block` is to hold.
    ///
    /// # Errors
    /// [`Fault::Length`] when the buffer has another length or does not hold a header.
    pub fn fill(&self, buffer: &mut [u8], block: &BlockStamp) -> Result<(), VerifyError> {
        self.check_length(buffer.len(), block)?;
        let payload = self.payload(block);
        let header_bytes = self.header_bytes();
        payload.fill(header_bytes, &mut buffer[header_bytes..]);
        if header_bytes > 0 {
            let digest = self.kind.digest(&buffer[header_bytes..]);
            buffer[..header_bytes].copy_from_slice(&self.header(block, digest).encode());
        }
        Ok(())
    }

    /// Checks a whole block against the write that should have made it.
    ///
    /// # Errors
    /// [`VerifyError`] names the block, what was expected and found, and the first wrong byte.
    pub fn check(&self, buffer: &[u8], block: &BlockStamp) -> Result<(), VerifyError> {
        self.check_length(buffer.len(), block)?;
        let split = buffer.split_first_chunk::<HEADER_BYTES>().filter(|_| self.header_bytes() > 0);
        let Some((head, payload)) = split else {
            return self.check_part(buffer, block, 0);
        };
        let fault = match Header::decode(head) {
            Err(_) if self.is_absent(buffer, block) => Fault::NotWritten,
            Err(fault) => Fault::Header(fault),
            Ok(header) => match self.compare(&header, block).or_else(|| digest_fault(&header, payload)) {
                None => return Ok(()),
                Some(fault) => fault,
            },
        };
        Err(self.error(buffer, block, 0, fault))
    }

    /// Checks bytes of a block from its position `from` on by making them again: for what later writes left of it.
    ///
    /// # Errors
    /// [`Fault::Content`] with the first wrong byte; [`Fault::Length`] when the part reaches beyond the block.
    pub fn check_part(&self, buffer: &[u8], block: &BlockStamp, from: u32) -> Result<(), VerifyError> {
        if from as usize + buffer.len() > block.bytes as usize {
            return Err(self.length_error(from as usize + buffer.len(), block));
        }
        match self.first_difference(buffer, block, from) {
            None => Ok(()),
            Some(_) => Err(self.error(buffer, block, from, Fault::Content)),
        }
    }

    /// Checks a block of which only its place is known, by what its own header says: for `verify` with reads only.
    /// A header that promises more than the buffer holds is checked as far as the buffer goes.
    ///
    /// # Errors
    /// As [`check`](Self::check); `verify=pattern` compares the pattern.
    pub fn check_self(&self, buffer: &[u8], offset: u64) -> Result<Option<Header>, VerifyError> {
        let bytes = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
        let place = BlockStamp { offset, bytes, sequence: 0 };
        if self.kind == VerifyKind::Pattern {
            return self.check_part(buffer, &place, 0).map(|()| None);
        }
        let unknown = |fault| VerifyError { offset, bytes, part: None, fault, first: None };
        let head =
            buffer.first_chunk::<HEADER_BYTES>().ok_or_else(|| self.length_error(buffer.len(), &place))?;
        let header = Header::decode(head).map_err(|fault| unknown(Fault::Header(fault)))?;
        let claim = |field, expected, found| Fault::Field { field, expected, found };
        if header.offset != offset {
            return Err(unknown(claim("offset", offset, header.offset)));
        }
        if header.kind != self.kind {
            return Err(unknown(claim("kind", self.kind.code().into(), header.kind.code().into())));
        }
        if (header.bytes as usize) < HEADER_BYTES {
            return Err(unknown(claim("length", HEADER_BYTES as u64, header.bytes.into())));
        }
        let end = buffer.len().min(header.bytes as usize);
        let payload = &buffer[HEADER_BYTES..end];
        let first = self.payload_of(&header).and_then(|made| made.first_difference(HEADER_BYTES, payload));
        let fault = match digest_fault(&header, payload).filter(|_| end == header.bytes as usize) {
            Some(fault) => fault,
            None if first.is_some() => Fault::Content,
            None => return Ok(Some(header)),
        };
        let first =
            first.map(|(at, expected)| Difference::new(offset, HEADER_BYTES + at, expected, payload[at]));
        Err(VerifyError { offset, bytes: header.bytes, part: None, fault, first })
    }

    /// Whether a header is one that this job writes: its seed follows from the job's.
    fn is_own(&self, header: &Header) -> bool {
        let block = BlockStamp { offset: header.offset, bytes: header.bytes, sequence: header.sequence };
        header.job_index == self.job_index && header.seed == self.block_seed(&block)
    }

    fn header_bytes(&self) -> usize {
        if self.kind == VerifyKind::Pattern { 0 } else { HEADER_BYTES }
    }

    fn block_seed(&self, block: &BlockStamp) -> u64 {
        // Two writes of a job differ in sequence, two places in offset, two jobs in seed.
        mix64(self.seed ^ mix64(block.sequence.wrapping_mul(GOLDEN) ^ mix64(block.offset)))
    }

    fn payload(&self, block: &BlockStamp) -> Payload<'_> {
        match &self.pattern {
            Some(pattern) => Payload::Pattern { pattern, block_offset: block.offset },
            None => Payload::Random { seed: self.block_seed(block) },
        }
    }

    /// The payload that a found header stands for; `None` when it takes a pattern that this job does not have.
    fn payload_of(&self, header: &Header) -> Option<Payload<'_>> {
        match (header.patterned, &self.pattern) {
            (false, _) => Some(Payload::Random { seed: header.seed }),
            (true, Some(pattern)) => Some(Payload::Pattern { pattern, block_offset: header.offset }),
            (true, None) => None,
        }
    }

    fn header(&self, block: &BlockStamp, digest: [u8; 32]) -> Header {
        Header {
            kind: self.kind,
            patterned: self.pattern.is_some(),
            bytes: block.bytes,
            offset: block.offset,
            seed: self.block_seed(block),
            sequence: block.sequence,
            job_index: self.job_index,
            digest,
        }
    }

    /// The header that `block` must have, made without the block.
    fn expected_header(&self, block: &BlockStamp) -> [u8; HEADER_BYTES] {
        let payload = self.payload(block);
        let mut digester = Digester::new(self.kind);
        let mut scratch = [0; 4096];
        let mut at = HEADER_BYTES;
        while at < block.bytes as usize {
            let part = &mut scratch[..(block.bytes as usize - at).min(4096)];
            payload.fill(at, part);
            digester.update(part);
            at += part.len();
        }
        self.header(block, digester.finish()).encode()
    }

    /// The field in which a sound header is not that of `block`.
    fn compare(&self, found: &Header, block: &BlockStamp) -> Option<Fault> {
        let expected = self.header(block, found.digest);
        [
            ("offset", expected.offset, found.offset),
            ("length", expected.bytes.into(), found.bytes.into()),
            ("job", expected.job_index.into(), found.job_index.into()),
            ("sequence", expected.sequence, found.sequence),
            ("seed", expected.seed, found.seed),
            ("kind", expected.kind.code().into(), found.kind.code().into()),
            ("pattern", expected.patterned.into(), found.patterned.into()),
        ]
        .into_iter()
        .find(|(_, expected, found)| expected != found)
        .map(|(field, expected, found)| Fault::Field { field, expected, found })
    }

    /// Whether nothing speaks for the block ever having been written here: neither magic nor seed in the header's
    /// place, nor most of the payload. One damaged byte, or a damaged header alone, does not look like that.
    fn is_absent(&self, buffer: &[u8], block: &BlockStamp) -> bool {
        let seed = self.block_seed(block).to_le_bytes();
        if buffer.starts_with(&header::MAGIC) || buffer.get(header::SEED) == Some(&seed[..]) {
            return false;
        }
        let Payload::Random { seed } = self.payload(block) else {
            return true;
        };
        let words = buffer[HEADER_BYTES..].chunks(8);
        let (mut alike, total) = (0, words.len());
        for (index, chunk) in words.enumerate() {
            let mut expected = [0; 8];
            Payload::Random { seed }.fill(HEADER_BYTES + index * 8, &mut expected[..chunk.len()]);
            alike += usize::from(expected[..chunk.len()] == *chunk);
        }
        alike * 2 < total.max(1)
    }

    fn first_difference(&self, buffer: &[u8], block: &BlockStamp, from: u32) -> Option<Difference> {
        let from = from as usize;
        let head = self.header_bytes().saturating_sub(from).min(buffer.len());
        if head > 0 {
            let expected = self.expected_header(block);
            let expected = &expected[from..from + head];
            if let Some(at) = expected.iter().zip(&buffer[..head]).position(|(a, b)| a != b) {
                return Some(Difference::new(block.offset, from + at, expected[at], buffer[at]));
            }
        }
        let (at, expected) = self.payload(block).first_difference(from + head, &buffer[head..])?;
        Some(Difference::new(block.offset, from + head + at, expected, buffer[head + at]))
    }

    fn error(&self, buffer: &[u8], block: &BlockStamp, from: u32, fault: Fault) -> VerifyError {
        let part = (buffer.len() < block.bytes as usize).then_some((from, buffer.len() as u32));
        let first = self.first_difference(buffer, block, from);
        VerifyError { offset: block.offset, bytes: block.bytes, part, fault, first }
    }

    fn length_error(&self, found: usize, block: &BlockStamp) -> VerifyError {
        let needed = self.header_bytes();
        let fault = Fault::Length { found, needed };
        VerifyError { offset: block.offset, bytes: block.bytes, part: None, fault, first: None }
    }

    fn check_length(&self, length: usize, block: &BlockStamp) -> Result<(), VerifyError> {
        if length == block.bytes as usize && length >= self.header_bytes() {
            return Ok(());
        }
        Err(self.length_error(length, block))
    }
}

fn digest_fault(header: &Header, payload: &[u8]) -> Option<Fault> {
    let found = header.kind.digest(payload);
    (found != header.digest).then_some(Fault::Digest { kind: header.kind, expected: header.digest, found })
}

#[cfg(test)]
mod tests;
