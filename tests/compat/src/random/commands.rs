//! Sequences of command lines on a few images: a chain of qcow2 images over each other, and a raw one.

use super::Dice;

const QCOW2: [&str; 3] = ["a.q", "b.q", "c.q"];
const ALL: [&str; 4] = ["a.q", "b.q", "c.q", "d.raw"];

fn format(image: &str) -> &'static str {
    if image.ends_with("raw") { "raw" } else { "qcow2" }
}

fn size(d: &mut Dice) -> &'static str {
    d.one(&[
        "0", "511", "512", "1000", "64k", "65535", "100k", "1M", "1M", "1049088", "1.5M", "2M", "3M+", "4M",
        "abc", "7M",
    ])
}

fn offset(d: &mut Dice) -> &'static str {
    d.one(&[
        "0", "0", "512", "1k", "4k", "64k", "128k", "100k", "65535", "65537", "1M", "512k", "1048064",
        "1023k", "2M", "7", "x", "1.5k", "0x200", "960k",
    ])
}

fn length(d: &mut Dice) -> &'static str {
    d.one(&[
        "512", "1k", "4k", "64k", "64k", "128k", "1M", "100", "1", "0", "300k", "65537", "196608", "2G",
        "3.7k",
    ])
}

fn options(d: &mut Dice) -> String {
    const CHOICES: &[(&str, usize, &[&str])] = &[
        ("cluster_size", 25, &["64k", "4096", "512", "2M", "3000", "4M", "256"]),
        ("compat", 25, &["0.10", "1.1", "v2", "v3"]),
        ("lazy_refcounts", 7, &["on", "off", "x"]),
        ("refcount_bits", 20, &["1", "2", "8", "16", "32", "64", "7", "0"]),
        ("preallocation", 7, &["off", "metadata", "falloc", "full", "bad"]),
        ("extended_l2", 15, &["on", "off"]),
        ("compression_type", 7, &["zlib", "zstd", "lz4"]),
        ("foo", 1, &["bar"]),
    ];
    let mut given = Vec::new();
    for (name, percent, values) in CHOICES {
        if d.percent(*percent) {
            given.push(format!("{name}={}", d.one(values)));
        }
    }
    if given.is_empty() { String::new() } else { format!(" -o {}", given.join(",")) }
}

/// One command of `qemu-io`.
fn request(d: &mut Dice) -> String {
    let quiet = d.one(&["", "", "-q "]);
    let pattern = d.one(&["", "-P 0 ", "-P 1 ", "-P 85 ", "-P 255 "]);
    let (off, len) = (offset(d), length(d));
    match d.below(16) {
        0..4 => format!("write {quiet}{pattern}{off} {len}"),
        4 => format!("write {quiet}-z {}{off} {len}", d.one(&["", "-u ", "-f "])),
        5 => {
            format!("read {}{off} {}", d.one(&["", "-v ", "-q ", "-C "]), d.one(&["512", "64", "1k", "64k"]))
        }
        6 => format!("read -P 1 {}{off} {len}", d.one(&["", "-s 512 -l 512 ", "-s 100 ", "-l 64k "])),
        7 => format!("discard {quiet}{off} {len}"),
        8 => format!("aio_write {quiet}{pattern}{off} {len}\" -c \"aio_flush"),
        9 => format!("alloc {off} {}", d.one(&["", "1", "64k", "1M"])),
        10 => format!("truncate {}{}", d.one(&["", "", "-m off ", "-m metadata ", "-m full "]), size(d)),
        11 => format!(
            "write -c {pattern}{} {}",
            d.one(&["0", "64k", "1M", "1k"]),
            d.one(&["64k", "128k", "512"])
        ),
        12 => format!("writev {pattern}{off} 1k {}", d.one(&["512", "4k"])),
        13 => format!("readv {off} 512 {}", d.one(&["512", "4k"])),
        14 => d.one(&["map", "length", "flush", "info", "reopen -r", "close"]).to_owned(),
        _ => d
            .one(&[
                "foo",
                "write",
                "read 0",
                "write -P 256 0 512",
                "write -z -P 1 0 512",
                "write -c -z 0 64k",
                "alloc",
                "read -s 5 0 512",
                "truncate",
                "write -n 0 512",
                "read -l 5 0 512",
            ])
            .to_owned(),
    }
}

