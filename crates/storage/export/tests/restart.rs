//! A server that is killed and started again while our client writes.

mod common;

use block::driver::WriteFlags;
use block::{Perm, RootConfig};
use common::Bed;
use mem::IoBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const BLOCK: usize = 16384;
const BLOCKS: usize = 256;

/// A process that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

fn qemu_nbd(bed: &Bed) -> Option<Server> {
    _ = std::fs::remove_file(bed.path("s"));
    let (socket, file) = (bed.path("s"), bed.path("f"));
    let args = ["-t", "-x", "x", "-f", "raw", "-k", &socket, &file];
    Command::new("qemu-nbd").args(args).stdin(Stdio::null()).spawn().ok().map(Server)
}

#[test]
fn a_server_is_killed_and_comes_back_under_writes() {
    rt::block_on(async {
        let bed = Bed::new("restart");
        bed.file("f", BLOCK * BLOCKS);
        let Some(mut server) = qemu_nbd(&bed) else {
            println!("skipped: qemu-nbd is not installed");
            return;
        };
        bed.add(
            "{'driver':'nbd','node-name':'c','server':{'type':'unix','path':'@s'},'export':'x',\
             'open-timeout':10,'reconnect-delay':20}",
        )
        .await;
        let config = RootConfig {
            perm: Perm::CONSISTENT_READ | Perm::WRITE,
            shared: Perm::all(),
            ..Default::default()
        };
        let root = bed.graph.attach("c", config).await.unwrap();
        let mut tasks = Vec::new();
        for worker in 0..4 {
            let root = root.clone();
            tasks.push(rt::spawn_local(async move {
                for i in (worker..BLOCKS).step_by(4) {
                    let data = IoBuf::zeroed(BLOCK);
                    data.fill(i as u8 ^ 0x5a);
                    let off = (i * BLOCK) as u64;
                    root.write(off, data, WriteFlags::empty()).await.unwrap();
                    let back = IoBuf::zeroed(BLOCK);
                    root.read(off, back.clone()).await.unwrap();
                    assert!(back.to_vec().iter().all(|b| *b == i as u8 ^ 0x5a), "block {i}");
                    rt::sleep(Duration::from_millis(5)).await;
                }
            }));
        }
        for _ in 0..3 {
            rt::sleep(Duration::from_millis(60)).await;
            drop(server);
            // What is on its way waits.
            rt::sleep(Duration::from_millis(30)).await;
            server = qemu_nbd(&bed).unwrap();
        }
        for t in tasks {
            rt::timeout(Duration::from_secs(30), t).await.expect("the client goes on");
        }
        root.flush().await.unwrap();
        root.detach().await;
        bed.graph.del("c").await.unwrap();
        let f = std::fs::read(bed.dir.join("f")).unwrap();
        assert!(f.chunks(BLOCK).enumerate().all(|(i, c)| c.iter().all(|b| *b == i as u8 ^ 0x5a)));
        drop(server);
        bed.end().await;
    });
}
