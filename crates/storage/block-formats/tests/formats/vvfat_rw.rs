//! A directory as a disk that is written: what another program for FAT volumes (mtools) does to the disk is found in the directory.

use crate::bed::*;
use block::driver::{WriteFlags, ZeroFlags};
use block::{BlockGraph, Perm, Root};
use mem::IoBuf;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How much of a disk is looked at: what is done here stays within.
const FRONT: usize = 6 << 20;
const SECTOR: usize = 512;

fn have_mtools() -> bool {
    let there = Command::new("mcopy").arg("--version").output().is_ok_and(|o| o.status.success());
    if !there {
        println!("skipped: mtools is not there");
    }
    there
}

/// What is in a directory: files with their bytes, directories without.
type Content = BTreeMap<String, Option<Bytes>>;

/// Bytes of a file, which are not all shown where they differ.
#[derive(Clone, PartialEq, Eq)]
struct Bytes(Vec<u8>);

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let few = &self.0[..self.0.len().min(24)];
        write!(f, "{} bytes: {}", self.0.len(), few.escape_ascii())
    }
}

fn content(dir: &str) -> Content {
    fn walk(path: &Path, under: &str, all: &mut Content) {
        for e in std::fs::read_dir(path).unwrap() {
            let e = e.unwrap();
            let name = format!("{under}{}", e.file_name().into_string().unwrap());
            if e.file_type().unwrap().is_dir() {
                walk(&e.path(), &format!("{name}/"), all);
                all.insert(name, None);
            } else {
                all.insert(name, Some(Bytes(std::fs::read(e.path()).unwrap())));
            }
        }
    }
    let mut all = Content::new();
    walk(Path::new(dir), "", &mut all);
    all
}

/// What tests expect, written short: a name that ends in `/` is a directory.
fn is(want: &[(&str, &[u8])]) -> Content {
    let one = |(name, bytes): &(&str, &[u8])| match name.strip_suffix('/') {
        Some(dir) => (dir.to_owned(), None),
        None => (name.to_string(), Some(Bytes(bytes.to_vec()))),
    };
    want.iter().map(one).collect()
}

/// A directory that is shown, and its disk.
struct Bed {
    dir: Dir,
    /// The directory.
    root: String,
    graph: Arc<BlockGraph>,
    node: Arc<Root>,
    /// Where the volume begins.
    begin: u64,
    /// What the disk is to read as, as far as it is looked at.
    image: Vec<u8>,
    /// Sectors are written in two pieces.
    halves: bool,
}

impl Bed {
    /// `fill` makes what is in the directory at first.
    async fn new(name: &str, more: &str, fill: impl FnOnce(&str)) -> Bed {
        let dir = Dir::new(name);
        let root = dir.path("tree");
        std::fs::create_dir(&root).unwrap();
        fill(&root);
        Bed::open(dir, more).await
    }

    async fn open(dir: Dir, more: &str) -> Bed {
        let root = dir.path("tree");
        let o = format!("{{'driver':'vvfat','node-name':'n','rw':true,'dir':'{root}'{more}}}");
        let graph = graph(&drivers());
        graph.add(options(&o)).await.unwrap();
        let perm = Perm::CONSISTENT_READ | Perm::WRITE;
        let node = attach(&graph, "n", perm, Perm::all()).await.unwrap();
        let begin = if more.contains("floppy") { 0 } else { 63 * 512 };
        let len = FRONT.min(node.len() as usize);
        let image = read(&node, 0, len).await;
        Bed { dir, root, graph, node, begin, image, halves: true }
    }

    /// Has the disk read by others, and writes what they changed, in an order that nobody would choose, in pieces.
    async fn change(&mut self, f: impl FnOnce(&str)) {
        let path = self.dir.path("image");
        std::fs::write(&path, &self.image).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(self.node.len()).unwrap();
        f(&format!("{path}@@{}", self.begin));
        let mut now = std::fs::read(&path).unwrap();
        assert!(
            now[self.image.len()..].iter().all(|b| *b == 0),
            "more of the disk was used than is looked at"
        );
        now.truncate(self.image.len());
        self.write(now).await;
    }

