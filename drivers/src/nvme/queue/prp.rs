//! PRP entries (Base 4.1.1): how a command says where its data is, in pages.
//!
//! The first entry may start anywhere on a dword within its page; every further one names a whole page from its start. Two
//! entries fit into the command. More stand in a list, to which the second points; a list that fills its page goes on in
//! another, to which the page's last entry points.
//!
//! [`Builder`] takes pieces of memory, contiguous for the device, in the order of the data. Pieces that such entries cannot
//! express are refused, and nothing has to be undone.

use corelane_dma::CoherentArray;

use crate::nvme::spec::command::DataPointer;

/// The controller's memory page in bytes.
const PAGE: u64 = 4096;
const PAGE_MASK: u64 = PAGE - 1;
/// Entries in a page of a list.
pub const ENTRIES: usize = (PAGE / 8) as usize;

/// How many list pages a transfer of `max_bytes` bytes may need, wherever it starts.
pub const fn list_pages(max_bytes: u64) -> usize {
    // The first entry is in the command, and an unaligned start costs one more.
    let entries = max_bytes.div_ceil(PAGE) as usize;
    if entries <= ENTRIES { 1 } else { 1 + (entries - ENTRIES).div_ceil(ENTRIES - 1) }
}

/// The list pages of one command: a part of a lane's array.
pub struct List<'a> {
    /// All lists of the lane.
    pub entries: &'a CoherentArray<u64>,
    /// Where this command's begin.
    pub first: usize,
    /// How many entries, in whole pages.
    pub len: usize,
    /// The I/O address of the first.
    pub iova: u64,
}

/// Pieces of memory that PRP entries cannot express, or more of them than the list holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotExpressible;

/// The data pointer of one contiguous piece that starts on a dword and lies in one or two pages, which needs no list.
#[inline(always)]
pub fn short(iova: u64, len_bytes: u64) -> Option<DataPointer> {
    let in_first = PAGE - (iova & PAGE_MASK);
    if iova & 3 != 0 || len_bytes > in_first + PAGE {
        return None;
    }
    let prp2 = if len_bytes > in_first { iova + in_first } else { 0 };
    Some(DataPointer { prp1: iova, prp2 })
}

/// The data pointer of one contiguous piece of at least one byte.
///
/// # Errors
/// [`NotExpressible`] for one that does not start on a dword, or needs more entries than the list holds.
pub fn contiguous(iova: u64, len_bytes: u64, list: &List<'_>) -> Result<DataPointer, NotExpressible> {
    if let Some(pointer) = short(iova, len_bytes) {
        return Ok(pointer);
    }
    let mut builder = Builder::new(list);
    builder.push(iova, len_bytes)?;
    builder.finish()
}

/// Makes entries of pieces.
pub struct Builder<'a> {
    list: &'a List<'a>,
    prp1: u64,
    /// The second entry, until there are three.
    prp2: u64,
    /// How many data entries there are, the first included.
    count: usize,
    /// Where in the list the next entry goes.
    at: usize,
    /// The entry that was written last, in case its place turns out to be a pointer's.
    last: u64,
    /// Whether the data so far ends on a page's boundary, so that more may follow.
    open: bool,
}

impl<'a> Builder<'a> {
    /// Of no pieces yet.
    pub fn new(list: &'a List<'a>) -> Builder<'a> {
        Builder { list, prp1: 0, prp2: 0, count: 0, at: 0, last: 0, open: true }
    }

    /// Whether a piece may follow what was pushed so far.
    pub fn takes(&self, iova: u64) -> bool {
        match self.count {
            0 => iova & 3 == 0,
            _ => self.open && iova & PAGE_MASK == 0,
        }
    }

    /// Adds a piece of at least one byte.
    ///
    /// # Errors
    /// [`NotExpressible`]; the builder is of no more use then.
    pub fn push(&mut self, iova: u64, len_bytes: u64) -> Result<(), NotExpressible> {
        if !self.takes(iova) || len_bytes == 0 {
            return Err(NotExpressible);
        }
        let end = iova.checked_add(len_bytes).ok_or(NotExpressible)?;
        let mut page = iova;
        while page < end {
            self.entry(page)?;
            page = (page | PAGE_MASK).checked_add(1).ok_or(NotExpressible)?;
        }
        self.open = end & PAGE_MASK == 0;
        Ok(())
    }

    #[inline]
    fn entry(&mut self, address: u64) -> Result<(), NotExpressible> {
        match self.count {
            0 => self.prp1 = address,
            1 => self.prp2 = address,
            2 => {
                // The second becomes the list's first.
                let second = std::mem::replace(&mut self.prp2, self.list.iova);
                self.append(second)?;
                self.append(address)?;
            }
            _ => self.append(address)?,
        }
        self.count += 1;
        Ok(())
    }

    #[inline]
    fn append(&mut self, address: u64) -> Result<(), NotExpressible> {
        if self.at > 0 && self.at.is_multiple_of(ENTRIES) {
            // The page is full and more follows: its last place points to the next page, where what stood there goes.
            self.set(self.at - 1, self.list.iova + self.at as u64 * 8)?;
            let moved = self.last;
            self.set(self.at, moved)?;
            self.at += 1;
        }
        self.set(self.at, address)?;
        (self.at, self.last) = (self.at + 1, address);
        Ok(())
    }

    #[inline]
    fn set(&self, at: usize, entry: u64) -> Result<(), NotExpressible> {
        if at >= self.list.len {
            return Err(NotExpressible);
        }
        self.list.entries.set(self.list.first + at, &entry).ok_or(NotExpressible)
    }

    /// The data pointer.
    ///
    /// # Errors
    /// [`NotExpressible`] if there was no piece.
    pub fn finish(self) -> Result<DataPointer, NotExpressible> {
        if self.count == 0 {
            return Err(NotExpressible);
        }
        Ok(DataPointer { prp1: self.prp1, prp2: self.prp2 })
    }
}

#[cfg(test)]
mod tests;
