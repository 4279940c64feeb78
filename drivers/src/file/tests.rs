//! Tests of the file driver that need its inside: what becomes of completions that a healthy kernel seldom gives, and of
//! operations that a newer kernel never refuses.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use corelane_dma::{Backing, DmaBuffer, IoBuf, IoVector, Payload};
use corelane_engine::aio::{AioConfig, CqeSink, Wait};
use corelane_engine::block::{CommandTable, Errno, IoResult, LeafCommand, Op, Tag};

use super::slots::Slots;
use super::steps::Step;
use super::*;

const PLAIN: ReqFlags = ReqFlags::empty();

fn payload(len: usize) -> Payload {
    Payload::One(IoBuf::from(DmaBuffer::new(len, 4096, Backing::Pages).unwrap()))
}

fn vector(lens: &[usize]) -> Payload {
    let bufs = lens.iter().map(|len| match payload(*len) {
        Payload::One(buf) => buf,
        _ => IoBuf::empty(),
    });
    Payload::from(bufs.collect::<IoVector>())
}

fn bytes(payload: &Payload) -> Vec<u8> {
    let mut bytes = vec![0; payload.len_bytes()];
    payload.copy_to(0, &mut bytes).unwrap();
    bytes
}

/// A file of `length` bytes of 7, opened as `options` says.
fn open_with(
    length: usize,
    options: impl FnOnce(FileOptions) -> FileOptions,
) -> (FileDriver, tempfile::NamedTempFile) {
    // Beside the test's binary: the temporary folder may be in memory.
    let exe = std::env::current_exe().unwrap();
    let file = tempfile::NamedTempFile::new_in(exe.parent().unwrap_or(Path::new("."))).unwrap();
    file.as_file().write_all_at(&vec![7; length], 0).unwrap();
    file.as_file().sync_all().unwrap();
    let driver = FileDriver::open(&options(FileOptions::new(file.path()))).unwrap();
    (driver, file)
}

fn open(length: usize, cache: CacheMode) -> (FileDriver, tempfile::NamedTempFile) {
    open_with(length, |options| options.cache(cache).discard(DiscardMode::Unmap))
}

/// A queue, its commands, and the lane that it is in.
struct Bench {
    queue: Box<dyn LeafQueue>,
    commands: CommandTable,
    ctx: AioContext,
}

impl Bench {
    fn new(driver: &FileDriver) -> Bench {
        Bench::in_lane(driver, AioContext::new(&AioConfig::default()).unwrap())
    }

    fn in_lane(driver: &FileDriver, ctx: AioContext) -> Bench {
        let (commands, table) = CommandTable::new(4);
        Bench { queue: driver.open_queue(&ctx, table).unwrap(), commands, ctx }
    }

    fn one(&mut self, op: Op, flags: ReqFlags, at: (u64, u64), payload: Payload) -> (IoResult, Payload) {
        let command = LeafCommand { op, flags, offset: at.0, bytes: at.1, payload };
        self.commands.put(Tag(1), command).unwrap();
        let mut out = Vec::new();
        while out.is_empty() {
            self.queue.commit();
            self.ctx.turn(Wait::No);
            self.queue.reap();
            out = self.commands.take_ended();
        }
        assert_eq!((out.len(), out[0].tag), (1, Tag(1)));
        let done = out.remove(0);
        (done.result, done.payload)
    }

    fn read(&mut self, offset: u64, payload: Payload) -> (IoResult, Vec<u8>) {
        let len = payload.len_bytes() as u64;
        let (result, payload) = self.one(Op::Read, PLAIN, (offset, len), payload);
        (result, bytes(&payload))
    }
}

fn errno(result: IoResult) -> Option<Errno> {
    result.err().map(|error| error.errno)
}

/// The commands of a queue over a file, with one transfer in flight on tag 2.
struct InFlight {
    slots: Rc<Slots>,
    commands: CommandTable,
}

fn in_flight(driver: &FileDriver, op: Op, offset: u64, len: usize) -> InFlight {
    let (commands, table) = CommandTable::new(4);
    let slots = Rc::new(Slots::new(Arc::clone(&driver.file), table));
    let transfer = InFlight { slots, commands };
    transfer.start(op, offset, len);
    transfer
}

