//! `rhea nbd`: one image served, and what a server has listed. The clients are Rhea's own.

mod common;

use base::IoResult;
use block::Perm;
use block::driver::WriteFlags;
use common::Dir;
use image::create::{NewImage, create};
use image::nbd::{Wanted, bind, list, parse, serve};
use image::open::{OpenFlags, Source, open};
use mem::IoBuf;
use qapi::QError;
use std::time::Duration;

const LEN: usize = 1 << 20;

impl Dir {
    fn url(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.at("sock"))
    }
}

fn wanted(args: &str) -> Wanted {
    let args: Vec<String> = args.split_whitespace().map(str::to_owned).collect();
    parse("qemu-nbd", &args).unwrap()
}

/// Serves as the command line says while `client` runs. Ends when the server ends by itself, unless `-t` was given.
async fn serving(args: &str, client: impl Future<Output = ()>) -> Result<(), QError> {
    let Wanted::Serve(o) = wanted(args) else { panic!("{args}") };
    let listener = bind(&o).await?;
    let server = rt::spawn_local(async move {
        let (mut warn, stop) = (|_: &str| (), std::future::pending());
        let done = serve(&o, listener, &mut warn, || Ok(()), stop);
        rt::timeout(Duration::from_secs(20), done).await.expect("the server ends when its client leaves")
    });
    client.await;
    server.await
}

/// One client of the export at `url`: reads the first bytes, and writes there where it shall.
async fn visit(url: &str, write: bool) -> Vec<u8> {
    let source = Source::file(url, Some("raw"));
    let image = open(&source, OpenFlags { write, ..OpenFlags::default() }).await.unwrap();
    let mut perm = Perm::CONSISTENT_READ;
    perm.set(Perm::WRITE, write);
    let root = image.root(&image.node, perm, Perm::all()).await.unwrap();
    let buf = IoBuf::zeroed(512);
    let done: IoResult<()> = async {
        if write {
            let new = IoBuf::zeroed(512);
            new.fill(7);
            root.write(0, new, WriteFlags::empty()).await?;
        }
        root.read(0, buf.clone()).await
    }
    .await;
    root.detach().await;
    image.close().await;
    done.unwrap();
    buf.to_vec()
}

fn file(dir: &Dir) -> String {
    let path = dir.at("disk");
    std::fs::write(&path, vec![5; LEN]).unwrap();
    path
}

#[test]
fn it_ends_when_the_last_client_leaves() {
    let dir = Dir::new("life");
    let disk = file(&dir);
    let sock = dir.at("sock");
    let client = async {
        let Wanted::List(at) = wanted(&format!("-L -k {sock}")) else { panic!() };
        let want = "exports available: 1\n export: 'x'\n  description: text\n  size:  1048576\n  \
                    flags: 0x1ced ( flush fua trim zeroes df cache fast-zero block-status-payload )\n  min block: 1\n  \
                    opt block: 4096\n  max block: 33554432\n  transaction size: 64-bit\n  \
                    available meta contexts: 2\n   base:allocation\n   qemu:allocation-depth\n";
        // Whoever only asks is no client.
        for _ in 0..2 {
            assert_eq!(list(&at).await.unwrap(), want);
        }
        assert_eq!(visit(&dir.url("x"), true).await, [7; 512]);
    };
    let args = format!("-f raw -x x -D text -A -k {sock} {disk}");
    rt::block_on(serving(&args, client)).unwrap();
    assert_eq!(std::fs::read(&disk).unwrap()[..513], [&[7; 512][..], &[5]].concat());
    assert!(!std::path::Path::new(&sock).exists());
}

#[test]
fn part_of_an_image() {
    let dir = Dir::new("part");
    let disk = file(&dir);
    let mut bytes = std::fs::read(&disk).unwrap();
    bytes[4096..4608].fill(9);
    std::fs::write(&disk, bytes).unwrap();
    let client = async { assert_eq!(visit(&dir.url(""), false).await, [9; 512]) };
    let args = format!("-f raw -o 4096 -r -k {} {disk}", dir.at("sock"));
    rt::block_on(serving(&args, client)).unwrap();
}

#[test]
fn what_is_written_is_forgotten() {
    let dir = Dir::new("forget");
    let disk = file(&dir);
    let client = async { assert_eq!(visit(&dir.url(""), true).await, [7; 512]) };
    let args = format!("-f raw -s -k {} {disk}", dir.at("sock"));
    rt::block_on(serving(&args, client)).unwrap();
    assert!(std::fs::read(&disk).unwrap().iter().all(|b| *b == 5));
}

#[test]
fn an_internal_snapshot() {
    let dir = Dir::new("snap");
    let disk = dir.at("disk");
    rt::block_on(async {
        create(&NewImage::new(&disk, "qcow2", LEN as u64)).await.unwrap();
        let write = OpenFlags { write: true, ..OpenFlags::default() };
        let image = open(&Source::file(&disk, Some("qcow2")), write).await.unwrap();
        let op = block::driver::SnapshotOp::Create {
            name: "one".into(),
            date: Duration::from_secs(1),
            again: false,
        };
        image.graph.internal_snapshot(&image.node, op).await.unwrap();
        let root = image.writer().await.unwrap();
        let new = IoBuf::zeroed(512);
        new.fill(3);
        root.write(0, new, WriteFlags::empty()).await.unwrap();
        root.detach().await;
        image.close().await;
        let before = std::fs::read(&disk).unwrap();
        for (snapshot, want) in [("-l one", 0), ("-l snapshot.id=1", 0), ("-r", 3)] {
            let client = async { assert_eq!(visit(&dir.url(""), false).await, [want; 512]) };
            let args = format!("-f qcow2 {snapshot} -k {} {disk}", dir.at("sock"));
            serving(&args, client).await.unwrap();
        }
        assert_eq!(std::fs::read(&disk).unwrap(), before);
        let e =
            serving(&format!("-f qcow2 -l two -k {} {disk}", dir.at("sock")), async {}).await.unwrap_err();
        assert_eq!(e.desc(), "Failed to load snapshot: Can't find snapshot");
    });
}

#[test]
fn what_cannot_be_served() {
    let dir = Dir::new("bad");
    let disk = file(&dir);
    for (args, want) in [
        (
            format!("-f raw {}", dir.at("none")),
            "Failed to blk_new_open 'NONE': Could not open 'NONE': No such file or directory",
        ),
        (format!("-f foo {disk}"), "Failed to blk_new_open 'DISK': Unknown driver 'foo'"),
        (
            format!("-f raw -o 2000000 {disk}"),
            "Offset (2000000) cannot be greater than size of the containing file (1048576)",
        ),
        (format!("-f raw -B b {disk}"), "Bitmap 'b' is not found"),
        (
            format!("-f raw -l 1 {disk}"),
            "Failed to load snapshot: Block format 'raw' used by device '' does not support temporarily loading internal snapshots",
        ),
        (format!("--tls-creds=t {disk}"), "Failed to get TLS creds: No TLS credentials with id 't'"),
        ("--image-opts a=b".into(), "Failed to blk_new_open 'a=b': Must specify either driver or file"),
        (
            format!("-c /dev/nbd-none -f raw {disk}"),
            "Failed to open /dev/nbd-none: No such file or directory",
        ),
    ] {
        let e = rt::block_on(serving(&format!("-k {} {args}", dir.at("sock")), async {})).unwrap_err();
        assert_eq!(e.desc(), want.replace("DISK", &disk).replace("NONE", &dir.at("none")), "{args}");
    }
}
