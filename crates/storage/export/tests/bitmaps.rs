//! Dirty bitmaps that clients may look at.

mod common;

use common::Bed;
use io::{Addr, Stream};
use mem::IoBuf;
use nbd::spec::*;

async fn bed(name: &str) -> Bed {
    let bed = Bed::new(name);
    bed.file("f", 1 << 20);
    bed.file("g", 1 << 20);
    bed.add("{'driver':'file','node-name':'f','filename':'@f'}").await;
    bed.add("{'driver':'raw','node-name':'r','file':'f'}").await;
    bed.add("{'driver':'file','node-name':'g','filename':'@g','read-only':true}").await;
    for (node, name, disabled) in [("r", "on", false), ("r", "off", true), ("f", "low", true)] {
        bed.graph.bitmap_add(node, name, Some(65536), false, disabled).await.unwrap();
    }
    bed
}

#[test]
fn what_the_commands_say() {
    rt::block_on(async {
        let bed = bed("bmtexts").await;
        bed.listen().await;
        let add = async |o: &str| bed.try_export(&format!("'id':'e','node-name':{o}")).await.unwrap_err();
        assert_eq!(
            add("'r','bitmaps':['on']").await,
            "Enabled bitmap 'on' incompatible with readonly export"
        );
        assert_eq!(add("'r','bitmaps':['zz']").await, "Bitmap 'zz' is not found");
        let external =
            |node: &str, name: &str| format!("'r','bitmaps':[{{'node':'{node}','name':'{name}'}}]");
        assert_eq!(add(&external("g", "zz")).await, "Dirty bitmap 'zz' not found");
        assert_eq!(add(&external("no", "zz")).await, "Node 'no' not found");
        bed.export("'id':'e','node-name':'r','bitmaps':['off','off'],'allocation-depth':true").await;
        const BUSY: &str = "Bitmap 'off' is currently in use by another operation and cannot be used";
        let other = "'id':'e2','node-name':'r','name':'q','bitmaps':['on','off'],'writable':true";
        assert_eq!(bed.try_export(other).await.unwrap_err(), BUSY);
        assert_eq!(bed.graph.bitmap_remove("r", "off").await.unwrap_err().desc(), BUSY);
        assert_eq!(bed.graph.bitmap_clear("r", "off").await.unwrap_err().desc(), BUSY);
        bed.exports.del("e", None).await.unwrap();
        // What a failed export had taken is free again, too; a bitmap may be another node's.
        bed.export(other).await;
        bed.export("'id':'e3','node-name':'g','bitmaps':[{'node':'f','name':'low'}]").await;
        bed.exports.stop_server().await.unwrap();
        for name in ["on", "off"] {
            bed.graph.bitmap_remove("r", name).await.unwrap();
        }
        bed.listen().await;
        let old = api::block_export::NbdServerAdd {
            device: "r".into(),
            bitmap: Some("low".into()),
            ..Default::default()
        };
        // `raw` shows its file unchanged, so that file's bitmaps are looked at too.
        bed.exports.add_old(old).await.unwrap();
        bed.end().await;
    });
}

/// Chooses a context of the export `x`; the stream, ready for requests with structured replies.
async fn choose(bed: &Bed, context: &str) -> Stream {
    let s = io::connect(&Addr::Unix(bed.path("s").into())).await.unwrap();
    let mut b = [0; 18];
    s.read_exact(&mut b).await.unwrap();
    let mut out = 3u32.to_be_bytes().to_vec();
    let mut option = |n: u32, data: &[u8]| {
        out.extend(OPTS_MAGIC.to_be_bytes());
        out.extend(n.to_be_bytes());
        out.extend((data.len() as u32).to_be_bytes());
        out.extend(data);
    };
    option(OPT_STRUCTURED_REPLY, &[]);
    let mut query = b"\0\0\0\x01x\0\0\0\x01".to_vec();
    query.extend((context.len() as u32).to_be_bytes());
    query.extend(context.as_bytes());
    option(OPT_SET_META_CONTEXT, &query);
    option(OPT_EXPORT_NAME, b"x");
    s.write_all(&out).await.unwrap();
    // An acknowledgement, the context, another acknowledgement, size and flags.
    let mut b = vec![0; 20 + 24 + context.len() + 20 + 10];
    s.read_exact(&mut b).await.unwrap();
    s
}

