//! Controllers that are pulled out and put in again.

use std::path::Path;

use super::case;
use crate::vm::{Case, Guest};

/// See the module's documentation.
pub const CASES: &[Case] = &[case("faults::the_kernel_sees_a_controller_go_and_come", kernel_sees_it)];

/// The machine does what the other cases need, as Linux's own driver sees it.
fn kernel_sees_it(guest: &Guest) {
    const NAME: &str = "pulled";
    let function = guest.function(NAME);
    for _ in 0..2 {
        let device = function.bind_kernel(1);
        guest.pull_out(NAME);
        guest.wait_for_removal();
        assert!(!Path::new(&device).exists(), "{} is gone", device.display());
        guest.put_in(NAME);
        function.wait_until_found();
    }
}
