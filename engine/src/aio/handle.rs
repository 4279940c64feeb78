//! How other threads reach a lane: [`AioHandle`].

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::oneshot::{self, Receiver};
use super::shared::{LaneId, Shared};
use super::{AioContext, AioError, current};

/// A closure for a lane to run.
pub type Mail = Box<dyn FnOnce(&AioContext) + Send>;

/// Why a lane did not take a closure; the closure comes back.
#[non_exhaustive]
pub enum PostError {
    /// The mailbox is full. Try later, or use [`AioHandle::post`].
    Full(Mail),
    /// The lane has ended, or is ending.
    Closed(Mail),
}

impl PostError {
    /// The closure.
    #[must_use]
    pub fn into_mail(self) -> Mail {
        match self {
            Self::Full(mail) | Self::Closed(mail) => mail,
        }
    }
}

impl fmt::Debug for PostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full",
            Self::Closed(_) => "Closed",
        })
    }
}

impl fmt::Display for PostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "the lane's mailbox is full",
            Self::Closed(_) => "the lane has ended",
        })
    }
}

impl std::error::Error for PostError {}

/// A handle on a context, for any thread.
#[derive(Clone)]
pub struct AioHandle {
    shared: Arc<Shared>,
}

impl AioHandle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The context's identity.
    #[must_use]
    pub fn id(&self) -> LaneId {
        self.shared.id
    }

    /// The context's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Whether the calling thread runs this context now.
    #[must_use]
    pub fn is_current(&self) -> bool {
        current::with(|context| Arc::ptr_eq(context.shared(), &self.shared)).unwrap_or(false)
    }

    /// Gives the lane a closure to run in its next turn. Closures run in the order in which they were taken. One that
    /// was taken is run even if the lane is told to stop, unless the lane panics.
    ///
    /// # Errors
    /// The closure comes back if the mailbox is full or the lane has ended.
    pub fn try_post(&self, mail: Mail) -> Result<(), PostError> {
        self.shared.try_post(mail)
    }

    /// Like [`try_post`](Self::try_post), but waits, without spinning, while the mailbox is full.
    pub fn post(&self, mail: Mail) -> Post {
        Post { shared: Arc::clone(&self.shared), mail: Some(mail) }
    }

    /// Runs `f` in the lane and gives its result.
    ///
    /// # Errors
    /// [`AioError::LaneGone`] if the lane ended before `f` ran.
    pub fn call<T, F>(&self, f: F) -> Call<T>
    where
        T: Send + 'static,
        F: FnOnce(&AioContext) -> T + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let post = self.post(Box::new(move |context| sender.send(f(context))));
        Call { post: Some(post), receiver }
    }

    /// Makes a future in the lane, runs it there, and gives its result. A lane that is told to stop ends only when it is
    /// done.
    ///
    /// # Errors
    /// [`AioError::LaneGone`] if the lane ended before it was begun, or panicked.
    pub fn run_on<F, Fut>(&self, f: F) -> Call<Fut::Output>
    where
        F: FnOnce(&AioContext) -> Fut + Send + 'static,
        Fut: Future + 'static,
        Fut::Output: Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let post = self.post(Box::new(move |context| {
            let future = f(context);
            context.spawn_awaited(async move { sender.send(future.await) });
        }));
        Call { post: Some(post), receiver }
    }

    /// Tells the lane's [`run`](AioContext::run) to return once what it accepted is done.
    pub fn stop(&self) {
        self.shared.stop();
    }
}

impl fmt::Debug for AioHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AioHandle").field("id", &self.shared.id).field("name", &self.shared.name).finish()
    }
}

/// Made by [`AioHandle::post`]; done when the lane has taken the closure. Fails only with [`PostError::Closed`].
#[must_use = "a future does nothing unless it is awaited"]
pub struct Post {
    shared: Arc<Shared>,
    mail: Option<Mail>,
}

impl Post {
    /// One attempt. `None` if the mailbox is full.
    fn attempt(&mut self) -> Option<Result<(), PostError>> {
        let Some(mail) = self.mail.take() else { return Some(Ok(())) };
        match self.shared.try_post(mail) {
            Err(PostError::Full(mail)) => {
                self.mail = Some(mail);
                None
            }
            done => Some(done),
        }
    }
}

impl Future for Post {
    type Output = Result<(), PostError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(done) = self.attempt() {
            return Poll::Ready(done);
        }
        self.shared.wait_for_space(cx.waker());
        self.attempt().map_or(Poll::Pending, Poll::Ready)
    }
}

/// Made by [`AioHandle::call`] and [`AioHandle::run_on`]. Await it, or [`wait`](Self::wait) for it in a thread that is
/// no lane. Nothing is sent before one of both. A drop after that does not stop the work, only its result is lost.
#[must_use = "nothing is sent to the lane unless this is awaited or waited for"]
pub struct Call<T> {
    post: Option<Post>,
    receiver: Receiver<T>,
}

impl<T> Call<T> {
    /// Blocks this thread until the result is there. Never call it in a lane: it would stop everything there, and
    /// waiting for the own lane never ends.
    ///
    /// # Errors
    /// [`AioError::LaneGone`].
    pub fn wait(self) -> Result<T, AioError> {
        oneshot::block_thread_on(self)
    }
}

impl<T> Future for Call<T> {
    type Output = Result<T, AioError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(post) = &mut self.post {
            match Pin::new(post).poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(AioError::LaneGone)),
                Poll::Ready(Ok(())) => self.post = None,
            }
        }
        Pin::new(&mut self.receiver).poll(cx).map(|value| value.ok_or(AioError::LaneGone))
    }
}
