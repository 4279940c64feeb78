//! The inside of the virtual machine: the init process that runs the cases, and what a case finds there.

mod ask;
mod child;
mod init;
mod log;
mod pci;
mod plug;
mod port;

use std::process::ExitCode;
use std::time::{Duration, Instant};

pub use pci::PciFunction;

use super::{Controller, Machine, find_case};

/// What a case is given: the machine that it runs in.
#[derive(Clone, Copy, Debug)]
pub struct Guest {
    machine: &'static Machine,
}

impl Guest {
    /// The machine's controller that is called `name`: as data, and where it is.
    ///
    /// # Panics
    /// When the machine has none of that name.
    pub fn controller(&self, name: &str) -> (&'static Controller, PciFunction) {
        let (controller, address) = self.machine.controller(name);
        (controller, PciFunction::at(address))
    }

    /// All controllers of the machine.
    pub fn controllers(&self) -> impl Iterator<Item = &'static Controller> {
        self.machine.controllers.iter()
    }

    /// The PCI function of the served controller that is called `name`.
    ///
    /// # Panics
    /// When the machine has none of that name.
    pub fn served(&self, name: &str) -> PciFunction {
        PciFunction::at(self.machine.served(name))
    }

    /// The PCI function of the controller that is called `name`.
    ///
    /// # Panics
    /// When the machine has none of that name.
    pub fn function(&self, name: &str) -> PciFunction {
        self.controller(name).1
    }
}

/// The guest's program: init when it is the first process, and a case's process when it has a case's name as argument.
pub fn guest_main() -> ExitCode {
    if std::process::id() == 1 {
        init::run()
    }
    let name = std::env::args().nth(1).unwrap_or_default();
    child::run(find_case(&name).unwrap_or_else(|| panic!("there is no case {name:?}")))
}

/// Waits until `ready` gives something.
///
/// # Panics
/// When it does not for `limit`; `what` is what did not come.
fn wait_for<T>(what: &str, limit: Duration, mut ready: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(got) = ready() {
            return got;
        }
        assert!(start.elapsed() < limit, "no {what} after {limit:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
