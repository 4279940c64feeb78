//! Faults by script: each is seen by an initiator as what it is, and a reset of the controller ends it.

mod initiator;

use std::time::{Duration, Instant};

use corelane_nvme_model::{Device, FaultScript, ModelConfig, NamespaceConfig, Rule};
use initiator::{Cmd, DATA, Done, Initiator};

/// Long enough for the model to have done what it will do by itself.
const A_WHILE: Duration = Duration::from_millis(30);

fn host(script: &str) -> Initiator {
    let mut host = Initiator::new(ModelConfig::new(vec![NamespaceConfig::ram(1 << 20)]));
    host.make_pair(1, 16);
    script_of(&host, script);
    host
}

fn script_of(host: &Initiator, script: &str) {
    let script: FaultScript = script.parse().unwrap();
    host.model.set_faults(script).unwrap();
}

fn read(block: u64) -> Cmd {
    Cmd::new(2, 1).prp(DATA, 0).blocks(block, 1)
}

fn write(block: u64) -> Cmd {
    Cmd::new(1, 1).prp(DATA, 0).blocks(block, 1)
}

/// Sends commands at once. Returns their identifiers.
fn send(host: &mut Initiator, queue: u16, commands: &[Cmd]) -> Vec<u16> {
    let cids = commands.iter().map(|command| host.push(queue, *command)).collect();
    host.ring(queue);
    cids
}

/// No completion comes.
fn assert_silence(host: &mut Initiator, queue: u16) {
    let end = Instant::now() + A_WHILE;
    while Instant::now() < end {
        assert_eq!(host.poll(queue), None);
        std::thread::yield_now();
    }
}

/// The controller works as on the first day after it was disabled, without faults.
fn assert_recovers(host: &mut Initiator) {
    script_of(host, "");
    host.disable();
    host.enable();
    host.make_pair(1, 16);
    assert_eq!(host.run(1, read(0)).status, 0);
}

#[test]
fn the_seventeenth_write_is_dropped() {
    let mut host = host("write:17@q1=drop");
    host.put(DATA, &[7; 4096]);
    for _ in 0..16 {
        assert_eq!(host.run(1, write(1)).status, 0);
        assert_eq!(host.run(1, read(0)).status, 0);
    }
    host.put(DATA, &[7; 4096]);
    let cid = send(&mut host, 1, &[write(3)])[0];
    assert_silence(&mut host, 1);
    host.put(DATA, &[0; 4096]);
    // It was carried out, the next one goes on, and nobody may use the identifier.
    assert_eq!(host.run(1, read(3)).status, 0);
    assert!(host.bytes(DATA, 4096) == [7; 4096]);
    host.push_as(1, read(0), cid);
    host.ring(1);
    assert_eq!(host.wait(1).status, 3);
    assert_eq!(host.rules(), [Rule::CidReuse]);
    // An abort finds nothing to abort.
    assert_eq!(host.admin(Cmd::new(8, 0).set(10, u32::from(cid) << 16 | 1)).result & 1, 1);
    assert_eq!(host.model.faults_made(), [("drop", 1)]);
    assert_recovers(&mut host);
}

#[test]
fn a_lost_write_is_not_carried_out() {
    let mut host = host("write:1=lose");
    host.put(DATA, &[7; 4096]);
    send(&mut host, 1, &[write(3)]);
    assert_silence(&mut host, 1);
    assert_eq!(host.run(1, read(3)).status, 0);
    assert!(host.bytes(DATA, 4096) == [0; 4096]);
    assert_recovers(&mut host);
}

#[test]
fn a_completion_is_late_and_the_data_may_be_too() {
    for (fault, data) in [("delay", 7), ("late", 9)] {
        let mut host = host(&format!("write:1={fault}:50ms"));
        host.put(DATA, &[7; 4096]);
        let started = Instant::now();
        let cid = send(&mut host, 1, &[write(3)])[0];
        host.settle();
        host.put(DATA, &[9; 4096]);
        let done = host.wait(1);
        assert!(started.elapsed() >= Duration::from_millis(50));
        assert_eq!((done.cid, done.status), (cid, 0));
        assert_eq!(host.run(1, read(3)).status, 0);
        assert!(host.bytes(DATA, 4096) == [data; 4096], "{fault}");
        host.assert_clean();
    }
}

