//! Encrypted images: against a flat model, against crashes, with bad headers, and against the reference's tools.

use std::cell::RefCell;
use std::path::Path;
use std::process::Command;

use api::block_core::{BlockdevCreateOptionsQcow2, BlockdevQcow2Version, PreallocMode};
use api::crypto::{
    QCryptoBlockAmendOptionsLUKS, QCryptoBlockCreateOptions, QCryptoBlockCreateOptionsLUKS,
    QCryptoBlockInfoQCow2, QCryptoBlockLUKSKeyslotState, QCryptoBlockOptionsQCow,
};
use base::Errno;
use crypto::Secret;
use mem::IoBuf;
use rt::sim::{Rng, Sim};

use super::mem::{MemHost, options};
use super::random::{World, initial, no_errors, open, read_all, request};
use super::reference::{Dir, have_tools, tool};
use crate::amend::{Amend, amend};
use crate::check::{Fix, check};
use crate::create::{create_with, encryption};
use crate::crypt::Key;
use crate::image::Image;
use crate::l2map::RunKind;
use crate::opts::Config;
use crate::snapshot::Snapshot;

pub fn password() -> Secret {
    Secret::new(b"pw".to_vec())
}

/// Options of a new image that is encrypted; making the key takes no time.
pub fn encrypted(size: u64, cluster: u64) -> BlockdevCreateOptionsQcow2 {
    let mut o = options(size, cluster);
    o.encrypt = Some(QCryptoBlockCreateOptions::Luks(QCryptoBlockCreateOptionsLUKS {
        key_secret: Some("s".into()),
        iter_time: Some(1),
        ..QCryptoBlockCreateOptionsLUKS::default()
    }));
    o
}

/// The same in the old way.
fn old(size: u64, cluster: u64) -> BlockdevCreateOptionsQcow2 {
    let mut o = options(size, cluster);
    o.encrypt =
        Some(QCryptoBlockCreateOptions::Qcow(QCryptoBlockOptionsQCow { key_secret: Some("s".into()) }));
    o
}

pub async fn make(host: &MemHost, o: &BlockdevCreateOptionsQcow2) {
    let e = encryption(o, |_| Ok(password())).unwrap();
    create_with(host, o, host.data.as_ref().map(|_| "d"), e).await.unwrap();
}

/// An image of a shape by the current simulation's random numbers.
async fn world(backing: bool, lazy: bool) -> World {
    let rng = rt::sim::rng();
    let extended = rng.below(3) == 0;
    let cluster = if extended { 16 << 10 } else { 512 << rng.below(8) };
    let way = if rng.below(2) == 0 { encrypted } else { old };
    let mut o = way(512 * (1 + rng.below(1200)), cluster);
    o.extended_l2 = Some(extended);
    o.lazy_refcounts = Some(lazy);
    o.version = (rng.below(5) == 0 && !extended && !lazy).then_some(BlockdevQcow2Version::V2);
    let mut host = MemHost::default();
    if o.version.is_none() && !backing && rng.below(4) == 0 {
        host.data = Some(RefCell::new(Vec::new()));
    }
    if !backing && rng.below(4) == 0 {
        o.preallocation = Some(PreallocMode::Metadata);
    }
    make(&host, &o).await;
    if backing {
        let mut b = vec![0u8; (512 * rng.below(1500)) as usize];
        rng.fill(&mut b);
        host.backing = Some(b);
    }
    let image = open(&host, true).await;
    World { host, image }
}

