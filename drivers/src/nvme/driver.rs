//! [`NvmeDriver`]: a namespace as the block layer opens it.

use std::sync::Arc;

use corelane_dma::Backing;
use corelane_engine::aio::AioContext;
use corelane_engine::block::{
    BlockDriver, BlockError, BlockLimits, ChangeHook, LeafQueue, LeafTable, ReqFlags,
};

use super::atomics::AtomicWrites;
use super::controller::NvmeController;
use super::error::NvmeError;
use super::leaf::NvmeQueue;
use super::namespace::Namespace;
use super::options::{NvmeOptions, default_namespace};
use super::recovery::watch::Watched;
use super::spec::Nsid;
use super::zones::Zones;

/// A namespace of an NVMe controller.
#[derive(Debug)]
pub struct NvmeDriver {
    controller: Arc<NvmeController>,
    namespace: Namespace,
    options: NvmeOptions,
    watched: Arc<Watched>,
}

impl NvmeDriver {
    /// Opens a namespace of a started controller. Blocks; control plane.
    ///
    /// # Errors
    /// [`BlockError::Open`] for a namespace that is not active, says absurd things of itself, or is write protected and not
    /// opened read-only; and for whatever the controller fails with.
    pub fn open(
        controller: &Arc<NvmeController>,
        nsid: Nsid,
        options: &NvmeOptions,
    ) -> Result<NvmeDriver, BlockError> {
        let name = format!("{}/{}", controller.address(), nsid.0);
        let looks = controller.watchlist().looks();
        let mut namespace = Namespace::open(controller, nsid).map_err(|error| error.into_open(&name))?;
        if let (Some(zones), Some(limits)) = (&namespace.zones, &mut namespace.limits.zoned) {
            let capacity = zones.ask_capacity(controller, nsid).map_err(|error| error.into_open(&name))?;
            limits.zone_capacity = capacity.unwrap_or(0) << namespace.block_shift;
        }
        if let Some(placement) = &options.placement {
            let placing = placement.ask(controller, nsid).map_err(|error| error.into_open(&name))?;
            namespace.placing = Some(placing);
        }
        if namespace.read_only && !options.read_only {
            let reason = "the namespace is write protected; open it with read-only=on".to_owned();
            return Err(BlockError::Open { filename: name, reason });
        }
        namespace.limits.validate().map_err(|source| BlockError::Limits { driver: "nvme", source })?;
        let watched = Watched::new(nsid, namespace.shape, namespace.blocks);
        controller.watch(&watched, looks);
        Ok(NvmeDriver { controller: Arc::clone(controller), namespace, options: *options, watched })
    }

    /// Opens the namespace that is meant where none is named: 1, or the only one. Blocks; control plane.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`BlockError::Open`] with the numbers to choose from where there are several but no 1.
    pub fn open_default(
        controller: &Arc<NvmeController>,
        options: &NvmeOptions,
    ) -> Result<NvmeDriver, BlockError> {
        let failed = |error: NvmeError| error.into_open(controller.address());
        let active = controller.active_namespaces().map_err(failed)?;
        let nsid = default_namespace(&active).unwrap_or(Nsid(1));
        NvmeDriver::open(controller, nsid, options)
    }

    /// The controller.
    pub fn controller(&self) -> &Arc<NvmeController> {
        &self.controller
    }

    /// The namespace's number.
    pub fn nsid(&self) -> Nsid {
        self.namespace.nsid
    }

    /// The namespace's zones, if it is zoned.
    pub fn zones(&self) -> Option<&Zones> {
        self.namespace.zones.as_ref()
    }

    /// What the namespace writes all or not at all.
    pub fn atomic_writes(&self) -> &AtomicWrites {
        &self.namespace.atomics
    }
}

impl BlockDriver for NvmeDriver {
    fn format_name(&self) -> &'static str {
        "nvme"
    }

    fn limits(&self) -> &BlockLimits {
        &self.namespace.limits
    }

    fn length(&self) -> Result<u64, BlockError> {
        Ok(self.watched.length_bytes())
    }

    fn read_only(&self) -> bool {
        self.options.read_only
    }

    fn write_cache(&self) -> bool {
        self.namespace.write_cache
    }

    fn supported_write_flags(&self) -> ReqFlags {
        ReqFlags::FUA
    }

    fn supported_zero_flags(&self) -> Option<ReqFlags> {
        self.namespace.zero_flags
    }

    fn can_discard(&self) -> bool {
        self.namespace.can_discard
    }

    fn memory(&self) -> Backing {
        self.controller.bus().backing()
    }

    fn on_change(&self, hook: ChangeHook) {
        self.watched.on_change(hook);
    }

    fn open_queue(&self, ctx: &AioContext, table: LeafTable) -> Result<Box<dyn LeafQueue>, BlockError> {
        let (namespace, watched) = (&self.namespace, &self.watched);
        Ok(Box::new(NvmeQueue::open(&self.controller, (namespace, watched), self.options.poll, ctx, table)?))
    }
}
