//! The log against a byte array that every write really goes to.

use super::*;
use crate::workload::verify::VerifyKind;
use proptest::prelude::*;

fn verifier() -> Verifier {
    Verifier::new(VerifyKind::Crc32c, None, 1, 0, 80).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u32),
    Forget(u64, u64),
}

fn steps(grain: u64) -> impl Strategy<Value = Vec<Step>> {
    let units = 20_000 / grain;
    let least = 80u64.div_ceil(grain);
    let step = prop_oneof![
        8 => (0..units, least..least + units / 4)
            .prop_map(move |(at, len)| Step::Write(at * grain, (len * grain) as u32)),
        1 => (0..units, 0..units / 4).prop_map(move |(at, len)| Step::Forget(at * grain, len * grain)),
    ];
    proptest::collection::vec(step, 1..60)
}

/// A file, and for each byte the number of the step it is from.
struct Model {
    file: Vec<u8>,
    owner: Vec<Option<u64>>,
}

fn play(steps: &[Step]) -> (WrittenLog, Model) {
    let verifier = verifier();
    let mut log = WrittenLog::new();
    let mut model = Model { file: vec![0; 40_000], owner: vec![None; 40_000] };
    for (sequence, step) in steps.iter().enumerate() {
        match *step {
            Step::Write(offset, bytes) => {
                let block = BlockStamp { offset, bytes, sequence: sequence as u64 };
                let range = offset as usize..block.end() as usize;
                verifier.fill(&mut model.file[range.clone()], &block).unwrap();
                model.owner[range].fill(Some(sequence as u64));
                log.record(block);
            }
            Step::Forget(offset, bytes) => {
                let range = offset as usize..(offset + bytes) as usize;
                model.file[range.clone()].fill(0xee);
                model.owner[range].fill(None);
                log.forget(offset, bytes);
            }
        }
    }
    (log, model)
}

fn check_all(log: &WrittenLog, file: &[u8]) -> Result<(), VerifyError> {
    let verifier = verifier();
    let mut from = 0;
    while let Some(extent) = log.next_extent(from) {
        extent.check(&verifier, &file[extent.offset as usize..extent.end() as usize])?;
        from = extent.end();
    }
    Ok(())
}

proptest! {
    #[test]
    fn extents_are_what_is_in_the_file(steps in prop_oneof![steps(1), steps(512)]) {
        let (log, model) = play(&steps);
        let mut owner = vec![None; model.owner.len()];
        for extent in log.extents() {
            prop_assert!(extent.offset >= extent.block.offset && extent.end() <= extent.block.end());
            for byte in extent.offset..extent.end() {
                prop_assert_eq!(owner[byte as usize].replace(extent.block.sequence), None, "byte {} twice", byte);
            }
        }
        prop_assert_eq!(&owner, &model.owner);
        prop_assert_eq!(log.bytes(), model.owner.iter().flatten().count() as u64);
        prop_assert_eq!(check_all(&log, &model.file), Ok(()));
    }

    #[test]
    fn a_changed_byte_is_found_where_it_is(
        steps in prop_oneof![steps(1), steps(512)],
        at in any::<prop::sample::Index>(),
    ) {
        let (log, mut model) = play(&steps);
        let at = at.index(model.file.len());
        model.file[at] ^= 0x10;
        let found = check_all(&log, &model.file);
        match model.owner[at] {
            None => prop_assert_eq!(found, Ok(())),
            Some(_) => prop_assert_eq!(found.unwrap_err().first.unwrap().offset, at as u64),
        }
    }

    #[test]
    fn reads_are_checked_as_far_as_written(
        steps in steps(512),
        (offset, bytes) in (0usize..30_000, 0usize..9000),
        flip in any::<prop::sample::Index>(),
    ) {
        let (log, mut model) = play(&steps);
        let known = model.owner[offset..offset + bytes].iter().flatten().count() as u64;
        let read = |file: &[u8]| log.check_read(&verifier(), offset as u64, &file[offset..offset + bytes]);
        prop_assert_eq!(read(&model.file), Ok(known));
        if bytes > 0 {
            let at = offset + flip.index(bytes);
            model.file[at] ^= 1;
            prop_assert_eq!(read(&model.file).is_err(), model.owner[at].is_some());
        }
    }

    #[test]
    fn the_rest_of_a_write_is_what_the_file_has_of_it(steps in steps(1)) {
        let (log, model) = play(&steps);
        for (sequence, step) in steps.iter().enumerate() {
            let Step::Write(offset, bytes) = *step else { continue };
            let block = BlockStamp { offset, bytes, sequence: sequence as u64 };
            let left: u64 = log.rest_of(&block).map(|extent| u64::from(extent.bytes)).sum();
            let owned = model.owner.iter().filter(|owner| **owner == Some(sequence as u64)).count() as u64;
            prop_assert_eq!(left, owned);
        }
    }
}

#[test]
fn the_backlog_gives_batches_in_order() {
    let stamp = |sequence| BlockStamp { offset: 0, bytes: 512, sequence };
    let mut backlog = Backlog::new(4, 2);
    let mut seen = Vec::new();
    for sequence in 0..10 {
        backlog.push(stamp(sequence));
        while let Some(block) = backlog.pop() {
            seen.push((sequence, block.sequence));
        }
    }
    assert_eq!(seen, [(3, 0), (3, 1), (7, 2), (7, 3)]);
    backlog.finish();
    assert_eq!(std::iter::from_fn(|| backlog.pop()).count(), 6);
    assert!(backlog.is_empty());
    let mut whole = Backlog::new(3, 0);
    (0..3).for_each(|sequence| whole.push(stamp(sequence)));
    assert_eq!(std::iter::from_fn(|| whole.pop()).count(), 3);
}
