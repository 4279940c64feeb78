//! Log pages (NVMe base 2.0, section 5.16).
//!
//! Invariant: a page is built whole, then the asked part of it is sent; what lies beyond its end reads as zero.

use std::collections::VecDeque;

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromZeros, IntoBytes};

use crate::check::Checker;
use crate::violation::Rule;
use crate::wire::command::{Command, NSID_ALL, admin, nvm};
use crate::wire::log::{CHANGED_NAMESPACES, EFFECTS, ERRORS, ErrorEntry, FIRMWARE, SMART, SUPPORTED, Smart};
use crate::wire::status::Status;
use crate::worker::Worker;

/// How many entries the error log keeps (ELPE + 1).
pub(crate) const ERROR_ENTRIES: usize = 64;
/// The first log page that is the vendor's.
const VENDOR_PAGES: u8 = 0xC0;
/// What the controller's temperature is said to be: 40 degrees Celsius.
const KELVIN: u16 = 313;
/// Of a command: supported (bit 0).
const CSUPP: u32 = 1;
/// Of a command: changes data (bit 1).
const LBCC: u32 = 1 << 1;

/// The commands that ended with an error, the last one first.
#[derive(Debug, Default)]
pub(crate) struct ErrorLog {
    entries: VecDeque<ErrorEntry>,
    count: u64,
}

impl ErrorLog {
    /// Adds a command that failed.
    #[cold]
    pub(crate) fn add(&mut self, command: &Command, sq_id: u16, status: Status) {
        self.count += 1;
        self.entries.truncate(ERROR_ENTRIES - 1);
        self.entries.push_front(ErrorEntry {
            count: U64::new(self.count),
            sq_id: U16::new(sq_id),
            cid: U16::new(command.cid()),
            status: U16::new(status.0 << 1),
            parameter: U16::new(0xFFFF),
            lba: U64::new(if sq_id == 0 { 0 } else { command.slba() }),
            nsid: U32::new(command.nsid()),
            rest: [0; 36],
        });
    }
}

impl Worker {
    /// Get Log Page (5.16).
    pub(super) fn get_log_page(&mut self, command: &Command, check: &Checker<'_>) -> Result<u32, Status> {
        check.reserved(command, 11, &[0xFFFF_FFFF, 0xFFFF_FFFF, 0xFFFF_FFFF, 0xFF80_007F, 0]);
        let id = command.dword(10) as u8;
        let retain = command.dword(10) >> 15 & 1 != 0;
        let dwords = u64::from(command.dword(10) >> 16) | u64::from(command.dword(11) & 0xFFFF) << 16;
        let offset = command.word(6);
        let nsid = command.nsid();
        if nsid != 0 && nsid != NSID_ALL {
            let text = format!("log page {id:02x}h is the controller's, not namespace {nsid:#x}'s");
            return Err(check.refuse(Status::INVALID_FIELD, Rule::Namespace, text));
        }
        if id >= VENDOR_PAGES {
            // What a vendor has there a host can only find out by asking.
            return Err(Status::INVALID_LOG_PAGE.dnr());
        }
        let page = self.log_page(id).ok_or_else(|| {
            let text = format!("the controller has no log page {id:02x}h");
            check.refuse(Status::INVALID_LOG_PAGE, Rule::InvalidField, text)
        })?;
        let len_bytes = (dwords + 1) * 4;
        if !offset.is_multiple_of(4) || offset > page.len() as u64 || len_bytes > self.most_bytes() {
            let text =
                format!("{len_bytes} bytes at {offset} of log page {id:02x}h, of {} bytes", page.len());
            return Err(check.refuse(Status::INVALID_FIELD, Rule::Range, text));
        }
        let mut bytes = page.get(offset as usize..).unwrap_or_default().to_vec();
        bytes.resize(len_bytes as usize, 0);
        self.send(command, &bytes, check)?;
        if !retain {
            self.events.log_was_read(id);
            if id == CHANGED_NAMESPACES {
                self.changed.clear();
            }
        }
        Ok(0)
    }

    /// The largest transfer of an admin command.
    fn most_bytes(&self) -> u64 {
        match self.shared.config.mdts {
            0 => 1 << 20,
            shift => 4096 << shift,
        }
    }

