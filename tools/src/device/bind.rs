//! `corelane device bind` and `unbind`: giving a controller to VFIO and back, as driverctl does it: `driver_override`, then
//! `unbind` of the old driver, then `drivers_probe`.
//!
//! Invariants:
//! - A device of which anything is used, or holds something that is recognised, is not taken without `--force`.
//! - From the check to the unbinding all its disks are held open exclusively, so that nobody can mount one in between.
//! - What fails half-way is undone: the override is taken back and the kernel may bind its own driver again.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::DeviceError;
use super::function::{self, Function};
use super::host::{Host, link_name};
use super::users::{Usage, Use};
use corelane_dma::vfio::PciAddress;

/// The driver to bind to.
pub const VFIO: &str = "vfio-pci";
/// How long the file of a group may take to appear; udev may have rules for it.
const FILE_LIMIT: Duration = Duration::from_secs(5);

/// What became of a function.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bound {
    /// Its address.
    pub address: String,
    /// The driver before.
    pub before: Option<String>,
    /// The driver now.
    pub now: Option<String>,
    /// The file of its IOMMU group, where VFIO has it.
    pub file: Option<PathBuf>,
    /// Functions of the same group that the kernel still uses.
    pub in_the_way: Vec<String>,
}

/// Binds a function to vfio-pci; lets the group `gid` use it if one is given.
///
/// # Errors
/// [`DeviceError::InUse`] without `force`, and whatever the kernel refuses.
pub fn bind(host: &Host, address: PciAddress, force: bool, gid: Option<u32>) -> Result<Bound, DeviceError> {
    let function = function::find(host, address)?;
    if !function.is_vfio() {
        if function.iommu_group.is_none() {
            return Err(DeviceError::NoIommu { address });
        }
        if !host.sys("bus/pci/drivers").join(VFIO).exists() {
            return Err(DeviceError::NoDriver { driver: VFIO });
        }
        let claims = claim(host, &function, force)?;
        move_to(host, &function, VFIO)?;
        drop(claims);
    }
    let file = function.group_file(host);
    if let (Some(file), Some(gid)) = (&file, gid) {
        give(file, gid)?;
    }
    let in_the_way = function.in_the_way().map(|of| of.address.clone()).collect();
    Ok(Bound {
        before: function.driver.clone(),
        now: driver(host, &function),
        address: function.address,
        file,
        in_the_way,
    })
}

/// Gives a function back to whatever driver the kernel has for it.
///
/// # Errors
/// [`DeviceError::Held`] while a program has the device open, and whatever the kernel refuses.
pub fn unbind(host: &Host, address: PciAddress) -> Result<Bound, DeviceError> {
    let function = function::find(host, address)?;
    if !function.is_vfio() && function.driver.is_some() {
        return Err(DeviceError::NotOurs { address, driver: function.driver.unwrap_or_default() });
    }
    // The kernel would wait, for as long as it takes.
    if let Some(file) = function.group_file(host)
        && let Err(error) = OpenOptions::new().read(true).write(true).open(&file)
        && error.raw_os_error() == Some(Errno::BUSY.raw_os_error())
    {
        return Err(DeviceError::Held { address, path: file });
    }
    let folder = folder(host, &function);
    host.tell(&folder.join("driver_override"), "\n")?;
    release(host, &function)?;
    host.tell(&host.sys("bus/pci/drivers_probe"), &function.address)?;
    let now = driver(host, &function);
    Ok(Bound { address: function.address, before: function.driver, now, file: None, in_the_way: Vec::new() })
}

fn folder(host: &Host, function: &Function) -> PathBuf {
    host.sys("bus/pci/devices").join(&function.address)
}

fn driver(host: &Host, function: &Function) -> Option<String> {
    link_name(folder(host, function).join("driver"))
}

/// Takes the function from its driver, if it has one.
fn release(host: &Host, function: &Function) -> Result<(), DeviceError> {
    match driver(host, function) {
        Some(_) => host.tell(&folder(host, function).join("driver/unbind"), &function.address),
        None => Ok(()),
    }
}

fn move_to(host: &Host, function: &Function, target: &'static str) -> Result<(), DeviceError> {
    let overriding = folder(host, function).join("driver_override");
    host.tell(&overriding, target)?;
    let moved = release(host, function)
        .and_then(|()| host.tell(&host.sys("bus/pci/drivers_probe"), &function.address));
    let now = driver(host, function);
    if moved.is_ok() && now.as_deref() == Some(target) {
        return Ok(());
    }
    // As it was before, as far as that can be had; the first error is the one to tell.
    let _ = host.tell(&overriding, function.driver_override.as_deref().unwrap_or("\n"));
    let _ = host.tell(&host.sys("bus/pci/drivers_probe"), &function.address);
    moved?;
    Err(DeviceError::NotBound { address: function.address.clone(), driver: target, now })
}

/// Checks that nothing of the function's disks is used, and keeps it so until the files are closed.
fn claim(host: &Host, function: &Function, force: bool) -> Result<Vec<File>, DeviceError> {
    let mut claims = Vec::new();
    let mut reasons = Vec::new();
    for disk in &function.disks {
        // First the claim, then the look: in the other order somebody could come in between.
        let path = host.dev(&disk.name);
        let flags = OFlags::EXCL.bits() as i32;
        let claimed = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let mut usage = Usage::of(host, disk);
        match claimed {
            Ok(file) => claims.push(file),
            Err(error) if error.kind() == ErrorKind::ResourceBusy => {
                // Whoever is named already explains it.
                if usage.users.is_empty() {
                    usage.users.push(Use::Exclusive { device: disk.name.clone() });
                }
            }
            Err(error) => usage.unreadable = Some(format!("{}: {error}", disk.name)),
        }
        if !usage.is_free() {
            reasons.extend(usage.describe());
        }
    }
    if force || reasons.is_empty() {
        return Ok(claims);
    }
    Err(DeviceError::InUse { address: function.address.clone(), reasons: reasons.join("; ") })
}

/// Lets a group of users open the file.
fn give(file: &Path, gid: u32) -> Result<(), DeviceError> {
    let start = Instant::now();
    while !file.exists() && start.elapsed() < FILE_LIMIT {
        std::thread::sleep(Duration::from_millis(10));
    }
    let failed = |source| DeviceError::Give { path: file.to_owned(), gid, source };
    std::os::unix::fs::chown(file, None, Some(gid)).map_err(failed)?;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o660)).map_err(failed)
}

/// The number of a group of users, given by number or by the name that /etc/group has.
///
/// # Errors
/// What is wrong, as text for clap.
pub fn group(text: &str) -> Result<u32, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    group_in(&groups, text)
        .ok_or_else(|| format!("there is no group '{text}' in /etc/group; a number is right as well"))
}

fn group_in(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
#[path = "bind_tests.rs"]
mod tests;
