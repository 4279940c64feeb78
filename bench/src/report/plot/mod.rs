//! `--plot FILE.svg` and `--plot FILE.html`: latency by percentile and IOPS over time, as pictures.
//!
//! Drawn by plotters' SVG backend, which needs neither fonts nor a display; text stays text in the picture.

mod chart;
mod curves;
mod html;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::model::RunReport;

/// A picture that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// The name does not say which kind of file is wanted.
    #[error("cannot tell the kind of plot from {path:?}: its name must end in .svg or .html")]
    Kind {
        /// The file.
        path: PathBuf,
    },
    /// The drawing library refused.
    #[error("cannot draw the plot: {reason}")]
    Draw {
        /// What it said.
        reason: String,
    },
    /// The file could not be written.
    #[error("cannot write the plot {path:?}: {source}; its directory must exist and be writable")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlotKind {
    /// A picture.
    Svg,
    /// A page with the picture and a table of figures.
    Html,
}

impl PlotKind {
    /// Tells the kind from a file name, so that a wrong name is refused before a run and not after it.
    ///
    /// # Errors
    /// [`PlotError::Kind`] unless the name ends in `.svg` or `.html`.
    pub fn of(path: &Path) -> Result<Self, PlotError> {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "svg" => Ok(PlotKind::Svg),
            "html" | "htm" => Ok(PlotKind::Html),
            _ => Err(PlotError::Kind { path: path.to_owned() }),
        }
    }
}

/// The picture of a run, as the text of an SVG file.
///
/// # Errors
/// [`PlotError::Draw`] should the drawing library refuse.
pub fn svg(run: &RunReport) -> Result<String, PlotError> {
    chart::svg(run)
}

/// A page that shows the picture of a run and a table of its figures; it refers to no other file.
///
/// # Errors
/// As [`svg`].
pub fn html(run: &RunReport) -> Result<String, PlotError> {
    Ok(html::page(run, &svg(run)?))
}

/// Writes the plot of a run to a file whose name says the kind.
///
/// # Errors
/// [`PlotError`] when the name says no kind, when drawing fails, or when the file cannot be written.
pub fn save(run: &RunReport, path: &Path) -> Result<(), PlotError> {
    let text = match PlotKind::of(path)? {
        PlotKind::Svg => svg(run)?,
        PlotKind::Html => html(run)?,
    };
    fs::write(path, text).map_err(|source| PlotError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
