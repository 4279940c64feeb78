//! [`IoThread`]: a thread that runs one [`AioContext`].

use std::thread::JoinHandle;

use super::{AioConfig, AioContext, AioError, AioHandle};

/// A thread that runs one [`AioContext`] until it is stopped.
pub struct IoThread {
    handle: AioHandle,
    thread: Option<JoinHandle<()>>,
}

impl IoThread {
    /// Starts the thread and its event loop.
    ///
    /// # Errors
    /// Those of [`AioContext::new`].
    pub fn spawn(config: &AioConfig) -> Result<IoThread, AioError> {
        let config = config.clone();
        let (sender, receiver) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || match AioContext::new(&config) {
            Ok(context) => {
                let _ = sender.send(Ok(context.handle()));
                context.run();
                context.shutdown();
            }
            Err(error) => drop(sender.send(Err(error))),
        });
        let handle = receiver.recv().map_err(|_| AioError::LaneGone)??;
        Ok(IoThread { handle, thread: Some(thread) })
    }

    /// For other threads.
    pub fn handle(&self) -> &AioHandle {
        &self.handle
    }

    /// Stops the thread and waits for its end.
    ///
    /// # Errors
    /// When it panicked.
    pub fn join(mut self) -> Result<(), AioError> {
        self.handle.stop();
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(_)) => Err(AioError::LaneGone),
            _ => Ok(()),
        }
    }
}

/// Runs an operation that may block.
pub async fn offload<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    f()
}
