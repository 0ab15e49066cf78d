//! Opening, reopening, locks: what management tools and other programs see. The texts are part of the contract.

#![allow(unsafe_code)] // UNSAFETY: asks the system for byte locks, as another program would

mod conformance;

use api::block_core::{
    BlockdevAioOptions, BlockdevCacheOptions, BlockdevDriverOptions, BlockdevOptions, BlockdevOptionsFile,
};
use api::common::OnOffAuto;
use block::BlockGraph;
use block::driver::{Prealloc, WriteFlags};
use block::perm::Perm;
use conformance::*;
use mem::IoBuf;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

fn with_file(mut o: BlockdevOptions, f: impl FnOnce(&mut BlockdevOptionsFile)) -> BlockdevOptions {
    match &mut o.driver {
        BlockdevDriverOptions::File(x) | BlockdevDriverOptions::HostDevice(x) => f(x),
        _ => unreachable!(),
    }
    o
}

fn direct(mut o: BlockdevOptions) -> BlockdevOptions {
    o.cache = Some(BlockdevCacheOptions { direct: Some(true), no_flush: None });
    o
}

fn read_only(mut o: BlockdevOptions) -> BlockdevOptions {
    o.read_only = Some(true);
    o
}

fn auto_read_only(mut o: BlockdevOptions) -> BlockdevOptions {
    o.auto_read_only = Some(true);
    o
}

async fn add_error(o: BlockdevOptions) -> String {
    graph(block_file::DRIVERS).add(o).await.unwrap_err().desc().to_owned()
}

/// The flags (access mode, O_DIRECT) of this process's descriptors of the file.
fn descriptors(path: &str) -> Vec<i32> {
    let id = std::fs::metadata(path).map(|m| (m.dev(), m.ino())).unwrap();
    let mut out = Vec::new();
    for e in std::fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let fd = e.file_name();
        let Ok(m) = std::fs::metadata(Path::new("/proc/self/fd").join(&fd)) else { continue };
        if (m.dev(), m.ino()) != id {
            continue;
        }
        let Ok(info) = std::fs::read_to_string(Path::new("/proc/self/fdinfo").join(&fd)) else { continue };
        let flags = info.lines().find_map(|l| l.strip_prefix("flags:")).unwrap().trim();
        let flags = i32::from_str_radix(flags, 8).unwrap();
        out.push(flags & (libc::O_ACCMODE | libc::O_DIRECT | libc::O_NONBLOCK));
    }
    out.sort_unstable();
    out
}

