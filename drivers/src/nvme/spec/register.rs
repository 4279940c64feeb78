//! Registers of the controller (Base 3.1.3, "properties") and where they lie in BAR 0.

use super::Qid;

/// Controller Capabilities, 64 bits (Base 3.1.3.1).
pub const CAP: u64 = 0x00;
/// Version, 32 bits (Base 3.1.3.2).
pub const VS: u64 = 0x08;
/// Interrupt Mask Set, 32 bits; not used with MSI-X (Base 3.1.3.3).
pub const INTMS: u64 = 0x0c;
/// Interrupt Mask Clear, 32 bits; not used with MSI-X (Base 3.1.3.4).
pub const INTMC: u64 = 0x10;
/// Controller Configuration, 32 bits (Base 3.1.3.5).
pub const CC: u64 = 0x14;
/// Controller Status, 32 bits (Base 3.1.3.6).
pub const CSTS: u64 = 0x1c;
/// NVM Subsystem Reset, 32 bits (Base 3.1.3.7).
pub const NSSR: u64 = 0x20;
/// Admin Queue Attributes, 32 bits (Base 3.1.3.8).
pub const AQA: u64 = 0x24;
/// Admin Submission Queue Base Address, 64 bits (Base 3.1.3.9).
pub const ASQ: u64 = 0x28;
/// Admin Completion Queue Base Address, 64 bits (Base 3.1.3.10).
pub const ACQ: u64 = 0x30;
/// Controller Memory Buffer Location, 32 bits (Base 3.1.3.11).
pub const CMBLOC: u64 = 0x38;
/// Controller Memory Buffer Size, 32 bits (Base 3.1.3.12).
pub const CMBSZ: u64 = 0x3c;
/// Controller Memory Buffer Memory Space Control, 64 bits (Base 3.1.3.16).
pub const CMBMSC: u64 = 0x50;
/// Controller Memory Buffer Status, 32 bits (Base 3.1.3.17).
pub const CMBSTS: u64 = 0x58;
/// Controller Ready Timeouts, 32 bits (Base 3.1.3.21).
pub const CRTO: u64 = 0x68;
/// Where doorbells begin (PCIe 3.1.2).
pub const DOORBELLS: u64 = 0x1000;

/// The unit of CAP.TO and CRTO, in milliseconds.
pub const TIMEOUT_UNIT_MS: u64 = 500;

/// CAP: what the controller can do (Base 3.1.3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// MQES + 1: the most entries of an I/O queue, from 1 to 65,536. A controller that conforms has at least 2.
    pub const fn max_queue_entries(self) -> u32 {
        (self.0 & 0xffff) as u32 + 1
    }

    /// CQR: queues must be physically contiguous.
    pub const fn contiguous_queues(self) -> bool {
        self.0 >> 16 & 1 == 1
    }

    /// TO: how long RDY may take to follow EN, in milliseconds.
    pub const fn timeout_ms(self) -> u64 {
        (self.0 >> 24 & 0xff) * TIMEOUT_UNIT_MS
    }

    /// DSTRD: bytes from one doorbell to the next.
    pub const fn doorbell_stride_bytes(self) -> u64 {
        4 << (self.0 >> 32 & 0xf)
    }

    /// NSSRS: it has a subsystem reset.
    pub const fn subsystem_reset(self) -> bool {
        self.0 >> 36 & 1 == 1
    }

    /// CSS bit 0: it has the NVM command set.
    pub const fn nvm_command_set(self) -> bool {
        self.0 >> 37 & 1 == 1
    }

    /// CSS bit 6: it has one or more I/O command sets, selected by CC.CSS = 6.
    pub const fn many_command_sets(self) -> bool {
        self.0 >> 43 & 1 == 1
    }

    /// CSS bit 7: it has no I/O command set.
    pub const fn admin_only(self) -> bool {
        self.0 >> 44 & 1 == 1
    }

    /// MPSMIN as a power of two of bytes: 12 is 4 KiB.
    pub const fn min_page_shift(self) -> u32 {
        12 + (self.0 >> 48 & 0xf) as u32
    }

    /// MPSMAX as a power of two of bytes.
    pub const fn max_page_shift(self) -> u32 {
        12 + (self.0 >> 52 & 0xf) as u32
    }

    /// PMRS: it has a persistent memory region.
    pub const fn persistent_memory(self) -> bool {
        self.0 >> 56 & 1 == 1
    }

    /// CMBS: it has a controller memory buffer, whose registers are read once CMBMSC allows it.
    pub const fn memory_buffer(self) -> bool {
        self.0 >> 57 & 1 == 1
    }

    /// CRMS.CRWMS: "controller ready with media" is supported, so that CRTO is there.
    pub const fn ready_with_media(self) -> bool {
        self.0 >> 59 & 1 == 1
    }

    /// CRMS.CRIMS: "controller ready independent of media" is supported.
    pub const fn ready_independent(self) -> bool {
        self.0 >> 60 & 1 == 1
    }
}

