//! Random command lines, and damaged images, run through both sides' tools: asked for with `RHEA_RANDOM_COMPARE=1`, since
//! not everything that it finds must be alike. `RHEA_RANDOM_RUNS` and `RHEA_RANDOM_SEED` choose the sequences. The first
//! differences are shown with what led to them.

use compat::Tools;
use compat::random::{Dice, FORMATS, Format, IMAGES, LOOKS, commands, damages, format_commands, plain};
use std::path::{Path, PathBuf};

/// A folder that goes when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let dir = std::env::temp_dir().join(format!("rhea-compat-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Folder(dir.canonicalize().unwrap())
    }

    /// A folder below it, with nothing in it.
    fn empty(&self, name: &str) -> PathBuf {
        let dir = self.0.join(name);
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |v| v.parse().expect("a number"))
}

/// Both sides' tools, where the comparison is asked for and can be made.
fn sides(folder: &Folder) -> Option<(Tools, Tools)> {
    if std::env::var_os("RHEA_RANDOM_COMPARE").is_none() {
        println!("skipped: the comparison of random command lines is asked for with RHEA_RANDOM_COMPARE=1");
        return None;
    }
    let binary = std::env::var_os("RHEA_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_image-tools").into());
    let rhea = Tools::rhea(&folder.0, &PathBuf::from(binary).canonicalize().expect("the tools are built"));
    match Tools::reference(&folder.0) {
        Some(reference) => Some((rhea, reference)),
        None => {
            println!("skipped: the tools of QEMU 10.0 are not installed");
            None
        }
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut all: Vec<String> =
        entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    all.sort();
    all
}

/// The first difference of one sequence, with what led to it.
fn sequence(seed: u64, folder: &Folder, rhea: &Tools, reference: &Tools) -> Option<String> {
    let (ours, theirs) = (folder.empty("rhea-images"), folder.empty("reference-images"));
    let mut story = format!("seed {seed}:\n");
    let mut check = |command: &str| {
        story.push_str(&format!("$ {command}\n"));
        let (a, b) = (rhea.run(&ours, command), reference.run(&theirs, command));
        if b.code >= 124 || b.code < 0 {
            // It crashed, or did not end: nothing to be held against.
            return Err(None);
        }
        if plain(&a) != plain(&b) || names(&ours) != names(&theirs) {
            let files = format!("{:?}\n{:?}", names(&ours), names(&theirs));
            return Err(Some(format!("{story}Rhea:\n{}the reference:\n{}{files}", a.shown(), b.shown())));
        }
        Ok(())
    };
    for command in commands(&mut Dice::new(seed)) {
        if let Err(found) = check(&command) {
            return found;
        }
    }
    for image in names(&ours).iter().filter(|n| n.ends_with(".q")) {
        for look in ["qemu-img check", "qemu-img map --output=json", "qemu-img info"] {
            if let Err(found) = check(&format!("{look} {image}")) {
                return found;
            }
        }
        let sum = format!("qemu-io -r -c 'read -v 0 512k' {image} | grep ':  ' | sha256sum");
        if let Err(found) = check(&sum) {
            return found;
        }
    }
    None
}

