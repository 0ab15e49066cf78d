//! `info block`, as people read it.

mod common;
use block::qmp::info_block;
use block::{Perm, RootConfig};
use common::{o, run};

#[test]
fn info_block_text() {
    run(|b| async move {
        let drive =
            "if=none,id=d1,file=r0,format=raw,cache=none,discard=unmap,detect-zeroes=unmap,readonly=on";
        b.graph.add_drive(block::Drive::parse(drive).unwrap()).await.unwrap();
        b.graph.add_drive(block::Drive::parse("if=none,id=empty").unwrap()).await.unwrap();
        b.add(&o(1, "")).await;
        let config = RootConfig {
            qdev: Some("vd0".into()),
            perm: Perm::CONSISTENT_READ,
            shared: Perm::all(),
            ..RootConfig::default()
        };
        let root = b.graph.attach("hd1", config).await.unwrap();
        let node = b.graph.query_block()[0].inserted.as_ref().unwrap().node_name.clone().unwrap();
        assert_eq!(
            info_block(&b.graph, false, false, None),
            format!(
                "d1 ({node}): r0 (raw, read-only)\n    Removable device: not locked, tray closed\n    \
                 Cache mode:       writeback, direct\n    Detect zeroes:    unmap\n\n\
                 empty: [not inserted]\n    Removable device: not locked, tray closed\n\n\
                 hd1: h1 (qcow2)\n    Attached to:      vd0\n    Cache mode:       writeback\n    \
                 Backing file:     h0 (chain depth: 1)\n"
            )
        );
        assert_eq!(info_block(&b.graph, false, false, Some("nope")), "");
        // A node's name will do where no device has it.
        assert!(
            info_block(&b.graph, false, false, Some("hd1-file"))
                .ends_with("hd1-file: h1 (file)\n    Cache mode:       writeback\n")
        );
        let verbose = info_block(&b.graph, false, true, Some("empty"));
        assert_eq!(verbose, "\nempty: [not inserted]\n    Removable device: not locked, tray closed\n");
        root.detach().await;
    });
}
