//! Other people's programs at our server, and our client at theirs.

mod common;

use common::Bed;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const MIB: usize = 1 << 20;

#[test]
fn nbdinfo_and_nbdcopy() {
    rt::block_on(async {
        let bed = Bed::new("libnbd");
        let model = bed.file("f", 5 * MIB);
        bed.add("{'driver':'file','node-name':'f','filename':'@f'}").await;
        bed.listen().await;
        bed.export("'id':'e','node-name':'f','name':'x','description':'a_text','writable':true").await;
        let uri = bed.uri("x");
        let Some(info) = bed.tool(&format!("nbdinfo {uri}")).await else { return bed.end().await };
        let info = info.unwrap();
        for want in [
            "export-size: 5242880",
            "a_text",
            "can_multi_conn: true",
            "is_read_only: false",
            "base:allocation",
        ] {
            assert!(info.contains(want), "{want}: {info}");
        }
        let list = bed.tool(&format!("nbdinfo --list {}", bed.uri(""))).await.unwrap().unwrap();
        assert!(list.contains("export=\"x\""), "{list}");
        let e = bed.tool(&format!("nbdinfo {}", bed.uri("nope"))).await.unwrap().unwrap_err();
        assert!(e.contains("nope"), "{e}");
        let map = bed.tool(&format!("nbdinfo --map {uri}")).await.unwrap().unwrap();
        assert!(map.contains("data"), "{map}");
        bed.tool(&format!("nbdcopy {uri} @out")).await.unwrap().unwrap();
        assert!(std::fs::read(bed.dir.join("out")).unwrap() == model);
        let back: Vec<u8> = model.iter().rev().copied().collect();
        std::fs::write(bed.dir.join("in"), &back).unwrap();
        bed.tool(&format!("nbdcopy --flush @in {uri}")).await.unwrap().unwrap();
        assert!(std::fs::read(bed.dir.join("f")).unwrap() == back);
        bed.end().await;
    });
}

#[test]
fn qemu_io_and_qemu_img_at_our_server() {
    rt::block_on(async {
        let bed = Bed::new("qemu");
        let mut model = bed.file("f", 4 * MIB);
        bed.add("{'driver':'file','node-name':'f','filename':'@f'}").await;
        bed.listen().await;
        bed.export("'id':'e','node-name':'f','name':'x','writable':true").await;
        let uri = bed.uri("x");
        let io = "qemu-io -f raw -c write_-P_7_1000_70000 -c write_-z_200000_300000 -c discard_1M_64k \
                  -c write_-f_-P_9_3M_512 -c flush -c read_-P_7_1000_70000"
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        let Some(done) = bed.tool(&format!("{io} {uri}")).await else { return bed.end().await };
        let text = done.unwrap();
        assert!(!text.contains("failed") && !text.contains("error"), "{text}");
        model[1000..71000].fill(7);
        model[200_000..500_000].fill(0);
        model[3 * MIB..3 * MIB + 512].fill(9);
        let now = std::fs::read(bed.dir.join("f")).unwrap();
        assert!(now[..MIB] == model[..MIB] && now[MIB + 65536..] == model[MIB + 65536..]);
        bed.tool(&format!("qemu-img convert -f raw -O raw {uri} @copy")).await.unwrap().unwrap();
        assert!(std::fs::read(bed.dir.join("copy")).unwrap() == now);
        let map = bed.tool(&format!("qemu-img map -f raw --output=json {uri}")).await.unwrap().unwrap();
        assert!(map.contains("\"start\": 0"), "{map}");
        bed.end().await;
    });
}

/// A process that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

#[test]
fn our_client_at_qemu_nbd() {
    rt::block_on(async {
        let bed = Bed::new("theirs");
        let mut model = bed.file("f", 4 * MIB);
        let (socket, file) = (bed.path("s"), bed.path("f"));
        let args = ["-t", "-x", "x", "-f", "raw", "--shared=4", "-k", &socket, &file];
        let spawned = Command::new("qemu-nbd").args(args).stdin(Stdio::null()).spawn();
        let Ok(child) = spawned else {
            println!("skipped: qemu-nbd is not installed");
            return;
        };
        let _server = Server(child);
        bed.add("{'driver':'nbd','node-name':'c','server':{'type':'unix','path':'@s'},'export':'x','open-timeout':10}")
            .await;
        let perm = block::Perm::CONSISTENT_READ | block::Perm::WRITE;
        let config = block::RootConfig { perm, shared: block::Perm::all(), ..Default::default() };
        let c = bed.graph.attach("c", config).await.unwrap();
        let all = mem::IoBuf::zeroed(4 * MIB);
        c.read(0, all.clone()).await.unwrap();
        assert!(all.to_vec() == model);
        let data = mem::IoBuf::zeroed(100_001);
        data.fill(0x5a);
        c.write(12_345, data, block::driver::WriteFlags::FUA).await.unwrap();
        model[12_345..112_346].fill(0x5a);
        c.write_zeroes(2_000_000, 500_000, block::driver::ZeroFlags::MAY_UNMAP).await.unwrap();
        model[2_000_000..2_500_000].fill(0);
        c.flush().await.unwrap();
        c.read(0, all.clone()).await.unwrap();
        assert!(all.to_vec() == model);
        assert!(std::fs::read(bed.dir.join("f")).unwrap() == model);
        // Whether zeroes are a hole is up to the server and its file system.
        let status = c.map(2_097_152, 65536).await.unwrap();
        assert_eq!((status.len, status.eof), (65536, false), "{status:?}");
        c.detach().await;
        rt::timeout(Duration::from_secs(5), bed.graph.close_all()).await.unwrap();
    });
}
