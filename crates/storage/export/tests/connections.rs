//! A client with several connections.

mod common;

use block::driver::WriteFlags;
use block::{Perm, Root, RootConfig};
use common::Bed;
use mem::IoBuf;
use std::sync::Arc;

const BLOCK: usize = 16384;
const BLOCKS: usize = 256;

/// How many clients the server's socket has.
fn clients(bed: &Bed) -> usize {
    let all = std::fs::read_to_string("/proc/net/unix").unwrap();
    let path = bed.path("s");
    // One line is the listener's.
    all.lines().filter(|l| l.ends_with(&path)).count() - 1
}

async fn client(bed: &Bed, more: &str) -> Arc<Root> {
    bed.add(&format!(
        "{{'driver':'nbd','node-name':'c','server':{{'type':'unix','path':'@s'}},'export':'x'{more}}}"
    ))
    .await;
    let perm = Perm::CONSISTENT_READ | Perm::WRITE;
    let config = RootConfig { perm, shared: Perm::all(), ..Default::default() };
    bed.graph.attach("c", config).await.unwrap()
}

/// Writes everything, many requests at a time, flushes, and reads it back.
async fn work(root: &Arc<Root>, salt: u8) {
    let mut tasks = Vec::new();
    for worker in 0..64 {
        let root = root.clone();
        tasks.push(rt::spawn_local(async move {
            for i in (worker..BLOCKS).step_by(64) {
                let (data, off) = (IoBuf::zeroed(BLOCK), (i * BLOCK) as u64);
                data.fill(i as u8 ^ salt);
                root.write(off, data, WriteFlags::empty()).await.unwrap();
                let back = IoBuf::zeroed(BLOCK);
                root.read(off, back.clone()).await.unwrap();
                assert_eq!(back.to_vec(), vec![i as u8 ^ salt; BLOCK]);
            }
        }));
    }
    for t in tasks {
        t.await;
    }
    root.flush().await.unwrap();
}

async fn bed(name: &str, most: &str) -> Bed {
    let bed = Bed::new(name);
    bed.file("f", BLOCK * BLOCKS);
    bed.add("{'driver':'file','node-name':'f','filename':'@f'}").await;
    bed.try_listen("'path':'@s','type':'unix'", most).await.unwrap();
    bed.export("'id':'e','node-name':'f','name':'x','writable':true").await;
    bed
}

#[test]
fn connections_come_with_the_work() {
    rt::block_on(async {
        let bed = bed("lanes", "").await;
        let root = client(&bed, ",'x-connections':3").await;
        assert_eq!(clients(&bed), 1, "there is nothing to do yet");
        for round in 0..40 {
            work(&root, round).await;
            if clients(&bed) == 3 {
                break;
            }
        }
        assert_eq!(clients(&bed), 3);
        work(&root, 0x77).await;
        assert_eq!(clients(&bed), 3, "no more than were asked for");
        let file = std::fs::read(bed.path("f")).unwrap();
        assert!(file.chunks(BLOCK).enumerate().all(|(i, b)| b.iter().all(|b| *b == i as u8 ^ 0x77)));
        root.detach().await;
        bed.graph.del("c").await.unwrap();
        bed.end().await;
    });
}

#[test]
fn a_server_is_not_asked_for_more_than_it_gives() {
    rt::block_on(async {
        // It has a place for one, and says so.
        let one = bed("lanes-one", ",'max-connections':1").await;
        let root = client(&one, ",'x-connections':4").await;
        for round in 0..3 {
            work(&root, round).await;
        }
        assert_eq!(clients(&one), 1);
        root.detach().await;
        one.end().await;
        // By default one is enough.
        let many = bed("lanes-default", "").await;
        let root = client(&many, "").await;
        for round in 0..3 {
            work(&root, round).await;
        }
        assert_eq!(clients(&many), 1);
        let refused = many
            .try_add(
                "{'driver':'nbd','node-name':'d','server':{'type':'unix','path':'@s'},'x-connections':17}",
            )
            .await;
        assert_eq!(refused.unwrap_err(), "x-connections must be between 1 and 16");
        root.detach().await;
        many.end().await;
    });
}
