//! Every backing that this machine has, the refusals, and the fall-back.

use super::*;

#[test]
fn ordinary_buffers_are_zeroed_and_aligned() {
    for backing in [Backing::Pages, Backing::Memfd] {
        for (len, align) in [(1, 1), (512, 512), (5000, 4096), (4096, 64 << 10), (10 << 20, 2 << 20)] {
            let mut buffer = DmaBuffer::new(len, align, backing).unwrap();
            assert_eq!((buffer.len(), buffer.addr() % align, buffer.backing()), (len, 0, backing));
            let mut bytes = vec![1; len];
            buffer.copy_to(0, &mut bytes).unwrap();
            assert!(bytes.iter().all(|&b| b == 0));
            buffer.copy_from(len - 1, &[9]).unwrap();
            buffer.copy_to(len - 1, &mut bytes[..1]).unwrap();
            assert_eq!(bytes[0], 9);
            assert!(buffer.copy_from(len, &[9]).is_err());
            assert_eq!(buffer.as_slice().is_some(), !backing.is_shareable());
            assert_eq!(buffer.as_mut_slice().map(|s| s.len()), (!backing.is_shareable()).then_some(len));
        }
    }
}

#[test]
fn a_memfd_is_the_same_memory_and_cannot_be_cut_off() {
    let mut buffer = DmaBuffer::new(8192, 4096, Backing::Memfd).unwrap();
    buffer.copy_from(4096, b"here").unwrap();
    let fd = buffer.fd().unwrap();
    let mut bytes = [0; 4];
    assert_eq!(rustix::io::pread(fd, &mut bytes, 4096).unwrap(), 4);
    assert_eq!(&bytes, b"here");
    assert_eq!(rustix::io::pwrite(fd, b"back", 0).unwrap(), 4);
    buffer.copy_to(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"back");
    assert!(rustix::fs::ftruncate(buffer.fd().unwrap(), 0).is_err(), "the seal forbids it");
    assert!(DmaBuffer::new(4096, 4096, Backing::Pages).unwrap().fd().is_none());
}

#[test]
fn impossible_lengths_and_alignments_are_refused() {
    for len in [0, usize::MAX, isize::MAX as usize] {
        let error = DmaBuffer::new(len, 4096, Backing::Pages).unwrap_err();
        assert!(matches!(error, DmaError::BadLength { len_bytes, .. } if len_bytes == len), "{error}");
    }
    for align in [0, 3, 4097, 1 << 63] {
        let error = DmaBuffer::new(4096, align, Backing::Pages).unwrap_err();
        assert!(
            matches!(error, DmaError::BadAlignment { align_bytes, .. } if align_bytes == align),
            "{error}"
        );
    }
    for backing in [Backing::Pages, Backing::Memfd] {
        let error = DmaBuffer::new(1 << 61, 4096, backing).unwrap_err();
        assert!(matches!(error, DmaError::Map { .. }), "{error}");
    }
}
