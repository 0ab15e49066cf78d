//! Peers of NBD: a client that a server hears, and a server that a client hears.

use nbd::message::{Mode, Reply, Request, parse_error, parse_status, reply_len, reply_min};
use nbd::server::{ExportInfo, Exports, Step};
use nbd::{client, server};

/// Most steps of one conversation.
const STEPS: usize = 10_000;

struct Two;

impl Exports for Two {
    type Export = usize;

    fn list(&self) -> Vec<(String, String)> {
        vec![("a".into(), String::new()), ("b".into(), "the second".into())]
    }

    fn find(&self, name: &str) -> Option<usize> {
        match name {
            "a" | "" => Some(0),
            "b" => Some(1),
            _ => None,
        }
    }

    fn info(&self, export: &usize) -> ExportInfo {
        ExportInfo {
            name: if *export == 0 { "a" } else { "b" }.into(),
            description: "the second".into(),
            size: 1 << 20,
            flags: 0x1ff,
            block_size: (1, 4096, 32 << 20),
            depth: *export == 0,
            bitmaps: vec!["x".into(), "y".into()],
        }
    }
}

/// What a peer sends, taken piece by piece.
struct Wire<'a>(&'a [u8]);

impl<'a> Wire<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (piece, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(piece)
    }
}

/// Hears the bytes as a server with and without TLS: the handshake, and then requests.
pub fn nbd_server(data: &[u8]) {
    hear(data, server::Handshake::default());
    hear(data, server::Handshake::with_tls());
}

fn hear(data: &[u8], mut shake: server::Handshake) {
    let mut wire = Wire(data);
    let mut mode = None;
    for _ in 0..STEPS {
        let Some(bytes) = wire.take(shake.want()) else { return };
        let mut out = Vec::new();
        match shake.feed(bytes, &Two, &mut out) {
            // The bytes go on in the clear.
            Ok(Step::More | Step::StartTls) => {}
            Ok(Step::Begin(session)) => {
                mode = Some(session.mode);
                break;
            }
            Ok(Step::End) | Err(_) => return,
        }
        assert!(out.len() < 1 << 20, "a long answer");
    }
    let Some(mode) = mode else { return };
    for _ in 0..STEPS {
        let Some(bytes) = wire.take(Request::header_len(mode)) else { return };
        let Ok(request) = Request::parse(mode, bytes) else { return };
        let Ok(payload) = usize::try_from(request.payload(mode)) else { return };
        if wire.take(payload).is_none() {
            return;
        }
    }
}

/// Hears the bytes as a client: the handshake, and then replies.
pub fn nbd_client(data: &[u8]) {
    let mut wire = Wire(data);
    let mut shake = client::Handshake::new("a").expect("a short name");
    let mut mode = None;
    for _ in 0..STEPS {
        let Some(bytes) = wire.take(shake.want()) else { return };
        let mut out = Vec::new();
        match shake.feed(bytes, &mut out) {
            Ok(client::Step::More) => {}
            Ok(client::Step::StartTls) => shake.encrypted(&mut out),
            Ok(client::Step::Begin(offer)) => {
                mode = Some(offer.mode);
                break;
            }
            Err(_) => return,
        }
    }
    let mode = mode.unwrap_or(Mode::Structured);
    for _ in 0..STEPS {
        let Some(first) = wire.0.get(..reply_min(mode)) else { return };
        let Some(bytes) = wire.take(reply_len(mode, first)) else { return };
        match Reply::parse(mode, bytes) {
            Ok(Reply::Simple { .. }) => {}
            Ok(Reply::Chunk { kind, len, .. }) => {
                let Some(payload) = usize::try_from(len).ok().and_then(|n| wire.take(n)) else { return };
                _ = parse_status(kind, payload);
                _ = parse_error(payload);
            }
            Err(_) => return,
        }
    }
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut b = b"IHAVEOPT".to_vec();
    b.extend(number.to_be_bytes());
    b.extend((data.len() as u32).to_be_bytes());
    b.extend(data);
    b
}

fn string(text: &str) -> Vec<u8> {
    let mut b = (text.len() as u32).to_be_bytes().to_vec();
    b.extend(text.bytes());
    b
}

/// Conversations of clients, by the protocol's text.
pub(crate) fn server_seeds() -> Vec<Vec<u8>> {
    let flags = 3u32.to_be_bytes().to_vec();
    let mut context = string("a");
    context.extend(2u32.to_be_bytes());
    context.extend(string("base:allocation"));
    context.extend(string("qemu:dirty-bitmap:x"));
    let mut go = string("a");
    go.extend(1u16.to_be_bytes());
    go.extend(3u16.to_be_bytes());
    let mut read = 0x2560_9513_u32.to_be_bytes().to_vec();
    read.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    read.extend(4096u64.to_be_bytes());
    read.extend(512u32.to_be_bytes());
    let plain = [flags.clone(), option(1, b"b"), read.clone()].concat();
    let structured =
        [flags.clone(), option(8, b""), option(10, &context), option(7, &go), read.clone()].concat();
    let extended = [flags.clone(), option(11, b""), option(3, b""), option(7, &go), read].concat();
    vec![plain, structured, extended, [flags, option(2, b"")].concat()]
}

/// Conversations of servers.
pub(crate) fn client_seeds() -> Vec<Vec<u8>> {
    let reply = |number: u32, kind: u32, data: &[u8]| {
        let mut b = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
        b.extend(number.to_be_bytes());
        b.extend(kind.to_be_bytes());
        b.extend((data.len() as u32).to_be_bytes());
        b.extend(data);
        b
    };
    let greeting = [b"NBDMAGICIHAVEOPT".as_slice(), &[0, 3]].concat();
    let context = [&[0, 0, 0, 1], b"base:allocation".as_slice()].concat();
    let info = [&[0, 0], (1u64 << 20).to_be_bytes().as_slice(), &[1, 0x6d]].concat();
    let mut seeds = Vec::new();
    for first in [(11u32, 1u32), (11, 0x8000_0001)] {
        let mut talk = [greeting.clone(), reply(first.0, first.1, b"")].concat();
        if first.1 != 1 {
            talk.extend(reply(8, 1, b""));
        }
        talk.extend(reply(10, 4, &context));
        talk.extend(reply(10, 1, b""));
        talk.extend(reply(7, 3, &info));
        talk.extend(reply(7, 1, b""));
        talk.extend([0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 12]);
        talk.extend([0, 0, 0, 1, 0, 0, 16, 0, 0, 0, 0, 3]);
        seeds.push(talk);
    }
    seeds
}