#[test]
fn what_is_held_back_can_be_aborted_and_goes_with_its_queue() {
    let mut host = host("read=late:1000s");
    let cids = send(&mut host, 1, &[read(0), read(1)]);
    host.settle();
    assert_eq!(host.admin(Cmd::new(8, 0).set(10, u32::from(cids[1]) << 16 | 1)).result & 1, 0);
    let done = host.wait(1);
    assert_eq!((done.cid, done.status), (cids[1], 7));
    assert_eq!(host.admin(Cmd::new(8, 0).set(10, u32::from(cids[1]) << 16 | 1)).result & 1, 1);
    assert_eq!(host.admin(Cmd::new(0, 0).set(10, 1)).status, 0);
    assert_eq!(host.admin(Cmd::new(4, 0).set(10, 1)).status, 0);
    host.make_pair(1, 16);
    assert_eq!(host.run(1, write(0)).status, 0);
    assert_silence(&mut host, 1);
    host.assert_clean();
}

#[test]
fn completions_are_wrong_in_every_field() {
    type Expected = fn(u16) -> (u16, u16, u16);
    let cases: [(&str, Expected); 4] = [
        ("cid", |cid| (cid ^ 0x8000, 1, 2)),
        ("cid:0x1234", |_| (0x1234, 1, 2)),
        ("sq-id:9", |cid| (cid, 9, 2)),
        ("sq-head:77", |cid| (cid, 1, 77)),
    ];
    for (fault, expected) in cases {
        let mut host = host(&format!("read:2={fault}"));
        let cids = send(&mut host, 1, &[read(0), read(1)]);
        host.wait(1);
        let Done { cid, sq_id, sq_head, status, .. } = host.wait(1);
        assert_eq!((cid, sq_id, sq_head), expected(cids[1]), "{fault}");
        assert_eq!(status, 0);
        assert_recovers(&mut host);
    }
    let mut host = host("read:2=cid:last");
    let cids = send(&mut host, 1, &[read(0), read(1)]);
    assert_eq!([host.wait(1).cid, host.wait(1).cid], [cids[0]; 2]);
}

#[test]
fn a_completion_comes_twice() {
    let mut host = host("read:1=duplicate");
    let cid = send(&mut host, 1, &[read(0)])[0];
    assert_eq!([host.wait(1).cid, host.wait(1).cid], [cid; 2]);
    assert_silence(&mut host, 1);
}

#[test]
fn a_status_is_what_was_asked_for() {
    let mut host = host("write:1@b5-6=status:2/80:dnr; write:2=status:0/06:crd=1:done");
    host.put(DATA, &[7; 4096]);
    assert_eq!(host.run(1, write(4)).status, 0);
    let done = host.run(1, write(5));
    assert_eq!((done.status, done.dnr), (0x280, true));
    assert_eq!(host.run(1, write(6)).status, 0, "the second rule was for the second write");
    assert_eq!(host.run(1, read(5)).status, 0);
    assert!(host.bytes(DATA, 4096) == [0; 4096], "it was not written");
    host.assert_clean();
}

#[test]
fn an_entry_with_a_bad_phase_is_not_seen() {
    let mut host = host("read:1=phase");
    send(&mut host, 1, &[read(0)]);
    send(&mut host, 1, &[read(1)]);
    assert_silence(&mut host, 1);
    assert_recovers(&mut host);
}