    /// Writes what is to be different.
    async fn write(&mut self, now: Vec<u8>) {
        let mut changed: Vec<usize> = (0..now.len())
            .step_by(SECTOR)
            .filter(|at| now[*at..at + SECTOR] != self.image[*at..at + SECTOR])
            .collect();
        changed.sort_by_key(|at| (at / SECTOR * 7919) % 1009);
        for at in changed {
            let half = if self.halves { SECTOR / 2 + at / SECTOR % 100 } else { SECTOR };
            for (at, n) in [(at + half, SECTOR - half), (at, half)].into_iter().filter(|(_, n)| *n > 0) {
                let bytes = IoBuf::from_bytes(&now[at..at + n]);
                self.node.write(at as u64, bytes, WriteFlags::empty()).await.unwrap();
            }
        }
        self.image = now;
    }

    /// Flushes; the disk reads as ever.
    async fn flush(&self) -> base::IoResult<()> {
        let done = self.node.flush().await;
        same(&read(&self.node, 0, self.image.len()).await, &self.image, "after a flush");
        done
    }

    async fn close(self) -> Dir {
        self.node.detach().await;
        self.graph.close_all().await;
        self.dir
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.root)
    }

    /// Where on the disk bytes are that stand there once.
    fn find(&self, what: &[u8]) -> usize {
        let mut found = self.image.windows(what.len()).enumerate().filter(|(_, w)| *w == what);
        let (at, _) = found.next().expect("it is there");
        assert!(found.next().is_none());
        at
    }

    /// Where the entry of a short name is.
    fn entry(&self, short: &[u8; 11]) -> usize {
        self.find(short)
    }

    fn fat(&self) -> usize {
        self.begin as usize
            + usize::from(u16::from_le_bytes([self.image[self.begin as usize + 14], 0])) * SECTOR
    }
}

/// Runs a program of mtools on an image.
fn m(image: &str, words: &[&str]) {
    let mut c = Command::new(words[0]);
    c.env("MTOOLS_SKIP_CHECK", "1")
        .env("TZ", "UTC")
        .env("LC_ALL", "C.UTF-8")
        .args(["-i", image])
        .args(&words[1..]);
    let o = c.output().unwrap();
    let said = String::from_utf8_lossy(&o.stdout).into_owned() + &String::from_utf8_lossy(&o.stderr);
    assert!(o.status.success(), "{words:?}: {said}");
}

/// Puts bytes into a file of an image.
fn put(image: &str, name: &str, bytes: &[u8]) {
    let from = format!("{}.from", image.split_once("@@").unwrap().0);
    std::fs::write(&from, bytes).unwrap();
    m(image, &["mcopy", "-o", &from, &format!("::{name}")]);
}

fn pattern(n: usize, seed: u8) -> Vec<u8> {
    (0..n).map(|i| (i / 7) as u8 ^ (i % 251) as u8 ^ seed).collect()
}

const KINDS: [&str; 6] = [
    "",
    ",'fat-type':12",
    ",'fat-type':32",
    ",'floppy':true",
    ",'floppy':true,'fat-type':12",
    ",'floppy':true,'fat-type':16",
];

