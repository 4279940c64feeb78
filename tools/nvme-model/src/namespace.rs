//! Namespaces: what blocks there are, and where they are kept.
//!
//! Invariant: ranges are checked against [`Namespace::blocks`] before the store is asked; the store checks again.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use corelane_dma::{Arena, Backing, DmaError};

use crate::config::{NamespaceBacking, NamespaceConfig};
use crate::data::Segment;
use crate::device::DeviceError;
use crate::memory::{Fault, View};
use crate::wire::status::Status;

/// A namespace.
#[derive(Debug)]
pub(crate) struct Namespace {
    pub(crate) config: NamespaceConfig,
    pub(crate) store: Store,
    /// The metadata of all blocks, where they have some and are kept in RAM.
    pub(crate) metadata: Option<Arena>,
    pub(crate) live: Live,
}

/// What of a namespace can change while hosts use it (`change.rs`); at first as configured. The store stays as it is, so
/// a namespace never gets larger than it was made.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) blocks: AtomicU64,
    pub(crate) lba_shift: AtomicU8,
    pub(crate) attached: AtomicBool,
}

/// Where blocks are kept.
#[derive(Debug)]
pub(crate) enum Store {
    Null,
    Zero,
    Ram(Arena),
    /// By its number among the nodes. Commands to it are jobs; nothing is done here.
    Node(usize),
}

impl Namespace {
    /// A namespace; `node` is the number of the next node.
    pub(crate) fn new(config: &NamespaceConfig, node: &mut usize) -> Result<Namespace, DeviceError> {
        let store = match config.backing {
            NamespaceBacking::Null => Store::Null,
            NamespaceBacking::Zero => Store::Zero,
            NamespaceBacking::Node => {
                *node += 1;
                Store::Node(*node - 1)
            }
            NamespaceBacking::Ram(backing) => {
                let memory = |source| DeviceError::Memory { what: "a namespace", source };
                let len_bytes = (config.blocks() << config.lba_shift) as usize;
                Store::Ram(Arena::new(len_bytes, backing).map_err(memory)?)
            }
        };
        let metadata = match store {
            Store::Ram(_) if config.metadata_bytes > 0 => Some(Self::ones(config)?),
            _ => None,
        };
        let live = Live {
            blocks: AtomicU64::new(config.blocks()),
            lba_shift: AtomicU8::new(config.lba_shift),
            attached: AtomicBool::new(true),
        };
        Ok(Namespace { config: config.clone(), store, metadata, live })
    }

    /// Metadata that says nothing.
    fn ones(config: &NamespaceConfig) -> Result<Arena, DeviceError> {
        let memory = |source| DeviceError::Memory { what: "the metadata of a namespace", source };
        let len_bytes = config.blocks() as usize * usize::from(config.metadata_bytes);
        let arena = Arena::new(len_bytes, Backing::Pages).map_err(memory)?;
        fill_with_ones(&arena, 0, len_bytes as u64).map_err(memory)?;
        Ok(arena)
    }

    /// What was told of these bytes of data is told no more: their blocks were deallocated.
    pub(crate) fn forget_metadata(&self, at: u64, len_bytes: u64) -> Result<(), Status> {
        let Some(arena) = &self.metadata else { return Ok(()) };
        let of = |bytes: u64| (bytes >> self.lba_shift()) * u64::from(self.config.metadata_bytes);
        fill_with_ones(arena, of(at), of(len_bytes)).map_err(|_| Status::WRITE_FAULT)
    }

    /// Copies metadata at `at` bytes into `to`.
    pub(crate) fn metadata_to(&self, at: u64, to: &mut [u8]) -> Result<(), Status> {
        self.metadata.as_ref().map_or(Ok(()), |arena| arena.copy_to(at, to)).map_err(|_| Status::READ_ERROR)
    }

    /// Sets metadata at `at` bytes.
    pub(crate) fn set_metadata(&self, at: u64, from: &[u8]) -> Result<(), Status> {
        self.metadata
            .as_ref()
            .map_or(Ok(()), |arena| arena.copy_from(at, from))
            .map_err(|_| Status::WRITE_FAULT)
    }

