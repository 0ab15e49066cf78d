//! Finding an image in a chain by the name of its file.

use std::path::{Path, PathBuf};

use block::{BlockGraph, NodeId};

use crate::create::beside;

/// The images below an open one, next first.
pub(crate) fn below(graph: &BlockGraph, top: &str) -> Vec<NodeId> {
    let g = graph.snapshot();
    let mut at = g.by_name(top).map(|n| n.id);
    let mut all = Vec::new();
    while let Some(next) = at.and_then(|n| g.cow_child(n)) {
        all.push(next);
        at = Some(next);
    }
    all
}

/// The file that a node's bytes lie in.
pub(crate) fn file_of(graph: &BlockGraph, node: NodeId) -> Option<String> {
    let g = graph.snapshot();
    Some(graph.image_info(&g.node(node)?.name)?.base.filename)
}

/// One name for one file, where there is one.
fn real(name: &str) -> PathBuf {
    std::fs::canonicalize(name).unwrap_or_else(|_| Path::new(name).to_path_buf())
}

/// The number in the chain below `top` of the image that `name` means: as the header above it has the name, or a file's name,
/// relative to the directory of the image above it.
pub(crate) fn find(graph: &BlockGraph, top: &str, name: &str) -> Option<usize> {
    let chain = below(graph, top);
    let g = graph.snapshot();
    let mut above = g.by_name(top)?.id;
    for (i, id) in chain.into_iter().enumerate() {
        let hint = g.node(above).and_then(|n| graph.image_info(&n.name)?.base.backing_filename);
        if hint.is_some_and(|h| h == name) {
            return Some(i);
        }
        if let (Some(file), Some(over)) = (file_of(graph, id), file_of(graph, above))
            && real(&beside(&over, name)) == real(&file)
        {
            return Some(i);
        }
        above = id;
    }
    None
}

/// The number in the chain below `top` of the image in the file `path`.
pub(crate) fn find_path(graph: &BlockGraph, top: &str, path: &str) -> Option<usize> {
    let path = real(path);
    below(graph, top).into_iter().position(|id| file_of(graph, id).is_some_and(|f| real(&f) == path))
}
