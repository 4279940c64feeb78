//! Lanes and queues: fewer queues than lanes, all queues at once, deep queues, and lanes that sleep.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use corelane_drivers::nvme::{NvmeOptions, Polling};
use corelane_engine::aio::{AioConfig, AioContext, IoThread, PollMode};
use corelane_engine::block::{BlockBackend, Channel};

use super::case;
use super::rig::{POLL, assert_same, backend, bytes_of, in_lane, memory, pattern, pattern_bytes, start};
use crate::vm::{Case, Guest};

/// See the module's documentation.
pub const CASES: &[Case] = &[
    case("nvme::two_lanes_share_one_queue_pair", one_pair),
    case("nvme::a_lane_goes_on_when_the_owner_of_its_queue_ends", owner_ends),
    case("nvme::sixty_four_queue_pairs", all_pairs),
    case("nvme::queues_of_1024_commands", deep),
    case("nvme::an_idle_lane_sleeps_and_an_interrupt_wakes_it", sleeps),
];

thread_local! {
    /// A lane's channel, kept until all lanes are through, so that none gets a queue that another gave back.
    static CHANNEL: RefCell<Option<Rc<Channel>>> = const { RefCell::new(None) };
}

/// Lets `count` lanes write and read at the same time, each in its own part of the device, `rounds` times.
fn lanes_at_once(guest: &Guest, name: &str, options: &NvmeOptions, count: u64, rounds: u64) {
    let controller = start(guest, name);
    let backend = backend(&controller, 1, options);
    // Sleeping ones, since there are fewer processors than lanes.
    let lanes: Vec<_> = (0..count).map(|_| open_lane(&backend)).collect();
    std::thread::scope(|scope| {
        for (number, lane) in (0..).zip(&lanes) {
            scope.spawn(move || lane.run_on(move |_| write_and_read(number, rounds)).expect("the lane runs"));
        }
    });
    lanes.into_iter().for_each(close_lane);
}

async fn write_and_read(number: u64, rounds: u64) {
    const LEN_BYTES: usize = 70_000;
    const PART_BYTES: u64 = 1 << 19;
    let channel = CHANNEL.with_borrow(Option::clone).expect("it was opened");
    for round in 0..rounds {
        let offset = number * PART_BYTES + round * 512;
        let salt = number << 8 | round;
        channel.write_at(offset, pattern(salt, LEN_BYTES)).await.0.expect("it is written");
        let (result, buffer) = channel.read_at(offset, memory(LEN_BYTES)).await;
        result.expect("it is read");
        assert_same(&bytes_of(&buffer), &pattern_bytes(salt, LEN_BYTES));
    }
}

fn one_pair(guest: &Guest) {
    assert_eq!(start(guest, "one-pair").queue_count(), 1);
    for poll in [Polling::On, Polling::Off] {
        lanes_at_once(guest, "one-pair", &NvmeOptions { poll, ..POLL }, 2, 20);
    }
    lanes_at_once(guest, "one-pair", &POLL, 5, 5);
}

/// The lane that has the only queue pair ends while another uses it, again and again; the other one must not notice.
fn owner_ends(guest: &Guest) {
    let controller = start(guest, "one-pair");
    let backend = backend(&controller, 1, &POLL);
    let mut owner = open_lane(&backend);
    for round in 0..10 {
        let user = open_lane(&backend);
        let reads = Arc::new(Reads::default());
        std::thread::scope(|scope| {
            let theirs = Arc::clone(&reads);
            let work = || {
                user.run_on(move |ctx: &AioContext| read_in_tasks(ctx, &theirs, round))
                    .expect("the lane runs")
            };
            scope.spawn(work);
            reads.wait_for_more("with the owner");
            close_lane(owner);
            reads.wait_for_more("after the owner");
            reads.enough.store(true, Ordering::Relaxed);
        });
        owner = user;
    }
    close_lane(owner);
}

/// What tasks that read all the time, and the thread that watches them, say to each other.
#[derive(Default)]
struct Reads {
    done: AtomicU64,
    failed: AtomicBool,
    enough: AtomicBool,
}

