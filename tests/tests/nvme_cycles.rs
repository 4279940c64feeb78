//! Opening, using, resetting and closing a controller over vfio-user again and again leaves nothing behind: no descriptor, no
//! memory mapping, no pinned or locked page, no I/O mapping in the server, and no memory to speak of.
//!
//! `CORELANE_CYCLES` says how often (300 unless told otherwise).

use std::path::Path;
use std::sync::Arc;
use std::thread;

use corelane_dma::{Backing, DmaBuffer, IoBuf};
use corelane_drivers::nvme::bus::Bus;
use corelane_drivers::nvme::bus::vfio_user::{VfioUserBus, VfioUserOptions};
use corelane_drivers::nvme::spec::Nsid;
use corelane_drivers::nvme::{ControllerOptions, NvmeController, NvmeDriver, NvmeOptions, Polling};
use corelane_engine::aio::{AioConfig, AioContext};
use corelane_engine::block::{BackendOptions, BlockBackend};
use corelane_nvme_model::server::{Server, ServerOptions};
use corelane_nvme_model::{Device, Model, ModelConfig, NamespaceConfig};

/// Cycles before the first look, in which pools, arenas and caches get their size.
const WARM_UP: u64 = 50;
/// What may have been added to the memory in use, in KiB.
const MOST_GROWTH_KIB: u64 = 1024;
/// 128 KiB: more than what is copied, so that the memory is mapped for the request.
const LARGE_BYTES: usize = 128 << 10;

/// What a process holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Holdings {
    descriptors: usize,
    mappings: usize,
    locked_kib: u64,
    pinned_kib: u64,
    resident_kib: u64,
}

impl Holdings {
    fn now() -> Holdings {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_matches([':', '\t', ' ', 'k', 'B']).parse().unwrap()
        };
        Holdings {
            descriptors: std::fs::read_dir("/proc/self/fd").unwrap().count(),
            mappings: mappings(&std::fs::read_to_string("/proc/self/maps").unwrap()),
            locked_kib: kib("VmLck"),
            pinned_kib: kib("VmPin"),
            resident_kib: kib("VmRSS"),
        }
    }

    /// Whether no more is held than `before`.
    fn is_no_more_than(&self, before: &Holdings) -> bool {
        self.descriptors <= before.descriptors
            && self.locked_kib <= before.locked_kib
            && self.pinned_kib <= before.pinned_kib
            // The allocator may split or join one of its own.
            && self.mappings <= before.mappings + 2
            && self.resident_kib < before.resident_kib + MOST_GROWTH_KIB
    }
}

/// How many mappings there are but for the allocator's arenas: it makes another whenever more threads than before allocate at
/// the same time, which is chance, and keeps it. One is 64 MiB of anonymous memory, aligned to its size, of which the first
/// part can be written.
fn mappings(maps: &str) -> usize {
    const ARENA_BYTES: u64 = 64 << 20;
    let mut in_arena = 0..0;
    let is_other = |line: &&str| {
        let mut words = line.split_whitespace();
        let (range, access) = (words.next().unwrap(), words.next().unwrap());
        let start = u64::from_str_radix(range.split('-').next().unwrap(), 16).unwrap();
        let anonymous = words.count() == 3;
        if anonymous && access == "rw-p" && start.is_multiple_of(ARENA_BYTES) {
            in_arena = start..start + ARENA_BYTES;
        }
        !(anonymous && in_arena.contains(&start))
    };
    maps.lines().filter(is_other).count()
}

#[test]
fn arenas_are_no_mappings_of_ours() {
    let maps = "5500-5600 r-xp 0 fe:00 12 /bin/x\n\
                7f0fec021000-7f0fec022000 rw-p 00000000 00:00 0 \n\
                7f0ff4000000-7f0ff4021000 rw-p 00000000 00:00 0 \n\
                7f0ff4021000-7f0ff8000000 ---p 00000000 00:00 0 \n\
                7f0ff8000000-7f0ff8001000 rw-s 00000000 00:01 9 /memfd:x\n\
                7f0ff9000000-7f0ff9001000 ---p 00000000 00:00 0 [x]\n";
    assert_eq!(mappings(maps), 4);
}

fn cycle(socket: &Path, poll: Polling, number: u64) {
    let bus: Arc<dyn Bus> = Arc::new(VfioUserBus::open(socket, &VfioUserOptions::default()).unwrap());
    let controller = NvmeController::start(Arc::clone(&bus), &ControllerOptions::default()).unwrap();
    let options = NvmeOptions { poll, ..NvmeOptions::default() };
    let driver = NvmeDriver::open(&controller, Nsid(1), &options).unwrap();
    let backend = BlockBackend::new(Arc::new(driver), BackendOptions::default()).unwrap();
    let ctx = AioContext::new(&AioConfig::default()).unwrap();
    let channel = backend.channel(&ctx, 8).unwrap();
    let byte = number as u8 | 1;
    ctx.block_on(async {
        for bytes in [4096, LARGE_BYTES] {
            let mut buf = IoBuf::from(DmaBuffer::new(bytes, 4096, Backing::Pages).unwrap());
            buf.fill(0, bytes, byte).unwrap();
            let (result, mut buf) = channel.write_at(0, buf).await;
            result.unwrap();
            buf.fill(0, bytes, 0).unwrap();
            let (result, buf) = channel.read_at(0, buf).await;
            result.unwrap();
            assert!(buf.as_slice().unwrap().iter().all(|found| *found == byte));
        }
    });
    drop(channel);
    ctx.shutdown();
    drop(ctx);
    bus.reset().unwrap();
    drop((backend, controller, bus));
}

#[test]
#[allow(clippy::print_stdout)] // For whoever runs it for long.
fn cycles_leave_nothing_behind() {
    let model = Arc::new(Model::new(ModelConfig::new(vec![NamespaceConfig::ram(1 << 20)])).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("cntrl");
    let mut server = Server::bind(&socket, Arc::<Model>::clone(&model), ServerOptions::default()).unwrap();
    let stopper = server.stopper();
    let serving = thread::spawn(move || server.run().unwrap());
    let cycles = std::env::var("CORELANE_CYCLES").map_or(300, |text| {
        text.parse().unwrap_or_else(|_| panic!("CORELANE_CYCLES is '{text}', but must be a number"))
    });
    let mut before = None;
    for number in 0..WARM_UP + cycles {
        let poll = [Polling::On, Polling::Off, Polling::Adaptive][number as usize % 3];
        cycle(&socket, poll, number);
        if number + 1 == WARM_UP {
            before = Some(settled(&model, |_| true));
        }
    }
    let before = before.unwrap();
    let after = settled(&model, |now| now.is_no_more_than(&before));
    println!("after {cycles} cycles: {after:?}, before: {before:?}");
    assert!(after.is_no_more_than(&before), "after {cycles} cycles {after:?}, before {before:?}");
    assert_eq!(model.take_violations(), []);
    stopper.stop();
    serving.join().unwrap();
}

/// What is held when the server has noticed that its client is gone, and let go of what was the client's: when the holdings
/// have been the same, and `good`, for a while. What they are in the end if that does not come.
fn settled(model: &Model, good: impl Fn(&Holdings) -> bool) -> Holdings {
    let (mut last, mut same) = (Holdings::now(), 0);
    for _ in 0..1000 {
        thread::sleep(std::time::Duration::from_millis(10));
        let now = Holdings::now();
        same = if now == last && good(&now) { same + 1 } else { 0 };
        last = now;
        if same == 30 {
            break;
        }
    }
    assert_eq!(model.dma_unmap(0, u64::MAX).unwrap(), 0, "I/O mappings are left");
    last
}
