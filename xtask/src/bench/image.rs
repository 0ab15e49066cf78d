//! The image tools: how long they take, and what they cost.
//!
//! The programs take turns, each time with a fresh target, so that ratios are of like with like. Every target is compared with its
//! source afterwards.

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::{rhea_binary, run_tool, workspace};

use super::{children, median};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How often each is run; the medians are printed
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Size of the disk in MiB; two of them should fit into the page cache
    #[arg(long, default_value_t = 1024)]
    size: u64,
    /// Where the images are made
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Only measurements whose name contains this ("1 M clusters": a disk of 100 GiB whose first 64 GiB have their clusters,
    /// made with preallocation=metadata)
    #[arg(default_value = "")]
    filter: String,
}

/// One measurement.
struct Work {
    name: &'static str,
    /// The arguments; `@x` is the file x.
    line: &'static str,
    /// Files that are copied anew before each run: from, to.
    fresh: &'static [(&'static str, &'static str)],
    /// A file that must show what another does afterwards.
    shows: Option<(&'static str, &'static str)>,
}

const fn work(name: &'static str, line: &'static str) -> Work {
    Work { name, line, fresh: &[], shows: None }
}

/// One that makes `out`, which must show what `source` shows.
const fn makes(name: &'static str, line: &'static str, source: &'static str) -> Work {
    Work { shows: Some(("out", source)), ..work(name, line) }
}

const WORK: &[Work] = &[
    makes("raw to qcow2", "convert -f raw -O qcow2 @raw @out", "raw"),
    makes("qcow2 to raw", "convert -f qcow2 -O raw @qcow2 @out", "raw"),
    makes("qcow2 to qcow2", "convert -f qcow2 -O qcow2 @qcow2 @out", "raw"),
    makes("overlay to qcow2", "convert -f qcow2 -O qcow2 @overlay @out", "overlay"),
    makes("compress zlib", "convert -c -f raw -O qcow2 @text @out", "text"),
    makes("compress zstd", "convert -c -f raw -O qcow2 -o compression_type=zstd @text @out", "text"),
    makes("decompress", "convert -f qcow2 -O raw @packed @out", "text"),
    makes("sparse 100 GiB", "convert -f raw -O qcow2 @sparse @out", "sparse"),
    makes("empty 1 TiB", "convert -f raw -O qcow2 @empty @out", "empty"),
    work("compare", "compare -f raw -F qcow2 @raw @qcow2"),
    work("compare overlay", "compare -f qcow2 -F qcow2 @qcow2 @overlay2"),
    work("check", "check -f qcow2 @qcow2"),
    work("check 1 M clusters", "check -f qcow2 @clusters"),
    work("map", "map --output json -f qcow2 @overlay"),
    work("map 1 M clusters", "map --output json -f qcow2 @clusters"),
    work("measure", "measure -O qcow2 -f qcow2 @clusters"),
    Work {
        fresh: &[("qcow2", "below"), ("above.fresh", "above")],
        shows: Some(("below", "overlay")),
        ..work("commit", "commit -q -f qcow2 @above")
    },
    Work {
        fresh: &[("raw", "below.raw"), ("above-raw.fresh", "above-raw")],
        shows: Some(("below.raw", "overlay")),
        ..work("commit to raw", "commit -q -f qcow2 @above-raw")
    },
    Work {
        // All that the two backing files differ in is copied.
        fresh: &[("overlay2", "above")],
        shows: Some(("above", "qcow2")),
        ..work("rebase", "rebase -q -f qcow2 -b @overlay -F qcow2 @above")
    },
];

