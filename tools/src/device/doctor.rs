//! `corelane device doctor`: what Corelane needs of the machine, whether it is there, and the command that mends it.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use corelane_engine::aio::{AioConfig, AioContext};
use rustix::process::{Resource, geteuid, getrlimit};
use serde::Serialize;

use super::bind::VFIO;
use super::function::{self, Function};
use super::host::{Host, names, number, text};
use super::hugepages;

/// How a check went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// All is well.
    Ok,
    /// It works, but not as well as it could.
    Slow,
    /// It does not work.
    Bad,
}

/// A check.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How it is.
    pub health: Health,
    /// What was found.
    pub found: String,
    /// The command that mends it.
    pub mend: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Finding {
        Finding { check, health: Health::Ok, found: found.into(), mend: None }
    }

    fn bad(check: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Finding {
        Finding { check, health: Health::Bad, found: found.into(), mend: Some(mend.into()) }
    }
}

/// What belongs to the process that asks, and not to the machine's files.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its user's number.
    pub uid: u32,
    /// RLIMIT_MEMLOCK in bytes; `None` for no limit.
    pub memlock_bytes: Option<u64>,
    /// Why no io_uring can be set up, if that is so.
    pub io_uring: Result<(), String>,
}

impl Process {
    /// This one.
    pub fn this() -> Process {
        Process {
            uid: geteuid().as_raw(),
            memlock_bytes: getrlimit(Resource::Memlock).current,
            io_uring: AioContext::new(&AioConfig::default()).map(drop).map_err(|error| error.to_string()),
        }
    }
}

/// Locked memory that a program needs to do anything: queues, and a small pool.
const MEMLOCK_LEAST_BYTES: u64 = 64 << 20;

/// Looks at everything.
pub fn examine(host: &Host, process: &Process) -> Vec<Finding> {
    let functions = function::all(host);
    let mut findings = vec![
        io_uring(host, process),
        iommu(host),
        modules(host),
        controllers(&functions),
        memlock(process),
        huge_pages(host),
    ];
    findings
        .extend(functions.iter().filter(|function| function.is_vfio()).map(|function| group(host, function)));
    findings.extend(container(host, &functions));
    findings
}

/// Whether nothing is bad.
pub fn all_is_well(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.health != Health::Bad)
}

/// Prints for people.
pub fn print(out: &mut impl Write, findings: &[Finding]) -> std::io::Result<()> {
    for Finding { check, health, found, mend } in findings {
        let mark = match health {
            Health::Ok => "ok  ",
            Health::Slow => "slow",
            Health::Bad => "BAD ",
        };
        writeln!(out, "{mark}  {check}: {found}")?;
        if let Some(mend) = mend {
            writeln!(out, "      mend: {mend}")?;
        }
    }
    Ok(())
}

fn io_uring(host: &Host, process: &Process) -> Finding {
    let Err(reason) = &process.io_uring else { return Finding::ok("io_uring", "available") };
    let mend = match number::<u32>(host.proc("sys/kernel/io_uring_disabled")) {
        Some(1 | 2) => "sysctl -w kernel.io_uring_disabled=0".to_owned(),
        _ => "boot Linux 5.11 or later with CONFIG_IO_URING, and let a container's seccomp profile allow io_uring".to_owned(),
    };
    Finding::bad("io_uring", reason.clone(), mend)
}

fn iommu(host: &Host) -> Finding {
    let units = names(host.sys("class/iommu")).len();
    let groups = names(host.sys("kernel/iommu_groups")).len();
    if groups > 0 {
        return Finding::ok("IOMMU", format!("{units} units, {groups} groups"));
    }
    let intel = text(host.proc("cpuinfo")).is_some_and(|text| text.contains("GenuineIntel"));
    let on_command_line = text(host.proc("cmdline")).is_some_and(|text| text.contains("intel_iommu=on"));
    let (found, mend) = if intel && !on_command_line {
        (
            "off: there are no IOMMU groups, and intel_iommu=on is not on the kernel's command line",
            "sed -i 's/^GRUB_CMDLINE_LINUX=\"/&intel_iommu=on /' /etc/default/grub && update-grub && reboot",
        )
    } else {
        (
            "off: there are no IOMMU groups",
            "switch VT-d or AMD-Vi on in the firmware: systemctl reboot --firmware-setup; a virtual machine needs an emulated IOMMU",
        )
    };
    Finding::bad("IOMMU", found, mend)
}

