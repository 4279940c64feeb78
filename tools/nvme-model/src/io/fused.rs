//! Fused operations (base 3.4.2): Compare and Write as one.
//!
//! Invariants: the first half is held until the second comes, which is the next command of the same batch; both end then, in
//! order. What comes in between, or does not come, ends the first half.

use super::{Io, IoContext};
use crate::check::Checker;
use crate::node::Token;
use crate::violation::Rule;
use crate::wire::command::{Command, nvm};
use crate::wire::status::Status;

const FIRST: u32 = 1;
const SECOND: u32 = 2;

impl Io {
    /// Carries out a half of a fused operation, or whatever comes after a first half.
    #[cold]
    pub(super) fn fused(
        &mut self,
        fuse: u32,
        command: &Command,
        context: &mut IoContext<'_>,
        check: &Checker<'_>,
    ) -> Option<Status> {
        let (sq_id, serial) = context.queue;
        let token = Token { sq_id, serial, cid: check.cid() };
        if fuse != 0 && !context.shared.config.fused {
            let text = format!("FUSE is {fuse}, but fused operations are not offered");
            return Some(check.refuse(Status::INVALID_FIELD, Rule::ReservedField, text));
        }
        match (self.first_half.take(), fuse) {
            (None, FIRST) => {
                self.first_half = Some((token, *command));
                None
            }
            (Some((first_token, first)), SECOND) => {
                let statuses = self.both(&first, command, context, check);
                self.ended.extend([(first_token, statuses.0), (token, statuses.1)]);
                None
            }
            (None, SECOND) => {
                let text = "the second half of a fused operation without a first".to_owned();
                Some(check.refuse(Status::MISSING_FUSED, Rule::Fused, text))
            }
            (first, _) => {
                if let Some(first) = first {
                    self.missing_half(first, check);
                }
                if fuse == 0 {
                    return self.carry_out_alone(command, context, check);
                }
                Some(check.refuse(Status::INVALID_FIELD, Rule::Fused, format!("FUSE is {fuse}")))
            }
        }
    }

    /// The batch is over, and a second half did not come.
    pub(crate) fn end_batch(&mut self, check: &Checker<'_>) {
        if let Some(first) = self.first_half.take() {
            self.missing_half(first, check);
        }
    }

    #[cold]
    fn missing_half(&mut self, (token, _): (Token, Command), check: &Checker<'_>) {
        let text = "the first half of a fused operation without a second".to_owned();
        self.ended.push((token, check.refuse(Status::MISSING_FUSED, Rule::Fused, text)));
    }

    /// Compares, and writes if that found no difference.
    fn both(
        &mut self,
        first: &Command,
        second: &Command,
        context: &mut IoContext<'_>,
        check: &Checker<'_>,
    ) -> (Status, Status) {
        let fits = first.opcode() == nvm::COMPARE
            && second.opcode() == nvm::WRITE
            && first.nsid() == second.nsid()
            && first.slba() == second.slba()
            && (first.dword(12) ^ second.dword(12)) & 0xFFFF == 0;
        let blocks = (first.dword(12) & 0xFFFF) + 1;
        if !fits || blocks > context.shared.config.atomic_blocks.into() {
            let text =
                format!("opcodes {:02x}h and {:02x}h, {blocks} blocks", first.opcode(), second.opcode());
            let status = check.refuse(Status::INVALID_FIELD, Rule::Fused, text);
            return (status, status);
        }
        // Neither is held: there are no nodes where commands are fused.
        let compared = self.carry_out_alone(first, context, check).unwrap_or(Status::INTERNAL_ERROR);
        if !compared.is_success() {
            return (compared, Status::FAILED_FUSED.dnr());
        }
        (compared, self.carry_out_alone(second, context, check).unwrap_or(Status::INTERNAL_ERROR))
    }
}
