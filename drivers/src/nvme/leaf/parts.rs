//! Transfers that are more than one command with one registered buffer: vectors, memory that is not registered, pieces
//! that PRP entries cannot express.
//!
//! A request goes in parts, one after the other under the same tag. Each part is the best of these for what is left:
//!
//! 1. All of it, where it lies, by PRP entries, or by SGL descriptors where the controller takes them.
//! 2. The longest beginning of whole blocks that PRP entries express, if it is worth a command of its own.
//! 3. A copy, through bounce blocks.
//!
//! Memory that is not registered is copied if it is small, and mapped for the time of the request if it is large and the
//! device can map it.
//!
//! Invariant: bounce blocks and mappings stay in the slot until the controller is done with the command.

use corelane_dma::{Payload, TempMapping};
use corelane_engine::block::{Command as Request, Errno, IoResult, Op, Tag};

use super::issue::{IN_PARTS, Issuer, Offer, PLAIN};
use super::lane_dma::{BOUNCE_BLOCK_BYTES, BOUNCE_BLOCKS_PER_PART, BOUNCE_MAX_BYTES};
use super::layout::{Layout, Run};
use super::link::Way;
use crate::nvme::queue::prp::{Builder, List};
use crate::nvme::spec::command::{DataPointer, FLAGS_SGL, SglDescriptor};

/// A beginning that PRP entries express is sent by itself from so many bytes on; a shorter one is copied together with what
/// follows it, which costs less than a command.
const DIRECT_MIN_BYTES: u64 = 16 << 10;

/// The cold half of a slot.
#[derive(Default)]
pub struct Part {
    /// How much of the request is done, in bytes.
    done: u64,
    /// How much is under way.
    under_way: u64,
    /// Whether the part under way goes through the blocks.
    bounced: bool,
    /// Bounce blocks, kept from part to part so that a request that has begun lacks none.
    blocks: Vec<Payload>,
    /// Mappings, each with the number of its segment.
    mappings: Vec<(usize, TempMapping)>,
}

impl Part {
    /// Forgets what the slot holds, unmaps nothing and frees nothing: the controller may use it for ever.
    pub fn leak(&mut self) {
        std::mem::forget(std::mem::take(self));
    }

    /// Gives back what the slot holds.
    pub fn clear(&mut self) {
        (self.done, self.under_way, self.bounced) = (0, 0, false);
        self.blocks.clear();
        self.mappings.clear();
    }
}

/// Why a part cannot be sent.
enum Hindrance {
    /// All bounce blocks are in use.
    NoBlock,
    /// It never will.
    Failed(Errno),
}

impl Issuer {
    /// Sends a request's first part.
    pub(super) fn offer_part(&mut self, way: &mut dyn Way, tag: Tag, request: &mut Request) -> Offer {
        match self.send_part(way, tag, request) {
            Ok(()) => {
                let whole = self.part(tag).is_some_and(|part| {
                    part.under_way == request.bytes() && part.blocks.is_empty() && part.mappings.is_empty()
                });
                request.set_note(if whole { PLAIN } else { IN_PARTS });
                if whole && let Some(part) = self.part(tag) {
                    part.clear();
                }
                Offer::Taken
            }
            Err(hindrance) => {
                if let Some(part) = self.part(tag) {
                    part.clear();
                }
                match hindrance {
                    Hindrance::NoBlock => Offer::NoRoom,
                    Hindrance::Failed(errno) => Offer::Ended(Err(errno.into())),
                }
            }
        }
    }

    fn part(&mut self, tag: Tag) -> Option<&mut Part> {
        self.parts.get_mut(tag.0 as usize)
    }

    /// A part has completed: the next one, or the end.
    pub(super) fn part_completed(
        &mut self,
        way: &mut dyn Way,
        tag: Tag,
        request: &mut Request,
        result: IoResult,
    ) -> Option<IoResult> {
        let next = result.map_err(Some).and_then(|()| {
            self.take_over(tag, request).map_err(|errno| Some(errno.into()))?;
            let over = self.part(tag).is_none_or(|part| part.done >= request.bytes());
            if over { Err(None) } else { Ok(()) }
        });
        let ended = match next {
            Err(Some(error)) => Some(Err(error)),
            Err(None) => Some(Ok(())),
            Ok(()) => match self.send_part(way, tag, request) {
                Ok(()) => None,
                // It keeps its blocks from part to part, so there is no lack of them, and its command has just left room.
                Err(Hindrance::NoBlock) => Some(Err(Errno::ENOMEM.into())),
                Err(Hindrance::Failed(errno)) => Some(Err(errno.into())),
            },
        };
        if ended.is_some()
            && let Some(part) = self.part(tag)
        {
            part.clear();
        }
        ended
    }

