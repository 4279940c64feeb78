//! `corelane info`: what the engine finds out about an image when it opens it.
//!
//! The JSON form names limits as QEMU's `BlockLimitsInfo` does and leaves out, as it does, those that do not exist.

use std::io::{StdoutLock, Write};

use corelane_engine::aio::{AioConfig, AioContext};
use corelane_engine::block::{BlockDriver, BlockLimits, ReqFlags};
use serde::Serialize;

use crate::output::size;
use crate::{Form, Image, ToolError};

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Info {
    filename: String,
    driver: &'static str,
    cache: String,
    virtual_size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    actual_size: Option<u64>,
    /// Whether a completed write may still be in a volatile cache.
    write_cache: bool,
    /// Whether a single write can be made durable without a flush.
    fua: bool,
    discard: bool,
    write_zeroes: bool,
    limits: Limits,
    #[serde(rename = "io_uring")]
    io_uring: IoUring,
}

/// `BlockLimits`, in bytes; what is none is left out.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Limits {
    request_alignment: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_transfer: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    opt_transfer: Option<u64>,
    max_iov: u32,
    min_mem_alignment: u32,
    opt_mem_alignment: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_discard: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    discard_alignment: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_write_zeroes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    write_zeroes_alignment: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_hw_transfer: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_hw_iov: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct IoUring {
    available: bool,
    /// What the kernel granted of the set-up that a lane asks for.
    set_up: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Prints what is known of `image`.
pub fn run(image: &Image) -> Result<(), ToolError> {
    let driver = image.open()?;
    let info = Info {
        filename: image.file.display().to_string(),
        driver: driver.format_name(),
        cache: image.cache.to_string(),
        virtual_size: driver.length()?,
        actual_size: driver.allocated_size().ok(),
        write_cache: driver.write_cache(),
        fua: driver.supported_write_flags().contains(ReqFlags::FUA),
        discard: driver.can_discard(),
        write_zeroes: driver.supported_zero_flags().is_some(),
        limits: Limits::from(driver.limits()),
        io_uring: IoUring::probe(),
    };
    let mut out = std::io::stdout().lock();
    match image.output {
        Form::Human => info.print(&mut out)?,
        Form::Json => writeln!(out, "{}", serde_json::to_string_pretty(&info)?)?,
    }
    Ok(out.flush()?)
}

impl IoUring {
    /// Sets up a lane as the engine does, and looks at what came of it.
    fn probe() -> IoUring {
        match AioContext::new(&AioConfig::default()) {
            Ok(lane) => {
                let set_up = lane.ring().set_up_flags().iter_names().map(|(name, _)| name.to_lowercase());
                IoUring { available: true, set_up: set_up.collect(), reason: None }
            }
            Err(err) => IoUring { available: false, set_up: Vec::new(), reason: Some(err.to_string()) },
        }
    }
}

impl From<&BlockLimits> for Limits {
    fn from(limits: &BlockLimits) -> Limits {
        let limit = |value: u64| (value != 0).then_some(value);
        Limits {
            request_alignment: limits.request_alignment,
            max_transfer: limit(limits.max_transfer.into()),
            opt_transfer: limit(limits.opt_transfer.into()),
            max_iov: limits.max_iov,
            min_mem_alignment: limits.min_mem_alignment,
            opt_mem_alignment: limits.opt_mem_alignment,
            max_discard: limit(limits.max_pdiscard),
            discard_alignment: limit(limits.pdiscard_alignment.into()),
            max_write_zeroes: limit(limits.max_pwrite_zeroes),
            write_zeroes_alignment: limit(limits.pwrite_zeroes_alignment.into()),
            max_hw_transfer: limit(limits.max_hw_transfer),
            max_hw_iov: limit(limits.max_hw_iov.into()),
        }
    }
}

impl Info {
    fn print(&self, out: &mut StdoutLock<'_>) -> std::io::Result<()> {
        let yes = |value: bool| if value { "yes" } else { "no" };
        writeln!(out, "image: {}", self.filename)?;
        writeln!(out, "driver: {}", self.driver)?;
        writeln!(out, "cache: {}", self.cache)?;
        writeln!(out, "virtual size: {}", size(self.virtual_size))?;
        writeln!(out, "disk size: {}", self.actual_size.map_or("unknown".to_owned(), size))?;
        writeln!(out, "volatile write cache: {}", yes(self.write_cache))?;
        writeln!(out, "forced unit access: {}", yes(self.fua))?;
        writeln!(out, "discard: {}", yes(self.discard))?;
        writeln!(out, "write zeroes: {}", yes(self.write_zeroes))?;
        writeln!(out, "limits:")?;
        for (name, value) in self.limits.rows() {
            let value = value.map_or("none".to_owned(), |value| value.to_string());
            writeln!(out, "    {name:<24}{value:>12}")?;
        }
        match &self.io_uring.reason {
            Some(reason) => writeln!(out, "io_uring: not available: {reason}"),
            None => writeln!(out, "io_uring: {}", self.io_uring.set_up.join(" ")),
        }
    }
}

impl Limits {
    fn rows(&self) -> [(&'static str, Option<u64>); 12] {
        [
            ("request alignment", Some(self.request_alignment.into())),
            ("max transfer", self.max_transfer),
            ("opt transfer", self.opt_transfer),
            ("max iov", Some(self.max_iov.into())),
            ("min mem alignment", Some(self.min_mem_alignment.into())),
            ("opt mem alignment", Some(self.opt_mem_alignment.into())),
            ("max discard", self.max_discard),
            ("discard alignment", self.discard_alignment),
            ("max write zeroes", self.max_write_zeroes),
            ("write zeroes alignment", self.write_zeroes_alignment),
            ("max hw transfer", self.max_hw_transfer),
            ("max hw iov", self.max_hw_iov),
        ]
    }
}
