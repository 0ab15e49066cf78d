//! `rhea img inspect`: the sandbox, and images that were made to do harm.

mod common;

use common::Dir;
use qapi::{Dict, Value};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

const TOOL: &str = env!("CARGO_BIN_EXE_image-tool");

impl Dir {
    fn img(&self, line: &str) -> (i32, String, String) {
        let o = Command::new(TOOL).arg("img").args(self.words(line)).output().unwrap();
        let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
        (o.status.code().unwrap_or(-1), text(o.stdout), text(o.stderr))
    }

    fn make(&self, line: &str) {
        let (code, out, err) = self.img(line);
        assert_eq!(code, 0, "{line}: {out}{err}");
    }

    /// The exit code, the reasons, and all that is told.
    fn inspect(&self, line: &str) -> (i32, Vec<String>, Dict) {
        let (code, out, err) = self.img(&format!("inspect --untrusted {line}"));
        let Ok(Value::Dict(d)) = Value::parse_json(&out) else { panic!("{line}: {code} {out}{err}") };
        let Some(Value::List(l)) = d.get("reasons") else { panic!("{out}") };
        let reasons: Vec<String> = l.iter().map(|r| r.as_str().unwrap().to_owned()).collect();
        let verdict = if code == 0 { "accept" } else { "refuse" };
        assert_eq!(d.get("verdict").and_then(Value::as_str), Some(verdict), "{out}");
        assert_eq!(reasons.is_empty(), code == 0, "{out}");
        (code, reasons, d)
    }

    /// Changes bytes of a file.
    fn patch(&self, name: &str, at: usize, bytes: &[u8]) {
        let mut b = std::fs::read(self.at(name)).unwrap();
        if b.len() < at + bytes.len() {
            b.resize(at + bytes.len(), 0);
        }
        b[at..at + bytes.len()].copy_from_slice(bytes);
        std::fs::write(self.at(name), b).unwrap();
    }
}

fn part<'d>(d: &'d Dict, name: &str) -> &'d Dict {
    match d.get(name) {
        Some(Value::Dict(d)) => d,
        _ => panic!("no {name} in {}", Value::Dict(d.clone()).to_json()),
    }
}

#[test]
fn what_the_sandbox_keeps_from() {
    let d = Dir::new("escape");
    std::fs::write(d.at("image"), [7; 512]).unwrap();
    let run = |what: &str| {
        let image = std::fs::File::open(d.at("image")).unwrap();
        let o =
            Command::new(TOOL).args(["escape", what]).stdin(image).stderr(Stdio::null()).output().unwrap();
        (o.status.code(), o.status.signal(), String::from_utf8_lossy(&o.stdout).into_owned())
    };
    let (code, _, told) = run("read");
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("limits=true"), "{told}");
    for what in ["open", "write", "thread", "fork"] {
        assert_eq!(run(what).0, Some(0), "{what}");
    }
    // SIGSYS: the process is ended at once.
    for what in ["connect", "exec"] {
        assert_eq!(run(what).1, Some(31), "{what}");
    }
    // SIGABRT: memory that is not given; and processor time.
    assert_eq!(run("memory").1, Some(6));
    assert!(matches!(run("spin").1, Some(9 | 24)));
    if told.contains("landlock=none") {
        println!("skipped: this kernel has no Landlock");
        return;
    }
    for what in ["early-open", "early-write", "early-thread", "early-exec"] {
        assert_eq!(run(what).0, Some(0), "{what}");
    }
}