fn modules(host: &Host) -> Finding {
    const CHECK: &str = "VFIO modules";
    if host.sys("bus/pci/drivers").join(VFIO).exists() {
        let backend = host.sys("module/vfio_iommu_type1").exists() || host.dev("iommu").exists();
        return if backend {
            Finding::ok(CHECK, "vfio-pci and a backend for the IOMMU are there")
        } else {
            Finding::bad(
                CHECK,
                "vfio-pci is there, but no backend for the IOMMU",
                "modprobe vfio_iommu_type1",
            )
        };
    }
    let release = text(host.proc("sys/kernel/osrelease")).unwrap_or_default();
    let folder = host.modules.join(&release);
    let known = ["modules.dep", "modules.builtin"];
    let has = known.iter().any(|name| {
        text(folder.join(name))
            .is_some_and(|text| text.contains("/vfio-pci.ko") || text.contains("/vfio_pci.ko"))
    });
    if has {
        return Finding::bad(CHECK, "vfio-pci is not loaded", "modprobe vfio-pci");
    }
    let found = format!("the kernel {release} has no module vfio-pci");
    Finding::bad(CHECK, found, "boot a kernel that has it: apt-get install linux-image-amd64 && reboot")
}

fn controllers(functions: &[Function]) -> Finding {
    const CHECK: &str = "controllers";
    let bound: Vec<&str> =
        functions.iter().filter(|of| of.is_vfio()).map(|function| function.address.as_str()).collect();
    match (functions, bound.as_slice()) {
        ([], _) => {
            let mend = "lspci -D -d ::0108 lists what the machine has; without hardware use model:64m or vfio-user:SOCKET";
            let found = "there are no NVMe controllers on the PCI bus".to_owned();
            Finding { check: CHECK, health: Health::Slow, found, mend: Some(mend.to_owned()) }
        }
        ([first, ..], []) => {
            let found = format!("{} NVMe controllers, none of them bound to vfio-pci", functions.len());
            let mend = Some(format!("corelane device bind {}", first.address));
            Finding { check: CHECK, health: Health::Slow, found, mend }
        }
        (_, bound) => Finding::ok(CHECK, format!("bound to VFIO: {}", bound.join(", "))),
    }
}

fn memlock(process: &Process) -> Finding {
    const CHECK: &str = "locked memory";
    match process.memlock_bytes {
        // CAP_IPC_LOCK lifts the limit (getrlimit(2)).
        _ if process.uid == 0 => Finding::ok(CHECK, "root has no limit"),
        None => Finding::ok(CHECK, "no limit"),
        Some(bytes) => {
            let health = if bytes < MEMLOCK_LEAST_BYTES { Health::Bad } else { Health::Slow };
            let found =
                format!("RLIMIT_MEMLOCK is {} KiB, which all memory for devices counts against", bytes >> 10);
            let mend = "echo \"$USER - memlock unlimited\" > /etc/security/limits.d/corelane.conf, as root, then log in again";
            Finding { check: CHECK, health, found, mend: Some(mend.to_owned()) }
        }
    }
}