#[test]
fn any_sequence_of_requests_equals_a_flat_model() {
    for seed in 0..40 {
        Sim::new(seed).block_on(async {
            let mut w = world(seed.is_multiple_of(3), seed % 5 == 4).await;
            let mut model = initial(&w);
            let mut taken = None;
            assert!(read_all(&w).await == model, "seed {seed}: new");
            for _ in 0..50 {
                request(&w, &mut model).await;
                match rt::sim::rng().below(30) {
                    0 => {
                        w.image.make_clean(&w.host).await.unwrap();
                        no_errors(&w.host, false).await;
                        w.image = open(&w.host, true).await;
                    }
                    1 if w.host.data.is_none() && taken.is_none() => {
                        let s = Snapshot { name: "s".into(), ..Snapshot::default() };
                        taken = Some((w.image.snapshot_create(&w.host, s).await.unwrap().id, model.clone()));
                        w.image = open(&w.host, true).await;
                    }
                    2 => {
                        if let Some((id, then)) = &taken {
                            w.image.snapshot_apply(&w.host, id).await.unwrap();
                            model.clone_from(then);
                            w.image = open(&w.host, true).await;
                            assert!(read_all(&w).await == model, "seed {seed}: applied");
                        }
                    }
                    _ => {}
                }
            }
            assert!(read_all(&w).await == model, "seed {seed}");
            w.image.make_clean(&w.host).await.unwrap();
            no_errors(&w.host, false).await;
            w.image = open(&w.host, false).await;
            assert!(read_all(&w).await == model, "seed {seed}: opened again");
        });
    }
}

#[test]
fn no_byte_of_the_data_is_in_the_file() {
    const MARK: &[u8] = b"a text that everybody would know";
    Sim::new(1).block_on(async {
        for (extended, way) in [(false, encrypted as fn(_, _) -> _), (true, encrypted), (true, old)] {
            let host = MemHost::default();
            let mut o = way(1 << 20, 16 << 10);
            o.extended_l2 = Some(extended);
            make(&host, &o).await;
            let image = open(&host, true).await;
            let text = IoBuf::from_bytes(&MARK.repeat(48));
            for at in [0, 4096, 16 << 10, (100 << 10) + 512, (1 << 20) - 1536] {
                image.write(&host, at, text.clone()).await.unwrap();
            }
            image.write_zeroes(&host, 4096, 512, false).await.unwrap();
            image.make_clean(&host).await.unwrap();
            assert!(!host.bytes().windows(MARK.len()).any(|w| w == MARK));
            let (kind, _) = image.lookup(&host, 16 << 10, 512).await.unwrap();
            let RunKind::Normal { host: at, .. } = kind else { panic!("{kind:?}") };
            let stored = &host.bytes()[at as usize..at as usize + 512];
            assert!(stored.iter().any(|b| *b != 0) && stored != &MARK.repeat(16)[..]);
        }
    });
}

#[test]
fn after_a_crash_flushed_data_is_there_and_the_image_is_sound() {
    for seed in 0..10 {
        Sim::new(seed).block_on(async {
            let lazy = seed % 4 == 3;
            let mut w = world(seed.is_multiple_of(2), lazy).await;
            if w.host.data.is_some() {
                // Changes of the data file are not in the log.
                let o = encrypted(100 << 10, 4096);
                w.host = MemHost::default();
                make(&w.host, &o).await;
                w.image = open(&w.host, true).await;
            }
            super::crash::crash(seed, &w).await;
        });
    }
}

