//! What the kernel's refusals turn into.

use super::*;
use crate::{Backing, DmaBuffer};

fn address() -> PciAddress {
    "0000:01:00.0".parse().unwrap()
}

fn text(error: CrateError) -> String {
    explain(&Roots::default(), address(), 7, error).to_string()
}

#[test]
fn refusals_to_open_say_what_to_do() {
    let error = |errno: Errno| io::Error::from(errno);
    assert_eq!(
        text(CrateError::OpenGroup(error(Errno::BUSY), "7".to_owned())),
        "/dev/vfio/7, which stands for PCI device 0000:01:00.0, is in use, by another process (`fuser -v /dev/vfio/7` names \
         it) or by what this one has kept of a device that it closed"
    );
    assert!(
        text(CrateError::OpenGroup(error(Errno::ACCESS), "7".to_owned()))
            .starts_with("no permission to open /dev/vfio/7 (")
    );
    assert!(
        text(CrateError::OpenContainer(error(Errno::ACCESS)))
            .starts_with("no permission to open /dev/vfio/vfio (")
    );
    assert_eq!(
        text(CrateError::OpenGroup(error(Errno::NOENT), "7".to_owned())),
        "PCI device 0000:01:00.0: cannot open /dev/vfio/7: No such file or directory (os error 2)"
    );
    assert_eq!(
        text(CrateError::VfioExtension),
        "type 1 of VFIO's containers is not there: the kernel module vfio_iommu_type1 is missing; as root: modprobe \
         vfio_iommu_type1"
    );
    assert!(
        text(CrateError::GroupViable)
            .starts_with("IOMMU group 7 of 0000:01:00.0 cannot be given to a process")
    );
    assert!(text(CrateError::GroupSetContainer).contains("allow_unsafe_interrupts=1"));
}

#[test]
fn the_limit_of_mappings_is_named_with_the_command_that_raises_it() {
    let folder = tempfile::tempdir().unwrap();
    let roots = Roots { sys: folder.path().to_owned(), ..Roots::default() };
    assert_eq!(
        entry_limit_advice(&roots),
        "; the limit is the parameter dma_entry_limit of vfio_iommu_type1, now unknown: as root, before the program starts, \
         echo 131071 > /sys/module/vfio_iommu_type1/parameters/dma_entry_limit"
    );
    let parameters = folder.path().join("module/vfio_iommu_type1/parameters");
    std::fs::create_dir_all(&parameters).unwrap();
    std::fs::write(parameters.join("dma_entry_limit"), "100\n").unwrap();
    assert!(entry_limit_advice(&roots).contains("now 100: as root, before the program starts, echo 201 >"));
}

#[test]
fn a_refused_mapping_says_why() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("self")).unwrap();
    std::fs::write(folder.path().join("self/status"), "VmLck:\t60 kB\n").unwrap();
    let roots = Roots { proc: folder.path().to_owned(), sys: folder.path().to_owned(), ..Roots::default() };
    let region = MemRegion::from_buffer(DmaBuffer::new(4096, 4096, Backing::Pages).unwrap());
    let text =
        |errno: Errno, memlock| refusal(&roots, memlock, Iova(0x5000), &region, errno.into(), 5).to_string();
    assert_eq!(
        text(Errno::NOMEM, Some(65536)),
        "4096 more bytes cannot be locked in memory for a device: RLIMIT_MEMLOCK is 65536 bytes and 61440 are locked; \
         `ulimit -l unlimited` in the shell that starts the program, `LimitMEMLOCK=infinity` in a systemd unit, or a \
         `memlock` line in /etc/security/limits.conf raises it"
    );
    assert!(
        text(Errno::NOSPC, None)
            .starts_with("the IOMMU (VFIO type 1) takes no further mapping; 5 are in use; the limit is")
    );
    let other = format!(
        "the IOMMU (VFIO type 1) cannot map 4096 bytes at {:#x} to I/O address 0x5000: Cannot allocate memory (os error 12)",
        region.addr()
    );
    assert_eq!(text(Errno::NOMEM, None), other, "without a limit it is something else");
}
