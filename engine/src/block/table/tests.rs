//! What the table promises, by itself and through the queue's handle.

use super::*;
use crate::block::request::ReqFlags;

fn filling(offset: u64, bytes: u64) -> Filling {
    let none = ReqFlags::empty();
    Filling { op: Op::Read, flags: none, asked: none, offset, bytes, payload: Payload::None, token: 77 }
}

fn start(shared: &Rc<Shared>, offset: u64, bytes: u64) -> Tag {
    let sent = shared.borrow_mut().send(filling(offset, bytes), Target::Batch);
    sent.map_err(drop).expect("a free slot").tag
}

/// The queue takes all that is pending.
fn take_all(leaf: &LeafTable) {
    while leaf.borrow().take_pending().is_some() {}
}

#[test]
fn slots_are_bounded_and_come_back() {
    let shared = Shared::new(2, 1);
    let leaf = shared.leaf();
    let first = start(&shared, 0, 1);
    start(&shared, 0, 1);
    assert!(shared.borrow_mut().send(filling(0, 1), Target::Batch).is_err());
    assert_eq!((shared.borrow().in_flight(), shared.borrow().in_use()), (2, 2));
    let internal = shared.borrow_mut().take_internal().expect("an internal slot");
    assert!(internal.0 >= 2);
    assert_eq!(shared.borrow_mut().take_internal(), None);
    take_all(&leaf);
    assert!(leaf.borrow().end(first, Ok(())));
    assert!(shared.borrow_mut().send(filling(0, 1), Target::Batch).is_err(), "not drained yet");
    assert_eq!(shared.borrow().in_flight(), 1);
    let done = shared.borrow_mut().done.pop().expect("an ended request");
    assert_eq!(shared.borrow_mut().finish(done).token, 77);
    assert_eq!(start(&shared, 0, 1), first);
}

#[test]
fn only_a_command_that_the_queue_has_ends() {
    let shared = Shared::new(1, 1);
    let leaf = shared.leaf();
    let tag = start(&shared, 0, 1);
    assert!(!leaf.borrow().end(tag, Ok(())), "it was not taken yet");
    take_all(&leaf);
    assert!(!leaf.borrow().end_if(tag, |_| false));
    assert!(leaf.borrow().end_if(tag, |command| command.bytes() == 1));
    assert!(!leaf.borrow().end(tag, Ok(())), "a second completion for the same command");
    assert!(!leaf.borrow().end(Tag(9), Ok(())));
    assert_eq!((shared.borrow().done.len(), shared.borrow().bogus), (1, 3));
}

#[test]
fn what_has_no_room_is_offered_again_in_order() {
    let shared = Shared::new(4, 0);
    let leaf = shared.leaf();
    let tags: Vec<Tag> = (0..4).map(|at| start(&shared, at, 1)).collect();
    let mut seen = Vec::new();
    for room in [1, 0, 2, 4] {
        let mut slots = leaf.borrow();
        let mut taken = 0;
        while let Some((tag, command)) = slots.take_pending() {
            if taken == room {
                slots.put_back(tag);
                assert!(slots.has_pending() && slots.get_mut(tag).is_none());
                break;
            }
            taken += 1;
            assert_eq!(command.note(), 0);
            command.set_note(9);
            seen.push(tag);
            if tag.0 % 2 == 1 {
                slots.end(tag, Ok(()));
            }
        }
        // Only the command that was taken last can be put back.
        slots.put_back(Tag(3));
    }
    assert_eq!(seen, tags);
    assert!(!leaf.borrow().has_pending() && leaf.borrow().has_ended());
    assert_eq!(leaf.borrow().sent().count(), 2);
    assert_eq!(leaf.tags(), 4);
    assert!(leaf.borrow().get_mut(Tag(1)).is_none() && leaf.borrow().get_mut(Tag(0)).is_some());
}

#[test]
fn a_failure_is_for_the_channel_to_look_at() {
    let shared = Shared::new(2, 0);
    let leaf = shared.leaf();
    let mut zeroes = filling(0, 512);
    zeroes.op = Op::WriteZeroes;
    let name = shared.borrow_mut().send(zeroes, Target::Batch).map_err(drop).expect("a free slot");
    let read = start(&shared, 512, 512);
    take_all(&leaf);
    for tag in [name.tag, read] {
        leaf.borrow().end(tag, Err(Errno::ENOTSUP.into()));
    }
    let table = shared.borrow();
    assert_eq!((table.done.len(), table.others.len()), (0, 2));
    assert!(table.is_active(name), "other means go on with it");
    assert_eq!(table.overlapping(0, 512), vec![name]);
    assert!(!table.is_active(table.name(read)));
}

#[test]
fn a_result_keeps_errno_and_status() {
    for result in [
        Ok(()),
        Err(Errno::ENODEV.into()),
        Err(IoError { errno: Errno::EIO, device_status: 0x4281 }),
        Err(IoError { errno: Errno::EIO, device_status: u32::MAX }),
    ] {
        assert_eq!(Done::new(1, Tag(0), result, false).result(), result);
    }
}

#[test]
fn a_stale_name_is_recognised() {
    let shared = Shared::new(1, 0);
    let name = shared.borrow_mut().take_waiting(filling(0, 1), Target::Batch, false).expect("a free slot");
    assert!(shared.borrow().is_active(name));
    drop(shared.borrow_mut().release(name.tag));
    assert!(!shared.borrow().is_active(name));
    start(&shared, 0, 1);
    assert!(!shared.borrow().is_active(name));
}

#[test]
fn only_requests_that_touch_their_range_are_found() {
    let shared = Shared::new(4, 0);
    let hit = start(&shared, 100, 50);
    start(&shared, 150, 50);
    shared.borrow_mut().take_waiting(filling(100, 50), Target::Batch, false).expect("a free slot");
    let found = shared.borrow().overlapping(120, 150);
    assert_eq!(found, vec![shared.borrow().name(hit)]);
    assert!(shared.borrow().overlapping(0, 100).is_empty());
    assert_eq!(shared.borrow().active(false).len(), 3);
}

#[test]
fn a_tag_outside_the_table_is_harmless() {
    let shared = Shared::new(1, 1);
    assert!(shared.borrow_mut().get_mut(Tag(9)).is_none());
    drop(shared.borrow_mut().release(Tag(9)));
    assert_eq!(shared.borrow().in_use(), 0);
    let completion = shared.borrow_mut().finish(Done::new(1, Tag(9), Ok(()), true));
    assert!(completion.result.is_err());
}

#[test]
fn a_table_by_itself_takes_each_tag_once() {
    let (table, leaf) = CommandTable::new(2);
    let read = || LeafCommand {
        op: Op::Read,
        flags: ReqFlags::empty(),
        offset: 0,
        bytes: 512,
        payload: Payload::None,
    };
    assert!(table.put(Tag(1), read()).is_ok());
    assert!(table.put(Tag(1), read()).is_err(), "its memory would be lost sight of");
    assert!(table.put(Tag(2), read()).is_err());
    let mut shown = Vec::new();
    leaf.view().for_each_pending(|tag, command| shown.push((tag, command.op())));
    assert_eq!(shown, [(Tag(1), Op::Read)]);
    take_all(&leaf);
    leaf.borrow().end(Tag(1), Err(Errno::EIO.into()));
    let ended = table.take_ended();
    assert_eq!((ended.len(), ended[0].tag, ended[0].result.is_err()), (1, Tag(1), true));
    assert!(table.put(Tag(1), read()).is_ok(), "it is free again");
    assert_eq!(table.bogus(), 0);
}
