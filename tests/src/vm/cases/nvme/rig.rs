//! What the cases have in common: a controller, a namespace, a lane.

use std::rc::Rc;
use std::sync::Arc;

use corelane_dma::{Backing, DmaBuffer, IoBuf};
use corelane_drivers::contract::{ContractOptions, ContractReport, check};
use corelane_drivers::nvme::bus::VfioBus;
use corelane_drivers::nvme::spec::Nsid;
use corelane_drivers::nvme::{ControllerOptions, NvmeController, NvmeDriver, NvmeOptions, Polling};
use corelane_engine::aio::{AioConfig, AioContext, IoThread};
use corelane_engine::block::{BackendOptions, BlockBackend, BlockDriver, Channel};

use crate::Seed;
use crate::vm::Guest;

/// Namespaces opened so look for completions all the time.
pub const POLL: NvmeOptions = NvmeOptions { poll: Polling::On, read_only: false, placement: None };

/// Binds the controller `name` to vfio-pci and starts it.
pub fn start(guest: &Guest, name: &str) -> Arc<NvmeController> {
    let function = guest.function(name);
    function.bind_vfio();
    let address = function.address().parse().expect("an address of the bus");
    let bus = VfioBus::open(address).unwrap_or_else(|err| panic!("{err}"));
    NvmeController::start(Arc::new(bus), &ControllerOptions::default()).unwrap_or_else(|err| panic!("{err}"))
}

/// Opens a namespace of a started controller.
pub fn driver(controller: &Arc<NvmeController>, nsid: u32, options: &NvmeOptions) -> NvmeDriver {
    NvmeDriver::open(controller, Nsid(nsid), options).unwrap_or_else(|err| panic!("{err}"))
}

/// A backend on a namespace of a started controller.
pub fn backend(controller: &Arc<NvmeController>, nsid: u32, options: &NvmeOptions) -> BlockBackend {
    let driver = Arc::new(driver(controller, nsid, options));
    BlockBackend::new(driver, BackendOptions::default()).unwrap_or_else(|err| panic!("{err}"))
}

/// The contract of a leaf queue, on namespace `nsid` at these depths.
pub fn check_contract(
    controller: &Arc<NvmeController>,
    nsid: u32,
    options: &NvmeOptions,
    depths: &[u32],
) -> ContractReport {
    let mut last = ContractReport::default();
    for &tags in depths {
        let factory = || {
            let driver = NvmeDriver::open(controller, Nsid(nsid), options)?;
            Ok(Box::new(driver) as Box<dyn BlockDriver>)
        };
        let seed = Seed::sequences(1).next().map_or(1, Seed::number);
        last = check(&factory, &ContractOptions { tags, seed, keeps_data: true })
            .unwrap_or_else(|violation| panic!("depth {tags}: {violation}"));
        assert_eq!(last.unsupported, Vec::<&str>::new());
    }
    last
}

/// Runs something in a lane of its own with a channel on `backend`, to its end.
pub fn in_lane<T, F, Fut>(config: &AioConfig, backend: &BlockBackend, depth: u32, work: F) -> T
where
    T: Send + 'static,
    F: FnOnce(Rc<Channel>) -> Fut + Send + 'static,
    Fut: Future<Output = T> + 'static,
{
    let lane = IoThread::spawn(config).expect("a lane");
    let backend = backend.clone();
    let result = lane.run_on(move |ctx: &AioContext| {
        let channel = Rc::new(backend.channel(ctx, depth).unwrap_or_else(|err| panic!("{err}")));
        work(channel)
    });
    let result = result.expect("the lane runs");
    lane.join().expect("the lane ended well");
    result
}

/// Page-aligned memory of `len_bytes` bytes, each byte different for different `salt` and place.
pub fn pattern(salt: u64, len_bytes: usize) -> IoBuf {
    let mut buffer = memory(len_bytes);
    buffer.copy_from(0, &pattern_bytes(salt, len_bytes)).expect("as long as that");
    buffer
}

/// The bytes of [`pattern`].
pub fn pattern_bytes(salt: u64, len_bytes: usize) -> Vec<u8> {
    let word = |index: u64| (salt << 40 | index).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    (0..len_bytes as u64).map(|at| word(at / 8)[(at % 8) as usize]).collect()
}

/// Page-aligned memory of `len_bytes` bytes.
pub fn memory(len_bytes: usize) -> IoBuf {
    IoBuf::from(DmaBuffer::new(len_bytes, 4096, Backing::Pages).expect("memory"))
}

/// What a buffer holds.
pub fn bytes_of(buffer: &IoBuf) -> Vec<u8> {
    let mut bytes = vec![0; buffer.len()];
    buffer.copy_to(0, &mut bytes).expect("as long as that");
    bytes
}

/// Panics when two byte strings differ, with the first place where they do.
pub fn assert_same(got: &[u8], expected: &[u8]) {
    assert_eq!(got.len(), expected.len());
    if let Some(at) = got.iter().zip(expected).position(|(a, b)| a != b) {
        panic!("byte {at} is {:#x}, but must be {:#x}", got[at], expected[at]);
    }
}
