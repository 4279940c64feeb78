//! QEMU as a child process: its command line, and the two ends of the virtio-serial port.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::protocol::{FromGuest, PORT, ToGuest};
use super::{Machine, System};

/// On the kernel's command line: the guest gives a shell and runs no cases.
pub const SHELL_ARG: &str = "corelane.shell";

/// Files of one boot.
#[derive(Debug)]
pub struct Files {
    /// The disks' folder.
    pub disks: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// Where the serial line goes: the kernel's messages.
    pub serial: PathBuf,
    /// Where QEMU's own complaints go.
    pub complaints: PathBuf,
}

impl Files {
    /// Names for them in `folder`.
    pub fn within(folder: &Path) -> Files {
        let at = |name: &str| folder.join(name);
        Files {
            disks: folder.to_owned(),
            initramfs: at("initramfs"),
            serial: at("serial.log"),
            complaints: at("qemu.log"),
        }
    }
}

/// The command that boots a machine, up to where its serial line and its port go. The sockets of its servers are in the folder
/// `sockets`; `more_args` are for the guest's kernel.
fn command(
    system: &System,
    machine: &Machine,
    files: &Files,
    sockets: &Path,
    more_args: &str,
) -> io::Result<Command> {
    let mut qemu = system.qemu_for(machine)?;
    let Machine { kernel_args, huge_pages, .. } = machine;
    let accelerator = std::env::var("CORELANE_VM_ACCEL").unwrap_or_else(|_| "tcg".to_owned());
    qemu.args([
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-cpu",
        "max",
        "-smp",
        "2",
    ])
    .arg("-machine")
    // The IOMMU's interrupt remapping needs the split irqchip where KVM is used.
    .arg(format!("q35,accel={accelerator},kernel-irqchip=split,memory-backend=ram"))
    .args(machine.memory_args())
    .arg("-kernel")
    .arg(&system.kernel)
    .arg("-initrd")
    .arg(&files.initramfs)
    .arg("-append")
    // The kernel looks whether its timer ticks, and panics if not; a busy host may have no time for QEMU meanwhile.
    .arg(format!(
        "console=ttyS0 quiet panic=-1 no_timer_check intel_iommu=on iommu=pt hugepages={huge_pages} \
             nvme_core.multipath=N {kernel_args} {more_args}"
    ))
    .args(machine.device_args(&files.disks, sockets))
    .args(std::env::var("CORELANE_VM_ARGS").unwrap_or_default().split_whitespace());
    Ok(qemu)
}

/// The command that boots a machine to a shell at the terminal. Ctrl-a x ends it.
///
/// # Errors
/// When there is no QEMU for it.
pub fn shell_command(
    system: &System,
    machine: &Machine,
    files: &Files,
    sockets: &Path,
) -> io::Result<Command> {
    let mut qemu = command(system, machine, files, sockets, SHELL_ARG)?;
    qemu.args(["-serial", "mon:stdio"]);
    Ok(qemu)
}

/// Makes the disks' files anew, all zeroes.
///
/// # Errors
/// When the file system refuses.
pub fn make_disks(machine: &Machine, files: &Files) -> io::Result<()> {
    for (name, len_bytes) in machine.files() {
        File::create(files.disks.join(name))?.set_len(len_bytes)?;
    }
    Ok(())
}

/// A running QEMU. Dropping it ends it.
pub struct Qemu {
    child: Child,
    orders: ChildStdin,
    events: Receiver<FromGuest>,
}

/// Why no event came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Silence {
    /// The time is over.
    Timeout,
    /// QEMU has ended.
    Ended,
}

impl Qemu {
    /// Starts it. The sockets of its servers are in the folder `sockets`, and its own is made there.
    ///
    /// # Errors
    /// When the disks' files cannot be made or the program cannot be started.
    pub fn start(system: &System, machine: &Machine, files: &Files, sockets: &Path) -> io::Result<Qemu> {
        make_disks(machine, files)?;
        let control = Qemu::control_socket(sockets);
        let mut child = command(system, machine, files, sockets, "")?
            .args(["-qmp", &format!("unix:{},server=on,wait=off", control.display())])
            .args(["-serial", &format!("file:{}", files.serial.display())])
            .args(["-device", "virtio-serial-pci,addr=0x2", "-chardev", "stdio,id=port,signal=off"])
            .args(["-device", &format!("virtserialport,chardev=port,name={PORT}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&files.complaints)?)
            .spawn()?;
        let (Some(orders), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            unreachable!("both are pipes");
        };
        let (sender, events) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // What is no event came with a broken line when the guest went down; the host then misses the end.
                let Ok(event) = serde_json::from_str(&line) else { continue };
                if sender.send(event).is_err() {
                    break;
                }
            }
        });
        Ok(Qemu { child, orders, events })
    }

    /// The socket of its control channel, for [`Qmp`](super::qmp::Qmp).
    pub fn control_socket(sockets: &Path) -> PathBuf {
        sockets.join("qmp")
    }

    /// Tells the guest.
    ///
    /// # Errors
    /// When QEMU has gone.
    pub fn order(&mut self, order: &ToGuest) -> io::Result<()> {
        let line = serde_json::to_string(order).map_err(io::Error::other)?;
        writeln!(self.orders, "{line}")
    }

    /// What the guest says next.
    ///
    /// # Errors
    /// When it says nothing for `limit`, or QEMU has ended.
    pub fn next(&self, limit: Duration) -> Result<FromGuest, Silence> {
        use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
        self.events.recv_timeout(limit).map_err(|err| match err {
            Timeout => Silence::Timeout,
            Disconnected => Silence::Ended,
        })
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // It may have ended by itself; either way there is nothing more to do with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
