//! The controller registers (NVMe base 2.0, section 3.1.3) as hosts read and write them.
//!
//! Invariants: reads change nothing. A write takes effect in the polling thread, which alone moves CSTS: what a host asked
//! for stands in `cc` until then. A write out of turn is recorded.

use crate::config::ModelConfig;
use crate::violation::{Rule, Violation, Violations};
use crate::wire::register::{
    ACQ, AQA, AQA_DEFINED, ASQ, CAP, CC, CMBLOC, CMBMSC, CMBSZ, CRTO, CSTS, CSTS_RDY, Cap, Cc, INTMC, INTMS,
    NSSR, REGISTERS_END, VERSION, VS,
};

/// CMBMSC: location and size can be read; the buffer can be used.
const CMBMSC_CRE: u64 = 1;
const CMBMSC_CMSE: u64 = 1 << 1;

/// The registers.
#[derive(Clone, Debug)]
pub(crate) struct Registers {
    cap: u64,
    crto: u32,
    pub(crate) cc: Cc,
    pub(crate) csts: u32,
    pub(crate) aqa: u32,
    pub(crate) asq: u64,
    pub(crate) acq: u64,
    /// Interrupt mask; it has no effect with MSI-X.
    mask: u32,
    /// The length of the controller memory buffer in units of 4 KiB, and CMBMSC.
    buffer_pages: u16,
    buffer_space: u64,
}

impl Registers {
    pub(crate) fn new(config: &ModelConfig) -> Registers {
        let cap = Cap {
            mqes: (config.max_queue_entries - 1) as u16,
            to: config.ready_timeout,
            dstrd: config.doorbell_stride,
            mpsmin: 0,
            mpsmax: config.max_page_shift,
            memory_buffer: config.memory_buffer_pages > 0,
            command_sets: config.has_zones(),
        };
        let ready_timeout = u32::from(config.ready_timeout);
        let (cc, csts, aqa, asq, acq, mask) = (Cc::default(), 0, 0, 0, 0, 0);
        let (buffer_pages, buffer_space) = (config.memory_buffer_pages, 0);
        // Ready with media takes as long as ready independent of media, which this controller does not have.
        Registers {
            cap: cap.bits(),
            crto: ready_timeout,
            cc,
            csts,
            aqa,
            asq,
            acq,
            mask,
            buffer_pages,
            buffer_space,
        }
    }

