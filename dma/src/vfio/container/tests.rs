//! The life of a container over a made-up kernel, and what refusals to map turn into.

use std::collections::BTreeSet;

use super::super::info::IommuInfo;
use super::*;
use crate::{Backing, DmaBuffer};

/// A kernel's address space, which forgets its mappings with the last device as type 1 does.
#[derive(Default)]
struct Kernel {
    devices: usize,
    mapped: BTreeSet<u64>,
    refuse: Option<Errno>,
}

struct Fake(Arc<Mutex<Kernel>>);

impl Backend for Fake {
    fn name(&self) -> &'static str {
        "the fake IOMMU"
    }

    fn attach(&self, _: &Roots, address: PciAddress, _: u32) -> Result<Device, Refusal> {
        let buffer = DmaBuffer::new(1, 1, Backing::Memfd).unwrap();
        let fd = buffer.fd().unwrap().try_clone_to_owned().unwrap();
        let mut kernel = self.0.lock().unwrap();
        if kernel.refuse.is_some() {
            return Err(Refusal::Failed(VfioError::NoDevice { address }));
        }
        kernel.devices += 1;
        Ok(Device::Cdev(fd))
    }

    fn detach(&self, _: &Roots, _: PciAddress, _: Device) {
        let mut kernel = self.0.lock().unwrap();
        kernel.devices -= 1;
        if kernel.devices == 0 {
            kernel.mapped.clear();
        }
    }

    fn info(&self) -> IommuInfo {
        let left = 10 - self.0.lock().unwrap().mapped.len() as u32;
        IommuInfo { page_bytes: 4096, ranges: vec![0..=0xFF_FFFF], mappings_left: Some(left) }
    }

    fn map(&self, iova: Iova, _: &MemRegion) -> io::Result<()> {
        let mut kernel = self.0.lock().unwrap();
        if let Some(errno) = kernel.refuse {
            return Err(errno.into());
        }
        assert!(kernel.devices > 0 && kernel.mapped.insert(iova.0));
        Ok(())
    }

    fn unmap(&self, iova: Iova, _: u64) -> io::Result<()> {
        if self.0.lock().unwrap().mapped.remove(&iova.0) { Ok(()) } else { Err(Errno::INVAL.into()) }
    }

    fn limit_advice(&self, _: &Roots) -> String {
        "; take less".to_owned()
    }
}

fn container() -> (Arc<Container>, Arc<Mutex<Kernel>>) {
    let kernel = Arc::<Mutex<Kernel>>::default();
    let backend = Box::new(Fake(Arc::clone(&kernel)));
    (Arc::new(Container { backend, roots: Roots::default(), state: Mutex::default() }), kernel)
}

fn address(text: &str) -> PciAddress {
    text.parse().unwrap()
}

fn memory() -> MemRegion {
    MemRegion::from_buffer(DmaBuffer::new(4096, 4096, Backing::Pages).unwrap())
}

#[test]
fn a_container_dies_with_its_last_function() {
    let (container, kernel) = container();
    let member = |text: &str, space: &Arc<AddressSpace>| Member {
        address: address(text),
        device: container.attach(address(text), 1).ok().flatten(),
        container: Arc::clone(&container),
        space: Arc::clone(space),
    };
    let first = container.attach(address("01:00.0"), 1).ok().flatten();
    let space = AddressSpace::new(Box::new(ContainerMapper(Arc::clone(&container)))).unwrap();
    let first =
        Member { address: address("01:00.0"), device: first, container: Arc::clone(&container), space };
    let space = Arc::clone(first.space());
    let second = member("02:00.0", &space);
    assert!(first.fd().is_some() && container.has(address("01:00.0")) && container.has(address("02:00.0")));
    let (kept, gone) = (memory(), memory());
    space.register(&kept).unwrap();
    space.register(&gone).unwrap();
    space.refresh_constraints();
    assert_eq!(space.constraints().max_mappings, Some(10), "what is mapped counts");
    drop(first);
    assert!(!container.has(address("01:00.0")));
    space.unregister(&gone).unwrap();
    assert_eq!(kernel.lock().unwrap().mapped.len(), 1);
    drop(second);
    assert!(matches!(container.attach(address("03:00.0"), 1), Ok(None)), "it is dead");
    assert!(kernel.lock().unwrap().mapped.is_empty());
    space.unregister(&kept).unwrap();
    let error = space.register(&kept).unwrap_err().to_string();
    assert!(error.ends_with(": the last device has left the container"), "{error}");
    assert_eq!(space.mappings(), 0);
}

#[test]
fn a_mapping_that_the_kernel_does_not_know_is_an_error_while_devices_are_there() {
    let (container, kernel) = container();
    let _device = container.attach(address("01:00.0"), 1).ok().flatten();
    let space = AddressSpace::new(Box::new(ContainerMapper(Arc::clone(&container)))).unwrap();
    let memory = memory();
    space.register(&memory).unwrap();
    kernel.lock().unwrap().mapped.clear();
    let error = space.unregister(&memory).unwrap_err().to_string();
    assert!(error.starts_with("the fake IOMMU cannot unmap 4096 bytes at I/O address 0x1000"), "{error}");
}

#[test]
fn a_device_that_is_refused_does_not_count() {
    let (container, kernel) = container();
    kernel.lock().unwrap().refuse = Some(Errno::NODEV);
    assert!(matches!(
        container.attach(address("01:00.0"), 1),
        Err(Refusal::Failed(VfioError::NoDevice { .. }))
    ));
    assert!(!container.has(address("01:00.0")) && !container.state().dead);
}

#[test]
fn a_refused_mapping_says_why() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("self")).unwrap();
    std::fs::write(folder.path().join("self/status"), "VmLck:\t60 kB\n").unwrap();
    let roots = Roots { proc: folder.path().to_owned(), ..Roots::default() };
    let (fake, region) = (Box::new(Fake(Arc::default())), memory());
    let container = Container { backend: fake, roots, state: Mutex::default() };
    let text = |errno: Errno, memlock| {
        refusal(&container, memlock, Iova(0x5000), &region, errno.into(), 5).to_string()
    };
    assert_eq!(
        text(Errno::NOMEM, Some(65536)),
        "4096 more bytes cannot be locked in memory for a device: RLIMIT_MEMLOCK is 65536 bytes and 61440 are locked; \
         `ulimit -l unlimited` in the shell that starts the program, `LimitMEMLOCK=infinity` in a systemd unit, or a \
         `memlock` line in /etc/security/limits.conf raises it"
    );
    assert_eq!(text(Errno::NOSPC, None), "the fake IOMMU takes no further mapping; 5 are in use; take less");
    let other = format!(
        "the fake IOMMU cannot map 4096 bytes at {:#x} to I/O address 0x5000: Cannot allocate memory (os error 12)",
        region.addr()
    );
    assert_eq!(text(Errno::NOMEM, None), other, "without a limit it is something else");
}
