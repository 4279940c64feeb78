//! The command line: a clap command made from the table, read in order.
//!
//! As in fio every `--name` begins a job, options before the first hold for all jobs, and arguments without dashes
//! are job files. A single dash does for a double one, as getopt_long_only(3) has it.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::error::{OptionError, Place};
use super::help;
use super::section::{self, Section, Setting};
use super::table::{self, OptionDef, Scope};

const FILES: &str = "job files";

/// The command line, taken apart.
#[derive(Debug)]
pub enum Taken {
    /// Print this and end.
    Text(String),
    /// Options and files.
    Options {
        /// Options of the run.
        run: Vec<Setting>,
        /// Sections in order; the first is for all jobs and may be empty.
        sections: Vec<Section>,
        /// Job files in order.
        files: Vec<PathBuf>,
    },
}

/// The clap command, every option of the table an argument.
pub fn command() -> Command {
    let options = table::all().enumerate().map(|(index, option)| argument(index, option));
    Command::new("corelane-bench")
        .no_binary_name(true)
        .version(env!("CARGO_PKG_VERSION"))
        .about("Measures block devices the way fio does, through Corelane's lanes.")
        .override_usage(
            "corelane-bench [options] [job options] [job file ...]\n       corelane-bench            \
             (a short built-in job set on a scratch file)",
        )
        .after_help(
            "Every --name begins a job; options before the first hold for all. --cmdhelp=OPTION tells more.",
        )
        .args(options)
        .arg(
            Arg::new(FILES)
                .action(ArgAction::Append)
                .value_name("JOB FILE")
                .help("Job files, fio's format; - is standard input"),
        )
}

fn argument(index: usize, option: &'static OptionDef) -> Arg {
    let arg = Arg::new(option.name)
        .long(option.name)
        .visible_aliases(option.aliases)
        .action(ArgAction::Append)
        .help_heading(option.group.title())
        .display_order(index)
        .value_name(option.kind.placeholder())
        .help(help::line(option));
    if option.kind.value_is_optional() {
        let bare: Resettable<clap::builder::OsStr> =
            clap::builder::OsStr::from(option.kind.bare_value()).into();
        return arg.num_args(0..=1).require_equals(true).default_missing_value(bare);
    }
    arg.num_args(1)
}

/// Takes the arguments after the program's name apart.
///
/// # Errors
/// An argument is not UTF-8, a name is unknown or only fio's, or a value is missing.
pub fn take(args: impl IntoIterator<Item = OsString>) -> Result<Taken, OptionError> {
    let args = normalise(args)?;
    let matches = match command().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return Ok(Taken::Text(error.to_string()));
        }
        Err(error) => return Err(OptionError::CommandLine { message: message_of(&error) }),
    };
    let (mut run, mut sections) = (Vec::new(), Vec::new());
    let mut current = Section::new("global", 0);
    for (option, text) in in_order(&matches) {
        let setting = Setting::new(option.name, Some(&text), Place::CommandLine)?;
        match (option.scope, option.name) {
            (Scope::Run, "cmdhelp") => return help::command_help(&text).map(Taken::Text),
            (Scope::Run, _) => run.push(setting),
            (Scope::Job, "name") => sections.push(std::mem::replace(&mut current, job_section(&setting)?)),
            (Scope::Job, _) => current.settings.push(setting),
        }
    }
    sections.push(current);
    let files = matches.get_many::<String>(FILES).unwrap_or_default().map(PathBuf::from).collect();
    Ok(Taken::Options { run, sections, files })
}

fn job_section(setting: &Setting) -> Result<Section, OptionError> {
    setting
        .def
        .kind
        .parse(&setting.text, super::KbBase::Binary)
        .map_err(|problem| setting.bad_value(problem))?;
    Ok(Section::new(&setting.text, 0))
}

/// Every occurrence of an option with its value, in the order of the command line.
fn in_order(matches: &ArgMatches) -> Vec<(&'static OptionDef, String)> {
    let mut found = Vec::new();
    for option in table::all() {
        let values = matches.get_many::<String>(option.name).unwrap_or_default();
        let indices = matches.indices_of(option.name).unwrap_or_default();
        found.extend(indices.zip(values).map(|(index, value)| (index, option, value.clone())));
    }
    found.sort_by_key(|entry| entry.0);
    found.into_iter().map(|(_, option, value)| (option, value)).collect()
}

/// Refuses what clap could only refuse with fewer words, and doubles single dashes.
fn normalise(args: impl IntoIterator<Item = OsString>) -> Result<Vec<String>, OptionError> {
    let mut taken = Vec::new();
    let mut options = true;
    for arg in args {
        let mut arg = arg
            .into_string()
            .map_err(|arg| OptionError::NotUtf8 { argument: arg.to_string_lossy().into_owned() })?;
        options &= arg != "--";
        if options && arg.len() > 2 && arg.starts_with('-') {
            if !arg.starts_with("--") {
                arg.insert(0, '-');
            }
            let name = arg[2..].split('=').next().unwrap_or_default();
            if !["help", "version"].contains(&name) {
                section::lookup(name, &Place::CommandLine)?;
            }
        }
        taken.push(arg);
    }
    Ok(taken)
}

/// clap's message without its decoration.
fn message_of(error: &clap::Error) -> String {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    first.strip_prefix("error: ").unwrap_or(first).to_owned()
}
