//! Servers that lie, at the client: it answers every request, and goes on when the server behaves.

use api::block_core::BlockdevOptions;
use block::{BlockGraph, Perm, RootConfig};
use io::{Listener, Stream};
use mem::IoBuf;
use monitor::EventBus;
use nbd::message::{Mode, Request, put_chunk, put_done, put_simple, put_status};
use nbd::server::{Contexts, ExportInfo, Exports, Handshake, Step};
use nbd::spec::*;
use qapi::{Value, from_json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

const SIZE: u64 = 1 << 20;

struct One;

impl Exports for One {
    type Export = ();
    fn list(&self) -> Vec<(String, String)> {
        Vec::new()
    }
    fn find(&self, _name: &str) -> Option<()> {
        Some(())
    }
    fn info(&self, (): &()) -> ExportInfo {
        ExportInfo {
            name: String::new(),
            description: String::new(),
            size: SIZE,
            flags: TF_SEND_FLUSH | TF_SEND_FUA | TF_SEND_TRIM | TF_SEND_WRITE_ZEROES,
            block_size: (1, 4096, MAX_PAYLOAD),
            depth: false,
            bitmaps: Vec::new(),
        }
    }
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
}

fn byte(off: u64) -> u8 {
    (off * 7 + off / 4096) as u8
}

fn truth(out: &mut Vec<u8>, mode: Mode, req: &Request) {
    let data = (req.offset..req.offset + req.len).map(byte);
    match (req.kind, mode) {
        (CMD_READ, Mode::Simple) => {
            put_simple(out, req.cookie, 0);
            out.extend(data);
        }
        (CMD_READ, m) => {
            put_chunk(out, m, REPLY_FLAG_DONE, REPLY_OFFSET_DATA, req, 8 + req.len as usize);
            out.extend(req.offset.to_be_bytes());
            out.extend(data);
        }
        (CMD_BLOCK_STATUS, m) => {
            let all = [nbd::message::Extent { len: req.len, flags: 0 }];
            put_status(out, m, REPLY_FLAG_DONE, req, 0, &all, 512);
        }
        (_, m) => put_done(out, m, req, Ok(())),
    }
}

/// What cannot be taken for the truth. Whether it is cut off, so that nothing may follow it.
fn lie(out: &mut Vec<u8>, mode: Mode, req: &Request, dice: &mut Dice) -> bool {
    let start = out.len();
    match dice.next() % 8 {
        // To somebody else.
        0 => truth(out, mode, &Request { cookie: req.cookie ^ 0x55, ..*req }),
        // Nonsense.
        1 => out.extend((0..200).map(|_| dice.next() as u8)),
        // Bytes from somewhere else.
        2 if mode != Mode::Simple => {
            let off = req.offset.wrapping_add([1, SIZE, u64::MAX][dice.next() as usize % 3]);
            put_chunk(out, mode, REPLY_FLAG_DONE, REPLY_OFFSET_DATA, req, 8 + 512);
            out.extend(off.to_be_bytes());
            out.extend([1; 512]);
        }
        // More than was asked.
        3 if mode != Mode::Simple => {
            put_chunk(out, mode, 0, REPLY_OFFSET_HOLE, req, 12);
            out.extend(req.offset.to_be_bytes());
            out.extend(u32::MAX.to_be_bytes());
        }
        // An end without anything.
        4 if mode != Mode::Simple && req.kind != CMD_FLUSH && req.kind != CMD_WRITE => {
            put_chunk(out, mode, REPLY_FLAG_DONE, REPLY_NONE, req, 0);
        }
        // Impossible lengths.
        5 if mode != Mode::Simple => {
            let kind = [REPLY_BLOCK_STATUS, REPLY_BLOCK_STATUS_EXT, REPLY_ERROR, REPLY_OFFSET_DATA, 99];
            let len = [0, 1, 7, 1 << 30][dice.next() as usize % 4];
            put_chunk(out, mode, REPLY_FLAG_DONE, kind[dice.next() as usize % 5], req, len);
            out.extend([0xff; 64]);
        }
        // An error.
        6 => put_done(out, mode, req, Err(base::Errno::NOSPC)),
        // The truth, cut off or with one wrong bit in its header.
        n => {
            truth(out, mode, req);
            let len = out.len() - start;
            if n == 7 {
                out.truncate(start + dice.next() as usize % len);
                return true;
            }
            out[start] ^= 1 << (dice.next() % 8);
        }
    }
    false
}

async fn greet(s: &Stream, mode: Mode) -> Option<(Mode, Contexts)> {
    let mut h = Handshake::default();
    let (mut input, mut out) = (Vec::new(), Vec::new());
    s.write_all(&Handshake::greeting()).await.ok()?;
    loop {
        input.resize(h.want(), 0);
        s.read_exact(&mut input).await.ok()?;
        out.clear();
        // A server that does not know the newer forms.
        let option =
            (input.len() == 16).then(|| u32::from_be_bytes([input[8], input[9], input[10], input[11]]));
        let refused = match option {
            Some(OPT_EXTENDED_HEADERS) => mode < Mode::Extended,
            Some(OPT_STRUCTURED_REPLY) => mode < Mode::Structured,
            _ => false,
        };
        if refused {
            out.extend(OPTION_REPLY_MAGIC.to_be_bytes());
            out.extend(option.unwrap_or(0).to_be_bytes());
            out.extend(REP_ERR_UNSUP.to_be_bytes());
            out.extend(0u32.to_be_bytes());
            s.write_all(&out).await.ok()?;
            continue;
        }
        let step = h.feed(&input, &One, &mut out).ok()?;
        s.write_all(&out).await.ok()?;
        match step {
            Step::More => {}
            Step::Begin(b) => return Some((b.mode, b.contexts)),
            Step::StartTls | Step::End => return None,
        }
    }
}

/// Serves clients one after another; of `lies` answers, about each third is a lie.
async fn serve(listener: Listener, mode: Mode, lies: Arc<AtomicU32>) {
    let mut dice = Dice(0x1234_5678 + mode as u32);
    while let Ok(s) = listener.accept().await {
        let Some((mode, _)) = greet(&s, mode).await else { continue };
        let mut head = vec![0; Request::header_len(mode)];
        while s.read_exact(&mut head).await.is_ok() {
            let Ok(req) = Request::parse(mode, &head) else { break };
            if req.kind == CMD_DISC {
                break;
            }
            let mut payload = vec![0; req.payload(mode) as usize];
            if s.read_exact(&mut payload).await.is_err() {
                break;
            }
            let mut out = Vec::new();
            let lying = lies.load(SeqCst) > 0 && dice.next().is_multiple_of(3);
            let mut cut = false;
            if lying {
                lies.fetch_sub(1, SeqCst);
                cut = lie(&mut out, mode, &req, &mut dice);
            } else {
                truth(&mut out, mode, &req);
            }
            if s.write_all(&out).await.is_err() {
                break;
            }
            if cut || (lying && dice.next().is_multiple_of(4)) {
                break;
            }
        }
        s.shutdown();
    }
}

async fn try_out(mode: Mode) {
    let socket = std::env::temp_dir().join(format!("rhea-liar-{mode:?}-{}", std::process::id()));
    _ = std::fs::remove_file(&socket);
    let lies = Arc::new(AtomicU32::new(60));
    let server = rt::IoThread::spawn("liar").unwrap();
    let (listener, left) = (Listener::unix(&socket).unwrap(), lies.clone());
    let task = server.handle().spawn(move || serve(listener, mode, left));
    let graph = BlockGraph::new(block_net::DRIVERS, EventBus::new());
    let text = format!(
        r#"{{"driver":"nbd","node-name":"c","server":{{"type":"unix","path":"{}"}},"reconnect-delay":1}}"#,
        socket.display()
    );
    let options: BlockdevOptions = Value::parse_json(&text).and_then(from_json).unwrap();
    graph.add(options).await.unwrap();
    let perm = Perm::CONSISTENT_READ | Perm::WRITE;
    let root =
        graph.attach("c", RootConfig { perm, shared: Perm::all(), ..Default::default() }).await.unwrap();
    let mut dice = Dice(77);
    let patience = Duration::from_secs(10);
    let (mut good, mut bad) = (0, 0);
    let mut n = 0;
    while lies.load(SeqCst) > 0 || n < 100 {
        n += 1;
        let off = u64::from(dice.next()) % (SIZE - 70_000);
        let len = 1 + u64::from(dice.next()) % 65_536;
        let done = match dice.next() % 4 {
            0 | 1 => {
                let buf = IoBuf::zeroed(len as usize);
                let done = rt::timeout(patience, root.read(off, buf.clone())).await;
                if done == Some(Ok(())) {
                    let want: Vec<u8> = (off..off + len).map(byte).collect();
                    assert!(buf.to_vec() == want, "a lie was taken for the truth ({mode:?}, {off}, {len})");
                }
                done
            }
            2 => {
                rt::timeout(patience, root.write(off, IoBuf::zeroed(len as usize), Default::default())).await
            }
            _ => rt::timeout(patience, root.map(off, len)).await.map(|r| r.map(drop)),
        };
        match done.unwrap_or_else(|| panic!("request {n} hangs ({mode:?})")) {
            Ok(()) => good += 1,
            Err(_) => bad += 1,
        }
    }
    assert!(good > 20 && bad > 0, "{good} {bad}");
    // Nobody lies any more.
    for off in [0, 4096, SIZE - 512] {
        let buf = IoBuf::zeroed(512);
        rt::timeout(patience, root.read(off, buf.clone())).await.unwrap().unwrap();
        assert_eq!(buf.to_vec(), (off..off + 512).map(byte).collect::<Vec<_>>());
    }
    root.detach().await;
    rt::timeout(patience, graph.close_all()).await.unwrap();
    task.abort();
    _ = std::fs::remove_file(&socket);
}

#[test]
fn lies_in_simple_replies() {
    rt::block_on(try_out(Mode::Simple));
}

#[test]
fn lies_in_structured_replies() {
    rt::block_on(try_out(Mode::Structured));
}

#[test]
fn lies_with_extended_headers() {
    rt::block_on(try_out(Mode::Extended));
}
