//! The host memory buffer: memory of the host that a controller without enough of its own asks for, and has for itself (Base
//! 8.9).
//!
//! Invariants:
//! - The controller is told to give it up before it is shut down, and the memory stays mapped until the controller has provably
//!   stopped: it belongs to [`Core`], which outlives that.
//! - After a reset the controller gets the same memory again, untouched, and is told so.
//! - A controller that refuses it does without.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::admin::{Data, Permit};
use super::core::Core;
use super::registers::PAGE_BYTES;
use crate::nvme::bus::Bus;
use crate::nvme::error::NvmeError;
use crate::nvme::queue::memory::HostMemory;
use crate::nvme::spec::Nsid;
use crate::nvme::spec::command::Command;
use crate::nvme::spec::feature::{self, HOST_MEMORY_ENABLE, HOST_MEMORY_RETURN};
use crate::nvme::spec::identify::IdentifyController;

/// The unit of HMPRE, HMMIN and HMMINDS in bytes (Base figure 275).
const UNIT_BYTES: u64 = 4096;
/// A descriptor of a piece in bytes (Base figure 325).
const DESCRIPTOR_BYTES: usize = 16;

/// See the module's documentation.
pub struct HostBuffer {
    /// In units of the memory page.
    pages: u32,
    /// Where the list of descriptors is: one, since I/O addresses are contiguous. That is within every HMMAXD.
    list_iova: u64,
    /// Whether the controller has it, as far as is known.
    held: AtomicBool,
    /// Only kept: the buffer and the list. The lock makes it shareable.
    _memory: Mutex<[HostMemory; 2]>,
}

/// How much memory a controller asks for, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Wish {
    preferred: u64,
    least: u64,
}

impl Wish {
    /// `None` if it asks for none.
    fn of(identify: &IdentifyController) -> Option<Wish> {
        let bytes = |units: u32| u64::from(units) * UNIT_BYTES;
        let preferred = bytes(identify.hmpre.get());
        // All of it is one piece, which has a least length as well.
        let least = bytes(identify.hmmin.get()).max(bytes(identify.hmminds.get())).max(UNIT_BYTES);
        (preferred > 0).then_some(Wish { preferred, least })
    }

    /// What to try, with at most `most` bytes: the largest first.
    fn lengths(self, most: u64) -> impl Iterator<Item = u64> {
        let first = self.preferred.min(most) / UNIT_BYTES * UNIT_BYTES;
        let smaller = |bytes: &u64| Some(bytes / 2 / UNIT_BYTES * UNIT_BYTES);
        std::iter::successors(Some(first), smaller).take_while(move |bytes| *bytes >= self.least)
    }
}

impl HostBuffer {
    /// Makes a buffer of what the controller asks for, but of at most `most` bytes; `None` if it asks for none, or for more
    /// than can be had.
    fn make(bus: &dyn Bus, identify: &IdentifyController, most: u64) -> Option<HostBuffer> {
        let wish = Wish::of(identify).filter(|_| most > 0)?;
        for bytes in wish.lengths(most) {
            match HostBuffer::of(bus, bytes) {
                Ok(buffer) => return Some(buffer),
                Err(error) => {
                    tracing::info!(controller = bus.address(), bytes, %error, "no host memory buffer")
                }
            }
        }
        let Wish { preferred, least } = wish;
        tracing::warn!(
            controller = bus.address(),
            preferred,
            least,
            most,
            "it gets no host memory buffer, and may be slower: raise host_memory_bytes or the limit of locked memory"
        );
        None
    }

    fn of(bus: &dyn Bus, bytes: u64) -> Result<HostBuffer, NvmeError> {
        let len = usize::try_from(bytes).unwrap_or(usize::MAX);
        let memory = HostMemory::without_huge_pages(bus, len)?;
        let list = HostMemory::without_huge_pages(bus, PAGE_BYTES)?;
        let pages = (bytes / PAGE_BYTES as u64) as u32;
        // Address, length in pages.
        let mut descriptor = [0; DESCRIPTOR_BYTES];
        descriptor[..8].copy_from_slice(&memory.iova().to_le_bytes());
        descriptor[8..12].copy_from_slice(&pages.to_le_bytes());
        list.buffer().copy_from(0, &descriptor)?;
        let held = AtomicBool::new(false);
        Ok(HostBuffer { pages, list_iova: list.iova(), held, _memory: Mutex::new([memory, list]) })
    }

    /// How large it is.
    pub fn len_bytes(&self) -> u64 {
        u64::from(self.pages) * PAGE_BYTES as u64
    }

