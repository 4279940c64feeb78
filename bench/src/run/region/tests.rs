//! What size, offset and their like come to, and what is refused.

use super::*;
use crate::options::{GlobalSpec, Plan, parse_job_text};

const FREE: Present = Present { length_bytes: None, can_grow: true };

fn spec(options: &str) -> JobSpec {
    let text = format!("[j]\n{}\n", options.replace(' ', "\n"));
    let plan: Plan = parse_job_text(Path::new("test"), &text, &GlobalSpec::default()).unwrap();
    plan.jobs.into_iter().next().unwrap()
}

fn resolved(options: &str, present: Present) -> Result<Layout, RunError> {
    resolve(&spec(options), Path::new("/dev/x"), present, 1, true)
}

fn device(length_bytes: u64) -> Present {
    Present { length_bytes: Some(length_bytes), can_grow: false }
}

fn file(length_bytes: u64) -> Present {
    Present { length_bytes: Some(length_bytes), can_grow: true }
}

fn region(offset_bytes: u64, size_bytes: u64) -> Region {
    Region { offset_bytes, size_bytes }
}

#[test]
fn size_and_offset_say_how_long_the_file_is() {
    let layout = resolved("rw=randread size=1m offset=512k", FREE).unwrap();
    assert_eq!(layout.file_bytes, (1 << 20) + (512 << 10));
    assert_eq!(layout.regions, [region(512 << 10, 1 << 20)]);
    let layout = resolved("rw=randread size=1m filesize=4m", FREE).unwrap();
    assert_eq!((layout.file_bytes, layout.regions[0].size_bytes), (4 << 20, 1 << 20));
}

#[test]
fn without_size_it_is_the_rest_of_the_file() {
    let layout = resolved("rw=randread offset=4k", file(1 << 20)).unwrap();
    assert_eq!(layout.regions, [region(4096, (1 << 20) - 4096)]);
    assert_eq!(layout.file_bytes, 1 << 20);
    let layout = resolved("rw=randread numjobs=2 offset_increment=256k", file(1 << 20)).unwrap();
    assert_eq!(layout.regions, [region(0, 768 << 10), region(256 << 10, 768 << 10)]);
}

#[test]
fn shares_are_of_the_length_that_there_is() {
    let layout = resolved("rw=randread size=50% offset=25%", device(1 << 20)).unwrap();
    assert_eq!(layout.regions, [region(256 << 10, 512 << 10)]);
    // A share of the length starts at a block.
    let layout = resolved("rw=randread bs=4k offset=1% size=4k", device(1 << 20)).unwrap();
    assert_eq!(layout.regions[0].offset_bytes, 12_288);
    let layout = resolved("rw=randread size=50% filesize=8m", FREE).unwrap();
    assert_eq!(layout.regions[0].size_bytes, 4 << 20);
}

#[test]
fn what_does_not_fit_is_refused_with_the_way_out() {
    let cases = [
        ("rw=randread", FREE, "there is no such file", "give size="),
        ("rw=randread", file(0), "the file is empty", "give size="),
        ("rw=randread size=2m", device(1 << 20), "the job reaches to byte 2097152", "smaller offset"),
        ("rw=randread offset=1m", device(1 << 20), "nothing is left", "smaller offset"),
        (
            "rw=randread size=1m numjobs=4 offset_increment=1m",
            device(2 << 20),
            "byte 4194304",
            "offset_increment",
        ),
    ];
    for (options, present, what, right) in cases {
        let error = resolved(options, present).unwrap_err().to_string();
        assert!(
            error.contains(what) && error.contains(right) && error.contains("/dev/x"),
            "{options}: {error}"
        );
    }
}

#[test]
fn several_files_share_the_size_unless_each_has_its_own() {
    let half = resolve(&spec("rw=read filename=a:b size=1m"), Path::new("a"), FREE, 2, true).unwrap();
    assert_eq!(half.regions[0].size_bytes, 512 << 10);
    let own =
        resolve(&spec("rw=read filename=a:b size=1m filesize=2m"), Path::new("a"), FREE, 2, true).unwrap();
    assert_eq!((own.regions[0].size_bytes, own.file_bytes), (1 << 20, 2 << 20));
}

#[test]
fn clones_that_verify_in_one_file_get_parts_of_their_own() {
    let options = "rw=randrw bs=512-64k ba=512 size=1m numjobs=4 verify=crc32c";
    let layout = resolved(options, FREE).unwrap();
    let mut at = 0;
    for part in &layout.regions {
        assert_eq!(part.offset_bytes, at);
        assert_eq!(part.size_bytes, 256 << 10);
        at += part.size_bytes;
    }
    assert_eq!((layout.size_bytes, layout.file_bytes), (1 << 20, 1 << 20));
    // Not in files of their own, not without verify, not where they are apart anyway.
    let apart = resolve(&spec(options), Path::new("x"), FREE, 1, false).unwrap();
    assert!(apart.regions.iter().all(|part| *part == region(0, 1 << 20)));
    let free = resolved("rw=randrw size=1m numjobs=4", FREE).unwrap();
    assert!(free.regions.iter().all(|part| *part == region(0, 1 << 20)));
    let spaced = resolved(&format!("{options} offset_increment=1m"), FREE).unwrap();
    assert_eq!(spaced.regions[3], region(3 << 20, 1 << 20));
    let error = resolved(&format!("{options} offset_increment=512k"), FREE).unwrap_err().to_string();
    assert!(error.contains("overlap") && error.contains("offset_increment"), "{error}");
}

#[test]
fn blocks_count_only_in_directions_that_are_used() {
    let job = spec("rw=randwrite bs=4k,8k,1m size=1m");
    assert_eq!((min_block_bytes(&job), max_block_bytes(&job)), (8192, 8192));
}
