//! The checksums that `verify=` names.

use md5::Digest as _;
use xxhash_rust::xxh64::Xxh64;

/// How blocks are verified (fio's `verify`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VerifyKind {
    /// CRC-32C of the payload, in the header.
    Crc32c,
    /// MD5 of the payload, in the header.
    Md5,
    /// SHA-256 of the payload, in the header.
    Sha256,
    /// XXH64 of the payload, in the header.
    Xxhash,
    /// No header: the whole block is `verify_pattern`, repeated.
    Pattern,
}

impl VerifyKind {
    /// fio's name for it.
    pub const fn name(self) -> &'static str {
        match self {
            VerifyKind::Crc32c => "crc32c",
            VerifyKind::Md5 => "md5",
            VerifyKind::Sha256 => "sha256",
            VerifyKind::Xxhash => "xxhash",
            VerifyKind::Pattern => "pattern",
        }
    }

    /// Length of the digest.
    pub const fn digest_bytes(self) -> usize {
        match self {
            VerifyKind::Crc32c => 4,
            VerifyKind::Md5 => 16,
            VerifyKind::Sha256 => 32,
            VerifyKind::Xxhash => 8,
            VerifyKind::Pattern => 0,
        }
    }

    pub(super) const fn code(self) -> u8 {
        match self {
            VerifyKind::Crc32c => 1,
            VerifyKind::Md5 => 2,
            VerifyKind::Sha256 => 3,
            VerifyKind::Xxhash => 4,
            VerifyKind::Pattern => 5,
        }
    }

    /// The kinds that have headers, by their code.
    pub(super) fn from_code(code: u8) -> Option<Self> {
        [VerifyKind::Crc32c, VerifyKind::Md5, VerifyKind::Sha256, VerifyKind::Xxhash]
            .into_iter()
            .find(|kind| kind.code() == code)
    }

    /// The digest of all of `bytes`, zero-filled.
    pub(super) fn digest(self, bytes: &[u8]) -> [u8; 32] {
        let mut digester = Digester::new(self);
        digester.update(bytes);
        digester.finish()
    }
}

/// A digest made piece by piece.
pub(super) enum Digester {
    Crc32c(u32),
    Md5(md5::Md5),
    Sha256(sha2::Sha256),
    Xxhash(Xxh64),
    None,
}

impl Digester {
    pub(super) fn new(kind: VerifyKind) -> Self {
        match kind {
            VerifyKind::Crc32c => Digester::Crc32c(0),
            VerifyKind::Md5 => Digester::Md5(md5::Md5::new()),
            VerifyKind::Sha256 => Digester::Sha256(sha2::Sha256::new()),
            VerifyKind::Xxhash => Digester::Xxhash(Xxh64::new(0)),
            VerifyKind::Pattern => Digester::None,
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Digester::Crc32c(sum) => *sum = crc32c::crc32c_append(*sum, bytes),
            Digester::Md5(state) => state.update(bytes),
            Digester::Sha256(state) => state.update(bytes),
            Digester::Xxhash(state) => state.update(bytes),
            Digester::None => {}
        }
    }

    pub(super) fn finish(self) -> [u8; 32] {
        let mut out = [0; 32];
        match self {
            Digester::Crc32c(sum) => out[..4].copy_from_slice(&sum.to_le_bytes()),
            Digester::Md5(state) => out[..16].copy_from_slice(&state.finalize()),
            Digester::Sha256(state) => out.copy_from_slice(&state.finalize()),
            Digester::Xxhash(state) => out[..8].copy_from_slice(&state.digest().to_le_bytes()),
            Digester::None => {}
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check values that the algorithms' authors publish.
    #[test]
    fn digests_are_the_published_ones() {
        assert_eq!(VerifyKind::Crc32c.digest(b"123456789")[..4], 0xe306_9283u32.to_le_bytes());
        let md5 = "900150983cd24fb0d6963f7d28e17f72";
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        for (kind, expected) in [(VerifyKind::Md5, md5), (VerifyKind::Sha256, sha256)] {
            let hex: String =
                kind.digest(b"abc")[..kind.digest_bytes()].iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(hex, expected);
        }
        assert_eq!(VerifyKind::Xxhash.digest(b"")[..8], 0xef46_db37_51d8_e999u64.to_le_bytes());
    }

    #[test]
    fn codes_come_back() {
        for kind in [VerifyKind::Crc32c, VerifyKind::Md5, VerifyKind::Sha256, VerifyKind::Xxhash] {
            assert_eq!(VerifyKind::from_code(kind.code()), Some(kind));
        }
        assert_eq!(VerifyKind::from_code(VerifyKind::Pattern.code()), None);
    }
}
