//! The NVMe engine as a person uses it, on the controller in software.

mod common;

use common::{folder, ios, run};

#[test]
fn a_controller_in_software_needs_no_hardware() {
    let folder = folder();
    let ran = run(
        folder.path(),
        "--name=n --ioengine=nvme --filename=model:8m --rw=randread --iodepth=8 --output-format=json",
    );
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let report = ran.json();
    assert_eq!(ios(&report["jobs"][0]), [2048, 0, 0]);
    assert_eq!(report["jobs"][0]["error"], 0);
    assert_eq!(ran.err, "", "the driver keeps to the specification");
}

/// Two lanes write unaligned blocks and read them back; another job verifies what the first has left.
#[test]
fn what_is_written_is_read_back() {
    let folder = folder();
    let job = "--ioengine=nvme --filename=model:16m --rw=randrw --bs=512-64k --ba=512 --verify=crc32c --iodepth=8 --numjobs=2";
    let ran = run(folder.path(), &format!("--name=v {job} --output-format=json"));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let report = ran.json();
    for job in report["jobs"].as_array().expect("jobs") {
        assert_eq!(job["error"], 0);
        let [reads, writes, _] = ios(job);
        assert!(reads > 0 && writes > 0, "{report}");
    }
    assert_eq!(ran.err, "");
}

#[test]
fn jobs_share_a_controller_and_what_is_on_it() {
    let folder = folder();
    let global = "--ioengine=nvme --filename=model:4m --bs=64k --verify=xxhash --output-format=json";
    let ran = run(
        folder.path(),
        &format!("{global} --name=w --rw=write --do_verify=0 --name=r --stonewall --rw=write --verify_only"),
    );
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let report = ran.json();
    assert_eq!(report["jobs"][0]["error"], 0);
    assert_eq!(report["jobs"][1]["error"], 0);
    assert_eq!(ios(&report["jobs"][1])[0], 64, "the second job reads what the first wrote");
}

/// Polling, looking for a while, and sleeping until the interrupt all end with all requests.
#[test]
fn every_way_to_wait_completes_everything() {
    let folder = folder();
    for poll in ["busy", "adaptive", "interrupt"] {
        let ran = run(
            folder.path(),
            &format!(
                "--name=p --ioengine=nvme --filename=model:4m --rw=randwrite --iodepth=4 --poll={poll} --output-format=json"
            ),
        );
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{poll}");
        assert_eq!(ios(&ran.json()["jobs"][0])[1], 1024, "{poll}");
    }
}

#[test]
fn names_that_lead_nowhere_are_refused_with_the_reason() {
    let folder = folder();
    for (filename, word) in [
        ("model:banana", "banana"),
        ("model:4m/7", "4m/7"),
        ("disk.img", "0000:01:00.0/1"),
        ("0000:01:00.0/0", "number"),
        ("ffff:ff:1f.7/1", "ffff:ff:1f.7"),
        ("vfio-user:nowhere/1", "nowhere"),
    ] {
        let ran = run(folder.path(), &format!("--name=x --ioengine=nvme --filename={filename} --rw=read"));
        assert_eq!(ran.code, Some(1), "{filename}: {}", ran.err);
        assert!(ran.err.starts_with("corelane-bench: job x: "), "{filename}: {}", ran.err);
        assert!(ran.err.contains(word), "{filename}: {}", ran.err);
    }
    let ran = run(folder.path(), "--name=x --ioengine=nvme --rw=read");
    assert!(ran.code == Some(2) && ran.err.contains("model:256m"), "{}", ran.err);
}

/// The model has what the job asks for, and has nothing against how it is used.
#[test]
fn writes_are_placed_by_the_handles_that_are_named() {
    let folder = folder();
    let job = "--name=p --ioengine=nvme --filename=model:4m --rw=randwrite --verify=crc32c --iodepth=4";
    for how in
        ["--fdp=1", "--dataplacement=fdp --plids=1,3-5", "--fdp=1 --fdp_pli=7 --plid_select=roundrobin"]
    {
        let ran = run(folder.path(), &format!("{job} {how} --output-format=json"));
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{how}");
        assert_eq!(ios(&ran.json()["jobs"][0])[1], 1024, "{how}");
    }
    let ran = run(folder.path(), &format!("{job} --fdp=1 --plids=8"));
    assert!(ran.code == Some(1) && ran.err.contains("handle 8 is asked for, but it has 8"), "{}", ran.err);
}