#[test]
fn what_a_guest_does_is_found_in_the_directory() {
    if !have_mtools() {
        return;
    }
    for (i, kind) in KINDS.iter().enumerate() {
        rt::block_on(async {
            let mut b = Bed::new(&format!("vvfat-rw-{i}"), kind, |root| {
                std::fs::create_dir_all(format!("{root}/sub/A Directory")).unwrap();
                std::fs::write(format!("{root}/a.txt"), b"hello").unwrap();
                std::fs::write(format!("{root}/README"), b"read me").unwrap();
                std::fs::write(format!("{root}/sub/big file.dat"), pattern(50_000, 1)).unwrap();
            })
            .await;
            let big = pattern(50_000, 1);
            let before = content(&b.root);
            b.flush().await.unwrap();
            assert_eq!(content(&b.root), before, "{kind}");
            // Files and directories are made.
            b.change(|d| {
                put(d, "NEW.TXT", b"dos");
                put(d, "low.txt", b"");
                put(d, "Ein längerer Name 日本.txt", &pattern(20_000, 2));
                m(d, &["mmd", "::made", "::sub/A Directory/deep"]);
                put(d, "sub/A Directory/deep/x", b"x");
            })
            .await;
            b.flush().await.unwrap();
            let mut want = is(&[
                ("sub/", b""),
                ("sub/A Directory/", b""),
                ("sub/A Directory/deep/", b""),
                ("sub/A Directory/deep/x", b"x"),
                ("sub/big file.dat", &big),
                ("made/", b""),
                ("a.txt", b"hello"),
                ("README", b"read me"),
                ("new.txt", b"dos"),
                ("low.txt", b""),
                ("Ein längerer Name 日本.txt", &pattern(20_000, 2)),
            ]);
            assert_eq!(content(&b.root), want, "{kind}");
            // They grow, shrink and change.
            b.change(|d| {
                put(d, "a.txt", &pattern(30_000, 3));
                put(d, "sub/big file.dat", &pattern(513, 4));
                put(d, "README", b"READ ME");
                put(d, "low.txt", b"no more empty");
                put(d, "NEW.TXT", b"");
            })
            .await;
            b.flush().await.unwrap();
            for (name, bytes) in [
                ("a.txt", pattern(30_000, 3)),
                ("sub/big file.dat", pattern(513, 4)),
                ("README", b"READ ME".to_vec()),
                ("low.txt", b"no more empty".to_vec()),
                ("new.txt", Vec::new()),
            ] {
                want.insert(name.into(), Some(Bytes(bytes)));
            }
            assert_eq!(content(&b.root), want, "{kind}");
            // Names change, and places.
            let inode = std::fs::metadata(b.path("a.txt")).unwrap().ino();
            b.change(|d| {
                m(d, &["mren", "::a.txt", "::A new name.text"]);
                m(d, &["mren", "::sub", "::SubDirectory"]);
                m(d, &["mmove", "::SubDirectory/big file.dat", "::made"]);
                m(d, &["mmove", "::SubDirectory/A Directory", "::made"]);
            })
            .await;
            b.flush().await.unwrap();
            let want = is(&[
                ("SubDirectory/", b""),
                ("made/", b""),
                ("made/A Directory/", b""),
                ("made/A Directory/deep/", b""),
                ("made/A Directory/deep/x", b"x"),
                ("made/big file.dat", &pattern(513, 4)),
                ("A new name.text", &pattern(30_000, 3)),
                ("README", b"READ ME"),
                ("new.txt", b""),
                ("low.txt", b"no more empty"),
                ("Ein längerer Name 日本.txt", &pattern(20_000, 2)),
            ]);
            assert_eq!(content(&b.root), want, "{kind}");
            assert_eq!(std::fs::metadata(b.path("A new name.text")).unwrap().ino(), inode);
            // And they go.
            b.change(|d| {
                m(d, &["mdeltree", "::made"]);
                m(d, &["mdel", "::README", "::low.txt"]);
                m(d, &["mrd", "::SubDirectory"]);
            })
            .await;
            // This time by closing it.
            let dir = b.close().await;
            let want = is(&[
                ("A new name.text", &pattern(30_000, 3)),
                ("new.txt", b""),
                ("Ein längerer Name 日本.txt", &pattern(20_000, 2)),
            ]);
            assert_eq!(content(&dir.path("tree")), want, "{kind}");
        });
    }
}

#[test]
fn names_that_change_places_lead_to_what_they_lead_to() {
    if !have_mtools() {
        return;
    }
    rt::block_on(async {
        let mut b = Bed::new("vvfat-rw-swap", "", |root| {
            for name in ["one", "two", "three"] {
                std::fs::create_dir(format!("{root}/{name}")).unwrap();
                std::fs::write(format!("{root}/{name}/{name}.txt"), name).unwrap();
                std::fs::write(format!("{root}/{name}.txt"), name.repeat(3000)).unwrap();
            }
        })
        .await;
        let inodes = ["one.txt", "two.txt"].map(|n| std::fs::metadata(b.path(n)).unwrap().ino());
        b.change(|d| {
            // Files change names with one another, directories go round.
            for (from, to) in [("one.txt", "x"), ("two.txt", "one.txt"), ("x", "two.txt")] {
                m(d, &["mren", &format!("::{from}"), &format!("::{to}")]);
            }
            for (from, to) in [("one", "x"), ("two", "one"), ("three", "two"), ("x", "three")] {
                m(d, &["mren", &format!("::{from}"), &format!("::{to}")]);
            }
            // A directory goes into what was in it, and a file takes a directory's name.
            m(d, &["mmd", "::two/inner"]);
            m(d, &["mdel", "::three.txt"]);
            m(d, &["mmd", "::three.txt"]);
        })
        .await;
        b.flush().await.unwrap();
        let want = is(&[
            ("one.txt", "two".repeat(3000).as_bytes()),
            ("two.txt", "one".repeat(3000).as_bytes()),
            ("three.txt/", b""),
            ("one/", b""),
            ("two/", b""),
            ("two/inner/", b""),
            ("three/", b""),
            ("one/two.txt", b"two"),
            ("two/three.txt", b"three"),
            ("three/one.txt", b"one"),
        ]);
        assert_eq!(content(&b.root), want);
        let now = ["two.txt", "one.txt"].map(|n| std::fs::metadata(b.path(n)).unwrap().ino());
        assert_eq!(now, inodes);
        b.change(|d| {
            m(d, &["mmove", "::two/inner", "::"]);
            m(d, &["mmove", "::two", "::inner"]);
            m(d, &["mdeltree", "::three.txt"]);
            put(d, "three.txt", b"a file again");
        })
        .await;
        b.flush().await.unwrap();
        let now = content(&b.root);
        assert_eq!(now["inner/two/three.txt"], Some(Bytes(b"three".to_vec())));
        assert_eq!(now["three.txt"], Some(Bytes(b"a file again".to_vec())));
        assert!(!now.contains_key("two"));
        b.close().await;
    });
}

