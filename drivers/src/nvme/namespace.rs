//! [`Namespace`]: what a namespace is and which rules it has, made of what the controller says, each word of it checked.

pub mod metadata;

use corelane_engine::block::{BlockLimits, MAX_LENGTH_BYTES, ReqFlags};

use super::atomics::AtomicWrites;
use super::controller::NvmeController;
use super::controller::registers::PAGE_BYTES;
use super::error::NvmeError;
use super::placement::Placing;
use super::recovery::watch::Shape;
use super::spec::Nsid;
use super::spec::identify::{IdentifyController, NvmCommands, SglSupport};
use super::spec::namespace::{IdentifyNamespace, LbaFormat};
use super::spec::protection::IdentifyNvmNamespace;
use super::zones::Zones;
use metadata::Metadata;

/// The largest transfer that is asked for, whatever the controller could; in bytes. It bounds the PRP lists: with 4 MiB a
/// slot has three pages of them.
pub const MAX_TRANSFER_BYTES: u64 = 4 << 20;
/// Most segments of a transfer.
const MAX_SEGMENTS: u32 = 1024;
/// PRP entries and SGL descriptors start on dwords.
const MEM_ALIGNMENT: u32 = 4;
/// Most blocks of a command that counts them in 16 bits, from 0.
const MAX_BLOCKS: u64 = 1 << 16;

/// A namespace of the NVM command set, or of the zoned one, which is that with zones.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// Its number.
    pub nsid: Nsid,
    /// A block's size as a power of two of bytes, from 9 to 16.
    pub block_shift: u32,
    /// How many blocks it has.
    pub blocks: u64,
    /// Its rules.
    pub limits: BlockLimits,
    /// Whether there is a volatile cache, so that flushes and FUA mean something.
    pub write_cache: bool,
    /// The flags that Write Zeroes takes, if it is there.
    pub zero_flags: Option<ReqFlags>,
    /// Whether Write Zeroes may be told to deallocate.
    pub zeroes_deallocate: bool,
    /// Whether Dataset Management is there.
    pub can_discard: bool,
    /// Whether it refuses writes.
    pub read_only: bool,
    /// Whether a command may say by SGL where its data is.
    pub sgl: bool,
    /// What it writes all or not at all.
    pub atomics: AtomicWrites,
    /// What must not change while it is open.
    pub shape: Shape,
    /// What is done about the metadata of its blocks.
    pub metadata: Metadata,
    /// Its zones, if it is zoned.
    pub zones: Option<Zones>,
    /// Where its writes are to be placed, if that was asked for.
    pub placing: Option<Placing>,
}

impl Namespace {
    /// Asks the controller for a namespace. Blocks.
    ///
    /// # Errors
    /// [`NvmeError::NoNamespace`] for one that is not active, [`NvmeError::Absurd`] for what no namespace can be,
    /// and those of admin commands.
    pub fn open(controller: &NvmeController, nsid: Nsid) -> Result<Namespace, NvmeError> {
        let identify = identify(controller, nsid)?;
        let extended = metadata::extended_formats(controller, nsid, &identify)?;
        let write_cache = controller.write_cache_enabled()?;
        let mut namespace =
            Says::of(controller).namespace(nsid, (&identify, extended.as_deref()), write_cache)?;
        namespace.zones = Zones::ask(controller, nsid, &identify)?;
        if let Some(zones) = &namespace.zones {
            namespace.limits.zoned = Some(zones.limits(namespace.block_shift));
            // A zone is emptied as a whole.
            namespace.can_discard = false;
        }
        Ok(namespace)
    }
}

/// What the controller says of an active namespace. Blocks.
///
/// # Errors
/// [`NvmeError::NoNamespace`] for one that is not active, and those of admin commands.
pub fn identify(controller: &NvmeController, nsid: Nsid) -> Result<Box<IdentifyNamespace>, NvmeError> {
    let active = controller.active_namespaces()?;
    if active.contains(&nsid) {
        return controller.identify_namespace(nsid);
    }
    let numbers: Vec<String> = active.iter().map(|nsid| nsid.0.to_string()).collect();
    let active = if numbers.is_empty() { "none".to_owned() } else { numbers.join(", ") };
    Err(NvmeError::NoNamespace { address: controller.address().to_owned(), nsid, active })
}

