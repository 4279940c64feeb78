//! `nvme-model`: an NVMe controller in software, offered to other processes over vfio-user.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;

use clap::Parser;
use corelane_drivers::file::{DiscardMode, FileDriver, FileOptions};
use corelane_engine::block::{BackendOptions, BlockBackend, BlockError};
use corelane_nvme_model::server::{Server, ServerError, ServerOptions};
use corelane_nvme_model::text::parse_size;
use corelane_nvme_model::{
    DeviceError, FaultRule, FaultScript, Guard, HostMemoryWish, Idle, Model, ModelConfig, NamespaceBacking,
    NamespaceConfig, PlacementConfig, Protection,
};
use signal_hook::consts::{SIGINT, SIGTERM};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// An NVMe controller in software, served to one client at a time over vfio-user.
///
/// Attach with any vfio-user client, such as corelane-bench --ioengine=nvme --filename=vfio-user:PATH/1, or QEMU's
/// vfio-user-pci. Ends on SIGTERM and SIGINT. RUST_LOG sets what is logged.
#[derive(Parser)]
#[command(name = "nvme-model", version)]
struct Cli {
    /// Where to listen: the path of a Unix socket to make.
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// A namespace: SIZE (RAM), ram:SIZE, ram-huge:SIZE, null:SIZE (forgets all data), zero:SIZE, file:PATH (a file or block
    /// device), or zns:SIZE:ZONE[:CAPACITY[:OPEN[:ACTIVE]]] (RAM in zones; at most so many open and active). Repeat it for
    /// more.
    // Brackets mean that something may be left out.
    #[allow(rustdoc::broken_intra_doc_links)]
    #[arg(long = "namespace", value_name = "SPEC", required = true)]
    namespaces: Vec<Served>,
    /// The block size of all namespaces: 512 to 64k, a power of two.
    #[arg(long, value_name = "BYTES", default_value = "4k", value_parser = lba_shift)]
    lba_size: u8,
    /// Bytes of metadata of each block, 0 to 65535. With it, and the four options below, all namespaces are in RAM.
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    metadata: u16,
    /// The metadata follows each block's data, instead of having a buffer of its own.
    #[arg(long, requires = "metadata")]
    extended_blocks: bool,
    /// Protection information of this type in the metadata: 1 to 3.
    #[arg(long, value_name = "TYPE", requires = "metadata", value_parser = clap::value_parser!(u8).range(1..=3))]
    protection: Option<u8>,
    /// The bits of its guard: 16 (8 bytes of metadata in all), 32 or 64 (16 bytes).
    #[arg(long, value_name = "BITS", requires = "protection", default_value = "16", value_parser = guard)]
    guard: Guard,
    /// It is the first bytes of the metadata, not the last.
    #[arg(long, requires = "protection")]
    protection_first: bool,
    /// How many I/O queue pairs there are.
    #[arg(long, value_name = "N", default_value_t = 64)]
    queues: u16,
    /// How many entries a queue may have.
    #[arg(long, value_name = "N", default_value_t = 4096)]
    queue_entries: u32,
    /// The largest transfer, as a power of two of 4 KiB pages; 0 for no limit (MDTS).
    #[arg(long, value_name = "N", default_value_t = 7)]
    mdts: u8,
    /// How many MSI-X vectors there are [default: one for each queue pair and one for the admin queue].
    #[arg(long, value_name = "N")]
    vectors: Option<u32>,
    /// Doorbells are 2 to the power of (2 + N) bytes apart (CAP.DSTRD).
    #[arg(long, value_name = "N", default_value_t = 4)]
    doorbell_stride: u8,
    /// Offer shadow doorbells (Doorbell Buffer Config).
    #[arg(long)]
    shadow_doorbells: bool,
    /// Take scatter gather lists for data.
    #[arg(long)]
    sgls: bool,
    /// Ask for a host memory buffer: PREFERRED[:LEAST[:PIECE[:PIECES]]], sizes in bytes, at most so many pieces of so much at
    /// least.
    // Brackets mean that something may be left out.
    #[allow(rustdoc::broken_intra_doc_links)]
    #[arg(long, value_name = "SIZE[:...]")]
    host_memory: Option<HostMemoryWish>,
    /// Let hosts have data placed (flexible data placement) by so many reclaim unit handles, in each of so many reclaim groups.
    /// Not with --metadata.
    // Brackets mean that something may be left out.
    #[allow(rustdoc::broken_intra_doc_links)]
    #[arg(long, value_name = "HANDLES[:GROUPS]", conflicts_with = "metadata")]
    fdp: Option<PlacementConfig>,
    /// Let Compare and Write be fused. Not with file: namespaces, and not with faults.
    #[arg(long)]
    fused: bool,
    /// Have no volatile write cache.
    #[arg(long)]
    no_write_cache: bool,
    /// Do not let clients map the doorbells, so that each is a message.
    #[arg(long)]
    no_map_doorbells: bool,
    /// The serial number.
    #[arg(long, value_name = "TEXT", default_value = "CL00000001")]
    serial: String,
    /// The core on which the controller's thread stays.
    #[arg(long, value_name = "CPU")]
    core: Option<usize>,
    /// Never sleep: the thread looks at the doorbells all the time, and keeps its core busy.
    #[arg(long)]
    poll: bool,
    /// Make a fault: WHAT[:WHEN][@qQUEUE][@nNSID][@bFIRST[-LAST]]=FAULT. Repeat it for more; the first that applies
    /// decides. WHAT: io, read, write, flush, compare, write-zeroes, discard, verify, io.HH (opcode), admin, identify[.HH],
    /// get-log[.HH], get-features[.HH], set-features[.HH], set-queues, create-sq, create-cq, delete-sq, delete-cq, abort,
    /// event-request, shadow-doorbells, admin.HH, enable, disable, reset. WHEN: 17, 17-20, 17+, *5 (each fifth), 1/100 (by
    /// chance). FAULT: delay:TIME, late:TIME, drop, lose, duplicate, status[:SCT/SC[:dnr][:more][:crd=N]][:done],
    /// result:N, queues:N, cid[:last|:N], phase, sq-id[:N], sq-head[:N], no-interrupt, stuck-doorbell[:TIME],
    /// corrupt[:OFFSET/HEX], truncate:N, fatal, vanish[:TIME], self-reset, event:TYPE/INFO/LOG, notice:removal,
    /// notice:error; of enable, disable and reset: never, delay:TIME. TIME: 50ms or 1ms-2s. docs/testing.md says more.
    // The words of --help, where brackets mean that something may be left out.
    #[allow(rustdoc::broken_intra_doc_links)]
    #[arg(long = "fault", value_name = "RULE", verbatim_doc_comment)]
    faults: Vec<FaultRule>,
    /// Where chance in faults begins.
    #[arg(long, value_name = "N", default_value_t = 0)]
    fault_seed: u64,
    /// Exit with 1 if a client did what the specification forbids. Such things are logged in any case.
    #[arg(long)]
    strict: bool,
}

