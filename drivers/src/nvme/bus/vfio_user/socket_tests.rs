//! The socket against peers that send in pieces, stop, or leave.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use proptest::prelude::*;

use super::*;

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(30);

fn pair() -> (Socket, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Socket::from(OwnedFd::from(ours)), theirs)
}

fn header(size_bytes: u32) -> Header {
    Header { message_id: 7, command: 9, size_bytes, flags: 0, error: 0 }
}

fn message(payload: &[u8]) -> Vec<u8> {
    let mut bytes = header((Header::BYTES + payload.len()) as u32).as_bytes().to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

#[test]
fn a_message_arrives_whole_however_it_is_cut() {
    let (socket, mut peer) = pair();
    let bytes = message(b"some payload");
    let sender = thread::spawn(move || {
        for byte in bytes {
            peer.write_all(&[byte]).unwrap();
            thread::yield_now();
        }
        peer
    });
    let got = socket.receive(100, Deadline::after(LONG)).unwrap();
    assert_eq!((got.header, got.payload.as_slice()), (header(28), b"some payload".as_slice()));
    sender.join().unwrap();
}

#[test]
fn a_long_message_is_sent_whole_to_a_slow_reader() {
    let (socket, mut peer) = pair();
    let payload: Vec<u8> = (0..3_000_000u32).map(|i| i as u8).collect();
    let expected = message(&payload);
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        peer.read_to_end(&mut all).unwrap();
        all
    });
    let (first, second) = payload.split_at(1_000_001);
    let header = header(expected.len() as u32);
    let mut parts =
        [IoSlice::new(header.as_bytes()), IoSlice::new(&[]), IoSlice::new(first), IoSlice::new(second)];
    socket.send(&mut parts, &[], Deadline::after(LONG)).unwrap();
    drop(socket);
    assert!(reader.join().unwrap() == expected);
}

#[test]
fn descriptors_travel_with_their_message() {
    let (socket, peer) = pair();
    let peer = Socket::from(OwnedFd::from(peer));
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"seen").unwrap();
    for count in [1, MAX_FDS, 0, 2] {
        let bytes = message(&[]);
        let fds = vec![file.as_fd(); count];
        peer.send(&mut [IoSlice::new(&bytes)], &fds, Deadline::after(LONG)).unwrap();
        let got = socket.receive(0, Deadline::after(LONG)).unwrap();
        assert_eq!(got.fds.len(), count);
        for fd in got.fds {
            let flags = rustix::io::fcntl_getfd(&fd).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
            let (mut file, mut text) = (File::from(fd), String::new());
            file.rewind().unwrap();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, "seen");
        }
    }
    let fds = vec![file.as_fd(); MAX_FDS + 1];
    let refused = peer.send(&mut [IoSlice::new(b"x")], &fds, Deadline::after(LONG));
    assert!(matches!(refused, Err(SocketError::TooManyFds { most: MAX_FDS })));
}

#[test]
fn more_descriptors_than_fit_are_an_error_and_are_closed() {
    let (socket, peer) = pair();
    let (probe, mut far_end) = UnixStream::pair().unwrap();
    let fds = [const { 0u8 }; MAX_FDS + 4].map(|_| probe.as_fd());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS + 4))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    let bytes = message(&[]);
    rustix::net::sendmsg(&peer, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::empty()).unwrap();
    let refused = socket.receive(0, Deadline::after(LONG));
    assert!(matches!(refused, Err(SocketError::TooManyFds { .. })), "{refused:?}");
    // The other end of what was sent is at its end only if nobody has a copy any more.
    drop(probe);
    assert_eq!(far_end.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn sizes_that_cannot_be_are_refused_before_anything_is_allocated() {
    for size in [0, 15, 117, u32::MAX] {
        let (socket, mut peer) = pair();
        peer.write_all(header(size).as_bytes()).unwrap();
        let refused = socket.receive(100, Deadline::after(LONG));
        assert!(matches!(refused, Err(SocketError::Size { size_bytes, .. }) if size_bytes == size));
    }
}

#[test]
fn nothing_waits_forever() {
    let (socket, mut peer) = pair();
    let timed_out = |result| matches!(result, Err(SocketError::TimedOut { waited_ms: 30 }));
    assert!(timed_out(socket.receive(100, Deadline::after(SHORT)).map(drop)));
    peer.write_all(&message(b"half")[..18]).unwrap();
    assert!(timed_out(socket.receive(100, Deadline::after(SHORT)).map(drop)));
    let many = vec![0; 8 << 20];
    assert!(timed_out(socket.send(&mut [IoSlice::new(&many)], &[], Deadline::after(SHORT))));
    let (idle, _peer) = pair();
    assert!(!idle.is_readable(SHORT).unwrap() && !idle.is_readable(Duration::ZERO).unwrap());
}

#[test]
fn the_end_of_a_connection_is_told_from_the_middle_of_a_message() {
    for (sent, expect_partly) in [(0, false), (3, true), (16, true), (18, true)] {
        let (socket, mut peer) = pair();
        peer.write_all(&message(b"text")[..sent]).unwrap();
        drop(peer);
        let closed = socket.receive(100, Deadline::after(LONG));
        assert!(matches!(closed, Err(SocketError::Closed { partly }) if partly == expect_partly), "{sent}");
        let bytes = message(&[]);
        let closed = socket.send(&mut [IoSlice::new(&bytes)], &[], Deadline::after(LONG));
        assert!(matches!(closed, Err(SocketError::Closed { .. })));
    }
}

#[test]
fn connecting_to_a_listener_with_a_full_queue_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    assert_eq!(Socket::connect(&path, SHORT).unwrap_err().kind(), io::ErrorKind::NotFound);
    let listener = UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let waiting = Socket::connect(&path, LONG).unwrap();
    assert_eq!(Socket::connect(&path, SHORT).unwrap_err().kind(), io::ErrorKind::TimedOut);
    drop(waiting);
    drop(listener);
    assert_eq!(Socket::connect(&path, SHORT).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    let long = folder.path().join("x".repeat(200));
    assert!(Socket::connect(&long, SHORT).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_bytes_become_messages_or_an_error(bytes in proptest::collection::vec(
        prop_oneof![4 => Just(0u8), 1 => Just(16u8), 1 => Just(24u8), 1 => any::<u8>()], 0..200,
    )) {
        let (socket, mut peer) = pair();
        peer.write_all(&bytes).unwrap();
        drop(peer);
        let mut taken = 0;
        let error = loop {
            match socket.receive(64, Deadline::after(LONG)) {
                Ok(message) => {
                    taken += Header::BYTES + message.payload.len();
                    prop_assert!(message.payload.len() <= 64 && taken <= bytes.len());
                }
                Err(error) => break error,
            }
        };
        if taken == bytes.len() {
            let at_the_end = matches!(error, SocketError::Closed { partly: false });
            prop_assert!(at_the_end);
        }
    }
}
