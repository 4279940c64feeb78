//! [`NvmeCommands`]: what a namespace can do beyond reads and writes, as typed asynchronous methods of one lane.
//!
//! These commands have a small queue of their own in the lane, beside that of the block layer. So requests pay nothing for
//! them: no operation more in the block layer's tables, no word more in its slots. What goes this way passes the block layer
//! by, as another host's commands would: its limits, its throttling and its serialising know nothing of it.
//!
//! Memory that is registered with the controller, and lies so that PRP entries express it, moves in place; other memory is
//! copied. Whoever unregisters memory waits first for the commands that use it.
//!
//! A namespace that is not any more what was opened, as after a format, ends its commands with `ENODEV`, as it ends requests.

mod abilities;
mod copy;
mod error;
mod lane;
mod memory;
mod metadata;
mod nvm;
mod zoned;

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use corelane_dma::Payload;
use corelane_engine::aio::{AioContext, Poller, PollerId};

pub use abilities::{Abilities, CopyLimits};
pub use error::CommandError;
pub use lane::Answer;
use lane::Lane;
use memory::Direction;
pub use metadata::{ApplicationTag, Checks, MetadataFormat};
pub use zoned::ReportOptions;

use super::atomics::AtomicWrites;
use super::controller::NvmeController;
use super::error::NvmeError;
use super::extent::{BlockFormat, Extent, extent};
use super::namespace::{self, MAX_TRANSFER_BYTES};
use super::recovery::watch::{Shape, Watched};
use super::spec::command::Command;
use super::spec::{Lba, Nsid};
use super::zones::Zones;

/// How a lane's commands are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommandOptions {
    /// Most commands at once, at least 1. More wait.
    pub depth: u32,
    /// How long a command may take, in milliseconds. One that takes longer has the controller stopped.
    pub timeout_ms: u64,
}

impl Default for CommandOptions {
    /// 15 commands, 30 s.
    fn default() -> CommandOptions {
        CommandOptions { depth: 15, timeout_ms: 30_000 }
    }
}

/// Blocks that follow one another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockRange {
    /// The first.
    pub start: Lba,
    /// How many.
    pub blocks: u64,
}

/// The commands of a namespace in one lane. While one is under way the lane does not sleep.
pub struct NvmeCommands {
    lane: Rc<Lane>,
    poller: PollerId,
    ctx: AioContext,
    controller: Arc<NvmeController>,
    nsid: Nsid,
    block_shift: u32,
    blocks: u64,
    abilities: Abilities,
    atomics: AtomicWrites,
    metadata: Option<MetadataFormat>,
    zones: Option<Zones>,
}

impl NvmeCommands {
    /// Opens the commands of a namespace of a started controller in the lane of `ctx`, with a queue of their own. Blocks.
    ///
    /// # Errors
    /// [`NvmeError::NoNamespace`] for one that is not active, [`NvmeError::Absurd`] for what no namespace can be,
    /// [`NvmeError::Unusable`] where all queue numbers are in use or the depth is none, and those of creating queues.
    pub fn open(
        controller: &Arc<NvmeController>,
        nsid: Nsid,
        options: &CommandOptions,
        ctx: &AioContext,
    ) -> Result<NvmeCommands, NvmeError> {
        let address = controller.address();
        if !(1..=1 << 15).contains(&options.depth) {
            let (value, expected) = (options.depth.into(), "from 1 to 32768".to_owned());
            let address = address.to_owned();
            return Err(NvmeError::Unusable {
                address,
                what: "the number of commands at once",
                value,
                expected,
            });
        }
        let looks = controller.watchlist().looks();
        let identify = namespace::identify(controller, nsid)?;
        let (format, blocks) = namespace::geometry(address, nsid, &identify)?;
        let watched = Watched::new(nsid, Shape::of(&identify, format), blocks);
        controller.watch(&watched, looks);
        let format = BlockFormat::of(controller, nsid, (&identify, format))?;
        let BlockFormat { shift: block_shift, metadata } = format;
        let abilities = Abilities::of(controller, &identify, block_shift);
        let atomics = AtomicWrites::of(controller.identify(), &identify, block_shift);
        let zones = Zones::ask(controller, nsid, &identify)?;
        let max_transfer = (abilities.max_transfer_blocks << block_shift).max(MAX_TRANSFER_BYTES);
        let timeout = Duration::from_millis(options.timeout_ms);
        let lane = Lane::open(controller, watched, (options.depth, max_transfer), timeout, ctx)?;
        let lane = Rc::new(lane);
        let poller = ctx.add_poller(Rc::clone(&lane) as Rc<dyn Poller>);
        let (ctx, controller) = (ctx.clone(), Arc::clone(controller));
        Ok(NvmeCommands {
            lane,
            poller,
            ctx,
            controller,
            nsid,
            block_shift,
            blocks,
            abilities,
            atomics,
            metadata,
            zones,
        })
    }

    /// The namespace.
    pub fn nsid(&self) -> Nsid {
        self.nsid
    }

    /// The size of a block in bytes.
    pub fn block_bytes(&self) -> u64 {
        1 << self.block_shift
    }

