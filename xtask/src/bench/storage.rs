//! fio's requests to NBD servers, and those of a disk driver to vhost-user-blk exports: how many a second, and what one costs
//! the server.
//!
//! On a machine that does other things as well, the number a second depends on who gets a processor when; the server's CPU
//! time for a request does not much. The servers take turns, so that ratios are of like with like.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{run_tool, workspace};
use serde_json::Value;

use super::median;
use super::servers::{Kind, Server, Way};
use super::vhost::{self, Disk};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How often each is run; the medians are printed
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Seconds of each run
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// Size of the images in MiB; they should fit into the page cache
    #[arg(long, default_value_t = 512)]
    size: u32,
    /// Where the images are made
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Only measurements whose name contains this
    #[arg(default_value = "")]
    filter: String,
}

/// One kind of requests.
struct Load {
    way: Way,
    rw: &'static str,
    block: &'static str,
    depth: u32,
    /// Clients, each with an export of its own.
    clients: usize,
    /// How many iothreads the exports are spread over.
    iothreads: usize,
}

const LOADS: &[Load] = &[
    Load { way: Way::Nbd, rw: "randread", block: "4k", depth: 1, clients: 1, iothreads: 1 },
    Load { way: Way::Nbd, rw: "randread", block: "4k", depth: 64, clients: 1, iothreads: 1 },
    Load { way: Way::Nbd, rw: "randwrite", block: "4k", depth: 1, clients: 1, iothreads: 1 },
    Load { way: Way::Nbd, rw: "randwrite", block: "4k", depth: 64, clients: 1, iothreads: 1 },
    Load { way: Way::Nbd, rw: "read", block: "1m", depth: 4, clients: 1, iothreads: 1 },
    Load { way: Way::Nbd, rw: "write", block: "1m", depth: 4, clients: 1, iothreads: 1 },
    Load { way: Way::Nbd, rw: "randread", block: "4k", depth: 64, clients: 2, iothreads: 1 },
    Load { way: Way::Nbd, rw: "randread", block: "4k", depth: 64, clients: 2, iothreads: 2 },
    Load { way: Way::Nbd, rw: "randwrite", block: "4k", depth: 64, clients: 2, iothreads: 1 },
    Load { way: Way::Nbd, rw: "randwrite", block: "4k", depth: 64, clients: 2, iothreads: 2 },
    Load { way: Way::VhostUser, rw: "randread", block: "4k", depth: 1, clients: 1, iothreads: 1 },
    Load { way: Way::VhostUser, rw: "randread", block: "4k", depth: 64, clients: 1, iothreads: 1 },
    Load { way: Way::VhostUser, rw: "randwrite", block: "4k", depth: 1, clients: 1, iothreads: 1 },
    Load { way: Way::VhostUser, rw: "randwrite", block: "4k", depth: 64, clients: 1, iothreads: 1 },
    Load { way: Way::VhostUser, rw: "randread", block: "4k", depth: 64, clients: 2, iothreads: 1 },
    Load { way: Way::VhostUser, rw: "randread", block: "4k", depth: 64, clients: 2, iothreads: 2 },
];

/// What was measured: requests a second, and microseconds of the server's CPU time for one.
#[derive(Clone, Copy)]
struct Figure {
    rate: f64,
    cpu: f64,
}

pub(super) fn run(args: &Args) -> Result<()> {
    crate::setup::run(&["bench"])?;
    ensure!(is_there("fio", &["--enghelp=nbd"]), "fio with the engine nbd is not installed (Debian: fio)");
    let dir = args.dir.clone().unwrap_or_else(|| workspace().join("target/bench"));
    std::fs::create_dir_all(&dir)?;
    let mut kinds = vec![Kind::Rhea];
    for other in [Kind::Qsd, Kind::QemuNbd] {
        if other.is_there() {
            kinds.push(other);
        } else {
            println!("{} is not installed: no comparison with it", other.name());
        }
    }
    println!(
        "medians of {} runs of {} s; images of {} MiB in {}",
        args.runs,
        args.seconds,
        args.size,
        dir.display()
    );
    println!("requests/s, and microseconds of the server's CPU time for each; ratios: rhea / other");
    let mut reached: Vec<(String, String, Figure)> = Vec::new();
    for format in ["raw", "qcow2"] {
        let images = [image(&dir, format, 0, args.size)?, image(&dir, format, 1, args.size)?];
        // It is the servers that are compared, not who comes first to what has to be read from the disk.
        for image in &images {
            std::io::copy(&mut std::fs::File::open(image)?, &mut std::io::sink())?;
        }
        for load in LOADS {
            let way = if load.way == Way::VhostUser { "vhost-user " } else { "" };
            let Load { rw, block, depth, clients, iothreads, .. } = load;
            let name = format!("{way}{rw} {block} depth {depth} clients {clients} iothreads {iothreads}");
            if format!("{format} {name}").contains(&args.filter) {
                let ours = compare(args, &kinds, format, &images, load, &name)?;
                reached.push((format.into(), name, ours));
            }
        }
    }
    // What a second iothread is worth to the same two clients.
    for (format, name, two) in reached.iter().filter(|(_, n, _)| n.ends_with("iothreads 2")) {
        let before = name.replace("iothreads 2", "iothreads 1");
        if let Some((_, _, one)) = reached.iter().find(|(f, n, _)| f == format && *n == before) {
            let (rate, cpu) = (two.rate / one.rate, two.cpu / one.cpu);
            println!("2 iothreads / 1  {format:6} {before:52} rate {rate:.2}  cpu {cpu:.2}");
        }
    }
    for (_, name, raw) in reached.iter().filter(|(f, _, _)| f == "raw") {
        if let Some((_, _, qcow2)) = reached.iter().find(|(f, n, _)| f == "qcow2" && n == name) {
            println!(
                "qcow2 / raw  {name:52} rate {:.2}  cpu {:.2}",
                qcow2.rate / raw.rate,
                qcow2.cpu / raw.cpu
            );
        }
    }
    Ok(())
}

