//! Changing what an image is: the disk stays, and the reference agrees.

use mem::IoBuf;
use rt::sim::{Rng, Sim};

use super::crash::crashed;
use super::mem::{MemHost, options};
use super::random::{World, no_errors, open, read_all};
use super::reference::{Dir, have_tools, tool};
use crate::amend::{Amend, amend};
use crate::check::{Fix, check};
use crate::header::Header;
use crate::snapshot::Snapshot;

async fn filled(cluster: u64, snapshot: bool) -> MemHost {
    let host = MemHost::new(Vec::new());
    crate::create::create(&host, &options(600 << 10, cluster)).await.unwrap();
    let image = open(&host, true).await;
    let rng = rt::sim::rng();
    for _ in 0..30 {
        let off = rng.below(590 << 10);
        let len = 1 + rng.below(9000);
        let mut data = vec![0; len as usize];
        rng.fill(&mut data);
        image.write(&host, off, IoBuf::from_bytes(&data)).await.unwrap();
    }
    image.write_zeroes(&host, 0, 100 << 10, false).await.unwrap();
    if snapshot {
        image.snapshot_create(&host, Snapshot { name: "s".into(), ..Snapshot::default() }).await.unwrap();
    }
    image.make_clean(&host).await.unwrap();
    host
}

async fn all(host: MemHost) -> (MemHost, Vec<u8>) {
    let w = World { image: open(&host, false).await, host };
    let data = read_all(&w).await;
    (w.host, data)
}

fn header(host: &MemHost) -> Header {
    Header::parse(&host.file.borrow()[..host.file.borrow().len().min(2 << 20)]).unwrap()
}

#[test]
fn the_disk_stays_whatever_the_image_becomes() {
    for seed in 0..10u64 {
        Sim::new(seed).block_on(async {
            let mut host = filled(512 << (seed % 5), false).await;
            let mut model;
            (host, model) = all(host).await;
            for a in [
                Amend { refcount_bits: Some(64), ..Amend::default() },
                Amend { refcount_bits: Some(1), lazy_refcounts: Some(true), ..Amend::default() },
                Amend { size: Some(700 << 10), ..Amend::default() },
                Amend { version: Some(2), refcount_bits: Some(16), ..Amend::default() },
                Amend { size: Some(500 << 10), ..Amend::default() },
                Amend { version: Some(3), refcount_bits: Some(2), ..Amend::default() },
            ] {
                amend(&host, &a, &mut |_, _| {}).await.unwrap();
                no_errors(&host, false).await;
                model.resize(a.size.unwrap_or(model.len() as u64) as usize, 0);
                let now;
                (host, now) = all(host).await;
                assert!(now == model, "seed {seed}: {a:?}");
                let h = header(&host);
                assert!(a.version.is_none_or(|v| v == h.version), "{a:?}");
                assert!(a.refcount_bits.is_none_or(|n| n == u64::from(h.geometry.refcount_bits())), "{a:?}");
                assert!(a.lazy_refcounts.is_none_or(|l| l == h.lazy_refcounts()), "{a:?}");
            }
        });
    }
}

#[test]
fn names_of_features_give_way_in_a_small_first_cluster() {
    Sim::new(3).block_on(async {
        let mut o = options(1 << 20, 512);
        o.backing_file = Some("a/base/with/a/long/name.qcow2".into());
        o.backing_fmt = Some(api::block_core::BlockdevDriver::Qcow2);
        let host = MemHost::new(Vec::new());
        crate::create::create(&host, &o).await.unwrap();
        let h = header(&host);
        assert_eq!((h.backing_file, h.backing_format), (o.backing_file, Some("qcow2".into())));
    });
}