/// What a namespace is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Served {
    Kept(NamespaceConfig),
    File(PathBuf),
}

impl FromStr for Served {
    type Err = String;

    fn from_str(text: &str) -> Result<Served, String> {
        match text.strip_prefix("file:") {
            Some("") => Err("file: needs a path".to_owned()),
            Some(path) => Ok(Served::File(path.into())),
            None => text.parse().map(Served::Kept).map_err(|error| format!("{error}, or file:PATH")),
        }
    }
}

fn lba_shift(text: &str) -> Result<u8, String> {
    let bytes = parse_size(text)?;
    if bytes.is_power_of_two() && (512..=65536).contains(&bytes) {
        return Ok(bytes.ilog2() as u8);
    }
    Err(format!("a block of {bytes} bytes is not possible: 512 to 64k, a power of two"))
}

fn guard(text: &str) -> Result<Guard, String> {
    match text {
        "16" => Ok(Guard::Crc16),
        "32" => Ok(Guard::Crc32),
        "64" => Ok(Guard::Crc64),
        other => Err(format!("there is no guard of {other} bits: 16, 32 or 64")),
    }
}

impl Cli {
    fn config(&self) -> ModelConfig {
        let protection =
            self.protection.map(|kind| Protection { kind, guard: self.guard, first: self.protection_first });
        let namespaces = self.namespaces.iter().map(|served| {
            let namespace = match served {
                Served::Kept(namespace) => namespace.clone(),
                Served::File(_) => NamespaceConfig::node(),
            };
            NamespaceConfig {
                lba_shift: self.lba_size,
                metadata_bytes: self.metadata,
                metadata_extended: self.extended_blocks,
                protection,
                placement: self.fdp,
                ..namespace
            }
        });
        let vectors = self.vectors.unwrap_or_else(|| (u32::from(self.queues) + 1).min(512));
        ModelConfig {
            serial: self.serial.clone(),
            max_queue_entries: self.queue_entries,
            max_queue_pairs: self.queues,
            vectors,
            doorbell_stride: self.doorbell_stride,
            mdts: self.mdts,
            write_cache: !self.no_write_cache,
            shadow_doorbells: self.shadow_doorbells,
            sgls: self.sgls,
            fused: self.fused,
            host_memory: self.host_memory,
            core: self.core,
            idle: if self.poll { Idle::Spin } else { Idle::BackOff },
            faults: FaultScript { seed: self.fault_seed, rules: self.faults.clone() },
            ..ModelConfig::new(namespaces.collect())
        }
    }