/// The format in use, with blocks from 512 bytes to 64 KiB, and how many blocks there are, from 1 to what a node can have.
///
/// # Errors
/// [`NvmeError::Absurd`] for anything else.
pub fn geometry(
    address: &str,
    nsid: Nsid,
    identify: &IdentifyNamespace,
) -> Result<(LbaFormat, u64), NvmeError> {
    let absurd = |what, value, expected: &str| {
        let (address, of) = (address.to_owned(), nsid.to_string());
        NvmeError::Absurd { address, of, what, value, expected: expected.to_owned() }
    };
    let Some(format) = identify.format() else {
        let expected = format!("at most NLBAF ({})", identify.nlbaf);
        return Err(absurd("FLBAS", identify.format_index() as u64, &expected));
    };
    if !(9..=16).contains(&format.data_shift) {
        let expected = "from 9 to 16, for blocks of 512 bytes to 64 KiB";
        return Err(absurd("LBADS", format.data_shift.into(), expected));
    }
    let blocks = identify.nsze.get();
    let most = MAX_LENGTH_BYTES >> format.data_shift;
    if !(1..=most).contains(&blocks) {
        return Err(absurd("NSZE", blocks, &format!("from 1 to {most} blocks")));
    }
    Ok((format, blocks))
}

/// What the controller says that concerns all namespaces.
pub(super) struct Says<'a> {
    pub(super) address: &'a str,
    pub(super) max_transfer: Option<u64>,
    pub(super) min_page_shift: u32,
    pub(super) commands: NvmCommands,
    pub(super) sgl: bool,
    pub(super) identify: &'a IdentifyController,
    /// WZSL, DMRSL and DMSL; `None` if it does not say.
    pub(super) nvm: Option<(u8, u32, u64)>,
}

