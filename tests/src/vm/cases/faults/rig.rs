//! A started controller whose commands have a second, and what it told meanwhile.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use corelane_drivers::nvme::bus::{Bus, VfioBus};
use corelane_drivers::nvme::recovery::State;
use corelane_drivers::nvme::{ControllerEvent, ControllerOptions, NvmeController};
use corelane_engine::block::{BlockBackend, Errno};

use super::load::Failure;
use crate::vm::Guest;
use crate::vm::cases::nvme::rig::{POLL, backend};

/// The time of a command; the driver looks eight times in it.
pub const DEADLINE: Duration = Duration::from_secs(1);
/// How much later than its deadline a request may end.
pub const GRACE: Duration = Duration::from_secs(2);
/// How long a thing may take that is no request.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// COMMAND of the configuration space (PCI Local Bus specification 3.0, 6.2.2).
const COMMAND: u32 = 4;

/// See the module's documentation.
pub struct Rig {
    /// The function, to be changed behind the driver's back.
    pub bus: Arc<VfioBus>,
    /// The controller.
    pub controller: Arc<NvmeController>,
    events: Arc<Mutex<Vec<ControllerEvent>>>,
}

impl Rig {
    /// Binds the controller `name` to vfio-pci and starts it.
    pub fn new(guest: &Guest, name: &str) -> Rig {
        let function = guest.function(name);
        function.bind_vfio();
        let address = function.address().parse().expect("an address of the bus");
        let bus = Arc::new(VfioBus::open(address).unwrap_or_else(|err| panic!("{err}")));
        let time_ms = DEADLINE.as_millis() as u64;
        // What is asked of QEMU's admin queue takes longer when the machine is busy.
        let options =
            ControllerOptions { io_timeout_ms: time_ms, admin_timeout_ms: 8 * time_ms, ..Default::default() };
        let controller = NvmeController::start(Arc::<VfioBus>::clone(&bus), &options);
        let controller = controller.unwrap_or_else(|err| panic!("{err}"));
        let events = Arc::new(Mutex::new(Vec::new()));
        let theirs = Arc::clone(&events);
        controller.on_event(move |event| theirs.lock().expect("nobody panicked").push(event.clone()));
        Rig { bus, controller, events }
    }

    /// A backend on namespace `nsid`.
    pub fn backend(&self, nsid: u32) -> BlockBackend {
        backend(&self.controller, nsid, &POLL)
    }

    /// Whether there was such an event.
    pub fn saw(&self, is_it: impl Fn(&ControllerEvent) -> bool) -> bool {
        self.events.lock().expect("nobody panicked").iter().any(is_it)
    }

    /// How many such events there were.
    pub fn count(&self, is_it: impl Fn(&ControllerEvent) -> bool) -> usize {
        self.events.lock().expect("nobody panicked").iter().filter(|event| is_it(event)).count()
    }

    /// What the first of the events says of which `of` gives something.
    pub fn find<T>(&self, of: impl FnMut(&ControllerEvent) -> Option<T>) -> Option<T> {
        self.events.lock().expect("nobody panicked").iter().find_map(of)
    }

    /// Clears a bit of the function's command register.
    pub fn clear_command_bit(&self, bit: u16) {
        let mut command = [0; 2];
        self.bus.config_read(COMMAND, &mut command).expect("it reads");
        let cleared = u16::from_le_bytes(command) & !bit;
        self.bus.config_write(COMMAND, &cleared.to_le_bytes()).expect("it writes");
    }

    /// Waits until the controller was brought back so often, and is driven.
    pub fn wait_for_resets(&self, count: u64) {
        wait_until("the driver brings the controller back", || {
            self.controller.resets() >= count && self.controller.state() == State::Running
        });
    }
}

/// Waits until `so` holds.
///
/// # Panics
/// When it does not in half a minute.
pub fn wait_until(what: &str, so: impl Fn() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < PATIENCE, "{what}: not in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// All requests that failed did so in time, and with `errno`, if any may.
pub fn assert_in_time(failures: &[Failure], errno: Option<Errno>) {
    for failure in failures {
        assert_eq!(Some(failure.errno), errno, "{failure:?}");
        assert!(failure.after < DEADLINE + GRACE, "{failure:?}");
    }
}
