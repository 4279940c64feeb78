//! Options as they were given, before their values are read: settings, in sections, in order.

use super::error::{OptionError, Place};
use super::fio_names;
use super::table::{self, OptionDef, Scope};

/// One option with its value as text.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The option.
    pub def: &'static OptionDef,
    /// The value; what the bare option means when it was given without.
    pub text: String,
    /// Where it was given.
    pub place: Place,
}

/// A section: the options of a job, or options for the jobs that follow.
#[derive(Debug, Clone)]
pub struct Section {
    /// The job's name; `None`: the options are for the jobs that follow.
    pub title: Option<String>,
    /// 0: the command line, from 1: the job files in their order.
    pub source: usize,
    /// The options in the order given.
    pub settings: Vec<Setting>,
}

impl Section {
    /// An empty section. The title `global` is fio's word for "the jobs that follow".
    pub fn new(title: &str, source: usize) -> Self {
        Section { title: (title != "global").then(|| title.to_owned()), source, settings: Vec::new() }
    }
}

impl Setting {
    /// Looks the option up; `value` is `None` when the option was given bare.
    ///
    /// # Errors
    /// The name is unknown or only fio's, or the option needs a value.
    pub fn new(name: &str, value: Option<&str>, place: Place) -> Result<Setting, OptionError> {
        let def = lookup(name, &place)?;
        let text = match value {
            Some(text) => text.to_owned(),
            None if def.kind.value_is_optional() => def.kind.bare_value().to_owned(),
            None => {
                let example = def.kind.placeholder().to_owned();
                return Err(OptionError::MissingValue { place, option: name.to_owned(), example });
            }
        };
        if def.scope == Scope::Run && place != Place::CommandLine {
            return Err(OptionError::NotInJobFile { place, option: def.name.to_owned() });
        }
        Ok(Setting { def, text, place })
    }

    /// The error that this setting's value is wrong.
    pub fn bad_value(&self, problem: super::error::Problem) -> OptionError {
        OptionError::BadValue {
            place: self.place.clone(),
            option: self.def.name,
            value: self.text.clone(),
            what: problem.what,
            right: problem.right,
        }
    }
}

/// The option of this name.
///
/// # Errors
/// [`OptionError::OnlyInFio`] or [`OptionError::Unknown`].
pub fn lookup(name: &str, place: &Place) -> Result<&'static OptionDef, OptionError> {
    if let Some(def) = table::find(name) {
        return Ok(def);
    }
    let (option, place) = (name.to_owned(), place.clone());
    Err(match fio_names::nearest(name) {
        Some(nearest) => OptionError::OnlyInFio { place, option, nearest },
        None => OptionError::Unknown { place, option, similar: table::most_similar(name).map(str::to_owned) },
    })
}