#[test]
fn honest_images_are_accepted() {
    let d = Dir::new("honest");
    d.make("create -q -f qcow2 @a 64M");
    let (code, reasons, told) = d.inspect("@a");
    assert_eq!((code, reasons.len()), (0, 0));
    assert_eq!(told.get("format").and_then(Value::as_str), Some("qcow2"));
    assert_eq!(told.get("names-files"), Some(&Value::Bool(false)));
    assert_eq!(part(&told, "image").get("virtual-size"), Some(&Value::Int(64 << 20)));
    assert_eq!(part(&told, "check").get("state").and_then(Value::as_str), Some("sound"));
    assert_eq!(part(&told, "sandbox").get("seccomp"), Some(&Value::Bool(true)));
    assert_eq!(part(&told, "sandbox").get("limits"), Some(&Value::Bool(true)));
    for f in ["raw", "vmdk", "vdi", "vhdx", "vpc", "qed", "qcow", "parallels"] {
        d.make(&format!("create -q -f {f} @{f} 8M"));
        let (code, reasons, told) = d.inspect(&format!("--allow-format {f} @{f}"));
        assert_eq!((code, reasons), (0, vec![]), "{f}");
        assert_eq!(told.get("format").and_then(Value::as_str), Some(f));
    }
    let (_, reasons, _) = d.inspect("--allow-format qcow2 --allow-format raw @vmdk");
    assert_eq!(reasons, ["The format vmdk is not allowed"]);
    assert_eq!(d.inspect("-f raw @a").0, 0);
    d.make("snapshot -c s @a");
    assert_eq!(d.inspect("--max-snapshots 1 @a").0, 0);
    assert_eq!(d.inspect("--max-snapshots 0 @a").1, ["The number of snapshots is 1, more than 0"]);
}

#[test]
fn limits() {
    let d = Dir::new("limits");
    d.make("create -q -f qcow2 @a 1T");
    let (_, reasons, _) = d.inspect("--max-virtual-size 100G --max-size 100 @a");
    assert_eq!(reasons.len(), 3, "{reasons:?}");
    assert_eq!(reasons[2], "The virtual size is 1099511627776, more than 107374182400");
    assert_eq!(d.inspect("--max-tables 1k @a").1.len(), 1);
    // Less memory than the program itself takes: it does not come to anything.
    let (code, reasons, told) = d.inspect("--max-memory 1M @a");
    assert_eq!(code, 2);
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    assert!(!told.contains_key("image"));
}

