//! `rhea img tree`: chains, folders, and headers that may not be trusted.

mod common;

use common::Dir;

impl Dir {
    /// Runs a command line in which `@x` is the file x in the folder; the folder's name is left out of what it prints.
    fn img(&self, line: &str) -> (i32, String, String) {
        let args = self.words(line);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = image::img::run("rhea img", &args, &mut out, &mut err);
        let folder = format!("{}/", self.path().display());
        let text = |b: Vec<u8>| String::from_utf8(b).unwrap().replace(&folder, "");
        (code, text(out), text(err))
    }

    /// Makes an image, or changes one; that must work.
    fn make(&self, line: &str) {
        let (code, out, err) = self.img(line);
        assert_eq!(code, 0, "{line}: {out}{err}");
    }
}

/// Sizes on the disk are those of the file system.
fn without_sizes(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        match line.split_once(" (").filter(|_| line.contains("on disk)")) {
            Some((before, rest)) => {
                out.push_str(before);
                out.push_str(rest.split_once(')').unwrap().1);
            }
            None => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

#[test]
fn a_folder_is_drawn_from_its_bases_up() {
    let d = Dir::new("folder");
    d.make("create -q -f qcow2 @base 64M");
    d.make("create -q -f qcow2 -b base -F qcow2 @web");
    d.make("create -q -f qcow2 -b web -F qcow2 @web-test");
    d.make("create -q -f qcow2 -b base -F qcow2 @db");
    d.make("snapshot -c one @db");
    d.make("create -q -f qcow2 -o data_file=@z.data @z 1M");
    d.make("create -q -f qcow2 -u -b gone -F raw @lost 1M");
    std::fs::write(d.at(".hidden"), "x").unwrap();
    let (code, out, err) = d.img("tree @");
    assert_eq!((code, err.as_str()), (0, ""));
    let want = "base  qcow2, 64 MiB\n\
                ├── db  qcow2, 64 MiB, 1 snapshot\n\
                └── web  qcow2, 64 MiB\n    \
                    └── web-test  qcow2, 64 MiB\n\
                z  qcow2, 1 MiB\n    \
                    data: z.data  raw, 1 MiB\n\
                gone  (missing)\n\
                └── lost  qcow2, 1 MiB\n";
    assert_eq!(without_sizes(&out), want);
    // One image alone says what is beside it, and opens nothing of it.
    let (code, out, _) = d.img("tree @web-test");
    assert_eq!(
        (code, without_sizes(&out).as_str()),
        (0, "web  (elsewhere, not looked at)\n└── web-test  qcow2, 64 MiB\n")
    );
    let (code, out, _) = d.img("tree --follow @web-test");
    let want = "base  qcow2, 64 MiB\n└── web  qcow2, 64 MiB\n    └── web-test  qcow2, 64 MiB\n";
    assert_eq!((code, without_sizes(&out).as_str()), (0, want));
    let (code, out, _) = d.img("tree --output json -L @web");
    assert_eq!(code, 0);
    for part in [
        "\"backing\": {\n                \"name\": \"base\",\n                \"filename\": \"base\",\n                \"format\": \"qcow2\",\n                \"state\": \"found\"",
        "\"followed\": true",
        "\"overlays\": [\n                \"web\"",
    ] {
        assert!(out.contains(part), "{part}\n{out}");
    }
}

#[test]
fn names_that_headers_have_are_not_opened() {
    let d = Dir::new("names");
    let other = Dir::new("names-other");
    std::fs::write(other.at("secret"), b"QFI\xfb\0\0\0\x03").unwrap();
    d.make(&format!("create -q -f qcow2 -u -b {} -F qcow2 @a 1M", other.at("secret")));
    d.make("create -q -f qcow2 -u -b ../etc/passwd -F raw @b 1M");
    d.make("create -q -f qcow2 -u -b json:{\"driver\":\"file\",\"filename\":\"/etc/passwd\"} -F raw @c 1M");
    d.make("create -q -f qcow2 -u -b nbd://example.com/x -F raw @d 1M");
    std::fs::write(d.at("e"), "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 8 FLAT \"/etc/passwd\" 0\n").unwrap();
    std::os::unix::fs::symlink(other.at("secret"), d.at("link")).unwrap();
    let (code, out, err) = d.img("tree @");
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let secret = other.at("secret");
    let mut lines: Vec<String> = without_sizes(&out).lines().map(str::to_owned).collect();
    lines.sort();
    let mut want = vec![
        format!("{secret}  (elsewhere, not looked at)"),
        "└── a  qcow2, 1 MiB".into(),
        "../etc/passwd  (elsewhere, not looked at)".into(),
        "└── b  qcow2, 1 MiB".into(),
        "json:{\"driver\":\"file\",\"filename\":\"/etc/passwd\"}  (no plain file name, not looked at)".into(),
        "└── c  qcow2, 1 MiB".into(),
        "nbd://example.com/x  (no plain file name, not looked at)".into(),
        "└── d  qcow2, 1 MiB".into(),
        "e  vmdk, 4 KiB".into(),
        "    extent: /etc/passwd  (elsewhere)".into(),
    ];
    want.sort();
    assert_eq!(lines, want);
    // A header that is broken is told of in its place; what is asked for is opened and named with the reason.
    let (code, out, _) = d.img("tree --follow @a");
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("(cannot be read: "), "{out}");
}

#[test]
fn loops_end() {
    let d = Dir::new("loops");
    d.make("create -q -f qcow2 -u -b b -F qcow2 @a 1M");
    d.make("create -q -f qcow2 -u -b c -F qcow2 @b 1M");
    d.make("create -q -f qcow2 -u -b a -F qcow2 @c 1M");
    d.make("create -q -f qcow2 -u -b a -F qcow2 @top 1M");
    d.make("create -q -f qcow2 -u -b ./self -F qcow2 @self 1M");
    let (code, out, _) = d.img("tree @");
    assert_eq!(code, 0);
    let want = "a  qcow2, 1 MiB\n\
                ├── c  qcow2, 1 MiB\n\
                │   └── b  qcow2, 1 MiB\n\
                │       └── a  (a loop: it backs itself)\n\
                └── top  qcow2, 1 MiB\n\
                self  qcow2, 1 MiB\n\
                └── self  (a loop: it backs itself)\n";
    assert_eq!(without_sizes(&out), want);
    let (_, out, _) = d.img("tree --output json @");
    assert_eq!(out.matches("\"loop\": true").count(), 4, "{out}");
    let (_, out, _) = d.img("tree -L @top");
    assert_eq!(out.matches("a loop").count(), 1, "{out}");
}

#[test]
fn what_steers_terminals_is_made_visible() {
    let d = Dir::new("terminal");
    let name = d.at("a\u{1b}[2J");
    std::fs::write(&name, [0; 512]).unwrap();
    let (code, out, _) = d.img("tree @");
    assert_eq!((code, without_sizes(&out).as_str()), (0, "a\\u{1b}[2J  raw, 512 B\n"));
}

#[test]
fn wrong_command_lines() {
    let d = Dir::new("wrong");
    assert_eq!(d.img("tree").0, 1);
    assert_eq!(d.img("tree --output xml @").0, 1);
    assert_eq!(
        d.img("tree @none"),
        (1, String::new(), "rhea img: Could not open 'none': No such file or directory\n".into())
    );
    assert_eq!(d.img("tree @"), (0, String::new(), String::new()));
}
