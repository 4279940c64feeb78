//! A device that reaches memory where there is none: what the harness is to find, found.

use std::rc::Rc;

use corelane_dma::{Backing, DmaBuffer, IoBuf, Iova, MemRegion};
use corelane_engine::aio::AioConfig;

use super::case;
use crate::vm::cases::nvme::rig::{
    POLL, assert_same, backend, bytes_of, in_lane, pattern, pattern_bytes, start,
};
use crate::vm::{Case, Guest};

/// See the module's documentation.
pub const CASES: &[Case] = &[case("faults::a_stray_access_is_found_by_the_harness", stray)];

/// An address that nothing is mapped at: addresses are given out from below.
const NOWHERE: Iova = Iova(0x66_0000_0000);
const LEN_BYTES: usize = 8192;

/// Memory is in the driver's table with an address that the IOMMU was not told of, as it would be if somebody had unmapped it.
/// The controller then says that all went well.
fn stray(guest: &Guest) {
    guest.expect_stray_access();
    let controller = start(guest, "astray");
    let space = controller.bus().dma().clone();
    in_lane(&AioConfig::default(), &backend(&controller, 1, &POLL), 8, move |channel| async move {
        channel.write_at(0, pattern(1, LEN_BYTES)).await.0.expect("it is written");
        let buffer = DmaBuffer::new(LEN_BYTES, 4096, Backing::Pages).expect("memory");
        let region = MemRegion::from_buffer(buffer);
        space.table().register(&region, NOWHERE).expect("it is new");
        let mut lease = IoBuf::lease(&Rc::new(region.clone()), 0, LEN_BYTES).expect("within the region");
        lease.copy_from(0, &pattern_bytes(2, LEN_BYTES)).expect("as long as that");
        let (result, lease) = channel.read_at(0, lease).await;
        result.expect("QEMU says that it was read");
        assert_same(&bytes_of(&lease), &pattern_bytes(2, LEN_BYTES));
        space.table().unregister(region.addr(), region.len()).expect("it was registered");
    });
}
