//! Namespaces over nodes of the block layer.

mod initiator;

use std::io::Write as _;
use std::sync::Arc;

use corelane_drivers::file::{FileDriver, FileOptions};
use corelane_drivers::mem::{MemDriver, MemOptions};
use corelane_drivers::null::{NullDriver, NullOptions};
use corelane_engine::block::{BackendOptions, BlockBackend, BlockDriver};
use corelane_nvme_model::{Device, DeviceError, Model, ModelConfig, NamespaceConfig};
use initiator::{Cmd, DATA, Initiator};

fn backend(driver: impl BlockDriver + 'static) -> BlockBackend {
    BlockBackend::new(Arc::new(driver), BackendOptions::default()).unwrap()
}

fn mem(len_bytes: usize) -> BlockBackend {
    backend(MemDriver::open(&MemOptions::new(len_bytes)).unwrap())
}

/// A device whose requests take a while.
fn slow(latency_ms: u64) -> BlockBackend {
    let options = NullOptions { latency_ns: latency_ms * 1_000_000, ..NullOptions::default() };
    backend(NullDriver::open(&options).unwrap())
}

fn started(namespaces: Vec<NamespaceConfig>, nodes: Vec<BlockBackend>) -> Initiator {
    let mut host = Initiator::with_nodes(ModelConfig::new(namespaces), nodes);
    host.enable();
    host.make_pair(1, 16);
    host
}

#[test]
fn data_goes_to_the_node_and_comes_back() {
    let namespaces = vec![NamespaceConfig::node(), NamespaceConfig::ram(1 << 20), NamespaceConfig::node()];
    let mut host = started(namespaces, vec![mem(1 << 20), mem(2 << 20)]);
    assert_eq!(host.identify(0, 3)[..8], 512_u64.to_le_bytes());
    let data: Vec<u8> = (0..8192).map(|at| (at * 7 + at / 256) as u8).collect();
    host.put(DATA + 0x104, &data);
    host.put(DATA + 0x8000, &[(DATA + 0x1000).to_le_bytes(), (DATA + 0x2000).to_le_bytes()].concat());
    for nsid in [1, 3] {
        let write = Cmd::new(1, nsid).prp(DATA + 0x104, DATA + 0x8000).blocks(5, 2);
        assert_eq!(host.run(1, write.set(12, 1 | 1 << 30)).status, 0, "with FUA");
        let read = Cmd::new(2, nsid).prp(DATA + 0x10_0000, DATA + 0x20_0000).blocks(5, 2);
        assert_eq!(host.run(1, read).status, 0);
        assert!(host.bytes(DATA + 0x10_0000, 4096) == data[..4096]);
        assert!(host.bytes(DATA + 0x20_0000, 4096) == data[4096..]);
        let compare = Cmd::new(5, nsid).prp(DATA + 0x104, DATA + 0x8000).blocks(5, 2);
        assert_eq!(host.run(1, compare).status, 0);
        assert_eq!(host.run(1, Cmd::new(8, nsid).blocks(6, 1)).status, 0);
        assert_eq!(host.run(1, compare).status, 0x285);
        assert_eq!(host.run(1, Cmd::new(0, nsid)).status, 0);
        let range: Vec<u8> = [0_u32, 1, 5, 0].iter().flat_map(|dword| dword.to_le_bytes()).collect();
        host.put(DATA + 0x9000, &range);
        assert_eq!(host.run(1, Cmd::new(9, nsid).prp(DATA + 0x9000, 0).set(11, 4)).status, 0);
        assert_eq!(host.run(1, read).status, 0);
        assert!(host.bytes(DATA + 0x10_0000, 4096).iter().all(|byte| *byte == 0));
    }
    assert_eq!(host.run(1, Cmd::new(0, 0xFFFF_FFFF)).status, 0);
    host.assert_clean();
}

