//! Requests, depth, end, pace and verification.

use super::super::error::OptionError;
use super::super::spec::{
    BlockSizes, DepthSpec, DirectionMix, Distribution, EndSpec, Extent, LatencyTarget, PaceSpec,
    PerDirection, RwMode, ThinkTime, VerifyMethod, VerifySpec, WorkloadSpec, ZoneSpec,
};
use super::super::value::Value;
use super::view::{self, View};

/// The requests of a job.
pub fn workload(view: &View) -> Result<WorkloadSpec, OptionError> {
    let seeded = view.flag("randrepeat") || view.last("randseed").is_some();
    Ok(WorkloadSpec {
        rw: rw_mode(view.choice("rw")),
        read_percent: read_percent(view),
        blocks: blocks(view)?,
        align_bytes: view.triple("ba"),
        size: view.extent("size"),
        offset: view.extent("offset").unwrap_or(Extent::Bytes(0)),
        offset_increment: view.extent("offset_increment").unwrap_or(Extent::Bytes(0)),
        distribution: match view.value("random_distribution") {
            Some(Value::Distribution(distribution)) => distribution,
            _ => Distribution::Uniform,
        },
        no_random_map: view.flag("norandommap"),
        seed: seeded.then(|| view.number("randseed")),
        fsync_every_writes: view.number_u32("fsync"),
        fdatasync_every_writes: view.number_u32("fdatasync"),
        end_fsync: view.flag("end_fsync"),
        zones: (view.choice("zonemode") == "zbd").then(|| ZoneSpec {
            zone_bytes: view.positive("zonesize"),
            most_open: Some(view.number_u32("max_open_zones")).filter(|most| *most > 0),
        }),
    })
}

fn rw_mode(word: &str) -> RwMode {
    let (mix, random) = match word {
        "write" => (DirectionMix::Write, false),
        "trim" => (DirectionMix::Trim, false),
        "randread" => (DirectionMix::Read, true),
        "randwrite" => (DirectionMix::Write, true),
        "randtrim" => (DirectionMix::Trim, true),
        "rw" => (DirectionMix::ReadWrite, false),
        "randrw" => (DirectionMix::ReadWrite, true),
        "trimwrite" => (DirectionMix::TrimWrite, false),
        "randtrimwrite" => (DirectionMix::TrimWrite, true),
        _ => (DirectionMix::Read, false),
    };
    RwMode { mix, random }
}

/// The later of `rwmixread` and `rwmixwrite` holds, as in fio.
fn read_percent(view: &View) -> u8 {
    let last = view.all().iter().rev().find(|given| matches!(given.name, "rwmixread" | "rwmixwrite"));
    let percent = |name| u8::try_from(view.number(name)).unwrap_or(100).min(100);
    match last {
        Some(given) if given.name == "rwmixwrite" => 100 - percent("rwmixwrite"),
        _ => percent("rwmixread"),
    }
}

/// `bs`, `bsrange` and `bssplit` set the same thing: a later section's holds, within one section each direction may be
/// set by one of the three only.
fn blocks(view: &View) -> Result<PerDirection<BlockSizes>, OptionError> {
    let mut held: [Option<(BlockSizes, &str, usize)>; 3] = [None, None, None];
    for given in view.all() {
        let Value::Blocks(blocks) = &given.value else { continue };
        for (slot, new) in held.iter_mut().zip([&blocks.read, &blocks.write, &blocks.trim]) {
            let Some(new) = new else { continue };
            let clash = slot.as_ref().filter(|(_, name, level)| *level == given.level && *name != given.name);
            if let Some((_, other, _)) = clash {
                let what =
                    format!("{} and {} both set the block size", view.shown(other), view.shown(given.name));
                return Err(view.contradiction(what, "one of them alone is right"));
            }
            *slot = Some((new.clone(), given.name, given.level));
        }
    }
    let default = match view::default_of("bs") {
        Some(Value::Blocks(PerDirection { read: Some(blocks), .. })) => blocks,
        _ => BlockSizes::Fixed(4096),
    };
    let [read, write, trim] = held.map(|slot| slot.map_or_else(|| default.clone(), |(blocks, _, _)| blocks));
    Ok(PerDirection { read, write, trim })
}

