//! `corelane device hugepages`: how many huge pages there are, on each NUMA node, and changing that.
//!
//! The counters are those of `/sys/kernel/mm/hugepages` and `/sys/devices/system/node/nodeN/hugepages`
//! (Documentation/admin-guide/mm/hugetlbpage.rst of the kernel).

use std::path::PathBuf;

use serde::Serialize;

use super::DeviceError;
use super::host::{Host, names, number};

/// The pages of one size, of one node or of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Pool {
    /// The NUMA node; `None` for the whole machine.
    pub node: Option<u32>,
    /// The size of a page, in KiB.
    pub page_kib: u64,
    /// How many pages there are.
    pub total: u64,
    /// How many of them are in no mapping.
    pub free: u64,
    /// How many of the free ones are promised; only the machine's pool says.
    pub reserved: u64,
}

/// All pools: the machine's first, then those of each node.
pub fn show(host: &Host) -> Vec<Pool> {
    let mut nodes: Vec<u32> = names(host.sys("devices/system/node"))
        .iter()
        .filter_map(|name| name.strip_prefix("node")?.parse().ok())
        .collect();
    nodes.sort_unstable();
    let of = |node| {
        let sizes = names(folder(host, node)).into_iter();
        let sizes =
            sizes.filter_map(|name| name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok());
        let mut sizes: Vec<u64> = sizes.collect();
        sizes.sort_unstable();
        sizes.into_iter().filter_map(|page_kib| pool(host, node, page_kib).ok()).collect::<Vec<_>>()
    };
    [None].into_iter().chain(nodes.into_iter().map(Some)).flat_map(of).collect()
}

fn folder(host: &Host, node: Option<u32>) -> PathBuf {
    match node {
        None => host.sys("kernel/mm/hugepages"),
        Some(node) => host.sys("devices/system/node").join(format!("node{node}")).join("hugepages"),
    }
}

/// The pool of one size.
///
/// # Errors
/// [`DeviceError::NoPool`] where there is no such node or size.
pub fn pool(host: &Host, node: Option<u32>, page_kib: u64) -> Result<Pool, DeviceError> {
    let path = folder(host, node).join(format!("hugepages-{page_kib}kB"));
    let count = |name: &str| number::<u64>(path.join(name));
    let (Some(total), Some(free)) = (count("nr_hugepages"), count("free_hugepages")) else {
        return Err(DeviceError::NoPool { path });
    };
    Ok(Pool { node, page_kib, total, free, reserved: count("resv_hugepages").unwrap_or(0) })
}

/// Reserves `pages` more pages.
///
/// # Errors
/// [`DeviceError::NoPool`], [`DeviceError::Write`], and [`DeviceError::TooFew`] where the kernel found fewer: those stay.
pub fn reserve(host: &Host, before: Pool, pages: u64) -> Result<Pool, DeviceError> {
    let wanted = before.total.saturating_add(pages);
    let now = set(host, before, wanted)?;
    if now.total < wanted {
        let got = now.total.saturating_sub(before.total);
        return Err(DeviceError::TooFew { wanted: pages, got, page_kib: before.page_kib });
    }
    Ok(now)
}

/// Gives back `pages` pages, or all that nobody uses.
///
/// # Errors
/// [`DeviceError::NoPool`], [`DeviceError::Write`], and [`DeviceError::NotFree`] where more are asked for than are free.
pub fn give_back(host: &Host, before: Pool, pages: Option<u64>) -> Result<Pool, DeviceError> {
    let free = before.free.saturating_sub(before.reserved);
    let pages = pages.unwrap_or(free);
    if pages > free {
        return Err(DeviceError::NotFree { wanted: pages, free });
    }
    set(host, before, before.total.saturating_sub(pages))
}

fn set(host: &Host, pool: Pool, total: u64) -> Result<Pool, DeviceError> {
    let path = folder(host, pool.node).join(format!("hugepages-{}kB/nr_hugepages", pool.page_kib));
    host.tell(&path, &total.to_string())?;
    self::pool(host, pool.node, pool.page_kib)
}

