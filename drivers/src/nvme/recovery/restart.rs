//! Stopping a controller that failed, and bringing it back as it was.
//!
//! Invariant: what it is told of after a restart is what it was told of before: the same admin queue, the same shadow pages,
//! the same host memory buffer.
//! I/O queues are made again by their lanes, each when it has pulled back what it had in flight.

use std::sync::Arc;

use crate::nvme::controller::admin::Permit;
use crate::nvme::controller::core::{Core, Known};
use crate::nvme::controller::registers::Registers;
use crate::nvme::error::NvmeError;
use crate::nvme::spec::identify::{IdentifyController, text};

/// How the attempt to stop a controller ended.
#[derive(Debug)]
pub enum Stop {
    /// It uses no memory any more.
    Stopped,
    /// It is not there any more, which stops it as well.
    Gone(NvmeError),
    /// Nothing helped.
    Lost,
}

/// Stops a controller by disabling it, or else by a reset of the function. Blocks, as long as the controller asks for.
pub fn stop(registers: &Registers) -> Stop {
    let bus = registers.bus();
    let mut disabled = registers.disable();
    if disabled.as_ref().is_err_and(NvmeError::is_gone) {
        if !registers.is_there() {
            // Who is gone reaches no memory.
            return disabled.map_or_else(Stop::Gone, |()| Stop::Stopped);
        }
        // It is there, but somebody may have switched its registers off.
        disabled = registers.prepare().and_then(|()| registers.disable());
    }
    let error = match disabled {
        Ok(()) => return Stop::Stopped,
        Err(error) => error,
    };
    tracing::warn!(controller = bus.address(), %error, "it cannot be disabled: it is reset");
    match bus.reset() {
        Ok(()) => Stop::Stopped,
        Err(reset) => {
            let reset = NvmeError::from(reset);
            tracing::error!(controller = bus.address(), error = %reset, "it cannot be reset");
            if reset.is_gone() || error.is_gone() { Stop::Gone(error) } else { Stop::Lost }
        }
    }
}

impl Core {
    /// Brings a controller back that has stopped: enabled, known to be the same, set up as before, with event requests.
    /// The state is [`Starting`](super::state::State::Starting), `permit` is for it. Blocks.
    ///
    /// # Errors
    /// Those of starting, and [`NvmeError::Changed`].
    pub(super) fn restart(self: &Arc<Core>, permit: Permit) -> Result<(), NvmeError> {
        let registers = self.control.registers();
        registers.prepare()?;
        self.admin.reset();
        self.enable_memory_buffer_again()?;
        registers.enable(self.admin.queues())?;
        let identify = self.identify(permit)?;
        let Some(known) = self.known.get() else { return Ok(()) };
        self.check_same(known, &identify)?;
        let granted = self.ask_for_queues(permit, self.options.queues)?;
        if granted < known.granted {
            return Err(self.changed(
                "a number of queues of",
                granted.to_string(),
                known.granted.to_string(),
            ));
        }
        if let Some(shadow) = &known.shadow {
            self.set_shadows(permit, shadow)?;
        }
        self.configure_host(permit, &identify)?;
        self.configure_events(permit, &identify)?;
        if let Some(buffer) = &known.host_buffer {
            self.return_host_buffer(permit, buffer)?;
        }
        self.set_interrupts_again()
    }

    fn changed(&self, what: &'static str, value: String, expected: String) -> NvmeError {
        NvmeError::Changed { address: self.control.address().to_owned(), what, value, expected }
    }

    /// Whether it is still the controller that was opened, so that its namespaces hold what they held.
    fn check_same(&self, known: &Known, now: &IdentifyController) -> Result<(), NvmeError> {
        let before = &known.identify;
        if before.sn != now.sn || before.mn != now.mn {
            let name =
                |identify: &IdentifyController| format!("{} {}", text(&identify.mn), text(&identify.sn));
            return Err(self.changed("the name", name(now), name(before)));
        }
        let what_commands_rely_on = |identify: &IdentifyController| {
            [u32::from(identify.mdts), identify.oncs.get().into(), identify.sgls.get(), identify.vwc.into()]
        };
        if what_commands_rely_on(before) != what_commands_rely_on(now) {
            let words = |identify| format!("{:x?}", what_commands_rely_on(identify));
            return Err(self.changed("MDTS, ONCS, SGLS and VWC", words(now), words(before)));
        }
        Ok(())
    }
}
