//! Makes the Debian guest: Debian's riscv64 kernel and busybox, an initrd, and the disks.
//!
//! The packages come through the mirror that apt is set up with, by a private apt configuration with its own lists,
//! and are verified by Debian's keyring. Nothing outside `target/guests` is touched.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use e2e::{DebianGuest, run_tool, workspace};

const SUITE: &str = "trixie";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// What the disk needs, in the order of their dependencies, below the modules' `kernel` folder.
const MODULES: [&str; 9] = [
    "lib/crc16",
    "crypto/crc32c_generic",
    "lib/libcrc32c",
    "fs/mbcache",
    "fs/jbd2/jbd2",
    "fs/ext4/ext4",
    "drivers/virtio/virtio_mmio",
    "drivers/block/virtio_blk",
    "drivers/char/hw_random/virtio-rng",
];
const INIT: &[u8] = include_bytes!("../../tests/guests/debian/init");

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Fetches and makes everything anew
    #[arg(long)]
    force: bool,
    /// Rebuilds the embedded guest's image with Debian's cross compiler instead
    #[arg(long)]
    rebuild_embedded: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    if args.rebuild_embedded {
        crate::setup::run(&["tests"])?;
        run_tool::<&str>(workspace().join("tests/guests/embedded/build.sh"), &[])?;
        println!("guests: rebuilt {}", e2e::embedded_guest().display());
        return Ok(());
    }
    crate::setup::run(&["guests"])?;
    if args.force {
        _ = fs::remove_dir_all(dir());
    }
    make()?;
    Ok(())
}

fn dir() -> PathBuf {
    workspace().join("target/guests")
}

/// The Debian guest, made first where it is not there yet or its recipe has changed.
pub(crate) fn make() -> Result<DebianGuest> {
    let dir = dir();
    let guest = DebianGuest::in_dir(&dir);
    let stamp = dir.join("recipe");
    // The recipe is this file and the init.
    let recipe = [include_bytes!("guests.rs").as_slice(), INIT].concat();
    if fs::read(&stamp).is_ok_and(|s| s == recipe) {
        return Ok(guest);
    }
    fs::create_dir_all(&dir)?;
    _ = fs::remove_file(&stamp);
    let packages = fetch(&dir)?;
    println!("guests: making the initrd and the disks");
    let kernel_tree = unpack(&dir, &packages.kernel, "kernel")?;
    let busybox_tree = unpack(&dir, &packages.busybox, "busybox")?;
    let boot = only_match(&kernel_tree.join("boot"), "vmlinux-")?;
    fs::copy(&boot, &guest.kernel)?;
    make_initrd(&guest.initrd, &kernel_tree, &busybox_tree)?;
    make_disks(&dir, &guest)?;
    for tree in [kernel_tree, busybox_tree] {
        fs::remove_dir_all(tree)?;
    }
    fs::write(&stamp, recipe)?;
    Ok(guest)
}

struct Packages {
    kernel: PathBuf,
    busybox: PathBuf,
}

/// The mirror of the Debian archive that this machine's apt uses: of the sources that offer this release's `main`.
fn mirror() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let codename = release
        .lines()
        .find_map(|l| l.strip_prefix("VERSION_CODENAME="))
        .context("/etc/os-release names no release: this is no Debian")?
        .trim_matches('"');
    let mut files: Vec<PathBuf> = vec!["/etc/apt/sources.list".into()];
    if let Ok(parts) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(parts.flatten().map(|e| e.path()));
    }
    files
        .iter()
        .filter_map(|f| fs::read_to_string(f).ok())
        .find_map(|t| mirror_in(&t, codename))
        .with_context(|| {
            format!("no source of apt offers '{codename} main', so no mirror of Debian is known here")
        })
}

/// The first URI in a list of sources (either of apt's formats) that offers `main` of `codename`.
fn mirror_in(text: &str, codename: &str) -> Option<String> {
    let one_line = text.lines().filter_map(|l| l.trim().strip_prefix("deb ")).find_map(|l| {
        let rest = l.trim_start();
        let rest = if rest.starts_with('[') { rest.split_once(']')?.1 } else { rest };
        let mut words = rest.split_whitespace();
        let (uri, suite) = (words.next()?, words.next()?);
        (suite == codename && words.any(|w| w == "main")).then(|| uri.to_string())
    });
    one_line.or_else(|| {
        text.split("\n\n").find_map(|stanza| {
            let field = |name: &str| {
                stanza.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default()
            };
            let has = |name, word| field(name).split_whitespace().any(|w| w == word);
            (has("Suites", codename) && has("Components", "main") && !has("Enabled", "no"))
                .then(|| field("URIs").split_whitespace().next().map(str::to_string))?
        })
    })
}

