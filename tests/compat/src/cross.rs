//! Images that one side made, read and checked by the other.

use crate::shell::Tools;
use std::path::Path;

/// The formats that have a check.
const CHECKED: [&str; 6] = ["qcow2", "vdi", "vmdk", "vhdx", "qed", "parallels"];

/// The longest image that is read, bytes.
const MAX_SIZE: u64 = 16 << 20;

/// Holds the image `name` in `ours` (Rhea's folder) against the one in `theirs` with the tools of both sides; answers what
/// differs.
pub fn cross(name: &str, ours: (&Path, &Tools), theirs: (&Path, &Tools)) -> Vec<String> {
    let mut wrong = Vec::new();
    for (who, tools, dir) in
        [("Rhea reads the reference's", ours.1, theirs.0), ("the reference reads Rhea's", theirs.1, ours.0)]
    {
        let info = tools.run(dir, &format!("qemu-img info {name}"));
        let format = info.out.lines().find_map(|l| l.strip_prefix("file format: ")).unwrap_or("").to_owned();
        if info.code != 0 || format.is_empty() {
            wrong.push(format!("{name}: {who}: info:\n{}", info.shown()));
            continue;
        }
        if CHECKED.contains(&format.as_str()) {
            let check = tools.run(dir, &format!("qemu-img check -f {format} {name}"));
            if check.code != 0 {
                wrong.push(format!("{name}: {who}: check:\n{}", check.shown()));
            }
        }
    }
    // All bytes of both, through both sides' tools.
    let mut seen: Vec<(String, String)> = Vec::new();
    for (by, tools) in [("Rhea", ours.1), ("the reference", theirs.1)] {
        for (of, dir) in [("Rhea's", ours.0), ("the reference's", theirs.0)] {
            match bytes(name, dir, tools) {
                Ok(sum) => seen.push((format!("{by} reads {of}"), sum)),
                Err(e) => wrong.push(format!("{name}: {by} reads {of}: {e}")),
            }
        }
    }
    if let Some((first, rest)) = seen.split_first() {
        for other in rest.iter().filter(|o| o.1 != first.1) {
            wrong.push(format!("{name}: what is seen if {} is not what is seen if {}", other.0, first.0));
        }
    }
    wrong
}

/// A checksum of all bytes of an image, as these tools read it.
fn bytes(name: &str, dir: &Path, tools: &Tools) -> Result<String, String> {
    let info = tools.run(dir, &format!("qemu-img info {name}"));
    let line = |key: &str| info.out.lines().find_map(|l| l.strip_prefix(key)).unwrap_or("").to_owned();
    let (format, size) = (line("file format: "), line("virtual size: "));
    let size: u64 = size
        .split_once('(')
        .and_then(|(_, s)| s.strip_suffix(" bytes)"))
        .and_then(|s| s.parse().ok())
        .ok_or_else(|| format!("no size:\n{}", info.shown()))?;
    if size > MAX_SIZE {
        return Err(format!("{size} bytes are too many to be compared"));
    }
    let sum = format!("qemu-io -r -f {format} -c 'read -v 0 {size}' {name} | grep ':  ' | sha256sum");
    let sum = tools.run(dir, &sum);
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    if sum.code != 0 || !sum.err.is_empty() || (sum.out.starts_with(empty) && size > 0) {
        return Err(sum.shown());
    }
    Ok(sum.out)
}
