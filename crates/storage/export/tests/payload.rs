//! Requests on a bare stream: those for block status that choose among the contexts (extended headers), and refused ones.

mod common;

use common::Bed;
use io::{Addr, Stream};
use nbd::message::{Mode, Request};
use nbd::spec::*;

fn be(b: &[u8]) -> u64 {
    b.iter().fold(0, |n, b| n << 8 | u64::from(*b))
}

async fn take(s: &Stream, n: usize) -> Vec<u8> {
    let mut b = vec![0; n];
    s.read_exact(&mut b).await.unwrap();
    b
}

/// A reply to an option: its kind and its data.
async fn reply(s: &Stream) -> (u32, Vec<u8>) {
    let head = take(s, 20).await;
    (be(&head[12..16]) as u32, take(s, be(&head[16..]) as usize).await)
}

/// Begins with two contexts of the export `x`; the stream, the flags and the numbers of the contexts.
async fn begin(bed: &Bed, extended: bool) -> (Stream, u16, Vec<u32>) {
    let s = io::connect(&Addr::Unix(bed.path("s").into())).await.unwrap();
    take(&s, 18).await;
    s.write_all(&3u32.to_be_bytes()).await.unwrap();
    let ask = async |option: u32, data: &[u8]| {
        let mut out = OPTS_MAGIC.to_be_bytes().to_vec();
        out.extend(option.to_be_bytes());
        out.extend((data.len() as u32).to_be_bytes());
        out.extend(data);
        s.write_all(&out).await.unwrap();
    };
    ask(if extended { OPT_EXTENDED_HEADERS } else { OPT_STRUCTURED_REPLY }, &[]).await;
    assert_eq!(reply(&s).await.0, REP_ACK);
    let mut query = b"\0\0\0\x01x\0\0\0\x02".to_vec();
    for name in [CONTEXT_ALLOCATION, CONTEXT_DEPTH] {
        query.extend((name.len() as u32).to_be_bytes());
        query.extend(name.as_bytes());
    }
    ask(OPT_SET_META_CONTEXT, &query).await;
    let mut ids = Vec::new();
    while let (REP_META_CONTEXT, data) = reply(&s).await {
        ids.push(be(&data[..4]) as u32);
    }
    ask(OPT_GO, b"\0\0\0\x01x\0\0").await;
    let mut flags = 0;
    while let (REP_INFO, data) = reply(&s).await {
        if be(&data[..2]) == u64::from(INFO_EXPORT) {
            flags = be(&data[10..12]) as u16;
        }
    }
    (s, flags, ids)
}

/// Asks with this payload. The contexts that are told of, each with the length of its first extent; or the error.
async fn status(s: &Stream, payload: &[u8]) -> Result<Vec<(u32, u64)>, u32> {
    let len = payload.len() as u64;
    let req = Request { flags: CMD_FLAG_PAYLOAD_LEN, kind: CMD_BLOCK_STATUS, cookie: 1, offset: 512, len };
    let mut out = Vec::new();
    req.put(Mode::Extended, &mut out);
    out.extend(payload);
    s.write_all(&out).await.unwrap();
    let mut told = Vec::new();
    loop {
        let head = take(s, 32).await;
        let data = take(s, be(&head[24..]) as usize).await;
        match be(&head[6..8]) as u16 {
            REPLY_BLOCK_STATUS_EXT => told.push((be(&data[..4]) as u32, be(&data[8..16]))),
            kind => {
                assert_ne!(kind & REPLY_ERROR_BIT, 0);
                return Err(be(&data[..4]) as u32);
            }
        }
        if be(&head[4..6]) as u16 & REPLY_FLAG_DONE != 0 {
            return Ok(told);
        }
    }
}

