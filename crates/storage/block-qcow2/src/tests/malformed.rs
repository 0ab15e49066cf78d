//! Damaged images: errors, never a panic, a hang or a huge allocation.

use mem::IoBuf;
use rt::sim::{Rng, Sim};

use super::mem::{MemHost, options};
use super::random::open;
use crate::check::{Fix, check};
use crate::image::Image;
use crate::opts::Config;

async fn small_image(cluster: u64) -> Vec<u8> {
    let host = MemHost::new(Vec::new());
    crate::create::create(&host, &options(200 * 512, cluster)).await.unwrap();
    let image = open(&host, true).await;
    for i in 0..20 {
        image.write(&host, i * 5 * 1024, IoBuf::from_bytes(&[i as u8 + 1; 1024])).await.unwrap();
    }
    image.make_clean(&host).await.unwrap();
    host.file.take()
}

/// Does everything with an image that a guest and a check can.
async fn exercise(file: Vec<u8>) {
    let host = MemHost::new(file);
    let _ = check(&host, Fix::None, &mut |_| {}).await;
    let image = match Image::open(&host, "bad", true, |h| Config::new(h, None, true)).await {
        Ok(i) => i,
        Err(_) => return,
    };
    let size = image.virtual_size().min(200 * 512);
    let buf = IoBuf::zeroed(size as usize);
    let _ = image.read_guest(&host, 0, buf).await;
    for off in (0..size).step_by(4096) {
        let _ = image.write(&host, off, IoBuf::from_bytes(&[9; 512])).await;
    }
    let _ = image.write_zeroes(&host, 0, size / 2, true).await;
    let _ = image.discard(&host, size / 2, size / 4).await;
    let _ = image.flush(&host).await;
    let _ = image.make_clean(&host).await;
    drop(image);
    let _ = check(&host, Fix::All, &mut |_| {}).await;
}

#[test]
fn who_goes_through_a_table_fails_only_where_it_cannot_be_read() {
    Sim::new(1).block_on(async {
        // A table maps 2 MiB, each of its slices 256 KiB.
        let host = MemHost::new(Vec::new());
        crate::create::create(&host, &options(6 << 20, 4096)).await.unwrap();
        let image = open(&host, true).await;
        for at in (0..6u64 << 20).step_by(128 << 10) {
            image.write(&host, at, IoBuf::from_bytes(&[7; 4096])).await.unwrap();
        }
        image.make_clean(&host).await.unwrap();
        let table = image.map.read().l1_entry(0) & crate::spec::OFFSET_MASK;
        let all = 6 << 20;
        let bed = MemHost::new(host.bytes());
        let whole = open(&bed, false).await;
        let torn = open(&bed, false).await;
        // The sixth slice.
        let bad = table + 5 * 512;
        for at in (0..all).step_by(4096) {
            *bed.bad.borrow_mut() = 0..0;
            let want = whole.lookup(&bed, at, all - at).await.unwrap();
            *bed.bad.borrow_mut() = bad..bad + 8;
            let inside = (5..6).contains(&(at >> 18));
            match torn.lookup(&bed, at, all - at).await {
                Ok((kind, n)) => assert!(!inside && kind == want.0 && n <= want.1, "{at:#x}"),
                Err(e) => assert!(inside && e == base::Errno::IO, "{at:#x}"),
            }
        }
    });
}

#[test]
fn damaged_tables_never_panic() {
    for seed in 0..400u64 {
        Sim::new(seed).block_on(async {
            let mut rng = Rng::new(seed);
            let mut file = small_image(512 << (seed % 4)).await;
            for _ in 0..1 + rng.below(4) {
                let len = file.len() as u64;
                // Tables stand in the first clusters mostly.
                let at =
                    if rng.below(2) == 0 { rng.below(len) } else { rng.below(len.min(8192)) } as usize & !7;
                let end = (at + 8).min(file.len());
                let v = match rng.below(6) {
                    0 => rng.next_u64(),
                    1 => rng.below(len) & !511 | 1 << 63,
                    2 => 0,
                    3 => u64::MAX,
                    4 => 1 << rng.below(64),
                    _ => rng.below(len),
                };
                file[at..end].copy_from_slice(&v.to_be_bytes()[..end - at]);
            }
            if rng.below(6) == 0 {
                file.truncate(rng.below(file.len() as u64 + 1) as usize);
            }
            exercise(file).await;
        });
    }
}

#[test]
fn data_is_never_written_over_metadata() {
    Sim::new(1).block_on(async {
        let file = small_image(512).await;
        let host = MemHost::new(file);
        let image = open(&host, true).await;
        // The first L2 entry points to the refcount table.
        let l1 = image.map.read().l1[0] & crate::spec::OFFSET_MASK;
        let target = image.header().reftable_offset;
        drop(image);
        let entry = (target | crate::spec::COPIED).to_be_bytes();
        host.file.borrow_mut()[l1 as usize..l1 as usize + 8].copy_from_slice(&entry);
        let before = host.file.borrow()[target as usize..target as usize + 512].to_vec();
        let image = open(&host, true).await;
        let e = image.write(&host, 0, IoBuf::from_bytes(&[1; 512])).await;
        assert_eq!(e, Err(base::Errno::IO));
        assert_eq!(host.file.borrow()[target as usize..target as usize + 512], before[..]);
        // Nobody writes to it again, here or after it is opened again.
        let later = image.write(&host, 5120, IoBuf::from_bytes(&[1; 512])).await;
        assert_eq!(later, Err(base::Errno::NOMEDIUM));
        let again = Image::open(&host, "again", true, |h| Config::new(h, None, true)).await;
        assert_eq!(again.err().unwrap().desc(), "qcow2: Image is corrupt; cannot be opened read/write");
    });
}
