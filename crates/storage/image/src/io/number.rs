//! Numbers as this tool reads and shows them.

use base::units::{SizeError, parse_size};

/// The longest request, bytes.
pub(super) const MAX_REQUEST: u64 = 2_147_483_136;

/// A size; the error is the message.
pub(super) fn size(text: &str) -> Result<u64, String> {
    size_called(text, text)
}

/// A size that messages call `called`.
pub(super) fn size_called(text: &str, called: &str) -> Result<u64, String> {
    let large = || format!("Parsing error: argument too large -- {called}");
    if text.strip_prefix('-').is_some_and(|t| t.starts_with(|c: char| c.is_ascii_digit())) {
        return Err(large());
    }
    match parse_size(text.strip_prefix('+').unwrap_or(text), 1) {
        Ok(n) if n <= i64::MAX as u64 => Ok(n),
        Ok(_) | Err(SizeError::OutOfRange) => Err(large()),
        Err(SizeError::Invalid) => {
            Err(format!("Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- {called}"))
        }
    }
}

/// An integer in C's notation (decimal, `0x…`, `0…`), with a sign.
pub(super) fn integer(text: &str) -> Option<i64> {
    let (negative, n) = crate::options::integer(text).ok()?;
    let n = i64::try_from(n).ok()?;
    Some(if negative { -n } else { n })
}

/// The byte that a pattern consists of; the error is the message.
pub(super) fn pattern(text: &str) -> Result<u8, String> {
    let byte = integer(text).and_then(|n| u8::try_from(n).ok());
    byte.ok_or_else(|| format!("{text} is not a valid pattern byte"))
}

/// A number of bytes in the greatest unit that it reaches.
pub(super) fn shown(bytes: f64) -> String {
    const UNITS: [&str; 6] = ["EiB", "PiB", "TiB", "GiB", "MiB", "KiB"];
    for (i, unit) in UNITS.iter().enumerate() {
        let one = 2f64.powi(10 * (UNITS.len() - i) as i32);
        if bytes >= one {
            let text = format!("{:.3}", bytes / one);
            return format!("{} {unit}", text.strip_suffix(".000").unwrap_or(&text));
        }
    }
    let text = format!("{bytes:.6}");
    format!("{} bytes", text.strip_suffix(".000000").unwrap_or(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("0x10"), Ok(16));
        assert_eq!(size("1.5k"), Ok(1536));
        assert_eq!(size("+1"), Ok(1));
        for large in ["8E", "-1", "99999999999999999999"] {
            assert_eq!(size(large), Err(format!("Parsing error: argument too large -- {large}")));
        }
        for bad in ["x", "", "1.5", "0x1k", "--", "-x"] {
            assert!(size(bad).unwrap_err().starts_with("Parsing error: non-numeric argument"), "{bad}");
        }
    }

    #[test]
    fn patterns() {
        assert_eq!(
            (pattern("0xff"), pattern("010"), pattern("+7"), pattern("0")),
            (Ok(255), Ok(8), Ok(7), Ok(0))
        );
        for bad in ["256", "-1", "x", "0x", "", "1k", "09", "--1", "+-1", "0x-1"] {
            assert_eq!(pattern(bad), Err(format!("{bad} is not a valid pattern byte")));
        }
    }

    #[test]
    fn shown_in_units() {
        for (n, text) in [
            (0.0, "0 bytes"),
            (512.0, "512 bytes"),
            (251.512217, "251.512217 bytes"),
            (1024.0, "1 KiB"),
            (1536.0, "1.500 KiB"),
            (1049600.0, "1.001 MiB"),
            (2f64.powi(63), "8 EiB"),
        ] {
            assert_eq!(shown(n), text);
        }
    }
}
