//! Long work on one image, which shows how far it is.

use qapi::{QError, qerr};

use super::args::Parsed;
use super::progress::Progress;
use super::{Tool, could_not_open};
use crate::open::{OpenFlags, Opened, Source, open};

/// When it is first shown how far the work is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    /// Before the image is opened, so that it is seen even if that fails.
    BeforeOpening,
    /// Once the image is open.
    Opened,
}

/// How it ended.
pub(super) struct Ended {
    /// What the work said, or why it could not begin.
    pub(super) done: Result<(), QError>,
    /// The image could be opened.
    pub(super) opened: bool,
}

/// Opens an image, works on it and closes it, whatever happens. Warnings come last.
pub(super) fn on_image(
    tool: &mut Tool<'_>,
    p: &Parsed,
    (source, flags): (&Source, OpenFlags),
    begin: Begin,
    work: impl AsyncFnOnce(&Opened, &mut Progress<'_>) -> Result<(), QError>,
) -> Ended {
    let (asked, quiet, terminal) = tool.show_progress(p);
    let (mut warning, mut opened) = (None, false);
    let done = {
        let mut progress = Progress::new(asked, quiet, terminal, &mut *tool.out, &mut *tool.err);
        if begin == Begin::BeforeOpening {
            progress.begin();
        }
        let all = async {
            let image = open(source, flags).await.map_err(|e| could_not_open(&source.name, &e))?;
            warning = image.warning(source);
            opened = true;
            if begin == Begin::Opened {
                progress.begin();
            }
            let done = work(&image, &mut progress).await;
            image.close().await;
            done?;
            progress.finished();
            Ok(())
        };
        match crate::executor() {
            Ok(x) => x.block_on(all),
            Err(e) => Err(qerr!("Could not start: {e}")),
        }
    };
    if let Some(w) = warning {
        tool.warn(&w);
    }
    Ended { done, opened }
}
