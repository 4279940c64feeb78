//! [`BlockBackend`]: a user's handle on an opened device, from which each lane opens its [`Channel`].
//!
//! The methods that wait are futures: they need the device's lanes to keep turning, so a lane awaits them in a task, and
//! a thread without a lane uses [`IoThread::run_on`](crate::aio::IoThread::run_on).

use std::sync::Arc;

use corelane_dma::{MemRegion, Registered};

use super::channel::{Channel, ChannelInner};
use super::drained::DrainedSection;
use super::driver::{BlockDriver, BlockStatus, DeviceChange};
use super::errno::BlockError;
use super::limits::{BlockLimits, MAX_LENGTH_BYTES};
use super::node::{Answers, LaneEntry, Node};
use super::slow;
use crate::aio::AioContext;

/// How a backend uses its device.
#[derive(Clone, Debug)]
pub struct BackendOptions {
    /// The node's name, for messages.
    pub name: String,
    /// Refuse writes, even if the device takes them.
    pub read_only: bool,
    /// Off: each write completes only when it is on stable storage (QEMU's `write-cache=off`).
    pub write_cache: bool,
}

impl Default for BackendOptions {
    fn default() -> BackendOptions {
        BackendOptions { name: "disk".into(), read_only: false, write_cache: true }
    }
}

/// An opened device. Clones are handles on the same one; it may be used from any thread, each lane through a
/// [`Channel`] of its own.
#[derive(Clone)]
pub struct BlockBackend {
    node: Arc<Node>,
}

impl BlockBackend {
    /// A backend on an opened driver.
    ///
    /// # Errors
    /// When the driver's limits contradict one another, or its length is unknown or too large.
    pub fn new(driver: Arc<dyn BlockDriver>, options: BackendOptions) -> Result<BlockBackend, BlockError> {
        let BackendOptions { name, read_only, write_cache } = options;
        Ok(BlockBackend { node: Node::new(name, driver, read_only, !write_cache)? })
    }

    /// Opens the backend in the lane of `ctx`, for at most `depth` requests at once (1 to
    /// [`MAX_DEPTH`](super::MAX_DEPTH) less some that the slow path uses itself).
    ///
    /// # Errors
    /// When the backend is closed, the depth is out of range, or the lane's resources do not suffice.
    pub fn channel(&self, ctx: &AioContext, depth: u32) -> Result<Channel, BlockError> {
        Channel::open(ctx, &self.node, depth)
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.node.name
    }

