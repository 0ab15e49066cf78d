//! File names as users write them, and the options of nodes that they stand for.
//!
//! A name is a path; or it begins with the prefix of a protocol and a colon (`nbd://host/export`, `host_device:/dev/sda`),
//! and that protocol's driver says what it means ([`FileNames`]); or it is `json:` and all options of a node. A colon
//! behind a slash begins no protocol.
//!
//! Options from names and from `json:` are less strict than those of QMP: they may be nested or have dotted names, and every
//! value may be text. [`options`] makes typed options of them.

use crate::driver::{Cx, DriverType, Kind};
use crate::options::insert_path;
use crate::probe::{probe_node, protocol_of};
use crate::{BlockGraph, Policy};
use api::block_core::BlockdevOptions;
use base::Errno;
use monitor::EventBus;
use qapi::visit::MAX_DEPTH;
use qapi::{Dict, QError, Value, from_keyval_dict, qerr};

/// The member of a driver's options ([`FileNames::parse`]) that holds the name of the file behind it, and the child that
/// this file becomes.
pub const INNER: (&str, &str) = ("x-image", "image");

/// The same for children of other names: what the member is called, the child, and whether the file holds an image whose format
/// is to be found out.
pub const OTHERS: [(&str, &str, bool); 2] = [("x-raw", "raw", false), ("x-test", "test", true)];

/// Most drivers that one name may put on one another.
const MAX_INNER: usize = 16;

/// The file names that a driver takes.
#[derive(Clone, Copy, Debug)]
pub struct FileNames {
    /// What stands before the colon.
    pub prefixes: &'static [&'static str],
    /// The options that a name, with its prefix, means; without `driver`. Also called for names without a prefix, where
    /// the user named the driver.
    pub parse: fn(&str) -> Result<Dict, QError>,
    /// Puts options by older names, as they stand in names and on command lines, under those of today.
    pub older: Option<fn(&mut Dict) -> Result<(), QError>>,
}

/// What a file name stands for: options, to be given to [`options`].
#[derive(Clone, Debug, PartialEq)]
pub enum Named {
    /// A node of a protocol, which may hold an image of any format. `driver` is set.
    Protocol(Dict),
    /// The node itself (`json:`). Where `driver` is missing, the format of what is in `file` is to be found out.
    Whole(Dict),
}

/// What stands before the colon, if `name` begins with a protocol.
pub fn prefix(name: &str) -> Option<&str> {
    let at = name.find([':', '/'])?;
    name[at..].starts_with(':').then_some(&name[..at])
}

/// A path as a name that does not look like one with a protocol.
pub fn plain(path: &str) -> String {
    if prefix(path).is_some() { format!("./{path}") } else { path.to_owned() }
}