#[test]
fn blocks_that_change_in_place_change_in_the_file() {
    rt::block_on(async {
        let mut b = Bed::new("vvfat-rw-place", "", |root| {
            std::fs::write(format!("{root}/f"), pattern(40_000, 9)).unwrap();
            std::fs::write(format!("{root}/linked"), b"linked-linked").unwrap();
            std::fs::hard_link(format!("{root}/linked"), format!("{root}/../outside")).unwrap();
            std::fs::set_permissions(format!("{root}/f"), PermissionsExt::from_mode(0o640)).unwrap();
        })
        .await;
        let inode = |b: &Bed, n: &str| std::fs::metadata(b.path(n)).unwrap().ino();
        let (f, linked) = (inode(&b, "f"), inode(&b, "linked"));
        let start = b.find(&pattern(40_000, 9));
        let mut now = b.image.clone();
        now[start + 20_000..start + 20_004].copy_from_slice(b"HERE");
        let at = b.find(b"linked-linked");
        now[at..at + 6].copy_from_slice(b"LINKED");
        b.write(now).await;
        b.flush().await.unwrap();
        let mut want = pattern(40_000, 9);
        want[20_000..20_004].copy_from_slice(b"HERE");
        assert_eq!(std::fs::read(b.path("f")).unwrap(), want);
        assert_eq!(inode(&b, "f"), f);
        // What has a name elsewhere is not written there.
        assert_eq!(std::fs::read(b.path("linked")).unwrap(), b"LINKED-linked");
        assert_eq!(std::fs::read(b.dir.path("outside")).unwrap(), b"linked-linked");
        assert_ne!(inode(&b, "linked"), linked);
        // Longer and shorter within the last cluster.
        for len in [40_960u32, 40_100, 12_345, 30_000, 0] {
            let at = b.entry(b"F          ");
            let mut now = b.image.clone();
            now[at + 28..at + 32].copy_from_slice(&len.to_le_bytes());
            if len > 40_000 {
                now[start + 40_000..start + len as usize].fill(0x77);
                want.resize(len as usize, 0x77);
            }
            want.truncate(len as usize);
            // What was cut off may come back, as long as the disk shows it.
            let end = want.len();
            want.extend_from_slice(&now[start + end..start + len as usize]);
            b.write(now).await;
            b.flush().await.unwrap();
            assert_eq!(std::fs::read(b.path("f")).unwrap(), want, "{len}");
            assert_eq!(inode(&b, "f"), f);
        }
        let mode = std::fs::metadata(b.path("f")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o640);
        b.close().await;
    });
}

#[test]
fn times_and_permissions_go_along() {
    if !have_mtools() {
        return;
    }
    rt::block_on(async {
        let mut b = Bed::new("vvfat-rw-times", "", |root| {
            std::fs::write(format!("{root}/f"), b"f").unwrap();
            std::fs::write(format!("{root}/ro"), b"ro").unwrap();
            std::fs::set_permissions(format!("{root}/ro"), PermissionsExt::from_mode(0o555)).unwrap();
        })
        .await;
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_002);
        assert_eq!(b.image[b.entry(b"RO         ") + 11] & 1, 1);
        b.change(|d| {
            let from = format!("{}.old", d.split_once("@@").unwrap().0);
            std::fs::write(&from, b"old").unwrap();
            std::fs::File::options().write(true).open(&from).unwrap().set_modified(then).unwrap();
            m(d, &["mcopy", "-m", &from, "::old.txt"]);
            m(d, &["mattrib", "+r", "::f"]);
            m(d, &["mattrib", "-r", "::ro"]);
        })
        .await;
        b.flush().await.unwrap();
        assert_eq!(std::fs::metadata(b.path("old.txt")).unwrap().modified().unwrap(), then);
        let mode = |n: &str| std::fs::metadata(b.path(n)).unwrap().mode() & 0o777;
        assert_eq!(mode("f") & 0o222, 0);
        assert_eq!(mode("ro"), 0o755);
        // The time alone.
        let at = b.entry(b"F          ");
        let mut now = b.image.clone();
        let old = b.entry(b"OLD     TXT");
        let stamp = now[old + 22..old + 26].to_vec();
        now[at + 22..at + 26].copy_from_slice(&stamp);
        b.write(now).await;
        b.flush().await.unwrap();
        assert_eq!(std::fs::metadata(b.path("f")).unwrap().modified().unwrap(), then);
        assert_eq!(std::fs::read(b.path("f")).unwrap(), b"f");
        b.close().await;
    });
}

