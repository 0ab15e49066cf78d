//! Options as they were written before key=value text had structure: a flat list, with switches that need no value.

/// Reads a comma-separated list of options: `a=b`, `c` for `c=on`, `nod` for `d=off` where `no` starts a switch.
///
/// A first value without a key belongs to `implied_key`, where the option has one. A comma in a value is doubled. Options keep
/// their order, and one that is given twice appears twice; by custom the last one counts. A dash behind `no` is part of the
/// prefix, so that `no-wait` switches `wait` off.
pub fn opts_parse(text: &str, implied_key: Option<&str>) -> Vec<(String, String)> {
    options(text, implied_key).into_iter().map(|o| (o.name, o.value)).collect()
}

/// What is to be told of the switches in such a list that were given without a value, which is not the custom any more: a text
/// for each, of two lines.
pub fn opts_short_forms(text: &str, implied_key: Option<&str>) -> Vec<String> {
    let warning = |o: Opt| {
        let written = o.short?;
        Some(format!(
            "warning: short-form boolean option '{written}' deprecated\nPlease use {}={} instead",
            o.name, o.value
        ))
    };
    options(text, implied_key).into_iter().filter_map(warning).collect()
}

/// Such a list as key=value text, which has a value for each option.
pub fn opts_as_keyval(text: &str, implied_key: Option<&str>) -> String {
    let one = |o: Opt| format!("{}={}", o.name, o.value.replace(',', ",,"));
    options(text, implied_key).into_iter().map(one).collect::<Vec<_>>().join(",")
}

/// An option of a list.
struct Opt {
    name: String,
    value: String,
    /// How it was written, where it had no value.
    short: Option<String>,
}

fn options(text: &str, implied_key: Option<&str>) -> Vec<Opt> {
    let mut out = Vec::new();
    let valued = |name: &str, value| Opt { name: name.to_owned(), value, short: None };
    let mut rest = text;
    let mut implied = implied_key;
    while !rest.is_empty() {
        let end = rest.find(['=', ',']).unwrap_or(rest.len());
        let key = &rest[..end];
        let implied = implied.take();
        if rest[end..].starts_with('=') {
            let (value, after) = value(&rest[end + 1..]);
            rest = after;
            out.push(valued(key, value));
        } else if let Some(implied) = implied {
            let (value, after) = value(rest);
            rest = after;
            out.push(valued(implied, value));
        } else {
            rest = rest.get(end + 1..).unwrap_or("");
            let (name, value) = match key.strip_prefix("no").map(|n| n.trim_start_matches('-')) {
                Some(name) if !name.is_empty() => (name, "off"),
                _ => (key, "on"),
            };
            out.push(Opt { name: name.to_owned(), value: value.to_owned(), short: Some(key.to_owned()) });
        }
    }
    out
}

/// A value up to the comma that ends it, with doubled commas made single, and what stands behind that.
fn value(text: &str) -> (String, &str) {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(',') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        match rest.strip_prefix(',') {
            Some(after) => {
                out.push(',');
                rest = after;
            }
            None => return (out, rest),
        }
    }
    (out + rest, "")
}
