//! [`fence_all_threads`]: a memory barrier for all threads at once, so that those in the hot path need none of their own.
//!
//! The usual way to agree with another thread is that each side stores its word, executes a full barrier, and then loads
//! the other's. Where one side does so in every turn and the other hardly ever, the rare side can pay for both: Linux has
//! each processor that runs a thread of the process execute a barrier (membarrier(2), private expedited, since 4.14).
#![allow(unsafe_code)]

use std::sync::OnceLock;
use std::sync::atomic::{Ordering, fence};
use std::thread;
use std::time::Duration;

/// MEMBARRIER_CMD_PRIVATE_EXPEDITED and MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED of linux/membarrier.h.
const EXPEDITED: libc::c_int = 1 << 3;
const REGISTER: libc::c_int = 1 << 4;
/// Where the kernel has no such call: far longer than a store stays in a processor's store buffer.
const DRAIN_TIME: Duration = Duration::from_millis(1);

/// Has every thread of the process execute a full memory barrier between two of its instructions. After it, this thread
/// sees all that each stored before that point; and what this thread stored before, each sees from that point on. The
/// other threads only have to keep the compiler from reordering.
pub fn fence_all_threads() {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    let registered = *REGISTERED.get_or_init(|| membarrier(REGISTER));
    if !registered || !membarrier(EXPEDITED) {
        fence(Ordering::SeqCst);
        thread::sleep(DRAIN_TIME);
        fence(Ordering::SeqCst);
    }
}

/// Whether the kernel did it.
#[cfg(not(miri))]
fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: the call takes three numbers, and touches no memory of the process.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}

#[cfg(miri)]
fn membarrier(_command: libc::c_int) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, compiler_fence};

    use super::*;

    fn wait_for(word: &AtomicU64, is_there: impl Fn(u64) -> bool) -> u64 {
        loop {
            for _ in 0..10_000 {
                let now = word.load(Ordering::Acquire);
                if is_there(now) {
                    return now;
                }
                std::hint::spin_loop();
            }
            // There may be one processor for both.
            thread::yield_now();
        }
    }

    /// One side says that it is busy, then looks whether it may be; the other forbids it, then looks whether it is busy.
    #[test]
    fn of_two_that_look_for_each_other_one_sees_the_other() {
        let (busy, forbidden) = (AtomicBool::new(false), AtomicBool::new(false));
        let (round, met) = (AtomicU64::new(0), AtomicU64::new(0));
        let rounds = if cfg!(miri) { 10 } else { 5_000 };
        thread::scope(|scope| {
            scope.spawn(|| {
                for now in 1..=rounds {
                    wait_for(&round, |round| round == now);
                    busy.store(true, Ordering::Relaxed);
                    compiler_fence(Ordering::SeqCst);
                    let allowed = !forbidden.load(Ordering::Acquire);
                    met.store(now << 1 | u64::from(allowed), Ordering::Release);
                }
            });
            for now in 1..=rounds {
                busy.store(false, Ordering::Relaxed);
                forbidden.store(false, Ordering::Relaxed);
                round.store(now, Ordering::Release);
                // It takes the other some 100 ns to see that, now more and now less.
                (0..now % 100).for_each(|_| std::hint::spin_loop());
                forbidden.store(true, Ordering::Relaxed);
                fence_all_threads();
                let seen = busy.load(Ordering::Acquire);
                let allowed = wait_for(&met, |met| met >> 1 == now) & 1 == 1;
                assert!(seen || !allowed, "in round {now} neither saw the other");
            }
        });
    }
}