impl InFlight {
    fn start(&self, op: Op, offset: u64, len: usize) {
        let command = LeafCommand { op, flags: PLAIN, offset, bytes: len as u64, payload: payload(len) };
        self.commands.put(Tag(2), command).unwrap();
        assert!(self.slots.table.borrow().take_pending().is_some());
    }

    /// The kernel completes what has this key.
    fn complete(&self, key: u64, result: i32) {
        self.slots.complete(key, result, 0);
    }

    /// Where the transfer on tag 2 goes on: offset, bytes left, bytes done. `None` if it has ended.
    fn goes_on(&self) -> Option<(u64, u64, usize)> {
        let steps = &mut *self.slots.steps.borrow_mut();
        let index = steps.again.pop()?;
        assert_eq!(index, 2);
        let progress = &steps.progress[2];
        assert_eq!(progress.step, Step::Rest);
        Some((progress.offset, progress.left, progress.done))
    }

    fn ended(&self) -> Option<Option<Errno>> {
        let done = self.commands.take_ended().pop()?;
        assert_eq!(done.tag, Tag(2));
        assert_eq!(self.slots.table.borrow().sent().count(), 0);
        Some(errno(done.result))
    }
}

#[test]
fn short_transfers_go_on_with_the_rest() {
    let (driver, _file) = open(64 << 10, CacheMode::Writeback);
    for op in [Op::Read, Op::Write] {
        let transfer = in_flight(&driver, op, 4096, 8192);
        for _ in 0..2 {
            transfer.complete(2, 1000);
            assert_eq!(transfer.goes_on(), Some((5096, 7192, 1000)), "{op:?}");
            transfer.complete(2, 7191);
            assert_eq!(transfer.goes_on(), Some((12287, 1, 8191)), "{op:?}");
            transfer.complete(2, 1);
            assert_eq!(transfer.ended(), Some(None), "{op:?}");
            assert!(transfer.goes_on().is_none());
            // The next command starts at its start.
            transfer.start(op, 4096, 8192);
        }
    }
}

#[test]
fn a_direct_write_goes_on_from_a_whole_block() {
    let (driver, _file) = open(64 << 10, CacheMode::None);
    let block = u64::from(driver.limits().request_alignment);
    let transfer = in_flight(&driver, Op::Write, 4096, 16384);
    transfer.complete(2, block as i32 + 100);
    assert_eq!(transfer.goes_on(), Some((4096 + block, 16384 - block, block as usize)));
    // Less than a block: the same again, but not for ever.
    let again = tries(&transfer, 100);
    assert!((10..100_000).contains(&again), "{again} tries");
}

/// How often a transfer is sent again that always ends with `result`, before it fails with EIO or that error.
fn tries(transfer: &InFlight, result: i32) -> usize {
    let mut tries = 0;
    let error = loop {
        transfer.complete(2, result);
        match transfer.goes_on() {
            Some(_) => tries += 1,
            None => break transfer.ended(),
        }
        assert!(tries < 100_000, "it never gives up");
    };
    let expected = if result < 0 { Errno::from_raw(result) } else { Errno::EIO };
    assert_eq!(error, Some(Some(expected)));
    tries
}

#[test]
fn interrupted_transfers_are_sent_again_but_not_for_ever() {
    let (driver, _file) = open(4096, CacheMode::Writeback);
    for raw in [libc::EINTR, libc::EAGAIN] {
        let again = tries(&in_flight(&driver, Op::Read, 0, 4096), -raw);
        assert!(again > 10, "it gave up after {again}");
    }
    // The kernel claims the end of the file where there is data, or writes nothing.
    for op in [Op::Read, Op::Write] {
        let again = tries(&in_flight(&driver, op, 0, 4096), 0);
        assert!(again > 10, "it gave up after {again}");
    }
    let transfer = in_flight(&driver, Op::Write, 0, 4096);
    transfer.complete(2, -libc::ENOSPC);
    assert_eq!(transfer.ended(), Some(Some(Errno::ENOSPC)));
}

