//! The guest's first process: makes the machine ready, runs the cases that the host names, and powers off.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::mount::{MountFlags, mount};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::system::{RebootCommand, finit_module, reboot};

use super::log::{self, KernelLog};
use super::port::Port;
use super::{child, find_case};
use crate::vm::image::MODULES;
use crate::vm::protocol::{FromGuest, Outcome, ToGuest};
use crate::vm::qemu::SHELL_ARG;

/// What is mounted: kind, place, options.
const MOUNTS: [(&str, &str, &str); 7] = [
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", ""),
    ("tmpfs", "/dev/shm", ""),
    ("tmpfs", "/tmp", ""),
    ("tmpfs", "/run", ""),
    ("hugetlbfs", "/huge", ""),
];
/// The kernel unpacks the module by itself (`MODULE_INIT_COMPRESSED_FILE` of `linux/module.h`).
const COMPRESSED_FILE: i32 = 4;
/// A guest whose host forgot it ends by itself.
const MOST_SECONDS: u64 = 3600;

/// Never returns: the first process may not end.
pub fn run() -> ! {
    // Nobody could read a panic's text but on the serial line, where it is kept for failures.
    let ended = std::panic::catch_unwind(main);
    if ended.is_err() {
        eprintln_serial("init failed");
    }
    let _ = reboot(RebootCommand::PowerOff);
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

#[allow(clippy::print_stderr)] // The serial line.
fn eprintln_serial(text: &str) {
    eprintln!("{text}");
}

fn main() {
    prepare();
    std::thread::spawn(|| {
        std::thread::sleep(Duration::from_secs(MOST_SECONDS));
        let _ = reboot(RebootCommand::PowerOff);
    });
    if std::fs::read_to_string("/proc/cmdline").unwrap_or_default().contains(SHELL_ARG) {
        return shell();
    }
    let mut port = Port::open();
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    port.send(&FromGuest::Ready { kernel });
    let ToGuest::Run { cases, environment } = port.receive() else {
        panic!("the host answers, and nobody asked");
    };
    let mut kernel_log = KernelLog::open();
    for case in cases {
        port.send(&FromGuest::Begin { case: case.clone() });
        kernel_log.take();
        let mut outcome = match find_case(&case) {
            Some(found) => child::spawn(found, &environment, &mut port),
            None => Outcome::failed(format!("the guest has no case {case}")),
        };
        outcome.log = kernel_log.take();
        log::judge(&mut outcome, child::expected_stray_access());
        port.send(&FromGuest::End { case, outcome });
    }
    port.send(&FromGuest::Finished);
}

fn prepare() {
    for (kind, place, options) in MOUNTS {
        std::fs::create_dir_all(place).unwrap_or_else(|err| panic!("{place}: {err}"));
        let options = std::ffi::CString::new(options).expect("no zero byte");
        mount(kind, place, kind, MountFlags::empty(), Some(options.as_c_str()))
            .unwrap_or_else(|err| panic!("cannot mount {kind} at {place}: {err}"));
    }
    let unlimited = Rlimit { current: None, maximum: None };
    setrlimit(Resource::Memlock, unlimited).unwrap_or_else(|err| panic!("cannot raise the limit: {err}"));
    let mut modules: Vec<_> = std::fs::read_dir(Path::new("/").join(MODULES))
        .expect("a folder")
        .flatten()
        .map(|entry| entry.path())
        .collect();
    modules.sort();
    for module in modules {
        let flags = if module.extension().is_some_and(|end| end == "ko") { 0 } else { COMPRESSED_FILE };
        let file = File::open(&module).unwrap_or_else(|err| panic!("{}: {err}", module.display()));
        finit_module(&file, c"", flags)
            .unwrap_or_else(|err| panic!("cannot insert {}: {err}", module.display()));
    }
}

/// A shell at the serial line, until it ends.
fn shell() {
    let links = Command::new("/bin/busybox").args(["--install", "-s", "/bin"]).status();
    links.unwrap_or_else(|err| panic!("a shell in the guest needs busybox on the host: {err}"));
    let mut shell = Command::new("/bin/busybox");
    // Of its own session, so that the terminal's keys reach it.
    shell.args(["setsid", "cttyhack", "sh"]).env("PATH", "/bin").env("HOME", "/").env("TERM", "linux");
    let _ = shell.status();
}