#[test]
fn a_stuck_doorbell_is_not_looked_at() {
    let mut host = host("read:1=stuck-doorbell:60ms; read:5=stuck-doorbell");
    assert_eq!(host.run(1, read(0)).status, 0);
    let started = Instant::now();
    assert_eq!(host.run(1, read(0)).status, 0);
    assert!(started.elapsed() >= Duration::from_millis(40), "{:?}", started.elapsed());
    (0..3).for_each(|_| assert_eq!(host.run(1, read(0)).status, 0));
    send(&mut host, 1, &[read(0)]);
    assert_silence(&mut host, 1);
    assert_eq!(host.identify(1, 0).len(), 4096, "other queues are served");
    assert_recovers(&mut host);
}

#[test]
fn the_controller_fails() {
    let mut host = host("read:2=fatal");
    assert_eq!(host.run(1, read(0)).status, 0);
    send(&mut host, 1, &[read(0)]);
    host.wait_status(2, 2);
    assert_silence(&mut host, 1);
    assert_recovers(&mut host);
}

#[test]
fn the_function_vanishes_and_comes_back() {
    let mut host = host("read:1=vanish:50ms; read:2=vanish");
    send(&mut host, 1, &[read(0)]);
    host.wait_status(u32::MAX, u32::MAX);
    assert!(!host.model.try_reset());
    host.write32(0x14, 0);
    host.ring(1);
    host.wait_status(u32::MAX, 0);
    host.enable();
    host.make_pair(1, 16);
    send(&mut host, 1, &[read(0)]);
    host.wait_status(u32::MAX, u32::MAX);
    std::thread::sleep(A_WHILE);
    assert_eq!(host.read32(0), u32::MAX, "gone for good");
    host.model.set_plugged(true);
    assert_eq!(host.read32(0x1C), 0);
    host.enable();
    host.make_pair(1, 16);
    assert_eq!(host.run(1, read(0)).status, 0);
    host.model.set_plugged(false);
    assert_eq!(host.read32(0x1C), u32::MAX);
    assert_eq!(host.model.faults_made(), [("vanish", 2)]);
    host.assert_clean();
}

#[test]
fn the_controller_resets_itself() {
    let mut host = host("read:2=self-reset");
    assert_eq!(host.run(1, read(0)).status, 0);
    send(&mut host, 1, &[read(0)]);
    host.wait_status(1, 0);
    assert_eq!(host.read32(0x14), 0);
    // It does not know yet.
    send(&mut host, 1, &[read(0)]);
    assert_silence(&mut host, 1);
    assert_recovers(&mut host);
    host.assert_clean();
}

#[test]
fn cc_en_is_followed_late_or_never() {
    let mut host = host("enable:1=delay:50ms; enable:2=never; enable:3=fatal; enable:4=vanish:20ms");
    host.disable();
    let started = Instant::now();
    host.enable();
    assert!(started.elapsed() >= Duration::from_millis(50));
    host.disable();
    host.write32(0x14, 0x0046_0001);
    std::thread::sleep(A_WHILE);
    assert_eq!(host.read32(0x1C), 0, "it does not become ready");
    host.disable();
    host.write32(0x14, 0x0046_0001);
    host.wait_status(3, 2);
    host.disable();
    host.write32(0x14, 0x0046_0001);
    host.wait_status(u32::MAX, u32::MAX);
    host.wait_status(u32::MAX, 0);
    assert_recovers(&mut host);
}

#[test]
fn it_clings_to_its_queues_until_it_is_reset() {
    let mut host = host("disable:1=delay:50ms; disable:2=never; reset:1=never");
    let started = Instant::now();
    host.disable();
    assert!(started.elapsed() >= Duration::from_millis(50));
    host.enable();
    host.make_pair(1, 16);
    host.write32(0x14, 0x0046_0000);
    std::thread::sleep(A_WHILE);
    assert_eq!(host.read32(0x1C) & 1, 1);
    assert_eq!(host.run(1, read(0)).status, 0, "and serves them");
    assert!(!host.model.try_reset());
    assert_eq!(host.read32(0x1C) & 1, 1);
    assert!(host.model.try_reset());
    assert_eq!(host.read32(0x1C), 0);
}

