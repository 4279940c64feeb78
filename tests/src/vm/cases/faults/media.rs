//! A medium that fails: reads, writes and flushes, once and always.

use std::time::Instant;

use corelane_engine::aio::AioConfig;
use corelane_engine::block::{BlockBackend, Channel, Errno, IoError};

use super::case;
use super::load::under_load;
use super::rig::{DEADLINE, GRACE, Rig, assert_in_time};
use crate::vm::cases::nvme::rig::{POLL, backend, in_lane, memory, pattern, start};
use crate::vm::{Case, Guest, machines};

/// See the module's documentation.
pub const CASES: &[Case] = &[
    case("faults::a_sector_cannot_be_read", read_always),
    case("faults::a_sector_cannot_be_read_once", read_once),
    case("faults::a_sector_cannot_be_written", write_always),
    case("faults::a_sector_cannot_be_written_once", write_once),
    case("faults::a_disk_cannot_be_flushed", flush_always),
    case("faults::a_disk_cannot_be_flushed_once", flush_once),
    case("faults::media_errors_under_load_hit_nobody_else", under_load_too),
];

const BAD: u64 = machines::BAD_SECTOR * 512;
/// Status code type and code (NVM Express base specification 2.0, 4.2.3.3).
const UNRECOVERED_READ: u32 = 0x281;
const WRITE_FAULT: u32 = 0x280;

/// What is tried on a namespace whose medium fails.
#[derive(Clone, Copy)]
enum Try {
    Read,
    Write,
    Flush,
}

impl Try {
    async fn at(self, channel: &Channel, offset: u64) -> Result<(), IoError> {
        match self {
            Try::Read => channel.read_at(offset, memory(4096)).await.0,
            Try::Write => channel.write_at(offset, pattern(1, 4096)).await.0,
            // A disk without anything new is not flushed.
            Try::Flush => {
                channel.write_at(BAD + (2 << 20), pattern(2, 4096)).await.0.expect("writes are good");
                channel.flush().await
            }
        }
    }
}

/// Runs `work` on the namespace `nsid` in a lane.
fn on_namespace(guest: &Guest, nsid: u32, work: impl AsyncFnOnce(&Channel) + Send + 'static) {
    let controller = start(guest, "media");
    let backend: BlockBackend = backend(&controller, nsid, &POLL);
    in_lane(&AioConfig::default(), &backend, 8, move |channel| async move { work(&channel).await });
}

fn assert_fault(error: IoError, status: u32) {
    assert_eq!(error.errno, Errno::EIO, "{error}");
    assert_eq!(error.device_status & 0x7ff, status, "{error}");
}

/// It fails each time, and what is beside it does not.
fn always(guest: &Guest, nsid: u32, what: Try, status: u32) {
    on_namespace(guest, nsid, async move |channel| {
        for _ in 0..3 {
            assert_fault(what.at(channel, BAD).await.expect_err("it fails"), status);
            let others = [Try::Read, Try::Write].map(|other| other.at(channel, BAD + (1 << 20)));
            for other in others {
                other.await.expect("other sectors are good");
            }
        }
    });
}

/// It fails once at most, since the driver may have sent it again by itself, and that is all.
fn once(guest: &Guest, nsid: u32, what: Try, status: u32) {
    on_namespace(guest, nsid, async move |channel| {
        if let Err(error) = what.at(channel, BAD).await {
            assert_fault(error, status);
        }
        for _ in 0..3 {
            what.at(channel, BAD).await.expect("it fails once only");
        }
    });
}

fn read_always(guest: &Guest) {
    always(guest, 1, Try::Read, UNRECOVERED_READ);
}

fn read_once(guest: &Guest) {
    once(guest, 2, Try::Read, UNRECOVERED_READ);
}

fn write_always(guest: &Guest) {
    always(guest, 3, Try::Write, WRITE_FAULT);
}

fn write_once(guest: &Guest) {
    once(guest, 4, Try::Write, WRITE_FAULT);
}

fn flush_always(guest: &Guest) {
    always(guest, 5, Try::Flush, WRITE_FAULT);
}

fn flush_once(guest: &Guest) {
    once(guest, 6, Try::Flush, WRITE_FAULT);
}

/// While others work on the namespace, each of what fails does so in time, and nothing is reset for it.
fn under_load_too(guest: &Guest) {
    let rig = Rig::new(guest, "media");
    for (nsid, what, status) in
        [(1, Try::Read, UNRECOVERED_READ), (3, Try::Write, WRITE_FAULT), (5, Try::Flush, WRITE_FAULT)]
    {
        let backend = rig.backend(nsid);
        let failures = under_load(&backend, |load| {
            load.wait_for_more("before");
            in_lane(&AioConfig::default(), &backend, 8, move |channel| async move {
                for _ in 0..3 {
                    let start = Instant::now();
                    assert_fault(what.at(&channel, BAD).await.expect_err("it fails"), status);
                    assert!(start.elapsed() < DEADLINE + GRACE, "{:?}", start.elapsed());
                }
            });
            load.wait_for_more("afterwards");
        });
        assert_in_time(&failures, None);
    }
    assert_eq!(rig.controller.resets(), 0);
}
