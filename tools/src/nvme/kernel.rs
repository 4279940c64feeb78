//! Controllers that the kernel's own driver has: `/dev/nvme0`, `/dev/nvme0n1`, `/dev/ng0n1`.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use corelane_drivers::nvme::spec::Nsid;
use corelane_drivers::nvme::spec::command::Command;
use corelane_drivers::nvme::{PassthroughAnswer, Transfer};
use rustix::fs::OFlags;

use super::NvmeToolError;
use super::back_end::BackEnd;
use super::ioctl::{self, Queue};

/// A device of the kernel's.
pub struct Kernel {
    path: PathBuf,
    file: File,
    title: String,
    nsid: Option<Nsid>,
    timeout_ms: u32,
    /// The namespace that I/O commands went to last, where `file` is a controller.
    namespace: Option<(Nsid, File)>,
}

impl Kernel {
    /// Opens a device; every command may take `timeout_ms`.
    ///
    /// # Errors
    /// [`NvmeToolError::Open`].
    pub fn open(path: &Path, timeout_ms: u64) -> Result<Kernel, NvmeToolError> {
        let failed = |source| NvmeToolError::Open { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        // Only namespaces answer.
        let nsid = ioctl::nsid(file.as_fd()).ok().map(Nsid);
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let timeout_ms = u32::try_from(timeout_ms).unwrap_or(u32::MAX);
        Ok(Kernel { path: path.to_owned(), file, title: name, nsid, timeout_ms, namespace: None })
    }

    /// The namespace that the device is, if it is one.
    pub fn nsid(&self) -> Option<Nsid> {
        self.nsid
    }

    fn failed(&self, what: &'static str) -> impl Fn(std::io::Error) -> NvmeToolError + use<> {
        let path = self.path.clone();
        move |source| NvmeToolError::Kernel { path: path.clone(), what, source }
    }

    /// The block devices of the controller's namespaces, or the one that this is.
    fn disks(&self, nsid: Nsid) -> Vec<PathBuf> {
        if self.nsid.is_some() {
            // The block device of a character device: /dev/ng0n1 is of /dev/nvme0n1.
            let name = self.title.strip_prefix("ng").map_or(self.title.clone(), |rest| format!("nvme{rest}"));
            return vec![Path::new("/dev").join(name)];
        }
        disks_of(Path::new("/sys/class/nvme").join(&self.title).as_path(), nsid)
    }

    /// The file that I/O commands to a namespace go to: the namespace's own.
    fn file_for(&mut self, nsid: Nsid) -> Result<&File, NvmeToolError> {
        if self.nsid.is_some() {
            return Ok(&self.file);
        }
        if self.namespace.as_ref().is_none_or(|(known, _)| *known != nsid) {
            let none = || NvmeToolError::NoNamespace { device: self.title.clone(), nsid };
            let path = self.disks(nsid).into_iter().next().ok_or_else(none)?;
            let file = File::open(&path).map_err(|source| NvmeToolError::Open { path, source })?;
            self.namespace = Some((nsid, file));
        }
        Ok(self.namespace.as_ref().map_or(&self.file, |(_, file)| file))
    }
}

/// The block devices of a controller's folder in sysfs, of one namespace or of all.
fn disks_of(folder: &Path, nsid: Nsid) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let matching = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let name = crate::device::disk_name(&name)?;
        let found = std::fs::read_to_string(entry.path().join("nsid"))
            .or_else(|_| std::fs::read_to_string(Path::new("/sys/block").join(&name).join("nsid")));
        let found: u32 = found.ok()?.trim().parse().ok()?;
        (nsid == Nsid::ALL || nsid.0 == found).then(|| Path::new("/dev").join(name))
    });
    matching.collect()
}

impl BackEnd for Kernel {
    fn title(&self) -> &str {
        &self.title
    }

    fn admin(
        &mut self,
        command: &Command,
        data: Transfer<'_>,
        metadata: Transfer<'_>,
    ) -> Result<PassthroughAnswer, NvmeToolError> {
        ioctl::execute(self.file.as_fd(), Queue::Admin, command, data, metadata, self.timeout_ms)
            .map_err(self.failed("the admin command"))
    }

    fn io(
        &mut self,
        command: &Command,
        data: Transfer<'_>,
        metadata: Transfer<'_>,
    ) -> Result<PassthroughAnswer, NvmeToolError> {
        let failed = self.failed("the I/O command");
        let timeout_ms = self.timeout_ms;
        let file = self.file_for(Nsid(command.nsid))?;
        ioctl::execute(file.as_fd(), Queue::Io, command, data, metadata, timeout_ms).map_err(failed)
    }

    fn reset(&mut self) -> Result<(), NvmeToolError> {
        ioctl::reset(self.file.as_fd()).map_err(self.failed("the reset"))
    }

    fn rescan(&mut self) -> Result<(), NvmeToolError> {
        ioctl::rescan(self.file.as_fd()).map_err(self.failed("the rescan"))
    }

    fn check_unused(&mut self, nsid: Nsid) -> Result<(), NvmeToolError> {
        for path in self.disks(nsid) {
            // Whoever mounts, swaps to, or builds on a device has claimed it.
            let claimed = OpenOptions::new().read(true).custom_flags(OFlags::EXCL.bits() as i32).open(&path);
            match claimed {
                Err(error) if error.kind() == ErrorKind::ResourceBusy => {
                    return Err(NvmeToolError::InUse { path });
                }
                Err(source) => return Err(NvmeToolError::Open { path, source }),
                Ok(_) => {}
            }
        }
        Ok(())
    }
}

/// The block devices of all NVMe namespaces that the kernel has, in order.
pub fn namespaces() -> Vec<PathBuf> {
    let folders = std::fs::read_dir("/sys/class/nvme").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        folders.flat_map(|folder| disks_of(&folder.path(), Nsid::ALL)).filter(|path| path.exists()).collect();
    found.sort();
    found.dedup();
    found
}
