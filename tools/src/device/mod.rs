//! `corelane device`: which NVMe controllers the machine has, giving them to VFIO and back, huge pages, and what else
//! Corelane needs.

mod bind;
mod doctor;
mod error;
mod function;
mod host;
mod hugepages;
mod list;
mod signature;
mod users;

use std::io::Write;

use clap::{Args, Subcommand};
use corelane_dma::vfio::PciAddress;
use serde::Serialize;

pub use error::DeviceError;
pub use function::disk_name;

use crate::output::print_json;
use crate::{Form, ToolError};
use bind::Bound;
use host::Host;
use hugepages::{Amount, Pool};

/// The subcommands.
#[derive(Subcommand)]
pub enum Device {
    /// List the NVMe controllers: address, model, driver, IOMMU group, NUMA node, namespaces and who uses them.
    List(Output),
    /// Give a controller to VFIO, so that Corelane can drive it. Its /dev/nvme... disappear.
    ///
    /// Refused if anything on its namespaces is mounted, used as swap or by LVM, MD, dm-crypt or ZFS, or if they hold a file
    /// system or a partition table. Lasts until the machine is switched off; `driverctl set-override ADDRESS vfio-pci` lasts longer.
    Bind(Bind),
    /// Give controllers back to the kernel's own driver.
    Unbind(Unbind),
    /// Show, reserve and give back huge pages.
    #[command(subcommand)]
    Hugepages(Hugepages),
    /// Check what Corelane needs of the machine, and print for each the command that mends it. Exits with 1 if something does
    /// not work.
    Doctor(Output),
}

/// How to print.
#[derive(Args)]
pub struct Output {
    /// The form of the output.
    #[arg(long, short, value_enum, value_name = "FORM", default_value_t = Form::Human)]
    output: Form,
}

/// What to bind.
#[derive(Args)]
pub struct Bind {
    /// PCI addresses, as 0000:01:00.0.
    #[arg(value_name = "ADDRESS", required = true)]
    addresses: Vec<PciAddress>,
    /// Take the controller even if it is in use or something is on it.
    #[arg(long)]
    force: bool,
    /// Let this group of users, by name or number, use the controller without being root.
    #[arg(long, value_name = "GROUP", value_parser = bind::group)]
    group: Option<u32>,
}

/// What to unbind.
#[derive(Args)]
pub struct Unbind {
    /// PCI addresses, as 0000:01:00.0.
    #[arg(value_name = "ADDRESS", required = true)]
    addresses: Vec<PciAddress>,
}

/// What to do with huge pages.
#[derive(Subcommand)]
pub enum Hugepages {
    /// Show how many there are and how many are free, on each NUMA node.
    Show(Output),
    /// Reserve more of them.
    Reserve {
        /// How many pages, or how much memory: 128, 256M, 1G.
        amount: Amount,
        #[command(flatten)]
        which: Which,
    },
    /// Give back those that nobody uses.
    GiveBack {
        /// How many pages, or how much memory; all that are free unless this is given.
        amount: Option<Amount>,
        #[command(flatten)]
        which: Which,
    },
}

/// Which huge pages.
#[derive(Args)]
pub struct Which {
    /// The NUMA node to take them from; the kernel spreads them unless this is given.
    #[arg(long, value_name = "NODE")]
    node: Option<u32>,
    /// The size of a page in KiB.
    #[arg(long, value_name = "KIB", default_value_t = 2048)]
    page_kib: u64,
}

/// Runs a subcommand. False if it found that not all is well.
///
/// # Errors
/// Whatever stands in the way.
pub fn run(device: &Device) -> Result<bool, ToolError> {
    let host = Host::real();
    let mut out = std::io::stdout().lock();
    let mut well = true;
    match device {
        Device::List(Output { output }) => {
            let listed = list::all(&host);
            print(&mut out, *output, "devices", &listed, |out| list::print(out, &listed))?;
        }
        Device::Doctor(Output { output }) => {
            let findings = doctor::examine(&host, &doctor::Process::this());
            well = doctor::all_is_well(&findings);
            print(&mut out, *output, "checks", &findings, |out| doctor::print(out, &findings))?;
        }
        Device::Bind(Bind { addresses, force, group }) => {
            for address in addresses {
                let bound = bind::bind(&host, *address, *force, *group)?;
                print_bound(&mut out, &bound)?;
            }
        }
        Device::Unbind(Unbind { addresses }) => {
            for address in addresses {
                print_bound(&mut out, &bind::unbind(&host, *address)?)?;
            }
        }
        Device::Hugepages(hugepages) => run_hugepages(&host, &mut out, hugepages)?,
    }
    out.flush()?;
    Ok(well)
}

fn run_hugepages(host: &Host, out: &mut impl Write, hugepages: &Hugepages) -> Result<(), ToolError> {
    match hugepages {
        Hugepages::Show(Output { output }) => {
            let pools = hugepages::show(host);
            print(out, *output, "hugepages", &pools, |out| {
                pools.iter().try_for_each(|pool| print_pool(out, pool))
            })
        }
        Hugepages::Reserve { amount, which } => {
            let before = hugepages::pool(host, which.node, which.page_kib)?;
            Ok(print_pool(out, &hugepages::reserve(host, before, amount.pages(which.page_kib))?)?)
        }
        Hugepages::GiveBack { amount, which } => {
            let before = hugepages::pool(host, which.node, which.page_kib)?;
            let pages = amount.map(|amount| amount.pages(which.page_kib));
            Ok(print_pool(out, &hugepages::give_back(host, before, pages)?)?)
        }
    }
}

/// Prints in the form that is asked for; in JSON as an object with the one member `name`.
fn print<W: Write>(
    out: &mut W,
    form: Form,
    name: &str,
    value: &impl Serialize,
    human: impl FnOnce(&mut W) -> std::io::Result<()>,
) -> Result<(), ToolError> {
    match form {
        Form::Human => Ok(human(out)?),
        Form::Json => {
            let mut object = serde_json::Map::new();
            object.insert(name.to_owned(), serde_json::to_value(value)?);
            print_json(out, &object.into())
        }
    }
}

fn print_bound(out: &mut impl Write, bound: &Bound) -> std::io::Result<()> {
    let name = |driver: &Option<String>| driver.clone().unwrap_or_else(|| "none".to_owned());
    write!(out, "{}: driver {}", bound.address, name(&bound.now))?;
    if bound.before != bound.now {
        write!(out, " (before: {})", name(&bound.before))?;
    }
    if let Some(file) = &bound.file {
        write!(out, ", {}", file.display())?;
    }
    writeln!(out)?;
    for other in &bound.in_the_way {
        writeln!(
            out,
            "    {other} is in the same IOMMU group and has a driver of the kernel: VFIO needs it bound or unbound too"
        )?;
    }
    Ok(())
}

fn print_pool(out: &mut impl Write, pool: &Pool) -> std::io::Result<()> {
    let node = pool.node.map_or("all nodes".to_owned(), |node| format!("node {node}"));
    let Pool { page_kib, total, free, .. } = pool;
    writeln!(out, "{node}: {total} pages of {page_kib} KiB, {free} free")
}
