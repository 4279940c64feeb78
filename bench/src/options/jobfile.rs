//! fio's job files: INI sections, comments, `include`, environment variables and keywords.
//!
//! A `;` or `#` anywhere begins a comment, as in fio. `${NAME}` in a value is the environment variable, which must be
//! set; `$pagesize`, `$mb_memory` and `$ncpus` are the machine's.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::error::{OptionError, Place};
use super::section::{Section, Setting};

/// How deep `include` may nest: deeper is taken for a file that includes itself.
const INCLUDE_DEPTH_MAX: usize = 16;

/// Reads a job file; `-` is standard input.
///
/// # Errors
/// The file cannot be read, a line is none of the dialect's, or an option is unknown or lacks its value.
pub fn read(path: &Path, source: usize, sections: &mut Vec<Section>) -> Result<(), OptionError> {
    let text = load(path, &Place::CommandLine)?;
    parse(path, &text, source, sections)
}

/// Takes a job file's text apart; `path` is what messages and relative includes name.
///
/// # Errors
/// As [`read`].
pub fn parse(path: &Path, text: &str, source: usize, sections: &mut Vec<Section>) -> Result<(), OptionError> {
    let mut reader = Reader { source, sections, current: None, depth: 0 };
    reader.text(path, text)?;
    reader.finish_section();
    Ok(())
}

struct Reader<'a> {
    source: usize,
    sections: &'a mut Vec<Section>,
    current: Option<Section>,
    depth: usize,
}

impl Reader<'_> {
    fn text(&mut self, path: &Path, text: &str) -> Result<(), OptionError> {
        for (index, raw) in text.lines().enumerate() {
            let line = raw.split([';', '#']).next().unwrap_or_default().trim();
            let place = Place::File { path: path.to_owned(), line: index + 1 };
            match (line.strip_prefix('['), include_target(line)) {
                _ if line.is_empty() => {}
                (Some(rest), _) => self.begin_section(rest, line, &place)?,
                (None, Some(target)) => self.include(path, target, line, &place)?,
                (None, None) => self.option(line, &place)?,
            }
        }
        Ok(())
    }

    fn begin_section(&mut self, rest: &str, line: &str, place: &Place) -> Result<(), OptionError> {
        let title = rest.rsplit_once(']').map(|(title, _)| title.trim()).filter(|title| !title.is_empty());
        let Some(title) = title else {
            return Err(syntax(place, line, "a section without a title or without its ]", "[name] is right"));
        };
        if self.depth > 0 {
            let right = "options only, for the section that includes the file";
            return Err(syntax(place, line, "a section in an included file", right));
        }
        self.finish_section();
        self.current = Some(Section::new(title, self.source));
        Ok(())
    }

    fn finish_section(&mut self) {
        self.sections.extend(self.current.take());
    }

    fn include(&mut self, from: &Path, target: &str, line: &str, place: &Place) -> Result<(), OptionError> {
        if target.is_empty() {
            return Err(syntax(place, line, "no file is named", "include FILE is right"));
        }
        if self.depth >= INCLUDE_DEPTH_MAX {
            let what = format!("includes nest deeper than {INCLUDE_DEPTH_MAX}");
            return Err(syntax(place, line, &what, "a file must not include itself"));
        }
        let target = PathBuf::from(expand(target, line, place)?);
        // fio's order: from the working directory first, then from where the including file lies.
        let beside = from.parent().map(|folder| folder.join(&target)).filter(|_| target.is_relative());
        let path = if target.exists() { target } else { beside.unwrap_or(target) };
        let text = load(&path, place)?;
        self.depth += 1;
        let result = self.text(&path, &text);
        self.depth -= 1;
        result
    }

    fn option(&mut self, line: &str, place: &Place) -> Result<(), OptionError> {
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name.trim(), Some(expand(value.trim(), line, place)?)),
            None => (line, None),
        };
        let setting = Setting::new(name, value.as_deref(), place.clone())?;
        let Some(section) = &mut self.current else {
            return Err(syntax(
                place,
                line,
                "an option before the first section",
                "[global] or [name] above it is right",
            ));
        };
        if section.title.is_none() && setting.def.name == "name" {
            return Err(syntax(place, line, "a name for all jobs", "name belongs into a job's section"));
        }
        section.settings.push(setting);
        Ok(())
    }
}

fn include_target(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("include")?;
    let target = rest.trim_start().trim_start_matches('=').trim();
    (rest.is_empty() || rest.starts_with([' ', '\t', '='])).then_some(target)
}

fn load(path: &Path, place: &Place) -> Result<String, OptionError> {
    let result = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    result.map_err(|source| {
        let looks_like_value = matches!(path.to_str(), Some("0" | "1"));
        let hint =
            if looks_like_value { "; a switch takes its value after =, such as --direct=1" } else { "" };
        OptionError::Read { place: place.clone(), path: path.to_owned(), source, hint: hint.to_owned() }
    })
}

/// Replaces `${NAME}` by the environment's value and fio's keywords by the machine's.
fn expand(text: &str, line: &str, place: &Place) -> Result<String, OptionError> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let Some((name, tail)) = after.split_once('}') else {
            return Err(syntax(place, line, "${ is not closed", "${NAME} is right"));
        };
        let Ok(value) = std::env::var(name) else {
            let right = format!("set it: {name}=VALUE before the command is right");
            return Err(syntax(place, line, &format!("the environment variable {name} is not set"), &right));
        };
        expanded.push_str(before);
        expanded.push_str(&value);
        rest = tail;
    }
    expanded.push_str(rest);
    if expanded.contains("$pagesize") {
        expanded = expanded.replace("$pagesize", &rustix::param::page_size().to_string());
    }
    if expanded.contains("$ncpus") {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        expanded = expanded.replace("$ncpus", &cpus.to_string());
    }
    if expanded.contains("$mb_memory") {
        let Some(mebibytes) = memory_mebibytes() else {
            return Err(syntax(
                place,
                line,
                "the size of memory is not known",
                "give a number instead of $mb_memory",
            ));
        };
        expanded = expanded.replace("$mb_memory", &mebibytes.to_string());
    }
    Ok(expanded)
}

/// MemTotal of /proc/meminfo (proc_meminfo(5)), in MiB.
fn memory_mebibytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = total.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kibibytes / 1024)
}

fn syntax(place: &Place, line: &str, what: &str, right: &str) -> OptionError {
    OptionError::Syntax {
        place: place.clone(),
        line: line.to_owned(),
        what: what.to_owned(),
        right: right.to_owned(),
    }
}
