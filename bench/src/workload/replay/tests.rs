//! A run played out of order by a simulated device, then found again from its options alone.

use super::*;
use crate::workload::config::{BlockSizes, Operations, Order, PerDirection, Region};
use crate::workload::generator::Io;
use crate::workload::overlap::{OverlapGuard, partition};
use crate::workload::rng::WorkRng;
use crate::workload::verify::{BlockStamp, HeaderScan, Scanned, Verifier, VerifyKind};
use proptest::prelude::*;

const SIZE: u64 = 1 << 20;

/// The workload: `rw=randrw bs=512-64k ba=512`, verified.
fn config(operations: Operations, order: Order, job_index: u32, jobs: u32) -> WorkloadConfig {
    let whole = Region { offset_bytes: 0, size_bytes: SIZE };
    let mut config =
        WorkloadConfig::new(order, operations, partition(whole, job_index, jobs, 512).unwrap(), 0);
    config.sizes = PerDirection::all(BlockSizes::Range { min: 512, max: 65_536, unaligned: false });
    config.align_bytes = PerDirection::all(Some(512));
    config.limit = Limit::Bytes(SIZE);
    config.job_index = job_index;
    config
}

fn verifier(config: &WorkloadConfig) -> Verifier {
    let seed = job_seed(config.seed, config.job_index);
    Verifier::new(VerifyKind::Crc32c, None, seed, config.job_index, config.min_block_bytes()).unwrap()
}

/// One job over a device that completes what is in flight in any order.
struct Job {
    generator: Generator,
    verifier: Verifier,
    counter: WriteCounter,
    guard: OverlapGuard,
    log: WrittenLog,
    held: Option<Io>,
    in_flight: Vec<(Io, Option<BlockStamp>)>,
    checked: u64,
}

impl Job {
    fn new(config: &WorkloadConfig) -> Self {
        Self {
            generator: Generator::new(config).unwrap(),
            verifier: verifier(config),
            counter: WriteCounter::new(),
            guard: OverlapGuard::with_depth(16),
            log: WrittenLog::new(),
            held: None,
            in_flight: Vec::new(),
            checked: 0,
        }
    }

    /// Fills the queue and completes one I/O of it; false when nothing is left to do.
    fn turn(&mut self, file: &mut [u8], rng: &mut WorkRng, stop: bool) -> bool {
        while !stop && self.in_flight.len() < 16 {
            let Some(io) = self.held.take().or_else(|| self.generator.next_io()) else { break };
            if self.guard.conflicts(&io) {
                self.held = Some(io);
                break;
            }
            self.guard.enter(io);
            self.in_flight.push((io, self.counter.stamp(&io)));
        }
        if self.in_flight.is_empty() {
            return false;
        }
        let (io, stamp) = self.in_flight.swap_remove(rng.below(self.in_flight.len() as u64) as usize);
        let bytes = &mut file[io.offset as usize..io.end() as usize];
        match (io.direction, stamp) {
            (Direction::Write, Some(block)) => {
                self.verifier.fill(bytes, &block).unwrap();
                self.log.record(block);
            }
            (Direction::Trim, _) => {
                bytes.fill(0);
                self.log.forget(io.offset, u64::from(io.bytes));
            }
            _ => self.checked += self.log.check_read(&self.verifier, io.offset, bytes).unwrap(),
        }
        self.guard.leave(&io);
        true
    }
}

fn check(log: &WrittenLog, verifier: &Verifier, file: &[u8]) -> Vec<crate::workload::VerifyError> {
    let check =
        |e: crate::workload::Extent| e.check(verifier, &file[e.offset as usize..e.end() as usize]).err();
    log.extents().filter_map(check).collect()
}

fn run(configs: &[WorkloadConfig], seed: u64, turns: usize) -> (Vec<Job>, Vec<u8>) {
    let mut rng = WorkRng::new(seed);
    let mut file = vec![0; SIZE as usize];
    let mut jobs: Vec<Job> = configs.iter().map(Job::new).collect();
    for turn in 0.. {
        let mut busy = false;
        for job in &mut jobs {
            busy |= job.turn(&mut file, &mut rng, turn >= turns);
        }
        if !busy {
            break;
        }
    }
    (jobs, file)
}

