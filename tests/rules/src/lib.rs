//! QMP transcripts: what is said and what must be answered, as text that people read.
//!
//! A transcript is held against Rhea's own command tables ([`Rhea`]) and, where it is installed, against QEMU's storage
//! daemon ([`Reference`]), so that its texts are known to be those that management tools match.
//!
//! # The language
//! | line | meaning |
//! | --- | --- |
//! | `# …` | a comment |
//! | `image NAME SIZE [BACKING]` | a qcow2 image is made; with `raw` before it a plain file |
//! | `-> COMMAND [ARGUMENTS]` | the command is run; JSON may use single quotes and go on over indented lines |
//! | `<- error TEXT` | it must have failed with this text; `<- error CLASS: TEXT` with another class than `GenericError` |
//! | `<- {…}` | it must have answered this; members that are not named may be anything |
//! | `-- nodes NAME…` | these nodes with names given by users are there, and no others |
//! | `-- NODE MEMBER VALUE` | what `query-named-block-nodes` tells of a node; `none` where the member is missing |
//! | `-- file NAME ro` or `rw` or `closed` | how the process has an image's file open |
//! | `-- events NAME…` | the events since the last such line, of `JOB_STATUS_CHANGE` the status; `…` skips any |
//! | `-- job ID STATUS` | waits until the job has this status, or is gone (`null`) |
//! | `! COMMAND` | other programs, as the shell runs them, must succeed |
//! | `reference differs: WHY` | what follows the last command is not what the reference does: it is not compared there |
//! | `reference ends: WHY` | the reference does not survive the next command: it is not held against the rest |
//!
//! A command without a line `<-` must succeed. `$D` is the folder of the images, `$0` … `$9` are the options of a qcow2 node
//! `hdN` with its file `hdN-file` inline, on the image `hN.q`.

mod images;
pub mod known;
pub mod random;
mod reference;
mod rhea;
mod run;

pub use images::{check_image, make_image};
pub use reference::Reference;
pub use rhea::Rhea;
pub use run::{Answer, Peer, run};
