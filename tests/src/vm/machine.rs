//! What a virtual machine is made of, as plain data, and how QEMU is told.
//!
//! Invariant: a controller's place on the PCI bus follows from its place in the table, so that the guest finds it by its
//! name without asking QEMU.

use std::path::Path;

use serde_json::{Value, json};

/// The first slot of the root bus that a controller stands in; those below are the host bridge's and our own devices'.
const FIRST_SLOT: usize = 4;
/// The last slot of a root bus is the chipset's own.
const LAST_SLOT: usize = 0x1e;

/// A machine that QEMU makes. A controller is a PCI function in an IOMMU group of its own, unless it stands beside another.
#[derive(Debug)]
pub struct Machine {
    /// How it is called, in tests and files.
    pub name: &'static str,
    /// Added to the kernel's command line.
    pub kernel_args: &'static str,
    /// RAM, in MiB.
    pub memory_mib: u32,
    /// Pages of 2 MiB that are reserved at boot.
    pub huge_pages: u32,
    /// Programs of the host that the guest has, with their libraries.
    pub programs: &'static [&'static str],
    /// NVMe controllers, at most 27.
    pub controllers: &'static [Controller],
}

/// An NVMe controller of QEMU's.
#[derive(Debug)]
pub struct Controller {
    /// How it is called; also its serial number.
    pub name: &'static str,
    /// Options of `-device nvme`, as `mdts=1,dbcs=off`. See `qemu-system-x86_64 -device nvme,help`.
    pub options: &'static str,
    /// The controller that it stands beside, in one slot and so in one IOMMU group, as its function 1; that one has
    /// `multifunction=on`. None for a slot and group of its own.
    pub beside: Option<&'static str>,
    /// Its namespaces, which stand in a subsystem of its own when there are several.
    pub namespaces: &'static [Namespace],
}

/// A namespace of a controller.
#[derive(Debug)]
pub struct Namespace {
    /// Its number, from 1.
    pub nsid: u32,
    /// What it stores its blocks in.
    pub medium: Medium,
    /// Options of `-device nvme-ns`, as `logical_block_size=4096`.
    pub options: &'static str,
}

/// What is behind a namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Medium {
    /// A file on the host, all zeroes at the start of a boot.
    Disk {
        /// Its length, in MiB.
        len_mib: u64,
    },
    /// Reads give anything, writes go nowhere: for speed alone.
    Null {
        /// Its length, in MiB.
        len_mib: u64,
    },
    /// A file of which one 512-byte sector fails, every time.
    Faulty {
        /// Its length, in MiB.
        len_mib: u64,
        /// What fails: `read`, `write`, `write-zeroes`, `discard` or `flush`.
        operation: &'static str,
        /// The sector, in 512 bytes from the start.
        sector: u64,
    },
}

impl Machine {
    /// The controller that is called `name`, and its PCI address in the guest.
    ///
    /// # Panics
    /// When the machine has none of that name.
    pub fn controller(&self, name: &str) -> (&'static Controller, String) {
        let controller = self.controllers.iter().find(|controller| controller.name == name);
        let controller = controller.unwrap_or_else(|| panic!("{} has no controller {name}", self.name));
        let (slot, function) = self.place(controller);
        (controller, format!("0000:00:{slot:02x}.{function}"))
    }

    /// Slot and function of a controller.
    fn place(&self, controller: &Controller) -> (usize, usize) {
        let first = controller.beside.unwrap_or(controller.name);
        let mut slots = self.controllers.iter().filter(|other| other.beside.is_none());
        let position = slots.position(|other| other.name == first);
        let slot = FIRST_SLOT + position.unwrap_or_else(|| panic!("{} has no controller {first}", self.name));
        assert!(slot <= LAST_SLOT, "a machine has room for {} controllers", LAST_SLOT + 1 - FIRST_SLOT);
        (slot, usize::from(controller.beside.is_some()))
    }

    /// The devices' part of QEMU's command line. Files for the disks are in `folder`.
    pub(super) fn device_args(&self, folder: &Path) -> Vec<String> {
        let mut args = Vec::new();
        for controller in self.controllers {
            controller.add_args(self.place(controller), folder, &mut args);
        }
        args
    }

    /// Names and lengths of the files that the disks need in the folder.
    pub(super) fn files(&self) -> impl Iterator<Item = (String, u64)> {
        self.controllers.iter().flat_map(|controller| {
            controller.namespaces.iter().filter_map(|namespace| match namespace.medium {
                Medium::Disk { len_mib } | Medium::Faulty { len_mib, .. } => {
                    Some((namespace.node(controller), len_mib << 20))
                }
                Medium::Null { .. } => None,
            })
        })
    }
}

