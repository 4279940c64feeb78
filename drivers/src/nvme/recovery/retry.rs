//! Whether a command that failed, or was lost in a reset, is sent once more, and when.
//!
//! Invariants:
//! - A request is repeated a bounded number of times, counted in a place of its own that its successors do not inherit.
//! - What the controller says is of no use to repeat (DNR), or what repeating would do twice, is not repeated.

use std::time::Duration;

use corelane_engine::block::{Command as Request, Op, Tag};

use crate::nvme::spec::status::Status;

/// The unit of CRDT1 to CRDT3 (Base figure 275).
const DELAY_UNIT: Duration = Duration::from_millis(100);
/// The most that a controller may ask for.
const DELAY_MAX: Duration = Duration::from_secs(10);

/// How often the requests of a queue were repeated.
#[derive(Debug)]
pub struct Retries {
    /// By tag: the generation of the request that was repeated last, and how often it was.
    counts: Box<[(u16, u8)]>,
    most: u8,
    /// CRDT1 to CRDT3, as times.
    delays: [Duration; 3],
}

/// Whether an operation may be carried out twice, with what it did the first time unknown. All that the block layer has
/// may: the same data in the same place, or the same place without data. Whoever has another request in flight for the
/// same blocks gets either's outcome, as without a reset.
pub const fn is_repeatable(op: Op) -> bool {
    match op {
        Op::Read | Op::Write | Op::Flush | Op::WriteZeroes | Op::Discard => true,
    }
}

impl Retries {
    /// For the tags `0..tags`, with `most` repetitions each, and the controller's delays (CRDT1 to CRDT3, in units of
    /// 100 ms).
    pub fn new(tags: u32, most: u8, delays: [u16; 3]) -> Retries {
        Retries { counts: vec![(0, 0); tags as usize].into(), most, delays: self::delays(delays) }
    }

    /// Counts one more repetition of the tag's request; false if there were enough, or if it may not be repeated.
    fn count(&mut self, tag: Tag, request: &Request) -> bool {
        let Some((generation, count)) = self.counts.get_mut(tag.0 as usize) else { return false };
        if *generation != request.generation() {
            (*generation, *count) = (request.generation(), 0);
        }
        let again = *count < self.most && is_repeatable(request.op());
        *count += u8::from(again);
        again
    }

    /// Whether a request that was in flight when the controller was reset is sent again.
    pub fn after_reset(&mut self, tag: Tag, request: &Request) -> bool {
        self.count(tag, request)
    }

    /// Whether a request that ended with this status is sent again, and how long after.
    pub fn after_status(&mut self, tag: Tag, request: &Request, status: Status) -> Option<Duration> {
        if status.do_not_retry() || !status.may_pass() || !self.count(tag, request) {
            return None;
        }
        let (_, count) = self.counts.get(tag.0 as usize).copied().unwrap_or_default();
        Some(delay(status, count, &self.delays))
    }
}

/// CRDT1 to CRDT3 as times.
pub fn delays(units: [u16; 3]) -> [Duration; 3] {
    units.map(|units| (DELAY_UNIT * units.into()).min(DELAY_MAX))
}

/// How long before the `count`th repetition after this status: what the controller asks for, of its `delays`, or else
/// longer each time.
pub fn delay(status: Status, count: u8, delays: &[Duration; 3]) -> Duration {
    let told = usize::from(status.retry_delay()).checked_sub(1).and_then(|index| delays.get(index));
    told.copied().unwrap_or_else(|| own_delay(count))
}

/// How long before the `count`th repetition, where the controller does not say: not at all before the first, then longer
/// each time.
fn own_delay(count: u8) -> Duration {
    match count {
        0 | 1 => Duration::ZERO,
        more => Duration::from_millis(10 << (2 * (u32::from(more) - 2)).min(6)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_delay_is_longer_than_the_longest() {
        let told = delays([0, 3, u16::MAX]);
        assert_eq!(told.map(|delay| delay.as_millis()), [0, 300, DELAY_MAX.as_millis()]);
    }

    #[test]
    fn delays_grow_where_the_controller_has_none() {
        let delays: Vec<u128> = (1..=8).map(|count| own_delay(count).as_millis()).collect();
        assert_eq!(delays, [0, 10, 40, 160, 640, 640, 640, 640]);
    }
}
