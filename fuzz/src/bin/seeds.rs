//! Writes the seeds of every target: `fuzz-seeds DIR` makes a folder for each, and prints their names.

use std::fs;
use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        return Err(std::io::Error::other("usage: fuzz-seeds DIR"));
    };
    for target in fuzz::TARGETS {
        println!("{}", target.name);
        let dir = dir.join(target.name);
        fs::create_dir_all(&dir)?;
        for (i, seed) in (target.seeds)().into_iter().enumerate() {
            fs::write(dir.join(format!("seed-{i}")), seed)?;
        }
    }
    Ok(())
}
