//! [`BackEnd`]: what executes an NVMe command, whoever drives the controller. Everything else of `corelane nvme` is the same
//! for all of them.

use std::sync::Arc;
use std::time::Duration;

use corelane_drivers::nvme::bus::Bus;
use corelane_drivers::nvme::spec::Nsid;
use corelane_drivers::nvme::spec::command::Command;
use corelane_drivers::nvme::spec::status::Status;
use corelane_drivers::nvme::{
    ControllerOptions, NvmeController, NvmeError, PassthroughAnswer, PassthroughQueue, Transfer,
};

use super::NvmeToolError;

/// Executes commands, one after the other. Data pointer, metadata pointer and id of a command are the back end's affair.
pub trait BackEnd {
    /// What reports call the controller: `nvme0`, `0000:01:00.0`.
    fn title(&self) -> &str;

    /// Executes an admin command. A status other than success is an answer and no error.
    ///
    /// # Errors
    /// Whatever kept the command from being executed.
    fn admin(
        &mut self,
        command: &Command,
        data: Transfer<'_>,
        metadata: Transfer<'_>,
    ) -> Result<PassthroughAnswer, NvmeToolError>;

    /// Executes an I/O command. As [`admin`](Self::admin).
    ///
    /// # Errors
    /// Whatever kept the command from being executed.
    fn io(
        &mut self,
        command: &Command,
        data: Transfer<'_>,
        metadata: Transfer<'_>,
    ) -> Result<PassthroughAnswer, NvmeToolError>;

    /// Resets the controller.
    ///
    /// # Errors
    /// Where it does not come back.
    fn reset(&mut self) -> Result<(), NvmeToolError>;

    /// Lets whoever drives the controller look which namespaces there are.
    ///
    /// # Errors
    /// Where that cannot be asked for.
    fn rescan(&mut self) -> Result<(), NvmeToolError>;

    /// Fails if somebody uses the namespace, or any if that is [`Nsid::ALL`].
    ///
    /// # Errors
    /// [`NvmeToolError::InUse`].
    fn check_unused(&mut self, nsid: Nsid) -> Result<(), NvmeToolError>;
}

impl dyn BackEnd + '_ {
    /// Executes an admin command that has to succeed.
    ///
    /// # Errors
    /// As [`BackEnd::admin`], and [`NvmeToolError::Status`].
    pub fn ask(&mut self, command: &Command, data: Transfer<'_>) -> Result<u64, NvmeToolError> {
        succeeded(self.admin(command, data, Transfer::None)?)
    }

    /// Executes an I/O command that has to succeed.
    ///
    /// # Errors
    /// As [`BackEnd::io`], and [`NvmeToolError::Status`].
    pub fn ask_io(&mut self, command: &Command, data: Transfer<'_>) -> Result<u64, NvmeToolError> {
        succeeded(self.io(command, data, Transfer::None)?)
    }

    /// Reads a log page from `offset_bytes` on, 4 KiB at a time, which every controller allows.
    ///
    /// # Errors
    /// As `ask`.
    pub fn log(
        &mut self,
        page: u8,
        nsid: Nsid,
        offset_bytes: u64,
        len_bytes: usize,
    ) -> Result<Vec<u8>, NvmeToolError> {
        let mut log = vec![0; len_bytes];
        let mut at = offset_bytes;
        for chunk in log.chunks_mut(4096) {
            // Whole dwords are transferred.
            let mut dwords = vec![0; chunk.len().next_multiple_of(4)];
            self.ask(&Command::log_page(page, nsid, at, dwords.len() as u32), Transfer::In(&mut dwords))?;
            at += dwords.len() as u64;
            for (to, from) in chunk.iter_mut().zip(dwords) {
                *to = from;
            }
        }
        Ok(log)
    }

    /// Reads an identify structure.
    ///
    /// # Errors
    /// As `ask`.
    pub fn identify(&mut self, cns: u8, nsid: Nsid, command_set: u8) -> Result<Vec<u8>, NvmeToolError> {
        let mut bytes = vec![0; 4096];
        self.ask(&Command::identify(cns, nsid, command_set), Transfer::In(&mut bytes))?;
        Ok(bytes)
    }
}

/// The result, if the command succeeded.
///
/// # Errors
/// [`NvmeToolError::Status`].
pub fn succeeded(answer: PassthroughAnswer) -> Result<u64, NvmeToolError> {
    if answer.status.is_success() { Ok(answer.result) } else { Err(NvmeToolError::Status(answer.status)) }
}

/// A controller that this process drives: behind VFIO, of a vfio-user server, or a model.
pub struct Driven {
    title: String,
    /// `None` only while it is reset, and for good if it did not come back.
    controller: Option<Arc<NvmeController>>,
    queue: Option<PassthroughQueue>,
    options: ControllerOptions,
}

impl Driven {
    /// Starts the controller behind `bus`; every command may take `timeout_ms`.
    ///
    /// # Errors
    /// Those of the start.
    pub fn start(bus: Arc<dyn Bus>, timeout_ms: u64) -> Result<Driven, NvmeToolError> {
        let options = ControllerOptions {
            queues: 1,
            admin_timeout_ms: timeout_ms,
            // For a few commands it is not worth the memory.
            host_memory_bytes: 0,
            ..ControllerOptions::default()
        };
        let title = bus.address().to_owned();
        let controller = Some(NvmeController::start(bus, &options)?);
        Ok(Driven { title, controller, queue: None, options })
    }

    fn controller(&self) -> Result<&Arc<NvmeController>, NvmeToolError> {
        let reason = || "it did not come back from a reset".to_owned();
        let stopped = || NvmeError::Stopped { address: self.title.clone(), reason: reason(), gone: false };
        Ok(self.controller.as_ref().ok_or_else(stopped)?)
    }
}

impl BackEnd for Driven {
    fn title(&self) -> &str {
        &self.title
    }

    fn admin(
        &mut self,
        command: &Command,
        data: Transfer<'_>,
        metadata: Transfer<'_>,
    ) -> Result<PassthroughAnswer, NvmeToolError> {
        Ok(self.controller()?.admin_passthrough(*command, data, metadata)?)
    }

    fn io(
        &mut self,
        command: &Command,
        data: Transfer<'_>,
        metadata: Transfer<'_>,
    ) -> Result<PassthroughAnswer, NvmeToolError> {
        if self.queue.is_none() {
            let timeout = Duration::from_millis(self.options.admin_timeout_ms);
            self.queue = Some(self.controller()?.open_passthrough(timeout)?);
        }
        match &mut self.queue {
            Some(queue) => Ok(queue.execute(*command, data, metadata)?),
            None => Err(NvmeToolError::Status(Status::ABORTED_SQ_DELETION)),
        }
    }

    /// By disabling and enabling the controller, which is what CC.EN does (Base 3.7.2).
    fn reset(&mut self) -> Result<(), NvmeToolError> {
        self.queue = None;
        let bus = Arc::clone(self.controller()?.bus());
        self.controller = None;
        self.controller = Some(NvmeController::start(bus, &self.options)?);
        Ok(())
    }

    /// Nobody but this process drives it, and it asks for namespaces each time.
    fn rescan(&mut self) -> Result<(), NvmeToolError> {
        self.controller()?.active_namespaces()?;
        Ok(())
    }

    /// Whoever else had it open would have it for himself.
    fn check_unused(&mut self, _: Nsid) -> Result<(), NvmeToolError> {
        Ok(())
    }
}
