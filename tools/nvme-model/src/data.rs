//! Where a command's data lies in the host's memory: PRP entries and lists (NVMe base 2.0, section 4.1.1) and SGLs
//! (4.1.2), turned into segments of I/O addresses.
//!
//! Invariants: the segments add up to exactly the length asked for; every list is read once and in bounds, with a limit on
//! how far a chain can lead; neighbouring segments are one.

use crate::check::Checker;
use crate::memory::View;
use crate::violation::Rule;
use crate::wire::command::{Command, DataFormat};
use crate::wire::status::Status;

/// A run of I/O addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Segment {
    pub(crate) iova: u64,
    pub(crate) len_bytes: usize,
}

/// How data pointers may look at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PointerRules {
    /// CC.MPS in bytes.
    pub(crate) page_bytes: usize,
    /// Whether SGLs are offered for this command.
    pub(crate) sgls: bool,
}

/// The segments of one command, in memory that is used again for the next.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    list: Vec<Segment>,
    /// The list of PRPs or descriptors that is being read.
    scratch: Vec<u8>,
}

const PRP_BYTES: usize = 8;
const DESCRIPTOR_BYTES: usize = 16;
/// No transfer that the controller takes has more; a chain of segments that goes on beyond is a loop.
const MAX_DESCRIPTORS: usize = 1 << 16;

impl Segments {
    /// The segments, in order.
    #[inline]
    pub(crate) fn list(&self) -> &[Segment] {
        &self.list
    }

    #[inline]
    fn push(&mut self, iova: u64, len_bytes: usize) {
        if let Some(last) = self.list.last_mut()
            && last.iova.wrapping_add(last.len_bytes as u64) == iova
        {
            last.len_bytes += len_bytes;
            return;
        }
        self.list.push(Segment { iova, len_bytes });
    }

    /// Finds the `len_bytes` bytes that the command's data pointer means.
    #[inline]
    pub(crate) fn of_command(
        &mut self,
        command: &Command,
        len_bytes: usize,
        rules: PointerRules,
        view: &mut View,
        check: &Checker<'_>,
    ) -> Result<(), Status> {
        self.list.clear();
        match command.data_format() {
            DataFormat::Prp => self.prp(command, len_bytes, rules.page_bytes, view, check),
            DataFormat::Sgl if rules.sgls => self.sgl(command, len_bytes, view, check),
            format => Err(check.refuse(
                Status::INVALID_FIELD,
                Rule::InvalidField,
                format!("the data pointer's format is {format:?}, which the controller does not offer here"),
            )),
        }
    }

    #[inline]
    fn prp(
        &mut self,
        command: &Command,
        len_bytes: usize,
        page_bytes: usize,
        view: &mut View,
        check: &Checker<'_>,
    ) -> Result<(), Status> {
        let (prp1, prp2) = (command.prp1(), command.prp2());
        if prp1 & 3 != 0 {
            return Err(bad_offset(check, "PRP entry 1 must be a multiple of 4", prp1));
        }
        let first_bytes = len_bytes.min(page_bytes - (prp1 as usize & (page_bytes - 1)));
        self.push(prp1, first_bytes);
        let rest = len_bytes - first_bytes;
        if rest == 0 {
            if prp2 != 0 {
                check.note(Rule::ReservedField, format!("PRP entry 2 is {prp2:#x}, but one page is enough"));
            }
            return Ok(());
        }
        if rest > page_bytes {
            return self.prp_list(prp2, rest, page_bytes, view, check);
        }
        self.push_page(prp2, rest, page_bytes, check)
    }

    /// Adds (part of) a page whose entry may have no offset.
    #[inline]
    fn push_page(
        &mut self,
        entry: u64,
        len_bytes: usize,
        page_bytes: usize,
        check: &Checker<'_>,
    ) -> Result<(), Status> {
        if entry & (page_bytes as u64 - 1) != 0 {
            return Err(bad_offset(
                check,
                "an entry other than the first must have no offset in its page",
                entry,
            ));
        }
        self.push(entry, len_bytes);
        Ok(())
    }

    /// Follows a PRP list, from page to page of it.
    fn prp_list(
        &mut self,
        mut at: u64,
        mut rest: usize,
        page_bytes: usize,
        view: &mut View,
        check: &Checker<'_>,
    ) -> Result<(), Status> {
        let mut entries = std::mem::take(&mut self.scratch);
        let result = loop {
            if at & (PRP_BYTES as u64 - 1) != 0 {
                break Err(bad_offset(check, "a PRP list must start at a multiple of 8", at));
            }
            let room = (page_bytes - (at as usize & (page_bytes - 1))) / PRP_BYTES;
            let needed = rest.div_ceil(page_bytes);
            let count = needed.min(room);
            entries.resize(count * PRP_BYTES, 0);
            if let Err(fault) = view.read(at, &mut entries) {
                break Err(check.fault("the PRP list", fault));
            }
            // Where the list goes on, the last entry of its page says where.
            let pages = if needed > room { count - 1 } else { count };
            let mut values =
                entries.as_chunks::<PRP_BYTES>().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
            let pushed = values.by_ref().take(pages).try_for_each(|entry| {
                let len_bytes = rest.min(page_bytes);
                rest -= len_bytes;
                self.push_page(entry, len_bytes, page_bytes, check)
            });
            match (pushed, values.next()) {
                (Err(status), _) => break Err(status),
                (Ok(()), Some(next)) => at = next,
                (Ok(()), None) => break Ok(()),
            }
        };
        self.scratch = entries;
        result
    }