/// Seconds, CPU seconds and MiB.
struct Figure {
    wall: f64,
    cpu: f64,
    memory: f64,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let dir = args.dir.clone().unwrap_or_else(|| workspace().join("target/bench/image"));
    std::fs::create_dir_all(&dir)?;
    let rhea = (rhea_binary().display().to_string(), vec!["img".to_owned()]);
    let mut programs = vec![("rhea", rhea)];
    match Command::new("qemu-img").arg("--version").output() {
        Ok(_) => programs.push(("qemu-img", ("qemu-img".into(), Vec::new()))),
        Err(_) => println!("qemu-img is not installed: no comparison"),
    }
    println!("medians of {} runs; {} MiB in {}", args.runs, args.size, dir.display());
    println!("seconds, CPU seconds, most memory; ratios: rhea / other");
    sources(&dir, args.size)?;
    for Work { name, line, fresh, shows } in WORK {
        if !name.contains(&args.filter) {
            continue;
        }
        let mut all: Vec<Vec<Figure>> = programs.iter().map(|_| Vec::new()).collect();
        // Memory that nobody used for a while may have to come from the host's host first: the first run counts for nobody.
        for n in 0..=args.runs.max(1) {
            for ((program, (path, first)), figures) in programs.iter().zip(&mut all) {
                _ = std::fs::remove_file(dir.join("out"));
                for (from, to) in *fresh {
                    std::fs::copy(dir.join(from), dir.join(to))?;
                }
                let words = first.iter().cloned().chain(words(&dir, line));
                let figure = once(path, words).with_context(|| format!("{name}, {program}"))?;
                if n > 0 {
                    figures.push(figure);
                }
                if let Some((made, source)) = shows {
                    let [source, made] = [source, made].map(|f| dir.join(f).display().to_string());
                    run_tool(rhea_binary(), &["img", "compare", "-q", &source, &made])?;
                }
            }
        }
        let mut text = format!("{name:18}");
        let of = |f: &[Figure], part: fn(&Figure) -> f64| median(f.iter().map(part));
        let (wall, cpu) = (of(&all[0], |f| f.wall), of(&all[0], |f| f.cpu));
        for ((program, _), figures) in programs.iter().zip(&all) {
            let (w, c, m) = (of(figures, |f| f.wall), of(figures, |f| f.cpu), of(figures, |f| f.memory));
            text += &format!("  {program} {w:.3} s, cpu {c:.3} s, {m:.0} MiB");
            if *program != "rhea" {
                text += &format!(" (time {:.2}, cpu {:.2})", wall / w.max(0.001), cpu / c.max(0.01));
            }
        }
        println!("{text}");
    }
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

fn words(dir: &Path, line: &str) -> Vec<String> {
    let at = |w: &str| match w.strip_prefix('@') {
        Some(file) => dir.join(file).display().to_string(),
        None => w.to_owned(),
    };
    line.split_whitespace().map(at).collect()
}

fn once(program: &str, args: impl Iterator<Item = String>) -> Result<Figure> {
    let cpu = children()?;
    let start = Instant::now();
    let mut child = Command::new(program).args(args).stdout(Stdio::null()).spawn()?;
    let status = format!("/proc/{}/status", child.id());
    let mut memory = 0.0f64;
    let code = loop {
        if let Some(code) = child.try_wait()? {
            break code;
        }
        let told = std::fs::read_to_string(&status).unwrap_or_default();
        let peak = told
            .lines()
            .find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
        memory = memory.max(peak.unwrap_or(0.0) / 1024.0);
        std::thread::sleep(Duration::from_millis(1));
    };
    ensure!(code.success(), "{program} failed: {code}");
    Ok(Figure { wall: start.elapsed().as_secs_f64(), cpu: children()? - cpu, memory })
}

/// All images that are worked on.
fn sources(dir: &Path, mib: u64) -> Result<()> {
    let at = |name: &str| dir.join(name).display().to_string();
    let img = |args: &[&str]| run_tool(rhea_binary(), &[&["img"], args].concat());
    // Bytes that no program can save itself from copying.
    let mut out = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::create(dir.join("raw"))?);
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for _ in 0..mib << 17 {
        out.write_all(&random.next().to_le_bytes())?;
    }
    out.flush()?;
    // What compresses about as text does: words of a small dictionary.
    let mut out = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::create(dir.join("text"))?);
    for _ in 0..(mib.min(256)) << 17 {
        let word = random.next() % 5000;
        out.write_all(&(word * word).to_le_bytes()[..6])?;
        out.write_all(b", ")?;
    }
    out.flush()?;
    // 100 GiB with 64 KiB of data each 256 MiB.
    let mut sparse = std::fs::File::create(dir.join("sparse"))?;
    sparse.set_len(100 << 30)?;
    for i in 0..400u64 {
        sparse.seek(SeekFrom::Start(i << 28))?;
        sparse.write_all(&[0x5a; 65536])?;
    }
    std::fs::File::create(dir.join("empty"))?.set_len(1 << 40)?;
    img(&["convert", "-f", "raw", "-O", "qcow2", &at("raw"), &at("qcow2")])?;
    img(&["convert", "-c", "-f", "raw", "-O", "qcow2", &at("text"), &at("packed")])?;
    std::fs::copy(dir.join("qcow2"), dir.join("below"))?;
    std::fs::copy(dir.join("raw"), dir.join("below.raw"))?;
    for (name, below, format) in [
        ("overlay", at("qcow2"), "qcow2"),
        ("overlay2", at("qcow2"), "qcow2"),
        ("above.fresh", at("below"), "qcow2"),
        ("above-raw.fresh", at("below.raw"), "raw"),
    ] {
        let size = format!("{mib}M");
        img(&["create", "-q", "-u", "-f", "qcow2", "-b", &below, "-F", format, &at(name), &size])?;
    }
    // A quarter of an overlay is its own.
    let pattern = "bench -q -w --pattern 7 -s 64k -S 256k -f qcow2";
    let count = (mib * 4).to_string();
    for name in ["overlay", "above.fresh", "above-raw.fresh"] {
        let args: Vec<&str> = pattern.split(' ').collect();
        img(&[&*args, &["-c", &count, &at(name)]].concat())?;
    }
    // A million clusters of 64 KiB, whose data nobody reads, at the beginning of a disk of 100 GiB.
    img(&["create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", &at("clusters"), "64G"])?;
    img(&["resize", "-q", "-f", "qcow2", &at("clusters"), "100G"])?;
    run_tool("sync", &[] as &[&str])?;
    Ok(())
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
