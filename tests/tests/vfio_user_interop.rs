//! Both ends of vfio-user against ends that others wrote: the server and the client of the `vfio_user` crate.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use corelane_dma::{Backing, DeviceMemory, DmaBuffer};
use corelane_drivers::contract::{ContractOptions, SPAN_BYTES, check};
use corelane_drivers::nvme::bus::vfio_user::{VfioUserBus, VfioUserOptions};
use corelane_drivers::nvme::bus::{Bus, BusError, Doorbell};
use corelane_drivers::nvme::spec::Nsid;
use corelane_drivers::nvme::{ControllerOptions, NvmeController, NvmeDriver, NvmeOptions, Polling};
use corelane_nvme_model::server::{Server, ServerOptions};
use corelane_nvme_model::{Device, Model, ModelConfig, NamespaceConfig, Region};
use corelane_tests::Seed;
use rand_xoshiro::rand_core::Rng;
use rustix::event::EventfdFlags;
use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_INFO_EVENTFD, VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_REGION_INFO_FLAG_CAPS, VFIO_REGION_INFO_FLAG_MMAP, VFIO_REGION_INFO_FLAG_READ,
    VFIO_REGION_INFO_FLAG_WRITE, vfio_region_info, vfio_region_sparse_mmap_area,
};
use vfio_user::{DmaMapFlags, DmaUnmapFlags, IrqInfo, ServerBackend, ServerRegion, SparseArea};

fn model() -> Arc<Model> {
    Arc::new(Model::new(ModelConfig::new(vec![NamespaceConfig::ram(SPAN_BYTES)])).unwrap())
}

/// Our model behind their server.
struct Backend(Arc<Model>);

fn place(region: u32) -> io::Result<Region> {
    match region {
        0 => Ok(Region::Bar0),
        4 => Ok(Region::Bar4),
        7 => Ok(Region::Config),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

impl ServerBackend for Backend {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.0.read(place(region)?, offset, data).map_err(io::Error::other)
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(place(region)?, offset, data).map_err(io::Error::other)
    }

    fn dma_map(
        &mut self,
        flags: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        fd: Option<File>,
    ) -> io::Result<()> {
        let fd = fd.ok_or(io::ErrorKind::InvalidInput)?;
        let writable = flags.contains(DmaMapFlags::WRITE);
        let memory = DeviceMemory::map_fd(fd.as_fd(), offset, size as usize, writable);
        self.0.dma_map(address, memory.map_err(io::Error::other)?).map_err(io::Error::other)
    }

    fn dma_unmap(&mut self, _flags: DmaUnmapFlags, address: u64, size: u64) -> io::Result<()> {
        self.0.dma_unmap(address, size).map(drop).map_err(io::Error::other)
    }

    fn reset(&mut self) -> io::Result<()> {
        self.0.reset();
        Ok(())
    }

    fn set_irqs(
        &mut self,
        index: u32,
        _flags: u32,
        start: u32,
        count: u32,
        fds: Vec<File>,
    ) -> io::Result<()> {
        if index != 2 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let (start, eventfds) = match count {
            0 => (0, (0..self.0.interrupts()).map(|_| None).collect()),
            _ => (start, fds.into_iter().map(|file| Some(OwnedFd::from(file))).collect()),
        };
        self.0.set_interrupts(start, eventfds).map_err(io::Error::other)
    }
}

/// Serves the model by their server, to one client.
fn serve_by_theirs(path: &Path, model: &Arc<Model>) {
    let doorbells = model.doorbell_memory();
    let both = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
    let region = |index: u32| {
        let (size, flags) = match place(index) {
            Ok(place) => (model.region_len(place), both),
            Err(_) => (0, 0),
        };
        let argsz = size_of::<vfio_region_info>() as u32;
        let region_info = vfio_region_info { argsz, flags, index, size, ..Default::default() };
        ServerRegion { region_info, sparse_areas: Vec::new(), mmap_fd: None }
    };
    let mut regions: Vec<ServerRegion> = (0..9).map(region).collect();
    regions[0].region_info.flags |= VFIO_REGION_INFO_FLAG_MMAP;
    regions[0].region_info.offset = doorbells.fd_offset_bytes - doorbells.bar_offset_bytes;
    regions[0].mmap_fd = Some(doorbells.fd.as_raw_fd());
    let area = vfio_region_sparse_mmap_area { offset: doorbells.bar_offset_bytes, size: doorbells.len_bytes };
    regions[0].sparse_areas.push(SparseArea { area });
    let counts = [0, 0, model.interrupts(), 1, 1];
    let irqs = (0..).zip(counts).map(|(index, count)| IrqInfo { index, flags: VFIO_IRQ_INFO_EVENTFD, count });
    let server = vfio_user::Server::new(path, true, irqs.collect(), regions).unwrap();
    let mut backend = Backend(Arc::clone(model));
    thread::spawn(move || server.run(&mut backend));
}

#[test]
fn our_driver_runs_on_their_server() {
    for poll in [Polling::On, Polling::Off] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cntrl");
        let model = model();
        serve_by_theirs(&path, &model);
        let bus = Arc::new(VfioUserBus::open(&path, &VfioUserOptions::default()).unwrap());
        assert_eq!((bus.registers_len(), bus.interrupts()), (model.region_len(Region::Bar0), 65));
        assert!(bus.notices().error.is_none(), "refused, and done without");
        assert!(matches!(bus.doorbell(0x1000).unwrap(), Doorbell::Mapped(_)));
        bus.config_read(250, &mut [0; 6]).unwrap();
        assert!(matches!(bus.config_read(255, &mut [0; 2]), Err(BusError::Range { .. })));
        let controller = NvmeController::start(bus, &ControllerOptions::default()).unwrap();
        let options = NvmeOptions { poll, ..NvmeOptions::default() };
        let factory = || NvmeDriver::open(&controller, Nsid(1), &options).map(|driver| Box::new(driver) as _);
        let seed = Seed::sequences(1).next().map_or(1, |seed| seed.rng().next_u64());
        let contract = ContractOptions { tags: 16, seed, keeps_data: true };
        check(&factory, &contract).unwrap_or_else(|violation| panic!("{violation}"));
        drop(controller);
        assert_eq!(model.take_violations(), []);
    }
}

