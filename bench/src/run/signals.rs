//! Signals that end a run early: the first SIGINT or SIGTERM lets it end with its report, the second kills.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level::emulate_default_handler;

use super::error::RunError;
use super::lane::Event;

/// Stack of the thread that waits for signals; it does next to nothing.
const STACK_BYTES: usize = 64 << 10;

/// Catches signals as long as it lives.
pub struct Catcher {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Catcher {
    /// From now on the first signal sets `stop` and sends an event.
    ///
    /// # Errors
    /// [`RunError::Thread`] when the system gives no thread or no handler.
    pub fn new(stop: Arc<AtomicBool>, events: Sender<Event>) -> Result<Catcher, RunError> {
        let failed = |source| RunError::Thread { what: "wait for signals".to_owned(), source };
        let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
        let handle = signals.handle();
        let wait = move || {
            for signal in signals.forever() {
                if stop.swap(true, Relaxed) {
                    // The run is ending already, and the user does not want to wait for that.
                    let _ = emulate_default_handler(signal);
                }
                let _ = events.send(Event::Signal(signal));
            }
        };
        let builder = std::thread::Builder::new().name("signals".to_owned()).stack_size(STACK_BYTES);
        Ok(Catcher { handle, thread: Some(builder.spawn(wait).map_err(failed)?) })
    }
}

impl Drop for Catcher {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
