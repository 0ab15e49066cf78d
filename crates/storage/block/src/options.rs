//! A node's options as they were given, split into its own and its children's, and the flags that follow from them.

use crate::driver::{ChildOption, DetectZeroes, NodeFlags};
use crate::lists::member;
use crate::perm::Role;
use api::block_core::BlockdevOptions;
use qapi::{Dict, QError, Value, flatten, from_json, qerr, to_value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Flattened options: dotted key to value.
pub(crate) type Flat = BTreeMap<String, Value>;

/// The options that every driver has; a reopen may leave any of them out.
const COMMON: [&str; 10] = [
    "node-name",
    "driver",
    "discard",
    "cache.direct",
    "cache.no-flush",
    "active",
    "read-only",
    "auto-read-only",
    "force-share",
    "detect-zeroes",
];

/// Those common options that a reopen may not change.
const FIXED: [&str; 4] = ["node-name", "driver", "force-share", "active"];

/// What stands for one child in the options.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum ChildGiven {
    /// Nothing.
    #[default]
    Absent,
    /// `null`.
    Null,
    /// The name of a node.
    Reference(String),
    /// A node to be made (or, in a reopen, the options of the one that is there).
    Definition(Dict),
}

impl ChildGiven {
    fn from_value(v: Option<Value>) -> ChildGiven {
        match v {
            None => ChildGiven::Absent,
            Some(Value::Str(s)) => ChildGiven::Reference(s),
            Some(Value::Dict(d)) => ChildGiven::Definition(d),
            Some(_) => ChildGiven::Null,
        }
    }

    fn to_value(&self) -> Option<Value> {
        match self {
            ChildGiven::Absent => None,
            ChildGiven::Null => Some(Value::Null),
            ChildGiven::Reference(s) => Some(Value::Str(s.clone())),
            ChildGiven::Definition(d) => Some(Value::Dict(d.clone())),
        }
    }
}

/// The options of a node, as given: what was not said is not in here.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// As one value, children included.
    pub typed: Arc<BlockdevOptions>,
    /// The node's own, without those of its children and its name.
    pub(crate) own: Flat,
    /// What was said of each child.
    pub(crate) children: BTreeMap<&'static str, ChildGiven>,
}

/// The options as a dictionary.
pub fn to_dict(options: &BlockdevOptions) -> Dict {
    match to_value(options) {
        Value::Dict(d) => d,
        _ => Dict::new(),
    }
}

/// Options given in a request, split.
#[derive(Clone, Debug)]
pub(crate) struct Split {
    pub(crate) own: Flat,
    pub(crate) children: BTreeMap<&'static str, ChildGiven>,
}

/// Splits `dict` into a node's own options and what it says of the children in `specs`.
pub(crate) fn split(mut dict: Dict, specs: &[ChildOption]) -> Split {
    let mut children = BTreeMap::new();
    for spec in specs {
        let value = match member(spec.name) {
            Some((list, n)) => match dict.get_mut(list) {
                Some(Value::List(l)) => l.get_mut(usize::from(n)).map(std::mem::take),
                _ => None,
            },
            None => dict.remove(spec.name),
        };
        children.insert(spec.name, ChildGiven::from_value(value));
    }
    for (list, _) in specs.iter().filter_map(|s| member(s.name)) {
        dict.remove(list);
    }
    let empty = |(k, v): (&str, &Value)| {
        matches!(v, Value::List(l) if l.is_empty()).then(|| (k.to_owned(), v.clone()))
    };
    let empty: Flat = dict.iter().filter_map(|(k, v)| empty((k, v))).collect();
    let mut own: Flat = flatten(&Value::Dict(dict)).into_iter().collect();
    // Flattening loses lists of nothing, which are not the same as no list.
    own.extend(empty);
    Split { own, children }
}

/// Puts own options and children together again.
pub(crate) fn join(own: &Flat, children: &BTreeMap<&'static str, ChildGiven>) -> Dict {
    let mut dict = Dict::new();
    for (key, value) in own {
        insert_path(&mut dict, key, value.clone());
    }
    if let Value::Dict(whole) = lists(Value::Dict(std::mem::take(&mut dict))) {
        dict = whole;
    }
    // Of a list only the order counts: numbers may be missing.
    let mut members: BTreeMap<&str, BTreeMap<u16, Value>> = BTreeMap::new();
    for (name, given) in children {
        match (member(name), given.to_value()) {
            (Some((list, n)), Some(v)) => drop(members.entry(list).or_default().insert(n, v)),
            (None, Some(v)) => drop(dict.insert(*name, v)),
            (_, None) => {}
        }
    }
    for (list, values) in members {
        dict.insert(list, Value::List(values.into_values().collect()));
    }
    dict
}