    /// The registers as bytes, in their places.
    pub(crate) fn image(&self) -> [u8; REGISTERS_END as usize] {
        let mut image = [0; REGISTERS_END as usize];
        let mut put = |at: u64, bytes: &[u8]| {
            let at = at as usize;
            image[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(CAP, &self.cap.to_le_bytes());
        put(VS, &VERSION.to_le_bytes());
        put(INTMS, &self.mask.to_le_bytes());
        put(INTMC, &self.mask.to_le_bytes());
        put(CC, &self.cc.0.to_le_bytes());
        put(CSTS, &self.csts.to_le_bytes());
        put(AQA, &self.aqa.to_le_bytes());
        put(ASQ, &self.asq.to_le_bytes());
        put(ACQ, &self.acq.to_le_bytes());
        if self.buffer_space & CMBMSC_CRE != 0 {
            // In BAR 2, from its start on; for submission queues, in units of 4 KiB.
            put(CMBLOC, &2_u32.to_le_bytes());
            put(CMBSZ, &(u32::from(self.buffer_pages) << 12 | 1).to_le_bytes());
        }
        put(CMBMSC, &self.buffer_space.to_le_bytes());
        put(CRTO, &self.crto.to_le_bytes());
        image
    }

    /// Writes the 32 bits at `at`.
    pub(crate) fn write(&mut self, at: u64, value: u32, violations: &Violations) {
        let note = |detail: String| {
            violations.add(Violation { rule: Rule::Register, queue: None, cid: None, detail });
        };
        if matches!(at & !7, ASQ | ACQ) || at == AQA {
            if self.cc.enabled() {
                note(format!(
                    "the admin queue register at {at:#x} was written while the controller is enabled"
                ));
            }
            return self.write_admin_queue(at, value, note);
        }
        match at {
            CC => self.write_cc(Cc(value), note),
            INTMS => self.mask |= value,
            INTMC => self.mask &= !value,
            CMBMSC if self.buffer_pages > 0 => {
                self.buffer_space = self.buffer_space & !0xFFFF_FFFF | u64::from(value & !0xFFC);
            }
            _ if at == CMBMSC + 4 && self.buffer_pages > 0 => {
                self.buffer_space = self.buffer_space & 0xFFFF_FFFF | u64::from(value) << 32;
            }
            // Read-only status, and a subsystem reset that the controller does not have.
            CSTS | NSSR => {}
            _ => note(format!("{value:#x} was written to {at:#x}, where there is no register to write")),
        }
    }

    fn write_admin_queue(&mut self, at: u64, value: u32, note: impl Fn(String)) {
        let low = |old: u64| old & !0xFFFF_FFFF | u64::from(value & !0xFFF);
        let high = |old: u64| old & 0xFFFF_FFFF | u64::from(value) << 32;
        let reserved = match at {
            AQA => value & !AQA_DEFINED,
            ASQ | ACQ => value & 0xFFF,
            _ => 0,
        };
        if reserved != 0 {
            note(format!("bits {reserved:#x} of the register at {at:#x} are reserved and must be 0"));
        }
        match at {
            AQA => self.aqa = value & AQA_DEFINED,
            ASQ => self.asq = low(self.asq),
            ACQ => self.acq = low(self.acq),
            _ if at == ASQ + 4 => self.asq = high(self.asq),
            _ => self.acq = high(self.acq),
        }
    }

    fn write_cc(&mut self, new: Cc, note: impl Fn(String)) {
        let old = self.cc;
        let reserved = new.0 & !Cc::DEFINED;
        if reserved != 0 {
            note(format!("bits {reserved:#x} of CC are reserved and must be 0"));
        }
        if new.enabled() && !old.enabled() && self.csts & CSTS_RDY != 0 {
            note("CC.EN was set before CSTS.RDY was clear".to_owned());
        }
        if new.enabled() && old.enabled() && (new.0 ^ old.0) & Cc::FIXED_WHILE_ENABLED != 0 {
            note(format!("CC was changed from {:#x} to {:#x} while the controller is enabled", old.0, new.0));
        }
        self.cc = new;
    }

    /// Where queues can lie in the controller memory buffer, if they can.
    pub(crate) fn buffer_address(&self) -> Option<u64> {
        (self.buffer_space & CMBMSC_CMSE != 0).then_some(self.buffer_space & !0xFFF)
    }

    /// What a controller reset leaves: all but the admin queue's registers (base 3.7.2).
    pub(crate) fn controller_reset(&mut self) {
        self.csts = 0;
        self.mask = 0;
    }

    /// What a reset of the function leaves: nothing.
    pub(crate) fn function_reset(&mut self) {
        self.controller_reset();
        (self.cc, self.aqa, self.asq, self.acq) = (Cc::default(), 0, 0, 0);
        self.buffer_space = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NamespaceConfig;

    fn registers() -> (Registers, Violations) {
        let config = ModelConfig::new(vec![NamespaceConfig::null(1 << 20)]);
        (Registers::new(&config), Violations::default())
    }

    fn read64(registers: &Registers, at: u64) -> u64 {
        u64::from_le_bytes(registers.image()[at as usize..at as usize + 8].try_into().unwrap())
    }

    #[test]
    fn capabilities_are_those_of_the_configuration() {
        let (registers, _) = registers();
        let cap = read64(&registers, CAP);
        assert_eq!((cap & 0xFFFF, cap >> 16 & 1, cap >> 24 & 0xFF, cap >> 32 & 0xF), (4095, 1, 10, 4));
        assert_eq!((cap >> 37 & 0xFF, cap >> 48 & 0xF, cap >> 52 & 0xF), (1, 0, 4));
    }

    #[test]
    fn admin_queue_addresses_are_written_by_halves() {
        let (mut registers, violations) = registers();
        registers.write(ASQ, 0x1234_5000, &violations);
        registers.write(ASQ + 4, 0x9, &violations);
        registers.write(ACQ + 4, 0x8, &violations);
        assert_eq!(read64(&registers, ASQ), 0x9_1234_5000);
        assert_eq!(read64(&registers, ACQ), 0x8_0000_0000);
        assert!(violations.all().is_empty());
    }

    #[test]
    fn writes_out_of_turn_are_recorded() {
        let cases: [(u64, u32); 6] =
            [(AQA, 0xF000), (ASQ, 0x1001), (CC, 0x8000_0001), (0x04, 1), (0x74, 1), (CC, 2)];
        for (at, value) in cases {
            let (mut registers, violations) = registers();
            registers.write(at, value, &violations);
            assert_eq!(violations.all().len(), 1, "{at:#x}");
        }
        let (mut registers, violations) = registers();
        registers.write(CC, 0x46_0001, &violations);
        registers.write(CC, 0x46_4001, &violations);
        assert!(violations.all().is_empty(), "a shutdown may be asked for while enabled");
        registers.write(CC, 0x46_0081, &violations);
        registers.write(AQA, 1, &violations);
        registers.write(CC, 0x46_0000, &violations);
        assert_eq!(violations.take().len(), 2);
        registers.csts = CSTS_RDY;
        registers.write(CC, 0x46_0001, &violations);
        assert_eq!(violations.take().len(), 1, "RDY was still set");
    }
}
