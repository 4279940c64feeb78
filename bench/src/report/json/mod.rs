//! fio's JSON, and JSON+ with every bar of the latency histograms.
//!
//! Keys, their order and the units are fio 3.33's. Numbers with a fraction have six decimals and a space stands before
//! each colon, as fio writes them, for the sake of readers that match text.

mod style;
mod tree;

use serde::Serialize;

use super::model::RunReport;
use style::FioStyle;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonKind {
    /// `json`: percentiles.
    Plain,
    /// `json+`: percentiles and bins.
    Plus,
}

/// The whole report as one JSON object with a newline behind it.
pub fn json(run: &RunReport, kind: JsonKind) -> String {
    let mut out = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, FioStyle::default());
    tree::Run::new(run, kind)
        .serialize(&mut serializer)
        .expect("writing to a Vec cannot fail, and the tree has only string keys");
    out.push(b'\n');
    String::from_utf8(out).expect("serde_json writes UTF-8")
}
