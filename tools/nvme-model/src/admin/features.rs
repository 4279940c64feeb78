//! Get and Set Features (NVMe base 2.0, sections 5.15 and 5.27).
//!
//! Invariants: no feature is saveable, so its default is also what a reset leaves. The number of queues can be set only
//! before the first I/O queue is made.

use crate::check::Checker;
use crate::config::ModelConfig;
use crate::violation::Rule;
use crate::wire::command::Command;
use crate::wire::feature::{self, SUPPORTED};
use crate::wire::status::Status;
use crate::worker::Worker;

/// 343 K: where a controller without sensors warns.
const WARNING_KELVIN: u32 = 343;

/// The features' values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Features {
    arbitration: u32,
    /// Over and under temperature thresholds.
    thresholds: [u32; 2],
    error_recovery: u32,
    write_cache: u32,
    /// Completion queues in the high half, submission queues in the low half, each less one; 0's based.
    queues: u32,
    coalescing: u32,
    /// Vectors for which coalescing is off.
    uncoalesced: Vec<bool>,
    write_atomicity: u32,
    async_events: u32,
    /// What the host said of itself.
    host: Vec<u8>,
}

impl Features {
    /// The defaults.
    pub(crate) fn new(config: &ModelConfig) -> Features {
        let most = u32::from(config.max_queue_pairs) - 1;
        Features {
            arbitration: 0,
            thresholds: [WARNING_KELVIN, 0],
            error_recovery: 0,
            write_cache: u32::from(config.write_cache),
            queues: most << 16 | most,
            coalescing: 0,
            uncoalesced: vec![false; config.vectors as usize],
            write_atomicity: 0,
            async_events: 0,
            host: vec![0; feature::HOST_BEHAVIOR_BYTES],
        }
    }

    /// Whether the host wants to be told of this: a bit of Asynchronous Event Configuration.
    pub(crate) fn wants(&self, bit: u32) -> bool {
        self.async_events >> bit & 1 != 0
    }

    /// The highest identifier of an I/O submission queue.
    pub(crate) fn io_submission_queues(&self, max: u16) -> u16 {
        max.min((self.queues & 0xFFFF) as u16 + 1)
    }

    /// The highest identifier of an I/O completion queue.
    pub(crate) fn io_completion_queues(&self, max: u16) -> u16 {
        max.min((self.queues >> 16) as u16 + 1)
    }

    /// The value of a feature; `dword11` says which one where there are several.
    fn get(&self, id: u8, dword11: u32) -> Option<u32> {
        Some(match id {
            feature::ARBITRATION => self.arbitration,
            feature::POWER_MANAGEMENT => 0,
            // Only the composite temperature (TMPSEL 0) has thresholds.
            feature::TEMPERATURE_THRESHOLD if dword11 >> 16 & 0xF == 0 => {
                *self.thresholds.get((dword11 >> 20 & 3) as usize)?
            }
            feature::ERROR_RECOVERY => self.error_recovery,
            feature::VOLATILE_WRITE_CACHE => self.write_cache,
            feature::NUMBER_OF_QUEUES => self.queues,
            feature::INTERRUPT_COALESCING => self.coalescing,
            feature::INTERRUPT_VECTOR => {
                let vector = dword11 & 0xFFFF;
                u32::from(*self.uncoalesced.get(vector as usize)?) << 16 | vector
            }
            feature::WRITE_ATOMICITY => self.write_atomicity,
            feature::ASYNC_EVENT => self.async_events,
            // The value is elsewhere.
            feature::HOST_BEHAVIOR | feature::COMMAND_SET_PROFILE | feature::HOST_MEMORY_BUFFER => 0,
            _ => return None,
        })
    }

