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
    /// Programs of the host that the guest has, with their libraries; those that `tests/vm-later` unpacked instead where the
    /// machine is QEMU 11's.
    pub programs: &'static [&'static str],
    /// NVMe controllers, at most 27 with those that are served.
    pub controllers: &'static [Controller],
    /// Controllers that QEMU reaches over vfio-user. A machine that has some has no IOMMU, and is QEMU 11's.
    pub served: &'static [Served],
    /// Whether it is QEMU 11's though nothing is served: that QEMU takes namespaces out and puts them in again.
    pub later: bool,
}

/// A controller of a vfio-user server: our own `nvme-model`, in a process for each.
#[derive(Debug)]
pub struct Served {
    /// How it is called; also its serial number.
    pub name: &'static str,
    /// The server's options.
    pub options: &'static [&'static str],
}

/// An NVMe controller of QEMU's.
#[derive(Debug)]
pub struct Controller {
    /// How it is called; also its serial number.
    pub name: &'static str,
    /// Options of `-device nvme`, as `mdts=1,dbcs=off`. See `qemu-system-x86_64 -device nvme,help`.
    pub options: &'static str,
    /// Where it stands.
    pub place: Place,
    /// Its namespaces, which stand in a subsystem of its own when there are several.
    pub namespaces: &'static [Namespace],
}

/// Where a controller stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In a slot of the root bus, and an IOMMU group, of its own.
    Slot,
    /// In the slot and so in the IOMMU group of another controller, which has `multifunction=on`, as its function 1.
    Beside(&'static str),
    /// Behind a PCI Express port of its own, `NAME-port`, so that it can be pulled out and put in again. It has one namespace.
    Port,
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
    /// A file of which one operation fails.
    Faulty {
        /// Its length, in MiB.
        len_mib: u64,
        /// What fails: `read`, `write`, `write-zeroes`, `discard` or `flush`.
        operation: &'static str,
        /// Where: a sector, in 512 bytes from the start. Anywhere, if there is none.
        sector: Option<u64>,
        /// How often: the first time only, or every time.
        once: bool,
    },
    /// The beginning of a longer file, whose node is called `CONTROLLER-NSID-file`, so that another length of it can be the
    /// namespace's later.
    Part {
        /// Its length at first, in MiB.
        len_mib: u64,
        /// The length of the file, in MiB.
        file_mib: u64,
    },
    /// A file whose requests can be held back: QEMU's command `qemu-io`, with the device `ns-CONTROLLER-NSID`, knows `break`
    /// and `resume`.
    Held {
        /// Its length, in MiB.
        len_mib: u64,
    },
    /// A file that can be made slow: the limits of the throttle group `slow-CONTROLLER-NSID`, none at first.
    Slow {
        /// Its length, in MiB.
        len_mib: u64,
    },
}

impl Machine {
    /// Whether it is QEMU 11's.
    pub fn is_later(&self) -> bool {
        self.later || !self.served.is_empty()
    }

    /// The controller that is called `name`, and its PCI address in the guest.
    ///
    /// # Panics
    /// When the machine has none of that name.
    pub fn controller(&self, name: &str) -> (&'static Controller, String) {
        let controller = self.controllers.iter().find(|controller| controller.name == name);
        let controller = controller.unwrap_or_else(|| panic!("{} has no controller {name}", self.name));
        let (slot, function) = self.place(controller);
        let address = match controller.place {
            Place::Slot | Place::Beside(_) => format!("0000:00:{slot:02x}.{function}"),
            // The firmware numbers the buses by their ports' slots.
            Place::Port => {
                let ports = self.controllers.iter().filter(|other| other.place == Place::Port);
                let before = ports.take_while(|other| other.name != name).count();
                format!("0000:{:02x}:00.0", before + 1)
            }
        };
        (controller, address)
    }

    /// The PCI address, in the guest, of the served controller that is called `name`.
    ///
    /// # Panics
    /// When the machine has none of that name.
    pub fn served(&self, name: &str) -> String {
        let position = self.served.iter().position(|served| served.name == name);
        let position = position.unwrap_or_else(|| panic!("{} serves no controller {name}", self.name));
        format!("0000:00:{:02x}.0", self.served_slot(position))
    }

    /// The slot of the served controller at a position: after QEMU's own.
    fn served_slot(&self, position: usize) -> usize {
        let own = self.controllers.iter().filter(|controller| !controller.is_beside()).count();
        self.checked(FIRST_SLOT + own + position)
    }

    fn checked(&self, slot: usize) -> usize {
        assert!(slot <= LAST_SLOT, "{} has room for {} controllers", self.name, LAST_SLOT + 1 - FIRST_SLOT);
        slot
    }

