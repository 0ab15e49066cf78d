//! Both sides of the handshake against each other and against rubbish; messages there and back.

use crate::message::*;
use crate::server::{Contexts, ExportInfo, Exports, Step};
use crate::spec::*;
use crate::{client, server};
use base::Errno;
use proptest::prelude::*;

struct Two;

impl Exports for Two {
    type Export = &'static str;
    fn list(&self) -> Vec<(String, String)> {
        vec![("a".into(), "first".into()), ("b".into(), String::new())]
    }
    fn find(&self, name: &str) -> Option<&'static str> {
        ["a", "b"].into_iter().find(|n| *n == name)
    }
    fn info(&self, e: &&'static str) -> ExportInfo {
        ExportInfo {
            name: (*e).into(),
            description: "first".into(),
            size: 1 << 40,
            flags: TF_SEND_FLUSH,
            block_size: (1, 4096, MAX_PAYLOAD),
            depth: *e == "a",
            bitmaps: if *e == "a" { vec!["x".into(), "y".into()] } else { Vec::new() },
        }
    }
}

/// Runs both sides until one of them is through. The server does not know the options in `refused`.
fn meet(export: &str, refused: &[u32]) -> (Result<client::Offer, client::Refused>, Option<(Mode, Contexts)>) {
    meet_as(client::Handshake::new(export).unwrap(), refused)
}

fn meet_as(
    mut c: client::Handshake,
    refused: &[u32],
) -> (Result<client::Offer, client::Refused>, Option<(Mode, Contexts)>) {
    let mut s = server::Handshake::default();
    let mut to_client = server::Handshake::greeting().to_vec();
    let mut to_server = Vec::new();
    let (mut session, mut steps) = (None, 0);
    loop {
        while to_client.len() >= c.want() {
            let bytes: Vec<u8> = to_client.drain(..c.want()).collect();
            match c.feed(&bytes, &mut to_server) {
                Ok(client::Step::Begin(offer)) => return (Ok(offer), session),
                Ok(_) => {}
                Err(e) => return (Err(e), session),
            }
        }
        if to_server.len() < s.want() {
            return (Err(client::Refused { text: "stuck".into(), hint: None }), session);
        }
        if steps > 0 && s.want() == 16 && refused.contains(&be32(&to_server, 8)) {
            let option = be32(&to_server, 8);
            to_server.drain(..16 + be32(&to_server, 12) as usize);
            to_client.extend(OPTION_REPLY_MAGIC.to_be_bytes());
            to_client.extend(option.to_be_bytes());
            to_client.extend(REP_ERR_UNSUP.to_be_bytes());
            to_client.extend(0u32.to_be_bytes());
            continue;
        }
        let bytes: Vec<u8> = to_server.drain(..s.want()).collect();
        match s.feed(&bytes, &Two, &mut to_client).unwrap() {
            Step::Begin(b) => session = Some((b.mode, b.contexts)),
            Step::More | Step::StartTls | Step::End => {}
        }
        steps += 1;
    }
}

#[test]
fn the_two_sides_agree_on_the_most() {
    let (offer, session) = meet("a", &[]);
    let offer = offer.unwrap();
    assert_eq!((offer.size, offer.mode, offer.allocation), (1 << 40, Mode::Extended, Some(0)));
    assert_eq!((offer.min_block, offer.preferred, offer.max_block), (1, 4096, MAX_PAYLOAD));
    assert_eq!(offer.flags, TF_HAS_FLAGS | TF_SEND_FLUSH | TF_SEND_DF | TF_BLOCK_STATUS_PAYLOAD);
    let (mode, contexts) = session.unwrap();
    assert_eq!((mode, contexts), (Mode::Extended, Contexts { allocation: Some(0), ..Contexts::default() }));
}

