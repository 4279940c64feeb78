//! The machines that the cases run in. Each is a boot: put controllers that can stand side by side into one.

use super::{Controller, Machine, Medium, Namespace};

const DISK: Medium = Medium::Disk { len_mib: 64 };
const ONE: &[Namespace] = &[disk(1, "")];

const fn controller(name: &'static str, options: &'static str) -> Controller {
    Controller { name, options, beside: None, namespaces: ONE }
}

const fn disk(nsid: u32, options: &'static str) -> Namespace {
    Namespace { nsid, medium: DISK, options }
}

/// One controller as QEMU makes it, with polled queues in the guest kernel's own driver.
pub static POLLED: Machine = Machine {
    name: "polled",
    kernel_args: "nvme.poll_queues=1",
    memory_mib: 1024,
    huge_pages: 64,
    programs: &[],
    controllers: &[controller("default", "")],
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
            beside: None,
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
            beside: None,
            namespaces: &[disk(1, ""), disk(2, "logical_block_size=4096,physical_block_size=4096")],
        },
        controller("cmb", "cmb_size_mb=16"),
        Controller { name: "no-cache", options: "", beside: None, namespaces: &[disk(1, "write-cache=off")] },
        Controller { name: "metadata", options: "", beside: None, namespaces: &[disk(1, "ms=8,mset=1")] },
        controller("elder", "multifunction=on"),
        Controller { name: "younger", options: "", beside: Some("elder"), namespaces: ONE },
        // Small, since every byte of it is compared.
        Controller {
            name: "small",
            options: "",
            beside: None,
            namespaces: &[Namespace { nsid: 1, medium: Medium::Disk { len_mib: 4 }, options: "" }],
        },
        Controller {
            name: "bad-sector",
            options: "",
            beside: None,
            namespaces: &[Namespace {
                nsid: 1,
                medium: Medium::Faulty { len_mib: 64, operation: "read", sector: BAD_SECTOR },
                options: "",
            }],
        },
    ],
};

/// The sector of 512 bytes that the controller `bad-sector` cannot read.
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
        beside: None,
        namespaces: &[Namespace { nsid: 1, medium: Medium::Null { len_mib: 1024 }, options: "" }],
    }],
};
