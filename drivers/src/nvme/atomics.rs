//! [`AtomicWrites`]: how much of a namespace is written all or not at all (NVM 2.1.4).

use super::spec::identify::IdentifyController;
use super::spec::namespace::IdentifyNamespace;

/// What a namespace promises of writes that others see, or that a loss of power interrupts. All values are bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AtomicWrites {
    /// A write of up to so much is seen by other commands as a whole or not at all (NAWUN, or AWUN). At least a block.
    pub normal_bytes: u64,
    /// A write of up to so much is on the medium as a whole or not at all after a loss of power (NAWUPF, or AWUPF).
    pub power_fail_bytes: u64,
    /// The largest fused Compare and Write (NACWU, or ACWU), where there is such a thing.
    pub compare_and_write_bytes: Option<u64>,
    /// A write that crosses a multiple of so much, counted from [`boundary_offset_bytes`](Self::boundary_offset_bytes) on, is
    /// not atomic (NABSN). `None`: there are no such boundaries.
    pub boundary_bytes: Option<u64>,
    /// The same for a loss of power (NABSPF).
    pub power_fail_boundary_bytes: Option<u64>,
    /// Where the first boundary is (NABO).
    pub boundary_offset_bytes: u64,
}

impl AtomicWrites {
    /// What the controller says, in blocks of `1 << block_shift` bytes.
    pub(super) fn of(
        controller: &IdentifyController,
        namespace: &IdentifyNamespace,
        block_shift: u32,
    ) -> AtomicWrites {
        let own = namespace.has_atomics();
        let unit = |of_controller: u16, of_namespace: u16| {
            let less_one = if own { of_namespace } else { of_controller };
            (u64::from(less_one) + 1) << block_shift
        };
        let boundary = |less_one: u16| (less_one != 0).then(|| (u64::from(less_one) + 1) << block_shift);
        AtomicWrites {
            normal_bytes: unit(controller.awun.get(), namespace.nawun.get()),
            power_fail_bytes: unit(controller.awupf.get(), namespace.nawupf.get()),
            compare_and_write_bytes: controller
                .can_compare_and_write()
                .then(|| unit(controller.acwu.get(), namespace.nacwu.get())),
            boundary_bytes: boundary(namespace.nabsn.get()),
            power_fail_boundary_bytes: boundary(namespace.nabspf.get()),
            boundary_offset_bytes: u64::from(namespace.nabo.get()) << block_shift,
        }
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn a_namespace_speaks_for_itself_or_the_controller_does() {
        let mut controller = IdentifyController::new_zeroed();
        let mut namespace = IdentifyNamespace::new_zeroed();
        controller.awun.set(7);
        controller.acwu.set(1);
        namespace.nawun.set(15);
        namespace.nacwu.set(3);
        let atomic = AtomicWrites::of(&controller, &namespace, 12);
        assert_eq!((atomic.normal_bytes, atomic.power_fail_bytes), (8 << 12, 1 << 12));
        assert_eq!(atomic.compare_and_write_bytes, None);
        assert_eq!((atomic.boundary_bytes, atomic.power_fail_boundary_bytes), (None, None));
        controller.fuses.set(1);
        assert_eq!(AtomicWrites::of(&controller, &namespace, 12).compare_and_write_bytes, Some(2 << 12));
        namespace.nsfeat = 1 << 1;
        namespace.nabsn.set(31);
        namespace.nabo.set(2);
        let atomic = AtomicWrites::of(&controller, &namespace, 9);
        assert_eq!((atomic.normal_bytes, atomic.power_fail_bytes), (16 << 9, 1 << 9));
        assert_eq!(atomic.compare_and_write_bytes, Some(4 << 9));
        assert_eq!((atomic.boundary_bytes, atomic.boundary_offset_bytes), (Some(32 << 9), 2 << 9));
    }
}
