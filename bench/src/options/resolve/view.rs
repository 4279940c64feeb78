//! The settings that hold for one job, read: its own over those for all jobs, in the order given.

use std::time::Duration;

use super::super::error::{OptionError, Problem};
use super::super::section::Setting;
use super::super::spec::{Extent, KbBase, PerDirection};
use super::super::table::{self, Fallback};
use super::super::value::{Kind, Value};

/// One setting, read.
pub struct Given {
    /// The option's name.
    pub name: &'static str,
    /// The value.
    pub value: Value,
    /// The value as given.
    pub text: String,
    /// The section it stands in, ascending: a later section overrides, within one section two options may contradict.
    pub level: usize,
    /// Whether it stands in the job's own section.
    pub own: bool,
}

/// All settings of one job.
pub struct View {
    /// The job's name, for messages.
    pub job: String,
    /// How its sizes are read.
    pub kb_base: KbBase,
    given: Vec<Given>,
}

impl View {
    /// Reads the settings; each comes with the level of its section. The highest is the job's own when `has_own`.
    ///
    /// # Errors
    /// A value that its option does not take.
    pub fn new(
        job: &str,
        settings: &[(usize, &Setting)],
        own_level: Option<usize>,
    ) -> Result<View, OptionError> {
        let mut kb_base = KbBase::Binary;
        for (_, setting) in settings.iter().filter(|(_, setting)| setting.def.name == "kb_base") {
            kb_base = match read(setting, KbBase::Binary)? {
                Value::Choice("1000") => KbBase::Decimal,
                _ => KbBase::Binary,
            };
        }
        let mut given = Vec::with_capacity(settings.len());
        for &(level, setting) in settings {
            let (name, text) = (setting.def.name, setting.text.clone());
            given.push(Given {
                name,
                value: read(setting, kb_base)?,
                text,
                level,
                own: Some(level) == own_level,
            });
        }
        Ok(View { job: job.to_owned(), kb_base, given })
    }

    /// Every setting in order.
    pub fn all(&self) -> &[Given] {
        &self.given
    }

    /// The setting of this option that holds: the last.
    pub fn last(&self, name: &str) -> Option<&Given> {
        self.given.iter().rev().find(|given| given.name == name)
    }

    /// The value that holds, the default where none is given; `None`: no default either.
    pub fn value(&self, name: &str) -> Option<Value> {
        self.last(name).map_or_else(|| default_of(name), |given| Some(given.value.clone()))
    }

    /// The switch that holds.
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.value(name), Some(Value::Flag(true)))
    }

    /// The number that holds; 0 without one.
    pub fn number(&self, name: &str) -> u64 {
        match self.value(name) {
            Some(Value::Number(number)) => number,
            _ => 0,
        }
    }

    /// The number that holds, limited to 32 bits (the table's ranges keep it there).
    pub fn number_u32(&self, name: &str) -> u32 {
        u32::try_from(self.number(name)).unwrap_or(u32::MAX)
    }

    /// The number that was given, with 0 as not given.
    pub fn positive(&self, name: &str) -> Option<u64> {
        Some(self.number(name)).filter(|number| *number > 0)
    }

    /// The time that holds.
    pub fn time(&self, name: &str) -> Duration {
        match self.value(name) {
            Some(Value::Time(time)) => time,
            _ => Duration::ZERO,
        }
    }

    /// The extent that holds.
    pub fn extent(&self, name: &str) -> Option<Extent> {
        match self.value(name) {
            Some(Value::Extent(extent)) => Some(extent),
            _ => None,
        }
    }

    /// The word that holds; empty without one.
    pub fn choice(&self, name: &str) -> &'static str {
        match self.value(name) {
            Some(Value::Choice(word)) => word,
            _ => "",
        }
    }

    /// The text that holds.
    pub fn text(&self, name: &str) -> Option<String> {
        match self.value(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The names that hold.
    pub fn names(&self, name: &str) -> Vec<String> {
        match self.value(name) {
            Some(Value::Names(names)) => names,
            _ => Vec::new(),
        }
    }

    /// The indices that hold; none without any.
    pub fn indices(&self, name: &str) -> Vec<u16> {
        match self.value(name) {
            Some(Value::Indices(list)) => list,
            _ => Vec::new(),
        }
    }

    /// Numbers for each direction: what a setting leaves out keeps what an earlier one said.
    pub fn triple(&self, name: &str) -> PerDirection<Option<u64>> {
        let mut held = PerDirection::default();
        for given in self.given.iter().filter(|given| given.name == name) {
            if let Value::Triple(PerDirection { read, write, trim }) = given.value {
                held = PerDirection {
                    read: read.or(held.read),
                    write: write.or(held.write),
                    trim: trim.or(held.trim),
                };
            }
        }
        held
    }

    /// The level of the section whose setting of this option holds.
    pub fn level(&self, name: &str) -> Option<usize> {
        self.last(name).map(|given| given.level)
    }

    /// The option with its value as given, for messages.
    pub fn shown(&self, name: &str) -> String {
        match self.last(name) {
            Some(given) => format!("{name}={}", given.text),
            None => match table::find(name).map(|option| option.default) {
                Some(Fallback::Is(default)) => format!("{name}={default} (the default)"),
                _ => format!("no {name}"),
            },
        }
    }

    /// The error that options of this job cannot hold together.
    pub fn contradiction(&self, what: impl Into<String>, right: impl Into<String>) -> OptionError {
        OptionError::Contradiction { job: self.job.clone(), what: what.into(), right: right.into() }
    }
}

fn read(setting: &Setting, kb_base: KbBase) -> Result<Value, OptionError> {
    // An optional text is empty when it was left out, so that only here an empty value is no mistake.
    if setting.text.trim().is_empty() && !matches!(setting.def.kind, Kind::OptionalText) {
        return Err(
            setting.bad_value(Problem::new("the value is empty", setting.def.kind.describe() + " is right"))
        );
    }
    setting.def.kind.parse(&setting.text, kb_base).map_err(|problem| setting.bad_value(problem))
}

/// The table's default of an option.
pub fn default_of(name: &str) -> Option<Value> {
    let option = table::find(name)?;
    let Fallback::Is(text) = option.default else { return None };
    // A default such as 4k is 4096 whatever kb_base says: it is fio's number, not the user's text.
    option.kind.parse(text, KbBase::Binary).ok()
}
