//! What is done before a lane's thread starts: its files are made ready, its devices opened, its workload worked out.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Sender;

use super::configs::{self, LaneIndex};
use super::control::LaneControl;
use super::devices::Devices;
use super::error::RunError;
use super::files::{self, Need};
use super::lane::{Event, LanePlan};
use super::region::{self, Present};
use crate::options::{EngineKind, Extent, JobSpec, Plan};
use crate::stats::Clock;

/// Length of a null device whose job says nothing (QEMU's default for `null-co`).
const NULL_BYTES: u64 = 1 << 30;

/// What all lanes of a run are made from.
pub struct Setup {
    devices: Devices,
    /// By job; whether it was drawn.
    seeds: Vec<(u64, bool)>,
    stop: Arc<AtomicBool>,
}

impl Setup {
    /// For the jobs of `plan`. Draws the seeds of those that are not to repeat.
    pub fn new(plan: &Plan, stop: Arc<AtomicBool>) -> Setup {
        let seed = |given: Option<u64>| given.map_or_else(|| (draw_seed(), true), |seed| (seed, false));
        let seeds = plan.jobs.iter().map(|job| seed(job.workload.seed)).collect();
        Setup { devices: Devices::new(&plan.jobs), seeds, stop }
    }

    /// The seed of a job that was given none and is not to repeat; the report says it, so that the run can be repeated
    /// after all.
    pub fn drawn_seed(&self, job: usize) -> Option<u64> {
        self.seeds.get(job).filter(|(_, drawn)| *drawn).map(|(seed, _)| *seed)
    }

    /// Makes the files of a job ready for all its clones.
    ///
    /// # Errors
    /// Whatever is wrong with the files, or with the job's size.
    pub fn prepare_files(&self, spec: &JobSpec) -> Result<(), RunError> {
        if spec.target.engine != EngineKind::IoUring {
            return Ok(());
        }
        for clone in 0..spec.num_jobs {
            for path in spec.file_paths(clone) {
                let layout = self.layout(spec, clone, &path)?;
                let need = Need::of(spec, layout.file_bytes, self.devices.locking(spec, &path));
                files::prepare(&path, need, &self.stop, |bytes| {
                    super::say(&format!(
                        "{}: laying out '{}' ({} MiB to write)",
                        spec.name,
                        path.display(),
                        bytes.div_ceil(1 << 20)
                    ));
                })?;
            }
        }
        Ok(())
    }

    /// What the thread of a lane is given.
    ///
    /// # Errors
    /// Whatever is wrong with the files or the workload, or what a driver says.
    pub fn lane(
        &self,
        spec: &Arc<JobSpec>,
        index: LaneIndex,
        (control, clock, events): (Arc<LaneControl>, Option<Clock>, Sender<Event>),
    ) -> Result<LanePlan, RunError> {
        if index.clone == 0 {
            // An earlier job may have deleted them (`unlink`).
            self.prepare_files(spec)?;
        }
        let paths = spec.file_paths(index.clone);
        let count = paths.len();
        let mut opened = Vec::with_capacity(count);
        for (number, path) in paths.iter().enumerate() {
            let layout = self.layout(spec, index.clone, path)?;
            let device = self.devices.open(spec, index.job, path, layout.file_bytes)?;
            let Some(&region) = layout.regions.get(index.clone as usize) else { continue };
            let seed = self.seeds.get(index.job).map_or(0, |(seed, _)| *seed);
            opened.push((
                device,
                configs::workload(spec, index, region, layout.size_bytes, (number, count), seed),
            ));
        }
        Ok(LanePlan { spec: Arc::clone(spec), index, files: opened, control, clock, events })
    }

    /// What the file or device is like, and who works where in it.
    fn layout(&self, spec: &JobSpec, clone: u32, path: &Path) -> Result<region::Layout, RunError> {
        let present = match spec.target.engine {
            EngineKind::IoUring => files::look(path)?,
            EngineKind::Null => {
                let said = spec.target.file_size_bytes.is_some()
                    || matches!(spec.workload.size, Some(Extent::Bytes(_)));
                Present { length_bytes: (!said).then_some(NULL_BYTES), can_grow: true }
            }
            EngineKind::Mem => Present { length_bytes: None, can_grow: true },
            EngineKind::Nvme | EngineKind::NvmeUring => {
                let length_bytes = Some(self.devices.namespace_bytes(spec, path)?);
                Present { length_bytes, can_grow: false }
            }
        };
        let files = spec.file_paths(clone).len() as u64;
        region::resolve(spec, path, present, files, is_shared(spec, path))
    }
}

/// Whether all clones of the job work on this file.
fn is_shared(spec: &JobSpec, path: &Path) -> bool {
    let others: Vec<PathBuf> = spec.file_paths(spec.num_jobs - 1);
    others.iter().any(|other| other == path)
}

/// A seed that no other run has.
fn draw_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}
