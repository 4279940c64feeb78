//! Options of the whole run, and what of them concerns jobs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::error::{OptionError, Problem};
use super::super::section::Setting;
use super::super::spec::{Access, EtaMode, GlobalSpec, JobSpec, OutputFormat};
use super::super::value::Value;
use super::view::View;

/// The options of the run.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// What the runner works from.
    pub global: GlobalSpec,
    /// Refuse jobs that write or trim.
    pub read_only: bool,
    /// Only check, do not run.
    pub parse_only: bool,
    /// Run only jobs of these names; empty: all.
    pub sections: Vec<String>,
}

impl RunOptions {
    /// Reads the options of the run.
    ///
    /// # Errors
    /// A value that its option does not take, or two that contradict each other.
    pub fn new(settings: &[Setting]) -> Result<RunOptions, OptionError> {
        let levelled: Vec<_> = settings.iter().map(|setting| (0, setting)).collect();
        let view = View::new("(all)", &levelled, Some(0))?;
        let plot = settings.iter().rev().find(|setting| setting.def.name == "plot");
        let global = GlobalSpec {
            output: view.text("output").map(PathBuf::from),
            formats: formats(&view)?,
            eta: match view.choice("eta") {
                "always" => EtaMode::Always,
                "never" => EtaMode::Never,
                _ => EtaMode::Auto,
            },
            eta_interval: view.time("eta-interval"),
            status_interval: Some(view.time("status-interval")).filter(|time| *time > Duration::ZERO),
            plot: plot.map(plot_file).transpose()?,
            given: Vec::new(),
        };
        let sections = view
            .all()
            .iter()
            .filter(|given| given.name == "section")
            .map(|given| given.text.clone())
            .collect();
        Ok(RunOptions {
            global,
            read_only: view.flag("readonly"),
            parse_only: view.flag("parse-only"),
            sections,
        })
    }

    /// Whether a job of this title is to run.
    pub fn wants(&self, title: &str) -> bool {
        self.sections.is_empty() || self.sections.iter().any(|section| section == title)
    }

    /// Every `--section` names a job.
    pub fn check_sections(&self, titles: &[String]) -> Result<(), OptionError> {
        match self.sections.iter().find(|section| !titles.contains(section)) {
            Some(name) => Err(OptionError::NoSuchSection { name: name.clone(), known: titles.join(", ") }),
            None => Ok(()),
        }
    }

    /// What the run's options forbid a job.
    pub fn check_job(&self, view: &View, job: &JobSpec) -> Result<(), OptionError> {
        let verify_only = job.verify.as_ref().is_some_and(|verify| verify.only);
        let changes = job.workload.rw.uses(Access::Write) || job.workload.rw.uses(Access::Trim);
        if self.read_only && changes && !verify_only {
            let what = format!("{} changes data, and --readonly forbids it", view.shown("rw"));
            return Err(view.contradiction(what, "rw=read or rw=randread, or no --readonly, is right"));
        }
        Ok(())
    }
}

fn formats(view: &View) -> Result<Vec<OutputFormat>, OptionError> {
    let formats = match view.value("output-format") {
        Some(Value::Formats(formats)) => formats,
        _ => vec![OutputFormat::Normal],
    };
    if !view.flag("minimal") {
        return Ok(formats);
    }
    if view.last("output-format").is_some() && formats != [OutputFormat::Terse] {
        let what =
            format!("minimal=1 means output-format=terse, and {} is given", view.shown("output-format"));
        return Err(view.contradiction(what, "output-format alone is right"));
    }
    Ok(vec![OutputFormat::Terse])
}

fn plot_file(setting: &Setting) -> Result<PathBuf, OptionError> {
    let path = Path::new(&setting.text);
    let ending = path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase);
    match ending.as_deref() {
        Some("svg" | "html") => Ok(path.to_owned()),
        _ => {
            let problem = Problem::new(
                "the name does not say what kind of picture",
                "a name ending in .svg or .html is right",
            );
            Err(setting.bad_value(problem))
        }
    }
}
