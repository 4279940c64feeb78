//! The bus against servers that describe functions which cannot be.

use std::fs::File;
use std::io::IoSlice;
use std::os::unix::net::UnixStream;
use std::thread;

use zerocopy::{FromBytes, IntoBytes};

use super::super::socket::{Deadline, Message};
use super::super::wire::{
    CAP_SPARSE_MMAP, CapHeader, DeviceInfo, Header, IrqInfo, IrqSet, REGION_CAPS, REGION_MMAP, REGION_READ,
    REGION_WRITE, RegionAccess, RegionInfo, SparseArea, SparseHeader, TYPE_REPLY, Version,
};
use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// What a server says of its function.
#[derive(Clone)]
struct Says {
    device: DeviceInfo,
    bar: RegionInfo,
    areas: Vec<SparseArea>,
    /// The lengths of the files that come along.
    files: Vec<u64>,
    config: RegionInfo,
    vectors: IrqInfo,
    takes_notices: bool,
}

fn region(index: u32, size: u64) -> RegionInfo {
    let flags = REGION_READ | REGION_WRITE;
    RegionInfo { argsz: 32, flags, index, cap_offset: 0, size, offset: 0 }
}

/// A server of a function as it should be: doorbells in the second page of a file.
fn good() -> Says {
    let flags = DEVICE_PCI | DEVICE_RESETS;
    let mut bar = region(0, 0x4000);
    (bar.argsz, bar.cap_offset) = (32 + 16 + 16, 32);
    bar.flags |= REGION_MMAP | REGION_CAPS;
    Says {
        device: DeviceInfo { argsz: 16, flags, num_regions: 9, num_irqs: 5 },
        bar,
        areas: vec![SparseArea { offset: 0x1000, size: 0x1000 }],
        files: vec![0x4000],
        config: region(7, 256),
        vectors: IrqInfo { argsz: 16, flags: IRQ_EVENTFD, index: IRQ_MSIX, count: 4 },
        takes_notices: true,
    }
}

fn bar_reply(says: &Says) -> Vec<u8> {
    let mut payload = says.bar.as_bytes().to_vec();
    if says.bar.flags & REGION_CAPS != 0 {
        payload.extend_from_slice(CapHeader { id: CAP_SPARSE_MMAP, version: 1, next: 0 }.as_bytes());
        let nr_areas = says.areas.len() as u32;
        payload.extend_from_slice(SparseHeader { nr_areas, reserved: 0 }.as_bytes());
        payload.extend_from_slice(says.areas.as_bytes());
    }
    payload
}

fn answer(says: &Says, message: &Message) -> Option<Vec<u8>> {
    let payload = &message.payload;
    Some(match message.header.command() {
        Command::VERSION => Version { major: 0, minor: 1 }.as_bytes().to_vec(),
        Command::DEVICE_GET_INFO => says.device.as_bytes().to_vec(),
        Command::DEVICE_GET_REGION_INFO => match RegionInfo::read_from_bytes(payload).unwrap().index {
            REGION_BAR0 => bar_reply(says),
            _ => says.config.as_bytes().to_vec(),
        },
        Command::DEVICE_GET_IRQ_INFO => match IrqInfo::read_from_bytes(payload).unwrap().index {
            IRQ_MSIX => says.vectors.as_bytes().to_vec(),
            index => IrqInfo { index, count: 1, ..says.vectors }.as_bytes().to_vec(),
        },
        Command::DEVICE_SET_IRQS if IrqSet::read_from_bytes(payload).unwrap().index != IRQ_MSIX => {
            return says.takes_notices.then(Vec::new);
        }
        Command::REGION_READ => {
            let (access, _) = RegionAccess::read_from_prefix(payload).unwrap();
            [access.as_bytes(), &vec![0; access.count as usize]].concat()
        }
        Command::REGION_WRITE => payload[..16].to_vec(),
        _ => Vec::new(),
    })
}

fn serve(says: &Says, socket: &Socket) {
    let files: Vec<File> = says
        .files
        .iter()
        .map(|&len| {
            let file = tempfile::tempfile().unwrap();
            file.set_len(len).unwrap();
            file
        })
        .collect();
    while let Ok(message) = socket.receive(1 << 20, Deadline::after(PATIENCE)) {
        let bar = message.header.command() == Command::DEVICE_GET_REGION_INFO && message.payload[8] == 0;
        let fds: Vec<BorrowedFd<'_>> = files.iter().filter(|_| bar).map(AsFd::as_fd).collect();
        let (flags, error, payload) = match answer(says, &message) {
            Some(payload) => (TYPE_REPLY, 0, payload),
            None => (TYPE_REPLY | super::super::wire::FLAG_ERROR, 22, Vec::new()),
        };
        let size_bytes = (Header::BYTES + payload.len()) as u32;
        let header = Header { flags, error, size_bytes, ..message.header };
        let mut parts = [IoSlice::new(header.as_bytes()), IoSlice::new(&payload)];
        if socket.send(&mut parts, &fds, Deadline::after(PATIENCE)).is_err() {
            return;
        }
    }
}

