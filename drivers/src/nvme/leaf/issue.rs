//! [`Issuer`]: makes NVMe commands of block commands.
//!
//! The hot path is a read or write of one buffer whose memory is registered: translate, make the data pointer, push. What
//! takes more goes to [`super::parts`].
//!
//! Invariant: a command's note is [`PLAIN`] if nothing but its success has to be known when it completes. All others have
//! something in their cold slot.

use corelane_dma::{CoherentArray, Payload};
use corelane_engine::block::{Command as Request, Errno, IoResult, Op, ReqFlags, Tag};

use super::lane_dma::LaneDma;
use super::link::Way;
use super::metadata::Dress;
use super::parts::Part;
use crate::nvme::bus::Bus;
use crate::nvme::controller::registers::PAGE_BYTES;
use crate::nvme::error::NvmeError;
use crate::nvme::namespace::Namespace;
use crate::nvme::queue::memory::HostMemory;
use crate::nvme::queue::prp::{self, ENTRIES, List};
use crate::nvme::spec::command::{
    CONTROL_DEALLOCATE, CONTROL_FUA, Command, DataPointer, FLAGS_SGL, SglDescriptor,
};
use crate::nvme::spec::opcode::io;
use crate::nvme::spec::{Lba, Nsid};

/// What became of a command that was offered to the controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offer {
    /// It is on its way.
    Taken,
    /// It has ended: it needs no controller, or cannot be served.
    Ended(IoResult),
    /// There is no room for it now.
    NoRoom,
}

/// The note of a command that needs nothing further.
pub const PLAIN: u8 = 0;
/// The note of a command with something in its cold slot.
pub const IN_PARTS: u8 = 1;

/// A contiguous transfer from so many bytes on is described by one SGL descriptor, where the controller takes them, rather
/// than by a PRP list, of which both sides have to make or fetch eight bytes for each page.
const SGL_MIN_BYTES: u64 = 32 << 10;

/// What the commands of one lane and namespace are made with.
pub struct Issuer {
    nsid: Nsid,
    block_shift: u32,
    /// What a write with FUA carries; nothing without a volatile cache.
    fua: u32,
    /// What a write-zeroes that may deallocate carries.
    deallocate: u32,
    write_cache: bool,
    pub(super) sgl: bool,
    /// What commands say of metadata. Those that say something go the long way, so that others have nothing to ask.
    pub(super) dress: Dress,
    pub(super) dma: LaneDma,
    pub(super) lists: Lists,
    /// By tag.
    pub(super) parts: Box<[Part]>,
    /// Pieces of the transfer that is being described.
    pub(super) pieces: Vec<(u64, u64)>,
}

/// The PRP list pages of all slots.
pub struct Lists {
    entries: CoherentArray<u64>,
    /// Entries of one slot.
    stride: usize,
    memory: Option<HostMemory>,
    iova: u64,
}

impl Lists {
    fn new(bus: &dyn Bus, tags: u32, max_transfer: u64) -> Result<Lists, NvmeError> {
        let pages = prp::list_pages(max_transfer);
        let memory = HostMemory::new(bus, tags as usize * pages * PAGE_BYTES)?;
        let stride = pages * ENTRIES;
        let entries = memory.array(0, tags as usize * stride)?;
        Ok(Lists { entries, stride, iova: memory.iova(), memory: Some(memory) })
    }

    /// The list of slot `tag`.
    #[inline(always)]
    pub(super) fn of(&self, tag: Tag) -> List<'_> {
        let first = tag.0 as usize * self.stride;
        List { entries: &self.entries, first, len: self.stride, iova: self.iova + first as u64 * 8 }
    }

    /// Gives the memory up without unmapping it: the controller may use it for ever.
    pub fn leak(&mut self) {
        std::mem::forget(self.memory.take());
    }
}

impl Issuer {
    /// For the tags `0..tags`.
    ///
    /// # Errors
    /// Those of memory.
    pub fn new(bus: &dyn Bus, namespace: &Namespace, tags: u32) -> Result<Issuer, NvmeError> {
        let max_transfer = namespace.limits.transfer_bound();
        let mut dma = LaneDma::new(bus);
        let dress = Dress::new(bus, namespace)?;
        if dress.says_something() {
            dma.never_whole();
        }
        Ok(Issuer {
            nsid: namespace.nsid,
            block_shift: namespace.block_shift,
            fua: if namespace.write_cache { CONTROL_FUA } else { 0 },
            deallocate: if namespace.zeroes_deallocate { CONTROL_DEALLOCATE } else { 0 },
            write_cache: namespace.write_cache,
            sgl: namespace.sgl,
            dress,
            dma,
            lists: Lists::new(bus, tags, max_transfer)?,
            parts: (0..tags).map(|_| Part::default()).collect(),
            pieces: Vec::with_capacity(namespace.limits.max_iov as usize + ENTRIES),
        })
    }

