//! The client against servers that are scripted, most of them broken.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};

use proptest::prelude::*;

use super::*;
use crate::nvme::bus::vfio_user::wire;

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(50);

/// A server that answers each command as `answer` says: flags and error, payload, and how many descriptors.
fn serve(
    mut answer: impl FnMut(&Message) -> Option<(Header, Vec<u8>, usize)> + Send + 'static,
) -> (Socket, JoinHandle<usize>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = thread::spawn(move || {
        let socket = Socket::from(OwnedFd::from(theirs));
        let file = tempfile::tempfile().unwrap();
        let mut answered = 0;
        while let Ok(message) = socket.receive(1 << 20, Deadline::after(LONG)) {
            let Some((header, payload, fds)) = answer(&message) else { break };
            let fds = vec![file.as_fd(); fds];
            let mut parts = [IoSlice::new(header.as_bytes()), IoSlice::new(&payload)];
            if socket.send(&mut parts, &fds, Deadline::after(LONG)).is_err() {
                break;
            }
            answered += 1;
        }
        answered
    });
    (Socket::from(OwnedFd::from(ours)), server)
}

fn reply(message: &Message, payload: Vec<u8>) -> (Header, Vec<u8>, usize) {
    let size_bytes = (Header::BYTES + payload.len()) as u32;
    (Header { size_bytes, flags: TYPE_REPLY, error: 0, ..message.header }, payload, 0)
}

fn version(major: u16, minor: u16, text: &[u8]) -> Vec<u8> {
    [Version { major, minor }.as_bytes(), text].concat()
}

/// A client behind a good handshake, and a server that answers everything afterwards as `answer` says.
fn connected(
    mut answer: impl FnMut(&Message) -> Option<(Header, Vec<u8>, usize)> + Send + 'static,
) -> Client {
    let (socket, _) = serve(move |message| match message.header.command() {
        Command::VERSION => Some(reply(message, version(0, 1, b""))),
        _ => answer(message),
    });
    Client::new(socket, LONG).unwrap()
}

#[test]
fn the_handshake_takes_what_fits_and_refuses_what_does_not() {
    let shake = |payload: Vec<u8>| {
        let (socket, _server) = serve(move |message| Some(reply(message, payload.clone())));
        Client::new(socket, LONG).map(|client| client.server())
    };
    let text = b"{\"capabilities\":{\"max_msg_fds\":3,\"migration\":{\"pgsize\":4096}}}\0";
    assert_eq!(shake(version(0, 1, text)).unwrap().max_msg_fds, 3);
    assert_eq!(shake(version(0, 0, b"")).unwrap(), Capabilities::default());
    for bad in [
        version(1, 0, b""),
        version(0, 2, b""),
        version(0, 1, b"{}"),
        version(0, 1, b"nonsense\0"),
        version(0, 1, b"{\"capabilities\":{\"max_msg_fds\":0}}\0"),
    ] {
        let refused = shake(bad.clone());
        assert!(matches!(refused, Err(CallError::Nonsense { .. })), "{bad:?}: {refused:?}");
    }
    assert!(matches!(shake(vec![0; 3]), Err(CallError::Lost { .. })));
    assert!(matches!(shake(vec![0; MOST_TEXT_BYTES + 5]), Err(CallError::Lost { .. })));
}

#[test]
fn a_refusal_carries_its_errno_and_the_connection_lives_on() {
    let client = connected(|message| {
        let header = Header {
            size_bytes: 16,
            flags: TYPE_REPLY | FLAG_ERROR,
            error: libc::EEXIST as u32,
            ..message.header
        };
        Some((header, Vec::new(), 0))
    });
    for _ in 0..2 {
        let error = client.reset().unwrap_err();
        assert!(matches!(error, CallError::Refused { errno: libc::EEXIST, command: Command::DEVICE_RESET }));
        assert_eq!(error.to_string(), "DEVICE_RESET: the server refused: File exists (os error 17)");
    }
}

