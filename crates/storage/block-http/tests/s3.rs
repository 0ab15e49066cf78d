//! `x-rhea-s3` at a small store.

mod server;

use api::block_core::BlockdevOptions;
use block::{BlockGraph, Perm, RootConfig};
use mem::IoBuf;
use monitor::EventBus;
use qapi::{Qapi, Value, from_json};
use qom::ObjectTree;
use server::{Server, noise, proper};
use std::sync::Arc;

fn opt<T: Qapi>(text: &str) -> T {
    Value::parse_json(text).and_then(from_json).unwrap()
}

/// Opens an object and reads some of it.
fn read(options: &str) -> Result<Vec<u8>, String> {
    rt::block_on(async {
        let drivers: Vec<_> = block_http::DRIVERS.iter().chain(block::testing::DRIVERS).copied().collect();
        let g = BlockGraph::new(&drivers, EventBus::new());
        let objects = ObjectTree::new();
        for (id, data) in [("key", "verysecret"), ("token", "to/ken==")] {
            objects.add(&opt(&format!("{{'qom-type':'secret','id':'{id}','data':'{data}'}}"))).unwrap();
        }
        g.set_objects(Arc::new(objects));
        let text =
            format!("{{'driver':'x-rhea-s3','node-name':'s','read-only':true,'anonymous':true,{options}}}");
        g.add(opt::<BlockdevOptions>(&text)).await.map_err(|e| e.desc().to_owned())?;
        let config = RootConfig { perm: Perm::CONSISTENT_READ, shared: Perm::all(), ..RootConfig::default() };
        let root = g.attach("s", config).await.unwrap();
        let buf = IoBuf::zeroed(5000);
        root.read(7000, buf.clone()).await.map_err(|e| e.to_string())?;
        root.detach().await;
        g.close_all().await;
        Ok(buf.to_vec())
    })
}

#[test]
fn objects_are_read_with_signed_requests() {
    let data = noise(100_000);
    let served = data.clone();
    let s = Server::new(move |r, out| {
        let signed = r.get("authorization").is_some_and(|a| {
            a.starts_with("AWS4-HMAC-SHA256 Credential=ID/")
                && a.contains("/here/s3/aws4_request,SignedHeaders=host;")
        });
        let status = match &*r.target {
            "/images/a%20b/%C3%A4.img" if signed => return proper(&served, r, out),
            "/open/x" if r.get("authorization").is_none() => return proper(&served, r, out),
            "/far/x" => "301 x\r\nx-amz-bucket-region: there",
            "/none/x" => "404 x",
            _ => "403 x",
        };
        write!(out, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").is_ok()
    });
    let at = format!("'endpoint':'{}','allow-http':true,'region':'here'", s.url(""));
    let key = "'access-key-id':'ID','secret-key-secret':'key','session-token-secret':'token'";
    let got = read(&format!("{at},{key},'bucket':'images','object':'a b/ä.img'")).unwrap();
    assert!(got == data[7000..12_000]);
    {
        let seen = s.seen.lock().unwrap();
        assert!(seen.len() >= 2);
        for r in &*seen {
            assert!(r.get("x-amz-date").is_some_and(|d| d.len() == 16 && d.ends_with('Z')), "{r:?}");
            assert_eq!(r.get("x-amz-security-token"), Some("to/ken=="));
            let auth = r.get("authorization").unwrap();
            let names = if r.method == "GET" { "host;range;" } else { "host;" };
            let names = format!(
                "SignedHeaders={names}x-amz-content-sha256;x-amz-date;x-amz-security-token,Signature="
            );
            let (_, signature) = auth.split_once(&names).unwrap();
            assert!(signature.len() == 64 && signature.bytes().all(|b| b.is_ascii_hexdigit()), "{auth}");
            assert!(!auth.contains("verysecret"));
        }
        // One for each request.
        assert_ne!(seen[0].get("authorization"), seen[1].get("authorization"));
    }
    assert!(read(&format!("{at},'bucket':'open','object':'x'")).unwrap() == data[7000..12_000]);
    for (bucket, want) in [
        ("none", "The requested URL returned error: 404"),
        ("closed", "The requested URL returned error: 403"),
        ("far", "The bucket is in the region 'there'"),
    ] {
        let e = read(&format!("{at},{key},'bucket':'{bucket}','object':'x'")).unwrap_err();
        assert_eq!(e, format!("Could not open object 'x' in bucket '{bucket}': {want}"));
    }
}
