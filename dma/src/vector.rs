//! [`IoVector`]: the scattered memory of one request, with the jobs of QEMU's `QEMUIOVector`.
//!
//! Invariant: `len_bytes` is the sum of the segments' lengths. Segments of length 0 are never kept.

use crate::error::{DmaError, check_range};
use crate::iobuf::IoBuf;

/// A list of buffers that a request treats as one.
#[derive(Debug, Default)]
pub struct IoVector {
    segments: Vec<IoBuf>,
    len_bytes: usize,
}

impl IoVector {
    /// No segments.
    pub const fn new() -> IoVector {
        IoVector { segments: Vec::new(), len_bytes: 0 }
    }

    /// No segments, but room for `segments` of them without allocating.
    pub fn with_capacity(segments: usize) -> IoVector {
        IoVector { segments: Vec::with_capacity(segments), len_bytes: 0 }
    }

    /// Adds a segment at the end. An empty one adds nothing. The total saturates, which takes more leases of one region
    /// than memory holds.
    #[inline]
    pub fn push(&mut self, segment: IoBuf) {
        if !segment.is_empty() {
            self.len_bytes = self.len_bytes.saturating_add(segment.len());
            self.segments.push(segment);
        }
    }

    /// Takes the last segment away.
    #[inline]
    pub fn pop(&mut self) -> Option<IoBuf> {
        let segment = self.segments.pop()?;
        self.recount();
        Some(segment)
    }

    /// The total length in bytes.
    #[inline]
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// Whether there are no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// The segments, in order.
    #[inline]
    pub fn segments(&self) -> &[IoBuf] {
        &self.segments
    }

    /// Gives the segments back, in order.
    pub fn into_segments(self) -> Vec<IoBuf> {
        self.segments
    }

    /// Takes all segments out, in order; the capacity stays. What the iterator has not given when it is dropped is
    /// dropped.
    pub fn drain(&mut self) -> impl Iterator<Item = IoBuf> {
        self.len_bytes = 0;
        self.segments.drain(..)
    }

    /// Drops the segments; the capacity stays.
    #[inline]
    pub fn clear(&mut self) {
        self.segments.clear();
        self.len_bytes = 0;
    }

    /// Whether every segment's address has no bit of `addr_mask` and every length none of `len_mask`. A mask is an
    /// alignment in bytes minus 1.
    #[inline]
    pub fn is_aligned(&self, addr_mask: usize, len_mask: usize) -> bool {
        let stray = |s: &IoBuf| (s.addr() & addr_mask) | (s.len() & len_mask);
        self.segments.iter().fold(0, |bits, s| bits | stray(s)) == 0
    }

    /// Moves the segments of `other` to the end.
    pub fn append(&mut self, mut other: IoVector) {
        self.len_bytes = self.len_bytes.saturating_add(other.len_bytes);
        self.segments.append(&mut other.segments);
    }

    /// Adds `len_bytes` bytes at `offset_bytes` of `other` to the end, without copying: afterwards both name that memory.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing changes.
    pub fn concat(
        &mut self,
        other: &mut IoVector,
        offset_bytes: usize,
        len_bytes: usize,
    ) -> Result<(), DmaError> {
        self.append(other.slice(offset_bytes, len_bytes)?);
        Ok(())
    }

    /// A further vector over `len_bytes` bytes at `offset_bytes` of this one, without copying. Segments that both name
    /// are not exclusive any more (see [`IoBuf::share_part`]).
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing changes.
    pub fn slice(&mut self, offset_bytes: usize, len_bytes: usize) -> Result<IoVector, DmaError> {
        check_range(offset_bytes, len_bytes, self.len_bytes)?;
        let (mut skip, mut left) = (offset_bytes, len_bytes);
        let mut slice = IoVector::new();
        for segment in &mut self.segments {
            if left == 0 {
                break;
            }
            if skip >= segment.len() {
                skip -= segment.len();
                continue;
            }
            let step = left.min(segment.len() - skip);
            slice.push(segment.share_part(skip, step)?);
            left -= step;
            skip = 0;
        }
        Ok(slice)
    }