#[test]
fn names_of_other_files() {
    let d = Dir::new("names");
    d.make("create -q -f qcow2 -u -b /etc/passwd -F raw @a 1M");
    assert_eq!(d.inspect("@a").1, ["It names the backing file '/etc/passwd'"]);
    assert_eq!(d.inspect("--allow-backing /etc/passwd @a").0, 0);
    d.make(
        "create -q -f qcow2 -u -b json:{\"driver\":\"host_device\",\"filename\":\"/dev/sda\"} -F raw @b 1M",
    );
    let (_, reasons, told) = d.inspect("--allow-backing base @b");
    assert_eq!(
        reasons,
        [r#"It names the backing file 'json:{"driver":"host_device","filename":"/dev/sda"}'"#]
    );
    assert_eq!(told.get("names-files"), Some(&Value::Bool(true)));
    d.make("create -q -f qcow2 -o data_file=@data @c 1M");
    let (_, reasons, _) = d.inspect("@c");
    assert_eq!(reasons, [format!("It names the data file '{}'", d.at("data"))]);
    let flat = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\
                RW 8 FLAT \"/etc/passwd\" 0\nRW 8 SPARSE \"/etc/shadow\"\n";
    std::fs::write(d.at("e"), flat).unwrap();
    assert_eq!(d.inspect("@e").1, ["It names 2 other files with parts of its data, such as '/etc/passwd'"]);
}

#[test]
fn headers_that_lie() {
    let d = Dir::new("lies");
    let fresh = |name: &str| d.make(&format!("create -q -f qcow2 @{name} 64M"));
    // Tables of many gigabytes.
    fresh("l1");
    d.patch("l1", 36, &u32::MAX.to_be_bytes());
    fresh("reftable");
    d.patch("reftable", 56, &u32::MAX.to_be_bytes());
    fresh("snapshots");
    d.patch("snapshots", 60, &0xffff_u32.to_be_bytes());
    d.patch("snapshots", 64, &0x10000_u64.to_be_bytes());
    fresh("unknown");
    d.patch("unknown", 72, &(1u64 << 40).to_be_bytes());
    fresh("size");
    d.patch("size", 24, &(1u64 << 62).to_be_bytes());
    for name in ["l1", "reftable", "snapshots", "unknown", "size"] {
        let (code, reasons, _) = d.inspect(&format!("@{name}"));
        // A table of snapshots goes on behind the file's end, where there is none.
        let count = if name == "snapshots" { 2 } else { 1 };
        assert_eq!((code, reasons.len()), (2, count), "{name} {reasons:?}");
    }
    // What is not known but would not matter to a reader.
    fresh("compatible");
    d.patch("compatible", 80, &(1u64 << 40).to_be_bytes());
    assert_eq!(d.inspect("@compatible").1, ["It has something unknown: compatible feature 40"]);
    fresh("autoclear");
    d.patch("autoclear", 88, &(1u64 << 20).to_be_bytes());
    assert_eq!(d.inspect("@autoclear").1, ["It has something unknown: autoclear feature 20"]);
    // The L1 table's first entry leads to the table itself, and the next behind the end.
    fresh("loop");
    let mut l1 = [0; 16];
    l1[..8].copy_from_slice(&((1u64 << 63) | 0x30000).to_be_bytes());
    l1[8..].copy_from_slice(&((1u64 << 63) | 0x7fff_ffff_0000).to_be_bytes());
    let at = u64::from_be_bytes(std::fs::read(d.at("loop")).unwrap()[40..48].try_into().unwrap());
    l1[..8].copy_from_slice(&((1u64 << 63) | at).to_be_bytes());
    d.patch("loop", at as usize, &l1);
    let (code, reasons, _) = d.inspect("@loop");
    assert_eq!(code, 2);
    assert!(reasons[0].starts_with("The check found "), "{reasons:?}");
    assert_eq!(d.inspect("--no-check @loop").0, 0);
}

#[test]
fn damaged_images_never_crash_the_reader() {
    let d = Dir::new("damaged");
    let mut seed = 0x9e37_79b9_u32;
    let mut dice = move || {
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        seed
    };
    for f in ["qcow2", "vmdk", "vdi", "vhdx", "vpc", "qed", "qcow", "parallels"] {
        d.make(&format!("create -q -f {f} @base 8M"));
        let whole = std::fs::read(d.at("base")).unwrap();
        for _ in 0..4 {
            let mut b = whole.clone();
            for _ in 0..1 + dice() % 8 {
                let at = dice() as usize % b.len().min(1024);
                b[at] = dice() as u8;
            }
            std::fs::write(d.at("image"), b).unwrap();
            let (_, reasons, _) = d.inspect(&format!("-f {f} --timeout 10 @image"));
            let bad = ["died", "gave up", "must not", "seconds", "its end", "understood"];
            let fell = reasons.iter().find(|r| bad.iter().any(|b| r.contains(b)));
            assert!(fell.is_none(), "{f}: {reasons:?}");
        }
    }
}

#[test]
fn wrong_command_lines() {
    let d = Dir::new("wrong");
    std::fs::write(d.at("x"), [0; 512]).unwrap();
    for (line, want) in [
        ("inspect @x", "Use --untrusted"),
        ("inspect --untrusted", "Expecting one image file name"),
        ("inspect --untrusted --allow-format nope @x", "Unknown driver 'nope'"),
        ("inspect --untrusted @none", "No such file or directory"),
        ("inspect --untrusted --timeout 0 @x", "Invalid timeout specified"),
    ] {
        let (code, out, err) = d.img(line);
        assert_eq!((code, out.as_str()), (1, ""), "{line}");
        assert!(err.contains(want), "{line}: {err}");
    }
    // No image at all: a folder, a device, and a file that is a driver's only by name.
    assert_eq!(d.inspect("@").1, ["It is no regular file"]);
    assert_eq!(d.inspect("/dev/zero").1, ["It is no regular file"]);
    assert_eq!(d.inspect("-f file @x").1, ["'file' is no image format"]);
    assert_eq!(d.inspect("-f qcow2 @x").1, ["Image is not in qcow2 format"]);
}
