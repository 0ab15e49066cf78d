use super::*;
use crate::Stream;
use mem::IoBuf;
use std::path::PathBuf;
use std::process::Command;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let d = std::env::temp_dir().join(format!("rhea-tls-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&d).unwrap();
        Dir(d)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Certificates of one authority for `localhost` and for a client; `false` where openssl's tool is missing.
fn certificates(dir: &Dir) -> bool {
    let script = r#"
        set -e
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca-key.pem -out ca-cert.pem -subj /CN=ca -days 2
        for n in server client; do
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $n-key.pem -out $n.csr -subj "/C=GB/O=Rhea, Inc/CN=$n"
            printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\n' > ext
            openssl x509 -req -in $n.csr -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial -days 2 -extfile ext -out $n-cert.pem
        done"#;
    let done = Command::new("sh").args(["-c", script]).current_dir(&dir.0).output();
    let ok = done.is_ok_and(|o| o.status.success());
    if !ok {
        println!("skipped: openssl cannot make certificates");
    }
    ok
}

/// Both ends after the handshake.
async fn meet(
    server: &Credentials,
    client: &Credentials,
    host: &str,
) -> (Result<Stream, String>, Result<Stream, String>) {
    let (a, b) = Stream::pair().unwrap();
    let accepting = async {
        let r = accept(&a, server).await;
        if r.is_err() {
            a.shutdown();
        }
        r
    };
    let connecting = async {
        let r = connect(&b, client, host).await;
        if r.is_err() {
            b.shutdown();
        }
        r
    };
    let (mut x, mut y) = (std::pin::pin!(accepting), std::pin::pin!(connecting));
    let (mut rx, mut ry) = (None, None);
    std::future::poll_fn(|cx| {
        use std::future::Future;
        use std::task::Poll;
        if rx.is_none()
            && let Poll::Ready(r) = x.as_mut().poll(cx)
        {
            rx = Some(r);
        }
        if ry.is_none()
            && let Poll::Ready(r) = y.as_mut().poll(cx)
        {
            ry = Some(r);
        }
        if rx.is_some() && ry.is_some() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    (rx.unwrap(), ry.unwrap())
}

/// Sends much both ways at once, and ends.
async fn talk(a: Stream, b: Stream) {
    let data: Vec<u8> = (0..1_000_000u32).map(|i| ((i * 7) >> 3) as u8).collect();
    let (d, a2) = (data.clone(), a.clone());
    let send_a = rt::spawn_local(async move { a2.write_all(&d).await.unwrap() });
    let (d, b2) = (data.clone(), b.clone());
    let send_b = rt::spawn_local(async move { b2.write_all(&d).await.unwrap() });
    let (d, b3) = (data.clone(), b.clone());
    let got_b = rt::spawn_local(async move {
        let mut got = vec![0; d.len()];
        b3.read_exact(&mut got).await.unwrap();
        assert!(got == d);
    });
    // Half of it by way of a buffer.
    let (half, mut done) = (IoBuf::zeroed(data.len() / 2), 0);
    while done < half.len() {
        let n = a.read_into(&half.slice(done..half.len())).await.unwrap();
        assert!(n > 0);
        done += n;
    }
    assert!(half.to_vec() == data[..done]);
    let mut got = vec![0; data.len() - done];
    a.read_exact(&mut got).await.unwrap();
    assert!(got == data[done..]);
    got_b.await;
    send_a.await;
    send_b.await;
    a.shutdown();
    assert_eq!(b.read(&mut [0; 10]).await, Ok(0), "an orderly end");
    assert!(a.write(b"x").await.is_err());
}

#[test]
fn anonymous_and_shared_keys() {
    let dir = Dir::new("psk");
    std::fs::write(dir.0.join("keys.psk"), "alice:00112233445566778899aabbccddeeff\nqemu:ff00\nbroken:zz\n")
        .unwrap();
    rt::block_on(async {
        let (s, c) =
            (Credentials::anonymous(Role::Server).unwrap(), Credentials::anonymous(Role::Client).unwrap());
        let (a, b) = meet(&s, &c, "localhost").await;
        talk(a.unwrap(), b.unwrap()).await;

        let s = Credentials::psk(Role::Server, &dir.0, "").unwrap();
        let c = Credentials::psk(Role::Client, &dir.0, "alice").unwrap();
        let (a, b) = meet(&s, &c, "").await;
        let (a, b) = (a.unwrap(), b.unwrap());
        assert_eq!(a.identity().as_deref(), Some("alice"));
        talk(a, b).await;
        let e = Credentials::psk(Role::Client, &dir.0, "bob").err().unwrap();
        assert!(e.starts_with("Username bob not found in PSK file "), "{e}");
        // The name is right, the key is not.
        std::fs::write(dir.0.join("keys.psk"), "alice:ffff2233445566778899aabbccddeeff\n").unwrap();
        let c = Credentials::psk(Role::Client, &dir.0, "alice").unwrap();
        let (a, b) = meet(&s, &c, "").await;
        assert!(a.is_err() && b.is_err());
    });
}

#[test]
fn certificates_are_checked_both_ways() {
    let dir = Dir::new("x509");
    if !certificates(&dir) {
        return;
    }
    let other = Dir::new("x509-other");
    certificates(&other);
    rt::block_on(async {
        let s = Credentials::x509(Role::Server, &dir.0, true, true, None).unwrap();
        let c = Credentials::x509(Role::Client, &dir.0, true, true, None).unwrap();
        for host in ["localhost", "127.0.0.1"] {
            let (a, b) = meet(&s, &c, host).await;
            let (a, b) = (a.unwrap(), b.unwrap());
            assert_eq!(a.identity().as_deref(), Some("CN=client,O=Rhea\\, Inc,C=GB"));
            talk(a, b).await;
        }
        let (_, b) = meet(&s, &c, "elsewhere").await;
        assert_eq!(b.err().unwrap(), "Certificate does not match the hostname elsewhere");
        // A server of another authority.
        let strange = Credentials::x509(Role::Server, &other.0, false, true, None).unwrap();
        let (_, b) = meet(&strange, &c, "localhost").await;
        assert!(b.is_err());
        // A client without a certificate, or with one of another authority. With TLS 1.3 the client learns it with its
        // first read.
        for d in [None, Some(&other)] {
            let from = d.unwrap_or(&dir);
            let path = from.0.clone();
            let only_ca = Dir::new("x509-ca");
            std::fs::copy(dir.0.join("ca-cert.pem"), only_ca.0.join("ca-cert.pem")).unwrap();
            if d.is_some() {
                for f in ["client-cert.pem", "client-key.pem"] {
                    std::fs::copy(path.join(f), only_ca.0.join(f)).unwrap();
                }
            }
            let c = Credentials::x509(Role::Client, &only_ca.0, true, true, None).unwrap();
            let (a, _) = meet(&s, &c, "localhost").await;
            assert!(a.is_err());
        }
        std::fs::remove_file(dir.0.join("server-key.pem")).unwrap();
        let e = Credentials::x509(Role::Server, &dir.0, true, true, None).err().unwrap();
        assert!(e.starts_with("Unable to access credentials "), "{e}");
    });
}

#[test]
fn rubbish_and_silence_end_a_handshake() {
    rt::block_on(async {
        let s = Credentials::anonymous(Role::Server).unwrap();
        let (a, b) = Stream::pair().unwrap();
        b.write_all(&[0x55; 4096]).await.unwrap();
        assert!(accept(&a, &s).await.is_err());
        let (a, b) = Stream::pair().unwrap();
        b.shutdown();
        assert!(accept(&a, &s).await.is_err());
    });
}

#[test]
fn priorities_limit_what_is_used() {
    let dir = Dir::new("priority");
    if !certificates(&dir) {
        return;
    }
    std::fs::write(dir.0.join("keys.psk"), "alice:00112233445566778899aabbccddeeff\n").unwrap();
    let make = |kind: Kind, role, priority: &str| {
        let c = match kind {
            Kind::X509 => Credentials::x509(role, &dir.0, true, true, None),
            Kind::Psk => Credentials::psk(role, &dir.0, "alice"),
            Kind::Anon => Credentials::anonymous(role),
        };
        c.unwrap().with_priority(priority).unwrap()
    };
    rt::block_on(async {
        for kind in [Kind::X509, Kind::Psk, Kind::Anon] {
            for (server, client, fits) in [
                ("NORMAL", "NORMAL", true),
                ("SECURE192", "NORMAL", true),
                ("PFS", "SECURE256", true),
                ("NORMAL:-VERS-TLS1.3", "NORMAL", true),
                ("NORMAL:-VERS-TLS1.3", "NORMAL:-VERS-TLS1.2", false),
            ] {
                if kind == Kind::Anon && client.ends_with("-VERS-TLS1.2") {
                    continue;
                }
                let (s, c) = (make(kind, Role::Server, server), make(kind, Role::Client, client));
                let (a, b) = meet(&s, &c, "localhost").await;
                assert_eq!(a.is_ok() && b.is_ok(), fits, "{kind:?}: {server}, {client}: {:?}", a.err());
            }
        }
    });
    let e = Credentials::anonymous(Role::Server).unwrap().with_priority("NORMAL:-VERS-TLS1.2").err().unwrap();
    assert_eq!(e, "There are no anonymous credentials without TLS 1.2");
}
