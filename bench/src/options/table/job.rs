//! Options of jobs as such, and those of the whole run.

use super::super::units::TimeUnit;
use super::super::value::{Kind, Word};
use super::{Fallback, Group, OptionDef};

const fn job(name: &'static str, kind: Kind, default: Fallback, help: &'static str) -> OptionDef {
    OptionDef::new(Group::Job, name, kind, default, help)
}

const fn run(name: &'static str, kind: Kind, default: Fallback, help: &'static str) -> OptionDef {
    OptionDef::new(Group::Run, name, kind, default, help).run()
}

const fn word(word: &'static str, help: &'static str) -> Word {
    Word { word, means: word, help }
}

const NOTHING: Fallback = Fallback::Means("none");
const OFF: Fallback = Fallback::Is("0");

/// Options of [`Group::Job`].
pub(super) const JOB: &[OptionDef] = &[
    job(
        "name",
        Kind::Text,
        Fallback::Means("the section's title"),
        "Name of the job. On the command line every --name begins a job; options before the first hold for all jobs, and \
         --name=global begins such a part again. In a job file the section's title is the name.",
    ),
    job("description", Kind::Text, NOTHING, "Text that is repeated in the report."),
    job(
        "numjobs",
        Kind::Count { min: 1, max: 4096 },
        Fallback::Is("1"),
        "How many clones of the job run at once, each in a lane of its own.",
    ),
    job("thread", Kind::Flag, Fallback::Is("1"), "Jobs are threads (lanes) always: only 1 is taken."),
    job(
        "stonewall",
        Kind::Flag,
        OFF,
        "Start only when all earlier jobs have ended. Begins a new reporting group. The first job of every job file after \
         the first does so anyway.",
    )
    .alias(&["wait_for_previous"]),
    job("new_group", Kind::Flag, OFF, "Begin a new reporting group with this job."),
    job("group_reporting", Kind::Flag, OFF, "Report the jobs of a group as one."),
    job(
        "startdelay",
        Kind::Time { bare: TimeUnit::Seconds, min_us: 0 },
        OFF,
        "Start the job this much later.",
    ),
    job(
        "cpus_allowed",
        Kind::Cpus,
        Fallback::Means("any CPU"),
        "The CPUs the job's lanes may run on. With one CPU the lane is pinned to it.",
    ),
    job(
        "continue_on_error",
        Kind::Choice(&[
            word("none", "The first error ends the job."),
            word("read", "Go on after errors of reads."),
            word("write", "Go on after errors of writes, trims and flushes."),
            word("io", "Go on after errors of any request."),
            word("verify", "Go on after data that did not verify."),
            word("all", "Go on after all of these."),
            Word { word: "0", means: "none", help: "The same as none." },
            Word { word: "1", means: "all", help: "The same as all." },
        ]),
        Fallback::Is("none"),
        "Which errors are counted and reported instead of ending the job.",
    ),
    job("exitall_on_error", Kind::Flag, OFF, "End all other jobs when this one ends with an error."),
    job(
        "kb_base",
        Kind::Choice(&[
            word("1024", "k is 1024 and ki is 1000, fio's old rule."),
            word("1000", "k is 1000 and ki is 1024, SI and IEC 80000-13."),
        ]),
        Fallback::Is("1024"),
        "How unit prefixes are read in this job, wherever in the job it stands; the report's units stay.",
    ),
];

/// Options of [`Group::Run`].
pub(super) const RUN: &[OptionDef] = &[
    run("output", Kind::Text, Fallback::Means("standard output"), "Write the report into this file."),
    run(
        "output-format",
        Kind::Formats,
        Fallback::Is("normal"),
        "Format of the report: normal is for people, terse is fio's terse version 3, json is fio's JSON, json+ the same \
         with every latency bucket.",
    ),
    run("minimal", Kind::Flag, OFF, "The same as --output-format=terse."),
    run(
        "terse-version",
        Kind::Choice(&[word("3", "fio's terse version 3.")]),
        Fallback::Is("3"),
        "Version of the terse format; there is only 3.",
    ),
    run(
        "eta",
        Kind::Choice(&[
            word("auto", "When standard output is a terminal."),
            word("always", "Always."),
            word("never", "Never."),
        ]),
        Fallback::Is("auto"),
        "When the progress line is shown.",
    ),
    run(
        "eta-interval",
        Kind::Time { bare: TimeUnit::Seconds, min_us: 250_000 },
        Fallback::Is("1s"),
        "How often the progress line is renewed, at least 250 ms.",
    ),
    run(
        "status-interval",
        Kind::Time { bare: TimeUnit::Seconds, min_us: 1_000 },
        Fallback::Means("only at the end"),
        "Print the whole report so far this often.",
    ),
    run(
        "plot",
        Kind::Text,
        NOTHING,
        "Draw latency percentiles and IOPS over time into this file, which must end in .svg or .html. Not in fio.",
    ),
    run("readonly", Kind::Flag, OFF, "Refuse jobs that write or trim."),
    run(
        "section",
        Kind::Text,
        Fallback::Means("all"),
        "Run only the jobs of this name; may be given several times.",
    ),
    run("parse-only", Kind::Flag, OFF, "Check the options and job files, then end."),
    run(
        "cmdhelp",
        Kind::OptionalText,
        NOTHING,
        "Print what an option takes, its range and its default; without a name, or with all, list the options.",
    ),
];