/// Runs a load against all servers in turn and prints the medians; those of the first.
fn compare(
    args: &Args,
    kinds: &[Kind],
    format: &str,
    images: &[PathBuf],
    load: &Load,
    name: &str,
) -> Result<Figure> {
    let mut all: Vec<Vec<Figure>> = vec![Vec::new(); kinds.len()];
    for _ in 0..args.runs.max(1) {
        for (figures, kind) in all.iter_mut().zip(kinds) {
            // It has one export.
            if *kind != Kind::QemuNbd || (load.clients == 1 && load.way == Way::Nbd) {
                figures.push(measure(args, *kind, format, &images[..load.clients], load)?);
            }
        }
    }
    print!("{format:6} {name:52}");
    let mut ours = None;
    for (figures, kind) in all.iter().zip(kinds).filter(|(f, _)| !f.is_empty()) {
        let rate = median(figures.iter().map(|f| f.rate));
        let cpu = median(figures.iter().map(|f| f.cpu));
        print!("  {} {rate:.0}/s {cpu:.1} µs", kind.name());
        let ours = *ours.get_or_insert(Figure { rate, cpu });
        if *kind != Kind::Rhea {
            print!(" (rate {:.2}, cpu {:.2})", ours.rate / rate, ours.cpu / cpu);
        }
    }
    println!();
    std::io::stdout().flush()?;
    ours.context("nothing was measured")
}

fn measure(args: &Args, kind: Kind, format: &str, images: &[PathBuf], load: &Load) -> Result<Figure> {
    let server = Server::start(kind, load.way, format, images, load.iothreads)?;
    if load.way == Way::VhostUser {
        let connect = |i| Disk::connect(&server.vhost_socket(i));
        let disks: Vec<Disk> = (0..images.len()).map(connect).collect::<Result<_>>()?;
        let before = server.cpu_seconds()?;
        let time = Duration::from_secs(args.seconds.into());
        let blocks = (u64::from(args.size) << 20) / vhost::BLOCK;
        let run = |mut disk: Disk| disk.run(load.rw == "randwrite", load.depth.into(), blocks, time);
        let results: Vec<Result<(u64, f64)>> = std::thread::scope(|scope| {
            let running: Vec<_> = disks.into_iter().map(|d| scope.spawn(move || run(d))).collect();
            let end = |t: std::thread::ScopedJoinHandle<'_, _>| t.join().expect("a driver's thread panicked");
            running.into_iter().map(end).collect()
        });
        let cpu = server.cpu_seconds()? - before;
        let (mut rate, mut count) = (0.0, 0.0);
        for result in results {
            let (done, seconds) = result?;
            ensure!(done > 0, "nothing was done");
            rate += done as f64 / seconds;
            count += done as f64;
        }
        return Ok(Figure { rate, cpu: cpu / count * 1e6 });
    }
    let before = server.cpu_seconds()?;
    let mut fio = Command::new("fio");
    fio.args(["--ioengine=nbd", "--output-format=json", "--time_based", "--norandommap"])
        .arg(format!("--runtime={}", args.seconds))
        .arg(format!("--size={}m", args.size))
        .arg(format!("--rw={}", load.rw))
        .arg(format!("--bs={}", load.block))
        .arg(format!("--iodepth={}", load.depth));
    for i in 0..images.len() {
        fio.arg(format!("--name=client{i}")).arg(format!("--uri={}", server.uri(i)));
    }
    let out = fio.output().context("starting fio")?;
    let text = String::from_utf8_lossy(&out.stdout);
    ensure!(out.status.success(), "fio: {text}{}", String::from_utf8_lossy(&out.stderr));
    let after = server.cpu_seconds()?;
    // It writes a line of its own before.
    let report: Value = serde_json::from_str(text.find('{').map_or("", |at| &text[at..]))?;
    let side = if load.rw.ends_with("read") { "read" } else { "write" };
    let jobs = report["jobs"].as_array().context("fio's report has no jobs")?;
    let (mut rate, mut count) = (0.0, 0.0);
    for job in jobs {
        ensure!(job["error"] == 0, "fio reports an error: {job}");
        rate += job[side]["iops"].as_f64().context("fio's report has no rate")?;
        count += job[side]["total_ios"].as_f64().context("fio's report has no count")?;
    }
    ensure!(count > 0.0, "nothing was done");
    Ok(Figure { rate, cpu: (after - before) / count * 1e6 })
}

/// An image whose every byte is written.
fn image(dir: &Path, format: &str, number: usize, mib: u32) -> Result<PathBuf> {
    let path = dir.join(format!("disk{number}-{mib}.{format}"));
    if path.exists() {
        return Ok(path);
    }
    println!("making {}", path.display());
    let made = dir.join("new");
    let name = made.to_string_lossy();
    run_tool(e2e::rhea_binary(), &["img", "create", "-q", "-f", format, &name, &format!("{mib}M")])?;
    let server = Server::start(Kind::Rhea, Way::Nbd, format, std::slice::from_ref(&made), 1)?;
    run_tool(
        "fio",
        &[
            "--name=fill",
            "--ioengine=nbd",
            "--rw=write",
            "--bs=1m",
            "--refill_buffers",
            &format!("--size={mib}m"),
            &format!("--uri={}", server.uri(0)),
        ],
    )?;
    drop(server);
    std::fs::rename(&made, &path)?;
    Ok(path)
}

fn is_there(tool: &str, args: &[&str]) -> bool {
    let run = Command::new(tool).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
    run.is_ok_and(|s| s.success())
}
