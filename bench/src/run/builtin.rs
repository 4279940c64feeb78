//! The job set that runs when no job is given: a few seconds on a scratch file, and on an NVMe controller in software.
//!
//! Invariant: the scratch file never has a name, so it is gone when the process is, however that ends. It is reached by
//! its descriptor (proc_pid_fd(5)).

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use rustix::fs::{StatFs, statfs};

use super::error::RunError;
use super::files::{self, Need};
use crate::options::{GlobalSpec, LockingMode, OptionError, Plan, parse_job_text};

/// Length of the scratch file, MiB: more than processor caches hold, little enough to be laid out in a second.
const FILE_MIB: u64 = 256;

/// Seconds that each job runs.
const SECONDS: u32 = 1;

/// `TMPFS_MAGIC` and `RAMFS_MAGIC` of linux/magic.h: io_uring reads those by worker threads, which is not what a file
/// system does.
const MEMORY_FILE_SYSTEMS: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// What runs on the file.
const JOBS: [(&str, &str, &str); 4] = [
    ("randread-qd1", "rw=randread\nbs=4k\niodepth=1", "4 KiB random reads, one at a time"),
    ("randread-qd32", "rw=randread\nbs=4k\niodepth=32", "4 KiB random reads, 32 in flight"),
    ("randwrite-qd32", "rw=randwrite\nbs=4k\niodepth=32", "4 KiB random writes, 32 in flight"),
    ("read-128k-qd8", "rw=read\nbs=128k\niodepth=8", "128 KiB sequential reads, 8 in flight"),
];

/// What runs on the controller in software.
const NVME_JOBS: [(&str, &str, &str); 2] = [
    ("nvme-randread-qd1", "rw=randread\nbs=4k\niodepth=1", "4 KiB random reads, one at a time"),
    ("nvme-randread-qd32", "rw=randread\nbs=4k\niodepth=32", "4 KiB random reads, 32 in flight"),
];

/// A plan, and the file that it works on for as long as this lives.
pub struct Builtin {
    /// The jobs.
    pub plan: Plan,
    _scratch: File,
}

/// The built-in jobs with these options of the run, on a new scratch file.
///
/// # Errors
/// When the scratch file cannot be made.
pub fn jobs(global: &GlobalSpec) -> Result<Builtin, RunError> {
    let directory = directory();
    let failed = |source| RunError::File {
        what: "make a scratch file in",
        path: directory.clone(),
        source,
        hint: "; set TMPDIR to a directory that can be written, or give a job (see --help)",
    };
    let scratch = tempfile::tempfile_in(&directory).map_err(failed)?;
    let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), scratch.as_raw_fd()));
    let place = if directory == Path::new(".") {
        "the working directory".into()
    } else {
        directory.display().to_string()
    };
    super::say(&format!("a scratch file of {FILE_MIB} MiB is made in {place}; it is gone afterwards"));
    let need = Need { length_bytes: FILE_MIB << 20, data: true, may_change: true, locking: LockingMode::Off };
    files::prepare(&path, need, &AtomicBool::new(false), |_| ())?;
    let plan = parse_job_text(Path::new("built-in jobs"), &text(&path), global)
        .map_err(|error| failed(refused(&error)))?;
    Ok(Builtin { plan, _scratch: scratch })
}

/// The built-in text is part of the program; that it is sound is tested.
fn refused(error: &OptionError) -> io::Error {
    io::Error::other(error.to_string())
}

fn text(path: &Path) -> String {
    let mut text = format!(
        "[global]\nioengine=io_uring\nfilename={}\nsize={FILE_MIB}m\nruntime={SECONDS}\ntime_based\nnorandommap\n\
         direct=0\ninvalidate=0\n",
        path.display()
    );
    for (name, options, description) in JOBS {
        let _ = write!(
            text,
            "[{name}]\nstonewall\ndescription={description}, through the page cache\n{options}\n"
        );
    }
    for (name, options, description) in NVME_JOBS {
        let _ = write!(
            text,
            "[{name}]\nstonewall\nioengine=nvme\nfilename=model:{FILE_MIB}m\n\
             description={description}, from an NVMe controller in software\n{options}\n"
        );
    }
    text
}

/// `$TMPDIR` (or `/tmp`) unless it is in memory, then the working directory, then `/var/tmp`.
fn directory() -> PathBuf {
    let candidates = [std::env::temp_dir(), PathBuf::from("."), PathBuf::from("/var/tmp")];
    let on_disk =
        candidates.iter().find(|directory| statfs(directory.as_path()).is_ok_and(|found| !is_memory(&found)));
    on_disk.or(candidates.first()).cloned().unwrap_or_default()
}

fn is_memory(found: &StatFs) -> bool {
    MEMORY_FILE_SYSTEMS.contains(&found.f_type)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::EngineKind;

    #[test]
    fn the_built_in_jobs_are_sound_and_short() {
        let builtin = jobs(&GlobalSpec::default()).unwrap();
        assert_eq!(builtin.plan.jobs.len(), JOBS.len() + NVME_JOBS.len());
        let seconds: u64 =
            builtin.plan.jobs.iter().filter_map(|job| job.end.runtime).map(|time| time.as_secs()).sum();
        assert!((1..=20).contains(&seconds), "{seconds}");
        assert!(builtin.plan.jobs.iter().skip(1).all(|job| job.wait_for_previous));
        for job in &builtin.plan.jobs {
            assert!(job.end.time_based && job.description.is_some());
            let path = &job.file_paths(0)[0];
            let is_model = path.as_os_str() == "model:256m";
            assert!(is_model || path.starts_with("/proc") && path.exists());
            assert_eq!(is_model, job.target.engine == EngineKind::Nvme);
        }
    }

    #[test]
    fn the_scratch_file_has_no_name() {
        let builtin = jobs(&GlobalSpec::default()).unwrap();
        let path = builtin.plan.jobs[0].file_paths(0).remove(0);
        let target = std::fs::read_link(&path).unwrap();
        assert!(!target.exists(), "{}", target.display());
        drop(builtin);
        assert!(!path.exists());
    }
}
