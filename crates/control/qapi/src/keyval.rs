//! key=value text: `driver=qcow2,file.driver=file,file.filename=a,,b`.
//!
//! Parameters are separated by commas; a comma in a value is doubled. A key is a path of names separated by points; where all names
//! under a key are numbers, they number the elements of a list, from 0 without a gap. A parameter given again replaces
//! the earlier one. A first value without a key belongs to the implied key, where the option has one, and cannot contain a comma.

use std::collections::BTreeMap;

use crate::{Dict, QError, Value, qerr};

/// The longest name in a key.
const MAX_NAME: usize = 127;
/// The most names in a key: as deep as the visitor reads.
const MAX_PATH: usize = crate::visit::MAX_DEPTH;

/// Reads key=value text into nested dictionaries and lists whose leaves are strings.
///
/// `implied_key` is the key of a first value that has none. A request for help (`help` or `?` as a parameter) is an error here;
/// see [`keyval_parse_help`].
pub fn keyval_parse(text: &str, implied_key: Option<&str>) -> Result<Dict, QError> {
    match keyval_parse_help(text, implied_key)? {
        (dict, false) => Ok(dict),
        (_, true) => Err(QError::new("Help is not available for this option")),
    }
}

/// Like [`keyval_parse`]; also tells whether help was asked for.
pub fn keyval_parse_help(text: &str, mut implied_key: Option<&str>) -> Result<(Dict, bool), QError> {
    let mut root = Tree::new();
    let mut help = false;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(['=', ',']).unwrap_or(rest.len());
        let first = &rest[..end];
        let implied = implied_key.take();
        if rest[end..].starts_with('=') {
            let path = split_key(first)?;
            let (value, after) = unescape(&rest[end + 1..]);
            rest = after;
            insert(&mut root, &path, value)?;
            continue;
        }
        rest = rest.get(end + 1..).unwrap_or("");
        if matches!(first, "help" | "?") {
            help = true;
        } else if let Some(key) = implied.filter(|_| !first.is_empty()) {
            insert(&mut root, &split_key(key)?, first.to_owned())?;
        } else {
            split_key(first)?;
            return Err(qerr!("Expected '=' after parameter '{first}'"));
        }
    }
    let mut path = Vec::new();
    match listify(root, &mut path)? {
        Value::Dict(dict) => Ok((dict, help)),
        _ => Err(QError::new("Parameters are a list, not names and values")),
    }
}

/// Parameters under one key, by name, with the order in which they came.
type Tree = BTreeMap<String, (usize, Node)>;

enum Node {
    Leaf(String),
    Tree(Tree),
}

/// A value up to the comma that ends it, and what stands behind that.
fn unescape(text: &str) -> (String, &str) {
    let mut out = String::new();
    let mut rest = text;
    loop {
        let Some(comma) = rest.find(',') else {
            return (out + rest, "");
        };
        out.push_str(&rest[..comma]);
        rest = &rest[comma + 1..];
        match rest.strip_prefix(',') {
            Some(after) => {
                out.push(',');
                rest = after;
            }
            None => return (out, rest),
        }
    }
}

/// Whether `name` may stand in a key behind another name as the number of an element.
fn is_index(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit())
}

/// Whether `name` is a name of the schema: a letter, then letters, digits, `-` and `_`; behind `__` and a reversed domain name with
/// `_` where it is somebody's own.
fn is_name(name: &str) -> bool {
    let tail = |s: &str| s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    name.starts_with(|c: char| c.is_ascii_alphabetic()) && tail(name)
}

/// Length of the `__com.example_` at the start of `key`, which is 0 where there is none. The points in it separate no names.
fn vendor_prefix(key: &str) -> usize {
    let Some(rest) = key.strip_prefix("__") else {
        return 0;
    };
    let domain = rest.bytes().take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.')).count();
    if rest[domain..].starts_with('_') && domain > 0 { 2 + domain + 1 } else { 0 }
}

fn split_key(key: &str) -> Result<Vec<&str>, QError> {
    let invalid = || qerr!("Invalid parameter '{key}'");
    let mut path = Vec::new();
    let mut rest = key;
    loop {
        let prefix = vendor_prefix(rest);
        let end = rest[prefix..].find('.').map_or(rest.len(), |i| prefix + i);
        let name = &rest[..end];
        if !(is_name(&name[prefix..]) || is_index(name) && !path.is_empty()) {
            return Err(invalid());
        }
        if name.len() > MAX_NAME {
            let which = if name.len() == key.len() { String::new() } else { " fragment".to_owned() };
            return Err(qerr!("Parameter{which} '{name}' is too long"));
        }
        path.push(name);
        if path.len() > MAX_PATH {
            return Err(QError::new("Parameters are nested too deeply"));
        }
        match rest.get(end + 1..) {
            Some(after) => rest = after,
            None => return Ok(path),
        }
    }
}

fn inconsistent(path: &[&str]) -> QError {
    qerr!("Parameters '{}.*' used inconsistently", path.join("."))
}

fn insert(root: &mut Tree, path: &[&str], value: String) -> Result<(), QError> {
    let mut tree = root;
    let (last, parents) = path.split_last().expect("a key has at least one name");
    for (i, &name) in parents.iter().enumerate() {
        let order = tree.len();
        let (_, node) = tree.entry(name.to_owned()).or_insert_with(|| (order, Node::Tree(Tree::new())));
        match node {
            Node::Tree(t) => tree = t,
            Node::Leaf(_) => return Err(inconsistent(&path[..=i])),
        }
    }
    let order = tree.len();
    match tree.get_mut(*last) {
        Some((_, Node::Leaf(old))) => *old = value,
        Some((_, Node::Tree(_))) => return Err(inconsistent(path)),
        None => drop(tree.insert((*last).to_owned(), (order, Node::Leaf(value)))),
    }
    Ok(())
}

/// Makes values of parameters; those named by numbers become lists. Recursion is bounded by [`MAX_PATH`].
fn listify(tree: Tree, path: &mut Vec<String>) -> Result<Value, QError> {
    let indices = tree.keys().filter(|k| is_index(k)).count();
    if indices > 0 && indices < tree.len() {
        let names: Vec<&str> = path.iter().map(String::as_str).collect();
        return Err(inconsistent(&names));
    }
    let mut entries: Vec<(String, usize, Value)> = Vec::with_capacity(tree.len());
    for (name, (order, node)) in tree {
        let value = match node {
            Node::Leaf(s) => Value::Str(s),
            Node::Tree(t) => {
                path.push(name.clone());
                let value = listify(t, path)?;
                path.pop();
                value
            }
        };
        entries.push((name, order, value));
    }
    if indices == 0 {
        entries.sort_by_key(|e| e.1);
        return Ok(Value::Dict(entries.into_iter().map(|(name, _, value)| (name, value)).collect()));
    }
    let mut numbered: BTreeMap<u64, Value> = BTreeMap::new();
    for (name, _, value) in entries {
        // A number that does not fit cannot follow its predecessors without a gap, which is what is said then.
        if numbered.insert(name.parse().unwrap_or(u64::MAX), value).is_some() {
            return Err(inconsistent(&path.iter().map(String::as_str).collect::<Vec<_>>()));
        }
    }
    let gap = numbered.keys().zip(0u64..).find(|(index, expected)| **index != *expected);
    match gap {
        Some((_, expected)) => Err(qerr!("Parameter '{}.{expected}' missing", path.join("."))),
        None => Ok(Value::List(numbered.into_values().collect())),
    }
}
