//! Streams and listeners over real sockets and files.

use base::Errno;
use io::{Acceptor, Addr, Channel, Listener, Stream, connect};
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("rhea-io-{}-{name}", std::process::id()))
}

fn run<F: Future>(f: F) -> F::Output {
    rt::block_on(async { rt::timeout(Duration::from_secs(10), f).await.expect("finishes in time") })
}

#[test]
fn keep_alive_is_switched_on() {
    use rustix::net::sockopt::socket_keepalive;
    run(async {
        let tcp = Listener::tcp("127.0.0.1", 0).await.unwrap();
        let s = connect(tcp.addr()).await.unwrap();
        assert_eq!(socket_keepalive(s.fd().unwrap()), Ok(false));
        s.keep_alive();
        assert_eq!(socket_keepalive(s.fd().unwrap()), Ok(true));
        // Nothing to be done elsewhere.
        Stream::pair().unwrap().0.keep_alive();
    });
}

#[test]
fn unix_and_tcp_round_trip() {
    run(async {
        let p = path("round.sock");
        // A socket that a crashed process left over is replaced.
        std::mem::forget(std::os::unix::net::UnixListener::bind(&p).unwrap());
        let unix = Listener::unix(&p).unwrap();
        let tcp = Listener::tcp("127.0.0.1", 0).await.unwrap();
        for l in [&unix, &tcp] {
            for round in 0..3u8 {
                let a = connect(l.addr()).await.unwrap();
                let b = l.accept().await.unwrap();
                a.write_all(&[round; 3]).await.unwrap();
                let mut buf = [0; 3];
                b.read_exact(&mut buf).await.unwrap();
                assert_eq!(buf, [round; 3]);
                a.shutdown_write();
                assert_eq!(b.read(&mut buf).await, Ok(0));
                b.write_all(b"still").await.unwrap();
                assert_eq!(a.read(&mut [0; 9]).await, Ok(5));
            }
        }
        drop(unix);
        assert!(!p.exists(), "the socket's file goes with its listener");
    });
}

#[test]
fn large_transfers_wait_for_the_reader() {
    run(async {
        let (a, b) = Stream::pair().unwrap();
        let data: Vec<u8> = (0..4 << 20).map(|i: u32| (i >> 3) as u8).collect();
        let sent = data.clone();
        let writer = rt::spawn_local(async move { a.write_all(&sent).await });
        let mut got = vec![0; data.len()];
        b.read_exact(&mut got).await.unwrap();
        writer.await.unwrap();
        assert!(got == data);
    });
}

#[test]
fn shutdown_wakes_a_reader() {
    run(async {
        let (r, _w) = std::io::pipe().unwrap();
        let (a, b) = Stream::pair().unwrap();
        let pipe = Stream::from_pair(Some(r.into()), None).unwrap();
        for s in [a, pipe] {
            let reader = s.clone();
            let task = rt::spawn_local(async move { reader.read(&mut [0; 8]).await });
            rt::sleep(Duration::from_millis(20)).await;
            s.shutdown();
            assert_eq!(task.await, Ok(0));
            assert_eq!(s.write(b"x").await, Err(Errno::PIPE));
        }
        drop(b);
    });
}

/// Another process may make a description blocking that it shares.
#[test]
fn a_blocking_pipe_blocks_nobody() {
    let (r, mut w) = std::io::pipe().unwrap();
    let shared = r.try_clone().unwrap();
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        run(async {
            let s = Stream::from_pair(Some(r.into()), None).unwrap();
            rustix::fs::fcntl_setfl(&shared, rustix::fs::OFlags::empty()).unwrap();
            assert_eq!(s.try_read(&mut [0; 8]), Err(Errno::AGAIN));
            let reader = s.clone();
            let task = rt::spawn_local(async move { reader.read(&mut [0; 8]).await });
            rt::sleep(Duration::from_millis(20)).await;
            w.write_all(b"abc").unwrap();
            assert_eq!(task.await, Ok(3));
        });
        done.send(()).unwrap();
    });
    ended.recv_timeout(Duration::from_secs(10)).expect("no read waits for ever");
}

#[test]
fn files_null_and_missing_ends() {
    run(async {
        let null = || std::fs::File::options().read(true).write(true).open("/dev/null").unwrap();
        let s = Stream::from_pair(Some(null().into()), Some(null().into())).unwrap();
        assert_eq!(s.read(&mut [0; 4]).await, Ok(0));
        assert_eq!(s.write(b"gone").await, Ok(4));

        let p = path("file");
        let mut file =
            std::fs::File::options().create(true).truncate(true).read(true).write(true).open(&p).unwrap();
        file.write_all(b"abc").unwrap();
        file.rewind().unwrap();
        let s = Stream::from_pair(Some(file.into()), None).unwrap();
        assert_eq!(s.read(&mut [0; 8]).await, Ok(3));
        assert_eq!(s.read(&mut [0; 8]).await, Ok(0));
        assert_eq!(s.write(b"x").await, Err(Errno::PIPE));
        std::fs::remove_file(p).unwrap();
    });
}

