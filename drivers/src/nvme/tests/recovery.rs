//! How the driver brings a controller back, on one that does what a script says.

use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use corelane_engine::block::{Errno, IoError, IoResult, Op};

use super::rig::{Rig, results};
use super::*;
use crate::nvme::ControllerEvent;
use crate::nvme::recovery::State;
use crate::nvme::spec::completion::Completion;

fn events(rig: &Rig) -> Arc<Mutex<Vec<String>>> {
    let events = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&events);
    rig.controller.on_event(move |event| told.lock().unwrap().push(name(event)));
    events
}

fn name(event: &ControllerEvent) -> String {
    format!("{event:?}").chars().take_while(char::is_ascii_alphanumeric).collect()
}

/// Turns until the controller runs again.
fn until_running(rig: &mut Rig) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while rig.controller.state() != State::Running {
        assert!(Instant::now() < deadline, "it is {:?}", rig.controller.state());
        rig.turn();
    }
}

/// Often, since the controller's thread would ask for them soon as well.
#[test]
fn event_requests_are_with_the_controller_when_its_start_returns() {
    for _ in 0..50 {
        let (fake, controller) = start(Script::default());
        assert_eq!(fake.asked(admin::ASYNC_EVENT_REQUEST), 1, "as many as AERL of 0 allows");
        drop(controller.unwrap());
    }
}

#[test]
fn a_lost_command_is_aborted_then_the_controller_is_reset_and_work_goes_on() {
    let script = Script {
        // The first is never heard of again.
        complete: |count, completion| if count == 0 { Vec::new() } else { vec![completion] },
        ..Script::default()
    };
    let mut rig = Rig::new(script, 4);
    let events = events(&rig);
    let start = Instant::now();
    rig.put(0, Op::Write);
    rig.put(1, Op::Write);
    let mut ended = rig.ended(2);
    assert_eq!(results(&ended), [Err(Errno::ETIMEDOUT.into()), Ok(())]);
    assert!(start.elapsed() >= Duration::from_millis(100), "not before its time");
    assert_eq!(ended[0].payload.len_bytes(), 4096);
    assert_eq!(rig.fake.aborts(), [rig.fake.commands()[0].cid]);
    until_running(&mut rig);
    for tag in 0..4 {
        rig.put(tag, Op::Read);
    }
    ended = rig.ended(4);
    assert_eq!(results(&ended), [Ok(()); 4]);
    assert_eq!((rig.controller.resets(), rig.fake.resets()), (1, 0), "disabling it suffices");
    assert_eq!(*events.lock().unwrap(), ["Late", "Reset", "Recovered"]);
}

#[test]
fn an_abort_that_helps_ends_its_request_alone() {
    let script = Script {
        complete: |count, completion| if count == 0 { Vec::new() } else { vec![completion] },
        abort: |cid| {
            let status_and_phase = Status::ABORT_REQUESTED.0 << 1;
            (0, vec![Completion { cid, status_and_phase, ..Completion::default() }])
        },
        ..Script::default()
    };
    let mut rig = Rig::new(script, 4);
    rig.put(0, Op::Read);
    assert_eq!(results(&rig.ended(1)), [Err(Errno::ETIMEDOUT.into())]);
    rig.put(0, Op::Read);
    assert_eq!(results(&rig.ended(1)), [Ok(())]);
    assert_eq!((rig.controller.resets(), rig.fake.aborts().len()), (0, 1));
}

#[test]
fn what_is_in_flight_at_a_reset_is_sent_again_from_its_start() {
    let script = Script {
        // The third command's completion is for nothing; the two before are still in flight.
        complete: |count, completion| match count {
            0 | 1 => Vec::new(),
            2 => vec![Completion { cid: completion.cid ^ 0x4000, ..completion }],
            _ => vec![completion],
        },
        ..Script::default()
    };
    let mut rig = Rig::new(script, 4);
    for (tag, op) in [Op::Read, Op::Write, Op::Flush].into_iter().enumerate() {
        rig.put(tag as u32, op);
    }
    assert_eq!(results(&rig.ended(3)), [Ok(()); 3]);
    let mut opcodes: Vec<u8> = rig.fake.commands()[3..].iter().map(|command| command.opcode).collect();
    opcodes.sort_unstable();
    assert_eq!(opcodes, [0, 1, 2], "each once more");
    assert_eq!(rig.controller.resets(), 1);
}

