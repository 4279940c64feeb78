//! The ring: completions reach their sinks, a full queue loses nothing, fall-backs work.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use corelane_engine::aio::{
    AioConfig, AioContext, AioError, CqeSink, IoThread, PlainOp, Ring, RingConfig, SetupFlags, SinkId,
};

#[derive(Default)]
struct Log(RefCell<Vec<(u64, i32)>>);

impl CqeSink for Log {
    fn complete(&self, key: u64, result: i32, _flags: u32) {
        self.0.borrow_mut().push((key, result));
    }
}

fn finish(ring: &Ring) {
    while ring.in_flight() > 0 {
        ring.submit_and_wait(1, None).unwrap();
        ring.reap();
    }
}

/// Every step of the ladder of fall-backs, each as a kernel without the newer flags would give it.
fn fall_backs() -> Vec<SetupFlags> {
    use SetupFlags as F;
    let newer =
        [F::empty(), F::NO_SQARRAY, F::DEFER_TASKRUN, F::SINGLE_ISSUER, F::COOP_TASKRUN, F::SUBMIT_ALL];
    let mut refused = F::empty();
    let mut steps: Vec<F> = newer
        .into_iter()
        .map(|flag| {
            refused |= flag;
            F::all() - refused
        })
        .collect();
    steps.push(F::all() - F::REGISTERED_RING);
    steps.push(F::empty());
    steps
}

#[test]
fn every_fall_back_completes_everything_in_order() {
    for allow in fall_backs() {
        let config = RingConfig { entries: 8, cq_entries: Some(16), allow, ..RingConfig::default() };
        let ring = Ring::new(&config).unwrap();
        let granted = ring.set_up_flags();
        assert!(allow.contains(granted), "allowed {allow:?}, granted {granted:?}");
        let log = Rc::new(Log::default());
        let sink = ring.add_sink(Rc::clone(&log) as Rc<dyn CqeSink>);
        // Far more than either queue holds: the completion queue overflows in between.
        for key in 0..1000 {
            ring.push_plain(sink, key, PlainOp::Nop);
        }
        finish(&ring);
        let expected: Vec<(u64, i32)> = (0..1000).map(|key| (key, 0)).collect();
        assert_eq!(*log.0.borrow(), expected, "with {granted:?}");
        assert_eq!(ring.pending(), 0);
    }
}

#[test]
fn every_fall_back_runs_a_lane() {
    for allow in fall_backs() {
        let context = AioContext::new(&AioConfig { ring_flags: allow, ..AioConfig::named("old") }).unwrap();
        let handle = context.handle();
        let poster = std::thread::spawn(move || {
            (1..=50u64).map(|number| handle.call(move |_| number).wait().unwrap()).sum::<u64>()
        });
        context.block_on(async {
            while !poster.is_finished() {
                context.sleep(Duration::from_millis(1)).await;
            }
        });
        assert_eq!(poster.join().unwrap(), 1275, "with {allow:?}");
    }
}

