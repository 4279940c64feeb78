//! Commands that a node carries out: they are held here, and sent as jobs.
//!
//! Invariant: a job has all of the host's memory that it touches, checked to be mapped and, where the node reads into it, to
//! be writable.

use super::{Blocks, Io, IoContext, Step};
use crate::check::Checker;
use crate::memory::Fault;
use crate::node::{Job, Piece, Token, Work};
use crate::wire::status::Status;

impl IoContext<'_> {
    /// Sends a job without data.
    pub(super) fn hold(
        &mut self,
        work: Work,
        node: usize,
        ranges: Vec<(u64, u64)>,
        check: &Checker<'_>,
    ) -> Step {
        self.nodes.send(Job { token: self.token(check), node, work, ranges, pieces: Vec::new() });
        Step::Held
    }

    fn token(&self, check: &Checker<'_>) -> Token {
        let (sq_id, serial) = self.queue;
        Token { sq_id, serial, cid: check.cid() }
    }
}

impl Io {
    /// Sends a job over the segments of the command.
    pub(super) fn hold_transfer(
        &self,
        work: Work,
        node: usize,
        blocks: Blocks,
        context: &mut IoContext<'_>,
        check: &Checker<'_>,
    ) -> Result<Step, Status> {
        let mut pieces = Vec::with_capacity(self.segments.list().len());
        for segment in self.segments.list() {
            let added =
                context.view.pieces(segment.iova, segment.len_bytes, |memory, offset_bytes, _, len_bytes| {
                    if work == Work::Read && !memory.is_writable() {
                        return Err(corelane_dma::DmaError::ReadOnly { offset_bytes, len_bytes });
                    }
                    pieces.push(Piece { memory: memory.clone(), offset_bytes, len_bytes });
                    Ok(())
                });
            added.map_err(|fault: Fault| check.fault("the data", fault))?;
        }
        let ranges = vec![(blocks.at, blocks.len_bytes)];
        context.nodes.send(Job { token: context.token(check), node, work, ranges, pieces });
        Ok(Step::Held)
    }
}