#[test]
fn a_client_makes_do_with_less() {
    let (offer, _) = meet("a", &[OPT_EXTENDED_HEADERS]);
    assert_eq!(offer.unwrap().mode, Mode::Structured);
    let offer = meet("a", &[OPT_EXTENDED_HEADERS, OPT_STRUCTURED_REPLY]).0.unwrap();
    assert_eq!((offer.mode, offer.allocation), (Mode::Simple, None));
    let offer = meet("a", &[OPT_SET_META_CONTEXT]).0.unwrap();
    assert_eq!((offer.mode, offer.allocation), (Mode::Extended, None));
    let offer = meet("a", &[OPT_EXTENDED_HEADERS, OPT_STRUCTURED_REPLY, OPT_GO]).0.unwrap();
    assert_eq!((offer.size, offer.mode), (1 << 40, Mode::Simple));
}

#[test]
fn a_client_of_simple_replies_asks_for_no_more() {
    for refused in [&[][..], &[OPT_GO]] {
        let c = client::Handshake::new("a").unwrap().simple();
        let (offer, session) = meet_as(c, refused);
        let offer = offer.unwrap();
        assert_eq!((offer.size, offer.mode, offer.allocation), (1 << 40, Mode::Simple, None));
        assert_eq!(offer.flags & (TF_HAS_FLAGS | TF_SEND_FLUSH), TF_HAS_FLAGS | TF_SEND_FLUSH);
        assert!(session.is_none_or(|s| s == (Mode::Simple, Contexts::default())));
    }
}

#[test]
fn an_export_that_is_not_there() {
    let e = meet("c", &[]).0.unwrap_err();
    assert_eq!(e.text, "Requested export not available");
    assert_eq!(e.hint.as_deref(), Some("server reported: export 'c' not present"));
    assert_eq!(
        client::Handshake::new(&"x".repeat(4097)).err().unwrap().text,
        "export name too long to send to server"
    );
}

/// Feeds one option to a server; its answers as (kind, data).
fn option(s: &mut server::Handshake, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut head = Vec::from(OPTS_MAGIC.to_be_bytes());
    head.extend(option.to_be_bytes());
    head.extend((data.len() as u32).to_be_bytes());
    let mut out = Vec::new();
    s.feed(&head, &Two, &mut out).unwrap();
    let mut data = data;
    while !data.is_empty() {
        let (now, rest) = data.split_at(s.want());
        s.feed(now, &Two, &mut out).unwrap();
        data = rest;
    }
    let mut answers = Vec::new();
    let mut at = &out[..];
    while !at.is_empty() {
        let len = be32(at, 16) as usize;
        assert_eq!((be64(at, 0), be32(at, 8)), (OPTION_REPLY_MAGIC, option));
        answers.push((be32(at, 12), at[20..20 + len].to_vec()));
        at = &at[20 + len..];
    }
    answers
}

fn begun() -> server::Handshake {
    let mut s = server::Handshake::default();
    s.feed(&3u32.to_be_bytes(), &Two, &mut Vec::new()).unwrap();
    s
}