#[test]
fn sqpoll_completes_everything() {
    let config = RingConfig { entries: 8, sqpoll_idle_ms: Some(1), ..RingConfig::default() };
    let ring = Ring::new(&config).unwrap();
    assert!(ring.set_up_flags().contains(SetupFlags::SQPOLL));
    let log = Rc::new(Log::default());
    let sink = ring.add_sink(Rc::clone(&log) as Rc<dyn CqeSink>);
    for round in 0..4 {
        for key in 0..100 {
            ring.push_plain(sink, key, PlainOp::Nop);
        }
        finish(&ring);
        assert_eq!(log.0.borrow().len(), 100 * (round + 1));
        // Long enough for the kernel thread to fall asleep.
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_lane_may_have_a_submission_thread() {
    let config = AioConfig { sqpoll_idle_ms: Some(1), ..AioConfig::named("sqpoll") };
    let lane = IoThread::spawn(&config).unwrap();
    for number in 0..200u64 {
        assert_eq!(lane.handle().call(move |_| number).wait().unwrap(), number);
        if number % 50 == 0 {
            // Long enough for the kernel thread to fall asleep.
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    lane.join().unwrap();
}

/// Pushes again from inside a completion, removes itself, reaps again.
struct Chain {
    ring: Rc<Ring>,
    id: Cell<Option<SinkId>>,
    left: Cell<u32>,
}

impl CqeSink for Chain {
    fn complete(&self, key: u64, _result: i32, _flags: u32) {
        let id = self.id.get().unwrap();
        if self.left.get() == 0 {
            self.ring.remove_sink(id);
            return;
        }
        self.left.set(self.left.get() - 1);
        self.ring.push_plain(id, key + 1, PlainOp::Nop);
        self.ring.submit().unwrap();
        self.ring.reap();
    }
}

#[test]
fn a_sink_may_use_the_ring_while_it_is_called() {
    let ring = Ring::new(&RingConfig { entries: 2, ..RingConfig::default() }).unwrap();
    let chain = Rc::new(Chain { ring: Rc::clone(&ring), id: Cell::new(None), left: Cell::new(50) });
    let id = ring.add_sink(Rc::clone(&chain) as Rc<dyn CqeSink>);
    chain.id.set(Some(id));
    ring.push_plain(id, 0, PlainOp::Nop);
    ring.push_plain(id, 1000, PlainOp::Nop);
    finish(&ring);
    assert_eq!(chain.left.get(), 0);
    assert_eq!(Rc::strong_count(&chain), 1, "the table holds it no more");
}

#[test]
fn a_wait_ends_with_its_time() {
    let ring = Ring::new(&RingConfig::default()).unwrap();
    let start = std::time::Instant::now();
    assert_eq!(ring.submit_and_wait(1, Some(Duration::from_millis(20))).unwrap(), 0);
    assert!(start.elapsed() >= Duration::from_millis(20));
    assert_eq!(ring.reap(), 0);
}

#[test]
fn a_bad_configuration_is_named() {
    let error = Ring::new(&RingConfig { entries: 0, ..RingConfig::default() }).unwrap_err();
    assert!(matches!(error, AioError::BadConfig { field: "ring entries", value: 0, .. }), "{error}");
    let config = RingConfig { entries: 64, cq_entries: Some(32), ..RingConfig::default() };
    let error = Ring::new(&config).unwrap_err();
    assert!(matches!(error, AioError::BadConfig { value: 32, .. }), "{error}");
    let error = AioContext::new(&AioConfig { mailbox_capacity: 0, ..AioConfig::default() }).unwrap_err();
    assert!(matches!(error, AioError::BadConfig { field: "mailbox_capacity", .. }), "{error}");
}

#[test]
fn tables_of_files_and_buffers_give_places_back() {
    let config = RingConfig { fixed_files: 2, fixed_buffers: 2, ..RingConfig::default() };
    let ring = Ring::new(&config).unwrap();
    let file = tempfile();
    let first = ring.register_file(std::os::fd::AsFd::as_fd(&file)).unwrap();
    let second = ring.register_file(std::os::fd::AsFd::as_fd(&file)).unwrap();
    assert_ne!(first, second);
    assert_eq!(ring.register_file(std::os::fd::AsFd::as_fd(&file)), None, "the table is full");
    ring.unregister_file(first);
    assert_eq!(ring.register_file(std::os::fd::AsFd::as_fd(&file)), Some(first));

    let mut memory = vec![0u8; 8192];
    let index = ring.register_buffer(memory.as_mut_ptr(), 4096).unwrap();
    let other = ring.register_buffer(memory.as_mut_ptr(), 8192).unwrap();
    assert_ne!(index, other);
    let full = ring.register_buffer(memory.as_mut_ptr(), 4096).unwrap_err();
    assert!(matches!(full, AioError::TableFull { size: 2, .. }), "{full}");
    ring.unregister_buffer(other);
    let error = ring.register_buffer(std::ptr::null_mut(), 4096).unwrap_err();
    assert!(matches!(error, AioError::Register { .. }), "{error}");
    assert_eq!(ring.register_buffer(memory.as_mut_ptr(), 8192).unwrap(), other);
    let error = ring.register_buffer(memory.as_mut_ptr(), 0).unwrap_err();
    assert!(matches!(error, AioError::BadConfig { value: 0, .. }), "{error}");
    assert!(ring.supports(io_uring::opcode::Read::CODE));
    assert!(!ring.supports(u8::MAX));
}

fn tempfile() -> std::fs::File {
    std::fs::File::open("/dev/null").unwrap()
}
