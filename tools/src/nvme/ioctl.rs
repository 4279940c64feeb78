//! The system calls of the kernel's NVMe driver (linux/nvme_ioctl.h). Raw calls stand only here, since no crate wraps them.
//!
//! Invariants:
//! - The structure is the kernel's `nvme_passthru_cmd64`: 80 bytes, asserted.
//! - Addresses in it are those of buffers that are borrowed during the call, with their lengths; the kernel copies or pins
//!   them for the command and is done with them when the call returns. A buffer that the controller fills is borrowed
//!   exclusively, and is in pages of its own: a controller that is told of a shorter buffer than its answer is long writes to
//!   the end of the page all the same.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::io;
use std::os::fd::BorrowedFd;

use corelane_drivers::nvme::spec::command::Command;
use corelane_drivers::nvme::spec::status::Status;
use corelane_drivers::nvme::{PassthroughAnswer, Transfer};
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};

/// `struct nvme_passthru_cmd64`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct PassthruCmd64 {
    opcode: u8,
    flags: u8,
    rsvd1: u16,
    nsid: u32,
    cdw2: [u32; 2],
    metadata: u64,
    addr: u64,
    metadata_len: u32,
    data_len: u32,
    cdw10: [u32; 6],
    timeout_ms: u32,
    rsvd2: u32,
    result: u64,
}

const _: () = {
    assert!(size_of::<PassthruCmd64>() == 80);
    assert!(std::mem::offset_of!(PassthruCmd64, addr) == 24);
    assert!(std::mem::offset_of!(PassthruCmd64, cdw10) == 40);
    assert!(std::mem::offset_of!(PassthruCmd64, result) == 72);
};

const ID: Opcode = opcode::none(b'N', 0x40);
const RESET: Opcode = opcode::none(b'N', 0x44);
const RESCAN: Opcode = opcode::none(b'N', 0x46);
const ADMIN64_CMD: Opcode = opcode::read_write::<PassthruCmd64>(b'N', 0x47);
const IO64_CMD: Opcode = opcode::read_write::<PassthruCmd64>(b'N', 0x48);

/// Where a command goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Queue {
    /// To the admin queue.
    Admin,
    /// To an I/O queue.
    Io,
}

/// A call with a command, which returns the command's status.
struct Passthru<'a> {
    opcode: Opcode,
    command: &'a mut PassthruCmd64,
}

// SAFETY: the argument is a structure of the kind that both opcodes take, borrowed exclusively during the call, and the
// return value is a status.
unsafe impl Ioctl for Passthru<'_> {
    type Output = i32;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(self.command).cast()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<i32> {
        Ok(out)
    }
}

/// A call without an argument.
struct Plain(Opcode);

// SAFETY: the opcodes take no argument.
unsafe impl Ioctl for Plain {
    type Output = i32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        self.0
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<i32> {
        Ok(out)
    }
}

