//! File names (`ssh://[user@]host[:port]/path[?host_key_check=…]`), and the older options `host`, `port` and `host_key_check`.

use crate::program::hash_name;
use crate::sftp::readable;
use api::block_core::{BlockdevOptionsSsh, SshHostKeyCheck};
use block::filename::{FileNames, decoded};
use qapi::{Dict, QError, Value, qerr};
use std::fmt::Write;

/// The port of SSH.
const PORT: &str = "22";

/// What names there are.
pub(crate) const NAMES: FileNames = FileNames { prefixes: &["ssh"], parse, older: Some(older) };

fn parse(name: &str) -> Result<Dict, QError> {
    let rest = name.strip_prefix("ssh:").and_then(|r| r.strip_prefix("//"));
    let Some(rest) = rest else { return Err(qerr!("missing hostname in URI")) };
    let rest = rest.split('#').next().unwrap_or("");
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let invalid = || qerr!("No valid URL specified");
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(decoded(user).ok_or_else(invalid)?), host),
        None => (None, authority),
    };
    let (host, port) = match host.strip_prefix('[') {
        Some(v6) => v6.split_once(']').ok_or_else(invalid)?,
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    if host.is_empty() {
        return Err(qerr!("missing hostname in URI"));
    }
    if path.is_empty() {
        return Err(qerr!("missing remote path in URI"));
    }
    let port = match port.strip_prefix(':').unwrap_or(port) {
        "" | "0" => PORT,
        p => p,
    };
    let host = decoded(host).ok_or_else(invalid)?;
    let mut dict = Dict::new();
    dict.insert("server", Value::Dict(Dict::from_iter([("host", host.as_str()), ("port", port)])));
    dict.insert("path", decoded(path).ok_or_else(invalid)?);
    if let Some(user) = user {
        dict.insert("user", user);
    }
    for (key, value) in query.split(['&', ';']).filter_map(|p| p.split_once('=')) {
        let (key, value) = (decoded(key).ok_or_else(invalid)?, decoded(value).ok_or_else(invalid)?);
        if key == "host_key_check" {
            dict.insert("host-key-check", check(&value)?);
        } else {
            tracing::warn!("Unsupported parameter '{}' in URI", readable(key.as_bytes()));
        }
    }
    Ok(dict)
}

/// What one word says of the host's key.
fn check(text: &str) -> Result<Dict, QError> {
    let mode = |m| Dict::from_iter([("mode", m)]);
    match text {
        "no" => return Ok(mode("none")),
        "yes" => return Ok(mode("known_hosts")),
        _ => {}
    }
    match text.split_once(':') {
        Some((ty @ ("md5" | "sha1" | "sha256"), hash)) => {
            Ok(Dict::from_iter([("mode", "hash"), ("type", ty), ("hash", hash)]))
        }
        _ => Err(qerr!("unknown host_key_check setting ({})", readable(text.as_bytes()))),
    }
}

/// `host` and `port` become `server`, and `host_key_check` becomes `host-key-check`.
fn older(dict: &mut Dict) -> Result<(), QError> {
    let text = |v: &Value| match v {
        Value::Str(s) => s.clone(),
        v => v.to_json(),
    };
    if let Some(v) = dict.remove("host_key_check") {
        dict.insert("host-key-check", check(&text(&v))?);
    }
    let (host, port) = (dict.remove("host"), dict.remove("port"));
    match (host, port) {
        (None, None) => {}
        _ if dict.contains_key("server") => {
            return Err(qerr!("Cannot use 'server' and host/port at the same time"));
        }
        (None, Some(_)) => return Err(qerr!("port may not be used without host")),
        (Some(host), port) => {
            let port = port.as_ref().map_or(PORT.to_owned(), text);
            dict.insert("server", Value::Dict(Dict::from_iter([("host", text(&host)), ("port", port)])));
        }
    }
    Ok(())
}

