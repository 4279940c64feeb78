//! Help texts made from the table: the one-line help, `--cmdhelp`, and the list in `docs/bench.md`.

use std::fmt::Write as _;

use super::error::{OptionError, Place};
use super::section;
use super::table::{self, Fallback, Group, OptionDef};
use super::value::Kind;

/// What `--help` says about an option.
pub fn line(option: &OptionDef) -> String {
    match option.default {
        Fallback::Is(value) => format!("{} [{value}]", option.help),
        Fallback::Means(words) => format!("{} [{words}]", option.help),
    }
}

/// What `--cmdhelp` prints: the list of all options for no name or `all`, otherwise all about one.
///
/// # Errors
/// The name is unknown or only fio's.
pub fn command_help(name: &str) -> Result<String, OptionError> {
    if name.is_empty() || name == "all" {
        return Ok(listing());
    }
    section::lookup(name, &Place::CommandLine).map(details)
}

fn listing() -> String {
    let mut text = String::new();
    for group in Group::ALL {
        let _ = writeln!(text, "{}:", group.title());
        for option in table::all().filter(|option| option.group == group) {
            let first = option.help.split_inclusive(". ").next().unwrap_or_default().trim();
            let _ = writeln!(text, "  {:<27}: {first}", option.name);
        }
    }
    text
}

fn details(option: &'static OptionDef) -> String {
    let mut text = format!("{}: {}\n", option.name, option.help);
    if !option.aliases.is_empty() {
        let _ = writeln!(text, "    alias: {}", option.aliases.join(", "));
    }
    let _ = writeln!(text, "    takes: {}", option.kind.describe());
    let default = match option.default {
        Fallback::Is(text) | Fallback::Means(text) => text,
    };
    let _ = writeln!(text, "  default: {default}");
    if let Kind::Choice(words) = option.kind {
        for (index, word) in words.iter().enumerate() {
            let label = if index == 0 { "   values:" } else { "         :" };
            let _ = writeln!(text, "{label} {:<14} {}", word.word, word.help);
        }
    }
    text
}

/// The list of all options for `docs/bench.md`.
pub fn markdown() -> String {
    let mut text = String::new();
    for group in Group::ALL {
        let _ = writeln!(text, "### {}\n", group.title());
        text.push_str("| Option | Takes | Default | What it does |\n|---|---|---|---|\n");
        for option in table::all().filter(|option| option.group == group) {
            text.push_str(&row(option));
        }
        text.push('\n');
    }
    text
}

fn row(option: &OptionDef) -> String {
    let names: Vec<_> =
        [&option.name].into_iter().chain(option.aliases).map(|name| format!("`{name}`")).collect();
    let default = match option.default {
        Fallback::Is(value) => format!("`{value}`"),
        Fallback::Means(words) => words.to_owned(),
    };
    let takes = match option.kind {
        Kind::Choice(words) => {
            words.iter().map(|word| format!("`{}`", word.word)).collect::<Vec<_>>().join(", ")
        }
        kind => kind.describe(),
    };
    let escape = |text: &str| text.replace('|', r"\|");
    format!(
        "| {} | {} | {} | {} |\n",
        names.join(", "),
        escape(&takes),
        escape(&default),
        escape(option.help)
    )
}
