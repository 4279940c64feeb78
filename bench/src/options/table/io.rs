//! Options of device, requests, amount and depth.

use super::super::units::TimeUnit;
use super::super::value::{Kind, Word};
use super::{Fallback, Group, OptionDef};

const fn target(name: &'static str, kind: Kind, default: Fallback, help: &'static str) -> OptionDef {
    OptionDef::new(Group::Target, name, kind, default, help)
}

const fn workload(name: &'static str, kind: Kind, default: Fallback, help: &'static str) -> OptionDef {
    OptionDef::new(Group::Workload, name, kind, default, help)
}

const fn extent(name: &'static str, kind: Kind, default: Fallback, help: &'static str) -> OptionDef {
    OptionDef::new(Group::Extent, name, kind, default, help)
}

const fn depth(name: &'static str, kind: Kind, default: Fallback, help: &'static str) -> OptionDef {
    OptionDef::new(Group::Depth, name, kind, default, help)
}

const fn word(word: &'static str, help: &'static str) -> Word {
    Word { word, means: word, help }
}

const fn synonym(word: &'static str, means: &'static str, help: &'static str) -> Word {
    Word { word, means, help }
}

const OFF: Fallback = Fallback::Is("0");
const ANY: Kind = Kind::Count { min: 0, max: u64::MAX };
const U32: Kind = Kind::Count { min: 0, max: u32::MAX as u64 };
const PERCENT: Kind = Kind::Count { min: 0, max: 100 };
const SHARE: Kind = Kind::Extent { min_bytes: 1, min_percent: 1, max_percent: 100 };
const POSITION: Kind = Kind::Extent { min_bytes: 0, min_percent: 0, max_percent: 100 };

