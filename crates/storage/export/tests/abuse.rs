//! Clients that misbehave: they harm themselves only.

mod common;

use common::Bed;
use io::{Addr, Stream};
use nbd::message::{Mode, Request};
use nbd::spec::*;
use std::time::Duration;

async fn connect(bed: &Bed) -> Stream {
    io::connect(&Addr::Unix(bed.path("s").into())).await.unwrap()
}

/// A client that chose the export `x` and may send requests.
async fn begun(bed: &Bed) -> Stream {
    let s = connect(bed).await;
    let mut b = [0; 18];
    s.read_exact(&mut b).await.unwrap();
    let mut out = 3u32.to_be_bytes().to_vec();
    out.extend(OPTS_MAGIC.to_be_bytes());
    out.extend(OPT_EXPORT_NAME.to_be_bytes());
    out.extend(1u32.to_be_bytes());
    out.push(b'x');
    s.write_all(&out).await.unwrap();
    let mut b = [0; 10];
    s.read_exact(&mut b).await.unwrap();
    s
}

fn request(kind: u16, offset: u64, len: u64) -> Vec<u8> {
    let mut out = Vec::new();
    Request { kind, flags: 0, cookie: 5, offset, len }.put(Mode::Simple, &mut out);
    out
}

async fn bed(name: &str) -> Bed {
    let bed = Bed::new(name);
    bed.add("{'driver':'null-co','node-name':'n','size':1073741824,'read-zeroes':true}").await;
    bed.try_listen("'path':'@s','type':'unix'", ",'handshake-max-seconds':1,'max-connections':200")
        .await
        .unwrap();
    bed.export("'id':'e','node-name':'n','name':'x'").await;
    bed
}

/// Reads a simple reply; the error in it.
async fn answer(s: &Stream) -> u32 {
    let mut b = [0; 16];
    s.read_exact(&mut b).await.unwrap();
    u32::from_be_bytes([b[4], b[5], b[6], b[7]])
}

#[test]
fn a_hundred_clients_that_do_not_behave() {
    rt::block_on(async {
        let bed = bed("hundred").await;
        let mut kept = Vec::new();
        for i in 0..100u64 {
            let s = match i % 4 {
                // Says nothing.
                0 => connect(&bed).await,
                // Says nonsense.
                1 => {
                    let s = connect(&bed).await;
                    _ = s.write_all(&[i as u8; 100]).await;
                    s
                }
                // Asks for much, and reads nothing.
                2 => {
                    let s = begun(&bed).await;
                    for _ in 0..20 {
                        let r = request(CMD_READ, 0, MAX_PAYLOAD.into());
                        if rt::timeout(Duration::from_millis(5), s.write_all(&r)).await.is_none() {
                            break;
                        }
                    }
                    s
                }
                // Vanishes in the middle of a request.
                _ => {
                    let s = begun(&bed).await;
                    s.write_all(&request(CMD_READ, 0, 65536)[..20]).await.unwrap();
                    s.shutdown();
                    s
                }
            };
            kept.push(s);
        }
        let good = begun(&bed).await;
        let mut data = vec![1; 4096];
        for i in 0..100 {
            good.write_all(&request(CMD_READ, i * 4096, 4096)).await.unwrap();
            assert_eq!(rt::timeout(Duration::from_secs(5), answer(&good)).await, Some(0));
            good.read_exact(&mut data).await.unwrap();
        }
        // 25 of them do not read what they asked for: each is served no further than its budget.
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let rss = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
        let kib: u64 = rss.split_whitespace().next().unwrap().parse().unwrap();
        assert!(kib >> 10 < 25 * 12 + 100, "{kib} KiB");
        // Those that did not choose an export in time are sent away.
        let mut b = [0; 64];
        let end = async { while kept[0].read(&mut b).await.is_ok_and(|n| n > 0) {} };
        assert!(rt::timeout(Duration::from_secs(5), end).await.is_some());
        bed.exports.stop_server().await.unwrap();
        assert!(bed.exports.query().is_empty());
        bed.end().await;
    });
}

