//! An allocator that counts, to hold the hot path at zero allocations.
//!
//! Counts are kept by thread, so that what another thread allocates meanwhile does not matter; [`calls_of_all_threads`]
//! has the sum, for what runs in threads of its own. A test binary names it as its allocator and takes [`Counts`] before
//! and after:
//!
//! ```
//! use corelane_tests::alloc::{CountingAllocator, Counts};
//!
//! #[global_allocator]
//! static ALLOCATOR: CountingAllocator = CountingAllocator;
//!
//! let mark = Counts::of_this_thread();
//! drop(Box::new(1));
//! assert_eq!(mark.until_now().allocations, 1);
//! ```

#![allow(unsafe_code)] // A global allocator is an unsafe trait.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The system's allocator, with each call counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct CountingAllocator;

/// How often a thread called the allocator.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Allocations, zeroed ones included.
    pub allocations: u64,
    /// Changes of an allocation's size.
    pub reallocations: u64,
    /// Allocations given back.
    pub frees: u64,
    /// Bytes asked for, in allocations and growth.
    pub bytes: u64,
}

thread_local! {
    // Constant and without a destructor: to reach it allocates nothing, and works while the thread ends.
    static COUNTS: Cell<Counts> = const { Cell::new(Counts::ZERO) };
}

/// Allocations and changes of size, of all threads.
static CALLS: AtomicU64 = AtomicU64::new(0);

/// How often all threads of the process have allocated or resized, ended threads included.
pub fn calls_of_all_threads() -> u64 {
    CALLS.load(Relaxed)
}

impl Counts {
    const ZERO: Counts = Counts { allocations: 0, reallocations: 0, frees: 0, bytes: 0 };

    /// What this thread did since it began. All zero unless [`CountingAllocator`] is the program's allocator.
    pub fn of_this_thread() -> Counts {
        COUNTS.get()
    }

    /// What this thread did since this mark was taken in it.
    pub fn until_now(self) -> Counts {
        let now = Counts::of_this_thread();
        Counts {
            allocations: now.allocations - self.allocations,
            reallocations: now.reallocations - self.reallocations,
            frees: now.frees - self.frees,
            bytes: now.bytes - self.bytes,
        }
    }

    /// Whether nothing was allocated, resized or given back.
    pub fn is_zero(self) -> bool {
        self == Counts::ZERO
    }
}

fn count(change: impl FnOnce(&mut Counts)) {
    let mut counts = COUNTS.get();
    let before = counts.allocations + counts.reallocations;
    change(&mut counts);
    CALLS.fetch_add(counts.allocations + counts.reallocations - before, Relaxed);
    COUNTS.set(counts);
}

// SAFETY: every call goes to `System`, which keeps the trait's contract, with the caller's own arguments. Counting
// touches only a thread-local cell and an atomic: it neither allocates nor unwinds.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(|counts| {
            counts.allocations += 1;
            counts.bytes += layout.size() as u64;
        });
        // SAFETY: the caller keeps the contract of `alloc`, which is the same here.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(|counts| {
            counts.allocations += 1;
            counts.bytes += layout.size() as u64;
        });
        // SAFETY: the caller keeps the contract of `alloc_zeroed`, which is the same here.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(|counts| counts.frees += 1);
        // SAFETY: `memory` came from this allocator, hence from `System`, with this layout.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_len: usize) -> *mut u8 {
        count(|counts| {
            counts.reallocations += 1;
            counts.bytes += new_len.saturating_sub(layout.size()) as u64;
        });
        // SAFETY: `memory` came from this allocator, hence from `System`, with this layout; the caller answers for
        // `new_len`.
        unsafe { System.realloc(memory, layout, new_len) }
    }
}
