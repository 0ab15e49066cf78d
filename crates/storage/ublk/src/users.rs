//! Who uses a block device of this host, as far as the system tells without being asked to open it.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// Whether the disk, or a partition of it, is mounted (where this process sees it), is swapped to, or carries another
/// device. `name` is that in `/sys/block`, `root` the root of the file system.
pub(crate) fn in_use(root: &Path, name: &str) -> bool {
    let disk = root.join("sys/block").join(name);
    let mut devices = HashSet::new();
    let mut held = false;
    let mut look = |dir: &Path| {
        if let Ok(number) = fs::read_to_string(dir.join("dev")) {
            devices.insert(number.trim().to_owned());
        }
        held |= fs::read_dir(dir.join("holders")).is_ok_and(|mut h| h.next().is_some());
    };
    look(&disk);
    for entry in fs::read_dir(&disk).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(name) {
            look(&entry.path());
        }
    }
    let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).unwrap_or_default();
    let mounted = mounts.lines().filter_map(|l| l.split(' ').nth(2)).any(|d| devices.contains(d));
    let swaps = fs::read_to_string(root.join("proc/swaps")).unwrap_or_default();
    let swapped = swaps.lines().any(|l| is_part_of(l.split([' ', '\t']).next().unwrap_or_default(), name));
    held || mounted || swapped
}

/// Whether a path names the disk or a partition of it.
fn is_part_of(path: &str, disk: &str) -> bool {
    let rest = path.strip_prefix("/dev/").and_then(|p| p.strip_prefix(disk));
    rest.is_some_and(|r| r.is_empty() || r.strip_prefix('p').is_some_and(|n| n.parse::<u32>().is_ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found() {
        let root = std::env::temp_dir().join(format!("rhea-ublk-users-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let busy = || in_use(&root, "ublkb1");
        assert!(!busy(), "there is no such disk");
        write("sys/block/ublkb1/dev", "259:4\n");
        write("sys/block/ublkb1/ublkb1p2/dev", "259:6\n");
        fs::create_dir_all(root.join("sys/block/ublkb1/ublkb1p2/holders")).unwrap();
        write("proc/self/mountinfo", "29 1 259:7 / /a rw - ext4 /dev/x rw\n");
        write("proc/swaps", "Filename\t\t\tType\n/dev/ublkb10 partition 1 0 -2\n");
        assert!(!busy());
        write(
            "proc/self/mountinfo",
            "29 1 8:1 / / rw - ext4 /dev/x rw\n30 29 259:6 / /a rw - ext4 /dev/x rw\n",
        );
        assert!(busy());
        write("proc/self/mountinfo", "");
        write("proc/swaps", "Filename\n/dev/ublkb1p2\tpartition 1 0 -2\n");
        assert!(busy());
        write("proc/swaps", "");
        assert!(!busy());
        write("sys/block/ublkb1/ublkb1p2/holders/dm-0", "");
        assert!(busy());
        fs::remove_dir_all(root).unwrap();
    }
}
