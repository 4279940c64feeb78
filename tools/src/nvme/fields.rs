//! Structures as tables of fields, from which both forms of output are made: nvme-cli's JSON, and lines of `name : value`.
//!
//! Places are those of the structure in the specification; what a short structure does not have reads as zero.

use serde_json::{Map, Value};

/// How a field's bytes are a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// So many bytes as a number, 1 to 8.
    Number(usize),
    /// Four bytes that nvme-cli prints in JSON as an `int`, so that large ones are negative.
    Int,
    /// 16 bytes as a number, in JSON as text.
    Wide,
    /// So many bytes of text; JSON keeps its padding.
    Text(usize),
    /// 16 bytes as a UUID.
    Uuid,
    /// So many bytes in hexadecimal.
    Hex(usize),
}

/// A field: nvme-cli's name of it, its place in bytes, its kind, whether people read it in hexadecimal.
pub type Field = (&'static str, usize, Kind, bool);

/// A number of up to 8 bytes, little-endian.
pub fn number(bytes: &[u8], at: usize, len_bytes: usize) -> u64 {
    wide(bytes, at, len_bytes) as u64
}

/// A number of up to 16 bytes, little-endian.
pub fn wide(bytes: &[u8], at: usize, len_bytes: usize) -> u128 {
    let part = bytes.get(at..).unwrap_or_default();
    part.iter().take(len_bytes).rev().fold(0, |value, byte| value << 8 | u128::from(*byte))
}

/// The bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Text as JSON takes it: up to the first zero, and harmless for a terminal.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let readable = |byte: &u8| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { '?' };
    bytes[..end].iter().map(readable).collect()
}

fn part(bytes: &[u8], at: usize, len_bytes: usize) -> &[u8] {
    bytes.get(at..).map_or(&[], |rest| &rest[..len_bytes.min(rest.len())])
}

fn uuid(bytes: &[u8]) -> String {
    let digits = hex(bytes);
    let group = |from: usize, to: usize| digits.get(from..to).unwrap_or_default().to_owned();
    [group(0, 8), group(8, 12), group(12, 16), group(16, 20), group(20, 32)].join("-")
}

/// A field's value as nvme-cli's JSON has it.
pub fn json(bytes: &[u8], &(_, at, kind, _): &Field) -> Value {
    match kind {
        Kind::Number(len) => number(bytes, at, len).into(),
        Kind::Int => (number(bytes, at, 4) as u32 as i32).into(),
        Kind::Wide => wide(bytes, at, 16).to_string().into(),
        Kind::Text(len) => text(part(bytes, at, len)).into(),
        Kind::Uuid => uuid(part(bytes, at, 16)).into(),
        Kind::Hex(len) => hex(part(bytes, at, len)).into(),
    }
}

/// All fields, as members of an object.
pub fn object(bytes: &[u8], fields: &[Field]) -> Map<String, Value> {
    fields.iter().map(|field| (field.0.to_owned(), json(bytes, field))).collect()
}

/// A field's value for people.
pub fn shown(bytes: &[u8], field: &Field) -> String {
    let &(_, at, kind, hexadecimal) = field;
    let value = match kind {
        Kind::Number(len) => number(bytes, at, len),
        Kind::Int => number(bytes, at, 4),
        Kind::Wide => return wide(bytes, at, 16).to_string(),
        Kind::Text(_) | Kind::Uuid | Kind::Hex(_) => {
            return json(bytes, field).as_str().unwrap_or_default().to_owned();
        }
    };
    hexadecimal_or_not(value, hexadecimal)
}

/// A number as C's `%#x` has it, without a prefix before a zero; or in decimal.
pub fn hexadecimal_or_not(value: u64, hexadecimal: bool) -> String {
    if hexadecimal && value != 0 { format!("{value:#x}") } else { value.to_string() }
}

/// A dword of a feature as nvme-cli has it: with a prefix and eight digits, but a zero without the prefix.
pub fn dword(value: u32) -> String {
    if value == 0 { "0".repeat(8) } else { format!("{value:#010x}") }
}

/// Lines of `name : value`, the names padded to `width`.
pub fn lines(bytes: &[u8], fields: &[Field], width: usize) -> String {
    fields.iter().map(|field| format!("{:<width$}: {}\n", field.0, shown(bytes, field))).collect()
}

/// Bytes as nvme-cli dumps them: 16 a line, with their text behind.
pub fn dump(bytes: &[u8]) -> String {
    let mut out = format!("{:5}", "");
    for column in 0..16 {
        out += &format!(" {column:2x}");
    }
    out += "\n";
    for (line, chunk) in bytes.chunks(16).enumerate() {
        out += &format!("{:04x}:", line * 16);
        for byte in chunk {
            out += &format!(" {byte:02x}");
        }
        out += &"   ".repeat(16 - chunk.len());
        // A space is one, too, as it is for nvme-cli.
        let readable = |byte: &u8| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' };
        out += &format!(" \"{}\"\n", chunk.iter().map(readable).collect::<String>());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: &[Field] = &[
        ("a", 0, Kind::Number(2), true),
        ("b", 2, Kind::Int, false),
        ("c", 6, Kind::Wide, false),
        ("d", 22, Kind::Text(4), false),
        ("e", 26, Kind::Hex(3), false),
    ];

    #[test]
    fn fields_have_both_forms() {
        let mut bytes = vec![0x34, 0x12, 0xff, 0xff, 0xff, 0xff];
        bytes.extend([1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(b"x \x1b \x00\xab\xcd");
        let object = object(&bytes, FIELDS);
        assert_eq!(object["a"], 0x1234);
        assert_eq!(object["b"], -1);
        assert_eq!(object["c"], ((1u128 << 64) + 1).to_string());
        assert_eq!((&object["d"], &object["e"]), (&"x ? ".into(), &"00abcd".into()));
        assert!(lines(&bytes, FIELDS, 4).starts_with("a   : 0x1234\nb   : 4294967295\n"));
        // A structure that is too short is one of zeroes.
        assert_eq!(number(&[1], 5, 4), 0);
        assert_eq!(self::object(&[], FIELDS)["d"], "");
    }

    #[test]
    fn a_dump_has_sixteen_bytes_a_line() {
        let dump = dump(b"0123456789 bcdef\x00z");
        let lines: Vec<&str> = dump.lines().collect();
        assert_eq!(lines[0], "       0  1  2  3  4  5  6  7  8  9  a  b  c  d  e  f");
        assert_eq!(lines[1], "0000: 30 31 32 33 34 35 36 37 38 39 20 62 63 64 65 66 \"0123456789.bcdef\"");
        assert_eq!(lines[2], format!("0010: 00 7a{} \".z\"", "   ".repeat(14)));
    }
}
