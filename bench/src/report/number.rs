//! Numbers in few characters with a unit prefix, the way fio's reports write them.

/// What stands behind the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Nothing: requests, or nanoseconds where the line names the unit.
    None,
    /// `B`.
    Bytes,
    /// `B/s`.
    BytesPerSecond,
}

/// Step from one prefix to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// 1000: k, M, G, ...
    Decimal,
    /// 1024: Ki, Mi, Gi, ...
    Binary,
}

/// Characters for the digits of bandwidths, sizes and IOPS, decimal point included.
pub const SIGNIFICANT: usize = 4;

/// Characters for the digits of latencies.
pub const LATENCY_DIGITS: usize = 6;

impl Unit {
    const fn suffix(self) -> &'static str {
        match self {
            Unit::None => "",
            Unit::Bytes => "B",
            Unit::BytesPerSecond => "B/s",
        }
    }
}

impl Scale {
    const fn step(self) -> u64 {
        match self {
            Scale::Decimal => 1000,
            Scale::Binary => 1024,
        }
    }

    const fn prefixes(self) -> [&'static str; 7] {
        match self {
            Scale::Decimal => ["", "k", "M", "G", "T", "P", "E"],
            Scale::Binary => ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"],
        }
    }
}

/// `value` with the smallest prefix that needs at most `width` digits before the point; decimals fill the width where
/// at least one fits behind the point. So 32243 in 4 is `32.2k`, 443212 is `443k`, and 1774 stays `1774`.
pub fn short(value: u64, width: usize, scale: Scale, unit: Unit) -> String {
    let step = scale.step();
    let prefixes = scale.prefixes();
    let mut whole = value;
    let mut rest = None;
    let mut prefix = 0;
    while digits(whole) > width && prefix + 1 < prefixes.len() {
        rest = Some(whole % step);
        whole /= step;
        prefix += 1;
    }
    let decimals = width.saturating_sub(digits(whole) + 1);
    let number = match rest {
        None => whole.to_string(),
        Some(rest) if decimals == 0 => (whole + u64::from(rest >= step / 2)).to_string(),
        Some(rest) => {
            let fraction = format!("{:.decimals$}", rest as f64 / step as f64);
            // A fraction that rounds up to one carries into the whole.
            match fraction.strip_prefix("0.") {
                Some(behind_point) => format!("{whole}.{behind_point}"),
                None => format!("{}.{:0decimals$}", whole + 1, 0),
            }
        }
    };
    format!("{number}{}{}", prefixes[prefix], unit.suffix())
}

/// Bytes per second in binary units, and in decimal units.
pub fn bandwidth(bytes_per_s: u64) -> (String, String) {
    (
        short(bytes_per_s, SIGNIFICANT, Scale::Binary, Unit::BytesPerSecond),
        short(bytes_per_s, SIGNIFICANT, Scale::Decimal, Unit::BytesPerSecond),
    )
}

/// Bytes in binary units, and in decimal units.
pub fn size(bytes: u64) -> (String, String) {
    (
        short(bytes, SIGNIFICANT, Scale::Binary, Unit::Bytes),
        short(bytes, SIGNIFICANT, Scale::Decimal, Unit::Bytes),
    )
}

/// A count in decimal units.
pub fn count(value: u64) -> String {
    short(value, SIGNIFICANT, Scale::Decimal, Unit::None)
}

/// Number of decimal digits.
fn digits(value: u64) -> usize {
    value.checked_ilog10().unwrap_or(0) as usize + 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_written_as_in_fios_reports() {
        assert_eq!(count(32_243), "32.2k");
        assert_eq!(count(443_212), "443k");
        assert_eq!(count(999), "999");
        assert_eq!(count(60_034), "60.0k");
        assert_eq!(bandwidth(132_069_485), ("126MiB/s".into(), "132MB/s".into()));
        assert_eq!(bandwidth(1_815_399_576), ("1731MiB/s".into(), "1815MB/s".into()));
        assert_eq!(size(402_944_000), ("384MiB".into(), "403MB".into()));
        assert_eq!(size(4_194_304), ("4096KiB".into(), "4194kB".into()));
        let latency = |ns| short(ns, LATENCY_DIGITS, Scale::Decimal, Unit::None);
        assert_eq!(latency(4_431_141), "4431.1k");
        assert_eq!(latency(306_056), "306056");
        assert_eq!(latency(110_821_643), "110822k");
    }

    #[test]
    fn a_fraction_never_rounds_up_to_a_second_point() {
        assert_eq!(count(99_999), "100.0k");
        assert_eq!(short(u64::MAX, 4, Scale::Binary, Unit::Bytes), "16.0EiB");
        assert_eq!(short(0, 4, Scale::Decimal, Unit::None), "0");
    }

    proptest! {
        #[test]
        fn every_number_is_near_its_value(value: u64, width in 4usize..8) {
            let text = short(value, width, Scale::Decimal, Unit::None);
            let split = text.find(|c: char| c.is_alphabetic()).unwrap_or(text.len());
            let number: f64 = text[..split].parse().unwrap();
            let power = Scale::Decimal.prefixes().iter().position(|p| *p == &text[split..]).unwrap();
            let back = number * 1000f64.powi(power as i32);
            prop_assert!((back - value as f64).abs() <= value as f64 * 0.006, "{value} became {text}");
        }
    }
}
