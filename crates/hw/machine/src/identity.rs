//! What a machine is called: its name and its UUID.

use std::fmt;
use std::str::FromStr;

/// A UUID in the order of its text form (RFC 9562).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uuid(pub [u8; 16]);

/// A text that is no UUID: not 32 hexadecimal digits in groups of 8, 4, 4, 4 and 12 with hyphens between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadUuid;

/// Bytes in each group of the text form.
const GROUPS: [usize; 5] = [4, 2, 2, 2, 6];

impl FromStr for Uuid {
    type Err = BadUuid;

    fn from_str(text: &str) -> Result<Uuid, BadUuid> {
        let mut bytes = Vec::with_capacity(16);
        let mut groups = text.split('-');
        for len in GROUPS {
            let digits = groups.next().filter(|g| g.len() == 2 * len).ok_or(BadUuid)?.as_bytes();
            for pair in digits.chunks_exact(2) {
                let digit = |c: u8| char::from(c).to_digit(16).ok_or(BadUuid);
                bytes.push((digit(pair[0])? << 4 | digit(pair[1])?) as u8);
            }
        }
        match (groups.next(), bytes.try_into()) {
            (None, Ok(bytes)) => Ok(Uuid(bytes)),
            _ => Err(BadUuid),
        }
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_slice();
        for (i, len) in GROUPS.into_iter().enumerate() {
            let (group, after) = rest.split_at(len);
            rest = after;
            if i > 0 {
                f.write_str("-")?;
            }
            group.iter().try_for_each(|b| write!(f, "{b:02x}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_its_text() {
        let uuid: Uuid = "00112233-4455-6677-8899-AAbbCCddEEff".parse().unwrap();
        assert_eq!(uuid.0[..6], [0, 0x11, 0x22, 0x33, 0x44, 0x55]);
        assert_eq!(uuid.to_string(), "00112233-4455-6677-8899-aabbccddeeff");
        for bad in [
            "",
            "33",
            "00112233445566778899aabbccddeeff",
            "00112233-4455-6677-8899-aabbccddeeff-",
            "00112233-4455-6677-8899-aabbccddeefg",
            "+0112233-4455-6677-8899-aabbccddeeff",
            "00112233-4455-6677-8899-aabbccddeé",
        ] {
            assert_eq!(bad.parse::<Uuid>(), Err(BadUuid), "{bad}");
        }
    }
}
