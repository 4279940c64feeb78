//! The options of fio 3.33 that this tool has not, each with the nearest that it has.
//!
//! Taken from fio's `--cmdhelp=all`, `--enghelp=ENGINE` and `--help`. Invariant (tested where fio is installed): every
//! name that fio knows is either here or in the table of options.

/// What to say about an option that only fio has; `None`: fio has no such option either.
pub fn nearest(name: &str) -> Option<String> {
    let entry = [JOB_NEAREST, COMMAND_LINE_NEAREST].into_iter().flatten().find(|entry| entry.0 == name);
    if let Some((_, nearest)) = entry {
        return Some(format!("nearest: {nearest}"));
    }
    for (names, reason) in WITHOUT_LIKE {
        if names.contains(&name) {
            return Some(format!("there is nothing like it: {reason}"));
        }
    }
    None
}

/// All names that [`nearest`] knows.
#[cfg(test)]
pub fn all() -> impl Iterator<Item = &'static str> {
    let near = [JOB_NEAREST, COMMAND_LINE_NEAREST].into_iter().flatten().map(|entry| entry.0);
    near.chain(WITHOUT_LIKE.iter().flat_map(|entry| entry.0.iter().copied()))
}

/// Options of jobs for which there is something like it.
const JOB_NEAREST: &[(&str, &str)] = &[
    ("wait_for", "stonewall, which waits for all earlier jobs"),
    ("lockfile", "locking=on, which keeps other processes out"),
    ("opendir", "filename=FILE:FILE"),
    ("nrfiles", "filename=FILE:FILE"),
    ("nr_files", "filename=FILE:FILE"),
    ("openfiles", "filename=FILE:FILE; all of them are kept open"),
    ("file_service_type", "filename=FILE:FILE; files are taken in turn"),
    ("unique_filename", "filename_format"),
    ("bs_unaligned", "bs=MIN-MAX, whose sizes are multiples of MIN"),
    ("blocksize_unaligned", "bs=MIN-MAX, whose sizes are multiples of MIN"),
    ("bs_is_seq_rand", "bs=READS,WRITES in two jobs"),
    ("ignore_error", "continue_on_error"),
    ("error_dump", "continue_on_error; every error is in the report"),
    ("rw_sequencer", "rw=read for sequences, rw=randread for random offsets"),
    ("percentage_random", "two jobs, one sequential and one random"),
    ("io_submit_mode", "rate_iops, which paces submission"),
    ("serialize_overlap", "iodepth=1"),
    ("fill_device", "rw=write without size, which writes to the end of the device"),
    ("fill_fs", "rw=write without size, which writes to the end of the device"),
    ("file_append", "offset"),
    ("offset_align", "offset in bytes"),
    ("random_generator", "randseed"),
    ("allrandrepeat", "randseed, which seeds every generator"),
    ("softrandommap", "norandommap"),
    ("fsync_on_close", "end_fsync"),
    ("write_barrier", "fsync=N"),
    ("sync_file_range", "fdatasync=N"),
    ("atomic", "direct=1 with sync=dsync"),
    ("overwrite", "size, which makes the file before the job starts"),
    ("loops", "time_based with runtime, or io_size"),
    ("numruns", "time_based with runtime, or io_size"),
    ("clocksource", "gtod_reduce; the clock is CLOCK_MONOTONIC"),
    ("gtod_cpu", "gtod_reduce"),
    ("mem", "fixedbufs"),
    ("iomem", "fixedbufs"),
    ("iomem_align", "direct=1, which aligns as the device demands"),
    ("mem_align", "direct=1, which aligns as the device demands"),
    ("hugepage-size", "fixedbufs"),
    ("verify_interval", "bs, each block of which has a header"),
    ("verify_offset", "verify, whose header is at the block's start"),
    ("verify_dump", "verify, which reports where and what did not verify"),
    ("verify_async", "numjobs, whose clones verify in lanes of their own"),
    ("verify_async_cpus", "cpus_allowed"),
    ("verify_backlog_batch", "verify_backlog, which verifies the whole backlog"),
    ("experimental_verify", "verify"),
    ("verify_state_load", "verify_only"),
    ("verify_state_save", "verify_only"),
    ("trim_percentage", "rw=trimwrite"),
    ("trim_verify_zero", "rw=trim, then a job with verify=pattern, verify_pattern=0x00 and verify_only"),
    ("trim_backlog", "rw=trimwrite"),
    ("trim_backlog_batch", "rw=trimwrite"),
    ("thinktime_blocks_type", "thinktime_blocks, which counts completions"),
    ("thinktime_iotime", "thinktime_blocks"),
    ("rate_min", "rate"),
    ("ratemin", "rate"),
    ("rate_process", "rate_iops, which is linear"),
    ("rate_cycle", "rate"),
    ("ratecycle", "rate"),
    ("rate_ignore_thinktime", "rate without thinktime"),
    ("rate_iops_min", "rate_iops"),
    ("max_latency", "latency_target"),
    ("latency_run", "latency_target with latency_window"),
    ("create_serialize", "stonewall"),
    ("create_fsync", "end_fsync"),
    ("create_on_open", "filesize, which makes files before the job starts"),
    ("create_only", "--parse-only, or a job with rw=write"),
    ("pre_read", "a job with rw=read before a stonewall, and invalidate=0"),
    ("fadvise_hint", "invalidate"),
    ("cpumask", "cpus_allowed"),
    ("cpus_allowed_policy", "cpus_allowed in one job for each CPU"),
    ("numa_cpu_nodes", "cpus_allowed"),
    ("unlink_each_loop", "unlink"),
    ("exitall", "runtime"),
    ("exit_what", "exitall_on_error"),
    ("per_job_logs", "write_bw_log=NAME, which adds the job's number"),
    ("bwavgtime", "log_avg_msec"),
    ("iopsavgtime", "log_avg_msec"),
    ("log_hist_msec", "write_lat_log, or --output-format=json+"),
    ("log_hist_coarseness", "--output-format=json+"),
    ("write_hist_log", "--output-format=json+"),
    ("log_max_value", "log_avg_msec=0, which logs every request"),
    ("stats", "group_reporting"),
    ("buffer_pattern", "verify_pattern"),
    ("zero_buffers", "verify=pattern with verify_pattern=0x00"),
    ("significant_figures", "--output-format=json"),
    ("unified_rw_reporting", "group_reporting"),
    ("disable_bw_measurement", "gtod_reduce"),
    ("disable_bw", "gtod_reduce"),
    ("unit_base", "--output-format=json, which has bytes per second"),
    ("block_error_percentiles", "continue_on_error"),
    ("steadystate", "ramp_time with runtime"),
    ("ss", "ramp_time with runtime"),
    ("steadystate_duration", "runtime"),
    ("ss_dur", "runtime"),
    ("steadystate_ramp_time", "ramp_time"),
    ("ss_ramp", "ramp_time"),
    ("nonvectored", "bs; a request with one buffer is not vectored"),
    ("userspace_reap", "ioengine=io_uring, which reaps in user space"),
    ("nowait", "iodepth"),
    ("force_async", "iodepth"),
    ("writefua", "sync=dsync"),
    ("readfua", "direct=1"),
    ("uncached", "direct=1"),
    ("hipri_percentage", "hipri"),
    ("sg_write_mode", "sync=dsync"),
];

