//! `rhea img` as a user sees it; and, where the reference's tool is installed, word for word beside it.

mod common;

use common::Dir;
use std::path::Path;
use std::process::Command;

type Said = (i32, String, String);

fn ours(args: &[String]) -> Said {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = image::img::run("qemu-img", args, &mut out, &mut err);
    (code, String::from_utf8(out).unwrap(), upstream(String::from_utf8(err).unwrap()))
}

/// Without the line that says where to read more, which the reference's packagers have changed.
fn upstream(text: String) -> String {
    let hint = text.lines().find(|l| l.starts_with("Try 'qemu-img")).map(|l| format!("{l}\n"));
    hint.map_or(text.clone(), |h| text.replace(&h, ""))
}

fn theirs(args: &[String]) -> Said {
    let o = Command::new("qemu-img").args(args).output().unwrap();
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    (o.status.code().unwrap_or(-1), text(o.stdout), upstream(text(o.stderr)))
}

/// Splits a command line; `@x` is the file x in the directory.
fn img(dir: &Dir, line: &str) -> Said {
    ours(&dir.words(line))
}

fn have_reference() -> bool {
    let out = Command::new("qemu-img").arg("--version").output();
    match out {
        Ok(o) if String::from_utf8_lossy(&o.stdout).starts_with("qemu-img version 10.0") => true,
        _ => {
            println!("skipped: qemu-img 10.0 is not installed");
            false
        }
    }
}

#[test]
fn descriptions_may_have_the_older_names_of_options() {
    let d = Dir::new("older");
    // Nobody listens there.
    for line in [
        "info --image-opts driver=nbd,host=127.0.0.1,port=1",
        "info --image-opts driver=raw,file.driver=nbd,file.host=127.0.0.1,file.port=1",
        "info json:{\"driver\":\"nbd\",\"host\":\"127.0.0.1\",\"port\":\"1\"}",
    ] {
        let (code, _, err) = img(&d, line);
        assert!(code == 1 && err.contains("Connection refused"), "{line}: {err}");
    }
}

#[test]
fn create_info_check() {
    let d = Dir::new("basic");
    let (code, out, err) = img(&d, "create -f qcow2 @a 64M");
    assert_eq!((code, err.as_str()), (0, ""));
    let line = "cluster_size=65536 extended_l2=off compression_type=zlib size=67108864 lazy_refcounts=off refcount_bits=16";
    assert_eq!(out, format!("Formatting '{}', fmt=qcow2 {line}\n", d.at("a")));
    let (code, out, _) = img(&d, "create -q -f qcow2 -b a -F qcow2 @b");
    assert_eq!((code, out.as_str()), (0, ""));
    let (code, out, _) = img(&d, "info @b");
    assert_eq!(code, 0);
    for part in
        ["file format: qcow2\nvirtual size: 64 MiB (67108864 bytes)\n", "backing file: a (actual path: "]
    {
        assert!(out.contains(part), "{out}");
    }
    let (_, out, _) = img(&d, "info --output json --backing-chain @b");
    assert_eq!(out.matches("\"virtual-size\": 67108864").count(), 2, "{out}");
    assert_eq!(
        img(&d, "check @b"),
        (0, "No errors were found on the image.\nImage end offset: 262144\n".into(), String::new())
    );
    let (code, _, err) = img(&d, "create -f raw @r 1M");
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(
        img(&d, "check -f raw @r"),
        (63, String::new(), "qemu-img: This image format does not support checks\n".into())
    );
    assert_eq!(std::fs::metadata(d.at("r")).unwrap().len(), 1 << 20);
}