/// Options of [`Group::Target`].
pub(super) const TARGET: &[OptionDef] = &[
    target(
        "ioengine",
        Kind::Choice(&[
            word("io_uring", "Files and block devices through io_uring."),
            word("null", "Completes at once, reads as zeroes, stores nothing."),
            word("mem", "A RAM disk of the job's size, gone when the job ends."),
            word("nvme", "NVMe namespaces, driven from user space."),
            word("nvme_uring", "NVMe namespaces through the kernel's NVMe driver, by io_uring passthrough."),
            synonym("io_uring_cmd", "nvme_uring", "The same, by fio's name for it."),
        ]),
        Fallback::Is("io_uring"),
        "Which driver serves the requests. fio's default is psync.",
    ),
    target(
        "filename",
        Kind::Names,
        Fallback::Means("made from filename_format"),
        "The file or block device. Several are taken in turn, a request each. With ioengine=nvme the namespace, several \
         separated by commas: 0000:01:00.0/1 behind vfio-pci, vfio-user:SOCKET/1 of a server, model:256m of a controller in \
         software (model:null:1t forgets all data). With ioengine=nvme_uring the character device, such as /dev/ng0n1.",
    ),
    target(
        "directory",
        Kind::Names,
        Fallback::Means("the working directory"),
        "Where files lie whose names are relative. Made names are spread over several directories, clone by clone; names \
         given by filename lie in the first.",
    ),
    target(
        "filename_format",
        Kind::Text,
        Fallback::Is("$jobname.$jobnum.$filenum"),
        "How names are made when filename is not given: $jobname, $jobnum (the clone, from 0), $filenum (0).",
    ),
    target(
        "filesize",
        Kind::Bytes { min: 1 },
        Fallback::Means("size"),
        "The length a file is made with, or is to have at least.",
    ),
    target("direct", Kind::Flag, OFF, "Bypass the page cache (O_DIRECT)."),
    target("buffered", Kind::Flag, Fallback::Is("1"), "Go through the page cache: the opposite of direct."),
    target(
        "sync",
        Kind::Choice(&[
            word("none", "Writes do not wait for stable storage."),
            word("sync", "The same as dsync, with a note; in fio O_SYNC, which waits for all metadata too."),
            word(
                "dsync",
                "Data and what reading it back needs are stable when a write completes, as with O_DSYNC.",
            ),
            synonym("0", "none", "The same as none."),
            synonym("1", "sync", "The same as sync."),
        ]),
        Fallback::Is("none"),
        "Whether every write waits for stable storage; sync and dsync both make it wait as O_DSYNC does.",
    ),
    target(
        "cache",
        Kind::Choice(&[
            word("none", "Page cache bypassed; stable after a flush (direct=1)."),
            word("writeback", "Page cache; stable after a flush (direct=0)."),
            word("writethrough", "Page cache; every write is stable (direct=0, sync=dsync)."),
            word("directsync", "Page cache bypassed; every write is stable (direct=1, sync=dsync)."),
            word("unsafe", "Page cache; flushes are ignored."),
        ]),
        Fallback::Means("as direct and sync say"),
        "QEMU's cache modes: one word instead of direct and sync. Not in fio.",
    ),
    target(
        "invalidate",
        Kind::Flag,
        Fallback::Is("1"),
        "Drop the file from the page cache before the job starts.",
    ),
    target(
        "locking",
        Kind::Choice(&[
            word("auto", "Lock where the file system can."),
            word("on", "Lock, or fail."),
            word("off", "Do not lock."),
        ]),
        Fallback::Is("auto"),
        "Lock the file against a second writer, as QEMU locks images. Not in fio.",
    ),
    target("unlink", Kind::Flag, OFF, "Delete the job's files when it has ended; never a block device."),
    target("fixedbufs", Kind::Flag, OFF, "Register the buffers with the ring."),
    target("registerfiles", Kind::Flag, OFF, "Register the files with the ring."),
    target(
        "hipri",
        Kind::Flag,
        OFF,
        "Poll the device for completions (IORING_SETUP_IOPOLL); needs direct=1.",
    ),
    target(
        "sqthread_poll",
        Kind::Flag,
        OFF,
        "Let a kernel thread pick up submissions (IORING_SETUP_SQPOLL).",
    ),
    target(
        "sqthread_poll_cpu",
        Kind::Count { min: 0, max: 8191 },
        Fallback::Means("any CPU"),
        "The CPU of that thread.",
    ),
    target(
        "poll",
        Kind::Choice(&[
            word("interrupt", "Sleep as soon as there is nothing to do."),
            word("adaptive", "Look again for up to poll_max_ns, less where that did not pay, then sleep."),
            word("busy", "Never sleep while requests are in flight."),
        ]),
        Fallback::Means("busy with ioengine=nvme, else interrupt"),
        "How a lane waits for completions. Not in fio.",
    ),
    target(
        "poll_max_ns",
        Kind::Count { min: 1, max: 1_000_000_000 },
        Fallback::Is("32768"),
        "Longest time in nanoseconds that poll=adaptive looks before it sleeps. Not in fio.",
    ),
    target(
        "model_cpu",
        U32,
        Fallback::Means("any"),
        "The CPU of the thread that serves filename=model:SIZE. Not in fio.",
    ),
    target(
        "nvme_io_timeout",
        Kind::Count { min: 1, max: 3_600_000 },
        Fallback::Is("30000"),
        "How long in milliseconds an NVMe command may take before it is aborted. Not in fio.",
    ),
    target(
        "nvme_admin_timeout",
        Kind::Count { min: 1, max: 3_600_000 },
        Fallback::Is("30000"),
        "How long in milliseconds an NVMe admin command may take before the controller is reset. Not in fio.",
    ),
    target(
        "nvme_cmb",
        Kind::Flag,
        OFF,
        "Put NVMe submission queues into the controller's own memory (CMB), where it has some for them. Not in fio.",
    ),
    target(
        "dataplacement",
        Kind::Choice(&[
            word("none", "The controller places data as it likes."),
            word("fdp", "Flexible data placement: writes name placement handles."),
        ]),
        Fallback::Means("fdp with fdp=1, else none"),
        "Whether writes say where their data is to go, with ioengine=nvme and nvme_uring. fio has streams besides.",
    ),
    target("fdp", Kind::Flag, OFF, "The same as dataplacement=fdp."),
    target(
        "plids",
        Kind::Indices,
        Fallback::Means("all"),
        "By which placement handles of the namespace the writes of the job go, by turns, counted from 0 as nvme fdp status lists \
         them; up to 16.",
    )
    .alias(&["fdp_pli"]),
    target(
        "plid_select",
        Kind::Choice(&[word("roundrobin", "Each write takes the next.")]),
        Fallback::Is("roundrobin"),
        "How a write's placement handle is chosen among those of plids. fio has random and scheme besides.",
    )
    .alias(&["fdp_pli_select"]),
    target(
        "nvme_host_memory",
        Kind::Bytes { min: 0 },
        Fallback::Is("128m"),
        "The most memory that an NVMe controller gets for itself if it asks for some (host memory buffer); 0: none. Not in fio.",
    ),
];

