//! The NVMe controllers of a run: each is started once, and stays until the run has ended.
//!
//! Besides what the driver can reach there are models: `model:256m` is a controller in software, in this process, with a
//! namespace of that size in memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use corelane_drivers::nvme::bus::Bus;
use corelane_drivers::nvme::spec::Nsid;
use corelane_drivers::nvme::{
    ControllerOptions, NamespaceName, NvmeController, NvmeDriver, NvmeOptions, Placement, Polling,
    default_namespace,
};
use corelane_engine::block::BlockError;
use corelane_nvme_model::{Idle, Model, ModelBus, ModelConfig, NamespaceConfig, PlacementConfig};

use crate::options::{CompletionPolling, JobSpec};

const MODEL: &str = "model:";
/// By what data is placed in a model.
const MODEL_PLACEMENT: PlacementConfig = PlacementConfig { handles: 8, groups: 1 };

/// The controllers that were started.
#[derive(Default)]
pub struct Controllers {
    started: Mutex<HashMap<String, Started>>,
}

struct Started {
    controller: Arc<NvmeController>,
    model: Option<Arc<Model>>,
}

impl Controllers {
    /// Opens the namespace called `name` as a job wants it; `read_only` if no job of the run writes there.
    ///
    /// # Errors
    /// [`BlockError::Open`], with the reason.
    pub fn open(&self, spec: &JobSpec, name: &str, read_only: bool) -> Result<NvmeDriver, BlockError> {
        let (controller, nsid) = self.controller(spec, name)?;
        let options = NvmeOptions { poll: polling(spec), read_only, placement: placement(spec) };
        NvmeDriver::open(&controller, nsid, &options)
    }

    /// The controller of the namespace called `name`, and which of its namespaces that is. Starts it, if nobody has.
    ///
    /// # Errors
    /// [`BlockError::Open`], with the reason.
    pub fn controller(&self, spec: &JobSpec, name: &str) -> Result<(Arc<NvmeController>, Nsid), BlockError> {
        let failed = |reason: String| BlockError::Open { filename: name.to_owned(), reason };
        // Held while a controller starts: two jobs must not start the same one.
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        if name.starts_with(MODEL) {
            if let Some(known) = started.get(name) {
                return Ok((Arc::clone(&known.controller), Nsid(1)));
            }
            let config = model_config(spec, name).map_err(failed)?;
            let model = Arc::new(Model::new(config).map_err(|error| failed(error.to_string()))?);
            let bus = ModelBus::new(name, Arc::clone(&model))?;
            let controller = start(bus, spec, name)?;
            let entry = Started { controller: Arc::clone(&controller), model: Some(model) };
            started.insert(name.to_owned(), entry);
            return Ok((controller, Nsid(1)));
        }
        let parsed: NamespaceName =
            name.parse().map_err(|error| failed(format!("{error}, or model:256m")))?;
        let address = parsed.controller.to_string();
        let controller = match started.get(&address) {
            Some(known) => Arc::clone(&known.controller),
            None => {
                let bus = parsed.controller.open().map_err(|error| failed(error.to_string()))?;
                let controller = start(bus, spec, name)?;
                started.insert(address, Started { controller: Arc::clone(&controller), model: None });
                controller
            }
        };
        let nsid = match parsed.nsid {
            Some(nsid) => nsid,
            None => {
                let active = controller.active_namespaces().map_err(|error| error.into_open(name))?;
                default_namespace(&active).ok_or_else(|| {
                    let list: Vec<String> = active.iter().map(|nsid| nsid.0.to_string()).collect();
                    failed(format!("which namespace? Add /N; active are: {}", list.join(", ")))
                })?
            }
        };
        Ok((controller, nsid))
    }
}

/// The first job that names a controller says how it is driven.
fn start(bus: Arc<dyn Bus>, spec: &JobSpec, name: &str) -> Result<Arc<NvmeController>, BlockError> {
    let options = ControllerOptions {
        io_timeout_ms: spec.target.nvme_io_timeout_ms,
        admin_timeout_ms: spec.target.nvme_admin_timeout_ms,
        queues_in_controller: spec.target.nvme_queues_in_controller,
        host_memory_bytes: spec.target.nvme_host_memory_bytes,
        ..ControllerOptions::default()
    };
    let controller = NvmeController::start(bus, &options).map_err(|error| error.into_open(name))?;
    let name = controller.address().to_owned();
    // What goes wrong with it explains the figures.
    controller.on_event(move |event| super::say(&format!("{name}: {event}")));
    Ok(controller)
}

/// What a name of a model asks for.
fn model_config(spec: &JobSpec, name: &str) -> Result<ModelConfig, String> {
    let namespace: NamespaceConfig = name[MODEL.len()..].parse().map_err(|error| {
        format!("{error}; right are model:256m (in memory), model:null:1t (which forgets all data) and model:zns:256m:4m (in zones)")
    })?;
    let core = spec.target.model_cpu.map(|cpu| cpu as usize);
    // A thread that was given a core has it for itself.
    let idle = if core.is_some() { Idle::Spin } else { Idle::BackOff };
    // It has what the first job that names it asks for.
    let placement = spec.target.placement.as_ref().map(|_| MODEL_PLACEMENT);
    Ok(ModelConfig { core, idle, ..ModelConfig::new(vec![NamespaceConfig { placement, ..namespace }]) })
}

/// By which handles the job's writes go. The table of options lets no more through than there can be.
pub fn placement(spec: &JobSpec) -> Option<Placement> {
    let list = spec.target.placement.as_ref()?;
    Some(Placement::handles(list).unwrap_or(Placement::ALL))
}

/// How lanes learn of completions. A lane that polls adaptively looks for a while itself; so does its queue.
fn polling(spec: &JobSpec) -> Polling {
    match spec.target.polling {
        CompletionPolling::Interrupt => Polling::Off,
        CompletionPolling::Adaptive { .. } => Polling::Adaptive,
        CompletionPolling::Busy => Polling::On,
    }
}

impl Drop for Controllers {
    /// A model has seen whether the driver keeps to the specification; that it does not is worth knowing.
    fn drop(&mut self) {
        let started = self.started.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (name, Started { controller, model }) in started.drain() {
            drop(controller);
            let violations = model.map(|model| model.violations()).unwrap_or_default();
            if let Some(first) = violations.first() {
                super::say(&format!(
                    "{name}: {} times the specification was not kept; first: {first:?}",
                    violations.len()
                ));
            }
        }
    }
}
