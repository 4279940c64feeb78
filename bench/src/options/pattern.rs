//! Fill patterns (`verify_pattern`): numbers, quoted text and the block's offset, in sequence.
//!
//! A hexadecimal number gives its bytes as written, a decimal one its bytes from the most significant that is not
//! zero, as fio does.

use super::error::Problem;
use super::spec::Pattern;

/// Longest period, bytes: fio's limit.
const PATTERN_MAX: usize = 512;
const RIGHT: &str =
    r#"hexadecimal 0xdeadbeef, decimal up to 4294967295, "text", %o or a sequence of these is right"#;

/// Reads a pattern such as `0xff%o"abcd"12`.
pub fn pattern(text: &str) -> Result<Pattern, Problem> {
    let mut rest = text.trim();
    let mut pattern = Pattern { bytes: Vec::new(), offset_fields: Vec::new() };
    while !rest.is_empty() {
        rest = item(rest, &mut pattern)?;
        if pattern.bytes.len() > PATTERN_MAX {
            return Err(Problem::new(
                "the pattern is too long",
                format!("at most {PATTERN_MAX} bytes are right"),
            ));
        }
    }
    if pattern.bytes.is_empty() {
        return Err(Problem::new("the pattern is empty", RIGHT));
    }
    Ok(pattern)
}

fn item<'a>(text: &'a str, pattern: &mut Pattern) -> Result<&'a str, Problem> {
    if let Some(rest) = text.strip_prefix("%o") {
        pattern.offset_fields.push(pattern.bytes.len());
        pattern.bytes.extend([0; 8]);
        return Ok(rest);
    }
    if let Some(quoted) = text.strip_prefix('"') {
        let Some((inner, rest)) = quoted.split_once('"') else {
            return Err(Problem::new("a quotation mark is not closed", RIGHT));
        };
        pattern.bytes.extend(inner.as_bytes());
        return Ok(rest);
    }
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return hexadecimal(digits, pattern);
    }
    decimal(text, pattern)
}

fn hexadecimal<'a>(text: &'a str, pattern: &mut Pattern) -> Result<&'a str, Problem> {
    let end = text.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    if digits.is_empty() {
        return Err(Problem::new("no digit follows 0x", RIGHT));
    }
    let mut nibbles = digits.chars().filter_map(|c| c.to_digit(16)).map(|nibble| nibble as u8);
    if digits.len() % 2 == 1 {
        pattern.bytes.extend(nibbles.next());
    }
    while let (Some(high), Some(low)) = (nibbles.next(), nibbles.next()) {
        pattern.bytes.push(high << 4 | low);
    }
    Ok(rest)
}

fn decimal<'a>(text: &'a str, pattern: &mut Pattern) -> Result<&'a str, Problem> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    if digits.is_empty() {
        return Err(Problem::new(format!("{text} is no pattern"), RIGHT));
    }
    let number: u32 = digits.parse().map_err(|_| {
        Problem::new(format!("{digits} does not fit 32 bits"), "a larger number must be hexadecimal, 0x...")
    })?;
    let bytes = number.to_be_bytes();
    let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(3);
    pattern.bytes.extend(&bytes[first..]);
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The periods that fio 3.33 writes for the same texts, read from a file that it filled.
    #[test]
    fn patterns_are_fios() {
        let cases: [(&str, &[u8], &[usize]); 9] = [
            ("0xdeadbeef", &[0xde, 0xad, 0xbe, 0xef], &[]),
            ("0xabc", &[0x0a, 0xbc], &[]),
            ("0x0001", &[0, 1], &[]),
            ("300", &[0x01, 0x2c], &[]),
            ("65536", &[1, 0, 0], &[]),
            ("0", &[0], &[]),
            ("\"ab\"", b"ab", &[]),
            ("%o", &[0; 8], &[0]),
            ("0xff%o\"ab\"", &[0xff, 0, 0, 0, 0, 0, 0, 0, 0, b'a', b'b'], &[1]),
        ];
        for (text, bytes, offset_fields) in cases {
            let expected = Pattern { bytes: bytes.to_vec(), offset_fields: offset_fields.to_vec() };
            assert_eq!(pattern(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn bad_patterns_are_refused() {
        let long = format!("0x{}", "ab".repeat(513));
        for text in ["", "0x", "\"ab", "\"\"", "-12", "abc", "4294967296", "'file'", "%x", &long] {
            assert!(pattern(text).is_err(), "{text}");
        }
        assert!(pattern(&format!("0x{}", "ab".repeat(512))).is_ok());
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC*") {
            let _ = pattern(&text);
        }

        #[test]
        fn hexadecimal_reads_back(bytes in prop::collection::vec(any::<u8>(), 1..64)) {
            let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            prop_assert_eq!(pattern(&format!("0x{text}")).map(|pattern| pattern.bytes), Ok(bytes));
        }
    }
}
