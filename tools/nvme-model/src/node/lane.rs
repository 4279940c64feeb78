//! The nodes' lane: each job becomes requests of its node's channel.
//!
//! Invariant: a job that was taken is finished, whatever its requests do; jobs do not wait for each other, except for free
//! slots of the channel.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use corelane_dma::{Backing, DmaBuffer, IoBuf, Payload};
use corelane_engine::aio::AioContext;
use corelane_engine::block::{
    BlockBackend, BlockError, Channel, Errno, IoError, IoResult, ReqFlags, Request,
};

use super::queue::JobQueue;
use super::{Job, Work};
use crate::shared::Shared;
use crate::wire::status::Status;

/// Requests in flight in each node.
const DEPTH: u32 = 256;

/// Serves jobs until the queue is closed and empty.
pub(super) async fn serve(
    context: AioContext,
    backends: Vec<BlockBackend>,
    jobs: Arc<JobQueue>,
    shared: Arc<Shared>,
    opened: SyncSender<Result<(), BlockError>>,
) {
    let channels =
        backends.iter().map(|backend| backend.channel(&context, DEPTH)).collect::<Result<Vec<_>, _>>();
    let channels = match channels {
        Ok(channels) => Rc::new(channels),
        Err(error) => {
            // The other end waits for it.
            let _ = opened.send(Err(error));
            return;
        }
    };
    let _ = opened.send(Ok(()));
    while let Some(job) = jobs.next().await {
        let (jobs, shared, channels) = (Arc::clone(&jobs), Arc::clone(&shared), Rc::clone(&channels));
        drop(context.spawn(async move {
            let status = carry_out(&channels, &job).await;
            jobs.finish(job.token, status);
            shared.wake();
        }));
    }
}

async fn carry_out(channels: &[Channel], job: &Job) -> Status {
    let Some(channel) = channels.get(job.node) else { return Status::INTERNAL_ERROR };
    let first = job.ranges.first().map_or(0, |(offset, _)| *offset);
    match job.work {
        Work::Read => match job.vector() {
            Ok(vector) => status(channel.readv_at(first, Box::new(vector)).await.0, Status::READ_ERROR),
            Err(_) => Status::INTERNAL_ERROR,
        },
        Work::Write { fua } => match job.vector() {
            Ok(vector) => {
                let flags = if fua { ReqFlags::FUA } else { ReqFlags::empty() };
                let request = Request::writev(first, Box::new(vector)).with_flags(flags);
                status(channel.start(request).await.0, Status::WRITE_FAULT)
            }
            Err(_) => Status::INTERNAL_ERROR,
        },
        Work::Compare => compare(channel, job, first).await,
        Work::Zero { may_unmap } => {
            let flags = if may_unmap { ReqFlags::MAY_UNMAP } else { ReqFlags::empty() };
            let mut result = Ok(());
            for (offset, bytes) in &job.ranges {
                result = result.and(channel.write_zeroes(*offset, *bytes, flags).await);
            }
            status(result, Status::WRITE_FAULT)
        }
        Work::Discard => {
            let mut result = Ok(());
            for (offset, bytes) in &job.ranges {
                // It is a hint: a node that cannot does nothing.
                let one = channel.discard(*offset, *bytes).await;
                result = result.and(
                    one.or_else(|error| if error.errno == Errno::ENOTSUP { Ok(()) } else { Err(error) }),
                );
            }
            status(result, Status::WRITE_FAULT)
        }
        Work::Copy { to } => copy(channel, job, to).await,
        Work::Flush { all: false } => status(channel.flush().await, Status::WRITE_FAULT),
        Work::Flush { all: true } => {
            let mut result = Ok(());
            for channel in channels {
                result = result.and(channel.flush().await);
            }
            status(result, Status::WRITE_FAULT)
        }
    }
}

fn status(result: IoResult, failed: Status) -> Status {
    match result {
        Ok(()) => Status::SUCCESS,
        Err(IoError { errno: Errno::ENOSPC, .. }) => Status::CAPACITY_EXCEEDED.dnr(),
        Err(_) => failed,
    }
}

/// Copies the job's ranges through a buffer, piece by piece.
async fn copy(channel: &Channel, job: &Job, mut to: u64) -> Status {
    const PIECE_BYTES: u64 = 1 << 20;
    for (mut from, mut left) in job.ranges.iter().copied() {
        while left > 0 {
            let step = left.min(PIECE_BYTES);
            let Ok(buffer) = DmaBuffer::new(step as usize, 4096, Backing::Pages) else {
                return Status::INTERNAL_ERROR;
            };
            let (result, buffer) = channel.read_at(from, IoBuf::from(buffer)).await;
            if result.is_err() {
                return Status::READ_ERROR;
            }
            let (result, _) = channel.write_at(to, buffer).await;
            if result.is_err() {
                return status(result, Status::WRITE_FAULT);
            }
            (from, to, left) = (from + step, to + step, left - step);
        }
    }
    Status::SUCCESS
}

/// Reads the node's bytes aside and compares them with the host's.
async fn compare(channel: &Channel, job: &Job, first: u64) -> Status {
    let len_bytes = job.pieces.iter().map(|piece| piece.len_bytes).sum();
    let Ok(buffer) = DmaBuffer::new(len_bytes, 4096, Backing::Pages) else { return Status::INTERNAL_ERROR };
    let (result, ours) = channel.read_at(first, IoBuf::from(buffer)).await;
    if result.is_err() {
        return Status::READ_ERROR;
    }
    let mut left = vec![0; len_bytes];
    let mut right = vec![0; len_bytes];
    let host = job.vector().and_then(|vector| Payload::Many(Box::new(vector)).copy_to(0, &mut left));
    match host.and_then(|()| ours.copy_to(0, &mut right)) {
        Ok(()) if left == right => Status::SUCCESS,
        Ok(()) => Status::COMPARE_FAILURE.dnr(),
        Err(_) => Status::INTERNAL_ERROR,
    }
}