    /// Sends a command, or its first part.
    #[inline(always)]
    pub fn offer<W: Way>(&mut self, way: &mut W, tag: Tag, request: &mut Request) -> Offer {
        if way.is_full() {
            return Offer::NoRoom;
        }
        if let (Op::Read | Op::Write, Payload::One(buf)) = (request.op(), request.payload())
            && let Some(iova) = self.dma.iova(buf.addr(), buf.len())
            && let Some(data) = prp::short(iova, buf.len() as u64)
        {
            let mut command = self.transfer(request, 0, buf.len() as u64);
            command.data = data;
            // There is room.
            way.push(tag.0, &mut command);
            return Offer::Taken;
        }
        self.offer_other(way, tag, request)
    }

    /// A transfer of one registered buffer of more than two pages.
    fn long_transfer(&mut self, tag: Tag, request: &Request) -> Option<Command> {
        let Payload::One(buf) = request.payload() else { return None };
        let len = buf.len();
        let iova = self.dma.iova(buf.addr(), len)?;
        let mut command = self.transfer(request, 0, len as u64);
        if self.sgl && len as u64 >= SGL_MIN_BYTES {
            command.flags = FLAGS_SGL;
            command.data = SglDescriptor::data_block(iova, len as u32).as_data_pointer();
        } else {
            command.data = prp::contiguous(iova, len as u64, &self.lists.of(tag)).ok()?;
        }
        Some(command)
    }

    /// The read or write of `bytes` bytes of a request, `skip` bytes into it, without its data pointer.
    #[inline(always)]
    pub(super) fn transfer(&self, request: &Request, skip: u64, bytes: u64) -> Command {
        let (opcode, control) = match request.op() {
            Op::Read => (io::READ, 0),
            _ if request.flags().contains(ReqFlags::FUA) => (io::WRITE, self.fua),
            _ => (io::WRITE, 0),
        };
        let start = Lba((request.offset() + skip) >> self.block_shift);
        Command::transfer(opcode, self.nsid, start, (bytes >> self.block_shift) as u32, control)
    }

    /// The size of a block in bytes.
    pub(super) fn block_bytes(&self) -> u64 {
        1 << self.block_shift
    }

    #[inline(never)]
    fn offer_other(&mut self, way: &mut dyn Way, tag: Tag, request: &mut Request) -> Offer {
        let made = match request.op() {
            Op::Read | Op::Write => match self.long_transfer(tag, request) {
                Some(command) => Ok(Some(command)),
                None => return self.offer_part(way, tag, request),
            },
            // Without a volatile cache all that completed is durable.
            Op::Flush if !self.write_cache => Ok(None),
            Op::Flush => Ok(Some(Command::new(io::FLUSH, self.nsid))),
            Op::WriteZeroes => self.write_zeroes(request).map(Some),
            Op::Discard => self.discard(tag, request),
        };
        match made {
            Err(error) => Offer::Ended(Err(error.into())),
            Ok(None) => Offer::Ended(Ok(())),
            Ok(Some(mut command)) => match way.push(tag.0, &mut command) {
                true => Offer::Taken,
                false => Offer::NoRoom,
            },
        }
    }

    fn write_zeroes(&self, request: &Request) -> Result<Command, Errno> {
        let (offset, bytes) = (request.offset(), request.bytes());
        let whole = (offset | bytes) & (self.block_bytes() - 1) == 0;
        let blocks = bytes >> self.block_shift;
        if !whole || !(1..=1 << 16).contains(&blocks) {
            return Err(Errno::ENOTSUP);
        }
        let fua = if request.flags().contains(ReqFlags::FUA) { self.fua } else { 0 };
        let unmap = if request.flags().contains(ReqFlags::MAY_UNMAP) { self.deallocate } else { 0 };
        let start = Lba(offset >> self.block_shift);
        let mut command = Command::transfer(io::WRITE_ZEROES, self.nsid, start, blocks as u32, fua | unmap);
        self.dress.dress(&mut command);
        Ok(command)
    }

    /// A deallocation of the whole blocks in the range; `None` if there is none.
    fn discard(&self, tag: Tag, request: &Request) -> Result<Option<Command>, Errno> {
        let first = request.offset().div_ceil(self.block_bytes());
        let end = request.offset().saturating_add(request.bytes()) >> self.block_shift;
        let Some(blocks) = end.checked_sub(first).filter(|blocks| *blocks > 0) else { return Ok(None) };
        let blocks = u32::try_from(blocks).map_err(|_| Errno::EINVAL)?;
        let list = self.lists.of(tag);
        // A range is 16 bytes: no attributes, length, first block (see `DsmRange`).
        let range = [u64::from(blocks) << 32, first];
        for (at, word) in range.iter().enumerate() {
            list.entries.set(list.first + at, word).ok_or(Errno::EIO)?;
        }
        let data = DataPointer { prp1: list.iova, prp2: 0 };
        Ok(Some(Command::deallocate(self.nsid, 1).with_data(data)))
    }

    /// What to do with a completion: `Some` if the request has ended, `None` if another part of it was sent.
    #[cold]
    pub fn completed(
        &mut self,
        way: &mut dyn Way,
        tag: Tag,
        request: &mut Request,
        result: IoResult,
    ) -> Option<IoResult> {
        if request.note() == PLAIN { Some(result) } else { self.part_completed(way, tag, request, result) }
    }
}
