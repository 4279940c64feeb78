//! What the driver does when a controller model does what it should not, a fault at a time; `docs/nvme.md` has the list. What
//! needs to be exact to the step is tried beside the code (`drivers/src/nvme/tests`), what needs chance in `nvme_faults`.

mod close;
mod events;
mod rig;
mod rows;
