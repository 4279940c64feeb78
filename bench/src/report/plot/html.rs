//! The page: the picture, and a table with a row per job and direction.

use std::fmt::Write;

use super::curves::shown_latency;
use crate::report::model::RunReport;
use crate::report::number;
use crate::stats::Direction;

const STYLE: &str = "\
body { font: 15px/1.5 system-ui, sans-serif; color: #282c34; background: #fff; max-width: 1120px; \
margin: 2em auto; padding: 0 1em; }
div { overflow-x: auto; }
table { border-collapse: collapse; margin: 1.5em 0; font-size: 14px; }
th, td { padding: 0.3em 0.6em; text-align: right; white-space: nowrap; border-bottom: 1px solid #e2e5e9; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
th { border-bottom: 2px solid #b8bec8; }
svg { max-width: 100%; height: auto; }
";

/// Percentiles in the table.
const PERCENTILES: [f64; 4] = [50.0, 99.0, 99.9, 99.99];

/// The whole page.
pub fn page(run: &RunReport, svg: &str) -> String {
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>{version}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n{svg}\n<div>\n",
        version = escape(&run.version),
    );
    out.push_str(
        "<table>\n<tr><th>job</th><th>direction</th><th>requests</th><th>IOPS</th><th>bandwidth</th>\
         <th>mean latency</th><th>50 %</th><th>99 %</th><th>99.9 %</th><th>99.99 %</th><th>max</th>\
         <th>CPU</th></tr>\n",
    );
    for job in &run.jobs {
        let (user, system) = job.stats.cpu_percent();
        for direction in Direction::ALL {
            let stats = &job.stats.directions[direction];
            if stats.ios == 0 {
                continue;
            }
            let (kind, latency) = shown_latency(job, direction);
            let moments = latency.moments();
            let mut cells = vec![
                escape(&job.name),
                direction.name().to_owned(),
                stats.ios.to_string(),
                number::count(stats.ios_per_s()),
                number::bandwidth(stats.bytes_per_s()).0,
            ];
            if moments.samples() == 0 {
                cells.extend(std::iter::repeat_n("\u{2013}".to_owned(), PERCENTILES.len() + 2));
            } else {
                cells.push(format!("<span title=\"{kind}\">{}</span>", duration(moments.mean())));
                let list = latency.percentiles_ns(&PERCENTILES);
                cells.extend(PERCENTILES.iter().enumerate().map(|(index, _)| {
                    list.get(index).map_or_else(|| "\u{2013}".to_owned(), |&(_, ns)| duration(ns as f64))
                }));
                cells.push(duration(moments.max() as f64));
            }
            cells.push(format!("{:.1} %", user + system));
            writeln!(out, "<tr><td>{}</td></tr>", cells.join("</td><td>"))
                .expect("writing to a String cannot fail");
        }
    }
    out.push_str("</table>\n</div>\n</body>\n</html>\n");
    out
}

/// Nanoseconds in the unit that leaves one to three digits before the point.
pub fn duration(ns: f64) -> String {
    let (value, unit) = match ns {
        _ if ns < 1e3 => (ns, "ns"),
        _ if ns < 1e6 => (ns / 1e3, "\u{b5}s"),
        _ if ns < 1e9 => (ns / 1e6, "ms"),
        _ => (ns / 1e9, "s"),
    };
    let decimals = if value >= 99.95 || value.fract().abs() < 1e-6 { 0 } else { 1 };
    format!("{value:.decimals$} {unit}")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