#[test]
fn leaks_and_corruptions_are_repaired() {
    let d = Dir::new("repair");
    img(&d, "create -q -f qcow2 -o cluster_size=4k @a 1M");
    let damage = |at: usize, v: &[u8]| {
        let mut b = std::fs::read(d.at("a")).unwrap();
        b.resize(8 * 4096, 0);
        b[at..at + v.len()].copy_from_slice(v);
        std::fs::write(d.at("a"), b).unwrap();
    };
    // Refcounts stand in the third cluster, two bytes each: a cluster that nobody has.
    damage(2 * 4096 + 12, &[0, 1]);
    let (code, out, err) = img(&d, "check @a");
    assert_eq!((code, err.as_str()), (3, "Leaked cluster 6 refcount=1 reference=0\n"));
    assert!(out.contains("\n1 leaked clusters were found on the image.\n"));
    assert_eq!(img(&d, "check -q -r leaks @a").0, 0);
    assert_eq!(img(&d, "check -q @a").0, 0);
    // And one that somebody has but that counts as free.
    damage(2 * 4096 + 6, &[0, 0]);
    let (code, _, err) = img(&d, "check -q @a");
    assert_eq!((code, err.as_str()), (2, "ERROR cluster 3 refcount=0 reference=1\n"));
    let (code, out, err) = img(&d, "check -r all @a");
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.starts_with(
        "The following inconsistencies were found and repaired:\n\n    0 leaked clusters\n    1 corruptions\n"
    ));
    assert_eq!(img(&d, "check -q @a"), (0, String::new(), String::new()));
}

#[test]
fn an_image_in_use_is_left_alone() {
    let d = Dir::new("inuse");
    img(&d, "create -q -f qcow2 @a 1M");
    let before = std::fs::read(d.at("a")).unwrap();
    let x = rt::Executor::new().unwrap();
    x.block_on(async {
        use image::open::{OpenFlags, Source, open};
        let flags = OpenFlags { write: true, ..OpenFlags::default() };
        let user = open(&Source::file(&d.at("a"), Some("qcow2")), flags).await.unwrap();
        let args = d.words("create -q -f qcow2 @a 2M");
        let (code, _, err) = rt::unblock(move || ours(&args)).await;
        assert_eq!(code, 1);
        assert!(err.contains("lock"), "{err}");
        let args = d.words("info -U @a");
        assert_eq!(rt::unblock(move || ours(&args)).await.0, 0);
        user.close().await;
    });
    assert!(std::fs::read(d.at("a")).unwrap() == before);
}

#[test]
fn help_and_rubbish() {
    let d = Dir::new("help");
    for line in ["--help", "--version", "create --help", "info -h", "check --help", "create -f qcow2 -o help"]
    {
        let (code, out, err) = img(&d, line);
        assert_eq!((code, err.as_str()), (0, ""), "{line}");
        assert!(!out.is_empty());
        // Options stand below one another.
        assert!(!out.contains("\n-"), "{out}");
    }
    let says = |line: &str, text: &str| {
        let (code, out, err) = img(&d, line);
        assert_eq!((code, out.as_str(), err.lines().next().unwrap_or("")), (1, "", text), "{line}");
    };
    says("", "qemu-img: Not enough arguments");
    says("bogus", "qemu-img: Command not found: bogus");
    says("convert a", "qemu-img: Must specify image file name");
    says("info", "qemu-img: Expecting one image file name");
    says("info -Z x", "qemu-img: unrecognized option '-Z'");
    says("create -f qcow2 -o bogus=1 x 1M", "qemu-img: x: Invalid parameter 'bogus'");
    says(
        "create -f qcow2 x 1Z",
        "qemu-img: Invalid image size specified. You may use k, M, G, T, P or E suffixes for",
    );
}

