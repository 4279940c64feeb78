//! Compare, Verify, Write Uncorrectable, and Compare and Write as one.

use corelane_dma::Payload;

use super::NvmeCommands;
use super::error::CommandError;
use super::lane::{Answer, Order};
use super::memory::Direction;
use crate::nvme::spec::Lba;
use crate::nvme::spec::command::Command;
use crate::nvme::spec::nvm::{FLAGS_FUSED_FIRST, FLAGS_FUSED_SECOND};
use crate::nvme::spec::opcode::io;
use crate::nvme::spec::status::{Status, code_type};

const COMPARE: &str = "Compare";
const VERIFY: &str = "Verify";
const UNCORRECTABLE: &str = "Write Uncorrectable";
const COMPARE_AND_WRITE: &str = "Compare and Write";

/// The second command of a fused operation, whose first failed.
const FAILED_FUSED: Status = Status::of(code_type::GENERIC, 0x09);

impl NvmeCommands {
    /// Whether the blocks from `start` on hold the same as `data`, whole blocks (NVM 3.2.1). The memory comes back with the
    /// answer.
    ///
    /// # Errors
    /// [`CommandError::Unsupported`] where there is no Compare, [`CommandError::Argument`] for data that is no whole blocks
    /// or more than a transfer, and those of the command.
    pub async fn compare(&self, start: Lba, data: Payload) -> (Result<bool, CommandError>, Payload) {
        let supported = self.abilities().compare;
        let checked = self
            .support(supported, COMPARE, "ONCS bit 0")
            .and_then(|()| self.check_plain(COMPARE))
            .and_then(|()| self.check_data(COMPARE, start, &data));
        let blocks = match checked {
            Ok(blocks) => blocks,
            Err(error) => return (Err(error), data),
        };
        let order =
            self.with_data(COMPARE, Command::transfer(io::COMPARE, self.nsid(), start, blocks, 0), data);
        let [Answer { result, data, .. }] = self.lane.run([order]).await;
        (equal(result), data)
    }

    /// Writes `data` if the same blocks hold what `expected` holds: one operation that no other command comes between
    /// (Base 3.4.2, NVM 2.1.4). Whether it wrote. The memory comes back with the answer.
    ///
    /// # Errors
    /// [`CommandError::Unsupported`] where the controller does not fuse these, [`CommandError::Argument`] for memory that is no
    /// whole blocks, of different lengths, or more than is atomic (ACWU), and those of the commands.
    pub async fn compare_and_write(
        &self,
        start: Lba,
        expected: Payload,
        data: Payload,
    ) -> (Result<bool, CommandError>, Payload, Payload) {
        let blocks = match self.check_fused(start, &expected, &data) {
            Ok(blocks) => blocks,
            Err(error) => return (Err(error), expected, data),
        };
        let make = |opcode, flags, data| {
            let mut command = Command::transfer(opcode, self.nsid(), start, blocks, 0);
            command.flags = flags;
            self.with_data(COMPARE_AND_WRITE, command, data)
        };
        let orders =
            [make(io::COMPARE, FLAGS_FUSED_FIRST, expected), make(io::WRITE, FLAGS_FUSED_SECOND, data)];
        let [compared, written] = self.lane.run(orders).await;
        let result = match (equal(compared.result), written.result) {
            (Ok(true), Ok(_)) => Ok(true),
            (Ok(false), Err(_)) => Ok(false),
            // The comparison failed for another reason; the write says only that it did.
            (Err(error), Err(other)) if other.status().is_some_and(|status| status.is(FAILED_FUSED)) => {
                Err(error)
            }
            (_, Err(error)) | (Err(error), Ok(_)) => Err(error),
            (Ok(false), Ok(_)) => Err(self.absurd_answer()),
        };
        (result, compared.data, written.data)
    }

    /// Has the controller read `blocks` blocks and check them, without moving data (NVM 3.2.5). What one command cannot take
    /// goes in several.
    ///
    /// # Errors
    /// [`CommandError::Unsupported`] where there is no Verify, [`CommandError::Argument`] for blocks outside of the namespace,
    /// and the first error of a command, as for a read.
    pub async fn verify(&self, start: Lba, blocks: u64) -> Result<(), CommandError> {
        let most = self.abilities().max_verify_blocks;
        let most = most.ok_or_else(|| self.unsupported(VERIFY, "ONCS bit 7"))?;
        self.over(VERIFY, io::VERIFY, (start, blocks), most).await
    }

    /// Marks `blocks` blocks as bad: reading them fails until they are written again (NVM 3.2.7). What one command cannot
    /// take goes in several. For testing what is above.
    ///
    /// # Errors
    /// [`CommandError::Unsupported`] where there is no Write Uncorrectable, [`CommandError::Argument`] for blocks outside of
    /// the namespace, and the first error of a command.
    pub async fn write_uncorrectable(&self, start: Lba, blocks: u64) -> Result<(), CommandError> {
        let most = self.abilities().max_uncorrectable_blocks;
        let most = most.ok_or_else(|| self.unsupported(UNCORRECTABLE, "ONCS bit 1"))?;
        self.over(UNCORRECTABLE, io::WRITE_UNCORRECTABLE, (start, blocks), most).await
    }

    /// Sends a command without data over a range, in as many pieces as it takes.
    async fn over(
        &self,
        name: &'static str,
        opcode: u8,
        (start, blocks): (Lba, u64),
        most: u64,
    ) -> Result<(), CommandError> {
        self.check_range(name, start, blocks)?;
        let (mut at, mut left) = (start.0, blocks);
        while left > 0 {
            let step = left.min(most);
            let mut command = Command::transfer(opcode, self.nsid(), Lba(at), step as u32, 0);
            if opcode == io::VERIFY {
                self.check_stored(&mut command);
            }
            let (data, metadata) = (Payload::None, Payload::None);
            let order = Order { name, command, direction: Direction::None, data, metadata };
            let [Answer { result, .. }] = self.lane.run([order]).await;
            result?;
            (at, left) = (at + step, left - step);
        }
        Ok(())
    }

    fn with_data(&self, name: &'static str, command: Command, data: Payload) -> Order {
        Order { name, command, direction: Direction::ToDevice, data, metadata: Payload::None }
    }

    fn check_fused(&self, start: Lba, expected: &Payload, data: &Payload) -> Result<u32, CommandError> {
        self.support(self.abilities().compare_and_write, COMPARE_AND_WRITE, "FUSES bit 0")?;
        self.check_plain(COMPARE_AND_WRITE)?;
        let blocks = self.check_data(COMPARE_AND_WRITE, start, data)?;
        let argument = |what, value, expected| {
            Err(CommandError::Argument { command: COMPARE_AND_WRITE, what, value, expected })
        };
        let (len, other) = (data.len_bytes() as u64, expected.len_bytes() as u64);
        if len != other {
            return argument(
                "the length of what is expected",
                other,
                format!("{len}, as what is written has"),
            );
        }
        let most = self.atomic_writes().compare_and_write_bytes.unwrap_or(0);
        if len > most {
            return argument("the length", len, format!("at most {most} bytes, to be atomic (ACWU)"));
        }
        let depth = self.lane.depth();
        if depth < 2 {
            return argument(
                "the queue's depth",
                depth as u64,
                "at least 2, since it is two commands".to_owned(),
            );
        }
        Ok(blocks)
    }
}

/// Whether a comparison found equal data.
pub(super) fn equal(result: Result<u64, CommandError>) -> Result<bool, CommandError> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.is_difference() => Ok(false),
        Err(error) => Err(error),
    }
}
