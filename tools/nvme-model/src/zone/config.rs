//! How a zoned namespace is to be.

use crate::device::DeviceError;

/// The zones of a namespace. All of them must be written in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ZoneConfig {
    /// ZSZE: the size of a zone in bytes, whole blocks. What of the namespace is no whole zone is cut off.
    pub zone_bytes: u64,
    /// ZCAP: how much of a zone can be written, in bytes, whole blocks.
    pub capacity_bytes: u64,
    /// MOR: most open zones; 0: no limit.
    pub max_open: u32,
    /// MAR: most active zones; 0: no limit.
    pub max_active: u32,
    /// OZCS bit 0: reads may cross from one zone into the next.
    pub cross_reads: bool,
    /// ZDES: the bytes of a zone's descriptor extension, a multiple of 64; 0: there is none.
    pub extension_bytes: usize,
    /// How many zones are read-only: those before the offline ones.
    pub read_only: u32,
    /// How many zones are offline: the last ones.
    pub offline: u32,
}

impl ZoneConfig {
    /// Zones of `zone_bytes` bytes that can all be written and open at once.
    pub fn new(zone_bytes: u64) -> ZoneConfig {
        ZoneConfig {
            zone_bytes,
            capacity_bytes: zone_bytes,
            max_open: 0,
            max_active: 0,
            cross_reads: false,
            extension_bytes: 0,
            read_only: 0,
            offline: 0,
        }
    }

    /// Checks every value, for a namespace of `size_bytes` bytes in blocks of `1 << lba_shift`.
    pub(crate) fn validate(&self, size_bytes: u64, lba_shift: u8) -> Result<(), DeviceError> {
        let block = 1u64 << lba_shift;
        let check = |right: bool, what, value: u64, expected: String| {
            if right { Ok(()) } else { Err(DeviceError::Config { what, value, expected }) }
        };
        let whole = |bytes: u64| bytes >= block && bytes.is_multiple_of(block);
        let zone = self.zone_bytes;
        let expected = || format!("whole blocks of {block} bytes, and at most the namespace's {size_bytes}");
        check(whole(zone) && zone <= size_bytes, "the size of a zone", zone, expected())?;
        let count = size_bytes / zone;
        check(count <= 1 << 20, "the number of zones", count, "at most 1048576".to_owned())?;
        let capacity = self.capacity_bytes;
        let expected = || format!("whole blocks of {block} bytes, and at most the zone's {zone}");
        check(whole(capacity) && capacity <= zone, "the capacity of a zone", capacity, expected())?;
        let (open, active) = (u64::from(self.max_open), u64::from(self.max_active));
        let expected = format!("at most the number of active zones, {active}");
        check(active == 0 || (1..=active).contains(&open), "the number of open zones", open, expected)?;
        let extension = self.extension_bytes as u64;
        let right = extension.is_multiple_of(64) && extension <= 255 * 64;
        check(
            right,
            "the length of a descriptor extension",
            extension,
            "a multiple of 64 up to 16320".to_owned(),
        )?;
        let worn = u64::from(self.read_only) + u64::from(self.offline);
        check(worn <= count, "the number of read-only and offline zones", worn, format!("at most {count}"))
    }
}
