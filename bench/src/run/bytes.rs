//! The bytes of buffers, some of which nobody may see as a slice: memory that a device's server shares.

use corelane_dma::IoBuf;

/// Calls `look` with the buffer's bytes, or with a copy of them where they are shared.
pub fn look<T>(buf: &IoBuf, look: impl FnOnce(&[u8]) -> T) -> T {
    if let Some(bytes) = buf.as_slice() {
        return look(bytes);
    }
    let mut copy = vec![0; buf.len()];
    buf.copy_to(0, &mut copy).expect("the copy is as long as the buffer");
    look(&copy)
}

/// Calls `make` with the buffer's bytes to write, or with as many, which are copied there then.
pub fn make<T>(buf: &mut IoBuf, make: impl FnOnce(&mut [u8]) -> T) -> T {
    if let Some(bytes) = buf.as_mut_slice() {
        return make(bytes);
    }
    let mut copy = vec![0; buf.len()];
    let made = make(&mut copy);
    buf.copy_from(0, &copy).expect("the copy is as long as the buffer");
    made
}

#[cfg(test)]
mod tests {
    use corelane_dma::{Backing, DmaBuffer};

    use super::*;

    #[test]
    fn shared_memory_is_copied_and_other_memory_is_not() {
        for backing in [Backing::Pages, Backing::Memfd] {
            let mut buf = IoBuf::from(DmaBuffer::new(4096, 4096, backing).unwrap());
            let own = buf.addr();
            let place = make(&mut buf, |bytes| {
                bytes.fill(7);
                bytes.as_ptr() as usize
            });
            assert_eq!(place == own, backing == Backing::Pages);
            assert!(look(&buf, |bytes| bytes.len() == 4096 && bytes.iter().all(|byte| *byte == 7)));
        }
    }
}
