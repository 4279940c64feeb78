//! Runs the built `corelane-bench` in a folder of its own.
#![allow(dead_code)] // Each test binary takes what it needs.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A folder in the build's own scratch space: an ordinary file system, other than /tmp on many machines.
pub fn folder() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("the scratch space can be written")
}

/// The tool, to be run in `folder`.
pub fn tool(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_corelane-bench"));
    command.current_dir(folder).stdin(Stdio::null());
    command
}

/// What a run left.
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn from(output: &Output) -> Ran {
        Ran {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The JSON that was printed; fails when there is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|error| panic!("{error} in {:?}; standard error: {}", self.out, self.err))
    }
}

/// Runs it with options as one line of words.
pub fn run(folder: &Path, options: &str) -> Ran {
    Ran::from(&tool(folder).args(options.split_whitespace()).output().expect("the tool runs"))
}

/// Runs it with JSON output, demands success, and gives the first job.
pub fn job(folder: &Path, options: &str) -> Value {
    let ran = run(folder, &format!("{options} --output-format=json"));
    assert_eq!(ran.code, Some(0), "{options}: {}{}", ran.out, ran.err);
    let report = ran.json();
    let job = report["jobs"][0].clone();
    assert_eq!(job["error"], 0, "{options}: {job}");
    job
}

/// A number of the job, by path such as `read/total_ios`.
pub fn number(job: &Value, path: &str) -> u64 {
    let found = job.pointer(&format!("/{path}")).unwrap_or_else(|| panic!("no {path} in {job}"));
    found.as_u64().unwrap_or_else(|| panic!("{path} is {found}"))
}

/// Requests done: reads, writes, trims.
pub fn ios(job: &Value) -> [u64; 3] {
    ["read", "write", "trim"].map(|direction| number(job, &format!("{direction}/total_ios")))
}

/// Changes one bit of a byte in a file.
pub fn flip(path: &Path, offset: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).expect("the file is there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("the byte is there");
    byte[0] ^= 0x10;
    file.write_all_at(&byte, offset).expect("the byte can be written");
}
