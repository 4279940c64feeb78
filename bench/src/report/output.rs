//! fio's `output-format=`: one or several formats, one after the other.

use super::json::{JsonKind, json};
use super::model::RunReport;
use super::normal::normal;
use super::terse::terse;

/// A format of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputFormat {
    /// Text for people.
    Normal,
    /// Terse, version 3.
    Terse,
    /// JSON.
    Json,
    /// JSON with all bars of the histograms.
    JsonPlus,
}

/// The report in all `formats`, in fio's order whatever theirs: terse, JSON, normal. JSON+ stands for both kinds of
/// JSON where both are asked.
pub fn render(run: &RunReport, formats: &[OutputFormat]) -> String {
    let wants = |format| formats.contains(&format);
    let mut out = String::new();
    if wants(OutputFormat::Terse) {
        out.push_str(&terse(run));
    }
    if wants(OutputFormat::JsonPlus) {
        out.push_str(&json(run, JsonKind::Plus));
    } else if wants(OutputFormat::Json) {
        out.push_str(&json(run, JsonKind::Plain));
    }
    if wants(OutputFormat::Normal) {
        out.push_str(&normal(run));
    }
    out
}
