//! Sizes in bytes: constants, alignment, and the text form that command lines use.

/// 2^10 bytes.
pub const KIB: u64 = 1 << 10;
/// 2^20 bytes.
pub const MIB: u64 = 1 << 20;
/// 2^30 bytes.
pub const GIB: u64 = 1 << 30;
/// 2^40 bytes.
pub const TIB: u64 = 1 << 40;

/// `v` rounded down to a multiple of `align`, which must be a power of two.
pub const fn align_down(v: u64, align: u64) -> u64 {
    debug_assert!(align.is_power_of_two());
    v & !(align - 1)
}

/// `v` rounded up to a multiple of `align` (a power of two); `None` when that is over `u64::MAX`.
pub const fn align_up(v: u64, align: u64) -> Option<u64> {
    debug_assert!(align.is_power_of_two());
    match v.checked_add(align - 1) {
        Some(s) => Some(s & !(align - 1)),
        None => None,
    }
}

/// Why a text is no size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeError {
    /// Not a number, or something stands behind the suffix.
    Invalid,
    /// The value does not fit 64 bits.
    OutOfRange,
}

/// The size that `text` says: a decimal (possibly fractional) or `0x` hexadecimal number with one of the suffixes
/// B K M G T P E (either case; powers of 1024), or `default_unit` bytes a unit where it has no suffix.
pub fn parse_size(text: &str, default_unit: u64) -> Result<u64, SizeError> {
    let t = text.trim_start();
    if let Some(hex) = t.strip_prefix("0x").or_else(|| t.strip_prefix("0X")) {
        if hex.is_empty() || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(SizeError::Invalid);
        }
        let v = u64::from_str_radix(hex, 16).map_err(|_| SizeError::OutOfRange)?;
        return v.checked_mul(default_unit).ok_or(SizeError::OutOfRange);
    }
    let digits = t.bytes().take_while(u8::is_ascii_digit).count();
    let (int, rest) = t.split_at(digits);
    let (frac, rest) = match rest.strip_prefix('.') {
        Some(r) => r.split_at(r.bytes().take_while(u8::is_ascii_digit).count()),
        None => ("", rest),
    };
    if int.is_empty() && frac.is_empty() {
        return Err(SizeError::Invalid);
    }
    let unit = match rest.as_bytes() {
        [] => default_unit,
        [c] => match c.to_ascii_uppercase() {
            b'B' => 1,
            b'K' => KIB,
            b'M' => MIB,
            b'G' => GIB,
            b'T' => TIB,
            b'P' => TIB << 10,
            b'E' => TIB << 20,
            _ => return Err(SizeError::Invalid),
        },
        _ => return Err(SizeError::Invalid),
    };
    let whole: u64 = if int.is_empty() { 0 } else { int.parse().map_err(|_| SizeError::OutOfRange)? };
    let whole = whole.checked_mul(unit).ok_or(SizeError::OutOfRange)?;
    // 18 digits of the fraction are more than 2^60 can show.
    let frac = &frac[..frac.len().min(18)];
    let part = if frac.is_empty() {
        0
    } else {
        let n: u128 = frac.parse().map_err(|_| SizeError::Invalid)?;
        if n > 0 && unit == 1 {
            return Err(SizeError::Invalid);
        }
        let scale = 10u128.pow(frac.len() as u32);
        ((n * u128::from(unit) + scale / 2) / scale) as u64
    };
    whole.checked_add(part).ok_or(SizeError::OutOfRange)
}

/// `bytes` as people read it, with three significant digits at most: `196 KiB`, `1.5 GiB`, `10 GiB`.
pub fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut v = bytes as f64;
    let mut u = 0;
    while v >= 1000.0 && u + 1 < UNITS.len() {
        v /= 1024.0;
        u += 1;
    }
    let digits = if v >= 100.0 {
        0
    } else if v >= 10.0 {
        1
    } else if v >= 1.0 || v == 0.0 {
        2
    } else {
        3
    };
    let s = format!("{v:.digits$}");
    let s = if s.contains('.') { s.trim_end_matches('0').trim_end_matches('.') } else { &s };
    format!("{s} {}", UNITS[u])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_as_command_lines_write_them() {
        assert_eq!(parse_size("64", 1), Ok(64));
        assert_eq!(parse_size("128", MIB), Ok(128 * MIB));
        assert_eq!(parse_size("1.5G", 1), Ok(GIB + GIB / 2));
        assert_eq!(parse_size("0x10", 1), Ok(16));
        assert_eq!(parse_size("3k", 1), Ok(3072));
        assert_eq!(parse_size("0.5", 1), Err(SizeError::Invalid));
        assert_eq!(parse_size("", 1), Err(SizeError::Invalid));
        assert_eq!(parse_size("1Z", 1), Err(SizeError::Invalid));
        assert_eq!(parse_size("-1", 1), Err(SizeError::Invalid));
        assert_eq!(parse_size("16E", 1), Err(SizeError::OutOfRange));
        assert_eq!(parse_size("99999999999999999999", 1), Err(SizeError::OutOfRange));
    }

    #[test]
    fn sizes_print_with_three_digits() {
        assert_eq!(human_size(0), "0 B");
        assert_eq!(human_size(200_704), "196 KiB");
        assert_eq!(human_size(10 * GIB), "10 GiB");
        assert_eq!(human_size(GIB + GIB / 2), "1.5 GiB");
        assert_eq!(human_size(1000), "0.977 KiB");
    }

    #[test]
    fn alignment() {
        assert_eq!(align_down(4097, 4096), 4096);
        assert_eq!(align_up(4097, 4096), Some(8192));
        assert_eq!(align_up(u64::MAX, 4096), None);
    }
}
