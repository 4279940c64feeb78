//! Questions to the controller through the kernel's driver (`linux/nvme_ioctl.h`).
//!
//! Invariant: the structure that the kernel is given names memory that is borrowed until the call returns, with its length.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use crate::nvme::spec::Nsid;
use crate::nvme::spec::command::Command;
use crate::nvme::spec::status::Status;

/// `NVME_IOCTL_ID`: `_IO('N', 0x40)`.
const ID: libc::Ioctl = 0x4e40;
/// `NVME_IOCTL_ADMIN_CMD`: `_IOWR('N', 0x41, struct nvme_admin_cmd)`.
const ADMIN: libc::Ioctl = 0xc048_4e41;
/// `NVME_IOCTL_IO_CMD`: `_IOWR('N', 0x43, struct nvme_passthru_cmd)`.
const IO: libc::Ioctl = 0xc048_4e43;
/// How long the controller may take, in milliseconds.
const TIMEOUT_MS: u32 = 30_000;

/// `struct nvme_passthru_cmd`: 72 bytes.
#[derive(Default)]
#[repr(C)]
struct PassthruCmd {
    opcode: u8,
    flags: u8,
    reserved: u16,
    nsid: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    addr: u64,
    metadata_len: u32,
    data_len: u32,
    cdw10: [u32; 6],
    timeout_ms: u32,
    result: u32,
}

const _: () = assert!(size_of::<PassthruCmd>() == 72);

/// The number of the namespace behind a device.
///
/// # Errors
/// What the kernel says to it: ENOTTY where it is no namespace.
pub fn nsid(file: &File) -> io::Result<Nsid> {
    // SAFETY: NVME_IOCTL_ID has no argument; what other drivers make of the number, they make without one.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), ID) };
    match u32::try_from(result) {
        Ok(nsid) if nsid > 0 => Ok(Nsid(nsid)),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::ENOTTY)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Executes an admin command whose data, if any, the controller writes to `data`. The status, and dword 0. Blocks.
///
/// # Errors
/// What the kernel says before the controller hears of it.
pub fn admin(file: &File, command: &Command, data: &mut [u8]) -> io::Result<(Status, u32)> {
    execute(file, ADMIN, command, data)
}

/// Executes an I/O command. As [`admin`].
///
/// # Errors
/// As [`admin`].
pub fn io(file: &File, command: &Command, data: &mut [u8]) -> io::Result<(Status, u32)> {
    execute(file, IO, command, data)
}

fn execute(
    file: &File,
    request: libc::Ioctl,
    command: &Command,
    data: &mut [u8],
) -> io::Result<(Status, u32)> {
    let mut cmd = PassthruCmd {
        opcode: command.opcode,
        nsid: command.nsid,
        cdw2: command.cdw2[0],
        cdw3: command.cdw2[1],
        addr: data.as_mut_ptr() as u64,
        data_len: data.len() as u32,
        cdw10: command.cdw10,
        timeout_ms: TIMEOUT_MS,
        ..PassthruCmd::default()
    };
    // SAFETY: the structure is the one that both calls ask for and is written only until it returns, as is the memory of
    // `data`, which it names with its length and which is borrowed for writing here.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request, &raw mut cmd) };
    match u16::try_from(result) {
        Ok(status) => Ok((Status(status & 0x7fff), cmd.result)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}