/// The node's name, where that says all of it.
pub(crate) fn filename(o: &BlockdevOptionsSsh) -> Option<String> {
    let s = &o.server;
    let more = [s.numeric, s.ipv4, s.ipv6, s.keep_alive, s.mptcp];
    if more.iter().any(Option::is_some) || s.to.is_some() || !o.path.starts_with('/') {
        return None;
    }
    let mut name = String::from("ssh://");
    if let Some(user) = &o.user {
        encode(&mut name, user, b"");
        name.push('@');
    }
    match s.host.contains(':') {
        true => _ = write!(name, "[{}]", s.host),
        false => name.push_str(&s.host),
    }
    _ = write!(name, ":{}", s.port);
    encode(&mut name, &o.path, b"/:@+,=");
    match &o.host_key_check {
        None => {}
        Some(SshHostKeyCheck::None) => name.push_str("?host_key_check=no"),
        Some(SshHostKeyCheck::KnownHosts) => name.push_str("?host_key_check=yes"),
        Some(SshHostKeyCheck::Hash(h)) => {
            _ = write!(name, "?host_key_check={}:", hash_name(h.r#type));
            encode(&mut name, &h.hash, b":");
        }
    }
    Some(name)
}

/// As it stands in a URI (RFC 3986, section 2), with `also` as it is.
fn encode(out: &mut String, text: &str, also: &[u8]) {
    for b in text.bytes() {
        match b.is_ascii_alphanumeric() || b"-._~".contains(&b) || also.contains(&b) {
            true => out.push(b as char),
            false => _ = write!(out, "%{b:02X}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(name: &str) -> String {
        match parse(name) {
            Ok(d) => Value::Dict(d).to_json().replace('"', ""),
            Err(e) => e.desc().to_owned(),
        }
    }

    #[test]
    fn names_are_read() {
        for (name, want) in [
            ("ssh://h/a", "{server: {host: h, port: 22}, path: /a}"),
            ("ssh://me@h:5/a%20b", "{server: {host: h, port: 5}, path: /a b, user: me}"),
            (
                "ssh://[::1]:0/a?host_key_check=no&x=1",
                "{server: {host: ::1, port: 22}, path: /a, host-key-check: {mode: none}}",
            ),
            (
                "ssh://h/a?host_key_check=md5:a:b",
                "{server: {host: h, port: 22}, path: /a, host-key-check: {mode: hash, type: md5, hash: a:b}}",
            ),
            ("ssh://h", "missing remote path in URI"),
            ("ssh:///a", "missing hostname in URI"),
            ("ssh:foo", "missing hostname in URI"),
            ("ssh://h/a?host_key_check=foo", "unknown host_key_check setting (foo)"),
            ("ssh://h/a?host_key_check=", "unknown host_key_check setting ()"),
            ("ssh://h/a?host_key_check=sha1", "unknown host_key_check setting (sha1)"),
            ("ssh://[h/a", "No valid URL specified"),
            ("ssh://h/%zz", "No valid URL specified"),
        ] {
            assert_eq!(parsed(name), want, "{name}");
        }
    }

    #[test]
    fn older_options_are_taken() {
        let run = |pairs: &[(&'static str, &'static str)]| {
            let mut dict = Dict::from_iter(pairs.iter().copied());
            match older(&mut dict) {
                Ok(()) => Value::Dict(dict).to_json().replace('"', ""),
                Err(e) => e.desc().to_owned(),
            }
        };
        assert_eq!(run(&[("host", "h"), ("port", "5")]), "{server: {host: h, port: 5}}");
        assert_eq!(run(&[("host", "h")]), "{server: {host: h, port: 22}}");
        assert_eq!(run(&[("host_key_check", "no")]), "{host-key-check: {mode: none}}");
        assert_eq!(run(&[("port", "5")]), "port may not be used without host");
    }

    #[test]
    fn names_are_written() {
        for name in [
            "ssh://h:22/a",
            "ssh://me@h:5/a%20b/c%3F",
            "ssh://[::1]:22/a?host_key_check=no",
            "ssh://h:22/a?host_key_check=sha1:aa:bb",
            "ssh://h:22/a?host_key_check=yes",
        ] {
            let o: BlockdevOptionsSsh = qapi::from_json(Value::Dict(parse(name).unwrap())).unwrap();
            assert_eq!(filename(&o).as_deref(), Some(name));
        }
    }
}
