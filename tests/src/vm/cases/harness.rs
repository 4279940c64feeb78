//! The machines are what they claim to be, as the guest kernel's own driver sees them; without that, what our driver does
//! with them would show nothing.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use crate::vm::{Case, Guest, Place, machines};

/// See the module's documentation.
pub const CASES: &[Case] = &[
    case("harness::every_controller_binds_to_vfio_in_a_group_of_its_own", groups),
    case("harness::block_sizes_are_as_asked", block_sizes),
    case("harness::a_bad_sector_fails", bad_sector),
];

const fn case(name: &'static str, run: fn(&Guest)) -> Case {
    Case { name, machine: &machines::NVME, run, limit: Duration::from_secs(120) }
}

fn groups(guest: &Guest) {
    let alone = guest.controllers().filter(|controller| !matches!(controller.place, Place::Beside(_)));
    let mut groups: Vec<_> = alone.map(|controller| guest.function(controller.name).bind_vfio()).collect();
    let count = groups.len();
    assert!(
        groups.contains(&guest.function("younger").bind_vfio()),
        "two functions of a slot are in one group"
    );
    groups.sort();
    groups.dedup();
    assert_eq!(groups.len(), count);
}

fn read_number(path: &Path) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
    text.trim().parse().unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

fn queue(device: &Path, name: &str) -> u64 {
    let device = device.file_name().expect("a device has a name");
    read_number(&Path::new("/sys/block").join(device).join("queue").join(name))
}

fn block_sizes(guest: &Guest) {
    for (name, nsid, block_bytes) in
        [("default", 1, 512), ("lba4k", 1, 4096), ("two-spaces", 1, 512), ("two-spaces", 2, 4096)]
    {
        let device = guest.function(name).bind_kernel(nsid);
        assert_eq!(queue(&device, "logical_block_size"), block_bytes, "{name}/{nsid}");
    }
    // MDTS counts in pages of 4 KiB, by powers of two.
    let mdts1 = guest.function("mdts1").bind_kernel(1);
    assert_eq!(queue(&mdts1, "max_hw_sectors_kb"), 8);
}

fn bad_sector(guest: &Guest) {
    let device = guest.function("bad-sector").bind_kernel(1);
    let device = File::open(device).expect("it opens");
    let mut data = [0; 512];
    let error = device.read_at(&mut data, machines::BAD_SECTOR * 512).expect_err("the sector is bad");
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()), "{error}");
    device.read_exact_at(&mut data, (machines::BAD_SECTOR + 64) * 512).expect("the others are good");
}