    /// QEMU's option `-device` for a controller, without its namespaces where these are devices of their own.
    ///
    /// # Panics
    /// When the machine has none of that name.
    pub fn device(&self, name: &str) -> String {
        let controller = self.controller(name).0;
        controller.device(self.place(controller))
    }

    /// Slot and function of a controller.
    fn place(&self, controller: &Controller) -> (usize, usize) {
        let first = match controller.place {
            Place::Beside(other) => other,
            Place::Slot | Place::Port => controller.name,
        };
        let mut slots = self.controllers.iter().filter(|other| !other.is_beside());
        let position = slots.position(|other| other.name == first);
        let slot = FIRST_SLOT + position.unwrap_or_else(|| panic!("{} has no controller {first}", self.name));
        (self.checked(slot), usize::from(controller.is_beside()))
    }

    /// The devices' part of QEMU's command line. Files for the disks are in `folder`, the servers' sockets in `sockets`.
    pub(super) fn device_args(&self, folder: &Path, sockets: &Path) -> Vec<String> {
        let mut args = Vec::new();
        for controller in self.controllers {
            controller.add_args(self.place(controller), folder, &mut args);
        }
        for (position, served) in self.served.iter().enumerate() {
            let device = json!({
                "driver": "vfio-user-pci",
                "id": served.name,
                "addr": format!("{:x}", self.served_slot(position)),
                "socket": { "type": "unix", "path": sockets.join(served.name) },
            });
            args.extend(["-device".to_owned(), device.to_string()]);
        }
        args
    }

    /// The part of QEMU's command line for RAM, which is called `ram`, and for the IOMMU.
    pub(super) fn memory_args(&self) -> Vec<String> {
        let Machine { memory_mib, .. } = self;
        // A server maps the guest's RAM. Nothing that it does reaches an IOMMU of QEMU's.
        let (kind, iommu) = if self.served.is_empty() {
            ("ram", vec!["-device", "intel-iommu,intremap=on"])
        } else {
            ("memfd,share=on", vec![])
        };
        let memory = format!("memory-backend-{kind},id=ram,size={memory_mib}M");
        let args = ["-m".to_owned(), format!("{memory_mib}M"), "-object".to_owned(), memory];
        args.into_iter().chain(iommu.into_iter().map(str::to_owned)).collect()
    }

    /// Names and lengths of the files that the disks need in the folder.
    pub(super) fn files(&self) -> impl Iterator<Item = (String, u64)> {
        self.controllers.iter().flat_map(|controller| {
            controller.namespaces.iter().filter_map(|namespace| match namespace.medium {
                Medium::Disk { len_mib }
                | Medium::Faulty { len_mib, .. }
                | Medium::Held { len_mib }
                | Medium::Part { file_mib: len_mib, .. }
                | Medium::Slow { len_mib } => Some((namespace.node(controller), len_mib << 20)),
                Medium::Null { .. } => None,
            })
        })
    }
}

impl Controller {
    fn is_beside(&self) -> bool {
        matches!(self.place, Place::Beside(_))
    }

    /// QEMU's device with its options. A controller behind a port brings its namespace along.
    fn device(&self, (slot, function): (usize, usize)) -> String {
        let Controller { name, options, namespaces, .. } = *self;
        let place = match self.place {
            Place::Slot | Place::Beside(_) => format!("addr={slot:x}.{function}"),
            Place::Port => format!("bus={name}-port,drive={}", namespaces[0].node(self)),
        };
        let subsystem = if namespaces.len() > 1 { format!(",subsys={name}-subsys") } else { String::new() };
        let comma = if options.is_empty() { "" } else { "," };
        format!("nvme,id={name},serial={name},{place}{comma}{options}{subsystem}")
    }