/// Downloads the two packages.
fn fetch(dir: &Path) -> Result<Packages> {
    let mirror = mirror()?;
    ensure!(Path::new(KEYRING).exists(), "{KEYRING} is missing: install debian-archive-keyring");
    let apt = dir.join("apt");
    for d in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(apt.join(d))?;
    }
    fs::write(apt.join("status"), "")?;
    let source = format!("deb [arch=riscv64 signed-by={KEYRING}] {mirror} {SUITE} main\n");
    fs::write(apt.join("sources.list"), source)?;
    let at = |p: &str| apt.join(p).display().to_string();
    // How this machine reaches the network (proxies and the like) stays as apt has it.
    let access = run_tool("apt-config", &["dump", "Acquire"])?;
    let config = format!(
        "{access}\nDir::Etc::main \"/dev/null\";\nDir::Etc::parts \"/dev/null\";\nDir::Etc::sourceparts \"/dev/null\";\n\
         Dir::Etc::preferences \"/dev/null\";\nDir::Etc::preferencesparts \"/dev/null\";\n\
         Dir::Etc::sourcelist \"{}\";\nDir::State \"{}\";\nDir::State::lists \"{}\";\nDir::State::status \"{}\";\n\
         Dir::Cache \"{}\";\nAPT::Architecture \"riscv64\";\nAPT::Architectures {{ \"riscv64\"; }};\n\
         Acquire::Languages \"none\";\nAPT::Sandbox::User \"\";\n",
        at("sources.list"),
        at(""),
        at("lists"),
        at("status"),
        at("cache"),
    );
    fs::write(apt.join("apt.conf"), config)?;
    let run = |program: &str, args: &[&str]| -> Result<String> {
        let out = Command::new(program)
            .args(args)
            .env("APT_CONFIG", apt.join("apt.conf"))
            .current_dir(&apt)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("starting {program}"))?;
        if !out.status.success() {
            bail!("{program} {} failed:\n{}", args.join(" "), String::from_utf8_lossy(&out.stderr));
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    };
    println!("guests: reading Debian {SUITE}'s package list for riscv64");
    run("apt-get", &["update", "-q"])?;
    let depends = run("apt-cache", &["depends", "linux-image-riscv64"])?;
    let kernel = depends
        .lines()
        .find_map(|l| l.trim().strip_prefix("Depends: linux-image-"))
        .context("linux-image-riscv64 names no kernel package")?;
    let kernel = format!("linux-image-{kernel}");
    println!("guests: fetching {kernel} and busybox-static (about 110 MiB, once)");
    run("apt-get", &["download", "-q", &kernel, "busybox-static"])?;
    Ok(Packages {
        kernel: only_match(&apt, &format!("{kernel}_"))?,
        busybox: only_match(&apt, "busybox-static_")?,
    })
}

/// The file in `dir` whose name begins with `prefix`; the last by name if there are several.
fn only_match(dir: &Path, prefix: &str) -> Result<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir)?
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix)))
        .collect();
    found.sort();
    found.pop().with_context(|| format!("no {prefix}* in {}", dir.display()))
}

fn unpack(dir: &Path, package: &Path, name: &str) -> Result<PathBuf> {
    let tree = dir.join(name);
    _ = fs::remove_dir_all(&tree);
    run_tool("dpkg-deb", &["-x".as_ref(), package.as_os_str(), tree.as_os_str()])?;
    Ok(tree)
}

/// Writes a cpio archive in the "newc" format, as the kernel unpacks it (buffer-format.rst of its documentation).
struct Cpio<W: Write> {
    out: W,
    inode: u32,
}

impl<W: Write> Cpio<W> {
    fn entry(&mut self, name: &str, mode: u32, data: &[u8], device: (u32, u32)) -> Result<()> {
        self.inode += 1;
        write!(self.out, "070701{:08X}{mode:08X}{:08X}{:08X}", self.inode, 0, 0)?;
        write!(self.out, "{:08X}{:08X}{:08X}{:08X}{:08X}", 1, 0, data.len(), 0, 0)?;
        write!(self.out, "{:08X}{:08X}{:08X}{:08X}", device.0, device.1, name.len() + 1, 0)?;
        self.out.write_all(name.as_bytes())?;
        self.pad(110 + name.len() + 1, true)?;
        self.out.write_all(data)?;
        self.pad(data.len(), false)
    }

    fn pad(&mut self, len: usize, terminate: bool) -> Result<()> {
        let zeroes = terminate as usize + (4 - len % 4) % 4;
        Ok(self.out.write_all(&[0; 4][..zeroes])?)
    }
}

/// An archive with nothing but `init`.
pub(crate) fn archive_of_init(init: &[u8]) -> Result<Vec<u8>> {
    let mut cpio = Cpio { out: Vec::new(), inode: 1 << 16 };
    cpio.entry("init", 0o100755, init, (0, 0))?;
    cpio.entry("TRAILER!!!", 0, &[], (0, 0))?;
    Ok(cpio.out)
}