#[test]
fn what_is_no_such_file_is_refused() {
    let dir = Dir::new("open-errors");
    let d = dir.path("");
    let image = dir.file("image", 4096);
    rt::block_on(async {
        let nope = dir.path("nope");
        let text = add_error(file_options("n", &nope)).await;
        assert_eq!(text, format!("Could not open '{nope}': No such file or directory"));
        let text = add_error(device_options("n", &nope)).await;
        assert_eq!(text, format!("Could not open '{nope}': No such file or directory"));
        assert_eq!(add_error(file_options("n", &d)).await, format!("Could not open '{d}': Is a directory"));
        assert_eq!(
            add_error(read_only(file_options("n", &d))).await,
            format!("'file' driver requires '{d}' to be a regular file")
        );
        assert_eq!(
            add_error(file_options("n", "/dev/null")).await,
            "'file' driver requires '/dev/null' to be a regular file"
        );
        assert_eq!(
            add_error(device_options("n", &image)).await,
            format!("'host_device' driver requires '{image}' to be either a character or block device")
        );
        let cdrom = |path: &str| {
            let mut o = device_options("n", path);
            let BlockdevDriverOptions::HostDevice(f) = o.driver else { unreachable!() };
            o.driver = BlockdevDriverOptions::HostCdrom(f);
            o
        };
        assert_eq!(
            add_error(cdrom(&image)).await,
            format!("'host_cdrom' driver requires '{image}' to be either a character or block device")
        );
        assert_eq!(add_error(cdrom("")).await, "The 'host_cdrom' block driver requires a file name");
        assert_eq!(
            add_error(cdrom(&nope)).await,
            format!("Could not open '{nope}': No such file or directory")
        );
        // What is no drive can be opened, and never has a disc.
        let g = graph(block_file::DRIVERS);
        g.add(cdrom("/dev/zero")).await.unwrap();
        let text = g.resize("", "n", 512, Prealloc::Off).await.unwrap_err();
        assert_eq!(text.desc(), "No medium inserted");
        g.close_all().await;
        assert_eq!(add_error(file_options("n", "")).await, "The 'file' block driver requires a file name");
        let text = add_error(file_options("n", &format!("{image}/x"))).await;
        assert_eq!(text, format!("Could not open '{image}/x': Not a directory"));
        // A path is a path, whatever it begins with; and a zero byte is in none.
        let text = add_error(file_options("n", "file:x")).await;
        assert_eq!(text, "Could not open 'file:x': No such file or directory");
        assert_eq!(add_error(file_options("n", "a\0b")).await, "Could not open 'a\0b': Invalid argument");
        let text = add_error(with_file(file_options("n", &image), |f| f.pr_manager = Some("x".into()))).await;
        assert_eq!(text, "No persistent reservation manager with id 'x'");
        // A pipe without a peer must not hang the program.
        let fifo = dir.path("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            fifo.as_str(),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        for o in [file_options("n", &fifo), read_only(file_options("n", &fifo))] {
            assert_eq!(add_error(o).await, format!("'file' driver requires '{fifo}' to be a regular file"));
        }
    });
}

#[test]
fn native_aio_needs_direct() {
    let dir = Dir::new("open-native");
    let image = dir.file("image", 1 << 20);
    let native = |o| with_file(o, |f| f.aio = Some(BlockdevAioOptions::Native));
    let text = "aio=native was specified, but it requires cache.direct=on, which was not specified.";
    rt::block_on(async {
        assert_eq!(add_error(native(file_options("n", &image))).await, text);
        let g = graph(block_file::DRIVERS);
        g.add(direct(native(file_options("n", &image)))).await.unwrap();
        assert_eq!(descriptors(&image), [libc::O_RDWR | libc::O_DIRECT]);
        let e = g.reopen(vec![native(file_options("n", &image))]).await.unwrap_err();
        assert_eq!(e.desc(), text);
        assert_eq!(descriptors(&image), [libc::O_RDWR | libc::O_DIRECT]);
        g.del("n").await.unwrap();
        assert_eq!(descriptors(&image), []);
    });
}

#[test]
fn a_file_system_without_direct_io_is_named() {
    rt::block_on(async {
        let text = add_error(direct(read_only(file_options("n", "/proc/version")))).await;
        assert_eq!(text, "Could not open '/proc/version': filesystem does not support O_DIRECT");
        let text = add_error(read_only(file_options("n", "/proc/version"))).await;
        assert_eq!(text, "Could not refresh total sector count: Invalid argument");
    });
}

