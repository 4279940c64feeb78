//! Options of rate and latency, verification, measuring and logs.

use super::super::units::TimeUnit;
use super::super::value::{Kind, Word};
use super::{Fallback, Group, OptionDef};

const fn pace(name: &'static str, kind: Kind, default: Fallback, help: &'static str) -> OptionDef {
    OptionDef::new(Group::Pace, name, kind, default, help)
}

const fn verify(name: &'static str, kind: Kind, default: Fallback, help: &'static str) -> OptionDef {
    OptionDef::new(Group::Verify, name, kind, default, help)
}

const fn measure(name: &'static str, kind: Kind, default: Fallback, help: &'static str) -> OptionDef {
    OptionDef::new(Group::Measure, name, kind, default, help)
}

const fn word(word: &'static str, help: &'static str) -> Word {
    Word { word, means: word, help }
}

const OFF: Fallback = Fallback::Is("0");
const ON: Fallback = Fallback::Is("1");
const NO_LIMIT: Fallback = Fallback::Means("no limit");
const MICROSECONDS: Kind = Kind::Time { bare: TimeUnit::Microseconds, min_us: 0 };

/// Options of [`Group::Pace`].
pub(super) const PACE: &[OptionDef] = &[
    pace(
        "rate",
        Kind::Triple { min: 0, max: u64::MAX },
        NO_LIMIT,
        "Bytes per second at most, for each clone; 0: no limit.",
    ),
    pace(
        "rate_iops",
        Kind::Triple { min: 0, max: u64::MAX },
        NO_LIMIT,
        "Requests per second at most, for each clone; 0: no limit.",
    ),
    pace(
        "thinktime",
        MICROSECONDS,
        OFF,
        "Pause this long after every thinktime_blocks completions; 0: never.",
    ),
    pace("thinktime_spin", MICROSECONDS, OFF, "The part of the pause, at its start, that burns CPU."),
    pace(
        "thinktime_blocks",
        Kind::Count { min: 1, max: u32::MAX as u64 },
        Fallback::Is("1"),
        "Completions between pauses; no more requests than that are in flight.",
    ),
    pace(
        "latency_target",
        MICROSECONDS,
        OFF,
        "Search the highest queue depth, up to iodepth, that keeps this latency; 0: do not.",
    ),
    pace("latency_window", MICROSECONDS, OFF, "How long each depth is tried; needed with latency_target."),
    pace(
        "latency_percentile",
        Kind::Percentile,
        Fallback::Is("100"),
        "Per cent of the requests that must keep latency_target.",
    ),
];

/// Options of [`Group::Verify`].
pub(super) const VERIFY: &[OptionDef] = &[
    verify(
        "verify",
        Kind::Choice(&[
            word("0", "Nothing is verified."),
            word("crc32c", "CRC-32C."),
            Word { word: "crc32c-intel", means: "crc32c", help: "The same as crc32c." },
            word("md5", "MD5."),
            word("sha256", "SHA-256."),
            word("xxhash", "XXH64."),
            word("pattern", "No header: the whole block is verify_pattern."),
        ]),
        OFF,
        "Write a header and checksum with every block, and verify what was written.",
    ),
    verify(
        "do_verify",
        Kind::Flag,
        ON,
        "Read back and verify after writing; with 0 a later run may, see verify_only.",
    ),
    verify("verify_only", Kind::Flag, OFF, "Write nothing: verify what a run with the same options wrote."),
    verify(
        "verify_pattern",
        Kind::Pattern,
        Fallback::Means("random bytes"),
        "What blocks are filled with, over and over; %o is the block's offset in the file, eight bytes, little-endian.",
    ),
    verify("verify_fatal", Kind::Flag, OFF, "End the job at the first block that does not verify."),
    verify(
        "verify_backlog",
        Kind::Count { min: 0, max: u64::MAX },
        OFF,
        "Verify after this many blocks written; 0: when the writing has ended.",
    ),
];

/// Options of [`Group::Measure`].
pub(super) const MEASURE: &[OptionDef] = &[
    measure("clat_percentiles", Kind::Flag, ON, "Show percentiles of completion latencies."),
    measure("lat_percentiles", Kind::Flag, OFF, "Show percentiles of total latencies."),
    measure("slat_percentiles", Kind::Flag, OFF, "Show percentiles of submission latencies."),
    measure(
        "percentile_list",
        Kind::Percentiles,
        Fallback::Is("1:5:10:20:30:40:50:60:70:80:90:95:99:99.5:99.9:99.95:99.99"),
        "Which percentiles are shown.",
    ),
    measure("disable_lat", Kind::Flag, OFF, "Do not take total latencies."),
    measure("disable_clat", Kind::Flag, OFF, "Do not take completion latencies."),
    measure("disable_slat", Kind::Flag, OFF, "Do not take submission latencies."),
    measure("gtod_reduce", Kind::Flag, OFF, "Take no latency at all and read the clock as rarely as can be."),
    measure(
        "write_bw_log",
        Kind::OptionalText,
        Fallback::Means("no log"),
        "Log bandwidth over time into NAME_bw.N.log; without a NAME it is the job's.",
    ),
    measure(
        "write_iops_log",
        Kind::OptionalText,
        Fallback::Means("no log"),
        "Log requests per second over time into NAME_iops.N.log; without a NAME it is the job's.",
    ),
    measure(
        "write_lat_log",
        Kind::OptionalText,
        Fallback::Means("no log"),
        "Log latencies over time into NAME_slat.N.log, NAME_clat.N.log and NAME_lat.N.log; without a NAME it is the job's.",
    ),
    measure(
        "log_avg_msec",
        Kind::Count { min: 0, max: u32::MAX as u64 },
        OFF,
        "Log averages over this many milliseconds; 0: an entry a request.",
    ),
];
