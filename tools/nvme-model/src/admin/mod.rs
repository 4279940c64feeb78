//! Admin commands (NVMe base 2.0, section 5).
//!
//! Invariant: a command ends with a status, or it is held (an event request); nothing else is left behind by one that is
//! refused.

pub(crate) mod events;
pub(crate) mod features;
pub(crate) mod host_memory;
mod identify;
pub(crate) mod log;
mod queues;

use crate::check::Checker;
use crate::data::PointerRules;
use crate::violation::Rule;
use crate::wire::command::{Command, DataFormat, admin};
use crate::wire::status::Status;
use crate::worker::Worker;

/// How a command ended: its status and double words 0 and 1 of the completion. `None`: it is held.
pub(crate) type Outcome = Option<(Status, u64)>;

/// The way from what a command did to how it ended.
fn ended(result: Result<u32, Status>) -> Outcome {
    Some(match result {
        Ok(result) => (Status::SUCCESS, result.into()),
        Err(status) => (status, 0),
    })
}

impl Worker {
    /// Carries out one admin command.
    pub(crate) fn admin(&mut self, command: &Command, check: &Checker<'_>) -> Outcome {
        if let Err(status) = common_checks(command, check) {
            return Some((status, 0));
        }
        let result = match command.opcode() {
            admin::DELETE_SQ => self.delete_sq(command, check),
            admin::CREATE_SQ => self.create_sq(command, check),
            admin::DELETE_CQ => self.delete_cq(command, check),
            admin::CREATE_CQ => self.create_cq(command, check),
            admin::GET_LOG_PAGE => self.get_log_page(command, check),
            admin::IDENTIFY => self.identify(command, check),
            admin::ABORT => Ok(self.abort(command, check)),
            admin::SET_FEATURES => self.set_features(command, check),
            admin::GET_FEATURES => self.get_features(command, check),
            admin::ASYNC_EVENT => return self.async_event_request(command, check),
            admin::DOORBELL_BUFFER_CONFIG if self.shared.config.shadow_doorbells => {
                self.doorbell_buffer_config(command, check)
            }
            opcode => {
                let text = format!("the controller has no admin command {opcode:02x}h");
                Err(check.refuse(Status::INVALID_OPCODE, Rule::Opcode, text))
            }
        };
        self.use_host_memory();
        ended(result)
    }

    /// Abort (5.1). Commands are complete when they are seen, except event requests and what a fault holds back.
    fn abort(&mut self, command: &Command, check: &Checker<'_>) -> u32 {
        const NOT_ABORTED: u32 = 1;
        check.reserved(command, 11, &[0; 5]);
        let (sq_id, cid) = (command.dword(10) as u16, (command.dword(10) >> 16) as u16);
        if self.abort_held(sq_id, cid) {
            return 0;
        }
        if sq_id != 0 || !self.events.cancel(cid) {
            return NOT_ABORTED;
        }
        self.post_admin(cid, Status::ABORT_REQUESTED);
        0
    }

    /// Completes a held command. Should the queue be full, the host has asked for more than it made room for, and loses
    /// the completion.
    fn post_admin(&mut self, cid: u16, status: Status) {
        let violations = &self.shared.violations;
        if let Some((sq, cq)) = self.queues.pair(0) {
            sq.cids.release(cid);
            if cq.has_room(violations) {
                let sq_head = sq.head as u16;
                cq.post(&crate::wire::command::Completion { result: 0, sq_head, sq_id: 0, cid, status });
            }
        }
    }

    /// Sends bytes to the host, where the command's data pointer says.
    pub(crate) fn send(
        &mut self,
        command: &Command,
        bytes: &[u8],
        check: &Checker<'_>,
    ) -> Result<(), Status> {
        let rules = PointerRules { page_bytes: self.page_bytes, sgls: false };
        self.segments.of_command(command, bytes.len(), rules, &mut self.view, check)?;
        let mut data = bytes.to_vec();
        if let Some(spoil) = &self.spoil {
            spoil.spoil(&mut data);
        }
        let mut rest = &data[..];
        for segment in self.segments.list() {
            let (now, later) = rest.split_at(segment.len_bytes.min(rest.len()));
            self.view.write(segment.iova, now).map_err(|fault| check.fault("the data", fault))?;
            rest = later;
        }
        Ok(())
    }

    /// Takes bytes from the host, where the command's data pointer says.
    fn receive(&mut self, command: &Command, bytes: &mut [u8], check: &Checker<'_>) -> Result<(), Status> {
        let rules = PointerRules { page_bytes: self.page_bytes, sgls: false };
        self.segments.of_command(command, bytes.len(), rules, &mut self.view, check)?;
        let mut rest = bytes;
        for segment in self.segments.list() {
            let (now, later) = rest.split_at_mut(segment.len_bytes);
            self.view.read(segment.iova, now).map_err(|fault| check.fault("the data", fault))?;
            rest = later;
        }
        Ok(())
    }
}

/// What holds for every admin command: no fused operation, PRPs only (base 4.1.2 for PCIe), nothing reserved.
fn common_checks(command: &Command, check: &Checker<'_>) -> Result<(), Status> {
    if command.reserved_flags() != 0 || command.word(1) != 0 || command.mptr() != 0 {
        check.note(
            Rule::ReservedField,
            "flags, double words 2 and 3 or the metadata pointer are not 0".to_owned(),
        );
    }
    if command.fuse() != 0 || command.data_format() != DataFormat::Prp {
        let text = "admin commands are not fused and take PRPs only".to_owned();
        return Err(check.refuse(Status::INVALID_FIELD, Rule::InvalidField, text));
    }
    Ok(())
}