#[test]
fn descriptors_travel() {
    run(async {
        let (a, b) = Stream::pair().unwrap();
        let p = path("fd");
        std::fs::write(&p, "passed").unwrap();
        let file = std::fs::File::open(&p).unwrap();
        a.write_with_fds(b"{}", &[file.as_fd()]).await.unwrap();
        let ch: &dyn Channel = &b;
        let mut buf = [0; 8];
        assert_eq!(ch.read(&mut buf).await, Ok(2));
        let mut fds = ch.take_fds();
        assert_eq!(fds.len(), 1);
        let mut text = String::new();
        std::fs::File::from(fds.remove(0)).read_to_string(&mut text).unwrap();
        assert_eq!(text, "passed");
        assert!(ch.take_fds().is_empty());

        // More descriptors than one message may carry, over and over: they are closed, not kept.
        for _ in 0..200 {
            let many = [file.as_fd(); io::MAX_FDS];
            a.write_with_fds(b"x", &many).await.unwrap();
            assert_eq!(ch.read(&mut buf).await, Ok(1));
        }
        assert_eq!(ch.take_fds().len(), io::MAX_FDS);
        std::fs::remove_file(p).unwrap();
    });
}

#[test]
fn inherited_sockets() {
    use std::os::fd::AsRawFd;
    run(async {
        let l = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = Addr::inet("127.0.0.1", l.local_addr().unwrap().port());
        match Listener::bind(&Addr::Fd(l.as_raw_fd())).await {
            Ok(ours) => {
                drop(l);
                let a = connect(&at).await.unwrap();
                let b = Acceptor::accept(&ours).await.unwrap();
                a.write_all(b"hi").await.unwrap();
                assert_eq!(b.read(&mut [0; 2]).await, Ok(2));
            }
            Err(e) if e.errno == Errno::PERM => println!("skipped: pidfd_getfd is refused here"),
            Err(e) => panic!("{e}"),
        }
    });
}

#[test]
fn errors_say_what_failed() {
    run(async {
        let text = |r: Result<Stream, io::Error>| r.err().unwrap().to_string();
        let gone = path("gone");
        assert_eq!(
            text(connect(&Addr::Unix(gone.clone())).await),
            format!("Failed to connect to '{}': No such file or directory", gone.display())
        );
        let free = Listener::tcp("127.0.0.1", 0).await.unwrap().addr().clone();
        let Addr::Inet(inet) = &free else { unreachable!() };
        assert_eq!(
            text(connect(&free).await),
            format!("Failed to connect to '127.0.0.1:{}': Connection refused", inet.port)
        );
        let long = Addr::Unix(format!("/tmp/{}", "x".repeat(200)).into());
        assert!(Listener::bind(&long).await.err().unwrap().to_string().contains("is too long"));
        assert!(Listener::bind(&Addr::Unix("/nonexistent/s".into())).await.is_err());
        // A file that is no socket is not removed.
        let file = path("plain");
        std::fs::write(&file, "keep").unwrap();
        assert_eq!(Listener::unix(&file).err().unwrap().errno.to_string(), "Address already in use");
        assert_eq!(std::fs::read(&file).unwrap(), b"keep");
        std::fs::remove_file(file).unwrap();
    });
}

#[test]
fn abstract_sockets() {
    run(async {
        for tight in [false, true] {
            let at = Addr::Abstract { name: format!("rhea-io-{}", std::process::id()), tight };
            let l = Listener::bind(&at).await.unwrap();
            let a = connect(&at).await.unwrap();
            let b = l.accept().await.unwrap();
            a.write_all(b"x").await.unwrap();
            assert_eq!(b.read(&mut [0; 2]).await, Ok(1));
        }
    });
}

#[test]
fn bytes_are_read_straight_into_a_buffer() {
    rt::block_on(async {
        let (a, b) = Stream::pair().unwrap();
        let sent: Vec<u8> = (0..300_000u32).map(|i| (i * 31) as u8).collect();
        let data = sent.clone();
        let writer = rt::spawn_local(async move {
            rt::yield_now().await;
            a.write_all(&data).await.unwrap();
        });
        let buf = mem::IoBuf::zeroed(sent.len());
        let mut done = 0;
        while done < sent.len() {
            let n = b.read_into(&buf.slice(done..sent.len())).await.unwrap();
            assert!(n > 0);
            done += n;
        }
        writer.await;
        assert_eq!(buf.to_vec(), sent);
        assert_eq!(b.read_into(&buf).await, Ok(0));
        b.shutdown();
        assert_eq!(b.read_into(&buf).await, Ok(0));
    });
}