fn workloads() -> impl Strategy<Value = (Operations, Order)> {
    let operations = prop_oneof![
        Just(Operations::Write),
        Just(Operations::ReadWrite { read_percent: 50 }),
        Just(Operations::TrimWrite),
    ];
    (operations, prop_oneof![Just(Order::Sequential), Just(Order::Random)])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn clones_on_one_file_verify_during_and_after_and_from_the_options(
        (operations, order) in workloads(),
        (jobs, seed) in (1u32..4, any::<u64>()),
    ) {
        let configs: Vec<WorkloadConfig> = (0..jobs).map(|job| config(operations, order, job, jobs)).collect();
        let (done, file) = run(&configs, seed, usize::MAX);
        for (job, config) in done.iter().zip(&configs) {
            prop_assert_eq!(check(&job.log, &job.verifier, &file), vec![]);
            let again = replay(config, None).unwrap();
            prop_assert!(again.extents().eq(job.log.extents()), "the replay differs");
        }
        if operations == (Operations::ReadWrite { read_percent: 50 }) && order == Order::Random {
            prop_assert!(done.iter().all(|job| job.checked > 0), "no read was checked");
        }
    }

    #[test]
    fn a_run_cut_short_is_verified_as_far_as_it_came(
        (operations, order) in workloads(),
        (turns, seed) in (1usize..120, any::<u64>()),
    ) {
        let config = config(operations, order, 0, 1);
        let (done, file) = run(std::slice::from_ref(&config), seed, turns);
        let job = &done[0];
        // What the file says of itself, on a walk by the smallest alignment, and what a kept state would say.
        let mut scan = HeaderScan::new(0, SIZE, 512, 65_536);
        while let Some((offset, bytes)) = scan.want() {
            let found = scan.feed(&job.verifier, &file[offset as usize..][..bytes as usize]);
            if operations == Operations::Write && order == Order::Sequential {
                prop_assert!(!matches!(found, Scanned::Damaged(_)), "{found:?}");
            }
        }
        let state = VerifyState::new(&config, job.counter.writes());
        if operations == Operations::Write {
            prop_assert_eq!(scan.highest_sequence().map_or(0, |highest| highest + 1), state.writes);
        }
        let again = replay(&config, Some(state.writes_of(&config).unwrap())).unwrap();
        prop_assert_eq!(check(&again, &job.verifier, &file), vec![]);
        // A last trim that was not done any more is taken as done.
        let cautious = operations == Operations::TrimWrite;
        prop_assert!(cautious || again.extents().eq(job.log.extents()), "the replay differs");
    }

    #[test]
    fn a_byte_changed_afterwards_is_found_from_the_options(
        (operations, order) in workloads(),
        (seed, at) in (any::<u64>(), any::<prop::sample::Index>()),
    ) {
        let config = config(operations, order, 0, 1);
        let (done, mut file) = run(std::slice::from_ref(&config), seed, usize::MAX);
        let written: Vec<u64> = done[0].log.extents().flat_map(|e| e.offset..e.end()).collect();
        let at = written[at.index(written.len())];
        file[at as usize] ^= 2;
        let errors = check(&replay(&config, None).unwrap(), &verifier(&config), &file);
        prop_assert_eq!(errors.len(), 1);
        prop_assert_eq!(errors[0].first.unwrap().offset, at);
    }
}

#[test]
fn endless_runs_need_a_number_of_writes() {
    let mut config = config(Operations::Write, Order::Random, 0, 1);
    config.limit = Limit::Endless;
    assert_eq!(replay(&config, None).unwrap_err(), ReplayError::Endless);
    assert!(!replay(&config, Some(100)).unwrap().is_empty());
    config.operations = Operations::Read;
    assert!(replay(&config, Some(100)).unwrap().is_empty());
}

#[test]
fn states_are_read_back_and_refused_when_wrong() {
    let config = config(Operations::Write, Order::Random, 1, 2);
    let state = VerifyState::new(&config, 12_345);
    assert_eq!(state.to_string().parse(), Ok(state));
    let mut other = config.clone();
    other.seed = 5;
    assert!(matches!(state.writes_of(&other), Err(VerifyStateError::OtherJob { .. })));
    let parse = |text: &str| text.parse::<VerifyState>().unwrap_err().to_string();
    assert!(parse("").contains("no verify state"));
    assert!(parse("corelane-verify-state 1\nseed=1\njob=0\n").contains("without writes="));
    assert!(parse("corelane-verify-state 1\nseed=x\n").contains("line 2"));
    assert!(parse("corelane-verify-state 1\njob=4294967296\n").contains("line 2"));
}
