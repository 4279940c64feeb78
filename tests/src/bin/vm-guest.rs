//! The first process of a virtual machine that tests run in, and the process of each of its cases.

use std::process::ExitCode;

fn main() -> ExitCode {
    corelane_tests::vm::guest_main()
}