/// Commands whose whole output, both streams and the exit code must be the reference's. The first line of each group
/// makes what the others look at.
const SAME: &str = "
create -f qcow2 @a 1G
info @a
info --output json @a
info -f raw --output json @a
info --backing-chain --output json @a
check @a
check --output json @a
info --image-opts driver=qcow2,file.driver=file,file.filename=@a
create -f qcow2 -b @a @x
create -f qcow2 -b a -F qcow2 @x
info @x
info --backing-chain @x
info --backing-chain --output json @x
create -f qcow2 -b nope -F qcow2 @x
create -f qcow2 -u -b nope @x 1M
create -f qcow2 -u -b nope -F qcow2 @x 1M
info @x
info --backing-chain @x
create -f qcow2 -b @x -F qcow2 @x 1M
create -f qcow2 -b a -F foo @x
create -f raw -b a -F qcow2 @x
create -f qcow2 -o compat=0.10 @c 1000
info @c
info --output json @c
create -f qcow2 -o cluster_size=4k,compression_type=zstd,lazy_refcounts=on,refcount_bits=64 @y 10M
info @y
create -f qcow2 -o preallocation=full @p 1M
create -f qcow2 -o preallocation=foo @p 1M
create -f qcow2 -o cluster_size=1000 @x 1M
create -f qcow2 -o cluster_size=abc @x 1M
create -f qcow2 -o compat=0.10,lazy_refcounts=on @x 1M
create -f qcow2 -o compat=3 @x 1M
create -f qcow2 -o refcount_bits=3 @x 1M
create -f qcow2 -o refcount_bits=abc @x 1M
create -f qcow2 -o compat=0.10,refcount_bits=1 @x 1M
create -f qcow2 -o compression_type=zstd,compat=0.10 @x 1M
create -f qcow2 -o compression_type=foo @x 1M
create -f qcow2 -o lazy_refcounts=abc @x 1M
create -f qcow2 -o size=1M @x 2M
create -f qcow2 -o extended_l2=on @x 1M
create -f qcow2 -o extended_l2=on,cluster_size=8k @x 1M
create -f qcow2 -o extended_l2=on,compat=0.10 @x 1M
create -f qcow2 -o data_file_raw=on @x 1M
create -f qcow2 -o cluster_size=512 @x 1P
create -f qcow2 @x 9999999999999999T
create -f qcow2 @x 0
info @x
create -f raw @r 1M
info @r
info --output json @r
check @r
create -f raw -o preallocation=metadata @r 1M
create -f qcow2 /nonexistent/x 1M
create -f foo @x 1M
create @x
create -f qcow2 @x 1M extra
info @nope
info -f foo @a
check @nope
check -T foo @a
check -U -r all @a
";

#[test]
fn words_are_the_references() {
    if !have_reference() {
        return;
    }
    // Each has its own directory; names in texts are made equal.
    let (d, e) = (Dir::new("same-a"), Dir::new("same-b"));
    let plain = |s: Said, dir: &Dir| {
        let clean = |t: String| t.replace(&dir.path().display().to_string(), "DIR");
        (s.0, clean(s.1), clean(s.2))
    };
    for line in SAME.lines().filter(|l| !l.is_empty()) {
        let ref_said = plain(theirs(&d.words(line)), &d);
        let our_said = plain(img(&e, line), &e);
        assert_eq!(our_said, ref_said, "{line}");
    }
}

#[test]
fn snapshots_bitmaps_and_damage_are_shown_the_same() {
    if !have_reference() {
        return;
    }
    let d = Dir::new("shown");
    let file = d.at("a");
    let run = |line: &str| assert_eq!(theirs(&d.words(line)).0, 0, "{line}");
    run("create -q -f qcow2 @a 64M");
    run("bitmap --add @a b0");
    run("snapshot -c first @a");
    run("snapshot -c second @a");
    let same = |line: &str| {
        let args = d.words(line);
        assert_eq!(ours(&args), theirs(&args), "{line}");
    };
    for line in ["info @a", "info --output json @a", "check @a", "check --output json @a"] {
        same(line);
    }
    run("create -q -f qcow2 @a 64M");
    let sound = std::fs::read(&file).unwrap();
    let be = |v: u64| v.to_be_bytes().to_vec();
    for (at, v) in [
        (0, vec![0]),
        (4, vec![0, 0, 0, 9]),
        (20, vec![0, 0, 0, 40]),
        (72, be(1)),
        (72, be(2)),
        (72, be(1 << 40)),
        (36, vec![0, 0, 0, 0]),
        (56, vec![0; 4]),
        (60, vec![255; 4]),
        (96, vec![0, 0, 0, 9]),
        (65536, be(0)),
        (65536, be(0x20001)),
        (131_072, vec![0, 7]),
        (131_078, vec![0, 0]),
        (196_608, be(1 << 63 | 0x10200)),
    ] {
        let mut b = sound.clone();
        b[at..at + v.len()].copy_from_slice(&v);
        std::fs::write(&file, b).unwrap();
        for line in ["info -f qcow2 @a", "check -f qcow2 @a"] {
            let args = d.words(line);
            let (o, t) = (ours(&args), theirs(&args));
            assert_eq!((o.0, &o.1), (t.0, &t.1), "{line} with {v:?} at {at}: {} {}", o.2, t.2);
        }
    }
    assert!(Path::new(&file).exists());
}

