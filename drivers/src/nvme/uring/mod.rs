//! The `nvme_uring` driver: a namespace through the kernel's NVMe driver, by commands on its character device
//! (`/dev/ng0n1`) and `IORING_OP_URING_CMD`: past the file systems, the page cache and the block layer of the kernel.
//!
//! What a command says is made here, as for a controller of our own ([`spec`](super::spec)); queues, interrupts and errors of the
//! controller are the kernel's affair. `queue` is the end in a lane, `ring` its ring (the commands are of 80 bytes, which
//! need entries of 128, which the lane's own ring does not have), `ioctl` asks the controller, `sysfs` the kernel.

mod ioctl;
mod queue;
mod ring;
mod sysfs;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use corelane_engine::aio::AioContext;
use corelane_engine::block::{BlockDriver, BlockError, BlockLimits, IoError, LeafQueue, LeafTable, ReqFlags};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::error::NvmeError;
use super::namespace::{Namespace, Says};
use super::placement::{Placement, Placing};
use super::spec::Nsid;
use super::spec::command::Command;
use super::spec::feature;
use super::spec::identify::{COMMAND_SET_NVM, IdentifyController, IdentifyNvmController, cns};
use super::spec::namespace::IdentifyNamespace;
use super::spec::protection::IdentifyNvmNamespace;
use queue::UringQueue;
use sysfs::Kernel;

/// How a character device is opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NvmeUringOptions {
    /// The device, such as `/dev/ng0n1`.
    pub filename: PathBuf,
    /// Whether writes are refused.
    pub read_only: bool,
    /// By which handles the controller places what is written (flexible data placement); `None`: as it likes.
    pub placement: Option<Placement>,
    /// Whether the kernel polls for completions instead of waiting for interrupts (`IORING_SETUP_IOPOLL`). The kernel's NVMe
    /// driver has to have poll queues (`nvme.poll_queues=1` or more).
    pub iopoll: bool,
}

impl NvmeUringOptions {
    /// For reading and writing, by interrupts.
    pub fn new(filename: impl Into<PathBuf>) -> NvmeUringOptions {
        NvmeUringOptions { filename: filename.into(), read_only: false, placement: None, iopoll: false }
    }
}

/// The units of WZSL are those of CAP.MPSMIN, which the kernel does not tell: at least 4 KiB, so the limit may be too low, and
/// never too high.
const MIN_PAGE_SHIFT: u32 = 12;
/// The longest reclaim unit handle status that is asked for: the kernel's driver takes so much at once everywhere.
const MAX_STATUS_BYTES: u64 = 64 << 10;

/// A namespace behind the kernel's driver.
#[derive(Debug)]
pub struct NvmeUringDriver {
    device: Arc<Device>,
}

/// What the queues share.
#[derive(Debug)]
struct Device {
    file: File,
    name: String,
    namespace: Namespace,
    /// Whether commands with blocks say of protection information or of where to place what they write.
    dressed: bool,
    read_only: bool,
    iopoll: bool,
}

impl NvmeUringDriver {
    /// Opens a namespace's character device, asks the controller what it is, and the kernel for its limits. Blocks; control
    /// plane.
    ///
    /// # Errors
    /// [`BlockError::Open`] for what is no such device, may not be opened, has a format that is not served, or cannot be polled
    /// where that is asked for.
    pub fn open(options: &NvmeUringOptions) -> Result<NvmeUringDriver, BlockError> {
        let name = options.filename.display().to_string();
        let failed = |reason: String| BlockError::Open { filename: name.clone(), reason };
        let (file, rdev) = open_device(&options.filename, options.read_only).map_err(failed)?;
        let nsid = ioctl::nsid(&file).map_err(|error| {
            failed(format!(
                "it is no NVMe namespace ({error}); right is a character device such as /dev/ng0n1"
            ))
        })?;
        let kernel = Kernel::of(rdev);
        if options.iopoll && kernel.can_poll == Some(false) {
            let reason = "the kernel's NVMe driver has no queues to poll; load it with poll_queues=1 or more, or leave iopoll out";
            return Err(failed(reason.to_owned()));
        }
        let mut namespace = describe(&file, &name, nsid, &kernel).map_err(|error| error.into_open(&name))?;
        if let Some(placement) = &options.placement {
            let placing =
                ask_placing(&file, &name, nsid, placement).map_err(|error| error.into_open(&name))?;
            namespace.placing = Some(placing);
        }
        if namespace.read_only && !options.read_only {
            return Err(failed("the namespace is write protected; open it with read-only=on".to_owned()));
        }
        if let Some(segments) = kernel.max_segments {
            namespace.limits.max_iov = namespace.limits.max_iov.min(segments.max(1));
        }
        namespace.limits.validate().map_err(|source| BlockError::Limits { driver: "nvme_uring", source })?;
        IoError::name_statuses_by(super::spec::status::describe);
        let (read_only, iopoll) = (options.read_only, options.iopoll);
        let dressed = namespace.metadata.protection.is_some() || namespace.placing.is_some();
        Ok(NvmeUringDriver { device: Arc::new(Device { file, name, namespace, dressed, read_only, iopoll }) })
    }

    /// The namespace's number.
    pub fn nsid(&self) -> Nsid {
        self.device.namespace.nsid
    }
}

fn open_device(path: &Path, read_only: bool) -> Result<(File, u64), String> {
    let file =
        OpenOptions::new().read(true).write(!read_only).open(path).map_err(|error| error.to_string())?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.file_type().is_char_device() {
        return Err("it is no character device; right is a namespace's, such as /dev/ng0n1".to_owned());
    }
    Ok((file, metadata.rdev()))
}

