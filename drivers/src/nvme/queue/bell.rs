//! How a queue tells the controller of its tail or head: a doorbell, and in front of it a shadow in memory where the
//! controller has shadow doorbells (Doorbell Buffer Config, Base 5.8).
//!
//! With shadows the driver writes each new value to memory, and the doorbell itself only if the controller asked for that:
//! it writes to an *event index* the value at which it wants to be told. Both sides write theirs, then read the other's; a
//! full fence between the two makes sure that at least one of them sees the other's write. The rule is that of virtio's
//! event index, with 16-bit values that wrap around.

use std::sync::atomic::{Ordering, fence};

use corelane_dma::Mmio32;

use crate::nvme::bus::{BusError, Doorbell};

/// Where a doorbell's shadow and event index are, in memory shared with the controller.
#[derive(Clone, Debug)]
pub struct Shadow {
    /// Written by the driver: the value.
    pub value: Mmio32,
    /// Written by the controller: when it wants to be told.
    pub event: Mmio32,
}

/// One doorbell.
#[derive(Debug)]
pub struct Bell {
    doorbell: Doorbell,
    shadow: Option<Shadow>,
    told: u32,
}

impl Bell {
    /// A bell that has told 0, as the controller assumes of a new queue.
    pub fn new(doorbell: Doorbell, shadow: Option<Shadow>) -> Bell {
        Bell { doorbell, shadow, told: 0 }
    }

    /// What the controller was last told.
    #[inline(always)]
    pub fn told(&self) -> u32 {
        self.told
    }

    /// As it was when it was made, for a controller that has forgotten it. It reads the shadow only when its queue is
    /// made again.
    pub fn reset(&mut self) {
        self.told = 0;
        if let Some(shadow) = &self.shadow {
            shadow.value.write(0);
            shadow.event.write(0);
        }
    }

    /// Tells the controller of `value`, below 65,536. All that was stored before is visible to it first.
    ///
    /// # Errors
    /// Those of the bus.
    #[inline(always)]
    pub fn tell(&mut self, value: u32) -> Result<(), BusError> {
        let before = std::mem::replace(&mut self.told, value);
        match &self.shadow {
            None => self.doorbell.ring(value),
            Some(shadow) if must_ring(shadow, before, value) => self.doorbell.ring(value),
            Some(_) => Ok(()),
        }
    }
}

#[inline]
fn must_ring(shadow: &Shadow, before: u32, value: u32) -> bool {
    shadow.value.write(value);
    // Between the write of the shadow and the read of the event index: the controller, which writes the index and then
    // reads the shadow, either sees our value or we see its index.
    fence(Ordering::SeqCst);
    passes(shadow.event.read() as u16, before as u16, value as u16)
}

/// Whether the step from `before` to `value` passes `event`.
#[inline]
fn passes(event: u16, before: u16, value: u16) -> bool {
    value.wrapping_sub(event).wrapping_sub(1) < value.wrapping_sub(before)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use corelane_dma::{Backing, DmaBuffer, MmioRegion};
    use proptest::prelude::*;

    use super::*;

    fn region() -> MmioRegion {
        MmioRegion::from_shared(Arc::new(DmaBuffer::new(4096, 4096, Backing::Memfd).unwrap())).unwrap()
    }

    #[test]
    fn without_a_shadow_every_value_is_rung() {
        let registers = region();
        let mut bell = Bell::new(Doorbell::Mapped(registers.register32(8).unwrap()), None);
        bell.tell(3).unwrap();
        assert_eq!((registers.read32(8).unwrap(), bell.told()), (3, 3));
    }

    #[test]
    fn with_a_shadow_only_what_the_controller_waits_for_is_rung() {
        let (registers, memory) = (region(), region());
        let shadow = Shadow { value: memory.register32(0).unwrap(), event: memory.register32(4).unwrap() };
        let mut bell = Bell::new(Doorbell::Mapped(registers.register32(8).unwrap()), Some(shadow));
        // The event index is 0 at first: the first step away from 0 rings.
        bell.tell(2).unwrap();
        assert_eq!((memory.read32(0).unwrap(), registers.read32(8).unwrap()), (2, 2));
        bell.tell(5).unwrap();
        assert_eq!((memory.read32(0).unwrap(), registers.read32(8).unwrap()), (5, 2));
        memory.write32(4, 6).unwrap();
        bell.tell(6).unwrap();
        assert_eq!(registers.read32(8).unwrap(), 2, "it has not passed 6 yet");
        bell.tell(7).unwrap();
        assert_eq!(registers.read32(8).unwrap(), 7);
    }

    proptest! {
        #[test]
        fn a_step_passes_what_lies_on_its_way(before: u16, step in 0u16..1000, event: u16) {
            let on_the_way = (0..step).any(|i| before.wrapping_add(i) == event);
            prop_assert_eq!(passes(event, before, before.wrapping_add(step)), on_the_way);
        }
    }
}