/// Dictionaries whose keys are the numbers from 0 on are lists again, as they were before they were flattened.
fn lists(value: Value) -> Value {
    let Value::Dict(dict) = value else { return value };
    let n = dict.len();
    let numbered = n > 0 && (0..n).all(|i| dict.get(&i.to_string()).is_some());
    let mut all: Vec<(String, Value)> = dict.iter().map(|(k, v)| (k.to_string(), lists(v.clone()))).collect();
    if numbered {
        all.sort_by_key(|(k, _)| k.parse::<usize>().unwrap_or(usize::MAX));
        return Value::List(all.into_iter().map(|(_, v)| v).collect());
    }
    let mut out = Dict::new();
    for (k, v) in all {
        out.insert(k, v);
    }
    Value::Dict(out)
}

/// Sets the value at a dotted path, making dictionaries on the way.
pub(crate) fn insert_path(dict: &mut Dict, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            dict.insert(path, value);
        }
        Some((head, rest)) => {
            if !matches!(dict.get(head), Some(Value::Dict(_))) {
                dict.insert(head, Dict::new());
            }
            if let Some(Value::Dict(inner)) = dict.get_mut(head) {
                insert_path(inner, rest, value);
            }
        }
    }
}

impl NodeOptions {
    /// From parts; `name` is put into the typed form.
    pub(crate) fn new(
        name: &str,
        mut own: Flat,
        children: BTreeMap<&'static str, ChildGiven>,
    ) -> Result<NodeOptions, QError> {
        own.remove("node-name");
        let mut dict = join(&own, &children);
        if !name.starts_with('#') {
            dict.insert("node-name", name);
        }
        let typed: BlockdevOptions = from_json(Value::Dict(dict))?;
        Ok(NodeOptions { typed: Arc::new(typed), own, children })
    }
}

/// The settings that a child takes from its parent where its own options say nothing.
pub(crate) fn inherited(parent: &NodeFlags, role: Role) -> NodeFlags {
    let cow = role.contains(Role::COW);
    NodeFlags {
        read_only: cow || parent.read_only,
        auto_read_only: !cow && parent.auto_read_only,
        // Formats ask for what the guest asked for and are told so by their own flag; below, all of it passes. A backing file
        // is written only by who merges images into it, and what is zeroes then need not take space.
        unmap: true,
        direct: parent.direct,
        no_flush: parent.no_flush,
        force_share: parent.force_share,
        inactive: parent.inactive,
        detect_zeroes: DetectZeroes::Off,
    }
}

/// The flags that follow from options on top of `base` (inherited ones, or the defaults).
pub(crate) fn flags(own: &Flat, base: NodeFlags) -> Result<NodeFlags, QError> {
    let bool = |key: &str, base: bool| own.get(key).and_then(Value::as_bool).unwrap_or(base);
    let text = |key: &str| own.get(key).and_then(Value::as_str);
    let f = NodeFlags {
        read_only: bool("read-only", base.read_only),
        auto_read_only: bool("auto-read-only", base.auto_read_only),
        unmap: text("discard").map_or(base.unmap, |d| d == "unmap"),
        direct: bool("cache.direct", base.direct),
        no_flush: bool("cache.no-flush", base.no_flush),
        force_share: bool("force-share", base.force_share),
        inactive: !bool("active", !base.inactive),
        detect_zeroes: match text("detect-zeroes") {
            Some("on") => DetectZeroes::On,
            Some("unmap") => DetectZeroes::Unmap,
            Some(_) => DetectZeroes::Off,
            None => base.detect_zeroes,
        },
    };
    if f.force_share && !f.read_only {
        return Err(qerr!("force-share=on can only be used with read-only images"));
    }
    if f.detect_zeroes == DetectZeroes::Unmap && !f.unmap {
        return Err(qerr!(
            "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap"
        ));
    }
    Ok(f)
}

fn is_mutable(key: &str, mutable: &[&str]) -> bool {
    mutable.iter().any(|m| key == *m || key.strip_prefix(m).is_some_and(|rest| rest.starts_with('.')))
}

/// Whether the options left out may go back to their defaults.
pub(crate) fn check_reset(old: &Flat, new: &Flat, mutable: &[&str]) -> Result<(), QError> {
    let bad = |k: &String| !new.contains_key(k) && !COMMON.contains(&k.as_str()) && !is_mutable(k, mutable);
    match old.keys().find(|k| bad(k)) {
        Some(k) => Err(qerr!("Option '{k}' cannot be reset to its default value")),
        None => Ok(()),
    }
}

/// Whether the options that cannot change are the same.
pub(crate) fn check_unchanged(
    name: &str,
    now: &NodeFlags,
    old: &Flat,
    new: &Flat,
    mutable: &[&str],
) -> Result<(), QError> {
    for (key, value) in new {
        let same = match key.as_str() {
            "node-name" => value.as_str() == Some(name),
            "active" => value.as_bool() == Some(!now.inactive),
            "force-share" => value.as_bool() == Some(now.force_share),
            k if COMMON.contains(&k) && !FIXED.contains(&k) => true,
            k if is_mutable(k, mutable) => true,
            k => old.get(k) == Some(value),
        };
        if !same {
            return Err(qerr!("Cannot change the option '{key}'"));
        }
    }
    Ok(())
}

