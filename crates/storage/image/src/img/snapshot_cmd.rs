//! `snapshot`.

use std::time::{SystemTime, UNIX_EPOCH};

use block::driver::SnapshotOp;
use qapi::{QError, qerr};

use super::args::{FORMAT, HELP, IMAGE_OPTS, OBJECT, Parsed, QUIET, SHARE, flag, value};
use super::{CmdResult, Command, Tool, could_not_open, wait};
use crate::info::snapshot_list;
use crate::open::{OpenFlags, Opened, open};

/// `snapshot`.
pub(super) static COMMAND: Command = Command {
    name: "snapshot",
    about: "List or change the snapshots in an image",
    usage: "[-f FMT | --image-opts] [-l | -a|-c|-d SNAPSHOT] [--object OBJDEF] [-q] [-U] FILENAME",
    options: &[
        HELP,
        QUIET,
        FORMAT,
        IMAGE_OPTS,
        SHARE,
        OBJECT,
        flag('l', "list", "list them (this is what is done unless told otherwise)"),
        value('c', "create", "SNAPSHOT", "take one"),
        value('a', "apply", "SNAPSHOT", "make the disk what it was then"),
        value('d', "delete", "SNAPSHOT", "delete one"),
    ],
    notes: "",
    run,
};

fn run(tool: &mut Tool<'_>, p: Parsed) -> CmdResult {
    let actions: Vec<_> =
        p.options.iter().filter(|o| ["list", "create", "apply", "delete"].contains(&o.0)).collect();
    if actions.len() > 1 {
        return tool.usage("Cannot mix '-l', '-a', '-c', '-d'");
    }
    let [name] = &p.rest[..] else { return tool.usage("Expecting one image file name") };
    tool.format_or_options(&p)?;
    let source = tool.source(&p, name)?;
    let (action, snapshot) = actions.first().map_or(("list", ""), |a| (a.0, a.1.as_str()));
    let flags = OpenFlags {
        write: action != "list",
        // A snapshot may be longer than the image is now.
        chain: true,
        force_share: p.has("force-share"),
        ..OpenFlags::default()
    };
    let opened = wait(tool, async {
        let image = open(&source, flags).await.map_err(|e| could_not_open(name, &e))?;
        let warning = image.warning(&source);
        let done = act(&image, action, snapshot).await;
        image.close().await;
        Ok::<_, QError>((warning, done))
    })?;
    let (warning, done) = match opened {
        Ok(o) => o,
        Err(e) => return tool.fail_with(&e),
    };
    if let Some(w) = warning {
        tool.warn(&w);
    }
    match done {
        Ok(text) => {
            tool.print(&text);
            Ok(0)
        }
        Err(e) => tool.fail_with(&e),
    }
}

async fn act(image: &Opened, action: &str, name: &str) -> Result<String, QError> {
    let info = image.graph.image_info(&image.node).and_then(|i| i.base.snapshots).unwrap_or_default();
    let named = |n: &str| info.iter().find(|s| s.name == n).map(|s| s.id.clone());
    let with_id = |id: &str| info.iter().any(|s| s.id == id).then(|| id.to_owned());
    let keeps = image.graph.has_internal_snapshots(&image.node);
    let op = |op| image.graph.internal_snapshot(&image.node, op);
    match action {
        "list" => Ok(if info.is_empty() { String::new() } else { snapshot_list(&info) }),
        "create" => {
            let failed = |e: &str| qerr!("Could not create snapshot '{name}': {e}");
            if !keeps {
                return Err(failed("Operation not supported"));
            }
            let date = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let new = SnapshotOp::Create { name: name.into(), date, again: true };
            op(new).await.map(|_| String::new()).map_err(|e| failed(e.desc()))
        }
        "apply" => {
            let failed = |e: &str| qerr!("Could not apply snapshot '{name}': {e}");
            if !keeps {
                return Err(failed("Block driver does not support snapshots"));
            }
            if !image.graph.bitmaps_of(&image.node).is_empty() {
                return Err(failed("Device has active dirty bitmaps"));
            }
            let Some(id) = with_id(name).or_else(|| named(name)) else {
                return Err(failed("Failed to load snapshot: No such file or directory"));
            };
            let back = SnapshotOp::Apply { id: Some(id), name: None };
            op(back).await.map(|_| String::new()).map_err(|e| failed(e.desc()))
        }
        _ => {
            let failed = |e: &str| qerr!("Could not delete snapshot '{name}': {e}");
            let Some(id) = named(name) else { return Err(failed("snapshot not found")) };
            let gone = SnapshotOp::Delete { id: Some(id), name: None };
            op(gone).await.map(|_| String::new()).map_err(|e| failed(e.desc()))
        }
    }
}