#[test]
fn a_reply_that_does_not_belong_to_the_question_ends_the_connection() {
    type Spoil = fn(&mut (Header, Vec<u8>, usize));
    let spoils: [(Spoil, &str); 7] = [
        (|reply| reply.0.message_id ^= 1, "a reply to message"),
        (|reply| reply.0.command = 4, "a reply to message"),
        (|reply| reply.0.flags = 2, "flags 0x2"),
        (|reply| reply.0.flags |= 0x100, "flags 0x101"),
        (|reply| reply.0.size_bytes = 3, "a message of 3 bytes"),
        (|reply| reply.2 = 1, "1 descriptors nobody asked for"),
        (
            |reply| {
                reply.1 = vec![0; 5];
                reply.0.size_bytes = 21;
            },
            "a payload of 5 bytes",
        ),
    ];
    for (spoil, expected) in spoils {
        let client = connected(move |message| {
            let mut spoilt = reply(message, Vec::new());
            spoil(&mut spoilt);
            Some(spoilt)
        });
        let first = client.reset().unwrap_err();
        assert!(matches!(&first, CallError::Lost { reason, .. } if reason.contains(expected)), "{first}");
        let second = client.device_info().unwrap_err();
        assert!(matches!(&second, CallError::Lost { reason, .. } if reason.contains(expected)), "{second}");
    }
}

#[test]
fn a_reply_about_something_else_is_an_error_and_nothing_is_lost() {
    let client = connected(|message| {
        let payload = match message.header.command() {
            Command::REGION_READ => [&[1; 16][..], &[0; 4]].concat(),
            Command::REGION_WRITE => vec![0; 16],
            Command::DMA_UNMAP => vec![0; 24],
            Command::DEVICE_GET_IRQ_INFO => vec![9; 16],
            _ => Vec::new(),
        };
        Some(reply(message, payload))
    });
    let nonsense = |result: Result<(), CallError>| matches!(result, Err(CallError::Nonsense { .. }));
    assert!(nonsense(client.region_read(0, 0, &mut [0; 4])));
    assert!(nonsense(client.region_write(0, 4, &[0; 4])));
    assert!(nonsense(client.dma_unmap(4096, 4096)));
    assert!(nonsense(client.irq_info(2).map(drop)));
    client.reset().unwrap();
}

#[test]
fn a_server_that_is_silent_or_dies_does_not_hang_the_client() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let silent = Client::new(Socket::from(OwnedFd::from(ours)), SHORT).unwrap_err();
    assert_eq!(
        silent.to_string(),
        "VERSION: the connection to the server is lost: the server did not answer in 50 ms; it may be serving another \
         client"
    );
    drop(theirs);
    let client = connected(|_| None);
    let dead = client.reset().unwrap_err();
    assert!(matches!(&dead, CallError::Lost { reason, .. } if reason == "the server closed the connection"));
}

#[test]
fn commands_of_the_server_are_declined_and_a_flood_of_them_ends() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let server = thread::spawn(move || {
        let command = Header { message_id: 99, command: 11, size_bytes: 16, flags: TYPE_COMMAND, error: 0 };
        theirs.write_all(command.as_bytes()).unwrap();
        theirs.write_all(Header { flags: FLAG_NO_REPLY, ..command }.as_bytes()).unwrap();
        let mut asked = [0; 16];
        theirs.read_exact(&mut asked).unwrap();
        let asked = Header::read_from_bytes(&asked).unwrap();
        let mut payload = vec![0; asked.size_bytes as usize - 16];
        theirs.read_exact(&mut payload).unwrap();
        let mut declined = [0; 16];
        theirs.read_exact(&mut declined).unwrap();
        let declined = Header::read_from_bytes(&declined).unwrap();
        assert_eq!((declined.message_id, declined.flags), (99, TYPE_REPLY | FLAG_ERROR));
        // From here on commands without end.
        let many = [Header { flags: FLAG_NO_REPLY, ..command }; 100];
        while theirs.write_all(many.as_bytes()).is_ok() {}
    });
    let flooded = Client::new(Socket::from(OwnedFd::from(ours)), Duration::from_millis(300)).unwrap_err();
    assert!(flooded.to_string().contains("did not answer in 300 ms"), "{flooded}");
    server.join().unwrap();
}

#[test]
fn interrupts_are_set_in_messages_that_the_server_can_take() {
    let (told, heard) = std::sync::mpsc::channel();
    let (socket, _server) = serve(move |message| match message.header.command() {
        Command::VERSION => Some(reply(message, version(0, 1, b"{\"capabilities\":{\"max_msg_fds\":3}}\0"))),
        _ => {
            let set = IrqSet::read_from_bytes(&message.payload).unwrap();
            told.send((set, message.fds.len())).unwrap();
            Some(reply(message, Vec::new()))
        }
    });
    let client = Client::new(socket, LONG).unwrap();
    let file = tempfile::tempfile().unwrap();
    client.set_irqs(2, &[file.as_fd(); 7]).unwrap();
    client.set_irqs(2, &[]).unwrap();
    let flags = IRQ_DATA_EVENTFD | IRQ_ACTION_TRIGGER;
    for (start, count) in [(0, 3), (3, 3), (6, 1)] {
        let expected = IrqSet { argsz: 20, flags, index: 2, start, count };
        assert_eq!(heard.recv().unwrap(), (expected, count as usize));
    }
    let off = IrqSet { argsz: 20, flags: IRQ_DATA_NONE | IRQ_ACTION_TRIGGER, index: 2, start: 0, count: 0 };
    assert_eq!(heard.recv().unwrap(), (off, 0));
}

