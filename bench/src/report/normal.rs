//! fio's normal output: a block of text per job, the groups' rates, the disks' use.

use std::fmt::Write;

use super::model::{GroupReport, JobReport, RunReport, VERSION};
use super::number::{self, Scale, Unit};
use crate::stats::{Direction, Distribution, Latency, LatencyBands, share_percent};

/// What the lines at the start of a run say of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BannerJob {
    /// `name`.
    pub name: String,
    /// Group number.
    pub group_id: u32,
    /// `rw`, as given.
    pub rw: String,
    /// Smallest and largest block, by direction, bytes.
    pub block_bytes: [(u64, u64); 3],
    /// `ioengine`.
    pub ioengine: String,
    /// `iodepth`.
    pub iodepth: u32,
    /// `numjobs`.
    pub numjobs: u32,
}

/// The lines at the start of a run: one per job description, the version, the number of jobs.
pub fn banner(jobs: &[BannerJob]) -> String {
    let mut out = String::new();
    for job in jobs {
        let blocks: Vec<String> = Direction::ALL
            .iter()
            .zip(job.block_bytes)
            .map(|(direction, (min, max))| {
                let letter = direction.letter().to_ascii_uppercase();
                format!("({letter}) {}-{}", block_size(min), block_size(max))
            })
            .collect();
        push(
            &mut out,
            format_args!(
                "{}: (g={}): rw={}, bs={}, ioengine={}, iodepth={}\n",
                job.name,
                job.group_id,
                job.rw,
                blocks.join(", "),
                job.ioengine,
                job.iodepth
            ),
        );
        if job.numjobs > 1 {
            out.push_str("...\n");
        }
    }
    let total: u32 = jobs.iter().map(|job| job.numjobs).sum();
    let plural = if total == 1 { "job" } else { "jobs" };
    push(&mut out, format_args!("{VERSION}\nStarting {total} {plural}\n"));
    out
}

/// The whole report as text; starts with an empty line, as fio's does.
pub fn normal(run: &RunReport) -> String {
    let mut out = String::from("\n");
    let groups = run.groups();
    let time = run.time_text();
    for job in &run.jobs {
        if let Some(group) = groups.iter().find(|group| group.id == job.group_id) {
            write_job(&mut out, job, group, &time);
        }
    }
    for group in &groups {
        write_group(&mut out, group);
    }
    write_disks(&mut out, run);
    out
}

fn write_job(out: &mut String, job: &JobReport, group: &GroupReport, time: &str) {
    let stats = &job.stats;
    if stats.total_ios() == 0 && stats.total_bytes() == 0 {
        return;
    }
    let error = if job.error == 0 { String::new() } else { format!(" ({})", job.error_text) };
    push(
        out,
        format_args!(
            "{}: (groupid={}, jobs={}): err={:2}{error}: pid={}: {time}\n",
            job.name, job.group_id, job.members, job.error, job.pid
        ),
    );
    if let Some(description) = &job.description {
        push(out, format_args!("  Description  : [{description}]\n"));
    }
    for direction in Direction::ALL {
        write_direction(out, job, group, direction);
    }
    write_bands(out, job);
    if stats.sync.latency.moments().samples() > 0 {
        out.push_str("  fsync/fdatasync/sync_file_range:\n");
        write_latency(out, "sync", &stats.sync.latency);
        write_percentiles(out, "sync", &stats.sync.latency, &job.percentile_list());
    }
    write_cpu_and_depths(out, job);
}

fn write_direction(out: &mut String, job: &JobReport, group: &GroupReport, direction: Direction) {
    let stats = &job.stats.directions[direction];
    if stats.bytes == 0 || stats.runtime_ms == 0 {
        return;
    }
    let (binary, decimal) = number::bandwidth(stats.bytes_per_s());
    let resets = job.stats.zone_resets.filter(|_| direction == Direction::Write);
    let resets = resets.map(|resets| format!("; {resets} zone resets")).unwrap_or_default();
    push(
        out,
        format_args!(
            "  {}: IOPS={}, BW={binary} ({decimal})({}/{}msec){resets}\n",
            direction.name(),
            number::count(stats.ios_per_s()),
            number::size(stats.bytes).0,
            stats.runtime_ms
        ),
    );
    for (name, latency) in [("slat", &stats.slat), ("clat", &stats.clat), (" lat", &stats.lat)] {
        write_latency(out, name, latency);
    }
    let config = &job.stats.config;
    let list = job.percentile_list();
    for (name, asked, latency) in [
        ("slat", config.slat_percentiles, &stats.slat),
        ("clat", config.clat_percentiles, &stats.clat),
        ("lat", config.lat_percentiles, &stats.lat),
    ] {
        if asked {
            write_percentiles(out, name, latency, &list);
        }
    }
    write_rates(out, job, group, direction);
}

