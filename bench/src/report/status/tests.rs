//! Tests of the status line.

use super::*;

fn snapshot() -> StatusSnapshot {
    StatusSnapshot {
        jobs: vec![JobState { phase: Phase::Running, mix: Mix::Read, sequential: false }],
        open_files: 1,
        limit: None,
        rates: PerDirection([
            RateWindow { bytes_per_s: 1234 << 20, iops: 315_904 },
            Default::default(),
            Default::default(),
        ]),
        elapsed_s: 5,
        eta_s: Some(5),
    }
}

#[test]
fn a_running_job() {
    assert_eq!(snapshot().line(), "Jobs: 1 (f=1): [r(1)][50.0%][r=1234MiB/s][r=316k IOPS][eta 00m:05s]");
}

#[test]
fn several_jobs_in_several_phases() {
    let mut status = snapshot();
    let job = status.jobs[0];
    status.jobs = vec![
        JobState { phase: Phase::Reaped, ..job },
        JobState { phase: Phase::Reaped, ..job },
        JobState { mix: Mix::Both, ..job },
        JobState { phase: Phase::Pending, ..job },
    ];
    status.rates[Direction::Write] = RateWindow { bytes_per_s: 188 << 20, iops: 48_200 };
    status.eta_s = Some(3600 * 26 + 61);
    status.limit = Some(RateLimit::Bytes(0, 8 << 20));
    assert_eq!(
        status.line(),
        "Jobs: 1 (f=1), 0B/s-8192KiB/s: [_(2),m(1),P(1)][0.0%][r=1234MiB/s,w=188MiB/s]\
         [r=316k,w=48.2k IOPS][eta 01d:02h:01m:01s]"
    );
}

#[test]
fn without_a_guess_only_the_count_is_shown() {
    assert_eq!(StatusSnapshot { eta_s: None, ..snapshot() }.line(), "Jobs: 1 (f=1)");
    let limited = StatusSnapshot { eta_s: None, limit: Some(RateLimit::Iops(0, 2000)), ..snapshot() };
    assert_eq!(limited.line(), "Jobs: 1 (f=1), 0-2000 IOPS");
    let mut ramping = snapshot();
    ramping.jobs[0].phase = Phase::Ramp;
    assert!(ramping.line().contains("[/(1)][-.-%]"), "{}", ramping.line());
    let still = StatusSnapshot { rates: PerDirection::default(), ..snapshot() };
    assert_eq!(still.line(), "Jobs: 1 (f=1): [r(1)][50.0%][eta 00m:05s]");
}

#[test]
fn the_guess_takes_what_ends_the_job_first() {
    let job = JobProgress {
        phase: Phase::Running,
        bytes_total: Some(1000),
        bytes_done: 250,
        time_limit_s: None,
        elapsed_s: 10,
        start_delay_s: 0,
    };
    assert_eq!(job.eta_s(), Some(30));
    assert_eq!(JobProgress { time_limit_s: Some(15), ..job }.eta_s(), Some(5));
    assert_eq!(JobProgress { time_limit_s: Some(60), ..job }.eta_s(), Some(30));
    assert_eq!(JobProgress { bytes_done: 0, ..job }.eta_s(), None);
    assert_eq!(JobProgress { bytes_done: 2000, ..job }.eta_s(), Some(0));
    assert_eq!(JobProgress { phase: Phase::Reaped, ..job }.eta_s(), Some(0));
    let pending = JobProgress { phase: Phase::Pending, time_limit_s: Some(60), start_delay_s: 5, ..job };
    assert_eq!(pending.eta_s(), Some(65));
    assert_eq!(JobProgress::eta_of_all_s(&[job, pending], 10), Some(65));
    assert_eq!(JobProgress::eta_of_all_s(&[job, pending], 1), None);
}

#[test]
fn a_shorter_line_covers_a_longer_one() {
    let mut pen = StatusPen::default();
    assert_eq!(pen.erase(), "");
    assert_eq!(pen.draw("long line"), "long line\r");
    assert_eq!(pen.draw("short"), "short    \r");
    assert_eq!(pen.erase(), "     \r");
    assert_eq!(pen.erase(), "");
}

#[test]
fn eta_is_drawn_where_it_is_wanted() {
    assert!(EtaWhen::Auto.draws(true) && !EtaWhen::Auto.draws(false));
    assert!(EtaWhen::Always.draws(false) && !EtaWhen::Never.draws(true));
}

#[test]
fn rates_of_jobs_are_summed() {
    let rates = snapshot().rates;
    let sum = sum_rates([&rates, &rates]);
    assert_eq!(sum[Direction::Read].iops, 2 * 315_904);
    assert_eq!(sum[Direction::Write], RateWindow::default());
}
