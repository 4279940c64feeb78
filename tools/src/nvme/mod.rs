//! `corelane nvme`: commands to NVMe controllers in nvme-cli's manner, whoever drives them.
//!
//! [`back_end`] is the seam: what executes a command. `target` opens one by its name, `show` prints answers, and the other
//! modules put the commands together.

mod args;
mod back_end;
mod change;
mod error;
mod fdp;
mod fields;
mod ioctl;
mod kernel;
mod passthru;
mod query;
mod show;
mod target;
mod zns;

pub use args::Nvme;
pub use error::NvmeToolError;

use std::io::{BufRead, Write};

use corelane_drivers::nvme::spec::Nsid;
use serde_json::Value;

use crate::ToolError;
use crate::output::print_json;
use args::{Device, Format};
use target::Target;

impl Device {
    /// Opens it, with the namespace that is meant.
    fn open(&self) -> Result<Target, NvmeToolError> {
        self.open_for(self.timeout)
    }

    /// The same for commands that may take `timeout_ms`.
    fn open_for(&self, timeout_ms: u64) -> Result<Target, NvmeToolError> {
        let mut target = Target::open(&self.device, timeout_ms)?;
        if let Some(nsid) = self.namespace_id {
            target.nsid = Some(Nsid(nsid));
        }
        Ok(target)
    }

    /// Prints an answer in the form that is asked for.
    fn print(&self, normal: impl FnOnce() -> String, json: impl FnOnce() -> Value) -> Result<(), ToolError> {
        print(self.output, normal, json)
    }
}

fn print(
    format: Format,
    normal: impl FnOnce() -> String,
    json: impl FnOnce() -> Value,
) -> Result<(), ToolError> {
    let mut out = std::io::stdout().lock();
    match format {
        Format::Normal => out.write_all(normal().as_bytes())?,
        Format::Json => print_json(&mut out, &json())?,
    }
    Ok(out.flush()?)
}

/// Asks whether to go on, unless `force` is given; everything but `y` and `yes` is no.
///
/// # Errors
/// [`NvmeToolError::NotConfirmed`].
fn confirm(what: &str, force: bool) -> Result<(), NvmeToolError> {
    if force {
        return Ok(());
    }
    let mut asked = std::io::stderr().lock();
    let _ = write!(asked, "{what} Go on? [y/N] ").and_then(|()| asked.flush());
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    let yes = read.is_ok() && ["y", "yes"].contains(&answer.trim().to_lowercase().as_str());
    if yes { Ok(()) } else { Err(NvmeToolError::NotConfirmed) }
}

/// Runs a subcommand.
///
/// # Errors
/// Whatever stands in the way, and the controller's refusal.
pub fn run(nvme: &Nvme) -> Result<(), ToolError> {
    match nvme {
        Nvme::List { devices, output } => query::list(devices, *output),
        Nvme::IdCtrl(device) => query::id_ctrl(device),
        Nvme::IdNs(device) => query::id_ns(device),
        Nvme::ListNs(device) => query::list_ns(device),
        Nvme::SmartLog(device) => query::smart_log(device),
        Nvme::ErrorLog { device, log_entries } => query::error_log(device, *log_entries),
        Nvme::FwLog(device) => query::fw_log(device),
        Nvme::GetFeature(feature) => query::get_feature(feature),
        Nvme::GetLog { device, log_id, log_len, lpo, raw_binary } => {
            query::get_log(device, *log_id, *log_len, *lpo, *raw_binary)
        }
        Nvme::SetFeature(feature) => change::set_feature(feature),
        Nvme::Format(format) => change::format(format),
        Nvme::Sanitize(sanitize) => change::sanitize(sanitize),
        Nvme::NsRescan(device) => Ok(device.open()?.back_end.rescan()?),
        Nvme::Reset(device) => Ok(device.open()?.back_end.reset()?),
        Nvme::Zns(zns) => zns::run(zns),
        Nvme::Fdp(fdp) => fdp::run(fdp),
        Nvme::AdminPassthru(passthru) => passthru::run(passthru, true),
        Nvme::IoPassthru(passthru) => passthru::run(passthru, false),
    }
}
