//! Images that live only as long as the program: for what clients write (`-s`), and for internal snapshots (`-l`).

use crate::create::{NewImage, create};
use api::block_core::SnapshotInfo;
use block::BlockGraph;
use block::driver::SnapshotOp;
use qapi::{Dict, QError, Value, from_json, qerr};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A folder of our own, which goes when this is dropped: what is open in it goes on.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Folder, QError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let base = base::temporary_dir();
        // The name may be foreseen, but a folder that is there already is not taken.
        for _ in 0..1000 {
            let number = NUMBER.fetch_add(1, Relaxed);
            let path = base.join(format!("rhea-nbd-{}-{number}", std::process::id()));
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Folder(path)),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => {
                    let e = base::Errno::from(e);
                    return Err(qerr!("Could not get temporary filename: {e}"));
                }
            }
        }
        Err(qerr!("Could not get temporary filename: File exists"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Room behind a file for what going back to a snapshot writes: tables, which take no space as long as they are not written.
const ROOM: u64 = 1 << 40;

/// Puts a temporary image called `name` above a node, `more` bytes longer. It stays until the graph is closed.
pub(super) async fn overlay(
    graph: &Arc<BlockGraph>,
    below: &str,
    name: &str,
    more: u64,
) -> Result<(), QError> {
    let info = graph.image_info(below).ok_or_else(|| qerr!("The node has gone"))?;
    let size = u64::try_from(info.base.virtual_size).unwrap_or(0).saturating_add(more);
    let folder = Folder::new()?;
    let path = folder.0.join("overlay").display().to_string();
    create(&NewImage::new(&path, "qcow2", size)).await?;
    let file = Dict::from_iter([("driver", "file"), ("filename", &path)]);
    let mut dict = Dict::from_iter([("driver", "qcow2"), ("node-name", name), ("backing", below)]);
    dict.insert("file", file);
    dict.insert("discard", "unmap");
    graph.add(from_json(Value::Dict(dict))?).await
}

/// Makes a node called `name` that shows an internal snapshot of an image, which is not changed.
pub(super) async fn load(
    graph: &Arc<BlockGraph>,
    image: &str,
    wanted: &(Option<String>, Option<String>),
    name: &str,
) -> Result<(), QError> {
    let now = graph.snapshot();
    let node = now.by_name(image).ok_or_else(|| qerr!("The node has gone"))?;
    let driver = node.ty.name;
    let has = driver == "qcow2";
    let file = node.primary().and_then(|e| now.node(e.child)).filter(|_| has).ok_or_else(|| {
        qerr!(
            "Block format '{driver}' used by device '' does not support temporarily loading internal snapshots"
        )
    })?;
    let list = graph.image_info(image).and_then(|i| i.base.snapshots).unwrap_or_default();
    let found = find(&list, wanted).ok_or_else(|| qerr!("Can't find snapshot"))?;
    // Going back to the snapshot is done in an image of what the file holds, above the file.
    let lower = format!("{name}-file");
    overlay(graph, &file.name, &lower, ROOM).await?;
    let mut dict = Dict::from_iter([("driver", driver), ("node-name", name), ("file", &lower)]);
    let backing = node.edge(block::driver::ChildSlot::Backing).and_then(|e| now.node(e.child));
    dict.insert("backing", backing.map_or(Value::Null, |b| Value::from(b.name.as_str())));
    graph.add(from_json(Value::Dict(dict))?).await?;
    let op = SnapshotOp::Apply { id: Some(found.id.clone()), name: None };
    match graph.internal_snapshot(name, op).await? {
        Some(_) => Ok(()),
        None => Err(qerr!("Can't find snapshot")),
    }
}

fn find<'s>(
    list: &'s [SnapshotInfo],
    (id, name): &(Option<String>, Option<String>),
) -> Option<&'s SnapshotInfo> {
    let by_id = |s: &&SnapshotInfo| id.as_ref() == Some(&s.id);
    let by_name = |s: &&SnapshotInfo| name.as_ref() == Some(&s.name);
    if id.is_some() && id == name {
        return list.iter().find(by_id).or_else(|| list.iter().find(by_name));
    }
    list.iter()
        .find(|s| (id.is_none() || by_id(s)) && (name.is_none() || by_name(s)))
        .filter(|_| id.is_some() || name.is_some())
}
