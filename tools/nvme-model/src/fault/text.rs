//! Faults as people write them: `write:17@q2=drop; seed=7; io:1/1000=status; identify.1=truncate:100`.
//!
//! Invariant: what is written is taken literally or refused with what would be right.

use std::str::FromStr;
use std::time::Duration;

use super::{Fault, FaultRule, FaultScript, Notice, Span, What, When, WrongCid};
use crate::wire::command::{admin, nvm};
use crate::wire::status::{DNR, MORE};

/// A fault that cannot be understood.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "'{text}' is no fault: {reason}; right is WHAT[:WHEN][@qN][@nN][@bN-M]=FAULT[:...], as in write:17@q2=drop"
)]
pub struct FaultTextError {
    /// The rule as it was given.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

/// What rules may be about, by name.
const WHATS: [(&str, What); 24] = [
    ("io", What::Io(None)),
    ("read", What::Io(Some(nvm::READ))),
    ("write", What::Io(Some(nvm::WRITE))),
    ("flush", What::Io(Some(nvm::FLUSH))),
    ("compare", What::Io(Some(nvm::COMPARE))),
    ("write-zeroes", What::Io(Some(nvm::WRITE_ZEROES))),
    ("discard", What::Io(Some(nvm::DATASET_MANAGEMENT))),
    ("verify", What::Io(Some(nvm::VERIFY))),
    ("admin", What::Admin(None, None)),
    ("identify", What::Admin(Some(admin::IDENTIFY), None)),
    ("get-log", What::Admin(Some(admin::GET_LOG_PAGE), None)),
    ("get-features", What::Admin(Some(admin::GET_FEATURES), None)),
    ("set-features", What::Admin(Some(admin::SET_FEATURES), None)),
    ("set-queues", What::Admin(Some(admin::SET_FEATURES), Some(7))),
    ("create-sq", What::Admin(Some(admin::CREATE_SQ), None)),
    ("create-cq", What::Admin(Some(admin::CREATE_CQ), None)),
    ("delete-sq", What::Admin(Some(admin::DELETE_SQ), None)),
    ("delete-cq", What::Admin(Some(admin::DELETE_CQ), None)),
    ("abort", What::Admin(Some(admin::ABORT), None)),
    ("event-request", What::Admin(Some(admin::ASYNC_EVENT), None)),
    ("shadow-doorbells", What::Admin(Some(admin::DOORBELL_BUFFER_CONFIG), None)),
    ("enable", What::Enable),
    ("disable", What::Disable),
    ("reset", What::Reset),
];

impl FromStr for FaultScript {
    type Err = FaultTextError;

    /// Rules and `seed=N`, separated by `;`. An empty text is no faults.
    fn from_str(text: &str) -> Result<FaultScript, FaultTextError> {
        let mut script = FaultScript::default();
        for item in text.split(';').map(str::trim).filter(|item| !item.is_empty()) {
            match item.strip_prefix("seed=") {
                Some(seed) => {
                    script.seed =
                        number(seed).map_err(|reason| FaultTextError { text: item.to_owned(), reason })?;
                }
                None => script.rules.push(item.parse()?),
            }
        }
        Ok(script)
    }
}

impl FromStr for FaultRule {
    type Err = FaultTextError;

