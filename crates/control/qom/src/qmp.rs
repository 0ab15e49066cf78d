//! The commands.

use crate::ObjectTree;
use api::qom::{ObjectAdd, ObjectDel, ObjectPropertyInfo, QomGet, QomList, QomSet};
use monitor::CommandTable;
use std::future::ready;
use std::sync::Arc;

/// Registers the commands that make and delete objects and look at them.
pub fn register(table: &mut CommandTable, objects: &Arc<ObjectTree>) {
    let o = objects.clone();
    table.register(move |c: ObjectAdd| ready(o.add(&c.0).map(drop)));
    let o = objects.clone();
    table.register(move |c: ObjectDel| ready(o.del(&c.id)));
    let o = objects.clone();
    table.register(move |c: QomList| {
        let listed = o.list(&c.path).map(|all| {
            all.into_iter().map(|p| ObjectPropertyInfo { name: p.name, r#type: p.ty }).collect::<Vec<_>>()
        });
        ready(listed)
    });
    let o = objects.clone();
    table.register(move |c: QomGet| ready(o.get_property(&c.path, &c.property)));
    let o = objects.clone();
    table.register(move |c: QomSet| ready(o.set_property(&c.path, &c.property, &c.value)));
}
