//! The guest kernel's log, piece by piece, and the IOMMU's complaints in it.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;

use crate::vm::protocol::Outcome;

/// `O_NONBLOCK` of x86-64 Linux.
const O_NONBLOCK: i32 = 0o4000;
/// A record is never longer (`Documentation/ABI/testing/dev-kmsg` of Linux gives the format; the kernel cuts at 8 KiB).
const RECORD_BYTES: usize = 8192;

/// The log from here on.
pub struct KernelLog {
    file: File,
}

impl KernelLog {
    /// Opens it.
    ///
    /// # Panics
    /// When that fails, as it does without root's rights.
    pub fn open() -> KernelLog {
        let file = File::options().read(true).custom_flags(O_NONBLOCK).open("/dev/kmsg");
        KernelLog { file: file.expect("/dev/kmsg opens") }
    }

    /// What was logged since the last time: a line for each message.
    pub fn take(&mut self) -> String {
        let mut text = String::new();
        let mut record = [0; RECORD_BYTES];
        loop {
            match self.file.read(&mut record) {
                Ok(len) => {
                    let record = String::from_utf8_lossy(&record[..len]);
                    text.push_str(message(&record));
                    text.push('\n');
                }
                // Old records were overwritten: go on with the oldest.
                Err(err) if err.kind() == ErrorKind::BrokenPipe => {}
                Err(_) => return text,
            }
        }
    }
}

/// Judges a case by what was logged meanwhile. The IOMMU reports an access that it did not allow; QEMU's devices do not see that:
/// their command completes with success. A case that expects one has failed without.
pub fn judge(outcome: &mut Outcome, expects_stray: bool) {
    let text = match outcome.log.lines().find(|line| is_fault(line)) {
        Some(fault) if !expects_stray => format!("the IOMMU caught a device: {fault}"),
        None if expects_stray => "a device went astray, and no line of the IOMMU tells of it".to_owned(),
        _ => return,
    };
    outcome.reason = if outcome.passed { text } else { format!("{}; {text}", outcome.reason) };
    outcome.passed = false;
}

/// The first line of a record `level,number,time,flags;message`, without what stands before it.
fn message(record: &str) -> &str {
    let message = record.split_once(';').map_or(record, |(_, message)| message);
    message.lines().next().unwrap_or_default()
}

fn is_fault(line: &str) -> bool {
    line.contains("DMAR:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_cut_to_its_message() {
        assert_eq!(message("6,339,5140900,-;NET: Registered\n SUBSYSTEM=net\n"), "NET: Registered");
        assert_eq!(message("odd"), "odd");
    }

    #[test]
    fn a_fault_is_known() {
        assert!(is_fault(
            "DMAR: [DMA Write NO_PASID] Request device [00:04.0] fault addr 0x1000 [fault reason 0x05]"
        ));
        assert!(!is_fault("vfio-pci 0000:00:04.0: enabling device"));
    }

    #[test]
    fn a_fault_fails_a_case_that_expects_none_and_only_that() {
        let fault = "DMAR: [DMA Read NO_PASID] Request device [00:04.0] fault addr 0x1000";
        for (log, expected, passed) in
            [("", false, true), (fault, false, false), ("all is well", true, false), (fault, true, true)]
        {
            let mut outcome = Outcome { passed: true, log: log.to_owned(), ..Outcome::failed("") };
            judge(&mut outcome, expected);
            assert_eq!(outcome.passed, passed, "{outcome:?}");
            let mut outcome = Outcome { log: log.to_owned(), ..Outcome::failed("it panicked") };
            judge(&mut outcome, expected);
            assert!(!outcome.passed && outcome.reason.starts_with("it panicked"), "{outcome:?}");
        }
    }
}
