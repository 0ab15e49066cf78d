//! Drives that come and go while the machine runs: `drive_add`, `drive_del` and `block_resize` of the human monitor.

use crate::control::{BlockGraph, Hurried};
use crate::drive::{Drive, ErrorAction, ErrorPolicy, INTERFACES};
use crate::driver::Prealloc;
use crate::filename::{self, Named};
use crate::graph::{RootDef, RootEvent};
use crate::options::insert_path;
use crate::perm::PermPair;
use crate::query::explicit;
use crate::txn::Txn;
use monitor::{HmpArgs, HmpTable};
use qapi::{Dict, QError, Value, opts_parse, opts_short_forms, qerr};
use std::sync::Arc;

impl BlockGraph {
    /// Adds a node that options as text describe, among them its name.
    pub async fn add_described(&self, text: &str) -> Result<(), QError> {
        let mut dict = Dict::new();
        for (key, value) in opts_parse(text, None) {
            insert_path(&mut dict, &key, Value::from(value));
        }
        if !dict.contains_key("node-name") {
            return Err(qerr!("'node-name' needs to be specified"));
        }
        if !dict.contains_key("driver") {
            let whole = dict.clone();
            let format = self.run(|me| async move {
                let mut txn = Txn::aside(&me);
                let format = txn.format_of(&Named::Whole(whole)).await;
                // What was looked at is given back.
                let (txn, joined, (format, _)) = txn.join(format).await?;
                drop(txn);
                joined.end(Ok(())).await?;
                Ok::<_, QError>(format)
            });
            dict.insert("driver", format.await?);
        }
        self.add(filename::options(self.drivers(), dict).await?).await
    }

    /// Removes a drive with its node, or a node of the user's that nothing uses (`drive_del`). A device that has the drive
    /// is left without a medium, and the drive's name is not free as long as the device is there.
    pub async fn del_drive(&self, id: &str) -> Result<(), QError> {
        if self.snapshot().by_name(id).is_some() {
            return self.del(id).await;
        }
        let id = id.to_owned();
        self.run(|me| async move { me.do_del_drive(&id).await }).await
    }

    async fn do_del_drive(&self, id: &str) -> Result<(), QError> {
        let node = self.snapshot().drive(id).and_then(|d| d.node);
        self.sound(node.as_slice()).await;
        let _one = self.changing.lock().await;
        let mut txn = Txn::new(self);
        let def = txn.base.drive(id).cloned().ok_or_else(|| qerr!("Device '{id}' not found"))?;
        if !def.drive {
            return Err(qerr!("Deleting device added with blockdev-add is not supported"));
        }
        if let Some(node) = def.node.and_then(|n| txn.base.node(n)) {
            let node = explicit(&txn.base, node).id;
            txn.base.no_job_on_called(node, id)?;
            if let Some(p) = txn.base.overlay_of(node).filter(|p| !p.implicit) {
                return Err(qerr!("Node '{id}' is busy: node is used as backing hd of '{}'", p.name));
            }
        }
        let closed = (def.gate.close(), Hurried::new(&txn.base, def.node));
        def.gate.idle().await;
        if let Some(cx) = def.node.and_then(|n| txn.base.cx(n))
            && let Err(e) = cx.node_flush().await
        {
            tracing::error!(drive = id, "flushing a drive that is deleted: {e}");
        }
        if def.qdev.is_some() {
            let report = ErrorPolicy { read: ErrorAction::Report, write: ErrorAction::Report };
            let left = RootDef {
                name: String::new(),
                reserves: def.name.clone(),
                drive: false,
                node: None,
                pair: PermPair::NONE,
                on_error: report,
                seq: self.next_id(),
                ..(*def).clone()
            };
            txn.next.roots.insert(def.id, Arc::new(left));
        } else {
            txn.next.roots.remove(&def.id);
        }
        txn.finish().await?;
        txn.commit().await;
        if let Some(f) = &def.on_change {
            f(RootEvent::Replaced);
        }
        drop(closed);
        Ok(())
    }

    /// Adds a drive that no device uses yet, as its options say; the warning that is due.
    async fn plug_drive(&self, text: &str, interface: &str) -> Result<Option<String>, QError> {
        let mut drive = Drive::parse(text)?;
        let interface = drive.interface.get_or_insert_with(|| interface.to_owned()).clone();
        let graph = self.snapshot();
        drive.find_place(|name| graph.drive(name).is_some() || graph.roots().any(|r| r.reserves == name));
        let name = drive.name();
        if drive.id.is_none() && graph.drive(&name).is_some() {
            let (index, bus, unit) = drive.place;
            let (unit, index) = (index.or(unit).unwrap_or(0), index.map_or(-1, i64::from));
            let bus = bus.unwrap_or(0);
            return Err(qerr!("drive with bus={bus}, unit={unit} (index={index}) exists"));
        }
        let warning = self.add_drive(drive).await?;
        if interface == "none" {
            return Ok(warning);
        }
        self.del_drive(&name).await?;
        let number = INTERFACES.iter().position(|i| *i == interface).unwrap_or(0);
        Err(qerr!("Can't hot-add drive to type {number}"))
    }
}

/// What is told of an error where no "Error" stands before it.
fn told(done: Result<String, QError>) -> String {
    match done {
        Ok(text) => text,
        Err(e) => match e.hint() {
            Some(hint) => format!("{}\n{}\n", e.desc(), hint.trim_end()),
            None => format!("{}\n", e.desc()),
        },
    }
}

async fn drive_add(graph: Arc<BlockGraph>, a: HmpArgs, interface: &'static str) -> String {
    let text = a.str("opts");
    let warnings: String = opts_short_forms(text, None).iter().map(|w| format!("{w}\n")).collect();
    let done = match a.flag('n') {
        true => graph.add_described(text).await.map(|()| String::new()),
        false => graph.plug_drive(text, interface).await.map(|warning| {
            if let Some(w) = warning {
                base::print_error(&format!("WARNING: {w}\n"));
            }
            String::from("OK\n")
        }),
    };
    warnings + &told(done)
}

/// Registers the commands. `interface`: what a drive is for whose options do not say it.
pub(crate) fn register(hmp: &mut HmpTable, graph: &Arc<BlockGraph>, interface: &'static str) {
    let g = graph.clone();
    hmp.register("block_resize", "device:B size:o", "resize a block image", move |a| {
        let g = g.clone();
        async move {
            let size = a.int("size").and_then(|s| u64::try_from(s).ok()).unwrap_or(0);
            g.resize(a.str("device"), "", size, Prealloc::Off).await
        }
    });
    let g = graph.clone();
    hmp.register("drive_del", "device:B", "remove host block device", move |a| {
        let g = g.clone();
        async move { told(g.del_drive(a.str("device")).await.map(|()| String::new())) }
    });
    let g = graph.clone();
    let shown = "[-n] [[<domain>:]<bus>:]<slot>\n\
                 [file=file][,if=type][,bus=n]\n\
                 [,unit=m][,media=d][,index=i]\n\
                 [,snapshot=on|off][,cache=on|off]\n\
                 [,readonly=on|off][,copy-on-read=on|off]";
    hmp.register_shown(
        "drive_add",
        ("[-n] pci_addr opts", shown),
        "add drive to PCI storage controller",
        move |a| drive_add(g.clone(), a, interface),
    );
}
