//! Runs the simulation: `simulation --runs N --seed FIRST`. A failure prints its seed; `--seed N --runs 1` repeats it.

use std::process::ExitCode;

fn main() -> ExitCode {
    let (mut runs, mut seed) = (1000, 1);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().and_then(|v| v.parse::<u64>().ok());
        match (word.as_str(), value) {
            ("--runs", Some(n)) => runs = n,
            ("--seed", Some(n)) => seed = n,
            _ => {
                eprintln!("usage: simulation [--runs N] [--seed FIRST]");
                return ExitCode::FAILURE;
            }
        }
    }
    let mut all = simulation::Counts::new();
    let mut failed = Vec::new();
    for n in 0..runs {
        let seed = seed.saturating_add(n);
        match std::panic::catch_unwind(|| simulation::run_one(seed)) {
            Ok(counts) => {
                for (what, times) in counts {
                    *all.entry(what).or_default() += times;
                }
            }
            // What was wrong stands above.
            Err(_) => failed.push(seed),
        }
        if (n + 1) % 1000 == 0 {
            println!("{} runs, {} failed", n + 1, failed.len());
        }
    }
    println!("{runs} runs from seed {seed} on; what succeeded in them:\n{all:#?}");
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("seeds that failed: {failed:?}");
    ExitCode::FAILURE
}