impl<'a> Says<'a> {
    fn of(controller: &'a NvmeController) -> Says<'a> {
        Says {
            address: controller.address(),
            max_transfer: controller.max_transfer_bytes(),
            min_page_shift: controller.min_page_shift(),
            commands: controller.identify().nvm_commands(),
            sgl: controller.identify().sgl_support() != SglSupport::None,
            identify: controller.identify(),
            nvm: controller.identify_nvm().map(|nvm| (nvm.wzsl, nvm.dmrsl.get(), nvm.dmsl.get())),
        }
    }

    fn absurd(&self, nsid: Nsid, what: &'static str, value: u64, expected: &str) -> NvmeError {
        let (address, of) = (self.address.to_owned(), nsid.to_string());
        NvmeError::Absurd { address, of, what, value, expected: expected.to_owned() }
    }

    /// What is made of a namespace that is said to be so.
    ///
    /// # Errors
    /// [`NvmeError::Absurd`], as [`Namespace::open`].
    pub(super) fn namespace(
        &self,
        nsid: Nsid,
        (identify, extended): (&IdentifyNamespace, Option<&IdentifyNvmNamespace>),
        write_cache: bool,
    ) -> Result<Namespace, NvmeError> {
        let (format, blocks) = geometry(self.address, nsid, identify)?;
        let metadata = Metadata::of(self.address, nsid, (identify, format), extended)?;
        let block_shift = u32::from(format.data_shift);
        let limits = self.limits(nsid, identify, block_shift, metadata)?;
        let zeroes = self.commands.contains(NvmCommands::WRITE_ZEROES);
        Ok(Namespace {
            nsid,
            block_shift,
            blocks,
            limits,
            write_cache,
            zero_flags: zeroes.then_some(ReqFlags::FUA | ReqFlags::MAY_UNMAP),
            zeroes_deallocate: identify.zeroes_may_deallocate(),
            can_discard: self.commands.contains(NvmCommands::DATASET_MANAGEMENT),
            read_only: identify.is_write_protected(),
            sgl: self.sgl,
            atomics: AtomicWrites::of(self.identify, identify, block_shift),
            shape: Shape::of(identify, format),
            metadata,
            zones: None,
            placing: None,
        })
    }

    fn limits(
        &self,
        nsid: Nsid,
        identify: &IdentifyNamespace,
        block_shift: u32,
        metadata: Metadata,
    ) -> Result<BlockLimits, NvmeError> {
        let block = 1u64 << block_shift;
        let told = metadata.data_bytes(self.max_transfer.unwrap_or(MAX_TRANSFER_BYTES), block_shift);
        if told < block {
            return Err(self.absurd(
                nsid,
                "LBADS",
                block_shift.into(),
                "a block that fits into a transfer (MDTS)",
            ));
        }
        let max_transfer = told.min(MAX_TRANSFER_BYTES).min(MAX_BLOCKS << block_shift);
        let opt_transfer =
            preferred(identify, block_shift).filter(|bytes| *bytes <= max_transfer).unwrap_or(0);
        let max_transfer =
            if opt_transfer == 0 { max_transfer } else { max_transfer - max_transfer % opt_transfer };
        let discard_align = discard_granularity(identify, block_shift).unwrap_or(block);
        Ok(BlockLimits {
            request_alignment: block as u32,
            max_transfer: max_transfer as u32,
            opt_transfer: opt_transfer as u32,
            max_iov: MAX_SEGMENTS,
            min_mem_alignment: MEM_ALIGNMENT,
            opt_mem_alignment: PAGE_BYTES as u32,
            max_pdiscard: self.max_discard(block_shift, discard_align),
            pdiscard_alignment: discard_align as u32,
            max_pwrite_zeroes: self.max_zeroes(block_shift, identify.interleaved_bytes()),
            pwrite_zeroes_alignment: block as u32,
            max_hw_transfer: 0,
            max_hw_iov: 0,
            zoned: None,
        })
    }

    /// The largest Write Zeroes (NVM 4.1.5.4, WZSL). A controller that does not say gets no more than a transfer, since not
    /// all that are silent have no limit.
    fn max_zeroes(&self, block_shift: u32, interleaved_bytes: u64) -> u64 {
        let (block, counted) = (1u64 << block_shift, MAX_BLOCKS << block_shift);
        let told = match self.nvm {
            Some((0, ..)) => counted,
            Some((wzsl, ..)) => 1u64.checked_shl(self.min_page_shift + u32::from(wzsl)).unwrap_or(counted),
            None => self.max_transfer.unwrap_or(counted),
        };
        (told / (block + interleaved_bytes)).clamp(1, MAX_BLOCKS) << block_shift
    }

    /// The largest range that is deallocated by one command (NVM 4.1.5.4, DMRSL and DMSL).
    fn max_discard(&self, block_shift: u32, align_bytes: u64) -> u64 {
        let (range, whole) = self.nvm.map_or((0, 0), |(_, dmrsl, dmsl)| (dmrsl, dmsl));
        let range = if range == 0 { u32::MAX } else { range };
        let whole = if whole == 0 { u64::MAX } else { whole };
        let bytes = u64::from(range).min(whole) << block_shift;
        // At least one unit: what is smaller than that is not worth a wish.
        (bytes - bytes % align_bytes).max(align_bytes)
    }
}

/// What the namespace likes transfers to be, in bytes: NOWS, or NOIOB.
fn preferred(identify: &IdentifyNamespace, block_shift: u32) -> Option<u64> {
    let nows =
        identify.has_preferences().then(|| u64::from(identify.nows.get()) + 1).filter(|blocks| *blocks > 1);
    let noiob = Some(u64::from(identify.noiob.get())).filter(|blocks| *blocks > 1);
    nows.or(noiob).map(|blocks| blocks << block_shift)
}

/// What the namespace likes deallocations to be aligned to, in bytes: NPDG, or NPDA.
fn discard_granularity(identify: &IdentifyNamespace, block_shift: u32) -> Option<u64> {
    if !identify.has_preferences() {
        return None;
    }
    let blocks = u64::from(identify.npdg.get()).max(identify.npda.get().into()) + 1;
    Some(blocks << block_shift).filter(|bytes| *bytes <= u64::from(u32::MAX))
}

#[cfg(test)]
mod tests;