#[test]
fn a_volume_that_makes_no_sense_changes_nothing() {
    rt::block_on(async {
        let mut b = Bed::new("vvfat-rw-sense", "", |root| {
            std::fs::create_dir(format!("{root}/d")).unwrap();
            std::fs::write(format!("{root}/d/x"), pattern(20_000, 1)).unwrap();
            std::fs::write(format!("{root}/y"), pattern(20_000, 2)).unwrap();
            std::fs::write(format!("{root}/a long name"), b"long").unwrap();
        })
        .await;
        let before = content(&b.root);
        let good = b.image.clone();
        let (fat, y) = (b.fat(), b.entry(b"Y          "));
        let cluster = |at: usize| u16::from_le_bytes([good[at + 26], good[at + 27]]);
        let (dir, first) = (b.entry(b"D          "), cluster(y));
        let x = cluster(b.entry(b"X          "));
        let entry = |c: u16| fat + 2 * usize::from(c);
        let long = b.find(&[b'a', 0, b' ', 0, b'l', 0]);
        let changes: Vec<(&str, Vec<(usize, Vec<u8>)>)> = vec![
            ("a chain that goes round", vec![(entry(first + 1), first.to_le_bytes().to_vec())]),
            ("a chain into another", vec![(entry(first), x.to_le_bytes().to_vec())]),
            ("a chain that ends nowhere", vec![(entry(first), vec![0, 0])]),
            ("a chain that leads out", vec![(entry(first), vec![0xf0, 0xff])]),
            ("two first clusters", vec![(y + 26, x.to_le_bytes().to_vec())]),
            ("a length without clusters", vec![(y + 28, vec![0xff, 0xff, 0xff, 0x7f])]),
            ("a directory in a file", vec![(y + 11, vec![0x10])]),
            (
                "a directory in itself",
                vec![(y + 11, vec![0x10]), (y + 26, cluster(dir).to_le_bytes().to_vec())],
            ),
            ("two of a name", vec![(y, b"D          ".to_vec())]),
            ("a name with a slash", vec![(long + 2, b"/".to_vec())]),
            ("the directory above", vec![(long, b".\0.\0\0\0".to_vec())]),
            ("this directory", vec![(long, b".\0\0\0".to_vec())]),
            ("half a character", vec![(long, vec![0, 0xd8])]),
            ("another volume", vec![(b.begin as usize + 13, vec![8])]),
            ("no partition", vec![(0x1be, vec![0; 16])]),
        ];
        for (what, change) in changes {
            let mut bad = good.clone();
            for (at, bytes) in change {
                bad[at..at + bytes.len()].copy_from_slice(&bytes);
            }
            // It is a file's, too, that the volume has beside it.
            bad[y + 22] ^= 1;
            b.write(bad).await;
            b.flush().await.unwrap();
            assert_eq!(content(&b.root), before, "{what}");
            b.write(good.clone()).await;
            b.flush().await.unwrap();
            assert_eq!(content(&b.root), before, "{what}");
        }
        // What is wrong stays out at the end, too; the rest does not.
        let mut bad = good.clone();
        bad[entry(first)..entry(first) + 2].copy_from_slice(&[0, 0]);
        let at = b.find(b"long\0\0");
        bad[at..at + 4].copy_from_slice(b"LONG");
        b.write(bad).await;
        let dir = b.close().await;
        let mut want = before;
        want.insert("a long name".into(), Some(Bytes(b"LONG".to_vec())));
        assert_eq!(content(&dir.path("tree")), want);
    });
}

