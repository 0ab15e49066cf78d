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

use super::median;

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
    /// Only measurements whose name contains this
    #[arg(default_value = "")]
    filter: String,
}

/// A name, the arguments (`@x` is the file x), and whether the target `@out` must show what `@NAME` shows.
const WORK: &[(&str, &str, Option<&str>)] = &[
    ("raw to qcow2", "convert -f raw -O qcow2 @raw @out", Some("raw")),
    ("qcow2 to raw", "convert -f qcow2 -O raw @qcow2 @out", Some("raw")),
    ("qcow2 to qcow2", "convert -f qcow2 -O qcow2 @qcow2 @out", Some("raw")),
    ("overlay to qcow2", "convert -f qcow2 -O qcow2 @overlay @out", Some("overlay")),
    ("compress zlib", "convert -c -f raw -O qcow2 @text @out", Some("text")),
    ("compress zstd", "convert -c -f raw -O qcow2 -o compression_type=zstd @text @out", Some("text")),
    ("decompress", "convert -f qcow2 -O raw @packed @out", Some("text")),
    ("sparse 100 GiB", "convert -f raw -O qcow2 @sparse @out", Some("sparse")),
    ("empty 1 TiB", "convert -f raw -O qcow2 @empty @out", Some("empty")),
    ("compare", "compare -f raw -F qcow2 @raw @qcow2", None),
    ("compare overlay", "compare -f qcow2 -F qcow2 @qcow2 @overlay2", None),
    ("check", "check -f qcow2 @clusters", None),
    ("map", "map --output json -f qcow2 @clusters", None),
    ("measure", "measure -O qcow2 -f qcow2 @clusters", None),
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
    for (name, line, shows) in WORK {
        if !name.contains(&args.filter) {
            continue;
        }
        let mut all: Vec<Vec<Figure>> = programs.iter().map(|_| Vec::new()).collect();
        for _ in 0..args.runs.max(1) {
            for ((program, (path, first)), figures) in programs.iter().zip(&mut all) {
                _ = std::fs::remove_file(dir.join("out"));
                let words = first.iter().cloned().chain(words(&dir, line));
                figures.push(once(path, words).with_context(|| format!("{name}, {program}"))?);
                if let Some(s) = shows {
                    let (source, out) =
                        (dir.join(s).display().to_string(), dir.join("out").display().to_string());
                    run_tool(rhea_binary(), &["img", "compare", "-q", &source, &out])?;
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

/// CPU seconds of children that have ended (proc(5), fields 16 and 17; hundredths).
fn children() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let rest = stat.rsplit_once(')').context("/proc/self/stat")?.1;
    let ticks: Vec<f64> = rest.split_whitespace().skip(13).take(2).filter_map(|t| t.parse().ok()).collect();
    Ok(ticks.iter().sum::<f64>() / 100.0)
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
    for name in ["overlay", "overlay2"] {
        img(&["create", "-q", "-f", "qcow2", "-b", &at("qcow2"), "-F", "qcow2", &at(name)])?;
    }
    // A quarter of the overlay is its own.
    img(&[
        "bench",
        "-q",
        "-w",
        "--pattern",
        "7",
        "-c",
        "1024",
        "-s",
        "64k",
        "-S",
        "256k",
        "-f",
        "qcow2",
        &at("overlay"),
    ])?;
    // A million clusters, whose data nobody reads.
    img(&["create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", &at("clusters"), "64G"])?;
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
