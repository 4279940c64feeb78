//! Registered memory: a large region, regions as a virtual machine's memory has them, and what is there before a controller is;
//! and what happens when the kernel takes no further mapping.

use std::rc::Rc;
use std::sync::Arc;

use corelane_dma::{Backing, DmaBuffer, IoBuf, IoVector, MemRegion, guest};
use corelane_engine::aio::AioConfig;
use corelane_engine::block::Channel;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::case;
use super::rig::{POLL, assert_same, backend, bytes_of, in_lane, memory, pattern, pattern_bytes, start};
use crate::vm::{Case, Guest};

/// See the module's documentation.
pub const CASES: &[Case] = &[
    case("nvme::a_large_registered_region", large),
    case("nvme::regions_of_a_virtual_machine", guest_regions),
    case("nvme::memory_that_nobody_registered", unregistered),
    case("nvme::a_controller_that_joins_later_reaches_what_is_registered", joins_later),
    case("nvme::requests_go_on_when_mappings_run_out", exhausted),
];

fn large(guest: &Guest) {
    const LEN_BYTES: usize = 256 << 20;
    const BLOCK_BYTES: usize = 64 << 10;
    let controller = start(guest, "default");
    let space = controller.bus().dma().clone();
    let backend = backend(&controller, 1, &POLL);
    let buffer = DmaBuffer::new(LEN_BYTES, 2 << 20, Backing::HugePages).expect("the machine has them");
    let region = MemRegion::from_buffer(buffer);
    let register = backend.clone();
    in_lane(&AioConfig::default(), &backend, 8, move |channel| async move {
        register.register_buf(&region).await.expect("it is registered");
        let mapped = space.mappings();
        let region = Rc::new(region);
        // From its first byte to its last, and odd places between, dword-aligned as the specification allows.
        for (nth, at) in (0..).zip([0, 4, 4092, LEN_BYTES / 2 - 20, LEN_BYTES - BLOCK_BYTES]) {
            let mut lease = IoBuf::lease(&region, at, BLOCK_BYTES).expect("within the region");
            let data = pattern_bytes(nth, BLOCK_BYTES);
            lease.copy_from(0, &data).expect("as long as that");
            let (result, mut lease) = channel.write_at(nth * 100_352, lease).await;
            result.expect("it is written");
            lease.fill(0, BLOCK_BYTES, 0).expect("as long as that");
            let (result, lease) = channel.read_at(nth * 100_352, lease).await;
            result.expect("it is read");
            assert_same(&bytes_of(&lease), &data);
        }
        assert_eq!(space.mappings(), mapped, "nothing was mapped for a request");
        register.unregister_buf(&region).await.expect("it is unregistered");
        assert!(space.mappings() < mapped);
    });
}

fn guest_regions(guest: &Guest) {
    const MIB: usize = 1 << 20;
    let controller = start(guest, "default");
    let space = controller.bus().dma().clone();
    let backend = backend(&controller, 1, &POLL);
    // As a monitor lays them out: below the hole of the BIOS, below that of PCI, above 4 GiB.
    let ranges = [
        (GuestAddress(0), 640 << 10),
        (GuestAddress(MIB as u64), 63 * MIB),
        (GuestAddress(1 << 32), 32 * MIB),
    ];
    let machine = GuestMemoryMmap::<()>::from_ranges(&ranges).expect("memory of a guest");
    let regions: Vec<MemRegion> = guest::guest_regions(&machine)
        .expect("it can be registered")
        .into_iter()
        .map(|region| region.memory)
        .collect();
    let register = backend.clone();
    in_lane(&AioConfig::default(), &backend, 8, move |channel| async move {
        for region in &regions {
            register.register_buf(region).await.expect("it is registered");
        }
        let mapped = space.mappings();
        let shared: Vec<_> = regions.iter().cloned().map(Rc::new).collect();
        // A request gathered from all regions: pages, pieces of pages, pieces that no PRP can express.
        let pieces =
            [(0, 8192, 4096), (1, 4608, 512), (2, 4, 1020), (1, 33 * MIB + 2048, 2048), (0, 65_536, 131_072)];
        let data = pattern_bytes(9, pieces.iter().map(|piece| piece.2).sum());
        let mut vector = Box::new(IoVector::default());
        let mut done = 0;
        for (region, at, len_bytes) in pieces {
            let mut lease = IoBuf::lease(&shared[region], at, len_bytes).expect("within the region");
            lease.copy_from(0, &data[done..done + len_bytes]).expect("as long as that");
            done += len_bytes;
            vector.push(lease);
        }
        let (result, vector) = channel.writev_at(1 << 20, vector).await;
        result.expect("it is written");
        let (result, whole) = channel.read_at(1 << 20, memory(data.len())).await;
        result.expect("it is read");
        assert_same(&bytes_of(&whole), &data);
        let (result, vector) = channel.readv_at(1 << 20, vector).await;
        result.expect("it is read");
        drop(vector);
        assert!(space.mappings() >= mapped);
        for region in &regions {
            register.unregister_buf(region).await.expect("it is unregistered");
        }
        assert!(space.mappings() < mapped);
    });
}

