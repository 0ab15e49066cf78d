//! The drivers at servers that behave, and at others.

mod server;

use api::block_core::BlockdevOptions;
use block::{BlockGraph, Perm, Root, RootConfig};
use mem::IoBuf;
use monitor::EventBus;
use qapi::{Value, from_json};
use server::{Request, Server, certificate, noise, proper};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

const LEN: usize = (1 << 20) + 100;

fn opt(text: &str) -> BlockdevOptions {
    Value::parse_json(text).and_then(from_json).unwrap()
}

fn graph() -> Arc<BlockGraph> {
    let drivers: Vec<_> = block_http::DRIVERS.iter().chain(block::testing::DRIVERS).copied().collect();
    BlockGraph::new(&drivers, EventBus::new())
}

/// Opens, and runs `f` with a reader.
fn with_reader<T>(url: &str, more: &str, f: impl AsyncFnOnce(Arc<Root>) -> T) -> Result<T, String> {
    rt::block_on(async {
        let g = graph();
        let scheme = url.split("://").next().unwrap();
        let options = format!("{{'driver':'{scheme}','node-name':'h','read-only':true,'url':'{url}'{more}}}");
        g.add(opt(&options)).await.map_err(|e| e.desc().to_owned())?;
        let config = RootConfig { perm: Perm::CONSISTENT_READ, shared: Perm::all(), ..RootConfig::default() };
        let root = g.attach("h", config).await.unwrap();
        let done = f(root.clone()).await;
        root.detach().await;
        g.close_all().await;
        Ok(done)
    })
}

async fn read(root: &Root, off: usize, len: usize) -> Result<Vec<u8>, base::Errno> {
    let buf = IoBuf::from_bytes(&vec![0xee; len]);
    root.read(off as u64, buf.clone()).await.map(|()| buf.to_vec())
}

/// What opening says, and what reading 16 bytes at 1000 then gives.
fn tried(url: &str, more: &str) -> Result<bool, String> {
    with_reader(url, more, async |root| read(&root, 1000, 16).await.is_ok())
}

#[test]
fn bytes_come_as_they_are() {
    let data = noise(LEN);
    let served = data.clone();
    let s = Server::new(move |r, out| proper(&served, r, out));
    let whole = with_reader(&s.url("/a?b=c"), "", async |root| {
        assert_eq!(root.len(), LEN as u64 + 412);
        for (off, len) in
            [(0, 1), (1, 511), (4095, 2), (300_000, 5000), (LEN - 1, 1), (LEN - 100, 100), (1 << 19, 1 << 19)]
        {
            assert_eq!(read(&root, off, len).await.unwrap(), data[off..off + len], "{off} {len}");
        }
        // Behind the end up to the sector's.
        let end = read(&root, LEN - 1, 413).await.unwrap();
        assert_eq!((end[0], &end[1..]), (data[LEN - 1], &[0; 412][..]));
        read(&root, 0, LEN).await.unwrap()
    });
    assert!(whole.unwrap() == data);
    assert_eq!(s.count("HEAD"), 1);
    assert!(s.seen.lock().unwrap().iter().all(|r| r.target == "/a?b=c"));
}

#[test]
fn small_reads_are_read_ahead_and_large_ones_run_together() {
    let data = noise(LEN);
    let served = data.clone();
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (n, m) = (now.clone(), most.clone());
    let s = Server::new(move |r, out| {
        if r.target != "/slow" || r.method == "HEAD" {
            return proper(&served, r, out);
        }
        m.fetch_max(n.fetch_add(1, SeqCst) + 1, SeqCst);
        std::thread::sleep(Duration::from_millis(50));
        let on = proper(&served, r, out);
        n.fetch_sub(1, SeqCst);
        on
    });
    with_reader(&s.url("/x"), ",'readahead':131072", async |root| {
        for i in 0..256 {
            assert_eq!(read(&root, i * 4096, 4096).await.unwrap(), data[i * 4096..(i + 1) * 4096]);
        }
    })
    .unwrap();
    // 1 MiB in pieces of 132 KiB.
    assert_eq!(s.count("GET"), 8);
    // Nothing is read ahead: each read is a request.
    with_reader(&s.url("/x"), ",'readahead':0", async |root| {
        for i in 0..8 {
            read(&root, i * 512, 512).await.unwrap();
        }
    })
    .unwrap();
    assert_eq!(s.count("GET"), 16);
    with_reader(&s.url("/slow"), ",'readahead':0", async |root| {
        let all: Vec<_> = (0..24)
            .map(|i| {
                let root = root.clone();
                rt::spawn_local(async move { read(&root, i * 20_000, 20_000).await.unwrap() })
            })
            .collect();
        for (i, one) in all.into_iter().enumerate() {
            assert!(one.await == data[i * 20_000..(i + 1) * 20_000]);
        }
    })
    .unwrap();
    let most = most.load(SeqCst);
    assert!((2..=8).contains(&most), "{most}");
}

