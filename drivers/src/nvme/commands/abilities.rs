//! [`Abilities`]: which commands a namespace has, and how large they may be, as its controller says.

use crate::nvme::controller::NvmeController;
use crate::nvme::namespace::MAX_TRANSFER_BYTES;
use crate::nvme::spec::identify::NvmCommands;
use crate::nvme::spec::namespace::IdentifyNamespace;
use crate::nvme::spec::nvm::COPY_MAX_RANGES;

/// Most blocks of a command that counts them in 16 bits, from 0.
pub(super) const MAX_BLOCKS: u64 = 1 << 16;

/// Which commands a namespace has. Sizes are in blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Abilities {
    /// The largest command with data (MDTS, and 4 MiB).
    pub max_transfer_blocks: u64,
    /// Whether there is Compare (ONCS bit 0).
    pub compare: bool,
    /// Whether Compare and Write can be fused (FUSES bit 0).
    pub compare_and_write: bool,
    /// The largest Verify, if there is one (ONCS bit 7, VSL).
    pub max_verify_blocks: Option<u64>,
    /// The largest Write Uncorrectable, if there is one (ONCS bit 1, WUSL).
    pub max_uncorrectable_blocks: Option<u64>,
    /// The limits of Copy, if there is one (ONCS bit 8, OCFS bit 0).
    pub copy: Option<CopyLimits>,
}

/// How large one Copy may be (NVM 4.1.5.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopyLimits {
    /// Most source ranges, from 1 to 256 (MSRC).
    pub max_ranges: usize,
    /// Most blocks of a source range, from 1 to 65,536 (MSSRL).
    pub max_range_blocks: u64,
    /// Most blocks of all source ranges together, at least 1 (MCL).
    pub max_blocks: u64,
}

impl Abilities {
    /// What the controller says of a namespace with blocks of `1 << block_shift` bytes.
    pub(super) fn of(
        controller: &NvmeController,
        namespace: &IdentifyNamespace,
        block_shift: u32,
    ) -> Abilities {
        let identify = controller.identify();
        let commands = identify.nvm_commands();
        let (vsl, wusl) = controller.identify_nvm().map_or((0, 0), |nvm| (nvm.vsl, nvm.wusl));
        let unit = (1 << block_shift) + namespace.interleaved_bytes();
        // Powers of two of the smallest memory page; 0 is no limit.
        let limit = |exponent: u8| match exponent {
            0 => MAX_BLOCKS,
            _ => {
                let bytes = 1u64.checked_shl(controller.min_page_shift() + u32::from(exponent));
                (bytes.unwrap_or(u64::MAX) / unit).clamp(1, MAX_BLOCKS)
            }
        };
        let max_transfer = controller.max_transfer_bytes().unwrap_or(u64::MAX).min(MAX_TRANSFER_BYTES);
        let copies = commands.contains(NvmCommands::COPY) && identify.copies_format_0();
        Abilities {
            max_transfer_blocks: (max_transfer >> block_shift).clamp(1, MAX_BLOCKS),
            compare: commands.contains(NvmCommands::COMPARE),
            compare_and_write: identify.can_compare_and_write(),
            max_verify_blocks: commands.contains(NvmCommands::VERIFY).then(|| limit(vsl)),
            max_uncorrectable_blocks: commands
                .contains(NvmCommands::WRITE_UNCORRECTABLE)
                .then(|| limit(wusl)),
            copy: copies.then(|| CopyLimits::of(namespace)).flatten(),
        }
    }
}

impl CopyLimits {
    /// `None` for a namespace that allows no block to be copied.
    fn of(namespace: &IdentifyNamespace) -> Option<CopyLimits> {
        let (max_range_blocks, max_blocks) =
            (u64::from(namespace.mssrl.get()), u64::from(namespace.mcl.get()));
        let max_ranges = (usize::from(namespace.msrc) + 1).min(COPY_MAX_RANGES);
        (max_range_blocks > 0 && max_blocks > 0).then_some(CopyLimits {
            max_ranges,
            max_range_blocks,
            max_blocks,
        })
    }
}
