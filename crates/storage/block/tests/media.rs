//! Media of block devices over QMP: a guest's disk keeps its medium, a drive without a device changes its own.

mod common;

use block::testing::create_cow;
use block::{Drive, Perm, RootConfig};
use common::{Bed, SIZE, run};
use monitor::{CommandTable, HmpTable};
use qapi::Value;

async fn qmp(b: &Bed, command: &str, text: &str) -> Result<Value, String> {
    let mut t = CommandTable::new();
    block::qmp::register(&mut t, &mut HmpTable::new(), &b.graph);
    block::qmp::register_devices(&mut t, &mut HmpTable::new(), &b.graph, "none");
    let args = Value::parse_json(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    t.call(command, args).await.map_err(|e| format!("{:?}: {}", e.class(), e.desc()))
}

#[test]
fn fixed_and_free() {
    run(|b| async move {
        create_cow(&b.world, "h4", SIZE, None);
        for text in ["file=h3,id=dr,format=qcow2", "file=h0,id=free,format=qcow2"] {
            b.graph.add_drive(Drive::parse(text).unwrap()).await.unwrap();
        }
        let config = |qdev: &str| RootConfig {
            qdev: Some(qdev.into()),
            perm: Perm::CONSISTENT_READ | Perm::WRITE,
            shared: Perm::CONSISTENT_READ,
            ..RootConfig::default()
        };
        let disk = b.graph.attach("dr", config("vd1")).await.unwrap();
        let fixed = "Err(\"GenericError: Device 'vd1' is not removable\")";
        for (command, more) in [
            ("eject", ""),
            ("blockdev-open-tray", ""),
            ("blockdev-close-tray", ""),
            ("blockdev-remove-medium", ""),
            ("blockdev-change-medium", ",'filename':'h4'"),
        ] {
            let done = qmp(&b, command, &format!("{{'id':'vd1'{more}}}")).await;
            assert_eq!(format!("{done:?}"), fixed, "{command}");
            let done = qmp(&b, command, &format!("{{'id':'nope'{more}}}")).await;
            assert_eq!(done.unwrap_err(), "DeviceNotFound: Device 'nope' not found", "{command}");
        }
        let e = qmp(&b, "eject", "{'device':'dr'}").await.unwrap_err();
        assert_eq!(e, "GenericError: Device 'dr' is not removable");
        for none in ["{}", "{'id':'vd1','device':'dr'}"] {
            let e = qmp(&b, "eject", none).await.unwrap_err();
            assert_eq!(e, "GenericError: Need exactly one of 'device' and 'id'");
        }
        b.add(&common::o(1, ",'backing':null")).await;
        let insert = |id: &str, node: &str| format!("{{'id':'{id}','node-name':'{node}'}}");
        let e = qmp(&b, "blockdev-insert-medium", &insert("vd1", "nope")).await.unwrap_err();
        assert_eq!(e, "GenericError: Node 'nope' not found");
        let e = qmp(&b, "blockdev-insert-medium", &insert("nope", "hd1")).await.unwrap_err();
        assert_eq!(e, "DeviceNotFound: Device 'nope' not found");
        let e = qmp(&b, "blockdev-insert-medium", &insert("vd1", "hd1")).await.unwrap_err();
        assert_eq!(e, "GenericError: Device is not removable");
        let user = b.writer("hd1").await;
        let e = qmp(&b, "blockdev-insert-medium", &insert("vd1", "hd1")).await.unwrap_err();
        assert_eq!(e, "GenericError: Node 'hd1' is already in use");
        user.detach().await;

        let medium = || {
            let all = b.graph.query_block();
            let free = all.into_iter().find(|d| d.device == "free").unwrap();
            assert!(free.removable && free.qdev.is_none());
            free.inserted.map(|i| (i.file, i.drv, i.ro))
        };
        let has = |file: &str, ro: bool| Some((file.to_owned(), "qcow2".to_owned(), ro));
        assert_eq!(medium(), has("h0", false));
        qmp(&b, "blockdev-open-tray", "{'device':'free'}").await.unwrap();
        let change = "{'device':'free','filename':'h4','read-only-mode':'read-only'}";
        qmp(&b, "blockdev-change-medium", change).await.unwrap();
        assert_eq!(medium(), has("h4", true));
        let e = qmp(&b, "blockdev-change-medium", "{'device':'free','filename':'nofile'}").await.unwrap_err();
        assert_eq!(e, "GenericError: Could not open 'nofile': No such file or directory");
        assert_eq!(medium(), has("h4", true));
        qmp(&b, "eject", "{'device':'free'}").await.unwrap();
        assert_eq!(medium(), None);
        qmp(&b, "blockdev-change-medium", "{'device':'free','filename':'h0','format':'qcow2'}")
            .await
            .unwrap();
        assert_eq!(medium(), has("h0", false));
        disk.detach().await;
    });
}