#[test]
fn why_it_cannot_be_opened() {
    let s = Server::new(|r, out| {
        let status =
            |n: u16, out: &mut dyn Write| write!(out, "HTTP/1.1 {n} x\r\nContent-Length: 0\r\n\r\n").is_ok();
        match &*r.target {
            "/norange" => write!(out, "HTTP/1.1 200 x\r\nContent-Length: 5\r\n\r\n").is_ok(),
            "/none" => {
                write!(out, "HTTP/1.1 200 x\r\nContent-Length: 5\r\nAccept-Ranges: none\r\n\r\n").is_ok()
            }
            "/nolen" => {
                write!(out, "HTTP/1.1 200 x\r\nAccept-Ranges: bytes\r\n\r\n").unwrap();
                false
            }
            "/badlen" => write!(out, "HTTP/1.1 200 x\r\nContent-Length: -1\r\n\r\n").is_ok(),
            "/rubbish" => write!(out, "SSH-2.0-x\r\n\r\n").is_ok(),
            "/endless" => {
                _ = write!(out, "HTTP/1.1 200 x\r\n");
                // The client goes away.
                while write!(out, "X: {}\r\n", "y".repeat(1000)).and_then(|()| out.flush()).is_ok() {}
                false
            }
            "/promises" => (0..100).all(|_| write!(out, "HTTP/1.1 100 x\r\n\r\n").is_ok()),
            "/loop" => write!(out, "HTTP/1.1 302 x\r\nLocation: loop\r\nContent-Length: 0\r\n\r\n").is_ok(),
            "/nowhere" => write!(out, "HTTP/1.1 302 x\r\nContent-Length: 0\r\n\r\n").is_ok(),
            "/file" => write!(out, "HTTP/1.1 302 x\r\nLocation: file:///etc/passwd\r\n\r\n").is_ok(),
            "/hang" => {
                std::thread::sleep(Duration::from_secs(4));
                false
            }
            // A byte now and then.
            "/drips" => {
                _ = write!(out, "HTTP/1.1 200 x\r\nX: ");
                while write!(out, "y").and_then(|()| out.flush()).is_ok() {
                    std::thread::sleep(Duration::from_millis(50));
                }
                false
            }
            "/huge" => {
                write!(out, "HTTP/1.1 200 x\r\nAccept-Ranges: bytes\r\nContent-Length: {}\r\n\r\n", u64::MAX)
                    .is_ok()
            }
            // Those who may read may not look.
            "/nohead" if r.method == "GET" && r.get("range") == Some("bytes=0-0") => {
                write!(out, "HTTP/1.1 206 x\r\nContent-Range: bytes 0-0/{LEN}\r\nContent-Length: 1\r\n\r\nx")
                    .is_ok()
            }
            "/nohead" => status(405, out),
            "/gone" => false,
            t => status(t[1..].parse().unwrap(), out),
        }
    });
    let start = Instant::now();
    for (path, want) in [
        ("/404", "The requested URL returned error: 404"),
        ("/500", "The requested URL returned error: 500"),
        ("/401", "The requested URL returned error: 401"),
        ("/403", "The requested URL returned error: 403"),
        ("/norange", "Server does not support 'range' (byte ranges)."),
        ("/none", "Server does not support 'range' (byte ranges)."),
        ("/nolen", "Server didn't report file size."),
        ("/badlen", "The server reports a file size that makes no sense"),
        ("/rubbish", "The server does not speak HTTP"),
        ("/endless", "Too large response headers"),
        ("/promises", "The server only promises an answer"),
        ("/loop", "Maximum (20) redirects followed"),
        ("/nowhere", "The server redirects to what is no URL of http or https"),
        ("/file", "The server redirects to what is no URL of http or https"),
        ("/drips", "Too little came within 1 seconds"),
        ("/huge", "The server reports a file size that makes no sense"),
        ("/hang", "Too little came within 1 seconds"),
        ("/gone", "The server ended the connection"),
    ] {
        let e = tried(&s.url(path), ",'timeout':1").unwrap_err();
        assert_eq!(e, format!("CURL: Error opening file: {want}"), "{path}");
    }
    assert!(start.elapsed() < Duration::from_secs(10));
    let len = with_reader(&s.url("/nohead"), "", async |root| root.len());
    assert_eq!(len, Ok(LEN as u64 + 412));
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let e = tried(&format!("http://{closed}/"), "").unwrap_err();
    assert_eq!(e, format!("CURL: Error opening file: Failed to connect to '{closed}': Connection refused"));
}