/// An error unless `name` may be a node's name.
pub fn check_node_name(name: &str) -> Result<(), QError> {
    let mut chars = name.chars();
    let first = chars.next().is_some_and(|c| c.is_ascii_alphabetic());
    if !first || !chars.all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)) {
        return Err(qerr!("Invalid node-name: '{name}'"));
    }
    if name.len() > 31 {
        return Err(qerr!("Node name too long"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(entries: &[(&str, Value)]) -> Flat {
        entries.iter().map(|(k, v)| (k.to_string(), v.clone())).collect()
    }

    #[test]
    fn join_undoes_flattening() {
        let own = flat(&[
            ("cache.direct", true.into()),
            ("cache.no-flush", false.into()),
            ("driver", "file".into()),
        ]);
        let d = join(&own, &BTreeMap::from([("file", ChildGiven::Reference("f".into()))]));
        assert_eq!(d.get("cache").and_then(|c| c.get("direct")), Some(&Value::Bool(true)));
        assert_eq!(d.get("file"), Some(&Value::Str("f".into())));
        let f: Flat = flatten(&Value::Dict(d)).into_iter().filter(|(k, _)| k != "file").collect();
        assert_eq!(f, own);
    }

    #[test]
    fn lists_of_children() {
        use crate::lists::{list_option, member_name};
        let specs: Vec<_> = (0..12).map(|n| list_option("children", n, Role::DATA)).collect();
        let items = (0..12).map(|n| Value::from(format!("n{n}"))).collect();
        let dict: Dict =
            [("driver".to_owned(), Value::from("quorum")), ("children".to_owned(), Value::List(items))]
                .into_iter()
                .collect();
        let mut parts = split(dict.clone(), &specs);
        assert_eq!(parts.own, flat(&[("driver", "quorum".into())]));
        assert_eq!(parts.children["children.10"], ChildGiven::Reference("n10".into()));
        assert_eq!(join(&parts.own, &parts.children), dict);
        // One goes, one comes.
        parts.children.remove("children.2");
        parts.children.insert(member_name("children", 12), ChildGiven::Reference("new".into()));
        let now = join(&parts.own, &parts.children);
        let Some(Value::List(l)) = now.get("children") else { panic!("{now:?}") };
        let names: Vec<_> = l.iter().filter_map(Value::as_str).collect();
        assert_eq!(names, ["n0", "n1", "n3", "n4", "n5", "n6", "n7", "n8", "n9", "n10", "n11", "new"]);
    }

    #[test]
    fn what_may_change() {
        let old = flat(&[("driver", "file".into()), ("filename", "x".into()), ("locking", "on".into())]);
        let now = NodeFlags::default();
        let mut new = old.clone();
        assert!(check_reset(&old, &new, &[]).is_ok());
        assert!(check_unchanged("n", &now, &old, &new, &[]).is_ok());
        new.insert("read-only".into(), true.into());
        assert!(check_unchanged("n", &now, &old, &new, &[]).is_ok());
        new.insert("filename".into(), "y".into());
        let e = check_unchanged("n", &now, &old, &new, &[]).unwrap_err();
        assert_eq!(e.desc(), "Cannot change the option 'filename'");
        assert!(check_unchanged("n", &now, &old, &new, &["filename"]).is_ok());
        new.remove("locking");
        let e = check_reset(&old, &new, &[]).unwrap_err();
        assert_eq!(e.desc(), "Option 'locking' cannot be reset to its default value");
        assert!(check_reset(&old, &new, &["locking"]).is_ok());
        let e = check_unchanged("n", &now, &old, &flat(&[("node-name", "m".into())]), &[]).unwrap_err();
        assert_eq!(e.desc(), "Cannot change the option 'node-name'");
    }

    #[test]
    fn a_backing_file_is_read_only_whatever_its_parent_is() {
        let parent = NodeFlags { auto_read_only: true, direct: true, unmap: false, ..NodeFlags::default() };
        let b = inherited(&parent, Role::COW);
        assert!(b.read_only && !b.auto_read_only && b.direct && b.unmap);
        let f = inherited(&parent, Role::DATA | Role::METADATA | Role::PRIMARY);
        assert!(!f.read_only && f.auto_read_only && f.direct && f.unmap);
    }

    #[test]
    fn names() {
        assert!(check_node_name("a-b.c_9").is_ok());
        for bad in ["", "1bad", "#block1", "a b", "ä"] {
            assert_eq!(check_node_name(bad).unwrap_err().desc(), format!("Invalid node-name: '{bad}'"));
        }
        assert_eq!(check_node_name(&"a".repeat(32)).unwrap_err().desc(), "Node name too long");
    }
}