#[test]
fn the_server_answers_each_option() {
    let mut s = begun();
    let kinds = |a: Vec<(u32, Vec<u8>)>| a.into_iter().map(|(k, _)| k).collect::<Vec<_>>();
    let list = option(&mut s, OPT_LIST, &[]);
    assert_eq!(list[0], (REP_SERVER, b"\0\0\0\x01afirst".to_vec()));
    assert_eq!(kinds(list), [REP_SERVER, REP_SERVER, REP_ACK]);
    assert_eq!(kinds(option(&mut s, OPT_LIST, b"x")), [REP_ERR_INVALID]);
    assert_eq!(kinds(option(&mut s, 77, b"what")), [REP_ERR_UNSUP]);
    assert_eq!(kinds(option(&mut s, OPT_STARTTLS, &[])), [REP_ERR_POLICY]);
    assert_eq!(kinds(option(&mut s, OPT_GO, b"\xff\xff\xff\xffx")), [REP_ERR_INVALID]);
    assert_eq!(kinds(option(&mut s, OPT_INFO, b"\0\0\0\x01z\0\0")), [REP_ERR_UNKNOWN]);
    assert_eq!(kinds(option(&mut s, OPT_INFO, b"\0\0\0\x01a\0\0")), [REP_INFO, REP_INFO, REP_ACK]);
    let all = option(&mut s, OPT_INFO, b"\0\0\0\x01a\0\x02\0\x01\0\x02");
    assert_eq!(kinds(all), [REP_INFO, REP_INFO, REP_INFO, REP_INFO, REP_ACK]);
    let query = b"\0\0\0\x01a\0\0\0\0";
    assert_eq!(kinds(option(&mut s, OPT_LIST_META_CONTEXT, query)), [REP_ERR_INVALID]);
    assert_eq!(kinds(option(&mut s, OPT_STRUCTURED_REPLY, &[])), [REP_ACK]);
    assert_eq!(
        kinds(option(&mut s, OPT_LIST_META_CONTEXT, query)),
        [REP_META_CONTEXT, REP_META_CONTEXT, REP_META_CONTEXT, REP_META_CONTEXT, REP_ACK]
    );
    let maps = b"\0\0\0\x01a\0\0\0\x01\0\0\0\x12qemu:dirty-bitmap:";
    assert_eq!(
        kinds(option(&mut s, OPT_LIST_META_CONTEXT, maps)),
        [REP_META_CONTEXT, REP_META_CONTEXT, REP_ACK]
    );
    assert_eq!(kinds(option(&mut s, OPT_SET_META_CONTEXT, maps)), [REP_ACK]);
    let one = b"\0\0\0\x01a\0\0\0\x01\0\0\0\x13qemu:dirty-bitmap:y";
    let told = option(&mut s, OPT_SET_META_CONTEXT, one);
    // Its number does not depend on what else is chosen.
    assert_eq!(told[0].1, b"\0\0\0\x03qemu:dirty-bitmap:y");
    let base = b"\0\0\0\x01a\0\0\0\x01\0\0\0\x05base:";
    assert_eq!(kinds(option(&mut s, OPT_LIST_META_CONTEXT, base)), [REP_META_CONTEXT, REP_ACK]);
    assert_eq!(kinds(option(&mut s, OPT_SET_META_CONTEXT, base)), [REP_ACK]);
    assert_eq!(kinds(option(&mut s, OPT_LIST, &vec![0; MAX_OPTION + 9])), [REP_ERR_TOO_BIG]);
    assert_eq!(kinds(option(&mut s, OPT_EXTENDED_HEADERS, &[])), [REP_ACK]);
    // A block status chooses contexts where there are some to choose from.
    let payload = |s: &mut server::Handshake| {
        let info = option(s, OPT_INFO, b"\0\0\0\x01a\0\0");
        let flags =
            info.iter().find(|(_, b)| b.starts_with(&INFO_EXPORT.to_be_bytes())).unwrap().1[10..].to_vec();
        u16::from_be_bytes([flags[0], flags[1]]) & TF_BLOCK_STATUS_PAYLOAD != 0
    };
    assert!(payload(&mut s));
    assert_eq!(kinds(option(&mut s, OPT_SET_META_CONTEXT, base)), [REP_ACK]);
    assert!(!payload(&mut s));
    assert_eq!(kinds(option(&mut s, OPT_SET_META_CONTEXT, one)), [REP_META_CONTEXT, REP_ACK]);
    assert!(payload(&mut s));
    assert_eq!(kinds(option(&mut s, OPT_STRUCTURED_REPLY, &[])), [REP_ERR_EXT_HEADER_REQD]);
}