fn huge_pages(host: &Host) -> Finding {
    const CHECK: &str = "huge pages";
    let pools = hugepages::show(host);
    let machine: Vec<_> = pools.iter().filter(|pool| pool.node.is_none()).collect();
    let mend = Some("corelane device hugepages reserve 256M".to_owned());
    if machine.is_empty() {
        let found = "the kernel has none".to_owned();
        return Finding {
            check: CHECK,
            health: Health::Slow,
            found,
            mend: Some("boot a kernel with CONFIG_HUGETLBFS".to_owned()),
        };
    }
    let free = |pool: &hugepages::Pool| pool.free.saturating_sub(pool.reserved);
    match machine.iter().find(|pool| free(pool) > 0) {
        Some(pool) => Finding::ok(CHECK, format!("{} free pages of {} KiB", free(pool), pool.page_kib)),
        None => Finding { check: CHECK, health: Health::Slow, found: "none are free".to_owned(), mend },
    }
}

/// Whether the group of a function that VFIO has can be opened.
fn group(host: &Host, function: &Function) -> Finding {
    const CHECK: &str = "IOMMU group";
    let address = &function.address;
    if let Some(sibling) = function.in_the_way().next() {
        let found = format!("{address} shares its group with {}, which the kernel uses", sibling.address);
        return Finding::bad(CHECK, found, format!("corelane device bind {}", sibling.address));
    }
    match function.group_file(host) {
        Some(file) => access(CHECK, &file, &format!("{address}: ")),
        None => Finding::bad(CHECK, format!("{address} has none"), "corelane device doctor, for the IOMMU"),
    }
}

/// The container's file, where a function is bound.
fn container(host: &Host, functions: &[Function]) -> Option<Finding> {
    let file = host.dev("vfio/vfio");
    functions.iter().any(Function::is_vfio).then(|| access("VFIO container", &file, ""))
}

