//! The host memory buffer (NVMe base 2.0, sections 5.27.1.10 and 8.9).
//!
//! The controller uses it: each page holds a mark, and after each admin command the next page is read, compared and given another
//! one; all of them when the buffer is returned or taken back.
//!
//! Invariant: as long as there is one, all of it is memory of the host's that can be written, and nobody else writes it; a host
//! that breaks this is recorded. What is not held is never used.

use std::sync::atomic::Ordering;

use crate::check::Checker;
use crate::memory::View;
use crate::violation::{Rule, Violation};
use crate::wire::command::Command;
use crate::wire::identify::IDENTIFY_BYTES;
use crate::wire::status::Status;
use crate::worker::Worker;

const DESCRIPTOR_BYTES: usize = 16;
const ENABLE: u32 = 1;
const RETURN: u32 = 1 << 1;
const PAGE_BYTES: u64 = 4096;

/// A buffer that the host gave.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Buffer {
    /// Addresses and lengths in bytes.
    pieces: Vec<(u64, u64)>,
    /// Double words 12 to 15 of the command that gave it.
    attributes: [u32; 4],
    /// Of each page its address and the mark that was left at its end.
    marks: Vec<(u64, u64)>,
}

/// The buffer that the controller has, and the one that it had.
#[derive(Default)]
pub(crate) struct HostMemory {
    held: Option<Buffer>,
    before: Option<Buffer>,
    /// Counts uses.
    uses: u64,
}

/// Reads the mark of a page.
fn mark(view: &mut View, page: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    view.read(page + PAGE_BYTES - 8, &mut bytes).ok()?;
    Some(u64::from_le_bytes(bytes))
}

impl Buffer {
    fn len_bytes(&self) -> u64 {
        self.pieces.iter().map(|(_, len_bytes)| len_bytes).sum()
    }

    /// Gives every page a first mark.
    fn begin(&mut self, view: &mut View) {
        let pages = self.pieces.iter().flat_map(|(at, len)| (*at..at + len).step_by(PAGE_BYTES as usize));
        self.marks = pages.map(|page| (page, !page)).collect();
        for (page, mark) in &self.marks {
            // That it can be written was checked.
            let _ = view.write(page + PAGE_BYTES - 8, &mark.to_le_bytes());
        }
    }

    /// The pages that do not have the mark that was left there.
    fn changed(&self, view: &mut View) -> Vec<u64> {
        let changed = self.marks.iter().filter(|(page, left)| mark(view, *page) != Some(*left));
        changed.map(|(page, _)| *page).collect()
    }

    /// Reads the next page, and leaves another mark there. Returns whether it was as it was left.
    fn turn(&mut self, view: &mut View, uses: u64) -> bool {
        let next = uses as usize % self.marks.len().max(1);
        let Some((page, left)) = self.marks.get_mut(next) else { return true };
        let intact = mark(view, *page) == Some(*left);
        *left = left.wrapping_add(uses | 1);
        view.write(*page + PAGE_BYTES - 8, &left.to_le_bytes()).is_ok() && intact
    }
}

impl Worker {
    /// Set Features (Host Memory Buffer).
    pub(super) fn set_host_memory(&mut self, command: &Command, check: &Checker<'_>) -> Result<u32, Status> {
        let flags = command.dword(11);
        if flags & ENABLE == 0 {
            self.compare_host_memory();
            self.lose_host_memory();
            return Ok(0);
        }
        if self.host_memory.held.is_some() {
            let text = "a host memory buffer is given though there is one".to_owned();
            return Err(check.refuse(Status::COMMAND_SEQUENCE, Rule::Sequence, text));
        }
        let attributes = std::array::from_fn(|index| command.dword(12 + index));
        let pieces = self.read_pieces(attributes, check)?;
        let mut buffer = Buffer { pieces, attributes, marks: Vec::new() };
        if flags & RETURN == 0 {
            buffer.begin(&mut self.view);
        } else {
            let before = self.host_memory.before.take();
            let same = before.filter(|old| (&old.pieces, old.attributes) == (&buffer.pieces, attributes));
            buffer = same.ok_or_else(|| {
                let text = "a host memory buffer is returned that is not the one that the controller had";
                check.refuse(Status::INVALID_FIELD, Rule::InvalidField, text.to_owned())
            })?;
        }
        self.shared.host_memory_bytes.store(buffer.len_bytes(), Ordering::Release);
        self.host_memory.held = Some(buffer);
        self.compare_host_memory();
        Ok(0)
    }

