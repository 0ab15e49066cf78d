//! Local time, from the system's time zone files (RFC 8536).

/// `seconds` since 1970 UTC as local `YYYY-MM-DD hh:mm:ss`.
pub fn local_time(seconds: i64) -> String {
    let t = seconds.saturating_add(offset(seconds));
    let (days, rest) = (t.div_euclid(86400), t.rem_euclid(86400));
    let (y, m, d) = civil(days);
    format!("{y:04}-{m:02}-{d:02} {:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

/// The Gregorian date of a day number (0 is 1970-01-01). Years are counted from March, so that the leap day is last.
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let m = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(m <= 2), m, doy - (153 * mp + 2) / 5 + 1)
}

/// Seconds that local time is ahead of UTC at a moment; 0 where nothing is known.
fn offset(at: i64) -> i64 {
    let path = match std::env::var("TZ") {
        Ok(tz) if !tz.trim_start_matches(':').is_empty() => {
            let name = tz.trim_start_matches(':').to_string();
            if name.starts_with('/') { name } else { format!("/usr/share/zoneinfo/{name}") }
        }
        _ => "/etc/localtime".to_string(),
    };
    std::fs::read(path).ok().and_then(|b| zone_offset(&b, at)).unwrap_or(0)
}

fn zone_offset(b: &[u8], at: i64) -> Option<i64> {
    let u32_at = |b: &[u8], i: usize| Some(u32::from_be_bytes(b.get(i..i + 4)?.try_into().ok()?) as usize);
    let counts = |b: &[u8]| {
        let mut n = [0usize; 6];
        for (i, v) in n.iter_mut().enumerate() {
            *v = u32_at(b, 20 + 4 * i)?;
        }
        (b.get(..4)? == b"TZif").then_some(n)
    };
    // isutc, isstd, leap, transitions, types, characters
    let [isutc, isstd, leap, times, types, chars] = counts(b)?;
    let second = (times * 5 + types * 6 + chars + leap * 8 + isstd + isutc).checked_add(44)?;
    let (b, width) = match b.get(4)? {
        0 => (b, 4),
        _ => (b.get(second..)?, 8),
    };
    let [_, _, _, times, types, _] = counts(b)?;
    let index_at = 44 + times.checked_mul(width)?;
    let types_at = index_at.checked_add(times)?;
    let mut kind = 0;
    for i in 0..times {
        let raw = b.get(44 + i * width..44 + (i + 1) * width)?;
        let t = match width {
            4 => i64::from(i32::from_be_bytes(raw.try_into().ok()?)),
            _ => i64::from_be_bytes(raw.try_into().ok()?),
        };
        if t > at {
            break;
        }
        kind = usize::from(*b.get(index_at + i)?);
    }
    if kind >= types {
        return None;
    }
    Some(u32_at(b, types_at + kind * 6)? as u32 as i32 as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(-1), (1969, 12, 31));
        assert_eq!(civil(20_779), (2026, 11, 22));
    }

    #[test]
    fn rubbish_is_no_time_zone() {
        for n in 0..60 {
            assert_eq!(zone_offset(&vec![0xff; n], 0), None);
        }
        let mut b = b"TZif2".to_vec();
        b.resize(200, 0xff);
        assert_eq!(zone_offset(&b, 0), None);
    }
}