impl Controller {
    fn add_args(&self, (slot, function): (usize, usize), folder: &Path, args: &mut Vec<String>) {
        let Controller { name, options, namespaces, .. } = *self;
        let comma = if options.is_empty() { "" } else { "," };
        let mut device = format!("nvme,id={name},serial={name},addr={slot:x}.{function}{comma}{options}");
        if namespaces.len() > 1 {
            args.extend(["-device".to_owned(), format!("nvme-subsys,id={name}-subsys")]);
            device += &format!(",subsys={name}-subsys");
        }
        args.extend(["-device".to_owned(), device]);
        for namespace in namespaces {
            let node = namespace.node(self);
            args.extend(["-blockdev".to_owned(), namespace.medium.node(&node, folder).to_string()]);
            let Namespace { nsid, options, .. } = namespace;
            let comma = if options.is_empty() { "" } else { "," };
            let device = format!("nvme-ns,bus={name},drive={node},nsid={nsid}{comma}{options}");
            args.extend(["-device".to_owned(), device]);
        }
    }
}

impl Namespace {
    fn node(&self, controller: &Controller) -> String {
        format!("{}-{}", controller.name, self.nsid)
    }
}

impl Medium {
    /// The block node `name` for QEMU's `-blockdev`.
    fn node(self, name: &str, folder: &Path) -> Value {
        let path = folder.join(name);
        let file = json!({ "driver": "file", "filename": path, "discard": "unmap" });
        match self {
            Medium::Disk { .. } => {
                json!({ "driver": "raw", "node-name": name, "discard": "unmap", "file": file })
            }
            Medium::Null { len_mib } => {
                json!({ "driver": "null-co", "node-name": name, "size": len_mib << 20, "read-zeroes": false })
            }
            Medium::Faulty { operation, sector, .. } => json!({
                "driver": "blkdebug", "node-name": name, "image": file,
                "inject-error": [{ "event": "none", "iotype": operation, "sector": sector, "errno": 5, "once": false }],
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static MACHINE: Machine = Machine {
        name: "sample",
        kernel_args: "",
        memory_mib: 512,
        huge_pages: 0,
        programs: &[],
        controllers: &[
            Controller {
                name: "plain",
                options: "",
                beside: None,
                namespaces: &[Namespace { nsid: 1, medium: Medium::Null { len_mib: 3 }, options: "" }],
            },
            Controller {
                name: "two",
                options: "mdts=1",
                beside: None,
                namespaces: &[
                    Namespace { nsid: 1, medium: Medium::Disk { len_mib: 1 }, options: "ms=8" },
                    Namespace {
                        nsid: 7,
                        medium: Medium::Faulty { len_mib: 2, operation: "read", sector: 9 },
                        options: "",
                    },
                ],
            },
            Controller { name: "third", options: "", beside: Some("plain"), namespaces: &[] },
        ],
    };

    #[test]
    fn a_machine_becomes_a_command_line() {
        let args = MACHINE.device_args(Path::new("/f"));
        let devices: Vec<&str> =
            args.chunks(2).filter(|pair| pair[0] == "-device").map(|pair| pair[1].as_str()).collect();
        assert_eq!(
            devices,
            [
                "nvme,id=plain,serial=plain,addr=4.0",
                "nvme-ns,bus=plain,drive=plain-1,nsid=1",
                "nvme-subsys,id=two-subsys",
                "nvme,id=two,serial=two,addr=5.0,mdts=1,subsys=two-subsys",
                "nvme-ns,bus=two,drive=two-1,nsid=1,ms=8",
                "nvme-ns,bus=two,drive=two-7,nsid=7",
                "nvme,id=third,serial=third,addr=4.1",
            ]
        );
        let nodes: Vec<Value> = args
            .chunks(2)
            .filter(|pair| pair[0] == "-blockdev")
            .map(|pair| serde_json::from_str(&pair[1]).unwrap())
            .collect();
        assert_eq!(nodes[0]["size"], 3 << 20);
        assert_eq!(nodes[1]["file"]["filename"], "/f/two-1");
        assert_eq!(nodes[2]["inject-error"][0]["sector"], 9);
    }

    #[test]
    fn files_and_addresses_follow_from_the_table() {
        let files: Vec<_> = MACHINE.files().collect();
        assert_eq!(files, [("two-1".to_owned(), 1 << 20), ("two-7".to_owned(), 2 << 20)]);
        assert_eq!(MACHINE.controller("two").1, "0000:00:05.0");
        assert_eq!(MACHINE.controller("third").1, "0000:00:04.1");
    }

    #[test]
    #[should_panic(expected = "sample has no controller fourth")]
    fn a_controller_that_is_not_there_is_named() {
        MACHINE.controller("fourth");
    }
}