    /// Copies what a read has brought into bounce blocks, and counts the part as done.
    fn take_over(&mut self, tag: Tag, request: &mut Request) -> Result<(), Errno> {
        let layout = self.layout();
        let Some(part) = self.parts.get_mut(tag.0 as usize) else { return Err(Errno::EIO) };
        if request.op() == Op::Read && part.bounced {
            let done = part.done as usize;
            for Run { block, at, from, len } in layout.runs(part.under_way as usize) {
                let block = part.blocks.get(block).ok_or(Errno::EIO)?;
                request.payload_mut().copy_payload(done + from, block, at, len).map_err(|_| Errno::EIO)?;
            }
        }
        part.done += part.under_way;
        part.under_way = 0;
        Ok(())
    }

    /// Sends the next part of a request.
    fn send_part(&mut self, way: &mut dyn Way, tag: Tag, request: &mut Request) -> Result<(), Hindrance> {
        let done = self.part(tag).map_or(0, |part| part.done);
        let left = request.bytes().saturating_sub(done);
        // Metadata between the blocks is where the caller's memory has none.
        let in_place = self.dress.behind() == 0 && self.find_pieces(tag, request, done, left);
        let direct = in_place.then(|| self.describe(tag, left)).flatten();
        let bounced = direct.is_none();
        let (bytes, data, flags) = match direct {
            Some(described) => described,
            None => self.bounce(tag, request, done, left)?,
        };
        let mut command = self.transfer(request, done, bytes);
        (command.data, command.flags) = (data, flags);
        self.dress.dress(&mut command);
        if let Some(part) = self.part(tag) {
            (part.under_way, part.bounced) = (bytes, bounced);
        }
        if way.push(tag.0, &mut command) { Ok(()) } else { Err(Hindrance::NoBlock) }
    }

    /// Finds out where what is left of a request's memory is for the device; false if it cannot be reached. Maps what is
    /// large.
    fn find_pieces(&mut self, tag: Tag, request: &Request, done: u64, left: u64) -> bool {
        let Issuer { dma, parts, pieces, .. } = self;
        let Some(part) = parts.get_mut(tag.0 as usize) else { return false };
        pieces.clear();
        let mut skip = done as usize;
        for (index, buf) in request.payload().as_bufs().iter().enumerate() {
            let len = buf.len();
            if skip >= len {
                skip -= len;
                continue;
            }
            let (addr, len) = (buf.addr() + skip, len - skip);
            let before = pieces.len();
            let add = |iova: u64, bytes: u64| add_piece(pieces, iova, bytes);
            if !dma.pieces(addr, len, add) {
                pieces.truncate(before);
                let mapped = part.mappings.iter().find(|(segment, _)| *segment == index);
                let start = match mapped {
                    Some((_, mapping)) => mapping.iova().0,
                    None if left <= BOUNCE_MAX_BYTES => return false,
                    // What cannot be mapped is copied, however large: a device in another process maps only files.
                    None => match dma.space().map_temporary(buf) {
                        Ok(mapping) => {
                            let start = mapping.iova().0;
                            part.mappings.push((index, mapping));
                            start
                        }
                        Err(_) => return false,
                    },
                };
                add_piece(pieces, start.wrapping_add(skip as u64), len as u64);
            }
            skip = 0;
        }
        true
    }

    /// How the pieces can be named, and how many bytes of them: all, or a beginning that is worth it.
    fn describe(&self, tag: Tag, left: u64) -> Option<(u64, DataPointer, u8)> {
        let list = self.lists.of(tag);
        let (bytes, pointer) = by_prp(&list, &self.pieces, left);
        if bytes == left {
            return pointer.map(|pointer| (bytes, pointer, 0));
        }
        if self.sgl
            && let Some(pointer) = by_sgl(&list, &self.pieces)
        {
            return Some((left, pointer, FLAGS_SGL));
        }
        let whole_blocks = bytes & !(self.block_bytes() - 1);
        if whole_blocks < DIRECT_MIN_BYTES {
            return None;
        }
        // The list has been written beyond that; build it again for just so much.
        let (bytes, pointer) = by_prp(&list, &self.pieces, whole_blocks);
        pointer.filter(|_| bytes == whole_blocks).map(|pointer| (bytes, pointer, 0))
    }