    /// The driver's name.
    pub fn format_name(&self) -> &'static str {
        self.node.driver.format_name()
    }

    /// What the device demands. Callers need not obey it: the block layer does.
    pub fn limits(&self) -> &BlockLimits {
        &self.node.limits
    }

    /// The length in bytes.
    pub fn length(&self) -> u64 {
        self.node.length()
    }

    /// Has `hook` called whenever the device has changed by itself (not by [`truncate`](Self::truncate)), after the backend has
    /// taken the change over; on a thread of the driver's, which it must not keep for long.
    pub fn on_change(&self, hook: impl Fn(DeviceChange) + Send + Sync + 'static) {
        self.node.add_hook(Box::new(hook));
    }

    /// Whether writes are refused.
    pub fn read_only(&self) -> bool {
        self.node.read_only
    }

    /// Waits until what is in flight now, in every lane, has ended. Requests submitted meanwhile are not waited for.
    pub async fn drain(&self) {
        slow::ask_lanes(&self.node, None).await;
    }

    /// Drains the device and keeps it so until what this gives is dropped: requests that are submitted meanwhile, in any lane
    /// and by anybody, the caller included, are held back in their lane, and start in order afterwards. Sections nest.
    pub async fn drained_begin(&self) -> DrainedSection {
        let section = DrainedSection::begin(&self.node);
        section.settle().await;
        section
    }

    /// Refuses requests from now on (`ENOMEDIUM`) and waits for those in flight.
    pub async fn close(&self) {
        self.node.mark_closed();
        self.drain().await;
    }

    /// Changes the length to `length_bytes`. Requests on what is cut off are held back
    /// meanwhile, and those that then lie outside end with `EIO`.
    ///
    /// # Errors
    /// When the backend is closed or read-only, the length is too large, or the driver refuses.
    pub async fn truncate(&self, length_bytes: u64) -> Result<(), BlockError> {
        self.check_open()?;
        if self.node.read_only {
            return Err(BlockError::ReadOnly { node: self.node.name.clone() });
        }
        if length_bytes > MAX_LENGTH_BYTES {
            let expected = format!("at most {MAX_LENGTH_BYTES}");
            return Err(BlockError::Range { what: "the new length in bytes", value: length_bytes, expected });
        }
        let start = length_bytes.min(self.length());
        let (exclusive, earlier) = self.node.enter_serial(start, u64::MAX);
        for gone in earlier {
            gone.await;
        }
        slow::ask_lanes(&self.node, Some((start, u64::MAX))).await;
        let node = Arc::clone(&self.node);
        // The operation owns what goes with it, so that it ends whole even if this future is dropped.
        crate::aio::offload(move || {
            let _exclusive = exclusive;
            node.driver.truncate(length_bytes)?;
            node.set_length(length_bytes);
            Ok(())
        })
        .await
    }

    /// How many bytes of storage the image occupies.
    ///
    /// # Errors
    /// When the backend is closed or the driver does not know.
    pub async fn allocated_size(&self) -> Result<u64, BlockError> {
        self.check_open()?;
        self.blocking(|driver| driver.allocated_size()).await
    }

    /// The status of the range from `offset` on, at most `bytes` bytes of it.
    ///
    /// # Errors
    /// When the backend is closed, the range is outside the device, or the driver cannot tell.
    pub async fn block_status(&self, offset: u64, bytes: u64) -> Result<BlockStatus, BlockError> {
        self.check_open()?;
        let length = self.length();
        if offset > length || bytes > length - offset {
            let expected = format!("within the device's {length} bytes, with the {bytes} bytes that follow");
            return Err(BlockError::Range { what: "the offset", value: offset, expected });
        }
        self.blocking(move |driver| driver.block_status(offset, bytes)).await
    }

    /// Makes I/O on `region` free of mapping and copying, in every lane, now and in channels opened later. Registering
    /// the same region again counts up.
    ///
    /// # Errors
    /// When the backend is closed, or the region overlaps one that is registered without lying within it.
    pub async fn register_buf(&self, region: &MemRegion) -> Result<(), BlockError> {
        self.check_open()?;
        let (registered, lanes) = self.node.register_region(region)?;
        if registered == Registered::New {
            self.tell_lanes(lanes, region, |channel, region| channel.register_region(region)).await;
        }
        Ok(())
    }

    /// Undoes one [`register_buf`](Self::register_buf) of the same range. The last one waits for what is in flight.
    ///
    /// # Errors
    /// When the range is not registered.
    pub async fn unregister_buf(&self, region: &MemRegion) -> Result<(), BlockError> {
        let (unused, lanes) = self.node.unregister_region(region)?;
        if unused.is_empty() {
            return Ok(());
        }
        let backend = self.clone();
        let rest = async move {
            backend.drain().await;
            for region in &unused {
                let forget = |channel: &ChannelInner, region: &MemRegion| {
                    channel.unregister_region(region);
                };
                backend.tell_lanes(lanes.clone(), region, forget).await;
            }
        };
        // A task of its own: the lanes have to be told, and the memory kept until then, even if this future is dropped.
        match AioContext::current() {
            Some(ctx) => ctx.spawn(rest).await,
            None => rest.await,
        }
        Ok(())
    }

    /// Runs `tell` for the channel of each lane, in that lane, and waits until all have.
    async fn tell_lanes(
        &self,
        lanes: Vec<LaneEntry>,
        region: &MemRegion,
        tell: fn(&ChannelInner, &MemRegion),
    ) {
        let answers = Answers::default();
        for lane in lanes {
            let (id, answer, region) = (lane.channel, answers.expect(), region.clone());
            if let Some(channel) = ChannelInner::of_this_thread(id) {
                tell(&channel, &region);
                continue;
            }
            let message = move |_: &AioContext| {
                if let Some(channel) = ChannelInner::of_this_thread(id) {
                    tell(&channel, &region);
                }
                drop(answer);
            };
            // A lane that has ended needs no telling: the answer is given as the message is dropped.
            let _ = lane.handle.post(Box::new(message)).await;
        }
        answers.await;
    }

    /// Runs an operation that may block on a helper thread.
    async fn blocking<T: Send + 'static>(&self, f: impl FnOnce(&dyn BlockDriver) -> T + Send + 'static) -> T {
        let driver = Arc::clone(&self.node.driver);
        crate::aio::offload(move || f(&*driver)).await
    }

    fn check_open(&self) -> Result<(), BlockError> {
        if self.node.is_closed() {
            return Err(BlockError::Closed { node: self.node.name.clone() });
        }
        Ok(())
    }
}
