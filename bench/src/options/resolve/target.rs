//! Device, files and the way they are opened.

use std::path::PathBuf;

use super::super::error::OptionError;
use super::super::spec::{
    CacheMode, CompletionPolling, EngineKind, LockingMode, SqThread, SyncMode, TargetSpec,
};
use super::super::value::Value;
use super::view::View;

/// The target of a job.
pub fn target(view: &View) -> Result<TargetSpec, OptionError> {
    let (direct, sync, cache) = caching(view)?;
    let file_size_bytes = match view.value("filesize") {
        Some(Value::Number(bytes)) => Some(bytes),
        _ => None,
    };
    let engine = match view.choice("ioengine") {
        "null" => EngineKind::Null,
        "mem" => EngineKind::Mem,
        "nvme" => EngineKind::Nvme,
        "nvme_uring" => EngineKind::NvmeUring,
        _ => EngineKind::IoUring,
    };
    Ok(TargetSpec {
        engine,
        filenames: names(view, engine),
        directories: view.names("directory").into_iter().map(PathBuf::from).collect(),
        filename_format: view.text("filename_format").unwrap_or_default(),
        file_size_bytes,
        cache,
        direct,
        sync,
        invalidate: view.flag("invalidate"),
        locking: match view.choice("locking") {
            "on" => LockingMode::On,
            "off" => LockingMode::Off,
            _ => LockingMode::Auto,
        },
        unlink: view.flag("unlink"),
        fixed_buffers: view.flag("fixedbufs"),
        registered_files: view.flag("registerfiles"),
        hipri: view.flag("hipri"),
        sq_thread: view.flag("sqthread_poll").then(|| SqThread {
            cpu: view.last("sqthread_poll_cpu").map(|_| view.number_u32("sqthread_poll_cpu")),
        }),
        polling: polling(view, engine),
        model_cpu: view.last("model_cpu").map(|_| view.number_u32("model_cpu")),
        nvme_io_timeout_ms: view.number("nvme_io_timeout"),
        nvme_admin_timeout_ms: view.number("nvme_admin_timeout"),
        nvme_queues_in_controller: view.flag("nvme_cmb"),
        placement: placement(view, engine)?,
        nvme_host_memory_bytes: view.number("nvme_host_memory"),
    })
}

/// The placement handles of `plids`, or all, if there are to be any.
fn placement(view: &View, engine: EngineKind) -> Result<Option<Vec<u16>>, OptionError> {
    let (flag, word) = (view.flag("fdp"), view.choice("dataplacement"));
    if flag && word == "none" {
        let right = "one of them alone is right";
        return Err(view.contradiction("fdp=1 and dataplacement=none contradict each other", right));
    }
    let places = matches!(engine, EngineKind::Nvme | EngineKind::NvmeUring);
    Ok((places && (flag || word == "fdp")).then(|| view.indices("plids")))
}

/// The files, or the namespaces, whose names have colons in them.
fn names(view: &View, engine: EngineKind) -> Vec<String> {
    let names = view.names("filename");
    if engine != EngineKind::Nvme || names.is_empty() {
        return names;
    }
    names.join(":").split(',').map(|name| name.trim().to_owned()).collect()
}

/// A controller whose queues are polled is why one drives it from user space; files are waited for.
fn polling(view: &View, engine: EngineKind) -> CompletionPolling {
    match view.choice("poll") {
        _ if engine == EngineKind::Nvme && view.last("poll").is_none() => CompletionPolling::Busy,
        "adaptive" => CompletionPolling::Adaptive { max_ns: view.number("poll_max_ns") },
        "busy" => CompletionPolling::Busy,
        _ => CompletionPolling::Interrupt,
    }
}

/// `direct`, `buffered`, `sync` and `cache` say the same things twice: a later section's word holds, within one
/// section they must agree.
fn caching(view: &View) -> Result<(bool, SyncMode, CacheMode), OptionError> {
    let (direct, direct_level) = direct(view)?;
    let sync_level = view.level("sync");
    let sync = match view.choice("sync") {
        "sync" => SyncMode::Sync,
        "dsync" => SyncMode::Dsync,
        _ => SyncMode::None,
    };
    let mode = match view.choice("cache") {
        "none" => CacheMode::None,
        "writeback" => CacheMode::Writeback,
        "writethrough" => CacheMode::Writethrough,
        "directsync" => CacheMode::Directsync,
        "unsafe" => CacheMode::Unsafe,
        _ => return Ok((direct, sync, derived(direct, sync != SyncMode::None))),
    };
    let level = view.level("cache");
    let (direct, same_direct) = settle(direct, direct_level, mode.direct(), level);
    let (synchronous, same_sync) = settle(sync != SyncMode::None, sync_level, mode.synchronous(), level);
    if !same_direct || !same_sync {
        let other = if same_direct { view.shown("sync") } else { shown_direct(view) };
        let right = format!("cache={} alone, or direct and sync without cache, is right", mode.name());
        return Err(
            view.contradiction(format!("cache={} and {other} contradict each other", mode.name()), right)
        );
    }
    let kept = direct == mode.direct() && synchronous == mode.synchronous();
    let cache = if kept && direct_level <= level && sync_level <= level {
        mode
    } else {
        derived(direct, synchronous)
    };
    let sync = match (synchronous, sync) {
        (false, _) => SyncMode::None,
        (true, SyncMode::None) => SyncMode::Dsync,
        (true, sync) => sync,
    };
    Ok((direct, sync, cache))
}

/// What holds of an option's own value and of what `cache` implies, and whether they may stand side by side.
fn settle(own: bool, own_level: Option<usize>, implied: bool, cache_level: Option<usize>) -> (bool, bool) {
    match own_level.cmp(&cache_level) {
        std::cmp::Ordering::Less => (implied, true),
        std::cmp::Ordering::Equal => (own, own == implied),
        std::cmp::Ordering::Greater => (own, true),
    }
}

fn derived(direct: bool, synchronous: bool) -> CacheMode {
    match (direct, synchronous) {
        (false, false) => CacheMode::Writeback,
        (false, true) => CacheMode::Writethrough,
        (true, false) => CacheMode::None,
        (true, true) => CacheMode::Directsync,
    }
}

fn direct(view: &View) -> Result<(bool, Option<usize>), OptionError> {
    let (direct, buffered) = (view.flag("direct"), view.flag("buffered"));
    let (direct_level, buffered_level) = (view.level("direct"), view.level("buffered"));
    match direct_level.cmp(&buffered_level) {
        std::cmp::Ordering::Greater => Ok((direct, direct_level)),
        std::cmp::Ordering::Less => Ok((!buffered, buffered_level)),
        std::cmp::Ordering::Equal if direct_level.is_some() && direct == buffered => {
            let what =
                format!("{} and {} contradict each other", view.shown("direct"), view.shown("buffered"));
            Err(view.contradiction(what, "one of them alone is right"))
        }
        std::cmp::Ordering::Equal => Ok((direct, direct_level)),
    }
}

fn shown_direct(view: &View) -> String {
    let name = if view.level("buffered") > view.level("direct") { "buffered" } else { "direct" };
    view.shown(name)
}
