//! File names of NBD exports: URIs (`nbd://host:port/export`, "NBD URI" of the protocol's documents) and the older
//! form `nbd:host:port:exportname=…`; and the older options `host`, `port` and `path`.

use block::filename::{FileNames, decoded};
use qapi::{Dict, QError, Value, qerr};

/// The port of NBD.
const PORT: &str = "10809";

/// What names there are.
pub(crate) const NAMES: FileNames =
    FileNames { prefixes: &["nbd", "nbd+tcp", "nbd+unix"], parse, older: Some(older) };

fn inet(host: &str, port: &str) -> Value {
    Value::Dict(Dict::from_iter([("type", "inet"), ("host", host), ("port", port)]))
}

fn unix(path: &str) -> Value {
    Value::Dict(Dict::from_iter([("type", "unix"), ("path", path)]))
}

fn parse(name: &str) -> Result<Dict, QError> {
    if name.contains("://") {
        return uri(name).ok_or_else(|| qerr!("No valid URL specified"));
    }
    let rest =
        name.strip_prefix("nbd:").ok_or_else(|| qerr!("File name string for NBD must start with 'nbd:'"))?;
    let mut dict = Dict::new();
    let mut server = rest;
    if let Some((before, export)) = rest.split_once(":exportname=") {
        if export.is_empty() {
            return Ok(dict);
        }
        dict.insert("export", export);
        server = before;
    }
    if server.is_empty() {
        return Ok(dict);
    }
    let address = match server.strip_prefix("unix:") {
        Some(path) => unix(path),
        None => {
            let bracketed = server.strip_prefix('[').and_then(|s| s.split_once("]:"));
            let (host, port) = bracketed
                .or_else(|| server.split_once(':'))
                .ok_or_else(|| qerr!("error parsing address '{server}'"))?;
            inet(host, port)
        }
    };
    dict.insert("server", address);
    Ok(dict)
}

fn uri(name: &str) -> Option<Dict> {
    let (scheme, rest) = name.split_once("://")?;
    let rest = rest.split('#').next().unwrap_or("");
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(r, q)| (r, Some(q)));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let export = decoded(path.strip_prefix('/').unwrap_or(path))?;
    let server = if scheme == "nbd+unix" {
        let socket = query?.strip_prefix("socket=").filter(|s| !s.contains(['&', ';']))?;
        if !authority.is_empty() {
            return None;
        }
        unix(&decoded(socket)?)
    } else {
        if query.is_some_and(|q| !q.is_empty()) {
            return None;
        }
        let host = authority.rsplit_once('@').map_or(authority, |(_, h)| h);
        let (host, port) = match host.strip_prefix('[') {
            Some(v6) => v6.split_once(']')?,
            None => host.split_at(host.find(':').unwrap_or(host.len())),
        };
        if host.is_empty() {
            return None;
        }
        let port: u16 = match port.strip_prefix(':') {
            Some("") => 0,
            Some(p) => p.parse().ok()?,
            None if port.is_empty() => 0,
            None => return None,
        };
        let port = if port == 0 { PORT.to_owned() } else { port.to_string() };
        inet(&decoded(host)?, &port)
    };
    let mut dict = Dict::from_iter([("server", server)]);
    if !export.is_empty() {
        dict.insert("export", export);
    }
    Some(dict)
}

/// `host`, `port` and `path` become `server`.
fn older(dict: &mut Dict) -> Result<(), QError> {
    let (host, port, path) = (dict.remove("host"), dict.remove("port"), dict.remove("path"));
    let text = |v: &Value| match v {
        Value::Str(s) => s.clone(),
        v => v.to_json(),
    };
    if (host.is_some() || port.is_some() || path.is_some()) && dict.contains_key("server") {
        return Err(qerr!("Cannot use 'server' and path/host/port at the same time"));
    }
    let server = match (host, path) {
        (Some(_), Some(_)) => return Err(qerr!("path and host may not be used at the same time")),
        (None, Some(_)) if port.is_some() => {
            return Err(qerr!("port may not be used without host"));
        }
        (None, Some(path)) => unix(&text(&path)),
        (Some(host), None) => inet(&text(&host), &port.as_ref().map_or(PORT.to_owned(), text)),
        (None, None) => return Ok(()),
    };
    dict.insert("server", server);
    Ok(())
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
    fn names() {
        for (name, want) in [
            ("nbd://h/x", "{server: {type: inet, host: h, port: 10809}, export: x}"),
            ("nbd://h", "{server: {type: inet, host: h, port: 10809}}"),
            ("nbd+tcp://u@[::1]:5//x%20y", "{server: {type: inet, host: ::1, port: 5}, export: /x y}"),
            ("nbd+unix:///?socket=/a%20b", "{server: {type: unix, path: /a b}}"),
            ("nbd+unix:///e?socket=s", "{server: {type: unix, path: s}, export: e}"),
            ("nbd:h:1", "{server: {type: inet, host: h, port: 1}}"),
            ("nbd:[::1]:1:exportname=a:b", "{export: a:b, server: {type: inet, host: ::1, port: 1}}"),
            ("nbd:unix:/s:exportname=e", "{export: e, server: {type: unix, path: /s}}"),
            ("nbd:unix:/s:exportname=", "{}"),
            ("nbd:", "{}"),
            ("nbd:h", "error parsing address 'h'"),
            ("nbd+tcp:h:1", "File name string for NBD must start with 'nbd:'"),
        ] {
            assert_eq!(parsed(name), want, "{name}");
        }
        for bad in [
            "nbd://",
            "nbd:///x",
            "nbd://h:99999",
            "nbd://h:x",
            "nbd://[::1",
            "nbd://[::1]x",
            "nbd://%zz/",
            "nbd://h/%f",
            "nbd://h/%ff",
            "nbd://h/%00",
            "nbd://h/x?a=b",
            "nbd+unix:///x",
            "nbd+unix://h/x?socket=s",
            "nbd+unix:///x?socket=s&x=1",
        ] {
            assert_eq!(parsed(bad), "No valid URL specified", "{bad}");
        }
    }

    #[test]
    fn older_options() {
        let tidy = |text: &str| {
            let Value::Dict(mut d) = Value::parse_json(text).unwrap() else { panic!() };
            older(&mut d).map(|()| Value::Dict(d).to_json()).map_err(|e| e.desc().to_owned())
        };
        let server = r#"{"server": {"type": "inet", "host": "h", "port": "7"}}"#;
        assert_eq!(tidy("{'host':'h','port':7}").unwrap(), server);
        assert_eq!(tidy("{'path':'p'}").unwrap(), r#"{"server": {"type": "unix", "path": "p"}}"#);
        assert_eq!(tidy("{'export':'p'}").unwrap(), r#"{"export": "p"}"#);
        assert_eq!(
            tidy("{'path':'p','host':'h'}").unwrap_err(),
            "path and host may not be used at the same time"
        );
        let both = "Cannot use 'server' and path/host/port at the same time";
        assert_eq!(tidy("{'path':'p','server':{}}").unwrap_err(), both);
    }
}
