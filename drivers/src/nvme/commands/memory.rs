//! [`Placed`]: a command's memory as the controller reaches it: in place where it is registered, through a copy otherwise.
//!
//! Invariant: a copy stays registered, and the memory it was made of stays with it, until the controller is done with the
//! command.

use std::rc::Rc;
use std::sync::Arc;

use corelane_dma::{
    AddressSpace, Backing, DmaBuffer, DmaError, IoBuf, Iova, LookupCache, MemRegion, Payload,
};

use crate::nvme::queue::prp::{Builder, List};
use crate::nvme::spec::command::DataPointer;

/// What of memory moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Nothing.
    None,
    /// From the host's memory to the controller.
    ToDevice,
    /// From the controller to the host's memory.
    FromDevice,
}

impl Direction {
    /// What an opcode says of itself in bits 1:0 (Base figure 87). Commands that move data both ways are not carried.
    pub const fn of_opcode(opcode: u8) -> Option<Direction> {
        match opcode & 0b11 {
            0b00 => Some(Direction::None),
            0b01 => Some(Direction::ToDevice),
            0b10 => Some(Direction::FromDevice),
            _ => None,
        }
    }
}

/// Memory of one command. Its drop unmaps what was mapped for it.
#[derive(Default)]
pub struct Placed {
    payload: Payload,
    copy: Option<Copy>,
}

struct Copy {
    memory: Payload,
    iova: u64,
    region: MemRegion,
    space: Arc<AddressSpace>,
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Err(error) = self.space.unregister(&self.region) {
            tracing::error!(%error, "the copy of a command's memory stays registered");
        }
    }
}

impl Copy {
    fn new(space: &Arc<AddressSpace>, backing: Backing, len_bytes: usize) -> Result<Copy, DmaError> {
        let buffer = DmaBuffer::new(len_bytes.next_multiple_of(4096), 4096, backing.without_huge_pages())?;
        let region = Rc::new(MemRegion::from_buffer(buffer));
        let memory = Payload::One(IoBuf::lease(&region, 0, len_bytes)?);
        let region = MemRegion::clone(&region);
        space.register(&region)?;
        let mut cache = LookupCache::new(Arc::clone(space.table()));
        match cache.lookup(region.addr(), len_bytes).map(|hit| hit.value.add(hit.offset_bytes as u64)) {
            Some(Iova(iova)) => Ok(Copy { memory, iova, region, space: Arc::clone(space) }),
            // It was registered a moment ago.
            None => Err(DmaError::NotRegistered { addr: region.addr(), len_bytes }),
        }
    }
}

/// How memory is found for the device.
pub struct Finder {
    space: Arc<AddressSpace>,
    cache: LookupCache<Iova>,
    backing: Backing,
}

impl Finder {
    /// In this address space, with copies in memory of this kind.
    pub fn new(space: &Arc<AddressSpace>, backing: Backing) -> Finder {
        let cache = LookupCache::new(Arc::clone(space.table()));
        Finder { space: Arc::clone(space), cache, backing }
    }

    /// Where a payload of at least one byte is, as a data pointer; copied if it is not all registered, or lies so that PRP
    /// entries do not express it.
    ///
    /// # Errors
    /// Those of making a copy, with the payload.
    pub fn data(
        &mut self,
        payload: Payload,
        direction: Direction,
        list: &List<'_>,
    ) -> Result<(DataPointer, Placed), (DmaError, Payload)> {
        let pieces = self.pieces(&payload);
        if let Some(pointer) = pieces.and_then(|pieces| pointer(&pieces, list)) {
            return Ok((pointer, Placed { payload, copy: None }));
        }
        let placed = self.copy(payload, direction)?;
        let (iova, len) = placed.copy.as_ref().map_or((0, 0), |copy| (copy.iova, copy.memory.len_bytes()));
        match pointer(&[(iova, len as u64)], list) {
            Some(pointer) => Ok((pointer, placed)),
            // It is longer than the list has room for.
            None => {
                let size_bytes = list.len << 9;
                let error = DmaError::OutOfBounds { offset_bytes: 0, len_bytes: len, size_bytes };
                Err((error, placed.give_up()))
            }
        }
    }

    /// Where a payload of at least one byte is, as one contiguous piece that starts on a dword; copied if it is none.
    ///
    /// # Errors
    /// Those of making a copy, with the payload.
    pub fn contiguous(
        &mut self,
        payload: Payload,
        direction: Direction,
    ) -> Result<(u64, Placed), (DmaError, Payload)> {
        if let Some([(iova, _)]) = self.pieces(&payload).as_deref()
            && iova & 3 == 0
        {
            return Ok((*iova, Placed { payload, copy: None }));
        }
        let placed = self.copy(payload, direction)?;
        Ok((placed.copy.as_ref().map_or(0, |copy| copy.iova), placed))
    }

    fn copy(&mut self, payload: Payload, direction: Direction) -> Result<Placed, (DmaError, Payload)> {
        let len_bytes = payload.len_bytes();
        let made = Copy::new(&self.space, self.backing, len_bytes).and_then(|mut copy| {
            if direction == Direction::ToDevice {
                copy.memory.copy_payload(0, &payload, 0, len_bytes)?;
            }
            Ok(copy)
        });
        match made {
            Ok(copy) => Ok(Placed { payload, copy: Some(copy) }),
            Err(error) => Err((error, payload)),
        }
    }

    /// The pieces of a payload for the device; `None` if some of it is not registered.
    fn pieces(&mut self, payload: &Payload) -> Option<Vec<(u64, u64)>> {
        let mut pieces: Vec<(u64, u64)> = Vec::new();
        for buf in payload.as_bufs() {
            let (mut addr, mut left) = (buf.addr(), buf.len());
            while left > 0 {
                let hit = self.cache.lookup(addr, 1)?;
                let (iova, step) =
                    (hit.value.0.wrapping_add(hit.offset_bytes as u64), hit.left_bytes.min(left));
                match pieces.last_mut() {
                    Some((start, len)) if start.wrapping_add(*len) == iova => *len += step as u64,
                    _ => pieces.push((iova, step as u64)),
                }
                (addr, left) = (addr + step, left - step);
            }
        }
        Some(pieces)
    }
}

fn pointer(pieces: &[(u64, u64)], list: &List<'_>) -> Option<DataPointer> {
    let mut builder = Builder::new(list);
    for &(iova, len) in pieces {
        builder.push(iova, len).ok()?;
    }
    builder.finish().ok()
}

impl Placed {
    /// No memory.
    pub fn nothing(payload: Payload) -> Placed {
        Placed { payload, copy: None }
    }

    /// The payload, when the controller is done with it; what it brought is in there.
    ///
    /// # Errors
    /// None that can happen: a copy is as long as what it is a copy of.
    pub fn take_back(mut self, direction: Direction) -> Result<Payload, DmaError> {
        if let Some(copy) = &self.copy
            && direction == Direction::FromDevice
        {
            let len_bytes = self.payload.len_bytes();
            self.payload.copy_payload(0, &copy.memory, 0, len_bytes)?;
        }
        Ok(self.give_up())
    }

    /// The payload, as it is.
    pub fn give_up(self) -> Payload {
        self.payload
    }

    /// Forgets the memory: the controller may use it for ever.
    pub fn leak(self) {
        std::mem::forget(self);
    }
}
