//! Values that consist of several: triples for reads, writes and trims, block size mixes, name, CPU and percentile
//! lists, random distributions and report formats.

use super::error::Problem;
use super::spec::{BlockSizes, CpuSet, Distribution, KbBase, OutputFormat, PerDirection};
use super::units;

/// Most entries of a `bssplit` list, fio's limit.
const SPLIT_MAX: usize = 64;
/// Most entries of `percentile_list`, fio's limit.
const PERCENTILES_MAX: usize = 20;
/// Largest block, bytes: every request in flight has a buffer of its own.
const BLOCK_MAX: u64 = 1 << 30;
/// Largest CPU number that a `cpu_set_t` holds (sched_setaffinity(2)); kernels are built for up to 8192 CPUs.
const CPU_MAX: u32 = 1023;

/// Reads up to three values separated by commas. A value holds for the directions after it too, unless a comma ends
/// it: `8k` is for all, `8k,` for reads, `,8k` for writes and trims.
pub fn triple<T: Clone>(
    text: &str,
    one: impl Fn(&str) -> Result<T, Problem>,
) -> Result<PerDirection<Option<T>>, Problem> {
    let parts: Vec<&str> = text.split(',').collect();
    if parts.len() > 3 {
        return Err(Problem::new(
            "more than three values",
            "one value each for reads, writes and trims is right",
        ));
    }
    if parts.iter().all(|part| part.trim().is_empty()) {
        return Err(Problem::new("no value is given", "one value each for reads, writes and trims is right"));
    }
    let mut values: [Option<T>; 3] = [None, None, None];
    for (slot, part) in values.iter_mut().zip(&parts) {
        *slot = if part.trim().is_empty() { None } else { Some(one(part.trim())?) };
    }
    let last = values[parts.len() - 1].clone();
    for slot in &mut values[parts.len()..] {
        slot.clone_from(&last);
    }
    let [read, write, trim] = values;
    Ok(PerDirection { read, write, trim })
}

/// Reads one of `bs`: a size, or a range `4k-64k`.
pub fn block_sizes(text: &str, kb_base: KbBase) -> Result<BlockSizes, Problem> {
    if text.contains(['-', ':']) {
        return block_range(text, kb_base);
    }
    Ok(BlockSizes::Fixed(block_bytes(text, kb_base)?))
}

/// Reads one of `bsrange`: `4k-64k` or `4k:64k`.
pub fn block_range(text: &str, kb_base: KbBase) -> Result<BlockSizes, Problem> {
    let right = "a range such as 4k-64k is right";
    let Some((min, max)) = text.split_once(['-', ':']) else {
        return Err(Problem::new(format!("{text} is no range"), right));
    };
    let (min, max) = (block_bytes(min, kb_base)?, block_bytes(max, kb_base)?);
    match min.cmp(&max) {
        std::cmp::Ordering::Less => Ok(BlockSizes::Range { min, max }),
        std::cmp::Ordering::Equal => Ok(BlockSizes::Fixed(min)),
        std::cmp::Ordering::Greater => {
            let show = |bytes| units::show_bytes(bytes, kb_base);
            let right = format!("the smaller first, {}-{}, is right", show(max), show(min));
            Err(Problem::new(
                format!("the range begins with {} and ends with {}", show(min), show(max)),
                right,
            ))
        }
    }
}

fn block_bytes(text: &str, kb_base: KbBase) -> Result<u64, Problem> {
    match units::bytes(text, kb_base)? {
        0 => Err(Problem::new("a block of 0 bytes", "1 byte to 1 GiB is right")),
        bytes if bytes > BLOCK_MAX => {
            Err(Problem::new(format!("a block of {bytes} bytes"), "1 byte to 1 GiB is right"))
        }
        bytes => Ok(bytes),
    }
}

/// Reads one list of `bssplit`: `4k/10:64k/50:32k/40`. Entries without a share divide what the others leave.
pub fn block_split(text: &str, kb_base: KbBase) -> Result<BlockSizes, Problem> {
    let mut parts = Vec::new();
    for entry in text.split(':') {
        let (size, share) = entry.split_once('/').unwrap_or((entry, ""));
        let share = match share.trim().trim_end_matches('%') {
            "" => None,
            digits => Some(split_share(digits)?),
        };
        parts.push((block_bytes(size, kb_base)?, share));
    }
    if parts.len() > SPLIT_MAX {
        return Err(Problem::new(
            format!("{} entries", parts.len()),
            format!("at most {SPLIT_MAX} are right"),
        ));
    }
    let parts = fill_shares(&parts)?;
    Ok(match parts[..] {
        [(bytes, _)] => BlockSizes::Fixed(bytes),
        _ => BlockSizes::Split(parts),
    })
}

