//! What the host does to a machine's controllers, in QEMU's words.

use serde_json::json;

use super::Guest;
use crate::vm::protocol::Request;

impl Guest {
    /// Asks the guest's kernel to let go of the controller `name`, which is behind a port of its own, as if someone had pressed
    /// the button of its slot. See [`Guest::wait_for_removal`].
    ///
    /// # Panics
    /// When QEMU refuses.
    pub fn pull_out(&self, name: &str) {
        self.qmp("device_del", json!({ "id": name }));
    }

    /// Waits until the guest's kernel has let go of a controller, and QEMU has removed it.
    ///
    /// # Panics
    /// When that does not come.
    pub fn wait_for_removal(&self) {
        // The controller's own end has its name; that of what it brought along has none.
        while self.ask(&Request::Event { name: "DEVICE_DELETED".to_owned() })["data"]["device"].is_null() {}
    }

    /// Puts the controller `name` in again, after it has been removed.
    ///
    /// # Panics
    /// When QEMU refuses.
    pub fn put_in(&self, name: &str) {
        self.monitor(&format!("device_add {}", self.machine.device(name)));
    }

    /// Gives QEMU a command of its monitor for people, where its control channel has none.
    ///
    /// # Panics
    /// When QEMU says anything, which only happens when it refuses.
    pub fn monitor(&self, line: &str) {
        assert_eq!(self.say(line), "", "{line}");
    }

    /// Has the port of the controller `name` report an error of PCI Express's advanced error reporting, as `COMP_TIME`.
    ///
    /// # Panics
    /// When QEMU refuses.
    pub fn inject_link_error(&self, name: &str, error: &str) {
        let said = self.say(&format!("pcie_aer_inject_error {name}-port {error}"));
        assert!(said.starts_with("OK"), "{error}: {said}");
    }

    /// What QEMU answers to a command of its monitor for people.
    fn say(&self, line: &str) -> String {
        let said = self.qmp("human-monitor-command", json!({ "command-line": line }));
        said.as_str().unwrap_or_default().to_owned()
    }
}
