//! Options that cannot hold together.

use super::super::error::OptionError;
use super::super::spec::{Access, EngineKind, Extent, JobSpec, PerDirection};
use super::shown_bytes;
use super::view::View;

/// Largest file offset, bytes: loff_t is signed.
const OFFSET_MAX: u64 = i64::MAX as u64;

/// Refuses a job whose options contradict each other.
///
/// # Errors
/// The first contradiction found.
pub fn job(view: &View, job: &JobSpec) -> Result<(), OptionError> {
    if !view.flag("thread") {
        return Err(
            view.contradiction("thread=0: jobs are lanes, and lanes are threads", "thread=1 is right")
        );
    }
    engine(view, job)?;
    region(view, job)?;
    block_sizes(view, job)?;
    verification(view, job)?;
    zones(view, job)?;
    pace(view, job)
}

fn engine(view: &View, job: &JobSpec) -> Result<(), OptionError> {
    let target = &job.target;
    if target.hipri && !target.direct && target.engine != EngineKind::NvmeUring {
        let what = "hipri=1 with buffered I/O: the kernel polls for completions of direct I/O only";
        return Err(view.contradiction(what, "add direct=1"));
    }
    if target.engine == EngineKind::Nvme && target.filenames.is_empty() {
        let what = "ioengine=nvme without filename";
        return Err(view.contradiction(
            what,
            "add filename=ADDRESS/NSID, such as filename=0000:01:00.0/1, or model:256m",
        ));
    }
    if target.engine == EngineKind::NvmeUring && target.filenames.is_empty() {
        let what = "ioengine=nvme_uring without filename";
        return Err(
            view.contradiction(what, "add a namespace's character device, such as filename=/dev/ng0n1")
        );
    }
    if matches!(target.engine, EngineKind::IoUring | EngineKind::Nvme | EngineKind::NvmeUring) {
        return Ok(());
    }
    let name = target.engine.name();
    let sized = target.file_size_bytes.is_some() || matches!(job.workload.size, Some(Extent::Bytes(_)));
    if !sized {
        let what = format!(
            "ioengine={name} has no file whose length could be taken, and there is {}",
            view.shown("size")
        );
        return Err(view.contradiction(what, "add size=SIZE, such as size=1g"));
    }
    Ok(())
}

fn region(view: &View, job: &JobSpec) -> Result<(), OptionError> {
    let absolute = |extent: Extent| match extent {
        Extent::Bytes(bytes) => bytes,
        Extent::Percent(_) => 0,
    };
    let workload = &job.workload;
    let clones = u64::from(job.num_jobs - 1);
    let size = workload.size.map_or(0, absolute);
    let end = absolute(workload.offset_increment)
        .checked_mul(clones)
        .and_then(|increments| increments.checked_add(absolute(workload.offset)))
        .and_then(|start| start.checked_add(size))
        .filter(|end| *end <= OFFSET_MAX);
    let Some(end) = end else {
        let what = format!(
            "the region (offset, size, offset_increment, {}) ends beyond 8 EiB",
            view.shown("numjobs")
        );
        return Err(view.contradiction(what, "an end of at most 9223372036854775807 is right"));
    };
    match job.target.file_size_bytes {
        Some(bytes) if bytes > OFFSET_MAX => {
            Err(view.contradiction(view.shown("filesize"), "at most 9223372036854775807 is right"))
        }
        Some(bytes) if end > bytes => {
            let what =
                format!("the region ends at {}, beyond {}", shown_bytes(view, end), view.shown("filesize"));
            let right = "size and offset within filesize are right; io_size says how much to transfer";
            Err(view.contradiction(what, right))
        }
        _ => Ok(()),
    }
}

