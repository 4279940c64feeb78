//! Admin and I/O passthrough of the driver on the controller model.

use std::sync::Arc;
use std::time::Duration;

use corelane_drivers::nvme::spec::command::Command;
use corelane_drivers::nvme::spec::identify::{COMMAND_SET_NVM, cns};
use corelane_drivers::nvme::spec::opcode::{admin, io};
use corelane_drivers::nvme::spec::status::Status;
use corelane_drivers::nvme::spec::{Lba, Nsid};
use corelane_drivers::nvme::{ControllerOptions, NvmeController, Transfer};
use corelane_nvme_model::{Model, ModelBus, ModelConfig, NamespaceConfig};
use corelane_tests::Seed;
use rand_xoshiro::rand_core::Rng;

const LIMIT: Duration = Duration::from_secs(30);

fn controller(mdts: u8, queue_pairs: u16) -> (Arc<Model>, Arc<NvmeController>) {
    let mut config = ModelConfig::new(vec![NamespaceConfig::ram(16 << 20)]);
    (config.mdts, config.max_queue_pairs) = (mdts, queue_pairs);
    let model = Arc::new(Model::new(config).unwrap());
    let bus = ModelBus::new("model", Arc::clone(&model)).unwrap();
    (model, NvmeController::start(bus, &ControllerOptions::default()).unwrap())
}

#[test]
fn admin_commands_bring_their_data_and_their_status() {
    let (model, controller) = controller(7, 4);
    let mut bytes = vec![0xa5; 4096];
    let identify = Command::identify(cns::CONTROLLER, Nsid::NONE, COMMAND_SET_NVM);
    let answer = controller.admin_passthrough(identify, Transfer::In(&mut bytes), Transfer::None).unwrap();
    assert!(answer.status.is_success());
    assert_eq!(&bytes[4..14], b"CL00000001");
    let feature = Command::get_feature(7, Nsid::NONE);
    let answer = controller.admin_passthrough(feature, Transfer::None, Transfer::None).unwrap();
    assert_eq!((answer.status, answer.result), (Status::SUCCESS, 0x0003_0003));
    // A log page that is not there: the controller's word, not an error, and the buffer stays as it was.
    let log = Command::log_page(0x7f, Nsid::ALL, 0, 512);
    let answer = controller.admin_passthrough(log, Transfer::In(&mut bytes[..512]), Transfer::None).unwrap();
    assert!(!answer.status.is_success());
    assert_eq!(&bytes[4..14], b"CL00000001");
    drop(controller);
    drop(model);
}

#[test]
fn the_drivers_own_commands_are_not_sent() {
    let (model, controller) = controller(2, 4);
    let refused = |command: Command| {
        controller
            .admin_passthrough(command, Transfer::None, Transfer::None)
            .expect_err("refused")
            .to_string()
    };
    for opcode in
        [admin::DELETE_SQ, admin::CREATE_SQ, admin::DELETE_CQ, admin::CREATE_CQ, admin::ABORT, 0x0c, 0x7c]
    {
        assert!(refused(Command::new(opcode, Nsid::NONE)).contains("opcode"));
    }
    for feature in [0x07, 0x0d] {
        assert!(refused(Command::set_feature(feature, Nsid::NONE, 0)).contains("feature"));
    }
    let flags = Command { flags: 0x40, ..Command::identify(cns::CONTROLLER, Nsid::NONE, COMMAND_SET_NVM) };
    assert!(refused(flags).contains("flags"));
    let mut long = vec![0; (16 << 10) + 1];
    let log = Command::log_page(2, Nsid::ALL, 0, 512);
    let error =
        controller.admin_passthrough(log, Transfer::In(&mut long), Transfer::None).unwrap_err().to_string();
    assert!(error.contains("at most 16384 bytes"), "{error}");
    assert_eq!(model.violations(), [], "nothing of that reached the controller");
}

