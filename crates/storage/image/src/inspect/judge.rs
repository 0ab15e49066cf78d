//! Whether an image is acceptable, from what was found out about it.

use qapi::{Dict, Value};

use super::parent::Outcome;

/// What is acceptable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes that the guest may see; no limit unless given.
    pub virtual_size: Option<u64>,
    /// Most bytes that the file may have, or take; no limit unless given.
    pub size: Option<u64>,
    /// Most bytes that the tables may have which are read when the image is opened.
    pub tables: u64,
    /// Most snapshots, and most bitmaps.
    pub snapshots: u64,
    /// The formats that are taken; any where there is none.
    pub formats: Vec<String>,
    /// The names that backing files may have in headers, to the letter.
    pub backing: Vec<String>,
    /// Encrypted images are taken.
    pub encrypted: bool,
    /// Refuse where not all of the sandbox was in force.
    pub sandbox: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            virtual_size: None,
            size: None,
            tables: 64 << 20,
            snapshots: 64,
            formats: Vec::new(),
            backing: Vec::new(),
            encrypted: false,
            sandbox: false,
        }
    }
}

fn number(d: &Dict, name: &str) -> u64 {
    match d.get(name) {
        Some(Value::Int(n)) => u64::try_from(*n).unwrap_or(u64::MAX),
        Some(Value::Uint(n)) => *n,
        _ => 0,
    }
}

fn text<'d>(d: &'d Dict, name: &str) -> &'d str {
    d.get(name).and_then(Value::as_str).unwrap_or("")
}

fn is(d: &Dict, name: &str) -> bool {
    d.get(name) == Some(&Value::Bool(true))
}

/// The reasons to refuse an image; acceptable where there is none.
pub fn judge(o: &Outcome, limits: &Limits) -> Vec<String> {
    let mut reasons = o.ended.clone();
    let mut over = |what: &str, n: u64, most: Option<u64>| {
        if let Some(most) = most.filter(|most| n > *most) {
            reasons.push(format!("The {what} is {n}, more than {most}"));
        }
    };
    over("length of the file", o.file_size, limits.size);
    over("size on the disk", o.disk_size, limits.size);
    if let Some(i) = &o.image {
        over("virtual size", number(i, "virtual-size"), limits.virtual_size);
        over("size of the tables", number(i, "table-size"), Some(limits.tables));
        over("number of snapshots", number(i, "snapshots"), Some(limits.snapshots));
        over("number of bitmaps", number(i, "bitmaps"), Some(limits.snapshots));
    }
    if let Some(f) = o.format.as_ref().filter(|f| !limits.formats.is_empty() && !limits.formats.contains(f)) {
        reasons.push(format!("The format {f} is not allowed"));
    }
    if let Some(i) = &o.image {
        if let Some(Value::Dict(b)) = i.get("backing")
            && !limits.backing.iter().any(|name| name == text(b, "filename"))
        {
            reasons.push(format!("It names the backing file '{}'", text(b, "filename")));
        }
        if i.contains_key("data-file") {
            reasons.push(format!("It names the data file '{}'", text(i, "data-file")));
        }
        if let Some(Value::List(all)) = i.get("extents") {
            let first = all.first().and_then(Value::as_str).unwrap_or("");
            reasons.push(format!(
                "It names {} other files with parts of its data, such as '{first}'",
                all.len()
            ));
        }
        if is(i, "encrypted") && !limits.encrypted {
            reasons.push("It is encrypted".into());
        }
        if let Some(Value::List(all)) = i.get("unknown-features") {
            let unknown = all.iter().filter_map(Value::as_str);
            reasons.extend(unknown.map(|u| format!("It has something unknown: {u}")));
        }
    }
    if let Some(c) = &o.check {
        match text(c, "state") {
            "damaged" => reasons.push(format!("The check found {} errors", number(c, "corruptions"))),
            "failed" => reasons.push(format!("The check failed: {}", text(c, "error"))),
            "sound" | "leaks" | "unsupported" | "not-done" => {}
            _ => reasons.push("The check has no result".into()),
        }
    }
    let force = o.sandbox.as_ref();
    let whole = force.is_some_and(|s| is(s, "limits") && is(s, "seccomp") && text(s, "landlock") != "none");
    if limits.sandbox && !whole {
        reasons.push("Not all of the sandbox was in force".into());
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(json: &str) -> Outcome {
        let Value::Dict(mut d) = Value::parse_json(json).unwrap() else { panic!() };
        let mut take = |name: &str| match d.remove(name) {
            Some(Value::Dict(d)) => Some(d),
            _ => None,
        };
        Outcome {
            image: take("image"),
            check: take("check"),
            sandbox: take("sandbox"),
            format: Some("qcow2".into()),
            file_size: 1000,
            disk_size: 4096,
            ended: Vec::new(),
        }
    }

    #[test]
    fn reasons() {
        let strict = Limits {
            virtual_size: Some(100),
            size: Some(4096),
            formats: vec!["qcow2".into()],
            backing: vec!["base".into()],
            sandbox: true,
            ..Limits::default()
        };
        let whole = "'sandbox':{'limits':true,'seccomp':true,'landlock':'partial'}";
        let of = |image: &str, limits: &Limits| judge(&outcome(&format!("{{{image},{whole}}}")), limits);
        let none: Vec<String> = Vec::new();
        assert_eq!(
            of(
                "'image':{'virtual-size':100,'backing':{'filename':'base'}},'check':{'state':'leaks'}",
                &strict
            ),
            none
        );
        for (image, want) in [
            ("'image':{'virtual-size':101}", "The virtual size is 101, more than 100"),
            (
                "'image':{'virtual-size':18446744073709551615}",
                "The virtual size is 18446744073709551615, more than 100",
            ),
            ("'image':{'table-size':67108865}", "The size of the tables is 67108865, more than 67108864"),
            ("'image':{'snapshots':65}", "The number of snapshots is 65, more than 64"),
            ("'image':{'bitmaps':65}", "The number of bitmaps is 65, more than 64"),
            ("'image':{'backing':{'filename':'./base'}}", "It names the backing file './base'"),
            ("'image':{'data-file':'x'}", "It names the data file 'x'"),
            ("'image':{'extents':['x','y']}", "It names 2 other files with parts of its data, such as 'x'"),
            ("'image':{'encrypted':true}", "It is encrypted"),
            ("'image':{'unknown-features':['z']}", "It has something unknown: z"),
            ("'check':{'state':'damaged','corruptions':3}", "The check found 3 errors"),
            ("'check':{'state':'failed','error':'e'}", "The check failed: e"),
            ("'check':{}", "The check has no result"),
        ] {
            assert_eq!(of(image, &strict), [want], "{image}");
        }
        let mut o = outcome("{'image':{},'sandbox':{'limits':true,'seccomp':true,'landlock':'none'}}");
        assert_eq!(judge(&o, &Limits::default()), none);
        assert_eq!(judge(&o, &strict), ["Not all of the sandbox was in force"]);
        o.format = Some("vmdk".into());
        o.file_size = 4097;
        let more = ["The length of the file is 4097, more than 4096", "The format vmdk is not allowed"];
        assert_eq!(judge(&o, &strict)[..2], more);
    }
}
