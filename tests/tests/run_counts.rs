//! How `tests/run` counts: what it makes of the reports of the two programs that run tests.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

fn count(program: &str, report: &str) -> String {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("count").join(program);
    let mut awk = Command::new("awk");
    let awk = awk.arg("-f").arg(program).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = awk.spawn().unwrap_or_else(|err| panic!("cannot start awk: {err}"));
    child.stdin.take().expect("it is a pipe").write_all(report.as_bytes()).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn a_junit_report_is_counted() {
    let report = r#"
<testsuites name="nextest-run" tests="5" skipped="0" failures="2" errors="0">
    <testsuite name="a" tests="5">
        <testcase name="aborts" classname="a" time="0.009">
            <failure message="SIGABRT" type="test abort">SIGABRT</failure>
            <system-out>
SKIPPED: fio: but then it failed
</system-out>
        </testcase>
        <testcase name="mentions" classname="a">
            <system-out>
not SKIPPED: here
</system-out>
        </testcase>
        <testcase name="skips::twice" classname="a">
            <system-out>
running 1 test
SKIPPED: fio: not &lt;there&gt;
SKIPPED: qemu-img: neither
</system-out>
        </testcase>
        <testcase name="skips_at_once" classname="a">
            <system-err>SKIPPED: kernel: too old
</system-err>
        </testcase>
        <testcase name="silent" classname="a"/>
        <testcase name="fails" classname="a">
            <failure message="x" type="test failure with exit code 101">x</failure>
        </testcase>
    </testsuite>
</testsuites>
"#;
    let counted = "2 2 2\nfio: not &lt;there&gt; (skips::twice)\nkernel: too old (skips_at_once)\n";
    assert_eq!(count("junit.awk", report), counted);
    assert_eq!(count("junit.awk", ""), "0 0 0\n");
}

#[test]
fn the_output_of_libtest_is_counted() {
    let report = "
running 4 tests
successes:

---- mentions stdout ----
not SKIPPED: here

---- skips stdout ----
SKIPPED: fio: not there
SKIPPED: qemu-img: neither

successes:
    mentions
    skips

failures:

---- fails stdout ----
SKIPPED: fio: but then it failed

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.13s

running 1 test
successes:

---- src/lib.rs - skips (line 1) stdout ----
SKIPPED: kernel: too old

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
";
    let counted = "1 1 3\nfio: not there (skips)\nkernel: too old (src/lib.rs - skips (line 1))\n";
    assert_eq!(count("libtest.awk", report), counted);
    assert_eq!(count("libtest.awk", ""), "0 0 0\n");
}
