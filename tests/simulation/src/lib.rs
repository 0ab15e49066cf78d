//! The whole block layer in a simulation: from one number (the seed) follow a chain of images, filters, users that read
//! and write all the time, commands, jobs, faults and crashes.
//!
//! An oracle that knows only a flat array of bytes says what each reader may see ([`model`]). At the end, and after each
//! crash, the files are opened anew: images are sound (leaked clusters at worst), what was flushed is there, dirty
//! bitmaps miss nothing. Time is virtual, and the seed decides all, so a run can be repeated exactly.
//!
//! `cargo xtask sim` runs many. `RHEA_SIM_LOG=1` shows what a run does.

mod bed;
mod crash;
mod images;
mod jobs;
pub mod model;
mod ops;
mod run;
mod users;

pub use run::{Counts, run_one};

/// The runs from seed `first` on; what succeeded in them all together.
pub fn run_many(first: u64, runs: u64) -> Counts {
    let mut all = Counts::new();
    for seed in first..first + runs {
        for (what, n) in run_one(seed) {
            *all.entry(what).or_default() += n;
        }
    }
    all
}
