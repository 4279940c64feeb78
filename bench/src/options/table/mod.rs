//! The table of options. Command line, job files, help, `--cmdhelp` and the list in `docs/bench.md` derive from it.
//!
//! Invariants (tested): no name or alias occurs twice, and every default is a value that the option takes.

mod io;
mod job;
mod measure;

use super::value::Kind;

/// One option.
#[derive(Debug, Clone, Copy)]
pub struct OptionDef {
    /// The name, fio's where fio has the option.
    pub name: &'static str,
    /// Further names, fio's where fio has the option.
    pub aliases: &'static [&'static str],
    /// Where it stands in the help and the documentation.
    pub group: Group,
    /// Whether it belongs to a job or to the whole run.
    pub scope: Scope,
    /// What it takes.
    pub kind: Kind,
    /// What holds when it is not given.
    pub default: Fallback,
    /// What it does.
    pub help: &'static str,
}

/// Whether an option belongs to a job or to the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// To a job: on the command line and in job files.
    Job,
    /// To the run: on the command line only.
    Run,
}

/// What holds when an option is not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// This value.
    Is(&'static str),
    /// What these words say.
    Means(&'static str),
}

/// The groups in which options are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Names, clones, order of jobs.
    Job,
    /// Device, files, opening.
    Target,
    /// Which requests.
    Workload,
    /// How much and how long.
    Extent,
    /// Requests in flight.
    Depth,
    /// Rates, think time, latency target.
    Pace,
    /// Verification.
    Verify,
    /// Latencies and logs.
    Measure,
    /// Output and the run as a whole.
    Run,
}

impl Group {
    /// All groups in the order of the help.
    pub const ALL: [Group; 9] = [
        Group::Job,
        Group::Target,
        Group::Workload,
        Group::Extent,
        Group::Depth,
        Group::Pace,
        Group::Verify,
        Group::Measure,
        Group::Run,
    ];

    /// The heading.
    pub fn title(self) -> &'static str {
        match self {
            Group::Job => "Jobs",
            Group::Target => "Device and files",
            Group::Workload => "Requests",
            Group::Extent => "Amount and time",
            Group::Depth => "Requests in flight",
            Group::Pace => "Rate and latency",
            Group::Verify => "Verification",
            Group::Measure => "Measuring and logs",
            Group::Run => "The run (command line only)",
        }
    }
}

impl OptionDef {
    const fn new(
        group: Group,
        name: &'static str,
        kind: Kind,
        default: Fallback,
        help: &'static str,
    ) -> Self {
        OptionDef { name, aliases: &[], group, scope: Scope::Job, kind, default, help }
    }

    const fn alias(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    const fn run(mut self) -> Self {
        self.scope = Scope::Run;
        self
    }

    /// Whether the option goes by this name.
    pub fn answers_to(&self, name: &str) -> bool {
        self.name == name || self.aliases.contains(&name)
    }
}

/// All options, group by group.
pub fn all() -> impl Iterator<Item = &'static OptionDef> {
    [
        job::JOB,
        io::TARGET,
        io::WORKLOAD,
        io::EXTENT,
        io::DEPTH,
        measure::PACE,
        measure::VERIFY,
        measure::MEASURE,
        job::RUN,
    ]
    .into_iter()
    .flatten()
}

/// The option that goes by this name.
pub fn find(name: &str) -> Option<&'static OptionDef> {
    all().find(|option| option.answers_to(name))
}

/// The name that is most like an unknown one, if any is like it at all.
pub fn most_similar(name: &str) -> Option<&'static str> {
    let names = all().flat_map(|option| option.aliases.iter().copied().chain([option.name]));
    let nearest = names.map(|known| (strsim::osa_distance(name, known), known)).min_by_key(|pair| pair.0)?;
    let tolerated = (name.chars().count() / 3).clamp(1, 4);
    (nearest.0 <= tolerated).then_some(nearest.1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::spec::KbBase;
    use super::*;

    #[test]
    fn no_name_occurs_twice() {
        let mut seen = HashSet::new();
        for option in all() {
            for name in option.aliases.iter().chain([&option.name]) {
                assert!(seen.insert(*name), "{name} occurs twice");
            }
        }
    }

    #[test]
    fn every_default_is_a_value_of_its_option() {
        for option in all() {
            if let Fallback::Is(default) = option.default {
                let value = option.kind.parse(default, KbBase::Binary);
                assert!(value.is_ok(), "{}={default}: {value:?}", option.name);
            }
        }
    }

    #[test]
    fn every_option_is_in_its_group() {
        let groups: Vec<Group> = all().map(|option| option.group).collect();
        let mut deduplicated = groups.clone();
        deduplicated.dedup();
        assert_eq!(deduplicated, Group::ALL);
    }

    #[test]
    fn misspelt_names_find_their_likes() {
        for (wrong, right) in
            [("iodpeth", "iodepth"), ("read_write", "readwrite"), ("verify-only", "verify_only")]
        {
            assert_eq!(most_similar(wrong), Some(right));
        }
        assert_eq!(most_similar("quux"), None);
    }
}
