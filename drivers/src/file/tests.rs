//! Tests of the file driver that need its inside: what becomes of completions that a healthy kernel seldom gives, and of
//! operations that a newer kernel never refuses.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use corelane_dma::{Backing, DmaBuffer, IoBuf, IoVector, Payload};
use corelane_engine::aio::{AioConfig, CqeSink, Wait};
use corelane_engine::block::{Errno, IoResult, LeafCommand, LeafCompletion, Op, Tag};

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

/// A queue and the lane that it is in.
struct Bench {
    queue: Box<dyn LeafQueue>,
    ctx: AioContext,
}

impl Bench {
    fn new(driver: &FileDriver) -> Bench {
        let ctx = AioContext::new(&AioConfig::default()).unwrap();
        Bench { queue: driver.open_queue(&ctx, 4).unwrap(), ctx }
    }

    fn one(&mut self, op: Op, flags: ReqFlags, at: (u64, u64), payload: Payload) -> (IoResult, Payload) {
        let command = LeafCommand { op, flags, offset: at.0, bytes: at.1, payload };
        self.queue.submit(Tag(1), command).unwrap();
        let mut out: Vec<LeafCompletion> = Vec::with_capacity(4);
        while out.is_empty() {
            self.queue.commit();
            self.ctx.turn(Wait::No);
            self.queue.reap(&mut out);
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

/// Slots over a file, with one transfer in flight on index 2.
fn in_flight(driver: &FileDriver, op: Op, offset: u64, len: usize) -> Rc<Slots> {
    let slots = Rc::new(Slots::new(Arc::clone(&driver.file), 4));
    slots.table.borrow_mut().slots[2].start_transfer(op, PLAIN, offset, payload(len));
    slots
}

/// Where the transfer on index 2 goes on: offset, bytes left, bytes done. `None` if it has ended.
fn goes_on(slots: &Slots) -> Option<(u64, u64, usize)> {
    let table = &mut *slots.table.borrow_mut();
    let index = table.again.pop()?;
    assert_eq!(index, 2);
    let slot = &table.slots[2];
    assert_eq!(slot.step, Step::Rest);
    Some((slot.offset, slot.left, slot.done))
}

fn ended(slots: &Slots) -> Option<Option<Errno>> {
    let done = slots.table.borrow_mut().done.pop()?;
    assert_eq!(done.tag, Tag(2));
    assert_eq!(slots.table.borrow().slots[2].step, Step::Free);
    Some(errno(done.result))
}

#[test]
fn short_transfers_go_on_with_the_rest() {
    let (driver, _file) = open(64 << 10, CacheMode::Writeback);
    for op in [Op::Read, Op::Write] {
        let slots = in_flight(&driver, op, 4096, 8192);
        slots.complete(2, 1000, 0);
        assert_eq!(goes_on(&slots), Some((5096, 7192, 1000)), "{op:?}");
        slots.complete(2, 7191, 0);
        assert_eq!(goes_on(&slots), Some((12287, 1, 8191)), "{op:?}");
        slots.complete(2, 1, 0);
        assert_eq!(ended(&slots), Some(None), "{op:?}");
        assert_eq!(slots.table.borrow().slots[2].done, 0, "the next command starts at its start");
        assert!(goes_on(&slots).is_none());
    }
}

#[test]
fn a_direct_write_goes_on_from_a_whole_block() {
    let (driver, _file) = open(64 << 10, CacheMode::None);
    let block = u64::from(driver.limits().request_alignment);
    let slots = in_flight(&driver, Op::Write, 4096, 16384);
    slots.complete(2, block as i32 + 100, 0);
    assert_eq!(goes_on(&slots), Some((4096 + block, 16384 - block, block as usize)));
    // Less than a block: the same again, but not for ever.
    let again = tries(&slots, 100);
    assert!((10..100_000).contains(&again), "{again} tries");
}

/// How often a transfer is sent again that always ends with `result`, before it fails with EIO or that error.
fn tries(slots: &Slots, result: i32) -> usize {
    let mut tries = 0;
    let error = loop {
        slots.complete(2, result, 0);
        match goes_on(slots) {
            Some(_) => tries += 1,
            None => break ended(slots),
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
    let slots = in_flight(&driver, Op::Write, 0, 4096);
    slots.complete(2, -libc::ENOSPC, 0);
    assert_eq!(ended(&slots), Some(Some(Errno::ENOSPC)));
}

#[test]
fn nonsense_from_the_kernel_harms_nothing() {
    let (driver, _file) = open(4096, CacheMode::Writeback);
    let slots = in_flight(&driver, Op::Read, 0, 4096);
    slots.complete(0, 4096, 0);
    slots.complete(99, 4096, 0);
    assert!(slots.table.borrow().done.is_empty());
    slots.complete(2, 4097, 0);
    assert_eq!(ended(&slots), Some(Some(Errno::EIO)));
    slots.complete(2, 4096, 0);
    assert!(slots.table.borrow().done.is_empty(), "a second completion");
}

#[test]
fn a_closing_queue_sends_nothing_again() {
    let (driver, _file) = open(4096, CacheMode::Writeback);
    let slots = in_flight(&driver, Op::Read, 0, 4096);
    slots.complete(2, 10, 0);
    slots.close();
    assert!(!slots.any_in(|_| true), "what waited to be sent again is given up");
    slots.table.borrow_mut().slots[2].start_transfer(Op::Read, PLAIN, 0, payload(4096));
    slots.complete(2, 10, 0);
    assert!(goes_on(&slots).is_none());
    assert!(!slots.any_in(|_| true));
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
fn a_tag_in_use_or_out_of_range_is_given_back() {
    let (driver, _file) = open(4096, CacheMode::Writeback);
    let mut bench = Bench::new(&driver);
    let read = || LeafCommand { op: Op::Read, flags: PLAIN, offset: 0, bytes: 4096, payload: payload(4096) };
    bench.queue.submit(Tag(0), read()).unwrap();
    assert!(bench.queue.submit(Tag(0), read()).is_err(), "its memory would be lost sight of");
    let back = bench.queue.submit(Tag(4), read()).unwrap_err();
    assert_eq!(back.payload.len_bytes(), 4096);
}

#[test]
fn a_queue_needs_a_sensible_depth() {
    let (driver, _file) = open(4096, CacheMode::Writeback);
    let ctx = AioContext::new(&AioConfig::default()).unwrap();
    for tags in [0, u32::MAX] {
        let error = driver.open_queue(&ctx, tags).err().unwrap().to_string();
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
        bench.queue.submit(Tag(0), discard).unwrap();
        bench.queue.commit();
        let Bench { queue, ctx } = bench;
        drop(queue);
        let mut bench = Bench { queue: driver.open_queue(&ctx, 4).unwrap(), ctx };
        let mut ones = payload(4096);
        ones.fill(0, 4096, 1).unwrap();
        assert_eq!(bench.one(Op::Write, PLAIN, (4 << 20, 4096), ones).0, Ok(()));
        assert_eq!(bench.read(4 << 20, payload(4096)).1, [1; 4096]);
    }
}