#[test]
fn reopen_follows_the_options() {
    let dir = Dir::new("open-reopen");
    let image = dir.file("image", 1 << 20);
    rt::block_on(async {
        let g = graph(block_file::DRIVERS);
        let plain = || file_options("n", &image);
        g.add(plain()).await.unwrap();
        assert_eq!(descriptors(&image), [libc::O_RDWR]);
        g.reopen(vec![read_only(plain())]).await.unwrap();
        assert_eq!(descriptors(&image), [libc::O_RDONLY]);
        g.reopen(vec![auto_read_only(plain())]).await.unwrap();
        assert_eq!(descriptors(&image), [libc::O_RDONLY]);
        g.reopen(vec![direct(plain())]).await.unwrap();
        assert_eq!(descriptors(&image), [libc::O_RDWR | libc::O_DIRECT]);
        for (o, text) in [
            (with_file(plain(), |f| f.aio = Some(BlockdevAioOptions::Threads)), "aio"),
            (with_file(plain(), |f| f.locking = Some(OnOffAuto::Off)), "locking"),
            (with_file(plain(), |f| f.filename = "/dev/null".into()), "filename"),
        ] {
            let e = g.reopen(vec![o]).await.unwrap_err();
            assert_eq!(e.desc(), format!("Cannot change the option '{text}'"));
        }
        g.reopen(vec![with_file(plain(), |f| f.drop_cache = Some(false))]).await.unwrap();
        assert_eq!(descriptors(&image), [libc::O_RDWR]);
        g.del("n").await.unwrap();
        g.add(with_file(plain(), |f| f.locking = Some(OnOffAuto::On))).await.unwrap();
        let e = g.reopen(vec![plain()]).await.unwrap_err();
        assert_eq!(e.desc(), "Option 'locking' cannot be reset to its default value");
    });
}

const READ: Perm = Perm::CONSISTENT_READ;

#[test]
fn auto_read_only_opens_for_writing_only_while_somebody_writes() {
    let dir = Dir::new("open-aro");
    let image = dir.file("image", 1 << 20);
    rt::block_on(async {
        let g = graph(block_file::DRIVERS);
        g.add(auto_read_only(file_options("n", &image))).await.unwrap();
        assert_eq!(descriptors(&image), [libc::O_RDONLY]);
        let reader = attach(&g, "n", READ, Perm::all()).await.unwrap();
        assert_eq!(descriptors(&image), [libc::O_RDONLY]);
        let writer = attach(&g, "n", READ | Perm::WRITE, Perm::all()).await.unwrap();
        assert_eq!(descriptors(&image), [libc::O_RDWR]);
        writer.write(0, IoBuf::from_bytes(&[1; 512]), WriteFlags::empty()).await.unwrap();
        assert_eq!(read(&reader, 0, 512).await, [1; 512]);
        writer.detach().await;
        assert_eq!(descriptors(&image), [libc::O_RDONLY]);
        assert_eq!(read(&reader, 0, 512).await, [1; 512]);

        // A writer that cannot have its descriptor is refused, and nothing has changed.
        let aside = dir.path("aside");
        std::fs::rename(&image, &aside).unwrap();
        let e = attach(&g, "n", READ | Perm::WRITE, Perm::all()).await.unwrap_err();
        assert_eq!(e.desc(), format!("Could not open '{image}': No such file or directory"));
        assert_eq!(descriptors(&aside), [libc::O_RDONLY]);
        assert_eq!(read(&reader, 0, 512).await, [1; 512]);
        // Nor does it get another file that has come under the old name.
        std::fs::write(&image, [0; 512]).unwrap();
        let e = attach(&g, "n", READ | Perm::WRITE, Perm::all()).await.unwrap_err();
        assert!(e.desc().contains("another file has taken its place"), "{e}");
        std::fs::rename(&aside, &image).unwrap();
        let writer = attach(&g, "n", READ | Perm::WRITE, Perm::all()).await.unwrap();
        assert_eq!(descriptors(&image), [libc::O_RDWR]);
        writer.detach().await;
        reader.detach().await;
    });
}

/// Requests go on while descriptors are exchanged below them.
#[test]
fn readers_do_not_notice_the_exchange() {
    let dir = Dir::new("open-exchange");
    let image = dir.path("image");
    std::fs::write(&image, vec![5; 1 << 20]).unwrap();
    rt::block_on(async {
        let g = graph(block_file::DRIVERS);
        g.add(auto_read_only(file_options("n", &image))).await.unwrap();
        let reader = attach(&g, "n", READ, Perm::all()).await.unwrap();
        let load = rt::spawn_local(async move {
            let mut n = 0u64;
            loop {
                let off = (n * 4096) % (1 << 20);
                assert_eq!(read(&reader, off, 4096).await, [5; 4096]);
                n += 1;
            }
        });
        for _ in 0..100 {
            let writer = attach(&g, "n", READ | Perm::WRITE, Perm::all()).await.unwrap();
            writer.write(0, IoBuf::from_bytes(&[5; 512]), WriteFlags::empty()).await.unwrap();
            writer.detach().await;
        }
        load.abort();
        let _: Result<(), _> = load.outcome().await;
    });
}