#[test]
fn options() {
    let url = "http://127.0.0.1:1/";
    for (more, want) in [
        (",'readahead':100", "HTTP_READAHEAD_SIZE 100 is not a multiple of 512"),
        (",'readahead':-512", "HTTP_READAHEAD_SIZE -512 is not a multiple of 512"),
        (",'timeout':10001", "timeout parameter is too large or negative"),
        (",'timeout':-1", "timeout parameter is too large or negative"),
        (",'cookie':'a=b','cookie-secret':'x'", "curl driver cannot handle both cookie and cookie secret"),
        (",'password-secret':'x'", "No secret with id 'x'"),
        (",'cookie':'a\\r\\nHost: b'", "The cookie has a character that cannot be sent"),
    ] {
        assert_eq!(tried(url, more).unwrap_err(), want);
    }
    rt::block_on(async {
        let g = graph();
        let add = async |o: &str| g.add(opt(o)).await.unwrap_err().desc().to_owned();
        let e = add("{'driver':'http','node-name':'h','url':'http://127.0.0.1:1/'}").await;
        assert_eq!(e, "curl driver does not support writes");
        let e = add("{'driver':'https','node-name':'h','read-only':true,'url':'http://h/'}").await;
        assert_eq!(e, "https curl driver cannot handle the URL 'http://h/' (does not start with 'https://')");
        let e = add("{'driver':'http','node-name':'h','read-only':true,'url':'http://'}").await;
        assert_eq!(e, "CURL: Error opening file: URL using bad/illegal format or missing URL");
    });
}

#[test]
fn what_servers_do_to_parts() {
    let data = noise(LEN);
    let served = data.clone();
    let tries = Arc::new(AtomicUsize::new(0));
    let t = tries.clone();
    let s = Server::new(move |r: &Request, out| {
        let Some((a, b)) = r.range(LEN).filter(|_| r.method == "GET") else {
            let tag = if r.target == "/tag" { "ETag: \"1\"\r\n" } else { "" };
            return write!(
                out,
                "HTTP/1.1 200 x\r\nAccept-Ranges: bytes\r\n{tag}Content-Length: {LEN}\r\n\r\n"
            )
            .is_ok();
        };
        let part = &served[a..b];
        let mut say = |range: String, more: &str, len: usize, body: &[u8]| {
            write!(out, "HTTP/1.1 206 x\r\nContent-Range: {range}\r\n{more}Content-Length: {len}\r\n\r\n")
                .unwrap();
            out.write_all(body).unwrap();
        };
        let range = format!("bytes {a}-{}/{LEN}", b - 1);
        match &*r.target {
            "/all" => write!(out, "HTTP/1.1 200 x\r\nContent-Length: {LEN}\r\n\r\n").unwrap(),
            "/other" => say(format!("bytes {}-{b}/{LEN}", a + 1), "", part.len(), part),
            "/norange" => say("x".into(), "", part.len(), part),
            "/grown" => say(format!("bytes {a}-{}/{}", b - 1, LEN + 1), "", part.len(), part),
            "/tag" => say(range, "ETag: \"2\"\r\n", part.len(), part),
            "/gzip" => say(range, "Content-Encoding: gzip\r\n", part.len(), part),
            "/less" => say(range, "", 3, &part[..3]),
            "/more" => say(range, "", part.len() + 1, part),
            "/short" => {
                say(range, "", part.len(), &part[..part.len() / 2]);
                return false;
            }
            "/chunked" => {
                write!(out, "HTTP/1.1 206 x\r\nContent-Range: {range}\r\nTransfer-Encoding: chunked\r\n\r\n")
                    .unwrap();
                for c in part.chunks(1000) {
                    write!(out, "{:x};x=y\r\n", c.len()).unwrap();
                    out.write_all(c).unwrap();
                    out.write_all(b"\r\n").unwrap();
                }
                write!(out, "0\r\nX: y\r\n\r\n").unwrap();
            }
            "/badchunk" => {
                write!(out, "HTTP/1.1 206 x\r\nContent-Range: {range}\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n").unwrap();
            }
            "/fewchunks" => {
                write!(
                    out,
                    "HTTP/1.1 206 x\r\nContent-Range: {range}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
                )
                .unwrap();
            }
            "/toend" => {
                write!(out, "HTTP/1.1 206 x\r\nContent-Range: {range}\r\nConnection: close\r\n\r\n").unwrap();
                out.write_all(part).unwrap();
                return false;
            }
            // Ends each connection without saying so.
            "/ends" => {
                say(range, "", part.len(), part);
                return false;
            }
            // Works the third time.
            "/busy" if t.fetch_add(1, SeqCst) % 3 != 2 => {
                write!(out, "HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n").unwrap();
            }
            _ => say(range, "", part.len(), part),
        }
        true
    });
    for path in ["/chunked", "/toend", "/ends", "/busy", "/fine"] {
        let got = with_reader(&s.url(path), ",'readahead':4096", async |root| {
            let mut all = Vec::new();
            for at in [0, 100_000, 5000, 300_000] {
                all.push((at, read(&root, at, 3000).await));
                all.push((at, read(&root, at, 9000).await));
            }
            all
        });
        for (at, bytes) in got.unwrap() {
            let bytes = bytes.unwrap();
            assert_eq!(bytes, data[at..at + bytes.len()], "{path} {at}");
        }
    }
    for path in
        ["/all", "/other", "/norange", "/grown", "/tag", "/gzip", "/less", "/more", "/badchunk", "/fewchunks"]
    {
        assert_eq!(tried(&s.url(path), ",'readahead':0"), Ok(false), "{path}");
    }
    let before = s.count("GET");
    assert_eq!(tried(&s.url("/short"), ",'readahead':0"), Ok(false));
    assert_eq!(s.count("GET") - before, 4);
}