/// The depth of a job. Ranges are checked here, because zeroes and absences mean `iodepth`.
pub fn depth(view: &View) -> Result<DepthSpec, OptionError> {
    let iodepth = view.number_u32("iodepth");
    let within = |name: &str| -> Result<u32, OptionError> {
        let number = view.number_u32(name);
        if number > iodepth {
            let what = format!("{} is more than {}", view.shown(name), view.shown("iodepth"));
            return Err(view.contradiction(what, format!("at most {iodepth}, or a larger iodepth, is right")));
        }
        Ok(number)
    };
    let or_iodepth = |number: u32| if number == 0 { iodepth } else { number };
    let batch_complete_min = within("iodepth_batch_complete_min")?;
    let given = |name: &str| view.last(name).is_some();
    let batch_complete_max = match given("iodepth_batch_complete_max") {
        true => Some(within("iodepth_batch_complete_max")?),
        false => None,
    };
    if batch_complete_max.is_some_and(|max| max < batch_complete_min) {
        let (min, max) = ("iodepth_batch_complete_min", "iodepth_batch_complete_max");
        let what = format!("{} is more than {}", view.shown(min), view.shown(max));
        return Err(view.contradiction(what, "the minimum at most as large as the maximum is right"));
    }
    Ok(DepthSpec {
        iodepth,
        batch_submit: if given("iodepth_batch") { Some(or_iodepth(within("iodepth_batch")?)) } else { None },
        batch_complete_min,
        batch_complete_max,
        low: or_iodepth(within("iodepth_low")?),
    })
}

/// When a job ends.
pub fn end(view: &View) -> EndSpec {
    EndSpec {
        io_size: view.extent("io_size"),
        number_ios: view.positive("number_ios"),
        runtime: Some(view.time("runtime")).filter(|time| !time.is_zero()),
        time_based: view.flag("time_based"),
        ramp_time: view.time("ramp_time"),
    }
}

/// What slows a job down.
pub fn pace(view: &View) -> Result<PaceSpec, OptionError> {
    Ok(PaceSpec {
        rate_bytes_per_s: limits(view, "rate"),
        rate_iops: limits(view, "rate_iops"),
        think_time: think_time(view)?,
        latency_target: latency_target(view)?,
    })
}

fn limits(view: &View, name: &str) -> PerDirection<Option<u64>> {
    let PerDirection { read, write, trim } = view.triple(name);
    let limit = |number: Option<u64>| number.filter(|number| *number > 0);
    PerDirection { read: limit(read), write: limit(write), trim: limit(trim) }
}

fn think_time(view: &View) -> Result<Option<ThinkTime>, OptionError> {
    let (pause, spin) = (view.time("thinktime"), view.time("thinktime_spin"));
    if pause.is_zero() {
        return Ok(None);
    }
    if spin > pause {
        let what = format!("{} is longer than {}", view.shown("thinktime_spin"), view.shown("thinktime"));
        return Err(view.contradiction(what, "thinktime_spin is a part of thinktime, at most all of it"));
    }
    Ok(Some(ThinkTime { pause, spin, blocks: view.number_u32("thinktime_blocks") }))
}

fn latency_target(view: &View) -> Result<Option<LatencyTarget>, OptionError> {
    let (target, window) = (view.time("latency_target"), view.time("latency_window"));
    if target.is_zero() {
        return Ok(None);
    }
    if window.is_zero() {
        let what = format!("{} without latency_window", view.shown("latency_target"));
        return Err(view.contradiction(what, "add how long each depth is tried, such as latency_window=5s"));
    }
    let percentile = match view.value("latency_percentile") {
        Some(Value::Float(percentile)) => percentile,
        _ => 100.0,
    };
    Ok(Some(LatencyTarget { target, window, percentile }))
}

/// What of a job's data is verified.
pub fn verify(view: &View) -> Result<Option<VerifySpec>, OptionError> {
    let method = match view.choice("verify") {
        "crc32c" => VerifyMethod::Crc32c,
        "md5" => VerifyMethod::Md5,
        "sha256" => VerifyMethod::Sha256,
        "xxhash" => VerifyMethod::Xxhash,
        "pattern" => VerifyMethod::Pattern,
        _ => return Ok(None),
    };
    let pattern = match view.value("verify_pattern") {
        Some(Value::Pattern(pattern)) => Some(pattern),
        _ => None,
    };
    if method == VerifyMethod::Pattern && pattern.is_none() {
        let right = "add the pattern, such as verify_pattern=0xdeadbeef";
        return Err(view.contradiction("verify=pattern without verify_pattern", right));
    }
    Ok(Some(VerifySpec {
        method,
        pattern,
        fatal: view.flag("verify_fatal"),
        backlog_blocks: view.positive("verify_backlog"),
        do_verify: view.flag("do_verify"),
        only: view.flag("verify_only"),
    }))
}
