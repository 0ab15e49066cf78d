//! Every case file, against Rhea and against the reference.

use compat::{Case, Tools, cross};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A folder that goes when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let dir = std::env::temp_dir().join(format!("rhea-compat-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Folder(dir.canonicalize().unwrap())
    }

    fn below(&self, name: &str) -> PathBuf {
        let dir = self.0.join(name);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn cases() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let mut all: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    all.sort();
    // Some while working on them.
    if let Ok(only) = std::env::var("RHEA_CASE") {
        all.retain(|p| name(p).contains(&only));
    }
    assert!(!all.is_empty());
    all
}

fn name(path: &Path) -> String {
    path.file_stem().unwrap().to_string_lossy().into_owned()
}

/// Runs one file; answers what is wrong.
fn one(path: &Path, folder: &Folder, rhea: &Tools, reference: Option<&Tools>) -> Vec<String> {
    let name = name(path);
    let text = std::fs::read_to_string(path).unwrap();
    let mut case = match Case::parse(&text) {
        Ok(c) => c,
        Err(e) => return vec![e],
    };
    let ours = folder.below(&format!("{name}.rhea"));
    let theirs = folder.below(&format!("{name}.reference"));
    if std::env::var_os("RHEA_BLESS").is_some() {
        let reference = reference.expect("there is a reference to bless from");
        case.bless(&ours, rhea);
        case.bless(&theirs, reference);
        std::fs::write(path, case.text()).unwrap();
        return Vec::new();
    }
    let mut wrong: Vec<String> = case.run(&ours, rhea).iter().map(|w| format!("Rhea, {w}")).collect();
    if let Some(reference) = reference {
        wrong.extend(case.run(&theirs, reference).iter().map(|w| format!("the reference, {w}")));
        for image in &case.images {
            wrong.extend(cross(image, (&ours, rhea), (&theirs, reference)));
        }
    }
    let _ = std::fs::remove_dir_all(ours);
    let _ = std::fs::remove_dir_all(theirs);
    wrong
}

#[test]
fn both_print_what_the_cases_say() {
    let folder = Folder::new();
    let binary = std::env::var_os("RHEA_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_image-tools").into());
    let rhea = Tools::rhea(&folder.0, &PathBuf::from(binary).canonicalize().expect("the tools are built"));
    let reference = Tools::reference(&folder.0);
    if reference.is_none() {
        println!("skipped: the tools of QEMU 10.0 are not installed (Rhea alone is held against the cases)");
    }
    let mut cases = cases();
    if std::env::var_os("RHEA_BIN").is_none() {
        println!("skipped: the cases of qemu-nbd need the whole binary in RHEA_BIN");
        cases.retain(|p| !name(p).starts_with("nbd-"));
    }
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|s| {
        for _ in 0..std::thread::available_parallelism().map_or(2, |n| n.get().min(8)) {
            s.spawn(|| {
                while let Some(path) = cases.get(next.fetch_add(1, Relaxed)) {
                    for w in one(path, &folder, &rhea, reference.as_ref()) {
                        wrong.lock().unwrap().push(format!("{}: {w}", name(path)));
                    }
                }
            });
        }
    });
    let mut wrong = wrong.into_inner().unwrap();
    wrong.sort();
    assert!(wrong.is_empty(), "{}\n{} differences", wrong.join("\n"), wrong.len());
}

#[test]
fn case_files_are_written_as_they_are_read() {
    for path in cases() {
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(Case::parse(&text).unwrap().text(), text, "{}", path.display());
    }
}
