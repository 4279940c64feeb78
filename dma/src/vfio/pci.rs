//! [`PciAddress`]: which PCI function, as `lspci -D` writes it.

use std::fmt;
use std::str::FromStr;

/// Domain, bus, device and function.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

/// A text that is no PCI address.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{text:?} is no PCI address; it has the form 0000:01:00.0 or 01:00.0: domain, bus, device (to 1f) and function (to 7), in \
     hexadecimal, as `lspci -D` lists them"
)]
pub struct BadPciAddress {
    /// What was given.
    pub text: String,
}

impl FromStr for PciAddress {
    type Err = BadPciAddress;

    /// Reads `0000:01:00.0`, or `01:00.0` in domain 0. A domain may have up to 8 digits, as those of Intel VMD have more
    /// than 4.
    fn from_str(text: &str) -> Result<PciAddress, BadPciAddress> {
        parse(text).ok_or_else(|| BadPciAddress { text: text.to_owned() })
    }
}

fn parse(text: &str) -> Option<PciAddress> {
    let (rest, function) = text.rsplit_once('.')?;
    let (rest, device) = rest.rsplit_once(':')?;
    let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0000", rest));
    Some(PciAddress {
        domain: hex(domain, 4..=8, u32::MAX)?,
        bus: hex(bus, 2..=2, 0xFF)? as u8,
        device: hex(device, 2..=2, 0x1F)? as u8,
        function: hex(function, 1..=1, 7)? as u8,
    })
}

fn hex(digits: &str, len: std::ops::RangeInclusive<usize>, max: u32) -> Option<u32> {
    let all_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let value = u32::from_str_radix(digits, 16).ok()?;
    (all_hex && len.contains(&digits.len()) && value <= max).then_some(value)
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{}", self.domain, self.bus, self.device, self.function)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for (text, written) in [
            ("0000:01:00.0", "0000:01:00.0"),
            ("01:00.0", "0000:01:00.0"),
            ("10001:e1:1F.7", "10001:e1:1f.7"),
            ("FFFF:ff:1f.7", "ffff:ff:1f.7"),
        ] {
            assert_eq!(text.parse::<PciAddress>().map(|address| address.to_string()), Ok(written.to_owned()));
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            ".",
            ":",
            "0000:01:00",
            "01:00",
            "000:01:00.0",
            "0000:01:20.0",
            "0000:01:00.8",
            "0000:1:00.0",
            "0000:001:00.0",
            "0000:01:00.00",
            "0000:01:00.0 ",
            "+000:01:00.0",
            "0000:+1:00.0",
            "123456789:01:00.0",
            ":01:00.0",
            "0000::00.0",
            "0000:01:00.0/1",
            "nvme0n1",
            "0000:01:0ä.0",
        ] {
            let error = text.parse::<PciAddress>().unwrap_err();
            assert_eq!(error.text, text);
        }
        assert_eq!(
            "nvme0".parse::<PciAddress>().unwrap_err().to_string(),
            "\"nvme0\" is no PCI address; it has the form 0000:01:00.0 or 01:00.0: domain, bus, device (to 1f) and function \
             (to 7), in hexadecimal, as `lspci -D` lists them"
        );
    }
}
