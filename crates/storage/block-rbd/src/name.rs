//! File names: `rbd:pool[/namespace]/image[@snapshot][:key=value…]`, as Ceph's documentation describes them for QEMU. A backslash
//! takes the meaning from the character behind it.

use block::filename::FileNames;
use qapi::{Dict, QError, Value, qerr};

/// What names there are.
pub(crate) const NAMES: FileNames = FileNames { prefixes: &["rbd"], parse, older: Some(older) };

/// `filename`, which is a name as [`parse`] takes it, gives way to what it means, as far as that is not said besides.
fn older(dict: &mut Dict) -> Result<(), QError> {
    if let Some(Value::Str(name)) = dict.remove("filename") {
        for (key, value) in parse(&name)? {
            if !dict.contains_key(&key) {
                dict.insert(key, value);
            }
        }
    }
    Ok(())
}

/// The text up to the first `end` that means one, decoded, and what comes after that.
fn until<'a>(s: &'a str, end: &[char]) -> (String, Option<(char, &'a str)>) {
    let mut out = String::new();
    let mut chars = s.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => out.extend(chars.next().map(|(_, c)| c)),
            c if end.contains(&c) => return (out, Some((c, &s[at + c.len_utf8()..]))),
            c => out.push(c),
        }
    }
    (out, None)
}

fn parse(name: &str) -> Result<Dict, QError> {
    let Some(rest) = name.strip_prefix("rbd:") else {
        return Err(qerr!("File name must start with 'rbd:'"));
    };
    let (pool, rest) = until(rest, &['/']);
    let Some((_, rest)) = rest else { return Err(qerr!("Pool name is required")) };
    // A slash in the image's part ends the namespace; one in a snapshot's name or in a setting does not.
    let (first, end) = until(rest, &['/', '@', ':']);
    let (space, (image, end)) = match end {
        Some(('/', rest)) => (first, until(rest, &['@', ':'])),
        end => (String::new(), (first, end)),
    };
    let mut dict = Dict::from_iter([("pool", pool), ("namespace", space), ("image", image)]);
    let rest = match end {
        Some(('@', rest)) => {
            let (snapshot, end) = until(rest, &[':']);
            dict.insert("snapshot", snapshot);
            end.map(|(_, rest)| rest)
        }
        end => end.map(|(_, rest)| rest),
    };
    let mut more = String::new();
    let mut rest = rest.filter(|r| !r.is_empty());
    while let Some(text) = rest {
        let (key, value, after) = setting(text)?;
        match key.as_str() {
            "conf" => _ = dict.insert("conf", value),
            "id" => _ = dict.insert("user", value),
            _ => {
                if !more.is_empty() {
                    more.push(':');
                }
                encode(&mut more, &key);
                more.push('=');
                encode(&mut more, &value);
            }
        }
        rest = after;
    }
    if !more.is_empty() {
        dict.insert("x-rhea-settings", more);
    }
    Ok(dict)
}

/// The first setting in `text`, and what comes after it.
fn setting(text: &str) -> Result<(String, String, Option<&str>), QError> {
    let (key, value) = until(text, &['=', ':']);
    let Some(('=', value)) = value else { return Err(qerr!("conf option {key} has no value")) };
    let (value, end) = until(value, &[':']);
    Ok((key, value, end.map(|(_, rest)| rest)))
}

fn encode(out: &mut String, text: &str) {
    for c in text.chars() {
        if matches!(c, '\\' | ':' | '=') {
            out.push('\\');
        }
        out.push(c);
    }
}

/// The settings in what [`parse`] made of those that have no option of their own.
pub(crate) fn settings(mut text: &str) -> Result<Vec<(String, String)>, QError> {
    let mut out = Vec::new();
    while !text.is_empty() {
        let (key, value, rest) = setting(text)?;
        out.push((key, value));
        text = rest.unwrap_or("");
    }
    Ok(out)
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
            ("rbd:", "Pool name is required"),
            ("rbd:a", "Pool name is required"),
            ("rbd:a/", "{pool: a, namespace: , image: }"),
            ("rbd:p/i", "{pool: p, namespace: , image: i}"),
            ("rbd:p/n/i@s/t", "{pool: p, namespace: n, image: i, snapshot: s/t}"),
            ("rbd:p/i@", "{pool: p, namespace: , image: i, snapshot: }"),
            ("rbd:p/i\\@a\\:b:conf=/x", "{pool: p, namespace: , image: i@a:b, conf: /x}"),
            ("rbd:p/i:id=me:conf=/x/y", "{pool: p, namespace: , image: i, user: me, conf: /x/y}"),
            ("rbd:p/x/y/z", "{pool: p, namespace: x, image: y/z}"),
            ("rbd:p/i:conf", "conf option conf has no value"),
            ("rbd:p/i:", "{pool: p, namespace: , image: i}"),
        ] {
            assert_eq!(parsed(name), want, "{name}");
        }
    }

    #[test]
    fn a_name_among_options_means_options() {
        let mut d = Dict::from_iter([("driver", "rbd"), ("filename", "rbd:p/i:id=me"), ("user", "you")]);
        older(&mut d).unwrap();
        let text = Value::Dict(d).to_json().replace('"', "");
        assert_eq!(text, "{driver: rbd, user: you, pool: p, namespace: , image: i}");
    }

    #[test]
    fn settings_survive_their_way() {
        let d = parse(r"rbd:p/i:mon_host=1.2.3.4\:6789\;h:keyring=/a\=b:id=me").unwrap();
        let text = d.get("x-rhea-settings").and_then(Value::as_str).unwrap();
        let want = [("mon_host", "1.2.3.4:6789;h"), ("keyring", "/a=b")].map(|(k, v)| (k.into(), v.into()));
        assert_eq!(settings(text).unwrap(), want);
        assert_eq!(settings("").unwrap(), []);
    }
}