fn make_initrd(to: &Path, kernel_tree: &Path, busybox_tree: &Path) -> Result<()> {
    let mut cpio = Cpio { out: std::io::BufWriter::new(fs::File::create(to)?), inode: 0 };
    for d in ["bin", "dev", "lib", "lib/modules", "mnt", "proc", "sys", "tmp"] {
        cpio.entry(d, 0o040755, &[], (0, 0))?;
    }
    cpio.entry("dev/console", 0o020600, &[], (5, 1))?;
    cpio.entry("bin/busybox", 0o100755, &fs::read(busybox_tree.join("usr/bin/busybox"))?, (0, 0))?;
    cpio.entry("init", 0o100755, INIT, (0, 0))?;
    let modules = only_match(&kernel_tree.join("usr/lib/modules"), "")?.join("kernel");
    let mut order = String::new();
    for m in MODULES {
        let name = format!("{}.ko", m.rsplit('/').next().unwrap_or(m));
        let packed = modules.join(format!("{m}.ko.xz"));
        let out = Command::new("xz").arg("-dc").arg(&packed).output().context("starting xz")?;
        ensure!(out.status.success(), "xz could not unpack {}", packed.display());
        cpio.entry(&format!("lib/modules/{name}"), 0o100644, &out.stdout, (0, 0))?;
        order += &format!("{name}\n");
    }
    cpio.entry("lib/modules/order", 0o100644, order.as_bytes(), (0, 0))?;
    cpio.entry("TRAILER!!!", 0, &[], (0, 0))?;
    cpio.out.flush()?;
    Ok(())
}

/// Makes the two raw disks: the same ext4 file system, but that the file `marker` says `backing-A` or `backing-B`.
fn make_disks(dir: &Path, guest: &DebianGuest) -> Result<()> {
    let tree = dir.join("tree");
    _ = fs::remove_dir_all(&tree);
    fs::create_dir_all(tree.join("data"))?;
    // 12 files of 1 to 12 times 192 KiB: bytes of a fixed generator, so that no run depends on chance.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for i in 1..=12usize {
        let mut bytes = Vec::with_capacity(i * 192 * 1024);
        while bytes.len() < i * 192 * 1024 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
        }
        fs::write(tree.join(format!("data/file{i:02}")), bytes)?;
    }
    let mut names: Vec<String> = (1..=12).map(|i| format!("data/file{i:02}")).collect();
    names.sort();
    let sums =
        Command::new("sha256sum").args(&names).current_dir(&tree).output().context("starting sha256sum")?;
    ensure!(sums.status.success(), "sha256sum failed");
    fs::write(tree.join("sums"), &sums.stdout)?;
    fs::write(tree.join("marker"), "backing-A marker\n".repeat(4096))?;
    _ = fs::remove_file(&guest.disk_a);
    let uuid = "7f1d2a52-93a4-4a35-9c2e-6c1b0f6d3a11";
    let hash_seed = format!("hash_seed={uuid}");
    run_tool(
        "/sbin/mke2fs",
        &[
            "-q".as_ref(),
            "-t".as_ref(),
            "ext4".as_ref(),
            "-U".as_ref(),
            uuid.as_ref(),
            "-E".as_ref(),
            hash_seed.as_ref(),
            "-d".as_ref(),
            tree.as_os_str(),
            guest.disk_a.as_os_str(),
            "96M".as_ref(),
        ],
    )?;
    fs::remove_dir_all(&tree)?;
    let mut disk = fs::read(&guest.disk_a)?;
    let mut changed = 0;
    let (a, b) = (b"backing-A", b"backing-B");
    let mut i = 0;
    while i + a.len() <= disk.len() {
        if disk[i] == a[0] && disk[i..].starts_with(a) {
            disk[i..i + a.len()].copy_from_slice(b);
            changed += 1;
        }
        i += 1;
    }
    ensure!(changed == 4096, "the marker stands {changed} times in the file system, not 4096 times");
    fs::write(&guest.disk_b, disk)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_found_in_both_formats() {
        let old = "# deb http://no.invalid/debian bookworm main\ndeb [arch=amd64] http://a.invalid/debian bookworm main contrib\n";
        assert_eq!(mirror_in(old, "bookworm").as_deref(), Some("http://a.invalid/debian"));
        assert_eq!(mirror_in(old, "trixie"), None);
        let new = "Types: deb\nURIs: http://x.invalid/\nSuites: nodistro\nComponents: main\n\n\
                   Types: deb\nURIs: http://b.invalid/debian\nSuites: bookworm bookworm-updates\nComponents: main\n";
        assert_eq!(mirror_in(new, "bookworm").as_deref(), Some("http://b.invalid/debian"));
        let other = "deb https://c.invalid/apt cloud-bookworm main\n";
        assert_eq!(mirror_in(other, "bookworm"), None);
    }

    #[test]
    fn cpio_entries_are_aligned() {
        let mut cpio = Cpio { out: Vec::new(), inode: 0 };
        cpio.entry("init", 0o100755, b"#!", (0, 0)).unwrap();
        assert_eq!(cpio.out.len() % 4, 0);
        cpio.entry("TRAILER!!!", 0, &[], (0, 0)).unwrap();
        assert_eq!(cpio.out.len() % 4, 0);
        assert!(cpio.out.starts_with(b"070701"));
        assert_eq!(&cpio.out[110..115], b"init\0");
    }
}
