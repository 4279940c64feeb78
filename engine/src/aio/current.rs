//! Which context runs on this thread, so that a wake-up there needs no atomic queue.

use std::cell::RefCell;

use super::AioContext;

thread_local! {
    static CURRENT: RefCell<Option<AioContext>> = const { RefCell::new(None) };
}

/// Makes a context the current one until it is dropped; then the one before is again.
pub struct Entered {
    /// What to put back; `None` if the context was the current one already.
    before: Option<Option<AioContext>>,
}

impl Entered {
    #[inline]
    pub(super) fn new(context: &AioContext) -> Self {
        let before = CURRENT.with(|current| {
            let mut current = current.borrow_mut();
            if current.as_ref().is_some_and(|now| now.is(context)) {
                None
            } else {
                Some(current.replace(context.clone()))
            }
        });
        Self { before }
    }
}

impl Drop for Entered {
    #[inline]
    fn drop(&mut self) {
        if let Some(before) = self.before.take() {
            // The old value goes only after the borrow has ended: it may be the last handle on its context.
            let ended = CURRENT.with(|current| current.replace(before));
            drop(ended);
        }
    }
}

/// Whether `context` is the current one.
#[inline]
pub(super) fn is(context: &AioContext) -> bool {
    CURRENT.with(|current| current.borrow().as_ref().is_some_and(|now| now.is(context)))
}

/// Calls `f` with the current context, if there is one.
#[inline]
pub(super) fn with<R>(f: impl FnOnce(&AioContext) -> R) -> Option<R> {
    CURRENT.try_with(|current| current.borrow().as_ref().map(f)).ok().flatten()
}
