use std::os::fd::AsFd;

use corelane_dma::{Backing, DmaBuffer, DmaError, MemRegion};
use corelane_drivers::nvme::bus::vfio_user::VfioUserOptions;
use corelane_drivers::nvme::bus::{Bus, BusError, Doorbell};

use super::fake::{BAR_BYTES, DOORBELLS, Fake, VECTORS, eventfd, open, signals};
use crate::server::ServerOptions;

#[test]
fn what_the_function_looks_like_comes_from_the_server() {
    let device = Fake::new();
    let (bus, server) = open(&device, ServerOptions::default(), &VfioUserOptions::default());
    assert_eq!((bus.registers_len(), bus.interrupts()), (BAR_BYTES, VECTORS));
    assert_eq!((bus.address(), bus.backing()), ("vfio-user:pair", Backing::Memfd));
    assert_eq!(bus.bar().areas, vec![DOORBELLS..BAR_BYTES; 1]);
    assert!(bus.notices().error.is_some() && bus.notices().removal.is_some());
    drop(bus);
    server.join().unwrap();
    assert!(device.is_free());
    assert_eq!(device.notes().resets, 1);
}

#[test]
fn registers_and_configuration_are_read_and_written() {
    let device = Fake::new();
    let (bus, _server) = open(&device, ServerOptions::default(), &VfioUserOptions::default());
    bus.write32(0x14, 0x0046_0001).unwrap();
    bus.write64(0x28, 0x1122_3344_5566_7788).unwrap();
    assert_eq!(device.word(0x14), 0x0046_0001);
    assert_eq!(bus.read64(0x28).unwrap(), 0x1122_3344_5566_7788);
    assert_eq!(bus.read32(0x2c).unwrap(), 0x1122_3344);
    let mut command = [0; 2];
    bus.config_read(4, &mut command).unwrap();
    assert_eq!(command, [6, 0], "memory and bus mastering are on");
    bus.config_write(0x10, &[1, 2, 3, 4]).unwrap();
    let mut bar = [0; 4];
    bus.config_read(0x10, &mut bar).unwrap();
    assert_eq!(bar, [1, 2, 3, 4]);
    // The extended space is there, and empty.
    let mut extended = [7; 8];
    bus.config_read(252, &mut extended).unwrap();
    assert_eq!(extended, [0; 8]);
    bus.config_write(256, &[1; 4]).unwrap();
    for refused in [
        bus.read32(BAR_BYTES).map(drop),
        bus.read32(2).map(drop),
        bus.read64(BAR_BYTES - 4).map(drop),
        bus.write32(u64::MAX - 3, 0),
        bus.config_read(4095, &mut [0; 2]),
        bus.config_write(u32::MAX, &[0]),
        bus.config_read(0, &mut []),
    ] {
        assert!(matches!(refused, Err(BusError::Range { .. })), "{refused:?}");
    }
    assert_eq!(device.notes().refused, 0, "the bus checks before it asks");
}

#[test]
fn doorbells_are_memory_where_the_server_offers_it_and_messages_elsewhere() {
    let device = Fake::new();
    let without = ServerOptions { map_doorbells: false };
    let refusing = VfioUserOptions { map_doorbells: false, ..VfioUserOptions::default() };
    for (server, client, mapped) in [
        (ServerOptions::default(), VfioUserOptions::default(), true),
        (without, VfioUserOptions::default(), false),
        (ServerOptions::default(), refusing, false),
    ] {
        let (bus, _server) = open(&device, server, &client);
        let doorbell = bus.doorbell(DOORBELLS + 8).unwrap();
        assert_eq!(matches!(doorbell, Doorbell::Mapped(_)), mapped);
        doorbell.ring(77 + u32::from(mapped)).unwrap();
        // What is asked afterwards is answered after the message.
        assert_eq!(bus.read32(DOORBELLS + 8).unwrap(), 77 + u32::from(mapped));
        assert_eq!(device.word(DOORBELLS + 8), 77 + u32::from(mapped));
        assert!(matches!(bus.doorbell(0x14).unwrap(), Doorbell::Message { .. }));
        assert_eq!(bus.bar_memory(0, DOORBELLS, 0x1000).is_some(), mapped);
        assert!(bus.bar_memory(0, 0, 0x1000).is_none() && bus.bar_memory(0, BAR_BYTES, 0x1000).is_none());
        assert!(bus.doorbell(BAR_BYTES).is_err() && bus.doorbell(DOORBELLS + 2).is_err());
        // It outlives the bus.
        drop(bus);
        doorbell.ring(1).unwrap();
    }
}

#[test]
fn memory_is_shared_by_its_descriptor() {
    let device = Fake::new();
    let (bus, _server) = open(&device, ServerOptions::default(), &VfioUserOptions::default());
    let whole = MemRegion::from_buffer(DmaBuffer::new(0x8000, 4096, bus.backing()).unwrap());
    let part = whole.part(0x2000, 0x3000).unwrap();
    bus.dma().register(&part).unwrap();
    let (iova, seen) = {
        let notes = device.notes();
        let (iova, memory) = notes.memory.iter().next().unwrap();
        (*iova, memory.clone())
    };
    assert_eq!((seen.len(), seen.is_writable()), (0x3000, true));
    seen.copy_from(1, b"from the device").unwrap();
    let mut bytes = [0; 15];
    corelane_dma::DeviceMemory::of(&whole).copy_to(0x2001, &mut bytes).unwrap();
    assert_eq!(&bytes, b"from the device");
    assert!(iova >= 4096);
    bus.dma().unregister(&part).unwrap();
    assert!(device.notes().memory.is_empty());
    let private = MemRegion::from_buffer(DmaBuffer::new(4096, 4096, Backing::Pages).unwrap());
    assert!(matches!(bus.dma().register(&private), Err(DmaError::NeedsFd { .. })));
}

#[test]
fn interrupts_reach_their_eventfds() {
    let device = Fake::new();
    let (bus, _server) = open(&device, ServerOptions::default(), &VfioUserOptions::default());
    let eventfds: Vec<_> = (0..VECTORS).map(|_| eventfd()).collect();
    let all: Vec<_> = eventfds.iter().map(AsFd::as_fd).collect();
    let signal = |vector: usize| {
        let notes = device.notes();
        let eventfd = notes.vectors[vector].as_ref()?;
        rustix::io::write(eventfd, &1u64.to_ne_bytes()).ok()
    };
    bus.set_interrupts(&all).unwrap();
    for vector in [0, 16, 34] {
        signal(vector).unwrap();
        assert_eq!(signals(&eventfds[vector]), Some(1));
    }
    // Fewer: the others are off.
    bus.set_interrupts(&all[..2]).unwrap();
    assert!(signal(1).is_some() && signal(2).is_none());
    bus.set_interrupts(&[]).unwrap();
    assert!(signal(0).is_none());
    let many = vec![eventfds[0].as_fd(); VECTORS as usize + 1];
    assert!(matches!(bus.set_interrupts(&many), Err(BusError::Range { .. })));
}

#[test]
fn a_reset_reaches_the_device_and_leaves_the_function_usable() {
    let device = Fake::new();
    let (bus, _server) = open(&device, ServerOptions::default(), &VfioUserOptions::default());
    bus.reset().unwrap();
    assert_eq!(device.notes().resets, 1);
    let mut command = [0; 1];
    bus.config_read(4, &mut command).unwrap();
    assert_eq!(command, [6]);
}