fn split_share(digits: &str) -> Result<u8, Problem> {
    let share = digits.parse().ok().filter(|share| (1..=100).contains(share));
    share.ok_or_else(|| {
        Problem::new(format!("{digits} is no percentage"), "a whole number from 1 to 100 is right")
    })
}

fn fill_shares(parts: &[(u64, Option<u8>)]) -> Result<Vec<(u64, u8)>, Problem> {
    let given: u32 = parts.iter().filter_map(|part| part.1).map(u32::from).sum();
    let open = parts.iter().filter(|part| part.1.is_none()).count() as u32;
    if given > 100 || (open == 0 && given != 100) {
        return Err(Problem::new(format!("the percentages add up to {given}"), "100 is right"));
    }
    let left = 100 - given;
    if left < open {
        return Err(Problem::new(
            format!("the percentages given leave {left} for {open} entries"),
            "at least 1 for each entry without a percentage is right",
        ));
    }
    let mut ordinal = 0;
    let filled = parts.iter().map(|&(bytes, share)| {
        let share = share.unwrap_or_else(|| {
            ordinal += 1;
            // The remainder of the division goes to the first ones, so that the sum is 100 exactly.
            (left / open + u32::from(ordinal <= left % open)) as u8
        });
        (bytes, share)
    });
    Ok(filled.collect())
}

/// Reads names separated by colons; `\:` is a colon within a name.
pub fn names(text: &str) -> Result<Vec<String>, Problem> {
    let mut names = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, names.last_mut()) {
            ('\\', Some(name)) if chars.next_if_eq(&':').is_some() => name.push(':'),
            (':', _) => names.push(String::new()),
            (_, Some(name)) => name.push(c),
            (_, None) => {}
        }
    }
    if names.iter().any(|name| name.trim().is_empty()) {
        return Err(Problem::new(
            "a name is empty",
            r"names separated by `:` are right, with `\:` for a colon in a name",
        ));
    }
    if names.iter().any(|name| name == "-") {
        return Err(Problem::new(
            "standard input and output are no block devices",
            "name a file or a block device",
        ));
    }
    Ok(names)
}

/// Reads CPU numbers and ranges: `0,2-3`.
pub fn cpus(text: &str) -> Result<CpuSet, Problem> {
    let right = || format!("numbers from 0 to {CPU_MAX} and ranges of them, such as 0,2-3, are right");
    let number = |text: &str| {
        let number = text.trim().parse().ok().filter(|cpu| *cpu <= CPU_MAX);
        number.ok_or_else(|| Problem::new(format!("{} is no CPU", text.trim()), right()))
    };
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (number(first)?, number(last)?);
        if first > last {
            return Err(Problem::new(
                format!("the range {first}-{last} is empty"),
                format!("{last}-{first} is right"),
            ));
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Ok(CpuSet(cpus))
}

/// Most of [`indices`].
const INDICES_MAX: usize = 16;

/// Reads numbers that count something from 0, such as `0,4-6`; they stay in their order, and may repeat.
pub fn indices(text: &str) -> Result<Vec<u16>, Problem> {
    let right = || {
        format!("up to {INDICES_MAX} numbers from 0 to 65535 and ranges of them, such as 0,4-6, are right")
    };
    let number = |text: &str| {
        text.trim().parse().map_err(|_| Problem::new(format!("{} is no number", text.trim()), right()))
    };
    let mut list = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u16, u16) = (number(first)?, number(last)?);
        let count = usize::from(last.wrapping_sub(first)) + 1;
        if first > last || list.len() + count > INDICES_MAX {
            return Err(Problem::new(format!("{} is empty or too much", part.trim()), right()));
        }
        list.extend(first..=last);
    }
    Ok(list)
}

/// Reads a percentile: above 0 up to 100.
pub fn percentile(text: &str) -> Result<f64, Problem> {
    let number = float(text)?;
    if number > 0.0 && number <= 100.0 {
        return Ok(number);
    }
    Err(Problem::new(format!("{number} is no percentile"), "above 0 up to 100 is right"))
}

