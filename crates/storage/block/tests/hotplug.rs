//! Drives that come and go while a guest has others.

mod common;

use block::{Drive, Perm, RootConfig};
use common::{Bed, run};
use mem::IoBuf;

async fn add(b: &Bed, text: &str) -> Result<(), String> {
    b.graph.add_drive(Drive::parse(text).unwrap()).await.map(drop).map_err(|e| e.desc().to_owned())
}

async fn del(b: &Bed, id: &str) -> Result<(), String> {
    b.graph.del_drive(id).await.map_err(|e| e.desc().to_owned())
}

#[test]
fn a_device_whose_drive_is_deleted_has_no_medium() {
    run(|b| async move {
        add(&b, "file=h0,id=d,format=qcow2").await.unwrap();
        let config = RootConfig {
            qdev: Some("vd0".into()),
            perm: Perm::CONSISTENT_READ | Perm::WRITE,
            shared: Perm::CONSISTENT_READ,
            ..RootConfig::default()
        };
        let disk = b.graph.attach("d", config).await.unwrap();
        disk.write(0, IoBuf::from_bytes(&[7; 512]), Default::default()).await.unwrap();
        del(&b, "d").await.unwrap();
        assert!(b.names().is_empty());
        assert!(!disk.has_medium());
        let read = disk.read(0, IoBuf::zeroed(512)).await;
        assert_eq!(read, Err(base::Errno::NOMEDIUM));
        // The device is told of by its own name; that of the drive is not free as long as the device is there.
        let text = block::qmp::info_block(&b.graph, false, false, None);
        assert_eq!(text, "vd0: [not inserted]\n    Attached to:      vd0\n");
        assert_eq!(del(&b, "d").await.unwrap_err(), "Device 'd' not found");
        assert_eq!(add(&b, "id=d").await.unwrap_err(), "Duplicate ID 'd' for drive");
        disk.detach().await;
        add(&b, "file=h0,id=d,format=qcow2").await.unwrap();
        del(&b, "d").await.unwrap();
        assert!(b.names().is_empty());
    });
}

#[test]
fn what_others_use_stays() {
    run(|b| async move {
        b.add(&common::o(0, "")).await;
        b.add(&common::o(1, ",'backing':'hd0'")).await;
        assert_eq!(del(&b, "hd0-file").await.unwrap_err(), "Node hd0-file is not owned by the monitor");
        let backs = "Node 'hd0' is busy: node is used as backing hd of 'hd1'";
        assert_eq!(del(&b, "hd0").await.unwrap_err(), backs);
        del(&b, "hd1").await.unwrap();
        del(&b, "hd0").await.unwrap();
        assert_eq!(del(&b, "hd0").await.unwrap_err(), "Device 'hd0' not found");
    });
}

#[test]
fn a_drive_looks_at_its_medium() {
    run(|b| async move {
        add(&b, "file=h1,id=d,format=qcow2,node-name=n").await.unwrap();
        let g = b.graph.snapshot();
        assert_eq!(g.drive("d").unwrap().pair.perm, Perm::CONSISTENT_READ);
        add(&b, "id=e").await.unwrap();
        let g = b.graph.snapshot();
        assert_eq!(g.drive("e").unwrap().pair.perm, Perm::empty());
        let e = b.graph.resize("e", "", 1 << 20, block::driver::Prealloc::Off).await.unwrap_err();
        assert_eq!(e.desc(), "Device 'e' has no medium");
    });
}
