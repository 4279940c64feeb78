//! Registered memory: a large region, and regions as a virtual machine's memory has them.

use std::rc::Rc;

use corelane_dma::{Backing, DmaBuffer, IoBuf, IoVector, MemRegion, guest};
use corelane_engine::aio::AioConfig;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::case;
use super::rig::{POLL, assert_same, backend, bytes_of, in_lane, memory, pattern_bytes, start};
use crate::vm::{Case, Guest};

/// See the module's documentation.
pub const CASES: &[Case] = &[
    case("nvme::a_large_registered_region", large),
    case("nvme::regions_of_a_virtual_machine", guest_regions),
    case("nvme::memory_that_nobody_registered", unregistered),
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
