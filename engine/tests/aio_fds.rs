//! Readiness of descriptors through the ring.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use corelane_engine::aio::{AioConfig, AioContext, Interest, IoThread, Wait};
use rustix::event::{EventfdFlags, eventfd};

fn context() -> AioContext {
    AioContext::new(&AioConfig::named("fds")).unwrap()
}

fn counter() -> OwnedFd {
    eventfd(0, EventfdFlags::NONBLOCK).unwrap()
}

#[test]
fn an_eventfd_is_ready_once_written() {
    let context = context();
    let fd = counter();
    let writer = fd.try_clone().unwrap();
    let writing = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        rustix::io::write(&writer, &1u64.to_ne_bytes()).unwrap();
    });
    let events = context.block_on(context.readiness(fd.as_fd(), Interest::READ)).unwrap();
    assert_eq!(events, Interest::READ);
    writing.join().unwrap();
    let at_once = context.block_on(context.readiness(fd.as_fd(), Interest::READ | Interest::WRITE)).unwrap();
    assert_eq!(at_once, Interest::READ | Interest::WRITE);
}

#[test]
fn a_socket_tells_data_and_the_end() {
    let context = context();
    let (mut near, mut far) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    let talking = thread::spawn(move || {
        thread::sleep(Duration::from_millis(10));
        far.write_all(b"hello").unwrap();
        thread::sleep(Duration::from_millis(10));
    });
    let text = context.block_on(async {
        assert_eq!(context.readiness(near.as_fd(), Interest::WRITE).await.unwrap(), Interest::WRITE);
        let mut text = Vec::new();
        loop {
            let events = context.readiness(near.as_fd(), Interest::READ).await.unwrap();
            assert!(events.contains(Interest::READ));
            let mut piece = [0; 16];
            match near.read(&mut piece).unwrap() {
                0 => break text,
                len => text.extend_from_slice(&piece[..len]),
            }
        }
    });
    assert_eq!(text, b"hello");
    talking.join().unwrap();
}

#[test]
fn a_pipe_without_readers_is_an_error_without_being_asked_for() {
    let context = context();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let events = context.block_on(context.readiness(writer.as_fd(), Interest::empty())).unwrap();
    assert!(events.contains(Interest::ERROR), "{events:?}");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(writer);
    let events = context.block_on(context.readiness(reader.as_fd(), Interest::READ)).unwrap();
    assert!(events.contains(Interest::HANGUP), "{events:?}");
}

#[test]
fn a_file_that_cannot_be_polled_is_ready() {
    let context = context();
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    let events = context.block_on(context.readiness(file.as_fd(), Interest::READ)).unwrap();
    assert!(events.contains(Interest::READ), "{events:?}");
}

#[test]
fn a_dropped_wait_is_cancelled_and_its_place_used_again() {
    let context = context();
    let fd = counter();
    for _ in 0..100 {
        context.block_on(async {
            let mut wait = Box::pin(context.readiness(fd.as_fd(), Interest::READ));
            let first = std::future::poll_fn(|cx| std::task::Poll::Ready(wait.as_mut().poll(cx))).await;
            assert!(first.is_pending());
        });
        while context.turn(Wait::No) {}
    }
    assert_eq!(context.ring().in_flight(), 0, "every wait was taken back");
    rustix::io::write(&fd, &1u64.to_ne_bytes()).unwrap();
    assert_eq!(context.block_on(context.readiness(fd.as_fd(), Interest::READ)).unwrap(), Interest::READ);
}

#[test]
fn the_end_of_a_lane_ends_its_waits() {
    let lane = IoThread::spawn(&AioConfig::named("waiting")).unwrap();
    lane.run_on(|context| {
        let inner = context.clone();
        let fd = counter();
        drop(context.spawn(async move { inner.readiness(fd.as_fd(), Interest::READ).await }));
        async {}
    })
    .unwrap();
    lane.join().unwrap();

    let context = context();
    let fd = Rc::new(counter());
    let mut wait = Box::pin(context.readiness(fd.as_fd(), Interest::READ));
    let waker = std::task::Waker::noop();
    assert!(wait.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending());
    context.shutdown();
    assert_eq!(context.ring().in_flight(), 0);
    let std::task::Poll::Ready(result) = wait.as_mut().poll(&mut std::task::Context::from_waker(waker))
    else {
        panic!("a wait that outlives its lane is over")
    };
    assert_eq!(result.unwrap_err().raw_os_error(), Some(rustix::io::Errno::CANCELED.raw_os_error()));
}
