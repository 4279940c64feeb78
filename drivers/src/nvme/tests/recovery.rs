//! How the driver brings a controller back, on one that does what a script says.

use std::os::fd::OwnedFd;
use std::sync::Mutex;
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
