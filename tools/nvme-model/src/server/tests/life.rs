//! How servers and clients come and go.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use corelane_dma::{DmaBuffer, MemRegion};
use corelane_drivers::nvme::bus::vfio_user::{VfioUserBus, VfioUserOptions};
use corelane_drivers::nvme::bus::{Bus, BusError};

use super::fake::{Fake, eventfd, open, signals};
use crate::server::{Server, ServerError, ServerOptions, Stopper};

fn start(path: &Path, device: &Arc<Fake>) -> (Stopper, JoinHandle<()>) {
    let device: Arc<dyn crate::device::Device> = Arc::<Fake>::clone(device);
    let mut server = Server::bind(path, device, ServerOptions::default()).unwrap();
    let stopper = server.stopper();
    (stopper, thread::spawn(move || server.run().unwrap()))
}

fn attach(path: &Path) -> Result<VfioUserBus, BusError> {
    VfioUserBus::open(path, &VfioUserOptions::default())
}

#[test]
fn clients_come_one_after_the_other_and_a_second_one_is_turned_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cntrl");
    let device = Fake::new();
    let (stopper, server) = start(&path, &device);
    for _ in 0..20 {
        // By the folder, as SPDK's are.
        let bus = attach(folder.path()).unwrap();
        let second = attach(&path).map(drop).unwrap_err();
        assert!(matches!(second, BusError::Gone { .. }), "{second}");
        assert!(second.to_string().contains("it may be serving another client"), "{second}");
        assert!(bus.read32(0).is_ok());
    }
    stopper.stop();
    server.join().unwrap();
    assert_eq!(device.notes().resets, 20);
    assert!(!path.exists());
}

#[test]
fn a_server_that_stops_tells_its_client() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let device = Fake::new();
    let (stopper, server) = start(&path, &device);
    let bus = attach(&path).unwrap();
    let doorbell = bus.doorbell(0x1000).unwrap();
    assert_eq!(signals(bus.notices().removal.unwrap()), None);
    stopper.stop();
    server.join().unwrap();
    assert_eq!(signals(bus.notices().removal.unwrap()), Some(1));
    let gone = bus.read32(0).unwrap_err();
    assert!(matches!(&gone, BusError::Gone { .. }), "{gone}");
    assert!(bus.set_interrupts(&[]).is_ok(), "nothing was set, so nothing has to be told");
    let memory = MemRegion::from_buffer(DmaBuffer::new(4096, 4096, bus.backing()).unwrap());
    assert!(bus.dma().register(&memory).is_err());
    doorbell.ring(1).unwrap();
    let nobody = attach(&path).map(drop).unwrap_err();
    assert!(nobody.to_string().contains("no server has made this socket"), "{nobody}");
}

#[test]
fn memory_can_be_given_back_when_the_server_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let (stopper, server) = start(&path, &Fake::new());
    let bus = attach(&path).unwrap();
    let memory = MemRegion::from_buffer(DmaBuffer::new(4096, 4096, bus.backing()).unwrap());
    bus.dma().register(&memory).unwrap();
    stopper.stop();
    server.join().unwrap();
    bus.dma().unregister(&memory).unwrap();
}

#[test]
fn a_path_is_taken_over_from_a_dead_server_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let left = attach(&path).map(drop).unwrap_err();
    assert!(left.to_string().contains("its server is gone"), "{left}");
    let device = Fake::new();
    let (stopper, server) = start(&path, &device);
    let again = Server::bind(&path, device, ServerOptions::default()).err().unwrap();
    assert!(matches!(again, ServerError::InUse { .. }), "{again}");
    assert!(attach(&path).is_ok(), "whoever looked whether somebody listens did no harm");
    stopper.stop();
    server.join().unwrap();
    fs::write(&path, "a file").unwrap();
    let other = Server::bind(&path, Fake::new(), ServerOptions::default()).err().unwrap();
    assert!(matches!(other, ServerError::NotASocket { .. }), "{other}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
    let nowhere = folder.path().join("no/such/folder");
    assert!(matches!(
        Server::bind(&nowhere, Fake::new(), ServerOptions::default()),
        Err(ServerError::Io { .. })
    ));
}

#[test]
fn a_server_does_not_remove_a_socket_that_is_not_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let server = Server::bind(&path, Fake::new(), ServerOptions::default()).unwrap();
    fs::remove_file(&path).unwrap();
    let other = Server::bind(&path, Fake::new(), ServerOptions::default()).unwrap();
    drop(server);
    assert!(UnixStream::connect(&path).is_ok());
    drop(other);
    assert!(!path.exists());
}

/// Open descriptors and mappings of shared files.
fn held() -> (usize, usize) {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let shared = maps.lines().filter(|line| line.contains("/memfd:")).count();
    (fs::read_dir("/proc/self/fd").unwrap().count(), shared)
}

#[test]
fn many_cycles_leave_nothing_behind() {
    let device = Fake::new();
    let before = held();
    for cycle in 0..100 {
        let (bus, server) = open(&device, ServerOptions::default(), &VfioUserOptions::default());
        let eventfds: Vec<_> = (0..20).map(|_| eventfd()).collect();
        let fds: Vec<_> = eventfds.iter().map(std::os::fd::AsFd::as_fd).collect();
        bus.set_interrupts(&fds).unwrap();
        let memory = MemRegion::from_buffer(DmaBuffer::new(0x10000, 4096, bus.backing()).unwrap());
        bus.dma().register(&memory).unwrap();
        let doorbell = bus.doorbell(0x1000).unwrap();
        if cycle % 2 == 0 {
            // Half of the clients do not say goodbye to anything.
            bus.dma().unregister(&memory).unwrap();
            bus.set_interrupts(&[]).unwrap();
        }
        drop((doorbell, bus, memory));
        server.join().unwrap();
        assert!(device.is_free());
    }
    // Other tests of the process come and go meanwhile; a leak is a hundred of something.
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let after = held();
        if after.0 < before.0 + 50 && after.1 < before.1 + 50 {
            return;
        }
        assert!(Instant::now() < end, "{before:?} became {after:?}");
        thread::sleep(Duration::from_millis(20));
    }
}
