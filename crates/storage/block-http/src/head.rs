//! The head of an answer: status and fields (RFC 9112, sections 2 to 6).

/// Longest head, bytes.
pub(crate) const MAX_HEAD: usize = 64 << 10;

/// How long a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// This many bytes.
    Length(u64),
    /// In chunks, each with its length.
    Chunked,
    /// Up to the end of the connection.
    ToEnd,
}

/// Status and fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// HTTP/1.0, which ends connections unless they say otherwise.
    old: bool,
    /// Names in lower case.
    fields: Vec<(String, String)>,
}

impl Head {
    /// Parses what ends with an empty line; `None` where that is no head.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Head> {
        let mut lines = bytes.split(|b| *b == b'\n').map(|l| l.strip_suffix(b"\r").unwrap_or(l));
        let first = std::str::from_utf8(lines.next()?).ok()?;
        let mut words = first.splitn(3, ' ');
        let version = words.next()?.strip_prefix("HTTP/1.")?;
        let old = match version {
            "0" => true,
            v if v.len() == 1 && v.as_bytes()[0].is_ascii_digit() => false,
            _ => return None,
        };
        let status = words.next().filter(|s| s.len() == 3)?;
        let status = status.parse().ok().filter(|s| (100..1000).contains(s))?;
        let mut fields = Vec::new();
        for line in lines {
            if line.is_empty() {
                break;
            }
            // A line that goes on where another ended is not allowed any more (section 5.2), nor space before the colon.
            let colon = line.iter().position(|b| *b == b':')?;
            let name = &line[..colon];
            if name.is_empty() || !name.iter().all(|b| b.is_ascii_graphic()) {
                return None;
            }
            let value = String::from_utf8_lossy(&line[colon + 1..]);
            fields.push((String::from_utf8_lossy(name).to_ascii_lowercase(), value.trim().to_owned()));
        }
        Some(Head { status, old, fields })
    }

    /// The first field of this name, in lower case.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    fn has_word(&self, name: &str, word: &str) -> bool {
        let all = self.fields.iter().filter(|(n, _)| n == name);
        all.flat_map(|(_, v)| v.split(',')).any(|w| w.trim().eq_ignore_ascii_case(word))
    }

    /// Whether the server says that it answers requests for ranges of bytes.
    pub(crate) fn takes_ranges(&self) -> bool {
        self.has_word("accept-ranges", "bytes")
    }

    /// The length that the head says; `None` where it says none, `Some(None)` where it makes no sense.
    pub(crate) fn length(&self) -> Option<Option<u64>> {
        let mut all = self.fields.iter().filter(|(n, _)| n == "content-length").map(|(_, v)| v.as_str());
        let first = all.next()?;
        let digits = !first.is_empty() && first.bytes().all(|b| b.is_ascii_digit());
        // Two lengths are none (section 6.3).
        Some(first.parse().ok().filter(|_| digits && all.all(|v| v == first)))
    }

    /// How the body of an answer to GET ends (section 6.3); `None` where that makes no sense.
    pub(crate) fn framing(&self) -> Option<Framing> {
        if matches!(self.status, 100..=199 | 204 | 304) {
            return Some(Framing::Length(0));
        }
        if let Some(coding) = self.get("transfer-encoding") {
            return coding.eq_ignore_ascii_case("chunked").then_some(Framing::Chunked);
        }
        match self.length() {
            Some(n) => n.map(Framing::Length),
            None => Some(Framing::ToEnd),
        }
    }

    /// Whether another request may be made on the connection.
    pub(crate) fn keeps(&self) -> bool {
        match self.old {
            true => self.has_word("connection", "keep-alive"),
            false => !self.has_word("connection", "close"),
        }
    }

    /// The first byte, the last and, where it is said, the whole length (RFC 9110, section 14.4).
    pub(crate) fn range(&self) -> Option<(u64, u64, Option<u64>)> {
        let (range, whole) = self.get("content-range")?.strip_prefix("bytes ")?.trim().split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let whole = if whole == "*" { None } else { Some(whole.parse().ok()?) };
        Some((first.parse().ok()?, last.parse().ok()?, whole))
    }

    /// Whether the body is the thing itself, and not, say, compressed.
    pub(crate) fn is_plain(&self) -> bool {
        self.get("content-encoding").is_none_or(|c| c.eq_ignore_ascii_case("identity"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Option<Head> {
        Head::parse(format!("{text}\r\n\r\n").replace('|', "\r\n").as_bytes())
    }

    #[test]
    fn heads() {
        let h = head(
            "HTTP/1.1 206 Partial|Content-Length: 5|accept-ranges:none, bytes|Content-Range: bytes 1-5/9",
        )
        .unwrap();
        assert_eq!((h.status, h.takes_ranges(), h.keeps(), h.is_plain()), (206, true, true, true));
        assert_eq!((h.framing(), h.range()), (Some(Framing::Length(5)), Some((1, 5, Some(9)))));
        let h =
            head("HTTP/1.0 200|Connection: Keep-Alive|Transfer-Encoding: chunked|Content-Length: 3").unwrap();
        assert_eq!((h.framing(), h.keeps(), h.takes_ranges()), (Some(Framing::Chunked), true, false));
        let h = head("HTTP/1.1 200 OK|Connection: x, close|Content-Encoding: gzip").unwrap();
        assert_eq!((h.framing(), h.keeps(), h.is_plain()), (Some(Framing::ToEnd), false, false));
        assert_eq!(head("HTTP/1.1 204 x|Content-Length: 7").unwrap().framing(), Some(Framing::Length(0)));
    }

    #[test]
    fn nonsense() {
        for bad in [
            "",
            "x",
            "HTTP/2 200 OK",
            "HTTP/1.1 20 x",
            "HTTP/1.1 +20 x",
            "HTTP/1.1 200 OK|x",
            "HTTP/1.1 200 OK|a b: c",
            "HTTP/1.1 200 OK|a: b| c",
        ] {
            assert_eq!(head(bad), None, "{bad}");
        }
        for bad in [
            "Content-Length: -1",
            "Content-Length: 1|Content-Length: 2",
            "Content-Length: +1",
            "Transfer-Encoding: gzip, chunked",
            "Content-Length: 99999999999999999999",
        ] {
            assert_eq!(head(&format!("HTTP/1.1 200 OK|{bad}")).unwrap().framing(), None, "{bad}");
        }
        for bad in ["bytes 1-2", "bytes */5", "items 1-2/3", "bytes 1-/4"] {
            assert_eq!(
                head(&format!("HTTP/1.1 206 OK|Content-Range: {bad}")).unwrap().range(),
                None,
                "{bad}"
            );
        }
    }
}
