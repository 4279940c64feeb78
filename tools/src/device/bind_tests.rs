//! Binding in a made-up machine, whose kernel binds and unbinds by the files that are written.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::rc::Rc;

use super::*;

const ADDRESS: &str = "0000:01:00.0";

/// Which files were written, and with what.
type Written = Rc<RefCell<Vec<(String, String)>>>;

/// Makes a file and the folders above it.
fn put(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A machine with one drive that the kernel's driver has, with one namespace of 1 MiB with a partition.
fn machine(root: &Path) -> (Host, Written) {
    let device = format!("sys/bus/pci/devices/{ADDRESS}");
    for (name, value) in [
        ("class", "0x010802\n"),
        ("vendor", "0x1b36\n"),
        ("device", "0x0010\n"),
        ("driver_override", "(null)\n"),
        ("numa_node", "1\n"),
        ("nvme/nvme0/model", "A Drive   \n"),
        ("nvme/nvme0/serial", "S1\n"),
        ("nvme/nvme0/nvme0n1/nsid", "1\n"),
    ] {
        put(root, &format!("{device}/{name}"), value);
    }
    put(root, "sys/block/nvme0n1/size", "2048\n");
    put(root, "sys/block/nvme0n1/dev", "259:0\n");
    put(root, "sys/block/nvme0n1/nvme0n1p1/partition", "1\n");
    put(root, "sys/block/nvme0n1/nvme0n1p1/dev", "259:1\n");
    put(root, "proc/self/mountinfo", "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n");
    put(root, "proc/swaps", "Filename Type Size Used Priority\n");
    put(root, "dev/nvme0n1", "");
    put(root, "dev/nvme0n1p1", "");
    put(root, "dev/vfio/7", "");
    let groups = root.join("sys/kernel/iommu_groups/7");
    fs::create_dir_all(groups.join("devices").join(ADDRESS)).unwrap();
    symlink(&groups, root.join(&device).join("iommu_group")).unwrap();
    for driver in ["nvme", VFIO] {
        fs::create_dir_all(root.join("sys/bus/pci/drivers").join(driver)).unwrap();
    }
    symlink(root.join("sys/bus/pci/drivers/nvme"), root.join(&device).join("driver")).unwrap();
    let written = Written::default();
    let log = Rc::clone(&written);
    let root = root.to_owned();
    let write = move |path: &Path, text: &str| kernel(&root, path, text, &log);
    let host_root = write_root(&groups);
    (Host::made_up(&host_root, Box::new(write)), written)
}

fn write_root(groups: &Path) -> std::path::PathBuf {
    groups.ancestors().nth(4).expect("the machine's root").to_owned()
}

/// What the kernel does when a file is written.
fn kernel(root: &Path, path: &Path, text: &str, log: &Written) -> io::Result<()> {
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    log.borrow_mut().push((name.clone(), text.to_owned()));
    let device = root.join("sys/bus/pci/devices").join(ADDRESS);
    match name.as_str() {
        "unbind" => fs::remove_file(device.join("driver")),
        "drivers_probe" if !device.join("driver").exists() => {
            let wanted = fs::read_to_string(device.join("driver_override"))?;
            let driver = if wanted.trim().is_empty() { "nvme" } else { wanted.trim() };
            match root.join("sys/bus/pci/drivers").join(driver) {
                folder if folder.join("broken").exists() => Ok(()),
                folder => symlink(folder, device.join("driver")),
            }
        }
        "drivers_probe" => Ok(()),
        _ => fs::write(path, text),
    }
}

fn address() -> PciAddress {
    ADDRESS.parse().unwrap()
}

fn refusal(host: &Host) -> String {
    bind(host, address(), false, None).expect_err("it is in use").to_string()
}

#[test]
fn a_free_drive_goes_to_vfio_and_back_in_driverctls_order() {
    let folder = tempfile::tempdir().unwrap();
    let (host, written) = machine(folder.path());
    let bound = bind(&host, address(), false, None).unwrap();
    assert_eq!((bound.before.as_deref(), bound.now.as_deref()), (Some("nvme"), Some(VFIO)));
    assert_eq!(bound.file, Some(folder.path().join("dev/vfio/7")));
    let expected = [("driver_override", VFIO), ("unbind", ADDRESS), ("drivers_probe", ADDRESS)];
    let found = written.take();
    assert_eq!(found.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect::<Vec<_>>(), expected);
    // Again changes nothing.
    assert_eq!(bind(&host, address(), false, None).unwrap().before.as_deref(), Some(VFIO));
    assert!(written.take().is_empty());
    let back = unbind(&host, address()).unwrap();
    assert_eq!((back.before.as_deref(), back.now.as_deref()), (Some(VFIO), Some("nvme")));
    let expected = [("driver_override", "\n"), ("unbind", ADDRESS), ("drivers_probe", ADDRESS)];
    let found = written.take();
    assert_eq!(found.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect::<Vec<_>>(), expected);
    // What the kernel has is not ours to give back.
    assert!(unbind(&host, address()).unwrap_err().to_string().contains("nvme"));
}

#[test]
fn a_drive_that_is_used_or_holds_something_is_refused_by_name() {
    type Change = fn(&Path);
    let cases: [(Change, &str); 6] = [
        (
            |root| put(root, "proc/self/mountinfo", "2 1 259:1 / /data rw - xfs /dev/x rw\n"),
            "nvme0n1p1 is mounted at /data (xfs)",
        ),
        (
            |root| put(root, "proc/swaps", "Filename\n/dev/nvme0n1 partition 1 0 -2\n"),
            "nvme0n1 is used as swap",
        ),
        (
            |root| {
                put(root, "sys/block/nvme0n1/nvme0n1p1/holders/dm-0", "");
                put(root, "sys/block/dm-0/dm/name", "vg-lv\n");
                put(root, "sys/block/dm-0/dm/uuid", "LVM-abc\n");
            },
            "nvme0n1p1 is used by dm-0 (LVM, vg-lv)",
        ),
        (|root| put(root, "sys/block/nvme0n1/holders/md127", ""), "nvme0n1 is used by md127 (MD)"),
        (|root| put(root, "dev/nvme0n1p1", "XFSB"), "nvme0n1p1 holds xfs"),
        (|root| fs::remove_file(root.join("dev/nvme0n1")).unwrap(), "cannot be looked at"),
    ];
    for (change, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        let (host, written) = machine(folder.path());
        change(folder.path());
        let text = refusal(&host);
        assert!(text.contains(expected) && text.contains("--force"), "{text}");
        assert!(written.take().is_empty(), "nothing was touched");
        assert_eq!(bind(&host, address(), true, None).unwrap().now.as_deref(), Some(VFIO));
    }
}

#[test]
fn what_the_kernel_refuses_is_undone() {
    let folder = tempfile::tempdir().unwrap();
    let (host, _) = machine(folder.path());
    put(folder.path(), "sys/bus/pci/drivers/vfio-pci/broken", "");
    let text = refusal(&host);
    assert!(text.contains("vfio-pci") && text.contains(ADDRESS), "{text}");
    let function = function::find(&host, address()).unwrap();
    assert_eq!(function.driver.as_deref(), Some("nvme"), "the kernel's driver has it again");
    assert_eq!(function.driver_override, None);
}

#[test]
fn what_is_missing_is_named_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let (host, _) = machine(folder.path());
    fs::remove_dir(folder.path().join("sys/bus/pci/drivers/vfio-pci")).unwrap();
    assert!(refusal(&host).contains("modprobe vfio-pci"));
    fs::remove_file(folder.path().join(format!("sys/bus/pci/devices/{ADDRESS}/iommu_group"))).unwrap();
    assert!(refusal(&host).contains("IOMMU"));
    put(folder.path(), &format!("sys/bus/pci/devices/{ADDRESS}/class"), "0x020000\n");
    assert!(refusal(&host).contains("020000"));
    let other = bind(&host, "0000:02:00.0".parse().unwrap(), false, None).unwrap_err();
    assert!(other.to_string().contains("no PCI device 0000:02:00.0"), "{other}");
}

