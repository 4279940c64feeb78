//! A lane's zones: fio's `zonemode=zbd` on a zoned namespace.
//!
//! Invariants: one lane at a time writes to the zones of a device, so that it knows every pointer; zones are reset by the lane
//! itself, while nothing of it is in flight there.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{AcqRel, Release};

use corelane_drivers::nvme::NvmeCommands;
use corelane_drivers::nvme::commands::{CommandOptions, ReportOptions};
use corelane_drivers::nvme::spec::Lba;
use corelane_drivers::nvme::spec::zone::{Zone, ZoneAction, ZoneState};
use corelane_engine::aio::AioContext;
use corelane_engine::block::ZoneLimits;

use super::devices::{Device, writes};
use super::error::RunError;
use super::region;
use crate::options::{BlockSizes, JobSpec, ZoneSpec};
use crate::workload::{Io, Placed, WorkloadConfig, ZonePlan, ZoneRules, ZoneStart};

/// See the module's documentation.
pub struct LaneZones {
    plan: ZonePlan,
    commands: NvmeCommands,
    /// The zones of this device are written by this lane, as long as this lives.
    _claim: Option<Claim>,
    /// Made by the generator and not placed yet.
    waiting: Option<Io>,
    resets: u64,
}

/// What a lane is to do with an I/O.
pub enum Next {
    /// Issue it.
    Issue(Io),
    /// Nothing before something in flight has ended.
    Wait,
    /// Nothing for this one.
    Skip,
    /// The job is done: no zone has room.
    End,
}

impl LaneZones {
    /// The zones that a lane works in; `None` for a job without `zonemode=zbd`.
    ///
    /// # Errors
    /// [`RunError::Zones`]: a job that writes to zones without it, one that has it where there are none, and what does not fit
    /// the zones; [`RunError::Command`].
    pub fn open(
        spec: &JobSpec,
        device: &Device,
        workload: &WorkloadConfig,
        ctx: &AioContext,
    ) -> Result<Option<LaneZones>, RunError> {
        let refuse = |what: String, right: &str| Err(refused(device, what, right));
        let (limits, align) = (device.backend.limits().zoned, device.backend.limits().request_alignment);
        let (zones, asked) = match (limits, &spec.workload.zones) {
            (None, None) => return Ok(None),
            (None, Some(_)) => {
                return refuse("zonemode=zbd, but it has no zones".into(), "leave zonemode out");
            }
            (Some(_), None) if !writes(spec) => return Ok(None),
            (Some(_), None) => {
                let what = "it has zones, which are written in order and reset";
                return refuse(what.into(), "give zonemode=zbd, or an rw that only reads");
            }
            (Some(zones), Some(asked)) => (zones, asked),
        };
        check(spec, (&zones, asked), workload, align.into())
            .map_err(|(what, right)| refused(device, what, right))?;
        let Some((controller, nsid)) = &device.controller else {
            return refuse("zonemode=zbd, but nothing resets its zones".into(), "ioengine=nvme is right");
        };
        let writes = writes(spec);
        let claim = writes.then(|| Claim::new(&device.zones)).flatten();
        if writes && claim.is_none() {
            let right = "one at a time is right: numjobs=1, stonewall between jobs, or a namespace each";
            return refuse("two jobs would write to its zones at the same time".into(), right);
        }
        let commands = NvmeCommands::open(controller, *nsid, &CommandOptions::default(), ctx)
            .map_err(|error| error.into_open(&device.path.to_string_lossy()))?;
        let (starts, most_open) = look(&commands, ctx, &zones, asked, workload)?;
        let verifies = spec.verify.is_some();
        let whole = |zone: &ZoneStart| match spec.workload.blocks.write {
            BlockSizes::Fixed(bytes) => zone.capacity_bytes.is_multiple_of(bytes),
            _ => false,
        };
        if verifies && !starts.iter().all(whole) {
            let what = "verify, but a zone would not hold whole blocks".to_owned();
            return refuse(what, "one bs that divides the capacity of its zones is right");
        }
        let rules = ZoneRules {
            zone_bytes: zones.zone_size,
            region: workload.region,
            most_open,
            resets: !verifies,
            order: workload.order,
            align_bytes: region::min_block_bytes(spec),
        };
        if writes && most_open == 0 {
            let what = "other zones than the job's are partly written, as many as may be".to_owned();
            return refuse(what, "reset or finish some (corelane nvme zns)");
        }
        let plan = ZonePlan::new(rules, &starts);
        let mut zones = LaneZones { plan, commands, _claim: claim, waiting: None, resets: 0 };
        if !writes && zones.plan.most_written() < region::min_block_bytes(spec) {
            return refuse("none of its zones holds as much as a block".into(), "write to it first");
        }
        if writes && verifies {
            // Nothing that is to be found again may be reset later.
            for zone in zones.plan.used() {
                zones.reset(ctx, zone)?;
            }
        }
        Ok(Some(zones))
    }

    /// What waits to be placed, before the generator makes another.
    pub fn take_waiting(&mut self) -> Option<Io> {
        self.waiting.take()
    }