/// VS (Base 3.1.3.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Version(pub u32);

impl Version {
    /// Of these numbers.
    pub const fn new(major: u16, minor: u8, tertiary: u8) -> Version {
        Version((major as u32) << 16 | (minor as u32) << 8 | tertiary as u32)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0 >> 16, self.0 >> 8 & 0xff)?;
        if self.0 & 0xff != 0 { write!(f, ".{}", self.0 & 0xff) } else { Ok(()) }
    }
}

/// CC: how the controller is set (Base 3.1.3.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Configuration(pub u32);

impl Configuration {
    /// EN: enabled.
    pub const ENABLE: u32 = 1;
    /// SHN: what the controller is told of the host's end.
    pub const SHUTDOWN_MASK: u32 = 0b11 << 14;
    /// SHN = 01b: a normal shutdown.
    pub const SHUTDOWN_NORMAL: u32 = 0b01 << 14;
    /// SHN = 10b: an abrupt one.
    pub const SHUTDOWN_ABRUPT: u32 = 0b10 << 14;

    /// Enabled, with the memory page of `page_shift`, submission entries of 64 and completion entries of 16 bytes,
    /// round-robin arbitration, no shutdown announced, ready with media. CSS is 110b where the controller has several
    /// command sets, else 000b (NVM).
    pub const fn enabled(page_shift: u32, many_command_sets: bool) -> Configuration {
        let css = if many_command_sets { 0b110 } else { 0 };
        let mps = (page_shift - 12) & 0xf;
        Configuration(4 << 20 | 6 << 16 | mps << 7 | css << 4 | Configuration::ENABLE)
    }

    /// EN.
    pub const fn is_enabled(self) -> bool {
        self.0 & Configuration::ENABLE != 0
    }

    /// The same, disabled.
    pub const fn disabled(self) -> Configuration {
        Configuration(self.0 & !(Configuration::ENABLE | Configuration::SHUTDOWN_MASK))
    }

    /// The same, with a normal shutdown announced.
    pub const fn shutting_down(self) -> Configuration {
        Configuration(self.0 & !Configuration::SHUTDOWN_MASK | Configuration::SHUTDOWN_NORMAL)
    }
}

/// CSTS: how the controller is (Base 3.1.3.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status(pub u32);

/// CSTS.SHST.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShutdownStatus {
    /// No shutdown was asked for.
    Normal,
    /// It goes on.
    Occurring,
    /// It is complete.
    Complete,
    /// The fourth value of the field, which means nothing.
    Reserved,
}

impl Status {
    /// RDY: ready for commands.
    pub const fn is_ready(self) -> bool {
        self.0 & 1 == 1
    }

    /// CFS: a fatal error, which only a reset ends.
    pub const fn is_fatal(self) -> bool {
        self.0 >> 1 & 1 == 1
    }

    /// SHST.
    pub const fn shutdown(self) -> ShutdownStatus {
        match self.0 >> 2 & 0b11 {
            0 => ShutdownStatus::Normal,
            1 => ShutdownStatus::Occurring,
            2 => ShutdownStatus::Complete,
            _ => ShutdownStatus::Reserved,
        }
    }

    /// All ones: what a read gives when nobody answers.
    pub const fn is_gone(self) -> bool {
        self.0 == u32::MAX
    }
}

/// CRTO (Base 3.1.3.21).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadyTimeouts(pub u32);

impl ReadyTimeouts {
    /// CRWMT: how long until it is ready with media, in milliseconds.
    pub const fn with_media_ms(self) -> u64 {
        (self.0 & 0xffff) as u64 * TIMEOUT_UNIT_MS
    }

    /// CRIMT: how long until it is ready independent of media, in milliseconds.
    pub const fn independent_ms(self) -> u64 {
        (self.0 >> 16) as u64 * TIMEOUT_UNIT_MS
    }
}

/// CMBLOC (Base 3.1.3.12).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BufferLocation(pub u32);

impl BufferLocation {
    /// BIR: in which BAR the controller memory buffer is.
    pub const fn bar(self) -> u32 {
        self.0 & 0b111
    }

    /// OFST: where it begins there, in [units](BufferSize::unit_bytes).
    pub const fn offset(self) -> u32 {
        self.0 >> 12
    }
}

/// CMBSZ (Base 3.1.3.13).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BufferSize(pub u32);

impl BufferSize {
    /// SQS: submission queues can be there.
    pub const fn submission_queues(self) -> bool {
        self.0 & 1 == 1
    }

    /// SZU: the unit of size and offset in bytes: 4 KiB to 64 GiB; larger ones are reserved, and count as the largest.
    pub const fn unit_bytes(self) -> u64 {
        let power = self.0 >> 8 & 0xf;
        4096 << (4 * if power > 6 { 6 } else { power })
    }

    /// SZ, in bytes.
    pub const fn bytes(self) -> u64 {
        (self.0 >> 12) as u64 * self.unit_bytes()
    }
}