#[test]
fn a_status_that_may_pass_is_tried_again_and_one_that_may_not_is_not() {
    let script = Script {
        complete: |count, mut completion| {
            completion.status_and_phase = if count < 2 { 0x281 << 1 } else { 0 };
            vec![completion]
        },
        ..Script::default()
    };
    let mut rig = Rig::new(script, 2);
    rig.put(0, Op::Read);
    assert_eq!(results(&rig.ended(1)), [Ok(())]);
    assert_eq!(rig.fake.commands().len(), 3);
    let always = Script {
        complete: |_, mut completion| {
            completion.status_and_phase = 0x281 << 1;
            vec![completion]
        },
        ..Script::default()
    };
    let mut rig = Rig::new(always, 2);
    for _ in 0..2 {
        rig.put(0, Op::Read);
        let error = IoError { errno: Errno::EIO, device_status: 0x281 };
        assert_eq!(results(&rig.ended(1)), [Err(error)]);
    }
    assert_eq!(rig.fake.commands().len(), 6, "three attempts for each");
}

#[test]
fn a_status_with_dnr_is_not_tried_again() {
    let script = Script {
        complete: |_, mut completion| {
            completion.status_and_phase = (0x4000 | 0x281) << 1;
            vec![completion]
        },
        ..Script::default()
    };
    let mut rig = Rig::new(script, 2);
    rig.put(0, Op::Read);
    let error = IoError { errno: Errno::EIO, device_status: 0x281 | IoError::DO_NOT_RETRY };
    assert_eq!(results(&rig.ended(1)), [Err(error)]);
    assert_eq!(rig.fake.commands().len(), 1);
}

#[test]
fn the_delay_that_a_controller_asks_for_is_kept_before_a_command_is_sent_again() {
    let script = Script {
        // Command Interrupted, to be sent again after the second of its delays.
        complete: |count, mut completion| {
            completion.status_and_phase = if count == 0 { (0x1000 | 0x21) << 1 } else { 0 };
            vec![completion]
        },
        identify: |identify| identify.crdt[1].set(3),
        ..Script::default()
    };
    let mut rig = Rig::new(script, 2);
    let start = Instant::now();
    rig.put(0, Op::Read);
    assert_eq!(results(&rig.ended(1)), [Ok(())]);
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(300), "it was sent again after {took:?}, not after 300 ms");
    assert_eq!((rig.fake.commands().len(), rig.controller.resets()), (2, 0));
}

#[test]
fn late_commands_are_aborted_within_the_controllers_limit() {
    // Seven, since a queue of eight entries takes no more. ACL is 0: one abort at a time. None of them helps, nor is any answered.
    let script = Script { complete: |_, _| Vec::new(), ignore: Some(admin::ABORT), ..Script::default() };
    let mut rig = Rig::new(script, 8);
    (0..7).for_each(|tag| rig.put(tag, Op::Read));
    assert_eq!(results(&rig.ended(7)), [Err(Errno::ETIMEDOUT.into()); 7]);
    assert_eq!(rig.fake.asked(admin::ABORT), 1);
    // Answered each, they are all asked for.
    let mut rig = Rig::new(Script { complete: |_, _| Vec::new(), ..Script::default() }, 8);
    (0..7).for_each(|tag| rig.put(tag, Op::Read));
    assert_eq!(results(&rig.ended(7)), [Err(Errno::ETIMEDOUT.into()); 7]);
    assert_eq!(rig.fake.aborts().len(), 7);
}

#[test]
fn a_command_that_completes_between_its_deadline_and_its_abort_has_succeeded() {
    let script = Script {
        complete: |count, completion| if count == 0 { Vec::new() } else { vec![completion] },
        // There was nothing to abort any more.
        abort: |_| (1, vec![Completion::default()]),
        ..Script::default()
    };
    let mut rig = Rig::new(script, 2);
    rig.put(0, Op::Read);
    assert_eq!(results(&rig.ended(1)), [Ok(())]);
    assert_eq!((rig.fake.aborts().len(), rig.fake.commands().len(), rig.controller.resets()), (1, 1, 0));
}

#[test]
fn a_completion_that_comes_after_its_command_was_given_up_is_for_nothing() {
    static LATE: AtomicU16 = AtomicU16::new(0);
    let script = Script {
        complete: |count, completion| match count {
            0 => {
                LATE.store(completion.cid, Ordering::Relaxed);
                Vec::new()
            }
            1 => vec![Completion { cid: LATE.load(Ordering::Relaxed), ..completion }],
            _ => vec![completion],
        },
        ..Script::default()
    };
    let mut rig = Rig::new(script, 1);
    rig.put(0, Op::Write);
    assert_eq!(results(&rig.ended(1)), [Err(Errno::ETIMEDOUT.into())]);
    // The same tag; the late completion must not end it.
    rig.put(0, Op::Read);
    assert_eq!(results(&rig.ended(1)), [Ok(())]);
    assert_eq!((rig.fake.commands().len(), rig.controller.resets()), (3, 2));
}

