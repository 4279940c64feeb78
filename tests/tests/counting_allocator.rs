//! The allocator that other tests rely on does count.

use corelane_tests::alloc::{CountingAllocator, Counts};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

#[test]
fn each_kind_of_call_is_counted() {
    let mark = Counts::of_this_thread();
    assert!(mark.until_now().is_zero());

    let mut bytes: Vec<u8> = Vec::with_capacity(100);
    assert_eq!(mark.until_now(), Counts { allocations: 1, reallocations: 0, frees: 0, bytes: 100 });
    bytes.reserve_exact(300);
    assert_eq!(mark.until_now(), Counts { allocations: 1, reallocations: 1, frees: 0, bytes: 300 });
    drop(bytes);
    assert_eq!(mark.until_now(), Counts { allocations: 1, reallocations: 1, frees: 1, bytes: 300 });
    drop(std::hint::black_box(vec![0_u8; 50]));
    assert_eq!(mark.until_now(), Counts { allocations: 2, reallocations: 1, frees: 2, bytes: 350 });
}

#[test]
fn what_another_thread_does_is_not_counted_here() {
    let mut other = Counts::default();
    std::thread::scope(|scope| {
        // The thread's own start allocates here, so the mark is taken when it runs.
        let (started, start) = std::sync::mpsc::channel();
        let (finish, finished) = std::sync::mpsc::channel::<()>();
        let thread = scope.spawn(move || {
            started.send(()).unwrap();
            finished.recv().unwrap();
            let mark = Counts::of_this_thread();
            drop(std::hint::black_box(Box::new([0_u8; 64])));
            mark.until_now()
        });
        start.recv().unwrap();
        finish.send(()).unwrap();
        let mark = Counts::of_this_thread();
        while !thread.is_finished() {
            std::hint::spin_loop();
        }
        assert!(mark.until_now().is_zero());
        other = thread.join().unwrap();
    });
    assert_eq!(other, Counts { allocations: 1, reallocations: 0, frees: 1, bytes: 64 });
}
