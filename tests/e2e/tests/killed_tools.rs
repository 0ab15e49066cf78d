//! Tools are killed at any moment: every image opens, nothing worse than leaked clusters is found, and what was there before is
//! still there.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::{ScratchDir, rhea_binary, run_tool};

const MIB: u64 = 1 << 20;

fn img(args: &[&str]) -> Result<String> {
    run_tool(rhea_binary(), &[&["img"], args].concat())
}

/// A raw image with a byte of its own in every other stretch of 96 KiB.
fn pattern(path: &str, seed: u8, len: u64) -> Result<()> {
    let mut bytes = vec![0; len as usize];
    for (i, part) in bytes.chunks_mut(96 << 10).enumerate() {
        if (i + usize::from(seed)) % 2 == 0 {
            part.fill(seed.wrapping_mul(31).wrapping_add(i as u8) | 1);
        }
    }
    Ok(std::fs::write(path, bytes)?)
}

/// Runs the tool, again for a while where the killed one still holds a lock: the kernel may take its time to end a write.
fn unlocked(args: &[&str]) -> Result<Output> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let done = Command::new(rhea_binary()).arg("img").args(args).output()?;
        let locked = String::from_utf8_lossy(&done.stderr).contains("Is another process using the image");
        if !locked || Instant::now() > end {
            return Ok(done);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Checks an image, which must be one. Whoever stops between two of the states of an internal snapshot leaves flags that
/// promise less than they could, and the dirty bit, for which the next opening sets them right.
fn sound(dir: &ScratchDir, image: &str) -> Result<()> {
    let check = || unlocked(&["check", &dir.file(image)]);
    let mut found = check()?;
    let said = String::from_utf8_lossy(&found.stderr).into_owned();
    let errors: Vec<_> = said.lines().filter(|l| l.starts_with("ERROR")).collect();
    if !errors.is_empty() && errors.iter().all(|l| l.starts_with("ERROR OFLAG_COPIED")) {
        run_tool(rhea_binary(), &["io", "-c", "flush", &dir.file(image)])?;
        found = check()?;
    }
    let said = String::from_utf8_lossy(&found.stdout);
    ensure!(
        matches!(found.status.code(), Some(0 | 3)),
        "{image}: {}",
        said.chars().take(2000).collect::<String>()
    );
    Ok(())
}

/// The image shows what a raw file holds.
fn shows(dir: &ScratchDir, image: &str, raw: &str) -> Result<()> {
    img(&["compare", "-f", "raw", "-F", "qcow2", &dir.file(raw), &dir.file(image)]).map(drop)
}

/// Runs the tool on fresh copies of the images, and kills it after ever longer times.
fn kill(dir: &ScratchDir, images: &[&str], args: &[&str], verify: impl Fn() -> Result<()>) -> Result<()> {
    let fresh = || -> Result<()> {
        for i in images {
            std::fs::copy(dir.file(&format!("{i}.fresh")), dir.file(i))?;
        }
        Ok(())
    };
    let start = || {
        let mut c = Command::new(rhea_binary());
        c.arg("img").args(args).current_dir(dir.path()).stdin(Stdio::null());
        c.stdout(Stdio::null()).stderr(Stdio::null()).spawn()
    };
    fresh()?;
    let begun = Instant::now();
    ensure!(start()?.wait()?.success(), "{args:?} fails");
    let mut whole = begun.elapsed();
    let mut killed = 0;
    for i in 0..12u32 {
        fresh()?;
        let mut child = start()?;
        std::thread::sleep((whole * (2 * i + 1) / 24).max(Duration::from_millis(1)));
        child.kill()?;
        if child.wait()?.success() {
            // It was quicker this time.
            whole = whole * 3 / 4;
        } else {
            killed += 1;
        }
        let what = || format!("{args:?} killed after {i}/12 of {whole:?}");
        for image in images {
            sound(dir, image).with_context(what)?;
        }
        verify().with_context(what)?;
    }
    ensure!(killed > 0, "{args:?} was never killed");
    Ok(())
}

fn images(dir: &ScratchDir) -> Result<()> {
    pattern(&dir.file("a.raw"), 1, 48 * MIB)?;
    pattern(&dir.file("b.raw"), 2, 48 * MIB)?;
    img(&["convert", "-O", "qcow2", &dir.file("a.raw"), &dir.file("base.fresh")])?;
    img(&["convert", "-O", "qcow2", &dir.file("b.raw"), &dir.file("other.fresh")])?;
    // The overlay differs from its backing file in every other stretch.
    std::fs::copy(dir.file("base.fresh"), dir.file("base"))?;
    let top = dir.file("top.fresh");
    img(&["create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", &top])?;
    img(&["convert", "-n", "-O", "qcow2", &dir.file("b.raw"), &top])?;
    Ok(())
}

#[test]
fn a_killed_commit_loses_nothing() {
    let dir = ScratchDir::new("killed-commit").unwrap();
    images(&dir).unwrap();
    kill(&dir, &["base", "top"], &["commit", "top"], || shows(&dir, "top", "b.raw")).unwrap();
}

#[test]
fn a_killed_rebase_loses_nothing() {
    let dir = ScratchDir::new("killed-rebase").unwrap();
    images(&dir).unwrap();
    // An empty overlay: all that differs is copied.
    let top = dir.file("top.fresh");
    img(&["create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", &top]).unwrap();
    let rebase = ["rebase", "-b", "other", "-F", "qcow2", "top"];
    kill(&dir, &["base", "other", "top"], &rebase, || shows(&dir, "top", "a.raw")).unwrap();
}

#[test]
fn a_killed_conversion_leaves_the_source_and_an_image() {
    let dir = ScratchDir::new("killed-convert").unwrap();
    pattern(&dir.file("a.raw"), 1, 96 * MIB).unwrap();
    img(&["convert", "-O", "qcow2", &dir.file("a.raw"), &dir.file("base.fresh")]).unwrap();
    for options in [&[][..], &["-c"], &["-o", "cluster_size=4k"], &["-o", "lazy_refcounts=on"]] {
        let args = [&["convert", "-O", "qcow2"], options, &["base", "out"]].concat();
        _ = std::fs::remove_file(dir.file("out"));
        let verify = || {
            shows(&dir, "base", "a.raw")?;
            // The header comes last when an image is made: before that, there is none.
            let bytes = std::fs::read(dir.file("out")).unwrap_or_default();
            let made = bytes.starts_with(b"QFI\xfb");
            if made {
                let lazy = options.contains(&"lazy_refcounts=on");
                // Refcounts that may be behind are set right when the image is opened for writing.
                if lazy {
                    let repaired = unlocked(&["check", "-r", "all", &dir.file("out")])?;
                    ensure!(repaired.status.success(), "{}", String::from_utf8_lossy(&repaired.stdout));
                }
                sound(&dir, "out")?;
                img(&["convert", "-O", "raw", &dir.file("out"), &dir.file("out.raw")])?;
            }
            _ = std::fs::remove_file(dir.file("out"));
            Ok(())
        };
        kill(&dir, &["base"], &args, verify).unwrap();
    }
}

#[test]
fn a_killed_resize_keeps_what_remains() {
    let dir = ScratchDir::new("killed-resize").unwrap();
    pattern(&dir.file("a.raw"), 1, 48 * MIB).unwrap();
    let (raw, fresh) = (dir.file("a.raw"), dir.file("image.fresh"));
    // Small clusters: the L1 table has to move when the image grows.
    img(&["convert", "-O", "qcow2", "-o", "cluster_size=4k", &raw, &fresh]).unwrap();
    let disk = std::fs::read(&raw).unwrap();
    for (args, left) in [
        (&["resize", "--preallocation=metadata", "image", "1G"][..], 48),
        (&["resize", "--shrink", "image", "16M"], 16),
    ] {
        let verify = || {
            let (count, image) = (format!("count={left}"), format!("if={}", dir.file("image")));
            img(&["dd", "-O", "raw", "bs=1M", &count, &image, &format!("of={}", dir.file("now.raw"))])?;
            let now = std::fs::read(dir.file("now.raw"))?;
            ensure!(now == disk[..(left * MIB) as usize], "other bytes");
            Ok(())
        };
        kill(&dir, &["image"], args, verify).unwrap();
    }
}

#[test]
fn a_killed_snapshot_command_shows_one_state_or_the_other() {
    let dir = ScratchDir::new("killed-snapshot").unwrap();
    pattern(&dir.file("a.raw"), 1, 48 * MIB).unwrap();
    pattern(&dir.file("b.raw"), 2, 48 * MIB).unwrap();
    let fresh = dir.file("image.fresh");
    img(&["convert", "-O", "qcow2", "-o", "cluster_size=4k", &dir.file("a.raw"), &fresh]).unwrap();
    img(&["snapshot", "-c", "old", &fresh]).unwrap();
    img(&["convert", "-n", "-O", "qcow2", &dir.file("b.raw"), &fresh]).unwrap();
    for args in [["snapshot", "-c", "new", "image"], ["snapshot", "-d", "old", "image"]] {
        kill(&dir, &["image"], &args, || shows(&dir, "image", "b.raw")).unwrap();
    }
    let either = || shows(&dir, "image", "b.raw").or_else(|_| shows(&dir, "image", "a.raw"));
    kill(&dir, &["image"], &["snapshot", "-a", "old", "image"], either).unwrap();
}

/// Most memory that a run of the tool takes, MiB.
fn most_memory(args: &[&str]) -> Result<u64> {
    let mut child = Command::new(rhea_binary()).arg("img").args(args).spawn()?;
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    let code = loop {
        if let Some(code) = child.try_wait()? {
            break code;
        }
        let told = std::fs::read_to_string(&status).unwrap_or_default();
        let peak = told
            .lines()
            .find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse().ok());
        most = most.max(peak.unwrap_or(0u64) >> 10);
        std::thread::sleep(Duration::from_millis(1));
    };
    ensure!(code.success(), "{args:?}: {code}");
    ensure!(most > 0, "{args:?} was too quick to be measured");
    Ok(most)
}

#[test]
fn converting_a_sparse_tebibyte_takes_little_memory() {
    use std::os::unix::fs::FileExt;
    let dir = ScratchDir::new("tebibyte").unwrap();
    let disk = std::fs::File::create(dir.file("disk")).unwrap();
    disk.set_len(1 << 40).unwrap();
    for i in 0..32u64 {
        disk.write_all_at(&vec![i as u8 + 1; 1 << 20], i << 35).unwrap();
    }
    let (disk, one, two) = (dir.file("disk"), dir.file("one.qcow2"), dir.file("two.qcow2"));
    for args in [
        &["convert", "-f", "raw", "-O", "qcow2", &disk, &one][..],
        &["convert", "-f", "qcow2", "-O", "qcow2", "-c", &one, &two],
        &["compare", "-q", &one, &two],
        &["check", "-q", &two],
    ] {
        let most = most_memory(args).unwrap();
        assert!(most < 200, "{args:?} took {most} MiB");
    }
}
