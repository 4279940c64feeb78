//! Any changed byte is found, and named.

use super::*;
use proptest::prelude::*;

const DIGESTS: [VerifyKind; 4] =
    [VerifyKind::Crc32c, VerifyKind::Md5, VerifyKind::Sha256, VerifyKind::Xxhash];

fn verifier(kind: VerifyKind) -> Verifier {
    let pattern =
        (kind == VerifyKind::Pattern).then(|| Pattern::new(&[0xde, 0xad, 0xbe, 0xef, 1], &[]).unwrap());
    Verifier::new(kind, pattern, 42, 1, 512).unwrap()
}

fn block(offset: u64, bytes: u32) -> BlockStamp {
    BlockStamp { offset, bytes, sequence: 5 }
}

fn filled(verifier: &Verifier, block: &BlockStamp) -> Vec<u8> {
    let mut buffer = vec![0xaa; block.bytes as usize];
    verifier.fill(&mut buffer, block).unwrap();
    buffer
}

#[test]
fn every_changed_byte_of_a_block_is_found_and_located() {
    let block = block(1 << 33, 512);
    for kind in DIGESTS.into_iter().chain([VerifyKind::Pattern]) {
        let verifier = verifier(kind);
        let good = filled(&verifier, &block);
        assert_eq!(verifier.check(&good, &block), Ok(()));
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            let error = verifier.check(&bad, &block).unwrap_err();
            let expected = Difference::new(block.offset, at, good[at], bad[at]);
            assert_eq!(error.first, Some(expected), "{kind:?}: {error}");
            assert_ne!(error.fault, Fault::NotWritten, "{kind:?} byte {at}");
        }
    }
}

#[test]
fn a_pattern_behind_the_header_is_checked_too() {
    let pattern = Pattern::new(&[0; 4], &[]).unwrap();
    let verifier = Verifier::new(VerifyKind::Crc32c, Some(pattern), 1, 0, 512).unwrap();
    let block = block(4096, 1024);
    let good = filled(&verifier, &block);
    assert!(good[HEADER_BYTES..].iter().all(|&byte| byte == 0));
    assert_eq!(verifier.check(&good, &block), Ok(()));
    for at in [0, 50, 80, 1023] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert_eq!(verifier.check(&bad, &block).unwrap_err().first.unwrap().position, at as u32);
    }
    assert_eq!(verifier.check(&[0; 1024], &block).unwrap_err().fault, Fault::NotWritten);
}

#[test]
fn blocks_of_other_writes_are_told_apart() {
    let verifier = verifier(VerifyKind::Crc32c);
    let here = block(8192, 4096);
    let other_job = Verifier::new(VerifyKind::Crc32c, None, 42, 2, 512).unwrap();
    let other_run = Verifier::new(VerifyKind::Crc32c, None, 43, 1, 512).unwrap();
    let other_kind = Verifier::new(VerifyKind::Xxhash, None, 42, 1, 512).unwrap();
    let field = |writer: &Verifier, written: BlockStamp| {
        let mut buffer = filled(writer, &written);
        buffer.resize(4096, 0);
        match verifier.check(&buffer, &here).unwrap_err().fault {
            Fault::Field { field, .. } => field,
            other => panic!("{other}"),
        }
    };
    assert_eq!(field(&verifier, BlockStamp { sequence: 4, ..here }), "sequence");
    assert_eq!(field(&verifier, BlockStamp { offset: 0, ..here }), "offset");
    assert_eq!(field(&verifier, BlockStamp { bytes: 2048, ..here }), "length");
    assert_eq!(field(&other_job, here), "job");
    assert_eq!(field(&other_run, here), "seed");
    assert_eq!(field(&other_kind, here), "kind");
}

#[test]
fn what_was_never_written_is_said_to_be() {
    for kind in DIGESTS {
        let verifier = verifier(kind);
        let block = block(0, 4096);
        for byte in [0, 0xff, 0x5a] {
            let error = verifier.check(&[byte; 4096], &block).unwrap_err();
            assert_eq!(error.fault, Fault::NotWritten);
        }
        // A lost first sector is damage: the rest speaks for the write.
        let mut torn = filled(&verifier, &block);
        torn[..512].fill(0);
        assert!(matches!(verifier.check(&torn, &block).unwrap_err().fault, Fault::Header(_)));
        // A lost tail is damage, too.
        let mut torn = filled(&verifier, &block);
        torn[512..].fill(0);
        let error = verifier.check(&torn, &block).unwrap_err();
        assert_eq!((matches!(error.fault, Fault::Digest { .. }), error.first.unwrap().offset), (true, 512));
    }
}

#[test]
fn the_message_leads_to_the_byte() {
    let verifier = verifier(VerifyKind::Crc32c);
    let block = block(65_536, 4096);
    let mut bad = filled(&verifier, &block);
    bad[1000] = !bad[1000];
    let text = verifier.check(&bad, &block).unwrap_err().to_string();
    assert!(
        text.starts_with("verify: bad block at offset 65536, length 4096: crc32c of the payload is "),
        "{text}"
    );
    assert!(text.contains("first wrong byte at file offset 66536 (position 1000 in the block)"), "{text}");
}