/// The locked bytes of the file, as another program sees them.
fn locked(path: &str) -> Vec<u64> {
    use std::os::fd::AsRawFd;
    let f = std::fs::File::open(path).unwrap();
    (0..300)
        .filter(|byte| {
            let mut l = libc::flock {
                l_type: libc::F_WRLCK as _,
                l_whence: libc::SEEK_SET as _,
                l_start: *byte,
                l_len: 1,
                l_pid: 0,
            };
            // SAFETY: `l` is a valid lock description.
            let r = unsafe { libc::fcntl(f.as_raw_fd(), libc::F_OFD_GETLK, &raw mut l) };
            assert_eq!(r, 0);
            i32::from(l.l_type) != libc::F_UNLCK
        })
        .map(|b| b as u64)
        .collect()
}

async fn locked_graph(path: &str) -> Arc<BlockGraph> {
    let g = graph(block_file::DRIVERS);
    g.add(with_file(file_options("n", path), |f| f.locking = Some(OnOffAuto::On))).await.unwrap();
    g
}

#[test]
fn locks_tell_other_programs() {
    let dir = Dir::new("open-locks");
    let image = dir.file("image", 1 << 20);
    rt::block_on(async {
        // Two graphs are two strangers: the locks belong to descriptors.
        let (a, b) = (locked_graph(&image).await, locked_graph(&image).await);
        assert_eq!(locked(&image), []);
        let wr = READ | Perm::WRITE;
        let alone = attach(&a, "n", wr | Perm::RESIZE, READ | Perm::WRITE_UNCHANGED).await.unwrap();
        assert_eq!(locked(&image), [100, 101, 103, 201, 203]);

        let e = attach(&b, "n", wr, Perm::all()).await.unwrap_err();
        assert_eq!(e.desc(), "Failed to get \"write\" lock");
        assert_eq!(e.hint(), Some(format!("Is another process using the image [{image}]?").as_str()));
        let e = attach(&b, "n", READ, Perm::all() - Perm::WRITE).await.unwrap_err();
        assert_eq!(e.desc(), "Failed to get shared \"write\" lock");
        let e = attach(&b, "n", READ, Perm::all() - Perm::RESIZE).await.unwrap_err();
        assert_eq!(e.desc(), "Failed to get shared \"resize\" lock");
        // What failed left no lock behind.
        assert_eq!(locked(&image), [100, 101, 103, 201, 203]);
        let other = attach(&b, "n", READ, Perm::all()).await.unwrap();
        alone.detach().await;
        assert_eq!(locked(&image), [100]);
        other.detach().await;
        assert_eq!(locked(&image), []);

        // In one graph, permissions of several users add up.
        let r1 = attach(&a, "n", READ, Perm::all() - Perm::RESIZE).await.unwrap();
        let r2 = attach(&a, "n", wr, Perm::all()).await.unwrap();
        assert_eq!(locked(&image), [100, 101, 203]);
        r1.detach().await;
        assert_eq!(locked(&image), [100, 101]);
        r2.detach().await;
    });
}

#[test]
fn locks_move_with_the_descriptor() {
    let dir = Dir::new("open-locks-aro");
    let image = dir.file("image", 1 << 20);
    rt::block_on(async {
        let g = graph(block_file::DRIVERS);
        g.add(auto_read_only(file_options("n", &image))).await.unwrap();
        let b = locked_graph(&image).await;
        let reader = attach(&g, "n", READ, Perm::all()).await.unwrap();
        for _ in 0..3 {
            let w = attach(&g, "n", READ | Perm::WRITE, Perm::all() - Perm::WRITE).await.unwrap();
            assert_eq!(locked(&image), [100, 101, 201]);
            let e = attach(&b, "n", READ | Perm::WRITE, Perm::all()).await.unwrap_err();
            assert_eq!(e.desc(), "Failed to get \"write\" lock");
            w.detach().await;
            assert_eq!(locked(&image), [100]);
        }
        reader.detach().await;
        assert_eq!(locked(&image), []);
    });
}

