//! What the kernel's refusals turn into.

use rustix::io::Errno;

use super::*;

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
        "/dev/vfio/7, which stands for PCI device 0000:01:00.0, is in use by another process (`fuser -v /dev/vfio/7` \
         names it), or by what this one has kept of a device that it closed"
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
        text(CrateError::OpenContainer(error(Errno::NODEV))),
        "what /dev/vfio/vfio stands for is not there: the kernel module vfio is missing; as root: modprobe vfio"
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
