//! NBD over TLS: our server with our client and with other people's, and our client at the reference's server.

mod common;

use block::{Perm, RootConfig};
use common::Bed;
use mem::IoBuf;
use std::process::{Child, Command, Output};
use std::time::Duration;

const LEN: usize = 3 << 20;

/// Certificates of one authority, and a shared key, in the directory of `bed`.
fn credentials(bed: &Bed) -> bool {
    let script = r#"
        set -e
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca-key.pem -out ca-cert.pem -subj /CN=ca -days 2 \
            -addext keyUsage=critical,keyCertSign
        for n in server client; do
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $n-key.pem -out $n.csr -subj "/C=GB/O=Rhea/CN=$n"
            printf "subjectAltName=DNS:localhost\nextendedKeyUsage=${n}Auth\nkeyUsage=critical,digitalSignature,keyEncipherment\n" > ext
            openssl x509 -req -in $n.csr -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial -days 2 -extfile ext -out $n-cert.pem
        done"#;
    std::fs::write(bed.dir.join("keys.psk"), "qemu:00112233445566778899aabbccddeeff\n").unwrap();
    let done = Command::new("sh").args(["-c", script]).current_dir(&bed.dir).output();
    let ok = done.is_ok_and(|o| o.status.success());
    if !ok {
        println!("skipped: openssl cannot make certificates");
    }
    ok
}

/// A server with the credentials `creds` for the file `f`, whose bytes are returned.
async fn serve(bed: &Bed, more: &str) -> Vec<u8> {
    let model = bed.file("f", LEN);
    bed.add("{'driver':'file','node-name':'f','filename':'@f'}").await;
    bed.try_listen("'path':'@s','type':'unix'", more).await.unwrap();
    bed.export("'id':'e','node-name':'f','name':'x','writable':true").await;
    model
}

async fn client(bed: &Bed, more: &str) -> Result<(), String> {
    let server = "'server':{'type':'unix','path':'@s'}";
    bed.try_add(&format!("{{'driver':'nbd','node-name':'c','export':'x',{server}{more}}}")).await
}

/// Reads and writes through the client node, and takes it down.
async fn works(bed: &Bed, model: &[u8]) {
    let config = RootConfig { perm: Perm::all(), shared: Perm::all(), ..RootConfig::default() };
    let root = bed.graph.attach("c", config).await.unwrap();
    let all = IoBuf::zeroed(model.len());
    root.read(0, all.clone()).await.unwrap();
    assert!(all.to_vec() == model);
    root.write(100_000, IoBuf::from_bytes(&[7; 100_000]), Default::default()).await.unwrap();
    let part = IoBuf::zeroed(100_000);
    root.read(100_000, part.clone()).await.unwrap();
    assert!(part.to_vec() == [7; 100_000]);
    root.write(100_000, IoBuf::from_bytes(&model[100_000..200_000]), Default::default()).await.unwrap();
    root.flush().await.unwrap();
    root.detach().await;
    bed.graph.del("c").await.unwrap();
}

/// Runs a program; `None` where it is missing.
async fn run(program: &str, args: Vec<String>) -> Option<Output> {
    let name = program.to_owned();
    let out = rt::unblock(move || Command::new(name).args(args).output()).await;
    if out.is_err() {
        println!("skipped: {program} is not installed");
    }
    out.ok()
}

fn words(line: &str, bed: &Bed) -> Vec<String> {
    line.split_whitespace().map(|w| w.replace('@', &bed.path(""))).collect()
}

