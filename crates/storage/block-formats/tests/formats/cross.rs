//! Images that one program has written are read by the other.

use crate::bed::*;
use block::driver::{WriteFlags, ZeroFlags};
use mem::IoBuf;
use rt::sim::Rng;

/// What a test does to a disk.
#[derive(Clone, Copy, Debug)]
enum Step {
    Write(u64, u64, u8),
    Zero(u64, u64),
}

fn steps(seed: u64, size: u64) -> Vec<Step> {
    let mut rng = Rng::new(seed);
    (0..60)
        .map(|_| {
            let off = rng.below(size / 512) * 512;
            let most = if rng.chance(1, 6) { 4000 } else { 40 };
            let n = rng.range(1, most) * 512;
            let n = n.min(size - off);
            match rng.below(5) {
                0 => Step::Zero(off, n),
                _ => Step::Write(off, n, rng.below(255) as u8 + 1),
            }
        })
        .collect()
}

fn model(steps: &[Step], disk: &mut [u8]) {
    for s in steps {
        match *s {
            Step::Write(off, n, byte) => disk[off as usize..(off + n) as usize].fill(byte),
            Step::Zero(off, n) => disk[off as usize..(off + n) as usize].fill(0),
        }
    }
}

async fn do_ours(c: &Case, path: &str, steps: &[Step]) {
    let (g, root) = opened(c.node("n", path)).await;
    for s in steps {
        match *s {
            Step::Write(off, n, byte) => {
                let buf = IoBuf::from_bytes(&vec![byte; n as usize]);
                root.write(off, buf, WriteFlags::empty()).await.unwrap();
            }
            Step::Zero(off, n) => root.write_zeroes(off, n, ZeroFlags::MAY_UNMAP).await.unwrap(),
        }
    }
    closed(g, root).await;
}

fn do_theirs(c: &Case, path: &str, steps: &[Step]) {
    let mut args = Vec::new();
    for s in steps {
        args.push("-c".into());
        args.push(match *s {
            Step::Write(off, n, byte) => format!("write -q -P {byte} {off} {n}"),
            Step::Zero(off, n) => format!("write -q -z {off} {n}"),
        });
    }
    args.extend(c.image(path));
    must("qemu-io", &args.iter().map(String::as_str).collect::<Vec<_>>());
}

fn checked(c: &Case, path: &str) {
    if c.checks {
        // Clusters that were given up leave room at the end of the file.
        let o = tool("qemu-img", &["check", "-q", "-f", c.format, path]);
        let leaks = c.format == "parallels" && o.status.code() == Some(3);
        let text = String::from_utf8_lossy(&o.stderr);
        assert!(o.status.success() || leaks, "{path}: {:?}: {text}", o.status);
    }
}

async fn ours(c: &Case, path: &str) -> Vec<u8> {
    let (g, root) = opened(c.node("n", path)).await;
    let bytes = read(&root, 0, root.len() as usize).await;
    closed(g, root).await;
    bytes
}

#[test]
fn both_read_what_the_other_wrote() {
    if !have_reference() {
        return;
    }
    let dir = Dir::new("formats-cross");
    for (c, by_us) in CASES.iter().flat_map(|c| [(c, false), (c, true)]) {
        rt::block_on(async {
            let path = if by_us { made_by_us(&dir, c).await } else { made_by_reference(&dir, c) };
            println!("{path}");
            let mut disk = vec![0; ours(c, &path).await.len()];
            for round in 0..2 {
                let todo = steps(round, disk.len() as u64);
                model(&todo, &mut disk);
                if round % 2 == 0 {
                    do_ours(c, &path, &todo).await
                } else {
                    do_theirs(c, &path, &todo)
                }
                checked(c, &path);
                same(&ours(c, &path).await, &disk, "ours");
                same(&reference_bytes_of(&dir, c, &path), &disk, "theirs");
            }
            std::fs::remove_file(&path).unwrap();
        });
    }
}

#[test]
fn both_make_the_same() {
    if !have_reference() {
        return;
    }
    let dir = Dir::new("formats-made");
    for c in CASES {
        let (theirs, ours) = (made_by_reference(&dir, c), rt::block_on(made_by_us(&dir, c)));
        let len = |p: &str| std::fs::metadata(p).unwrap().len();
        // The digits of a content id are no fixed number in a descriptor.
        let near = if len(&ours) < 4096 { 8 } else { 0 };
        assert!(len(&ours).abs_diff(len(&theirs)) <= near, "{}", c.name());
        let info = |p: &str| must("qemu-img", &["info", "--output=json", "-f", c.format, p]).replace(p, "");
        // What differs by chance, or by the file's name.
        let own = ["actual-size", "cid\"", "filename"];
        let lines = |t: String| {
            t.lines().filter(|l| !own.iter().any(|o| l.contains(o))).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(lines(info(&ours)), lines(info(&theirs)), "{}", c.name());
    }
}

#[test]
fn all_conform() {
    if !have_reference() {
        return;
    }
    let dir = Dir::new("formats-conform");
    for c in CASES {
        rt::block_on(async {
            let path = made_by_us(&dir, c).await;
            println!("{path}");
            let g = graph_with_secret();
            g.add(c.node("n", &path)).await.unwrap();
            conformance(&g, "n", Traits { resizes: c.resizes }).await;
            g.close_all().await;
            checked(c, &path);
            std::fs::remove_file(&path).unwrap();
        });
    }
}
