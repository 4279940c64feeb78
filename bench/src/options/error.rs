//! What can be wrong with the options: each error says where it stands, the value, and what would be right.

use std::fmt;
use std::path::PathBuf;

/// Where an option was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On the command line.
    CommandLine,
    /// In a job file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::CommandLine => write!(f, "command line"),
            Place::File { path, line } => write!(f, "{}:{line}", path.display()),
        }
    }
}

/// Why a value is refused, and what would be right. The option's name and place are added by the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong with the value.
    pub what: String,
    /// What would be right.
    pub right: String,
}

impl Problem {
    /// A problem in words.
    pub fn new(what: impl Into<String>, right: impl Into<String>) -> Self {
        Problem { what: what.into(), right: right.into() }
    }
}

/// Options that cannot be carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OptionError {
    /// A value that the option does not take.
    #[error("{place}: {option}={value}: {what}; {right}")]
    BadValue {
        /// Where it was given.
        place: Place,
        /// The option.
        option: &'static str,
        /// The value as given.
        value: String,
        /// What is wrong with it.
        what: String,
        /// What would be right.
        right: String,
    },
    /// An option without the value that it needs.
    #[error("{place}: {option} needs a value: {option}={example}")]
    MissingValue {
        /// Where it was given.
        place: Place,
        /// The option.
        option: String,
        /// What kind of value.
        example: String,
    },
    /// An option which fio has and this tool has not.
    #[error("{place}: fio has {option}, corelane-bench has not; {nearest}")]
    OnlyInFio {
        /// Where it was given.
        place: Place,
        /// The option.
        option: String,
        /// The nearest that there is, in words.
        nearest: String,
    },
    /// A name that neither fio nor this tool knows.
    #[error("{place}: there is no option {option}{}", hint(.similar.as_deref()))]
    Unknown {
        /// Where it was given.
        place: Place,
        /// The name as given.
        option: String,
        /// The option whose name is most like it.
        similar: Option<String>,
    },
    /// An option of the command line in a job file.
    #[error("{place}: {option} holds for the whole run; give it on the command line as --{option}")]
    NotInJobFile {
        /// Where it was given.
        place: Place,
        /// The option.
        option: String,
    },
    /// Options that cannot hold together.
    #[error("job {job}: {what}; {right}")]
    Contradiction {
        /// The job's name.
        job: String,
        /// Which options, with their values.
        what: String,
        /// What would be right.
        right: String,
    },
    /// Options of jobs but no job.
    #[error("no job is defined: {what}; begin a job with --name=NAME, or give a job file")]
    NoJob {
        /// What was given instead.
        what: String,
    },
    /// `--section=NAME` names a section that no job file has.
    #[error("--section={name}: no job has that name; there are: {known}")]
    NoSuchSection {
        /// The name as given.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// An argument that is not UTF-8.
    #[error("argument {argument}: not valid UTF-8; file names and values must be")]
    NotUtf8 {
        /// The argument, with replacement characters.
        argument: String,
    },
    /// The command line cannot be taken apart.
    #[error("command line: {message}")]
    CommandLine {
        /// What the parser says.
        message: String,
    },
    /// A job file that cannot be read.
    #[error("{place}: cannot read job file {}: {source}{hint}", .path.display())]
    Read {
        /// Where the file was named.
        place: Place,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
        /// What may have been meant; empty or begins with `; `.
        hint: String,
    },
    /// A line of a job file which is no section, option, include or comment.
    #[error("{place}: {line}: {what}; {right}")]
    Syntax {
        /// Where it stands.
        place: Place,
        /// The line.
        line: String,
        /// What is wrong with it.
        what: String,
        /// What would be right.
        right: String,
    },
}

fn hint(similar: Option<&str>) -> String {
    match similar {
        Some(name) => format!("; did you mean {name}?"),
        None => "; --cmdhelp lists all of them".to_owned(),
    }
}
