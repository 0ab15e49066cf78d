//! What clients see of the file.

mod common;

use common::{Bed, able, open, open_rw};
use rustix::fs::{FallocateFlags as Falloc, OFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const MB: u64 = 1 << 20;

fn size(path: &PathBuf) -> u64 {
    std::fs::metadata(path).unwrap().len()
}

fn code<T>(r: std::io::Result<T>) -> Option<i32> {
    r.err().and_then(|e| e.raw_os_error())
}

#[test]
fn the_node_is_a_file() {
    if !able() {
        return;
    }
    rt::block_on(async {
        let bed = Bed::new("file");
        let bytes = bed.file("a", 3 << 20);
        bed.add("{'driver':'file','node-name':'n','filename':'@a'}").await;
        bed.export("'id':'x','node-name':'n','mountpoint':'@m'").await;
        bed.client(move |m| {
            let meta = std::fs::metadata(m).unwrap();
            assert_eq!((meta.len(), meta.mode(), meta.nlink()), (3 * MB, 0o100400, 1));
            assert_eq!((meta.uid(), meta.gid()), (0, 0));
            assert!(meta.blocks() > 0 && meta.blksize() >= 4096);
            assert_eq!(std::fs::read(m).unwrap(), bytes);
            let f = open(m, OFlags::RDONLY | OFlags::DIRECT).unwrap();
            let mut b = [0; 1000];
            assert_eq!(f.read_at(&mut b, 3 * MB - 10).unwrap(), 10);
            assert_eq!(b[..10], bytes[bytes.len() - 10..]);
            assert_eq!(f.read_at(&mut b, 3 * MB).unwrap(), 0);
            assert_eq!(open(m, OFlags::RDWR).unwrap_err(), Errno::ACCESS);
            assert_eq!(open(m, OFlags::WRONLY | OFlags::TRUNC).unwrap_err(), Errno::ACCESS);
            assert_eq!(rustix::fs::statvfs(m).unwrap().f_namemax, 255);
        })
        .await;
        bed.exports.del("x", None).await.unwrap();
        assert_eq!(bed.client(|m| std::fs::read(m).unwrap()).await, b"what stands below");
        bed.end().await;
    });
}

#[test]
fn writes_reach_the_node() {
    if !able() {
        return;
    }
    rt::block_on(async {
        let bed = Bed::new("writes");
        let mut bytes = bed.file("a", 4 << 20);
        bed.add("{'driver':'file','node-name':'n','filename':'@a'}").await;
        bed.object("{'qom-type':'iothread','id':'t'}");
        bed.export("'id':'x','node-name':'n','mountpoint':'@m','writable':true,'iothread':'t'").await;
        bed.client(|m| {
            // A shell's redirection cuts nothing off, as with a disk.
            drop(open(m, OFlags::WRONLY | OFlags::TRUNC).unwrap());
            assert_eq!((size(m), std::fs::metadata(m).unwrap().mode()), (4 * MB, 0o100600));
            let f = open_rw(m);
            f.write_all_at(b"small", 4711).unwrap();
            f.write_all_at(&vec![7; 2 << 20], 70_001).unwrap();
            // Behind the end there is nothing.
            assert_eq!(f.write_at(&[9; 100], 4 * MB - 50).unwrap(), 50);
            assert_eq!(code(f.write_at(&[9; 100], 4 * MB)), Some(Errno::IO.raw_os_error()));
            assert_eq!(code(f.write_at(&[9; 100], 5 * MB)), Some(Errno::IO.raw_os_error()));
            f.sync_all().unwrap();
            f.sync_data().unwrap();
            let sync = open(m, OFlags::WRONLY | OFlags::DSYNC).unwrap();
            sync.write_all_at(b"stable", 0).unwrap();
            let appending = open(m, OFlags::WRONLY | OFlags::APPEND).unwrap();
            assert_eq!(code(std::io::Write::write(&mut &appending, b"x")), Some(Errno::IO.raw_os_error()));
            // Mappings show the same bytes.
            assert_eq!(size(m), 4 * MB);
        })
        .await;
        bytes[4711..4716].copy_from_slice(b"small");
        bytes[70_001..][..2 << 20].fill(7);
        bytes[(4 << 20) - 50..].fill(9);
        bytes[..6].copy_from_slice(b"stable");
        assert!(std::fs::read(bed.dir.join("a")).unwrap() == bytes);
        bed.end().await;
    });
}

/// What `growable` changes, and what it does not: only writes behind the end need it.
#[test]
fn the_length_changes() {
    if !able() {
        return;
    }
    rt::block_on(async {
        let bed = Bed::new("length");
        bed.file("a", 1 << 20);
        bed.add("{'driver':'file','node-name':'n','filename':'@a'}").await;
        bed.export("'id':'x','node-name':'n','mountpoint':'@m','writable':true").await;
        bed.client(|m| {
            let f = open_rw(m);
            f.set_len(2 * MB).unwrap();
            assert_eq!(size(m), 2 * MB);
            f.set_len(MB / 2 + 1).unwrap();
            assert_eq!(size(m), MB / 2 + 512);
            fallocate(&f, Falloc::empty(), MB, 4096).unwrap();
            assert_eq!(size(m), MB + 4096);
            assert_eq!(fallocate(&f, Falloc::empty(), 0, 4096), Err(Errno::NOTSUP));
            assert!(f.set_len(1 << 62).is_err());
            assert_eq!(size(m), MB + 4096);
        })
        .await;
        // The node is resized by somebody else.
        let root = bed.graph.attach(
            "n",
            block::RootConfig { perm: block::Perm::RESIZE, shared: block::Perm::all(), ..Default::default() },
        );
        let root = root.await.unwrap();
        root.truncate(3 * MB, false, block::driver::Prealloc::Off).await.unwrap();
        root.detach().await;
        assert_eq!(bed.client(size).await, 3 * MB);
        bed.exports.del("x", None).await.unwrap();
        bed.export("'id':'x','node-name':'n','mountpoint':'@m','writable':true,'growable':true").await;
        bed.client(|m| {
            let f = open_rw(m);
            f.write_all_at(&[1; 100], 3 * MB - 50).unwrap();
            assert_eq!(size(m), 3 * MB + 512);
            // Several at a time, each further out: none is cut off by another.
            std::thread::scope(|s| {
                for i in 0..16u64 {
                    let f = &f;
                    s.spawn(move || f.write_all_at(&[i as u8 + 1; 4096], 4 * MB + (15 - i) * 4096).unwrap());
                }
            });
            assert_eq!(size(m), 4 * MB + 16 * 4096);
            for i in 0..16u64 {
                let mut b = [0; 4096];
                f.read_exact_at(&mut b, 4 * MB + (15 - i) * 4096).unwrap();
                assert_eq!(b, [i as u8 + 1; 4096]);
            }
            assert!(f.write_at(&[0; 10], i64::MAX as u64 - 10).is_err());
            let appending = open(m, OFlags::WRONLY | OFlags::APPEND).unwrap();
            std::io::Write::write_all(&mut &appending, b"x").unwrap();
            assert_eq!(size(m), 4 * MB + 16 * 4096 + 512);
        })
        .await;
        bed.end().await;
    });
}

#[test]
fn holes_are_made_and_found() {
    if !able() {
        return;
    }
    rt::block_on(async {
        let bed = Bed::new("holes");
        bed.file("a", 4 << 20);
        bed.add("{'driver':'file','node-name':'n','filename':'@a','discard':'unmap'}").await;
        bed.export("'id':'x','node-name':'n','mountpoint':'@m','writable':true").await;
        bed.client(|m| {
            let f = open_rw(m);
            let punch = Falloc::PUNCH_HOLE | Falloc::KEEP_SIZE;
            let before = std::fs::metadata(m).unwrap().blocks();
            fallocate(&f, punch, MB, MB).unwrap();
            let after = std::fs::metadata(m).unwrap().blocks();
            assert!(after + 2000 < before, "{before} blocks, then {after}");
            let to = |at| seek(&f, at);
            assert_eq!(to(SeekFrom::Hole(0)), Ok(MB));
            assert_eq!(to(SeekFrom::Data(MB + 5)), Ok(2 * MB));
            assert_eq!(to(SeekFrom::Data(5)), Ok(5));
            assert_eq!(to(SeekFrom::Hole(2 * MB)), Ok(4 * MB));
            assert_eq!(to(SeekFrom::Hole(4 * MB)), Err(Errno::NXIO));
            assert_eq!(to(SeekFrom::Data(4 * MB)), Err(Errno::NXIO));
            assert_eq!(to(SeekFrom::End(0)), Ok(4 * MB));
            fallocate(&f, Falloc::ZERO_RANGE, 3 * MB, 4096).unwrap();
            let mut b = [1; 4097];
            f.read_exact_at(&mut b, 3 * MB).unwrap();
            assert!(b[..4096].iter().all(|x| *x == 0) && b[4096] != 0);
            // Of what lies behind the end nothing is done; and where it may, the file becomes longer.
            fallocate(&f, punch, 4 * MB - 512, MB).unwrap();
            fallocate(&f, punch, 9 * MB, MB).unwrap();
            assert_eq!(size(m), 4 * MB);
            fallocate(&f, Falloc::ZERO_RANGE, 4 * MB, MB).unwrap();
            assert_eq!(size(m), 5 * MB);
            for mode in [Falloc::KEEP_SIZE, Falloc::COLLAPSE_RANGE, Falloc::INSERT_RANGE] {
                assert_eq!(fallocate(&f, mode, 0, 4096), Err(Errno::NOTSUP), "{mode:?}");
            }
        })
        .await;
        bed.end().await;
    });
}

#[test]
fn owner_and_permissions() {
    if !able() {
        return;
    }
    rt::block_on(async {
        let bed = Bed::new("owner");
        bed.file("a", 1 << 20);
        bed.add("{'driver':'file','node-name':'n','filename':'@a'}").await;
        let chmod = |m: &PathBuf, mode| code(std::fs::set_permissions(m, PermissionsExt::from_mode(mode)));
        bed.export("'id':'x','node-name':'n','mountpoint':'@m','allow-other':'off','writable':true").await;
        bed.client(move |m| {
            assert_eq!(chmod(m, 0o700), None);
            assert_eq!(chmod(m, 0o640), Some(Errno::PERM.raw_os_error()));
            assert_eq!(std::fs::metadata(m).unwrap().mode(), 0o100700);
            assert_eq!(code(std::os::unix::fs::chown(m, Some(1), None)), Some(Errno::NOTSUP.raw_os_error()));
            let now = std::fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
            assert_eq!(code(open_rw(m).set_times(now)), Some(Errno::NOTSUP.raw_os_error()));
        })
        .await;
        bed.exports.del("x", None).await.unwrap();
        bed.export("'id':'x','node-name':'n','mountpoint':'@m','allow-other':'on'").await;
        bed.client(move |m| {
            assert_eq!(chmod(m, 0o600), Some(Errno::ROFS.raw_os_error()));
            assert_eq!(chmod(m, 0o444), None);
            std::os::unix::fs::chown(m, Some(1), Some(2)).unwrap();
            let meta = std::fs::metadata(m).unwrap();
            assert_eq!((meta.mode(), meta.uid(), meta.gid()), (0o100444, 1, 2));
        })
        .await;
        bed.end().await;
    });
}

#[test]
fn mount_points_are_checked() {
    if !able() {
        return;
    }
    rt::block_on(async {
        let bed = Bed::new("points");
        bed.add("{'driver':'null-co','node-name':'n','size':1048576,'read-zeroes':true}").await;
        std::os::unix::fs::symlink(bed.dir.join("m"), bed.dir.join("link")).unwrap();
        let dir = bed.dir.display().to_string();
        let at = |point: &str| format!("'id':'x','node-name':'n','mountpoint':'{point}'");
        for (point, error) in [
            ("@nope", format!("Failed to stat '{dir}/nope': No such file or directory")),
            ("", "Failed to stat '': No such file or directory".into()),
            (&dir, format!("'{dir}' is not a regular file")),
            ("/dev/null", "'/dev/null' is not a regular file".into()),
        ] {
            assert_eq!(bed.try_export(&at(point)).await, Err(error));
        }
        bed.export(&at("@m")).await;
        let again = |point: &str| format!("'id':'y','node-name':'n','mountpoint':'{point}'");
        let taken = |name: &str| Err(format!("There already is a FUSE export on '{dir}/{name}'"));
        assert_eq!(bed.try_export(&again("@m")).await, taken("m"));
        assert_eq!(bed.try_export(&again("@link")).await, taken("link"));
        assert_eq!(bed.mounts(), [format!("{dir}/m")]);
        bed.exports.del("x", None).await.unwrap();
        bed.export(&again("@link")).await;
        bed.end().await;
    });
}

#[test]
fn an_export_ends_under_its_clients() {
    if !able() {
        return;
    }
    rt::block_on(async {
        let bed = Bed::new("ends");
        bed.file("a", 1 << 20);
        bed.add("{'driver':'file','node-name':'n','filename':'@a'}").await;
        bed.export("'id':'x','node-name':'n','mountpoint':'@m'").await;
        let f = bed.client(|m| open(m, OFlags::RDONLY).unwrap()).await;
        // Neither an open file nor mode "safe" keeps it.
        bed.exports.del("x", None).await.unwrap();
        assert!(bed.mounts().is_empty() && bed.exports.query().is_empty());
        let lost = rt::unblock(move || code(f.read_at(&mut [0; 10], 0))).await;
        assert_eq!(lost, Some(Errno::NOTCONN.raw_os_error()));
        // Somebody unmounts it: the export is there, of no use, and can be removed.
        bed.export("'id':'x','node-name':'n','mountpoint':'@m'").await;
        bed.client(|m| rustix::mount::unmount(m, rustix::mount::UnmountFlags::DETACH).unwrap()).await;
        rt::sleep(Duration::from_millis(50)).await;
        assert_eq!(bed.exports.query().len(), 1);
        bed.exports.del("x", None).await.unwrap();
        bed.end().await;
    });
}

/// Requests run side by side: a slow node keeps nobody waiting but those that ask it. And one whose client is killed
/// does no harm.
#[test]
fn requests_run_side_by_side() {
    if !able() {
        return;
    }
    rt::block_on(async {
        let bed = Bed::new("parallel");
        bed.add(
            "{'driver':'null-co','node-name':'n','size':16777216,'read-zeroes':true,'latency-ns':300000000}",
        )
        .await;
        bed.export("'id':'x','node-name':'n','mountpoint':'@m','writable':true").await;
        bed.client(|m| {
            let f = open_rw(m);
            let begun = Instant::now();
            std::thread::scope(|s| {
                for i in 0..16 {
                    let f = &f;
                    s.spawn(move || f.read_exact_at(&mut [0; 4096], i * 65536).unwrap());
                    s.spawn(move || f.write_all_at(&[0; 4096], i * 65536).unwrap());
                }
                let begun = Instant::now();
                assert_eq!(size(m), 16 * MB);
                assert!(begun.elapsed() < Duration::from_millis(250), "{:?}", begun.elapsed());
            });
            assert!(begun.elapsed() < Duration::from_millis(2500), "{:?}", begun.elapsed());
            let mut dd = std::process::Command::new("dd");
            dd.arg(format!("if={}", m.display())).args(["of=/dev/null", "bs=1M"]);
            let mut dd = dd.stderr(std::process::Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(100));
            dd.kill().unwrap();
            assert!(!dd.wait().unwrap().success());
            f.read_exact_at(&mut [0; 4096], 0).unwrap();
        })
        .await;
        bed.end().await;
    });
}

/// The file of one export is the image of another node in the same process.
#[test]
fn a_node_upon_an_export() {
    if !able() {
        return;
    }
    rt::block_on(async {
        let bed = Bed::new("upon");
        bed.file("a", 1 << 20);
        bed.add("{'driver':'file','node-name':'n','filename':'@a'}").await;
        bed.export("'id':'x','node-name':'n','mountpoint':'@m','writable':true").await;
        bed.add("{'driver':'file','node-name':'upper','filename':'@m'}").await;
        let config = block::RootConfig {
            perm: block::Perm::CONSISTENT_READ | block::Perm::WRITE,
            shared: block::Perm::all(),
            ..Default::default()
        };
        let root = bed.graph.attach("upper", config).await.unwrap();
        let data = mem::IoBuf::from_bytes(&[0x5a; 4096]);
        root.write(8192, data, block::driver::WriteFlags::empty()).await.unwrap();
        root.flush().await.unwrap();
        root.detach().await;
        assert_eq!(std::fs::read(bed.dir.join("a")).unwrap()[8192..12288], [0x5a; 4096]);
        bed.graph.del("upper").await.unwrap();
        bed.end().await;
    });
}
