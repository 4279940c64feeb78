//! What a driver implements: [`BlockDriver`], shared by all lanes, and [`LeafQueue`], its end in one lane.

use corelane_dma::{Backing, MemRegion, Payload};

use super::errno::{BlockError, IoError, IoResult};
use super::limits::BlockLimits;
use super::request::{Op, ReqFlags};
use super::table::LeafTable;
use crate::aio::{AioContext, Readiness};

/// Names one command in flight in a leaf queue: an index below the `tags` that the queue was opened with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Tag(pub u32);

/// What a [`Command`](super::Command) is made of, before it has a slot.
#[derive(Debug)]
pub struct LeafCommand {
    /// What to do.
    pub op: Op,
    /// How; never `NO_FALLBACK`.
    pub flags: ReqFlags,
    /// Where, in bytes.
    pub offset: u64,
    /// How much, in bytes.
    pub bytes: u64,
    /// The memory.
    pub payload: Payload,
}

/// The end of a command, out of its slot.
#[derive(Debug)]
pub struct LeafCompletion {
    /// The slot that it was in.
    pub tag: Tag,
    /// How it went; success means that every byte was transferred.
    pub result: IoResult,
    /// The command's memory, which the device no longer uses.
    pub payload: Payload,
}

/// The device end of a channel: an io_uring, a queue pair, RAM, nothing.
///
/// A queue is used by one lane only. Its commands are in the [`LeafTable`] that it was opened with: it takes what is pending
/// there, and ends each command exactly once. When it is dropped with commands in flight, it waits for them, or provably
/// stops the device, before it lets go of the table.
pub trait LeafQueue {
    /// Sends what is pending ([`LeafSlots::take_pending`](super::LeafSlots::take_pending)), as far as there is room: one
    /// doorbell for the whole batch. Says how the lane will learn of completions; [`Readiness::Ready`] if a command has
    /// ended already.
    fn commit(&mut self) -> Readiness;

    /// Ends what has completed ([`LeafSlots::end`](super::LeafSlots::end)). A queue whose completions come through the
    /// lane's ring ends them there, and has nothing to do here.
    fn reap(&mut self) {}

    /// Whether completions come through the lane's ring, so that [`reap`](Self::reap) has nothing to do. Asked once, when
    /// the queue is opened.
    fn completes_in_ring(&self) -> bool {
        false
    }

    /// Makes I/O on `region` free of mapping and copying in this lane. A queue that gains nothing accepts and does
    /// nothing.
    ///
    /// # Errors
    /// When the kernel or the device refuses; I/O on the region still works then, only slower.
    fn register_buf(&mut self, region: &MemRegion) -> Result<(), BlockError> {
        let _ = region;
        Ok(())
    }

    /// Undoes [`register_buf`](Self::register_buf). No command that uses the region is in flight.
    fn unregister_buf(&mut self, region: &MemRegion) {
        let _ = region;
    }
}

bitflags::bitflags! {
    /// What is known of a range (QEMU's `BDRV_BLOCK_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct StatusFlags: u8 {
        /// Reads come from stored data.
        const DATA = 1;
        /// Reads as zeroes.
        const ZERO = 2;
    }
}

/// The status of the longest range known to be uniform from an offset on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockStatus {
    /// What the range is.
    pub flags: StatusFlags,
    /// How long it is, in bytes, from the offset asked for; at least 1 unless that is the end.
    pub bytes: u64,
}

/// What becomes of a device while it is open, without anybody here having asked for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum DeviceChange {
    /// It is so many bytes long from now on.
    Resized {
        /// The length in bytes.
        length_bytes: u64,
    },
    /// It is not any more what was opened: its blocks have another size, or it has gone. Every request ends with this error
    /// from now on.
    Failed {
        /// How requests end.
        error: IoError,
    },
}

/// Who is told of changes; from any thread.
pub type ChangeHook = Box<dyn Fn(DeviceChange) + Send + Sync>;

/// A driver instance: one opened device, shared by every lane that uses it.
///
/// The methods that may block (`truncate`, `allocated_size`, `block_status`) are control plane: the block layer calls
/// them on a helper thread, never in a lane.
pub trait BlockDriver: Send + Sync + 'static {
    /// The driver's name, as in QEMU's `driver=` option.
    fn format_name(&self) -> &'static str;

    /// What the device demands. Constant while it is open.
    fn limits(&self) -> &BlockLimits;

    /// The device's length in bytes.
    ///
    /// # Errors
    /// When the device cannot be asked.
    fn length(&self) -> Result<u64, BlockError>;

    /// Whether writes are refused.
    fn read_only(&self) -> bool {
        false
    }

    /// Whether a completed write may still be in a volatile cache, so that a flush means something.
    fn write_cache(&self) -> bool {
        true
    }

    /// Flags that a write may carry down to the leaf queue; others are emulated above.
    fn supported_write_flags(&self) -> ReqFlags {
        ReqFlags::empty()
    }

    /// Flags that a write-zeroes may carry down, or `None` if the driver has no write-zeroes at all.
    fn supported_zero_flags(&self) -> Option<ReqFlags> {
        None
    }

    /// Whether the driver can discard.
    fn can_discard(&self) -> bool {
        false
    }

    /// The kind of memory that the device reaches best, for the block layer's own buffers. Any will do; a device that
    /// cannot reach it copies.
    fn memory(&self) -> Backing {
        Backing::Pages
    }

    /// Has `hook` called whenever the device has changed by itself, as long as this instance lives. A device that never does
    /// drops it.
    fn on_change(&self, hook: ChangeHook) {
        drop(hook);
    }

    /// Opens this driver's queue in the lane of `ctx`, for the commands of `table`.
    ///
    /// # Errors
    /// When the lane's resources do not suffice; the error says which.
    fn open_queue(&self, ctx: &AioContext, table: LeafTable) -> Result<Box<dyn LeafQueue>, BlockError>;

    /// Changes the device's length in bytes. May block.
    ///
    /// # Errors
    /// Where the driver cannot, or the kernel refuses.
    fn truncate(&self, length_bytes: u64) -> Result<(), BlockError> {
        let _ = length_bytes;
        Err(BlockError::Unsupported { driver: self.format_name(), what: "changing the length" })
    }

    /// How many bytes of storage the image occupies. May block.
    ///
    /// # Errors
    /// Where the driver does not know.
    fn allocated_size(&self) -> Result<u64, BlockError> {
        Err(BlockError::Unsupported { driver: self.format_name(), what: "the allocated size" })
    }

    /// The status of the range from `offset` on, looking at most `bytes` bytes ahead. May block.
    ///
    /// # Errors
    /// Where the device cannot be asked.
    fn block_status(&self, offset: u64, bytes: u64) -> Result<BlockStatus, BlockError> {
        let _ = offset;
        Ok(BlockStatus { flags: StatusFlags::DATA, bytes })
    }
}
