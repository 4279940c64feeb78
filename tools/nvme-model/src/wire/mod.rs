//! What travels between host and controller, as the NVMe specifications define it (base 2.0, NVM command set 1.0, PCIe
//! transport 1.0; section numbers are of these). The controller's own definitions: nothing is shared with the driver.
//!
//! Invariant: the structures are little-endian, without padding, and exactly as long as the specification says (checked at
//! compile time), so that their bytes can be handed out as they are.

pub mod command;
pub mod feature;
pub mod identify;
pub mod log;
pub mod register;
pub mod status;