#[test]
fn what_changed_on_the_host_is_kept() {
    if !have_mtools() {
        return;
    }
    rt::block_on(async {
        let mut b = Bed::new("vvfat-rw-host", "", |root| {
            for name in ["one", "two", "three", "four"] {
                std::fs::write(format!("{root}/{name}"), name).unwrap();
            }
        })
        .await;
        for name in ["one", "two"] {
            std::fs::write(b.path(name), b"by the host").unwrap();
        }
        std::fs::write(b.path("new"), b"new on the host").unwrap();
        // Taken away and made again: another file.
        std::fs::remove_file(b.path("four")).unwrap();
        b.change(|d| {
            // What was in the file that has gone is nothing that a sector could be changed within.
            put(d, "new", b"new in the guest");
            put(d, "three", b"by the guest");
            put(d, "one", b"by the guest");
            m(d, &["mdel", "::two", "::four"]);
        })
        .await;
        assert_eq!(b.node.flush().await, Err(base::Errno::IO));
        let want = is(&[
            ("one", b"by the host"),
            ("two", b"by the host"),
            ("new", b"new on the host"),
            ("three", b"by the guest"),
        ]);
        assert_eq!(content(&b.root), want);
        assert_eq!(b.node.flush().await, Err(base::Errno::IO));
        // When it is out of the way, the guest's takes its place.
        std::fs::remove_file(b.path("one")).unwrap();
        std::fs::remove_file(b.path("new")).unwrap();
        std::fs::remove_file(b.path("two")).unwrap();
        b.node.flush().await.unwrap();
        let want = is(&[("one", b"by the guest"), ("new", b"new in the guest"), ("three", b"by the guest")]);
        assert_eq!(content(&b.root), want);
        b.close().await;
    });
}

#[test]
fn nothing_outside_is_touched() {
    if !have_mtools() {
        return;
    }
    rt::block_on(async {
        let mut b = Bed::new("vvfat-rw-outside", "", |root| {
            std::fs::create_dir_all(format!("{root}/../out/sub")).unwrap();
            std::fs::write(format!("{root}/../out/secret"), b"secret").unwrap();
            std::fs::create_dir(format!("{root}/sub")).unwrap();
            std::fs::write(format!("{root}/sub/f"), b"f").unwrap();
            symlink("../out/secret", format!("{root}/link")).unwrap();
            symlink("../out", format!("{root}/linked")).unwrap();
        })
        .await;
        let outside = content(&b.dir.path("out"));
        assert!(!b.image.windows(6).any(|w| w == b"secret"));
        b.change(|d| {
            put(d, "link", b"through the link");
            m(d, &["mmd", "::linked"]);
            put(d, "linked/secret", b"through the directory");
            put(d, "fine", b"fine");
        })
        .await;
        assert_eq!(b.flush().await, Err(base::Errno::IO));
        assert_eq!(content(&b.dir.path("out")), outside);
        assert_eq!(std::fs::read(b.path("fine")).unwrap(), b"fine");
        b.change(|d| {
            m(d, &["mdeltree", "::linked"]);
            m(d, &["mdel", "::link"]);
        })
        .await;
        b.flush().await.unwrap();
        // A directory becomes a link while the disk is open.
        std::fs::rename(b.path("sub"), b.path("was-sub")).unwrap();
        symlink("../out", b.path("sub")).unwrap();
        // What was in the file is not there any more, to be written within.
        b.halves = false;
        b.change(|d| {
            put(d, "sub/f", b"changed");
            put(d, "sub/g", b"new");
        })
        .await;
        assert!(b.node.flush().await.is_err());
        assert_eq!(content(&b.dir.path("out")), outside);
        assert_eq!(std::fs::read(b.path("was-sub/f")).unwrap(), b"f");
        b.close().await;
    });
}

#[test]
fn a_guest_that_never_flushes_is_not_forgotten() {
    if !have_mtools() {
        return;
    }
    rt::block_on(async {
        let mut b = Bed::new("vvfat-rw-quiet", ",'floppy':true", |root| {
            std::fs::write(format!("{root}/f"), b"f").unwrap();
        })
        .await;
        b.change(|d| put(d, "g", b"g")).await;
        assert!(!Path::new(&b.path("g")).exists());
        let mut waited = 0;
        while !Path::new(&b.path("g")).exists() {
            rt::sleep(Duration::from_millis(200)).await;
            waited += 1;
            assert!(waited < 150, "nothing came");
        }
        assert!(waited >= 3, "it was no quiet time");
        b.close().await;
    });
}

