//! [`Payload`]: the memory of a request, and [`SharedPayload`]: the same while a request is worked on in pieces.
//!
//! Invariant: while a payload is shared, nobody can get a reference to its bytes: neither the shared handle nor the
//! pieces give slices. It becomes exclusive again only when the last piece is gone.

use std::rc::Rc;

use crate::error::{DmaError, check_range};
use crate::iobuf::IoBuf;
use crate::raw::RawSpan;
use crate::vector::{self, IoVector};

/// What a request carries.
#[derive(Debug, Default)]
pub enum Payload {
    /// Nothing, as flush, write zeroes and discard do.
    #[default]
    None,
    /// One buffer.
    One(IoBuf),
    /// Several.
    Many(Box<IoVector>),
}

// As for `IoBuf`: it travels by value.
const _: () = assert!(size_of::<Payload>() == 32);

impl Payload {
    /// The length in bytes.
    #[inline]
    pub fn len_bytes(&self) -> usize {
        match self {
            Payload::None => 0,
            Payload::One(buf) => buf.len(),
            Payload::Many(vector) => vector.len_bytes(),
        }
    }

    /// The buffers, in order.
    #[inline]
    pub fn as_bufs(&self) -> &[IoBuf] {
        match self {
            Payload::None => &[],
            Payload::One(buf) => std::slice::from_ref(buf),
            Payload::Many(vector) => vector.segments(),
        }
    }

    /// Where the memory is: address and length in bytes of each buffer, in order.
    #[inline]
    pub fn segments(&self) -> impl ExactSizeIterator<Item = (*mut u8, usize)> + '_ {
        self.as_bufs().iter().map(|buf| (buf.as_ptr(), buf.len()))
    }

    /// Whether every buffer's address has no bit of `addr_mask` and every length none of `len_mask`. A mask is an
    /// alignment in bytes minus 1.
    #[inline]
    pub fn is_aligned(&self, addr_mask: usize, len_mask: usize) -> bool {
        match self {
            Payload::None => true,
            Payload::One(buf) => (buf.addr() & addr_mask) | (buf.len() & len_mask) == 0,
            Payload::Many(vector) => vector.is_aligned(addr_mask, len_mask),
        }
    }

    /// Copies bytes at `offset_bytes` into `to`.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing is copied.
    pub fn copy_to(&self, offset_bytes: usize, to: &mut [u8]) -> Result<(), DmaError> {
        vector::copy_to(self.as_bufs(), self.len_bytes(), offset_bytes, to)
    }

    /// Copies `from` to `offset_bytes`.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing is copied.
    pub fn copy_from(&mut self, offset_bytes: usize, from: &[u8]) -> Result<(), DmaError> {
        vector::copy_from(self.as_bufs(), self.len_bytes(), offset_bytes, from)
    }

    /// Sets `len_bytes` bytes at `offset_bytes` to `byte`.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing is written.
    pub fn fill(&mut self, offset_bytes: usize, len_bytes: usize, byte: u8) -> Result<(), DmaError> {
        vector::fill(self.as_bufs(), self.len_bytes(), offset_bytes, len_bytes, byte)
    }

    /// Copies `len_bytes` bytes at `from_bytes` of `from` to `to_bytes` of this payload, as a bounce buffer needs it.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing is copied.
    pub fn copy_payload(
        &mut self,
        to_bytes: usize,
        from: &Payload,
        from_bytes: usize,
        len_bytes: usize,
    ) -> Result<(), DmaError> {
        copy_between(self, to_bytes, from, from_bytes, len_bytes)
    }

    /// Makes the payload shareable in pieces. Allocates once.
    pub fn share(self) -> SharedPayload {
        SharedPayload { whole: Rc::new(self) }
    }
}

impl From<IoBuf> for Payload {
    #[inline]
    fn from(buf: IoBuf) -> Payload {
        Payload::One(buf)
    }
}

impl From<IoVector> for Payload {
    fn from(vector: IoVector) -> Payload {
        Payload::Many(Box::new(vector))
    }
}

impl From<Box<IoVector>> for Payload {
    #[inline]
    fn from(vector: Box<IoVector>) -> Payload {
        Payload::Many(vector)
    }
}

/// A payload of which pieces are in use. Cloning it is cheap and makes another handle.
#[derive(Clone, Debug)]
pub struct SharedPayload {
    whole: Rc<Payload>,
}