#[test]
fn their_client_understands_our_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cntrl");
    let model = model();
    let mut server = Server::bind(&path, Arc::<Model>::clone(&model), ServerOptions::default()).unwrap();
    let stopper = server.stopper();
    let thread = thread::spawn(move || server.run().unwrap());
    let mut client = vfio_user::Client::new(&path).unwrap();

    let bar = client.region(0).unwrap();
    assert_eq!(bar.size, model.region_len(Region::Bar0));
    let mapped = VFIO_REGION_INFO_FLAG_MMAP | VFIO_REGION_INFO_FLAG_CAPS;
    assert_eq!(bar.flags & mapped, mapped);
    assert!(bar.file_offset.is_some());
    assert_eq!((bar.sparse_areas[0].offset, bar.sparse_areas.len()), (0x1000, 1));
    assert_eq!(client.region(7).unwrap().size, 4096);
    assert_eq!(client.region(1).unwrap().size, 0);

    let mut class = [0; 4];
    client.region_read(7, 8, &mut class).unwrap();
    assert_eq!(class[1..], [0x02, 0x08, 0x01], "mass storage, non-volatile memory, NVM Express");
    client.region_write(7, 4, &[6, 0]).unwrap();
    let mut command = [0; 2];
    client.region_read(7, 4, &mut command).unwrap();
    assert_eq!(command, [6, 0]);
    let mut version = [0; 4];
    client.region_read(0, 8, &mut version).unwrap();
    assert!(u32::from_le_bytes(version) >= 0x1_0000);

    assert_eq!(client.get_irq_info(2).unwrap().count, 65);
    let eventfd = rustix::event::eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
    client.set_irqs(2, flags, 0, 1, &[eventfd.as_raw_fd()]).unwrap();
    let memory = DmaBuffer::new(0x4000, 4096, Backing::Memfd).unwrap();
    let fd = memory.fd().unwrap().as_raw_fd();
    client.dma_map(0x1000, 0x10_0000, 0x2000, fd).unwrap();
    // A second one at the same place would be refused; their client does not say so.
    client.dma_unmap(0x10_0000, 0x2000).unwrap();
    client.reset().unwrap();
    // Their client has the two the wrong way round.
    assert!(!client.resettable());
    client.shutdown().unwrap();
    drop(client);
    stopper.stop();
    thread.join().unwrap();
    assert_eq!(model.take_violations(), []);
}