/// The extents of a block status.
async fn extents(s: &Stream, off: u64, len: u32) -> Vec<(u32, u32)> {
    let mut r = Vec::new();
    let req =
        nbd::message::Request { flags: 0, kind: CMD_BLOCK_STATUS, cookie: 1, offset: off, len: len.into() };
    req.put(nbd::message::Mode::Structured, &mut r);
    s.write_all(&r).await.unwrap();
    let mut head = [0; 20];
    s.read_exact(&mut head).await.unwrap();
    assert_eq!(head[4..8], [0, REPLY_FLAG_DONE as u8, 0, REPLY_BLOCK_STATUS as u8]);
    let n = u32::from_be_bytes([head[16], head[17], head[18], head[19]]);
    let mut b = vec![0; n as usize];
    s.read_exact(&mut b).await.unwrap();
    let word = |c: &[u8]| u32::from_be_bytes([c[0], c[1], c[2], c[3]]);
    b[4..].chunks(8).map(|c| (word(c), word(&c[4..]))).collect()
}

#[test]
fn what_is_dirty_is_told() {
    rt::block_on(async {
        let bed = bed("bmtold").await;
        bed.listen().await;
        bed.export("'id':'e','node-name':'r','name':'x','bitmaps':['on'],'writable':true").await;
        let perm = block::Perm::WRITE;
        let config = block::RootConfig { perm, shared: block::Perm::all(), ..Default::default() };
        let root = bed.graph.attach("r", config).await.unwrap();
        let write = async |off| root.write(off, IoBuf::zeroed(512), Default::default()).await.unwrap();
        let s = choose(&bed, "qemu:dirty-bitmap:on").await;
        const K: u32 = 64 << 10;
        assert_eq!(extents(&s, 0, 1 << 20).await, [(1 << 20, 0)]);
        write(3 * u64::from(K) + 17).await;
        write(4 * u64::from(K)).await;
        assert_eq!(extents(&s, 0, 1 << 20).await, [(3 * K, 0), (2 * K, 1), (11 * K, 0)]);
        assert_eq!(extents(&s, 5 * u64::from(K) - 512, 1024).await, [(512, 1), (512, 0)]);
        if let Some(map) = bed.tool(&format!("nbdinfo --map=qemu:dirty-bitmap:on {}", bed.uri("x"))).await {
            let map = map.unwrap();
            let numbers: Vec<u64> = map.split_whitespace().filter_map(|w| w.parse().ok()).collect();
            let k = u64::from(K);
            assert_eq!(numbers[..6], [0, 3 * k, 0, 3 * k, 2 * k, 1], "{map}");
            let info = bed.tool(&format!("nbdinfo {}", bed.uri("x"))).await.unwrap().unwrap();
            assert!(info.contains("qemu:dirty-bitmap:on"), "{info}");
        }
        // Rhea's own client shows what is dirty as no data.
        let client = "{'driver':'nbd','node-name':'c','export':'x','server':{'type':'unix','path':'@s'}";
        bed.add(&format!("{client},'x-dirty-bitmap':'qemu:dirty-bitmap:on'}}")).await;
        let config = block::RootConfig { shared: block::Perm::all(), ..Default::default() };
        let c = bed.graph.attach("c", config).await.unwrap();
        let mut found = Vec::new();
        while found.iter().map(|(len, _)| len).sum::<u64>() < 1 << 20 {
            let off = found.iter().map(|(len, _)| len).sum();
            let st = c.map(off, (1 << 20) - off).await.unwrap();
            assert!(!st.zero);
            found.push((st.len, st.data));
        }
        let k = u64::from(K);
        assert_eq!(found, [(3 * k, true), (2 * k, false), (11 * k, true)]);
        c.detach().await;
        let none = format!("{client},'x-dirty-bitmap':'qemu:dirty-bitmap:no'}}").replace("'c'", "'d'");
        assert_eq!(bed.try_add(&none).await.unwrap_err(), "Could not open image: Invalid argument");
        root.detach().await;
        bed.end().await;
    });
}

#[test]
fn one_client_only() {
    rt::block_on(async {
        let bed = bed("single").await;
        bed.try_listen("'path':'@s','type':'unix'", ",'max-connections':1").await.unwrap();
        bed.export("'id':'e','node-name':'r','name':'x'").await;
        if let Some(info) = bed.tool(&format!("nbdinfo {}", bed.uri("x"))).await {
            let info = info.unwrap();
            assert!(info.contains("can_multi_conn: false"), "{info}");
        }
        bed.end().await;
    });
}