/// Something happens to a controller that has a read in flight, whose completion never comes; a later one works.
fn with_a_read_in_flight(happens: impl Fn(&Fake)) -> (Rig, Vec<IoResult>) {
    let script = Script {
        complete: |count, completion| if count == 0 { Vec::new() } else { vec![completion] },
        ..Script::default()
    };
    let mut rig = Rig::new(script, 2);
    rig.put(0, Op::Read);
    rig.turn();
    happens(&rig.fake);
    let ended = results(&rig.ended(1));
    (rig, ended)
}

#[test]
fn a_reset_behind_the_drivers_back_is_noticed_and_work_goes_on() {
    let (rig, ended) = with_a_read_in_flight(Fake::forget);
    assert_eq!((ended, rig.controller.resets()), (vec![Ok(())], 1));
    assert!(rig.controller.control().stopped().to_string().contains("behind the driver's back"));
}

#[test]
fn a_fatal_error_is_noticed_and_work_goes_on() {
    let (rig, ended) = with_a_read_in_flight(Fake::break_down);
    assert_eq!((ended, rig.controller.resets()), (vec![Ok(())], 1));
    assert!(rig.controller.control().stopped().to_string().contains("a fatal error while running"));
}

#[test]
fn an_error_of_the_link_resets_the_controller() {
    let (rig, ended) = with_a_read_in_flight(|fake| signal(&fake.notices[0]));
    assert_eq!((ended, rig.controller.resets()), (vec![Ok(())], 1));
}

#[test]
fn a_controller_is_not_stopped_while_a_doorbell_is_being_rung() {
    let mut rig = Rig::new(Script::default(), 2);
    let (comes, go) = rig.fake.hold_doorbell(1);
    let fake = Arc::clone(&rig.fake);
    let enabled = fake.configured();
    let meanwhile = std::thread::spawn(move || {
        // The lane does not run from here on, as if it were preempted.
        comes.recv().unwrap();
        fake.break_down();
        std::thread::sleep(Duration::from_millis(500));
        let configured = fake.configured();
        go.send(()).unwrap();
        configured
    });
    rig.put(0, Op::Read);
    assert_eq!(results(&rig.ended(1)), [Ok(())]);
    assert_eq!(meanwhile.join().unwrap(), enabled, "CC was written while the doorbell was being rung");
    while rig.controller.resets() == 0 {
        rig.turn();
    }
    assert_eq!(rig.fake.strays(), 0);
}

#[test]
fn registers_that_fault_are_a_function_that_is_gone() {
    let before = corelane_dma::register_faults();
    let (mut rig, ended) = with_a_read_in_flight(|fake| fake.bar.cut());
    assert_eq!((ended, rig.controller.state()), (vec![Err(Errno::ENODEV.into())], State::Stopped));
    rig.put(1, Op::Write);
    assert_eq!(results(&rig.ended(1)), [Err(Errno::ENODEV.into())]);
    assert!(corelane_dma::register_faults() > before, "it was SIGBUS that told");
}

#[test]
fn a_doorbell_that_faults_ends_its_requests() {
    let mut rig = Rig::new(Script::default(), 2);
    rig.fake.bar.cut();
    rig.put(0, Op::Write);
    assert_eq!(results(&rig.ended(1)), [Err(Errno::ENODEV.into())]);
}

#[test]
fn a_function_that_decodes_no_memory_accesses_is_told_to_and_work_goes_on() {
    let script = Script {
        vendor: 0x1b36,
        complete: |count, completion| if count == 0 { Vec::new() } else { vec![completion] },
        ..Script::default()
    };
    let mut rig = Rig::new(script, 2);
    rig.put(0, Op::Read);
    rig.turn();
    rig.fake.bar.cut();
    assert_eq!((results(&rig.ended(1)), rig.controller.resets()), (vec![Ok(())], 1));
}

#[test]
fn a_function_that_the_host_wants_back_is_gone_for_every_request_and_can_be_opened_again() {
    let (mut rig, ended) = with_a_read_in_flight(|fake| signal(&fake.notices[1]));
    assert_eq!(ended, [Err(Errno::ENODEV.into())]);
    rig.put(1, Op::Write);
    assert_eq!(results(&rig.ended(1)), [Err(Errno::ENODEV.into())]);
    assert_eq!((rig.controller.state(), rig.controller.resets()), (State::Stopped, 0));
    let Rig { queue, table, region, controller, fake, .. } = rig;
    drop((queue, table));
    controller.bus().dma().unregister(&region).unwrap();
    drop(controller);
    assert_eq!(fake.mappings(), 0);
    let again = NvmeController::start(Arc::clone(&fake) as _, &OPTIONS).unwrap();
    assert_eq!(again.state(), State::Running);
}

fn signal(eventfd: &OwnedFd) {
    rustix::io::write(eventfd, &1u64.to_ne_bytes()).unwrap();
}
