//! The tidy check: rules on the tree itself that no compiler checks, run as a test.
//!
//! Each rule is a function from a [`Tree`] and the [`Config`] in `tests/tidy.toml` to a list of [`Finding`]s, and each
//! has a unit test that shows it fail on a made-up bad sample. Invariants:
//!
//! - A rule looks only at the tree that it is given, never at the disk, so that samples and the project take one path.
//! - What a table allows is needed: an entry that nothing uses any more is a finding too, so tables only shrink.

mod config;
mod dependencies;
mod layers;
mod length;
mod links;
mod machine_paths;
mod module_docs;
mod tree;
mod unsafety;
mod words;

use std::fmt;

pub use config::{Config, ConfigError, Layer, Ratchet};
pub use tree::{RustFile, Tree, TreeError};

/// One place that breaks a rule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Finding {
    /// The file, relative to the project's folder.
    pub path: String,
    /// The line, from 1 up.
    pub line: usize,
    /// What is wrong, and what would be right.
    pub what: String,
}

impl Finding {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Finding {
        Finding { path: path.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// What every rule is: a function from the tree and its settings to the places that break it.
pub type Rule = fn(&Tree, &Config) -> Vec<Finding>;

/// Every rule, by name.
pub const RULES: [(&str, Rule); 10] = [
    ("files are short", length::files),
    ("functions are short", length::functions),
    ("nothing is unfinished", words::check),
    ("unsafe stays in its modules", unsafety::check),
    ("modules say what they are for", module_docs::check),
    ("dependencies are used", dependencies::used),
    ("packages know only whom they may", dependencies::graph),
    ("modules name only whom they may", layers::check),
    ("no path of one machine", machine_paths::check),
    ("links lead somewhere", links::check),
];
