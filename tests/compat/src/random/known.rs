//! What differs and is known to: how Debian words what upstream words otherwise, help, and where the two lay out a file.

use crate::shell::Output;

/// A line of standard error in one wording, or nothing where only one side has it.
fn wording(line: &str) -> Option<String> {
    const OPTION: [&str; 4] =
        ["unrecognized option", "invalid option --", "missing argument for option", "requires an argument"];
    let cut = |at: &str| line.find(at).map(|i| line[..i].to_owned());
    if line.starts_with("Try 'qemu-") {
        return Some("TRY".into());
    }
    if line.starts_with("qemu-img: kilobytes, megabytes") {
        return None;
    }
    if OPTION.iter().any(|o| line.contains(o)) {
        return Some("OPTION".into());
    }
    if line.starts_with("qemu-img: Invalid ") {
        return cut(" specified").or_else(|| cut(". Allowed")).or_else(|| Some(line.to_owned()));
    }
    if line.starts_with("qemu-img: --output ") {
        return Some("OUTPUT".into());
    }
    Some(line.to_owned())
}

/// A line of standard output without the places that data has in a file.
fn places(line: &str) -> Option<String> {
    // A time.
    if line.starts_with("Run completed in ") {
        return None;
    }
    if line.starts_with("Image end offset:") || line.contains("\"image-end-offset\"") {
        return None;
    }
    if line.contains("% fragmented") || line.contains("\"fragmented-clusters\"") {
        return Some(line.split("% allocated").next().unwrap_or_default().replace("fragmented", ""));
    }
    if line.trim_start().starts_with("file length:") {
        return None;
    }
    match line.split_once(", \"offset\": ") {
        Some((start, rest)) => {
            Some(format!("{start}{}", rest.trim_start_matches(|c: char| c.is_ascii_digit())))
        }
        None => Some(line.to_owned()),
    }
}

/// An output as the two sides are compared in.
pub fn plain(o: &Output) -> Output {
    let mut err: Vec<String> = o.err.lines().filter_map(wording).collect();
    // Said once by one, and again for each time that it looks by the other.
    err.dedup();
    let warning = |l: &String| l.starts_with("WARNING: Image format") || l.starts_with("         ");
    if let Some(first) = err.iter().position(warning) {
        let rest: Vec<String> = err.split_off(first).into_iter().filter(|l| !warning(l)).collect();
        err.push("WARNING".into());
        err.extend(rest);
    }
    let out = match o.out.starts_with("Usage:") {
        true => "USAGE".to_owned(),
        false => o.out.lines().filter_map(places).collect::<Vec<_>>().join("\n"),
    };
    // A size in JSON of a file is its length.
    let mut lines: Vec<&str> = out.lines().collect();
    lines.retain(|l| !l.trim_start().starts_with("\"virtual-size\""));
    Output { code: o.code, out: lines.join("\n"), err: err.join("\n") }
}
