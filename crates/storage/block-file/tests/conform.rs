//! The conformance suite over `file`, in every mode and on every backend.

mod conformance;

use conformance::*;

#[test]
fn file_conforms() {
    let dir = Dir::new("conform-file");
    on_each_backend(async || {
        let path = dir.path("image");
        for (what, options) in file_variants(&path) {
            println!("{what}");
            dir.file("image", 600 << 10);
            let g = graph(block_file::DRIVERS);
            g.add(options).await.unwrap();
            conformance(&g, "n", Traits { resizes: true }).await;
            g.del("n").await.unwrap();
        }
    });
}

#[test]
fn a_file_of_odd_length_is_padded_with_zeroes() {
    let dir = Dir::new("conform-odd");
    on_each_backend(async || {
        let path = dir.path("image");
        for (what, options) in file_variants(&path) {
            println!("{what}");
            std::fs::write(&path, vec![3; 5000]).unwrap();
            let g = graph(block_file::DRIVERS);
            g.add(options).await.unwrap();
            let all = block::perm::Perm::all();
            let root = attach(&g, "n", all, all).await.unwrap();
            assert_eq!(root.len(), 5120);
            let got = read(&root, 0, 5120).await;
            assert!(got[..5000].iter().all(|b| *b == 3) && got[5000..].iter().all(|b| *b == 0));
            root.detach().await;
        }
    });
}

#[test]
fn discards_and_unmapping_zeroes_give_space_back() {
    use block::driver::{WriteFlags, ZeroFlags};
    let dir = Dir::new("conform-space");
    let path = dir.file("image", 1 << 20);
    let blocks = || std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&path).unwrap());
    rt::block_on(async {
        let g = graph(block_file::DRIVERS);
        let mut o = file_options("n", &path);
        o.discard = Some(api::block_core::BlockdevDiscardOptions::Unmap);
        g.add(o).await.unwrap();
        let all = block::perm::Perm::all();
        let root = attach(&g, "n", all, all).await.unwrap();
        let fill = async || {
            root.write(0, mem::IoBuf::from_bytes(&vec![1; 1 << 20]), WriteFlags::FUA).await.unwrap();
            assert!(blocks() >= 2048);
        };
        fill().await;
        root.discard(0, 1 << 20).await.unwrap();
        if blocks() >= 2048 {
            println!("skipped: the file system has no holes");
            return;
        }
        fill().await;
        root.write_zeroes(0, 1 << 19, ZeroFlags::MAY_UNMAP).await.unwrap();
        assert!(blocks() < 2048);
        // Without leave to unmap, the space stays reserved.
        fill().await;
        root.write_zeroes(0, 1 << 20, ZeroFlags::FUA).await.unwrap();
        assert!(blocks() >= 2048);
        assert!(read(&root, 0, 1 << 20).await.iter().all(|b| *b == 0));
        // The hole shows in the block status.
        root.write_zeroes(0, 1 << 20, ZeroFlags::MAY_UNMAP).await.unwrap();
        root.write(1 << 19, mem::IoBuf::from_bytes(&[1; 4096]), WriteFlags::empty()).await.unwrap();
        let hole = root.map(0, 1 << 20).await.unwrap();
        assert!(hole.zero && !hole.eof && hole.len == 1 << 19, "{hole:?}");
        let data = root.map(1 << 19, 1 << 19).await.unwrap();
        assert!(data.data && !data.zero && data.offset == Some(1 << 19), "{data:?}");
        root.detach().await;
    });
}

#[test]
fn a_file_on_a_memory_file_system_conforms() {
    // Another file system, with other gaps in what it can.
    let path = format!("/dev/shm/rhea-conform-{}", std::process::id());
    if let Err(e) = std::fs::write(&path, []) {
        println!("skipped: /dev/shm: {e}");
        return;
    }
    let _gone_at_the_end = Remove(path.clone());
    on_each_backend(async || {
        std::fs::File::create(&path).unwrap().set_len(600 << 10).unwrap();
        let g = graph(block_file::DRIVERS);
        g.add(file_options("n", &path)).await.unwrap();
        conformance(&g, "n", Traits { resizes: true }).await;
        g.del("n").await.unwrap();
    });
}

struct Remove(String);