#[test]
fn nonsense_from_the_kernel_harms_nothing() {
    let (driver, _file) = open(4096, CacheMode::Writeback);
    let transfer = in_flight(&driver, Op::Read, 0, 4096);
    transfer.complete(0, 4096);
    transfer.complete(99, 4096);
    assert!(transfer.ended().is_none());
    transfer.complete(2, 4097);
    assert_eq!(transfer.ended(), Some(Some(Errno::EIO)));
    transfer.complete(2, 4096);
    assert!(transfer.ended().is_none(), "a second completion");
}

#[test]
fn a_closing_queue_sends_nothing_again() {
    let (driver, _file) = open(4096, CacheMode::Writeback);
    let transfer = in_flight(&driver, Op::Read, 0, 4096);
    transfer.complete(2, 10);
    transfer.slots.close();
    assert!(!transfer.slots.any_in(|_| true), "what waited to be sent again is given up");
    assert_eq!(transfer.ended(), Some(None));
    transfer.start(Op::Read, 0, 4096);
    transfer.complete(2, 10);
    assert!(transfer.goes_on().is_none());
    assert!(!transfer.slots.any_in(|_| true));
}

#[test]
fn the_last_odd_block_of_a_direct_file_reads_as_zeroes() {
    let (driver, _file) = open(5000, CacheMode::None);
    let block = u64::from(driver.limits().request_alignment);
    let end = 5000_u64.next_multiple_of(block);
    let mut bench = Bench::new(&driver);
    for memory in [payload(end as usize), vector(&[4096, end as usize - 4096])] {
        let (result, got) = bench.read(0, memory);
        assert_eq!(result, Ok(()));
        assert_eq!(got[..5000], [7; 5000]);
        assert!(got[5000..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_file_that_shrank_is_an_error_not_zeroes() {
    for cache in [CacheMode::Writeback, CacheMode::None] {
        let (driver, file) = open(64 << 10, cache);
        let mut bench = Bench::new(&driver);
        file.as_file().set_len(20_000).unwrap();
        assert_eq!(errno(bench.read(32 << 10, payload(4096)).0), Some(Errno::EIO), "{cache}");
        assert_eq!(errno(bench.read(16384, payload(16384)).0), Some(Errno::EIO), "{cache}");
        assert_eq!(bench.read(12288, payload(4096)).0, Ok(()), "{cache}");
        assert_eq!(driver.length().unwrap(), 20_000, "{cache}");
    }
}

/// Takes one ability after the other away: as long as there is a way the range is zeroed, then ENOTSUP.
#[test]
fn zeroes_find_another_way_or_are_refused() {
    let (driver, _file) = open(64 << 10, CacheMode::Writeback);
    let abilities = &driver.file.rules.abilities;
    let mut bench = Bench::new(&driver);
    let mut offset = 0;
    let mut zeroes = |flags| {
        offset += 8192;
        let result = bench.one(Op::WriteZeroes, flags, (offset, 4096), Payload::None).0;
        let (_, got) = bench.read(offset - 4096, payload(12288));
        let untouched = got[..4096].iter().chain(&got[8192..]).all(|byte| *byte == 7);
        assert!(untouched, "neighbours of {offset}");
        let zeroed = got[4096..8192].iter().all(|byte| *byte == 0);
        assert_eq!(zeroed, result.is_ok(), "at {offset}");
        errno(result)
    };
    assert_eq!(zeroes(ReqFlags::MAY_UNMAP), None);
    assert_eq!(zeroes(PLAIN), None);
    abilities.zero_range.store(false, Ordering::Relaxed);
    assert_eq!(zeroes(PLAIN), None, "punched and allocated again");
    assert_eq!(zeroes(ReqFlags::FUA), None);
    abilities.allocate.store(false, Ordering::Relaxed);
    assert_eq!(zeroes(PLAIN), Some(Errno::ENOTSUP));
    assert_eq!(driver.supported_zero_flags(), None);
    assert_eq!(zeroes(ReqFlags::MAY_UNMAP), None, "a hole needs no allocation");
    abilities.punch_hole.store(false, Ordering::Relaxed);
    assert_eq!(zeroes(ReqFlags::MAY_UNMAP), Some(Errno::ENOTSUP));
    assert!(!driver.can_discard());
    assert_eq!(errno(bench.one(Op::Discard, PLAIN, (0, 4096), Payload::None).0), Some(Errno::ENOTSUP));
}

#[test]
fn a_flush_that_failed_once_fails_for_good() {
    let (driver, _file) = open(4096, CacheMode::Writeback);
    let mut bench = Bench::new(&driver);
    assert_eq!(bench.one(Op::Flush, PLAIN, (0, 0), Payload::None).0, Ok(()));
    driver.file.rules.abilities.flush_errno.store(libc::EIO, Ordering::Relaxed);
    assert_eq!(errno(bench.one(Op::Flush, PLAIN, (0, 0), Payload::None).0), Some(Errno::EIO));
}

#[test]
fn a_queue_needs_a_sensible_depth() {
    let (driver, _file) = open(4096, CacheMode::Writeback);
    let ctx = AioContext::new(&AioConfig::default()).unwrap();
    for tags in [0, (1 << 20) + 1] {
        let error = driver.open_queue(&ctx, CommandTable::new(tags).1).err().unwrap().to_string();
        assert!(error.contains("queue depth") && error.contains(&tags.to_string()), "{error}");
    }
}

#[allow(clippy::print_stdout)] // The line is for whoever runs the tests.
fn skip() {
    println!("SKIPPED: loop device: losetup failed");
}

/// A loop device over a file of 7s, opened for discards by system call; detached by the returned guard.
fn open_loop_without_command(file: &Path) -> Option<(FileDriver, Detach)> {
    let output = std::process::Command::new("losetup").args(["--find", "--show"]).arg(file).output();
    let Some(output) = output.ok().filter(|output| output.status.success()) else {
        skip();
        return None;
    };
    let detach = Detach(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let driver = FileDriver::open(&FileOptions::new(&detach.0).discard(DiscardMode::Unmap)).unwrap();
    driver.file.rules.abilities.discard_command.store(false, Ordering::Relaxed);
    Some((driver, detach))
}

/// Detaches a loop device.
struct Detach(String);

impl Drop for Detach {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

/// Without the ring's discard command a helper thread discards by a system call; where that fails too, ENOTSUP.
#[test]
fn a_device_is_discarded_by_a_call_where_the_ring_cannot() {
    let (_, file) = open(1 << 20, CacheMode::Writeback);
    let Some((driver, _detach)) = open_loop_without_command(file.path()) else { return };
    let mut bench = Bench::new(&driver);
    assert_eq!(bench.one(Op::Discard, PLAIN, (4096, 8192), Payload::None).0, Ok(()));
    let (_, got) = bench.read(0, payload(16384));
    assert!(
        got[4096..12288].iter().all(|byte| *byte == 0),
        "a loop device's discarded blocks read as zeroes"
    );
    assert!(got[..4096].iter().chain(&got[12288..]).all(|byte| *byte == 7));
    driver.file.rules.abilities.discard_call.store(false, Ordering::Relaxed);
    let refused = bench.one(Op::Discard, PLAIN, (4096, 8192), Payload::None).0;
    assert_eq!(errno(refused), Some(Errno::ENOTSUP));
}

/// A queue that is dropped waits for the call of a helper thread, which would otherwise discard what is written after.
#[test]
fn a_discard_by_a_call_is_over_when_its_queue_is_gone() {
    let (_, file) = open(8 << 20, CacheMode::Writeback);
    let Some((driver, _detach)) = open_loop_without_command(file.path()) else { return };
    for _ in 0..20 {
        let mut bench = Bench::new(&driver);
        let discard =
            LeafCommand { op: Op::Discard, flags: PLAIN, offset: 0, bytes: 8 << 20, payload: Payload::None };
        bench.commands.put(Tag(0), discard).unwrap();
        bench.queue.commit();
        let Bench { queue, ctx, .. } = bench;
        drop(queue);
        let mut bench = Bench::in_lane(&driver, ctx);
        let mut ones = payload(4096);
        ones.fill(0, 4096, 1).unwrap();
        assert_eq!(bench.one(Op::Write, PLAIN, (4 << 20, 4096), ones).0, Ok(()));
        assert_eq!(bench.read(4 << 20, payload(4096)).1, [1; 4096]);
    }
}
