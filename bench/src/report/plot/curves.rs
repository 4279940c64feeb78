//! What is drawn: the curves of each job and direction, as numbers.

use crate::report::model::{JobReport, RunReport};
use crate::stats::{Direction, Latency};

/// Most entries that legends and charts show; the jobs beyond are counted in one line.
pub const MAX_CURVES: usize = 16;

/// Longest name in a legend, characters.
const NAME_LENGTH: usize = 24;

/// One job's curves in one direction.
pub struct Curve {
    /// Job and direction.
    pub name: String,
    /// Points (nines, nanoseconds): at n nines are the requests that 1 - 10^-n of all did not exceed.
    pub latency: Vec<(f64, f64)>,
    /// Points (seconds, requests per second).
    pub iops: Vec<(f64, f64)>,
}

/// All curves of a run that have something to show.
pub fn curves(run: &RunReport) -> Vec<Curve> {
    let mut curves = Vec::new();
    for (index, job) in run.jobs.iter().enumerate() {
        let twins = run.jobs.iter().filter(|other| other.name == job.name).count();
        let number = run.jobs[..=index].iter().filter(|other| other.name == job.name).count();
        let name =
            if twins > 1 { format!("{} {number}", short_name(&job.name)) } else { short_name(&job.name) };
        for direction in Direction::ALL {
            if job.stats.directions[direction].ios > 0 {
                curves.push(curve(job, &name, direction));
            }
        }
    }
    curves
}

/// Which latency a job's curve and figures are of, with its name: the one that percentiles are kept of.
pub fn shown_latency(job: &JobReport, direction: Direction) -> (&'static str, &Latency) {
    let stats = &job.stats.directions[direction];
    if stats.lat.has_histogram() { ("total", &stats.lat) } else { ("completion", &stats.clat) }
}

fn curve(job: &JobReport, name: &str, direction: Direction) -> Curve {
    let point =
        |point: &crate::stats::RatePoint| (point.time_ms as f64 / 1000.0, point.rates[direction].iops as f64);
    Curve {
        name: format!("{name} {}", direction.name()),
        latency: latency_points(shown_latency(job, direction).1),
        iops: job.series.points.iter().map(point).collect(),
    }
}

/// 64 points for each nine, as far as there are samples to tell it: a million requests tell six nines.
fn latency_points(latency: &Latency) -> Vec<(f64, f64)> {
    let samples = latency.moments().samples();
    if samples == 0 {
        return Vec::new();
    }
    let nines = (samples as f64).log10().clamp(0.5, 7.0);
    let steps = (nines * 64.0).ceil() as u32;
    let places: Vec<f64> = (0..=steps).map(|step| nines * f64::from(step) / f64::from(steps)).collect();
    let list: Vec<f64> = places.iter().map(|place| 100.0 * (1.0 - 10f64.powf(-place))).collect();
    let values = latency.percentiles_ns(&list);
    places.into_iter().zip(values).map(|(place, (_, ns))| (place, ns.max(1) as f64)).collect()
}

/// A name that fits, with its middle left out: numbered jobs differ at the end.
fn short_name(name: &str) -> String {
    let chars: Vec<char> = name.chars().collect();
    if chars.len() <= NAME_LENGTH {
        return name.to_owned();
    }
    let half = NAME_LENGTH / 2;
    let head: String = chars[..half].iter().collect();
    let tail: String = chars[chars.len() - (NAME_LENGTH - half - 1)..].iter().collect();
    format!("{head}\u{2026}{tail}")
}
