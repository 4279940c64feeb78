//! The NVMe leaf keeps the contract of a leaf queue over vfio-user: on a server in this process and on one of its own, with
//! doorbells in shared memory and by messages. And the model behind it finds nothing that the specification forbids.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use corelane_drivers::contract::{ContractOptions, SPAN_BYTES, check};
use corelane_drivers::nvme::bus::vfio_user::{VfioUserBus, VfioUserOptions};
use corelane_drivers::nvme::bus::{Bus, BusError, Doorbell};
use corelane_drivers::nvme::spec::Nsid;
use corelane_drivers::nvme::{ControllerOptions, NvmeController, NvmeDriver, NvmeOptions, Polling};
use corelane_nvme_model::server::{Server, ServerOptions, Stopper};
use corelane_nvme_model::{Device, Model, ModelConfig, NamespaceConfig, Region};
use corelane_tests::{Seed, own_program};
use rand_xoshiro::rand_core::Rng;
use rustix::process::{Pid, Signal, kill_process};

/// A server in a thread of this process.
struct Served {
    model: Arc<Model>,
    stopper: Stopper,
    thread: Option<JoinHandle<()>>,
    folder: tempfile::TempDir,
}

impl Served {
    fn new(config: ModelConfig, options: ServerOptions) -> Served {
        let model = Arc::new(Model::new(config).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cntrl");
        let mut server = Server::bind(&path, Arc::<Model>::clone(&model), options).unwrap();
        let stopper = server.stopper();
        let thread = Some(thread::spawn(move || server.run().unwrap()));
        Served { model, stopper, thread, folder }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stopper.stop();
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || matches!(ended, Some(Ok(()))));
    }
}

fn ram(lba_shift: u8) -> ModelConfig {
    let namespace = NamespaceConfig { lba_shift, ..NamespaceConfig::ram(SPAN_BYTES) };
    ModelConfig::new(vec![namespace])
}

fn open(path: &Path) -> Arc<VfioUserBus> {
    Arc::new(VfioUserBus::open(path, &VfioUserOptions::default()).unwrap())
}

/// Checks what is served at `path` at these depths, each with a client of its own.
fn check_path(path: &Path, options: &NvmeOptions, depths: &[u32]) {
    for &tags in depths {
        let controller = NvmeController::start(open(path), &ControllerOptions::default()).unwrap();
        let factory = || NvmeDriver::open(&controller, Nsid(1), options).map(|driver| Box::new(driver) as _);
        let seed = Seed::sequences(1).next().map_or(1, |seed| seed.rng().next_u64());
        let contract = ContractOptions { tags, seed, keeps_data: true };
        let report = check(&factory, &contract).unwrap_or_else(|violation| panic!("{violation}"));
        assert_eq!(report.unsupported, Vec::<&str>::new());
    }
}

fn check_served(config: ModelConfig, server: ServerOptions, options: &NvmeOptions, depths: &[u32]) {
    let served = Served::new(config, server);
    check_path(served.folder.path(), options, depths);
    assert_eq!(served.model.take_violations(), [], "what the model has against the driver");
}

const POLL: NvmeOptions = NvmeOptions { poll: Polling::On, read_only: false, placement: None };
const MAPPED: ServerOptions = ServerOptions { map_doorbells: true };
const BY_MESSAGE: ServerOptions = ServerOptions { map_doorbells: false };

#[test]
fn with_doorbells_in_shared_memory() {
    check_served(ram(12), MAPPED, &POLL, &[2, 32, 300]);
    check_served(ram(9), MAPPED, &POLL, &[16]);
}

#[test]
fn with_doorbells_by_message() {
    check_served(ram(12), BY_MESSAGE, &POLL, &[2, 32]);
}

#[test]
fn by_interrupts_and_adaptively() {
    for poll in [Polling::Off, Polling::Adaptive] {
        check_served(ram(12), MAPPED, &NvmeOptions { poll, ..POLL }, &[32]);
    }
    check_served(ram(12), BY_MESSAGE, &NvmeOptions { poll: Polling::Off, ..POLL }, &[8]);
}

#[test]
fn every_doorbell_stride_and_shadow_doorbells() {
    for doorbell_stride in [0, 8] {
        check_served(ModelConfig { doorbell_stride, ..ram(12) }, MAPPED, &POLL, &[8]);
    }
    let shadow = ModelConfig { shadow_doorbells: true, doorbell_stride: 0, max_queue_pairs: 8, ..ram(12) };
    check_served(shadow, MAPPED, &POLL, &[32]);
}