    /// Puts as much as blocks can be had for through them.
    fn bounce(
        &mut self,
        tag: Tag,
        request: &Request,
        done: u64,
        left: u64,
    ) -> Result<(u64, DataPointer, u8), Hindrance> {
        let layout = self.layout();
        let Issuer { dma, parts, pieces, lists, .. } = self;
        let part = parts.get_mut(tag.0 as usize).ok_or(Hindrance::Failed(Errno::EIO))?;
        let wanted = layout.span(left as usize).div_ceil(BOUNCE_BLOCK_BYTES).min(BOUNCE_BLOCKS_PER_PART);
        dma.take_blocks(wanted, &mut part.blocks).map_err(|error| {
            tracing::error!(%error, "no memory to copy requests through");
            Hindrance::Failed(Errno::ENOMEM)
        })?;
        part.blocks.truncate(wanted);
        let bytes = layout.fits(part.blocks.len() * BOUNCE_BLOCK_BYTES).min(left as usize);
        if bytes == 0 {
            return Err(Hindrance::NoBlock);
        }
        if request.op() == Op::Write {
            let filled = layout.fill(&mut part.blocks, request.payload(), done as usize, bytes);
            filled.map_err(Hindrance::Failed)?;
        }
        pieces.clear();
        let span = layout.span(bytes);
        let mut left = span;
        for buf in part.blocks.iter().flat_map(Payload::as_bufs) {
            let step = left.min(BOUNCE_BLOCK_BYTES);
            if step > 0 && !dma.pieces(buf.addr(), step, |iova, len| add_piece(pieces, iova, len)) {
                return Err(Hindrance::Failed(Errno::EIO));
            }
            left -= step;
        }
        let (described, pointer) = by_prp(&lists.of(tag), pieces, span as u64);
        match pointer {
            // Blocks start on pages and are whole pages.
            Some(pointer) if described == span as u64 => Ok((bytes as u64, pointer, 0)),
            _ => Err(Hindrance::Failed(Errno::EIO)),
        }
    }

    fn layout(&self) -> Layout {
        Layout { block: self.block_bytes() as usize, behind: self.dress.behind() as usize }
    }
}

/// Adds a piece, to the one before if it continues that.
fn add_piece(pieces: &mut Vec<(u64, u64)>, iova: u64, len: u64) {
    match pieces.last_mut() {
        Some((start, before)) if start.wrapping_add(*before) == iova => *before += len,
        _ => pieces.push((iova, len)),
    }
}

/// Names the beginning of the pieces by PRP entries, as far as they express them but no more than `most` bytes. How many
/// bytes that were.
fn by_prp(list: &List<'_>, pieces: &[(u64, u64)], most: u64) -> (u64, Option<DataPointer>) {
    let mut builder = Builder::new(list);
    let mut bytes = 0;
    for &(iova, len) in pieces {
        let len = len.min(most - bytes);
        if len == 0 || !builder.takes(iova) {
            break;
        }
        if builder.push(iova, len).is_err() {
            // More entries than the list holds, which the limits exclude.
            return (0, None);
        }
        bytes += len;
    }
    (bytes, builder.finish().ok())
}

/// Names all pieces by SGL descriptors in the slot's list pages, if they fit.
fn by_sgl(list: &List<'_>, pieces: &[(u64, u64)]) -> Option<DataPointer> {
    let descriptor =
        |&(iova, len): &(u64, u64)| Some(SglDescriptor::data_block(iova, u32::try_from(len).ok()?));
    if let [only] = pieces {
        return descriptor(only).map(SglDescriptor::as_data_pointer);
    }
    if pieces.len() * 2 > list.len {
        return None;
    }
    for (index, piece) in pieces.iter().enumerate() {
        let SglDescriptor { address, length_and_type } = descriptor(piece)?;
        let at = list.first + 2 * index;
        list.entries.set(at, &address)?;
        list.entries.set(at + 1, &length_and_type)?;
    }
    let segment = SglDescriptor::last_segment(list.iova, (pieces.len() * size_of::<SglDescriptor>()) as u32);
    Some(segment.as_data_pointer())
}
