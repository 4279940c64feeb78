//! Huge pages for real: what they give, how a refusal reads, and the fall-back.
//!
//! A test that needs huge pages raises vm.nr_hugepages for its duration, one test at a time on the whole machine, and puts
//! the old value back. Where that is not possible (no root, no memory) it prints `SKIPPED: huge page: reason`.

use std::fs::{self, File};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use corelane_dma::{Arena, Backing, BlockPool, DmaBuffer, DmaError, HugePages, IoBuf, MemRegion, Payload};
use rustix::fs::{FlockOperation, flock};

const SYSCTL: &str = "/proc/sys/vm/nr_hugepages";

/// What other tests of this machine may take meanwhile.
const SPARE_PAGES: usize = 16;

/// The machine's huge pages, for this test alone, with some more of them.
struct Lent {
    /// What to put back, if anything was changed.
    old: Option<String>,
    /// Held until the old value is back.
    _lock: File,
}

impl Lent {
    fn lock() -> Result<File, String> {
        let path = std::env::temp_dir().join("corelane-nr-hugepages.lock");
        let lock = File::create(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(lock)
    }

    /// At least `pages` free huge pages.
    fn pages(pages: usize) -> Result<Lent, String> {
        let lock = Lent::lock()?;
        let before = HugePages::probe().map_err(|e| e.to_string())?;
        let (needed, pages) = (pages, pages + SPARE_PAGES);
        if before.available_pages() >= pages {
            return Ok(Lent { old: None, _lock: lock });
        }
        let old = fs::read_to_string(SYSCTL).map_err(|e| format!("{SYSCTL}: {e}"))?;
        let wanted = before.total_pages + pages - before.available_pages();
        fs::write(SYSCTL, wanted.to_string()).map_err(|e| format!("{SYSCTL}: {e}"))?;
        let lent = Lent { old: Some(old), _lock: lock };
        let now = HugePages::probe().map_err(|e| e.to_string())?;
        if now.available_pages() < needed {
            return Err(format!(
                "the kernel made only {} of {needed} huge pages free",
                now.available_pages()
            ));
        }
        Ok(lent)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(old) = &self.old {
            fs::write(SYSCTL, old).expect("the value was written before, and is the one that was read");
        }
    }
}

/// Runs a test with at least `pages` free huge pages, unless they cannot be had or another process of this machine takes
/// them first.
fn with_pages(pages: usize, test: impl FnOnce(usize) -> Result<(), DmaError>) {
    let _lent = match Lent::pages(pages) {
        Ok(lent) => lent,
        Err(reason) => return skipped(&reason),
    };
    match test(HugePages::probe().unwrap().page_bytes) {
        Ok(()) => {}
        Err(reason @ DmaError::NoHugePages { .. }) => skipped(&reason.to_string()),
        Err(error) => panic!("{error}"),
    }
}

#[allow(clippy::print_stdout)] // It is how a test says that it was skipped.
fn skipped(reason: &str) {
    println!("SKIPPED: huge page: {reason}");
}

/// A buffer of huge pages; the error is only ever that there are none.
fn huge(len_bytes: usize, backing: Backing) -> Result<DmaBuffer, DmaError> {
    let buffer = DmaBuffer::new(len_bytes, 4096, backing);
    assert!(matches!(buffer, Ok(_) | Err(DmaError::NoHugePages { .. })), "{buffer:?}");
    buffer
}

/// The page size of the mapping that starts at `addr`, as the kernel tells it (proc_pid_smaps(5)).
fn kernel_page_bytes(addr: usize) -> usize {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&format!("{addr:x}-")));
    let size = lines.find_map(|line| line.strip_prefix("KernelPageSize:")).unwrap();
    size.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
fn huge_buffers_are_huge_zeroed_and_aligned() {
    with_pages(4, |page_bytes| {
        for backing in [Backing::HugePages, Backing::MemfdHuge] {
            let len = page_bytes + 1;
            let mut buffer = huge(len, backing)?;
            assert_eq!((buffer.len(), buffer.page_bytes(), buffer.backing()), (len, page_bytes, backing));
            assert_eq!(buffer.addr() % page_bytes, 0);
            assert_eq!(kernel_page_bytes(buffer.addr()), page_bytes);
            assert!(buffer.fallback_reason().is_none());
            let mut bytes = vec![1; len];
            buffer.copy_to(0, &mut bytes)?;
            assert!(bytes.iter().all(|&b| b == 0));
            buffer.copy_from(len - 3, b"end")?;
            assert_eq!(buffer.as_slice().is_some(), backing == Backing::HugePages);
            assert_eq!(buffer.fd().is_some(), backing == Backing::MemfdHuge);
            if let Some(fd) = buffer.fd() {
                let mut end = [0; 3];
                rustix::io::pread(fd, &mut end, len as u64 - 3).unwrap();
                assert_eq!(&end, b"end");
            }
        }
        Ok(())
    });
}

#[test]
fn huge_pages_are_given_back() {
    with_pages(2, |page_bytes| {
        // Far more in sum than there is, if one were kept.
        for i in 0..200 {
            let backing = if i % 2 == 0 { Backing::HugePages } else { Backing::MemfdHuge };
            huge(page_bytes, backing)?.copy_from(0, &[1])?;
        }
        Ok(())
    });
}

