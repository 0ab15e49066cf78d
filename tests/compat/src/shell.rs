//! Running a command with one side's tools.

use crate::normal::normal;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The names that the tools have on both sides.
const NAMES: [&str; 4] = ["qemu-img", "qemu-io", "qemu-nbd", "qemu-storage-daemon"];

/// How long a command may take, seconds.
const PATIENCE: &str = "30";

/// What cases have for servers: waiting for a file, for the end of the process whose number is in a file, and ending that one.
const HELPERS: [(&str, &str); 3] = [
    ("came", "for i in $(seq 500); do [ -e \"$1\" ] && exit 0; sleep 0.02; done; exit 1"),
    // A server that misses the end of its last client, or a signal, since it was just starting, is told again.
    (
        "gone",
        "p=$(cat \"$1\" 2>/dev/null) || exit 0\n\
         for i in $(seq 500); do grep -q '^State:.[^ZX]' /proc/$p/status 2>/dev/null || exit 0; \
         [ $i = 150 ] && kill $p; [ $i = 300 ] && kill -9 $p; sleep 0.02; done; exit 1",
    ),
    (
        "stop",
        "p=$(cat \"$1\") && kill ${2:--TERM} $p\n\
         for i in $(seq 500); do grep -q '^State:.[^ZX]' /proc/$p/status 2>/dev/null || exit 0; \
         [ $((i % 50)) = 0 ] && kill ${2:--TERM} $p; sleep 0.02; done; exit 1",
    ),
];

/// Puts the helpers into a folder of the search path.
fn helpers(links: &Path) {
    for (name, text) in HELPERS {
        let path = links.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a script");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("a script that runs");
    }
}

/// What came of a command; the texts are normalised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// The exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Output {
    /// For people.
    pub fn shown(&self) -> String {
        let mut text = String::new();
        for (mark, stream) in [('|', &self.out), ('!', &self.err)] {
            for part in stream.split_inclusive('\n') {
                let end = if part.ends_with('\n') { "" } else { "\\\n" };
                text.push_str(&format!("    {mark} {part}{end}"));
            }
        }
        text.push_str(&format!("    = {}\n", self.code));
        text
    }
}

/// One side's tools.
#[derive(Clone, Debug)]
pub struct Tools {
    links: PathBuf,
    reference: bool,
}

impl Tools {
    /// Rhea's: the program `binary` under all names. The links are made in `folder`.
    pub fn rhea(folder: &Path, binary: &Path) -> Tools {
        let links = folder.join("rhea");
        std::fs::create_dir_all(&links).expect("a folder for links");
        for name in NAMES {
            std::os::unix::fs::symlink(binary, links.join(name)).expect("a link");
        }
        helpers(&links);
        Tools { links, reference: false }
    }

    /// The reference's, where its version is 10.0. The links are made in `folder`.
    pub fn reference(folder: &Path) -> Option<Tools> {
        let links = folder.join("reference");
        std::fs::create_dir_all(&links).expect("a folder for links");
        for name in NAMES {
            let out = Command::new(name).arg("--version").output().ok()?;
            let version = format!("{name} version 10.0");
            let said = String::from_utf8_lossy(&out.stdout).into_owned();
            let old = format!("{name} 10.0");
            if !said.starts_with(&version) && !said.starts_with(&old) {
                return None;
            }
            let path = std::env::var_os("PATH")?;
            let found = std::env::split_paths(&path).map(|p| p.join(name)).find(|p| p.is_file())?;
            std::os::unix::fs::symlink(found, links.join(name)).expect("a link");
        }
        helpers(&links);
        Some(Tools { links, reference: true })
    }

    /// Whether they are the reference's.
    pub fn is_reference(&self) -> bool {
        self.reference
    }

    /// Ends the servers that were left: those whose numbers are in the files `*.pid` of `dir`.
    pub fn sweep(&self, dir: &Path) {
        self.run(dir, "for p in *.pid; do [ -f $p ] && kill -9 $(cat $p); done");
    }

    /// Runs a command of the shell in `dir`. One that does not end has the exit code 124.
    pub fn run(&self, dir: &Path, command: &str) -> Output {
        let done = Command::new("timeout")
            .args([PATIENCE, "sh", "-c", command])
            .current_dir(dir)
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", self.links.display()))
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .env("HOME", dir)
            .stdin(Stdio::null())
            .output()
            .expect("the shell");
        let folder = dir.display().to_string();
        let text = |bytes: Vec<u8>| normal(&String::from_utf8_lossy(&bytes).replace(&folder, "DIR"));
        Output { code: done.status.code().unwrap_or(-1), out: text(done.stdout), err: text(done.stderr) }
    }
}
