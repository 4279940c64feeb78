//! Namespaces over nodes of the block layer: commands go to a lane of their own as jobs, and come back as statuses.
//!
//! Invariants:
//! - A job carries the host's memory itself (mapped as long as the job lives), so the data moves in place and whatever the
//!   host unmaps meanwhile does no harm.
//! - Every job comes back exactly once; [`Nodes::outstanding`] counts those that have not. Whoever takes one back checks
//!   that its queue is still the one it came from.

mod lane;
mod queue;

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use corelane_dma::{DeviceMemory, DmaError, IoVector};
use corelane_engine::aio::{AioConfig, IoThread};
use corelane_engine::block::BlockBackend;

use crate::device::DeviceError;
use crate::shared::Shared;
use crate::wire::status::Status;
use queue::JobQueue;

/// Which command a job belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Token {
    pub(crate) sq_id: u16,
    /// Which of the queues that had this identifier.
    pub(crate) serial: u64,
    pub(crate) cid: u16,
}

/// What a job does with its ranges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Work {
    Read,
    Write {
        fua: bool,
    },
    Compare,
    Zero {
        may_unmap: bool,
    },
    Discard,
    /// Of the ranges, one after the other, to this offset in bytes.
    Copy {
        to: u64,
    },
    /// Of this node, or all of them.
    Flush {
        all: bool,
    },
}

/// A piece of the host's memory.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) memory: DeviceMemory,
    pub(crate) offset_bytes: usize,
    pub(crate) len_bytes: usize,
}

/// A command for a node.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) token: Token,
    pub(crate) node: usize,
    pub(crate) work: Work,
    /// Where in the node, in bytes: offset and length.
    pub(crate) ranges: Vec<(u64, u64)>,
    pub(crate) pieces: Vec<Piece>,
}

impl Job {
    /// The host's memory as what a request carries.
    fn vector(&self) -> Result<IoVector, DmaError> {
        let mut vector = IoVector::with_capacity(self.pieces.len());
        for piece in &self.pieces {
            vector.push(piece.memory.lease(piece.offset_bytes, piece.len_bytes)?);
        }
        Ok(vector)
    }
}

/// The worker's end: jobs out, statuses in.
pub(crate) struct Nodes {
    queue: Arc<JobQueue>,
    outstanding: usize,
    /// The lane, and what tells that it serves no jobs any more.
    lane: Option<(IoThread, Receiver<()>)>,
}

impl Nodes {
    /// Starts the lane and opens the nodes in it. Without nodes there is no lane.
    pub(crate) fn start(backends: Vec<BlockBackend>, shared: &Arc<Shared>) -> Result<Nodes, DeviceError> {
        let queue = Arc::new(JobQueue::default());
        if backends.is_empty() {
            return Ok(Nodes { queue, outstanding: 0, lane: None });
        }
        let refused =
            |error: &dyn std::fmt::Display| DeviceError::Node { reason: format!("the nodes' lane: {error}") };
        let config = AioConfig { name: "model-nodes".to_owned(), ..AioConfig::default() };
        let lane = IoThread::spawn(&config).map_err(|error| refused(&error))?;
        let (opened, was_opened) = std::sync::mpsc::sync_channel(1);
        let (ended, has_ended) = std::sync::mpsc::sync_channel(1);
        let (jobs, shared) = (Arc::clone(&queue), Arc::clone(shared));
        let post = lane.handle().try_post(Box::new(move |context| {
            let context = context.clone();
            drop(context.clone().spawn(async move {
                lane::serve(context, backends, jobs, shared, opened).await;
                // Nobody listens after a start that failed.
                let _ = ended.send(());
            }));
        }));
        post.map_err(|error| refused(&error))?;
        match was_opened.recv() {
            Ok(Ok(())) => Ok(Nodes { queue, outstanding: 0, lane: Some((lane, has_ended)) }),
            Ok(Err(error)) => Err(DeviceError::Node { reason: error.to_string() }),
            Err(_) => Err(DeviceError::Node { reason: "the nodes' lane ended".to_owned() }),
        }
    }

    /// How many jobs have not come back.
    #[inline]
    pub(crate) fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Sends a job.
    pub(crate) fn send(&mut self, job: Job) {
        self.outstanding += 1;
        self.queue.push(job);
    }

    /// Takes back what is done.
    pub(crate) fn done(&mut self) -> Vec<(Token, Status)> {
        let done = self.queue.take_done();
        self.outstanding -= done.len();
        done
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.queue.close();
        if let Some((_lane, has_ended)) = self.lane.take() {
            // An error: it has ended without telling.
            let _ = has_ended.recv();
        }
    }
}
