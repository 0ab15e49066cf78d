//! Signatures of requests to object stores ("AWS Signature Version 4", with the signature in the field `Authorization`).

use crate::url::Url;
use crypto::Secret;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use zeroize::Zeroizing;

/// SHA-256 of nothing: requests have no body.
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Whose requests they are.
pub(crate) struct Signer {
    /// The name of the key.
    pub(crate) id: String,
    pub(crate) key: Secret,
    /// What comes with a key that is good for a time only.
    pub(crate) token: Option<Secret>,
    pub(crate) region: String,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn mac(key: &[u8], data: &str) -> Zeroizing<Vec<u8>> {
    // A key of any length will do.
    let Ok(mut m) = <Hmac<Sha256> as Mac>::new_from_slice(key) else { return Zeroizing::default() };
    m.update(data.as_bytes());
    Zeroizing::new(m.finalize().into_bytes().to_vec())
}

/// The time as `YYYYMMDD'T'hhmmss'Z'`.
fn stamp(time: SystemTime) -> String {
    let all = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let (days, seconds) = (all / 86_400, all % 86_400);
    // Years begin with March, so that the day of a leap year is the last. An era has 400 years.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}{month:02}{date:02}T{h:02}{m:02}{s:02}Z")
}

/// A piece of a path as it is signed: everything but letters, digits and `-._~/` with percent signs.
pub(crate) fn encoded(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for b in path.bytes() {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(char::from(b))
            }
            _ => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

impl Signer {
    /// The fields that a request gets, each with its line's end. The URL has no query.
    pub(crate) fn fields(
        &self,
        method: &str,
        url: &Url,
        range: Option<&str>,
        now: SystemTime,
    ) -> Zeroizing<String> {
        let time = stamp(now);
        let day = &time[..8];
        let token = self.token.as_ref().map(|t| Zeroizing::new(String::from_utf8_lossy(t).into_owned()));
        let authority = url.origin.authority();
        // By name.
        let mut signed = vec![("host", &*authority)];
        if let Some(r) = range {
            signed.push(("range", r));
        }
        signed.push(("x-amz-content-sha256", EMPTY));
        signed.push(("x-amz-date", &time));
        if let Some(t) = &token {
            signed.push(("x-amz-security-token", t));
        }
        let names: Vec<&str> = signed.iter().map(|(n, _)| *n).collect();
        let names = names.join(";");
        let lines: Zeroizing<String> =
            Zeroizing::new(signed.iter().map(|(n, v)| format!("{n}:{v}\n")).collect());
        let request = Zeroizing::new(format!("{method}\n{}\n\n{}\n{names}\n{EMPTY}", url.target, *lines));
        let scope = format!("{day}/{}/s3/aws4_request", self.region);
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::digest(request.as_bytes())));
        let mut first = Zeroizing::new(Vec::with_capacity(4 + self.key.len()));
        first.extend_from_slice(b"AWS4");
        first.extend_from_slice(&self.key);
        let key = mac(&mac(&mac(&mac(&first, day), &self.region), "s3"), "aws4_request");
        let signature = hex(&mac(&key, &text));
        let mut out = Zeroizing::new(String::with_capacity(4096));
        out.push_str(&format!("x-amz-content-sha256: {EMPTY}\r\nx-amz-date: {time}\r\n"));
        if let Some(t) = &token {
            out.push_str("x-amz-security-token: ");
            out.push_str(t);
            out.push_str("\r\n");
        }
        out.push_str(&format!(
            "Authorization: AWS4-HMAC-SHA256 Credential={}/{scope},SignedHeaders={names},Signature={signature}\r\n",
            self.id
        ));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn times() {
        assert_eq!(stamp(at(0)), "19700101T000000Z");
        assert_eq!(stamp(at(951_782_399)), "20000228T235959Z");
        assert_eq!(stamp(at(951_782_400)), "20000229T000000Z");
        assert_eq!(stamp(at(1_709_251_199)), "20240229T235959Z");
        assert_eq!(stamp(at(4_107_542_400)), "21000301T000000Z");
    }

    #[test]
    fn the_example_of_the_documentation() {
        // "Signature Calculations for the Authorization Header", GET Object.
        let s = Signer {
            id: "AKIAIOSFODNN7EXAMPLE".into(),
            key: Secret::new(b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_vec()),
            token: None,
            region: "us-east-1".into(),
        };
        let url = Url::parse("https://examplebucket.s3.amazonaws.com/test.txt").unwrap();
        let fields = s.fields("GET", &url, Some("bytes=0-9"), at(1_369_353_600));
        let want = "Authorization: AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
                    SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,\
                    Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41\r\n";
        assert!(fields.ends_with(want), "{}", *fields);
        assert!(fields.contains("x-amz-date: 20130524T000000Z\r\n"));
    }

    #[test]
    fn names_of_objects() {
        assert_eq!(encoded("a b/ä+~.x"), "a%20b/%C3%A4%2B~.x");
    }
}