#[test]
fn blocks_too_small_are_refused() {
    let error = Verifier::new(VerifyKind::Sha256, None, 0, 0, 79).unwrap_err();
    assert_eq!(error, VerifierError::BlockTooSmall { kind: "sha256", block_bytes: 79 });
    assert_eq!(Verifier::new(VerifyKind::Pattern, None, 0, 0, 1).unwrap_err(), VerifierError::NoPattern);
    let smallest = Verifier::new(VerifyKind::Sha256, None, 0, 0, 80).unwrap();
    let block = block(0, 80);
    assert_eq!(smallest.check(&filled(&smallest, &block), &block), Ok(()));
    let wrong_length = smallest.fill(&mut [0; 90], &block).unwrap_err();
    assert!(matches!(wrong_length.fault, Fault::Length { found: 90, .. }));
}

#[test]
fn a_block_can_be_checked_by_its_own_header() {
    let verifier = verifier(VerifyKind::Md5);
    let block = block(4096, 4096);
    let good = filled(&verifier, &block);
    assert_eq!(verifier.check_self(&good, 4096).unwrap().unwrap().sequence, 5);
    // Half of it is compared without its digest.
    assert!(verifier.check_self(&good[..2048], 4096).is_ok());
    let mut bad = good.clone();
    bad[2000] ^= 1;
    for part in [&bad[..], &bad[..2048]] {
        assert_eq!(verifier.check_self(part, 4096).unwrap_err().first.unwrap().offset, 6096);
    }
    let moved = verifier.check_self(&good, 8192).unwrap_err();
    assert_eq!(moved.fault, Fault::Field { field: "offset", expected: 8192, found: 4096 });
}

#[test]
fn a_walk_meets_every_block_and_every_damage() {
    let verifier = verifier(VerifyKind::Crc32c);
    let sizes = [512u32, 4096, 1024, 65_536, 512, 2048];
    let (mut file, mut blocks) = (Vec::new(), Vec::new());
    for (sequence, bytes) in sizes.into_iter().enumerate() {
        let block = BlockStamp { offset: file.len() as u64, bytes, sequence: sequence as u64 };
        file.extend(filled(&verifier, &block));
        blocks.push(block);
    }
    let written = file.len() as u64;
    file.resize(file.len() + 10_000, 0);
    let walk = |file: &[u8]| {
        let mut scan = HeaderScan::new(0, file.len() as u64, 512, 65_536);
        let (mut sound, mut damaged, mut gaps) = (Vec::new(), Vec::new(), 0);
        while let Some((offset, bytes)) = scan.want() {
            match scan.feed(&verifier, &file[offset as usize..][..bytes as usize]) {
                Scanned::Block(header) => sound.push(header.offset),
                Scanned::Damaged(error) => damaged.push(error),
                Scanned::Gap { bytes, .. } => gaps += bytes,
            }
        }
        (sound, damaged, gaps, scan.highest_sequence())
    };
    let (sound, damaged, gaps, highest) = walk(&file);
    assert_eq!(sound, blocks.iter().map(|b| b.offset).collect::<Vec<_>>());
    assert_eq!((damaged, highest), (vec![], Some(5)));
    assert!((10_000..10_000 + 512).contains(&gaps), "{gaps}");
    for at in (0..written).step_by(97) {
        let mut bad = file.clone();
        bad[at as usize] ^= 8;
        let (sound, damaged, gaps, _) = walk(&bad);
        let hit = blocks.iter().find(|b| b.end() > at).unwrap();
        let magic = at - hit.offset < 8;
        assert_eq!(sound.len(), 5, "byte {at}");
        assert_eq!(damaged.len(), usize::from(!magic), "byte {at}");
        assert!(magic || damaged[0].offset == hit.offset);
        assert!(!magic || gaps >= 10_000 + u64::from(hit.bytes));
    }
}

proptest! {
    #[test]
    fn a_changed_byte_anywhere_is_found_in_blocks_of_any_size(
        (offset, bytes, sequence) in (0u64..1 << 50, 80u32..70_000, any::<u64>()),
        (seed, kind, at, flip) in (any::<u64>(), 0usize..4, any::<prop::sample::Index>(), 1u8..),
    ) {
        let verifier = Verifier::new(DIGESTS[kind], None, seed, 0, 80).unwrap();
        let block = BlockStamp { offset, bytes, sequence };
        let mut buffer = filled(&verifier, &block);
        prop_assert_eq!(verifier.check(&buffer, &block), Ok(()));
        let at = at.index(buffer.len());
        buffer[at] ^= flip;
        let error = verifier.check(&buffer, &block).unwrap_err();
        prop_assert_eq!(error.first.unwrap().offset, offset + at as u64);
        // And in the part around it, wherever that begins and ends.
        for (from, to) in [(at, at + 1), (at / 2, bytes as usize), (at / 3 * 2, (at + 100).min(bytes as usize))] {
            let part = verifier.check_part(&buffer[from..to], &block, from as u32).unwrap_err();
            prop_assert_eq!(part.first.unwrap().offset, offset + at as u64);
        }
    }
}
