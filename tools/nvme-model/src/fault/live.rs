//! The script in use: which rule applies to what comes next, and what earlier faults left behind.
//!
//! Invariants: each rule counts what it is about, also where an earlier rule decides; so what a rule does is independent of
//! those before it, but for commands that they take.

use std::time::{Duration, Instant};

use super::due::Held;
use super::{Fault, FaultScript, Span, What, When};
use crate::namespace::Namespace;
use crate::wire::command::{Command, nvm};

/// The state of making faults. It belongs to the polling thread.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    script: FaultScript,
    /// How often each rule's subject has come.
    seen: Vec<u64>,
    random: Random,
    /// Commands that are to be completed later.
    pub(super) held: Vec<Held>,
    pub(super) stuck: Vec<Stuck>,
    /// The queue that completed a command last, and which.
    pub(super) last: Vec<(u16, u16)>,
    /// When a host's wish is followed that is followed late; it is asked for once.
    pub(super) disable_at: Option<Option<Instant>>,
    /// When a function that is gone comes back.
    pub(super) back_at: Option<Instant>,
}

/// A queue whose tail doorbell is not looked at.
#[derive(Debug)]
pub(super) struct Stuck {
    /// The queue's, so that a later one with its number is not meant.
    pub(super) serial: u64,
    pub(super) until: Option<Instant>,
}

impl Faults {
    /// Follows another script from now on; what is held stays.
    pub(crate) fn set_script(&mut self, script: FaultScript) {
        self.random = Random::new(script.seed);
        self.seen = vec![0; script.rules.len()];
        self.script = script;
    }

    /// Whether commands can be served as if there were no faults.
    #[inline]
    pub(crate) fn none(&self) -> bool {
        self.script.rules.is_empty() && self.held.is_empty() && self.stuck.is_empty()
    }

    /// The fault that this command gets.
    pub(super) fn of_command(
        &mut self,
        queue: u16,
        command: &Command,
        namespaces: &[Namespace],
    ) -> Option<Fault> {
        let opcode = command.opcode();
        let what = match queue {
            0 => What::Admin(Some(opcode), Some(command.dword(10) as u8)),
            _ => What::Io(Some(opcode)),
        };
        let shift = namespaces.get((command.nsid() as usize).wrapping_sub(1)).map(Namespace::lba_shift);
        self.pick(what, |rule| {
            rule.queue.is_none_or(|id| id == queue)
                && rule.nsid.is_none_or(|nsid| nsid == command.nsid())
                && rule.blocks.as_ref().is_none_or(|blocks| {
                    shift.is_some()
                        && blocks_of(command)
                            .is_some_and(|(first, last)| first <= *blocks.end() && last >= *blocks.start())
                })
        })
    }

    /// The fault that something other than a command gets.
    pub(super) fn of_event(&mut self, what: What) -> Option<Fault> {
        self.pick(what, |_| true)
    }

    fn pick(&mut self, what: What, also: impl Fn(&super::FaultRule) -> bool) -> Option<Fault> {
        let Faults { script, seen, random, .. } = self;
        let mut found = None;
        for (rule, seen) in script.rules.iter().zip(seen) {
            if !is_about(rule.what, what) || !also(rule) {
                continue;
            }
            *seen += 1;
            let due = match &rule.when {
                When::Count(numbers) => numbers.contains(seen),
                When::Each(each) => seen.is_multiple_of(*each),
                When::OneIn(count) => random.below(u64::from(*count)) == 0,
            };
            if due && found.is_none() {
                found = Some(rule.fault.clone());
            }
        }
        found
    }

    /// A number below `bound` by chance; 0 for 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.random.below(bound)
    }

    /// When a time by chance from now on has passed.
    pub(super) fn after(&mut self, span: Span) -> Instant {
        let room_us = (span.most - span.least).as_micros() as u64;
        Instant::now() + span.least + Duration::from_micros(self.random.below(room_us + 1))
    }

    /// Forgets what is about queues that are gone.
    pub(crate) fn queues_are_gone(&mut self) {
        self.held.clear();
        self.stuck.clear();
        self.last.clear();
        self.disable_at = None;
    }

    /// Forgets what is about one queue that is gone.
    pub(crate) fn queue_is_gone(&mut self, serial: u64) {
        self.held.retain(|held| held.token.serial != serial);
        self.stuck.retain(|stuck| stuck.serial != serial);
    }

    /// Whether the queue's tail doorbell is looked at.
    pub(super) fn is_stuck(&mut self, serial: u64) -> bool {
        if self.stuck.is_empty() {
            return false;
        }
        let now = Instant::now();
        self.stuck.retain(|stuck| stuck.until.is_none_or(|until| now < until));
        self.stuck.iter().any(|stuck| stuck.serial == serial)
    }
}

