//! PCI configuration space (PCI 3.0, section 6; PCI Express base, section 7.5; NVMe PCIe transport 1.0, section 3.8).
//!
//! Invariant: only the bits that a host may write change; what a register of the specification reads as is never left.

/// The length of the space.
pub(crate) const CONFIG_BYTES: usize = 256;
/// The length of BAR 4: the MSI-X table, then the pending bits.
pub(crate) const BAR4_BYTES: usize = 0x4000;

const PENDING_BITS: u32 = 0x2000;
const COMMAND: usize = 0x04;
const BAR0: usize = 0x10;
const BAR4: usize = 0x20;
const CAP_POWER: usize = 0x40;
const CAP_MSIX: usize = 0x50;
const CAP_EXPRESS: usize = 0x60;
const DEVICE_CONTROL: usize = CAP_EXPRESS + 8;

/// Not in the public list of PCI vendors, so that no host takes the model for a device with quirks.
pub(crate) const VENDOR_ID: u16 = 0xC07E;
const DEVICE_ID: u16 = 0x4E56;

/// The configuration space of one function.
#[derive(Clone, Debug)]
pub(crate) struct ConfigSpace {
    bytes: [u8; CONFIG_BYTES],
    /// Which bits a host may write.
    writable: [u8; CONFIG_BYTES],
}

impl ConfigSpace {
    /// An NVMe I/O controller with BAR 0 of `bar0_bytes` (a power of two) and `vectors` MSI-X vectors.
    pub(crate) fn new(bar0_bytes: u64, vectors: u32) -> ConfigSpace {
        let mut space = ConfigSpace { bytes: [0; CONFIG_BYTES], writable: [0; CONFIG_BYTES] };
        space.set16(0x00, VENDOR_ID);
        space.set16(0x02, DEVICE_ID);
        // Status: there is a list of capabilities.
        space.set16(0x06, 0x0010);
        // Class code: mass storage, non-volatile memory, NVM Express.
        space.set32(0x08, 0x0108_0201);
        space.set16(0x2C, VENDOR_ID);
        space.set16(0x2E, DEVICE_ID);
        space.bytes[0x34] = CAP_POWER as u8;
        // Memory space, bus master, interrupt disable.
        space.allow16(COMMAND, 0x0406);
        space.bar64(BAR0, bar0_bytes);
        space.bar64(BAR4, BAR4_BYTES as u64);
        space.writable[0x0C] = 0xFF;
        space.writable[0x3C] = 0xFF;
        space.capabilities(vectors);
        space
    }

    fn capabilities(&mut self, vectors: u32) {
        // Power management: version 3, no states but D0 and D3hot.
        self.set32(CAP_POWER, 0x0003_0001 | (CAP_MSIX as u32) << 8);
        self.allow16(CAP_POWER + 4, 0x0003);
        // MSI-X: table in BAR 4, enable and function mask writable.
        let last = (vectors - 1).min(0x7FF) << 16;
        self.set32(CAP_MSIX, 0x0011 | (CAP_EXPRESS as u32) << 8 | last);
        self.set32(CAP_MSIX + 4, 4);
        self.set32(CAP_MSIX + 8, PENDING_BITS | 4);
        self.allow16(CAP_MSIX + 2, 0xC000);
        // PCI Express endpoint, version 2; role-based errors, function-level reset; one lane of 2.5 GT/s.
        self.set32(CAP_EXPRESS, 0x0002_0010);
        self.set32(CAP_EXPRESS + 4, 0x1000_8000);
        self.allow16(DEVICE_CONTROL, 0xFFFF);
        self.set32(CAP_EXPRESS + 0x0C, 0x0000_0011);
        self.set16(CAP_EXPRESS + 0x12, 0x0011);
        self.allow16(CAP_EXPRESS + 0x10, 0x0FFF);
    }

    /// Makes the 64-bit memory BAR at `at` one of `len_bytes` bytes: address bits below the length stay zero.
    fn bar64(&mut self, at: usize, len_bytes: u64) {
        let mask = !(len_bytes - 1);
        self.set32(at, 0x4);
        self.writable[at..at + 8].copy_from_slice(&mask.to_le_bytes());
    }

    fn set16(&mut self, at: usize, value: u16) {
        self.bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn set32(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn allow16(&mut self, at: usize, mask: u16) {
        self.writable[at..at + 2].copy_from_slice(&mask.to_le_bytes());
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Writes `data` at `at`, which lies inside. Returns whether the host asked for a function-level reset.
    pub(crate) fn write(&mut self, at: usize, data: &[u8]) -> bool {
        for (index, byte) in data.iter().enumerate() {
            let mask = self.writable[at + index];
            let kept = self.bytes[at + index] & !mask;
            self.bytes[at + index] = kept | byte & mask;
        }
        // Device Control, bit 15: Initiate Function Level Reset; it always reads as 0.
        let control = &mut self.bytes[DEVICE_CONTROL + 1];
        let reset = *control & 0x80 != 0;
        *control &= 0x7F;
        reset
    }

    /// What a reset of the function does to it: the host's settings other than the BARs are lost.
    pub(crate) fn reset(&mut self) {
        for at in [COMMAND, CAP_MSIX + 2, CAP_POWER + 4, DEVICE_CONTROL] {
            for at in at..at + 2 {
                self.bytes[at] &= !self.writable[at];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_tell_their_size() {
        let mut space = ConfigSpace::new(0x8000, 65);
        for (at, len) in [(BAR0, 0x8000_u64), (BAR4, BAR4_BYTES as u64)] {
            space.write(at, &[0xFF; 8]);
            let bits = u64::from_le_bytes(space.bytes()[at..at + 8].try_into().unwrap());
            assert_eq!(!(bits & !0xF) + 1, len);
            assert_eq!(bits & 0xF, 4, "64 bits, not prefetchable");
        }
    }

    #[test]
    fn capabilities_form_a_list_that_ends() {
        let space = ConfigSpace::new(0x8000, 65);
        let mut at = usize::from(space.bytes()[0x34]);
        let mut found = Vec::new();
        while at != 0 {
            found.push(space.bytes()[at]);
            at = usize::from(space.bytes()[at + 1]);
        }
        assert_eq!(found, [0x01, 0x11, 0x10]);
        assert_eq!(space.bytes()[CAP_MSIX + 2], 64, "one less than there are");
    }

    #[test]
    fn read_only_bits_stay_and_a_reset_is_seen() {
        let mut space = ConfigSpace::new(0x8000, 65);
        let before = space.bytes()[..4].to_vec();
        assert!(!space.write(0, &[0xFF; 8]));
        assert_eq!(space.bytes()[..4], before);
        assert_eq!(space.bytes()[COMMAND], 0x06);
        assert!(space.write(DEVICE_CONTROL, &[0x00, 0x80]));
        assert_eq!(space.bytes()[DEVICE_CONTROL + 1], 0);
        space.reset();
        assert_eq!(space.bytes()[COMMAND], 0);
    }
}
