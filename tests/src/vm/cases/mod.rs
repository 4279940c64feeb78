//! The cases, a file for each subject. To add one: write a function, and name it in its file's table.

mod bench;
mod device;
mod faults;
mod guest_driver;
mod harness;
mod linux;
mod nvme;
mod nvme_cli;
mod vfio;

use super::Case;

/// All cases.
pub fn all() -> impl Iterator<Item = &'static Case> {
    [
        bench::CASES,
        device::CASES,
        guest_driver::CASES,
        harness::CASES,
        linux::CASES,
        nvme_cli::CASES,
        vfio::CASES,
    ]
    .into_iter()
    .chain(nvme::TABLES)
    .chain(faults::TABLES)
    .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_machines_differ_in_name() {
        let mut names: Vec<_> = all().map(|case| case.name).collect();
        let machines: std::collections::BTreeMap<_, _> =
            all().map(|case| (case.machine.name, std::ptr::from_ref(case.machine))).collect();
        assert!(all().all(|case| machines[case.machine.name] == std::ptr::from_ref(case.machine)));
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
