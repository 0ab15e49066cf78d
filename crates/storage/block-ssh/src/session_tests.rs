//! Conversations with servers that behave, and with some that do not.

use super::*;
use crate::file::File;
use crate::sftp::{CREATE, FOR_READ, FOR_WRITE, TRUNCATE};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

/// The server of OpenSSH, where it is installed.
const SERVER: &str = "/usr/lib/openssh/sftp-server";

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

fn server() -> Option<(Server, Stream)> {
    if !std::path::Path::new(SERVER).exists() {
        println!("skipped: {SERVER} is not installed");
        return None;
    }
    let (ours, theirs) = UnixStream::pair().unwrap();
    let theirs = OwnedFd::from(theirs);
    let child = Command::new(SERVER).stdin(Stdio::from(theirs.try_clone().unwrap())).stdout(theirs).spawn();
    Some((Server(child.unwrap()), Stream::from_fd(ours.into()).unwrap()))
}

async fn begin(stream: Stream) -> Arc<Session> {
    let session = Session::begin(stream, PATIENCE).await.unwrap();
    let listener = session.clone();
    drop(rt::spawn_local(async move { listener.listen().await }));
    session
}

fn path(name: &str) -> String {
    let path = std::env::temp_dir().join(format!("rhea-ssh-{name}-{}", std::process::id()));
    path.display().to_string()
}

#[test]
fn a_file_is_read_and_written() {
    let Some((_server, stream)) = server() else { return };
    rt::block_on(async {
        let name = path("file");
        let bytes: Vec<u8> = (0..3_000_000).map(|i| (i / 512 * 7 + i) as u8).collect();
        std::fs::write(&name, &bytes).unwrap();
        let file = File::open(begin(stream).await, &name, FOR_READ | FOR_WRITE).await.unwrap();
        assert_eq!(file.len(), 3_000_000);
        assert!(file.session.most().0 > sftp::SAFE, "this server tells its limits");
        // More than goes in one piece, and over the end.
        let buf = IoBuf::zeroed(3_000_000);
        buf.fill(0xee);
        file.read(1000, buf.clone()).await.unwrap();
        let read = buf.to_vec();
        assert!(read[..2_999_000] == bytes[1000..] && read[2_999_000..].iter().all(|b| *b == 0));
        let new = vec![0x5a; 2_000_000];
        let (one, two) = (IoBuf::from_bytes(&new), IoBuf::from_bytes(b"end"));
        let (a, b) = (file.write(77, one), file.write(3_000_000, two));
        a.await.unwrap();
        b.await.unwrap();
        file.flush().await.unwrap();
        assert_eq!(file.len(), 3_000_003);
        file.grow(4_000_000).await.unwrap();
        file.grow(10).await.unwrap();
        file.close().await.unwrap();
        assert_eq!(file.read(0, IoBuf::zeroed(1)).await, Err(Errno::IO));
        let mut want = bytes;
        want[77..2_000_077].fill(0x5a);
        want.extend(b"end");
        want.resize(4_000_000, 0);
        assert!(std::fs::read(&name).unwrap() == want);
        std::fs::remove_file(&name).unwrap();
    });
}

#[test]
fn files_are_made_and_refused() {
    let Some((_server, stream)) = server() else { return };
    rt::block_on(async {
        let session = begin(stream).await;
        let name = path("made");
        let none = File::open(session.clone(), &name, FOR_READ).await.err().unwrap();
        let want = format!(
            "failed to open remote file '{name}': SFTP server: No such file (libssh error code: 1, sftp error code: 2)"
        );
        assert_eq!(none.desc(), want);
        let dir = File::open(session.clone(), "/tmp", FOR_READ).await.err().unwrap();
        assert!(dir.desc().contains("/tmp"), "{}", dir.desc());
        std::fs::write(&name, "old").unwrap();
        let flags = FOR_READ | FOR_WRITE | CREATE | TRUNCATE;
        let file = File::open(session, &name, flags).await.unwrap();
        assert_eq!(file.len(), 0);
        file.grow(1 << 20).await.unwrap();
        file.close().await.unwrap();
        assert_eq!(std::fs::metadata(&name).unwrap().len(), 1 << 20);
        std::fs::remove_file(&name).unwrap();
    });
}

/// A server that answers what it likes: it gets each message, and answers with bytes.
async fn liar(stream: Stream, mut answer: impl FnMut(u8, u32) -> Vec<u8>) {
    loop {
        let mut len = [0; 4];
        if stream.read_exact(&mut len).await.is_err() {
            return;
        }
        let mut body = vec![0; u32::from_be_bytes(len) as usize];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        let id = u32::from_be_bytes([body[1], body[2], body[3], body[4]]);
        if stream.write_all(&answer(body[0], id)).await.is_err() {
            return;
        }
    }
}

fn message(kind: u8, id: u32, body: &[u8]) -> Vec<u8> {
    let len = 5 + body.len() as u32;
    [&len.to_be_bytes()[..], &[kind], &id.to_be_bytes(), body].concat()
}

fn version() -> Vec<u8> {
    b"\0\0\0\x05\x02\0\0\0\x03".to_vec()
}

