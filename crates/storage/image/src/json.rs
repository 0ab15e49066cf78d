//! JSON in the order of members that tools' users know from image queries.

use qapi::order::member_rank;
use qapi::{Dict, Value};

/// `v` with the members of every object in order. Of those that have the same place, the one that was put in last comes first.
pub fn ordered(v: Value) -> Value {
    match v {
        Value::Dict(d) => {
            let mut members: Vec<(String, Value)> = d.into_iter().map(|(k, v)| (k, ordered(v))).collect();
            members.reverse();
            members.sort_by_key(|(k, _)| member_rank(k));
            Value::Dict(members.into_iter().collect::<Dict>())
        }
        Value::List(l) => Value::List(l.into_iter().map(ordered).collect()),
        v => v,
    }
}

/// The text, with the members of image queries in order: four spaces a level.
pub fn pretty(v: Value) -> String {
    as_it_is(&ordered(v))
}

/// The text with members as they stand.
pub fn as_it_is(v: &Value) -> String {
    let mut out = String::new();
    put(&mut out, v, 0);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_stand_as_they_are_known() {
        let seen: [&[&str]; 4] = [
            &["children", "backing-filename-format", "snapshots", "virtual-size", "filename", "dirty-flag"],
            &[
                "icount",
                "vm-clock-nsec",
                "name",
                "date-sec",
                "date-nsec",
                "vm-clock-sec",
                "id",
                "vm-state-size",
            ],
            &[
                "image-end-offset",
                "total-clusters",
                "corruptions-fixed",
                "check-errors",
                "leaks-fixed",
                "filename",
            ],
            &["bitmaps", "required", "fully-allocated"],
        ];
        for names in seen {
            let backwards: Dict = names.iter().rev().map(|n| (*n, Value::Null)).collect();
            let Value::Dict(d) = ordered(Value::Dict(backwards)) else { panic!("no dictionary") };
            assert_eq!(d.keys().collect::<Vec<_>>(), names);
        }
    }
}
