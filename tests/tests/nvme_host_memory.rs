//! The host memory buffer: given to controllers that ask, given again after a reset, taken back before the end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use corelane_drivers::nvme::{ControllerOptions, NvmeController};
use corelane_nvme_model::{HostMemoryWish, Model, ModelBus, ModelConfig, NamespaceConfig};

const WISH: HostMemoryWish = HostMemoryWish { preferred: 512, least: 64, least_piece: 16, most_pieces: 1 };

fn model(wish: HostMemoryWish) -> Arc<Model> {
    let config =
        ModelConfig { host_memory: Some(wish), ..ModelConfig::new(vec![NamespaceConfig::ram(1 << 20)]) };
    Arc::new(Model::new(config).unwrap())
}

fn start(model: &Arc<Model>, most: u64) -> Arc<NvmeController> {
    let bus = ModelBus::new("model", Arc::clone(model)).unwrap();
    let options = ControllerOptions { host_memory_bytes: most, ..ControllerOptions::default() };
    NvmeController::start(bus, &options).unwrap()
}

/// How much the model has.
fn held(model: &Model) -> u64 {
    model.host_memory().0
}

#[test]
fn a_controller_gets_what_it_asks_for_uses_it_and_gives_it_back() {
    let model = model(WISH);
    for round in 1..=3 {
        let controller = start(&model, 128 << 20);
        assert_eq!((controller.host_memory_bytes(), held(&model)), (512 * 4096, 512 * 4096));
        for _ in 0..600 {
            controller.active_namespaces().unwrap();
        }
        drop(controller);
        let (bytes, uses) = model.host_memory();
        assert!(bytes == 0 && uses >= 600 * round, "each page was used in each round: {uses}");
        assert_eq!(
            model.take_violations(),
            [],
            "it was taken back before the shutdown and before it was unmapped"
        );
    }
}

#[test]
fn it_gets_no_more_than_it_may_and_nothing_below_its_least() {
    for (wish, most, expected) in [
        (WISH, 100 * 4096, 100),
        (WISH, 63 * 4096, 0),
        (WISH, 0, 0),
        (HostMemoryWish { least: 0, least_piece: 200, ..WISH }, 100 * 4096, 0),
        (HostMemoryWish { least: 0, least_piece: 100, most_pieces: 0, ..WISH }, 100 * 4096, 100),
    ] {
        let model = model(wish);
        let controller = start(&model, most);
        assert_eq!(controller.host_memory_bytes(), expected * 4096, "{wish:?}");
        assert_eq!(held(&model), expected * 4096);
        drop(controller);
        assert_eq!(model.take_violations(), []);
    }
    let model = Arc::new(Model::new(ModelConfig::new(vec![NamespaceConfig::ram(1 << 20)])).unwrap());
    assert_eq!(start(&model, 128 << 20).host_memory_bytes(), 0, "it asks for none");
}

#[test]
fn a_controller_that_refuses_does_without() {
    let model = model(WISH);
    // The second has taken it all the same; the memory stays where it is until it has stopped.
    for refusal in ["set-features.0d=status:0/2", "set-features.0d=status:0/2:done"] {
        model.set_faults(refusal.parse().unwrap()).unwrap();
        let controller = start(&model, 128 << 20);
        assert_eq!(controller.host_memory_bytes(), 0, "{refusal}");
        controller.active_namespaces().unwrap();
        drop(controller);
        assert_eq!(held(&model), 0);
        assert_eq!(model.take_violations(), [], "{refusal}");
    }
}

/// Has the controller fail, and waits until it is back.
fn reset(model: &Model, controller: &NvmeController) {
    let before = controller.resets();
    model.set_faults("identify.2:1=fatal".parse().unwrap()).unwrap();
    let end = Instant::now() + Duration::from_secs(30);
    while !(controller.resets() > before && controller.active_namespaces().is_ok()) {
        // The first question has it fail.
        let _ = controller.active_namespaces();
        assert!(Instant::now() < end, "it is not brought back");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn after_a_reset_it_gets_the_same_memory_as_it_left_it() {
    let model = model(WISH);
    let controller = start(&model, 128 << 20);
    for _ in 0..2 {
        for _ in 0..20 {
            controller.active_namespaces().unwrap();
        }
        reset(&model, &controller);
        assert_eq!((controller.host_memory_bytes(), held(&model)), (512 * 4096, 512 * 4096));
    }
    model.set_faults("".parse().unwrap()).unwrap();
    drop(controller);
    assert_eq!(held(&model), 0);
    assert_eq!(model.take_violations(), [], "what is returned is what the model had, with its marks");
}

#[test]
fn a_refusal_after_a_reset_leaves_the_controller_without() {
    let model = model(WISH);
    let controller = start(&model, 128 << 20);
    model.set_faults("identify.2:1=fatal;set-features.0d=status:0/2:dnr".parse().unwrap()).unwrap();
    let end = Instant::now() + Duration::from_secs(30);
    while controller.resets() == 0 || controller.active_namespaces().is_err() {
        let _ = controller.active_namespaces();
        assert!(Instant::now() < end, "it is not brought back");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!((controller.host_memory_bytes(), held(&model)), (0, 0));
    model.set_faults("".parse().unwrap()).unwrap();
    drop(controller);
    assert_eq!(model.take_violations(), []);
}
