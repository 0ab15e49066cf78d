//! URLs of `http` and `https` (RFC 3986; RFC 9110, section 4.2).

use std::fmt;

/// Longest URL, bytes.
const MAX: usize = 64 << 10;

/// A server: what connections are made to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    /// `https`.
    pub(crate) tls: bool,
    /// Name or address, without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Origin {
    /// As the header `Host` has it: the port only where it is not the usual one.
    pub(crate) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.tls, self.port) {
            (false, 80) | (true, 443) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }

    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }
}

/// Where something is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) origin: Origin,
    /// Path and query: what stands in a request.
    pub(crate) target: String,
    /// `user:password`, where it is said; decoded.
    pub(crate) user: Option<String>,
}

/// Without the password.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.origin.scheme(), self.origin.authority(), self.target)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a request line can hold: neither spaces nor what ends a line. Anything beyond ASCII is written with percent signs.
fn clean(target: &str) -> String {
    let mut out = String::with_capacity(target.len());
    for b in target.bytes() {
        match b {
            0x21..=0x7e => out.push(char::from(b)),
            _ => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

impl Url {
    /// Parses; `None` where it is no URL of these schemes.
    pub(crate) fn parse(text: &str) -> Option<Url> {
        if text.len() > MAX {
            return None;
        }
        let (scheme, rest) = text.split_once("://")?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let rest = rest.split('#').next().unwrap_or("");
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (user, place) = match authority.rsplit_once('@') {
            Some((u, p)) => (Some(block::filename::decoded(u)?), p),
            None => (None, authority),
        };
        let (host, port) = match place.strip_prefix('[') {
            Some(v6) => {
                let (host, port) = v6.split_once(']')?;
                host.parse::<std::net::Ipv6Addr>().ok()?;
                (host.to_owned(), port)
            }
            None => {
                let (host, port) = place.split_at(place.find(':').unwrap_or(place.len()));
                (block::filename::decoded(host)?, port)
            }
        };
        let fits = |c: char| !c.is_control() && !c.is_whitespace() && !"/?#@[]\\\"<>".contains(c);
        if host.is_empty() || !host.chars().all(fits) {
            return None;
        }
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => None,
            None => return None,
            Some("") => None,
            Some(p) if p.bytes().all(|b| b.is_ascii_digit()) => Some(p.parse().ok()?),
            Some(_) => return None,
        };
        let port = port.unwrap_or(if tls { 443 } else { 80 });
        let slash = if target.starts_with('/') { "" } else { "/" };
        let target = format!("{slash}{}", clean(target));
        Some(Url { origin: Origin { tls, host, port }, target, user })
    }

    /// What `text`, in an answer about this, means (RFC 3986, section 5.2).
    pub(crate) fn join(&self, text: &str) -> Option<Url> {
        let text = text.trim();
        if text.len() > MAX {
            return None;
        }
        let at = text.find([':', '/', '?', '#']);
        if at.is_some_and(|at| text[at..].starts_with(':')) {
            return Url::parse(text);
        }
        if let Some(rest) = text.strip_prefix("//") {
            return Url::parse(&format!("{}://{rest}", self.origin.scheme()));
        }
        let text = text.split('#').next().unwrap_or("");
        let path = self.target.split('?').next().unwrap_or("/");
        let target = match text {
            "" => self.target.clone(),
            t if t.starts_with('/') => without_dots(&clean(t)),
            t if t.starts_with('?') => format!("{path}{}", clean(t)),
            t => without_dots(&format!("{}{}", &path[..=path.rfind('/').unwrap_or(0)], clean(t))),
        };
        Some(Url { target, user: None, ..self.clone() })
    }
}

/// Takes the steps `.` and `..` out of the path.
fn without_dots(target: &str) -> String {
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    let mut out: Vec<&str> = Vec::new();
    let steps: Vec<&str> = path.split('/').skip(1).collect();
    for (i, step) in steps.iter().enumerate() {
        let last = i + 1 == steps.len();
        match *step {
            "." if last => out.push(""),
            "." => {}
            ".." => {
                out.pop();
                if last {
                    out.push("");
                }
            }
            s => out.push(s),
        }
    }
    format!("/{}{query}", out.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (text, shown) in [
            ("http://h", "http://h/"),
            ("HTTP://h:80/a?b#c", "http://h/a?b"),
            ("https://u:p%40@h:444?x=1", "https://h:444/?x=1"),
            ("http://[::1]:8/ä b", "http://[::1]:8/%C3%A4%20b"),
            ("http://h:/x\r\nHost: y", "http://h/x%0D%0AHost:%20y"),
        ] {
            assert_eq!(Url::parse(text).unwrap().to_string(), shown);
        }
        assert_eq!(Url::parse("http://u:p%40@h/").unwrap().user.as_deref(), Some("u:p@"));
        for bad in [
            "",
            "http:",
            "http:x",
            "http://",
            "http:///x",
            "ftp://h/",
            "http://h:x/",
            "http://h:99999/",
            "http://[h]/",
            "http://a b/",
            "http://h%0a/",
            "http://h:+1/",
        ] {
            assert!(Url::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn redirects() {
        let at = Url::parse("https://u:p@h/a/b/c?d").unwrap();
        for (text, want) in [
            ("/x", "https://h/x"),
            ("x", "https://h/a/b/x"),
            ("../x/./y/..", "https://h/a/x/"),
            ("../../../x?..", "https://h/x?.."),
            ("?q", "https://h/a/b/c?q"),
            ("//o:1/x", "https://o:1/x"),
            ("http://o/x", "http://o/x"),
            ("x:1", ""),
            ("", "https://h/a/b/c?d"),
        ] {
            assert_eq!(at.join(text).map(|u| u.to_string()).unwrap_or_default(), want, "{text}");
        }
        assert_eq!(at.join("/x").unwrap().user, None);
    }
}
