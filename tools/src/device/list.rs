//! `corelane device list`: the NVMe controllers of the machine, who has them, and what is on them.

use std::io::Write;

use serde::Serialize;

use super::function::{self, Function};
use super::host::Host;
use super::users::Usage;
use crate::output::size;

/// A controller and the uses of its namespaces.
#[derive(Debug, Serialize)]
pub struct Listed {
    #[serde(flatten)]
    function: Function,
    namespaces: Vec<Usage>,
}

/// Looks at all of them.
pub fn all(host: &Host) -> Vec<Listed> {
    function::all(host)
        .into_iter()
        .map(|function| Listed {
            namespaces: function.disks.iter().map(|disk| Usage::of(host, disk)).collect(),
            function,
        })
        .collect()
}

/// Prints them for people.
pub fn print(out: &mut impl Write, listed: &[Listed]) -> std::io::Result<()> {
    if listed.is_empty() {
        return writeln!(out, "there are no NVMe controllers on the PCI bus");
    }
    listed.iter().try_for_each(|listed| print_one(out, listed))
}

fn print_one(out: &mut impl Write, Listed { function, namespaces }: &Listed) -> std::io::Result<()> {
    let model = function.model.as_deref().unwrap_or("model unknown");
    let group = function.iommu_group.map_or("none".to_owned(), |group| group.to_string());
    let driver = function.driver.as_deref().unwrap_or("none");
    writeln!(
        out,
        "{}  {model} [{}]  driver {driver}  IOMMU group {group}  NUMA node {}",
        function.address, function.id, function.numa_node
    )?;
    for sibling in &function.group {
        let driver = sibling.driver.as_deref().unwrap_or("none");
        writeln!(out, "    shares its group with {} (driver {driver})", sibling.address)?;
    }
    for usage in namespaces {
        let nsid = usage.disk.nsid.map_or("?".to_owned(), |nsid| nsid.to_string());
        let uses = usage.describe();
        let uses = if uses.is_empty() { "not in use".to_owned() } else { uses.join("; ") };
        writeln!(out, "    /{nsid}  {}  {}  {uses}", usage.disk.name, size(usage.disk.size_bytes))?;
    }
    Ok(())
}