#[test]
fn a_name_that_goes_before_its_clusters_do_is_waited_for() {
    rt::block_on(async {
        let mut b = Bed::new("vvfat-rw-wait", "", |root| {
            std::fs::create_dir(format!("{root}/d")).unwrap();
            std::fs::write(format!("{root}/d/f"), pattern(9000, 5)).unwrap();
        })
        .await;
        let inode = std::fs::metadata(b.path("d/f")).unwrap().ino();
        let at = b.entry(b"F          ");
        let (d, e) = (b.entry(b"D          "), b.image[at - 32..at + 32].to_vec());
        // A guest that moves the file has removed the old name, and is not done.
        let mut now = b.image.clone();
        now[at - 32] = 0xe5;
        now[at] = 0xe5;
        b.write(now).await;
        b.flush().await.unwrap();
        assert_eq!(std::fs::read(b.path("d/f")).unwrap(), pattern(9000, 5));
        // Now it is.
        let mut now = b.image.clone();
        now[d + 32..d + 96].copy_from_slice(&e);
        b.write(now).await;
        b.flush().await.unwrap();
        assert_eq!(content(&b.root), is(&[("d/", b""), ("f", &pattern(9000, 5))]));
        assert_eq!(std::fs::metadata(b.path("f")).unwrap().ino(), inode);
        // Where nothing comes any more, it is gone in the end.
        let mut now = b.image.clone();
        now[d + 32] = 0xe5;
        now[d + 64] = 0xe5;
        b.write(now).await;
        b.flush().await.unwrap();
        assert!(Path::new(&b.path("f")).exists());
        let dir = b.close().await;
        assert_eq!(content(&dir.path("tree")), is(&[("d/", b"")]));
    });
}

#[test]
fn a_node_that_is_written_is_not_read_only() {
    let dir = Dir::new("vvfat-rw-flags");
    let root = dir.path("tree");
    std::fs::create_dir(&root).unwrap();
    let add = |more: &str| {
        let o = format!("{{'driver':'vvfat','node-name':'n','dir':'{root}'{more}}}");
        rt::block_on(async {
            let g = graph(&drivers());
            let done = g.add(options(&o)).await.map_err(|e| e.desc().to_owned());
            let perm = Perm::CONSISTENT_READ | Perm::WRITE;
            let writes = match &done {
                Ok(_) => attach(&g, "n", perm, Perm::all()).await.is_ok(),
                Err(_) => false,
            };
            g.close_all().await;
            done.map(|_| writes)
        })
    };
    let text = "Unable to set VVFAT to 'rw' when drive is read-only";
    assert_eq!(add(",'rw':true,'read-only':true"), Err(text.to_owned()));
    assert_eq!(add(",'rw':false"), Err("Image is read-only".to_owned()));
    assert_eq!(add(",'rw':true"), Ok(true));
    assert_eq!(add(",'rw':true,'auto-read-only':true"), Ok(true));
    assert_eq!(add(",'rw':false,'auto-read-only':true"), Ok(false));
    assert_eq!(add(",'read-only':true"), Ok(false));
}

#[test]
fn the_disk_is_one() {
    // Whatever is written is no volume any more, but it is what is read.
    let dir = Dir::new("vvfat-rw-conform");
    let root = dir.path("tree");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(format!("{root}/f"), pattern(100_000, 3)).unwrap();
    let before = content(&root);
    on_each_backend(async || {
        let g = graph(&drivers());
        let o = format!("{{'driver':'vvfat','node-name':'n','rw':true,'floppy':true,'dir':'{root}'}}");
        g.add(options(&o)).await.unwrap();
        let root = attach(&g, "n", Perm::WRITE, Perm::all()).await.unwrap();
        root.write_zeroes(0, root.len(), ZeroFlags::empty()).await.unwrap();
        root.detach().await;
        conformance(&g, "n", Traits { resizes: false }).await;
        g.close_all().await;
    });
    assert_eq!(content(&root), before);
}

/// Something that a guest does.
#[derive(Clone, Debug)]
enum Op {
    Put(usize, usize, u16, u8),
    Delete(usize),
    Rename(usize, usize),
    Move(usize, usize),
    MakeDir(usize, usize),
    Flush,
}

/// Long names all: of short ones mtools keeps the case of the old when it renames.
const NAMES: [&str; 8] = [
    "a a.txt",
    "B b",
    "Long name of a file.data",
    "mixedCase.Txt",
    "c.longer-extension",
    "ünïcode ☃",
    "z.z.z",
    "file 2",
];