/// Whether a file can be opened.
fn access(check: &'static str, file: &Path, of: &str) -> Finding {
    let shown = file.display();
    match OpenOptions::new().read(true).write(true).open(file) {
        Ok(_) => Finding::ok(check, format!("{of}{shown} opens")),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let owner = std::fs::metadata(file).map(|found| {
                format!("user {}, group {}, mode {:o}", found.uid(), found.gid(), found.mode() & 0o777)
            });
            let found = format!("{of}no permission to open {shown} ({})", owner.unwrap_or_default());
            Finding::bad(check, found, format!("chgrp \"$(id -gn)\" {shown} && chmod 660 {shown}, with sudo"))
        }
        Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
            Finding::ok(check, format!("{of}{shown} is in use by a program"))
        }
        Err(error) => {
            Finding::bad(check, format!("{of}cannot open {shown}: {error}"), "modprobe vfio_iommu_type1")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A machine that has everything, with one drive bound to VFIO.
    fn healthy(root: &Path) -> Host {
        put(root, "sys/kernel/iommu_groups/3/type", "DMA\n");
        put(root, "sys/class/iommu/dmar0", "");
        put(root, "sys/module/vfio_iommu_type1/refcnt", "0\n");
        put(root, "sys/bus/pci/devices/0000:01:00.0/class", "0x010802\n");
        fs::create_dir_all(root.join("sys/bus/pci/drivers/vfio-pci")).unwrap();
        let device = root.join("sys/bus/pci/devices/0000:01:00.0");
        symlink(root.join("sys/bus/pci/drivers/vfio-pci"), device.join("driver")).unwrap();
        symlink(root.join("sys/kernel/iommu_groups/3"), device.join("iommu_group")).unwrap();
        let pages = "sys/kernel/mm/hugepages/hugepages-2048kB";
        put(root, &format!("{pages}/nr_hugepages"), "9\n");
        put(root, &format!("{pages}/free_hugepages"), "9\n");
        put(root, "proc/sys/kernel/osrelease", "6.12\n");
        put(root, "dev/vfio/3", "");
        put(root, "dev/vfio/vfio", "");
        Host::made_up(root, Box::new(|_, _| Ok(())))
    }

    fn process() -> Process {
        Process { uid: 1000, memlock_bytes: None, io_uring: Ok(()) }
    }

    #[test]
    fn a_machine_that_has_everything_is_well() {
        let folder = tempfile::tempdir().unwrap();
        let host = healthy(folder.path());
        let findings = examine(&host, &process());
        assert!(findings.iter().all(|finding| finding.health == Health::Ok), "{findings:#?}");
        assert_eq!(findings.len(), 8);
    }

    #[test]
    fn each_fault_is_found_with_the_command_that_mends_it() {
        type Break = fn(&Path, &mut Process);
        let cases: [(&str, Health, &str, Break); 9] = [
            ("io_uring", Health::Bad, "io_uring_disabled=0", |root, process| {
                put(root, "proc/sys/kernel/io_uring_disabled", "2\n");
                process.io_uring = Err("no".to_owned());
            }),
            ("IOMMU", Health::Bad, "intel_iommu=on", |root, _| {
                fs::remove_dir_all(root.join("sys/kernel/iommu_groups")).unwrap();
                put(root, "proc/cpuinfo", "vendor_id : GenuineIntel\n");
            }),
            ("IOMMU", Health::Bad, "firmware", |root, _| {
                fs::remove_dir_all(root.join("sys/kernel/iommu_groups")).unwrap();
            }),
            ("VFIO modules", Health::Bad, "modprobe vfio-pci", |root, _| {
                fs::remove_dir_all(root.join("sys/bus/pci/drivers/vfio-pci")).unwrap();
                put(root, "lib/modules/6.12/modules.dep", "kernel/drivers/vfio/pci/vfio-pci.ko.xz: x\n");
            }),
            ("VFIO modules", Health::Bad, "linux-image", |root, _| {
                fs::remove_dir_all(root.join("sys/bus/pci/drivers/vfio-pci")).unwrap();
            }),
            ("VFIO modules", Health::Bad, "modprobe vfio_iommu_type1", |root, _| {
                fs::remove_dir_all(root.join("sys/module/vfio_iommu_type1")).unwrap();
            }),
            ("controllers", Health::Slow, "corelane device bind 0000:01:00.0", |root, _| {
                fs::remove_file(root.join("sys/bus/pci/devices/0000:01:00.0/driver")).unwrap();
            }),
            ("locked memory", Health::Bad, "memlock unlimited", |_, process| {
                process.memlock_bytes = Some(8 << 20);
            }),
            ("huge pages", Health::Slow, "hugepages reserve", |root, _| {
                put(root, "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "0\n");
            }),
        ];
        for (check, health, mend, break_it) in cases {
            let folder = tempfile::tempdir().unwrap();
            let host = healthy(folder.path());
            let mut process = process();
            break_it(folder.path(), &mut process);
            let findings = examine(&host, &process);
            let finding = findings.iter().find(|finding| finding.check == check).unwrap();
            assert_eq!(finding.health, health, "{finding:?}");
            assert!(finding.mend.as_ref().is_some_and(|text| text.contains(mend)), "{finding:?}");
            assert_eq!(all_is_well(&findings), health != Health::Bad, "{findings:#?}");
        }
    }

    #[test]
    fn a_group_that_the_kernel_shares_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let host = healthy(folder.path());
        let root = folder.path();
        for (address, driver) in
            [("0000:01:00.0", "vfio-pci"), ("0000:01:00.1", "ahci"), ("0000:01:00.2", "pcieport")]
        {
            fs::create_dir_all(root.join("sys/kernel/iommu_groups/3/devices").join(address)).unwrap();
            fs::create_dir_all(root.join("sys/bus/pci/devices").join(address)).unwrap();
            let _ = symlink(
                root.join("drivers").join(driver),
                root.join("sys/bus/pci/devices").join(address).join("driver"),
            );
        }
        let findings = examine(&host, &process());
        let finding = findings.iter().find(|finding| finding.check == "IOMMU group").unwrap();
        assert!(finding.health == Health::Bad && finding.found.contains("0000:01:00.1"), "{finding:?}");
    }
}
