//! Controllers of all kinds keep the contract of a leaf queue, and their limits are seen.

use std::time::{Duration, Instant};

use corelane_drivers::nvme::spec::Nsid;
use corelane_drivers::nvme::{NvmeController, NvmeOptions, Polling};
use corelane_engine::block::BlockDriver;

use super::case;
use super::rig::{POLL, check_contract, driver, start};
use crate::vm::{Case, Guest};

/// See the module's documentation.
pub const CASES: &[Case] = &[
    case("nvme::default_controller", default_controller),
    case("nvme::interrupts_and_adaptive_polling", interrupts),
    case("nvme::blocks_of_4_kib", blocks_of_4_kib),
    case("nvme::transfers_of_8_kib_at_most", mdts1),
    case("nvme::transfers_without_limit", mdts0),
    case("nvme::one_vector_for_all_queues", one_vector),
    case("nvme::queues_of_few_entries", few_entries),
    case("nvme::no_shadow_doorbells", no_shadow_doorbells),
    case("nvme::a_controller_memory_buffer_is_left_alone", controller_memory),
    case("nvme::no_write_cache", no_write_cache),
    case("nvme::a_controller_starts_again_and_again", restarts),
];

fn default_controller(guest: &Guest) {
    let start_time = Instant::now();
    let controller = start(guest, "default");
    // QEMU's is ready at once. This is no measurement: waiting for a timeout would be an error.
    assert!(start_time.elapsed() < Duration::from_secs(10));
    assert_eq!(controller.queue_count(), 64);
    assert!(controller.has_shadow_doorbells());
    let namespace = driver(&controller, 1, &POLL);
    assert_eq!(namespace.length().unwrap(), 64 << 20);
    assert_eq!(namespace.limits().request_alignment, 512);
    assert_eq!(namespace.limits().max_transfer, 128 * 4096, "MDTS is 7");
    assert!(namespace.write_cache());
    check_contract(&controller, 1, &POLL, &[2, 32, 300]);
}

fn interrupts(guest: &Guest) {
    let controller = start(guest, "default");
    for poll in [Polling::Off, Polling::Adaptive] {
        check_contract(&controller, 1, &NvmeOptions { poll, ..POLL }, &[2, 32]);
    }
}

fn blocks_of_4_kib(guest: &Guest) {
    let controller = start(guest, "lba4k");
    assert_eq!(driver(&controller, 1, &POLL).limits().request_alignment, 4096);
    check_contract(&controller, 1, &POLL, &[2, 32]);
}

fn mdts1(guest: &Guest) {
    let controller = start(guest, "mdts1");
    assert_eq!(driver(&controller, 1, &POLL).limits().max_transfer, 8192);
    check_contract(&controller, 1, &POLL, &[2, 32]);
}

fn mdts0(guest: &Guest) {
    let controller = start(guest, "mdts0");
    assert_eq!(controller.max_transfer_bytes(), None);
    check_contract(&controller, 1, &POLL, &[2, 32]);
}

fn one_vector(guest: &Guest) {
    let controller = start(guest, "one-vector");
    check_contract(&controller, 1, &NvmeOptions { poll: Polling::Off, ..POLL }, &[2, 32]);
    check_contract(&controller, 1, &POLL, &[32]);
}

fn few_entries(guest: &Guest) {
    let controller = start(guest, "few-entries");
    assert_eq!(controller.max_queue_entries(), 8);
    // More commands at once than the queue has entries.
    check_contract(&controller, 1, &POLL, &[2, 7, 8, 64]);
}

fn no_shadow_doorbells(guest: &Guest) {
    let controller = start(guest, "no-shadow");
    assert!(!controller.has_shadow_doorbells());
    check_contract(&controller, 1, &POLL, &[2, 32]);
    check_contract(&controller, 1, &NvmeOptions { poll: Polling::Off, ..POLL }, &[32]);
}

fn controller_memory(guest: &Guest) {
    let controller = start(guest, "cmb");
    check_contract(&controller, 1, &POLL, &[2, 32]);
}

fn no_write_cache(guest: &Guest) {
    let controller = start(guest, "no-cache");
    assert!(!driver(&controller, 1, &POLL).write_cache());
    check_contract(&controller, 1, &POLL, &[2, 32]);
}

fn restarts(guest: &Guest) {
    let start_one = |name| {
        let controller: std::sync::Arc<NvmeController> = start(guest, name);
        assert_eq!(controller.active_namespaces().unwrap(), [Nsid(1)]);
    };
    for _ in 0..5 {
        start_one("default");
        start_one("one-pair");
    }
    check_contract(&start(guest, "default"), 1, &POLL, &[8]);
}
