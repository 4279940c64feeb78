//! What the kernel says of its huge pages, for decisions and for error messages.
//!
//! The counters are those of /proc/meminfo, for the default huge page size (proc_meminfo(5)). They change under our
//! feet, so they explain a refusal but never predict one.

use std::fs;

use crate::error::DmaError;

const MEMINFO: &str = "/proc/meminfo";

/// The default huge page size and its counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HugePages {
    /// The default huge page size, in bytes; a power of two.
    pub page_bytes: usize,
    /// How many pages the pool holds (`HugePages_Total`, which vm.nr_hugepages sets).
    pub total_pages: usize,
    /// How many of them are in no mapping (`HugePages_Free`).
    pub free_pages: usize,
    /// How many of the free ones are promised to mappings that have not touched them yet (`HugePages_Rsvd`).
    pub reserved_pages: usize,
}

impl HugePages {
    /// Asks the kernel.
    ///
    /// # Errors
    /// [`DmaError::HugePagesUnsupported`] where /proc/meminfo cannot be read or names no huge page size.
    pub fn probe() -> Result<HugePages, DmaError> {
        let text = fs::read_to_string(MEMINFO)
            .map_err(|e| DmaError::HugePagesUnsupported { reason: format!("{MEMINFO}: {e}") })?;
        HugePages::parse(&text)
    }

    /// How many pages a new mapping can have.
    pub fn available_pages(&self) -> usize {
        self.free_pages.saturating_sub(self.reserved_pages)
    }

    fn parse(text: &str) -> Result<HugePages, DmaError> {
        let field = |name: &str| -> Option<usize> {
            let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            rest.split_whitespace().next()?.parse().ok()
        };
        let page_bytes = field("Hugepagesize").and_then(|kib| kib.checked_mul(1024));
        match page_bytes {
            Some(page_bytes) if page_bytes.is_power_of_two() => Ok(HugePages {
                page_bytes,
                total_pages: field("HugePages_Total").unwrap_or(0),
                free_pages: field("HugePages_Free").unwrap_or(0),
                reserved_pages: field("HugePages_Rsvd").unwrap_or(0),
            }),
            _ => {
                Err(DmaError::HugePagesUnsupported { reason: format!("no valid Hugepagesize in {MEMINFO}") })
            }
        }
    }

    /// The error for a mapping of `len_bytes` that was refused, with the counters as they are now.
    pub(crate) fn refusal(&self, len_bytes: usize) -> DmaError {
        let now = HugePages::probe().unwrap_or(*self);
        let needed_pages = len_bytes.div_ceil(now.page_bytes);
        let missing = needed_pages.saturating_sub(now.available_pages());
        DmaError::NoHugePages {
            needed_pages,
            page_kib: now.page_bytes / 1024,
            free_pages: now.free_pages,
            reserved_pages: now.reserved_pages,
            total_pages: now.total_pages,
            suggested_pages: now.total_pages.saturating_add(missing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "MemTotal:       24683980 kB\nAnonHugePages:         0 kB\nHugePages_Total:      10\n\
        HugePages_Free:        7\nHugePages_Rsvd:        2\nHugePages_Surp:        0\nHugepagesize:       2048 kB\n";

    #[test]
    fn meminfo_is_understood() {
        let pages = HugePages::parse(TEXT).unwrap();
        let expected = HugePages { page_bytes: 2 << 20, total_pages: 10, free_pages: 7, reserved_pages: 2 };
        assert_eq!(pages, expected);
        assert_eq!(pages.available_pages(), 5);
    }

    #[test]
    fn a_kernel_without_huge_pages_is_an_error() {
        for text in
            ["", "Hugepagesize:\n", "Hugepagesize: x kB\n", "Hugepagesize: 0 kB\n", "Hugepagesize: 3 kB\n"]
        {
            let error = HugePages::parse(text).unwrap_err();
            assert!(matches!(error, DmaError::HugePagesUnsupported { .. }), "{text:?}: {error}");
        }
    }
}
