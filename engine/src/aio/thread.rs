//! [`IoThread`]: a thread of its own for one [`AioContext`].

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle, current};

use super::affinity::{allowed_cores, pin_current_thread};
use super::{AioConfig, AioContext, AioError, AioHandle};

/// A thread that runs one [`AioContext`] until it is stopped, pinned where [`AioConfig::core`] says so; otherwise it
/// may use the cores that the thread which made it may use. Dropping it stops it and waits for its end.
#[derive(Debug)]
pub struct IoThread {
    handle: AioHandle,
    thread: Option<JoinHandle<()>>,
}

impl IoThread {
    /// Starts the thread, pins it, and makes its context there, so that its memory is near its core.
    ///
    /// # Errors
    /// [`AioError::Thread`], [`AioError::Core`], and those of [`AioContext::new`].
    pub fn spawn(config: &AioConfig) -> Result<Self, AioError> {
        // Known before the first lane is pinned: this may be the thread that is asked.
        let _ = allowed_cores();
        let core = config.core.and_then(super::CoreChoice::pick);
        let config = config.clone();
        let name = config.name.replace('\0', "?");
        let (sender, receiver) = mpsc::channel();
        let lane = move || {
            let context = core.map_or(Ok(()), pin_current_thread).and_then(|()| AioContext::new(&config));
            match context {
                Ok(context) => {
                    // The receiver waits for this.
                    let _ = sender.send(Ok(context.handle()));
                    live(&context);
                }
                Err(error) => drop(sender.send(Err(error))),
            }
        };
        let thread = Builder::new()
            .name(name.clone())
            .spawn(lane)
            .map_err(|source| AioError::Thread { name, source })?;
        let handle = receiver.recv().map_err(|_| AioError::LaneGone)??;
        Ok(Self { handle, thread: Some(thread) })
    }

    /// A handle on the context, for any thread.
    #[must_use]
    pub fn handle(&self) -> &AioHandle {
        &self.handle
    }

    /// Makes a future in the lane, runs it there, and waits here for its result. In a lane, use
    /// [`AioHandle::run_on`] and await it.
    ///
    /// # Errors
    /// [`AioError::LaneGone`] if the lane has ended or panicked.
    pub fn run_on<F, Fut>(&self, f: F) -> Result<Fut::Output, AioError>
    where
        F: FnOnce(&AioContext) -> Fut + Send + 'static,
        Fut: Future + 'static,
        Fut::Output: Send + 'static,
    {
        self.handle.run_on(f).wait()
    }

    /// Tells the lane to end, in order, once what it accepted is done. Does not wait.
    pub fn stop(&self) {
        self.handle.stop();
    }

    /// Stops the lane and waits for its end.
    ///
    /// # Errors
    /// [`AioError::Panicked`] with the message, if it panicked at any time.
    pub fn join(mut self) -> Result<(), AioError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), AioError> {
        self.handle.stop();
        let Some(thread) = self.thread.take() else { return Ok(()) };
        if thread.thread().id() == current().id() {
            // Dropped in the lane itself, which ends when its loop looks next.
            return Ok(());
        }
        thread.join().map_err(|panic| AioError::Panicked {
            name: self.handle.name().to_owned(),
            message: message_of(&*panic),
        })
    }
}

impl Drop for IoThread {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(%error, "a lane that nobody joined");
        }
    }
}

/// Runs the context. After a panic what it holds is dropped still, so that nobody waits for it in vain.
fn live(context: &AioContext) {
    let ended = catch_unwind(AssertUnwindSafe(|| {
        context.run();
        context.shutdown();
    }));
    if let Err(panic) = ended {
        let _ = catch_unwind(AssertUnwindSafe(|| context.abandon()));
        resume_unwind(panic);
    }
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}
