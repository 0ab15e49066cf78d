//! What people and other programs are told of native code: listings in the log (`-d op,out_asm`), a map of names for `perf`
//! (`-perfmap`), and a dump of all code for `perf inject --jit` (`-jitdump`).

use crate::JitOptions;
use parking_lot::Mutex;
use rustix::fs::OFlags;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::time::{ClockId, clock_gettime};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::ptr::null_mut;

/// Native code, and which of its bytes stand for which slots of the guest's page.
pub(crate) struct Made {
    pub(crate) code: Vec<u8>,
    /// Where the code of a slot begins, sorted; a slot may have several places.
    pub(crate) places: Vec<(usize, usize)>,
}

/// Who wants to know of native code.
pub(crate) struct Reports {
    map: Option<Mutex<File>>,
    dump: Option<Mutex<Dump>>,
}

impl Reports {
    /// Creates the files that were asked for.
    ///
    /// # Errors
    /// One line that names the file and why it cannot be made.
    pub(crate) fn new(options: &JitOptions) -> Result<Reports, String> {
        let pid = std::process::id();
        let map = options.perf_map.then(|| create(&format!("/tmp/perf-{pid}.map"))).transpose()?;
        let dump = options.jit_dump.then(|| -> Result<Dump, String> {
            let path = format!("jit-{pid}.dump");
            Dump::begin(create(&path)?, pid).map_err(|e| format!("{path}: {}", base::Errno::from(e)))
        });
        let dump = dump.transpose()?;
        Ok(Reports { map: map.map(Mutex::new), dump: dump.map(Mutex::new) })
    }

    /// Whether it is to be kept which code is for which guest instruction.
    pub(crate) fn want_places(&self) -> bool {
        self.dump.is_some() || trace::enabled(trace::Item::OutAsm)
    }

    /// Tells of a region whose code is at `at`, made from what begins in `slot` of page `page`.
    pub(crate) fn region(&self, made: &Made, at: u64, page: u64, slot: usize) {
        let guest = |slot: usize| (page << 12) + slot as u64 * 2;
        let name = format!("guest-0x{:x}", guest(slot));
        if let Some(map) = &self.map {
            // Who looks at the map has to live with what could be written.
            let _ = writeln!(map.lock(), "{at:x} {:x} {name}", made.code.len());
        }
        if let Some(dump) = &self.dump {
            let places: Vec<(u64, u64)> =
                made.places.iter().map(|(o, s)| (at + *o as u64, guest(*s))).collect();
            let _ = dump.lock().load(&made.code, at, &name, &places);
        }
        if trace::enabled(trace::Item::OutAsm) {
            let mut text = format!("OUT: [size={}]\n", made.code.len());
            let mut places = made.places.iter().peekable();
            for line in disas::x86_64(&made.code, at) {
                while let Some((_, slot)) = places.next_if(|(o, _)| *o <= line.offset) {
                    text.push_str(&format!("  -- guest addr 0x{:016x}\n", guest(*slot)));
                }
                text.push_str(&line.text);
                text.push('\n');
            }
            trace::log!(OutAsm, "{text}");
        }
    }
}

/// A new file, through no link that somebody else put there.
fn create(path: &str) -> Result<File, String> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(true);
    options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options.open(path).map_err(|e| format!("Could not open {path}: {}", base::Errno::from(e)))
}

/// A dump in the format that the `perf` tool's jitdump specification describes, version 1.
struct Dump {
    file: File,
    pid: u32,
    /// Counts the records of code.
    index: u64,
    /// The mapping by which `perf record` learns of the file.
    marker: Marker,
}

/// One page of the file, mapped to be run: nobody does.
struct Marker(usize);

const PAGE: usize = 4096;
/// `JiTD` in the order of this host's bytes.
const MAGIC: u32 = 0x4a69_5444;
const VERSION: u32 = 1;
/// The machine's number in ELF files: x86-64.
const MACHINE: u32 = 62;
const HEADER: u32 = 40;
const CODE_LOAD: u32 = 0;
const CODE_DEBUG_INFO: u32 = 2;

impl Drop for Marker {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nobody uses it.
        let _ = unsafe { munmap(std::ptr::with_exposed_provenance_mut(self.0), PAGE) };
    }
}

