//! [`Zones`]: how a zoned namespace is divided, made of what the controller says, each word of it checked.

use std::sync::Arc;
use std::time::Duration;

use corelane_engine::block::ZoneLimits;

use super::controller::NvmeController;
use super::controller::passthrough::Transfer;
use super::error::NvmeError;
use super::namespace::MAX_TRANSFER_BYTES;
use super::spec::command::Command;
use super::spec::identify::{COMMAND_SET_NVM, COMMAND_SET_ZONED, command_set_of};
use super::spec::namespace::IdentifyNamespace;
use super::spec::zone::{
    DESCRIPTOR_BYTES, IdentifyZonedController, IdentifyZonedNamespace, ZoneFilter, read_report,
};
use super::spec::{Lba, Nsid};

/// Most blocks of a command that counts them in 16 bits, from 0.
const MAX_BLOCKS: u64 = 1 << 16;

/// The zones of a namespace, all of the same size, to be written in order (host-managed).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Zones {
    /// Blocks of a zone, from 1 to the namespace's. The last zone may have less.
    pub size_blocks: u64,
    /// Most open zones; 0: no limit.
    pub max_open: u32,
    /// Most active zones (open or closed); 0: no limit.
    pub max_active: u32,
    /// The largest Zone Append in blocks, at least 1.
    pub max_append_blocks: u64,
    /// Whether a read may cross from one zone into the next.
    pub cross_reads: bool,
    /// Whether zones differ in capacity.
    pub variable_capacity: bool,
    /// The bytes of a zone's descriptor extension; 0: there is none.
    pub extension_bytes: usize,
}

/// What a controller says of a zoned namespace.
pub struct Says {
    pub namespace: Box<IdentifyZonedNamespace>,
    /// `None` where it does not say.
    pub controller: Option<Box<IdentifyZonedController>>,
}

impl Zones {
    /// Asks whether an active namespace is zoned, and how. Blocks.
    ///
    /// # Errors
    /// [`NvmeError::Absurd`] for what no zones can be, [`NvmeError::Format`] for a namespace of another command set than
    /// these two, and those of admin commands.
    pub fn ask(
        controller: &NvmeController,
        nsid: Nsid,
        identify: &IdentifyNamespace,
    ) -> Result<Option<Zones>, NvmeError> {
        if !controller.has_many_command_sets() {
            return Ok(None);
        }
        let descriptors = controller.identify_descriptors(nsid)?;
        match command_set_of(&descriptors) {
            Some(COMMAND_SET_NVM) => return Ok(None),
            Some(COMMAND_SET_ZONED) => {}
            Some(other) => {
                let reason = format!("its I/O command set is {other:#x}, which this driver does not have");
                return Err(NvmeError::Format { address: controller.address().to_owned(), nsid, reason });
            }
            None => {
                let expected = "one that names the I/O command set, since there are several".to_owned();
                return Err(controller.absurd(&nsid.to_string(), "its list of descriptors", 0, expected));
            }
        }
        let says = Says {
            namespace: controller.identify_zoned(nsid)?,
            controller: controller.identify_zoned_controller()?,
        };
        let mdts = controller.max_transfer_bytes();
        let absurd = |what, value, expected| controller.absurd(&nsid.to_string(), what, value, expected);
        Zones::of(&says, identify, controller.min_page_shift(), mdts, absurd).map(Some)
    }