#[test]
fn certificates_and_who_may_come() {
    rt::block_on(async {
        let bed = Bed::new("tls-x509");
        if !credentials(&bed) {
            return;
        }
        bed.object("{'qom-type':'tls-creds-x509','id':'srv','dir':'@','endpoint':'server'}");
        bed.object("{'qom-type':'tls-creds-x509','id':'cli','dir':'@'}");
        bed.object(
            "{'qom-type':'authz-list','id':'who','rules':[{'match':'CN=client,O=Rhea,*','policy':'allow','format':'glob'}]}",
        );
        bed.object("{'qom-type':'authz-simple','id':'nobody','identity':'CN=somebody else'}");
        for (more, text) in [
            (",'tls-creds':'zz'", "No TLS credentials with id 'zz'"),
            (",'tls-creds':'cli'", "Expected TLS credentials for a server endpoint"),
            (",'tls-creds':'srv','tls-authz':'zz'", "Unable to find authz object 'zz'"),
            (",'tls-authz':'who'", "'tls-authz' needs 'tls-creds'"),
        ] {
            assert_eq!(bed.try_listen("'path':'@s','type':'unix'", more).await.unwrap_err(), text);
        }
        let model = serve(&bed, ",'tls-creds':'srv','tls-authz':'who'").await;
        let text = client(&bed, ",'tls-creds':'srv'").await.unwrap_err();
        assert_eq!(text, "Expected TLS credentials for a client endpoint");
        let text = client(&bed, ",'tls-creds':'cli'").await.unwrap_err();
        assert!(text.contains("'tls-hostname'"), "{text}");
        let text = client(&bed, ",'tls-creds':'cli','tls-hostname':'elsewhere'").await.unwrap_err();
        assert_eq!(text, "Certificate does not match the hostname elsewhere");
        assert_eq!(client(&bed, "").await.unwrap_err(), "TLS negotiation required before option 7 (go)");
        client(&bed, ",'tls-creds':'cli','tls-hostname':'localhost'").await.unwrap();
        works(&bed, &model).await;

        let nbds =
            format!("{}&tls-certificates={}", bed.uri("x").replace("nbd+", "nbds+"), bed.dir.display());
        let img = "convert --object tls-creds-x509,id=t,dir=@,endpoint=client --image-opts \
                   driver=nbd,server.type=unix,server.path=@s,export=x,tls-creds=t,tls-hostname=localhost -O raw @out";
        if let Some(o) = run("qemu-img", words(img, &bed)).await {
            assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
            assert!(std::fs::read(bed.dir.join("out")).unwrap() == model);
        }
        // Not for the name of the socket: this program cannot be told another.
        if let Some(o) = run("nbdinfo", vec![format!("{nbds}&tls-verify-peer=false")]).await {
            let text = String::from_utf8_lossy(&o.stdout);
            assert!(text.contains("TLS") && text.contains("export-size: 3145728"), "{text}");
        }
        if let Some(o) = run("nbdinfo", vec![bed.uri("x")]).await {
            assert!(!o.status.success(), "a client without TLS got in");
        }

        bed.exports.stop_server().await.unwrap();
        let listen = ",'tls-creds':'srv','tls-authz':'nobody'";
        bed.try_listen("'path':'@s','type':'unix'", listen).await.unwrap();
        bed.export("'id':'e','node-name':'f','name':'x','writable':true").await;
        assert!(client(&bed, ",'tls-creds':'cli','tls-hostname':'localhost'").await.is_err());
        bed.end().await;
    });
}

#[test]
fn shared_keys_and_anonymous() {
    rt::block_on(async {
        for kind in ["psk", "anon"] {
            let bed = Bed::new(&format!("tls-{kind}"));
            std::fs::write(bed.dir.join("keys.psk"), "qemu:00112233445566778899aabbccddeeff\n").unwrap();
            let dir = if kind == "psk" { ",'dir':'@'" } else { "" };
            bed.object(&format!("{{'qom-type':'tls-creds-{kind}','id':'srv','endpoint':'server'{dir}}}"));
            bed.object(&format!("{{'qom-type':'tls-creds-{kind}','id':'cli'{dir}}}"));
            let model = serve(&bed, ",'tls-creds':'srv'").await;
            client(&bed, ",'tls-creds':'cli'").await.unwrap();
            works(&bed, &model).await;
            let dir = if kind == "psk" { ",dir=@" } else { "" };
            let img = format!(
                "convert --object tls-creds-{kind},id=t,endpoint=client{dir} --image-opts \
                 driver=nbd,server.type=unix,server.path=@s,export=x,tls-creds=t -O raw @out"
            );
            if let Some(o) = run("qemu-img", words(&img, &bed)).await {
                assert!(o.status.success(), "{kind}: {}", String::from_utf8_lossy(&o.stderr));
                assert!(std::fs::read(bed.dir.join("out")).unwrap() == model);
            }
            if kind == "psk" {
                let uri = format!(
                    "{}&tls-psk-file={}",
                    bed.uri("x").replace("nbd+unix://", "nbds+unix://qemu@"),
                    bed.path("keys.psk")
                );
                if let Some(o) = run("nbdcopy", vec![uri, bed.path("copy")]).await {
                    assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
                    assert!(std::fs::read(bed.dir.join("copy")).unwrap() == model);
                }
            }
            bed.end().await;
        }
    });
}

/// A process that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

#[test]
fn our_client_at_the_references_server() {
    rt::block_on(async {
        let bed = Bed::new("tls-theirs");
        if !credentials(&bed) {
            return;
        }
        let model = bed.file("f", LEN);
        for kind in ["x509", "psk", "anon"] {
            let dir = if kind == "anon" { "" } else { ",dir=@" };
            let line = format!(
                "--object tls-creds-{kind},id=t,endpoint=server{dir} --tls-creds t -f raw -x x -k @s -t -e 4 @f"
            );
            let Ok(child) = Command::new("qemu-nbd").args(words(&line, &bed)).spawn() else {
                println!("skipped: qemu-nbd is not installed");
                break;
            };
            let server = Server(child);
            for _ in 0..200 {
                if bed.dir.join("s").exists() {
                    break;
                }
                rt::sleep(Duration::from_millis(20)).await;
            }
            let dir = if kind == "anon" { "" } else { ",'dir':'@'" };
            bed.object(&format!("{{'qom-type':'tls-creds-{kind}','id':'{kind}'{dir}}}"));
            let host = if kind == "x509" { ",'tls-hostname':'localhost'" } else { "" };
            client(&bed, &format!(",'tls-creds':'{kind}'{host}"))
                .await
                .unwrap_or_else(|e| panic!("{kind}: {e}"));
            works(&bed, &model).await;
            drop(server);
            _ = std::fs::remove_file(bed.dir.join("s"));
        }
        bed.end().await;
    });
}
