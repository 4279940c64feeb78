//! The options of `corelane-bench`: fio's names, units and job files, checked and resolved into plain data.
//!
//! [`Plan`] is what the job runner works from: one [`JobSpec`] a job section, every option typed, every default
//! filled in, every contradiction already refused. The runner reads no option string.

pub mod spec;

pub use spec::{
    Access, BlockSizes, CacheMode, CompletionPolling, ContinueOn, CpuSet, DepthSpec, DirectionMix,
    Distribution, EndSpec, EngineKind, EtaMode, Extent, GlobalSpec, JobSpec, KbBase, LatencyTarget,
    LockingMode, LogSpec, MeasureSpec, OutputFormat, PaceSpec, Pattern, PerDirection, Plan, RwMode, SqThread,
    SyncMode, TargetSpec, ThinkTime, VerifyMethod, VerifySpec, WorkloadSpec,
};