#[test]
fn keys() {
    Sim::new(2).block_on(async {
        let host = MemHost::default();
        make(&host, &encrypted(1 << 20, 4096)).await;
        let config = |h: &crate::header::Header| Config::new(h, None, true);
        let mut image = Image::open(&host, "test", true, config).await.unwrap();
        let wrong = Secret::new(b"not it".to_vec());
        let e = image.unlock(&host, Key::Password(&wrong, None)).await.unwrap_err();
        assert_eq!(e.desc(), "Invalid password, cannot unlock any keyslot");
        // Closed: nothing that needs data, but all the rest.
        let buf = IoBuf::zeroed(512);
        image.read_guest(&host, 0, buf.clone()).await.unwrap();
        assert_eq!(image.write(&host, 0, buf.clone()).await, Err(Errno::PERM));
        assert!(crate::info::driver_info(&image).encrypted == Some(true));
        image.unlock(&host, Key::Password(&password(), Some("s"))).await.unwrap();
        image.write(&host, 0, IoBuf::from_bytes(&[7; 512])).await.unwrap();
        let slots = |image: &Image| match image.crypt.as_ref().unwrap().info() {
            Some(QCryptoBlockInfoQCow2::Luks(l)) => l.slots.iter().map(|s| s.active).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        assert_eq!(slots(&image), [true, false, false, false, false, false, false, false]);
        // Another password, and the first is taken away.
        let find = |id: &str| match id {
            "s" => Ok(password()),
            _ => Ok(Secret::new(b"new".to_vec())),
        };
        let mut change = QCryptoBlockAmendOptionsLUKS {
            state: QCryptoBlockLUKSKeyslotState::Active,
            new_secret: Some("n".into()),
            old_secret: None,
            keyslot: None,
            iter_time: Some(1),
            secret: None,
        };
        image.amend_slots(&host, &change, &find, false).await.unwrap();
        change.state = QCryptoBlockLUKSKeyslotState::Inactive;
        (change.new_secret, change.iter_time, change.keyslot) = (None, None, Some(0));
        image.amend_slots(&host, &change, &find, false).await.unwrap();
        assert_eq!(slots(&image), [false, true, false, false, false, false, false, false]);
        image.make_clean(&host).await.unwrap();
        // Who has it open goes on; who opens it needs the new password.
        let mut fresh = Image::open(&host, "test", true, config).await.unwrap();
        assert!(fresh.unlock(&host, Key::Password(&password(), None)).await.is_err());
        fresh.unlock(&host, Key::Same(image.crypt.as_deref())).await.unwrap();
        fresh.read_guest(&host, 0, buf.clone()).await.unwrap();
        assert!(buf.to_vec() == [7; 512]);
        let new = Secret::new(b"new".to_vec());
        fresh.unlock(&host, Key::Password(&new, None)).await.unwrap();
        // Another image in its place is noticed.
        make(&host, &encrypted(1 << 20, 4096)).await;
        let mut other = Image::open(&host, "test", true, config).await.unwrap();
        assert!(other.unlock(&host, Key::Same(image.crypt.as_deref())).await.is_err());
        crate::create::create(&host, &options(1 << 20, 4096)).await.unwrap();
        let mut plain = Image::open(&host, "test", true, config).await.unwrap();
        assert!(plain.unlock(&host, Key::Same(image.crypt.as_deref())).await.is_err());
    });
}

#[test]
fn old_keys() {
    Sim::new(2).block_on(async {
        let host = MemHost::default();
        make(&host, &old(1 << 20, 4096)).await;
        let config = |h: &crate::header::Header| Config::new(h, None, true);
        let mut image = Image::open(&host, "test", true, config).await.unwrap();
        let buf = IoBuf::zeroed(512);
        assert_eq!(image.write(&host, 0, buf.clone()).await, Err(Errno::PERM));
        assert_eq!(image.crypt.as_ref().unwrap().info(), Some(QCryptoBlockInfoQCow2::Aes));
        image.unlock(&host, Key::Password(&password(), Some("s"))).await.unwrap();
        // Its place on the disk counts, not that in the file.
        image.write(&host, 1 << 19, IoBuf::from_bytes(&[5; 512])).await.unwrap();
        image.make_clean(&host).await.unwrap();
        let (kind, _) = image.lookup(&host, 1 << 19, 512).await.unwrap();
        let RunKind::Normal { host: at, .. } = kind else { panic!("{kind:?}") };
        let mut stored = host.bytes()[at as usize..at as usize + 512].to_vec();
        assert!(at != 1 << 19 && stored != [5; 512]);
        let cipher = crypto::cipher::old_qcow(&password()).unwrap();
        cipher.decrypt((1 << 19) / 512, &mut stored).unwrap();
        assert_eq!(stored, [5; 512]);
        // Its slots cannot be changed; it has none.
        let change = QCryptoBlockAmendOptionsLUKS {
            state: QCryptoBlockLUKSKeyslotState::Active,
            new_secret: Some("n".into()),
            old_secret: None,
            keyslot: None,
            iter_time: Some(1),
            secret: None,
        };
        let e = image.amend_slots(&host, &change, &|_| Ok(password()), false).await.unwrap_err();
        assert_eq!(e.desc(), "Only LUKS encryption options can be amended for qcow2 with blockdev-amend");
        // A wrong password is not noticed, but shows nothing.
        let mut fresh = Image::open(&host, "test", true, config).await.unwrap();
        let wrong = Secret::new(b"not it".to_vec());
        fresh.unlock(&host, Key::Password(&wrong, None)).await.unwrap();
        fresh.read_guest(&host, 1 << 19, buf.clone()).await.unwrap();
        assert_ne!(buf.to_vec(), [5; 512]);
        fresh.unlock(&host, Key::Same(image.crypt.as_deref())).await.unwrap();
        fresh.read_guest(&host, 1 << 19, buf.clone()).await.unwrap();
        assert_eq!(buf.to_vec(), [5; 512]);
        // Another kind of image in its place is noticed.
        for o in [encrypted(1 << 20, 4096), options(1 << 20, 4096)] {
            make(&host, &o).await;
            let mut other = Image::open(&host, "test", true, config).await.unwrap();
            assert!(other.unlock(&host, Key::Same(image.crypt.as_deref())).await.is_err());
        }
    });
}

#[test]
fn amending_keeps_the_data() {
    for way in [encrypted, old] {
        amended(way);
    }
}

fn amended(way: fn(u64, u64) -> BlockdevCreateOptionsQcow2) {
    Sim::new(3).block_on(async {
        let mut host = MemHost::default();
        make(&host, &way(1 << 20, 4096)).await;
        host.backing = Some(vec![9; 1 << 20]);
        let mut image = open(&host, true).await;
        let mut model = vec![9u8; 1 << 20];
        for (i, at) in [0usize, 5000, 300_000, 900_000].into_iter().enumerate() {
            let at = at & !511;
            image.write(&host, at as u64, IoBuf::from_bytes(&[i as u8 + 1; 3072])).await.unwrap();
            model[at..at + 3072].fill(i as u8 + 1);
        }
        image.write_zeroes(&host, 40960, 8192, true).await.unwrap();
        model[40960..49152].fill(0);
        image.make_clean(&host).await.unwrap();
        let text = amend(&host, &Amend { refcount_bits: Some(8), ..Amend::default() }, &mut |_, _| {})
            .await
            .unwrap_err();
        assert_eq!(text.desc(), "Parameter 'encrypt.key-secret' is required for cipher");
        let with = |a: Amend| Amend { password: Some(password()), ..a };
        let steps = [
            Amend { refcount_bits: Some(8), lazy_refcounts: Some(true), ..Amend::default() },
            Amend { refcount_bits: Some(16), lazy_refcounts: Some(false), ..Amend::default() },
            Amend { version: Some(2), ..Amend::default() },
            Amend { version: Some(3), size: Some(700 << 10), ..Amend::default() },
            Amend { size: Some(1 << 20), ..Amend::default() },
        ];
        for (i, a) in steps.into_iter().enumerate() {
            // Where it is made larger, nothing of the backing file shows.
            if let Some(s) = a.size {
                model[s.min(700 << 10) as usize..].fill(0);
            }
            amend(&host, &with(a), &mut |_, _| {}).await.unwrap();
            no_errors(&host, false).await;
            image = open(&host, true).await;
            let now = read_all(&World { host: MemHost::new(host.bytes()), image }).await;
            for at in (0..now.len()).step_by(512) {
                let here = image_has(&model, at);
                assert!(!here || now[at..at + 512] == model[at..at + 512], "step {i}: {at}");
            }
        }
    });
}

/// Whether a sector of the model is not what only the backing file has.
fn image_has(model: &[u8], at: usize) -> bool {
    model[at..at + 512].iter().any(|b| *b != 9)
}

#[test]
fn bad_pointers_are_errors_and_no_more() {
    Sim::new(4).block_on(async {
        let good = MemHost::default();
        make(&good, &encrypted(200 * 512, 4096)).await;
        let file = good.bytes();
        let len = file.len() as u64;
        // The extension is the first one behind the header.
        let (offset_at, length_at) = (112 + 8, 112 + 16);
        let none = "Request for data outside of extension header";
        let cases = [
            (offset_at, 0, "Volume is not in LUKS format"),
            (offset_at, 4096, "Volume is not in LUKS format"),
            (offset_at, len.next_multiple_of(4096) + (1 << 30), "Volume is not in LUKS format"),
            (offset_at, !4095, "Could not read encryption header: Input/output error"),
            (length_at, 0, none),
            (length_at, 100, none),
            (length_at, 600, none),
            (length_at, u64::MAX, ""),
            (length_at, 1 << 40, ""),
        ];
        for (at, value, says) in cases {
            let mut bad = file.clone();
            bad[at..at + 8].copy_from_slice(&u64::to_be_bytes(value));
            let host = MemHost::new(bad);
            let _ = check(&host, Fix::None, &mut |_| {}).await;
            let config = |h: &crate::header::Header| Config::new(h, None, true);
            let mut image = Image::open(&host, "bad", true, config).await.unwrap();
            let r = image.unlock(&host, Key::Password(&password(), None)).await;
            assert_eq!(r.err().map_or(String::new(), |e| e.desc().to_string()), says, "{at} {value:#x}");
            let _ = image.write(&host, 0, IoBuf::from_bytes(&[1; 4096])).await;
            let _ = image.make_clean(&host).await;
            let _ = check(&host, Fix::All, &mut |_| {}).await;
        }
        // Any damage of the LUKS header.
        let at = crate::image::read_header(&good).await.unwrap().crypto().unwrap().offset as usize;
        for seed in 0..60 {
            let mut rng = Rng::new(seed);
            let mut bad = file.clone();
            for _ in 0..1 + rng.below(3) {
                bad[at + rng.below(592) as usize] ^= 1 << rng.below(8);
            }
            // Not for hours.
            for slot in 0..8 {
                bad[at + 208 + slot * 48 + 4] = 0;
            }
            bad[at + 164] = 0;
            let host = MemHost::new(bad);
            let mut image = Image::open(&host, "bad", true, |h| Config::new(h, None, true)).await.unwrap();
            let _ = image.unlock(&host, Key::Password(&password(), None)).await;
        }
    });
}

#[test]
fn the_luks_header_is_not_written_over() {
    Sim::new(5).block_on(async {
        let host = MemHost::default();
        make(&host, &encrypted(1 << 20, 4096)).await;
        let h = crate::image::read_header(&host).await.unwrap();
        // A refcount that says that one of its clusters is free.
        let c = h.crypto().unwrap().offset >> 12;
        let block = u64::from_be_bytes(host.bytes()[4096..4104].try_into().unwrap());
        let at = (block + (c + 1) * 2) as usize;
        host.file.borrow_mut()[at..at + 2].fill(0);
        let before = host.bytes();
        let image = open(&host, true).await;
        let mut failed = false;
        for i in 0..3 {
            failed |= image.write(&host, i * 4096, IoBuf::from_bytes(&[1; 4096])).await.is_err();
        }
        let range = h.crypto().unwrap().offset as usize..(h.crypto().unwrap().offset + 600_000) as usize;
        assert!(failed && host.bytes()[range.clone()] == before[range]);
    });
}

fn io(dir: &Path, name: &str, commands: &[String]) -> String {
    let mut c = Command::new("qemu-io");
    c.current_dir(dir).args(["--object", "secret,id=s,data=pw", "--image-opts"]);
    for x in commands {
        c.args(["-c", x]);
    }
    let out = c.arg(format!("driver=qcow2,encrypt.key-secret=s,file.filename={name}")).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && !text.contains("failed"), "{commands:?}: {text}");
    text
}