fn block_sizes(view: &View, job: &JobSpec) -> Result<(), OptionError> {
    let Some(Extent::Bytes(size)) = job.workload.size else { return Ok(()) };
    let PerDirection { read, write, trim } = &job.workload.blocks;
    let directions =
        [(Access::Read, read, "reads"), (Access::Write, write, "writes"), (Access::Trim, trim, "trims")];
    for (access, blocks, plural) in directions {
        if job.workload.rw.uses(access) && blocks.max_bytes() > size {
            let block = shown_bytes(view, blocks.max_bytes());
            let what = format!("blocks of {block} for {plural} are larger than {}", view.shown("size"));
            return Err(view.contradiction(what, format!("size={block} at least, or a smaller bs, is right")));
        }
    }
    Ok(())
}

fn verification(view: &View, job: &JobSpec) -> Result<(), OptionError> {
    let Some(verify) = &job.verify else { return Ok(()) };
    let shown = view.shown("verify");
    if job.target.engine == EngineKind::Null {
        let what = format!("{shown} with ioengine=null, which stores nothing");
        return Err(view.contradiction(what, "ioengine=mem, nvme or io_uring is right"));
    }
    if !job.workload.rw.uses(Access::Write) {
        let what = format!("{shown} with {}, which writes nothing", view.shown("rw"));
        let right = "an rw that writes is right; to check what an earlier run wrote, give that run's options and verify_only";
        return Err(view.contradiction(what, right));
    }
    if verify.only && job.end.time_based {
        let right = "verify_only reads what was written once; leave time_based out";
        return Err(view.contradiction("verify_only with time_based", right));
    }
    if verify.only && !verify.do_verify {
        return Err(view.contradiction("verify_only=1 with do_verify=0", "one of them alone is right"));
    }
    if verify.only && job.target.engine == EngineKind::Mem {
        let what = "verify_only with ioengine=mem, whose data is gone when a job ends";
        return Err(view.contradiction(what, "verify without verify_only is right"));
    }
    Ok(())
}

fn zones(view: &View, job: &JobSpec) -> Result<(), OptionError> {
    if job.workload.zones.is_none() {
        return Ok(());
    }
    if job.target.engine != EngineKind::Nvme {
        let what = format!("zonemode=zbd with {}, which resets no zones", view.shown("ioengine"));
        return Err(view.contradiction(what, "ioengine=nvme is right"));
    }
    if job.workload.rw.uses(Access::Trim) {
        let what = format!("zonemode=zbd with {}: a zone is reset, not trimmed", view.shown("rw"));
        return Err(view.contradiction(what, "an rw that reads or writes is right"));
    }
    if job.verify.as_ref().is_some_and(|verify| verify.only) {
        let what =
            "zonemode=zbd with verify_only: where the writes went is known only to the run that made them";
        return Err(view.contradiction(what, "verify without verify_only is right"));
    }
    Ok(())
}

fn pace(view: &View, job: &JobSpec) -> Result<(), OptionError> {
    let any = |limits: &PerDirection<Option<u64>>| limits.read.or(limits.write).or(limits.trim).is_some();
    if any(&job.pace.rate_bytes_per_s) && any(&job.pace.rate_iops) {
        let what = format!("{} and {} both limit the job", view.shown("rate"), view.shown("rate_iops"));
        return Err(view.contradiction(what, "one of them alone is right"));
    }
    if job.end.time_based && job.end.runtime.is_none() {
        return Err(view.contradiction("time_based without runtime", "add the time, such as runtime=30s"));
    }
    if job.pace.latency_target.is_none() {
        return Ok(());
    }
    let shown = view.shown("latency_target");
    if job.depth.iodepth == 1 {
        let what = format!("{shown} with {}, which leaves no depth to search", view.shown("iodepth"));
        return Err(view.contradiction(what, "the largest depth to try, such as iodepth=128, is right"));
    }
    if job.measure.gtod_reduce {
        let what = format!("{shown} with gtod_reduce=1, which takes no latency");
        return Err(view.contradiction(what, "one of them alone is right"));
    }
    Ok(())
}
