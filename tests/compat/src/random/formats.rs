//! Sequences of command lines on images of one of the other formats.

use super::Dice;

/// A format, the end of its images' names, and whether it has backing files.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// Its name.
    pub name: &'static str,
    /// What its files' names end with.
    pub end: &'static str,
    backing: bool,
    /// `qemu-img check` knows it.
    pub checks: bool,
    options: &'static [(&'static str, usize, &'static [&'static str])],
}

const fn format(name: &'static str, end: &'static str) -> Format {
    Format { name, end, backing: false, checks: true, options: &[] }
}

/// All of them.
pub const FORMATS: &[Format] = &[
    Format { options: &[("static", 40, &["on", "off"])], ..format("vdi", "vdi") },
    Format {
        checks: false,
        options: &[("subformat", 40, &["dynamic", "fixed"]), ("force_size", 40, &["on", "off"])],
        ..format("vpc", "vhd")
    },
    Format {
        options: &[
            ("block_size", 30, &["1M", "2M", "0"]),
            ("log_size", 15, &["1M", "2M"]),
            ("subformat", 30, &["dynamic", "fixed"]),
            ("block_state_zero", 20, &["on", "off"]),
        ],
        ..format("vhdx", "vhdx")
    },
    Format {
        backing: true,
        options: &[
            (
                "subformat",
                40,
                &["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"],
            ),
            ("adapter_type", 12, &["ide", "lsilogic", "buslogic", "legacyESX", "foo"]),
            ("compat6", 10, &["on", "off", "x"]),
            ("hwversion", 10, &["4", "6", "10"]),
            ("zeroed_grain", 25, &["on", "off"]),
        ],
        ..format("vmdk", "vmdk")
    },
    Format {
        backing: true,
        options: &[
            ("cluster_size", 40, &["64k", "4096", "1M", "3000"]),
            ("table_size", 25, &["1", "2", "4", "16", "3"]),
        ],
        ..format("qed", "qed")
    },
    Format {
        options: &[("cluster_size", 50, &["64k", "4096", "512", "1M", "2M"])],
        ..format("parallels", "hds")
    },
    Format { backing: true, checks: false, ..format("qcow", "qcow") },
];

fn size(d: &mut Dice) -> &'static str {
    d.one(&["512", "1000", "64k", "65535", "1M", "1049088", "1.5M", "2M", "4M", "8M", "7M", "33M"])
}

fn offset(d: &mut Dice) -> &'static str {
    d.one(&[
        "0", "512", "1k", "4k", "64k", "128k", "100k", "65535", "1M", "512k", "2M", "7", "x", "960k", "3M",
    ])
}

fn length(d: &mut Dice) -> &'static str {
    d.one(&["512", "1k", "4k", "64k", "128k", "1M", "100", "1", "0", "300k", "65537", "2G", "2M"])
}

fn options(d: &mut Dice, f: &Format) -> String {
    let mut given = Vec::new();
    for (name, percent, values) in f.options {
        if d.percent(*percent) {
            given.push(format!("{name}={}", d.one(values)));
        }
    }
    if given.is_empty() { String::new() } else { format!(" -o {}", given.join(",")) }
}

fn request(d: &mut Dice) -> String {
    let quiet = d.one(&["", "-q "]);
    let pattern = d.one(&["", "-P 0 ", "-P 1 ", "-P 85 ", "-P 255 "]);
    let (off, len) = (offset(d), length(d));
    match d.below(14) {
        12 => format!("write -z {quiet}{off} {len}"),
        13 => format!("{} {off} {len}", d.one(&["write -z -u", "write -z -n"])),
        0..5 => format!("write {quiet}{pattern}{off} {len}"),
        5 => format!("read {}{off} {}", d.one(&["", "-v ", "-q "]), d.one(&["512", "64", "1k", "64k"])),
        6 => format!("read -P 1 {off} {len}"),
        7 => format!("aio_write {quiet}{pattern}{off} {len}\" -c \"aio_flush"),
        8 => format!("alloc {off} {}", d.one(&["", "1", "64k", "1M"])),
        9 => format!("readv {off} 512 {}", d.one(&["512", "4k"])),
        10 => d.one(&["map", "length", "flush", "info", "reopen -r", "close"]).to_owned(),
        _ => format!("writev {pattern}{off} 1k 512"),
    }
}

fn command(d: &mut Dice, f: &Format) -> String {
    let names = [format!("a.{}", f.end), format!("b.{}", f.end)];
    let image = names[d.below(2)].clone();
    let name = f.name;
    match d.below(16) {
        0 => format!("qemu-img create -f {name}{} {image} {}", options(d, f), size(d)),
        1..8 => {
            let requests: Vec<String> = (0..=d.below(3)).map(|_| format!("-c \"{}\"", request(d))).collect();
            let how = d.one(&["", "", "", "-r ", "-n ", "-t writethrough "]);
            format!("qemu-io {how}-f {name} {} {image}", requests.join(" "))
        }
        8 => format!("qemu-img resize -f {name} {image} +{}", size(d)),
        9 => format!("qemu-img snapshot {} {image}", d.one(&["-c s0", "-l", "-a s0", "-d s0"])),
        10 => {
            let to = d.one(&["g.raw", "e"]);
            let (to, format) =
                if to == "e" { (format!("e.{}", f.end), name) } else { (to.to_owned(), "raw") };
            let how = d.one(&["", "", "-c ", "-S 4k ", "-S 0 "]);
            let given = if format == "raw" { String::new() } else { options(d, f) };
            format!("qemu-img convert {how}-f {name} -O {format}{given} {image} {to}")
        }
        11 if f.checks => {
            format!("qemu-img check -f {name} {}{image}", d.one(&["", "--output=json ", "-q ", "-r all "]))
        }
        12 => format!("qemu-img info -f {name} {}{image}", d.one(&["", "--output=json "])),
        13 => format!("qemu-img compare -f {name} -F {name} {} {}", names[0], names[1]),
        14 => format!("qemu-img amend -f {name} -o {} {image}", d.one(&["size=2M", "foo=bar"])),
        _ => d
            .one(&[
                "qemu-img bitmap --add IMAGE b0",
                "qemu-img commit IMAGE",
                "qemu-img rebase -u -b \"\" IMAGE",
                "qemu-img measure -O raw IMAGE",
                "qemu-img map IMAGE",
                "qemu-img bench -c 3 IMAGE",
                "qemu-img convert -O NAME IMAGE",
            ])
            .replace("IMAGE", &format!("-f {name} {image}"))
            .replace("NAME", name),
    }
}

/// A sequence of them: first what makes the images, then whatever comes.
pub fn format_commands(d: &mut Dice, f: &Format) -> Vec<String> {
    let (name, end) = (f.name, f.end);
    let mut all = vec![format!(
        "qemu-img create -q -f {name}{} a.{end} {}",
        options(d, f),
        d.one(&["1M", "4M", "8M", "1049088", "33M"])
    )];
    all.push(match f.backing && d.percent(60) {
        true => format!("qemu-img create -q -f {name} -b a.{end} -F {name}{} b.{end}", options(d, f)),
        false => format!("qemu-img create -q -f {name}{} b.{end} 2M", options(d, f)),
    });
    let more = 6 + d.below(12);
    all.extend((0..more).map(|_| command(d, f)));
    all
}
