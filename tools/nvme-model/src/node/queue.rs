//! The way between the polling thread and the nodes' lane: jobs there, statuses back.
//!
//! Invariant: what is pushed before [`JobQueue::close`] is handed out; the lane is woken for each job that finds it waiting.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use super::{Job, Token};
use crate::wire::status::Status;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct JobQueue {
    jobs: Mutex<Jobs>,
    done: Mutex<Vec<(Token, Status)>>,
    /// Whether `done` may have something, so that looking costs no lock.
    any_done: AtomicBool,
}

#[derive(Debug, Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    closed: bool,
    lane: Option<Waker>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl JobQueue {
    pub(super) fn push(&self, job: Job) {
        let mut jobs = lock(&self.jobs);
        jobs.waiting.push_back(job);
        let lane = jobs.lane.take();
        drop(jobs);
        if let Some(lane) = lane {
            lane.wake();
        }
    }

    /// Nothing more will be pushed.
    pub(super) fn close(&self) {
        let mut jobs = lock(&self.jobs);
        jobs.closed = true;
        let lane = jobs.lane.take();
        drop(jobs);
        if let Some(lane) = lane {
            lane.wake();
        }
    }

    /// The next job; `None` when the queue is closed and empty.
    pub(super) async fn next(&self) -> Option<Job> {
        poll_fn(|context| {
            let mut jobs = lock(&self.jobs);
            if let Some(job) = jobs.waiting.pop_front() {
                return Poll::Ready(Some(job));
            }
            if jobs.closed {
                return Poll::Ready(None);
            }
            jobs.lane = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    pub(super) fn finish(&self, token: Token, status: Status) {
        lock(&self.done).push((token, status));
        self.any_done.store(true, Ordering::Release);
    }

    pub(super) fn take_done(&self) -> Vec<(Token, Status)> {
        if !self.any_done.swap(false, Ordering::Acquire) {
            return Vec::new();
        }
        std::mem::take(&mut lock(&self.done))
    }
}
