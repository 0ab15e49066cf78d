//! Running both tools on images in a directory.

use std::process::Command;

use block::driver::{WriteFlags, ZeroFlags};
use image::open::{OpenFlags, Source, open};
use mem::IoBuf;

pub(crate) use crate::folder::Dir;

impl Dir {
    /// Runs `img` with a line; `@x` is the file x in the directory.
    pub(crate) fn img(&self, line: &str) -> Said {
        let mut said = self.once(line);
        // Another test may just be starting a process, which has our files until it is another program.
        for _ in 0..20 {
            if !said.2.contains("Failed to get ") {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
            said = self.once(line);
        }
        said
    }

    fn once(&self, line: &str) -> Said {
        let args = self.words(line);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = image::img::run("qemu-img", &args, &mut out, &mut err);
        self.plain((code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap()))
    }

    /// The same, which must succeed and say nothing on the error stream; what it prints.
    pub(crate) fn ok(&self, line: &str) -> String {
        let (code, out, err) = self.img(line);
        assert_eq!((code, err.as_str()), (0, ""), "{line}: {out}");
        out
    }

    /// The reference's answer.
    pub(crate) fn reference(&self, line: &str) -> Said {
        let o = Command::new("qemu-img").args(self.words(line)).output().unwrap();
        let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
        self.plain((o.status.code().unwrap_or(-1), text(o.stdout), text(o.stderr)))
    }

    /// Names and times are made equal, and sizes on the host are left out; and where to read more, which the reference's packagers have
    /// changed.
    fn plain(&self, s: Said) -> Said {
        let clean = |t: String| {
            let t = t.replace(&self.path().display().to_string(), "DIR");
            let gone = ["disk size:", "file length:", "Image end offset:"];
            let keep = |l: &&str| !l.starts_with("Try '") && !gone.iter().any(|g| l.contains(g));
            t.lines().filter(keep).map(|l| format!("{}\n", dated(l))).collect()
        };
        (s.0, clean(s.1), clean(s.2))
    }

    /// Writes a byte all over a range of an image, or zeroes, which need no space.
    pub(crate) fn write(&self, name: &str, format: &str, byte: u8, off: u64, len: u64) {
        let x = rt::Executor::new().unwrap();
        x.block_on(async {
            let flags = OpenFlags { write: true, chain: true, ..OpenFlags::default() };
            let source = Source::file(&self.at(name), Some(format));
            let mut opened = open(&source, flags).await;
            for _ in 0..20 {
                if opened.is_ok() {
                    break;
                }
                // See `img`.
                rt::sleep(std::time::Duration::from_millis(20)).await;
                opened = open(&source, flags).await;
            }
            let image = opened.unwrap();
            let root = image.writer().await.unwrap();
            match byte {
                0 => root.write_zeroes(off, len, ZeroFlags::MAY_UNMAP).await.unwrap(),
                _ => {
                    let buf = IoBuf::zeroed(len as usize);
                    buf.fill(byte);
                    root.write(off, buf, WriteFlags::empty()).await.unwrap();
                }
            }
            root.detach().await;
            image.close().await;
        });
    }

    /// `a`: a disk of 8 MiB with data, zeroes and holes. `b`: an overlay over it.
    pub(crate) fn chain(&self) {
        self.ok("create -q -f qcow2 @a 8M");
        for (byte, off, len) in
            [(1, 0, 1 << 20), (0, 2 << 20, 1 << 20), (7, 4 << 20, 12 << 10), (8, 5_000_192, 700 << 10)]
        {
            self.write("a", "qcow2", byte, off, len);
        }
        self.ok("create -q -f qcow2 -b a -F qcow2 @b");
        self.write("b", "qcow2", 2, 6 << 20, 64 << 10);
        self.write("b", "qcow2", 0, 0, 128 << 10);
    }
}

/// A line with its date made equal.
fn dated(line: &str) -> String {
    let is_date = |w: &str| w.len() == 10 && w.as_bytes()[4] == b'-' && w.as_bytes()[7] == b'-';
    match line.split_whitespace().find(|w| is_date(w)) {
        Some(d) => {
            line.split_once(d).map_or(line.into(), |(a, b)| format!("{a}DATE{}", &b[9.min(b.len())..]))
        }
        None => line.to_string(),
    }
}

pub(crate) type Said = (i32, String, String);

pub(crate) fn have_reference() -> bool {
    let out = Command::new("qemu-img").arg("--version").output();
    match out {
        Ok(o) if String::from_utf8_lossy(&o.stdout).starts_with("qemu-img version 10.0") => true,
        _ => {
            println!("skipped: qemu-img 10.0 is not installed");
            false
        }
    }
}

/// Runs lines through both, each in a directory of its own that `set_up` filled: what they say and their exit codes are
/// the same.
pub(crate) fn same(name: &str, set_up: impl Fn(&Dir), lines: &str) {
    if !have_reference() {
        return;
    }
    let (ours, theirs) = (Dir::new(&format!("{name}-ours")), Dir::new(&format!("{name}-theirs")));
    set_up(&ours);
    set_up(&theirs);
    for line in lines.lines().filter(|l| !l.is_empty()) {
        let (o, t) = (ours.img(line), theirs.reference(line));
        assert_eq!(o, t, "{line}");
    }
}