/// `nvme-model` as a process.
struct Process {
    child: Child,
    folder: tempfile::TempDir,
}

impl Process {
    fn new(arguments: &[&str]) -> Process {
        let folder = tempfile::tempdir().unwrap();
        let mut command = own_program("nvme-model");
        command.arg("--socket").arg(folder.path().join("cntrl")).arg("--strict").args(arguments);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("listening on "), "{line}");
        Process { child, folder }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Whether it ended well; it has a while to end.
    fn ends_well(&mut self) -> bool {
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.success();
            }
            thread::sleep(Duration::from_millis(5));
        }
        false
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn on_a_process_of_its_own() {
    let size = SPAN_BYTES.to_string();
    let mut process = Process::new(&["--namespace", &size, "--namespace", "null:1g", "--lba-size", "512"]);
    check_path(process.folder.path(), &POLL, &[32]);
    check_path(process.folder.path(), &NvmeOptions { poll: Polling::Off, ..POLL }, &[8]);
    process.signal(Signal::TERM);
    assert!(process.ends_well(), "and found nothing forbidden");
    assert!(!process.folder.path().join("cntrl").exists());
}

#[test]
fn an_interrupt_ends_the_process_while_a_client_is_attached() {
    let mut process = Process::new(&["--namespace", "1m", "--no-map-doorbells"]);
    let bus = open(process.folder.path());
    assert!(matches!(bus.doorbell(0x1000).unwrap(), Doorbell::Message { .. }));
    process.signal(Signal::INT);
    assert!(process.ends_well());
    assert!(matches!(bus.read32(0x1c), Err(BusError::Gone { .. })));
}

#[test]
fn a_client_that_is_killed_in_the_middle_of_its_requests_leaves_nothing_behind() {
    let served = Served::new(ram(12), MAPPED);
    let socket = served.folder.path().join("cntrl");
    for _ in 0..3 {
        let mut client = own_program("corelane-bench");
        let filename = format!("--filename=vfio-user:{}/1", socket.display());
        client.args(["--name=killed", "--ioengine=nvme", "--rw=randrw", "--iodepth=32", "--time_based"]);
        let mut client = client.args(["--runtime=60", &filename]).stdout(Stdio::null()).spawn().unwrap();
        // It is in the middle of them when there is an I/O queue whose doorbell was rung.
        let mut tail = [0; 4];
        let end = Instant::now() + Duration::from_secs(30);
        let stride = 4 << served.model.config().doorbell_stride;
        while tail == [0; 4] && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
            served.model.read(Region::Bar0, 0x1000 + 2 * stride, &mut tail).unwrap();
        }
        assert_ne!(tail, [0; 4], "it began");
        client.kill().unwrap();
        client.wait().unwrap();
        let bus = open(&socket);
        assert_eq!(bus.read32(0x1c).unwrap(), 0, "the controller was reset");
        drop(bus);
    }
    assert_eq!(served.model.take_violations(), []);
    check_path(&socket, &POLL, &[8]);
}

#[test]
fn what_cannot_be_served_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("cntrl").display().to_string();
    for (arguments, reason) in [
        (["--namespace", "256x"], "256m"),
        (["--namespace", "disk:1g"], "ram, ram-huge, null, zero or zns"),
        (["--namespace", "1"], "the size of a namespace of 1"),
        (["--lba-size", "513"], "512 to 64k"),
        (["--queues", "0"], "the number of queue pairs of 0"),
        (["--core", "100000"], "on its core"),
    ] {
        let mut command = own_program("nvme-model");
        command.args(["--socket", &socket]).args(arguments);
        if arguments[0] != "--namespace" {
            command.args(["--namespace", "1m"]);
        }
        let output = command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && errors.contains(reason), "{arguments:?}: {errors}");
        assert!(!Path::new(&socket).exists());
    }
}

#[test]
fn a_process_that_is_killed_is_noticed_and_replaced() {
    let mut process = Process::new(&["--namespace", "1m"]);
    let path = process.folder.path().join("cntrl");
    let bus = open(&path);
    process.signal(Signal::KILL);
    assert!(!process.ends_well());
    assert!(matches!(bus.read32(0x1c), Err(BusError::Gone { .. })));
    // Its doorbells are still memory, of nobody.
    bus.doorbell(0x1000).unwrap().ring(1).unwrap();
    assert!(path.exists(), "nobody was there to remove it");
    let served = Server::bind(&path, Arc::new(Model::new(ram(12)).unwrap()), MAPPED);
    assert!(served.is_ok());
}
