//! Merging images and giving them other backing files: whatever is in them, they show what they showed, and `check` finds nothing.

mod common;

use block::driver::{WriteFlags, ZeroFlags};
use common::Dir;
use image::commit::{Plan, commit};
use image::create::{NewImage, create};
use image::open::{OpenFlags, Opened, Source, open};
use image::rebase::{Rebase, rebase};
use mem::IoBuf;

const MIB: u64 = 1 << 20;

impl Dir {
    /// An image on another.
    async fn make(
        &self,
        name: &str,
        format: &str,
        size: u64,
        backing: Option<(&str, &str)>,
        options: &[(&'static str, &str)],
    ) {
        let mut new = NewImage::new(&self.at(name), format, size);
        if let Some((file, format)) = backing {
            new.options.set("backing_file", file);
            new.options.set("backing_fmt", format);
        }
        for (n, v) in options {
            new.options.set(n, *v);
        }
        create(&new).await.unwrap();
    }

    async fn open(&self, name: &str, format: &str, write: bool) -> Opened {
        let flags = OpenFlags { write, chain: true, unmap: true, ..OpenFlags::default() };
        open(&Source::file(&self.at(name), Some(format)), flags).await.unwrap()
    }

    /// All that an image shows.
    async fn shows(&self, name: &str, format: &str) -> Vec<u8> {
        let image = self.open(name, format, false).await;
        let root = image.reader().await.unwrap();
        let buf = IoBuf::zeroed(root.len() as usize);
        root.read(0, buf.clone()).await.unwrap();
        image.close().await;
        buf.to_vec()
    }

    async fn is_sound(&self, name: &str) {
        let source = Source::file(&self.at(name), Some("qcow2"));
        let flags = OpenFlags::default();
        let report =
            image::check::check(&source, flags, block::check::Fix::None, &mut |l| panic!("{name}: {l}"))
                .await;
        let report = report.unwrap_or_else(|_| panic!("{name} cannot be checked")).report;
        assert_eq!((report.corruptions, report.leaks, report.check_errors), (0, 0, 0), "{name}");
    }

    /// How many bytes the image has of its own.
    async fn own(&self, name: &str) -> u64 {
        let image = self.open(name, "qcow2", false).await;
        let root = image.reader().await.unwrap();
        let (mut at, mut own) = (0, 0);
        while at < root.len() {
            let st = root.map_own(at, root.len() - at).await.unwrap();
            own += if st.allocated || st.compressed { st.len } else { 0 };
            at += st.len;
        }
        image.close().await;
        own
    }
}

/// Random numbers, the same every time.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Writes here and there.
async fn scribble(image: &Opened, r: &mut Random) {
    let root = image.writer().await.unwrap();
    for _ in 0..4 + r.below(12) {
        let off = r.below(root.len() / 512) * 512;
        let len = ((1 + r.below(400)) * 512).min(root.len() - off);
        match r.below(4) {
            0 => root.write_zeroes(off, len, ZeroFlags::empty()).await.unwrap(),
            1 => root.discard(off, len).await.unwrap(),
            _ => {
                // Few different bytes, so that images have some in common.
                let byte = r.below(3) as u8;
                root.write(off, IoBuf::from_bytes(&vec![byte; len as usize]), WriteFlags::empty())
                    .await
                    .unwrap();
            }
        }
    }
    root.flush().await.unwrap();
    root.detach().await;
}

fn block_on<F: Future>(f: F) -> F::Output {
    rt::Executor::new().unwrap().block_on(f)
}

fn quiet(_: u64, _: u64) {}

#[test]
fn images_show_what_they_showed_on_another_backing_file() {
    block_on(async {
        let d = Dir::new("rebase");
        let r = &mut Random(0x1234_5678_9abc);
        for round in 0..24 {
            let len = |r: &mut Random| (1 + r.below(8)) * MIB / 2 + r.below(3) * 512;
            let options: &[(&str, &str)] = match round % 4 {
                0 => &[("extended_l2", "on")],
                1 => &[("compat", "0.10")],
                2 => &[("cluster_size", "4096")],
                _ => &[],
            };
            d.make("base", "qcow2", len(r), None, &[]).await;
            d.make("mid", "qcow2", len(r), Some(("base", "qcow2")), &[("cluster_size", "8192")]).await;
            d.make("top", "qcow2", len(r), Some(("mid", "qcow2")), options).await;
            d.make("other", "raw", len(r), None, &[]).await;
            for (name, format) in [("base", "qcow2"), ("mid", "qcow2"), ("top", "qcow2"), ("other", "raw")] {
                let image = d.open(name, format, true).await;
                scribble(&image, r).await;
                image.close().await;
            }
            let before = d.shows("top", "qcow2").await;
            let (backing, format) = match r.below(4) {
                0 => ("", None),
                1 => ("base", Some("qcow2")),
                2 => ("mid", Some("qcow2")),
                _ => ("other", Some("raw")),
            };
            let what = Rebase {
                backing: Some(backing.into()),
                format: format.map(Into::into),
                compress: r.below(2) == 0,
                ..Rebase::default()
            };
            let own = d.own("top").await;
            let image = d.open("top", "qcow2", true).await;
            rebase(&image, &what, &mut quiet).await.unwrap();
            image.close().await;
            assert!(d.shows("top", "qcow2").await == before, "round {round}: {what:?}");
            d.is_sound("top").await;
            if backing == "mid" {
                assert_eq!(d.own("top").await, own, "nothing was to be copied");
            }
            // And then it gets along without the others.
            if backing.is_empty() {
                for gone in ["base", "mid"] {
                    std::fs::remove_file(d.at(gone)).unwrap();
                }
                assert!(d.shows("top", "qcow2").await == before);
            }
        }
    });
}

#[test]
fn what_is_merged_is_seen_below() {
    block_on(async {
        let d = Dir::new("commit");
        let r = &mut Random(0x9876_5432_1abc);
        for round in 0..16 {
            let raw = round % 2 == 0;
            let len = |r: &mut Random| (1 + r.below(8)) * MIB / 2 + r.below(3) * 512;
            d.make("base", if raw { "raw" } else { "qcow2" }, len(r), None, &[]).await;
            let format = if raw { "raw" } else { "qcow2" };
            d.make("mid", "qcow2", len(r), Some(("base", format)), &[]).await;
            let options: &[(&str, &str)] = if round % 3 == 0 { &[("extended_l2", "on")] } else { &[] };
            d.make("top", "qcow2", len(r), Some(("mid", "qcow2")), options).await;
            for (name, format) in [("base", format), ("mid", "qcow2"), ("top", "qcow2")] {
                let image = d.open(name, format, true).await;
                scribble(&image, r).await;
                image.close().await;
            }
            let before = d.shows("top", "qcow2").await;
            let to_base = r.below(2) == 0;
            let plan = Plan { base: to_base.then(|| "base".into()), drop: r.below(2) == 0, rate: 0 };
            let own = d.own("top").await;
            let image = d.open("top", "qcow2", true).await;
            commit(&image, "top", &plan, &mut quiet).await.unwrap();
            image.close().await;
            let (below, format) = if to_base { ("base", format) } else { ("mid", "qcow2") };
            let merged = d.shows(below, format).await;
            assert!(merged[..before.len()] == before, "round {round}: {plan:?}");
            assert!(d.shows("top", "qcow2").await == before, "round {round}: {plan:?}");
            let kept = if plan.drop || to_base { own } else { 0 };
            assert_eq!(d.own("top").await, kept, "round {round}: {plan:?}");
            d.is_sound("top").await;
            d.is_sound("mid").await;
        }
    });
}

#[test]
fn what_cannot_be_is_refused() {
    block_on(async {
        let d = Dir::new("refused");
        d.make("base", "qcow2", MIB, None, &[]).await;
        d.make("top", "qcow2", MIB, Some(("base", "qcow2")), &[]).await;
        let refused = async |name: &str, base: Option<&str>| {
            let image = d.open(name, "qcow2", true).await;
            let plan = Plan { base: base.map(Into::into), ..Plan::default() };
            let e = commit(&image, name, &plan, &mut quiet).await.unwrap_err();
            image.close().await;
            e.desc().to_owned()
        };
        assert_eq!(refused("base", None).await, "Image does not have a backing file");
        assert_eq!(refused("top", Some("nope")).await, "Did not find 'nope' in the backing chain of 'top'");
        assert_eq!(refused("top", Some("top")).await, "Did not find 'top' in the backing chain of 'top'");
        let refused = async |name: &str, backing: &str, format: Option<&str>, unchecked: bool| {
            let format_of = if name == "raw" { "raw" } else { "qcow2" };
            let image = d.open(name, format_of, true).await;
            let (backing, format) = (Some(backing.into()), format.map(Into::into));
            let what = Rebase { backing, format, unchecked, ..Rebase::default() };
            let e = rebase(&image, &what, &mut quiet).await.unwrap_err();
            image.close().await;
            e.desc().to_owned()
        };
        d.make("raw", "raw", MIB, None, &[]).await;
        let cannot = |b: &str, why: &str| format!("Could not change the backing file to '{b}': {why}");
        let no_format = "backing format must be specified";
        assert_eq!(refused("top", "base", None, false).await, cannot("base", no_format));
        assert_eq!(refused("top", "nope", None, true).await, cannot("nope", no_format));
        assert_eq!(refused("raw", "", None, false).await, cannot("", "Operation not supported"));
        assert_eq!(
            refused("raw", "base", Some("qcow2"), false).await,
            cannot("base", "Operation not supported")
        );
        assert_eq!(refused("top", "base", Some("nope"), false).await, "Invalid format name: 'nope'");
        let missing = d.at("nope");
        assert_eq!(
            refused("top", "nope", Some("qcow2"), false).await,
            format!(
                "Could not open new backing file 'nope': Could not open '{missing}': No such file or directory"
            )
        );
        assert!(
            refused("top", "top", Some("qcow2"), false).await.contains("Failed to get shared \"write\" lock")
        );
    });
}

#[test]
fn space_is_given_back_by_merging() {
    use std::os::unix::fs::MetadataExt;
    block_on(async {
        let d = Dir::new("commit-space");
        for format in ["raw", "qcow2"] {
            d.make("base", format, 16 * MIB, None, &[]).await;
            let base = d.open("base", format, true).await;
            let root = base.writer().await.unwrap();
            root.write(0, IoBuf::from_bytes(&vec![3; 16 << 20]), WriteFlags::empty()).await.unwrap();
            root.detach().await;
            base.close().await;
            d.make("top", "qcow2", 16 * MIB, Some(("base", format)), &[]).await;
            let empty = std::fs::metadata(d.at("top")).unwrap().len();
            let top = d.open("top", "qcow2", true).await;
            let root = top.writer().await.unwrap();
            root.write_zeroes(MIB, 8 * MIB, ZeroFlags::empty()).await.unwrap();
            root.write(12 * MIB, IoBuf::from_bytes(&vec![9; 1 << 20]), WriteFlags::empty()).await.unwrap();
            root.detach().await;
            top.close().await;
            let before = d.shows("top", "qcow2").await;
            let blocks = || std::fs::metadata(d.at("base")).unwrap().blocks() * 512;
            let full = blocks();
            let top = d.open("top", "qcow2", true).await;
            let plan = Plan { drop: false, ..Plan::default() };
            commit(&top, "top", &plan, &mut quiet).await.unwrap();
            top.close().await;
            assert!(blocks() + 7 * MIB < full, "{format}: {} of {full} bytes", blocks());
            // Nothing is left of the upper image but what it began with.
            let left = std::fs::metadata(d.at("top")).unwrap().len();
            assert_eq!(left, empty.next_multiple_of(64 << 10), "{format}");
            d.is_sound("top").await;
            assert!(d.shows("top", "qcow2").await == before && d.shows("base", format).await == before);
        }
    });
}