fn now() -> u64 {
    let t = clock_gettime(ClockId::Monotonic);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

impl Dump {
    fn begin(mut file: File, pid: u32) -> io::Result<Dump> {
        let mut head = Vec::new();
        for v in [MAGIC, VERSION, HEADER, MACHINE, 0, pid] {
            head.extend(v.to_ne_bytes());
        }
        head.extend(now().to_ne_bytes());
        head.extend(0u64.to_ne_bytes());
        file.write_all(&head)?;
        // SAFETY: a new mapping at an address of the system's choice.
        let at = unsafe {
            mmap(null_mut(), PAGE, ProtFlags::READ | ProtFlags::EXEC, MapFlags::PRIVATE, &file, 0)
        }?;
        Ok(Dump { file, pid, index: 0, marker: Marker(at.expose_provenance()) })
    }

    fn record(&mut self, kind: u32, body: &[u8]) -> io::Result<()> {
        let mut out = Vec::with_capacity(16 + body.len());
        out.extend(kind.to_ne_bytes());
        out.extend((16 + body.len() as u32).to_ne_bytes());
        out.extend(now().to_ne_bytes());
        out.extend(body);
        self.file.write_all(&out)
    }

    /// Code that is there now; `places` are addresses in it with those of the guest that they stand for.
    fn load(&mut self, code: &[u8], at: u64, name: &str, places: &[(u64, u64)]) -> io::Result<()> {
        debug_assert_ne!(self.marker.0, 0);
        if !places.is_empty() {
            let mut body = Vec::new();
            body.extend(at.to_ne_bytes());
            body.extend((places.len() as u64).to_ne_bytes());
            for (host, guest) in places {
                body.extend(host.to_ne_bytes());
                // A line of a source: here, the place within the guest's page.
                body.extend(((guest & 0xfff) as u32).to_ne_bytes());
                body.extend(0u32.to_ne_bytes());
                body.extend(format!("guest-page-0x{:x}\0", guest >> 12).into_bytes());
            }
            self.record(CODE_DEBUG_INFO, &body)?;
        }
        let mut body = Vec::with_capacity(48 + name.len() + code.len());
        body.extend(self.pid.to_ne_bytes());
        body.extend((rustix::thread::gettid().as_raw_nonzero().get() as u32).to_ne_bytes());
        for v in [at, at, code.len() as u64, self.index] {
            body.extend(v.to_ne_bytes());
        }
        body.extend(name.bytes());
        body.push(0);
        body.extend(code);
        self.index += 1;
        self.record(CODE_LOAD, &body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_is_records_one_behind_the_other() {
        let path = std::env::temp_dir().join(format!("rhea-jitdump-{}", std::process::id()));
        let mut dump = Dump::begin(create(path.to_str().unwrap()).unwrap(), 77).unwrap();
        dump.load(&[0xc3], 0x1000, "a", &[]).unwrap();
        dump.load(&[0x90, 0xc3], 0x2000, "bc", &[(0x2000, 0x8000_0010), (0x2001, 0x8000_0012)]).unwrap();
        drop(dump);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!([0, 4, 8, 12, 20].map(word), [MAGIC, 1, 40, 62, 77]);
        let mut at = 40;
        let mut kinds = Vec::new();
        let mut last = long(24);
        while at < bytes.len() {
            kinds.push(word(at));
            assert!(long(at + 8) >= last, "times grow");
            last = long(at + 8);
            if word(at) == CODE_LOAD {
                let (start, len, index) = (long(at + 24), long(at + 40) as usize, long(at + 48));
                let end = at + word(at + 4) as usize;
                let name = if index == 0 { "a\0" } else { "bc\0" };
                assert_eq!((start, len), if index == 0 { (0x1000, 1) } else { (0x2000, 2) });
                assert_eq!(&bytes[at + 56..end - len], name.as_bytes());
                assert_eq!(bytes[end - 1], 0xc3);
            } else {
                assert_eq!((long(at + 16), long(at + 24), long(at + 32)), (0x2000, 2, 0x2000));
                assert_eq!(word(at + 40), 0x10);
                assert!(bytes[at + 48..].starts_with(b"guest-page-0x80000\0"));
            }
            at += word(at + 4) as usize;
        }
        assert_eq!((at, kinds), (bytes.len(), vec![CODE_LOAD, CODE_DEBUG_INFO, CODE_LOAD]));
    }
}
