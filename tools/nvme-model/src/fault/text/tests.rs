//! What is understood, and what is refused with which reason.

use super::*;

fn rule(text: &str) -> FaultRule {
    text.parse().unwrap()
}

fn span(least_ms: u64, most_ms: u64) -> Span {
    Span { least: Duration::from_millis(least_ms), most: Duration::from_millis(most_ms) }
}

#[test]
fn a_rule_says_what_when_where_and_which_fault() {
    let expected = FaultRule {
        what: What::Io(Some(1)),
        queue: Some(2),
        nsid: None,
        blocks: None,
        when: When::Count(17..=17),
        fault: Fault::Drop,
    };
    assert_eq!(rule("write:17@q2=drop"), expected);
    let everywhere = FaultRule { queue: None, when: When::Count(1..=u64::MAX), ..expected };
    assert_eq!(rule("write=drop"), everywhere);
    assert_eq!(
        rule("write@n3@b128-0x90=drop"),
        FaultRule { nsid: Some(3), blocks: Some(128..=144), ..everywhere }
    );
}

#[test]
fn commands_have_names_or_numbers() {
    for (text, what) in [
        ("io.19", What::Io(Some(0x19))),
        ("admin.7c", What::Admin(Some(0x7C), None)),
        ("identify.1", What::Admin(Some(6), Some(1))),
        ("set-queues", What::Admin(Some(9), Some(7))),
        ("discard", What::Io(Some(9))),
    ] {
        assert_eq!(rule(&format!("{text}=drop")).what, what, "{text}");
    }
    assert_eq!(rule("enable=never").what, What::Enable);
}

#[test]
fn a_time_may_be_a_number_a_range_each_or_by_chance() {
    for (text, when) in [
        ("3-5", When::Count(3..=5)),
        ("3+", When::Count(3..=u64::MAX)),
        ("*4", When::Each(4)),
        ("1/1000", When::OneIn(1000)),
    ] {
        assert_eq!(rule(&format!("read:{text}=drop")).when, when, "{text}");
    }
}

#[test]
fn every_fault_has_a_text() {
    let texts = [
        ("read=delay:5ms", Fault::Delay(span(5, 5))),
        ("read=late:1ms-2s", Fault::Late(span(1, 2000))),
        ("read=drop", Fault::Drop),
        ("read=lose", Fault::Lose),
        ("read=duplicate", Fault::Duplicate),
        ("read=status:2/81:dnr:crd=2:done", Fault::Status { status: Some(0x5281), carried_out: true }),
        ("set-queues=queues:3", Fault::Result(0x0002_0002)),
        ("read=cid:last", Fault::Cid(WrongCid::Last)),
        ("read=phase", Fault::Phase),
        ("read=sq-id:7", Fault::SqId(7)),
        ("read=sq-head", Fault::SqHead(0xFFFF)),
        ("read=no-interrupt", Fault::NoInterrupt),
        ("read=stuck-doorbell", Fault::StuckDoorbell(None)),
        ("identify.0=corrupt:130/ff01", Fault::Corrupt(Some((130, vec![0xFF, 1])))),
        ("identify=truncate:12", Fault::Truncate(12)),
        ("read=fatal", Fault::Fatal),
        ("read=vanish:100ms", Fault::Vanish(Some(span(100, 100)))),
        ("read=self-reset", Fault::SelfReset),
        ("read=event:2/0/4", Fault::Event { kind: 2, info: 0, log_page: 4 }),
        ("read=notice:error", Fault::Notice(Notice::Error)),
        ("disable=never", Fault::Never),
    ];
    for (number, (text, fault)) in texts.iter().enumerate() {
        assert_eq!(&rule(text).fault, fault, "{text}");
        assert_eq!(fault.number(), number);
    }
    assert_eq!(texts.len(), Fault::NAMES.len());
    assert_eq!(rule("set-queues=queues:0").fault, Fault::Result(u32::MAX));
    assert_eq!(rule("read=status").fault, Fault::Status { status: None, carried_out: false });
}

#[test]
fn a_script_has_a_seed_and_rules() {
    let script: FaultScript = "seed=0x10; io:1/9=status; write:1=drop;".parse().unwrap();
    assert_eq!((script.seed, script.rules.len()), (16, 2));
    assert_eq!("".parse(), Ok(FaultScript::default()));
}

#[test]
fn what_is_wrong_is_named() {
    for (text, reason) in [
        ("write", "'='"),
        ("reed=drop", "'reed'"),
        ("read:x=drop", "'x'"),
        ("read:1/0=drop", "chance"),
        ("read:*0=drop", "never comes"),
        ("read@x1=drop", "place"),
        ("read@=drop", "'@'"),
        ("enable@q1=never", "no queue"),
        ("identify@b1=drop", "blocks"),
        ("read=dropp", "'dropp'"),
        ("read=drop:1", "no argument"),
        ("read=delay", "needs an argument"),
        ("read=delay:5", "time"),
        ("read=delay:5ms-1ms", "ends before"),
        ("read=status:8/81", "hexadecimal"),
        ("read=status:dnr", "need a status"),
        ("read=status:2/81:crd=4", "crd"),
        ("read=event:1", "event"),
        ("identify=corrupt:1/f", "bytes"),
        ("read=corrupt", "does not go"),
        ("read=never", "does not go"),
        ("reset=drop", "does not go"),
        ("read=cid:0x10000", "fits"),
        ("seed=x", "'x'"),
    ] {
        let error = text.parse::<FaultScript>().unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains(text), "{error}");
    }
}