/// A file of 1 MiB behind a server that answers reads and writes so.
fn honest_but(mut read: impl FnMut(u8, u32) -> Vec<u8> + 'static) -> impl FnMut(u8, u32) -> Vec<u8> {
    move |kind, id| match kind {
        1 => version(),
        3 => message(102, id, b"\0\0\0\x01h"),
        8 => message(105, id, b"\0\0\0\x01\0\0\0\0\0\x10\0\0"),
        _ => read(kind, id),
    }
}

/// What a read of 4096 bytes gives.
fn read_from(answer: impl FnMut(u8, u32) -> Vec<u8> + 'static, patience: Duration) -> IoResult<()> {
    rt::block_on(async {
        let (ours, theirs) = Stream::pair().unwrap();
        drop(rt::spawn_local(liar(theirs, honest_but(answer))));
        let session = Session::begin(ours, patience).await.unwrap();
        let listener = session.clone();
        drop(rt::spawn_local(async move { listener.listen().await }));
        let file = File::open(session, "/x", FOR_READ).await.unwrap();
        assert_eq!(file.len(), 1 << 20);
        file.read(0, IoBuf::zeroed(4096)).await
    })
}

#[test]
fn what_servers_may_say() {
    let data = |n: u32, bytes: usize| [&n.to_be_bytes()[..], &vec![7; bytes]].concat();
    let read = |answer: Vec<u8>, kind: u8| read_from(move |_, id| message(kind, id, &answer), PATIENCE);
    assert_eq!(read(data(4096, 4096), 103), Ok(()));
    // Less at a time is well.
    assert_eq!(read(data(512, 512), 103), Ok(()));
    // The end, and errors.
    assert_eq!(read(vec![0, 0, 0, 1], 101), Ok(()));
    assert_eq!(read(vec![0, 0, 0, 3], 101), Err(Errno::ACCES));
    assert_eq!(read(vec![0, 0, 0, 4, 0, 0, 0, 1, b'x'], 101), Err(Errno::IO));
    for (answer, kind) in [
        // More than was asked for, none at all, lengths that do not agree.
        (data(4097, 4097), 103),
        (data(0, 0), 103),
        (data(100, 4000), 103),
        (data(4000, 100), 103),
        (data(u32::MAX, 10), 103),
        (vec![], 103),
        // Replies of other kinds.
        (vec![0, 0, 0, 0], 101),
        (vec![0, 0, 0, 1, b'h'], 102),
        (vec![0, 0, 0, 0], 105),
        (vec![1], 101),
        (vec![1, 2, 3], 77),
    ] {
        let len = answer.len();
        assert_eq!(read(answer, kind), Err(Errno::IO), "{len} bytes of kind {kind}");
    }
    // Lengths and numbers that make no sense.
    let raw = |bytes: &'static [u8]| read_from(move |_, _| bytes.to_vec(), PATIENCE);
    assert_eq!(raw(b"\xff\xff\xff\xff\x65\0\0\0\x03\0\0\0\0"), Err(Errno::IO));
    assert_eq!(raw(b"\0\0\0\0\x65\0\0\0\x03\0\0\0\0"), Err(Errno::IO));
    assert_eq!(raw(b"\0\0\0\x09\x65\0\0\x99\x99\0\0\0\0"), Err(Errno::IO));
    // The same answer twice: the second belongs to nobody, and all that comes later fails.
    let mut read = 0;
    let twice = move |_: u8, id| {
        read += 1;
        let one = message(103, id, &[&64u32.to_be_bytes()[..], &[1; 64]].concat());
        if read == 1 { [one.clone(), one].concat() } else { one }
    };
    assert_eq!(read_from(twice, PATIENCE), Err(Errno::IO));
}

#[test]
fn who_says_nothing_is_given_up() {
    let begun = Instant::now();
    let silent = Duration::from_millis(300);
    assert_eq!(read_from(|_, _| Vec::new(), silent), Err(Errno::IO));
    assert!(begun.elapsed() >= silent && begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn who_speaks_something_else_is_refused() {
    for said in [
        &b"SSH-2.0-x\r\n"[..],
        b"\0\0\0\x05\x02\0\0\0\x02",
        b"\0\0\0\x05\x65\0\0\0\x03",
        b"\0\0\0\x01\x02",
        b"",
    ] {
        rt::block_on(async {
            let (ours, theirs) = Stream::pair().unwrap();
            drop(rt::spawn_local(async move {
                theirs.write_all(said).await.unwrap();
                theirs.shutdown_write();
                theirs.read(&mut [0; 64]).await.unwrap();
            }));
            assert!(Session::begin(ours, PATIENCE).await.is_err());
        });
    }
}

/// Limits that a server tells are kept, within those of our own.
#[test]
fn limits_are_kept() {
    for (told, want) in [(0u64, sftp::SAFE), (100_000, 100_000), (u64::MAX, MOST), (1, 512)] {
        rt::block_on(async {
            let (ours, theirs) = Stream::pair().unwrap();
            let body = [9, told, told, 9].map(u64::to_be_bytes).concat();
            drop(rt::spawn_local(liar(theirs, move |kind, id| match kind {
                1 => {
                    let ext = b"\x02\0\0\0\x03\0\0\0\x12limits@openssh.com\0\0\0\x011";
                    [&(ext.len() as u32).to_be_bytes()[..], ext].concat()
                }
                _ => message(201, id, &body),
            })));
            let session = begin(ours).await;
            session.learn().await.unwrap();
            assert_eq!(session.most(), (want, want));
            session.give_up();
        });
    }
}
