//! Which controller, as users name it, and opening it.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use corelane_drivers::nvme::NamespaceName;
use corelane_drivers::nvme::spec::Nsid;
use corelane_nvme_model::{Model, ModelBus, ModelConfig, NamespaceConfig};

use super::NvmeToolError;
use super::back_end::{BackEnd, Driven};
use super::kernel::Kernel;

const MODEL: &str = "model:";

/// A controller that is open.
pub struct Target {
    /// What executes commands.
    pub back_end: Box<dyn BackEnd>,
    /// The namespace that its name names.
    pub nsid: Option<Nsid>,
}

impl Target {
    /// Opens the controller that `name` names. Starts it, if it is one that this process drives.
    ///
    /// # Errors
    /// [`NvmeToolError::Name`], and whatever stands in the way.
    pub fn open(name: &str, timeout_ms: u64) -> Result<Target, NvmeToolError> {
        if name.starts_with("/dev/") {
            let kernel = Kernel::open(Path::new(name), timeout_ms)?;
            let nsid = kernel.nsid();
            return Ok(Target { back_end: Box::new(kernel), nsid });
        }
        if let Some(size) = name.strip_prefix(MODEL) {
            let namespace = NamespaceConfig::from_str(size)
                .map_err(|error| NvmeToolError::Name { name: name.to_owned(), what: error.to_string() })?;
            let made = |error: &dyn std::fmt::Display| NvmeToolError::Model(error.to_string());
            let model =
                Arc::new(Model::new(ModelConfig::new(vec![namespace])).map_err(|error| made(&error))?);
            let bus = ModelBus::new(name, model).map_err(|error| made(&error))?;
            return Ok(Target { back_end: Box::new(Driven::start(bus, timeout_ms)?), nsid: None });
        }
        let parsed: NamespaceName = name.parse().map_err(|error: corelane_drivers::nvme::BadName| {
            NvmeToolError::Name { name: name.to_owned(), what: error.what }
        })?;
        let driven = Driven::start(parsed.controller.open()?, timeout_ms)?;
        Ok(Target { back_end: Box::new(driven), nsid: parsed.nsid })
    }
}
