//! The settings of the tidy check: `tests/tidy.toml`, and the exceptions in `tests/tidy-ratchet.toml`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// What is allowed where. One table a rule.
#[derive(Clone, Default, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Most lines of a Rust file.
    pub file_lines: usize,
    /// Most lines of a function, from `fn` to its closing brace.
    pub function_lines: usize,
    /// The files that may contain `unsafe`.
    pub unsafe_modules: BTreeSet<String>,
    /// Macros that stand for unfinished work.
    pub banned_macros: BTreeSet<String>,
    /// Words in a source file that stand for unfinished work.
    pub banned_words: BTreeSet<String>,
    /// Folders, without the leading slash, that name somebody's machine.
    pub machine_folders: BTreeSet<String>,
    /// Library crates' names where they differ from their packages'.
    pub crate_names: BTreeMap<String, String>,
    /// For each package of the workspace, which others it may depend on (those for its tests included).
    pub graph: BTreeMap<String, BTreeSet<String>>,
    /// What the modules of a folder may not name.
    pub layers: Vec<Layer>,
    /// The exceptions from the lengths.
    #[serde(skip)]
    pub ratchet: Ratchet,
}

/// A folder whose modules may not name certain others.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// The folder or file, relative to the project's folder.
    pub within: String,
    /// Paths that may not be named there, such as `crate::block` or `corelane_drivers`.
    pub may_not_name: Vec<String>,
    /// Why.
    pub because: String,
}

/// Files and functions that are longer than allowed, with the length that they have now. Entries only shrink.
#[derive(Clone, Default, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ratchet {
    /// Path to lines.
    pub files: BTreeMap<String, usize>,
    /// `path::function` to lines.
    pub functions: BTreeMap<String, usize>,
}

/// A settings file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct ConfigError {
    /// Which file.
    pub path: &'static str,
    /// What the parser says.
    pub source: toml::de::Error,
}

/// Where the settings are, relative to the project's folder.
pub(super) const CONFIG_PATH: &str = "tests/tidy.toml";
/// Where the exceptions are, relative to the project's folder.
pub(super) const RATCHET_PATH: &str = "tests/tidy-ratchet.toml";

impl Config {
    /// From the text of the two files.
    ///
    /// # Errors
    /// When one is no TOML or has a key that no rule knows.
    pub fn parse(config: &str, ratchet: &str) -> Result<Config, ConfigError> {
        let mut parsed: Config =
            toml::from_str(config).map_err(|source| ConfigError { path: CONFIG_PATH, source })?;
        parsed.ratchet =
            toml::from_str(ratchet).map_err(|source| ConfigError { path: RATCHET_PATH, source })?;
        Ok(parsed)
    }
}