#[test]
fn requests_that_are_wrong() {
    rt::block_on(async {
        let bed = bed("wrong").await;
        let s = begun(&bed).await;
        let ask = async |r: Vec<u8>| {
            s.write_all(&r).await.unwrap();
            answer(&s).await
        };
        const GIB: u64 = 1 << 30;
        assert_eq!(ask(request(CMD_READ, GIB, 1)).await, 22);
        assert_eq!(ask(request(CMD_READ, u64::MAX, 10)).await, 22);
        assert_eq!(ask(request(CMD_READ, 0, u64::from(MAX_PAYLOAD) + 1)).await, 22);
        assert_eq!(ask(request(77, 0, 0)).await, 22);
        assert_eq!(ask(request(CMD_BLOCK_STATUS, 0, 4096)).await, 22);
        assert_eq!(ask(request(CMD_TRIM, 0, 4096)).await, 1);
        let mut write = request(CMD_WRITE, 0, 4096);
        write.resize(write.len() + 4096, 7);
        assert_eq!(ask(write).await, 1);
        assert_eq!(ask(request(CMD_FLUSH, 0, 0)).await, 0);
        assert_eq!(ask(request(CMD_CACHE, 0, 1 << 20)).await, 0);
        let mut flags = request(CMD_FLUSH, 0, 0);
        flags[4] = 0x80;
        assert_eq!(ask(flags).await, 22);
        s.write_all(&request(CMD_READ, 0, 3 << 20)).await.unwrap();
        assert_eq!(answer(&s).await, 0);
        let mut data = vec![1; 3 << 20];
        s.read_exact(&mut data).await.unwrap();
        assert!(data.iter().all(|b| *b == 0));
        s.write_all(b"this is no request, by its magic").await.unwrap();
        assert_eq!(s.read(&mut data).await.unwrap_or(0), 0);
        bed.end().await;
    });
}

/// Numbers that look random.
struct Dice(u32);

impl Dice {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.next() as usize % of.len()]
    }
}

#[test]
fn requests_at_random() {
    rt::block_on(async {
        let bed = bed("random").await;
        let mut dice = Dice(0x5eed_1234);
        for round in 0..120 {
            let s = connect(&bed).await;
            let mode = [Mode::Simple, Mode::Structured, Mode::Extended][round % 3];
            let mut out = 3u32.to_be_bytes().to_vec();
            let mut option = |n: u32, data: &[u8]| {
                out.extend(OPTS_MAGIC.to_be_bytes());
                out.extend(n.to_be_bytes());
                out.extend((data.len() as u32).to_be_bytes());
                out.extend(data);
            };
            if mode == Mode::Structured {
                option(OPT_STRUCTURED_REPLY, &[]);
            }
            if mode == Mode::Extended {
                option(OPT_EXTENDED_HEADERS, &[]);
            }
            if mode != Mode::Simple {
                option(OPT_SET_META_CONTEXT, b"\0\0\0\x01x\0\0\0\x01\0\0\0\x0fbase:allocation");
            }
            option(OPT_GO, b"\0\0\0\x01x\0\0");
            s.write_all(&out).await.unwrap();
            // Whoever does not read loses its answers; this one reads some of them now and then.
            let mut some = vec![0; 8192];
            for _ in 0..40 {
                let req = Request {
                    flags: dice.one(&[0, 0, 1, 2, 4, 8, 16, 32, 0xffff]),
                    kind: dice.one(&[0, 0, 1, 3, 4, 5, 6, 7, 7, 9, 999]),
                    cookie: dice.next().into(),
                    offset: dice.one(&[0, 1, 4096, 1 << 30, (1 << 30) - 1, u64::MAX]),
                    len: dice.one(&[0, 1, 512, 70_000, 1 << 20, 1 << 30, u64::from(u32::MAX), u64::MAX]),
                };
                let mut bytes = Vec::new();
                req.put(mode, &mut bytes);
                // As much payload as was told, if that is not absurd; or some, or none.
                let told = req.payload(mode).min(100_000) as usize;
                let more = dice.one(&[told, told, told, 0, 17]);
                bytes.resize(bytes.len() + more, dice.next() as u8);
                if dice.next().is_multiple_of(20) {
                    let i = dice.next() as usize % bytes.len();
                    bytes[i] ^= 1;
                }
                let sent = rt::timeout(Duration::from_millis(20), s.write_all(&bytes)).await;
                if !matches!(sent, Some(Ok(()))) {
                    break;
                }
                if dice.next().is_multiple_of(4) {
                    _ = rt::timeout(Duration::from_millis(1), s.read(&mut some)).await;
                }
            }
            s.shutdown();
        }
        let good = begun(&bed).await;
        good.write_all(&request(CMD_READ, 0, 512)).await.unwrap();
        assert_eq!(rt::timeout(Duration::from_secs(5), answer(&good)).await, Some(0));
        good.shutdown();
        rt::timeout(Duration::from_secs(10), bed.end()).await.expect("no client keeps the export");
    });
}
