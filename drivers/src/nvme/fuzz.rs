//! What fuzzing needs of the inside of the driver. For tests only; nothing else uses it.
//!
//! Invariant: the queues here are not the controller's: nothing is rung, so that it does not learn of them.

use std::sync::Arc;

use corelane_dma::DmaError;
use zerocopy::FromBytes;

use super::NvmeController;
use super::bus::BusError;
use super::controller::registers::PAGE_BYTES;
use super::queue::bell::Bell;
use super::queue::memory::HostMemory;
use super::queue::pair::{Parts, QueuePair};
use super::queue::ring::{CompletionRing, SubmissionRing};
use super::spec::Qid;
use super::spec::command::Command;
use super::spec::completion::Completion;
use super::spec::identify::command_set_of;
use super::spec::log::{ChangedNamespaces, CriticalWarning, ErrorEntry, HealthLog, counter};
use super::spec::register::{cq_doorbell, sq_doorbell};
use super::spec::zone::{DESCRIPTOR_BYTES, read_report};

/// Entries of the queues: few, so that they wrap soon.
const ENTRIES: u32 = 8;
/// Tags, of which not all are in flight at once.
const TAGS: u32 = 11;

/// Why there is nothing to fuzz.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FuzzError {
    /// Memory.
    #[error(transparent)]
    Memory(#[from] DmaError),
    /// The bus.
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// A queue pair to which the input says what it is to do, and what the controller writes: commands are pushed, ticks come,
/// the controller stops, and entries are written with any content anywhere.
///
/// # Errors
/// [`FuzzError`].
///
/// # Panics
/// When a command ends that is not in flight, or the pair counts wrongly.
pub fn completions(controller: &Arc<NvmeController>, input: &[u8]) -> Result<(), FuzzError> {
    let bus = controller.bus();
    let memory = HostMemory::new(bus.as_ref(), 2 * PAGE_BYTES)?;
    let entries = memory.array::<Completion>(PAGE_BYTES, ENTRIES as usize)?;
    let qid = Qid(1);
    let sq_bell = Bell::new(bus.doorbell(sq_doorbell(qid, 4))?, None);
    let cq_bell = Bell::new(bus.doorbell(cq_doorbell(qid, 4))?, None);
    let sq = SubmissionRing::new(&memory, 0, ENTRIES, sq_bell)?;
    let cq = CompletionRing::new(&memory, PAGE_BYTES, ENTRIES, cq_bell)?;
    let parts = Parts { sq, cq, memory, sq_memory: None, cq_offset: PAGE_BYTES as u64, qid, vector: None };
    let mut pair = QueuePair::new(Arc::clone(controller), parts, TAGS, 0);
    let mut in_flight = [None; TAGS as usize];
    let (steps, _) = input.as_chunks::<12>();
    for step in steps {
        let tag = u32::from(step[1]) % TAGS;
        let place = &mut in_flight[tag as usize];
        match step[0] % 8 {
            0 | 1 if place.is_none() && !pair.is_full() => {
                let mut command = Command::default();
                pair.push(tag, &mut command);
                *place = Some(command.cid);
            }
            2 => pair.tick(|cid, _| assert!(in_flight.contains(&Some(cid)))),
            3 => {
                let before = in_flight.iter().flatten().count();
                let mut shown = 0;
                pair.pull_back(|tag, _| {
                    assert!(in_flight[tag as usize].take().is_some());
                    shown += 1;
                });
                assert_eq!((shown, pair.in_flight()), (before, 0));
            }
            kind => {
                let half = |at: usize| u16::from_le_bytes([step[at], step[at + 1]]);
                // Often one that is almost right.
                let cid = place.filter(|_| kind > 4).map_or(half(2), |cid| cid ^ half(2) & 0x8001);
                let sq_id = if kind > 5 { qid.0 } else { half(4) };
                let sq_head = if kind > 5 { half(6) % ENTRIES as u16 } else { half(6) };
                let (result, status_and_phase) = (u32::from(half(8)), half(10));
                let entry = Completion { result, result_high: 0, sq_head, sq_id, cid, status_and_phase };
                let _ = entries.set(usize::from(step[1]) % ENTRIES as usize, &entry);
            }
        }
        take_all(&mut pair, &mut in_flight);
        assert_eq!(pair.in_flight() as usize, in_flight.iter().flatten().count());
    }
    Ok(())
}

/// Takes what is there, up to the first that makes no sense.
fn take_all(pair: &mut QueuePair, in_flight: &mut [Option<u16>]) {
    for _ in 0..2 * ENTRIES {
        let Some(Ok((tag, found))) = pair.take() else { return };
        let ended = in_flight[tag as usize].take();
        assert_eq!(ended, Some(found.cid()), "a command ends that is not in flight");
        // What is done with any status.
        let error = found.status().to_io_error();
        let _ = (error.to_string(), found.status().name());
    }
}

/// Reports of zones, with and without descriptor extensions.
///
/// # Panics
/// When there are more zones than the bytes hold.
pub fn zone_reports(input: &[u8]) {
    let [extension, report @ ..] = input else { return };
    let extension_bytes = usize::from(*extension) * 64;
    let (count, zones) = read_report(report, extension_bytes);
    assert!(
        zones.len() * (DESCRIPTOR_BYTES + extension_bytes) <= report.len() && zones.len() as u64 <= count
    );
    for zone in zones {
        let _ = format!("{zone:?}");
        assert!(zone.extension.is_none_or(|bytes| bytes.len() == extension_bytes));
    }
    let _ = command_set_of(input);
}

/// Log pages: errors, health, changed namespaces.
pub fn log_pages(input: &[u8]) {
    let mut page = [0; 4096];
    let len = input.len().min(page.len());
    page[..len].copy_from_slice(&input[..len]);
    if let Ok((entry, _)) = ErrorEntry::read_from_prefix(&page) {
        let _ = format!("{entry:?}");
    }
    if let Ok((log, _)) = HealthLog::read_from_prefix(&page) {
        let warning = CriticalWarning::from_bits_truncate(log.critical_warning);
        let _ = (format!("{log:?} {warning:?}"), counter(log.data_units_read));
    }
    if let Ok((list, _)) = ChangedNamespaces::read_from_prefix(&page) {
        let _ = list.nsids.iter().take_while(|nsid| nsid.get() != 0).count();
    }
}
