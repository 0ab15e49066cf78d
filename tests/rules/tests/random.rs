//! Random commands: whatever is asked, there is an answer, nothing stalls or panics, and the images stay sound.
//!
//! `RHEA_RANDOM_RUNS` and `RHEA_RANDOM_SEED` choose the sequences. With `RHEA_RANDOM_COMPARE=1` the same commands go to
//! QEMU's storage daemon, and the first thing that is answered otherwise is shown with what led to it.

use rules::known::{Difference, why};
use rules::random::{IMAGES, Seen, Source, Step, look, prologue};
use rules::{Peer, Reference, Rhea, check_image, make_image};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Commands in a sequence.
const LENGTH: usize = 40;

/// A folder with images that goes when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let dir = std::env::temp_dir().join(format!("rhea-random-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let dir = dir.canonicalize().unwrap();
        for line in IMAGES {
            make_image(&dir, &line.replace("$D", &dir.display().to_string())).unwrap();
        }
        for (n, raw) in ["r0.raw", "r1.raw"].iter().enumerate() {
            std::fs::write(dir.join(raw), vec![n as u8 + 1; 1 << 20]).unwrap();
        }
        Folder(dir)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |v| v.parse().expect("a number"))
}

/// What went before, to be read and repeated.
#[derive(Default)]
struct Story(Vec<String>);

impl Story {
    fn add(&mut self, step: &Step, answer: &Result<qapi::Value, String>) {
        self.0.push(step.to_string());
        if let Err(e) = answer {
            self.0.push(format!("<- {e}"));
        }
    }

    fn text(&self) -> String {
        self.0.join("\n")
    }
}

/// Runs one sequence; tells how many commands were obeyed.
fn sequence(seed: u64, peer: &mut dyn Peer, dir: &Path, story: &mut Story) -> usize {
    let mut source = Source::new(seed);
    let mut obeyed = 0;
    let first = prologue();
    for i in 0..first.len() + LENGTH {
        let step = first.get(i).cloned().unwrap_or_else(|| source.step());
        story.0.push(step.to_string());
        let answer = step.run(peer, dir);
        story.0.pop();
        story.add(&step, &answer);
        let seen = look(peer, dir).unwrap();
        obeyed += usize::from(answer.is_ok());
        source.learn(&step, answer.is_ok(), seen.names, seen.jobs);
    }
    obeyed
}

#[test]
fn any_commands_are_answered_and_images_stay_sound() {
    let (runs, seed) = (number("RHEA_RANDOM_RUNS", 30), number("RHEA_RANDOM_SEED", 1));
    let mut obeyed = 0;
    for seed in seed..seed + runs {
        let folder = Folder::new(&format!("{seed}"));
        let mut story = Story::default();
        let done = catch_unwind(AssertUnwindSafe(|| {
            obeyed += sequence(seed, &mut Rhea::start(), &folder.0, &mut story);
            for entry in std::fs::read_dir(&folder.0).unwrap().flatten() {
                if entry.file_name().to_string_lossy().starts_with('i') {
                    let report = check_image(&entry.path()).unwrap();
                    assert_eq!((report.corruptions, report.check_errors), (0, 0), "{:?}", entry.path());
                }
            }
        }));
        if done.is_err() {
            panic!("seed {seed}:\n{}", story.text());
        }
    }
    // Otherwise the sequences go nowhere.
    assert!(obeyed as u64 > runs * LENGTH as u64 / 5, "only {obeyed} commands were obeyed");
}

/// How the two differ in one sequence in ways that are not known: in the texts of refusals, and in the end, where they go
/// apart, in what they do. Counts the known ones.
fn difference(seed: u64, known: &mut BTreeMap<&'static str, u64>) -> Option<Vec<String>> {
    let mut reference = Reference::start()?;
    let mut rhea = Rhea::start();
    let (a, b) = (Folder::new(&format!("{seed}-a")), Folder::new(&format!("{seed}-b")));
    let mut source = Source::new(seed);
    let mut story = Story::default();
    let mut found = Vec::new();
    let mut note = |why: Option<&'static str>, text: String| match why {
        Some(why) => *known.entry(why).or_default() += 1,
        None => found.push(text),
    };
    let first = prologue();
    let mut before = look(&mut rhea, &a.0).unwrap();
    for i in 0..first.len() + LENGTH {
        let step = first.get(i).cloned().unwrap_or_else(|| source.step());
        if step.reopens_twice() {
            // The reference leaves such a node drained, and from there on nothing could be compared.
            continue;
        }
        story.0.push(step.to_string());
        let ours = step.run(&mut rhea, &a.0);
        let state = look(&mut rhea, &a.0).unwrap();
        let theirs = catch_unwind(AssertUnwindSafe(|| {
            let answer = step.run(&mut reference, &b.0);
            (answer, look(&mut reference, &b.0).unwrap())
        }));
        let Ok((theirs, their_state)) = theirs else {
            note(
                why(&step, &Difference::Ends),
                format!("{}\nthe reference ends; ours: {}", story.text(), told(&ours)),
            );
            break;
        };
        story.0.pop();
        story.add(&step, &ours);
        match (&ours, &theirs) {
            (Ok(_), Ok(_)) => (),
            (Err(a), Err(b)) if a == b => (),
            (Err(a), Err(b)) => {
                note(
                    why(&step, &Difference::Texts(a, b, &before)),
                    format!("TEXT {step}\nours:   {a}\ntheirs: {b}"),
                );
            }
            _ => {
                let (a, b) = (ours.as_ref().err(), theirs.as_ref().err());
                let what = Difference::Done(a.map(String::as_str), b.map(String::as_str), &before);
                note(
                    why(&step, &what),
                    format!("DONE {}\nours:   {}\ntheirs: {}", story.text(), told(&ours), told(&theirs)),
                );
                break;
            }
        }
        if state.lines != their_state.lines {
            let (a, b) = (only(&state, &their_state), only(&their_state, &state));
            let text = format!("STATE {}\nours:   {a:#?}\ntheirs: {b:#?}", story.text());
            note(why(&step, &Difference::State(&a, &b)), text);
            break;
        }
        source.learn(&step, ours.is_ok(), state.names.clone(), state.jobs.clone());
        before = state;
    }
    Some(found)
}

fn told(answer: &Result<qapi::Value, String>) -> String {
    match answer {
        Ok(_) => "done".into(),
        Err(e) => e.clone(),
    }
}

/// The lines that only the first has.
fn only(a: &Seen, b: &Seen) -> Vec<String> {
    a.lines.iter().filter(|l| !b.lines.contains(l)).cloned().collect()
}

#[test]
fn the_reference_answers_the_same() {
    if std::env::var("RHEA_RANDOM_COMPARE").is_err() {
        return println!("skipped: RHEA_RANDOM_COMPARE is not set");
    }
    let (runs, seed) = (number("RHEA_RANDOM_RUNS", 30), number("RHEA_RANDOM_SEED", 1));
    let mut differ = 0;
    let mut known = BTreeMap::new();
    for seed in seed..seed + runs {
        let Some(found) = difference(seed, &mut known) else {
            return println!("skipped: qemu-storage-daemon is not installed");
        };
        differ += u64::from(!found.is_empty());
        for text in found {
            println!("\n--- seed {seed}\n{text}");
        }
    }
    println!("differences that are meant: {known:#?}");
    println!("{differ} of {runs} sequences differ in other ways");
}
