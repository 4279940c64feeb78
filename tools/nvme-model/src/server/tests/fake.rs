//! A device that takes notes of what it is told, and ways to serve it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use corelane_dma::{Backing, DeviceMemory, DmaBuffer, MemRegion};
use corelane_drivers::nvme::bus::vfio_user::socket::Socket;
use corelane_drivers::nvme::bus::vfio_user::{VfioUserBus, VfioUserOptions};

use crate::device::{Device, DeviceError, DoorbellMemory, Region};
use crate::server::{ServerOptions, serve_connection};

pub const VECTORS: u32 = 35;
pub const BAR_BYTES: u64 = 0x4000;
pub const DOORBELLS: u64 = 0x1000;

pub struct Notes {
    regions: BTreeMap<u32, Vec<u8>>,
    pub memory: BTreeMap<u64, DeviceMemory>,
    pub vectors: Vec<Option<OwnedFd>>,
    pub resets: usize,
    /// How many accesses were refused.
    pub refused: usize,
}

/// The device. Its doorbells lie in a file at the same offset as in BAR 0.
pub struct Fake {
    pub notes: Mutex<Notes>,
    pub bar: Arc<DmaBuffer>,
}

impl Fake {
    pub fn new() -> Arc<Fake> {
        let bar = DmaBuffer::new(BAR_BYTES as usize, 4096, Backing::Memfd).unwrap();
        let regions = BTreeMap::from([(4, vec![0; 0x2000]), (7, vec![0; 256])]);
        let notes = Notes {
            regions,
            memory: BTreeMap::new(),
            vectors: (0..VECTORS).map(|_| None).collect(),
            resets: 0,
            refused: 0,
        };
        Arc::new(Fake { notes: Mutex::new(notes), bar: Arc::new(bar) })
    }

    pub fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap()
    }

    /// The 32-bit word at `offset` of BAR 0, as the device sees it.
    pub fn word(&self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        self.bar.copy_to(offset as usize, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    /// Whether nothing of a client is left.
    pub fn is_free(&self) -> bool {
        let notes = self.notes();
        notes.memory.is_empty() && notes.vectors.iter().all(Option::is_none)
    }

    fn range(&self, region: Region, offset: u64, len: usize) -> Result<std::ops::Range<usize>, DeviceError> {
        let region_bytes = self.region_len(region);
        let len_bytes = len as u64;
        match offset.checked_add(len_bytes).filter(|&end| end <= region_bytes) {
            Some(end) => Ok(offset as usize..end as usize),
            None => {
                self.notes().refused += 1;
                Err(DeviceError::Range { region, offset_bytes: offset, len_bytes, region_bytes })
            }
        }
    }
}

fn key(region: Region) -> u32 {
    if region == Region::Config { 7 } else { 4 }
}

impl Device for Fake {
    fn region_len(&self, region: Region) -> u64 {
        match region {
            Region::Bar0 => BAR_BYTES,
            other => self.notes().regions[&key(other)].len() as u64,
        }
    }

    fn doorbell_memory(&self) -> DoorbellMemory<'_> {
        DoorbellMemory {
            fd: self.bar.fd().unwrap(),
            fd_offset_bytes: DOORBELLS,
            bar_offset_bytes: DOORBELLS,
            len_bytes: BAR_BYTES - DOORBELLS,
        }
    }

    fn read(&self, region: Region, offset: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        let range = self.range(region, offset, data.len())?;
        match region {
            Region::Bar0 => self.bar.copy_to(range.start, data).unwrap(),
            other => data.copy_from_slice(&self.notes().regions[&key(other)][range]),
        }
        Ok(())
    }

    fn write(&self, region: Region, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        let range = self.range(region, offset, data.len())?;
        match region {
            Region::Bar0 => {
                let memory = DeviceMemory::of(&MemRegion::from_buffer(Arc::clone(&self.bar)));
                memory.copy_from(range.start, data).unwrap();
            }
            other => self.notes().regions.get_mut(&key(other)).unwrap()[range].copy_from_slice(data),
        }
        Ok(())
    }

    fn dma_map(&self, iova: u64, memory: DeviceMemory) -> Result<(), DeviceError> {
        self.notes().memory.insert(iova, memory);
        Ok(())
    }

    fn dma_unmap(&self, iova: u64, len_bytes: u64) -> Result<u64, DeviceError> {
        let removed = self.notes().memory.remove(&iova).unwrap();
        assert_eq!(removed.len() as u64, len_bytes);
        Ok(len_bytes)
    }

    fn dma_unmap_all(&self) {
        self.notes().memory.clear();
    }

    fn interrupts(&self) -> u32 {
        VECTORS
    }

    fn set_interrupts(&self, first: u32, eventfds: Vec<Option<OwnedFd>>) -> Result<(), DeviceError> {
        let mut notes = self.notes();
        for (slot, eventfd) in notes.vectors[first as usize..].iter_mut().zip(eventfds) {
            *slot = eventfd;
        }
        Ok(())
    }

    fn reset(&self) {
        let mut notes = self.notes();
        notes.resets += 1;
        notes.regions.get_mut(&7).unwrap()[4] = 0;
    }
}

/// Serves a device to one client. The thread ends when the client is gone.
pub fn serve(device: &Arc<Fake>, options: ServerOptions) -> (UnixStream, JoinHandle<()>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let device = Arc::clone(device);
    let thread = std::thread::spawn(move || serve_connection(OwnedFd::from(theirs), device, options));
    (ours, thread)
}

/// A bus on a device that is being served.
pub fn open(
    device: &Arc<Fake>,
    server: ServerOptions,
    client: &VfioUserOptions,
) -> (VfioUserBus, JoinHandle<()>) {
    let (stream, thread) = serve(device, server);
    let socket = Socket::from(OwnedFd::from(stream));
    (VfioUserBus::on(socket, "vfio-user:pair".into(), client).unwrap(), thread)
}

/// How often an eventfd was signalled since it was read last; `None` for not at all.
pub fn signals(eventfd: impl AsFd) -> Option<u64> {
    let mut count = [0; 8];
    rustix::io::read(eventfd, &mut count).ok().map(|_| u64::from_ne_bytes(count))
}

/// An eventfd whose reads do not wait.
pub fn eventfd() -> OwnedFd {
    rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap()
}
