//! A web server for tests, whose answers a closure writes: also wrong ones.

#![allow(dead_code)] // Each test uses its part.

use openssl::asn1::Asn1Time;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::ssl::{SslAcceptor, SslMethod};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509NameBuilder};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    /// Names in lower case.
    pub fields: Vec<(String, String)>,
}

impl Request {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The first byte that is asked for, and the one behind the last.
    pub fn range(&self, len: usize) -> Option<(usize, usize)> {
        let (a, b) = self.get("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((a.parse().unwrap(), (b.parse::<usize>().unwrap() + 1).min(len)))
    }
}

/// Where an answer goes.
pub type Out<'a> = &'a mut dyn Write;

/// What writes answers; whether the connection goes on.
pub type Answer = dyn Fn(&Request, Out<'_>) -> bool + Send + Sync;

pub struct Server {
    pub port: u16,
    tls: bool,
    /// All requests so far.
    pub seen: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Serves until the test ends.
    pub fn new(answer: impl Fn(&Request, Out<'_>) -> bool + Send + Sync + 'static) -> Server {
        Server::start(None, Arc::new(answer))
    }

    /// The same with TLS.
    pub fn tls(
        (cert, key): &(X509, PKey<Private>),
        answer: impl Fn(&Request, Out<'_>) -> bool + Send + Sync + 'static,
    ) -> Server {
        let mut b = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
        b.set_certificate(cert).unwrap();
        b.set_private_key(key).unwrap();
        Server::start(Some(b.build()), Arc::new(answer))
    }

    fn start(tls: Option<SslAcceptor>, answer: Arc<Answer>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (log, is_tls) = (seen.clone(), tls.is_some());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (log, answer, tls) = (log.clone(), answer.clone(), tls.clone());
                std::thread::spawn(move || {
                    let stream = stream.unwrap();
                    match tls {
                        None => serve(stream, &log, &*answer),
                        Some(t) => {
                            if let Ok(s) = t.accept(stream) {
                                serve(s, &log, &*answer);
                            }
                        }
                    }
                });
            }
        });
        Server { port, tls: is_tls, seen }
    }

    pub fn url(&self, path: &str) -> String {
        let s = if self.tls { "s" } else { "" };
        format!("http{s}://127.0.0.1:{}{path}", self.port)
    }

    /// How many requests with this method there were.
    pub fn count(&self, method: &str) -> usize {
        self.seen.lock().unwrap().iter().filter(|r| r.method == method).count()
    }
}

fn serve(mut stream: impl Read + Write, log: &Mutex<Vec<Request>>, answer: &Answer) {
    while let Some(request) = head(&mut stream) {
        log.lock().unwrap().push(request.clone());
        let mut out = Vec::new();
        // A closure may write piece by piece by flushing.
        let mut sink = Sink { stream: &mut stream, out: &mut out };
        let on = answer(&request, &mut sink);
        if sink.flush().is_err() || !on {
            return;
        }
    }
}

struct Sink<'a, S: Write> {
    stream: &'a mut S,
    out: &'a mut Vec<u8>,
}

impl<S: Write> Write for Sink<'_, S> {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.out.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let done = self.stream.write_all(self.out).and_then(|()| self.stream.flush());
        self.out.clear();
        done
    }
}

fn head(stream: &mut impl Read) -> Option<Request> {
    let mut bytes = Vec::new();
    let mut one = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        if bytes.len() > 1 << 16 || stream.read(&mut one).ok()? == 0 {
            return None;
        }
        bytes.push(one[0]);
    }
    let text = String::from_utf8(bytes).ok()?;
    let mut lines = text.lines();
    let mut words = lines.next()?.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let fields =
        lines.filter_map(|l| l.split_once(": ")).map(|(n, v)| (n.to_ascii_lowercase(), v.to_owned()));
    Some(Request { method, target, fields: fields.collect() })
}

/// Answers as one should. Whether the connection goes on.
pub fn proper(data: &[u8], r: &Request, out: Out<'_>) -> bool {
    match r.range(data.len()).filter(|_| r.method == "GET") {
        Some((a, b)) => {
            let part = &data[a..b];
            let last = b - 1;
            write!(
                out,
                "HTTP/1.1 206 x\r\nContent-Range: bytes {a}-{last}/{}\r\nContent-Length: {}\r\n\r\n",
                data.len(),
                part.len()
            )
            .unwrap();
            out.write_all(part).unwrap();
        }
        None => {
            write!(out, "HTTP/1.1 200 x\r\nAccept-Ranges: bytes\r\nContent-Length: {}\r\n\r\n", data.len())
                .unwrap();
            if r.method == "GET" {
                out.write_all(data).unwrap();
            }
        }
    }
    true
}

/// A certificate for 127.0.0.1 that nobody has signed but itself, and its key.
pub fn certificate() -> (X509, PKey<Private>) {
    let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", "test").unwrap();
    let name = name.build();
    let mut b = X509::builder().unwrap();
    b.set_version(2).unwrap();
    b.set_subject_name(&name).unwrap();
    b.set_issuer_name(&name).unwrap();
    b.set_pubkey(&key).unwrap();
    b.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    b.set_not_after(&Asn1Time::days_from_now(2).unwrap()).unwrap();
    b.append_extension(BasicConstraints::new().ca().build().unwrap()).unwrap();
    let alt = SubjectAlternativeName::new().ip("127.0.0.1").build(&b.x509v3_context(None, None)).unwrap();
    b.append_extension(alt).unwrap();
    b.sign(&key, MessageDigest::sha256()).unwrap();
    (b.build(), key)
}

/// Bytes that look random.
pub fn noise(len: usize) -> Vec<u8> {
    let mut x = 0x2545_f491_u32;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        x as u8
    };
    (0..len).map(|_| next()).collect()
}