fn open(says: Says) -> Result<VfioUserBus, BusError> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let theirs = Socket::from(OwnedFd::from(theirs));
    thread::spawn(move || serve(&says, &theirs));
    VfioUserBus::on(Socket::from(OwnedFd::from(ours)), "vfio-user:pair".into(), &VfioUserOptions::default())
}

#[test]
fn a_function_as_it_should_be_is_taken() {
    let bus = open(good()).unwrap();
    assert_eq!((bus.registers_len(), bus.interrupts()), (0x4000, 4));
    assert!(matches!(bus.doorbell(0x1ffc).unwrap(), Doorbell::Mapped(_)));
    // Behind the area that the server offers.
    assert!(matches!(bus.doorbell(0x2000).unwrap(), Doorbell::Message { .. }));
    assert!(bus.notices().error.is_some() && bus.notices().removal.is_some());
    let constraints = bus.dma().constraints();
    assert_eq!(
        (constraints.page_bytes, constraints.max_mappings, constraints.needs_fd),
        (4096, Some(65_535), true)
    );
    assert_eq!(format!("{:?}", bus.bar().areas), "[4096..8192]");
}

#[test]
fn what_a_function_may_lack_is_done_without() {
    let mut says = good();
    says.device.flags = DEVICE_PCI;
    says.device.num_irqs = 2;
    says.files.clear();
    let bus = open(says).unwrap();
    assert_eq!(bus.interrupts(), 0);
    assert!(bus.notices().error.is_none());
    assert!(matches!(bus.reset(), Err(BusError::Unsupported { .. })));
    assert!(matches!(bus.doorbell(0x1000).unwrap(), Doorbell::Message { .. }));
    let bus = open(Says { takes_notices: false, ..good() }).unwrap();
    assert!(bus.notices().error.is_none() && bus.notices().removal.is_none());
    let mut says = good();
    says.vectors.flags = 0;
    assert_eq!(open(says).unwrap().interrupts(), 0);
}

#[test]
fn several_areas_have_a_file_each_or_one_for_all() {
    let area = |offset| SparseArea { offset, size: 0x1000 };
    let mut says = Says { areas: vec![area(0x3000), area(0x1000)], ..good() };
    says.bar.argsz += 16;
    // The second file is long enough for the second area only.
    for files in [vec![0x4000], vec![0x4000, 0x2000]] {
        let bus = open(Says { files, ..says.clone() }).unwrap();
        for offset in [0x1000, 0x3000] {
            assert!(matches!(bus.doorbell(offset).unwrap(), Doorbell::Mapped(_)));
        }
        assert!(matches!(bus.doorbell(0x2000).unwrap(), Doorbell::Message { .. }));
    }
    assert!(open(Says { files: vec![0x4000; 3], ..says }).is_err());
}

#[test]
fn functions_that_cannot_be_are_refused_with_what_is_wrong() {
    type Spoil = fn(&mut Says);
    let spoils: [(Spoil, &str); 12] = [
        (|says| says.device.flags = DEVICE_RESETS, "no PCI function"),
        (|says| says.device.num_regions = 7, "7 regions"),
        (|says| says.device.num_regions = u32::MAX, "no PCI function"),
        (|says| says.device.num_irqs = u32::MAX, "no PCI function"),
        (
            |says| {
                says.areas.clear();
                says.bar.size = 0x1000;
            },
            "BAR 0 has 0x1000 bytes",
        ),
        (|says| says.bar.size = 1 << 50, "BAR 0 has 0x4000000000000 bytes"),
        (|says| says.bar.flags &= !REGION_WRITE, "BAR 0 has 0x4000 bytes and flags 0xd"),
        (|says| says.bar.argsz = 1 << 20, "argsz is 1048576"),
        (|says| says.files = vec![0x1fff], "of a file of 0x1fff bytes"),
        (|says| says.areas[0].size = 0x4000, "reaches outside the region"),
        (|says| says.config.size = 63, "the configuration space has 63 bytes"),
        (|says| says.vectors.count = 2049, "2049 MSI-X vectors"),
    ];
    for (spoil, expected) in spoils {
        let mut says = good();
        spoil(&mut says);
        let refused = open(says).map(drop).unwrap_err();
        let text = refused.to_string();
        assert!(matches!(refused, BusError::Message { .. }) && text.contains(expected), "{text}");
        assert!(text.starts_with("vfio-user:pair: "), "{text}");
    }
}
