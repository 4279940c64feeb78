//! Commands of zoned namespaces: reports, zone actions, Zone Append.

use corelane_dma::{Backing, DmaBuffer, DmaError, IoBuf, Payload};

use super::NvmeCommands;
use super::error::CommandError;
use super::lane::{Answer, Order};
use super::memory::Direction;
use crate::nvme::spec::Lba;
use crate::nvme::spec::command::Command;
use crate::nvme::spec::zone::{DESCRIPTOR_BYTES, Zone, ZoneAction, ZoneFilter, ZoneState, read_report};
use crate::nvme::zones::Zones;

const REPORT: &str = "Zone Management Receive";
const SEND: &str = "Zone Management Send";
const APPEND: &str = "Zone Append";
/// The longest report that is asked for at once: a thousand zones, or fewer with their extensions.
const REPORT_BYTES: u64 = 64 << 10;

/// What a report of zones is to have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReportOptions {
    /// Zones in which state.
    pub filter: ZoneFilter,
    /// Whether descriptor extensions come with it.
    pub extended: bool,
    /// How many zones at most; all unless this is given.
    pub most: Option<usize>,
}

impl NvmeCommands {
    /// How the namespace is divided into zones, if it is zoned.
    pub fn zones(&self) -> Option<&Zones> {
        self.zones.as_ref()
    }

    fn zoned(&self, command: &'static str) -> Result<&Zones, CommandError> {
        self.zones.as_ref().ok_or_else(|| self.unsupported(command, "its command set (CSI)"))
    }

    /// The zones from the one that `from` is in, in order (ZNS 3.4.2).
    ///
    /// # Errors
    /// [`CommandError::Unsupported`] where the namespace is not zoned or, for an extended report, has no extensions;
    /// [`CommandError::Argument`] for a block outside of it; [`CommandError::Controller`] for a report that makes no sense; and
    /// those of the command.
    pub async fn report_zones(&self, from: Lba, options: ReportOptions) -> Result<Vec<Zone>, CommandError> {
        let zones = *self.zoned(REPORT)?;
        self.check_range(REPORT, from, 1)?;
        if options.extended && zones.extension_bytes == 0 {
            return Err(self.unsupported("zone descriptor extension", "ZDES"));
        }
        let extension = if options.extended { zones.extension_bytes } else { 0 };
        let step = DESCRIPTOR_BYTES + extension;
        let most = options.most.unwrap_or(usize::MAX);
        let room = REPORT_BYTES.min(self.max_transfer_bytes()) as usize;
        let (mut found, mut from) = (Vec::new(), from.0 - from.0 % zones.size_blocks);
        while found.len() < most && from < self.blocks {
            let wanted = (most - found.len()).saturating_mul(step).saturating_add(DESCRIPTOR_BYTES);
            let len = wanted.min(room).next_multiple_of(4);
            let command =
                Command::report_zones(self.nsid, Lba(from), options.filter, options.extended, len as u32);
            let bytes = self.receive(command, len).await?;
            let (_, report) = read_report(&bytes, extension);
            if report.is_empty() {
                break;
            }
            for zone in report.into_iter().take(most - found.len()) {
                self.check_zone(&zone, &zones, from)?;
                from = zone.start.0 + zones.size_blocks;
                found.push(zone);
            }
        }
        Ok(found)
    }

    async fn receive(&self, command: Command, len: usize) -> Result<Vec<u8>, CommandError> {
        let memory = |source: DmaError| CommandError::Memory { command: REPORT, source };
        let buf = IoBuf::from(DmaBuffer::new(len, 4096, Backing::Pages).map_err(memory)?);
        let (direction, data) = (Direction::FromDevice, Payload::One(buf));
        let order = Order { name: REPORT, command, direction, data, metadata: Payload::None };
        let [Answer { result, data, .. }] = self.lane.run([order]).await;
        result?;
        let mut bytes = vec![0; len];
        data.copy_to(0, &mut bytes).map_err(memory)?;
        Ok(bytes)
    }

    /// Whether a zone is where one can be, at or behind block `from`, and describes itself as one can be.
    fn check_zone(&self, zone: &Zone, zones: &Zones, from: u64) -> Result<(), CommandError> {
        let start = zone.start.0;
        let absurd = |what, value, expected: String| {
            let of = format!("the zone at block {start} of {}", self.nsid);
            Err(CommandError::Controller(self.controller.absurd(&of, what, value, expected)))
        };
        if start < from || start >= self.blocks || !start.is_multiple_of(zones.size_blocks) {
            let expected =
                format!("a multiple of {} from {from} on and below {}", zones.size_blocks, self.blocks);
            return absurd("ZSLBA", start, expected);
        }
        if zone.capacity > zones.size_blocks {
            return absurd("ZCAP", zone.capacity, format!("at most the zone's {}", zones.size_blocks));
        }
        if let ZoneState::Unknown(number) = zone.state {
            return absurd("ZS", number.into(), "1 to 4, or 13 to 15".to_owned());
        }
        match zone.pointer {
            Some(Lba(at)) if at < start || at - start > zone.capacity => {
                absurd("WP", at, format!("within the zone's capacity of {}", zone.capacity))
            }
            _ => Ok(()),
        }
    }

