//! [`ReservedIova`]: I/O virtual addresses that no memory gets, since a device of the space answers there itself, as NVMe
//! controllers do for their own memory.

use std::fmt;
use std::sync::Arc;

use super::AddressSpace;
use crate::error::DmaError;
use crate::iova::Iova;

/// See the module's documentation. Given back when it goes.
pub struct ReservedIova {
    space: Arc<AddressSpace>,
    iova: Iova,
    len_bytes: u64,
}

impl AddressSpace {
    /// Keeps `len_bytes` bytes of I/O virtual addresses free of memory, in whole pages.
    ///
    /// # Errors
    /// [`DmaError::NoIova`].
    pub fn reserve(self: &Arc<Self>, len_bytes: u64) -> Result<ReservedIova, DmaError> {
        let mut state = self.state();
        let len_bytes =
            len_bytes.max(1).checked_next_multiple_of(state.iovas.page_bytes()).unwrap_or(u64::MAX);
        let iova = state.allocate(len_bytes, 0)?;
        drop(state);
        Ok(ReservedIova { space: Arc::clone(self), iova, len_bytes })
    }
}

impl ReservedIova {
    /// The first of them.
    pub fn iova(&self) -> Iova {
        self.iova
    }
}

impl fmt::Debug for ReservedIova {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReservedIova").field("iova", &self.iova).field("len_bytes", &self.len_bytes).finish()
    }
}

impl Drop for ReservedIova {
    fn drop(&mut self) {
        self.space.state().iovas.release(self.iova, self.len_bytes);
    }
}
