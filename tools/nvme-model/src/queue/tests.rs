//! Tests of the queues' own rules.

use corelane_dma::{Backing, CellArray, DeviceMemory, DmaBuffer, MemRegion};

use super::*;
use crate::wire::status::Status;

const PLACE: Place = Place { iova: 0, entries: 4 };

fn memory() -> DeviceMemory {
    DeviceMemory::of(&MemRegion::from_buffer(DmaBuffer::new(4096, 4096, Backing::Pages).unwrap()))
}

fn completion(cid: u16) -> Completion {
    Completion { result: 0, sq_head: 0, sq_id: 1, cid, status: Status::SUCCESS }
}

fn completion_queue() -> (CompletionQueue, CellArray, WordArray<2>) {
    let cells = CellArray::new(memory(), 4, 4).unwrap();
    let ring = WordArray::new(memory(), 4).unwrap();
    (CompletionQueue::new(1, PLACE, ring.clone(), Doorbell::new(&cells, 3), None), cells, ring)
}

#[test]
fn completions_stop_where_the_host_has_not_read() {
    let violations = Violations::default();
    let (mut queue, cells, ring) = completion_queue();
    for cid in 0..3 {
        assert!(queue.has_room(&violations));
        queue.post(&completion(cid));
    }
    assert!(!queue.has_room(&violations), "one entry stays free");
    cells.store(3, 2);
    assert!(queue.has_room(&violations));
    queue.post(&completion(3));
    assert!(queue.has_room(&violations));
    queue.post(&completion(4));
    let phases: Vec<u64> = (0..4).map(|index| ring.load(index).unwrap()[1] >> 48 & 1).collect();
    assert_eq!(phases, [0, 1, 1, 1], "the second round has the other phase");
    assert!(violations.all().is_empty());
}

#[test]
fn a_head_that_passes_the_tail_is_recorded_once() {
    let violations = Violations::default();
    let (mut queue, cells, _) = completion_queue();
    queue.post(&completion(0));
    for bad in [2, 4, u32::MAX] {
        cells.store(3, bad);
        assert!(!queue.look(&violations));
        assert!(!queue.look(&violations));
        assert_eq!(violations.take().len(), 1);
    }
    cells.store(3, 1);
    assert!(queue.look(&violations));
}

#[test]
fn a_tail_outside_the_queue_is_recorded_once_and_ignored() {
    let violations = Violations::default();
    let cells = CellArray::new(memory(), 4, 4).unwrap();
    let ring = WordArray::new(memory(), 4).unwrap();
    let mut queue = SubmissionQueue::new(1, 1, PLACE, ring, Doorbell::new(&cells, 2));
    cells.store(2, 4);
    assert_eq!((queue.tail(&violations), queue.tail(&violations)), (0, 0));
    assert!(queue.is_bad());
    assert_eq!(violations.all().len(), 1);
    cells.store(2, 3);
    assert_eq!(queue.tail(&violations), 3);
    assert!(!queue.is_bad());
}

#[test]
fn an_identifier_is_in_use_until_its_batch_ends() {
    let mut cids = Cids::new();
    assert!(cids.begin(7) && cids.begin(0xFFFF));
    assert!(!cids.begin(7));
    cids.end_batch();
    assert!(cids.begin(7));
    cids.hold_last();
    cids.end_batch();
    assert!(!cids.begin(7), "it is held");
    cids.release(7);
    assert!(cids.begin(7));
}