#[test]
fn contexts_hold_for_their_export_only() {
    let mut s = begun();
    option(&mut s, OPT_STRUCTURED_REPLY, &[]);
    option(&mut s, OPT_SET_META_CONTEXT, b"\0\0\0\x01a\0\0\0\x01\0\0\0\x0fbase:allocation");
    let mut head = Vec::from(OPTS_MAGIC.to_be_bytes());
    head.extend(OPT_GO.to_be_bytes());
    head.extend(7u32.to_be_bytes());
    s.feed(&head, &Two, &mut Vec::new()).unwrap();
    match s.feed(b"\0\0\0\x01b\0\0", &Two, &mut Vec::new()).unwrap() {
        Step::Begin(b) => assert!(b.contexts.is_empty() && b.export == "b"),
        _ => panic!("transmission does not begin"),
    }
}

#[test]
fn errors_on_the_wire() {
    assert_eq!([Errno::PERM, Errno::ROFS, Errno::NOSPC, Errno::NOMEDIUM].map(to_wire), [1, 1, 28, 5]);
    assert_eq!((from_wire(28), from_wire(4711)), (Errno::NOSPC, Errno::INVAL));
}

fn mode() -> impl Strategy<Value = Mode> {
    prop::sample::select(vec![Mode::Simple, Mode::Structured, Mode::Extended])
}

#[test]
fn nothing_happens_before_tls() {
    let mut s = server::Handshake::with_tls();
    s.feed(&3u32.to_be_bytes(), &Two, &mut Vec::new()).unwrap();
    let ask = |s: &mut server::Handshake, option: u32| {
        let mut head = Vec::from(OPTS_MAGIC.to_be_bytes());
        head.extend(option.to_be_bytes());
        head.extend(0u32.to_be_bytes());
        let mut out = Vec::new();
        let step = s.feed(&head, &Two, &mut out);
        (step, be32(&[&out[..], &[0; 20]].concat(), 12))
    };
    for option in [OPT_LIST, OPT_STRUCTURED_REPLY, OPT_GO, 77] {
        assert!(matches!(ask(&mut s, option), (Ok(Step::More), REP_ERR_TLS_REQD)), "{option}");
    }
    assert!(matches!(ask(&mut s, OPT_STARTTLS), (Ok(Step::StartTls), REP_ACK)));
    assert!(matches!(ask(&mut s, OPT_STARTTLS), (Ok(Step::More), REP_ERR_INVALID)));
    assert!(matches!(ask(&mut s, OPT_STRUCTURED_REPLY), (Ok(Step::More), REP_ACK)));
    // The old way to choose an export cannot be answered, so it ends the connection.
    let mut s = server::Handshake::with_tls();
    s.feed(&3u32.to_be_bytes(), &Two, &mut Vec::new()).unwrap();
    assert!(ask(&mut s, OPT_EXPORT_NAME).0.is_err());
    // A client that wants TLS does not go on without.
    let mut c = client::Handshake::with_tls("a").unwrap();
    let mut out = Vec::new();
    c.feed(&server::Handshake::greeting(), &mut out).unwrap();
    assert_eq!(be32(&out, 12), OPT_STARTTLS);
    let mut no = Vec::from(OPTION_REPLY_MAGIC.to_be_bytes());
    no.extend(OPT_STARTTLS.to_be_bytes());
    no.extend(REP_ERR_POLICY.to_be_bytes());
    no.extend(0u32.to_be_bytes());
    assert!(c.feed(&no, &mut out).is_err());
}

