//! Images on web servers, as users of `rhea img` see them.

mod common;
#[path = "../../block-http/tests/server/mod.rs"]
mod server;

use common::Dir;
use server::{Request, Server, certificate, noise, proper};
use std::collections::HashMap;
use std::process::Command;
use std::sync::{Arc, Mutex};

const TOOL: &str = env!("CARGO_BIN_EXE_image-tool");

fn img_with(env: &[(&str, &str)], args: &[&str]) -> (i32, String, String) {
    let mut c = Command::new(TOOL);
    for name in [
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "no_proxy",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT_URL_S3",
    ] {
        c.env_remove(name);
    }
    let o = c.arg("img").args(args).envs(env.iter().copied()).output().unwrap();
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    (o.status.code().unwrap_or(-1), text(o.stdout), text(o.stderr))
}

fn img(args: &[&str]) -> (i32, String, String) {
    img_with(&[], args)
}

type Files = HashMap<String, Vec<u8>>;

fn files(files: &Files) -> impl Fn(&Request, server::Out<'_>) -> bool + Send + Sync + use<> {
    let files = files.clone();
    move |r, out| match files.get(&r.target) {
        Some(data) => proper(data, r, out),
        None => write!(out, "HTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n").is_ok(),
    }
}

/// A disk with data, holes and odd lengths, as raw bytes and as a compressed qcow2 image with an overlay.
fn disk(d: &Dir) -> (Vec<u8>, Files) {
    let mut raw = vec![0; 24 << 20];
    raw[..3 << 20].copy_from_slice(&noise(3 << 20));
    for i in 0..40 {
        let at = (5 << 20) + i * 300_000;
        raw[at..at + 70_000].fill(i as u8 + 1);
    }
    std::fs::write(d.at("raw"), &raw).unwrap();
    let made = [
        img(&["convert", "-c", "-O", "qcow2", &d.at("raw"), &d.at("base.qcow2")]),
        img(&["create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", &d.at("top.qcow2")]),
    ];
    assert!(made.iter().all(|m| m.0 == 0), "{made:?}");
    let read = |name: &str| std::fs::read(d.at(name)).unwrap();
    let all = [("/d/base.qcow2", "base.qcow2"), ("/d/top.qcow2", "top.qcow2"), ("/raw", "raw")];
    (raw, all.into_iter().map(|(url, name)| (url.to_owned(), read(name))).collect())
}

#[test]
fn a_whole_image_is_converted() {
    let d = Dir::new("convert");
    let (raw, served) = disk(&d);
    let s = Server::new(files(&served));
    // The reason stands beside the number that requests end with.
    let fails = Server::new(|r, out| match r.method.as_str() {
        "HEAD" => {
            write!(out, "HTTP/1.1 200 x\r\nAccept-Ranges: bytes\r\nContent-Length: 5000\r\n\r\n").is_ok()
        }
        _ => write!(out, "HTTP/1.1 402 x\r\nContent-Length: 0\r\n\r\n").is_ok(),
    });
    let (code, _, err) = img(&["info", &fails.url("/x")]);
    let want = format!(
        "rhea img: curl: The requested URL returned error: 402 (reading 5000 bytes at 0 of {})\n\
         rhea img: Could not open '{0}': Could not read image for determining its format: Input/output error\n",
        fails.url("/x")
    );
    assert_eq!((code, err), (1, want));
    for from in ["/d/base.qcow2", "/raw", "/d/top.qcow2"] {
        let to = d.at("copy");
        let (code, out, err) = img(&["convert", "-O", "raw", &s.url(from), &to]);
        assert_eq!(code, 0, "{from}: {out}{err}");
        assert!(std::fs::read(&to).unwrap() == raw, "{from}");
    }
    let (code, out, _) = img(&["info", &s.url("/d/base.qcow2")]);
    assert_eq!(code, 0);
    let url = s.url("/d/base.qcow2");
    for part in
        [format!("image: {url}\nfile format: qcow2\n"), format!("filename: {url}\n    protocol type: http\n")]
    {
        assert!(out.contains(&part), "{out}");
    }
    let text = format!("driver=http,url={},cookie=a=b,timeout=7", s.url("/raw"));
    let (_, out, _) = img(&["info", "--image-opts", &text]);
    let name = format!(
        "image: json:{{\"url\": \"{}\", \"driver\": \"http\", \"cookie\": \"a=b\"}}\n",
        s.url("/raw")
    );
    assert!(out.starts_with(&name), "{out}");
    let (code, _, err) = img(&["info", &s.url("/none")]);
    let want = format!(
        "Could not open '{}': CURL: Error opening file: The requested URL returned error: 404\n",
        s.url("/none")
    );
    assert!(code == 1 && err.ends_with(&want), "{err}");
    let (code, _, err) = img(&["resize", "-f", "raw", &s.url("/raw"), "1M"]);
    assert!(code == 1 && err.contains("curl driver does not support writes"), "{err}");
    let (code, _, err) = img(&["create", "-f", "qcow2", &s.url("/new"), "1M"]);
    assert!(code == 1 && err.ends_with("Protocol driver 'http' does not support image creation\n"), "{err}");
}

