//! Blocking operations that the ring cannot do, on a small pool of threads for the whole process, never in a lane.
//!
//! Threads are made as operations queue up, at most [`MAX_THREADS`], and end after a while without work.

use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use super::affinity::unpin_current_thread;
use super::oneshot::{self, Receiver};

/// How many operations may block at once; more wait for their turn.
pub const MAX_THREADS: usize = 8;
const IDLE_TIME: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

struct Pool {
    state: Mutex<State>,
    work: Condvar,
}

static POOL: Pool =
    Pool { state: Mutex::new(State { jobs: VecDeque::new(), threads: 0, idle: 0 }), work: Condvar::new() };

impl Pool {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn submit(&'static self, job: Job) {
        let mut state = self.lock();
        state.jobs.push_back(job);
        if state.idle >= state.jobs.len() || state.threads == MAX_THREADS {
            drop(state);
            self.work.notify_one();
            return;
        }
        state.threads += 1;
        drop(state);
        let made = thread::Builder::new().name("corelane-helper".into()).spawn(|| {
            unpin_current_thread();
            self.work();
        });
        if let Err(error) = made {
            self.do_without(&error);
        }
    }

    /// There is no new thread. The others will come to the job; if there are none, it must be done here.
    #[cold]
    fn do_without(&self, error: &std::io::Error) {
        let mut state = self.lock();
        state.threads -= 1;
        let job = if state.threads == 0 { state.jobs.pop_back() } else { None };
        drop(state);
        if let Some(job) = job {
            tracing::warn!(%error, "no helper thread: a blocking operation runs in its lane");
            job();
        }
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = self.lock();
                continue;
            }
            state.idle += 1;
            let (back, timeout) =
                self.work.wait_timeout(state, IDLE_TIME).unwrap_or_else(PoisonError::into_inner);
            state = back;
            state.idle -= 1;
            if timeout.timed_out() && state.jobs.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

/// Runs an operation that may block on a helper thread, at once; the future gives its result. If the future is dropped
/// the operation runs to its end all the same.
///
/// # Panics
/// The future panics with what the operation panicked with.
pub fn offload<T, F>(operation: F) -> Offload<T>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let (sender, receiver) = oneshot::channel();
    POOL.submit(Box::new(move || sender.send(catch_unwind(AssertUnwindSafe(operation)))));
    Offload(receiver)
}

/// Made by [`offload`].
#[must_use = "the operation's result is lost unless this is awaited"]
pub struct Offload<T>(Receiver<thread::Result<T>>);

impl<T> Future for Offload<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        Pin::new(&mut self.0).poll(cx).map(|result| {
            result
                .expect("a job sends before it is dropped, and none is dropped unrun")
                .unwrap_or_else(|panic| resume_unwind(panic))
        })
    }
}
