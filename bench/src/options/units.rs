//! Numbers with units, as fio reads them: sizes, percentages and times, and their printing.
//!
//! Invariant: whatever `show_bytes` and `show_time` print, `bytes` and `time` read back as the same value. Nothing
//! wraps: a number that does not fit is a [`Problem`].

use std::time::Duration;

use super::error::Problem;
use super::spec::{Extent, KbBase};

/// The unit of a time that is given without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeUnit {
    /// Microseconds (`thinktime`, `latency_target`).
    Microseconds,
    /// Seconds (`runtime` and most others).
    Seconds,
}

const SIZE_HELP: &str = "a number such as 4096, 0x1000, 4k, 1m, 2g or 4ki is right";
const TIME_HELP: &str = "a whole number with us, ms, s, m, h or d is right, such as 30s, 5m or 100ms";

/// Reads a whole number with an optional size suffix: `4096`, `0x1000`, `4k`, `4KiB`.
///
/// `k`, `m`, `g`, `t`, `p` are powers of 1024 and `ki`, `mi`, ... powers of 1000 with [`KbBase::Binary`], and the
/// other way round with [`KbBase::Decimal`]; a trailing `b` changes nothing; case does not matter.
pub fn bytes(text: &str, kb_base: KbBase) -> Result<u64, Problem> {
    let text = text.trim();
    if text.is_empty() {
        return Err(Problem::new("a number is missing", SIZE_HELP));
    }
    let (digits, radix) = match text.get(..2) {
        Some("0x" | "0X") => (&text[2..], 16),
        _ => (text, 10),
    };
    let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    let (digits, suffix) = digits.split_at(end);
    if digits.is_empty() {
        return Err(Problem::new(format!("{text} does not begin with a number"), SIZE_HELP));
    }
    let too_large =
        || Problem::new("the number does not fit 64 bits", "at most 18446744073709551615 is right");
    let number = u64::from_str_radix(digits, radix).map_err(|_| too_large())?;
    let unit = unit_bytes(suffix, kb_base)?;
    number.checked_mul(unit).ok_or_else(too_large)
}

fn unit_bytes(suffix: &str, kb_base: KbBase) -> Result<u64, Problem> {
    let lower = suffix.to_ascii_lowercase();
    let prefix = lower.strip_suffix('b').unwrap_or(&lower);
    let (letter, marked) = match prefix.strip_suffix('i') {
        Some(letter) => (letter, true),
        None => (prefix, false),
    };
    let power = match letter {
        "" if !marked => return Ok(1),
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        "z" => return Err(Problem::new("zones (z) are not known here", "give bytes")),
        _ => return Err(Problem::new(format!("{suffix} is no unit of size"), SIZE_HELP)),
    };
    // fio's compatibility rule swaps the two families: with kb_base=1024 it is the plain letter that is binary.
    let binary = (kb_base == KbBase::Binary) != marked;
    Ok(if binary { 1024_u64.pow(power) } else { 1000_u64.pow(power) })
}

/// Reads a size, or a share such as `10%`.
pub fn extent(text: &str, kb_base: KbBase) -> Result<Extent, Problem> {
    let Some(share) = text.trim().strip_suffix('%') else { return Ok(Extent::Bytes(bytes(text, kb_base)?)) };
    let share = share.trim();
    if share.is_empty() || !share.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Problem::new(format!("{share} is no whole percentage"), "a share such as 10% is right"));
    }
    let percent = share
        .parse()
        .map_err(|_| Problem::new("the percentage does not fit 32 bits", "1% to 100% is right"))?;
    Ok(Extent::Percent(percent))
}

/// Reads a time: `30`, `30s`, `5m`, `100ms`, `250usec`, `2h`, `1d`; case does not matter. `bare` is the unit of a
/// number without one.
pub fn time(text: &str, bare: TimeUnit) -> Result<Duration, Problem> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    if digits.is_empty() {
        return Err(Problem::new(format!("{text} does not begin with a whole number"), TIME_HELP));
    }
    let unit_us: u64 = match (unit.trim().to_ascii_lowercase().as_str(), bare) {
        ("", TimeUnit::Microseconds) | ("us" | "usec", _) => 1,
        ("ms" | "msec", _) => 1_000,
        ("", TimeUnit::Seconds) | ("s" | "sec", _) => 1_000_000,
        ("m", _) => 60_000_000,
        ("h", _) => 3_600_000_000,
        ("d", _) => 86_400_000_000,
        _ => return Err(Problem::new(format!("{unit} is no unit of time"), TIME_HELP)),
    };
    let too_long = || Problem::new("the time does not fit 64 bits of microseconds", TIME_HELP);
    let number: u64 = digits.parse().map_err(|_| too_long())?;
    number.checked_mul(unit_us).map(Duration::from_micros).ok_or_else(too_long)
}