#[test]
fn data_of_every_length_goes_there_and_back() {
    let (model, controller) = controller(10, 4);
    let before = controller.bus().dma().mappings();
    let mut queue = controller.open_passthrough(LIMIT).unwrap();
    for seed in Seed::sequences(20) {
        let mut rng = seed.rng();
        // Up to the 4 MiB that MDTS allows: with one entry, two, a list, a list of several pages.
        let blocks = [1, 2, 3, 513, 1024][rng.next_u64() as usize % 5];
        let start = Lba(rng.next_u64() % (4096 - blocks));
        let data: Vec<u8> = (0..blocks * 4096).map(|_| rng.next_u64() as u8).collect();
        let command = |opcode| Command::transfer(opcode, Nsid(1), start, blocks as u32, 0);
        let answer = queue.execute(command(io::WRITE), Transfer::Out(&data), Transfer::None).unwrap();
        assert!(answer.status.is_success(), "{}", answer.status);
        let mut back = vec![0; data.len()];
        let answer = queue.execute(command(io::READ), Transfer::In(&mut back), Transfer::None).unwrap();
        assert!(answer.status.is_success() && back == data, "{} blocks at {start:?}", blocks);
    }
    let beyond = Command::transfer(io::READ, Nsid(1), Lba(4096), 1, 0);
    let answer = queue.execute(beyond, Transfer::In(&mut [0; 4096]), Transfer::None).unwrap();
    assert_eq!((answer.status.code_type(), answer.status.code()), (0, 0x80), "LBA out of range");
    drop(queue);
    assert_eq!(controller.bus().dma().mappings(), before, "no memory stays mapped");
    drop(controller);
    drop(model);
}

#[test]
fn a_queue_is_taken_and_given_back() {
    let (_model, controller) = controller(7, 1);
    for _ in 0..3 {
        let _queue = controller.open_passthrough(LIMIT).unwrap();
        let Err(error) = controller.open_passthrough(LIMIT) else { panic!("there is only one queue") };
        assert!(error.to_string().contains("in use by lanes"), "{error}");
    }
}

/// The controller would read or write beyond it.
#[test]
fn a_command_that_moves_more_than_its_memory_holds_is_not_sent() {
    let (model, controller) = controller(7, 4);
    let mut queue = controller.open_passthrough(LIMIT).unwrap();
    let mut read = |nsid, blocks, len| {
        let command = Command::transfer(io::READ, Nsid(nsid), Lba(0), blocks, 0);
        queue.execute(command, Transfer::In(&mut vec![0; len]), Transfer::None)
    };
    let mut refused = |blocks, len, moved: &str| {
        let error = read(1, blocks, len).expect_err("not sent").to_string();
        assert!(error.contains(&format!("at least the {moved} bytes that the command moves")), "{error}");
    };
    refused(2, 4096, "8192");
    refused(1, 0, "4096");
    // What a command was put together for counts for nothing: blocks may have grown since, or shrunk.
    model.format_namespace(1, 13).unwrap();
    refused(1, 4096, "8192");
    model.format_namespace(1, 9).unwrap();
    assert!(read(1, 8, 4096).unwrap().status.is_success());
    assert_eq!(model.take_violations(), []);
    // Of a namespace that there is not the controller says so itself, and the model holds it against who asks.
    let nowhere = read(7, 1, 4096).unwrap().status;
    assert_eq!((nowhere.code_type(), nowhere.code()), (0, 0x0b));
    assert!(model.take_violations().iter().all(|violation| violation.to_string().contains("namespace 0x7")));
    let mut ranges = Command::new(io::DATASET_MANAGEMENT, Nsid(1));
    ranges.cdw10[0] = 3;
    let error = queue.execute(ranges, Transfer::Out(&[0; 63]), Transfer::None).unwrap_err().to_string();
    assert!(error.contains("at least the 64 bytes"), "{error}");
    assert_eq!(model.take_violations(), []);
}
