//! What is written is what is read: by us, by the guest kernel's own driver, through errors, and over all kinds of requests.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;

use corelane_drivers::nvme::NvmeOptions;
use corelane_drivers::nvme::Polling;
use corelane_engine::aio::AioConfig;
use corelane_engine::block::{BlockBackend, BlockDriver, Errno};

use super::case;
use super::rig::{
    POLL, assert_same, backend, bytes_of, driver, in_lane, memory, pattern, pattern_bytes, start,
};
use crate::Seed;
use crate::model::{Sequence, random_limits};
use crate::vm::{Case, Guest, machines};

/// See the module's documentation.
pub const CASES: &[Case] = &[
    case("nvme::holds_what_a_byte_array_holds", model),
    case("nvme::the_guest_kernel_reads_what_we_wrote", kernel_reads),
    case("nvme::we_read_what_the_guest_kernel_wrote", kernel_writes),
    case("nvme::namespaces_of_a_subsystem_are_apart", two_namespaces),
    case("nvme::a_bad_sector_is_an_error_and_no_more", bad_sector),
];

/// Bytes that the two drivers exchange, and where: neither begins or ends with a page, and both are several transfers.
const LEN_BYTES: usize = (3 << 20) + 512;
const OFFSET_BYTES: u64 = (5 << 20) + 1536;
/// `O_DIRECT` of x86-64 Linux: the page cache may be older than what is on the device.
const O_DIRECT: i32 = 0o40000;

fn model(guest: &Guest) {
    let controller = start(guest, "small");
    let mut content = None;
    for (nth, seed) in Seed::sequences(8).enumerate() {
        let mut rng = seed.rng();
        let poll = [Polling::On, Polling::Off, Polling::Adaptive][nth % 3];
        let driver = Arc::new(driver(&controller, 1, &NvmeOptions { poll, ..POLL }));
        let length = driver.length().unwrap() as usize;
        let limits = random_limits(&mut rng, driver.limits());
        // The first finds the disk as QEMU made it.
        let before = content.take().unwrap_or_else(|| vec![0; length]);
        let mut sequence = Sequence::new(rng, driver, limits, before);
        sequence.run_all();
        content = Some(sequence.finish());
    }
}

fn write(backend: &BlockBackend, offset: u64, salt: u64, len_bytes: usize) {
    in_lane(&AioConfig::default(), backend, 8, move |channel| async move {
        channel.write_at(offset, pattern(salt, len_bytes)).await.0.expect("it is written");
        channel.flush().await.expect("it is flushed");
    });
}

fn read(backend: &BlockBackend, offset: u64, len_bytes: usize) -> Vec<u8> {
    in_lane(&AioConfig::default(), backend, 8, move |channel| async move {
        let (result, buffer) = channel.read_at(offset, memory(len_bytes)).await;
        result.expect("it is read");
        bytes_of(&buffer)
    })
}

fn kernel_reads(guest: &Guest) {
    let controller = start(guest, "default");
    let backend = backend(&controller, 1, &POLL);
    write(&backend, OFFSET_BYTES, 1, LEN_BYTES);
    drop((backend, controller));
    let device = File::open(guest.function("default").bind_kernel(1)).expect("it opens");
    let mut found = vec![0; LEN_BYTES];
    device.read_exact_at(&mut found, OFFSET_BYTES).expect("it reads");
    assert_same(&found, &pattern_bytes(1, LEN_BYTES));
}

fn kernel_writes(guest: &Guest) {
    let path = guest.function("default").bind_kernel(1);
    let device = File::options().write(true).open(path).expect("it opens");
    device.write_all_at(&pattern_bytes(2, LEN_BYTES), OFFSET_BYTES).expect("it writes");
    device.sync_all().expect("it syncs");
    drop(device);
    let controller = start(guest, "default");
    let found = read(&backend(&controller, 1, &POLL), OFFSET_BYTES, LEN_BYTES);
    assert_same(&found, &pattern_bytes(2, LEN_BYTES));
}

fn two_namespaces(guest: &Guest) {
    let controller = start(guest, "two-spaces");
    assert_eq!(controller.active_namespaces().unwrap().len(), 2);
    let spaces = [1, 2].map(|nsid| backend(&controller, nsid, &POLL));
    assert_eq!([512, 4096], [0, 1].map(|at| spaces[at].limits().request_alignment));
    for (salt, space) in (10..).zip(&spaces) {
        write(space, 8192, salt, 100_000);
    }
    for (salt, space) in (10..).zip(&spaces) {
        assert_same(&read(space, 8192, 100_000), &pattern_bytes(salt, 100_000));
    }
}

fn bad_sector(guest: &Guest) {
    const BAD: u64 = machines::BAD_SECTOR * 512;
    let controller = start(guest, "bad-sector");
    for poll in [Polling::On, Polling::Off] {
        let backend = backend(&controller, 1, &NvmeOptions { poll, ..POLL });
        in_lane(&AioConfig::default(), &backend, 8, |channel| async move {
            for (offset, len_bytes) in [(BAD, 512), (BAD - 4096, 8192), (BAD + 100, 10)] {
                let (result, _) = channel.read_at(offset, memory(len_bytes)).await;
                let error = result.expect_err("the sector is bad");
                assert_eq!(error.errno, Errno::EIO, "{error}");
                assert_eq!(error.device_status & 0x7ff, 0x281, "unrecovered read error: {error}");
                assert!(error.to_string().to_lowercase().contains("unrecovered read error"), "{error}");
            }
            // Its neighbours are good, before and after.
            for offset in [BAD - 512, BAD + 512] {
                channel.read_at(offset, memory(512)).await.0.expect("the others are good");
            }
            channel.write_at(BAD, pattern(3, 512)).await.0.expect("writes are good");
        });
    }
    // The kernel's driver calls it the same.
    drop(controller);
    let path = guest.function("bad-sector").bind_kernel(1);
    let device = File::options().read(true).custom_flags(O_DIRECT).open(path).expect("it opens");
    device.read_at(&mut [0; 512], BAD).expect_err("the sector is bad");
}