    fn add_args(&self, place: (usize, usize), folder: &Path, args: &mut Vec<String>) {
        let Controller { name, namespaces, .. } = *self;
        let mut add = |option: &str, value: String| args.extend([option.to_owned(), value]);
        for namespace in namespaces {
            let node = namespace.node(self);
            if let Some(object) = namespace.medium.object(&node) {
                add("-object", object);
            }
            add("-blockdev", namespace.medium.node(&node, folder).to_string());
        }
        if namespaces.len() > 1 {
            add("-device", format!("nvme-subsys,id={name}-subsys"));
        }
        if self.place == Place::Port {
            let (slot, _) = place;
            add(
                "-device",
                format!("pcie-root-port,id={name}-port,addr={slot:x}.0,chassis={slot},slot={slot}"),
            );
        }
        add("-device", self.device(place));
        // A namespace that is a device by itself cannot be put in again.
        for namespace in namespaces.iter().filter(|_| self.place != Place::Port) {
            let (node, Namespace { nsid, options, .. }) = (namespace.node(self), namespace);
            let comma = if options.is_empty() { "" } else { "," };
            add(
                "-device",
                format!("nvme-ns,id=ns-{node},bus={name},drive={node},nsid={nsid}{comma}{options}"),
            );
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
        let mut file = json!({ "driver": "file", "filename": path, "discard": "unmap" });
        match self {
            Medium::Disk { .. } => {
                json!({ "driver": "raw", "node-name": name, "discard": "unmap", "file": file })
            }
            Medium::Null { len_mib } => {
                json!({ "driver": "null-co", "node-name": name, "size": len_mib << 20, "read-zeroes": false })
            }
            Medium::Faulty { operation, sector, once, .. } => {
                let mut error = json!({ "event": "none", "iotype": operation, "errno": 5, "once": once });
                if let Some(sector) = sector {
                    error["sector"] = sector.into();
                }
                json!({ "driver": "blkdebug", "node-name": name, "image": file, "inject-error": [error] })
            }
            Medium::Part { len_mib, .. } => {
                file["node-name"] = format!("{name}-file").into();
                json!({ "driver": "raw", "node-name": name, "size": len_mib << 20, "file": file })
            }
            // The events that a request can be held at are the raw node's.
            Medium::Held { .. } => json!({
                "driver": "raw", "node-name": name, "file": { "driver": "blkdebug", "image": file },
            }),
            Medium::Slow { .. } => json!({
                "driver": "throttle", "node-name": name, "throttle-group": format!("slow-{name}"), "file": file,
            }),
        }
    }

    /// An object that QEMU needs for the node `name`.
    fn object(self, name: &str) -> Option<String> {
        matches!(self, Medium::Slow { .. }).then(|| format!("throttle-group,id=slow-{name}"))
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
                place: Place::Slot,
                namespaces: &[Namespace { nsid: 1, medium: Medium::Null { len_mib: 3 }, options: "" }],
            },
            Controller {
                name: "two",
                options: "mdts=1",
                place: Place::Slot,
                namespaces: &[
                    Namespace { nsid: 1, medium: Medium::Disk { len_mib: 1 }, options: "ms=8" },
                    Namespace {
                        nsid: 7,
                        medium: Medium::Faulty {
                            len_mib: 2,
                            operation: "read",
                            sector: Some(9),
                            once: false,
                        },
                        options: "",
                    },
                ],
            },
            Controller { name: "third", options: "", place: Place::Beside("plain"), namespaces: &[] },
            Controller {
                name: "pulled",
                options: "mdts=2",
                place: Place::Port,
                namespaces: &[Namespace { nsid: 1, medium: Medium::Slow { len_mib: 1 }, options: "" }],
            },
        ],
        served: &[Served { name: "ours", options: &[] }],
        later: false,
    };

    #[test]
    fn a_machine_becomes_a_command_line() {
        let args = MACHINE.device_args(Path::new("/f"), Path::new("/s"));
        let devices: Vec<&str> =
            args.chunks(2).filter(|pair| pair[0] == "-device").map(|pair| pair[1].as_str()).collect();
        assert_eq!(
            devices,
            [
                "nvme,id=plain,serial=plain,addr=4.0",
                "nvme-ns,id=ns-plain-1,bus=plain,drive=plain-1,nsid=1",
                "nvme-subsys,id=two-subsys",
                "nvme,id=two,serial=two,addr=5.0,mdts=1,subsys=two-subsys",
                "nvme-ns,id=ns-two-1,bus=two,drive=two-1,nsid=1,ms=8",
                "nvme-ns,id=ns-two-7,bus=two,drive=two-7,nsid=7",
                "nvme,id=third,serial=third,addr=4.1",
                "pcie-root-port,id=pulled-port,addr=6.0,chassis=6,slot=6",
                "nvme,id=pulled,serial=pulled,bus=pulled-port,drive=pulled-1,mdts=2",
                r#"{"driver":"vfio-user-pci","id":"ours","addr":"7","socket":{"type":"unix","path":"/s/ours"}}"#,
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
        assert_eq!(nodes[3]["throttle-group"], "slow-pulled-1");
        assert!(args.contains(&"throttle-group,id=slow-pulled-1".to_owned()));
    }

    #[test]
    fn files_and_addresses_follow_from_the_table() {
        let files: Vec<_> = MACHINE.files().collect();
        assert_eq!(
            files,
            [("two-1".to_owned(), 1 << 20), ("two-7".to_owned(), 2 << 20), ("pulled-1".to_owned(), 1 << 20)]
        );
        assert_eq!(MACHINE.controller("two").1, "0000:00:05.0");
        assert_eq!(MACHINE.controller("third").1, "0000:00:04.1");
        assert_eq!(MACHINE.controller("pulled").1, "0000:01:00.0");
        assert_eq!(MACHINE.served("ours"), "0000:00:07.0");
    }

    #[test]
    #[should_panic(expected = "sample has no controller fourth")]
    fn a_controller_that_is_not_there_is_named() {
        MACHINE.controller("fourth");
    }
}