/// Prints a size so that [`bytes`] with the same base reads it back: `4k`, `1m`, `513`.
pub fn show_bytes(bytes: u64, kb_base: KbBase) -> String {
    let base = match kb_base {
        KbBase::Binary => 1024,
        KbBase::Decimal => 1000,
    };
    let (mut number, mut letter) = (bytes, "");
    for next in ["k", "m", "g", "t", "p"] {
        if number == 0 || number % base != 0 {
            break;
        }
        (number, letter) = (number / base, next);
    }
    format!("{number}{letter}")
}

/// Prints a time so that [`time`] reads it back whatever its bare unit: `30s`, `100ms`, `7us`. Below a microsecond it
/// rounds down.
pub fn show_time(time: Duration) -> String {
    let us = time.as_micros();
    match us {
        _ if us.is_multiple_of(1_000_000) => format!("{}s", us / 1_000_000),
        _ if us.is_multiple_of(1_000) => format!("{}ms", us / 1_000),
        _ => format!("{us}us"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_fios() {
        for (text, binary, decimal) in [
            ("4096", 4096, 4096),
            ("4096b", 4096, 4096),
            ("4k", 4096, 4000),
            ("4kB", 4096, 4000),
            ("4ki", 4000, 4096),
            ("4KiB", 4000, 4096),
            ("1M", 1 << 20, 1_000_000),
            ("1g", 1 << 30, 1_000_000_000),
            ("2t", 2 << 40, 2_000_000_000_000),
            ("1p", 1 << 50, 1_000_000_000_000_000),
            ("0x10", 16, 16),
            ("0X10k", 16384, 16000),
            ("0", 0, 0),
            (" 8k ", 8192, 8000),
        ] {
            assert_eq!(bytes(text, KbBase::Binary), Ok(binary), "{text}");
            assert_eq!(bytes(text, KbBase::Decimal), Ok(decimal), "{text}");
        }
    }

    #[test]
    fn bad_sizes_are_refused() {
        for text in [
            "",
            "k",
            "-1",
            "+1",
            "1.5k",
            "4kk",
            "4x",
            "4i",
            "5z",
            "0x",
            "16384p",
            "99999999999999999999",
            "4 k m",
        ] {
            assert!(bytes(text, KbBase::Binary).is_err(), "{text}");
        }
        assert_eq!(bytes("16383p", KbBase::Binary), Ok(16383 << 50));
        assert!(bytes("16384p", KbBase::Binary).unwrap_err().what.contains("64 bits"));
    }

    #[test]
    fn times_are_fios() {
        for (text, us) in [
            ("30s", 30_000_000),
            ("30sec", 30_000_000),
            ("5m", 300_000_000),
            ("100ms", 100_000),
            ("100msec", 100_000),
            ("7us", 7),
            ("7usec", 7),
            ("2H", 7_200_000_000),
            ("1d", 86_400_000_000),
        ] {
            assert_eq!(time(text, TimeUnit::Seconds), Ok(Duration::from_micros(us)), "{text}");
        }
        assert_eq!(time("10", TimeUnit::Seconds), Ok(Duration::from_secs(10)));
        assert_eq!(time("10", TimeUnit::Microseconds), Ok(Duration::from_micros(10)));
        for text in ["", "s", "1.5s", "-1", "10x", "10min", "99999999999999d", "(1+1)"] {
            assert!(time(text, TimeUnit::Seconds).is_err(), "{text}");
        }
    }

    #[test]
    fn shares_are_whole() {
        assert_eq!(extent("10%", KbBase::Binary), Ok(Extent::Percent(10)));
        assert_eq!(extent("10k", KbBase::Binary), Ok(Extent::Bytes(10240)));
        for text in ["%", "1.5%", "-1%", "99999999999%", "+1%"] {
            assert!(extent(text, KbBase::Binary).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn printed_sizes_read_back(number in any::<u64>(), shift in 0_u32..60, decimal in any::<bool>()) {
            let base = if decimal { KbBase::Decimal } else { KbBase::Binary };
            let size = number >> shift << (shift / 2);
            prop_assert_eq!(bytes(&show_bytes(size, base), base), Ok(size));
        }

        #[test]
        fn printed_times_read_back(number in 0_u64..1 << 40, unit in prop::sample::select(vec![1_u64, 1_000, 1_000_000])) {
            let value = Duration::from_micros(number * unit);
            prop_assert_eq!(time(&show_time(value), TimeUnit::Seconds), Ok(value));
            prop_assert_eq!(time(&show_time(value), TimeUnit::Microseconds), Ok(value));
        }

        #[test]
        fn nothing_panics(text in "\\PC*") {
            let _ = (bytes(&text, KbBase::Binary), extent(&text, KbBase::Decimal), time(&text, TimeUnit::Seconds));
        }

        #[test]
        fn nothing_panics_near_numbers(text in "(0x)?[0-9]{0,21}[kKmMgGtTpPibBz%s]{0,4}") {
            let _ = (bytes(&text, KbBase::Binary), extent(&text, KbBase::Decimal), time(&text, TimeUnit::Seconds));
        }
    }
}
