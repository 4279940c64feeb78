//! Where the report goes, and what goes there beside it.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use super::error::RunError;
use crate::options::{self, GlobalSpec};
use crate::report::{self, OutputFormat, RunReport};

/// Standard output, or the file of `--output`.
pub struct Output {
    file: Option<(PathBuf, File)>,
    formats: Vec<OutputFormat>,
}

impl Output {
    /// Opens it, so that a run does not end without a place for its report.
    ///
    /// # Errors
    /// [`RunError::Output`] when the file cannot be made.
    pub fn open(global: &GlobalSpec) -> Result<Output, RunError> {
        let file = match &global.output {
            None => None,
            Some(path) => {
                let failed = |source| RunError::Output { what: "the report", to: path.clone(), source };
                Some((path.clone(), File::create(path).map_err(failed)?))
            }
        };
        let format = |format: &options::OutputFormat| match format {
            options::OutputFormat::Normal => OutputFormat::Normal,
            options::OutputFormat::Terse => OutputFormat::Terse,
            options::OutputFormat::Json => OutputFormat::Json,
            options::OutputFormat::JsonPlus => OutputFormat::JsonPlus,
        };
        Ok(Output { file, formats: global.formats.iter().map(format).collect() })
    }

    /// Whether people read it, among others.
    pub fn is_normal(&self) -> bool {
        self.formats.contains(&OutputFormat::Normal)
    }

    /// Writes a report in every format that is asked for.
    ///
    /// # Errors
    /// [`RunError::Output`].
    pub fn report(&mut self, report: &RunReport) -> Result<(), RunError> {
        self.text(&report::render(report, &self.formats))
    }

    /// Writes text as it is.
    ///
    /// # Errors
    /// [`RunError::Output`].
    pub fn text(&mut self, text: &str) -> Result<(), RunError> {
        let (to, written) = match &mut self.file {
            Some((path, file)) => (path.clone(), file.write_all(text.as_bytes())),
            None => {
                let mut out = io::stdout().lock();
                ("standard output".into(), out.write_all(text.as_bytes()).and_then(|()| out.flush()))
            }
        };
        match written {
            // Whoever read it has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(source) => Err(RunError::Output { what: "the report", to, source }),
            Ok(()) => Ok(()),
        }
    }
}

/// Where the progress line is drawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Screen {
    /// Over itself, on the terminal that standard output is.
    Terminal,
    /// Line by line on standard error, so that a report on standard output stays whole.
    Lines,
}

impl Screen {
    /// The terminal where there is one.
    pub fn choose() -> Screen {
        if io::stdout().is_terminal() { Screen::Terminal } else { Screen::Lines }
    }

    /// Writes what a pen has drawn. A screen that is gone is no reason to end a run.
    pub fn write(self, text: &str) {
        let _ = match self {
            Screen::Terminal => {
                let mut out = io::stdout().lock();
                out.write_all(text.as_bytes()).and_then(|()| out.flush())
            }
            Screen::Lines => writeln!(io::stderr(), "{}", text.trim_end()),
        };
    }
}
