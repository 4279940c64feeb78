//! The machines that the cases run in. Each is a boot: put controllers that can stand side by side into one.

use super::{Controller, Machine, Medium, Namespace, Place, Served};

const DISK: Medium = Medium::Disk { len_mib: 64 };
const ONE: &[Namespace] = &[disk(1, "")];

const fn controller(name: &'static str, options: &'static str) -> Controller {
    Controller { name, options, place: Place::Slot, namespaces: ONE }
}

const fn disk(nsid: u32, options: &'static str) -> Namespace {
    Namespace { nsid, medium: DISK, options }
}

/// Protection information: guards of 16 and 64 bits, beside the data and behind it, at both ends of the metadata; and with
/// more metadata than that. Of 64 bits with blocks of 512 bytes and of 4 KiB, since QEMU's Write Zeroes makes such guards as those of
/// 4 KiB whatever the size.
const PROTECTED: Controller = Controller {
    name: "protected",
    options: "",
    place: Place::Slot,
    namespaces: &[
        disk(1, "ms=8,pi=1"),
        disk(2, "ms=16,mset=1,pi=3,pif=2"),
        disk(3, "ms=8,mset=1,pi=2,pil=1"),
        disk(4, "ms=16,pi=1"),
        disk(5, "ms=16,mset=1,pi=3,pif=2,logical_block_size=4096,physical_block_size=4096"),
    ],
};

/// One controller as QEMU makes it, with polled queues in the guest kernel's own driver.
pub static POLLED: Machine = Machine {
    name: "polled",
    kernel_args: "nvme.poll_queues=1",
    memory_mib: 1024,
    huge_pages: 64,
    programs: &[],
    controllers: &[controller("default", ""), PROTECTED],
    served: &[],
    later: false,
};

/// Controllers for our own driver, one for each thing that may be out of the ordinary.
pub static NVME: Machine = Machine {
    name: "nvme",
    kernel_args: "",
    memory_mib: 2048,
    huge_pages: 256,
    programs: &[],
    controllers: &[
        controller("default", ""),
        Controller {
            name: "lba4k",
            options: "",
            place: Place::Slot,
            namespaces: &[disk(1, "logical_block_size=4096,physical_block_size=4096")],
        },
        controller("mdts1", "mdts=1"),
        controller("mdts0", "mdts=0"),
        controller("one-pair", "max_ioqpairs=1"),
        controller("one-vector", "msix_qsize=1"),
        controller("few-entries", "mqes=7"),
        controller("no-shadow", "dbcs=off"),
        Controller {
            name: "two-spaces",
            options: "",
            place: Place::Slot,
            namespaces: &[disk(1, ""), disk(2, "logical_block_size=4096,physical_block_size=4096")],
        },
        controller("cmb", "cmb_size_mb=16"),
        Controller {
            name: "no-cache",
            options: "",
            place: Place::Slot,
            namespaces: &[disk(1, "write-cache=off")],
        },
        Controller {
            name: "metadata",
            options: "",
            place: Place::Slot,
            namespaces: &[disk(1, "ms=8,mset=1"), disk(2, "ms=16")],
        },
        PROTECTED,
        controller("atomic", "atomic.awun=31,atomic.awupf=7"),
        Controller {
            name: "zoned",
            options: "zoned.zasl=3",
            place: Place::Slot,
            namespaces: &[disk(
                1,
                "zoned=on,zoned.zone_size=4M,zoned.zone_capacity=3M,zoned.max_open=4,zoned.max_active=6,\
                 zoned.descr_ext_size=64",
            )],
        },
        controller("elder", "multifunction=on"),
        Controller { name: "younger", options: "", place: Place::Beside("elder"), namespaces: ONE },
        // Small, since every byte of it is compared.
        Controller {
            name: "small",
            options: "",
            place: Place::Slot,
            namespaces: &[Namespace { nsid: 1, medium: Medium::Disk { len_mib: 4 }, options: "" }],
        },
        Controller {
            name: "bad-sector",
            options: "",
            place: Place::Slot,
            namespaces: &[Namespace {
                nsid: 1,
                medium: Medium::Faulty {
                    len_mib: 64,
                    operation: "read",
                    sector: Some(BAD_SECTOR),
                    once: false,
                },
                options: "",
            }],
        },
    ],
    served: &[],
    later: false,
};

/// The sector of 512 bytes that the controllers `bad-sector` and `media` cannot read, or write.
pub const BAD_SECTOR: u64 = 4096;

/// A controller over a device that costs nothing, to compare what drives it.
pub static BENCH: Machine = Machine {
    name: "bench",
    kernel_args: "",
    memory_mib: 2048,
    huge_pages: 128,
    programs: &["fio"],
    controllers: &[Controller {
        name: "null",
        options: "",
        place: Place::Slot,
        namespaces: &[Namespace { nsid: 1, medium: Medium::Null { len_mib: 1024 }, options: "" }],
    }],
    served: &[],
    later: false,
};