#[test]
fn luks_volumes() {
    let d = Dir::new("luks");
    let secret = "--object secret,id=s,data=hunter2";
    let line = format!("create -f luks {secret} -o key-secret=s,iter-time=10 @a 1M");
    let (code, out, err) = img(&d, &line);
    let said = format!("Formatting '{}', fmt=luks size=1048576 key-secret=s iter-time=10\n", d.at("a"));
    assert_eq!((code, out.as_str(), err.as_str()), (0, said.as_str(), ""));
    let (code, out, _) = img(&d, "info @a");
    assert_eq!(code, 0);
    for part in ["file format: luks\nvirtual size: 1 MiB", "encrypted: yes\n", "cipher alg: aes-256\n"] {
        assert!(out.contains(part), "{out}");
    }
    assert_eq!(std::fs::metadata(d.at("a")).unwrap().len(), 2_068_480 + (1 << 20));
    let (code, _, err) = img(&d, "create -q -f luks @b 1M");
    let missing = format!("qemu-img: {}: Parameter 'key-secret' is required for cipher\n", d.at("b"));
    assert_eq!((code, err), (1, missing));
    let (_, _, err) = img(&d, &format!("create -q -f luks {secret} -o key-secret=s,cipher-alg=foo @b 1M"));
    assert!(err.ends_with("Parameter 'cipher-alg' does not accept value 'foo'\n"), "{err}");
    assert_eq!(
        img(&d, &format!("create -q -f luks {secret} -o key-secret=s,iter-time=10,detached-header=on @h 1M"))
            .0,
        0
    );
    assert_eq!(std::fs::metadata(d.at("h")).unwrap().len(), 2_068_480);
    if have_reference() {
        for args in ["info @a", "info --output=json @a"] {
            assert_eq!(img(&d, args), theirs(&d.words(args)), "{args}");
        }
        assert_eq!(theirs(&d.words(&line)).1, said);
        for args in ["info @a", "info --output=json @a"] {
            assert_eq!(img(&d, args), theirs(&d.words(args)), "{args}");
        }
    }
}

const SECRETS: &str = "--object secret,id=s,data=pw --object secret,id=n,data=new";

/// A command line with the secrets, and a description of an encrypted image.
fn with_secrets(line: &str) -> String {
    line.replace("SECRETS", SECRETS)
        .replace("DESC", "--image-opts driver=qcow2,encrypt.key-secret=s,file.filename=@e")
}