const OPTS: &str =
    "--object secret,id=s,data=pw --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=";

/// Images of many shapes: made by one, written by both, checked and read by both.
#[test]
fn the_reference_reads_and_writes_the_same() {
    if !have_tools() {
        return;
    }
    let dir = Dir::new("crypt");
    const LUKS: &str = "luks,encrypt.iter-time=10";
    let shapes = [
        (512, "", true, LUKS),
        (4096, "", false, LUKS),
        (65536, "extended_l2=on", false, LUKS),
        (16384, "extended_l2=on", true, LUKS),
        (2 << 20, "", true, LUKS),
        (65536, "compat=0.10", true, LUKS),
        (65536, "encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv", false, LUKS),
        (4096, "", true, "aes"),
        (65536, "", false, "aes"),
        (65536, "compat=0.10", false, "aes"),
        (16384, "extended_l2=on", true, "aes"),
    ];
    for (i, (cluster, more, ours, format)) in shapes.into_iter().enumerate() {
        Sim::new(i as u64).block_on(async {
            const SIZE: u64 = 6 << 20;
            // Behind this, only compressed clusters.
            const PLAIN: u64 = 2 << 20;
            let mut host = MemHost::default();
            if ours {
                let mut o = if format == LUKS { encrypted(SIZE, cluster) } else { old(SIZE, cluster) };
                o.extended_l2 = (more == "extended_l2=on").then_some(true);
                o.version = (more == "compat=0.10").then_some(BlockdevQcow2Version::V2);
                make(&host, &o).await;
            } else {
                let comma = if more.is_empty() { "" } else { "," };
                let o = format!(
                    "create -q --object secret,id=s,data=pw -f qcow2 -o encrypt.format={format},encrypt.key-secret=s,\
                     cluster_size={cluster}{comma}{more} a {SIZE}"
                );
                tool("qemu-img", &dir.0, &o);
                host = MemHost::new(std::fs::read(dir.path("a")).unwrap());
            }
            let mut model = vec![0u8; SIZE as usize];
            let mut rng = Rng::new(i as u64);
            for round in 0..if i < 2 { 2 } else { 1 } {
                let image = open(&host, true).await;
                for _ in 0..12 {
                    let off = rng.below(PLAIN / 512 - 150) * 512;
                    let len = 512 * (1 + rng.below(150));
                    let v = 1 + rng.below(255) as u8;
                    image.write(&host, off, IoBuf::from_bytes(&vec![v; len as usize])).await.unwrap();
                    model[off as usize..(off + len) as usize].fill(v);
                }
                if round == 0 {
                    let s = Snapshot { name: "mine".into(), ..Snapshot::default() };
                    image.snapshot_create(&host, s).await.unwrap();
                }
                image.make_clean(&host).await.unwrap();
                no_errors(&host, false).await;
                std::fs::write(dir.path("a"), host.bytes()).unwrap();
                tool("qemu-img", &dir.0, &format!("check -q {OPTS}a"));
                let mut commands: Vec<String> = Vec::new();
                let mut at = 0;
                while at < SIZE {
                    let v = model[at as usize];
                    let n = model[at as usize..].iter().take_while(|b| **b == v).count() as u64;
                    commands.push(format!("read -P {v} {at} {n}"));
                    at += n;
                }
                io(&dir.0, "a", &commands);
                // And the other way round, with a compressed cluster and zeroes.
                let mut commands = Vec::new();
                for _ in 0..8 {
                    let off = rng.below(PLAIN / 512 - 150) * 512;
                    let len = 512 * (1 + rng.below(150));
                    let v = 1 + rng.below(255) as u8;
                    commands.push(format!("write -P {v} {off} {len}"));
                    model[off as usize..(off + len) as usize].fill(v);
                }
                let c = PLAIN + round * cluster;
                commands.push(format!("write -c -P 77 {c} {cluster}"));
                model[c as usize..(c + cluster) as usize].fill(77);
                let c = rng.below(PLAIN / cluster) * cluster;
                commands.push(format!("write -z {c} {cluster}"));
                model[c as usize..(c + cluster) as usize].fill(0);
                io(&dir.0, "a", &commands);
                if round == 0 {
                    tool("qemu-img", &dir.0, &format!("snapshot -c theirs {OPTS}a"));
                }
                host = MemHost::new(std::fs::read(dir.path("a")).unwrap());
                no_errors(&host, false).await;
                let image = open(&host, true).await;
                let w = World { host, image };
                assert!(read_all(&w).await == model, "{cluster} {more}: round {round}");
                host = w.host;
            }
            assert_eq!(open(&host, true).await.shown.read().snapshots.len(), 2);
        });
    }
}