/// What the controller says of the namespace, and what is made of it.
fn describe(file: &File, name: &str, nsid: Nsid, kernel: &Kernel) -> Result<Namespace, NvmeError> {
    let controller: Box<IdentifyController> = identify(file, name, cns::CONTROLLER, Nsid::NONE)?;
    let identified: Box<IdentifyNamespace> = identify(file, name, cns::NAMESPACE, nsid)?;
    // Controllers of before 1.4 do not know the question.
    let nvm = identify::<IdentifyNvmController>(file, name, cns::COMMAND_SET_CONTROLLER, Nsid::NONE).ok();
    let told = controller.max_transfer_bytes(MIN_PAGE_SHIFT);
    let max_transfer = [kernel.max_bytes, kernel.max_segment_bytes()].into_iter().flatten().min().or(told);
    let says = Says {
        address: name,
        max_transfer,
        min_page_shift: MIN_PAGE_SHIFT,
        commands: controller.nvm_commands(),
        sgl: false,
        identify: &controller,
        nvm: nvm.map(|nvm| (nvm.wzsl, nvm.dmrsl.get(), nvm.dmsl.get())),
    };
    let write_cache = controller.has_write_cache() && write_cache_enabled(file);
    let extended = match identified.dps & 0b111 != 0 && controller.has_extended_formats() {
        true => Some(identify::<IdentifyNvmNamespace>(file, name, cns::COMMAND_SET_NAMESPACE, nsid)?),
        false => None,
    };
    let namespace = says.namespace(nsid, (&identified, extended.as_deref()), write_cache)?;
    match namespace.metadata.bytes {
        0 => Ok(namespace),
        bytes => Err(NvmeError::Format {
            address: name.to_owned(),
            nsid,
            reason: format!(
                "its format {} has {bytes} bytes of metadata with each block that are not the controller's affair, which this \
                 driver has no buffer for; the nvme driver serves it, or a format without",
                identified.format_index()
            ),
        }),
    }
}

/// Which placement identifiers are meant.
fn ask_placing(file: &File, name: &str, nsid: Nsid, placement: &Placement) -> Result<Placing, NvmeError> {
    let controller: Box<IdentifyController> = identify(file, name, cns::CONTROLLER, Nsid::NONE)?;
    placement.resolve(name, nsid, controller.has_placement(), MAX_STATUS_BYTES, |command, data| {
        match ioctl::io(file, &command, data) {
            Ok((status, _)) => Ok(status),
            Err(source) => {
                Err(NvmeError::Io { what: "I/O Management Receive through the kernel's driver", source })
            }
        }
    })
}

fn identify<T: FromBytes + FromZeros + IntoBytes>(
    file: &File,
    name: &str,
    which: u8,
    nsid: Nsid,
) -> Result<Box<T>, NvmeError> {
    let mut data = Box::new(T::new_zeroed());
    let command = Command::identify(which, nsid, COMMAND_SET_NVM);
    match ioctl::admin(file, &command, data.as_mut_bytes()) {
        Ok((status, _)) if status.is_success() => Ok(data),
        Ok((status, _)) => Err(NvmeError::Refused { address: name.to_owned(), command: "Identify", status }),
        Err(source) => Err(NvmeError::Io { what: "Identify through the kernel's driver", source }),
    }
}

/// Whether the write cache is on; if that cannot be found out it counts as on.
fn write_cache_enabled(file: &File) -> bool {
    let command = Command::get_feature(feature::id::WRITE_CACHE, Nsid::NONE);
    match ioctl::admin(file, &command, &mut []) {
        Ok((status, result)) if status.is_success() => result & 1 == 1,
        _ => true,
    }
}

impl BlockDriver for NvmeUringDriver {
    fn format_name(&self) -> &'static str {
        "nvme_uring"
    }

    fn limits(&self) -> &BlockLimits {
        &self.device.namespace.limits
    }

    fn length(&self) -> Result<u64, BlockError> {
        Ok(self.device.namespace.blocks << self.device.namespace.block_shift)
    }

    fn read_only(&self) -> bool {
        self.device.read_only
    }

    fn write_cache(&self) -> bool {
        self.device.namespace.write_cache
    }

    fn supported_write_flags(&self) -> ReqFlags {
        ReqFlags::FUA
    }

    fn supported_zero_flags(&self) -> Option<ReqFlags> {
        self.device.namespace.zero_flags
    }

    fn can_discard(&self) -> bool {
        self.device.namespace.can_discard
    }

    fn open_queue(&self, ctx: &AioContext, table: LeafTable) -> Result<Box<dyn LeafQueue>, BlockError> {
        Ok(Box::new(UringQueue::open(&self.device, ctx, table)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_namespace_is_refused_by_name() {
        let open =
            |path: &str| NvmeUringDriver::open(&NvmeUringOptions::new(path)).expect_err(path).to_string();
        assert!(open("/dev/null").contains("it is no NVMe namespace"), "{}", open("/dev/null"));
        let here = std::env::current_exe().expect("this test is a file");
        let read_only = NvmeUringOptions { read_only: true, ..NvmeUringOptions::new(here) };
        let error = NvmeUringDriver::open(&read_only).expect_err("a file").to_string();
        assert!(error.contains("no character device") && error.contains("/dev/ng0n1"), "{error}");
        assert!(open("/dev/does-not-exist").contains("No such file"));
    }
}