    /// Carries an action out on the zone that starts at `start`, or on all zones that it makes sense for (ZNS 3.4.3).
    ///
    /// # Errors
    /// [`CommandError::Unsupported`] where the namespace is not zoned, [`CommandError::Argument`] for a block that is no zone's
    /// first, and those of the command: with the status Invalid Zone State Transition where the zone's state does not allow it.
    pub async fn zone_action(&self, action: ZoneAction, start: Option<Lba>) -> Result<(), CommandError> {
        self.check_start(SEND, start.unwrap_or(Lba(0)))?;
        let command = Command::zone_action(self.nsid, start, action);
        let (direction, data) = (Direction::None, Payload::None);
        let order = Order { name: SEND, command, direction, data, metadata: Payload::None };
        let [Answer { result, .. }] = self.lane.run([order]).await;
        result.map(drop)
    }

    /// Sets the descriptor extension of the zone that starts at `start`, which is empty and becomes closed (ZNS 3.4.3.1.6).
    ///
    /// # Errors
    /// As [`zone_action`](Self::zone_action); [`CommandError::Argument`] for bytes that are not as many as an extension has.
    pub async fn set_zone_extension(&self, start: Lba, bytes: &[u8]) -> Result<(), CommandError> {
        let zones = *self.check_start(SEND, start)?;
        if bytes.len() != zones.extension_bytes || bytes.is_empty() {
            let expected = format!("as long as an extension is (ZDES), {} bytes", zones.extension_bytes);
            let (what, value) = ("the length of the extension", bytes.len() as u64);
            return Err(CommandError::Argument { command: SEND, what, value, expected });
        }
        let memory = |source: DmaError| CommandError::Memory { command: SEND, source };
        let mut buf = IoBuf::from(DmaBuffer::new(bytes.len(), 4096, Backing::Pages).map_err(memory)?);
        buf.copy_from(0, bytes).map_err(memory)?;
        let command = Command::set_zone_extension(self.nsid, start);
        let (direction, data) = (Direction::ToDevice, Payload::One(buf));
        let order = Order { name: SEND, command, direction, data, metadata: Payload::None };
        let [Answer { result, .. }] = self.lane.run([order]).await;
        result.map(drop)
    }

    /// Appends whole blocks to the zone that starts at `start`, and says where they went (ZNS 3.4.1). Appends to one zone may
    /// be under way at the same time; they go there in any order. The memory comes back with the answer.
    ///
    /// # Errors
    /// As [`zone_action`](Self::zone_action); [`CommandError::Argument`] for data that is no whole blocks or more than an append
    /// takes (ZASL); [`CommandError::Controller`] for an answer outside of the zone.
    pub async fn append(&self, start: Lba, data: Payload) -> (Result<Lba, CommandError>, Payload) {
        let (zones, blocks) = match self.check_append(start, &data) {
            Ok(found) => found,
            Err(error) => return (Err(error), data),
        };
        let command = Command::zone_append(self.nsid, start, blocks, 0);
        let direction = Direction::ToDevice;
        let order = Order { name: APPEND, command, direction, data, metadata: Payload::None };
        let [Answer { result, data, .. }] = self.lane.run([order]).await;
        let at = result.and_then(|at| {
            let room = zones.size_blocks.checked_sub(u64::from(blocks));
            if at.checked_sub(start.0).zip(room).is_some_and(|(offset, room)| offset <= room) {
                return Ok(Lba(at));
            }
            let expected = format!("one in the zone of {} blocks from {} on", zones.size_blocks, start.0);
            Err(CommandError::Controller(self.controller.absurd(
                APPEND,
                "the block it went to",
                at,
                expected,
            )))
        });
        (at, data)
    }

    fn check_append(&self, start: Lba, data: &Payload) -> Result<(Zones, u32), CommandError> {
        let zones = *self.check_start(APPEND, start)?;
        let (len, most) = (data.len_bytes() as u64, zones.max_append_blocks);
        let blocks = len >> self.block_shift;
        if blocks << self.block_shift != len || !(1..=most).contains(&blocks) {
            let expected = format!("from 1 to {most} blocks of {} bytes", self.block_bytes());
            let what = "the length of the data";
            return Err(CommandError::Argument { command: APPEND, what, value: len, expected });
        }
        Ok((zones, blocks as u32))
    }

    /// Checks that a zone starts at a block.
    fn check_start(&self, command: &'static str, start: Lba) -> Result<&Zones, CommandError> {
        let zones = self.zoned(command)?;
        if start.0 >= self.blocks || !start.0.is_multiple_of(zones.size_blocks) {
            let expected =
                format!("a zone's first, a multiple of {} below {}", zones.size_blocks, self.blocks);
            return Err(CommandError::Argument { command, what: "the block", value: start.0, expected });
        }
        Ok(zones)
    }
}
