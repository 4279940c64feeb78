//! What the metadata of a format means for who reads and writes blocks.

use zerocopy::{FromBytes, FromZeros};

use super::NvmeError;
use crate::nvme::controller::NvmeController;
use crate::nvme::controller::admin::Data;
use crate::nvme::spec::Nsid;
use crate::nvme::spec::command::Command;
use crate::nvme::spec::identify::{COMMAND_SET_NVM, IDENTIFY_BYTES, cns};
use crate::nvme::spec::namespace::{IdentifyNamespace, LbaFormat};
use crate::nvme::spec::protection::{Guard, IdentifyNvmNamespace, Protection};

/// The most metadata that a command has in a buffer of its own, in bytes: that of 4 MiB of blocks of 512 bytes with 64 each.
/// One block has less than 64 KiB.
pub const MAX_BESIDE_BYTES: u64 = 512 << 10;

/// What a namespace says of its formats beyond guards of 16 bits, where it has protection information and such formats. Blocks.
///
/// # Errors
/// Those of admin commands; [`NvmeError::Format`] for a format that the controller keeps from hosts that do not know it, where
/// it has not taken that this one does.
pub fn extended_formats(
    controller: &NvmeController,
    nsid: Nsid,
    identify: &IdentifyNamespace,
) -> Result<Option<Box<IdentifyNvmNamespace>>, NvmeError> {
    if identify.dps & 0b111 == 0 || !controller.identify().has_extended_formats() {
        return Ok(None);
    }
    let command = Command::identify(cns::COMMAND_SET_NAMESPACE, nsid, COMMAND_SET_NVM);
    let answer = controller.admin("Identify (extended formats)", command, Data::In(IDENTIFY_BYTES))?;
    let mut extended = Box::new(IdentifyNvmNamespace::new_zeroed());
    if let Ok((found, _)) = IdentifyNvmNamespace::read_from_prefix(&answer.data) {
        *extended = found;
    }
    if let Ok(Some(protection)) = Protection::of(identify, Some(&extended))
        && protection.guard != Guard::Crc16
        && !controller.is_host_told()
    {
        let reason = "its format has a guard of more than 16 bits, and the controller refuses to hear that this driver knows such \
                      formats (Set Features 16h, LBAFEE)";
        return Err(NvmeError::Format {
            address: controller.address().to_owned(),
            nsid,
            reason: reason.to_owned(),
        });
    }
    Ok(Some(extended))
}

/// The protection information that is on, if there is any.
///
/// # Errors
/// [`NvmeError::Absurd`] for what there is not, and for more of it than there is metadata.
pub fn protection_of(
    address: &str,
    nsid: Nsid,
    (identify, format): (&IdentifyNamespace, LbaFormat),
    extended: Option<&IdentifyNvmNamespace>,
) -> Result<Option<Protection>, NvmeError> {
    let absurd = |what, value, expected: String| {
        let (address, of) = (address.to_owned(), nsid.to_string());
        NvmeError::Absurd { address, of, what, value, expected }
    };
    let found = Protection::of(identify, extended);
    let found = found.map_err(|wrong| absurd(wrong.what, wrong.value, wrong.expected.to_owned()))?;
    let bytes = format.metadata_bytes.get();
    match found {
        Some(protection) if protection.bytes() > bytes => {
            let expected = format!("at least {}, for the protection information", protection.bytes());
            Err(absurd("MS", bytes.into(), expected))
        }
        found => Ok(found),
    }
}

/// What commands of the block layer, which knows no metadata, do about that of their blocks: protection information is the
/// controller's affair, anything else is written as zeroes and read in vain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Metadata {
    /// The protection information that the controller makes and checks.
    pub protection: Option<Protection>,
    /// How many bytes are transferred with each block; none of what is protection information and nothing else.
    pub bytes: u16,
    /// Whether these follow each block's data; else they have a buffer of their own.
    pub extended: bool,
}

impl Metadata {
    /// That of a namespace's format.
    ///
    /// # Errors
    /// As [`protection_of`].
    pub fn of(
        address: &str,
        nsid: Nsid,
        (identify, format): (&IdentifyNamespace, LbaFormat),
        extended: Option<&IdentifyNvmNamespace>,
    ) -> Result<Metadata, NvmeError> {
        let protection = protection_of(address, nsid, (identify, format), extended)?;
        let bytes = format.metadata_bytes.get();
        // With PRACT the controller keeps to itself what is nothing else (NVM 5.2.2.1).
        let bytes = if protection.map(Protection::bytes) == Some(bytes) { 0 } else { bytes };
        Ok(Metadata { protection, bytes, extended: bytes > 0 && identify.extended_blocks() })
    }

    /// Bytes behind each block's data.
    pub fn behind(self) -> u64 {
        if self.extended { self.bytes.into() } else { 0 }
    }

    /// Bytes of each block in a buffer of their own.
    pub fn beside(self) -> u64 {
        if self.extended { 0 } else { self.bytes.into() }
    }

    /// How many bytes of data a command can have of which `most` bytes are transferred, metadata behind blocks included
    /// (MDTS counts it, Base 5.1.13, but not that in a buffer of its own); whole blocks.
    pub fn data_bytes(self, most: u64, block_shift: u32) -> u64 {
        let block = 1 << block_shift;
        let bytes = if self.behind() == 0 { most } else { most / (block + self.behind()) * block };
        match self.beside() {
            0 => bytes,
            beside => bytes.min(MAX_BESIDE_BYTES / beside * block),
        }
    }
}