/// A line of minimum, maximum, mean and deviation; in the unit that its values call for.
fn write_latency(out: &mut String, name: &str, latency: &Latency) {
    let moments = latency.moments();
    if moments.samples() == 0 {
        return;
    }
    let (min, max, mean, stddev) = (moments.min(), moments.max(), moments.mean(), moments.stddev());
    let (unit, divisor) = if min > 2_000_000 && max > 99_999_999 && stddev > 1_000_000.0 {
        ("msec", 1_000_000)
    } else if min > 2_000 && max > 99_999 && stddev > 1_000.0 {
        ("usec", 1_000)
    } else {
        ("nsec", 1)
    };
    let short = |ns: u64| number::short(ns / divisor, number::LATENCY_DIGITS, Scale::Decimal, Unit::None);
    push(
        out,
        format_args!(
            "    {name} ({unit}): min={}, max={}, avg={:5.2}, stdev={:5.2}\n",
            short(min),
            short(max),
            mean / divisor as f64,
            stddev / divisor as f64
        ),
    );
}

/// The table of percentiles, as many columns as fit in 80 characters.
fn write_percentiles(out: &mut String, name: &str, latency: &Latency, list: &[f64]) {
    let values = latency.percentiles_ns(list);
    let (Some(&(_, min)), Some(&(_, max))) = (values.first(), values.last()) else {
        return;
    };
    let (unit, divisor) = if min > 2_000_000 && max > 99_999_999 {
        ("msec", 1_000_000)
    } else if min > 2_000 && max > 99_999 {
        ("usec", 1_000)
    } else {
        ("nsec", 1)
    };
    let width = ((max / divisor).max(1).ilog10() as usize + 1).max(5);
    let per_line = ((80 - 7) / (2 + 10 + width)).max(1);
    push(out, format_args!("    {name} percentiles ({unit}):\n"));
    for line in values.chunks(per_line) {
        out.push_str("     |");
        for (column, (percent, ns)) in line.iter().enumerate() {
            let separator = if column == 0 { "" } else { "," };
            push(out, format_args!("{separator} {percent:5.2}th=[{:width$}]", ns.div_ceil(divisor)));
        }
        out.push_str(",\n");
    }
    // The last entry has no comma behind it.
    out.truncate(out.len() - 2);
    out.push('\n');
}

fn write_rates(out: &mut String, job: &JobReport, group: &GroupReport, direction: Direction) {
    let stats = &job.stats.directions[direction];
    let rate = &stats.bandwidth_kib;
    if rate.samples() > 0 {
        let (unit, divisor) = if rate.mean() > 1024.0 * 1024.0 { ("MiB", 1024) } else { ("KiB", 1) };
        push(
            out,
            format_args!(
                "   bw ({unit:>5}/s): min={:5}, max={:5}, per={:3.2}%, avg={:5.2}, stdev={:5.2}, samples={}\n",
                rate.min() / divisor,
                rate.max() / divisor,
                group.share_percent(direction, rate.mean()),
                rate.mean() / divisor as f64,
                rate.stddev() / divisor as f64,
                rate.samples()
            ),
        );
    }
    let iops = &stats.iops;
    if iops.samples() > 0 {
        push(
            out,
            format_args!(
                "   iops        : min={:5}, max={:5}, avg={:5.2}, stdev={:5.2}, samples={}\n",
                iops.min(),
                iops.max(),
                iops.mean(),
                iops.stddev(),
                iops.samples()
            ),
        );
    }
}

/// Shares of the latency bands, five to a line, empty ones left out.
fn write_bands(out: &mut String, job: &JobReport) {
    let bands = job.stats.latency_bands();
    let total = job.stats.total_ios();
    for (unit, counts) in [("nsec", bands.ns()), ("usec", bands.us()), ("msec", bands.ms())] {
        let shown: Vec<String> = counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(index, &count)| {
                format!("{}={:3.2}%", LatencyBands::label(index), share_percent(count, total, 0.01))
            })
            .collect();
        for line in shown.chunks(5) {
            push(out, format_args!("  lat ({unit})   : {}\n", line.join(", ")));
        }
    }
}