    fn log_page(&self, id: u8) -> Option<Vec<u8>> {
        Some(match id {
            SUPPORTED => supported(),
            ERRORS => {
                let mut page: Vec<u8> =
                    self.errors.entries.iter().flat_map(|entry| entry.as_bytes().to_vec()).collect();
                page.resize(ERROR_ENTRIES * size_of::<ErrorEntry>(), 0);
                page
            }
            SMART => self.smart().as_bytes().to_vec(),
            FIRMWARE => self.firmware(),
            CHANGED_NAMESPACES => {
                self.changed.iter().flat_map(|nsid| nsid.to_le_bytes()).chain([0; 4096]).take(4096).collect()
            }
            EFFECTS => self.effects(),
            _ => return None,
        })
    }

    fn smart(&self) -> Smart {
        let mut smart = Smart::new_zeroed();
        let counters = self.io.totals();
        // Thousands of 512 bytes, rounded up.
        let units = |bytes: u64| U128::new(u128::from(bytes.div_ceil(512_000)));
        smart.critical_warning = self.shared.control().warning;
        smart.temperature = U16::new(KELVIN);
        smart.available_spare = 100;
        smart.spare_threshold = 10;
        smart.data_units_read = units(counters.read_bytes);
        smart.data_units_written = units(counters.written_bytes);
        smart.host_reads = U128::new(counters.reads.into());
        smart.host_writes = U128::new(counters.writes.into());
        smart.power_cycles = U128::new(1);
        smart.error_entries = U128::new(self.errors.count.into());
        smart
    }

    /// Firmware Slot Information (5.16.1.4): slot 1 is active.
    fn firmware(&self) -> Vec<u8> {
        let mut page = vec![0; 512];
        page[0] = 1;
        let revision = self.shared.config.firmware.as_bytes();
        page[8..16].fill(b' ');
        page[8..8 + revision.len()].copy_from_slice(revision);
        page
    }

    /// Commands Supported and Effects (5.16.1.6): admin commands, then those of the NVM command set.
    fn effects(&self) -> Vec<u8> {
        let config = &self.shared.config;
        let mut page = vec![0; 4096];
        let mut put = |at: usize, opcode: u8, effects: u32| {
            let at = at + 4 * usize::from(opcode);
            page[at..at + 4].copy_from_slice(&effects.to_le_bytes());
        };
        for opcode in [
            admin::DELETE_SQ,
            admin::CREATE_SQ,
            admin::GET_LOG_PAGE,
            admin::DELETE_CQ,
            admin::CREATE_CQ,
            admin::IDENTIFY,
            admin::ABORT,
            admin::SET_FEATURES,
            admin::GET_FEATURES,
            admin::ASYNC_EVENT,
        ] {
            put(0, opcode, CSUPP);
        }
        if config.shadow_doorbells {
            put(0, admin::DOORBELL_BUFFER_CONFIG, CSUPP);
        }
        let io = [
            (nvm::FLUSH, CSUPP, true),
            (nvm::WRITE, CSUPP | LBCC, true),
            (nvm::READ, CSUPP, true),
            (nvm::COMPARE, CSUPP, config.compare),
            (nvm::WRITE_ZEROES, CSUPP | LBCC, config.write_zeroes),
            (nvm::DATASET_MANAGEMENT, CSUPP | LBCC, config.deallocate),
            (nvm::VERIFY, CSUPP, config.verify),
            (nvm::WRITE_UNCORRECTABLE, CSUPP | LBCC, config.write_uncorrectable),
            (nvm::COPY, CSUPP | LBCC, config.copy),
        ];
        for (opcode, effects, _) in io.into_iter().filter(|(_, _, offered)| *offered) {
            put(1024, opcode, effects);
        }
        page
    }
}

/// Supported Log Pages (5.16.1.1): bit 0 of a page's double word.
fn supported() -> Vec<u8> {
    let mut page = vec![0; 1024];
    for id in [SUPPORTED, ERRORS, SMART, FIRMWARE, CHANGED_NAMESPACES, EFFECTS] {
        page[4 * usize::from(id)] = 1;
    }
    page
}