impl SharedPayload {
    /// The length in bytes.
    #[inline]
    pub fn len_bytes(&self) -> usize {
        self.whole.len_bytes()
    }

    /// The piece of `len_bytes` bytes at `offset_bytes`: no memory if it is empty, one buffer if it lies within one, else
    /// a vector. Pieces may overlap.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`].
    pub fn slice(&self, offset_bytes: usize, len_bytes: usize) -> Result<Payload, DmaError> {
        let bufs = self.whole.as_bufs();
        let mut first = Payload::None;
        vector::walk(bufs, self.len_bytes(), offset_bytes, len_bytes, |segment, at, _, step| {
            let piece = IoBuf::of_shared(segment.span().part(at, step)?, &self.whole);
            first = match std::mem::take(&mut first) {
                Payload::None => Payload::One(piece),
                Payload::One(before) => Payload::from(IoVector::from_iter([before, piece])),
                Payload::Many(mut vector) => {
                    vector.push(piece);
                    Payload::Many(vector)
                }
            };
            Ok(())
        })?;
        Ok(first)
    }

    /// Copies bytes at `offset_bytes` into `to`.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing is copied.
    pub fn copy_to(&self, offset_bytes: usize, to: &mut [u8]) -> Result<(), DmaError> {
        self.whole.copy_to(offset_bytes, to)
    }

    /// Copies `from` to `offset_bytes`.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing is copied.
    pub fn copy_from(&self, offset_bytes: usize, from: &[u8]) -> Result<(), DmaError> {
        vector::copy_from(self.whole.as_bufs(), self.len_bytes(), offset_bytes, from)
    }

    /// Sets `len_bytes` bytes at `offset_bytes` to `byte`.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing is written.
    pub fn fill(&self, offset_bytes: usize, len_bytes: usize, byte: u8) -> Result<(), DmaError> {
        vector::fill(self.whole.as_bufs(), self.len_bytes(), offset_bytes, len_bytes, byte)
    }

    /// Copies `len_bytes` bytes at `from_bytes` of `from` to `to_bytes` of this payload, as the end of a bounced read
    /// needs it.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing is copied.
    pub fn copy_payload(
        &self,
        to_bytes: usize,
        from: &Payload,
        from_bytes: usize,
        len_bytes: usize,
    ) -> Result<(), DmaError> {
        copy_between(&self.whole, to_bytes, from, from_bytes, len_bytes)
    }

    /// Copies `len_bytes` bytes at `from_bytes` of this payload to `to_bytes` of `to`, as the start of a bounced write
    /// needs it.
    ///
    /// # Errors
    /// [`DmaError::OutOfBounds`], and nothing is copied.
    pub fn copy_to_payload(
        &self,
        from_bytes: usize,
        to: &mut Payload,
        to_bytes: usize,
        len_bytes: usize,
    ) -> Result<(), DmaError> {
        copy_between(to, to_bytes, &self.whole, from_bytes, len_bytes)
    }

    /// The payload, exclusive again.
    ///
    /// # Errors
    /// The handle itself, while pieces or other handles are in use.
    pub fn try_unwrap(self) -> Result<Payload, SharedPayload> {
        Rc::try_unwrap(self.whole).map_err(|whole| SharedPayload { whole })
    }
}

/// Copies between two payloads. Writes through `&Payload`: the callers hold `to` exclusively, or it is shared and nobody
/// can make references to its bytes.
fn copy_between(
    to: &Payload,
    to_bytes: usize,
    from: &Payload,
    from_bytes: usize,
    len_bytes: usize,
) -> Result<(), DmaError> {
    check_range(to_bytes, len_bytes, to.len_bytes())?;
    vector::walk(from.as_bufs(), from.len_bytes(), from_bytes, len_bytes, |segment, at, done, step| {
        let piece = segment.span().part(at, step)?;
        copy_span_in(to, to_bytes + done, piece)
    })
}

/// Copies `from` to `offset_bytes` of `to`.
fn copy_span_in(to: &Payload, offset_bytes: usize, from: RawSpan) -> Result<(), DmaError> {
    vector::walk(to.as_bufs(), to.len_bytes(), offset_bytes, from.len(), |segment, at, done, step| {
        segment.span().part(at, step)?.copy_span(from.part(done, step)?);
        Ok(())
    })
}

#[cfg(test)]
mod tests;
