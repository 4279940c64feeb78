//! Who holds a lock on an image: for the message of a refusal, never for a decision.
//!
//! `F_OFD_GETLK` does not tell, since such a lock belongs to no process. `/proc/PID/fdinfo/FD` lists the locks of each
//! open file description (`proc_pid_fdinfo(5)`), as far as we may look.

use std::fmt;
use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The process that holds a lock, if it could be found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Holder {
    /// Another process.
    Process {
        /// Its process id.
        pid: u32,
        /// Its short name, empty if it could not be read.
        name: String,
    },
    /// This very process, through another opening.
    Ourselves,
    /// It could not be found: other users' processes are hidden, or it is in another container or host.
    Unknown,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Process { pid, name } => write!(f, "process {pid} ({name})"),
            Holder::Ourselves => f.write_str("this process itself, through another opening,"),
            Holder::Unknown => f.write_str("another program"),
        }
    }
}

/// Finds who else holds a lock on `byte` of the file behind `fd`.
pub fn describe(fd: BorrowedFd<'_>, byte: i64) -> Holder {
    find(fd, byte).unwrap_or(Holder::Unknown)
}

fn find(fd: BorrowedFd<'_>, byte: i64) -> Option<Holder> {
    let stat = rustix::fs::fstat(fd).ok()?;
    let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
    let file = format!("{major:02x}:{minor:02x}:{}", stat.st_ino);
    let ours = std::process::id();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(descriptors) = fs::read_dir(entry.path().join("fdinfo")) else { continue };
        for descriptor in descriptors.flatten() {
            if pid == ours && descriptor.file_name().to_str() == Some(fd.as_raw_fd().to_string().as_str()) {
                continue;
            }
            let Ok(info) = fs::read_to_string(descriptor.path()) else { continue };
            if info.lines().any(|line| locks_byte(line, &file, byte)) {
                return Some(if pid == ours { Holder::Ourselves } else { process(pid) });
            }
        }
    }
    None
}

fn process(pid: u32) -> Holder {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Holder::Process { pid, name: name.trim().to_owned() }
}

/// Whether a line of `fdinfo` is a lock on `byte` of `file` (`major:minor:inode`). The form is
/// `lock: 1: OFDLCK ADVISORY READ -1 fe:00:1234 100 101`, the range inclusive, its end possibly `EOF`.
fn locks_byte(line: &str, file: &str, byte: i64) -> bool {
    let mut words = line.split_ascii_whitespace();
    if words.next() != Some("lock:") {
        return false;
    }
    let mut words = words.skip_while(|word| *word != file).skip(1);
    let (Some(start), Some(end)) = (words.next(), words.next()) else { return false };
    let Ok(start) = start.parse::<i64>() else { return false };
    let end = end.parse::<i64>().unwrap_or(i64::MAX);
    (start..=end).contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_line_is_read() {
        let line = "lock:\t1: OFDLCK  ADVISORY  READ -1 fe:00:10011134 100 101";
        assert!(locks_byte(line, "fe:00:10011134", 100));
        assert!(locks_byte(line, "fe:00:10011134", 101));
        assert!(!locks_byte(line, "fe:00:10011134", 102));
        assert!(!locks_byte(line, "fe:00:1001113", 100));
        assert!(locks_byte("lock:\t2: POSIX ADVISORY WRITE 7 00:06:94 0 EOF", "00:06:94", 201));
        assert!(!locks_byte("pos:\t0", "00:06:94", 0));
        assert!(!locks_byte("lock:\t1: OFDLCK ADVISORY READ -1 00:06:94 x 5", "00:06:94", 0));
    }
}
