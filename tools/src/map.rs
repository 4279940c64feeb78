//! `corelane map`: the data and the holes of an image.
//!
//! The JSON form has the fields of `qemu-img map --output=json` for a raw image.

use std::io::{StdoutLock, Write};
use std::path::Path;

use corelane_engine::block::{BlockDriver, BlockError, StatusFlags};
use serde::Serialize;

use crate::{Form, Image, ToolError};

/// A range of an image that is uniform, with QEMU's field names (`MapEntry`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
struct Extent {
    start: u64,
    length: u64,
    /// How many images below the top one the range is found; there is only the top one here.
    depth: u64,
    present: bool,
    zero: bool,
    data: bool,
    compressed: bool,
    /// Where the range is in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
}

impl Extent {
    fn new(start: u64, length: u64, flags: StatusFlags) -> Extent {
        Extent {
            start,
            length,
            depth: 0,
            present: true,
            zero: flags.contains(StatusFlags::ZERO),
            data: flags.contains(StatusFlags::DATA),
            compressed: false,
            offset: Some(start),
        }
    }

    /// What stands for an image without any bytes.
    fn nothing() -> Extent {
        Extent { present: false, offset: None, ..Extent::new(0, 0, StatusFlags::empty()) }
    }

    /// Takes in the range behind this one, if it is of the same kind.
    fn absorbs(&mut self, next: &Extent) -> bool {
        let same = (self.zero, self.data) == (next.zero, next.data) && self.start + self.length == next.start;
        if same {
            self.length += next.length;
        }
        same
    }
}

/// Prints the map of `image`.
pub fn run(image: &Image) -> Result<(), ToolError> {
    let driver = image.open()?;
    let extents = extents(&driver)?;
    let mut out = std::io::stdout().lock();
    match image.output {
        Form::Human => print_human(&mut out, &extents, &image.file)?,
        Form::Json => print_json(&mut out, &extents)?,
    }
    Ok(out.flush()?)
}

/// The whole image as ranges, each as long as possible.
fn extents(driver: &impl BlockDriver) -> Result<Vec<Extent>, BlockError> {
    let end = driver.length()?;
    let mut found: Vec<Extent> = Vec::new();
    let mut at = 0;
    while at < end {
        let status = driver.block_status(at, end - at)?;
        // A driver that says nothing of a range that is there would keep us here for ever.
        let length = status.bytes.clamp(1, end - at);
        let next = Extent::new(at, length, status.flags);
        if !found.last_mut().is_some_and(|last| last.absorbs(&next)) {
            found.push(next);
        }
        at += length;
    }
    if found.is_empty() {
        found.push(Extent::nothing());
    }
    Ok(found)
}

fn print_human(out: &mut StdoutLock<'_>, extents: &[Extent], file: &Path) -> std::io::Result<()> {
    writeln!(out, "{:<16}{:<16}{:<16}File", "Offset", "Length", "Mapped to")?;
    for extent in extents.iter().filter(|extent| extent.data && !extent.zero) {
        let (start, length) = (hex(extent.start), hex(extent.length));
        writeln!(out, "{start:<16}{length:<16}{start:<16}{}", file.display())?;
    }
    Ok(())
}

/// As C's `%#x` has it: no prefix before a zero.
fn hex(value: u64) -> String {
    if value == 0 { "0".to_owned() } else { format!("{value:#x}") }
}

fn print_json(out: &mut StdoutLock<'_>, extents: &[Extent]) -> Result<(), ToolError> {
    for (index, extent) in extents.iter().enumerate() {
        let before = if index == 0 { "[" } else { ",\n" };
        write!(out, "{before}{}", serde_json::to_string(extent)?)?;
    }
    Ok(writeln!(out, "]")?)
}

#[cfg(test)]
mod tests {
    use corelane_engine::aio::AioContext;
    use corelane_engine::block::{BlockLimits, BlockStatus, LeafQueue, LeafTable};

    use super::*;

    /// A device that tells its status in small steps, as a driver may.
    struct Stepwise {
        limits: BlockLimits,
        blocks: Vec<StatusFlags>,
    }

    impl BlockDriver for Stepwise {
        fn format_name(&self) -> &'static str {
            "stepwise"
        }

        fn limits(&self) -> &BlockLimits {
            &self.limits
        }

        fn length(&self) -> Result<u64, BlockError> {
            Ok(self.blocks.len() as u64 * 10)
        }

        fn open_queue(&self, _ctx: &AioContext, _table: LeafTable) -> Result<Box<dyn LeafQueue>, BlockError> {
            Err(BlockError::Unsupported { driver: "stepwise", what: "I/O" })
        }

        fn block_status(&self, offset: u64, bytes: u64) -> Result<BlockStatus, BlockError> {
            Ok(BlockStatus { flags: self.blocks[(offset / 10) as usize], bytes: bytes.min(10 - offset % 10) })
        }
    }

    fn map(blocks: &[StatusFlags]) -> Vec<Extent> {
        extents(&Stepwise { limits: BlockLimits::default(), blocks: blocks.to_vec() }).unwrap()
    }

    const DATA: StatusFlags = StatusFlags::DATA;
    const ZERO: StatusFlags = StatusFlags::ZERO;

    #[test]
    fn neighbours_of_a_kind_are_one_range() {
        assert_eq!(
            map(&[ZERO, ZERO, DATA, DATA.union(ZERO), ZERO]),
            [
                Extent::new(0, 20, ZERO),
                Extent::new(20, 10, DATA),
                Extent::new(30, 10, DATA.union(ZERO)),
                Extent::new(40, 10, ZERO)
            ]
        );
    }

    #[test]
    fn an_empty_image_is_one_range_that_is_not_there() {
        let found = map(&[]);
        assert_eq!(found, [Extent::nothing()]);
        assert!(!serde_json::to_string(&found[0]).unwrap().contains("offset"));
    }
}
