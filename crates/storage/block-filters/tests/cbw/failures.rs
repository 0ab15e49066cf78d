//! A target that fails or hangs.

use crate::bed::{Bed, PIECE, SIZE, options, sim};
use base::Errno;
use block::driver::WriteFlags;
use mem::IoBuf;
use std::time::Duration;

fn ones() -> IoBuf {
    IoBuf::from_bytes(&[1; 512])
}

#[test]
fn a_write_whose_old_bytes_cannot_be_kept_fails() {
    sim(1, async {
        let bed = Bed::with("").await;
        let (guest, past) = (bed.guest().await, bed.reader("past").await);
        bed.world.disk("t").unwrap().set_failing(Some(Errno::NOSPC));
        assert_eq!(guest.write(0, ones(), WriteFlags::empty()).await, Err(Errno::NOSPC));
        assert_eq!(guest.discard(0, PIECE).await, Err(Errno::NOSPC));
        assert!(bed.world.disk("s").unwrap().bytes() == bed.old, "the disk is as it was");
        bed.is_past(&past).await;
        bed.world.disk("t").unwrap().set_failing(None);
        guest.write(0, ones(), WriteFlags::empty()).await.unwrap();
        bed.is_past(&past).await;
    });
}

#[test]
fn or_else_the_past_is_lost() {
    sim(2, async {
        let bed = Bed::with(",'on-cbw-error':'break-snapshot'").await;
        let (guest, past) = (bed.guest().await, bed.reader("past").await);
        bed.world.disk("t").unwrap().set_failing(Some(Errno::IO));
        guest.write(0, ones(), WriteFlags::empty()).await.unwrap();
        bed.world.disk("t").unwrap().set_failing(None);
        // Even what is still there: half a past is none.
        for off in [0, 5 * PIECE] {
            assert_eq!(bed.read(&past, off, 1).await, Err(Errno::ACCES));
            assert_eq!(past.map(off, 1).await.unwrap_err(), Errno::ACCES);
        }
        let before = bed.world.disk("t").unwrap().bytes();
        guest.write(5 * PIECE, ones(), WriteFlags::empty()).await.unwrap();
        assert!(bed.world.disk("t").unwrap().bytes() == before, "nothing is copied any more");
        assert_eq!(bed.read(&guest, 0, 512).await.unwrap(), [1; 512]);
    });
}

#[test]
fn a_write_waits_for_so_long() {
    sim(3, async {
        let bed = Bed::with(",'cbw-timeout':5").await;
        let (guest, past) = (bed.guest().await, bed.reader("past").await);
        let target = bed.world.disk("t").unwrap();
        target.set_hanging(true);
        let start = rt::now();
        // The second waits for the first's piece, no longer than the first.
        let other = guest.clone();
        let second = rt::spawn_local(async move { other.write(512, ones(), WriteFlags::empty()).await });
        assert_eq!(guest.write(0, ones(), WriteFlags::empty()).await, Err(Errno::TIMEDOUT));
        assert_eq!(second.await, Err(Errno::TIMEDOUT));
        assert_eq!((rt::now() - start).as_secs(), 5);
        assert!(bed.world.disk("s").unwrap().bytes() == bed.old);
        // The copying that was begun is still waited for by a drain.
        let graph = bed.graph.clone();
        let drained = rt::spawn_local(async move { drop(graph.drain_all().await) });
        rt::sleep(Duration::from_secs(20)).await;
        assert!(!drained.is_finished());
        target.set_hanging(false);
        drained.await;
        guest.write(0, ones(), WriteFlags::empty()).await.unwrap();
        bed.is_past(&past).await;
    });
}

#[test]
fn a_target_that_hangs_does_not_hold_the_guest_for_ever() {
    sim(4, async {
        let bed = Bed::with(",'cbw-timeout':5,'on-cbw-error':'break-snapshot'").await;
        let (guest, past) = (bed.guest().await, bed.reader("past").await);
        let target = bed.world.disk("t").unwrap();
        target.set_hanging(true);
        let start = rt::now();
        guest.write(0, ones(), WriteFlags::empty()).await.unwrap();
        assert_eq!((rt::now() - start).as_secs(), 5);
        guest.write(0, ones(), WriteFlags::empty()).await.unwrap();
        assert_eq!((rt::now() - start).as_secs(), 5, "only once");
        assert_eq!(bed.read(&past, 3 * PIECE, 1).await, Err(Errno::ACCES));
        target.set_hanging(false);
        guest.detach().await;
        past.detach().await;
        bed.graph.del("past").await.unwrap();
        bed.graph.del("cbw").await.unwrap();
    });
}