#[test]
fn identify_data_and_results_are_spoiled() {
    let mut host =
        host("identify.1:1=corrupt:77/a5; identify.1:2=truncate:10; set-queues=queues:0; identify.0=corrupt");
    host.put(DATA, &[0xEE; 4096]);
    assert_eq!(host.identify(1, 0)[77], 0xA5);
    host.put(DATA, &[0xEE; 4096]);
    let data = host.identify(1, 0);
    assert!(data[..10] != [0xEE; 10] && data[10..] == [0xEE; 4086]);
    let good = host.identify(1, 0);
    assert_eq!(good[77], 7);
    let spoiled = host.identify(0, 1);
    script_of(&host, "set-queues=queues:0");
    assert_ne!(host.identify(0, 1), spoiled);
    host.disable();
    host.enable();
    assert_eq!(host.admin(Cmd::new(9, 0).set(10, 7)).result, u32::MAX);
}

#[test]
fn events_and_notices_come_with_a_command() {
    let mut host = host("read:1=event:2/0/4; read:2=notice:removal");
    let cid = host.push(0, Cmd::new(12, 0));
    host.ring(0);
    assert_eq!(host.run(1, read(0)).status, 0);
    let done = host.wait(0);
    assert_eq!((done.cid, done.result), (cid, 0x0004_0002));
    assert_eq!(host.run(1, read(0)).status, 0);
    assert_eq!(host.model.faults_made(), [("event", 1), ("notice", 1)]);
    host.assert_clean();
}

#[test]
fn an_interrupt_does_not_come() {
    use rustix::event::{EventfdFlags, eventfd};
    let mut host = host("");
    let fd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    host.model.set_interrupts(2, vec![Some(fd.try_clone().unwrap())]).unwrap();
    // Interrupts on, vector 2.
    host.make_pair_with(2, 16, 2 << 16 | 3);
    script_of(&host, "read:2@q2=no-interrupt");
    let mut counter = [0; 8];
    assert_eq!(host.run(2, read(0)).status, 0);
    host.settle();
    assert!(rustix::io::read(&fd, &mut counter).is_ok());
    assert_eq!(host.run(2, read(0)).status, 0);
    host.settle();
    assert!(rustix::io::read(&fd, &mut counter).is_err());
    assert_eq!(host.run(2, read(0)).status, 0);
    host.settle();
    assert!(rustix::io::read(&fd, &mut counter).is_ok());
}

#[test]
fn a_controller_over_nodes_has_no_faults() {
    let faults = "read=drop".parse().unwrap();
    let config = ModelConfig { faults, ..ModelConfig::new(vec![NamespaceConfig::node()]) };
    assert!(config.validate().unwrap_err().to_string().contains("memory only"));
}

#[test]
fn fused_halves_end_together_whatever_the_script() {
    let mut host =
        Initiator::new(ModelConfig { fused: true, ..ModelConfig::new(vec![NamespaceConfig::ram(1 << 20)]) });
    host.make_pair(1, 16);
    script_of(&host, "io=drop");
    host.put(DATA, &[0; 4096]);
    host.put(DATA + 4096, &[7; 4096]);
    let half = |command: Cmd, half: u32| command.set(0, command.0[0] | half << 8);
    let compare = half(Cmd::new(5, 1).prp(DATA, 0).blocks(3, 1), 1);
    let write = half(Cmd::new(1, 1).prp(DATA + 4096, 0).blocks(3, 1), 2);
    let cids = send(&mut host, 1, &[compare, write]);
    let done = [host.wait(1), host.wait(1)];
    assert_eq!(done.map(|done| (done.cid, done.status)), [(cids[0], 0), (cids[1], 0)]);
    script_of(&host, "io:1000=drop");
    assert_eq!(host.run(1, read(3)).status, 0);
    assert!(host.bytes(DATA, 4096) == [7; 4096]);
    host.assert_clean();
}