#[test]
fn what_cannot_be_changes_nothing() {
    Sim::new(1).block_on(async {
        let host = filled(4096, true).await;
        let before = host.bytes();
        let fails = async |a: Amend, text: &str| {
            assert_eq!(amend(&host, &a, &mut |_, _| {}).await.unwrap_err().desc(), text);
            assert!(host.bytes() == before, "{a:?}");
        };
        let a = Amend::default;
        let width = "Refcount width must be a power of two and may not exceed 64 bits";
        fails(Amend { refcount_bits: Some(3), ..a() }, width).await;
        let narrow = "Refcount widths other than 16 bits require compatibility level 1.1 or above (use compat=1.1 or greater)";
        fails(Amend { refcount_bits: Some(1), version: Some(2), ..a() }, narrow).await;
        let lazy = "Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)";
        fails(Amend { lazy_refcounts: Some(true), version: Some(2), ..a() }, lazy).await;
        let data = "data-file can only be set for images that use an external data file";
        fails(Amend { data_file: Some("x".into()), ..a() }, data).await;
        let snapshots = "Internal snapshots prevent downgrade of image";
        fails(Amend { version: Some(2), ..a() }, snapshots).await;
        let e = amend(&host, &Amend { refcount_bits: Some(1), ..a() }, &mut |_, _| {}).await.unwrap_err();
        assert!(e.desc().starts_with("Cannot decrease refcount entry width to 1 bits: Cluster at offset 0x"), "{e}");
        assert!(host.bytes() == before);
        amend(&host, &Amend { refcount_bits: Some(2), ..a() }, &mut |_, _| {}).await.unwrap();
        no_errors(&host, false).await;
        // A width that is there already is not what is wrong.
        let old = Amend { refcount_bits: Some(2), version: Some(2), ..a() };
        let e = amend(&host, &old, &mut |_, _| {}).await.unwrap_err();
        assert_eq!(e.desc(), "compat=0.10 requires refcount_bits=16");
    });
}

#[test]
fn a_crash_leaves_the_disk_in_an_image_that_can_be_used() {
    for seed in 0..12u64 {
        Sim::new(seed).block_on(async {
            let (host, model) = all(filled(1024, false).await).await;
            let base = host.bytes();
            host.logging.set(true);
            let a = match seed % 3 {
                0 => Amend { refcount_bits: Some(64), lazy_refcounts: Some(true), ..Amend::default() },
                1 => Amend { version: Some(2), ..Amend::default() },
                _ => Amend { refcount_bits: Some(1), ..Amend::default() },
            };
            amend(&host, &a, &mut |_, _| {}).await.unwrap();
            let log = host.log.borrow().clone();
            let mut rng = Rng::new(seed);
            for at in 0..=log.len() {
                let left = MemHost::new(crashed(&base, &log, at, &mut rng));
                let mut said = Vec::new();
                let r = check(&left, Fix::None, &mut |l| said.push(l.to_string())).await.unwrap();
                let place = format!("seed {seed} at {at} of {}", log.len());
                assert_eq!((r.corruptions, r.check_errors), (0, 0), "{place}: {said:#?}");
                assert!(all(left).await.1 == model, "{place}");
            }
        });
    }
}

#[test]
fn the_reference_agrees() {
    if !have_tools() {
        return;
    }
    let dir = Dir::new("amend");
    for (n, shape) in
        ["cluster_size=512", "cluster_size=4k", "compat=0.10,cluster_size=64k"].iter().enumerate()
    {
        std::fs::write(dir.path("base"), vec![0x5a; 300 << 10]).unwrap();
        tool("qemu-img", &dir.0, &format!("create -f qcow2 -o {shape} -b base -F raw a.q"));
        let args = ["-c", "write -P 7 5k 90k", "-c", "write -z 20k 30k", "-c", "write -z 150k 64k", "a.q"];
        let wrote = std::process::Command::new("qemu-io").current_dir(&dir.0).args(args).output().unwrap();
        assert!(wrote.status.success());
        tool("qemu-img", &dir.0, "convert -O raw a.q want");
        for (a, says) in [
            (
                Amend { version: Some(3), lazy_refcounts: Some(true), ..Amend::default() },
                "lazy refcounts: true",
            ),
            (Amend { refcount_bits: Some(8), ..Amend::default() }, "refcount bits: 8"),
            (Amend { version: Some(2), refcount_bits: Some(16), ..Amend::default() }, "compat: 0.10"),
        ] {
            Sim::new(n as u64).block_on(async {
                let mut host = MemHost::new(std::fs::read(dir.path("a.q")).unwrap());
                host.backing = Some(vec![0x5a; 300 << 10]);
                amend(&host, &a, &mut |_, _| {}).await.unwrap();
                std::fs::write(dir.path("a.q"), &*host.file.borrow()).unwrap();
            });
            let said = tool("qemu-img", &dir.0, "check a.q");
            assert!(said.starts_with("No errors were found"), "{shape} {a:?}: {said}");
            tool("qemu-img", &dir.0, "compare -f qcow2 -F raw a.q want");
            let info = tool("qemu-img", &dir.0, "info a.q");
            assert!(info.contains(says) && info.contains("backing file: base"), "{a:?}: {info}");
        }
    }
}
