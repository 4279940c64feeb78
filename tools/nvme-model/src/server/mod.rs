//! A vfio-user server: it offers a [`Device`] on a Unix socket, to one client at a time.
//!
//! The `vfio_user` crate (0.1.7) has a server too, but a client can end it (text without a NUL panics, a read allocates
//! whatever length it names) or hold it up (it waits forever for the rest of a message), what a refused command carried is
//! taken for the next one, and nothing can stop it. So this one is ours; it shares wire format and socket with the client in
//! `corelane-drivers`. The two crates' ends are tried against each other in `tests/`.
//!
//! Invariants:
//! - The server is control plane: the device runs in threads of its own, and doorbells go past the server where the client
//!   maps them.
//! - When a client is gone, however it went, the device was reset, and memory and eventfds of the client are not held any
//!   more, before the next one is served. What the namespaces hold stays.
//! - A second client is turned away at once, so that it need not wait for an answer that never comes.
//! - Nothing that a client sends ends the server.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use corelane_drivers::nvme::bus::vfio_user::socket::Socket;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use crate::device::Device;

mod commands;
mod dma;
mod interrupts;
mod session;

use session::{End, Session};

/// How long nothing is accepted after it failed, so that a lack of descriptors does not keep a core busy.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How a device is offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServerOptions {
    /// Whether clients may map the doorbells; otherwise they send each as a message.
    pub map_doorbells: bool,
}

impl Default for ServerOptions {
    /// Doorbells can be mapped.
    fn default() -> ServerOptions {
        ServerOptions { map_doorbells: true }
    }
}

/// Why a server cannot be had or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// There is another server behind this path.
    #[error("another server listens on {}; stop it, or take another path", .path.display())]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// There is something at this path that no server left.
    #[error("{} exists and is no socket; take another path", .path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        /// What was tried: "listen on", "wait for clients of", ...
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A listening server. Its socket is removed from the file system when it is dropped.
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    /// Of the socket in the file system, so that another one is not removed.
    inode: Option<(u64, u64)>,
    device: Arc<dyn Device>,
    options: ServerOptions,
    stop: UnixStream,
    stopper: Arc<UnixStream>,
}

/// Stops a [`Server`] from another thread or a signal handler.
#[derive(Clone, Debug)]
pub struct Stopper {
    stream: Arc<UnixStream>,
}

impl Stopper {
    /// Lets [`Server::run`] return soon.
    pub fn stop(&self) {
        use std::io::Write;
        // A full pipe says it already.
        let _ = (&*self.stream).write(&[0]);
    }

    /// The descriptor to which a byte is written to stop the server, for a signal handler.
    ///
    /// # Errors
    /// What dup(2) says.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.stream.as_fd().try_clone_to_owned()
    }
}

impl Server {
    /// Listens on `path`. A socket that a dead server left there is replaced.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn bind(path: &Path, device: Arc<dyn Device>, options: ServerOptions) -> Result<Server, ServerError> {
        let failed = |what| move |source: io::Error| ServerError::Io { what, path: path.to_owned(), source };
        clear(path)?;
        let listener = UnixListener::bind(path).map_err(failed("listen on"))?;
        let (stop, stopper) = UnixStream::pair().map_err(failed("make a way to stop the server of"))?;
        for end in [&stop, &stopper] {
            end.set_nonblocking(true).map_err(failed("make a way to stop the server of"))?;
        }
        let inode = inode(path);
        Ok(Server {
            listener,
            path: path.to_owned(),
            inode,
            device,
            options,
            stop,
            stopper: Arc::new(stopper),
        })
    }

    /// What stops this server.
    pub fn stopper(&self) -> Stopper {
        Stopper { stream: Arc::clone(&self.stopper) }
    }

    /// Serves clients, one after the other, until it is stopped.
    ///
    /// # Errors
    /// [`ServerError::Io`] where the kernel refuses to wait or to accept.
    pub fn run(&mut self) -> Result<(), ServerError> {
        self.serve().map_err(|source| ServerError::Io {
            what: "wait for clients of",
            path: self.path.clone(),
            source,
        })
    }

    fn serve(&mut self) -> io::Result<()> {
        loop {
            let client = match self.wait(None)? {
                Event::Stop => return Ok(()),
                Event::Client(client) => client,
                Event::Message => continue,
            };
            tracing::info!("a client attached");
            let mut session = Session::new(Socket::from(client), Arc::clone(&self.device), self.options);
            let end = self.attend(&mut session)?;
            // Before the next one is served: see the module's invariants.
            session.end(&end);
            match end {
                End::Stopped => return Ok(()),
                End::Closed => tracing::info!("the client left"),
                End::Misbehaved(reason) => tracing::warn!("the client was disconnected: {reason}"),
            }
        }
    }

    /// Serves one client to its end.
    fn attend(&mut self, session: &mut Session) -> io::Result<End> {
        loop {
            match self.wait(Some(session.fd()))? {
                Event::Stop => return Ok(End::Stopped),
                Event::Message => {
                    if let Err(end) = session.step() {
                        return Ok(end);
                    }
                }
                Event::Client(second) => {
                    tracing::warn!("a second client was turned away: one is attached");
                    drop(second);
                }
            }
        }
    }

    /// Waits for something to do. A message comes before a new client, so that who left is seen before who comes next.
    fn wait(&mut self, client: Option<BorrowedFd<'_>>) -> io::Result<Event> {
        loop {
            let (mut polled, attached) = {
                let own = [self.stop.as_fd(), self.listener.as_fd()];
                let mut fds: Vec<PollFd<'_>> = own
                    .iter()
                    .chain(&client)
                    .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
                    .collect();
                match rustix::event::poll(&mut fds, None) {
                    Ok(_) => {}
                    Err(Errno::INTR) => continue,
                    Err(errno) => return Err(errno.into()),
                }
                (fds.iter().map(|fd| !fd.revents().is_empty()).collect::<Vec<_>>(), client.is_some())
            };
            polled.resize(3, false);
            if polled[0] && self.stop.read(&mut [0; 16]).is_ok() {
                return Ok(Event::Stop);
            }
            if attached && polled[2] {
                return Ok(Event::Message);
            }
            if polled[1] {
                match self.listener.accept() {
                    Ok((stream, _)) => return Ok(Event::Client(OwnedFd::from(stream))),
                    // The client gave up, or this process has no descriptor left for it now.
                    Err(error) => {
                        tracing::warn!("a client could not be accepted: {error}");
                        std::thread::sleep(ACCEPT_PAUSE);
                    }
                }
            }
        }
    }
}

/// What a server wakes up for.
enum Event {
    Stop,
    Client(OwnedFd),
    Message,
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.inode.is_some() && inode(&self.path) == self.inode {
            // It may have gone meanwhile; that is what is wanted.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Removes a socket on which nobody listens.
fn clear(path: &Path) -> Result<(), ServerError> {
    let Ok(file) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !file.file_type().is_socket() {
        return Err(ServerError::NotASocket { path: path.to_owned() });
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)
            .map_err(|source| ServerError::Io { what: "remove", path: path.to_owned(), source }),
        _ => Err(ServerError::InUse { path: path.to_owned() }),
    }
}

/// Serves one client on a connection that exists already, until it leaves. For tests and for embedding.
pub fn serve_connection(connection: OwnedFd, device: Arc<dyn Device>, options: ServerOptions) {
    let mut session = Session::new(Socket::from(connection), device, options);
    let end = loop {
        if let Err(end) = session.wait_and_step() {
            break end;
        }
    };
    session.end(&end);
}

#[cfg(test)]
mod tests;