#[test]
fn redirects_take_no_secrets_elsewhere() {
    let data = noise(LEN);
    let served = data.clone();
    let far = Server::new(move |r, out| proper(&served, r, out));
    let to = far.url("/there");
    let expired = Arc::new(AtomicUsize::new(0));
    let e = expired.clone();
    let s = Server::new(move |r, out| {
        let n = e.fetch_add(1, SeqCst);
        match &*r.target {
            "/far" => write!(
                out,
                "HTTP/1.1 307 x\r\nLocation: {to}\r\nContent-Length: 3\r\n\r\n{}",
                if r.method == "GET" { "abc" } else { "" }
            )
            .unwrap(),
            // What it leads to is there for one request.
            "/once" => {
                write!(out, "HTTP/1.1 302 x\r\nLocation: /s/{n}\r\nContent-Length: 0\r\n\r\n").unwrap()
            }
            t if t == format!("/s/{}", n - 1) => return proper(&data, r, out),
            _ => write!(out, "HTTP/1.1 403 x\r\nContent-Length: 0\r\n\r\n").unwrap(),
        }
        true
    });
    let more = ",'username':'u','cookie':'a=b','readahead':0";
    assert_eq!(tried(&s.url("/far"), more), Ok(true));
    assert!(
        s.seen
            .lock()
            .unwrap()
            .iter()
            .all(|r| r.get("authorization") == Some("Basic dTo=") && r.get("cookie") == Some("a=b"))
    );
    let seen = far.seen.lock().unwrap();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|r| r.get("authorization").is_none() && r.get("cookie").is_none()));
    assert_eq!(tried(&s.url("/once"), more), Ok(true));
}

#[test]
fn tls() {
    let data = noise(LEN);
    let pair = certificate();
    let (served, plain) = (data.clone(), data.clone());
    let open = Server::new(move |r, out| proper(&plain, r, out));
    let to = open.url("/");
    let s = Server::tls(&pair, move |r, out| match &*r.target {
        "/down" => write!(out, "HTTP/1.1 301 x\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n").is_ok(),
        _ => proper(&served, r, out),
    });
    let e = tried(&s.url("/"), "").unwrap_err();
    assert!(e.starts_with("CURL: Error opening file: TLS handshake failed: self-signed certificate"), "{e}");
    let got = with_reader(&s.url("/"), ",'sslverify':false", async |root| read(&root, 0, LEN).await.unwrap());
    assert!(got.unwrap() == data);
    let e = tried(&s.url("/down"), ",'sslverify':false").unwrap_err();
    assert_eq!(e, "CURL: Error opening file: The server redirects from https to http");
    // Not the same protocol at both ends.
    let e = tried(&open.url("/").replace("http:", "https:"), ",'timeout':2").unwrap_err();
    assert!(e.starts_with("CURL: Error opening file: "), "{e}");
}
