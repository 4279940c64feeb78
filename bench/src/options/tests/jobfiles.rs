//! fio's job files.

use std::path::Path;

use proptest::prelude::*;

use super::super::*;
use super::args;

fn text(text: &str) -> Result<Plan, OptionError> {
    parse_job_text(Path::new("jobs.fio"), text, &GlobalSpec::default())
}

#[track_caller]
fn refused(job_text: &str, needles: &[&str]) {
    let message = text(job_text).expect_err(job_text).to_string();
    for needle in needles {
        assert!(message.contains(needle), "{message:?} lacks {needle:?}");
    }
}

const DIALECT: &str = "
; a comment
# another
[global] ; may repeat
rw = randrw   # behind a value, too
bs=4k
direct

[first job]
iodepth=4
description=two words
[global]
bs=8k
rwmixread=70
[second]
norandommap
stonewall=1
bs=${CARGO_PKG_NAME_LENGTH}16k
name=renamed
";

#[test]
fn sections_comments_and_bare_switches() {
    let plan = text(&DIALECT.replace("${CARGO_PKG_NAME_LENGTH}", "")).unwrap();
    let [first, second] = &plan.jobs[..] else { panic!("{plan:?}") };
    assert_eq!((first.name.as_str(), first.description.as_deref()), ("first job", Some("two words")));
    assert_eq!((first.workload.blocks.read.min_bytes(), first.workload.read_percent), (4096, 50));
    assert!(first.target.direct && second.target.direct && second.workload.no_random_map);
    assert_eq!((second.name.as_str(), second.group_id, second.wait_for_previous), ("renamed", 1, true));
    assert_eq!((second.workload.blocks.read.min_bytes(), second.workload.read_percent), (16384, 70));
    assert_eq!(plan.global.given.len(), 5);
}

#[test]
fn variables_and_keywords() {
    let path = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| "/".to_owned());
    let variable = if std::env::var("CARGO_MANIFEST_DIR").is_ok() { "CARGO_MANIFEST_DIR" } else { "PWD" };
    let plan = text(&format!(
        "[a]\ndirectory=${{{variable}}}\nbs=$pagesize\nnumjobs=$ncpus\nsize=$mb_memory\nbs=1k"
    ))
    .unwrap();
    if variable == "CARGO_MANIFEST_DIR" {
        assert_eq!(plan.jobs[0].target.directories, [Path::new(&path)]);
    }
    assert!(plan.jobs[0].num_jobs >= 1);
    refused("[a]\nbs=${CORELANE_NOT_SET}4k", &["jobs.fio:2", "CORELANE_NOT_SET is not set"]);
    refused("[a]\nbs=${OPEN", &["not closed"]);
}

#[test]
fn bad_lines() {
    refused("bs=4k\n[a]", &["jobs.fio:1", "before the first section"]);
    refused("[a\nbs=4k", &["jobs.fio:1: [a", "[name] is right"]);
    refused("[]\n", &["without a title"]);
    refused("[a]\n\nbs=9x", &["jobs.fio:3: bs=9x"]);
    refused("[a]\nbs=", &["bs=: the value is empty"]);
    refused("[a]\nbs", &["bs needs a value"]);
    refused("[a]\nfoo=1", &["jobs.fio:2", "no option foo"]);
    refused("[a]\nnrfiles=1", &["jobs.fio:2", "fio has nrfiles"]);
    refused("[a]\noutput-format=json", &["jobs.fio:2", "--output-format"]);
    refused("[global]\nname=x\n[a]", &["a name for all jobs"]);
    refused("[global]\nbs=4k", &["no job is defined", "bs=4k"]);
    refused("[global]\nbs=9x", &["bs=9x"]);
    refused("", &["no section"]);
    refused("[a]\ninclude", &["no file is named"]);
    refused("[a]\ninclude no/such/file", &["jobs.fio:2", "no/such/file"]);
}

#[test]
fn includes_and_several_files() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    write("sub/inner.inc", "bs=8k");
    write("sub/outer.inc", "include inner.inc\niodepth=4 ; both\n");
    write("loop.inc", "include loop.inc");
    let one = write("one.fio", "[global]\ninclude sub/outer.inc\n[a]\n[b]\ninclude=sub/inner.inc\n");
    let two = write("two.fio", "[c]\n[d]\n");
    let line = format!("--size=1m --name=cli --bs=2k {} {}", one.display(), two.display());
    let Parsed::Run(plan) = parse_args(args(&line)).unwrap() else { panic!() };
    let shown: Vec<_> = plan
        .jobs
        .iter()
        .map(|job| (&job.name[..], job.workload.blocks.read.min_bytes(), job.depth.iodepth, job.group_id))
        .collect();
    assert_eq!(
        shown,
        [("cli", 2048, 1, 0), ("a", 8192, 4, 0), ("b", 8192, 4, 0), ("c", 4096, 1, 1), ("d", 4096, 1, 1)]
    );
    assert!(
        plan.jobs[3].wait_for_previous && !plan.jobs[4].wait_for_previous && !plan.jobs[1].wait_for_previous
    );
    assert!(plan.jobs.iter().all(|job| job.workload.size == Some(Extent::Bytes(1 << 20))));

    let looping = write("looping.fio", "[a]\ninclude loop.inc");
    let error = parse_args([looping.into_os_string()]).unwrap_err().to_string();
    assert!(error.contains("nest deeper than 16"), "{error}");
    write("section.inc", "[b]");
    let nested = write("nested.fio", "[a]\ninclude section.inc");
    let error = parse_args([nested.into_os_string()]).unwrap_err().to_string();
    assert!(error.contains("a section in an included file"), "{error}");
    let error = parse_args([folder.path().join("missing.fio").into_os_string()]).unwrap_err().to_string();
    assert!(error.contains("cannot read job file") && error.contains("missing.fio"), "{error}");
}

proptest! {
    #[test]
    fn nothing_panics(lines in prop::collection::vec("\\[[a-z ]{0,4}\\]?|[a-z_]{1,8}=\\PC{0,8}|(rw|bs|size|verify)=?[a-z0-9%:/$,{}]{0,8}|\\PC{0,12}", 0..8)) {
        // An include would read whatever file the text happens to name.
        prop_assume!(!lines.iter().any(|line| line.contains("include")));
        let _ = text(&lines.join("\n"));
    }
}