/// Options of the command line for which there is something like it.
const COMMAND_LINE_NEAREST: &[(&str, &str)] = &[
    ("debug", "the environment variable RUST_LOG"),
    ("bandwidth-log", "write_bw_log"),
    ("append-terse", "--output-format=normal,terse"),
    ("crctest", "the criterion benches"),
    ("enghelp", "--cmdhelp=ioengine"),
    ("showcmd", "--parse-only"),
    ("eta-newline", "--status-interval"),
    ("warnings-fatal", "none is needed, whatever is not understood is an error"),
    ("max-jobs", "numjobs, at most 4096"),
    ("latency-log", "write_lat_log"),
    ("idle-prof", "the cpu line of the report"),
    ("trigger-timeout", "runtime"),
    ("aux-path", "directory"),
];

/// Options with nothing like it, by what stands in the way.
const WITHOUT_LIKE: &[(&[&str], &str)] = &[
    (
        &[
            "write_iolog",
            "read_iolog",
            "read_iolog_chunked",
            "replay_no_stall",
            "replay_redirect",
            "replay_scale",
            "replay_align",
            "replay_time_scale",
            "replay_skip",
            "merge_blktrace_file",
            "merge_blktrace_scalars",
            "merge_blktrace_iters",
            "merge-blktrace-only",
        ],
        "traces are neither recorded nor replayed",
    ),
    (
        &[
            "zonecapacity",
            "zonerange",
            "zoneskip",
            "read_beyond_wp",
            "job_max_open_zones",
            "ignore_zone_limits",
            "zone_reset_threshold",
            "zone_reset_frequency",
        ],
        "of zones there are zonemode=zbd, zonesize and max_open_zones",
    ),
    (&["exec_prerun", "exec_postrun", "trigger-file", "trigger", "trigger-remote"], "no commands are run"),
    (
        &[
            "server",
            "daemonize",
            "client",
            "remote-config",
            "hostname",
            "interface",
            "listen",
            "port",
            "protocol",
            "proto",
            "nodelay",
            "net",
            "mss",
            "ttl",
            "pingpong",
            "window_size",
            "verb",
            "bindname",
        ],
        "there is no network part",
    ),
    (
        &[
            "cgroup",
            "cgroup_nodelete",
            "cgroup_weight",
            "uid",
            "gid",
            "nice",
            "prio",
            "prioclass",
            "lockmem",
            "ioscheduler",
        ],
        "set it from outside, before the run",
    ),
    (&["cmdprio", "cmdprio_percentage", "cmdprio_class", "cmdprio_bssplit"], "requests carry no priority"),
    (&["numa_mem_policy"], "run under numactl instead"),
    (&["flow", "flow_id", "flow_sleep", "flow_watermark"], "jobs do not regulate each other"),
    (&["fallocate", "write_hint"], "files are made by the file driver's rule"),
    (
        &["allow_file_create", "allow_mounted_write"],
        "files are made where they are missing; see also --readonly",
    ),
    (
        &[
            "refill_buffers",
            "scramble_buffers",
            "buffer_compress_percentage",
            "buffer_compress_chunk",
            "dedupe_percentage",
            "dedupe_mode",
            "dedupe_working_set_percentage",
            "dedupe_global",
        ],
        "what is written is random, or a pattern with verify_pattern",
    ),
    (
        &[
            "log_entries",
            "log_offset",
            "log_prio",
            "log_compression",
            "log_compression_cpus",
            "log_store_compressed",
            "log_unix_epoch",
            "log_alternate_epoch",
            "log_alternate_epoch_clock_id",
            "inflate-log",
        ],
        "logs are plain text, time from the start of the run",
    ),
    (&["disk_util"], "the kernel's disk statistics are not read"),
    (&["profile"], "there are no profiles"),
    (&["cpuclock-test", "alloc-size"], "it concerns fio's own workings"),
    (
        &[
            "arguments",
            "brick",
            "busy_poll",
            "clientname",
            "clustername",
            "cmd_type",
            "conf",
            "cpuchunks",
            "cpuload",
            "cpumode",
            "donorname",
            "exit_on_io_done",
            "grace_time",
            "inplace",
            "pool",
            "program",
            "rbdname",
            "single-instance",
            "skip_bad",
            "stat_type",
            "std_redirect",
            "stream_id",
            "thp",
            "touch_objects",
            "uri",
            "volume",
            "namenode",
            "chunk_size",
            "hdfsdirectory",
        ],
        "it belongs to an ioengine that is not here",
    ),
];