    /// Makes sense of what a controller says.
    pub fn of(
        says: &Says,
        identify: &IdentifyNamespace,
        min_page_shift: u32,
        mdts_bytes: Option<u64>,
        absurd: impl Fn(&'static str, u64, String) -> NvmeError,
    ) -> Result<Zones, NvmeError> {
        let blocks = identify.nsze.get();
        let index = identify.format_index();
        let Some((zones, format)) = says.namespace.formats.get(index).zip(identify.format()) else {
            return Err(absurd("FLBAS", index as u64, "below 64".to_owned()));
        };
        let size_blocks = zones.zsze.get();
        if !(1..=blocks).contains(&size_blocks) {
            return Err(absurd("ZSZE", size_blocks, format!("from 1 to the namespace's {blocks} blocks")));
        }
        let zasl = says.controller.as_ref().map_or(0, |controller| u32::from(controller.zasl));
        let told = (zasl != 0).then(|| 1u64.checked_shl(min_page_shift.saturating_add(zasl))).flatten();
        let most = told.unwrap_or(u64::MAX).min(mdts_bytes.unwrap_or(u64::MAX)).min(MAX_TRANSFER_BYTES);
        let append_blocks = most >> format.data_shift.min(63);
        Ok(Zones {
            size_blocks,
            max_open: IdentifyZonedNamespace::limit(says.namespace.mor),
            max_active: IdentifyZonedNamespace::limit(says.namespace.mar),
            max_append_blocks: append_blocks.min(MAX_BLOCKS).min(size_blocks).max(1),
            cross_reads: says.namespace.ozcs.get() & 1 == 1,
            variable_capacity: says.namespace.zoc.get() & 1 == 1,
            extension_bytes: usize::from(zones.zdes) * 64,
        })
    }

    /// As the block layer has them, but for the capacity.
    pub fn limits(&self, block_shift: u32) -> ZoneLimits {
        ZoneLimits {
            zone_size: self.size_blocks << block_shift,
            zone_capacity: 0,
            max_open: self.max_open,
            max_active: self.max_active,
            max_append: (self.max_append_blocks << block_shift) as u32,
            cross_reads: self.cross_reads,
        }
    }

    /// How many blocks of each zone can be written; `None` where zones differ, or no queue is free to ask by. Blocks.
    ///
    /// # Errors
    /// Those of an I/O command, and [`NvmeError::Absurd`].
    pub fn ask_capacity(
        &self,
        controller: &Arc<NvmeController>,
        nsid: Nsid,
    ) -> Result<Option<u64>, NvmeError> {
        if self.variable_capacity {
            return Ok(None);
        }
        let timeout = Duration::from_millis(controller.options().io_timeout_ms);
        let mut queue = match controller.open_passthrough(timeout) {
            Ok(queue) => queue,
            // All queues are in use.
            Err(NvmeError::NotAllowed { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut report = [0; 2 * DESCRIPTOR_BYTES];
        let command = Command::report_zones(nsid, Lba(0), ZoneFilter::All, false, report.len() as u32);
        let answer = queue.execute(command, Transfer::In(&mut report), Transfer::None)?;
        if !answer.status.is_success() {
            let address = controller.address().to_owned();
            return Err(NvmeError::Refused {
                address,
                command: "Zone Management Receive",
                status: answer.status,
            });
        }
        let (_, zones) = read_report(&report, 0);
        let capacity = zones.first().map_or(0, |zone| zone.capacity);
        if !(1..=self.size_blocks).contains(&capacity) {
            let expected = format!("from 1 to a zone's {} blocks", self.size_blocks);
            return Err(controller.absurd(&nsid.to_string(), "ZCAP", capacity, expected));
        }
        Ok(Some(capacity))
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;
    use zerocopy::little_endian::{U16, U32, U64};

    use super::*;

    fn ask(change: impl FnOnce(&mut Says, &mut IdentifyNamespace)) -> Result<Zones, String> {
        let mut identify = IdentifyNamespace::new_zeroed();
        identify.nsze = U64::new(1 << 20);
        identify.formats[0].data_shift = 12;
        let mut says = Says { namespace: Box::new(IdentifyZonedNamespace::new_zeroed()), controller: None };
        says.namespace.formats[0].zsze = U64::new(1 << 14);
        (says.namespace.mar, says.namespace.mor) = (U32::new(u32::MAX), U32::new(13));
        change(&mut says, &mut identify);
        let absurd = |what, value, expected| NvmeError::Absurd {
            address: "model".to_owned(),
            of: "namespace 1".to_owned(),
            what,
            value,
            expected,
        };
        Zones::of(&says, &identify, 12, Some(512 << 10), absurd).map_err(|error| error.to_string())
    }

    #[test]
    fn limits_are_those_of_the_format_in_use() {
        let zones = ask(|says, identify| {
            (identify.nlbaf, identify.flbas, identify.formats[3].data_shift) = (4, 3, 9);
            (says.namespace.formats[3].zsze, says.namespace.formats[3].zdes) = (U64::new(64), 2);
            (says.namespace.ozcs, says.namespace.zoc) = (U16::new(1), U16::new(1));
        });
        let expected = Zones {
            size_blocks: 64,
            max_open: 14,
            max_active: 0,
            max_append_blocks: 64,
            cross_reads: true,
            variable_capacity: true,
            extension_bytes: 128,
        };
        assert_eq!(zones, Ok(expected));
        let limits = expected.limits(9);
        assert_eq!((limits.zone_size, limits.max_append, limits.max_open), (32768, 32768, 14));
    }

    #[test]
    fn appends_are_as_large_as_the_controller_takes() {
        assert_eq!(ask(|_, _| {}).map(|zones| zones.max_append_blocks), Ok(128), "MDTS");
        let with = |zasl| {
            ask(move |says, _| {
                let mut controller = Box::new(IdentifyZonedController::new_zeroed());
                controller.zasl = zasl;
                says.controller = Some(controller);
            })
        };
        assert_eq!(with(3).map(|zones| zones.max_append_blocks), Ok(8));
        assert_eq!(with(0).map(|zones| zones.max_append_blocks), Ok(128));
        assert_eq!(with(255).map(|zones| zones.max_append_blocks), Ok(128));
    }

    #[test]
    fn zones_that_cannot_be_are_refused() {
        for zsze in [0, (1 << 20) + 1, u64::MAX] {
            let error = ask(|says, _| says.namespace.formats[0].zsze = U64::new(zsze)).unwrap_err();
            assert!(error.contains("ZSZE"), "{error}");
        }
        let error = ask(|_, identify| identify.flbas = 9).unwrap_err();
        assert!(error.contains("FLBAS"), "{error}");
    }
}