/// Options of [`Group::Workload`].
pub(super) const WORKLOAD: &[OptionDef] = &[
    workload(
        "rw",
        Kind::Choice(&[
            word("read", "Sequential reads."),
            word("write", "Sequential writes."),
            word("trim", "Sequential trims."),
            word("randread", "Random reads."),
            word("randwrite", "Random writes."),
            word("randtrim", "Random trims."),
            word("rw", "Sequential reads and writes."),
            synonym("readwrite", "rw", "The same as rw."),
            word("randrw", "Random reads and writes."),
            word("trimwrite", "Every block is trimmed, then written; sequential."),
            word("randtrimwrite", "Every block is trimmed, then written; random."),
        ]),
        Fallback::Is("read"),
        "Directions and order of the requests.",
    )
    .alias(&["readwrite"]),
    workload("rwmixread", PERCENT, Fallback::Is("50"), "Per cent of a mixed workload that are reads."),
    workload(
        "rwmixwrite",
        PERCENT,
        Fallback::Is("50"),
        "Per cent of a mixed workload that are writes; the later of rwmixread and rwmixwrite holds.",
    ),
    workload(
        "bs",
        Kind::Blocks,
        Fallback::Is("4k"),
        "Block size. A range is the same as bsrange (fio reads 512-64k as 512 for reads and 64k for writes).",
    )
    .alias(&["blocksize"]),
    workload(
        "bsrange",
        Kind::BlockRanges,
        Fallback::Means("as bs"),
        "Block sizes are multiples of the smallest, each as likely.",
    )
    .alias(&["blocksize_range"]),
    workload(
        "bssplit",
        Kind::BlockSplit,
        Fallback::Means("as bs"),
        "Block sizes with their shares: 4k/10:64k/50:32k/40. Entries without a share divide the rest.",
    ),
    workload(
        "ba",
        Kind::Triple { min: 1, max: 1 << 30 },
        Fallback::Means("the smallest block size"),
        "Random offsets are multiples of this. Turns the random map off.",
    )
    .alias(&["blockalign"]),
    workload(
        "random_distribution",
        Kind::Distribution,
        Fallback::Is("random"),
        "How random offsets are drawn; any but random turns the random map off. The centre, 0 to 1, is where in the region \
         the most likely offset lies. Without a parameter zipf has 1.1 and pareto 0.2.",
    ),
    workload(
        "norandommap",
        Kind::Flag,
        OFF,
        "Draw random offsets without regard to which blocks were visited; otherwise a pass visits each once.",
    ),
    workload(
        "randrepeat",
        Kind::Flag,
        Fallback::Is("1"),
        "The same random sequence in every run; 0 draws a new seed.",
    ),
    workload(
        "randseed",
        ANY,
        Fallback::Is("0x89"),
        "Seed of the random sequences; holds in spite of randrepeat=0.",
    ),
    workload("fsync", U32, OFF, "Flush after this many writes; 0: never."),
    workload("fdatasync", U32, OFF, "Flush data only after this many writes; 0: never."),
    workload("end_fsync", Kind::Flag, OFF, "Flush when the writing has ended."),
    workload(
        "zonemode",
        Kind::Choice(&[
            word("none", "Offsets are what rw says; a zoned namespace can only be read."),
            word(
                "zbd",
                "Writes go to the pointers of a zoned namespace's zones, reads to what was written, and full zones are reset.",
            ),
        ]),
        Fallback::Is("none"),
        "Whether the job keeps to the zones of a zoned namespace.",
    ),
    workload(
        "zonesize",
        Kind::Bytes { min: 1 },
        Fallback::Means("that of the device"),
        "With zonemode=zbd: what the size of a zone has to be, or the job is refused.",
    ),
    workload(
        "max_open_zones",
        U32,
        Fallback::Means("as many as the device allows"),
        "With zonemode=zbd: most zones that are partly written at once; 0: as many as the device allows.",
    ),
];