    /// Cuts the vector in two at byte `at_bytes`: keeps what is before, returns the rest. A segment that the cut goes
    /// through is shared by both (see [`IoBuf::split_off`]); the others stay exclusive if they were.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing changes.
    pub fn split_off(&mut self, at_bytes: usize) -> Result<IoVector, DmaError> {
        check_range(at_bytes, 0, self.len_bytes)?;
        let mut tail = IoVector::new();
        let (mut index, mut skip) = (0, at_bytes);
        while let Some(segment) = self.segments.get_mut(index) {
            if skip < segment.len() {
                if skip > 0 {
                    tail.push(segment.split_off(skip)?);
                    index += 1;
                }
                break;
            }
            skip -= segment.len();
            index += 1;
        }
        tail.segments.extend(self.segments.drain(index..));
        tail.recount();
        self.recount();
        Ok(tail)
    }

    /// Cuts the vector in two at byte `at_bytes`, as [`split_off`](Self::split_off).
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`] together with the vector, untouched.
    pub fn split_at(mut self, at_bytes: usize) -> Result<(IoVector, IoVector), (DmaError, IoVector)> {
        match self.split_off(at_bytes) {
            Ok(tail) => Ok((self, tail)),
            Err(error) => Err((error, self)),
        }
    }

    /// Copies bytes at `offset_bytes` into `to`.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing is copied.
    pub fn copy_to(&self, offset_bytes: usize, to: &mut [u8]) -> Result<(), DmaError> {
        copy_to(&self.segments, self.len_bytes, offset_bytes, to)
    }

    /// Copies `from` to `offset_bytes`.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing is copied.
    pub fn copy_from(&mut self, offset_bytes: usize, from: &[u8]) -> Result<(), DmaError> {
        copy_from(&self.segments, self.len_bytes, offset_bytes, from)
    }

    /// Sets `len_bytes` bytes at `offset_bytes` to `byte`.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing is written.
    pub fn fill(&mut self, offset_bytes: usize, len_bytes: usize, byte: u8) -> Result<(), DmaError> {
        fill(&self.segments, self.len_bytes, offset_bytes, len_bytes, byte)
    }

    fn recount(&mut self) {
        self.len_bytes = self.segments.iter().fold(0, |sum: usize, s| sum.saturating_add(s.len()));
    }
}

impl FromIterator<IoBuf> for IoVector {
    fn from_iter<I: IntoIterator<Item = IoBuf>>(segments: I) -> IoVector {
        let mut vector = IoVector::new();
        vector.extend(segments);
        vector
    }
}

impl Extend<IoBuf> for IoVector {
    fn extend<I: IntoIterator<Item = IoBuf>>(&mut self, segments: I) {
        for segment in segments {
            self.push(segment);
        }
    }
}

/// Calls `each(segment, offset in it, offset in the range, length)` for the pieces of a range, in order.
#[inline]
pub(crate) fn walk(
    segments: &[IoBuf],
    total_bytes: usize,
    offset_bytes: usize,
    len_bytes: usize,
    mut each: impl FnMut(&IoBuf, usize, usize, usize) -> Result<(), DmaError>,
) -> Result<(), DmaError> {
    check_range(offset_bytes, len_bytes, total_bytes)?;
    let (mut skip, mut done) = (offset_bytes, 0);
    for segment in segments {
        if done == len_bytes {
            break;
        }
        if skip >= segment.len() {
            skip -= segment.len();
            continue;
        }
        let step = (len_bytes - done).min(segment.len() - skip);
        each(segment, skip, done, step)?;
        done += step;
        skip = 0;
    }
    Ok(())
}

pub(crate) fn copy_to(
    segments: &[IoBuf],
    total_bytes: usize,
    offset_bytes: usize,
    to: &mut [u8],
) -> Result<(), DmaError> {
    walk(segments, total_bytes, offset_bytes, to.len(), |segment, at, done, step| {
        segment.span().copy_to(at, &mut to[done..done + step])
    })
}

/// Writes through `&[IoBuf]`: the callers hold the segments exclusively, or nobody can make references to them.
pub(crate) fn copy_from(
    segments: &[IoBuf],
    total_bytes: usize,
    offset_bytes: usize,
    from: &[u8],
) -> Result<(), DmaError> {
    walk(segments, total_bytes, offset_bytes, from.len(), |segment, at, done, step| {
        segment.span().copy_from(at, &from[done..done + step])
    })
}

/// As [`copy_from`].
pub(crate) fn fill(
    segments: &[IoBuf],
    total_bytes: usize,
    offset_bytes: usize,
    len_bytes: usize,
    byte: u8,
) -> Result<(), DmaError> {
    walk(segments, total_bytes, offset_bytes, len_bytes, |segment, at, _, step| {
        segment.span().fill(at, step, byte)
    })
}

#[cfg(test)]
mod tests;
