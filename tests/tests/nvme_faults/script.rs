//! Random fault scripts.

use rand::prelude::*;
use rand_xoshiro::Xoshiro256PlusPlus as Rng;

/// Faults of I/O commands, with how many commands there are to one such fault at least. Those that end in a reset are rare.
const IO: [(&str, u32); 24] = [
    ("status", 10),
    ("status:done", 20),
    ("status:2/80:dnr", 10),
    ("status:2/81", 10),
    ("status:0/06:more", 10),
    ("status:0/82:crd=1", 20),
    ("status:3/71", 20),
    ("drop", 30),
    ("lose", 30),
    ("delay:100us-20ms", 20),
    ("delay:5ms-300ms", 50),
    ("late:100us-20ms", 20),
    ("late:5ms-300ms", 50),
    ("no-interrupt", 10),
    ("stuck-doorbell:1ms-100ms", 50),
    ("stuck-doorbell", 40),
    ("duplicate", 40),
    ("cid", 40),
    ("cid:last", 40),
    ("phase", 40),
    ("sq-id", 40),
    ("sq-head", 40),
    ("fatal", 40),
    ("self-reset", 40),
];

/// Faults after which nothing is as before.
const FINAL: [&str; 4] = ["vanish:1ms-50ms", "vanish", "notice:removal", "notice:error"];

/// Events, which change nothing that the data depends on.
const EVENTS: [&str; 5] = ["event:2/0/4", "event:1/1/2", "event:0/3/1", "event:2/1/3", "event:7/ff/c0"];

/// Faults of what recovery does itself, with one chance each.
const RECOVERY: [&str; 19] = [
    "abort:1/2=drop",
    "abort:1/2=lose",
    "abort:1/2=result:1",
    "abort:1/2=status:0/06",
    "abort:1/2=delay:1ms-100ms",
    "enable:1/3=delay:1ms-100ms",
    "enable:1/4=never",
    "enable:1/4=fatal",
    "enable:1/8=vanish:1ms-50ms",
    "disable:1/3=delay:1ms-100ms",
    "disable:1/4=never",
    "reset:1/2=never",
    "disable=never;reset=never",
    "create-sq:1/5=status:1/01:dnr",
    "create-cq:1/5=drop",
    "set-queues:1/3=queues:1",
    "set-queues:1/5=queues:0",
    "admin:1/10=status",
    "event-request:1/3=status:1/05:dnr",
];

/// What may go wrong while a controller is opened, with no I/O under way.
const OPENING: [&str; 14] = [
    "identify:1/3=corrupt",
    "identify.0=corrupt:130/ff",
    "identify.1=corrupt:77/ff",
    "identify.1=corrupt:512/00",
    "identify:1/3=truncate:0",
    "identify:1/3=truncate:100",
    "identify.2=corrupt:0/ffffffff",
    "admin:1/4=status",
    "admin:1/10=drop",
    "admin:1/8=cid",
    "set-queues=queues:0",
    "set-queues=status:0/06:dnr",
    "enable=never",
    "enable=fatal",
];

fn seeded(rng: &mut Rng, rules: &[String]) -> String {
    format!("seed={:#x};{}", rng.random::<u64>(), rules.join(";"))
}

/// Faults for a controller that works.
pub fn working(rng: &mut Rng) -> String {
    let mut rules = Vec::new();
    for _ in 0..rng.random_range(1..=4) {
        let (fault, least) = IO.choose(rng).expect("not empty");
        let what =
            ["io", "io", "read", "write", "flush", "write-zeroes", "discard"].choose(rng).expect("not empty");
        let one_in = least * rng.random_range(1..=8);
        let place = if rng.random_bool(0.2) { "@q1" } else { "" };
        rules.push(format!("{what}:1/{one_in}{place}={fault}"));
    }
    if rng.random_bool(0.3) {
        let event = EVENTS.choose(rng).expect("not empty");
        rules.push(format!("io:1/{}={event}", rng.random_range(5..100)));
    }
    if rng.random_bool(0.1) {
        let fault = FINAL.choose(rng).expect("not empty");
        rules.push(format!("io:{}={fault}", rng.random_range(1..300)));
    }
    for _ in 0..rng.random_range(0..=2) {
        // Each of these may cost the half second that a controller has to become ready.
        if rng.random_bool(0.4) {
            rules.push(RECOVERY.choose(rng).expect("not empty").to_string());
        }
    }
    seeded(rng, &rules)
}

/// Faults for a controller that is opened.
pub fn opening(rng: &mut Rng) -> String {
    let rule = OPENING.choose(rng).expect("not empty").to_string();
    seeded(rng, &[rule])
}

#[test]
fn every_rule_is_one() {
    use corelane_nvme_model::FaultScript;
    let all =
        IO.iter().map(|(fault, _)| *fault).chain(FINAL).chain(EVENTS).map(|fault| format!("io={fault}"));
    for rule in all.chain(RECOVERY.into_iter().chain(OPENING).map(str::to_owned)) {
        assert!(!rule.parse::<FaultScript>().unwrap().rules.is_empty());
    }
}
