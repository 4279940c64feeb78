//! Clients that misbehave.

use std::io::{IoSlice, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use corelane_dma::{Backing, DmaBuffer};
use corelane_drivers::nvme::bus::Bus;
use corelane_drivers::nvme::bus::vfio_user::VfioUserOptions;
use corelane_drivers::nvme::bus::vfio_user::socket::{Deadline, Message, Socket, SocketError};
use corelane_drivers::nvme::bus::vfio_user::wire::*;
use proptest::prelude::*;
use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::fake::{Fake, VECTORS, eventfd, open, serve};
use crate::server::ServerOptions;

fn deadline() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

fn header(command: Command, payload: usize, flags: u32) -> Header {
    let size_bytes = (Header::BYTES + payload) as u32;
    Header { message_id: 0xabc, command: command.0, size_bytes, flags, error: 0 }
}

/// A client that sends what it is told.
struct Raw(Socket);

impl Raw {
    /// On a device, with hands shaken.
    fn on(device: &Arc<Fake>) -> Raw {
        let (stream, _server) = serve(device, ServerOptions::default());
        let raw = Raw(Socket::from(OwnedFd::from(stream)));
        let version = Version { major: 0, minor: 1 };
        let text = b"{\"capabilities\":{\"max_msg_fds\":8,\"twin_socket\":{\"supported\":true}}}\0";
        let reply = raw.ask(Command::VERSION, &[version.as_bytes(), text].concat(), &[]).unwrap();
        assert_eq!(reply.payload[..4], [0, 0, 1, 0]);
        raw
    }

    fn tell(&self, header: Header, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), SocketError> {
        self.0.send(&mut [IoSlice::new(header.as_bytes()), IoSlice::new(payload)], fds, deadline())
    }

    fn ask(&self, command: Command, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Message, Errno> {
        self.tell(header(command, payload.len(), 0), payload, fds).unwrap();
        let message = self.0.receive(1 << 21, deadline()).unwrap();
        assert_eq!((message.header.message_id, message.header.command), (0xabc, command.0));
        if message.header.flags & FLAG_ERROR != 0 {
            assert!(message.payload.is_empty() && message.fds.is_empty());
            return Err(Errno::from_raw_os_error(message.header.error as i32));
        }
        assert_eq!(message.header.flags, TYPE_REPLY);
        Ok(message)
    }

    fn is_disconnected(&self) -> bool {
        matches!(self.0.receive(1 << 21, deadline()), Err(SocketError::Closed { .. }))
    }
}

#[test]
fn commands_that_make_no_sense_get_an_errno_and_the_connection_lives_on() {
    let device = Fake::new();
    let raw = Raw::on(&device);
    let region = |index, argsz| RegionInfo { argsz, flags: 0, index, cap_offset: 0, size: 0, offset: 0 };
    let irq = |index, argsz| IrqInfo { argsz, flags: 0, index, count: 0 };
    let at = |region, offset, count| RegionAccess { region, offset, count };
    let info = DeviceInfo { argsz: 15, flags: 0, num_regions: 0, num_irqs: 0 };
    let cases: Vec<(Command, Vec<u8>, Errno)> = vec![
        (Command::VERSION, vec![0, 0, 1, 0], Errno::INVAL),
        (Command::DEVICE_GET_INFO, vec![], Errno::INVAL),
        (Command::DEVICE_GET_INFO, info.as_bytes().to_vec(), Errno::INVAL),
        (Command::DEVICE_GET_INFO, vec![16; 17], Errno::INVAL),
        (Command::DEVICE_GET_REGION_INFO, region(9, 32).as_bytes().to_vec(), Errno::INVAL),
        (Command::DEVICE_GET_REGION_INFO, region(u32::MAX, 32).as_bytes().to_vec(), Errno::INVAL),
        (Command::DEVICE_GET_REGION_INFO, region(0, 31).as_bytes().to_vec(), Errno::INVAL),
        (Command::DEVICE_GET_IRQ_INFO, irq(5, 16).as_bytes().to_vec(), Errno::INVAL),
        (Command::DEVICE_GET_IRQ_INFO, irq(2, 15).as_bytes().to_vec(), Errno::INVAL),
        (Command::REGION_READ, at(0, 0x4000, 1).as_bytes().to_vec(), Errno::INVAL),
        (Command::REGION_READ, at(0, u64::MAX, 2).as_bytes().to_vec(), Errno::INVAL),
        (Command::REGION_READ, at(0, 0, 0).as_bytes().to_vec(), Errno::INVAL),
        (Command::REGION_READ, at(0, 0, u32::MAX).as_bytes().to_vec(), Errno::INVAL),
        (Command::REGION_READ, at(1, 0, 4).as_bytes().to_vec(), Errno::INVAL),
        (Command::REGION_READ, at(77, 0, 4).as_bytes().to_vec(), Errno::INVAL),
        (Command::REGION_WRITE, at(0, 0, 4).as_bytes().to_vec(), Errno::INVAL),
        (Command::REGION_WRITE, vec![0; 15], Errno::INVAL),
        (Command::REGION_WRITE, [at(0, 0, 4).as_bytes(), &[0; 5]].concat(), Errno::INVAL),
        (Command::REGION_WRITE, [at(7, 4095, 2).as_bytes(), &[0; 2]].concat(), Errno::INVAL),
        (Command::DEVICE_RESET, vec![0], Errno::INVAL),
        (Command::DEVICE_GET_REGION_IO_FDS, vec![0; 16], Errno::OPNOTSUPP),
        (Command::DMA_READ, vec![0; 16], Errno::OPNOTSUPP),
        (Command(0), vec![], Errno::OPNOTSUPP),
        (Command(999), vec![1; 1000], Errno::OPNOTSUPP),
    ];
    let fd = eventfd();
    for (command, payload, errno) in &cases {
        assert_eq!(raw.ask(*command, payload, &[]).unwrap_err(), *errno, "{command:?} {payload:?}");
    }
    assert_eq!(raw.ask(Command::DEVICE_RESET, &[], &[fd.as_fd()]).unwrap_err(), Errno::INVAL);
    assert_eq!(device.notes().resets, 0);
    raw.ask(Command::DEVICE_RESET, &[], &[]).unwrap();
    let notes = device.notes();
    assert_eq!((notes.resets, notes.refused), (1, 0));
}

#[test]
fn mappings_are_checked_against_the_file_and_each_other() {
    let device = Fake::new();
    let raw = Raw::on(&device);
    let memory = DmaBuffer::new(0x4000, 4096, Backing::Memfd).unwrap();
    let fd = memory.fd().unwrap();
    let both = DMA_READABLE | DMA_WRITABLE;
    let map = |flags, offset, address, size, fds: &[BorrowedFd<'_>]| {
        let map = DmaMap { argsz: 32, flags, offset, address, size };
        raw.ask(Command::DMA_MAP, map.as_bytes(), fds).map(drop)
    };
    let unmap = |flags, address, size| {
        let unmap = DmaUnmap { argsz: 24, flags, address, size };
        raw.ask(Command::DMA_UNMAP, unmap.as_bytes(), &[]).map(|reply| assert_eq!(reply.payload.len(), 24))
    };
    for (flags, offset, address, size) in [
        (0, 0, 0, 0x1000),
        (4, 0, 0, 0x1000),
        (both, 0, 0, 0),
        (both, 0, 0x800, 0x1000),
        (both, 0x10, 0, 0x1000),
        (both, 0, 0, 0x1001),
        (both, 0, u64::MAX - 0xfff, 0x2000),
        (both, 0x1000, 0, 0x4000),
        (both, u64::MAX - 0xfff, 0, 0x1000),
        (both, 0, 0x1000, u64::MAX - 0xfff),
    ] {
        assert!(map(flags, offset, address, size, &[fd]).is_err(), "{offset:#x} {address:#x} {size:#x}");
    }
    assert_eq!(map(both, 0, 0, 0x1000, &[fd, fd]), Err(Errno::INVAL));
    let not_a_file = eventfd();
    assert!(map(both, 0, 0, 0x1000, &[not_a_file.as_fd()]).is_err());
    assert!(device.is_free());

    map(both, 0x1000, 0x10000, 0x2000, &[fd]).unwrap();
    map(DMA_READABLE, 0, u64::MAX - 0xfff, 0x1000, &[fd]).unwrap();
    map(both, 0, 0x20000, 0x1000, &[]).unwrap();
    assert!(!device.notes().memory[&(u64::MAX - 0xfff)].is_writable());
    assert_eq!(device.notes().memory.len(), 2, "what has no descriptor the device does not see");
    for (address, size) in [(0x10000, 0x1000), (0x11000, 0x1000), (0xf000, 0x2000), (0, 0x40000)] {
        assert_eq!(map(both, 0, address, size.min(0x4000), &[fd]).is_err(), address != 0);
        assert_eq!(map(both, 0, address, size, &[]), Err(Errno::EXIST), "{address:#x}");
        if address == 0 {
            unmap(0, 0, 0x4000).unwrap();
        }
    }
    assert_eq!(unmap(0, 0x10000, 0x1000), Err(Errno::INVAL));
    assert_eq!(unmap(0, 0x11000, 0x1000), Err(Errno::NOENT));
    assert_eq!(unmap(8, 0x10000, 0x2000), Err(Errno::INVAL));
    assert_eq!(unmap(UNMAP_ALL, 0x10000, 0), Err(Errno::INVAL));
    unmap(0, 0x10000, 0x2000).unwrap();
    unmap(0, 0x20000, 0x1000).unwrap();
    unmap(UNMAP_ALL, 0, 0).unwrap();
    assert!(device.is_free());
}

#[test]
fn interrupts_are_set_as_a_whole_or_not_at_all() {
    let device = Fake::new();
    let raw = Raw::on(&device);
    let fds: Vec<_> = (0..4).map(|_| eventfd()).collect();
    let set = |flags, index, start, count, data: &[u8], given: usize| {
        let set = IrqSet { argsz: 20, flags, index, start, count };
        let fds: Vec<_> = fds.iter().take(given).map(AsFd::as_fd).collect();
        raw.ask(Command::DEVICE_SET_IRQS, &[set.as_bytes(), data].concat(), &fds).map(drop)
    };
    let (event, none, boolean) = (IRQ_DATA_EVENTFD, IRQ_DATA_NONE, IRQ_DATA_BOOL);
    let (trigger, mask) = (IRQ_ACTION_TRIGGER, IRQ_ACTION_MASK);
    for (flags, index, start, count, data, given) in [
        (event | trigger, IRQ_MSIX, VECTORS, 1, &[][..], 1),
        (event | trigger, IRQ_MSIX, VECTORS - 1, 2, &[], 2),
        (event | trigger, IRQ_MSIX, u32::MAX, 2, &[], 2),
        (event | trigger, IRQ_MSIX, 0, 2, &[], 1),
        (event | trigger, IRQ_MSIX, 0, 0, &[], 1),
        (event | trigger, IRQ_INTX, 0, 1, &[], 1),
        (event | trigger, 9, 0, 1, &[], 1),
        (event | mask, IRQ_MSIX, 0, 1, &[], 1),
        (event | none | trigger, IRQ_MSIX, 0, 1, &[], 1),
        (event | trigger | mask, IRQ_MSIX, 0, 1, &[], 1),
        (none | trigger, IRQ_MSIX, 0, 1, &[], 1),
        (none | trigger, IRQ_MSIX, 0, 1, &[], 0),
        (boolean | mask, IRQ_MSIX, 0, 2, &[1], 0),
        (event, IRQ_MSIX, 0, 1, &[], 1),
        (1 << 9 | event | trigger, IRQ_MSIX, 0, 1, &[], 1),
    ] {
        assert!(set(flags, index, start, count, data, given).is_err(), "{flags:#x} {index} {start} {count}");
    }
    assert!(device.is_free());
    set(event | trigger, IRQ_MSIX, 3, 4, &[], 4).unwrap();
    set(event | trigger, IRQ_MSIX, 4, 1, &[], 0).unwrap();
    set(boolean | mask, IRQ_MSIX, 0, 2, &[1, 0], 0).unwrap();
    let there: Vec<_> =
        (0..VECTORS as usize).filter(|&vector| device.notes().vectors[vector].is_some()).collect();
    assert_eq!(there, [3, 5, 6]);
    set(event | trigger, IRQ_REQ, 0, 1, &[], 1).unwrap();
    set(none | trigger, IRQ_INTX, 0, 0, &[], 0).unwrap();
    assert_eq!(device.notes().vectors.iter().flatten().count(), 3);
    set(none | trigger, IRQ_MSIX, 0, 0, &[], 0).unwrap();
    assert!(device.is_free());
}

#[test]
fn commands_that_want_no_answer_get_none() {
    let device = Fake::new();
    let raw = Raw::on(&device);
    let access = RegionAccess { offset: 0x1000, region: 0, count: 4 };
    let write = [access.as_bytes(), &[1, 2, 3, 4]].concat();
    raw.tell(header(Command::REGION_WRITE, write.len(), FLAG_NO_REPLY), &write, &[]).unwrap();
    // One that fails is not answered either.
    raw.tell(header(Command::REGION_WRITE, 0, FLAG_NO_REPLY), &[], &[]).unwrap();
    let read = raw.ask(Command::REGION_READ, access.as_bytes(), &[]).unwrap();
    assert_eq!(read.payload[16..], [1, 2, 3, 4]);
}

#[test]
fn who_does_not_shake_hands_is_disconnected() {
    let device = Fake::new();
    let version = |major: u16, text: &[u8]| [&major.to_ne_bytes()[..], &[1, 0], text].concat();
    for (command, payload) in [
        (Command::DEVICE_GET_INFO, vec![0; 16]),
        (Command::VERSION, vec![0; 3]),
        (Command::VERSION, version(1, b"")),
        (Command::VERSION, version(0, b"{}")),
        (Command::VERSION, version(0, b"[\0")),
        (Command::VERSION, version(0, b"{\"capabilities\":{\"pgsizes\":1}}\0")),
    ] {
        let (stream, server) = serve(&device, ServerOptions::default());
        let raw = Raw(Socket::from(OwnedFd::from(stream)));
        assert_eq!(raw.ask(command, &payload, &[]).unwrap_err(), Errno::INVAL);
        assert!(raw.is_disconnected());
        server.join().unwrap();
    }
    let (stream, server) = serve(&device, ServerOptions::default());
    let raw = Raw(Socket::from(OwnedFd::from(stream)));
    raw.tell(header(Command::VERSION, 0, TYPE_REPLY), &[], &[]).unwrap();
    assert!(raw.is_disconnected());
    server.join().unwrap();
}

#[test]
fn a_client_that_takes_no_descriptors_gets_none() {
    let device = Fake::new();
    let (stream, _server) = serve(&device, ServerOptions::default());
    let raw = Raw(Socket::from(OwnedFd::from(stream)));
    let text = b"\0\0\x01\0{\"capabilities\":{\"max_msg_fds\":0}}\0";
    raw.ask(Command::VERSION, text, &[]).unwrap();
    let asked = RegionInfo { argsz: 256, flags: 0, index: 0, cap_offset: 0, size: 0, offset: 0 };
    let reply = raw.ask(Command::DEVICE_GET_REGION_INFO, asked.as_bytes(), &[]).unwrap();
    assert_eq!((reply.payload.len(), reply.fds.len()), (32, 0));
}

/// QEMU asks with room for the structure only, then again with what it was told.
#[test]
fn the_description_of_a_region_is_cut_to_what_the_client_takes() {
    let device = Fake::new();
    let raw = Raw::on(&device);
    let ask = |argsz| {
        let asked = RegionInfo { argsz, flags: 0, index: 0, cap_offset: 0, size: 0, offset: 0 };
        let reply = raw.ask(Command::DEVICE_GET_REGION_INFO, asked.as_bytes(), &[]).unwrap();
        let number = |at: usize| u32::from_ne_bytes(reply.payload[at..at + 4].try_into().unwrap());
        (reply.payload.len(), number(0), number(4), number(12), reply.fds.len())
    };
    let flags = REGION_READ | REGION_WRITE | REGION_MMAP | REGION_CAPS;
    assert_eq!(ask(32), (32, 64, flags, 32, 0));
    assert_eq!(ask(63), (32, 64, flags, 32, 0));
    assert_eq!(ask(64), (64, 64, flags, 32, 1));
}

#[test]
fn half_a_message_does_not_hold_the_server_up() {
    let device = Fake::new();
    let (mut stream, server) = serve(&device, ServerOptions::default());
    stream.write_all(&header(Command::VERSION, 100, 0).as_bytes()[..10]).unwrap();
    // The connection stays open, and the server gives it up by itself.
    server.join().unwrap();
    drop(stream);
}

fn still_works(device: &Arc<Fake>) {
    assert!(device.is_free());
    let (bus, server) = open(device, ServerOptions::default(), &VfioUserOptions::default());
    bus.write32(0x14, 5).unwrap();
    assert_eq!(bus.read32(0x14).unwrap(), 5);
    drop(bus);
    server.join().unwrap();
}

/// A command, often one that exists, with a payload that is often as long as it should be.
fn command() -> impl Strategy<Value = (u16, u32, Vec<u8>, usize)> {
    let flags = prop_oneof![8 => Just(0), 2 => Just(FLAG_NO_REPLY), 1 => any::<u32>()];
    let byte = prop_oneof![4 => Just(0u8), 1 => Just(0x10), 1 => Just(2), 1 => any::<u8>()];
    let length = prop_oneof![Just(16usize), Just(20), Just(24), Just(32), 0..100usize];
    let payload = length.prop_flat_map(move |length| proptest::collection::vec(byte.clone(), length));
    (prop_oneof![9 => 0..20u16, 1 => any::<u16>()], flags, payload, 0..3usize)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn any_commands_leave_the_server_whole(commands in proptest::collection::vec(command(), 0..20)) {
        let device = Fake::new();
        let raw = Raw::on(&device);
        let fds: Vec<_> = (0..2).map(|_| DmaBuffer::new(4096, 4096, Backing::Memfd).unwrap()).collect();
        for (number, flags, payload, count) in commands {
            let fds: Vec<_> = fds.iter().take(count).filter_map(DmaBuffer::fd).collect();
            if raw.tell(header(Command(number), payload.len(), flags), &payload, &fds).is_err() {
                break;
            }
            if flags & (FLAG_NO_REPLY | FLAG_TYPE) == 0 && raw.0.receive(1 << 21, deadline()).is_err() {
                break;
            }
        }
        drop(raw);
        // The session may still be ending.
        for _ in 0..2000 {
            if device.is_free() && device.notes().resets > 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        still_works(&device);
    }

    #[test]
    fn any_bytes_leave_the_server_whole(bytes in proptest::collection::vec(any::<u8>(), 0..200), shake in any::<bool>()) {
        let device = Fake::new();
        let (mut stream, server): (UnixStream, _) = serve(&device, ServerOptions::default());
        if shake {
            let hello = header(Command::VERSION, 4, 0);
            stream.write_all(&[hello.as_bytes(), &[0, 0, 1, 0]].concat()).unwrap();
        }
        // The server may have closed it already.
        let _ = stream.write_all(&bytes);
        drop(stream);
        server.join().unwrap();
        still_works(&device);
    }
}
