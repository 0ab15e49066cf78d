//! The header changes at once: after a crash there is the old one or the new one, whatever its length.

use rt::sim::{Rng, Sim};

use super::crash::crashed;
use super::mem::{MemHost, options};
use super::reference::{Dir, have_tools, tool};
use crate::header::{BitmapsExt, Header, RawExt};
use crate::image::Image;
use crate::opts::Config;

/// What must change together.
type Said = (Option<String>, Option<String>, Option<BitmapsExt>, Option<u32>);

fn said(h: &Header) -> Said {
    (h.backing_file.clone(), h.backing_format.clone(), h.bitmaps, h.kept_bitmaps)
}

fn read(file: &[u8]) -> Said {
    said(&Header::parse(&file[..file.len().min(2 << 20)]).expect("the header can be read"))
}

fn another(rng: &mut Rng, most: u64) -> Said {
    let n = match rng.below(4) {
        0 => 1 + rng.below(30),
        1 => 200 + rng.below(300),
        _ => 1 + rng.below(most),
    };
    let letter = b'a' + rng.below(26) as u8;
    let name = (rng.below(6) > 0).then(|| String::from_utf8(vec![letter; n as usize]).unwrap());
    let formats = [None, Some("raw"), Some("qcow2"), Some("a-long-format-n")];
    let format = name.as_ref().and_then(|_| formats[rng.below(4) as usize]).map(str::to_owned);
    let bitmaps = (rng.below(3) > 0).then(|| BitmapsExt {
        count: 1 + rng.below(9) as u32,
        directory_size: 64,
        directory_offset: 1 << 20,
    });
    let kept = bitmaps.and_then(|_| (rng.below(2) == 0).then(|| rng.below(9) as u32));
    (name, format, bitmaps, kept)
}

async fn open(host: &MemHost) -> Image {
    Image::open(host, "t", true, |h| Config::new(h, None, false)).await.unwrap()
}

/// Changes a header many times; answers how often there was no room.
async fn change(seed: u64, cluster: u64, rng: &mut Rng) -> u32 {
    let mut o = options(1 << 20, cluster);
    if rng.below(4) == 0 {
        o.version = Some(api::block_core::BlockdevQcow2Version::V2);
    }
    let host = MemHost::new(Vec::new());
    crate::create::create(&host, &o).await.unwrap();
    let mut refused = 0;
    host.logging.set(true);
    for step in 0..12 {
        let base = host.bytes();
        host.log.borrow_mut().clear();
        let image = open(&host).await;
        let mut m = image.meta.lock().await;
        let old = said(&m.header);
        let new = another(rng, if cluster < 4096 { 400 } else { 1023 });
        (m.header.backing_file, m.header.backing_format) = (new.0.clone(), new.1.clone());
        (m.header.bitmaps, m.header.kept_bitmaps) = (new.2, new.3);
        let done = image.put_header(&host, &mut m).await;
        let log = host.log.borrow().clone();
        if done.is_err() {
            assert_eq!((host.bytes() == base, log.len()), (true, 0), "a refusal changes nothing");
            refused += 1;
            continue;
        }
        assert_eq!(read(&host.bytes()), new, "seed {seed} step {step}");
        for at in 0..=log.len() {
            for _ in 0..6 {
                let now = read(&crashed(&base, &log, at, rng));
                let good = now == new || (now == old && at < log.len());
                assert!(good, "seed {seed} step {step} at {at}: {now:?}, neither {old:?} nor {new:?}");
            }
        }
    }
    refused
}

#[test]
fn a_crash_leaves_the_old_header_or_the_new_one() {
    for seed in 0..60u64 {
        let cluster = [4096, 65536, 512, 8192, 1024, 2048][seed as usize % 6];
        Sim::new(seed).block_on(async {
            let refused = change(seed, cluster, &mut Rng::new(seed)).await;
            assert!(refused == 0 || cluster < 4096, "seed {seed}: {refused} were refused");
        });
    }
}

#[test]
fn the_reference_reads_a_header_wherever_its_parts_stand() {
    if !have_tools() {
        return;
    }
    let dir = Dir::new("header");
    for seed in 0..8u64 {
        Sim::new(seed).block_on(async {
            let mut rng = Rng::new(seed);
            let host = MemHost::new(Vec::new());
            crate::create::create(&host, &options(1 << 20, 4096 << (seed % 2 * 4))).await.unwrap();
            for _ in 0..3 {
                let image = open(&host).await;
                let mut m = image.meta.lock().await;
                let (name, format) = loop {
                    let (name, format, ..) = another(&mut rng, 1000);
                    if name.is_some() && format.as_deref().is_none_or(|f| f.len() < 9) {
                        break (name, format);
                    }
                };
                (m.header.backing_file, m.header.backing_format) = (name.clone(), format.clone());
                image.put_header(&host, &mut m).await.unwrap();
                drop(m);
                std::fs::write(dir.path("i"), host.bytes()).unwrap();
                let info = tool("qemu-img", &dir.0, "info --output=json i");
                let has = |key: &str, v: &Option<String>| {
                    v.as_ref().is_none_or(|v| info.contains(&format!("\"{key}\": \"{v}\"")))
                };
                assert!(has("backing-filename", &name) && has("backing-filename-format", &format), "{info}");
                // It writes its own over ours, which we read again.
                tool("qemu-img", &dir.0, "rebase -u -b another -F raw i");
                let now = read(&std::fs::read(dir.path("i")).unwrap());
                assert_eq!((now.0.as_deref(), now.1.as_deref()), (Some("another"), Some("raw")));
            }
        });
    }
}

/// An image from elsewhere may have as many extensions as fit: looking for a place must not take longer for it.
#[test]
fn a_header_full_of_extensions_changes_too() {
    Sim::new(1).block_on(async {
        let host = MemHost::new(Vec::new());
        crate::create::create(&host, &options(1 << 20, 2 << 20)).await.unwrap();
        let image = open(&host).await;
        let mut m = image.meta.lock().await;
        // With paddings between them, so that what counts is in pieces.
        let kinds = [(0x5678, 0), (0x5679, 8), (crate::spec::ext::PADDING, 8)];
        m.header.extensions =
            kinds.iter().cycle().take(90_000).map(|&(kind, n)| RawExt { kind, data: vec![1; n] }).collect();
        image.put_header(&host, &mut m).await.unwrap();
        drop(m);
        let image = open(&host).await;
        let mut m = image.meta.lock().await;
        m.header.backing_file = Some("b".repeat(1000));
        image.put_header(&host, &mut m).await.unwrap();
        let now = Header::parse(&host.bytes()).unwrap();
        assert_eq!(now.backing_file, m.header.backing_file);
        assert!(now.extensions.len() >= 60_000, "{}", now.extensions.len());
    });
}