#[test]
fn a_request_chooses_contexts() {
    rt::block_on(async {
        let bed = Bed::new("payload");
        bed.file("f", 1 << 20);
        bed.add("{'driver':'file','node-name':'f','filename':'@f'}").await;
        bed.listen().await;
        bed.export("'id':'e','node-name':'f','name':'x','allocation-depth':true").await;
        let (_, flags, _) = begin(&bed, false).await;
        assert_eq!(flags & TF_BLOCK_STATUS_PAYLOAD, 0);
        let (s, flags, ids) = begin(&bed, true).await;
        assert_ne!(flags & TF_BLOCK_STATUS_PAYLOAD, 0);
        let [a, d] = ids[..] else { panic!("{ids:?}") };
        let payload = |len: u64, ids: &[u32]| {
            let mut b = len.to_be_bytes().to_vec();
            ids.iter().for_each(|i| b.extend(i.to_be_bytes()));
            b
        };
        assert_eq!(status(&s, &payload(4096, &[d])).await, Ok(vec![(d, 4096)]));
        assert_eq!(status(&s, &payload(512, &[a])).await, Ok(vec![(a, 512)]));
        assert_eq!(status(&s, &payload(1024, &[d, a])).await, Ok(vec![(a, 1024), (d, 1024)]));
        let unknown = a.max(d) + 1;
        let bad = [payload(512, &[]), payload(512, &[a, a]), payload(512, &[unknown]), payload(0, &[a])];
        for b in bad.into_iter().chain([
            payload(1 << 20, &[a]),
            payload(u64::MAX, &[a]),
            vec![0; 13],
            vec![0; 4],
            vec![0; 100_000],
        ]) {
            assert_eq!(status(&s, &b).await, Err(22), "{b:?}");
        }
        // The stream is where it should be.
        assert_eq!(status(&s, &payload(512, &[a])).await, Ok(vec![(a, 512)]));
        drop(s);
        bed.end().await;
    });
}

/// Sends a request with structured replies; the kind of its only chunk, the error's number and its text.
async fn refusal(s: &Stream, kind: u16, flags: u16, offset: u64, len: u64) -> (u16, u32, String) {
    let mut out = Vec::new();
    Request { flags, kind, cookie: 1, offset, len }.put(Mode::Structured, &mut out);
    if kind == CMD_WRITE {
        out.resize(out.len() + len as usize, 7);
    }
    s.write_all(&out).await.unwrap();
    let head = take(s, 20).await;
    let whole = be(&head[4..6]) as u16 & REPLY_FLAG_DONE != 0;
    assert!(whole || kind == CMD_BLOCK_STATUS);
    let data = take(s, be(&head[16..]) as usize).await;
    let kind = be(&head[6..8]) as u16;
    match kind & REPLY_ERROR_BIT {
        0 => (kind, 0, String::new()),
        _ => (kind, be(&data[..4]) as u32, String::from_utf8(data[6..].to_vec()).unwrap()),
    }
}

#[test]
fn a_refusal_says_why() {
    rt::block_on(async {
        let bed = Bed::new("refusal");
        bed.file("f", 1 << 20);
        bed.add("{'driver':'file','node-name':'f','filename':'@f'}").await;
        bed.listen().await;
        bed.export("'id':'e','node-name':'f','name':'x','allocation-depth':true,'writable':true").await;
        let (s, _, _) = begin(&bed, false).await;
        let end = 1 << 20;
        for (kind, flags, offset, len, error, text) in [
            (CMD_READ, CMD_FLAG_NO_HOLE, 0, 512, 22, "unsupported flags for command read (got 0x2)"),
            (CMD_CACHE, CMD_FLAG_DF, 0, 512, 22, "unsupported flags for command cache (got 0x4)"),
            (CMD_READ, 0, end - 512, 1024, 22, "operation past EOF; From: 1048064, Len: 1024, Size: 1048576"),
            (CMD_WRITE, 0, end, 512, 28, "operation past EOF; From: 1048576, Len: 512, Size: 1048576"),
            (CMD_BLOCK_STATUS, 0, 0, 0, 22, "need non-zero length"),
            (CMD_FLUSH, 0, 1, end, 22, "operation past EOF; From: 1, Len: 1048576, Size: 1048576"),
            (77, CMD_FLAG_DF, end, 512, 22, "operation past EOF; From: 1048576, Len: 512, Size: 1048576"),
            (77, CMD_FLAG_DF, 0, 0, 22, "unsupported flags for command <unknown> (got 0x4)"),
            (77, 0, 0, 0, 22, "invalid request type (77) received"),
            (CMD_READ, 0, 0, 33_554_433, 22, "len (33554433) is larger than max len (33554432)"),
            (CMD_WRITE, 0, 0, 33_554_433, 22, "len (33554433) is larger than max len (33554432)"),
        ] {
            let told = refusal(&s, kind, flags, offset, len).await;
            assert_eq!((told.1, told.2.as_str()), (error, text));
        }
        // That flag may always be set, and the stream is where it should be.
        let through = CMD_FLAG_FUA;
        assert_eq!(refusal(&s, CMD_CACHE, through, 0, 512).await.0, REPLY_NONE);
        assert_eq!(refusal(&s, CMD_BLOCK_STATUS, through | CMD_FLAG_REQ_ONE, 0, 512).await.1, 0);
        drop(s);
        bed.end().await;
    });
}
