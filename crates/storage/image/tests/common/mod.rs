//! Directories with images.

#![allow(dead_code)] // Each test uses its part.

use std::path::{Path, PathBuf};

/// A directory that goes when dropped.
pub struct Dir(PathBuf);

impl Dir {
    /// An empty one. Tests of one program that run at the same time give different names.
    pub fn new(name: &str) -> Dir {
        let program = env!("CARGO_CRATE_NAME");
        let path = std::env::temp_dir().join(format!("rhea-image-{program}-{name}-{}", std::process::id()));
        _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Dir(path.canonicalize().unwrap())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The name of a file in it.
    pub fn at(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// The words of a command line in which `@x` is the file x in the directory.
    pub fn words(&self, line: &str) -> Vec<String> {
        let word = |w: &str| match w.split_once('@') {
            Some((before, file)) => format!("{before}{}", self.at(file)),
            None => w.to_owned(),
        };
        line.split_whitespace().map(word).collect()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}