#[test]
fn encrypted_qcow2_images() {
    let d = Dir::new("qcow2-luks");
    let make =
        "create SECRETS -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 @e 4M";
    let run = |line: &str| img(&d, &with_secrets(line));
    let (code, out, err) = run(make);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(
        out.contains("fmt=qcow2 encrypt.format=luks encrypt.key-secret=s encrypt.iter-time=10 cluster_size=")
    );
    let (_, out, _) = run("info @e");
    for part in ["encrypted: yes\n", "        cipher alg: aes-256\n", "    encrypt:\n"] {
        assert!(out.contains(part), "{out}");
    }
    let sound = "No errors were found on the image.\nImage end offset: 2359296\n";
    // Whoever checks an image must be able to read it.
    let (code, out, err) = run("check @e");
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.ends_with("Parameter 'encrypt.key-secret' is required for cipher\n"), "{err}");
    assert_eq!(run("check SECRETS DESC"), (0, sound.into(), String::new()));
    // An overlay needs no key to be made; and repairs go by a description, too.
    let (code, out, err) = run("create -f qcow2 -b e -F qcow2 @o");
    assert!(code == 0 && out.contains("size=4194304"), "{err}");
    let mut b = std::fs::read(d.at("e")).unwrap();
    b.resize(36 * 65536 + 65536, 0);
    // A cluster that nobody has: refcounts stand in the third cluster.
    b[2 * 65536 + 2 * 36 + 1] = 1;
    std::fs::write(d.at("e"), b).unwrap();
    assert_eq!(run("check -q SECRETS DESC").0, 3);
    let (code, out, err) = run("check -r leaks SECRETS DESC");
    assert!(code == 0 && out.contains("    1 leaked clusters\n"), "{out}{err}");
    assert_eq!(run("check -q SECRETS DESC").0, 0);
    assert_eq!(run("check --image-opts driver=raw,file.filename=@e").0, 63);
    assert_eq!(run(make).0, 0);
    if !have_reference() {
        return;
    }
    let same = |line: &str| {
        let words = d.words(&with_secrets(line));
        let (ours, theirs) = (ours(&words), theirs(&words));
        assert_eq!(ours, theirs, "{line}");
    };
    for line in [
        "info @e",
        "info --output=json @e",
        "check SECRETS DESC",
        "check --output json SECRETS DESC",
        "create SECRETS -f qcow2 -o encryption=on @x 4M",
        "create SECRETS -f qcow2 -o encryption=on,encrypt.key-secret=s @x 4M",
        "create SECRETS -f qcow2 -o encrypt.format=luks @x 4M",
        "create SECRETS -f qcow2 -o encrypt.format=foo @x 4M",
        "create SECRETS -f qcow2 -o encrypt.key-secret=s @x 4M",
        "create SECRETS -f qcow2 -o encrypt.format=luks,encrypt.key-secret=zz @x 4M",
        "create SECRETS -f qcow2 -o encrypt.format=aes,encrypt.key-secret=s,encrypt.cipher-alg=aes-128 @x 4M",
        "create SECRETS -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=foo @x 4M",
        "create SECRETS -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encryption=on @x 4M",
    ] {
        same(line);
    }
    // Made by the reference.
    assert_eq!(theirs(&d.words(&with_secrets(make))).0, 0);
    same("info @e");
    same("check SECRETS DESC");
    let o = "encrypt.format=aes,encrypt.key-secret=s";
    assert_eq!(theirs(&d.words(&with_secrets(&format!("create -q SECRETS -f qcow2 -o {o} @a 4M")))).0, 0);
    same("info @a");
    same("info --output json @a");
    same("check @a");
    same("check SECRETS --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=@a");
}

/// Lines that both are given, one after another; output and exit codes are the same, and so is what the image is then.
const AMEND: &str = "
amend @p
amend -o compat=0.10 @p
amend -o compat=1.1 @p
amend -o compat=2.0 @p
amend -o foo=1 @p
amend -o compat=0.10 @p
amend -o refcount_bits=8 @p
amend -o compat=v3,lazy_refcounts=on @p
amend -o refcount_bits=8,lazy_refcounts=off @p
amend -o compat=v2 @p
amend -q -o refcount_bits=1 @p
amend -o refcount_bits=3 @p
amend -o refcount_bits=foo @p
amend -o size=8M @p
amend -o size=1M @p
amend -o size=100 @p
amend -o backing_file=x,backing_fmt=raw @p
amend -o backing_file=x @p
amend -o cluster_size=65536 @p
amend -o preallocation=full @p
amend -o extended_l2=on @p
amend -o compression_type=zstd @p
amend -o data_file=x @p
amend -o data_file_raw=on @p
amend -o encryption=on @p
amend -o encrypt.format=luks @p
amend -o encrypt.state=active,encrypt.new-secret=n @p
amend -o encrypt.state=active,encrypt.new-secret=n @e
amend SECRETS -o encrypt.state=active,encrypt.new-secret=n,encrypt.iter-time=10 DESC
amend SECRETS -o encrypt.state=active,encrypt.new-secret=n,encrypt.iter-time=10,encrypt.keyslot=1 DESC
amend SECRETS --force -o encrypt.state=active,encrypt.new-secret=n,encrypt.iter-time=10,encrypt.keyslot=1 DESC
amend SECRETS -o encrypt.state=inactive,encrypt.old-secret=n DESC
amend SECRETS -o encrypt.state=inactive,encrypt.keyslot=0 DESC
amend SECRETS -o encrypt.state=inactive,encrypt.old-secret=s DESC
amend SECRETS -o encrypt.state=foo DESC
amend SECRETS -o encrypt.key-secret=s DESC
amend SECRETS -o encrypt.keyslot=1 DESC
amend SECRETS -o compat=0.10 DESC
amend SECRETS -o lazy_refcounts=on DESC
amend SECRETS -o compat=1.1,size=6M DESC
amend -f raw -o size=1M @p
amend -f qcow2 -o size=1M
amend -f qcow2 -o size=1M a b
amend -f qcow2 -o size=1M nonexistent
amend -t foo -o size=1M @p
amend --image-opts -f qcow2 -o size=1M @p
";