    /// How many blocks there were when this was opened.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Which commands there are.
    pub fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    /// What is written all or not at all.
    pub fn atomic_writes(&self) -> &AtomicWrites {
        &self.atomics
    }

    /// Sends a command as it is, but for its identifier, its pointers and its namespace, which are filled in: what moves, and
    /// which way, its opcode says (Base figure 87). I/O passthrough: nothing of it is checked but that it fits, and that its
    /// memory holds what it moves, as far as this driver knows commands.
    ///
    /// # Errors
    /// In the answer: [`CommandError::Argument`] for one that would be half of a fused operation, moves data both ways, or
    /// has memory where its opcode says that nothing moves, more than a transfer, or less than it moves; and those of the
    /// command.
    pub async fn submit(&self, command: Command, data: Payload, metadata: Payload) -> Answer {
        const NAME: &str = "the command";
        let refuse = |what, value: u64, expected: &str, data, metadata| {
            let expected = expected.to_owned();
            let result = Err(CommandError::Argument { command: NAME, what, value, expected });
            Answer { result, data, metadata }
        };
        let Some(direction) = Direction::of_opcode(command.opcode) else {
            return refuse(
                "its opcode",
                command.opcode.into(),
                "one whose data moves one way",
                data,
                metadata,
            );
        };
        if command.flags != 0 {
            return refuse("its flags", command.flags.into(), "0, since PRPs are filled in", data, metadata);
        }
        let len = data.len_bytes() as u64;
        let most = self.max_transfer_bytes();
        if direction == Direction::None && len + metadata.len_bytes() as u64 != 0 {
            return refuse(
                "its memory",
                len,
                "none, since its opcode says that nothing moves",
                data,
                metadata,
            );
        }
        if len > most {
            return refuse("its memory", len, &format!("at most {most} bytes"), data, metadata);
        }
        let format = BlockFormat { shift: self.block_shift, metadata: self.metadata };
        let Extent { data_bytes, metadata_bytes } = extent(&command, Some(format));
        if len < data_bytes {
            let expected = format!("at least the {data_bytes} bytes that it moves");
            return refuse("its memory", len, &expected, data, metadata);
        }
        let len = metadata.len_bytes() as u64;
        if len < metadata_bytes {
            let expected = format!("at least the {metadata_bytes} bytes that it moves");
            return refuse("its memory for metadata", len, &expected, data, metadata);
        }
        let command = Command { nsid: self.nsid.0, ..command };
        let [answer] = self.lane.run([lane::Order { name: NAME, command, direction, data, metadata }]).await;
        answer
    }

    /// The largest command with data, in bytes.
    fn max_transfer_bytes(&self) -> u64 {
        self.abilities.max_transfer_blocks << self.block_shift
    }

    fn unsupported(&self, command: &'static str, field: &'static str) -> CommandError {
        let address = self.controller.address().to_owned();
        CommandError::Unsupported { address, nsid: self.nsid, command, field }
    }

    fn support(&self, has: bool, command: &'static str, field: &'static str) -> Result<(), CommandError> {
        if has { Ok(()) } else { Err(self.unsupported(command, field)) }
    }

    /// Refuses what moves data without its metadata, where there is any.
    fn check_plain(&self, command: &'static str) -> Result<(), CommandError> {
        self.support(self.metadata.is_none(), command, "its format, which has metadata,")
    }

    /// Checks that blocks lie within the namespace.
    fn check_range(&self, command: &'static str, start: Lba, blocks: u64) -> Result<(), CommandError> {
        let left = self.blocks.checked_sub(start.0);
        if left.is_some_and(|left| blocks <= left) {
            return Ok(());
        }
        let expected = format!("with {blocks} blocks within the namespace's {}", self.blocks);
        Err(CommandError::Argument { command, what: "the first block", value: start.0, expected })
    }

    /// Checks that data is whole blocks that lie within the namespace and fit into a transfer. How many.
    fn check_data(&self, command: &'static str, start: Lba, data: &Payload) -> Result<u32, CommandError> {
        let len = data.len_bytes() as u64;
        let blocks = len >> self.block_shift;
        let most = self.abilities.max_transfer_blocks;
        if blocks << self.block_shift != len || !(1..=most).contains(&blocks) {
            let expected = format!("from 1 to {most} blocks of {} bytes", self.block_bytes());
            return Err(CommandError::Argument {
                command,
                what: "the length of the data",
                value: len,
                expected,
            });
        }
        self.check_range(command, start, blocks)?;
        Ok(blocks as u32)
    }

    /// The controller wrote although the comparison found a difference.
    #[cold]
    fn absurd_answer(&self) -> CommandError {
        let error = self.controller.absurd(
            "a fused operation",
            "the status of the Write",
            0,
            "an error, as that of the Compare".to_owned(),
        );
        CommandError::Controller(error)
    }
}

impl fmt::Debug for NvmeCommands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NvmeCommands")
            .field("controller", &self.controller.address())
            .field("nsid", &self.nsid)
            .field("abilities", &self.abilities)
            .finish_non_exhaustive()
    }
}

impl Drop for NvmeCommands {
    fn drop(&mut self) {
        // The futures that wait borrow this: nobody waits any more.
        self.ctx.remove_poller(self.poller);
    }
}
