//! Tests of the plots' text; how they look, people have to judge.

use super::*;
use crate::report::samples;
use crate::stats::{Direction, StatsConfig};

fn run() -> RunReport {
    let reader = samples::job("reader", &[Direction::Read], 100_000, StatsConfig::default());
    let mixed = samples::job("mixed", &[Direction::Read, Direction::Write], 20_000, StatsConfig::default());
    samples::run(vec![reader, mixed])
}

#[test]
fn the_picture_names_axes_units_and_jobs() {
    let svg = svg(&run()).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    for word in [
        "Latency by percentile",
        "IOPS over time",
        "99.9%",
        "time (s)",
        "requests per second",
        "reader read",
        "mixed write",
        " ms",
    ] {
        assert!(svg.contains(word), "{word} is missing");
    }
    // A curve per job and direction in each chart.
    assert!(svg.matches("<polyline").count() >= 6, "{}", svg.matches("<polyline").count());
}

#[test]
fn names_are_escaped() {
    let job = samples::job("<script>&", &[Direction::Read], 1000, StatsConfig::default());
    let run = samples::run(vec![job]);
    for text in [svg(&run).unwrap(), html(&run).unwrap()] {
        assert!(!text.contains("<script>"), "{text}");
        assert!(text.contains("&lt;script&gt;"));
    }
}

#[test]
fn the_page_has_a_row_per_job_and_direction() {
    let page = html(&run()).unwrap();
    assert_eq!(page.matches("<tr><td>").count(), 3);
    assert!(page.contains("<svg") && page.contains("50.0k"), "{page}");
}

#[test]
fn runs_without_figures_are_drawn_too() {
    let empty = samples::run(Vec::new());
    assert!(svg(&empty).unwrap().contains("no latencies were recorded"));
    let mut job = samples::job("short", &[Direction::Read], 8, StatsConfig::default());
    job.series.points.truncate(1);
    assert!(svg(&samples::run(vec![job.clone()])).unwrap().contains("<circle"));
    job.series.points.clear();
    job.stats.directions[Direction::Read].clat = Default::default();
    let page = html(&samples::run(vec![job])).unwrap();
    assert!(page.contains("too short") && page.contains("\u{2013}"), "{page}");
}

#[test]
fn many_jobs_are_capped() {
    let job = |number| samples::job(&format!("job{number}"), &[Direction::Read], 100, StatsConfig::default());
    let svg = svg(&samples::run((0..20).map(job).collect())).unwrap();
    assert!(svg.contains("and 4 more, not drawn"));
    assert!(svg.contains("20 jobs"));
}

#[test]
fn the_name_tells_the_kind() {
    assert_eq!(PlotKind::of(Path::new("a/b.SVG")).unwrap(), PlotKind::Svg);
    assert_eq!(PlotKind::of(Path::new("b.html")).unwrap(), PlotKind::Html);
    let error = PlotKind::of(Path::new("b.png")).unwrap_err();
    assert!(error.to_string().contains("b.png") && error.to_string().contains(".svg"), "{error}");
    let error = save(&run(), Path::new("/nowhere/b.svg")).unwrap_err();
    assert!(error.to_string().contains("/nowhere/b.svg"), "{error}");
}

#[test]
fn plots_are_saved() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["run.svg", "run.html"] {
        let path = directory.path().join(name);
        save(&run(), &path).unwrap();
        assert!(fs::read_to_string(&path).unwrap().contains("<svg"));
    }
}