/// Reads percentiles separated by colons; the result ascends and has no repeats.
pub fn percentiles(text: &str) -> Result<Vec<f64>, Problem> {
    let mut list = text.split(':').map(percentile).collect::<Result<Vec<_>, _>>()?;
    if list.len() > PERCENTILES_MAX {
        return Err(Problem::new(
            format!("{} percentiles", list.len()),
            format!("at most {PERCENTILES_MAX} are right"),
        ));
    }
    list.sort_by(f64::total_cmp);
    list.dedup();
    Ok(list)
}

/// Reads `random`, `zipf:1.2`, `pareto:0.2:0.5`, `normal:20`.
pub fn distribution(text: &str) -> Result<Distribution, Problem> {
    let right = "random, zipf:THETA, pareto:POWER or normal:DEVIATION is right";
    let mut parts = text.trim().split(':');
    let name = parts.next().unwrap_or_default();
    match name {
        "random" | "zipf" | "pareto" | "normal" | "gauss" => {}
        "zoned" | "zoned_abs" => return Err(Problem::new("fio's zones are not known here", right)),
        _ => return Err(Problem::new(format!("{name} is no distribution"), right)),
    }
    let parameter = parts.next().map(float).transpose()?;
    let center = parts.next().map(center).transpose()?;
    if parts.next().is_some() {
        return Err(Problem::new("more than two parameters", right));
    }
    match name {
        "random" if parameter.is_some() => Err(Problem::new("random takes no parameter", right)),
        "zipf" => zipf(parameter.unwrap_or(1.1), center),
        "pareto" => pareto(parameter.unwrap_or(0.2), center),
        "normal" | "gauss" => normal(parameter, center),
        _ => Ok(Distribution::Uniform),
    }
}

fn zipf(theta: f64, center: Option<f64>) -> Result<Distribution, Problem> {
    if theta <= 0.0 || theta == 1.0 {
        return Err(Problem::new(
            format!("theta is {theta}"),
            "above 0 but not 1 is right, such as zipf:1.2",
        ));
    }
    Ok(Distribution::Zipf { theta, center })
}

fn pareto(h: f64, center: Option<f64>) -> Result<Distribution, Problem> {
    if h <= 0.0 || h >= 1.0 {
        return Err(Problem::new(
            format!("the power is {h}"),
            "between 0 and 1 is right, such as pareto:0.2",
        ));
    }
    Ok(Distribution::Pareto { h, center })
}

fn normal(deviation: Option<f64>, center: Option<f64>) -> Result<Distribution, Problem> {
    let right = "per cent above 0 and below 100 is right, such as normal:20";
    match deviation {
        None => Err(Problem::new("the deviation is missing", right)),
        Some(deviation_percent) if deviation_percent > 0.0 && deviation_percent < 100.0 => {
            Ok(Distribution::Normal { deviation_percent, center })
        }
        Some(deviation) => Err(Problem::new(format!("the deviation is {deviation}"), right)),
    }
}

fn center(text: &str) -> Result<f64, Problem> {
    let center = float(text)?;
    if (0.0..=1.0).contains(&center) {
        return Ok(center);
    }
    Err(Problem::new(format!("the centre is {center}"), "0 to 1 is right"))
}

fn float(text: &str) -> Result<f64, Problem> {
    let number = text.trim().parse().ok().filter(|number: &f64| number.is_finite());
    number.ok_or_else(|| {
        Problem::new(format!("{} is no number", text.trim()), "a number such as 99.5 is right")
    })
}

/// Reads report formats separated by commas; repeats count once.
pub fn formats(text: &str) -> Result<Vec<OutputFormat>, Problem> {
    let mut formats = Vec::new();
    for name in text.split(',') {
        let format = match name.trim() {
            "normal" => OutputFormat::Normal,
            "terse" => OutputFormat::Terse,
            "json" => OutputFormat::Json,
            "json+" => OutputFormat::JsonPlus,
            other => {
                let right = "normal, terse, json or json+ is right, several separated by commas";
                return Err(Problem::new(format!("{other} is no format"), right));
            }
        };
        if !formats.contains(&format) {
            formats.push(format);
        }
    }
    Ok(formats)
}