/// Controllers of our own server, for Linux's driver. A case ends its server, so each has one of its own.
pub static LINUX: Machine = Machine {
    name: "linux",
    kernel_args: "",
    memory_mib: 1024,
    huge_pages: 0,
    programs: &["fio", "mkfs.ext4", "e2fsck", "nvme"],
    controllers: &[],
    served: &[
        Served { name: "plain", options: &["--namespace=ram:64m"] },
        Served { name: "two-spaces", options: &["--namespace=ram:32m", "--namespace=zero:1t"] },
        Served {
            name: "unusual",
            options: &[
                "--namespace=ram:64m",
                "--lba-size=512",
                "--mdts=1",
                "--queues=3",
                "--queue-entries=8",
                "--vectors=2",
                "--doorbell-stride=0",
                "--no-write-cache",
            ],
        },
        Served {
            name: "sgls-and-shadows",
            options: &["--namespace=ram:64m", "--sgls", "--shadow-doorbells", "--doorbell-stride=0"],
        },
        Served { name: "protected", options: &["--namespace=ram:64m", "--metadata=8", "--protection=1"] },
        Served {
            name: "protected-64",
            options: &["--namespace=ram:64m", "--metadata=16", "--protection=1", "--guard=64"],
        },
        Served { name: "messages", options: &["--namespace=ram:64m", "--no-map-doorbells"] },
        Served { name: "reset", options: &["--namespace=ram:64m"] },
    ],
    later: false,
};

/// Controllers that go wrong, each in its own way.
pub static FAULTS: Machine = Machine {
    name: "faults",
    kernel_args: "",
    memory_mib: 1024,
    huge_pages: 64,
    programs: &[],
    controllers: &[
        Controller {
            name: "media",
            options: "",
            place: Place::Slot,
            namespaces: &[
                faulty(1, "read", Some(BAD_SECTOR), false),
                faulty(2, "read", Some(BAD_SECTOR), true),
                faulty(3, "write", Some(BAD_SECTOR), false),
                faulty(4, "write", Some(BAD_SECTOR), true),
                faulty(5, "flush", None, false),
                faulty(6, "flush", None, true),
            ],
        },
        pluggable("pulled"),
        pluggable("linked"),
        over("held", &[Namespace { nsid: 1, medium: Medium::Held { len_mib: 16 }, options: "" }]),
        over("slow", &[Namespace { nsid: 1, medium: Medium::Slow { len_mib: 16 }, options: "" }]),
        controller("reset", ""),
        // Without shadow doorbells, which it would not be able to read either.
        controller("fatal", "dbcs=off"),
        controller("decode", ""),
        controller("astray", ""),
        controller("events", ""),
        over("shared", &[disk(1, ""), disk(2, "")]),
        // The same namespaces, seen by another controller. The controllers of a subsystem have one serial number.
        Controller {
            name: "manager",
            options: "serial=shared,subsys=shared-subsys",
            place: Place::Slot,
            namespaces: &[],
        },
    ],
    served: &[],
    later: false,
};

/// A namespace that is taken out and put in again with another length.
pub static NAMESPACES: Machine = Machine {
    name: "namespaces",
    kernel_args: "",
    memory_mib: 1024,
    huge_pages: 64,
    programs: &[],
    controllers: &[over(
        "resized",
        &[Namespace {
            nsid: 1,
            medium: Medium::Part { len_mib: 32, file_mib: 64 },
            options: RESIZED_OPTIONS,
        }],
    )],
    served: &[],
    later: true,
};

/// Of the namespace of the controller `resized`, whichever length it has.
pub const RESIZED_OPTIONS: &str = "share-rw=on,uuid=9f3e7d54-0c3b-4c0e-8a87-3a1a0fd0f6e1";

const fn faulty(nsid: u32, operation: &'static str, sector: Option<u64>, once: bool) -> Namespace {
    Namespace { nsid, medium: Medium::Faulty { len_mib: 16, operation, sector, once }, options: "" }
}

const fn over(name: &'static str, namespaces: &'static [Namespace]) -> Controller {
    Controller { name, options: "", place: Place::Slot, namespaces }
}

const fn pluggable(name: &'static str) -> Controller {
    Controller { name, options: "", place: Place::Port, namespaces: ONE }
}

/// Drives for the command-line tool, and the programs of others that it is compared with.
pub static TOOLS: Machine = Machine {
    name: "tools",
    kernel_args: "",
    memory_mib: 1024,
    huge_pages: 64,
    programs: &["mkfs.ext4", "nvme"],
    controllers: &[
        controller("first", ""),
        controller("other", ""),
        Controller {
            name: "zoned",
            options: "",
            place: Place::Slot,
            namespaces: &[disk(
                1,
                "zoned=on,zoned.zone_size=4M,logical_block_size=4096,physical_block_size=4096",
            )],
        },
    ],
    served: &[],
    later: false,
};