    /// Follows an SGL, from segment to segment.
    fn sgl(
        &mut self,
        command: &Command,
        len_bytes: usize,
        view: &mut View,
        check: &Checker<'_>,
    ) -> Result<(), Status> {
        let mut descriptors = std::mem::take(&mut self.scratch);
        descriptors.clear();
        descriptors.extend_from_slice(&command.word(3).to_le_bytes());
        descriptors.extend_from_slice(&command.word(4).to_le_bytes());
        let mut walk = SglWalk { left: len_bytes, seen: 0, last: false };
        let result = loop {
            match walk.segment(&descriptors, self, check) {
                Err(status) => break Err(status),
                Ok(Some((iova, len_bytes))) => {
                    descriptors.resize(len_bytes, 0);
                    if let Err(fault) = view.read(iova, &mut descriptors) {
                        break Err(check.fault("an SGL segment", fault));
                    }
                }
                Ok(None) if walk.left == 0 => break Ok(()),
                Ok(None) => {
                    break Err(check.refuse(
                        Status::SGL_LENGTH_INVALID,
                        Rule::SglFormat,
                        format!("the SGL ends {} bytes before the transfer does", walk.left),
                    ));
                }
            }
        };
        self.scratch = descriptors;
        result
    }
}

#[cold]
fn bad_offset(check: &Checker<'_>, rule: &str, value: u64) -> Status {
    check.refuse(Status::PRP_OFFSET_INVALID, Rule::PrpOffset, format!("{rule}, it is {value:#x}"))
}

/// How far an SGL has been followed.
struct SglWalk {
    /// Bytes of the transfer that no descriptor has been found for.
    left: usize,
    seen: usize,
    /// Whether this is the last segment, which may only hold data.
    last: bool,
}

impl SglWalk {
    /// Takes the descriptors of a segment. Returns where the next segment is and how long, if there is one.
    fn segment(
        &mut self,
        descriptors: &[u8],
        out: &mut Segments,
        check: &Checker<'_>,
    ) -> Result<Option<(u64, usize)>, Status> {
        let (descriptors, _) = descriptors.as_chunks::<DESCRIPTOR_BYTES>();
        self.seen += descriptors.len();
        for (index, descriptor) in descriptors.iter().enumerate() {
            let wide = u128::from_le_bytes(*descriptor);
            let (iova, len_bytes) = (wide as u64, (wide >> 64) as u32 as usize);
            let (reserved, kind) = ((wide >> 96) as u32 & 0xFF_FFFF, (wide >> 120) as u8);
            if reserved != 0 {
                check.note(
                    Rule::ReservedField,
                    format!("SGL descriptor {index} has reserved bytes {reserved:#x}"),
                );
            }
            match kind {
                0x00 => self.data(iova, len_bytes, out, check)?,
                0x20 | 0x30 if index + 1 == descriptors.len() && !self.last => {
                    self.last = kind == 0x30;
                    return self.follow(iova, len_bytes, check).map(Some);
                }
                0x20 | 0x30 => {
                    let text =
                        format!("descriptor {index} of a segment of {} points to another", descriptors.len());
                    return Err(check.refuse(Status::INVALID_SGL_SEGMENT, Rule::SglFormat, text));
                }
                _ => {
                    let text =
                        format!("an SGL descriptor has the type {kind:#04x}; 00h, 20h and 30h are offered");
                    return Err(check.refuse(Status::SGL_TYPE_INVALID, Rule::SglFormat, text));
                }
            }
        }
        Ok(None)
    }

    fn data(&mut self, iova: u64, len: usize, out: &mut Segments, check: &Checker<'_>) -> Result<(), Status> {
        if len > self.left {
            let text = format!("an SGL data block of {len} bytes where {} are left to transfer", self.left);
            return Err(check.refuse(Status::SGL_LENGTH_INVALID, Rule::SglFormat, text));
        }
        self.left -= len;
        if len > 0 {
            out.push(iova, len);
        }
        Ok(())
    }

    fn follow(&self, iova: u64, len_bytes: usize, check: &Checker<'_>) -> Result<(u64, usize), Status> {
        let count = len_bytes / DESCRIPTOR_BYTES;
        if len_bytes == 0 || !len_bytes.is_multiple_of(DESCRIPTOR_BYTES) {
            let text =
                format!("an SGL segment of {len_bytes} bytes; it must be a multiple of 16 and not empty");
            return Err(check.refuse(Status::INVALID_SGL_SEGMENT, Rule::SglFormat, text));
        }
        if self.seen + count > MAX_DESCRIPTORS {
            let text = format!("more than {MAX_DESCRIPTORS} SGL descriptors");
            return Err(check.refuse(Status::INVALID_SGL_COUNT, Rule::SglFormat, text));
        }
        Ok((iova, len_bytes))
    }
}

#[cfg(test)]
mod tests;
