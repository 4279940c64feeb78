//! Write Uncorrectable (NVM command set 3.2.7), and the blocks that it made bad until they are written again.

use std::collections::BTreeSet;

use super::{DWORD12, Io, IoContext, Step, namespace, range, within_limit};
use crate::check::Checker;
use crate::wire::command::{Command, nvm};
use crate::wire::status::Status;

/// Namespaces and numbers of bad blocks.
#[derive(Debug, Default)]
pub(super) struct BadBlocks(BTreeSet<(u32, u64)>);

impl BadBlocks {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Refuses what reads a bad block; what writes them mends them.
    pub(super) fn look(&mut self, command: &Command) -> Result<(), Status> {
        let (nsid, first, count) =
            (command.nsid(), command.slba(), u64::from(command.dword(12) & 0xFFFF) + 1);
        match command.opcode() {
            nvm::READ | nvm::COMPARE | nvm::VERIFY if self.has(nsid, first, count) => Err(Status::READ_ERROR),
            nvm::WRITE | nvm::WRITE_ZEROES => {
                self.mend(nsid, first, count);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn has(&self, nsid: u32, first: u64, count: u64) -> bool {
        self.0.range((nsid, first)..(nsid, first.saturating_add(count))).next().is_some()
    }

    pub(super) fn mend(&mut self, nsid: u32, first: u64, count: u64) {
        let bad: Vec<_> = self.0.range((nsid, first)..(nsid, first.saturating_add(count))).copied().collect();
        for block in bad {
            self.0.remove(&block);
        }
    }
}

impl Io {
    pub(super) fn write_uncorrectable(
        &mut self,
        command: &Command,
        context: &mut IoContext<'_>,
        check: &Checker<'_>,
    ) -> Result<Step, Status> {
        check.reserved(command, 2, &[0; 8]);
        check.reserved(command, 12, &[DWORD12 & 0xFFFF, 0, 0, 0]);
        let nsid = command.nsid();
        let namespace = namespace(nsid, context.shared, check)?;
        let blocks = range(command, namespace, check)?;
        within_limit("WUSL", context.shared.config.wusl, blocks.len_bytes, check)?;
        let count = blocks.len_bytes >> namespace.lba_shift();
        self.bad.0.extend((command.slba()..command.slba() + count).map(|block| (nsid, block)));
        Ok(Step::Done)
    }
}