#[test]
fn an_alignment_above_the_huge_page_size_is_refused() {
    with_pages(1, |page_bytes| {
        let align = page_bytes * 2;
        for backing in [Backing::HugePages, Backing::MemfdHuge] {
            let error = DmaBuffer::new(4096, align, backing).unwrap_err();
            assert!(
                matches!(error, DmaError::BadAlignment { align_bytes, .. } if align_bytes == align),
                "{error}"
            );
        }
        Ok(())
    });
}

#[test]
fn a_pool_cuts_huge_pages_into_blocks() {
    with_pages(1, |page_bytes| {
        let pool = BlockPool::new(4096, page_bytes / 4096, 4096, Backing::HugePages)?;
        let blocks: Vec<IoBuf> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!((blocks.len(), pool.backing()), (page_bytes / 4096, Backing::HugePages));
        Ok(())
    });
}

#[test]
fn an_arena_of_huge_pages_zeroes_and_keeps_them() {
    with_pages(4, |page_bytes| {
        let region = Rc::new(MemRegion::from_buffer(huge(page_bytes, Backing::MemfdHuge)?));
        let mut whole = Payload::from(IoBuf::lease(&region, 0, page_bytes)?);
        for backing in [Backing::HugePages, Backing::MemfdHuge] {
            let arena = Arena::new(page_bytes + 100, backing)?;
            whole.fill(0, page_bytes, 7)?;
            arena.write_from(0, &whole)?;
            arena.write_from(100, &whole)?;
            arena.discard(1, page_bytes as u64 - 2)?;
            arena.read_into(0, &mut whole)?;
            let mut bytes = vec![1; page_bytes];
            whole.copy_to(0, &mut bytes)?;
            assert_eq!((bytes[0], bytes[page_bytes - 1]), (7, 7), "{backing:?}");
            assert!(bytes[1..page_bytes - 1].iter().all(|&b| b == 0), "{backing:?}");

            arena.zero(0, page_bytes as u64)?;
            arena.read_into(50, &mut whole)?;
            whole.copy_to(0, &mut bytes)?;
            assert!(bytes[..page_bytes - 50].iter().all(|&b| b == 0), "{backing:?}");
            assert!(bytes[page_bytes - 50..].iter().all(|&b| b == 7), "{backing:?}");
        }
        Ok(())
    });
}

#[test]
fn a_refusal_names_the_counters_and_the_command() {
    let Ok(pages) = HugePages::probe() else { return skipped("the kernel has no huge pages") };
    // More than any machine has, but not more than an address space.
    let needed = (1usize << 44) / pages.page_bytes;
    for backing in [Backing::HugePages, Backing::MemfdHuge] {
        let error = DmaBuffer::new(1 << 44, 4096, backing).unwrap_err();
        let text = error.to_string();
        let DmaError::NoHugePages {
            needed_pages,
            page_kib,
            free_pages,
            reserved_pages,
            total_pages,
            suggested_pages,
        } = error
        else {
            panic!("{text}")
        };
        assert_eq!((needed_pages, page_kib), (needed, pages.page_bytes / 1024));
        assert_eq!(suggested_pages, total_pages + needed - (free_pages - reserved_pages));
        let counters = format!("vm.nr_hugepages gives {free_pages} free of {total_pages}");
        let command = format!("`sysctl -w vm.nr_hugepages={suggested_pages}`");
        assert!(text.contains(&counters) && text.contains(&command), "{text}");
    }
}

/// Counts what is logged at the level of a warning.
struct Warnings(Arc<AtomicUsize>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn the_fall_back_works_says_why_and_warns_once() {
    let _lock = match Lent::lock() {
        Ok(lock) => lock,
        Err(reason) => return skipped(&reason),
    };
    let overcommit = fs::read_to_string("/proc/sys/vm/nr_overcommit_hugepages").unwrap_or_default();
    let pages = match HugePages::probe() {
        Ok(pages) if overcommit.trim() == "0" => pages,
        _ => return skipped("the kernel has no huge pages, or makes them as they are needed"),
    };
    // More than there are, so that it does not matter who takes or gives back some meanwhile.
    let len = (pages.total_pages + 1) * pages.page_bytes;
    let cases = [
        (Backing::HugePages, Backing::Pages),
        (Backing::MemfdHuge, Backing::Memfd),
        (Backing::Pages, Backing::Pages),
    ];
    // No other test of this file falls back, so that the process's only warning is due here.
    let warnings = Arc::new(AtomicUsize::new(0));
    tracing::subscriber::with_default(Warnings(Arc::clone(&warnings)), || {
        for (wanted, got) in cases {
            let buffer = DmaBuffer::new_or_fallback(len, 4096, wanted).unwrap();
            assert_eq!(buffer.backing(), got);
            let reason = buffer.fallback_reason();
            assert_eq!(matches!(reason, Some(DmaError::NoHugePages { .. })), wanted.is_huge(), "{reason:?}");
        }
        let pool = BlockPool::new_or_fallback(len, 1, 4096, Backing::HugePages).unwrap();
        assert_eq!(pool.backing(), Backing::Pages);
        assert!(pool.fallback_reason().is_some() && pool.take().is_some());
        let align = pages.page_bytes * 2;
        let buffer = DmaBuffer::new_or_fallback(4096, align, Backing::HugePages).unwrap();
        assert!(matches!(buffer.fallback_reason(), Some(DmaError::BadAlignment { .. })));
        assert_eq!(buffer.addr() % align, 0);
    });
    assert_eq!(warnings.load(Ordering::Relaxed), 1);
    let impossible = DmaBuffer::new_or_fallback(0, 4096, Backing::HugePages).unwrap_err();
    assert!(matches!(impossible, DmaError::BadLength { .. }));
}