#[test]
fn a_file_is_a_namespace() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&vec![1; 1 << 20]).unwrap();
    let driver = FileDriver::open(&FileOptions::new(file.path())).unwrap();
    let mut host = started(vec![NamespaceConfig::node()], vec![backend(driver)]);
    let data: Vec<u8> = (0..4096).map(|at| (at * 13 + at / 256) as u8).collect();
    host.put(DATA, &data);
    assert_eq!(host.run(1, Cmd::new(1, 1).prp(DATA, 0).blocks(7, 1)).status, 0);
    assert_eq!(host.run(1, Cmd::new(0, 1)).status, 0);
    let bytes = std::fs::read(file.path()).unwrap();
    assert!(bytes[7 * 4096..8 * 4096] == data);
    assert!(bytes[..7 * 4096].iter().chain(&bytes[8 * 4096..]).all(|byte| *byte == 1));
    host.assert_clean();
}

#[test]
fn held_commands_do_not_hold_up_others() {
    let mut host = started(vec![NamespaceConfig::node(), NamespaceConfig::ram(1 << 20)], vec![slow(100)]);
    let first: Vec<u16> =
        (0..10).map(|slot| host.push(1, Cmd::new(2, 1).prp(DATA + slot * 4096, 0).blocks(slot, 1))).collect();
    let quick = host.push(1, Cmd::new(2, 2).prp(DATA, 0).blocks(0, 1));
    host.ring(1);
    assert_eq!(host.wait(1).cid, quick);
    // The identifier of one that is in flight.
    host.push_as(1, Cmd::new(0, 2), first[3]);
    host.ring(1);
    assert_eq!(host.wait(1).status, 0x03);
    assert_eq!(host.rules(), [corelane_nvme_model::Rule::CidReuse]);
    let mut ended: Vec<u16> = (0..10).map(|_| host.wait(1).cid).collect();
    ended.sort_unstable();
    assert_eq!(ended, first);
    host.push_as(1, Cmd::new(0, 2), first[3]);
    host.ring(1);
    assert_eq!(host.wait(1).status, 0, "it is free again");
    host.assert_clean();
}

#[test]
fn a_queue_or_a_controller_ends_after_its_jobs() {
    let mut host = started(vec![NamespaceConfig::node()], vec![slow(50)]);
    let read = |slot: u64| Cmd::new(2, 1).prp(DATA + slot * 4096, 0).blocks(slot, 1);
    let cid = host.push(1, read(0));
    host.ring(1);
    host.settle();
    assert_eq!(host.admin(Cmd::new(0, 0).set(10, 1)).status, 0);
    let done = host.poll(1).expect("it was completed before its queue was deleted");
    assert_eq!((done.cid, done.status), (cid, 0));
    assert_eq!(host.admin(Cmd::new(4, 0).set(10, 1)).status, 0);
    for _ in 0..3 {
        host.make_pair(1, 16);
        (0..5).for_each(|slot| {
            host.push(1, read(slot));
        });
        host.ring(1);
        host.settle();
        host.disable();
        host.enable();
    }
    host.make_pair(1, 16);
    host.push(1, read(0));
    host.ring(1);
    host.settle();
    host.model.reset();
    assert_eq!(host.read32(0x1C), 0);
    host.enable();
    host.make_pair(1, 16);
    assert_eq!(host.run(1, read(1)).status, 0);
    host.assert_clean();
    // And a model with a job in flight can be dropped.
    host.push(1, read(0));
    host.ring(1);
}

#[test]
fn more_completions_than_the_queue_has_room_for_wait() {
    let mut host = started(vec![NamespaceConfig::node()], vec![slow(20)]);
    host.make_uneven_pair(2, [16, 3], 1);
    let pushed: Vec<u16> =
        (0..12).map(|slot| host.push(2, Cmd::new(2, 1).prp(DATA + slot * 4096, 0).blocks(slot, 1))).collect();
    host.ring(2);
    // All have been fetched and come back before the first completion is taken.
    std::thread::sleep(std::time::Duration::from_millis(100));
    let mut ended: Vec<u16> = (0..12).map(|_| host.wait(2).cid).collect();
    ended.sort_unstable();
    assert_eq!(ended, pushed);
    host.assert_clean();
}

#[test]
fn nodes_and_namespaces_have_to_match() {
    let config = ModelConfig::new(vec![NamespaceConfig::node(), NamespaceConfig::node()]);
    assert!(matches!(Model::with_nodes(config, vec![mem(1 << 20)]), Err(DeviceError::Node { .. })));
}