fn op() -> impl Strategy<Value = Op> {
    let which = 0..64usize;
    prop_oneof![
        4 => (which.clone(), 0..NAMES.len(), 0..20_000u16, any::<u8>()).prop_map(|(d, n, l, s)| Op::Put(d, n, l, s)),
        2 => which.clone().prop_map(Op::Delete),
        2 => (which.clone(), 0..NAMES.len()).prop_map(|(a, b)| Op::Rename(a, b)),
        2 => (which.clone(), which.clone()).prop_map(|(a, b)| Op::Move(a, b)),
        2 => (which, 0..NAMES.len()).prop_map(|(a, b)| Op::MakeDir(a, b)),
        2 => Just(Op::Flush),
    ]
}

/// Does the same to the image and to what is expected.
fn apply(op: &Op, d: &str, want: &mut Content) {
    let dirs: Vec<String> = std::iter::once(String::new())
        .chain(want.iter().filter(|(_, v)| v.is_none()).map(|(k, _)| k.clone()))
        .collect();
    let within =
        |dir: &str, name: &str| if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") };
    let pick = |want: &Content, i: usize| want.keys().nth(i % want.len().max(1)).cloned();
    let renamed = |want: &mut Content, from: &str, to: &str| {
        let under = format!("{from}/");
        let moved: Vec<String> =
            want.keys().filter(|k| *k == from || k.starts_with(&under)).cloned().collect();
        for k in moved {
            let v = want.remove(&k).unwrap();
            want.insert(format!("{to}{}", &k[from.len()..]), v);
        }
    };
    match op {
        Op::Put(dir, name, len, seed) => {
            let path = within(&dirs[dir % dirs.len()], NAMES[*name]);
            if want.get(&path) == Some(&None) {
                return;
            }
            let bytes = pattern(usize::from(*len), *seed);
            put(d, &path, &bytes);
            want.insert(path, Some(Bytes(bytes)));
        }
        Op::Delete(i) => {
            let Some(path) = pick(want, *i) else { return };
            match want[&path] {
                Some(_) => m(d, &["mdel", &format!("::{path}")]),
                None => m(d, &["mdeltree", &format!("::{path}")]),
            }
            let under = format!("{path}/");
            want.retain(|k, _| *k != path && !k.starts_with(&under));
        }
        Op::Rename(i, name) => {
            let Some(path) = pick(want, *i) else { return };
            let dir = path.rsplit_once('/').map_or("", |(d, _)| d);
            let to = within(dir, NAMES[*name]);
            if !want.contains_key(&to) {
                m(d, &["mren", &format!("::{path}"), &format!("::{to}")]);
                renamed(want, &path, &to);
            }
        }
        Op::Move(i, dir) => {
            let Some(path) = pick(want, *i) else { return };
            let dir = &dirs[dir % dirs.len()];
            let to = within(dir, path.rsplit_once('/').map_or(path.as_str(), |(_, n)| n));
            let inside = *dir == path || dir.starts_with(&format!("{path}/"));
            if !want.contains_key(&to) && !inside {
                m(d, &["mmove", &format!("::{path}"), &format!("::{dir}")]);
                renamed(want, &path, &to);
            }
        }
        Op::MakeDir(dir, name) => {
            let path = within(&dirs[dir % dirs.len()], NAMES[*name]);
            want.entry(path.clone()).or_insert_with(|| {
                m(d, &["mmd", &format!("::{path}")]);
                None
            });
        }
        Op::Flush => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, max_shrink_iters: 30, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_guest_does_the_directory_follows(
        kind in 0..KINDS.len(),
        seed in any::<u8>(),
        ops in prop::collection::vec(op(), 10..50),
    ) {
        if !have_mtools() {
            return Ok(());
        }
        rt::block_on(async {
            let mut b = Bed::new("vvfat-rw-random", KINDS[kind], |root| {
                std::fs::create_dir(format!("{root}/B b")).unwrap();
                std::fs::write(format!("{root}/B b/a a.txt"), pattern(30_000, seed)).unwrap();
                std::fs::write(format!("{root}/Long name of a file.data"), pattern(9_000, !seed)).unwrap();
            })
            .await;
            let mut want = content(&b.root);
            for ops in ops.split_inclusive(|op| matches!(op, Op::Flush)) {
                b.change(|d| ops.iter().for_each(|op| apply(op, d, &mut want))).await;
                b.flush().await.unwrap();
                assert_eq!(content(&b.root), want);
            }
            let dir = b.close().await;
            assert_eq!(content(&dir.path("tree")), want);
            // What it has become is shown again.
            let b = Bed::open(dir, KINDS[kind]).await;
            b.flush().await.unwrap();
            assert_eq!(content(&b.root), want);
            b.close().await;
        });
    }
}