    /// Sets a feature to a value that was checked. `None` if it does not exist.
    fn set(&mut self, id: u8, dword11: u32) -> Option<()> {
        match id {
            feature::ARBITRATION => self.arbitration = dword11,
            feature::POWER_MANAGEMENT => {}
            feature::TEMPERATURE_THRESHOLD if dword11 >> 16 & 0xF == 0 => {
                *self.thresholds.get_mut((dword11 >> 20 & 3) as usize)? = dword11 & 0xFFFF;
            }
            feature::ERROR_RECOVERY => self.error_recovery = dword11,
            feature::VOLATILE_WRITE_CACHE => self.write_cache = dword11,
            feature::INTERRUPT_COALESCING => self.coalescing = dword11,
            feature::INTERRUPT_VECTOR => {
                *self.uncoalesced.get_mut((dword11 & 0xFFFF) as usize)? = dword11 >> 16 & 1 != 0;
            }
            feature::WRITE_ATOMICITY => self.write_atomicity = dword11,
            feature::ASYNC_EVENT => self.async_events = dword11,
            feature::COMMAND_SET_PROFILE => {}
            _ => return None,
        }
        Some(())
    }
}

/// The bits of double word 11 that a feature defines for Set Features.
fn defined(id: u8) -> u32 {
    match id {
        feature::ARBITRATION => 0xFFFF_FF07,
        feature::POWER_MANAGEMENT => 0xFF,
        feature::TEMPERATURE_THRESHOLD => 0x003F_FFFF,
        feature::ERROR_RECOVERY | feature::INTERRUPT_VECTOR => 0x1_FFFF,
        feature::VOLATILE_WRITE_CACHE | feature::WRITE_ATOMICITY => 1,
        feature::INTERRUPT_COALESCING => 0xFFFF,
        feature::HOST_BEHAVIOR => 0,
        // SMART warnings, namespace and firmware notices, and what later versions define.
        feature::ASYNC_EVENT => 0x8000_FFFF,
        feature::COMMAND_SET_PROFILE => 0x1FF,
        // Enable, memory return.
        feature::HOST_MEMORY_BUFFER => 0b11,
        _ => 0xFFFF_FFFF,
    }
}

/// What Get Features with SEL 3 says of any of them: changeable, not saveable, not specific to a namespace.
const CHANGEABLE: u32 = 4;

impl Worker {
    /// Get Features (5.15).
    pub(super) fn get_features(&mut self, command: &Command, check: &Checker<'_>) -> Result<u32, Status> {
        check.reserved(command, 10, &[0x7FF]);
        check.reserved(command, 12, &[0, 0, 0x7F, 0]);
        let (id, select) = (command.dword(10) as u8, command.dword(10) >> 8 & 7);
        if id == feature::HOST_MEMORY_BUFFER && select == 0 && self.has_feature(id) {
            return self.get_host_memory(command, check);
        }
        let defaults = Features::new(&self.shared.config);
        let from = if select == 0 { &self.features } else { &defaults };
        match (from.get(id, command.dword(11)), select) {
            (Some(value), 0..=2) if self.has_feature(id) => {
                if id == feature::HOST_BEHAVIOR {
                    let bytes = from.host.clone();
                    self.send(command, &bytes, check)?;
                }
                Ok(value)
            }
            (Some(_), 3) if self.has_feature(id) => Ok(CHANGEABLE),
            _ => Err(no_feature(check, id, command.dword(11))),
        }
    }

