//! The kinds of values that options take, and how each kind is read from text.
//!
//! The table of options names a [`Kind`] for each option; [`Kind::parse`] is the only way from text to a [`Value`].

use std::time::Duration;

use super::error::Problem;
use super::lists;
use super::spec::{BlockSizes, CpuSet, Distribution, Extent, KbBase, OutputFormat, Pattern, PerDirection};
use super::units::{self, TimeUnit, show_bytes};

/// What an option takes, with the range of it.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// `0` or `1`; without a value `1`.
    Flag,
    /// A whole number, suffixes allowed.
    Count {
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// A number of bytes.
    Bytes {
        /// Smallest.
        min: u64,
    },
    /// Up to three numbers, for reads, writes and trims.
    Triple {
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// Bytes or a percentage.
    Extent {
        /// Smallest number of bytes.
        min_bytes: u64,
        /// Smallest percentage.
        min_percent: u32,
        /// Largest percentage.
        max_percent: u32,
    },
    /// A time; the unit is that of a number without one.
    Time {
        /// The unit of a number without one.
        bare: TimeUnit,
        /// Smallest, microseconds.
        min_us: u64,
    },
    /// A number above 0, up to 100.
    Percentile,
    /// Block sizes, up to three, each a size or a range.
    Blocks,
    /// Block size ranges, up to three.
    BlockRanges,
    /// Block sizes with their shares, up to three lists.
    BlockSplit,
    /// One of several words.
    Choice(&'static [Word]),
    /// Any text but an empty one.
    Text,
    /// Any text; may be left out.
    OptionalText,
    /// Names, separated by colons.
    Names,
    /// CPU numbers and ranges.
    Cpus,
    /// Numbers that count from 0, and ranges of them, in the order given.
    Indices,
    /// Percentiles, separated by colons.
    Percentiles,
    /// A random distribution with its parameters.
    Distribution,
    /// A fill pattern.
    Pattern,
    /// Report formats, separated by commas.
    Formats,
}

/// One of the words of a [`Kind::Choice`].
#[derive(Debug, Clone, Copy)]
pub struct Word {
    /// The word as it is given.
    pub word: &'static str,
    /// The word that it stands for; the same unless it is an alias.
    pub means: &'static str,
    /// What it does.
    pub help: &'static str,
}

/// A value, read.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Of [`Kind::Flag`].
    Flag(bool),
    /// Of [`Kind::Count`] and [`Kind::Bytes`].
    Number(u64),
    /// Of [`Kind::Triple`]; `None`: not given for this direction.
    Triple(PerDirection<Option<u64>>),
    /// Of [`Kind::Extent`].
    Extent(Extent),
    /// Of [`Kind::Time`].
    Time(Duration),
    /// Of [`Kind::Percentile`].
    Float(f64),
    /// Of the three kinds of block sizes; `None`: not given for this direction.
    Blocks(PerDirection<Option<BlockSizes>>),
    /// Of [`Kind::Choice`]: what the word means.
    Choice(&'static str),
    /// Of [`Kind::Text`] and [`Kind::OptionalText`].
    Text(String),
    /// Of [`Kind::Names`].
    Names(Vec<String>),
    /// Of [`Kind::Cpus`].
    Cpus(CpuSet),
    /// Of [`Kind::Indices`].
    Indices(Vec<u16>),
    /// Of [`Kind::Percentiles`], ascending.
    Percentiles(Vec<f64>),
    /// Of [`Kind::Distribution`].
    Distribution(Distribution),
    /// Of [`Kind::Pattern`].
    Pattern(Pattern),
    /// Of [`Kind::Formats`].
    Formats(Vec<OutputFormat>),
}

impl Kind {
    /// Reads a value.
    ///
    /// # Errors
    /// What is wrong with the text and what would be right.
    pub fn parse(self, text: &str, kb_base: KbBase) -> Result<Value, Problem> {
        Ok(match self {
            Kind::Flag => Value::Flag(flag(text)?),
            Kind::Count { min, max } => Value::Number(count(text, kb_base, min, max)?),
            Kind::Bytes { min } => Value::Number(at_least(text, kb_base, min)?),
            Kind::Triple { min, max } => {
                Value::Triple(lists::triple(text, |part| count(part, kb_base, min, max))?)
            }
            Kind::Extent { .. } => Value::Extent(self.parse_extent(text, kb_base)?),
            Kind::Time { bare, min_us } => Value::Time(time(text, bare, min_us)?),
            Kind::Percentile => Value::Float(lists::percentile(text)?),
            Kind::Blocks => Value::Blocks(lists::triple(text, |part| lists::block_sizes(part, kb_base))?),
            Kind::BlockRanges => {
                Value::Blocks(lists::triple(text, |part| lists::block_range(part, kb_base))?)
            }
            Kind::BlockSplit => Value::Blocks(lists::triple(text, |part| lists::block_split(part, kb_base))?),
            Kind::Choice(words) => Value::Choice(choice(text, words)?),
            Kind::Text if text.trim().is_empty() => {
                return Err(Problem::new("the text is empty", "give a text"));
            }
            Kind::Text | Kind::OptionalText => Value::Text(text.to_owned()),
            Kind::Names => Value::Names(lists::names(text)?),
            Kind::Cpus => Value::Cpus(lists::cpus(text)?),
            Kind::Indices => Value::Indices(lists::indices(text)?),
            Kind::Percentiles => Value::Percentiles(lists::percentiles(text)?),
            Kind::Distribution => Value::Distribution(lists::distribution(text)?),
            Kind::Pattern => Value::Pattern(super::pattern::pattern(text)?),
            Kind::Formats => Value::Formats(lists::formats(text)?),
        })
    }

    fn parse_extent(self, text: &str, kb_base: KbBase) -> Result<Extent, Problem> {
        let extent = units::extent(text, kb_base)?;
        let Kind::Extent { min_bytes, min_percent, max_percent } = self else { return Ok(extent) };
        match extent {
            Extent::Bytes(bytes) if bytes < min_bytes => {
                Err(Problem::new("the size is too small", format!("at least {min_bytes} is right")))
            }
            Extent::Percent(percent) if !(min_percent..=max_percent).contains(&percent) => Err(Problem::new(
                "the percentage is out of range",
                format!("{min_percent}% to {max_percent}% is right"),
            )),
            _ => Ok(extent),
        }
    }

    /// What stands for the value in help texts, such as `SIZE`.
    pub fn placeholder(self) -> &'static str {
        match self {
            Kind::Flag => "0|1",
            Kind::Count { .. } => "N",
            Kind::Bytes { .. } => "SIZE",
            Kind::Triple { .. } => "N[,N[,N]]",
            Kind::Extent { .. } => "SIZE|N%",
            Kind::Time { .. } => "TIME",
            Kind::Percentile => "PERCENT",
            Kind::Blocks => "SIZE[,SIZE[,SIZE]]",
            Kind::BlockRanges => "MIN-MAX[,...]",
            Kind::BlockSplit => "SIZE/PERCENT:...[,...]",
            Kind::Choice(_) => "WORD",
            Kind::Text | Kind::OptionalText => "TEXT",
            Kind::Names => "NAME[:NAME...]",
            Kind::Cpus => "CPU[,CPU|-CPU...]",
            Kind::Indices => "N[,N|-N...]",
            Kind::Percentiles => "PERCENT[:PERCENT...]",
            Kind::Distribution => "random|NAME:N[:CENTRE]",
            Kind::Pattern => "PATTERN",
            Kind::Formats => "FORMAT[,FORMAT...]",
        }
    }

    /// Type, unit and range in words, for `--cmdhelp` and the documentation.
    pub fn describe(self) -> String {
        let k = |bytes| show_bytes(bytes, KbBase::Binary);
        match self {
            Kind::Flag => "0 or 1; without a value 1".to_owned(),
            Kind::Count { min, max: u64::MAX } => format!("whole number, at least {min}"),
            Kind::Count { min, max } => format!("whole number, {min} to {max}"),
            Kind::Bytes { min } => format!("bytes, at least {}", k(min)),
            Kind::Triple { min, max: u64::MAX } => {
                format!("whole number, at least {min}; one to three of them: reads, writes, trims")
            }
            Kind::Triple { min, max } => {
                format!("whole number, {min} to {}; one to three of them: reads, writes, trims", k(max))
            }
            Kind::Extent { min_bytes, min_percent, max_percent: u32::MAX } => {
                format!("bytes, at least {}, or a percentage, at least {min_percent}%", k(min_bytes))
            }
            Kind::Extent { min_bytes, min_percent, max_percent } => {
                format!("bytes, at least {}, or a percentage, {min_percent}% to {max_percent}%", k(min_bytes))
            }
            Kind::Time { bare: TimeUnit::Seconds, .. } => "time; seconds without a unit".to_owned(),
            Kind::Time { bare: TimeUnit::Microseconds, .. } => "time; microseconds without a unit".to_owned(),
            Kind::Percentile => "per cent, above 0 up to 100".to_owned(),
            Kind::Blocks => {
                "bytes, 1 to 1g, or a range; one to three of them: reads, writes, trims".to_owned()
            }
            Kind::BlockRanges => {
                "range of bytes, 1 to 1g; one to three of them: reads, writes, trims".to_owned()
            }
            Kind::BlockSplit => {
                "bytes/per cent, up to 64 of them; one to three lists: reads, writes, trims".to_owned()
            }
            Kind::Choice(words) => {
                let names: Vec<_> = words.iter().map(|word| word.word).collect();
                names.join(", ")
            }
            Kind::Text => "text".to_owned(),
            Kind::OptionalText => "text; may be left out".to_owned(),
            Kind::Names => r"names separated by `:`; `\:` is a colon in a name".to_owned(),
            Kind::Cpus => "CPU numbers from 0 to 1023 and ranges of them, such as 0,2-3".to_owned(),
            Kind::Indices => "up to 16 numbers from 0 to 65535, and ranges of them, such as 0,4-6".to_owned(),
            Kind::Percentiles => "per cent, above 0 up to 100, separated by `:`; at most 20".to_owned(),
            Kind::Distribution => {
                "random, zipf:THETA, pareto:POWER or normal:DEVIATION, each of the last three with \
                                   an optional :CENTRE"
                    .to_owned()
            }
            Kind::Pattern => {
                r#"hexadecimal 0x..., decimal up to 4294967295, "text", %o, and sequences of these"#
                    .to_owned()
            }
            Kind::Formats => "normal, terse, json, json+; several separated by commas".to_owned(),
        }
    }

    /// Whether the option may stand without a value.
    pub fn value_is_optional(self) -> bool {
        matches!(self, Kind::Flag | Kind::OptionalText)
    }

    /// What the option means when it stands without a value.
    pub fn bare_value(self) -> &'static str {
        if matches!(self, Kind::Flag) { "1" } else { "" }
    }
}