impl Reads {
    /// Waits until the tasks have read some more.
    fn wait_for_more(&self, stage: &str) {
        const LIMIT: Duration = Duration::from_secs(30);
        let (start, before) = (Instant::now(), self.done.load(Ordering::Relaxed));
        let more = || self.done.load(Ordering::Relaxed) > before + 20;
        while !more() && !self.failed.load(Ordering::Relaxed) {
            let done = self.done.load(Ordering::Relaxed) - before;
            assert!(start.elapsed() < LIMIT, "{stage}: {done} reads in {LIMIT:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn read_in_tasks(ctx: &AioContext, reads: &Arc<Reads>, round: u32) -> impl Future<Output = ()> + use<> {
    let task = |task| ctx.spawn(read_on(Arc::clone(reads), format!("round {round}, task {task}")));
    let tasks: Vec<_> = (0..8).map(task).collect();
    async move {
        for task in tasks {
            task.await;
        }
    }
}

async fn read_on(reads: Arc<Reads>, name: String) {
    let channel = CHANNEL.with_borrow(Option::clone).expect("it was opened");
    while !reads.enough.load(Ordering::Relaxed) {
        let (result, _) = channel.read_at(0, memory(4096)).await;
        if let Err(err) = result {
            reads.failed.store(true, Ordering::Relaxed);
            panic!("{name}: {err}");
        }
        reads.done.fetch_add(1, Ordering::Relaxed);
    }
}

fn open_lane(backend: &BlockBackend) -> IoThread {
    let lane = IoThread::spawn(&AioConfig::default()).expect("a lane");
    let backend = backend.clone();
    let open = move |ctx: &AioContext| {
        CHANNEL.set(Some(Rc::new(backend.channel(ctx, 16).unwrap_or_else(|err| panic!("{err}")))));
        std::future::ready(())
    };
    lane.run_on(open).expect("the lane runs");
    lane
}

fn close_lane(lane: IoThread) {
    let close = |_: &AioContext| {
        CHANNEL.set(None);
        std::future::ready(())
    };
    lane.run_on(close).expect("the lane runs");
    lane.join().expect("the lane ended well");
}

fn all_pairs(guest: &Guest) {
    assert_eq!(start(guest, "default").queue_count(), 64);
    lanes_at_once(guest, "default", &NvmeOptions { poll: Polling::Off, ..POLL }, 64, 2);
    lanes_at_once(guest, "default", &NvmeOptions { poll: Polling::Off, ..POLL }, 66, 2);
}

fn deep(guest: &Guest) {
    const DEPTH: u64 = 1024;
    let controller = start(guest, "default");
    for options in [POLL, NvmeOptions { poll: Polling::Off, ..POLL }] {
        let backend = backend(&controller, 1, &options);
        in_lane(&AioConfig::default(), &backend, DEPTH as u32, |channel| async move {
            let ctx = channel.context().clone();
            for round in 0..2 {
                let spawn = |number: u64| {
                    let (channel, offset, salt) = (Rc::clone(&channel), number * 512, round << 12 | number);
                    ctx.spawn(async move {
                        channel.write_at(offset, pattern(salt, 512)).await.0.expect("it is written");
                        let (result, buffer) = channel.read_at(offset, memory(512)).await;
                        result.expect("it is read");
                        assert_same(&bytes_of(&buffer), &pattern_bytes(salt, 512));
                    })
                };
                let tasks: Vec<_> = (0..DEPTH).map(spawn).collect();
                for task in tasks {
                    task.await;
                }
            }
        });
    }
}

/// How often the interrupts of a function were counted, over all vectors and processors.
fn interrupts_of(address: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/interrupts").expect("it reads");
    let lines = text.lines().filter(|line| line.contains("vfio-msix") && line.contains(address));
    lines.flat_map(|line| line.split_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok())).sum()
}

/// How often the calling thread went to sleep by itself.
fn sleeps_of_this_thread() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").expect("it reads");
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|number| number.trim().parse().ok()).expect("the kernel counts them")
}

/// Reads one block after the other. Gives how many interrupts came meanwhile, and how often the lane slept.
fn read_one_by_one(guest: &Guest, options: &NvmeOptions, lane: &AioConfig, count: u64) -> (u64, u64) {
    let controller = start(guest, "default");
    let backend = backend(&controller, 1, options);
    let address = guest.function("default").address().to_owned();
    in_lane(lane, &backend, 4, move |channel| async move {
        let before = (interrupts_of(&address), sleeps_of_this_thread());
        for number in 0..count {
            channel.read_at(number * 4096, memory(4096)).await.0.expect("it is read");
        }
        (interrupts_of(&address) - before.0, sleeps_of_this_thread() - before.1)
    })
}

fn sleeps(guest: &Guest) {
    const COUNT: u64 = 200;
    let sleeping = AioConfig { poll: PollMode::Interrupt, ..AioConfig::default() };
    let busy = AioConfig { poll: PollMode::Busy, ..AioConfig::default() };
    let by_interrupt = NvmeOptions { poll: Polling::Off, ..POLL };
    let (interrupts, sleeps) = read_one_by_one(guest, &by_interrupt, &sleeping, COUNT);
    // A completion that is there before the lane sleeps needs no sleep, though its interrupt comes; on an emulated
    // processor that is a matter of luck, but not each time.
    assert!(interrupts >= COUNT / 2, "{interrupts} interrupts for {COUNT} reads");
    assert!(sleeps >= COUNT / 10, "{sleeps} sleeps for {COUNT} reads");
    let (interrupts, _) = read_one_by_one(guest, &POLL, &busy, COUNT);
    assert!(interrupts <= 2, "{interrupts} interrupts for {COUNT} polled reads");
}