fn command(d: &mut Dice) -> String {
    let image = d.one(&ALL);
    let f = format(image);
    let given = d.one(&["", "-f "]);
    let given = if given.is_empty() { String::new() } else { format!("-f {f} ") };
    match d.below(24) {
        0 => format!("qemu-img create -f qcow2{} {} {}", options(d), d.one(&QCOW2), size(d)),
        1 => format!("qemu-img create -f raw d.raw {}", size(d)),
        2 | 3 => {
            let below = d.one(&ALL);
            let size = if d.percent(30) { size(d) } else { "" };
            format!(
                "qemu-img create -f qcow2 -b {below} -F {}{} {} {size}",
                format(below),
                options(d),
                d.one(&QCOW2)
            )
        }
        4..9 => {
            let requests: Vec<String> = (0..=d.below(3)).map(|_| format!("-c \"{}\"", request(d))).collect();
            let how = d.one(&["", "", "", "-r ", "-n ", "-t writethrough ", "-d unmap ", "-U ", "-t x "]);
            format!("qemu-io {how}{given}{} {image}", requests.join(" "))
        }
        9 => format!(
            "qemu-img resize {given}{}{image} {}{}",
            d.one(&["", "--shrink "]),
            d.one(&["", "+"]),
            size(d)
        ),
        10 => format!("qemu-img snapshot -c {} {image}", d.one(&["s0", "s1"])),
        11 => format!(
            "qemu-img snapshot {} {} {}",
            d.one(&["-a", "-d"]),
            d.one(&["s0", "s1", "2"]),
            d.one(&QCOW2)
        ),
        12 => format!("qemu-img commit {}{image}", d.one(&["", "-d ", "-b a.q ", "-q ", "-b nofile "])),
        13 => {
            let below = d.one(&["", "a.q", "b.q", "d.raw", "nofile"]);
            let f = if below.is_empty() { String::new() } else { format!("-F {} ", format(below)) };
            format!("qemu-img rebase {}{f}-b \"{below}\" c.q", d.one(&["", "", "-u ", "-c "]))
        }
        14 => format!(
            "qemu-img amend {given}-o {} {image}",
            d.one(&[
                "compat=0.10",
                "compat=1.1",
                "lazy_refcounts=on",
                "size=2M",
                "refcount_bits=8",
                "cluster_size=512",
                "backing_file=b.q",
                "data_file=x",
                "foo=bar",
                "compat=2"
            ])
        ),
        15 | 16 => format!(
            "qemu-img bitmap {} {image} {}",
            d.one(&[
                "--add",
                "--add",
                "--add -g 64k",
                "--add -g 1000",
                "--add --disable",
                "--remove",
                "--clear",
                "--enable",
                "--disable",
                "--merge m0",
                "",
                "--merge m0 -b a.q",
                "-g 64k --clear",
                "--add --merge m1"
            ]),
            d.one(&["m0", "m1", ""])
        ),
        17 | 18 => {
            let to = d.one(&["c.q", "d.raw", "e.q"]);
            let how = d.one(&[
                "",
                "",
                "-c ",
                "-S 4k ",
                "-S 0 ",
                "-l s0 ",
                "-m 4 ",
                "-W ",
                "-t x ",
                "-S 7 ",
                "-n ",
                "--bitmaps ",
            ]);
            let o = if to == "d.raw" || how == "-n " { String::new() } else { options(d) };
            format!("qemu-img convert {how}{given}-O {}{o} {image} {to}", format(to))
        }
        19 => {
            let to = d.one(&["e.q", "f.raw"]);
            let how = d.one(&[
                "",
                "bs=512 ",
                "bs=64k ",
                "bs=0 ",
                "bs=x ",
                "count=3 ",
                "skip=1 ",
                "skip=2 count=1 ",
            ]);
            format!("qemu-img dd {given}-O {} {how}if={image} of={to}", format(to))
        }
        20 => {
            format!("qemu-img check {}{image}", d.one(&["", "--output=json ", "-q ", "-r leaks ", "-r all "]))
        }
        21 => format!(
            "qemu-img info {}{image}",
            d.one(&["", "--output=json ", "--backing-chain ", "-f bar ", "-U "])
        ),
        22 => format!("qemu-img compare {}{image} {}", d.one(&["", "-q "]), d.one(&ALL)),
        _ => d
            .one(&[
                "qemu-img",
                "qemu-img foo",
                "qemu-img create",
                "qemu-img info",
                "qemu-img info nofile",
                "qemu-img resize a.q",
                "qemu-img convert a.q",
                "qemu-img convert -O foo a.q b.q",
                "qemu-img dd if=a.q",
                "qemu-io nofile",
                "qemu-img create -f foo a.q 1M",
                "qemu-img snapshot -l a.q",
                "qemu-img measure -O qcow2 a.q",
                "qemu-img info --image-opts driver=qcow2,file.filename=a.q",
                "qemu-img create -f qcow2 -b nofile x.q 1M",
            ])
            .to_owned(),
    }
}

/// A sequence of them: first what makes the images, then whatever comes.
pub fn commands(d: &mut Dice) -> Vec<String> {
    let cluster = d.one(&["512", "4096", "65536", "65536", "2097152"]);
    let mut all = vec![
        format!(
            "qemu-img create -f qcow2 -o cluster_size={cluster} a.q {}",
            d.one(&["1M", "1049088", "2M", "8M"])
        ),
        "qemu-img create -q -f raw d.raw 1M".to_owned(),
        format!("qemu-img create -q -f qcow2 -b a.q -F qcow2{} b.q", options(d)),
    ];
    if d.percent(50) {
        all.push(format!("qemu-img create -q -f qcow2 -b b.q -F qcow2 c.q {}", d.one(&["", "2M"])));
    }
    let more = 8 + d.below(16);
    all.extend((0..more).map(|_| command(d)));
    all
}
