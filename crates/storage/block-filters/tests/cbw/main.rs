//! `copy-before-write` and `snapshot-access`: the past state is exact, whatever happens meanwhile.

mod bed;
mod concurrent;
mod failures;
mod options;

use bed::{Bed, PIECE, SIZE, sim};
use block::driver::{WriteFlags, ZeroFlags};
use block::perm::Perm;
use mem::IoBuf;

#[test]
fn the_past_stays_as_it_was() {
    sim(1, async {
        let bed = Bed::with("").await;
        let (guest, past) = (bed.guest().await, bed.reader("past").await);
        assert_eq!(past.len(), SIZE);
        bed.is_past(&past).await;
        assert!(bed.world.disk("t").unwrap().bytes().iter().all(|b| *b == 0), "nothing is copied yet");
        guest.write(100, IoBuf::from_bytes(&[1; 1000]), WriteFlags::empty()).await.unwrap();
        guest.write(3 * PIECE - 10, IoBuf::from_bytes(&[2; 20]), WriteFlags::empty()).await.unwrap();
        guest.write_zeroes(5 * PIECE, 2 * PIECE, ZeroFlags::empty()).await.unwrap();
        guest.discard(8 * PIECE, PIECE).await.unwrap();
        guest.write(SIZE - 100, IoBuf::from_bytes(&[3; 100]), WriteFlags::FUA).await.unwrap();
        bed.is_past(&past).await;
        let target = bed.world.disk("t").unwrap().bytes();
        for (i, (new, old)) in target.chunks(PIECE as usize).zip(bed.old.chunks(PIECE as usize)).enumerate() {
            let copied = [0, 2, 3, 5, 6, 8, 16].contains(&i);
            assert!(if copied { new == old } else { new.iter().all(|b| *b == 0) }, "piece {i}");
        }
        let now = bed.read(&guest, 0, SIZE).await.unwrap();
        assert_eq!((now[100], now[1099], now[1100]), (1, 1, bed.old[1100]));
        assert_eq!(&now[3 * PIECE as usize - 10..3 * PIECE as usize + 10], [2; 20]);
        assert!(now[5 * PIECE as usize..7 * PIECE as usize].iter().all(|b| *b == 0));
        // A flush by the guest does not concern the target.
        let flushes = bed.world.disk("t").unwrap().flushes();
        guest.flush().await.unwrap();
        assert_eq!(bed.world.disk("t").unwrap().flushes(), flushes);
    });
}

#[test]
fn the_end_moves() {
    sim(2, async {
        let bed = Bed::with("").await;
        let (guest, past) = (bed.guest().await, bed.reader("past").await);
        guest.truncate(3 * PIECE + 512, true, Default::default()).await.unwrap();
        assert_eq!((guest.len(), past.len()), (3 * PIECE + 512, SIZE));
        bed.is_past(&past).await;
        guest.truncate(2 * SIZE, true, Default::default()).await.unwrap();
        guest.write(2 * SIZE - 5, IoBuf::from_bytes(&[3; 5]), WriteFlags::empty()).await.unwrap();
        bed.is_past(&past).await;
    });
}

#[test]
fn what_is_needed_no_more_is_not_kept() {
    sim(3, async {
        let bed = Bed::with("").await;
        let (guest, past) = (bed.guest().await, bed.writer("past").await);
        guest.write(2 * PIECE, IoBuf::from_bytes(&[1; 512]), WriteFlags::empty()).await.unwrap();
        // Whole pieces only: 1 and 2.
        past.discard(PIECE - 100, 2 * PIECE + 200).await.unwrap();
        let target = bed.world.disk("t").unwrap().bytes();
        assert!(target.iter().all(|b| *b == 0), "what was copied is discarded");
        guest.write(PIECE, IoBuf::from_bytes(&[1; 512]), WriteFlags::empty()).await.unwrap();
        let target = bed.world.disk("t").unwrap().bytes();
        assert!(target.iter().all(|b| *b == 0), "nothing more is copied there");
        for (off, len, good) in
            [(0, PIECE, true), (PIECE, 1, false), (PIECE - 1, 2, false), (3 * PIECE - 1, 1, false)]
        {
            assert_eq!(bed.read(&past, off, len).await.is_ok(), good, "{off}+{len}");
        }
        let rest = bed.read(&past, 3 * PIECE, SIZE - 3 * PIECE).await.unwrap();
        assert!(rest == bed.old[3 * PIECE as usize..]);
        // Nobody writes the past.
        let e = past.write(0, IoBuf::zeroed(512), WriteFlags::empty()).await.unwrap_err();
        assert_eq!(e, base::Errno::NOTSUP);
    });
}

#[test]
fn only_what_a_bitmap_says() {
    sim(4, async {
        let bed = Bed::bare().await;
        let direct = bed.root("s", Perm::all()).await;
        bed.graph.bitmap_add("s", "b", Some(4096), false, false).await.unwrap();
        direct.write(4 * PIECE + 5, IoBuf::from_bytes(&[7; 5]), WriteFlags::empty()).await.unwrap();
        direct.detach().await;
        let old = bed.world.disk("s").unwrap().bytes();
        bed.add(
            "{'driver':'copy-before-write','node-name':'cbw','file':'s','target':'t','bitmap':{'node':'s','name':'b'}}",
        )
        .await
        .unwrap();
        bed.add("{'driver':'snapshot-access','node-name':'past','file':'cbw'}").await.unwrap();
        let (guest, past) = (bed.guest().await, bed.reader("past").await);
        guest.write(0, IoBuf::from_bytes(&[9; 512]), WriteFlags::empty()).await.unwrap();
        guest.write(4 * PIECE, IoBuf::from_bytes(&[9; 512]), WriteFlags::empty()).await.unwrap();
        assert_eq!(bed.read(&past, 0, 1).await.unwrap_err(), base::Errno::ACCES);
        assert_eq!(past.map(0, 1).await.unwrap_err(), base::Errno::ACCES);
        let piece = bed.read(&past, 4 * PIECE, PIECE).await.unwrap();
        assert!(piece == old[4 * PIECE as usize..5 * PIECE as usize]);
        let target = bed.world.disk("t").unwrap().bytes();
        assert!(target[..4 * PIECE as usize].iter().all(|b| *b == 0));
    });
}

/// Fleecing the usual way: the target is an overlay of the disk itself.
#[test]
fn the_target_may_be_an_overlay_of_the_source() {
    sim(5, async {
        let bed = Bed::bare().await;
        block::testing::create_cow(&bed.world, "o", SIZE, Some("s"));
        bed.add(
            "{'driver':'qcow2','node-name':'over','backing':'s','file':{'driver':'file','filename':'o'}}",
        )
        .await
        .unwrap();
        bed.add("{'driver':'copy-before-write','node-name':'cbw','file':'s','target':'over'}").await.unwrap();
        bed.add("{'driver':'snapshot-access','node-name':'past','file':'cbw'}").await.unwrap();
        let (guest, past) = (bed.guest().await, bed.reader("past").await);
        for off in [0, 3 * PIECE - 512, 9 * PIECE] {
            guest.write(off, IoBuf::from_bytes(&[9; 1024]), WriteFlags::empty()).await.unwrap();
            bed.is_past(&past).await;
        }
        // The overlay shows the past too, as the reference's older way of fleecing has it.
        let over = bed.reader("over").await;
        bed.is_past(&over).await;
    });
}
