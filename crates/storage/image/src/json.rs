//! JSON in the order of members that tools' users know from image queries.

use qapi::{Dict, Value};

/// Members in their order. Members of different objects share one list: no two contradict.
const ORDER: &[&str] = &[
    "icount",
    "vm-clock-nsec",
    "children",
    "image-end-offset",
    "compat",
    "compression-type",
    "lazy-refcounts",
    "flags",
    "bitmaps",
    "refcount-bits",
    "data-file",
    "data-file-raw",
    "encrypt",
    "corrupt",
    "extended-l2",
    "name",
    "info",
    "snapshots",
    "backing-filename-format",
    "compressed-clusters",
    "total-clusters",
    "corruptions",
    "corruptions-fixed",
    "check-errors",
    "leaks-fixed",
    "leaks",
    "allocated-clusters",
    "ivgen-alg",
    "detached-header",
    "hash-alg",
    "cipher-alg",
    "uuid",
    "compressed",
    "virtual-size",
    "filename",
    "cluster-size",
    "format",
    "cipher-mode",
    "slots",
    "active",
    "iters",
    "key-offset",
    "stripes",
    "cid",
    "parent-cid",
    "create-type",
    "extents",
    "payload-offset",
    "master-key-iters",
    "fragmented-clusters",
    "actual-size",
    "format-specific",
    "type",
    "data",
    "granularity",
    "full-backing-filename",
    "backing-filename",
    "encrypted",
    "dirty-flag",
    "date-sec",
    "date-nsec",
    "vm-clock-sec",
    "id",
    "vm-state-size",
];

/// `v` with the members of every object in order; those that are not known follow as they are.
pub fn ordered(v: Value) -> Value {
    match v {
        Value::Dict(d) => {
            let mut members: Vec<(String, Value)> =
                d.into_iter().map(|(k, v)| (k.to_string(), ordered(v))).collect();
            members.sort_by_key(|(k, _)| ORDER.iter().position(|o| o == k).unwrap_or(ORDER.len()));
            Value::Dict(members.into_iter().collect::<Dict>())
        }
        Value::List(l) => Value::List(l.into_iter().map(ordered).collect()),
        v => v,
    }
}

/// The text: four spaces a level.
pub fn pretty(v: Value) -> String {
    let mut out = String::new();
    put(&mut out, &ordered(v), 0);
    out.push('\n');
    out
}

fn put(out: &mut String, v: &Value, depth: usize) {
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.push_str(&"    ".repeat(depth));
    };
    match v {
        Value::Dict(d) => {
            out.push('{');
            for (i, (k, v)) in d.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                line(out, depth + 1);
                out.push_str(&Value::Str(k.to_string()).to_json());
                out.push_str(": ");
                put(out, v, depth + 1);
            }
            line(out, depth);
            out.push('}');
        }
        Value::List(l) => {
            out.push('[');
            for (i, v) in l.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                line(out, depth + 1);
                put(out, v, depth + 1);
            }
            line(out, depth);
            out.push(']');
        }
        v => out.push_str(&v.to_json()),
    }
}
