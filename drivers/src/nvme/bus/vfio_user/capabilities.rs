//! What the two ends tell each other about themselves in the handshake (protocol, "VFIO_USER_VERSION"): a JSON object.
//!
//! Invariant: a value that is missing has the protocol's default; one that is there and makes no sense is an error, and a
//! name that is not known is passed over, as another minor version may have more.

use serde_json::{Map, Value, json};

/// Capabilities of one end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// How many descriptors it takes in one message; 0 for an end that takes none.
    pub max_msg_fds: u32,
    /// The largest count of a read or write of a region, in bytes.
    pub max_data_xfer_bytes: u32,
    /// How many mappings for DMA there may be at a time.
    pub max_dma_maps: u32,
    /// The page sizes that mappings may have, or'ed together.
    pub page_sizes: u64,
}

impl Default for Capabilities {
    /// The protocol's defaults.
    fn default() -> Capabilities {
        Capabilities { max_msg_fds: 1, max_data_xfer_bytes: 1 << 20, max_dma_maps: 65_535, page_sizes: 4096 }
    }
}

impl Capabilities {
    /// The text that is sent, with the NUL that ends it. Migration, twin sockets and coalesced writes are not offered.
    pub fn to_wire(self) -> Vec<u8> {
        let object = json!({ "capabilities": {
            "max_msg_fds": self.max_msg_fds,
            "max_data_xfer_size": self.max_data_xfer_bytes,
            "max_dma_maps": self.max_dma_maps,
            "pgsizes": self.page_sizes,
        }});
        let mut text = object.to_string().into_bytes();
        text.push(0);
        text
    }

    /// Understands what the other end sent behind the version; nothing at all means the defaults.
    ///
    /// # Errors
    /// What was wrong, in words.
    pub fn from_wire(bytes: &[u8]) -> Result<Capabilities, String> {
        if bytes.is_empty() {
            return Ok(Capabilities::default());
        }
        let Some((0, text)) = bytes.split_last() else {
            return Err("the capabilities do not end with a NUL".into());
        };
        let value: Value =
            serde_json::from_slice(text).map_err(|error| format!("the capabilities are no JSON: {error}"))?;
        let Value::Object(top) = value else {
            return Err("the capabilities are no JSON object".into());
        };
        match top.get("capabilities") {
            None => Ok(Capabilities::default()),
            Some(Value::Object(given)) => Capabilities::from_object(given),
            Some(_) => Err("\"capabilities\" is no JSON object".into()),
        }
    }

    fn from_object(given: &Map<String, Value>) -> Result<Capabilities, String> {
        let default = Capabilities::default();
        let small = |name, default: u32, least| {
            let value = number(given, name, default.into(), least, 1)?;
            u32::try_from(value).map_err(|_| format!("{name} is {value}, more than any message holds"))
        };
        Ok(Capabilities {
            max_msg_fds: small("max_msg_fds", default.max_msg_fds, 0)?,
            max_data_xfer_bytes: small("max_data_xfer_size", default.max_data_xfer_bytes, 8)?,
            max_dma_maps: small("max_dma_maps", default.max_dma_maps, 1)?,
            page_sizes: number(given, "pgsizes", default.page_sizes, 4096, 4096)?,
        })
    }

    /// The smallest page that a mapping may consist of, in bytes.
    pub const fn page_bytes(self) -> u64 {
        1 << self.page_sizes.trailing_zeros()
    }
}

/// The number called `name`: a multiple of `unit`, and not below `least`.
fn number(
    given: &Map<String, Value>,
    name: &str,
    default: u64,
    least: u64,
    unit: u64,
) -> Result<u64, String> {
    match given.get(name) {
        None => Ok(default),
        Some(value) => match value.as_u64() {
            Some(number) if number >= least && number.is_multiple_of(unit) => Ok(number),
            _ => Err(format!("{name} is {value}; it must be at least {least} and a multiple of {unit}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_understood() {
        let sent = Capabilities {
            max_msg_fds: 8,
            max_data_xfer_bytes: 4096,
            max_dma_maps: 7,
            page_sizes: 0x20_1000,
        };
        assert_eq!(Capabilities::from_wire(&sent.to_wire()), Ok(sent));
        assert_eq!(sent.page_bytes(), 4096);
    }

    #[test]
    fn what_is_missing_has_the_default_and_what_is_unknown_is_passed_over() {
        let parse = |text: &str| Capabilities::from_wire(format!("{text}\0").as_bytes());
        assert_eq!(Capabilities::from_wire(b""), Ok(Capabilities::default()));
        assert_eq!(parse("{}"), Ok(Capabilities::default()));
        let some =
            parse(r#"{"capabilities":{"max_msg_fds":32,"migration":{"pgsize":4096}},"more":1}"#).unwrap();
        assert_eq!(some, Capabilities { max_msg_fds: 32, ..Capabilities::default() });
    }

    #[test]
    fn nonsense_is_an_error() {
        for bytes in [
            &b"{}"[..],
            b"\0",
            b"{\0",
            b"[]\0",
            b"\xff\xff\0",
            b"{\"capabilities\":3}\0",
            b"{\"capabilities\":{\"max_data_xfer_size\":4}}\0",
            b"{\"capabilities\":{\"max_msg_fds\":-1}}\0",
            b"{\"capabilities\":{\"max_data_xfer_size\":\"1\"}}\0",
            b"{\"capabilities\":{\"max_dma_maps\":4294967296}}\0",
            b"{\"capabilities\":{\"pgsizes\":512}}\0",
        ] {
            assert!(Capabilities::from_wire(bytes).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
    }
}
