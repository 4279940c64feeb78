//! Faults of the whole function: it vanishes and returns, resets itself, and does not follow CC.EN.
//!
//! Invariant: while the function is gone there are no queues, and nothing that the host writes is kept.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Fault, Span, What};
use crate::shared::Control;
use crate::worker::{State, Worker};

/// Longer than any test.
const NEVER: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Whether and when something is followed that the host asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Follow {
    /// Then.
    At(Instant),
    /// With CSTS.CFS instead.
    Fail,
    /// Not, since the function is gone.
    Gone,
}

impl Worker {
    /// How the host's wish to enable the controller is followed.
    pub(crate) fn follow_enable(&mut self) -> Follow {
        match self.fault_of(What::Enable) {
            Some(Fault::Never) => Follow::At(Instant::now() + NEVER),
            Some(Fault::Delay(span)) => Follow::At(self.faults.after(span)),
            Some(Fault::Fatal) => Follow::Fail,
            Some(Fault::Vanish(_)) => Follow::Gone,
            _ => Follow::At(Instant::now() + self.shared.config.ready_delay),
        }
    }

    /// How the host's wish to disable the controller is followed. Asked for again until it is.
    fn follow_disable(&mut self) -> Follow {
        let until = match self.faults.disable_at {
            Some(until) => until,
            None => {
                let until = match self.fault_of(What::Disable) {
                    Some(Fault::Never) => Some(Instant::now() + NEVER),
                    Some(Fault::Delay(span)) => Some(self.faults.after(span)),
                    Some(Fault::Vanish(_)) => return Follow::Gone,
                    _ => None,
                };
                self.faults.disable_at = Some(until);
                until
            }
        };
        Follow::At(until.unwrap_or_else(Instant::now))
    }

    fn fault_of(&mut self, what: What) -> Option<Fault> {
        let fault = self.faults.of_event(what)?;
        tracing::debug!(?what, ?fault, "a fault");
        self.shared.fault_counts.add(&fault);
        if let Fault::Vanish(span) = &fault {
            self.faults.back_at = span.map(|span| self.faults.after(span));
        }
        Some(fault)
    }

    /// Carries out what was asked for of the function as a whole. Returns whether it is there.
    pub(crate) fn follow_requests(&mut self, control: &mut Control) -> bool {
        match control.plug.take() {
            Some(true) if control.gone => self.come_back(control),
            Some(false) if !control.gone => {
                self.faults.back_at = None;
                self.go(control);
            }
            _ => {}
        }
        if std::mem::take(&mut control.reset_asked) {
            control.reset_refused = control.gone || self.fault_of(What::Reset) == Some(Fault::Never);
            control.function_reset |= !control.reset_refused;
        }
        let wishes_off = !control.registers.cc.enabled();
        let runs = !matches!(self.state, State::Disabled | State::Stopping);
        if !wishes_off {
            self.faults.disable_at = None;
        }
        self.disable_due = !control.gone
            && wishes_off
            && runs
            && match self.follow_disable() {
                Follow::At(at) => Instant::now() >= at,
                Follow::Fail | Follow::Gone => {
                    self.go(control);
                    false
                }
            };
        if control.gone {
            (control.function_reset, control.stopping) = (false, false);
        }
        !control.gone
    }

    /// The function is gone, as long as was decided.
    pub(crate) fn go(&mut self, control: &mut Control) {
        control.gone = true;
        self.drop_queues();
        self.surprised = true;
    }

    /// The function is gone, for a time or for good.
    pub(super) fn vanish(&mut self, span: Option<Span>) {
        self.faults.back_at = span.map(|span| self.faults.after(span));
        let shared = Arc::clone(&self.shared);
        self.go(&mut shared.control());
    }

    /// The function is back, as after power-on.
    fn come_back(&mut self, control: &mut Control) {
        self.faults.back_at = None;
        control.gone = false;
        control.registers.function_reset();
        control.pci.reset();
    }

    /// The controller resets itself: nobody asked, and nobody is told.
    pub(super) fn reset_itself(&mut self) {
        self.surprised = true;
        self.shared.control().function_reset = true;
        self.follow_registers();
    }

    /// What is due by time alone. Returns whether there was something.
    pub(crate) fn follow_time(&mut self) -> bool {
        let passed = |at: Option<Instant>| at.is_some_and(|at| Instant::now() >= at);
        if passed(self.faults.back_at) {
            let shared = Arc::clone(&self.shared);
            self.come_back(&mut shared.control());
            return true;
        }
        let disable = passed(self.faults.disable_at.flatten());
        if disable {
            self.follow_registers();
        }
        disable
    }
}
