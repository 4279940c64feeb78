//! `corelane man`: manual pages, from the same descriptions as `--help`.

use std::path::PathBuf;

use clap::{Args, Command};

use crate::ToolError;

/// Where to write them.
#[derive(Args)]
pub struct Man {
    /// The folder; made if it is not there.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

/// Writes `corelane.1`, and a page for each command and each of theirs: `corelane-device-bind.1`.
///
/// # Errors
/// [`ToolError::Man`].
pub fn run(command: Command, man: &Man) -> Result<(), ToolError> {
    let failed = |source| ToolError::Man { path: man.dir.clone(), source };
    std::fs::create_dir_all(&man.dir).map_err(failed)?;
    clap_mangen::generate_to(command, &man.dir).map_err(failed)
}
