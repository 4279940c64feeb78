//! Faults that the controller makes on purpose: [`FaultScript`] says which, when and on which commands.
//!
//! Invariants:
//! - A controller without faults serves as if there were no such thing: its thread asks once a turn whether there are any.
//! - Chance comes from the script's seed alone, so that a script makes the same faults in the same commands each time.
//! - A command identifier whose completion was withheld stays in use until the queue is gone: a host that uses it again
//!   has broken a rule, which is recorded.

mod counts;
mod due;
mod live;
mod plug;
mod serve;
mod text;

use std::ops::RangeInclusive;
use std::time::Duration;

pub use text::FaultTextError;

pub(crate) use counts::Counts;
pub(crate) use live::Faults;
pub(crate) use plug::Follow;
pub(crate) use serve::Spoil;

/// Faults, as [`text`](FaultScript#impl-FromStr-for-FaultScript) or by rules.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct FaultScript {
    /// Where chance begins.
    pub seed: u64,
    /// The rules, of which the first that applies to a command decides.
    pub rules: Vec<FaultRule>,
}

/// One rule: which fault, and on what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FaultRule {
    /// Which commands or events it is about.
    pub what: What,
    /// Only in this submission queue.
    pub queue: Option<u16>,
    /// Only with this namespace identifier.
    pub nsid: Option<u32>,
    /// Only for I/O commands that touch one of these blocks.
    pub blocks: Option<RangeInclusive<u64>>,
    /// Which of those.
    pub when: When,
    /// What goes wrong.
    pub fault: Fault,
}

/// What a rule is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// An I/O command with this opcode, or any.
    Io(Option<u8>),
    /// An admin command with this opcode, or any; and if given with this lowest byte of double word 10 (CNS, feature or
    /// log page).
    Admin(Option<u8>, Option<u8>),
    /// The host sets CC.EN.
    Enable,
    /// The host clears CC.EN.
    Disable,
    /// The host resets the function.
    Reset,
}

/// Which of the commands or events that a rule is about, counted from 1.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum When {
    /// Those with these numbers.
    Count(RangeInclusive<u64>),
    /// Each so-manieth.
    Each(u64),
    /// Each with this chance: one in so many.
    OneIn(u32),
}

/// A time, of which chance chooses one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// At least.
    pub least: Duration,
    /// At most.
    pub most: Duration,
}

/// Which identifier a completion has in place of the right one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WrongCid {
    /// One that differs in its highest bit.
    Near,
    /// That of the command which this queue completed before.
    Last,
    /// This one.
    Fixed(u16),
}

/// What the host tells a driver of a function, in place of the function itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notice {
    /// The function is wanted back.
    Removal,
    /// The link or the function had an error.
    Error,
}

/// What goes wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Carried out at once, completed later. Also: CC.EN is followed later.
    Delay(Span),
    /// Carried out and completed later: the data moves long after the command was fetched.
    Late(Span),
    /// Carried out, never completed.
    Drop,
    /// Neither carried out nor completed.
    Lose,
    /// Completed twice.
    Duplicate,
    /// Completed with this status (bits 14:0 of the status field without the phase), or with one by chance.
    Status {
        /// The status; `None`: an error by chance.
        status: Option<u16>,
        /// Whether it was carried out nevertheless.
        carried_out: bool,
    },
    /// Completed with this double word 0.
    Result(u32),
    /// Completed with another command's identifier.
    Cid(WrongCid),
    /// Completed with a phase tag that makes the entry invisible.
    Phase,
    /// Completed with the number of another submission queue.
    SqId(u16),
    /// Completed with this submission queue head.
    SqHead(u16),
    /// Completed without an interrupt.
    NoInterrupt,
    /// The queue's tail doorbell is not looked at any more, for a time or for good.
    StuckDoorbell(Option<Span>),
    /// Data that goes to the host is changed: these bytes at this offset, or some by chance.
    Corrupt(Option<(usize, Vec<u8>)>),
    /// Of data that goes to the host only so many bytes arrive.
    Truncate(usize),
    /// CSTS.CFS: the controller has failed.
    Fatal,
    /// The function is gone: all registers read as ones. For a time or for good.
    Vanish(Option<Span>),
    /// The controller resets itself: CC and CSTS are 0, the queues are gone.
    SelfReset,
    /// An asynchronous event, besides what the command does.
    Event {
        /// Its type: 0 error, 1 SMART, 2 notice.
        kind: u8,
        /// Its information.
        info: u8,
        /// The log page that it names.
        log_page: u8,
    },
    /// The host tells the driver something, besides what the command does.
    Notice(Notice),
    /// What the host asks for (enable, disable, reset) does not happen.
    Never,
}

impl Fault {
    /// The names of all, in the order of their numbers.
    pub(crate) const NAMES: [&'static str; 21] = [
        "delay",
        "late",
        "drop",
        "lose",
        "duplicate",
        "status",
        "result",
        "cid",
        "phase",
        "sq-id",
        "sq-head",
        "no-interrupt",
        "stuck-doorbell",
        "corrupt",
        "truncate",
        "fatal",
        "vanish",
        "self-reset",
        "event",
        "notice",
        "never",
    ];

    /// Its number in [`NAMES`](Self::NAMES).
    fn number(&self) -> usize {
        match self {
            Fault::Delay(_) => 0,
            Fault::Late(_) => 1,
            Fault::Drop => 2,
            Fault::Lose => 3,
            Fault::Duplicate => 4,
            Fault::Status { .. } => 5,
            Fault::Result(_) => 6,
            Fault::Cid(_) => 7,
            Fault::Phase => 8,
            Fault::SqId(_) => 9,
            Fault::SqHead(_) => 10,
            Fault::NoInterrupt => 11,
            Fault::StuckDoorbell(_) => 12,
            Fault::Corrupt(_) => 13,
            Fault::Truncate(_) => 14,
            Fault::Fatal => 15,
            Fault::Vanish(_) => 16,
            Fault::SelfReset => 17,
            Fault::Event { .. } => 18,
            Fault::Notice(_) => 19,
            Fault::Never => 20,
        }
    }

    /// What it is called in a script and in the count.
    pub fn name(&self) -> &'static str {
        Self::NAMES[self.number()]
    }

    /// Whether it makes sense for what a rule is about.
    fn fits(&self, what: What) -> bool {
        match what {
            What::Enable => {
                matches!(self, Fault::Never | Fault::Delay(_) | Fault::Fatal | Fault::Vanish(_))
            }
            What::Disable => matches!(self, Fault::Never | Fault::Delay(_) | Fault::Vanish(_)),
            What::Reset => matches!(self, Fault::Never),
            // Their data goes to the host as bytes that the controller makes.
            What::Admin(..) => !matches!(self, Fault::Never),
            What::Io(_) => !matches!(self, Fault::Never | Fault::Corrupt(_) | Fault::Truncate(_)),
        }
    }
}