    /// Whether the controller has it, as far as is known.
    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }

    fn set_held(&self, held: bool) {
        self.held.store(held, Ordering::Release);
    }

    /// The command that gives it to the controller (Base 5.27.1.10).
    fn give(&self, flags: u32) -> Command {
        const DESCRIPTORS: u32 = 1;
        let mut command =
            Command::set_feature(feature::id::HOST_MEMORY_BUFFER, Nsid::NONE, HOST_MEMORY_ENABLE | flags);
        let (low, high) = (self.list_iova as u32, (self.list_iova >> 32) as u32);
        command.cdw10[2..].copy_from_slice(&[self.pages, low, high, DESCRIPTORS]);
        command
    }
}

/// The command that takes it back.
fn take_back() -> Command {
    Command::set_feature(feature::id::HOST_MEMORY_BUFFER, Nsid::NONE, 0)
}

impl Core {
    /// Makes a host memory buffer, if the controller asks for one and may have one, and gives it to it.
    ///
    /// # Errors
    /// Those of an admin command other than a refusal.
    pub fn make_host_buffer(
        &self,
        permit: Permit,
        identify: &IdentifyController,
    ) -> Result<Option<HostBuffer>, NvmeError> {
        let most = self.options.host_memory_bytes;
        let Some(buffer) = HostBuffer::make(self.bus().as_ref(), identify, most) else { return Ok(None) };
        match self.give_host_buffer(permit, &buffer, 0) {
            // Kept even if it was refused: a status is a poor proof that the controller does not use it.
            Ok(()) => Ok(Some(buffer)),
            Err(error) => {
                // It may have taken it all the same.
                *self.unsure_buffer.lock().unwrap_or_else(PoisonError::into_inner) = Some(buffer);
                Err(error)
            }
        }
    }

    /// Gives a controller that was reset the buffer that it had, if it had it.
    ///
    /// # Errors
    /// Those of an admin command other than a refusal.
    pub fn return_host_buffer(&self, permit: Permit, buffer: &HostBuffer) -> Result<(), NvmeError> {
        if buffer.is_held() { self.give_host_buffer(permit, buffer, HOST_MEMORY_RETURN) } else { Ok(()) }
    }

    fn give_host_buffer(&self, permit: Permit, buffer: &HostBuffer, flags: u32) -> Result<(), NvmeError> {
        match self.execute(permit, "Set Features (host memory buffer)", buffer.give(flags), Data::None) {
            Ok(_) => {
                buffer.set_held(true);
                Ok(())
            }
            Err(NvmeError::Refused { status, .. }) => {
                let controller = self.control.address();
                tracing::warn!(controller, %status, "it refuses the host memory buffer that it asked for");
                buffer.set_held(false);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Takes the host memory buffer back from a controller that runs, so that it puts in order what it keeps there. Where that
    /// fails, stopping it has to do. Blocks.
    pub fn take_host_buffer_back(&self) {
        let held = self.known.get().and_then(|known| known.host_buffer.as_ref());
        let Some(buffer) = held.filter(|buffer| buffer.is_held() && self.control.is_running()) else {
            return;
        };
        let permit = Permit::of(self.control.word());
        match self.execute(permit, "Set Features (no host memory buffer)", take_back(), Data::None) {
            Ok(_) => buffer.set_held(false),
            Err(error) => {
                tracing::warn!(controller = self.control.address(), %error, "taking the host memory buffer back");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;
    use zerocopy::little_endian::U32;

    use super::*;

    fn lengths(hmpre: u32, hmmin: u32, hmminds: u32, most: u64) -> Vec<u64> {
        let mut identify = IdentifyController::new_zeroed();
        (identify.hmpre, identify.hmmin, identify.hmminds) =
            (U32::new(hmpre), U32::new(hmmin), U32::new(hmminds));
        Wish::of(&identify)
            .map_or_else(Vec::new, |wish| wish.lengths(most).map(|bytes| bytes / 4096).collect())
    }

    #[test]
    fn what_is_tried_is_between_the_least_and_the_most() {
        let none: [u64; 0] = [];
        assert_eq!(lengths(0, 0, 0, u64::MAX), none);
        assert_eq!(lengths(64, 16, 0, u64::MAX), [64, 32, 16]);
        assert_eq!(lengths(64, 0, 0, 20 * 4096 + 100), [20, 10, 5, 2, 1]);
        assert_eq!(lengths(64, 16, 30, 63 * 4096), [63, 31]);
        assert_eq!(lengths(64, 16, 0, 15 * 4096), none);
        assert_eq!(lengths(64, 65, 0, u64::MAX), none);
        assert_eq!(lengths(u32::MAX, u32::MAX, 0, u64::MAX), [u64::from(u32::MAX)]);
    }

    #[test]
    fn it_is_taken_back_by_feature_0dh_without_its_bit() {
        assert_eq!(take_back().cdw10, [0x0d, 0, 0, 0, 0, 0]);
    }
}
