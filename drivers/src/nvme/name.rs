//! Names of controllers and namespaces, as users write them.
//!
//! `0000:01:00.0/1` is namespace 1 of the controller at that PCI address, `vfio-user:/run/nvme/cntrl/1` that of a controller which
//! a server offers on the socket `/run/nvme/cntrl` (or on `cntrl` in a directory of that name). Without a number it is
//! [`default_namespace`](super::default_namespace).

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use corelane_dma::vfio::PciAddress;

use super::bus::vfio_user::{VfioUserBus, VfioUserOptions};
use super::bus::{Bus, BusError, VfioBus};
use super::spec::Nsid;

const VFIO_USER: &str = "vfio-user:";

/// Where a controller is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ControllerName {
    /// Behind vfio-pci, at a PCI address.
    Pci(PciAddress),
    /// Offered by a server on a Unix socket.
    VfioUser(PathBuf),
}

impl ControllerName {
    /// Opens the way to the controller. Blocks.
    ///
    /// # Errors
    /// Whatever VFIO or the server have against it.
    pub fn open(&self) -> Result<Arc<dyn Bus>, BusError> {
        Ok(match self {
            ControllerName::Pci(address) => Arc::new(VfioBus::open(*address)?),
            ControllerName::VfioUser(path) => Arc::new(VfioUserBus::open(path, &VfioUserOptions::default())?),
        })
    }
}

impl fmt::Display for ControllerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ControllerName::Pci(address) => address.fmt(f),
            ControllerName::VfioUser(path) => write!(f, "{VFIO_USER}{}", path.display()),
        }
    }
}

/// A controller, and which of its namespaces, if that was said.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct NamespaceName {
    /// The controller.
    pub controller: ControllerName,
    /// The namespace; never 0.
    pub nsid: Option<Nsid>,
}

/// A name that is none.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("'{text}' names no NVMe namespace: {what}; right are 0000:01:00.0/1 and vfio-user:/path/of/socket/1")]
pub struct BadName {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub what: String,
}

impl FromStr for NamespaceName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<NamespaceName, BadName> {
        let bad = |what: &str| BadName { text: text.to_owned(), what: what.to_owned() };
        let (rest, number) = split_number(text);
        let nsid = match number.map(str::parse::<u32>) {
            None => None,
            Some(Ok(number)) if (1..u32::MAX).contains(&number) => Some(Nsid(number)),
            Some(_) => return Err(bad("the namespace's number must be from 1 to 4294967294")),
        };
        if let Some(path) = rest.strip_prefix(VFIO_USER) {
            if path.is_empty() {
                return Err(bad("the path of the socket is missing"));
            }
            return Ok(NamespaceName { controller: ControllerName::VfioUser(path.into()), nsid });
        }
        let address = rest.parse::<PciAddress>().map_err(|error| bad(&error.to_string()))?;
        Ok(NamespaceName { controller: ControllerName::Pci(address), nsid })
    }
}

/// Splits `/7` off the end.
fn split_number(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once('/') {
        Some((rest, number)) if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => {
            (rest, Some(number))
        }
        _ => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NamespaceName {
        text.parse().unwrap()
    }

    #[test]
    fn names_say_where_and_which() {
        for (text, controller, nsid) in [
            ("0000:01:00.0/1", "0000:01:00.0", Some(1)),
            ("01:00.0", "0000:01:00.0", None),
            ("vfio-user:/run/nvme/cntrl/12", "vfio-user:/run/nvme/cntrl", Some(12)),
            ("vfio-user:/run/nvme/cntrl", "vfio-user:/run/nvme/cntrl", None),
            ("vfio-user:socket", "vfio-user:socket", None),
        ] {
            let name = name(text);
            assert_eq!(
                (name.controller.to_string().as_str(), name.nsid),
                (controller, nsid.map(Nsid)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_reason() {
        for (text, what) in [
            ("0000:01:00.0/0", "number"),
            ("0000:01:00.0/4294967295", "number"),
            ("0000:01:00.0/99999999999", "number"),
            ("vfio-user:", "path"),
            ("/dev/nvme0n1", "PCI"),
            ("", "PCI"),
        ] {
            let error = text.parse::<NamespaceName>().unwrap_err().to_string();
            assert!(error.contains(what) && error.contains(&format!("'{text}'")), "{error}");
        }
    }
}