/// CMBMSC (Base 3.1.3.14): CRE, so that location and size can be read; and with an address, a multiple of 4 KiB, CMSE and CBA, so
/// that the controller finds its memory buffer by it.
pub const fn buffer_space(address: Option<u64>) -> u64 {
    match address {
        Some(address) => address & !0xfff | 0b11,
        None => 0b01,
    }
}

/// CMBSTS (Base 3.1.3.15), CBAI: the address is invalid.
pub const CMBSTS_INVALID: u32 = 1;

/// AQA for admin queues of these sizes, each from 2 to 4096 (Base 3.1.3.8).
pub const fn admin_queue_attributes(sq_entries: u16, cq_entries: u16) -> u32 {
    ((cq_entries - 1) as u32 & 0xfff) << 16 | (sq_entries - 1) as u32 & 0xfff
}

/// Where a queue's submission tail doorbell is (PCIe 3.1.2.1).
pub const fn sq_doorbell(qid: Qid, stride_bytes: u64) -> u64 {
    DOORBELLS + 2 * qid.0 as u64 * stride_bytes
}

/// Where a queue's completion head doorbell is (PCIe 3.1.2.2).
pub const fn cq_doorbell(qid: Qid, stride_bytes: u64) -> u64 {
    DOORBELLS + (2 * qid.0 as u64 + 1) * stride_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_taken_apart() {
        // As QEMU's controller says it: MQES 7FFh, CQR, TO 15, CSS 0 and 6, MPSMAX 4, CMBS.
        let cap = Capabilities(0x7ff | 1 << 16 | 15 << 24 | 1 << 37 | 1 << 43 | 4 << 52 | 1 << 57);
        assert_eq!((cap.max_queue_entries(), cap.timeout_ms()), (2048, 7500));
        assert!(cap.contiguous_queues() && cap.nvm_command_set() && cap.many_command_sets());
        assert!(
            !cap.admin_only() && !cap.subsystem_reset() && cap.memory_buffer() && !cap.persistent_memory()
        );
        assert_eq!((cap.min_page_shift(), cap.max_page_shift()), (12, 16));
        assert_eq!(cap.doorbell_stride_bytes(), 4);
        assert_eq!(Capabilities(2 << 32).doorbell_stride_bytes(), 16);
        assert_eq!(Capabilities(u64::MAX).max_queue_entries(), 65_536);
    }

    #[test]
    fn configurations_keep_what_they_do_not_change() {
        let on = Configuration::enabled(12, false);
        assert_eq!(on.0, 0x0046_0001);
        assert_eq!(Configuration::enabled(13, true).0, 0x0046_00e1);
        assert_eq!(on.shutting_down().0, 0x0046_4001);
        assert_eq!(on.shutting_down().disabled().0, 0x0046_0000);
        assert!(on.is_enabled() && !on.disabled().is_enabled());
    }

    #[test]
    fn status_bits_are_told_apart() {
        assert!(Status(1).is_ready() && !Status(1).is_fatal());
        assert!(Status(2).is_fatal() && Status(u32::MAX).is_gone());
        assert_eq!(Status(0b1000).shutdown(), ShutdownStatus::Complete);
        assert_eq!(Status(0b0100).shutdown(), ShutdownStatus::Occurring);
        assert_eq!(ReadyTimeouts(0x0003_0014).with_media_ms(), 10_000);
        assert_eq!(ReadyTimeouts(0x0003_0014).independent_ms(), 1500);
    }

    #[test]
    fn doorbells_lie_where_the_stride_puts_them() {
        assert_eq!((sq_doorbell(Qid(0), 4), cq_doorbell(Qid(0), 4)), (0x1000, 0x1004));
        assert_eq!((sq_doorbell(Qid(3), 4), cq_doorbell(Qid(3), 4)), (0x1018, 0x101c));
        assert_eq!((sq_doorbell(Qid(1), 64), cq_doorbell(Qid(1), 64)), (0x1080, 0x10c0));
        assert_eq!(admin_queue_attributes(32, 64), 63 << 16 | 31);
    }

    #[test]
    fn a_memory_buffer_is_where_its_units_put_it() {
        // As QEMU's controller with cmb_size_mb=16: BAR 2, all uses, units of 1 MiB.
        let (location, size) = (BufferLocation(0x2), BufferSize(16 << 12 | 2 << 8 | 0x1f));
        assert_eq!((location.bar(), location.offset()), (2, 0));
        assert!(size.submission_queues());
        assert_eq!((size.unit_bytes(), size.bytes()), (1 << 20, 16 << 20));
        assert_eq!(BufferSize(u32::MAX).unit_bytes(), 64 << 30);
        assert_eq!((buffer_space(None), buffer_space(Some(0x1234_5000))), (1, 0x1234_5003));
    }

    #[test]
    fn versions_are_readable() {
        assert_eq!(Version(0x0001_0400).to_string(), "1.4");
        assert_eq!(Version::new(1, 2, 1).to_string(), "1.2.1");
        assert!(Version(0x0002_0000) > Version::new(1, 4, 0));
    }
}
