//! What the subcommands print with.

use std::io::{StderrLock, Write};

use serde_json::Value;

use crate::ToolError;

/// A size as people read it, with the exact number behind: `1.5 KiB (1536 bytes)`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut scaled = bytes as f64;
    let mut unit = None;
    for name in UNITS {
        if scaled < 1024.0 {
            break;
        }
        scaled /= 1024.0;
        unit = Some(name);
    }
    match unit {
        None => format!("{bytes} bytes"),
        Some(unit) => {
            // Three digits, as `qemu-img` prints them; no trailing zeroes.
            let digits = if scaled < 10.0 { 2 } else { usize::from(scaled < 100.0) };
            let text = format!("{scaled:.digits$}");
            let text =
                if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
            format!("{text} {unit} ({bytes} bytes)")
        }
    }
}

/// Prints JSON, indented.
pub fn print_json(out: &mut impl Write, value: &Value) -> Result<(), ToolError> {
    Ok(writeln!(out, "{}", serde_json::to_string_pretty(value)?)?)
}

/// Says on the error output what failed.
pub fn complain(err: &ToolError) {
    let mut stderr: StderrLock<'_> = std::io::stderr().lock();
    // There is nowhere left to report a failure of this.
    let _ = writeln!(stderr, "corelane: {err}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_and_the_exact_number() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1 KiB (1024 bytes)"),
            (1536, "1.5 KiB (1536 bytes)"),
            (10 << 20, "10 MiB (10485760 bytes)"),
            (100 << 20, "100 MiB (104857600 bytes)"),
            ((200 << 30) + (1 << 29), "200 GiB (215285235712 bytes)"),
            (u64::MAX, "16 EiB (18446744073709551615 bytes)"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
