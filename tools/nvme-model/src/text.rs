//! Namespaces as people write them: `256m`, `null:1t`, `ram:1g`, `zero:64m`, `zns:1g:64m`; and host memory buffers: `64m:8m`.
//!
//! Invariant: what is written is taken literally or refused with what would be right; sizes are binary (`1k` is 1024).

use std::str::FromStr;

use corelane_dma::Backing;

use crate::config::{HostMemoryWish, NamespaceBacking, NamespaceConfig, PlacementConfig};
use crate::zone::ZoneConfig;

impl FromStr for NamespaceConfig {
    type Err = String;

    /// `KIND:SIZE` or `SIZE`, which is RAM. The kinds are `ram`, `ram-huge` (of huge pages), `null` (forgets what is
    /// written and leaves what is read as it was) and `zero` (reads as zeroes). Blocks are of 4 KiB.
    ///
    /// `zns:SIZE:ZONE[:CAPACITY[:OPEN[:ACTIVE]]]` is RAM in zones of so many bytes, of which so many can be written; at most
    /// `OPEN` zones are open and `ACTIVE` are active at once, or any number for 0.
    fn from_str(text: &str) -> Result<NamespaceConfig, String> {
        let (kind, size) = text.split_once(':').unwrap_or(("ram", text));
        if kind == "zns" {
            return zoned(size);
        }
        let backing = match kind {
            "ram" => NamespaceBacking::Ram(Backing::Pages),
            "ram-huge" => NamespaceBacking::Ram(Backing::HugePages),
            "null" => NamespaceBacking::Null,
            "zero" => NamespaceBacking::Zero,
            other => {
                return Err(format!("'{other}' is no kind of namespace: ram, ram-huge, null, zero or zns"));
            }
        };
        Ok(NamespaceConfig { backing, ..NamespaceConfig::null(parse_size(size)?) })
    }
}

impl FromStr for PlacementConfig {
    type Err = String;

    /// `HANDLES[:GROUPS]`.
    fn from_str(text: &str) -> Result<PlacementConfig, String> {
        let (handles, groups) = text.split_once(':').unwrap_or((text, "1"));
        match (handles.parse(), groups.parse()) {
            (Ok(handles @ 1..=128), Ok(groups @ 1..=16)) => Ok(PlacementConfig { handles, groups }),
            _ => Err(format!(
                "'{text}' says nothing of placement: right is HANDLES[:GROUPS], 1 to 128 and 1 to 16"
            )),
        }
    }
}

impl FromStr for HostMemoryWish {
    type Err = String;

    /// `PREFERRED[:LEAST[:PIECE[:PIECES]]]`: sizes in bytes, whole units of 4 KiB; how many pieces there may be.
    fn from_str(text: &str) -> Result<HostMemoryWish, String> {
        let wrong = || {
            format!(
                "'{text}' is no wish for memory: right is PREFERRED[:LEAST[:PIECE[:PIECES]]], such as 64m:8m:1m:16"
            )
        };
        let units = |text: &str| {
            let bytes = if text == "0" { 0 } else { parse_size(text).map_err(|_| wrong())? };
            let whole = bytes % 4096 == 0;
            u32::try_from(bytes / 4096).ok().filter(|_| whole).ok_or_else(wrong)
        };
        let mut wish = HostMemoryWish { preferred: 0, least: 0, least_piece: 0, most_pieces: 0 };
        for (at, part) in text.split(':').enumerate() {
            match at {
                0 => wish.preferred = units(part)?,
                1 => wish.least = units(part)?,
                2 => wish.least_piece = units(part)?,
                3 => wish.most_pieces = part.parse().map_err(|_| wrong())?,
                _ => return Err(wrong()),
            }
        }
        Ok(wish)
    }
}