    /// The pieces of a buffer, each checked.
    fn read_pieces(&mut self, attributes: [u32; 4], check: &Checker<'_>) -> Result<Vec<(u64, u64)>, Status> {
        let Some(wish) = self.shared.config.host_memory else { return Err(Status::INVALID_FIELD) };
        let [pages, low, high, count] = attributes;
        let page_bytes = self.page_bytes as u64;
        let wrong = |text: String| check.refuse(Status::INVALID_FIELD, Rule::InvalidField, text);
        let most = if wish.most_pieces == 0 { u16::MAX } else { wish.most_pieces };
        if low & 0xF != 0 || !(1..=most.into()).contains(&count) {
            return Err(wrong(format!("a list of {count} descriptors at {high:#x}{low:08x}")));
        }
        let mut list = vec![0; count as usize * DESCRIPTOR_BYTES];
        let at = u64::from(high) << 32 | u64::from(low);
        self.view.read(at, &mut list).map_err(|fault| check.fault("the list of descriptors", fault))?;
        let mut pieces = Vec::with_capacity(count as usize);
        for descriptor in list.as_chunks::<DESCRIPTOR_BYTES>().0 {
            let wide = u128::from_le_bytes(*descriptor);
            let (at, len) = (wide as u64, u64::from((wide >> 64) as u32) * page_bytes);
            if wide >> 96 != 0 {
                check.note(Rule::ReservedField, "reserved bytes of a descriptor are not 0".to_owned());
            }
            if at % page_bytes != 0 || len == 0 || len < u64::from(wish.least_piece) * PAGE_BYTES {
                return Err(wrong(format!("a piece of {len} bytes at {at:#x}")));
            }
            let checked = self.view.check(at, len as usize, true);
            checked.map_err(|fault| check.fault("the host memory buffer", fault))?;
            pieces.push((at, len));
        }
        let sum: u64 = pieces.iter().map(|(_, len)| len).sum();
        if sum != u64::from(pages) * page_bytes || sum < u64::from(wish.least) * PAGE_BYTES {
            return Err(wrong(format!("pieces of {sum} bytes in all, and a size of {pages} pages")));
        }
        Ok(pieces)
    }

    /// Get Features (Host Memory Buffer): whether there is one, and its attributes.
    pub(super) fn get_host_memory(&mut self, command: &Command, check: &Checker<'_>) -> Result<u32, Status> {
        let attributes = self.host_memory.held.as_ref().map(|buffer| buffer.attributes);
        let mut bytes: Vec<u8> =
            attributes.unwrap_or_default().into_iter().flat_map(u32::to_le_bytes).collect();
        bytes.resize(IDENTIFY_BYTES, 0);
        self.send(command, &bytes, check)?;
        Ok(attributes.map_or(0, |_| ENABLE))
    }

    /// Works with the next page.
    pub(super) fn use_host_memory(&mut self) {
        let HostMemory { held: Some(buffer), uses, .. } = &mut self.host_memory else { return };
        *uses += 1;
        let intact = buffer.turn(&mut self.view, *uses);
        self.shared.host_memory_uses.fetch_add(1, Ordering::AcqRel);
        if !intact {
            self.note_host_memory(
                "a page of the host memory buffer is not as the controller left it".to_owned(),
            );
        }
    }

    /// Compares all pages with what was left there.
    fn compare_host_memory(&mut self) {
        let Some(buffer) = &self.host_memory.held else { return };
        let changed = buffer.changed(&mut self.view);
        if let Some(first) = changed.first() {
            let count = changed.len();
            self.note_host_memory(format!(
                "{count} pages of the host memory buffer, from {first:#x} on, are not as the controller left them"
            ));
        }
    }

    /// The host has taken its memory back, or the controller was reset.
    pub(crate) fn lose_host_memory(&mut self) {
        if let Some(buffer) = self.host_memory.held.take() {
            self.host_memory.before = Some(buffer);
        }
        self.shared.host_memory_bytes.store(0, Ordering::Release);
    }

    /// Records what a host did that it may not do as long as the controller has its memory.
    fn note_host_memory(&self, detail: String) {
        self.shared.violations.add(Violation { rule: Rule::HostMemory, queue: None, cid: None, detail });
    }

    /// The host announces a shutdown. It should have taken its memory back before (8.9), unless a fault kept it from that.
    pub(crate) fn host_memory_at_shutdown(&mut self) {
        if self.host_memory.held.is_some() && self.faults.none() {
            self.note_host_memory("a shutdown while the controller has a host memory buffer".to_owned());
            self.lose_host_memory();
        }
    }

    /// Mappings have changed.
    pub(crate) fn check_host_memory(&mut self) {
        let Some(buffer) = &self.host_memory.held else { return };
        let lost = buffer.pieces.iter().any(|(at, len)| self.view.check(*at, *len as usize, true).is_err());
        if lost {
            self.note_host_memory("memory of the host memory buffer was unmapped".to_owned());
            self.lose_host_memory();
        }
    }
}