    /// The files among the namespaces, opened.
    fn nodes(&self) -> Result<Vec<BlockBackend>, BlockError> {
        let paths = self.namespaces.iter().filter_map(|served| match served {
            Served::File(path) => Some(path),
            Served::Kept(_) => None,
        });
        paths
            .map(|path| {
                let driver =
                    FileDriver::open(&FileOptions { discard: DiscardMode::Unmap, ..FileOptions::new(path) })?;
                let options =
                    BackendOptions { name: path.display().to_string(), ..BackendOptions::default() };
                BlockBackend::new(Arc::new(driver), options)
            })
            .collect()
    }
}

/// How it fails.
#[derive(Debug, thiserror::Error)]
enum ToolError {
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    File(#[from] BlockError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error("{0} keeps no metadata; right with --metadata are namespaces in RAM, such as ram:64m")]
    NotKept(String),
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
    #[error("cannot print: {0}")]
    Print(io::Error),
    #[error("clients did {0} things that the specification forbids; they are in the log")]
    Violations(usize),
}

fn run(cli: &Cli) -> Result<(), ToolError> {
    let is_kept = |served: &&Served| match served {
        Served::Kept(namespace) => matches!(namespace.backing, NamespaceBacking::Ram(_)),
        Served::File(_) => false,
    };
    if cli.metadata > 0
        && let Some(other) = cli.namespaces.iter().find(|served| !is_kept(served))
    {
        return Err(ToolError::NotKept(format!("{other:?}")));
    }
    let model = Arc::new(Model::with_nodes(cli.config(), cli.nodes()?)?);
    let options = ServerOptions { map_doorbells: !cli.no_map_doorbells };
    let mut server = Server::bind(&cli.socket, Arc::<Model>::clone(&model), options)?;
    for signal in [SIGTERM, SIGINT] {
        let descriptor = server.stopper().descriptor().map_err(ToolError::Signals)?;
        signal_hook::low_level::pipe::register(signal, descriptor).map_err(ToolError::Signals)?;
    }
    // For whoever started it and waits: the socket is there.
    let mut out = io::stdout();
    writeln!(out, "listening on {}", cli.socket.display())
        .and_then(|()| out.flush())
        .map_err(ToolError::Print)?;
    server.run()?;
    drop(server);
    for (fault, count) in model.faults_made() {
        tracing::info!(fault, count, "faults made");
    }
    let violations = model.take_violations();
    for violation in &violations {
        tracing::warn!("forbidden: {violation:?}");
    }
    if cli.strict && !violations.is_empty() {
        return Err(ToolError::Violations(violations.len()));
    }
    Ok(())
}

fn main() -> ExitCode {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::WARN.into()).from_env_lossy();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false).init();
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to be done where even this cannot be printed.
            let _ = writeln!(io::stderr(), "nvme-model: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_kept_here_or_in_files() {
        assert_eq!("file:/a:b".parse(), Ok(Served::File("/a:b".into())));
        assert_eq!("null:1t".parse(), Ok(Served::Kept(NamespaceConfig::null(1 << 40))));
        assert!("file:".parse::<Served>().is_err());
        assert!("disk:1g".parse::<Served>().unwrap_err().contains("file:PATH"));
    }

    #[test]
    fn metadata_is_that_of_all_namespaces() {
        let line = ["nvme-model", "--socket", "x", "--namespace", "1m", "--metadata", "16"];
        let parse = |more: &[&str]| Cli::try_parse_from(line.iter().chain(more));
        let config = parse(&["--protection", "1", "--guard", "64", "--extended-blocks"]).unwrap().config();
        let namespace = &config.namespaces[0];
        let protection = Some(Protection { kind: 1, guard: Guard::Crc64, first: false });
        assert_eq!((namespace.metadata_bytes, namespace.metadata_extended), (16, true));
        assert_eq!(namespace.protection, protection);
        assert_eq!(parse(&[]).unwrap().config().namespaces[0].protection, None);
        assert!(parse(&["--protection", "4"]).is_err() && parse(&["--guard", "16"]).is_err());
        let null = ["nvme-model", "--socket", "x", "--namespace", "null:1m", "--metadata", "8"];
        let error = run(&Cli::try_parse_from(null).unwrap()).unwrap_err().to_string();
        assert!(error.contains("ram:64m"), "{error}");
    }

    #[test]
    fn faults_are_rules_and_a_seed() {
        let line = ["nvme-model", "--socket", "x", "--namespace", "1m", "--fault", "write:17@q2=drop"];
        let cli = Cli::try_parse_from(line.into_iter().chain(["--fault-seed", "7"])).unwrap();
        assert_eq!(cli.config().faults, "seed=7;write:17@q2=drop".parse().unwrap());
        let error = Cli::try_parse_from(line.map(|word| word.replace("drop", "dorp"))).err().unwrap();
        assert!(error.to_string().contains("'dorp'"), "{error}");
    }
}