/// What follows `zns:`.
fn zoned(text: &str) -> Result<NamespaceConfig, String> {
    let wrong =
        |why: String| format!("{why}; right is zns:SIZE:ZONE[:CAPACITY[:OPEN[:ACTIVE]]], as in zns:1g:64m");
    let parts: Vec<&str> = text.split(':').collect();
    let &[size, zone, ref more @ ..] = &parts[..] else {
        return Err(wrong(format!("'{text}' has no zones")));
    };
    let zone_bytes = parse_size(zone).map_err(wrong)?;
    let capacity = more.first().map_or(Ok(zone_bytes), |text| parse_size(text)).map_err(wrong)?;
    let count = |place: usize| match more.get(place) {
        None => Ok(0),
        Some(text) => text.parse().map_err(|_| wrong(format!("'{text}' is no number of zones"))),
    };
    let (max_open, max_active) = (count(1)?, count(2)?);
    if more.len() > 3 {
        return Err(wrong(format!("'{text}' has more than five parts")));
    }
    let zones = ZoneConfig { capacity_bytes: capacity, max_open, max_active, ..ZoneConfig::new(zone_bytes) };
    let size_bytes = parse_size(size).map_err(wrong)?;
    Ok(NamespaceConfig { zones: Some(zones), ..NamespaceConfig::ram(size_bytes) })
}

/// A size in bytes with an optional binary suffix: `k`, `m`, `g`, `t` or `p`, small or capital.
///
/// # Errors
/// What would be right.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(format!("'{text}' is no size: a number and k, m, g, t or p, as in 256m")),
    };
    let number = digits.parse::<u64>().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()));
    number
        .and_then(|number| number.checked_mul(1 << shift))
        .filter(|&bytes| bytes > 0)
        .ok_or_else(|| format!("'{text}' is no size above 0 and below 16 EiB, as in 256m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary() {
        let sizes = ["1", "512", "4k", "256m", "2G", "1t", "3P"].map(|text| parse_size(text).unwrap());
        assert_eq!(sizes, [1, 512, 4096, 256 << 20, 2 << 30, 1 << 40, 3 << 50]);
        for bad in ["", "k", "0", "-1", "+1", "1.5g", "1kb", "1 k", "0x10", "16384p", "99999999999999999999"]
        {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn placement_is_handles_and_groups() {
        assert_eq!("8".parse(), Ok(PlacementConfig { handles: 8, groups: 1 }));
        assert_eq!("8:2".parse(), Ok(PlacementConfig { handles: 8, groups: 2 }));
        for bad in ["", "0", "129", "8:0", "8:17", "8:2:1", "x"] {
            assert!(bad.parse::<PlacementConfig>().unwrap_err().contains("HANDLES[:GROUPS]"), "{bad}");
        }
    }

    #[test]
    fn a_wish_for_memory_has_four_parts_at_most() {
        let wish = HostMemoryWish { preferred: 16384, least: 2048, least_piece: 0, most_pieces: 16 };
        assert_eq!("64m:8m:0:16".parse(), Ok(wish));
        assert_eq!("64m:8m".parse(), Ok(HostMemoryWish { most_pieces: 0, ..wish }));
        for bad in ["", "1k", "64m:x", "64m:8m:0:16:1", "64m:8m:0:70000", "32t"] {
            assert!(bad.parse::<HostMemoryWish>().unwrap_err().contains("64m:8m:1m:16"), "{bad}");
        }
    }

    #[test]
    fn a_namespace_has_a_kind_and_a_size() {
        let parse = |text: &str| text.parse::<NamespaceConfig>();
        assert_eq!(parse("256m"), Ok(NamespaceConfig::ram(256 << 20)));
        assert_eq!(parse("null:1t"), Ok(NamespaceConfig::null(1 << 40)));
        assert_eq!(parse("zero:64k").unwrap().backing, NamespaceBacking::Zero);
        assert_eq!(parse("ram-huge:1g").unwrap().backing, NamespaceBacking::Ram(Backing::HugePages));
        let zoned = parse("zns:1g:64m:48m:8:16").unwrap();
        let zones =
            ZoneConfig { capacity_bytes: 48 << 20, max_open: 8, max_active: 16, ..ZoneConfig::new(64 << 20) };
        assert_eq!(zoned, NamespaceConfig { zones: Some(zones), ..NamespaceConfig::ram(1 << 30) });
        assert_eq!(parse("zns:1g:64m").unwrap().zones, Some(ZoneConfig::new(64 << 20)));
        for bad in ["zns:1g", "zns:1g:", "zns:1g:1m:1m:x", "zns:1g:1m:1m:1:2:3"] {
            assert!(parse(bad).unwrap_err().contains("zns:SIZE:ZONE"), "{bad}");
        }
        assert!(parse("file:1g").unwrap_err().contains("'file'"));
        assert!(parse("ram:").is_err() && parse("ram:1g:2").is_err());
    }
}