#[test]
fn images_are_amended_as_the_reference_does() {
    let (mine, other) = (Dir::new("amend-mine"), Dir::new("amend-other"));
    for d in [&mine, &other] {
        assert_eq!(img(d, "create -q -f qcow2 @p 4M").0, 0);
        let o = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
        assert_eq!(img(d, &with_secrets(&format!("create -q SECRETS -f qcow2 -o {o} @e 4M"))).0, 0);
    }
    let reference = have_reference();
    let about = |d: &Dir, name: &str| {
        let (code, out, _) = img(d, &format!("info @{name}"));
        assert_eq!(code, 0);
        let told = ["compat:", "lazy refcounts", "refcount bits", "virtual size", "active:"];
        out.lines().filter(|l| told.iter().any(|t| l.contains(t))).map(str::to_string).collect::<Vec<_>>()
    };
    for line in AMEND.lines().filter(|l| !l.is_empty()) {
        let line = with_secrets(line);
        let (code, out, err) = img(&mine, &line);
        assert!(code <= 1, "{line}");
        if !reference {
            continue;
        }
        let (their_code, their_out, their_err) = theirs(&other.words(&line));
        let here = |t: String| t.replace(&other.at(""), &mine.at(""));
        assert_eq!((code, out, err), (their_code, here(their_out), here(their_err)), "{line}");
        for name in ["p", "e"] {
            assert_eq!(about(&mine, name), about(&other, name), "{line}: {name}");
        }
    }
    assert_eq!(img(&mine, "check -q @p"), (0, String::new(), String::new()));
    let (_, out, _) = img(&mine, "amend -p -o lazy_refcounts=off @p");
    assert_eq!(out, "    (0.00/100%)\r    (100.00/100%)\r\n");
    for line in ["amend -f qcow2 -o help", "amend -f luks -o help", "amend -o help @p", "amend --help"] {
        let (code, out, err) = img(&mine, line);
        assert_eq!((code, err.as_str(), out.is_empty()), (0, "", false), "{line}");
    }
    // Key slots of plain LUKS volumes.
    let run = |line: &str| img(&mine, &with_secrets(line));
    assert_eq!(run("create -q SECRETS -f luks -o key-secret=s,iter-time=10 @l 1M").0, 0);
    let desc = "--image-opts driver=luks,key-secret=s,file.filename=@l";
    let add = format!("amend SECRETS -o state=active,new-secret=n,iter-time=10 {desc}");
    assert_eq!(run(&add), (0, String::new(), String::new()));
    assert_eq!(about(&mine, "l").iter().filter(|l| l.contains("active: true")).count(), 2);
    let erase = format!("amend SECRETS -o state=inactive,keyslot=0 {desc}");
    assert_eq!(run(&erase), (0, String::new(), String::new()));
    let (code, _, err) = run(&erase);
    assert!(code == 1 && err.contains("Invalid password, cannot unlock any keyslot"), "{err}");
}