#[test]
fn a_certificate_that_the_host_trusts() {
    let d = Dir::new("tls");
    let pair = certificate();
    std::fs::write(d.at("ca.pem"), pair.0.to_pem().unwrap()).unwrap();
    let (_, served) = disk(&d);
    let s = Server::tls(&pair, files(&served));
    let trust = [("SSL_CERT_FILE", &*d.at("ca.pem"))];
    let (code, out, err) = img_with(&trust, &["info", &s.url("/raw")]);
    assert_eq!(code, 0, "{out}{err}");
    let (code, _, err) = img(&["info", &s.url("/raw")]);
    assert!(code == 1 && err.contains("self-signed certificate"), "{err}");
    // By another name than that in the certificate.
    let other = s.url("/raw").replace("127.0.0.1", "localhost");
    let (code, _, err) = img_with(&trust, &["info", &other]);
    assert!(code == 1 && err.contains("Certificate does not match the hostname"), "{err}");
}

#[test]
fn by_way_of_a_proxy() {
    let d = Dir::new("proxy");
    let (_, served) = disk(&d);
    let hidden = Server::tls(&certificate(), files(&served));
    let seen: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
    let log = seen.clone();
    // Answers itself for a host that is not there.
    let raw = served["/raw"].clone();
    let s = Server::new(move |r, out| {
        let auth = r.get("proxy-authorization").unwrap_or("").to_owned();
        log.lock().unwrap().push((format!("{} {}", r.method, r.target), auth));
        match r.target.as_str() {
            "http://images.invalid/raw" => proper(&raw, r, out),
            _ => write!(out, "HTTP/1.1 502 x\r\nContent-Length: 0\r\n\r\n").is_ok(),
        }
    });
    let proxy = format!("http://u:p@127.0.0.1:{}", s.port);
    let env = [("http_proxy", &*proxy), ("https_proxy", &*proxy)];
    let (code, out, err) = img_with(&env, &["info", "http://images.invalid/raw"]);
    assert_eq!(code, 0, "{out}{err}");
    let secret = ["--object", "secret,id=s,data=q", "--image-opts"];
    let text = "driver=http,url=http://images.invalid/raw,proxy-username=v,proxy-password-secret=s";
    let (code, out, err) = img_with(&env, &[&["info"], &secret[..], &[text]].concat());
    assert_eq!(code, 0, "{out}{err}");
    {
        let seen = seen.lock().unwrap();
        assert_eq!(seen[0], ("HEAD http://images.invalid/raw".into(), "Basic dTpw".into()));
        assert!(seen.iter().any(|(_, auth)| auth == "Basic djpx"), "{seen:?}");
    }
    let (code, _, err) = img_with(&env, &["info", &hidden.url("/raw")]);
    assert!(code == 1 && err.contains("CONNECT tunnel failed, response 502"), "{err}");
    let last = seen.lock().unwrap().last().unwrap().0.clone();
    assert_eq!(last, format!("CONNECT 127.0.0.1:{}", hidden.port));
    let plain = Server::new(files(&served));
    let with_exception = [env[0], ("no_proxy", "127.0.0.1")];
    assert_eq!(img_with(&with_exception, &["info", &plain.url("/raw")]).0, 0);
}

#[test]
fn an_object_in_a_store() {
    let d = Dir::new("s3");
    let (raw, served) = disk(&d);
    let image = served["/d/base.qcow2"].clone();
    let s = Server::new(move |r, out| {
        let signed = r.get("authorization").is_some_and(|a| a.starts_with("AWS4-HMAC-SHA256 Credential=ID/"));
        match r.target.as_str() {
            "/images/a/base.qcow2" if signed => proper(&image, r, out),
            _ => write!(out, "HTTP/1.1 403 x\r\nContent-Length: 0\r\n\r\n").is_ok(),
        }
    });
    let env = [
        ("AWS_ENDPOINT_URL", &*s.url("")),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_ACCESS_KEY_ID", "ID"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ];
    let to = d.at("copy");
    let (code, out, err) = img_with(&env, &["convert", "-O", "raw", "s3://images/a/base.qcow2", &to]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(std::fs::read(&to).unwrap() == raw);
    let (code, _, err) = img_with(&env[..2], &["info", "s3://images/a/base.qcow2"]);
    let want =
        "Could not open object 'a/base.qcow2' in bucket 'images': The requested URL returned error: 403\n";
    assert!(code == 1 && err.ends_with(want), "{err}");
    let (code, _, err) = img_with(&env, &["info", "s3:images/x"]);
    assert!(code == 1 && err.contains("'s3:images/x' does not have the form s3://BUCKET/OBJECT"), "{err}");
}
