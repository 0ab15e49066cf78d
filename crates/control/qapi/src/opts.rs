//! Options as they were written before key=value text had structure: a flat list, with switches that need no value.

/// Reads a comma-separated list of options: `a=b`, `c` for `c=on`, `nod` for `d=off` where `no` starts a switch.
///
/// A first value without a key belongs to `implied_key`, where the option has one. A comma in a value is doubled. Options keep
/// their order, and one that is given twice appears twice; by custom the last one counts. A dash behind `no` is part of the
/// prefix, so that `no-wait` switches `wait` off.
pub fn opts_parse(text: &str, implied_key: Option<&str>) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut rest = text;
    let mut implied = implied_key;
    while !rest.is_empty() {
        let end = rest.find(['=', ',']).unwrap_or(rest.len());
        let key = &rest[..end];
        let implied = implied.take();
        if rest[end..].starts_with('=') {
            let (value, after) = value(&rest[end + 1..]);
            rest = after;
            out.push((key.to_owned(), value));
        } else if let Some(implied) = implied {
            let (value, after) = value(rest);
            rest = after;
            out.push((implied.to_owned(), value));
        } else {
            rest = rest.get(end + 1..).unwrap_or("");
            out.push(match key.strip_prefix("no") {
                Some(name) if !name.trim_start_matches('-').is_empty() => {
                    (name.trim_start_matches('-').to_owned(), "off".to_owned())
                }
                _ => (key.to_owned(), "on".to_owned()),
            });
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
