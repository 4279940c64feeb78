//! Flexible data placement: which handles a namespace's writes name, so that the controller keeps apart what goes out of use at
//! different times (TP4146; Base 2.1, 8.1.10).
//!
//! Writes say so in dwords 12 and 13. They go the long way then, as those of blocks with metadata do, so that others have
//! nothing to ask.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::controller::NvmeController;
use super::controller::passthrough::Transfer;
use super::error::NvmeError;
use super::namespace::MAX_TRANSFER_BYTES;
use super::spec::Nsid;
use super::spec::command::Command;
use super::spec::opcode::io;
use super::spec::placement::{count_handles, handles_bytes, read_handles};
use super::spec::status::Status;

/// The most handles that a [`Placement`] names.
const MOST: usize = 16;
/// How many handles are asked for at first: a page of them.
const FIRST_HANDLES: usize = 127;

/// By which of a namespace's placement handles its writes go, by turns. They are named by their index in the reclaim unit
/// handle status, as fio has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placement {
    indices: [u16; MOST],
    /// 0: all that there are.
    count: u8,
}

impl Placement {
    /// All handles of the namespace.
    pub const ALL: Placement = Placement { indices: [0; MOST], count: 0 };

    /// One handle.
    pub const fn handle(index: u16) -> Placement {
        let mut indices = [0; MOST];
        indices[0] = index;
        Placement { indices, count: 1 }
    }

    /// These handles, from 1 to 16 of them; `None` for none or for more.
    pub fn handles(list: &[u16]) -> Option<Placement> {
        let mut indices = [0; MOST];
        indices.get_mut(..list.len()).filter(|_| !list.is_empty())?.copy_from_slice(list);
        Some(Placement { indices, count: list.len() as u8 })
    }

    /// Asks a namespace for its handles, by a queue pair that is made for it. Blocks.
    pub(super) fn ask(&self, controller: &Arc<NvmeController>, nsid: Nsid) -> Result<Placing, NvmeError> {
        let has = controller.identify().has_placement();
        let most = controller.max_transfer_bytes().unwrap_or(MAX_TRANSFER_BYTES).min(MAX_TRANSFER_BYTES);
        let timeout = Duration::from_millis(controller.options().io_timeout_ms);
        self.resolve(controller.address(), nsid, has, most, |command, data| {
            let mut queue = controller.open_passthrough(timeout)?;
            Ok(queue.execute(command, Transfer::In(data), Transfer::None)?.status)
        })
    }

    /// The placement identifiers that are meant. `has`: whether the controller has any; a status is of `most_bytes` at most.
    ///
    /// # Errors
    /// [`NvmeError::Placement`] where the namespace has no handles, or not those.
    pub(super) fn resolve(
        &self,
        address: &str,
        nsid: Nsid,
        has: bool,
        most_bytes: u64,
        mut execute: impl FnMut(Command, &mut [u8]) -> Result<Status, NvmeError>,
    ) -> Result<Placing, NvmeError> {
        let failed = |reason: String| NvmeError::Placement { address: address.to_owned(), nsid, reason };
        if !has {
            let reason = "its controller has no flexible data placement (CTRATT bit 19); leave placement out";
            return Err(failed(reason.to_owned()));
        }
        let most = usize::try_from(most_bytes).unwrap_or(usize::MAX);
        let mut ask = |handles: usize| {
            let mut bytes = vec![0; handles_bytes(handles).min(most) & !3];
            let status = execute(Command::handle_status(nsid, bytes.len() as u32), &mut bytes)?;
            match status.is_success() {
                true => Ok(bytes),
                false => Err(failed(format!("its reclaim unit handles are not told: {status}"))),
            }
        };
        let mut bytes = ask(FIRST_HANDLES)?;
        let count = count_handles(&bytes);
        if count > FIRST_HANDLES {
            bytes = ask(count)?;
        }
        let handles = read_handles(&bytes);
        let named = &self.indices[..usize::from(self.count)];
        let found: Option<Vec<u16>> = match named {
            [] => Some(handles.iter().map(|handle| handle.id).collect()),
            named => named.iter().map(|index| Some(handles.get(usize::from(*index))?.id)).collect(),
        };
        match found {
            Some(ids) if !ids.is_empty() => Ok(Placing::new(&ids)),
            _ => Err(failed(match (handles.len(), named.iter().max()) {
                (0, _) | (_, None) => "it has no reclaim unit handles".to_owned(),
                (count, Some(index)) => {
                    format!("handle {index} is asked for, but it has {count}, from 0 to {}", count - 1)
                }
            })),
        }
    }
}