/// Options of [`Group::Extent`].
pub(super) const EXTENT: &[OptionDef] = &[
    extent(
        "size",
        SHARE,
        Fallback::Means("to the end of the file"),
        "Length of the region that each clone works in, and the bytes it transfers unless io_size says otherwise. \
         Percentages are of the file's length. A file that does not exist is made with this length.",
    ),
    extent(
        "io_size",
        Kind::Extent { min_bytes: 1, min_percent: 1, max_percent: u32::MAX },
        Fallback::Means("size"),
        "Bytes that each clone transfers; percentages are of size and may exceed 100%.",
    )
    .alias(&["io_limit"]),
    extent("offset", POSITION, OFF, "Where the region starts.").alias(&["fileoffset"]),
    extent("offset_increment", POSITION, OFF, "Clone i starts this much further on, i times."),
    extent(
        "number_ios",
        ANY,
        OFF,
        "End after this many requests, if the size does not end the job earlier; 0: no such limit.",
    ),
    extent(
        "runtime",
        Kind::Time { bare: TimeUnit::Seconds, min_us: 0 },
        OFF,
        "End after this time, counted from the end of the ramp; 0: no limit.",
    )
    .alias(&["timeout"]),
    extent("time_based", Kind::Flag, OFF, "Start over until runtime has passed."),
    extent(
        "ramp_time",
        Kind::Time { bare: TimeUnit::Seconds, min_us: 0 },
        OFF,
        "Run this long before anything is measured.",
    ),
];

/// Largest `iodepth`: what fits a ring of its own, which has 32,768 entries (io_uring_setup(2)), beside the 32 requests
/// that each of the block layer's channels keeps for itself. Engines without a ring could do with more; the bound is one
/// for all.
const IODEPTH_MAX: u64 = 32_736;

/// Options of [`Group::Depth`].
pub(super) const DEPTH: &[OptionDef] = &[
    depth(
        "iodepth",
        Kind::Count { min: 1, max: IODEPTH_MAX },
        Fallback::Is("1"),
        "Requests in flight at most. The upper bound is a ring's 32768 entries less 32 that the block layer keeps.",
    ),
    depth(
        "iodepth_batch",
        U32,
        Fallback::Means("all that the lane prepared in its turn"),
        "Requests handed to the kernel in one system call; 0: iodepth. fio's default is 1.",
    )
    .alias(&["iodepth_batch_submit"]),
    depth(
        "iodepth_batch_complete_min",
        U32,
        Fallback::Is("1"),
        "Wait for at least this many completions at a time; 0: do not wait.",
    )
    .alias(&["iodepth_batch_complete"]),
    depth(
        "iodepth_batch_complete_max",
        Kind::Count { min: 1, max: u32::MAX as u64 },
        Fallback::Means("all that are there"),
        "Take at most this many completions at a time. fio's default is iodepth_batch_complete_min.",
    ),
    depth(
        "iodepth_low",
        U32,
        Fallback::Means("iodepth"),
        "When the queue was full, let it drain to this depth before refilling; 0: iodepth.",
    ),
];