/// Whether a rule about `rule` is also about `what`, which is as exact as can be.
fn is_about(rule: What, what: What) -> bool {
    let covers = |rule: Option<u8>, value: Option<u8>| rule.is_none() || rule == value;
    match (rule, what) {
        (What::Io(rule), What::Io(opcode)) => covers(rule, opcode),
        (What::Admin(rule, low), What::Admin(opcode, byte)) => covers(rule, opcode) && covers(low, byte),
        (rule, what) => rule == what,
    }
}

/// The first and the last block of a command that has blocks.
fn blocks_of(command: &Command) -> Option<(u64, u64)> {
    let ranged =
        matches!(command.opcode(), nvm::READ | nvm::WRITE | nvm::COMPARE | nvm::WRITE_ZEROES | nvm::VERIFY);
    let first = command.slba();
    ranged.then(|| (first, first.saturating_add(u64::from(command.dword(12) & 0xFFFF))))
}

/// SplitMix64.
#[derive(Clone, Debug, Default)]
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next().checked_rem(bound).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(script: &str) -> Faults {
        let mut faults = Faults::default();
        faults.set_script(script.parse().unwrap());
        faults
    }

    fn write(first: u64, count: u64) -> Command {
        Command([u64::from(nvm::WRITE) | 1 << 32, 0, 0, 0, 0, first, count - 1, 0])
    }

    fn made(faults: &mut Faults, queue: u16, commands: usize) -> Vec<usize> {
        let numbers = 1..=commands;
        numbers.filter(|_| faults.of_command(queue, &write(0, 1), &[]).is_some()).collect()
    }

    #[test]
    fn rules_count_what_they_are_about() {
        assert_eq!(made(&mut faults("write:17=drop"), 1, 30), [17]);
        assert_eq!(made(&mut faults("io:*4=drop"), 1, 9), [4, 8]);
        assert_eq!(made(&mut faults("io.1:2-3@q2=drop"), 2, 9), [2, 3]);
        assert_eq!(made(&mut faults("write@q2=drop"), 1, 9), [0; 0]);
        assert_eq!(made(&mut faults("admin=drop"), 1, 9), [0; 0]);
        assert_eq!(made(&mut faults("admin=drop"), 0, 3), [1, 2, 3]);
        assert_eq!(made(&mut faults("write@n2=drop"), 1, 9), [0; 0]);
    }

    #[test]
    fn chance_is_the_seeds() {
        let runs = [1, 1, 2].map(|seed| made(&mut faults(&format!("seed={seed};io:1/10=drop")), 1, 1000));
        assert_eq!(runs[0], runs[1]);
        assert_ne!(runs[0], runs[2]);
        assert!((50..200).contains(&runs[0].len()), "{}", runs[0].len());
    }

    #[test]
    fn the_first_rule_that_applies_decides() {
        let mut faults = faults("write:2=drop; write:2-3=lose");
        let found: Vec<_> = (0..3).map(|_| faults.of_command(1, &write(0, 1), &[])).collect();
        assert_eq!(found, [None, Some(Fault::Drop), Some(Fault::Lose)]);
    }

    #[test]
    fn blocks_touch_or_do_not() {
        use crate::config::NamespaceConfig;
        let namespaces = [Namespace::new(&NamespaceConfig::null(1 << 20), &mut 0).unwrap()];
        let mut faults = faults("write@b10-19=drop");
        let mut hit = |first, count| faults.of_command(1, &write(first, count), &namespaces).is_some();
        assert!(hit(10, 1) && hit(19, 1) && hit(0, 11) && hit(0, 100));
        assert!(!hit(0, 10) && !hit(20, 5));
    }
}
