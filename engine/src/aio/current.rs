//! Which context runs on this thread, so that a wake-up there needs no atomic queue.

use std::cell::{Cell, RefCell};

use super::AioContext;

thread_local! {
    static CURRENT: RefCell<Option<AioContext>> = const { RefCell::new(None) };
    /// The [address](AioContext::address) of the current context, 0 for none. It is unique, as the context is kept here.
    static ADDRESS: Cell<usize> = const { Cell::new(0) };
}

/// Makes `context` the current one. Gives the one before.
fn replace(context: Option<AioContext>) -> Option<AioContext> {
    ADDRESS.set(context.as_ref().map_or(0, AioContext::address));
    CURRENT.with(|current| current.replace(context))
}

/// Makes a context the current one until it is dropped; then the one before is again.
pub struct Entered {
    /// What to put back; `None` if the context was the current one already.
    before: Option<Option<AioContext>>,
}

impl Entered {
    #[inline]
    pub(super) fn new(context: &AioContext) -> Self {
        let before = (!is(context)).then(|| replace(Some(context.clone())));
        Self { before }
    }
}

impl Drop for Entered {
    #[inline]
    fn drop(&mut self) {
        if let Some(before) = self.before.take() {
            // The old value goes only after the borrow has ended: it may be the last handle on its context.
            drop(replace(before));
        }
    }
}

/// Whether `context` is the current one.
#[inline]
pub(super) fn is(context: &AioContext) -> bool {
    ADDRESS.get() == context.address()
}

/// Calls `f` with the current context, if there is one.
#[inline]
pub(super) fn with<R>(f: impl FnOnce(&AioContext) -> R) -> Option<R> {
    CURRENT.try_with(|current| current.borrow().as_ref().map(f)).ok().flatten()
}
