//! The rules of a node, compiled for one lane: what the fast path asks about each request.
//!
//! Invariant: a request that [`Plan::admits`] is, as it stands, a command that the leaf queue may carry out.

use std::cell::Cell;

use corelane_dma::Payload;

use super::driver::BlockDriver;
use super::limits::BlockLimits;
use super::request::{Op, ReqFlags, Request};
use super::zoned::ZoneLimits;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Plan {
    align_mask: u64,
    /// `align_mask`, but of a zoned node all ones: what follows an offset there has to be looked at.
    again_mask: u64,
    max_transfer: u64,
    mem_mask: usize,
    max_iov: usize,
    /// Bit *i* is set if the device has answered that it cannot do operation *i*.
    unsupported: Cell<u8>,
    /// By operation: the flags that it may not carry on the fast path, and [`NEVER`] if it has none.
    forbidden: [Cell<u8>; Op::COUNT],
    /// Flags that every write carries.
    forced: ReqFlags,
    zeroes: RangeRule,
    discard: RangeRule,
    /// Of a zoned node: writes never take the fast path there, and reads only within a zone.
    zoned: Option<ZoneLimits>,
}

/// A bit that no flag has: an operation that forbids it cannot take the fast path at all.
const NEVER: u8 = 0x80;

const _: () = assert!(ReqFlags::all().bits() & NEVER == 0);

/// Alignment (in bytes, any number from 1) and bound of write-zeroes or discards.
#[derive(Clone, Copy, Debug)]
struct RangeRule {
    align: u64,
    max: u64,
}

impl Plan {
    /// Compiles `driver`'s rules. `force_fua`: every write must reach stable storage (write-through).
    pub(super) fn new(
        driver: &dyn BlockDriver,
        limits: &BlockLimits,
        read_only: bool,
        force_fua: bool,
    ) -> Plan {
        // Reads and flushes carry no flag; anything else is refused until the driver has said otherwise.
        let mut forbidden = [!0; Op::COUNT];
        let mut admit = |op: Op, flags: ReqFlags| forbidden[op as usize] = !flags.bits() & !NEVER;
        if limits.zoned.is_none_or(|zones| zones.cross_reads) {
            admit(Op::Read, ReqFlags::empty());
        }
        admit(Op::Flush, ReqFlags::empty());
        if !read_only && limits.zoned.is_none() {
            let flags = driver.supported_write_flags();
            // A write-through write without FUA support costs a flush, which is the slow path's business.
            if !force_fua || flags.contains(ReqFlags::FUA) {
                admit(Op::Write, flags);
            }
            if let (Some(flags), false) = (driver.supported_zero_flags(), force_fua) {
                // NO_FALLBACK is the block layer's own; it is taken off before the command goes down.
                admit(Op::WriteZeroes, flags | ReqFlags::NO_FALLBACK);
            }
            if driver.can_discard() {
                admit(Op::Discard, ReqFlags::empty());
            }
        }
        let align_mask = u64::from(limits.request_alignment) - 1;
        Plan {
            align_mask,
            again_mask: if limits.zoned.is_some() { u64::MAX } else { align_mask },
            max_transfer: limits.transfer_bound(),
            mem_mask: limits.min_mem_alignment as usize - 1,
            max_iov: limits.max_iov as usize,
            unsupported: Cell::new(0),
            forbidden: forbidden.map(Cell::new),
            forced: if force_fua { ReqFlags::FUA } else { ReqFlags::empty() },
            zeroes: RangeRule { align: limits.zeroes_alignment().into(), max: limits.zeroes_bound() },
            discard: RangeRule { align: limits.discard_alignment().into(), max: limits.discard_bound() },
            zoned: limits.zoned,
        }
    }

    /// Whether the request can go to the device as it stands, on a node of `length` bytes.
    #[inline(always)]
    pub(super) fn admits(&self, request: &Request, length: u64) -> bool {
        if (request.flags.bits() | NEVER) & self.forbidden[request.op as usize].get() != 0 {
            return self.admits_in_zone(request, length);
        }
        self.admits_payload(request, length)
    }

    #[inline(always)]
    fn admits_payload(&self, request: &Request, length: u64) -> bool {
        match (&request.payload, request.op) {
            (Payload::One(buf), Op::Read | Op::Write) => {
                self.fits(request, length)
                    && buf.len() as u64 == request.bytes
                    && buf.addr() & self.mem_mask == 0
            }
            _ => self.admits_other(request, length),
        }
    }

    /// What is forbidden in general is not if it is a read within a zone.
    #[cold]
    #[inline(never)]
    fn admits_in_zone(&self, request: &Request, length: u64) -> bool {
        self.zoned.is_some_and(|zones| {
            request.op == Op::Read
                && request.flags.is_empty()
                && self.may_support(Op::Read)
                && !zones.crosses(request.offset, request.bytes.max(1))
                && self.admits_payload(request, length)
        })
    }

    /// Whether a read or write that went to the device as it came may do so once more with the same memory, but at
    /// `offset`.
    #[inline(always)]
    pub(super) fn admits_again(&self, offset: u64, bytes: u64, length: u64) -> bool {
        offset & self.again_mask == 0 && offset <= length && bytes <= length - offset
    }

    /// What is not a transfer of one buffer.
    #[inline(never)]
    fn admits_other(&self, request: &Request, length: u64) -> bool {
        match (&request.payload, request.op) {
            (Payload::Many(vector), Op::Read | Op::Write) => {
                self.fits(request, length)
                    && vector.len_bytes() as u64 == request.bytes
                    && vector.segments().len() <= self.max_iov
                    && vector.is_aligned(self.mem_mask, self.mem_mask)
            }
            (Payload::None, Op::Flush) => true,
            (Payload::None, Op::WriteZeroes) => self.zeroes.fits(request, length),
            (Payload::None, Op::Discard) => self.discard.fits(request, length),
            _ => false,
        }
    }

    /// The flags that go down with a request that was admitted.
    #[inline]
    pub(super) fn leaf_flags(&self, op: Op, flags: ReqFlags) -> ReqFlags {
        let forced = if op == Op::Write { self.forced } else { ReqFlags::empty() };
        flags.difference(ReqFlags::NO_FALLBACK) | forced
    }

    /// The device turned out not to support `op`: from now on it is the slow path's.
    #[cold]
    pub(super) fn forget(&self, op: Op) {
        self.forbidden[op as usize].set(!0);
        self.unsupported.set(self.unsupported.get() | 1 << op as u8);
    }

    /// Whether the device has not yet answered that it cannot do `op`.
    pub(super) fn may_support(&self, op: Op) -> bool {
        self.unsupported.get() >> op as u8 & 1 == 0
    }

    #[inline(always)]
    fn fits(&self, request: &Request, length: u64) -> bool {
        (request.offset | request.bytes) & self.align_mask == 0
            // One comparison for 1..=max: zero wraps around.
            && request.bytes.wrapping_sub(1) < self.max_transfer
            && in_range(request, length)
    }
}

impl RangeRule {
    fn fits(&self, request: &Request, length: u64) -> bool {
        request.bytes.wrapping_sub(1) < self.max
            && in_range(request, length)
            && request.offset.is_multiple_of(self.align)
            && request.bytes.is_multiple_of(self.align)
    }
}

/// Whether the range lies within `length` bytes, without overflow.
#[inline]
pub(super) fn in_range(request: &Request, length: u64) -> bool {
    request.offset <= length && request.bytes <= length - request.offset
}