/// What writes say of where they go.
#[derive(Debug)]
pub struct Placing {
    ids: Arc<[u16]>,
    /// Whose turn it is.
    next: AtomicUsize,
}

impl Clone for Placing {
    fn clone(&self) -> Placing {
        Placing { ids: Arc::clone(&self.ids), next: AtomicUsize::new(0) }
    }
}

impl Placing {
    /// By these placement identifiers in turn; at least one.
    fn new(ids: &[u16]) -> Placing {
        Placing { ids: ids.into(), next: AtomicUsize::new(0) }
    }

    /// Says it, if the command writes data.
    pub fn place(&self, command: &mut Command) {
        if command.opcode == io::WRITE {
            let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.ids.len().max(1);
            if let Some(id) = self.ids.get(turn) {
                command.place(*id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvme::spec::Lba;

    /// What a namespace with handles of these identifiers makes of a wish: the identifiers of four writes.
    fn placed(placement: Placement, ids: &[u16]) -> Result<Vec<u32>, String> {
        let status = |command: Command, data: &mut [u8]| {
            assert_eq!(command.cdw10[1] as usize, data.len() / 4 - 1);
            data[14..16].copy_from_slice(&(ids.len() as u16).to_le_bytes());
            for (id, descriptor) in ids.iter().zip(data[16..].chunks_exact_mut(32)) {
                descriptor[..2].copy_from_slice(&id.to_le_bytes());
            }
            Ok(Status::SUCCESS)
        };
        let placing = placement.resolve("model", Nsid(1), true, 128 << 10, status);
        let placing = placing.map_err(|error| error.to_string())?;
        let mut read = Command::transfer(io::READ, Nsid(1), Lba(0), 1, 0);
        placing.place(&mut read);
        assert_eq!(read.cdw10[2..4], [0, 0]);
        let writes = (0..4).map(|_| {
            let mut write = Command::transfer(io::WRITE, Nsid(1), Lba(0), 1, 0);
            placing.place(&mut write);
            assert_eq!(write.cdw10[2], 2 << 20);
            write.cdw10[3] >> 16
        });
        Ok(writes.collect())
    }

    #[test]
    fn handles_are_named_by_index_and_taken_by_turns() {
        assert_eq!(placed(Placement::handle(2), &[0, 1, 0x8000, 0x8001]), Ok(vec![0x8000; 4]));
        assert_eq!(placed(Placement::ALL, &[7, 9, 8]), Ok(vec![7, 9, 8, 7]));
        let two = Placement::handles(&[3, 0]).unwrap();
        assert_eq!(placed(two, &[10, 11, 12, 13]), Ok(vec![13, 10, 13, 10]));
        let many: Vec<u16> = (0..1000).collect();
        assert_eq!(
            placed(Placement::handle(999), &many),
            Ok(vec![999; 4]),
            "more than are asked for at first"
        );
        assert_eq!((Placement::handles(&[]), Placement::handles(&[0; 17])), (None, None));
    }

    #[test]
    fn what_there_is_not_is_refused_by_one_error() {
        let error = placed(Placement::handle(3), &[0, 1, 2]).unwrap_err();
        assert_eq!(
            error,
            "model: namespace 1 cannot place data: handle 3 is asked for, but it has 3, from 0 to 2"
        );
        assert!(placed(Placement::ALL, &[]).unwrap_err().contains("no reclaim unit handles"));
        let none = Placement::ALL.resolve("model", Nsid(1), false, 4096, |_, _| Ok(Status::SUCCESS));
        assert!(none.unwrap_err().to_string().contains("CTRATT bit 19"));
        let refused = Placement::ALL.resolve("model", Nsid(1), true, 4096, |_, _| Ok(Status(0x29)));
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("Flexible Data Placement Disabled"), "{error}");
    }
}
