//! QEMU's zoned namespaces: what they say of themselves, and what they take.

use std::sync::Arc;

use corelane_dma::Payload;
use corelane_drivers::nvme::NvmeController;
use corelane_drivers::nvme::commands::{CommandError, CommandOptions, NvmeCommands, ReportOptions};
use corelane_drivers::nvme::spec::zone::{Zone, ZoneAction, ZoneState};
use corelane_drivers::nvme::spec::{Lba, Nsid};
use corelane_engine::aio::{AioConfig, AioContext, IoThread};
use corelane_engine::block::{Errno, Request};

use super::case;
use super::rig::{POLL, assert_same, backend, bytes_of, in_lane, memory, pattern, pattern_bytes, start};
use crate::vm::{Case, Guest};

/// See the module's documentation.
pub const CASES: &[Case] = &[
    case("nvme::zones_are_seen", seen),
    case("nvme::zones_are_written_in_order", written),
    case("nvme::zones_are_managed_and_appended_to", managed),
];

/// As `machines::NVME` has them.
const ZONE_BYTES: u64 = 4 << 20;
const CAPACITY_BYTES: u64 = 3 << 20;
const ZONES: u64 = 16;
const BLOCK: u64 = 512;
const ZONE: u64 = ZONE_BYTES / BLOCK;

/// Runs something on a zoned namespace's commands in a lane of its own.
fn with_commands<T: Send + 'static>(
    controller: &Arc<NvmeController>,
    work: impl AsyncFnOnce(&NvmeCommands) -> T + Send + 'static,
) -> T {
    let lane = IoThread::spawn(&AioConfig::default()).expect("a lane");
    let controller = Arc::clone(controller);
    let result = lane.run_on(move |ctx: &AioContext| {
        let commands = NvmeCommands::open(&controller, Nsid(1), &CommandOptions::default(), ctx)
            .unwrap_or_else(|err| panic!("{err}"));
        async move { work(&commands).await }
    });
    let result = result.expect("the lane runs");
    lane.join().expect("the lane ended well");
    result
}

async fn report(commands: &NvmeCommands) -> Vec<Zone> {
    let extended = ReportOptions { extended: true, ..ReportOptions::default() };
    commands.report_zones(Lba(0), extended).await.expect("a report")
}

async fn reset_all(commands: &NvmeCommands) {
    commands.zone_action(ZoneAction::Reset, None).await.expect("all are reset");
}

fn seen(guest: &Guest) {
    let controller = start(guest, "zoned");
    let backend = backend(&controller, 1, &POLL);
    let zones = backend.limits().zoned.expect("it is zoned");
    assert_eq!((zones.zone_size, zones.zone_capacity), (ZONE_BYTES, CAPACITY_BYTES));
    assert_eq!((zones.max_open, zones.max_active, zones.cross_reads), (4, 6, false));
    assert_eq!(zones.max_append, 32 << 10, "zoned.zasl=3");
    let found = with_commands(&controller, async |commands| {
        reset_all(commands).await;
        report(commands).await
    });
    assert_eq!(found.len() as u64, ZONES);
    for (zone, nth) in found.iter().zip(0..) {
        let start = Lba(nth * ZONE);
        assert_eq!((zone.start, zone.pointer, zone.state), (start, Some(start), ZoneState::Empty));
        assert_eq!((zone.capacity, zone.sequential), (CAPACITY_BYTES / BLOCK, true));
    }
}

fn written(guest: &Guest) {
    let controller = start(guest, "zoned");
    with_commands(&controller, async |commands| reset_all(commands).await);
    let backend = backend(&controller, 1, &POLL);
    let refused = in_lane(&AioConfig::default(), &backend, 32, |channel| async move {
        // More at once than a zone takes: they wait for one another.
        let writes: Vec<_> = (0..24u64)
            .map(|nth| {
                let at = ZONE_BYTES + nth * (128 << 10);
                channel.start(Request::write(at, pattern(nth, 128 << 10)))
            })
            .collect();
        for write in writes {
            write.await.0.expect("it is written");
        }
        for nth in [0, 11, 23] {
            let (result, read) = channel.read_at(ZONE_BYTES + nth * (128 << 10), memory(128 << 10)).await;
            result.expect("it is read");
            assert_same(&bytes_of(&read), &pattern_bytes(nth, 128 << 10));
        }
        // Across the boundary of two zones.
        let (result, read) = channel.read_at(ZONE_BYTES - 4096, memory(8192)).await;
        result.expect("the block layer cuts it");
        assert_same(&bytes_of(&read)[4096..], &pattern_bytes(0, 4096));
        let crossing = channel.write_at(2 * ZONE_BYTES - 512, pattern(1, 1024)).await.0;
        assert_eq!(crossing.expect_err("it crosses").errno, Errno::EINVAL);
        let full = channel.write_at(ZONE_BYTES, pattern(1, 512)).await.0.expect_err("it is full");
        let elsewhere = channel.write_at(512, pattern(1, 512)).await.0.expect_err("not at the pointer");
        [full, elsewhere].map(|error| (error.errno, error.device_status & 0x7ff))
    });
    assert_eq!(refused, [(Errno::EIO, 0x1b9), (Errno::EIO, 0x1bc)], "Zone Is Full, Zone Invalid Write");
}

fn managed(guest: &Guest) {
    let controller = start(guest, "zoned");
    with_commands(&controller, async |commands| {
        reset_all(commands).await;
        for zone in 0..4 {
            commands.zone_action(ZoneAction::Open, Some(Lba(zone * ZONE))).await.expect("it opens");
        }
        let error =
            commands.zone_action(ZoneAction::Open, Some(Lba(4 * ZONE))).await.expect_err("four are open");
        let CommandError::Failed { source, .. } = &error else { panic!("{error}") };
        assert_eq!(source.device_status & 0x7ff, 0x1be, "{error}");
        commands.zone_action(ZoneAction::Close, Some(Lba(0))).await.expect("it closes");
        commands.zone_action(ZoneAction::Finish, Some(Lba(ZONE))).await.expect("it is finished");
        commands.set_zone_extension(Lba(9 * ZONE), &[0x5a; 64]).await.expect("it is set");
        let mut places = Vec::new();
        for nth in 0..4 {
            let data = Payload::from(pattern(nth, 4096));
            places.push(commands.append(Lba(5 * ZONE), data).await.0.expect("it is appended"));
        }
        assert_eq!(places, [0, 8, 16, 24].map(|at| Lba(5 * ZONE + at)));
        let zones = report(commands).await;
        let states = [0, 1, 2, 5, 6, 9].map(|zone: usize| zones[zone].state);
        let expected = [
            ZoneState::Closed,
            ZoneState::Full,
            ZoneState::ExplicitlyOpen,
            ZoneState::ImplicitlyOpen,
            ZoneState::Empty,
            ZoneState::Closed,
        ];
        assert_eq!(states, expected);
        assert_eq!(zones[5].pointer, Some(Lba(5 * ZONE + 32)));
        assert_eq!(zones[9].extension, Some(vec![0x5a; 64]));
        reset_all(commands).await;
    });
}