#[test]
fn a_group_of_users_may_be_given_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let (host, _) = machine(folder.path());
    let gid = rustix::process::getgid().as_raw();
    let file = bind(&host, address(), false, Some(gid)).unwrap().file.unwrap();
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o660);
    assert_eq!(group_in("root:x:0:\nvfio:x:61:a,b\n", "vfio"), Some(61));
    assert_eq!(group_in("root:x:0:\n", "vfio"), None);
    assert_eq!(group("61"), Ok(61));
}

#[test]
fn the_list_tells_all_that_sysfs_does() {
    let folder = tempfile::tempdir().unwrap();
    let (host, _) = machine(folder.path());
    let functions = function::all(&host);
    let [function] = functions.as_slice() else { panic!("{functions:?}") };
    assert_eq!((function.model.as_deref(), function.serial.as_deref()), (Some("A Drive"), Some("S1")));
    assert_eq!((function.iommu_group, function.numa_node, function.id.as_str()), (Some(7), 1, "1b36:0010"));
    let [disk] = function.disks.as_slice() else { panic!("{function:?}") };
    assert_eq!((disk.name.as_str(), disk.nsid, disk.size_bytes), ("nvme0n1", Some(1), 1 << 20));
    assert_eq!(disk.partitions, ["nvme0n1p1"]);
}