proptest! {
    #[test]
    fn requests_come_back(mode in mode(), flags: u16, kind: u16, cookie: u64, offset: u64, len: u32) {
        let r = Request { flags, kind, cookie, offset, len: len.into() };
        let mut b = Vec::new();
        r.put(mode, &mut b);
        prop_assert_eq!(b.len(), Request::header_len(mode));
        prop_assert_eq!(Request::parse(mode, &b), Ok(r));
        b[0] ^= 1;
        prop_assert!(Request::parse(mode, &b).is_err());
    }

    #[test]
    fn replies_come_back(mode in mode(), cookie: u64, fails: bool) {
        let req = Request { cookie, ..Request::default() };
        let mut b = Vec::new();
        put_done(&mut b, mode, &req, if fails { Err(Errno::NOSPC) } else { Ok(()) });
        let n = reply_len(mode, &b);
        match Reply::parse(mode, &b[..n]).unwrap() {
            Reply::Simple { cookie: c, error } => prop_assert_eq!((c, error), (cookie, if fails { 28 } else { 0 })),
            Reply::Chunk { flags, kind, cookie: c, len } => {
                prop_assert_eq!((flags, c, len as usize), (REPLY_FLAG_DONE, cookie, b.len() - n));
                prop_assert_eq!(kind == REPLY_ERROR, fails);
                if fails {
                    prop_assert_eq!(parse_error(&b[n..]).unwrap().0, 28);
                }
            }
        }
    }

    #[test]
    fn extents_come_back(
        extended: bool,
        lens in prop::collection::vec((1u64..1 << 33, 0u64..4), 1..20),
    ) {
        let mode = if extended { Mode::Extended } else { Mode::Structured };
        let extents: Vec<Extent> = lens.iter().map(|&(len, flags)| Extent { len, flags }).collect();
        let mut b = Vec::new();
        put_status(&mut b, mode, 0, &Request::default(), 7, &extents, 512);
        let n = reply_len(mode, &b);
        let kind = if extended { REPLY_BLOCK_STATUS_EXT } else { REPLY_BLOCK_STATUS };
        let (id, back) = parse_status(kind, &b[n..]).unwrap();
        prop_assert_eq!(id, 7);
        for (a, b) in extents.iter().zip(&back) {
            prop_assert_eq!(a.flags, b.flags);
            prop_assert!(a.len == b.len || (!extended && b.len < a.len && b.len % 512 == 0));
        }
        let cut = extents.iter().position(|e| !extended && e.len > u64::from(u32::MAX));
        prop_assert_eq!(back.len(), cut.map_or(extents.len(), |c| c + 1));
    }

    #[test]
    fn rubbish_is_survived(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..12),
        real in prop::collection::vec((1u32..12, prop::collection::vec(any::<u8>(), 0..40)), 0..6),
    ) {
        let mut bytes = 3u32.to_be_bytes().to_vec();
        for (option, data) in real {
            bytes.extend(OPTS_MAGIC.to_be_bytes());
            bytes.extend(option.to_be_bytes());
            bytes.extend((data.len() as u32).to_be_bytes());
            bytes.extend(data);
        }
        bytes.extend(chunks.concat());
        let mut s = server::Handshake::default();
        let (mut at, mut out) = (&bytes[..], Vec::new());
        while at.len() >= s.want() {
            let (now, rest) = at.split_at(s.want());
            at = rest;
            match s.feed(now, &Two, &mut out) {
                Ok(Step::More) => {}
                _ => break,
            }
        }
        let mut c = client::Handshake::new("a").unwrap();
        let (mut at, mut out) = (&bytes[..], Vec::new());
        while at.len() >= c.want() {
            let (now, rest) = at.split_at(c.want());
            at = rest;
            match c.feed(now, &mut out) {
                Ok(client::Step::More) => {}
                _ => break,
            }
        }
        for kind in [REPLY_BLOCK_STATUS, REPLY_BLOCK_STATUS_EXT] {
            _ = parse_status(kind, &bytes);
        }
        _ = parse_error(&bytes);
    }
}

#[test]
fn another_context() {
    let ask = |name: &str| {
        let c = client::Handshake::new("a").unwrap().with_context(name).unwrap();
        meet_as(c, &[]).0.unwrap().allocation
    };
    assert!(ask("qemu:dirty-bitmap:y").is_some() && ask("qemu:allocation-depth").is_some());
    assert_eq!((ask("qemu:dirty-bitmap:z"), ask("y")), (None, None));
    let long = client::Handshake::new("a").unwrap().with_context(&"x".repeat(4097)).err().unwrap();
    assert_eq!(long.text, "x-dirty-bitmap query too long to send to server");
}