    /// Set Features (5.27).
    pub(super) fn set_features(&mut self, command: &Command, check: &Checker<'_>) -> Result<u32, Status> {
        const SAVE: u32 = 1 << 31;
        check.reserved(command, 10, &[SAVE | 0xFF]);
        if command.dword(10) as u8 != feature::HOST_MEMORY_BUFFER {
            check.reserved(command, 12, &[0, 0, 0x7F, 0]);
        }
        let (id, value) = (command.dword(10) as u8, command.dword(11));
        if !self.has_feature(id) {
            // Spoilt identify data may say otherwise.
            let told_so = id == feature::HOST_MEMORY_BUFFER && !self.faults.none();
            return Err(if told_so { Status::INVALID_FIELD.dnr() } else { no_feature(check, id, value) });
        }
        if command.dword(10) & SAVE != 0 {
            let text = format!("feature {id:02x}h is to be saved, but no feature is saveable");
            return Err(check.refuse(Status::FEATURE_NOT_SAVEABLE, Rule::InvalidField, text));
        }
        let extra = value & !defined(id);
        if extra != 0 {
            check.note(Rule::ReservedField, format!("bits {extra:#x} of feature {id:02x}h are reserved"));
        }
        if id == feature::HOST_BEHAVIOR {
            return self.set_host_behavior(command, check);
        }
        if id == feature::HOST_MEMORY_BUFFER {
            return self.set_host_memory(command, check);
        }
        if id == feature::NUMBER_OF_QUEUES {
            return self.set_number_of_queues(value, check);
        }
        if id == feature::POWER_MANAGEMENT && value & 0x1F != 0 {
            let text = format!("there is no power state {}", value & 0x1F);
            return Err(check.refuse(Status::INVALID_FIELD, Rule::InvalidField, text));
        }
        if id == feature::COMMAND_SET_PROFILE && value & 0x1FF != 0 {
            let text = format!("there is no combination {} of command sets", value & 0x1FF);
            return Err(check.refuse(Status::INVALID_FIELD, Rule::InvalidField, text));
        }
        self.features.set(id, value & defined(id)).map(|()| 0).ok_or_else(|| no_feature(check, id, value))
    }

    /// Number of Queues (5.27.1.5): the controller gives what was asked for, or as many as it has.
    fn set_number_of_queues(&mut self, value: u32, check: &Checker<'_>) -> Result<u32, Status> {
        if self.queues.has_io_queues() {
            let text = "the number of queues cannot be set after an I/O queue was made".to_owned();
            return Err(check.refuse(Status::COMMAND_SEQUENCE, Rule::Sequence, text));
        }
        let (completion, submission) = (value >> 16, value & 0xFFFF);
        if completion == 0xFFFF || submission == 0xFFFF {
            let text = "65,536 queues are asked for; 65,535 are the most".to_owned();
            return Err(check.refuse(Status::INVALID_FIELD, Rule::InvalidField, text));
        }
        let most = u32::from(self.shared.config.max_queue_pairs) - 1;
        self.features.queues = completion.min(most) << 16 | submission.min(most);
        Ok(self.features.queues)
    }

    /// Host Behavior Support (5.27.1.18).
    fn set_host_behavior(&mut self, command: &Command, check: &Checker<'_>) -> Result<u32, Status> {
        check.reserved(command, 11, &[0]);
        let mut host = vec![0; feature::HOST_BEHAVIOR_BYTES];
        self.receive(command, &mut host, check)?;
        // ACRE, ETDAS and LBAFEE are 0 or 1, and the rest is for later versions.
        if host[..3].iter().any(|value| *value > 1) || host[3..].iter().any(|value| *value != 0) {
            let text = "Host Behavior Support with values that are not defined".to_owned();
            check.note(Rule::ReservedField, text);
        }
        self.io.set_extended_formats(host[feature::LBAFEE] == 1);
        self.features.host = host;
        Ok(0)
    }

    fn has_feature(&self, id: u8) -> bool {
        SUPPORTED.contains(&id)
            && (id != feature::VOLATILE_WRITE_CACHE || self.shared.config.write_cache)
            && (id != feature::COMMAND_SET_PROFILE || self.shared.config.has_zones())
            && (id != feature::HOST_MEMORY_BUFFER || self.shared.config.host_memory.is_some())
    }
}

#[cold]
fn no_feature(check: &Checker<'_>, id: u8, dword11: u32) -> Status {
    let text = format!("the controller has no feature {id:02x}h with {dword11:#x}");
    check.refuse(Status::INVALID_FIELD, Rule::InvalidField, text)
}