/// What a file name stands for.
pub async fn named(drivers: &[&'static DriverType], name: &str) -> Result<Named, QError> {
    match name.strip_prefix("json:") {
        Some(json) => whole(json).map(Named::Whole),
        None => protocol(drivers, name).await.map(Named::Protocol),
    }
}

/// The options in a `json:` name, nested.
fn whole(json: &str) -> Result<Dict, QError> {
    let value = Value::parse_json(json).map_err(|e| e.prepend("Could not parse the JSON options"))?;
    let Value::Dict(dict) = value else { return Err(qerr!("Invalid JSON object given")) };
    nested(dict, 0)
}

/// The options of the node of a protocol that a name stands for. `json:` is no protocol.
pub async fn protocol(drivers: &[&'static DriverType], name: &str) -> Result<Dict, QError> {
    protocol_in(drivers, name, 0).await
}

/// [`protocol`] where the user has named the driver: the name is what that one makes of it.
pub async fn protocol_of_driver(
    drivers: &[&'static DriverType],
    ty: &'static DriverType,
    name: &str,
) -> Result<Dict, QError> {
    stacked(drivers, Some(ty), name, 0).await
}

/// [`protocol`] of a name that stands in others.
async fn protocol_in(drivers: &[&'static DriverType], name: &str, depth: usize) -> Result<Dict, QError> {
    stacked(drivers, None, name, depth).await
}

/// The options that a name means, with those of the drivers that it puts on one another; `first` is the outermost, where
/// that is known.
async fn stacked(
    drivers: &[&'static DriverType],
    mut first: Option<&'static DriverType>,
    name: &str,
    depth: usize,
) -> Result<Dict, QError> {
    let too_many = || qerr!("More than {MAX_INNER} drivers stand on one another in the file name");
    let mut outer = Vec::new();
    let mut name = name.to_owned();
    let mut dict = loop {
        let mut dict = match name.strip_prefix("json:").filter(|_| !outer.is_empty()) {
            Some(json) => whole(json)?,
            None => match first.take() {
                Some(ty) => of_driver(ty, &name)?,
                None => one(drivers, &name).await?,
            },
        };
        for (member, child, image) in OTHERS {
            let Some(Value::Str(inner)) = dict.remove(member) else { continue };
            if depth + outer.len() >= MAX_INNER {
                return Err(too_many());
            }
            let file = Box::pin(protocol_in(drivers, &inner, depth + outer.len() + 1)).await?;
            let found = match image {
                true => {
                    let format = probe_file(drivers, file.clone(), &inner).await?;
                    Dict::from_iter([("driver", Value::from(format)), ("file", Value::Dict(file))])
                }
                false => file,
            };
            dict.insert(child, found);
        }
        match dict.remove(INNER.0) {
            Some(Value::Str(inner)) if depth + outer.len() < MAX_INNER => {
                outer.push(dict);
                name = inner;
            }
            Some(_) => return Err(too_many()),
            None => break dict,
        }
    };
    while let Some(mut o) = outer.pop() {
        o.insert(INNER.1, dict);
        dict = o;
    }
    Ok(dict)
}

/// The format of what a file holds, which is opened for that.
async fn probe_file(drivers: &[&'static DriverType], mut d: Dict, name: &str) -> Result<String, QError> {
    const NODE: &str = "#probed";
    d.insert("node-name", NODE);
    d.insert("read-only", true);
    let graph = BlockGraph::new(drivers, EventBus::new());
    graph.set_policy(Policy { own_names: true, ..graph.policy() });
    graph.add(options(drivers, d).await?).await?;
    let snapshot = graph.snapshot();
    let found = match snapshot.by_name(NODE) {
        Some(node) => probe_node(drivers, &Cx { graph: &snapshot, node }, name).await,
        None => Err(Errno::NOENT),
    };
    drop(snapshot);
    graph.close_all().await;
    found.map_err(|e| qerr!("Could not read image for determining its format: {e}"))
}

async fn one(drivers: &[&'static DriverType], name: &str) -> Result<Dict, QError> {
    let Some(prefix) = prefix(name) else {
        let mut dict = Dict::new();
        dict.insert("driver", protocol_of(name.to_owned()).await);
        dict.insert("filename", name);
        return Ok(dict);
    };
    let takes = |d: &&&DriverType| d.file_names.is_some_and(|n| n.prefixes.contains(&prefix));
    let ty = drivers.iter().find(takes).ok_or_else(|| qerr!("Unknown protocol '{prefix}'"))?;
    let mut dict = of_driver(ty, name)?;
    if ty.name == "file" {
        let path = dict.get("filename").and_then(Value::as_str).unwrap_or(name);
        dict.insert("driver", protocol_of(path.to_owned()).await);
    }
    Ok(dict)
}

/// The options for a name that is a path, with or without this prefix.
pub fn of_prefix(prefix: &str, name: &str) -> Dict {
    Dict::from_iter([("filename", name.strip_prefix(prefix).unwrap_or(name))])
}

/// The options of a node of this protocol that a name stands for.
pub fn of_driver(ty: &DriverType, name: &str) -> Result<Dict, QError> {
    let mut dict = match ty.file_names {
        Some(names) => (names.parse)(name)?,
        None => Dict::from_iter([("filename", name)]),
    };
    dict.insert("driver", ty.name);
    Ok(dict)
}

/// Whether a driver of this name is one of a protocol.
pub(crate) fn is_protocol(drivers: &[&'static DriverType], name: &str) -> bool {
    drivers.iter().any(|d| d.name == name && d.kind == Kind::Protocol)
}

/// What a name stands for, with the options that were given beside it put over that. Where those name a format for what is a
/// file by its name, the file is what holds the image of that format.
pub(crate) fn over(drivers: &[&'static DriverType], mut named: Dict, given: Dict) -> Dict {
    let kind = |d: &Dict| d.get("driver").and_then(Value::as_str).map(|d| is_protocol(drivers, d));
    for (key, value) in given {
        let value = match (named.remove(&key), value) {
            (Some(Value::Dict(below)), Value::Dict(mut more)) => {
                if (kind(&below), kind(&more)) == (Some(true), Some(false)) {
                    let file = match more.remove("file") {
                        Some(Value::Dict(file)) => Value::Dict(over(drivers, below, file)),
                        Some(other) => other,
                        None => Value::Dict(below),
                    };
                    more.insert("file", file);
                    Value::Dict(more)
                } else {
                    Value::Dict(over(drivers, below, more))
                }
            }
            (_, value) => value,
        };
        named.insert(key, value);
    }
    named
}

/// Dotted names become dictionaries.
fn nested(dict: Dict, depth: usize) -> Result<Dict, QError> {
    let deep = || qerr!("Parameters are nested too deeply");
    let mut out = Dict::new();
    for (key, value) in dict {
        if depth + key.matches('.').count() >= MAX_DEPTH {
            return Err(deep());
        }
        let value = match value {
            Value::Dict(d) => Value::Dict(nested(d, depth + 1 + key.matches('.').count())?),
            v => v,
        };
        merge(&mut out, &key, value)?;
    }
    Ok(out)
}

fn merge(dict: &mut Dict, path: &str, value: Value) -> Result<(), QError> {
    let mixed =
        || qerr!("Cannot reference an existing block device with additional options or a new filename");
    let (head, rest) = path.split_once('.').map_or((path, None), |(h, r)| (h, Some(r)));
    match (dict.get_mut(head), rest, value) {
        (Some(Value::Dict(there)), Some(rest), value) => merge(there, rest, value),
        (Some(Value::Dict(there)), None, Value::Dict(more)) => {
            more.into_iter().try_for_each(|(k, v)| merge(there, &k, v))
        }
        (Some(_), ..) => Err(mixed()),
        (None, _, value) => {
            insert_path(dict, path, value);
            Ok(())
        }
    }
}

/// Typed options from those of a name or of a command line: nested or dotted, with text for values.
///
/// A child that has a `filename` but no `driver` is a file or device of this host. `driver` must be there.
pub async fn options(drivers: &[&'static DriverType], dict: Dict) -> Result<BlockdevOptions, QError> {
    let mut whole = Value::Dict(nested(dict, 0)?);
    for (at, path) in without_driver(&whole, Vec::new()) {
        if let Some(Value::Dict(d)) = follow(&mut whole, &at) {
            d.insert("driver", protocol_of(path).await);
        }
    }
    let text = as_text(drivers, whole)?;
    let Value::Dict(mut dict) = text else { return Err(qerr!("Invalid options")) };
    loop {
        match from_keyval_dict(dict.clone()) {
            Err(e) if in_bytes(&mut dict, &e) => {}
            other => return other.map_err(|e| explained(drivers, &dict, e)),
        }
    }
}

/// Numbers of bytes may have a suffix here. Whether the error was about one; it has none any more.
fn in_bytes(dict: &mut Dict, e: &QError) -> bool {
    let path = e.desc().strip_prefix("Parameter '").and_then(|r| r.strip_suffix("' expects integer"));
    let Some((path, (above, key))) = path.map(|p| (p, p.rsplit_once('.').unwrap_or(("", p)))) else {
        return false;
    };
    let Some(Value::Str(text)) = at(dict, path) else { return false };
    let Ok(n) = base::units::parse_size(text, 1) else { return false };
    if text.parse() == Ok(n) {
        return false;
    }
    let mut d = dict;
    for step in above.split('.').filter(|s| !s.is_empty()) {
        let Some(Value::Dict(below)) = d.get_mut(step) else { return false };
        d = below;
    }
    d.insert(key, n.to_string());
    true
}

/// The children that are files without a driver: where they are, and their names.
fn without_driver(v: &Value, at: Vec<String>) -> Vec<(Vec<String>, String)> {
    let mut out = Vec::new();
    if let Value::List(l) = v {
        for (i, v) in l.iter().enumerate() {
            out.extend(without_driver(v, at.iter().cloned().chain([i.to_string()]).collect()));
        }
    }
    let Value::Dict(d) = v else { return out };
    if let Some(name) = d.get("filename").and_then(Value::as_str)
        && !at.is_empty()
        && !d.contains_key("driver")
    {
        out.push((at.clone(), name.to_owned()));
    }
    for (k, v) in d.iter() {
        let below = at.iter().cloned().chain([k.to_owned()]).collect();
        out.extend(without_driver(v, below));
    }
    out
}

fn follow<'v>(v: &'v mut Value, at: &[String]) -> Option<&'v mut Value> {
    let Some((first, rest)) = at.split_first() else { return Some(v) };
    match v {
        Value::Dict(d) => follow(d.get_mut(first)?, rest),
        Value::List(l) => follow(l.get_mut(first.parse::<usize>().ok()?)?, rest),
        _ => None,
    }
}

/// Puts options by older names ([`FileNames::older`]) under those of today, in `dict` and in what it holds.
///
/// # Errors
/// Old and new names for one thing.
pub fn modern(drivers: &[&'static DriverType], dict: &mut Dict) -> Result<(), QError> {
    fn inside(drivers: &[&'static DriverType], d: &mut Dict, depth: usize) -> Result<(), QError> {
        if depth > MAX_DEPTH {
            return Err(qerr!("The options are nested too deeply"));
        }
        let ty = d.get("driver").and_then(Value::as_str).and_then(|n| drivers.iter().find(|t| t.name == n));
        if let Some(older) = ty.and_then(|t| t.older.or(t.file_names.and_then(|n| n.older))) {
            older(d)?;
        }
        let keys: Vec<String> = d.iter().map(|(k, _)| k.to_owned()).collect();
        for key in keys {
            if let Some(Value::Dict(below)) = d.get_mut(&key) {
                inside(drivers, below, depth + 1)?;
            }
        }
        Ok(())
    }
    inside(drivers, dict, 0)
}

/// As key=value text has it: every leaf is text, and dictionaries with the keys 0, 1, … are lists.
fn as_text(drivers: &[&'static DriverType], v: Value) -> Result<Value, QError> {
    Ok(match v {
        Value::Dict(mut d) => {
            let ty =
                d.get("driver").and_then(Value::as_str).and_then(|n| drivers.iter().find(|t| t.name == n));
            if let Some(older) = ty.and_then(|t| t.older.or(t.file_names.and_then(|n| n.older))) {
                older(&mut d)?;
            }
            let n = d.len();
            if n > 0 && (0..n).all(|i| d.contains_key(&i.to_string())) {
                let all = (0..n).filter_map(|i| d.remove(&i.to_string()));
                return all.map(|v| as_text(drivers, v)).collect::<Result<Vec<_>, _>>().map(Value::List);
            }
            let all = d.into_iter().map(|(k, v)| Ok((k, as_text(drivers, v)?)));
            Value::Dict(all.collect::<Result<Vec<_>, QError>>()?.into_iter().collect())
        }
        Value::List(l) => {
            Value::List(l.into_iter().map(|v| as_text(drivers, v)).collect::<Result<_, QError>>()?)
        }
        Value::Bool(b) => Value::from(if b { "on" } else { "off" }),
        v @ (Value::Str(_) | Value::Null) => v,
        number => Value::from(number.to_json()),
    })
}

/// The error as it is told of options on a command line.
fn explained(drivers: &[&'static DriverType], dict: &Dict, e: QError) -> QError {
    let quoted = |end: &str| {
        let rest = e.desc().strip_prefix("Parameter '")?;
        rest.strip_suffix(end).map(str::to_owned)
    };
    if let Some(path) = quoted("' is unexpected") {
        let (above, key) = path.rsplit_once('.').unwrap_or(("", &path));
        return unexpected(drivers, dict, above, key).unwrap_or(e);
    }
    if let Some(path) = quoted("' is missing") {
        return match path.rsplit_once('.').map_or(path.as_str(), |(_, key)| key) {
            "driver" if path == "driver" => qerr!("Must specify either driver or file"),
            "driver" => qerr!("A block device must be specified for \"{}\"", above(&path)),
            child @ ("file" | "image" | "raw" | "test") => {
                qerr!("A block device must be specified for \"{child}\"")
            }
            "server" => qerr!("NBD server address missing"),
            "dir" => qerr!("vvfat block driver requires a 'dir' option"),
            "filename" => {
                let driver = value_at(dict, &path[..path.len() - "filename".len()]);
                qerr!("The '{driver}' block driver requires a file name")
            }
            _ => e,
        };
    }
    if let Some(path) = quoted("' expects integer")
        && let key @ ("size" | "offset") = path.rsplit('.').next().unwrap_or_default()
    {
        return qerr!("Parameter '{key}' expects a non-negative number below 2^64").with_hint(
            "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively.",
        );
    }
    if let Some(value) = ["overlap-check", "template"].iter().find_map(|key| {
        e.desc().strip_prefix(&format!("Parameter '{key}' does not accept value '"))?.strip_suffix('\'')
    }) && dict.get("driver").and_then(Value::as_str) == Some("qcow2")
    {
        return qerr!(
            "Unsupported value '{value}' for qcow2 option 'overlap-check'. Allowed are any of the following: none, \
             constant, cached, all"
        );
    }
    match e.desc().strip_prefix("Parameter 'driver' does not accept value ") {
        Some(name) => qerr!("Unknown driver {name}"),
        None => e,
    }
}

/// The name of the child that has the member at `path`.
fn above(path: &str) -> &str {
    path.rsplit('.').nth(1).unwrap_or("")
}

/// The driver of the options in which a path that ends with a dot, or is empty, leads.
fn value_at(dict: &Dict, path: &str) -> String {
    let mut d = dict;
    for step in path.split('.').filter(|s| !s.is_empty()) {
        match d.get(step) {
            Some(Value::Dict(below)) => d = below,
            _ => break,
        }
    }
    d.get("driver").and_then(Value::as_str).unwrap_or("file").to_owned()
}

/// The message for an option that a driver does not have. Its name is told as seen from the node that it was given to.
fn unexpected(drivers: &[&'static DriverType], dict: &Dict, path: &str, key: &str) -> Option<QError> {
    let (mut node, mut name) = (dict, String::new());
    for step in path.split('.').filter(|s| !s.is_empty()) {
        name = if name.is_empty() { step.to_owned() } else { format!("{name}.{step}") };
        if let Some(Value::Dict(below)) = at(node, &name)
            && below.contains_key("driver")
        {
            (node, name) = (below, String::new());
        }
    }
    let mut key = if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
    while let Some(Value::Dict(d)) = at(node, &key)
        && let Some(first) = d.keys().next()
    {
        key = format!("{key}.{first}");
    }
    let driver = node.get("driver")?.as_str()?;
    let ty = drivers.iter().find(|d| d.name == driver)?;
    Some(match ty.kind {
        _ if driver == "rbd" => qerr!("Parameter '{key}' is unexpected"),
        Kind::Protocol => qerr!("Block protocol '{driver}' doesn't support the option '{key}'"),
        _ => qerr!("Block format '{driver}' does not support the option '{key}'"),
    })
}

fn at<'d>(dict: &'d Dict, path: &str) -> Option<&'d Value> {
    let (head, rest) = path.split_once('.').map_or((path, None), |(h, r)| (h, Some(r)));
    match (dict.get(head)?, rest) {
        (v, None) => Some(v),
        (Value::Dict(d), Some(rest)) => at(d, rest),
        (Value::List(l), Some(rest)) => {
            let (n, rest) = rest.split_once('.').map_or((rest, None), |(h, r)| (h, Some(r)));
            match (l.get(n.parse::<usize>().ok()?)?, rest) {
                (v, None) => Some(v),
                (Value::Dict(d), Some(rest)) => at(d, rest),
                _ => None,
            }
        }
        _ => None,
    }
}

/// What a URI's percent signs stand for; `None` where they are wrong or the text is not UTF-8.
pub fn decoded(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let mut digit = || (bytes.next()? as char).to_digit(16);
        out.push((digit()? * 16 + digit()?) as u8);
    }
    String::from_utf8(out).ok().filter(|s| !s.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::DRIVERS;
    use qapi::to_value;

    fn text(name: &str) -> String {
        let told = async {
            let dict = match named(DRIVERS, name).await? {
                Named::Protocol(dict) | Named::Whole(dict) => dict,
            };
            options(DRIVERS, dict).await
        };
        match rt::block_on(told) {
            Ok(o) => to_value(&o).to_json().replace('"', ""),
            Err(e) => e.desc().to_owned(),
        }
    }

    #[test]
    fn names() {
        let deep = format!("json:{{\"driver\":\"raw\",\"{}x\":1}}", "a.".repeat(300));
        for (name, want) in [
            ("a", "{driver: file, filename: a}"),
            ("file:a:b", "{driver: file, filename: a:b}"),
            ("./a:b", "{driver: file, filename: ./a:b}"),
            ("a b:c", "Unknown protocol 'a b'"),
            (":a", "Unknown protocol ''"),
            ("raw:a", "Unknown protocol 'raw'"),
            ("json:[]", "Invalid JSON object given"),
            ("json:{", "Could not parse the JSON options: JSON parse error, premature EOI"),
            ("json:{}", "Must specify either driver or file"),
            ("json:{'driver':'nope'}", "Unknown driver 'nope'"),
            ("json:{'driver':'file','filename':'file:a'}", "{driver: file, filename: file:a}"),
            (
                "json:{'driver':'raw','file.filename':'a','offset':'1024','size':512}",
                "{driver: raw, file: {driver: file, filename: a}, offset: 1024, size: 512}",
            ),
            (
                "json:{'driver':'raw','file.filename':'a','offset':'1k','size':'0.5k'}",
                "{driver: raw, file: {driver: file, filename: a}, offset: 1024, size: 512}",
            ),
            (
                "json:{'driver':'raw','file.filename':'a','offset':'1x'}",
                "Parameter 'offset' expects a non-negative number below 2^64",
            ),
            ("json:{'driver':'raw'}", "A block device must be specified for \"file\""),
            ("json:{'driver':'raw','file':{}}", "A block device must be specified for \"file\""),
            ("json:{'driver':'file'}", "The 'file' block driver requires a file name"),
            (
                "json:{'driver':'raw','file.filename':'a','x.y':1}",
                "Block format 'raw' does not support the option 'x.y'",
            ),
            (
                "json:{'driver':'raw','file':{'driver':'file','filename':'a','x':true}}",
                "Block protocol 'file' doesn't support the option 'x'",
            ),
            (
                "json:{'driver':'raw','file':'a','file.filename':'b'}",
                "Cannot reference an existing block device with additional options or a new filename",
            ),
            (
                "json:{'driver':'raw','file.filename':'a','read-only':'maybe'}",
                "Parameter 'read-only' expects 'on' or 'off'",
            ),
            (&deep, "Parameters are nested too deeply"),
        ] {
            assert_eq!(text(name), want, "{name}");
        }
    }

    #[test]
    fn percent_signs() {
        assert_eq!(decoded("a%20b%2fc").as_deref(), Some("a b/c"));
        for bad in ["%", "%4", "%zz", "%ff", "%00"] {
            assert_eq!(decoded(bad), None, "{bad}");
        }
    }
}