    /// How many blocks it has.
    #[inline]
    pub(crate) fn blocks(&self) -> u64 {
        self.live.blocks.load(Ordering::Relaxed)
    }

    /// The size of a block as a power of two.
    #[inline]
    pub(crate) fn lba_shift(&self) -> u8 {
        self.live.lba_shift.load(Ordering::Relaxed)
    }

    /// Whether hosts can use it.
    #[inline]
    pub(crate) fn is_attached(&self) -> bool {
        self.live.attached.load(Ordering::Relaxed)
    }
}

/// Metadata of all ones, which says that nothing is to be checked.
fn fill_with_ones(arena: &Arena, at: u64, len_bytes: u64) -> Result<(), DmaError> {
    const ONES: [u8; 4096] = [0xFF; 4096];
    (0..len_bytes).step_by(ONES.len()).try_for_each(|done| {
        let len = (len_bytes - done).min(ONES.len() as u64) as usize;
        arena.copy_from(at + done, &ONES[..len])
    })
}

impl Store {
    /// Copies the bytes at `at` to the host's segments.
    #[inline]
    pub(crate) fn read(&self, at: u64, segments: &[Segment], view: &mut View) -> Result<(), Fault> {
        let mut at = at;
        for segment in segments {
            let Segment { iova, len_bytes } = *segment;
            match self {
                Store::Null | Store::Node(_) => view.check(iova, len_bytes, true)?,
                Store::Zero => {
                    view.pieces(iova, len_bytes, |memory, offset, _, len| memory.fill(offset, len, 0))?
                }
                Store::Ram(arena) => view.pieces(iova, len_bytes, |memory, offset, done, len| {
                    memory.copy_from_arena(offset, arena, at + done as u64, len)
                })?,
            }
            at += len_bytes as u64;
        }
        Ok(())
    }

    /// Copies the host's segments to the bytes at `at`.
    #[inline]
    pub(crate) fn write(&self, at: u64, segments: &[Segment], view: &mut View) -> Result<(), Fault> {
        let mut at = at;
        for segment in segments {
            let Segment { iova, len_bytes } = *segment;
            match self {
                Store::Null | Store::Zero | Store::Node(_) => view.check(iova, len_bytes, false)?,
                Store::Ram(arena) => view.pieces(iova, len_bytes, |memory, offset, done, len| {
                    memory.copy_to_arena(offset, arena, at + done as u64, len)
                })?,
            }
            at += len_bytes as u64;
        }
        Ok(())
    }

    /// Copies the bytes at `at` into `to`, for looking at them.
    pub(crate) fn copy_to(&self, at: u64, to: &mut [u8]) -> Result<(), DmaError> {
        match self {
            Store::Null | Store::Zero | Store::Node(_) => to.fill(0),
            Store::Ram(arena) => arena.copy_to(at, to)?,
        }
        Ok(())
    }

    /// Copies bytes within the store, through `scratch`.
    pub(crate) fn copy(&self, from: u64, to: u64, scratch: &mut [u8]) -> Result<(), DmaError> {
        self.copy_to(from, scratch)?;
        self.copy_from(to, scratch)
    }

    /// Copies `from` to the bytes at `at`.
    pub(crate) fn copy_from(&self, at: u64, from: &[u8]) -> Result<(), DmaError> {
        match self {
            Store::Null | Store::Zero | Store::Node(_) => Ok(()),
            Store::Ram(arena) => arena.copy_from(at, from),
        }
    }

    /// Makes bytes zero, and gives their memory back if `deallocate`.
    pub(crate) fn zero(&self, at: u64, len_bytes: u64, deallocate: bool) -> Result<(), DmaError> {
        match self {
            Store::Null | Store::Zero | Store::Node(_) => Ok(()),
            Store::Ram(arena) if deallocate => arena.discard(at, len_bytes),
            Store::Ram(arena) => arena.zero(at, len_bytes),
        }
    }
}