#[test]
fn who_reads_when_the_past_is_lost_reads_the_past() {
    sim(6, async {
        let bed = Bed::with(",'cbw-timeout':5,'on-cbw-error':'break-snapshot'").await;
        let (guest, past) = (bed.guest().await, bed.reader("past").await);
        let (source, target) = (bed.world.disk("s").unwrap(), bed.world.disk("t").unwrap());
        target.set_hanging(true);
        let write = |off: u64| {
            let guest = guest.clone();
            rt::spawn_local(async move { guest.write(off, ones(), WriteFlags::empty()).await })
        };
        let first = write(0);
        rt::sleep(Duration::from_secs(4)).await;
        source.set_stuck(true);
        let reader = past.clone();
        let read = rt::spawn_local(async move {
            let buf = IoBuf::zeroed(512);
            reader.read(5 * PIECE, buf.clone()).await.map(|()| buf.to_vec())
        });
        // The first gives the past up; the second finds it given up.
        rt::sleep(Duration::from_secs(2)).await;
        let second = write(5 * PIECE);
        rt::sleep(Duration::from_secs(1)).await;
        source.set_stuck(false);
        target.set_hanging(false);
        assert!(
            read.await.unwrap() == bed.old[5 * PIECE as usize..][..512],
            "what was written later was read"
        );
        first.await.unwrap();
        second.await.unwrap();
        assert_eq!(bed.read(&guest, 5 * PIECE, 512).await.unwrap(), [1; 512]);
    });
}

#[test]
fn a_target_that_is_too_short_is_found_out_late() {
    sim(5, async {
        let bed = Bed::bare().await;
        bed.world.create("short", vec![0; SIZE as usize / 2]);
        bed.add("{'driver':'file','node-name':'short','filename':'short'}").await.unwrap();
        bed.add("{'driver':'copy-before-write','node-name':'cbw','file':'s','target':'short'}")
            .await
            .unwrap();
        let guest = bed.guest().await;
        guest.write(0, ones(), WriteFlags::empty()).await.unwrap();
        assert!(guest.write(SIZE - 512, ones(), WriteFlags::empty()).await.is_err());
        assert_eq!(bed.read(&guest, SIZE - 1, 1).await.unwrap(), bed.old[SIZE as usize - 1..]);
    });
}

#[test]
fn the_filter_goes_away_under_a_guest() {
    sim(6, async {
        let bed = Bed::bare().await;
        bed.add("{'driver':'raw','node-name':'disk','file':'s'}").await.unwrap();
        let guest = bed.root("disk", block::Perm::all()).await;
        bed.add("{'driver':'copy-before-write','node-name':'cbw','file':'s','target':'t'}").await.unwrap();
        let on = |child: &str| options(&format!("{{'driver':'raw','node-name':'disk','file':'{child}'}}"));
        // Put in and taken out under the guest's feet, as management tools do.
        bed.graph.reopen(vec![on("cbw")]).await.unwrap();
        bed.add("{'driver':'snapshot-access','node-name':'past','file':'cbw'}").await.unwrap();
        let past = bed.reader("past").await;
        guest.write(PIECE, ones(), WriteFlags::empty()).await.unwrap();
        bed.is_past(&past).await;
        past.detach().await;
        bed.graph.del("past").await.unwrap();
        let e = bed.graph.del("cbw").await.unwrap_err();
        assert_eq!(e.desc(), "Block device cbw is in use");
        bed.graph.reopen(vec![on("s")]).await.unwrap();
        bed.graph.del("cbw").await.unwrap();
        guest.write(0, ones(), WriteFlags::empty()).await.unwrap();
        assert!(bed.world.disk("t").unwrap().bytes()[..PIECE as usize].iter().all(|b| *b == 0));
    });
}
