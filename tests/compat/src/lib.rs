//! Command lines of the image tools, and what they print: as text that people read.
//!
//! A case file (`cases/*.txt`) is a list of shell commands with their output. Each file is run in an empty folder, once with
//! Rhea's tools under the names `qemu-img`, `qemu-io`, `qemu-nbd` and `qemu-storage-daemon`, and, where QEMU 10.0 is
//! installed, once with QEMU's. Both must print what the file says; and the images that a case leaves must show the same bytes through either's tools.
//!
//! # The language
//! | line | meaning |
//! | --- | --- |
//! | `# …` | a comment; so is an empty line |
//! | `$ COMMAND` | the shell runs this |
//! | `\| TEXT` | a line that it must print; `\` at the end of the last one: without a line end |
//! | `! TEXT` | the same for standard error |
//! | `= N` | its exit code, where it is not 0 |
//! | `reference differs: WHY` | the reference (as it is installed) prints something else here: it is not compared |
//! | `rhea differs: WHAT` | Rhea does not print this yet; a failure once it does |
//! | `images: NAME…` | at the end: these images are read and checked by both sides' tools |
//!
//! `RHEA_BLESS=1` writes what the reference prints into the files (where it is said to differ, what Rhea prints): write
//! the commands only, bless, and read the result. `RHEA_CASE=word` runs only files whose name contains the word.
//!
//! Cases of `qemu-nbd` and the daemon (`nbd-*.txt`) need Rhea's whole binary (`RHEA_BIN`). A server goes to the background by `--fork`, with a pid
//! file called `*.pid`; what still runs at a case's end is ended. `came FILE` waits for a file, `gone FILE.pid` for the end of a
//! server, `stop FILE.pid` ends it. The folder of the case is written as `DIR`.
//!
//! What is not the same from run to run is written as `X`: times, rates, the size of a file on the disk, names that nodes get by themselves ([`normal()`]).

mod case;
mod cross;
mod normal;
pub mod random;
mod shell;

pub use case::{Case, Step};
pub use cross::cross;
pub use normal::normal;
pub use shell::{Output, Tools};
