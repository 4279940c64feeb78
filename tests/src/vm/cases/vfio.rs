//! PCI functions opened through VFIO, by `corelane_dma` alone: registers, interrupts, mapped memory, and what is said when
//! something stands in the way.

use std::os::fd::AsFd;
use std::os::unix::fs::chown;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use corelane_dma::vfio::{PciAddress, VfioFunction, irq, region};
use corelane_dma::{AddressSpace, Backing, DmaBuffer, IoBuf, MemRegion, guest};
use rustix::event::{EventfdFlags, eventfd};
use rustix::process::{Resource, Rlimit, setrlimit};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::vm::{Case, Guest, machines};

const USER: &str = "vfio::an_ordinary_user_is_told_of_the_limit_on_locked_memory";

/// See the module's documentation.
pub const CASES: &[Case] = &[
    case("vfio::a_function_opens_with_its_registers_and_interrupts", registers),
    case("vfio::memory_is_mapped_and_given_back", memory),
    case("vfio::the_limit_of_mappings_is_reached_and_named", mapping_limit),
    case("vfio::what_stands_in_the_way_is_named", obstacles),
    case(USER, ordinary_user),
];

const fn case(name: &'static str, run: fn(&Guest)) -> Case {
    Case { name, machine: &machines::NVME, run, limit: Duration::from_secs(120) }
}

fn address(guest: &Guest, name: &str) -> PciAddress {
    guest.function(name).address().parse().expect("an address of the bus")
}

fn open(guest: &Guest, name: &str) -> VfioFunction {
    guest.function(name).bind_vfio();
    VfioFunction::open(address(guest, name)).unwrap_or_else(|err| panic!("{err}"))
}

/// What opening says that cannot succeed.
fn refused(guest: &Guest, name: &str) -> String {
    match VfioFunction::open(address(guest, name)) {
        Ok(_) => panic!("{name} opens"),
        Err(err) => err.to_string(),
    }
}

fn pages(len_bytes: usize) -> MemRegion {
    MemRegion::from_buffer(DmaBuffer::new(len_bytes, 4096, Backing::Pages).expect("memory"))
}

fn registers(guest: &Guest) {
    let function = open(guest, "default");
    let mut config = [0; 4];
    function.read(region::CONFIG, 0, &mut config).unwrap();
    assert_eq!(config, [0x36, 0x1b, 0x10, 0x00], "QEMU's NVMe controller has the identity 1b36:0010");
    let mut read = [0; 8];
    function.read(region::BAR0, 0, &mut read).unwrap();
    let mapped = function.map(region::BAR0, 0, 4096).unwrap();
    let capabilities = mapped.read64(0).unwrap();
    assert_eq!(u64::from_le_bytes(read), capabilities);
    assert_eq!(capabilities & 0xffff, 2047, "CAP.MQES, as the machine has it");
    assert_eq!(function.irq_count(irq::MSIX), 65);
    let events: Vec<_> = (0..3).map(|_| eventfd(0, EventfdFlags::CLOEXEC).unwrap()).collect();
    let events: Vec<_> = events.iter().map(AsFd::as_fd).collect();
    function.set_irqs(irq::MSIX, &events[..1]).unwrap();
    function.set_irqs(irq::MSIX, &events).unwrap();
    function.set_irqs(irq::MSIX, &[]).unwrap();
    function.reset().unwrap();

    let other = open(guest, "mdts1");
    assert!(Arc::ptr_eq(function.space(), other.space()), "one container holds both groups");
}

/// Registers all, checks that something is mapped for it, and that nothing is afterwards.
fn map_all(space: &AddressSpace, regions: &[MemRegion]) {
    let before = space.mappings();
    for region in regions {
        space.register(region).unwrap_or_else(|err| panic!("{err}"));
    }
    assert!(space.mappings() > before);
    for region in regions {
        space.unregister(region).unwrap_or_else(|err| panic!("{err}"));
    }
    assert_eq!(space.mappings(), before);
}