fn flag(text: &str) -> Result<bool, Problem> {
    match text.trim() {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err(Problem::new("not a switch", "0 or 1 is right")),
    }
}

fn count(text: &str, kb_base: KbBase, min: u64, max: u64) -> Result<u64, Problem> {
    let number = units::bytes(text, kb_base)?;
    if (min..=max).contains(&number) {
        return Ok(number);
    }
    let right =
        if max == u64::MAX { format!("at least {min} is right") } else { format!("{min} to {max} is right") };
    Err(Problem::new("the number is out of range", right))
}

fn at_least(text: &str, kb_base: KbBase, min: u64) -> Result<u64, Problem> {
    count(text, kb_base, min, u64::MAX)
}

fn time(text: &str, bare: TimeUnit, min_us: u64) -> Result<Duration, Problem> {
    let time = units::time(text, bare)?;
    let min = Duration::from_micros(min_us);
    if time < min {
        let right = format!("at least {} is right", units::show_time(min));
        return Err(Problem::new("the time is too short", right));
    }
    Ok(time)
}

fn choice(text: &str, words: &'static [Word]) -> Result<&'static str, Problem> {
    let text = text.trim();
    if let Some(word) = words.iter().find(|word| word.word == text) {
        return Ok(word.means);
    }
    let names: Vec<_> = words.iter().map(|word| word.word).collect();
    let (before, modifier) = text.split_once(':').unwrap_or((text, ""));
    if names.contains(&before) {
        // fio's rw=randread:8 and the like.
        return Err(Problem::new(
            format!("the modifier :{modifier} is not known here"),
            format!("{before} is right"),
        ));
    }
    Err(Problem::new(
        "not one of the words that the option takes",
        format!("one of {} is right", names.join(", ")),
    ))
}