impl Drop for Remove {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_full_file_system_is_told_as_such() {
    use block::driver::{Prealloc, WriteFlags};
    use std::process::Command;
    struct Mount(Dir);
    impl Drop for Mount {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(self.0.path("")).status();
        }
    }
    let dir = Dir::new("conform-full");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs", &dir.path("")])
        .output()
        .is_ok_and(|o| o.status.success());
    if !mounted {
        println!("skipped: may not mount a file system");
        return;
    }
    let m = Mount(dir);
    on_each_backend(async || {
        let path = m.0.file("image", 1 << 20);
        let g = graph(block_file::DRIVERS);
        g.add(file_options("n", &path)).await.unwrap();
        let all = block::perm::Perm::all();
        let root = attach(&g, "n", all, all).await.unwrap();
        let mib = mem::IoBuf::from_bytes(&vec![1; 1 << 20]);
        assert_eq!(root.write(0, mib, WriteFlags::empty()).await, Err(base::Errno::NOSPC));
        for prealloc in [Prealloc::Falloc, Prealloc::Full] {
            let r = root.truncate(4 << 20, true, prealloc).await;
            assert_eq!(r, Err(base::Errno::NOSPC));
            // The attempt leaves the length as it was.
            assert_eq!((root.len(), std::fs::metadata(&path).unwrap().len()), (1 << 20, 1 << 20));
        }
        root.detach().await;
    });
}

/// More pieces than one system call takes: the driver goes on where it stopped.
#[test]
fn requests_of_many_pieces() {
    let dir = Dir::new("conform-pieces");
    on_each_backend(async || {
        let path = dir.path("image");
        for (what, options) in file_variants(&path) {
            println!("{what}");
            dir.file("image", 4 << 20);
            let g = graph(block_file::DRIVERS);
            g.add(options).await.unwrap();
            let all = block::perm::Perm::all();
            let root = attach(&g, "n", all, all).await.unwrap();
            let (mut out, mut back) = (mem::IoBuf::new(), mem::IoBuf::new());
            for i in 0..3000u32 {
                let piece = mem::Memory::buffer(8192, 4096);
                piece.fill(0, 512, i as u8);
                out.push(piece, 0, 512);
                back.push(mem::Memory::buffer(8192, 4096), 4096, 512);
            }
            root.write(512, out.clone(), block::driver::WriteFlags::FUA).await.unwrap();
            root.read(512, back.clone()).await.unwrap();
            assert!(back.to_vec() == out.to_vec());
            root.detach().await;
        }
    });
}

/// A loop device over a file; gone with its owner.
struct Loop(String);

impl Loop {
    fn new(image: &str) -> Result<Loop, String> {
        let out = std::process::Command::new("losetup").args(["-f", "--show", image]).output();
        let out = out.map_err(|e| format!("losetup: {e}"))?;
        if !out.status.success() {
            return Err(String::from_utf8_lossy(&out.stderr).trim().to_owned());
        }
        Ok(Loop(String::from_utf8_lossy(&out.stdout).trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").args(["-d", &self.0]).status();
    }
}

#[test]
fn block_devices_conform() {
    let dir = Dir::new("conform-device");
    let image = dir.file("image", 600 << 10);
    let dev = match Loop::new(&image) {
        Ok(l) => l,
        Err(e) => {
            println!("skipped: no loop device: {e}");
            return;
        }
    };
    on_each_backend(async || {
        for direct in [false, true] {
            let g = graph(block_file::DRIVERS);
            let mut o = device_options("n", &dev.0);
            o.cache = Some(api::block_core::BlockdevCacheOptions { direct: Some(direct), no_flush: None });
            o.discard = Some(api::block_core::BlockdevDiscardOptions::Unmap);
            g.add(o).await.unwrap();
            let all = block::perm::Perm::all();
            let root = attach(&g, "n", all, all).await.unwrap();
            assert_eq!(root.len(), 600 << 10);
            root.write_zeroes(0, 600 << 10, block::driver::ZeroFlags::empty()).await.unwrap();
            // A device has the length that it has.
            use block::driver::Prealloc::Off;
            assert_eq!(root.truncate(1 << 20, false, Off).await, Err(base::Errno::INVAL));
            assert_eq!(root.truncate(4096, true, Off).await, Err(base::Errno::NOTSUP));
            root.truncate(4096, false, Off).await.unwrap();
            assert_eq!(root.len(), 600 << 10);
            root.detach().await;
            conformance(&g, "n", Traits { resizes: false }).await;
            g.del("n").await.unwrap();
        }
    });
}
