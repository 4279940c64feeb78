//! The controller's life and its admin commands.

mod initiator;

use std::time::Duration;

use corelane_nvme_model::{Device, ModelConfig, NamespaceConfig, Rule};
use initiator::{Cmd, DATA, Initiator, PAGE};

fn config() -> ModelConfig {
    ModelConfig::new(vec![NamespaceConfig::null(1 << 20), NamespaceConfig::ram(2 << 20)])
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

#[test]
fn it_becomes_ready_is_disabled_and_becomes_ready_again() {
    let mut host = Initiator::disabled(ModelConfig { ready_delay: Duration::from_millis(20), ..config() });
    assert_eq!(host.read32(0x08), 0x0002_0000);
    assert_eq!(host.read32(0x1C), 0);
    for _ in 0..3 {
        host.enable();
        host.make_pair(1, 8);
        host.disable();
    }
    host.enable();
    host.write32(0x14, 0x0046_4001);
    host.wait_status(0xC, 0x8);
    host.model.reset();
    assert_eq!((host.read32(0x1C), host.read32(0x14), host.read32(0x24)), (0, 0, 0));
    host.assert_clean();
}

#[test]
fn a_controller_that_cannot_start_says_so() {
    let host = Initiator::disabled(config());
    host.write32(0x24, 0xF_000F);
    host.write64(0x28, 0x5000);
    host.write64(0x30, Initiator::queue_iova(0, true));
    host.write32(0x14, 0x0046_0001);
    host.wait_status(3, 2);
    assert_eq!(host.rules(), [Rule::QueueCreation]);
    host.write32(0x14, 0x0046_0000);
    host.wait_status(3, 0);
    host.write64(0x28, Initiator::queue_iova(0, false));
    host.write32(0x14, 0x0046_0011);
    host.wait_status(3, 2);
    assert_eq!(host.rules(), [Rule::QueueCreation], "a command set that CAP does not offer");
}

#[test]
fn identify_tells_what_was_configured() {
    let mut host = Initiator::new(config());
    let controller = host.identify(1, 0);
    assert_eq!(&controller[4..24], b"CL00000001          ");
    assert_eq!((controller[77], u32_at(&controller, 516), controller[512]), (7, 2, 0x66));
    assert!(controller[768..].starts_with(b"nqn."));
    let null = host.identify(0, 1);
    assert_eq!((u64_at(&null, 0), null[130]), (256, 12));
    assert_eq!(u64_at(&host.identify(0, 2), 0), 512);
    let list = host.identify(2, 0);
    assert_eq!((u32_at(&list, 0), u32_at(&list, 4), u32_at(&list, 8)), (1, 2, 0));
    assert_eq!(u32_at(&host.identify(2, 1), 0), 2);
    assert_eq!(host.identify(3, 1)[..4], [1, 8, 0, 0]);
    assert_eq!(host.identify(8, 1)[14], 1, "the namespace is ready");
    host.identify(5, 1);
    host.identify(6, 0);
    assert_eq!(u16_at(&host.identify(0x13, 0), 0), 1);
    host.assert_clean();
    for (cns, nsid, status, rule) in [
        (0, 3, 0x0B, Rule::Namespace),
        (0, 0, 0x0B, Rule::Namespace),
        (2, 0xFFFF_FFFE, 0x0B, Rule::Namespace),
        (0x42, 0, 0x02, Rule::InvalidField),
    ] {
        assert_eq!(host.admin(Cmd::new(6, nsid).prp(DATA, 0).set(10, cns)).status, status);
        assert_eq!(host.rules(), [rule]);
    }
}

#[test]
fn queues_are_made_and_deleted_by_the_rules() {
    let mut host =
        Initiator::new(ModelConfig { max_queue_pairs: 2, vectors: 2, max_queue_entries: 64, ..config() });
    let (cq, sq) = (Initiator::queue_iova(1, true), Initiator::queue_iova(1, false));
    let create_cq = |id: u32, entries: u32, dword11| {
        Cmd::new(5, 0).prp(cq, 0).set(10, (entries - 1) << 16 | id).set(11, dword11)
    };
    let create_sq = |id: u32, entries: u32, dword11| {
        Cmd::new(1, 0).prp(sq, 0).set(10, (entries - 1) << 16 | id).set(11, dword11)
    };
    let delete = |opcode, id| Cmd::new(opcode, 0).set(10, id);
    let (made, used) = (Rule::QueueCreation, Rule::QueueUse);
    let steps: [(Cmd, u16, Option<Rule>); 20] = [
        (create_cq(0, 8, 1), 0x101, Some(made)),
        (create_cq(3, 8, 1), 0x101, Some(made)),
        (create_cq(1, 1, 1), 0x102, Some(made)),
        (create_cq(1, 65, 1), 0x102, Some(made)),
        (create_cq(1, 8, 0), 0x02, Some(made)),
        (create_cq(1, 8, 0x2_0003), 0x108, Some(made)),
        (create_cq(1, 8, 1).prp(cq + 8, 0), 0x13, Some(made)),
        (create_cq(1, 8, 1).prp(0x1000, 0), 0x02, Some(Rule::DmaFault)),
        (create_sq(1, 8, 0x1_0001), 0x100, Some(made)),
        (create_cq(1, 8, 0x1_0003), 0, None),
        (create_cq(1, 8, 1), 0x101, Some(made)),
        (create_sq(1, 8, 0x0_0001), 0x101, Some(made)),
        (create_sq(1, 8, 0x3_0001), 0x101, Some(made)),
        (create_sq(1, 64, 0x1_0001), 0, None),
        (create_sq(1, 8, 0x1_0001), 0x101, Some(made)),
        (delete(4, 1), 0x10C, Some(used)),
        (delete(0, 2), 0x101, Some(used)),
        (delete(0, 0), 0x101, Some(used)),
        (delete(0, 1), 0, None),
        (delete(4, 1), 0, None),
    ];
    for (step, (command, status, rule)) in steps.into_iter().enumerate() {
        assert_eq!(host.admin(command).status, status, "step {step}");
        assert_eq!(host.rules(), Vec::from_iter(rule), "step {step}");
    }
}

#[test]
fn features_are_set_and_got() {
    const GET: u8 = 0x0A;
    const SET: u8 = 0x09;
    let mut host = Initiator::new(ModelConfig { max_queue_pairs: 8, ..config() });
    assert_eq!(host.admin(Cmd::new(SET, 0).set(10, 7).set(11, 0x3F_0003)).result, 0x0007_0003);
    assert_eq!(host.admin(Cmd::new(GET, 0).set(10, 7)).result, 0x0007_0003);
    assert_eq!(host.admin(Cmd::new(GET, 0).set(10, 0x107)).result, 0x0007_0007, "the default");
    assert_eq!(host.admin(Cmd::new(GET, 0).set(10, 0x307)).result, 4, "changeable");
    assert_eq!(host.admin(Cmd::new(SET, 0).set(10, 6).set(11, 0)).status, 0);
    assert_eq!(host.admin(Cmd::new(GET, 0).set(10, 6)).result, 0);
    assert_eq!(host.admin(Cmd::new(SET, 0).set(10, 9).set(11, 0x1_0003)).status, 0);
    assert_eq!(host.admin(Cmd::new(GET, 0).set(10, 9).set(11, 3)).result, 0x1_0003);
    host.assert_clean();
    host.make_pair(1, 4);
    for (command, status, rule) in [
        (Cmd::new(SET, 0).set(10, 7).set(11, 1), 0x0C, Rule::Sequence),
        (Cmd::new(SET, 0).set(10, 0x42), 0x02, Rule::InvalidField),
        (Cmd::new(GET, 0).set(10, 0x03), 0x02, Rule::InvalidField),
        (Cmd::new(SET, 0).set(10, 0x8000_0001), 0x10D, Rule::InvalidField),
        (Cmd::new(GET, 0).set(10, 9).set(11, 0xFFFF), 0x02, Rule::InvalidField),
        (Cmd::new(SET, 0).set(10, 6).set(11, 2), 0, Rule::ReservedField),
    ] {
        assert_eq!(host.admin(command).status, status);
        assert_eq!(host.rules(), [rule]);
    }
    host.disable();
    host.enable();
    assert_eq!(host.admin(Cmd::new(GET, 0).set(10, 6)).result, 1, "a reset brings the defaults back");
}

#[test]
fn logs_tell_what_happened() {
    let mut host = Initiator::new(config());
    host.make_pair(1, 8);
    let log = |id: u32, bytes: u32| Cmd::new(2, 0xFFFF_FFFF).prp(DATA, 0).set(10, (bytes / 4 - 1) << 16 | id);
    assert_eq!(host.run(1, Cmd::new(2, 2).prp(DATA, 0).blocks(0, 1)).status, 0);
    assert_eq!(host.run(1, Cmd::new(2, 2).prp(DATA, 0).blocks(512, 1)).status, 0x80);
    host.rules();
    assert_eq!(host.admin(log(1, 128)).status, 0);
    let errors = host.bytes(DATA, 128);
    assert_eq!((u64_at(&errors, 0), u16_at(&errors, 8), u64_at(&errors, 16)), (1, 1, 512));
    assert_eq!((u16_at(&errors, 12) >> 1 & 0x7FF, u64_at(&errors, 64)), (0x80, 0));
    assert_eq!(host.admin(log(2, 512)).status, 0);
    let smart = host.bytes(DATA, 512);
    assert_eq!((u64_at(&smart, 32), u64_at(&smart, 64), u64_at(&smart, 176)), (1, 1, 1));
    for (id, bytes) in [(0, 1024), (3, 512), (4, 4096), (5, 4096)] {
        assert_eq!(host.admin(log(id, bytes)).status, 0);
    }
    assert_eq!(host.admin(log(3, 16).set(12, 8)).status, 0);
    assert_eq!(&host.bytes(DATA, 8), b"1.0     ");
    host.assert_clean();
    assert_eq!(host.admin(log(0x99, 16)).status, 0x109);
    assert_eq!(host.admin(log(3, 16).set(12, 516)).status, 0x02);
    assert_eq!(host.admin(log(3, 16).set(12, 2)).status, 0x02);
    assert_eq!(host.rules().len(), 3);
}

#[test]
fn events_are_held_told_and_aborted() {
    const EVENT: u8 = 0x0C;
    let mut host = Initiator::new(ModelConfig { aerl: 1, ..config() });
    let first = host.push(0, Cmd::new(EVENT, 0));
    let second = host.push(0, Cmd::new(EVENT, 0));
    host.ring(0);
    let third = host.admin(Cmd::new(EVENT, 0));
    assert_eq!(third.status, 0x105, "more than AERL allows");
    assert_eq!(host.rules(), [Rule::Sequence]);
    host.write_doorbell(2 * 5, 9);
    let told = host.wait(0);
    assert_eq!((told.cid, told.status, told.result), (first, 0, 0x1_0000));
    assert_eq!(host.rules(), [Rule::DoorbellRegister]);
    host.push(0, Cmd::new(8, 0).set(10, u32::from(second) << 16));
    host.ring(0);
    let (aborted, abort) = (host.wait(0), host.wait(0));
    assert_eq!((aborted.cid, aborted.status), (second, 0x07));
    assert_eq!((abort.status, abort.result), (0, 0));
    assert_eq!(host.admin(Cmd::new(8, 0).set(10, 0x55_0001)).result, 1, "nothing to abort");
    host.assert_clean();
}

#[test]
fn a_host_is_told_of_what_it_wants_to_know() {
    const EVENT: u8 = 0x0C;
    let namespaces = vec![NamespaceConfig::ram(1 << 20); 2];
    let mut host = Initiator::new(ModelConfig { aerl: 1, ..ModelConfig::new(namespaces) });
    host.push(0, Cmd::new(EVENT, 0));
    host.push(0, Cmd::new(EVENT, 0));
    host.ring(0);
    host.model.resize_namespace(1, 1 << 19).unwrap();
    host.model.set_critical_warning(1);
    host.settle();
    // The answer to another command would come after an event's.
    assert_eq!(host.admin(Cmd::new(8, 0).set(10, 0x55_0001)).result, 1, "it has not asked for either");
    // Asynchronous Event Configuration: namespaces, and the spare of bit 0.
    assert_eq!(host.admin(Cmd::new(9, 0).set(10, 0x0B).set(11, 1 << 8 | 1)).status, 0);
    host.model.set_attached(2, false).unwrap();
    let told = host.wait(0);
    assert_eq!((told.status, told.result), (0, 0x04_0002));
    let log = Cmd::new(2, u32::MAX).prp(DATA, 0).set(10, 4 | 1023 << 16);
    assert_eq!(host.admin(log).status, 0);
    assert_eq!(host.bytes(DATA, 8), [2, 0, 0, 0, 0, 0, 0, 0], "the first was not to be told of");
    // Bit 1 is not wanted.
    host.model.set_critical_warning(2);
    host.model.set_critical_warning(3);
    let told = host.wait(0);
    assert_eq!((told.status, told.result), (0, 0x02_0201));
    host.assert_clean();
}

#[test]
fn wrong_doorbells_and_identifiers_are_recorded() {
    let mut host = Initiator::new(config());
    host.make_pair(1, 8);
    host.write_doorbell(2, 8);
    host.write_doorbell(3, 1);
    let rules = host.rules();
    assert_eq!(rules, [Rule::DoorbellValue; 2], "a tail outside, and a head that passes the tail");
    host.write_doorbell(3, 0);
    host.push_as(1, Cmd::new(0, 1), 7);
    host.push_as(1, Cmd::new(0, 1), 7);
    host.ring(1);
    let (good, bad) = (host.wait(1), host.wait(1));
    assert_eq!((good.status, bad.status, bad.cid), (0, 0x03, 7));
    assert_eq!(host.rules(), [Rule::CidReuse]);
    host.push_as(1, Cmd::new(0, 1), 7);
    host.ring(1);
    assert_eq!(host.wait(1).status, 0, "it is free again");
    host.assert_clean();
}

#[test]
fn memory_taken_away_from_a_queue_is_fatal_when_the_queue_is_used() {
    let mut host = Initiator::new(config());
    host.assert_clean();
    host.model.dma_unmap_all();
    host.settle();
    assert_eq!(host.read32(0x1C) & 3, 1, "nothing has happened");
    host.assert_clean();
    host.push(0, Cmd::new(0, 0));
    host.ring(0);
    host.wait_status(3, 3);
    assert_eq!(host.rules(), [Rule::DmaFault; 2]);
}

#[test]
fn memory_that_comes_back_before_a_queue_is_used_does_no_harm() {
    let mut host = Initiator::new(config());
    host.make_pair(1, 8);
    host.model.dma_unmap_all();
    host.settle();
    host.map_memory();
    assert_eq!(host.run(1, Cmd::new(0, 1)).status, 0);
    assert_eq!(host.identify(1, 0).len(), 4096);
    host.assert_clean();
}

#[test]
fn interrupts_come_once_a_batch() {
    let mut host = Initiator::new(config());
    let event = || rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
    let (admin, io) = (event(), event());
    let clone = |fd: &std::os::fd::OwnedFd| Some(fd.try_clone().unwrap());
    host.model.set_interrupts(0, vec![clone(&admin), clone(&io)]).unwrap();
    assert!(host.model.set_interrupts(64, vec![None, None]).is_err());
    let count = |fd: &std::os::fd::OwnedFd| {
        let mut bytes = [0; 8];
        rustix::io::read(fd, &mut bytes).map_or(0, |_| u64::from_ne_bytes(bytes))
    };
    host.make_pair_with(1, 32, 0x1_0003);
    host.assert_clean();
    assert!((1..=2).contains(&count(&admin)), "two commands");
    for _ in 0..31 {
        host.push(1, Cmd::new(0, 1));
    }
    host.ring(1);
    (0..31).for_each(|_| assert_eq!(host.wait(1).status, 0));
    host.assert_clean();
    assert_eq!(count(&io), 1, "31 commands in one batch");
    host.make_pair(2, 8);
    assert_eq!(host.run(2, Cmd::new(0, 1)).status, 0);
    host.assert_clean();
    assert_eq!(count(&io), 0, "queue 2 has no interrupts");
}

#[test]
fn shadow_doorbells_take_the_place_of_the_registers() {
    let shadowed = ModelConfig { shadow_doorbells: true, doorbell_stride: 0, ..config() };
    let mut host = Initiator::new(shadowed);
    let (shadow, events) = (DATA + PAGE, DATA + 2 * PAGE);
    host.make_pair(1, 8);
    assert_eq!(host.admin(Cmd::new(0x7C, 0).prp(shadow, events)).status, 0);
    let flush = host.push(1, Cmd::new(0, 1));
    host.put(shadow + 8, &1_u32.to_le_bytes());
    assert_eq!(host.wait(1).cid, flush);
    // When the controller stops looking it asks for the register: EventIdx is where it stands.
    let started = std::time::Instant::now();
    while u32_at(&host.bytes(events + 8, 4), 0) != 1 {
        assert!(started.elapsed() < Duration::from_secs(20));
        std::thread::yield_now();
    }
    let mut plain = Initiator::new(config());
    assert_eq!(plain.admin(Cmd::new(0x7C, 0).prp(shadow, events)).status, 0x01);
}

#[test]
fn an_idle_controller_leaves_the_processor_alone_and_wakes() {
    let used = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let mut host = Initiator::new(config());
    host.make_pair(1, 8);
    // Looking without a pause ends after some milliseconds of processor time, however long those take.
    let started = std::time::Instant::now();
    loop {
        let before = used();
        std::thread::sleep(Duration::from_millis(200));
        if used() - before < Duration::from_millis(50) {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "it never stops looking");
    }
    assert_eq!(host.run(1, Cmd::new(0, 1)).status, 0, "a doorbell in memory wakes nobody, but is found");
    host.assert_clean();
}