fn memory(guest: &Guest) {
    let function = open(guest, "default");
    let space = function.space();
    map_all(space, &[pages(4096), pages(1 << 20), pages(4096 * 7)]);
    let huge = DmaBuffer::new(256 << 20, 2 << 20, Backing::HugePages).expect("the machine has them");
    map_all(space, &[MemRegion::from_buffer(huge)]);
    let ranges =
        [(GuestAddress(0), 640 << 10), (GuestAddress(1 << 20), 64 << 20), (GuestAddress(1 << 32), 32 << 20)];
    let machine = GuestMemoryMmap::<()>::from_ranges(&ranges).expect("memory of a guest");
    let regions: Vec<_> =
        guest::guest_regions(&machine).unwrap().into_iter().map(|region| region.memory).collect();
    assert_eq!(regions.len(), ranges.len());
    map_all(space, &regions);
    // A function that joins later sees what is registered already: it is in the same space.
    let region = pages(1 << 20);
    space.register(&region).unwrap();
    let later = open(guest, "mdts1");
    assert!(later.space().mappings() > 0);
    space.unregister(&region).unwrap();
}

fn mapping_limit(guest: &Guest) {
    const LIMIT: usize = 40;
    let parameter = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit";
    let before = std::fs::read_to_string(parameter).unwrap();
    std::fs::write(parameter, LIMIT.to_string()).unwrap();
    let function = open(guest, "default");
    // A container keeps the limit that it began with.
    std::fs::write(parameter, before.trim()).unwrap();
    let space = function.space();
    // More temporary mappings than there can be: the cache is flushed, and each succeeds.
    for _ in 0..3 * LIMIT {
        let buf = IoBuf::from(DmaBuffer::new(8192, 4096, Backing::Pages).expect("memory"));
        space.map_temporary(&buf).unwrap_or_else(|err| panic!("{err}")).end().unwrap();
    }
    space.flush_temporary();
    let mut registered = Vec::new();
    let error = loop {
        let region = pages(4096);
        match space.register(&region) {
            Ok(_) => registered.push(region),
            Err(err) => break err.to_string(),
        }
        assert!(registered.len() <= LIMIT, "there is no limit");
    };
    assert!(error.contains("dma_entry_limit"), "{error}");
    space.unregister(&registered.pop().expect("some were registered")).unwrap();
    let buf = IoBuf::from(DmaBuffer::new(8192, 4096, Backing::Pages).expect("memory"));
    space.map_temporary(&buf).unwrap().end().unwrap();
}

fn obstacles(guest: &Guest) {
    guest.function("default").bind_kernel(1);
    let error = refused(guest, "default");
    assert!(error.contains("bound to the driver nvme") && error.contains("driver_override"), "{error}");
    guest.function("default").unbind();
    assert!(refused(guest, "default").contains("bound to no driver"));
    let error = VfioFunction::open("0000:00:03.0".parse().unwrap()).expect_err("there is none").to_string();
    assert!(error.contains("no PCI device 0000:00:03.0"), "{error}");
    // The virtio-serial port is a function of the machine that is the kernel's.
    let (elder, younger) = (guest.function("elder"), guest.function("younger"));
    let group = elder.bind_vfio();
    younger.bind_kernel(1);
    let error = refused(guest, "elder");
    assert!(error.contains(younger.address()) && error.contains("driver nvme"), "{error}");
    younger.bind_vfio();
    let held = std::fs::File::open(&group).expect("nobody has the group");
    let error = refused(guest, "elder");
    assert!(error.contains("in use by another process"), "{error}");
    drop(held);
    open(guest, "elder");
}

/// Root may lock as much as it likes.
fn ordinary_user(guest: &Guest) {
    const UID: u32 = 1000;
    match guest.part().as_deref() {
        None => {
            let group = guest.function("default").bind_vfio();
            chown("/dev/vfio/vfio", Some(UID), Some(UID)).unwrap();
            guest.run_as_user(UID, USER, "without the group");
            chown(&group, Some(UID), Some(UID)).unwrap();
            guest.run_as_user(UID, USER, "with the group");
            chown(&group, Some(0), Some(0)).unwrap();
        }
        Some("without the group") => {
            let error = refused(guest, "default");
            assert!(error.contains("no permission") && error.contains("/dev/vfio/"), "{error}");
        }
        Some(_) => {
            assert!(Path::new("/dev/vfio").is_dir());
            let function =
                VfioFunction::open(address(guest, "default")).unwrap_or_else(|err| panic!("{err}"));
            let limit = Rlimit { current: Some(256 << 10), maximum: Some(256 << 10) };
            setrlimit(Resource::Memlock, limit).unwrap();
            map_all(function.space(), &[pages(64 << 10)]);
            let error =
                function.space().register(&pages(1 << 20)).expect_err("more than the limit").to_string();
            assert!(error.contains("RLIMIT_MEMLOCK is 262144 bytes"), "{error}");
            assert!(error.contains("ulimit -l"), "{error}");
        }
    }
}