fn unregistered(guest: &Guest) {
    let controller = start(guest, "default");
    let backend = backend(&controller, 1, &POLL);
    in_lane(&AioConfig::default(), &backend, 8, |channel| async move {
        for (salt, len_bytes) in (20..).zip([512, 4096, 16 << 10, 128 << 10, 1 << 20, 9 << 20]) {
            // At any address: split off a larger buffer.
            for skew in [0, 4, 3] {
                let data = pattern_bytes(salt, len_bytes);
                let mut whole = memory(len_bytes + skew);
                let mut buffer = if skew == 0 { whole } else { whole.split_off(skew).expect("within") };
                buffer.copy_from(0, &data).expect("as long as that");
                let (result, _) = channel.write_at(512, buffer).await;
                result.expect("it is written");
                let (result, found) = channel.read_at(512, memory(len_bytes)).await;
                result.expect("it is read");
                assert_same(&bytes_of(&found), &data);
            }
        }
    });
}

fn pages(len_bytes: usize) -> MemRegion {
    MemRegion::from_buffer(DmaBuffer::new(len_bytes, 4096, Backing::Pages).expect("memory"))
}

/// Writes through a lease of `region` and reads it back into the same, at `offset`.
async fn write_and_read(channel: &Channel, region: &Rc<MemRegion>, offset: u64, salt: u64) {
    let data = pattern_bytes(salt, region.len());
    let mut lease = IoBuf::lease(region, 0, region.len()).expect("within the region");
    lease.copy_from(0, &data).expect("as long as that");
    let (result, mut lease) = channel.write_at(offset, lease).await;
    result.expect("it is written");
    lease.fill(0, data.len(), 0).expect("as long as that");
    let (result, lease) = channel.read_at(offset, lease).await;
    result.expect("it is read");
    assert_same(&bytes_of(&lease), &data);
}

/// The region is registered while another controller is there, in the space that both share.
fn joins_later(guest: &Guest) {
    let first = start(guest, "default");
    let region = pages(1 << 20);
    first.bus().dma().register(&region).expect("it is registered");
    let later = start(guest, "mdts1");
    assert!(Arc::ptr_eq(first.bus().dma(), later.bus().dma()), "one space for both");
    let space = later.bus().dma().clone();
    let registered = region.clone();
    in_lane(&AioConfig::default(), &backend(&later, 1, &POLL), 8, move |channel| async move {
        let (mapped, region) = (space.mappings(), Rc::new(region));
        write_and_read(&channel, &region, 4096, 31).await;
        assert_eq!(space.mappings(), mapped, "nothing was mapped for a request");
    });
    first.bus().dma().unregister(&registered).expect("it is unregistered");
}

fn exhausted(guest: &Guest) {
    const LIMIT: usize = 60;
    const LEN_BYTES: usize = 128 << 10;
    let parameter = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit";
    let before = std::fs::read_to_string(parameter).expect("it reads");
    std::fs::write(parameter, LIMIT.to_string()).expect("it is taken");
    let controller = start(guest, "default");
    // A container keeps the limit that it began with.
    std::fs::write(parameter, before.trim()).expect("it is taken");
    let space = controller.bus().dma().clone();
    in_lane(&AioConfig::default(), &backend(&controller, 1, &POLL), 8, move |channel| async move {
        // What is small is copied, by blocks that are mapped from now on.
        channel.write_at(0, pattern(40, 512)).await.0.expect("it is written");
        // These stay mapped after their requests, since the regions stay; there are more than the kernel takes.
        let (mut kept, mut most) = (Vec::new(), 0);
        for number in 0..2 * LIMIT as u64 {
            let region = Rc::new(pages(LEN_BYTES));
            write_and_read(&channel, &region, number * LEN_BYTES as u64, number).await;
            kept.push(region);
            most = most.max(space.mappings());
        }
        assert!((LIMIT * 3 / 4..=LIMIT).contains(&most), "{most} were mapped at most");
        // When all are taken for good, what is large is copied, too.
        let mut taken = Vec::new();
        let error = loop {
            let region = pages(4096);
            match space.register(&region) {
                Ok(_) => taken.push(region),
                Err(error) => break error.to_string(),
            }
            assert!(taken.len() <= LIMIT, "there is no limit");
        };
        assert!(error.contains("dma_entry_limit") && error.contains("echo "), "{error}");
        write_and_read(&channel, &Rc::new(pages(1 << 20)), 4096, 41).await;
        for region in &taken {
            space.unregister(region).expect("it is unregistered");
        }
    });
}