    /// `WHAT[:WHEN][@qQUEUE][@nNSID][@bFIRST[-LAST]]=FAULT[:ARGUMENTS]`; see `nvme-model --help`.
    fn from_str(text: &str) -> Result<FaultRule, FaultTextError> {
        parse_rule(text).map_err(|reason| FaultTextError { text: text.to_owned(), reason })
    }
}

fn parse_rule(text: &str) -> Result<FaultRule, String> {
    let (head, fault) = text.split_once('=').ok_or("there is no '='")?;
    let mut places = head.split('@');
    let subject = places.next().unwrap_or_default();
    let (what, when) = subject.split_once(':').unwrap_or((subject, "1+"));
    let (what, fault) = (parse_what(what)?, parse_fault(fault)?);
    let mut rule = FaultRule { what, queue: None, nsid: None, blocks: None, when: parse_when(when)?, fault };
    for place in places {
        let (kind, value) = place.split_at_checked(1).ok_or("'@' needs q, n or b and a number")?;
        match kind {
            "q" => rule.queue = Some(number(value)?),
            "n" => rule.nsid = Some(number(value)?),
            "b" => {
                let (first, last) = value.split_once('-').unwrap_or((value, value));
                rule.blocks = Some(number(first)?..=number(last)?);
            }
            _ => {
                return Err(format!(
                    "'@{place}' is no place: @q and a queue, @n and a namespace, @b and blocks"
                ));
            }
        }
    }
    let of_commands = matches!(what, What::Io(_) | What::Admin(..));
    if !of_commands && (rule.queue.is_some() || rule.nsid.is_some()) {
        return Err("enable, disable and reset have no queue and no namespace".to_owned());
    }
    if rule.blocks.is_some() && !matches!(what, What::Io(_)) {
        return Err("only I/O commands have blocks".to_owned());
    }
    if !rule.fault.fits(what) {
        return Err(format!("{} does not go with this", rule.fault.name()));
    }
    Ok(rule)
}

fn parse_what(text: &str) -> Result<What, String> {
    let known = |name: &str| WHATS.iter().find(|(known, _)| *known == name).map(|(_, what)| *what);
    if let Some(what) = known(text) {
        return Ok(what);
    }
    let unknown = || {
        let names: Vec<&str> = WHATS.iter().map(|(name, _)| *name).collect();
        format!("'{text}' is none of {}", names.join(", "))
    };
    let (name, byte) = text.split_once('.').ok_or_else(unknown)?;
    let byte = u8::from_str_radix(byte, 16).map_err(|_| format!("'.{byte}' is no byte in hexadecimal"))?;
    match known(name).ok_or_else(unknown)? {
        What::Io(None) => Ok(What::Io(Some(byte))),
        What::Admin(None, None) => Ok(What::Admin(Some(byte), None)),
        What::Admin(opcode, None) => Ok(What::Admin(opcode, Some(byte))),
        _ => Err(format!("'{name}' takes no '.{byte:02x}'")),
    }
}

/// `17`, `17-20`, `17+`, `*5` (each fifth), `1/100` (by chance).
fn parse_when(text: &str) -> Result<When, String> {
    if let Some(each) = text.strip_prefix('*') {
        return match number(each)? {
            0 => Err("'*0' never comes".to_owned()),
            each => Ok(When::Each(each)),
        };
    }
    if let Some(count) = text.strip_prefix("1/") {
        return match number(count)? {
            0 => Err("'1/0' is no chance".to_owned()),
            count => Ok(When::OneIn(count)),
        };
    }
    if let Some(first) = text.strip_suffix('+') {
        return Ok(When::Count(number(first)?..=u64::MAX));
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Ok(When::Count(number(first)?..=number(last)?))
}

fn parse_fault(text: &str) -> Result<Fault, String> {
    let (name, arguments) = match text.split_once(':') {
        Some((name, arguments)) => (name, Some(arguments)),
        None => (text, None),
    };
    let needed = || arguments.ok_or_else(|| format!("{name} needs an argument, {name}:..."));
    let bare = |fault: Fault| match arguments {
        None => Ok(fault),
        Some(extra) => Err(format!("{name} takes no argument, ':{extra}'")),
    };
    match name {
        "delay" => needed().and_then(parse_span).map(Fault::Delay),
        "late" => needed().and_then(parse_span).map(Fault::Late),
        "drop" => bare(Fault::Drop),
        "lose" => bare(Fault::Lose),
        "duplicate" => bare(Fault::Duplicate),
        "status" => parse_status(arguments),
        "result" => number(needed()?).map(Fault::Result),
        // Number of Queues counts from 0, in both halves (base 5.27.1.5); what none wraps to is what a confused one says.
        "queues" => number::<u16>(needed()?).map(|count| {
            let less_one = u32::from(count.wrapping_sub(1));
            Fault::Result(less_one << 16 | less_one)
        }),
        "cid" => match arguments {
            None => Ok(Fault::Cid(WrongCid::Near)),
            Some("last") => Ok(Fault::Cid(WrongCid::Last)),
            Some(value) => number(value).map(|cid| Fault::Cid(WrongCid::Fixed(cid))),
        },
        "phase" => bare(Fault::Phase),
        "sq-id" => arguments.map_or(Ok(0xFFFE), number).map(Fault::SqId),
        "sq-head" => arguments.map_or(Ok(0xFFFF), number).map(Fault::SqHead),
        "no-interrupt" => bare(Fault::NoInterrupt),
        "stuck-doorbell" => arguments.map(parse_span).transpose().map(Fault::StuckDoorbell),
        "corrupt" => arguments.map(parse_bytes).transpose().map(Fault::Corrupt),
        "truncate" => number(needed()?).map(Fault::Truncate),
        "fatal" => bare(Fault::Fatal),
        "vanish" => arguments.map(parse_span).transpose().map(Fault::Vanish),
        "self-reset" => bare(Fault::SelfReset),
        "event" => parse_event(needed()?),
        "notice" => match needed()? {
            "removal" => Ok(Fault::Notice(Notice::Removal)),
            "error" => Ok(Fault::Notice(Notice::Error)),
            other => Err(format!("'{other}' is no notice: removal or error")),
        },
        "never" => bare(Fault::Never),
        other => Err(format!("'{other}' is none of {} and queues", Fault::NAMES.join(", "))),
    }
}

/// `SCT/SC` in hexadecimal, then any of `dnr`, `more`, `crd=N`, `done`. Without `SCT/SC` by chance.
fn parse_status(arguments: Option<&str>) -> Result<Fault, String> {
    let mut words = arguments.unwrap_or_default().split(':').filter(|word| !word.is_empty()).peekable();
    let hex = |text: &str, most: u16| {
        let value = u16::from_str_radix(text, 16).ok().filter(|value| *value <= most);
        value.ok_or_else(|| format!("'{text}' is no hexadecimal number up to {most:x}"))
    };
    let mut status = None;
    if let Some((kind, code)) = words.peek().and_then(|word| word.split_once('/')) {
        status = Some(hex(kind, 7)? << 8 | hex(code, 0xFF)?);
        words.next();
    }
    let mut carried_out = false;
    for word in words {
        let bits = match word {
            "done" => {
                carried_out = true;
                continue;
            }
            "dnr" => DNR,
            "more" => MORE,
            _ => match word.strip_prefix("crd=") {
                Some(index @ ("1" | "2" | "3")) => hex(index, 3)? << 11,
                _ => {
                    return Err(format!(
                        "'{word}' is none of SCT/SC (as 2/81), dnr, more, crd=1 to crd=3, done"
                    ));
                }
            },
        };
        let fixed = status.ok_or("dnr, more and crd= need a status, as in status:2/81:dnr")?;
        status = Some(fixed | bits);
    }
    Ok(Fault::Status { status, carried_out })
}

/// `KIND/INFO/LOG` in hexadecimal.
fn parse_event(text: &str) -> Result<Fault, String> {
    let bytes: Result<Vec<u8>, _> = text.split('/').map(|byte| u8::from_str_radix(byte, 16)).collect();
    match bytes.as_deref() {
        Ok(&[kind @ 0..=7, info, log_page]) => Ok(Fault::Event { kind, info, log_page }),
        _ => Err(format!("'{text}' is no event: type, information and log page, as 2/0/4")),
    }
}

/// `OFFSET/HEX`.
fn parse_bytes(text: &str) -> Result<(usize, Vec<u8>), String> {
    let bad = || format!("'{text}' are no bytes: an offset and them in hexadecimal, as 77/ff");
    let (offset, digits) = text.split_once('/').ok_or_else(bad)?;
    if digits.is_empty() || !digits.len().is_multiple_of(2) || !digits.is_ascii() {
        return Err(bad());
    }
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| bad());
    let bytes: Result<Vec<u8>, String> = (0..digits.len()).step_by(2).map(byte).collect();
    Ok((number(offset)?, bytes?))
}

/// `50ms`, `2s`, `100us`, or two of them and `-` between.
fn parse_span(text: &str) -> Result<Span, String> {
    let (least, most) = text.split_once('-').unwrap_or((text, text));
    let span = Span { least: parse_time(least)?, most: parse_time(most)? };
    if span.least > span.most {
        return Err(format!("'{text}' ends before it begins"));
    }
    Ok(span)
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let make = match &text[digits.len()..] {
        "us" => Duration::from_micros,
        "ms" => Duration::from_millis,
        "s" => Duration::from_secs,
        _ => return Err(format!("'{text}' is no time: a number and us, ms or s")),
    };
    // A day is longer than any test waits, and no sum of times overflows.
    number(digits).map(|count: u64| make(count).min(Duration::from_secs(86_400)))
}

/// A number, in hexadecimal with `0x`.
fn number<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let value = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse::<u64>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit())),
    };
    value
        .and_then(|value| T::try_from(value).ok())
        .ok_or_else(|| format!("'{text}' is no number that fits here"))
}

#[cfg(test)]
mod tests;
