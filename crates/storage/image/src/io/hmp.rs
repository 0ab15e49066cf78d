//! `qemu-io` of the human monitor: a command of this tool on a node or a drive of a running machine.

use super::session::{Image, Session};
use super::table::{Needs, find};
use super::text::Text;
use crate::open::Cache;
use block::BlockGraph;
use monitor::HmpTable;
use qapi::{QError, qerr};
use std::io::IsTerminal;
use std::sync::Arc;

/// What only the program itself can do.
const OF_THE_PROGRAM: [&str; 3] = ["open", "close", "quit"];

/// Registers the command. What it prints goes to the standard output of the program, as the reference has it.
pub fn register(hmp: &mut HmpTable, graph: &Arc<BlockGraph>) {
    let g = graph.clone();
    hmp.register(
        "qemu-io",
        "[-d] device command",
        "run a qemu-io command on a block device (-d: device is the id of a guest's device)",
        move |a| {
            let (g, of_guest) = (g.clone(), a.flag('d'));
            let device = a.get("device").unwrap_or_default().to_owned();
            let line = a.get("command").unwrap_or_default().to_owned();
            async move { run(&g, &device, of_guest, &line).await }
        },
    );
}

async fn run(graph: &Arc<BlockGraph>, device: &str, of_guest: bool, line: &str) -> Result<String, QError> {
    let out = std::io::stdout();
    let seen = out.is_terminal();
    let text = Text::new(Box::new(out), Box::new(std::io::stderr()), seen);
    let mut s = Session::new("qemu-io", text.clone());
    let command = line.split(' ').find(|w| !w.is_empty()).and_then(find);
    if let Some(c) = command.filter(|c| OF_THE_PROGRAM.contains(&c.name)) {
        text.warn(&format!("command \"{}\" not found", c.name));
        return Ok(String::new());
    }
    let (drive, guest) = if of_guest { (None, Some(device)) } else { (Some(device), None) };
    let cache = Cache::default();
    let (root, own) = match graph.user_of(drive, guest) {
        Some(root) => (root, false),
        None if of_guest => return Err(qerr!("Device '{device}' not found")),
        None => {
            let write = command.is_some_and(|c| c.needs == Needs::Writing);
            let g = graph.snapshot();
            let node = g.drive_or_node(device);
            if node.is_none() && g.drive(device).is_none() {
                return Err(qerr!("Cannot find device='' nor node-name='{device}'"));
            }
            let write = write && node.is_none_or(|n| !n.flags.read_only);
            match Image::attach(graph, device, write, cache, "").await {
                Ok(root) => (root, true),
                // What is wrong with the request is said as other requests' errors are.
                Err(e) => return Ok(format!("{}\n", e.desc())),
            }
        }
    };
    let node = root.node_name().unwrap_or_default();
    s.image = Some(Image { graph: graph.clone(), node, root: root.clone(), cache });
    s.run(line).await;
    text.flush();
    let background = s.background.clone();
    // What was started in the background goes on; its text comes when it ends.
    drop(rt::spawn_local(async move {
        background.idle().await;
        text.flush();
        if own {
            root.detach().await;
        }
    }));
    Ok(String::new())
}
