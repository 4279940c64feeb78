//! Our own programs for the guest, and the one that serves it controllers, linked statically, so that they need nothing there.

use std::path::PathBuf;
use std::process::Command;

use super::place;

/// A profile of the workspace: optimised, with the checks of a test, and quicker to link than a release. What is measured
/// is better built in the profile `release`.
const DEFAULT_PROFILE: &str = "guest";
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What runs in the guest.
pub const GUEST: &str = "vm-guest";
/// What tests run in the guest beside it.
pub const OWN: [&str; 3] = ["attach-nvme", "corelane", "corelane-bench"];
/// What the host runs for a guest: the server of controllers.
pub const SERVER: &str = "nvme-model";

/// The folder that the programs are in, built from the tree as it is now.
///
/// # Errors
/// What cargo said.
pub fn built() -> Result<PathBuf, String> {
    // `tests/run` has built all of them just before.
    if std::env::var_os("CORELANE_BINARIES_BUILT").is_some() { Ok(folder()) } else { build() }
}

fn profile() -> String {
    std::env::var("CORELANE_VM_PROFILE").unwrap_or_else(|_| DEFAULT_PROFILE.to_owned())
}

fn folder() -> PathBuf {
    place::folder().join("build").join(TARGET).join(profile())
}

/// Builds the programs from the tree as it is now. Gives the folder that they are in.
///
/// # Errors
/// What cargo said.
pub fn build() -> Result<PathBuf, String> {
    let target = place::folder().join("build");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // A setting for the target adds to those of the workspace; the variables would replace them.
    let flags = format!("target.{TARGET}.rustflags=[\"-Ctarget-feature=+crt-static\"]");
    cargo.args([
        "build",
        "--quiet",
        "--workspace",
        "--profile",
        &profile(),
        "--target",
        TARGET,
        "--config",
        &flags,
    ]);
    for name in OWN.iter().chain([&GUEST, &SERVER]) {
        cargo.args(["--bin", name]);
    }
    for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(variable);
    }
    cargo.current_dir(place::workspace()).env("CARGO_TARGET_DIR", &target);
    let output = cargo.output().map_err(|err| format!("cannot start cargo: {err}"))?;
    if !output.status.success() {
        return Err(format!(
            "the guest's programs do not build:\n{}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    Ok(folder())
}
