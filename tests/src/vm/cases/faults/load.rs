//! Work on a namespace while something happens to its controller, and a record of how requests ended.

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use corelane_engine::aio::AioConfig;
use corelane_engine::block::{BlockBackend, Channel, Errno, IoError};

use super::rig::wait_until;
use crate::vm::cases::nvme::rig::{assert_same, bytes_of, in_lane, memory, pattern, pattern_bytes};

/// How many requests are in flight.
pub const DEPTH: usize = 8;
/// What each of them writes and reads, and how far they are apart.
const LEN_BYTES: usize = 16 << 10;
/// The first byte after the blocks that the load uses.
pub const END: u64 = (DEPTH * LEN_BYTES) as u64;

/// How a request failed.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// With what.
    pub errno: Errno,
    /// How long after it was submitted.
    pub after: Duration,
}

/// What the tasks, and the thread that watches them, say to each other.
#[derive(Debug, Default)]
pub struct Load {
    done: AtomicU64,
    longest_us: AtomicU64,
    enough: AtomicBool,
    failures: Mutex<Vec<Failure>>,
}

impl Load {
    /// Waits until some more requests have succeeded.
    ///
    /// # Panics
    /// When they do not.
    pub fn wait_for_more(&self, stage: &str) {
        let before = self.done.load(Ordering::Relaxed);
        wait_until(stage, || self.done.load(Ordering::Relaxed) > before + 50);
    }

    /// The failures so far.
    pub fn failures(&self) -> Vec<Failure> {
        self.failures.lock().expect("nobody panicked with it").clone()
    }

    fn note(&self, start: Instant, result: Result<(), IoError>) -> Result<(), Failure> {
        let after = start.elapsed();
        result.map_err(|error| Failure { errno: error.errno, after })?;
        self.longest_us.fetch_max(after.as_micros() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// Writes and reads all the time while `during` runs, checks each byte, and gives how requests failed. A task whose request
/// failed because the controller was given up ends; after another failure it goes on.
#[allow(clippy::print_stdout)] // Shown with a case that failed.
pub fn under_load(backend: &BlockBackend, during: impl FnOnce(&Load)) -> Vec<Failure> {
    let load = Arc::new(Load::default());
    std::thread::scope(|scope| {
        let theirs = Arc::clone(&load);
        let tasks = scope.spawn(move || {
            in_lane(&AioConfig::default(), backend, DEPTH as u32, |channel| run_tasks(channel, theirs));
        });
        // They end even if this panics, and the scope with them.
        let stop = Stop(&load);
        during(&load);
        drop(stop);
        tasks.join().expect("the tasks ended well");
    });
    let failures = load.failures();
    let longest = Duration::from_micros(load.longest_us.load(Ordering::Relaxed));
    println!("{} rounds, the longest request {longest:?}, {failures:?}", load.done.load(Ordering::Relaxed));
    failures
}

struct Stop<'a>(&'a Load);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.enough.store(true, Ordering::Relaxed);
    }
}

async fn run_tasks(channel: Rc<Channel>, load: Arc<Load>) {
    let ctx = channel.context().clone();
    let task = |number| ctx.spawn(run_task(Rc::clone(&channel), Arc::clone(&load), number));
    let tasks: Vec<_> = (0..DEPTH as u64).map(task).collect();
    for task in tasks {
        task.await;
    }
}

async fn run_task(channel: Rc<Channel>, load: Arc<Load>, number: u64) {
    let offset = number * LEN_BYTES as u64;
    for round in 0.. {
        if load.enough.load(Ordering::Relaxed) {
            return;
        }
        let Err(failure) = write_and_read(&channel, &load, offset, round << 8 | number).await else {
            load.done.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        load.failures.lock().expect("nobody panicked with it").push(failure);
        if [Errno::ENODEV, Errno::EIO].contains(&failure.errno) {
            return;
        }
    }
}

async fn write_and_read(channel: &Channel, load: &Load, offset: u64, salt: u64) -> Result<(), Failure> {
    let start = Instant::now();
    let written = channel.write_at(offset, pattern(salt, LEN_BYTES)).await.0;
    load.note(start, written)?;
    let start = Instant::now();
    let (result, buffer) = channel.read_at(offset, memory(LEN_BYTES)).await;
    load.note(start, result)?;
    assert_same(&bytes_of(&buffer), &pattern_bytes(salt, LEN_BYTES));
    Ok(())
}
