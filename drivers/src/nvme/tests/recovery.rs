//! How the driver brings a controller back, on one that does what a script says.

use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use corelane_engine::block::{Errno, IoError, IoResult, Op};

use super::rig::{Rig, results};
use super::*;
use crate::nvme::controller::admin::Permit;
use crate::nvme::queue::pair::Plan;
use crate::nvme::recovery::State;
use crate::nvme::recovery::watch::{Shape, Watched};
use crate::nvme::spec::Qid;
use crate::nvme::spec::completion::Completion;
use crate::nvme::{ControllerEvent, Polling};

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
    let script = Script {
        complete: |_, _| Vec::new(),
        ignore: |command| command.opcode == admin::ABORT,
        ..Script::default()
    };
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
fn a_controller_is_not_stopped_while_an_admin_doorbell_is_being_rung() {
    let fake = Fake::new(Script::default());
    // Ticks are half a second apart.
    let options = ControllerOptions { io_timeout_ms: 30_000, ..OPTIONS };
    let controller = NvmeController::start(Arc::clone(&fake) as _, &options).unwrap();
    let control = controller.control();
    let before = control.word();
    while control.word() == before {
        std::thread::sleep(Duration::from_millis(1));
    }
    // Its thread has just looked at the admin queue, so it sleeps, and does not wait for the queue's lock to look at it.
    let (comes, go) = fake.hold_doorbell(Qid::ADMIN.0);
    let asks = Arc::clone(&controller);
    let asking = std::thread::spawn(move || asks.identify_namespace(Nsid(1)).map(drop));
    comes.recv().unwrap();
    let enabled = fake.configured();
    control.fail(before.epoch(), &broken());
    std::thread::sleep(Duration::from_millis(300));
    let configured = fake.configured();
    go.send(()).unwrap();
    assert_eq!(configured, enabled, "CC was written while the doorbell was being rung");
    asking.join().unwrap().expect("it is asked again after the reset");
    assert_eq!((controller.resets(), fake.strays()), (1, 0));
}

#[test]
fn an_admin_command_of_before_a_reset_is_not_sent_after_it() {
    let mut rig = Rig::new(Script::default(), 2);
    let before = rig.controller.control().word();
    rig.controller.control().fail(before.epoch(), &broken());
    while rig.controller.resets() == 0 {
        rig.turn();
    }
    until_running(&mut rig);
    let plan = Plan { qid: Qid(2), entries: 2, sq: 0x10_0000, cq: 0x10_1000, vector: None };
    let result = rig.controller.create_both(Permit::of(before), plan);
    assert!(matches!(result, Err(NvmeError::Stopped { .. })), "{result:?}");
    rig.put(0, Op::Read);
    assert_eq!(results(&rig.ended(1)), [Ok(())]);
    assert_eq!(rig.fake.asked(admin::CREATE_CQ), 2, "those of the lane, before and after");
}

fn broken() -> NvmeError {
    NvmeError::Unanswered { address: "fake".to_owned(), command: "a test's command", timeout_ms: 1 }
}

#[test]
fn what_it_was_told_before_a_reset_it_is_told_again_after_it() {
    let told = |identify: fn(&mut IdentifyController)| {
        let script = Script { identify, interrupts: 3, ..Script::default() };
        let mut rig = Rig::polling(script, 2, Polling::Adaptive);
        let control = rig.controller.control();
        control.fail(control.word().epoch(), &broken());
        while rig.controller.resets() == 0 {
            rig.turn();
        }
        until_running(&mut rig);
        assert_eq!(rig.fake.eventfds(), [3, 3], "where interrupts are to be signalled");
        (rig.fake.asked(admin::SET_FEATURES), rig.fake.behavior())
    };
    // The number of queues, the events; what the host knows to do.
    assert_eq!(told(|_| {}), (4, vec![]));
    assert_eq!(told(|identify| identify.crdt[2].set(1)), (6, vec![[1, 0, 0]; 2]));
    assert_eq!(told(|identify| identify.ctratt.set(1 << 15)), (6, vec![[0, 0, 1]; 2]));
}

#[test]
fn resets_are_counted_in_a_row_and_not_where_commands_complete_in_between() {
    let mut rig = Rig::new(Script::default(), 2);
    assert!(rig.controller.options().resets < 4);
    for reset in 1..=4 {
        let control = Arc::clone(rig.controller.control());
        control.fail(control.word().epoch(), &broken());
        while rig.controller.resets() < reset {
            assert_ne!(rig.controller.state(), State::Stopped, "given up after {} resets", reset - 1);
            rig.turn();
        }
        until_running(&mut rig);
        rig.put(0, Op::Read);
        assert_eq!(results(&rig.ended(1)), [Ok(())]);
        // The lane says so at a tick, and the controller's thread asks at the next.
        for _ in 0..3 {
            let tick = control.word().tick();
            while control.word().tick() == tick {
                rig.turn();
            }
        }
    }
}

#[test]
fn a_namespace_that_was_looked_at_while_it_was_opened_is_looked_at_again() {
    let (_fake, controller) = start(Script::default());
    let controller = controller.unwrap();
    let identify = controller.identify_namespace(Nsid(1)).unwrap();
    // As many blocks as it had before it was resized.
    let watched = Watched::new(Nsid(1), Shape::of(&identify, identify.formats[0]), 5);
    let looks = controller.watchlist().looks();
    controller.watchlist().begin_look();
    controller.watch(&watched, looks);
    let deadline = Instant::now() + Duration::from_secs(20);
    while watched.length_bytes() != identify.nsze.get() << 12 {
        assert!(Instant::now() < deadline, "it is not looked at");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(controller.watchlist().looks(), looks + 2);
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
    assert_eq!(rig.fake.resets(), 0, "it could be disabled then");
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
