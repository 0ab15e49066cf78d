//! `rhea img commit` and `rebase` are killed at any moment: every image opens, nothing worse than leaked clusters is found, and
//! the disk that the image shows is the same.

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

/// Runs the tool on fresh copies of the images, and kills it after ever longer times.
fn kill(dir: &ScratchDir, images: &[&str], args: &[&str], shows: &str) -> Result<()> {
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
            let check = unlocked(&["check", &dir.file(image)])?;
            let said = String::from_utf8_lossy(&check.stdout);
            ensure!(matches!(check.status.code(), Some(0 | 3)), "{}, {image}: {said}", what());
        }
        img(&["compare", "-f", "raw", "-F", "qcow2", &dir.file(shows), &dir.file("top")])
            .with_context(what)?;
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
    kill(&dir, &["base", "top"], &["commit", "top"], "b.raw").unwrap();
}

#[test]
fn a_killed_rebase_loses_nothing() {
    let dir = ScratchDir::new("killed-rebase").unwrap();
    images(&dir).unwrap();
    // An empty overlay: all that differs is copied.
    let top = dir.file("top.fresh");
    img(&["create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", &top]).unwrap();
    kill(&dir, &["base", "other", "top"], &["rebase", "-b", "other", "-F", "qcow2", "top"], "a.raw").unwrap();
}