/// The same for an image of another format. Ids that are made up at random are not looked at, nor is the length of files.
fn format_sequence(
    seed: u64,
    f: &Format,
    folder: &Folder,
    rhea: &Tools,
    reference: &Tools,
) -> Option<String> {
    let (ours, theirs) = (folder.empty("rhea-images"), folder.empty("reference-images"));
    let mut story = format!("{}, seed {seed}:\n", f.name);
    let mut all = format_commands(&mut Dice::new(seed), f);
    for image in ["a", "b"].map(|n| format!("{n}.{}", f.end)) {
        if f.checks {
            all.push(format!("qemu-img check -f {} {image}", f.name));
        }
        all.push(format!("qemu-io -r -f {} -c 'read -v 0 512k' {image} | grep ':  ' | sha256sum", f.name));
    }
    for command in all {
        story.push_str(&format!("$ {command}\n"));
        let look = |o: &compat::Output| {
            let mut o = plain(o);
            let made_up = |l: &&str| {
                let l = l.to_ascii_lowercase();
                ["cid", "file length", "virtual-size", "image end offset"].iter().any(|w| l.contains(w))
            };
            o.out = o.out.lines().filter(|l| !made_up(l)).collect::<Vec<_>>().join("\n");
            o
        };
        let (a, b) = (rhea.run(&ours, &command), reference.run(&theirs, &command));
        if b.code >= 124 || b.code < 0 {
            return None;
        }
        if look(&a) == look(&b) && b.code != 0 && command.starts_with("qemu-img create") {
            // The reference may have destroyed what was there.
            return None;
        }
        if look(&a) != look(&b) {
            return Some(format!("{story}Rhea:\n{}the reference:\n{}", a.shown(), b.shown()));
        }
    }
    None
}

#[test]
fn random_command_lines_on_other_formats_print_the_same() {
    let folder = Folder::new("formats");
    let Some((rhea, reference)) = sides(&folder) else { return };
    let (runs, seed) = (setting("RHEA_RANDOM_RUNS", 20), setting("RHEA_RANDOM_SEED", 1));
    let found: Vec<String> = FORMATS
        .iter()
        .flat_map(|f| (seed..seed + runs).map(move |s| (s, f)))
        .filter_map(|(s, f)| format_sequence(s, f, &folder, &rhea, &reference))
        .collect();
    report(&found, runs * FORMATS.len() as u64);
}

fn report(found: &[String], runs: u64) {
    const SHOWN: usize = 1000;
    let shown = found.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("\n\n");
    // What is left is known in kinds, and grows no further.
    assert!(found.len() as u64 * 2 <= runs, "{shown}\n{} of {runs} differ", found.len());
    println!("{shown}\n{} of {runs} differ", found.len());
}

#[test]
fn random_command_lines_print_the_same() {
    let folder = Folder::new("random");
    let Some((rhea, reference)) = sides(&folder) else { return };
    let (runs, seed) = (setting("RHEA_RANDOM_RUNS", 20), setting("RHEA_RANDOM_SEED", 1));
    let found: Vec<String> =
        (seed..seed + runs).filter_map(|s| sequence(s, &folder, &rhea, &reference)).collect();
    report(&found, runs);
}

#[test]
fn damaged_images_are_taken_for_the_same() {
    let folder = Folder::new("damage");
    let Some((rhea, reference)) = sides(&folder) else { return };
    let (runs, seed) = (setting("RHEA_RANDOM_RUNS", 20), setting("RHEA_RANDOM_SEED", 1));
    let mut found = Vec::new();
    for (i, (name, made)) in IMAGES.iter().enumerate() {
        let dir = folder.empty("master");
        let done = reference.run(&dir, made);
        assert_eq!(done.code, 0, "{}", done.shown());
        let whole = std::fs::read(dir.join("t.q")).unwrap();
        let mut dice = Dice::new(seed * 100 + i as u64);
        for _ in 0..runs {
            let (at, bytes) = damages(&mut dice, &whole);
            let command = dice.one(LOOKS);
            let mut damaged = whole.clone();
            damaged[at..at + bytes.len()].copy_from_slice(&bytes);
            let run = |tools: &Tools, dir: PathBuf| {
                std::fs::write(dir.join("t.q"), &damaged).unwrap();
                tools.run(&dir, command)
            };
            let a = run(&rhea, folder.empty("rhea-images"));
            let b = run(&reference, folder.empty("reference-images"));
            if b.code < 124 && plain(&a) != plain(&b) {
                let (a, b) = (a.shown(), b.shown());
                found.push(format!(
                    "{name}, {bytes:02x?} at {at:#x}:\n$ {command}\nRhea:\n{a}the reference:\n{b}"
                ));
            }
        }
    }
    report(&found, runs * IMAGES.len() as u64);
}
