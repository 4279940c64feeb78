//! Other programs that tests run: our own, built from this tree, and those of other projects.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::{Lack, skip};

/// A command that runs a program of another project, or `None` after saying that the test is skipped without it.
pub fn foreign_program(name: &'static str) -> Option<Command> {
    let found = find(name);
    if found.is_none() {
        skip(Lack::Program(name), "it is not installed");
    }
    found.map(Command::new)
}

/// Where the program `name` is, if it is installed.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// A command that runs the binary `name` of this workspace, built from the tree as it is now, in the profile of the
/// tests.
///
/// # Panics
/// When it does not build.
pub fn own_program(name: &str) -> Command {
    static BUILT: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    // A test binary is TARGET/PROFILE/deps/NAME.
    let exe = std::env::current_exe().unwrap_or_else(|err| panic!("cannot find the test's own file: {err}"));
    let folder = exe.parent().and_then(Path::parent).expect("a test binary is below a profile's folder");
    // `tests/run` has built all of them just before: do not ask cargo once a test.
    if std::env::var_os("CORELANE_BINARIES_BUILT").is_none() {
        // A build that failed before fails again, so what it left behind does not matter.
        let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
        if !built.contains(name) {
            build(name, folder);
            built.insert(name.to_owned());
        }
    }
    Command::new(folder.join(name))
}

/// Builds the binary `name` into the profile's folder `folder`.
fn build(name: &str, folder: &Path) {
    let profile = match folder.file_name().and_then(OsStr::to_str) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let target = folder.parent().expect("a profile's folder is below the target folder");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--workspace", "--profile", profile, "--bin", name]);
    run(cargo.current_dir(env!("CARGO_MANIFEST_DIR")).env("CARGO_TARGET_DIR", target));
}

/// Runs a command to its end and gives what it printed.
///
/// # Panics
/// When it cannot be started or fails, with all that it printed.
pub fn run(command: &mut Command) -> String {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|err| panic!("cannot start {}: {err}", command.get_program().display()));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ended with {}:\n{printed}{errors}", output.status);
    printed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_is_none() {
        assert_eq!(find("corelane-has-no-such-program"), None);
        let mut shell = foreign_program("sh").expect("every machine has a shell");
        assert_eq!(run(shell.args(["-c", "echo said"])), "said\n");
    }

    #[test]
    #[should_panic(expected = "lost")]
    fn a_command_that_fails_shows_what_it_printed() {
        run(Command::new("sh").args(["-c", "echo lost >&2; exit 3"]));
    }
}