fn write_cpu_and_depths(out: &mut String, job: &JobReport) {
    let stats = &job.stats;
    let (user, system) = stats.cpu_percent();
    push(
        out,
        format_args!(
            "  cpu          : usr={user:3.2}%, sys={system:3.2}%, ctx={}, majf={}, minf={}\n",
            stats.cpu.context_switches, stats.cpu.major_faults, stats.cpu.minor_faults
        ),
    );
    let depths = [
        ("  IO depths    : ", &stats.depths, &Distribution::DEPTH_LABELS, stats.total_ios()),
        ("     submit    : ", &stats.submits, &Distribution::BATCH_LABELS, stats.submits.total()),
        ("     complete  : ", &stats.completes, &Distribution::BATCH_LABELS, stats.completes.total()),
    ];
    for (head, distribution, labels, total) in depths {
        let shares: Vec<String> = labels
            .iter()
            .zip(distribution.shares_percent(total))
            .map(|(label, share)| format!("{label}={share:3.1}%"))
            .collect();
        push(out, format_args!("{head}{}\n", shares.join(", ")));
    }
    let [reads, writes, trims] = &stats.directions.0;
    push(
        out,
        format_args!(
            "     issued rwts: total={},{},{},{} short={},{},{},0 dropped={},{},{},0\n",
            reads.ios,
            writes.ios,
            trims.ios,
            stats.sync.ios,
            reads.short_ios,
            writes.short_ios,
            trims.short_ios,
            reads.dropped_ios,
            writes.dropped_ios,
            trims.dropped_ios
        ),
    );
    if job.continue_on_error {
        let first = errno_text(stats.errors.first_errno);
        push(
            out,
            format_args!(
                "     errors    : total={}, first_error={}/<{first}>\n",
                stats.errors.total, stats.errors.first_errno
            ),
        );
    }
    let target = &job.latency_target;
    if target.depth > 0 {
        push(
            out,
            format_args!(
                "     latency   : target={}, window={}, percentile={:.2}%, depth={}\n",
                target.target_ns, target.window_us, target.percentile, target.depth
            ),
        );
    }
}

fn write_group(out: &mut String, group: &GroupReport) {
    push(out, format_args!("\nRun status group {} (all jobs):\n", group.id));
    for (direction, rates) in group.directions.iter() {
        if rates.max_runtime_ms == 0 {
            continue;
        }
        let (rate, rate_decimal) = number::bandwidth(rates.bytes_per_s);
        let (min, min_decimal) = number::bandwidth(rates.min_bytes_per_s);
        let (max, max_decimal) = number::bandwidth(rates.max_bytes_per_s);
        let (size, size_decimal) = number::size(rates.bytes);
        push(
            out,
            format_args!(
                "{:>7}: bw={rate} ({rate_decimal}), {min}-{max} ({min_decimal}-{max_decimal}), \
             io={size} ({size_decimal}), run={}-{}msec\n",
                direction.upper_name(),
                rates.min_runtime_ms,
                rates.max_runtime_ms
            ),
        );
    }
}

fn write_disks(out: &mut String, run: &RunReport) {
    if run.disks.is_empty() {
        return;
    }
    out.push_str("\nDisk stats (read/write):\n");
    for disk in &run.disks {
        let counters = &disk.counters;
        let indent = if disk.parts.is_empty() { "  " } else { "    " };
        push(
            out,
            format_args!(
                "{indent}{}: ios={}/{}, merge={}/{}, ticks={}/{}, in_queue={}, util={:3.2}%",
                disk.name,
                counters.ios[0],
                counters.ios[1],
                counters.merges[0],
                counters.merges[1],
                counters.ticks_ms[0],
                counters.ticks_ms[1],
                counters.in_queue_ms,
                disk.busy_percent()
            ),
        );
        if let Some((mean, busiest)) = disk.parts_mean() {
            push(
                out,
                format_args!(
                    ", aggrios={}/{}, aggrmerge={}/{}, aggrticks={}/{}, aggrin_queue={}, aggrutil={busiest:3.2}%",
                    mean.ios[0],
                    mean.ios[1],
                    mean.merges[0],
                    mean.merges[1],
                    mean.ticks_ms[0],
                    mean.ticks_ms[1],
                    mean.in_queue_ms
                ),
            );
        }
        out.push('\n');
    }
}

fn block_size(bytes: u64) -> String {
    number::short(bytes, number::SIGNIFICANT, Scale::Binary, Unit::Bytes)
}

/// strerror(3)'s text.
fn errno_text(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// Appends formatted text.
fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a String cannot fail");
}