#[cfg(test)]
#[allow(clippy::print_stderr)]
mod tests {
    use std::collections::HashSet;
    use std::process::Command;

    use super::super::table;
    use super::*;

    #[test]
    fn refused_names_are_not_options_and_occur_once() {
        let mut seen = HashSet::new();
        for name in all() {
            assert!(table::find(name).is_none(), "{name} is an option");
            assert!(seen.insert(name), "{name} occurs twice");
            assert!(nearest(name).is_some());
        }
    }

    fn names_in(text: &str) -> Vec<String> {
        let field = |line: &str| line.split(':').next().map(|name| name.trim().to_owned());
        text.lines().filter(|line| line.contains(':')).filter_map(field).collect()
    }

    fn fio(arguments: &[&str]) -> Option<String> {
        let output = Command::new("fio").args(arguments).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    #[test]
    fn every_option_of_an_installed_fio_is_known() {
        let Some(listing) = fio(&["--cmdhelp=all"]) else {
            eprintln!("SKIPPED: fio is not installed");
            return;
        };
        let mut names = names_in(&listing);
        assert!(names.len() > 150, "fio lists only {} options", names.len());
        let engines = fio(&["--enghelp"]).unwrap_or_default();
        for engine in engines.lines().skip(1).map(str::trim) {
            names.extend(names_in(&fio(&[&format!("--enghelp={engine}")]).unwrap_or_default()));
        }
        let help = fio(&["--help"]).unwrap_or_default();
        let long = help.lines().filter_map(|line| line.trim().strip_prefix("--"));
        names.extend(long.filter_map(|line| line.split(['=', ' ', '\t']).next()).map(str::to_owned));
        let unknown: Vec<_> = names
            .iter()
            .filter(|name| !["version", "help"].contains(&name.as_str()))
            .filter(|name| table::find(name).is_none() && nearest(name).is_none())
            .collect();
        assert!(unknown.is_empty(), "fio knows {unknown:?}");
    }

    #[test]
    fn aliases_of_an_installed_fio_are_known() {
        let Some(listing) = fio(&["--cmdhelp=all"]) else {
            eprintln!("SKIPPED: fio is not installed");
            return;
        };
        let mut aliases = 0;
        for name in names_in(&listing) {
            let details = fio(&[&format!("--cmdhelp={name}")]).unwrap_or_default();
            let Some(alias) = details.lines().find_map(|line| line.trim().strip_prefix("alias: ")) else {
                continue;
            };
            aliases += 1;
            let ours = table::find(&name).map(|option| option.name);
            let same = table::find(alias).map(|option| option.name) == ours;
            assert!(same && (ours.is_some() || nearest(alias).is_some()), "{name} goes by {alias} too");
        }
        assert!(aliases > 10, "only {aliases} aliases");
    }
}
