//! `corelane nvme fdp`: flexible data placement (TP4146).

use corelane_drivers::nvme::Transfer;
use corelane_drivers::nvme::spec::command::Command;
use corelane_drivers::nvme::spec::placement::{PlacementHandle, count_handles, handles_bytes, read_handles};
use serde_json::{Value, json};

use super::args::{Device, Fdp};
use crate::ToolError;

/// A status of a page, which every controller can transfer: so many handles.
const FIRST_HANDLES: usize = 127;

/// Runs a subcommand.
///
/// # Errors
/// As the other commands.
pub fn run(fdp: &Fdp) -> Result<(), ToolError> {
    match fdp {
        Fdp::Status(device) => status(device),
    }
}

fn status(device: &Device) -> Result<(), ToolError> {
    let mut target = device.open()?;
    let nsid = target.one_namespace()?;
    let mut ask = |handles: usize| {
        let mut bytes = vec![0; handles_bytes(handles)];
        let command = Command::handle_status(nsid, bytes.len() as u32);
        target.back_end.ask_io(&command, Transfer::In(&mut bytes)).map(|_| bytes)
    };
    let mut bytes = ask(FIRST_HANDLES)?;
    let count = count_handles(&bytes);
    if count > FIRST_HANDLES {
        bytes = ask(count)?;
    }
    let handles = read_handles(&bytes);
    device.print(|| handles.iter().map(lines).collect(), || in_json(&handles))
}

/// For people, in nvme-cli's words.
fn lines(handle: &PlacementHandle) -> String {
    let PlacementHandle { id, handle, time_s, writable_blocks } = handle;
    format!(
        "Placement Identifier {id}; Reclaim Unit Handle Identifier {handle}\n  \
         Estimated Active Reclaim Unit Time Remaining (EARUTR): {time_s}\n  \
         Reclaim Unit Available Media Writes (RUAMW): {writable_blocks}\n\n"
    )
}

fn in_json(handles: &[PlacementHandle]) -> Value {
    let handle = |handle: &PlacementHandle| {
        json!({
            "pid": handle.id, "ruhid": handle.handle, "earutr": handle.time_s, "ruamw": handle.writable_blocks,
        })
    };
    json!({ "nruhsd": handles.len(), "ruhss": handles.iter().map(handle).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_has_its_names() {
        let handle = PlacementHandle { id: 0x8001, handle: 1, time_s: 3, writable_blocks: 65_536 };
        let json = in_json(&[handle]);
        assert_eq!((&json["nruhsd"], &json["ruhss"][0]["pid"]), (&1.into(), &0x8001.into()));
        assert_eq!(json["ruhss"][0]["ruamw"], 65_536);
        assert!(
            lines(&handle).starts_with("Placement Identifier 32769; Reclaim Unit Handle Identifier 1\n  Est")
        );
    }
}