    /// Places an I/O; resets its zone for it, if that has to be.
    ///
    /// # Errors
    /// What the controller has against a reset.
    pub fn next(&mut self, ctx: &AioContext, io: Io) -> Result<Next, RunError> {
        loop {
            return Ok(match self.plan.place(io) {
                Placed::At(io) => Next::Issue(io),
                Placed::Wait => {
                    self.waiting = Some(io);
                    Next::Wait
                }
                Placed::Reset(zone) => {
                    self.reset(ctx, zone)?;
                    continue;
                }
                Placed::Beyond => Next::Skip,
                Placed::Full => Next::End,
            });
        }
    }

    /// An I/O that was issued has ended.
    pub fn ended(&mut self, io: &Io, ok: bool) {
        self.plan.ended(io, ok);
    }

    /// How many zones were reset.
    pub fn resets(&self) -> u64 {
        self.resets
    }

    fn reset(&mut self, ctx: &AioContext, zone: usize) -> Result<(), RunError> {
        let start = Lba(self.plan.start_of(zone) / self.commands.block_bytes());
        ctx.block_on(self.commands.zone_action(ZoneAction::Reset, Some(start)))?;
        self.plan.reset(zone);
        self.resets += 1;
        Ok(())
    }
}

fn refused(device: &Device, what: String, right: &str) -> RunError {
    RunError::Zones { path: device.path.clone(), what, right: right.to_owned() }
}

/// Whether the job's options fit the zones; what is wrong, and what would be right.
fn check(
    spec: &JobSpec,
    (zones, asked): (&ZoneLimits, &ZoneSpec),
    workload: &WorkloadConfig,
    align: u64,
) -> Result<(), (String, &'static str)> {
    let zone = zones.zone_size;
    if let Some(said) = asked.zone_bytes.filter(|&said| said != zone) {
        return Err((format!("zonesize={said}, but its zones have {zone} bytes"), "leave zonesize out"));
    }
    let region = workload.region;
    if !region.offset_bytes.is_multiple_of(zone) || !region.size_bytes.is_multiple_of(zone) {
        let what = format!(
            "the job's region, {} bytes from {} on, is not made of whole zones of {zone} bytes",
            region.size_bytes, region.offset_bytes
        );
        return Err((what, "multiples of that for size and offset are right"));
    }
    let sizes = match &spec.workload.blocks.write {
        BlockSizes::Fixed(bytes) => vec![*bytes],
        BlockSizes::Range { min, max } => vec![*min, *max],
        BlockSizes::Split(parts) => parts.iter().map(|part| part.0).collect(),
    };
    match sizes.into_iter().find(|bytes| !bytes.is_multiple_of(align)) {
        Some(bytes) if writes(spec) => {
            let what = format!("a write of {bytes} bytes is not made of its blocks of {align} bytes");
            Err((what, "a multiple of that for bs is right"))
        }
        _ => Ok(()),
    }
}

/// The zones of the region, and how many of them may be partly written.
fn look(
    commands: &NvmeCommands,
    ctx: &AioContext,
    zones: &ZoneLimits,
    asked: &ZoneSpec,
    workload: &WorkloadConfig,
) -> Result<(Vec<ZoneStart>, usize), RunError> {
    let blocks = |bytes: u64| bytes / commands.block_bytes();
    let all = ctx.block_on(commands.report_zones(Lba(0), ReportOptions::default()))?;
    let region = workload.region;
    let first = blocks(region.offset_bytes);
    let inside = first..first + blocks(region.size_bytes);
    let is_active = |zone: &Zone| {
        matches!(zone.state, ZoneState::ImplicitlyOpen | ZoneState::ExplicitlyOpen | ZoneState::Closed)
    };
    // Those of others count for the device as well.
    let elsewhere = all.iter().filter(|zone| is_active(zone) && !inside.contains(&zone.start.0)).count();
    let limit = [asked.most_open.unwrap_or(0), zones.max_open, zones.max_active];
    let limit = limit.into_iter().filter(|&limit| limit > 0).min();
    let most_open = limit.map_or(usize::MAX, |limit| (limit as usize).saturating_sub(elsewhere));
    let here = all.iter().filter(|zone| inside.contains(&zone.start.0));
    Ok((here.map(|zone| start(zone, commands.block_bytes())).collect(), most_open))
}

fn start(zone: &Zone, block_bytes: u64) -> ZoneStart {
    let capacity_bytes = zone.capacity * block_bytes;
    let written = zone.pointer.map(|pointer| pointer.0.saturating_sub(zone.start.0) * block_bytes);
    match zone.state {
        ZoneState::Full => ZoneStart { capacity_bytes, written_bytes: capacity_bytes },
        ZoneState::ReadOnly | ZoneState::Offline | ZoneState::Unknown(_) => ZoneStart::default(),
        _ => ZoneStart { capacity_bytes, written_bytes: written.unwrap_or(0) },
    }
}

/// The right to write to the zones of a device.
struct Claim(Arc<AtomicBool>);

impl Claim {
    fn new(taken: &Arc<AtomicBool>) -> Option<Claim> {
        (!taken.swap(true, AcqRel)).then(|| Claim(Arc::clone(taken)))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.store(false, Release);
    }
}