#[test]
fn a_region_with_many_areas_is_asked_for_again() {
    let areas = 40usize;
    let full = 32 + 16 + areas * 16;
    let client = connected(move |message| {
        let asked = RegionInfo::read_from_bytes(&message.payload).unwrap();
        let info = RegionInfo {
            argsz: full as u32,
            flags: wire::REGION_MMAP | wire::REGION_CAPS,
            cap_offset: 32,
            size: 1 << 20,
            ..asked
        };
        let mut payload = info.as_bytes().to_vec();
        let mut fds = 0;
        if asked.argsz as usize >= full {
            let cap = wire::CapHeader { id: wire::CAP_SPARSE_MMAP, version: 1, next: 0 };
            payload.extend_from_slice(cap.as_bytes());
            payload.extend_from_slice(wire::SparseHeader { nr_areas: areas as u32, reserved: 0 }.as_bytes());
            for area in 0..areas as u64 {
                payload
                    .extend_from_slice(wire::SparseArea { offset: area * 0x2000, size: 0x1000 }.as_bytes());
            }
            fds = 1;
        }
        let (header, payload, _) = reply(message, payload);
        Some((header, payload, fds))
    });
    let (layout, fds) = client.region_info(0).unwrap();
    assert_eq!((layout.areas.len(), fds.len()), (areas, 1));
    assert_eq!(layout.areas[39], 39 * 0x2000..39 * 0x2000 + 0x1000);
}

#[test]
fn a_posted_write_is_not_answered() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = thread::spawn(move || {
        let socket = Socket::from(OwnedFd::from(theirs));
        let deadline = Deadline::after(LONG);
        let hello = socket.receive(1000, deadline).unwrap();
        let (header, payload, _) = reply(&hello, version(0, 1, b""));
        let mut parts = [IoSlice::new(header.as_bytes()), IoSlice::new(&payload)];
        socket.send(&mut parts, &[], deadline).unwrap();
        let posted = socket.receive(1000, deadline).unwrap();
        (posted.header.flags, posted.payload)
    });
    let client = Client::new(Socket::from(OwnedFd::from(ours)), LONG).unwrap();
    client.region_post(0, 0x1000, &7u32.to_ne_bytes()).unwrap();
    let (flags, payload) = server.join().unwrap();
    assert_eq!(flags, TYPE_COMMAND | FLAG_NO_REPLY);
    let access = RegionAccess { offset: 0x1000, region: 0, count: 4 };
    assert_eq!(payload, [access.as_bytes(), &7u32.to_ne_bytes()].concat());
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn descriptors_that_come_unasked_are_closed() {
    let before = open_files();
    for _ in 0..20 {
        let client = connected(|message| {
            let (header, payload, _) = reply(message, Vec::new());
            Some((header, payload, 3))
        });
        assert!(client.reset().is_err());
    }
    // The servers' threads may still be ending.
    for _ in 0..200 {
        if open_files() <= before {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("{} descriptors are open, {before} were", open_files());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn a_server_that_says_anything_gets_an_error_in_time(
        first in proptest::collection::vec(any::<u8>(), 0..64),
        second in proptest::collection::vec(any::<u8>(), 0..64),
        shake in any::<bool>(),
    ) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        if shake {
            let header =
                Header { message_id: 1, command: 1, size_bytes: 20, flags: TYPE_REPLY, error: 0 };
            theirs.write_all(header.as_bytes()).unwrap();
            theirs.write_all(&version(0, 1, b"")).unwrap();
            // A header that belongs to the next question, with random bytes behind it.
            let next = Header { message_id: 2, command: 4, size_bytes: 32, ..header };
            theirs.write_all(next.as_bytes()).unwrap();
        }
        theirs.write_all(&first).unwrap();
        theirs.write_all(&second).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        if let Ok(client) = Client::new(Socket::from(OwnedFd::from(ours)), LONG) {
            let _ = client.device_info();
            let _ = client.region_info(0);
            let _ = client.irq_info(2);
            let after = client.reset();
            prop_assert!(after.is_err());
        }
        drop(File::from(OwnedFd::from(theirs)));
    }
}