/// Address and length of a buffer, for the kernel.
fn place(transfer: &mut Transfer<'_>) -> io::Result<(u64, u32)> {
    let len_bytes = u32::try_from(transfer.len_bytes()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let addr = match transfer {
        Transfer::None => 0,
        Transfer::In(buffer) => buffer.as_mut_ptr().addr() as u64,
        Transfer::Out(buffer) => buffer.as_ptr().addr() as u64,
    };
    Ok(if len_bytes == 0 { (0, 0) } else { (addr, len_bytes) })
}

/// A page of memory.
const PAGE_BYTES: usize = 4096;

/// Memory in whole pages that nothing else is in.
struct Pages(Vec<u8>);

impl Pages {
    /// Of at least so many bytes, zeroed.
    fn new(len_bytes: usize) -> Pages {
        Pages(vec![0; len_bytes.next_multiple_of(PAGE_BYTES) + PAGE_BYTES])
    }

    /// The first `len_bytes` bytes, from a page's start on.
    fn part(&mut self, len_bytes: usize) -> &mut [u8] {
        let start = self.0.as_ptr().addr().wrapping_neg() % PAGE_BYTES;
        let end = (start + len_bytes).min(self.0.len());
        &mut self.0[start..end]
    }
}

/// Executes a command.
///
/// # Errors
/// Those of the kernel. The controller's status is no error.
pub fn execute(
    fd: BorrowedFd<'_>,
    queue: Queue,
    command: &Command,
    data: Transfer<'_>,
    metadata: Transfer<'_>,
    timeout_ms: u32,
) -> io::Result<PassthroughAnswer> {
    check_direction(command.opcode, &data)?;
    check_direction(command.opcode, &metadata)?;
    let (mut pages, mut metadata_pages) = (Pages::new(data.len_bytes()), Pages::new(metadata.len_bytes()));
    let is_in = |transfer: &Transfer<'_>| matches!(transfer, Transfer::In(_));
    let answer = {
        let lent = if is_in(&data) { Transfer::In(pages.part(data.len_bytes())) } else { shared(&data) };
        let lent_metadata = if is_in(&metadata) {
            Transfer::In(metadata_pages.part(metadata.len_bytes()))
        } else {
            shared(&metadata)
        };
        call(fd, queue, command, lent, lent_metadata, timeout_ms)?
    };
    for (own, pages) in [(data, &mut pages), (metadata, &mut metadata_pages)] {
        if let Transfer::In(buffer) = own {
            let len_bytes = buffer.len();
            buffer.copy_from_slice(pages.part(len_bytes));
        }
    }
    Ok(answer)
}

/// What the controller only reads needs no pages of its own.
fn shared<'a>(transfer: &'a Transfer<'_>) -> Transfer<'a> {
    match transfer {
        Transfer::Out(bytes) => Transfer::Out(bytes),
        _ => Transfer::None,
    }
}

fn call(
    fd: BorrowedFd<'_>,
    queue: Queue,
    command: &Command,
    mut data: Transfer<'_>,
    mut metadata: Transfer<'_>,
    timeout_ms: u32,
) -> io::Result<PassthroughAnswer> {
    let (addr, data_len) = place(&mut data)?;
    let (metadata_addr, metadata_len) = place(&mut metadata)?;
    let mut argument = PassthruCmd64 {
        opcode: command.opcode,
        flags: command.flags,
        nsid: command.nsid,
        cdw2: command.cdw2,
        metadata: metadata_addr,
        addr,
        metadata_len,
        data_len,
        cdw10: command.cdw10,
        timeout_ms,
        ..PassthruCmd64::default()
    };
    let opcode = if queue == Queue::Admin { ADMIN64_CMD } else { IO64_CMD };
    // SAFETY: the opcode takes the structure; the addresses in it are 0 or those of `data` and `metadata`, which are borrowed
    // until the function ends, are as long as it says, and are borrowed exclusively if the kernel writes them: it goes by
    // bit 0 of the opcode, which `execute` compared.
    let status = unsafe { ioctl(fd, Passthru { opcode, command: &mut argument }) }?;
    Ok(PassthroughAnswer { status: Status(status as u16), result: argument.result })
}

/// The kernel reads or writes a buffer by bit 0 of the opcode (Base 3.3.3.1, as `nvme_is_write`): what is borrowed must go
/// that way.
fn check_direction(opcode: u8, transfer: &Transfer<'_>) -> io::Result<()> {
    let out = opcode & 1 == 1;
    let wrong = match transfer {
        Transfer::None => false,
        Transfer::In(_) => out,
        Transfer::Out(_) => !out,
    };
    if !wrong {
        return Ok(());
    }
    let (is, way) = if out { ("set", "to") } else { ("clear", "from") };
    let text =
        format!("bit 0 of opcode {opcode:#04x} is {is}, so the kernel moves data {way} the controller");
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

/// The number of the namespace that a device is.
///
/// # Errors
/// Those of the kernel: the device is no namespace.
pub fn nsid(fd: BorrowedFd<'_>) -> io::Result<u32> {
    plain(fd, ID).map(|nsid| nsid as u32)
}

/// Resets the controller.
///
/// # Errors
/// Those of the kernel.
pub fn reset(fd: BorrowedFd<'_>) -> io::Result<()> {
    plain(fd, RESET).map(drop)
}

/// Looks for namespaces.
///
/// # Errors
/// Those of the kernel.
pub fn rescan(fd: BorrowedFd<'_>) -> io::Result<()> {
    plain(fd, RESCAN).map(drop)
}

fn plain(fd: BorrowedFd<'_>, opcode: Opcode) -> io::Result<i32> {
    // SAFETY: the opcodes above take no argument and touch no memory of ours.
    Ok(unsafe { ioctl(fd, Plain(opcode)) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers as linux/nvme_ioctl.h makes them: direction, size, 'N', number.
    #[test]
    fn the_numbers_are_the_kernels() {
        assert_eq!([ID, RESET, RESCAN], [0x4e40, 0x4e44, 0x4e46]);
        assert_eq!([ADMIN64_CMD, IO64_CMD], [0xc050_4e47, 0xc050_4e48]);
    }

    #[test]
    fn data_goes_the_way_that_the_kernel_takes_it() {
        assert!(check_direction(0x02, &Transfer::In(&mut [0])).is_ok());
        assert!(check_direction(0x02, &Transfer::Out(&[0])).is_err());
        assert!(check_direction(0x01, &Transfer::In(&mut [0])).is_err());
        assert!(check_direction(0x01, &Transfer::None).is_ok());
    }

    #[test]
    fn what_is_no_nvme_device_says_so() {
        let file = tempfile::tempfile().unwrap();
        let fd = std::os::fd::AsFd::as_fd(&file);
        let identify = Command { opcode: 6, ..Command::default() };
        let mut buffer = [0; 4096];
        let answer = execute(fd, Queue::Admin, &identify, Transfer::In(&mut buffer), Transfer::None, 1000);
        assert_eq!(answer.unwrap_err().raw_os_error(), Some(rustix::io::Errno::NOTTY.raw_os_error()));
        assert!(nsid(fd).is_err());
    }
}