/// How much to reserve: a number of pages, or of bytes as `512M`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Amount {
    /// So many pages.
    Pages(u64),
    /// As many as hold so many bytes.
    Bytes(u64),
}

impl Amount {
    /// In pages.
    pub fn pages(self, page_kib: u64) -> u64 {
        match self {
            Amount::Pages(pages) => pages,
            Amount::Bytes(bytes) => bytes.div_ceil(page_kib.saturating_mul(1024).max(1)),
        }
    }
}

impl std::str::FromStr for Amount {
    type Err = String;

    /// Reads `128`, `512M`, `1G`.
    fn from_str(text: &str) -> Result<Amount, String> {
        let bad = || format!("'{text}' is neither a number of pages nor a size such as 512M or 1G");
        let shift = match text.bytes().last().map(|unit| unit.to_ascii_uppercase()) {
            Some(b'K') => 10,
            Some(b'M') => 20,
            Some(b'G') => 30,
            _ => return text.parse().map(Amount::Pages).map_err(|_| bad()),
        };
        let number: u64 = text[..text.len() - 1].parse().map_err(|_| bad())?;
        number.checked_mul(1 << shift).map(Amount::Bytes).ok_or_else(bad)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io;
    use std::path::Path;

    use super::*;

    /// A machine with two nodes. Its kernel finds at most 100 pages.
    fn machine(root: &Path) -> Host {
        for folder in ["kernel/mm", "devices/system/node/node0", "devices/system/node/node1"] {
            let folder = root.join("sys").join(folder).join("hugepages/hugepages-2048kB");
            fs::create_dir_all(&folder).unwrap();
            for (name, value) in
                [("nr_hugepages", "10\n"), ("free_hugepages", "8\n"), ("resv_hugepages", "3\n")]
            {
                fs::write(folder.join(name), value).unwrap();
            }
        }
        let write = |path: &Path, text: &str| -> io::Result<()> {
            let wanted: u64 = text.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
            fs::write(path, wanted.min(100).to_string())
        };
        Host::made_up(root, Box::new(write))
    }

    #[test]
    fn pages_are_added_to_those_that_there_are_on_the_node_that_is_meant() {
        let folder = tempfile::tempdir().unwrap();
        let host = machine(folder.path());
        let nodes: Vec<_> = show(&host).iter().map(|pool| (pool.node, pool.total)).collect();
        assert_eq!(nodes, [(None, 10), (Some(0), 10), (Some(1), 10)]);
        let node = pool(&host, Some(1), 2048).unwrap();
        assert_eq!(reserve(&host, node, 6).unwrap().total, 16);
        assert_eq!(pool(&host, None, 2048).unwrap().total, 10);
        assert!(pool(&host, Some(2), 2048).unwrap_err().to_string().contains("node2"));
        assert!(pool(&host, None, 1 << 20).is_err());
    }

    #[test]
    fn what_the_kernel_does_not_find_and_what_is_not_free_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let host = machine(folder.path());
        let before = pool(&host, None, 2048).unwrap();
        let error = reserve(&host, before, 200).unwrap_err().to_string();
        assert!(error.contains("90 of 200"), "{error}");
        let error = give_back(&host, before, Some(6)).unwrap_err().to_string();
        assert!(error.contains('5'), "{error}");
        assert_eq!(give_back(&host, before, None).unwrap().total, 5);
    }

    #[test]
    fn amounts_are_pages_or_bytes() {
        assert_eq!("128".parse(), Ok(Amount::Pages(128)));
        assert_eq!("3M".parse::<Amount>().map(|amount| amount.pages(2048)), Ok(2));
        assert_eq!("1g".parse::<Amount>().map(|amount| amount.pages(2048)), Ok(512));
        for bad in ["", "M", "-1", "1T", "99999999999G", "ä"] {
            assert!(bad.parse::<Amount>().is_err(), "{bad}");
        }
    }
}