#[test]
fn force_share_respects_nobody_and_hinders_nobody() {
    let dir = Dir::new("open-force");
    let image = dir.file("image", 1 << 20);
    rt::block_on(async {
        let a = locked_graph(&image).await;
        let w = attach(&a, "n", READ | Perm::WRITE, READ).await.unwrap();
        let b = graph(block_file::DRIVERS);
        let mut o = read_only(file_options("n", &image));
        o.force_share = Some(true);
        b.add(o).await.unwrap();
        let r = attach(&b, "n", READ, READ).await.unwrap();
        w.detach().await;
        let w = attach(&a, "n", READ | Perm::WRITE, READ).await.unwrap();
        w.detach().await;
        r.detach().await;
    });
}

#[test]
fn a_reopen_looks_at_the_length_again() {
    let dir = Dir::new("open-length");
    let image = dir.file("image", 1 << 20);
    rt::block_on(async {
        let g = graph(block_file::DRIVERS);
        g.add(read_only(file_options("n", &image))).await.unwrap();
        let r = attach(&g, "n", READ, Perm::all()).await.unwrap();
        dir.file("image", 3 << 20);
        assert_eq!(r.len(), 1 << 20);
        g.reopen(vec![read_only(file_options("n", &image))]).await.unwrap();
        assert_eq!(r.len(), 3 << 20);
        r.detach().await;
    });
}

#[test]
fn locking_can_be_off() {
    let dir = Dir::new("open-nolock");
    let image = dir.file("image", 1 << 20);
    rt::block_on(async {
        let off = |o| with_file(o, |f| f.locking = Some(OnOffAuto::Off));
        let (a, b) = (graph(block_file::DRIVERS), graph(block_file::DRIVERS));
        a.add(off(file_options("n", &image))).await.unwrap();
        b.add(off(file_options("n", &image))).await.unwrap();
        let _w1 = attach(&a, "n", READ | Perm::WRITE, READ).await.unwrap();
        let _w2 = attach(&b, "n", READ | Perm::WRITE, READ).await.unwrap();
        assert_eq!(locked(&image), []);
    });
}

#[test]
fn character_devices() {
    rt::block_on(async {
        let g = graph(block_file::DRIVERS);
        g.add(device_options("n", "/dev/null")).await.unwrap();
        let root = attach(&g, "n", Perm::all(), Perm::all()).await.unwrap();
        assert_eq!(root.len(), 0);
        root.flush().await.unwrap();
        root.detach().await;
    });
}

#[test]
fn the_image_and_the_reference_program_agree_about_locks() {
    use std::process::Command;
    let run = |args: &[&str]| Command::new("qemu-io").args(args).output();
    if run(&["--version"]).is_err() {
        println!("skipped: qemu-io is not installed");
        return;
    }
    let dir = Dir::new("open-reference");
    let image = dir.file("image", 1 << 20);
    rt::block_on(async {
        let g = locked_graph(&image).await;
        let w = attach(&g, "n", READ | Perm::WRITE, READ).await.unwrap();
        let write = ["-f", "raw", "-c", "write 0 512", image.as_str()];
        let out = run(&write).unwrap();
        let text = String::from_utf8_lossy(&out.stderr);
        assert!(text.contains("Failed to get \"write\" lock"), "{text}");
        w.detach().await;
        assert!(run(&write).unwrap().status.success());
        let r = attach(&g, "n", READ, Perm::all()).await.unwrap();
        assert_eq!(read(&r, 0, 512).await, [0xcd; 512]);
        r.detach().await;
    });
}
