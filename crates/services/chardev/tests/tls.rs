//! Sockets with `tls-creds` and `tls-authz`.

#[allow(dead_code, reason = "each test file uses its part")]
mod common;
use chardev::{CharStream, Chardevs, Config};
use common::{PLENTY, Probe, eventually, path, rig};
use io::tls::{Credentials, Role};
use io::{Addr, Stream};
use qapi::{Value, from_json};
use qom::ObjectTree;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

struct Bed {
    devices: Chardevs,
    objects: Arc<ObjectTree>,
    dir: PathBuf,
    _thread: rt::IoThread,
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.devices.close_all();
        _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn object(tree: &ObjectTree, json: &str) {
    tree.add(&from_json(Value::parse_json(json).unwrap()).unwrap()).unwrap();
}

/// Keys of `good` and `bad`, credentials `s` for servers and `c` for clients, and `who`, which lets `good` in.
fn bed(name: &str) -> Bed {
    let (thread, devices) = rig();
    let dir = path(name);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(
        dir.join("keys.psk"),
        "good:00112233445566778899aabbccddeeff\nbad:ffeeddccbbaa99887766554433221100\n",
    )
    .unwrap();
    let objects = Arc::new(ObjectTree::new());
    let d = dir.display();
    object(&objects, &format!("{{'qom-type':'tls-creds-psk','id':'s','endpoint':'server','dir':'{d}'}}"));
    object(
        &objects,
        &format!("{{'qom-type':'tls-creds-psk','id':'c','endpoint':'client','username':'good','dir':'{d}'}}"),
    );
    object(&objects, "{'qom-type':'authz-simple','id':'who','identity':'good'}");
    devices.set_objects(objects.clone());
    Bed { devices, objects, dir, _thread: thread }
}

fn fails(b: &Bed, text: &str) -> String {
    rt::block_on(b.devices.add(Config::parse(text).unwrap())).err().expect(text).desc().to_owned()
}

async fn client(b: &Bed, socket: &str, user: &str) -> Result<Stream, String> {
    let creds = Credentials::psk(Role::Client, &b.dir, user)?;
    let plain = io::connect(&Addr::Unix(b.dir.join(socket))).await.map_err(|e| e.to_string())?;
    io::tls::connect(&plain, &creds, "").await
}

#[test]
fn options_are_checked() {
    let b = bed("tls-options");
    let s = "socket,id=a,host=127.0.0.1,port=0,server=on,wait=off";
    assert_eq!(fails(&b, &format!("{s},tls-creds=none")), "No TLS credentials with id 'none'");
    assert_eq!(fails(&b, &format!("{s},tls-creds=who")), "Object with id 'who' is not TLS credentials");
    assert_eq!(fails(&b, &format!("{s},tls-creds=c")), "Expected TLS credentials for a server endpoint");
    let c = "socket,id=a,host=127.0.0.1,port=1,tls-creds=s";
    assert_eq!(fails(&b, c), "Expected TLS credentials for a client endpoint");
}

#[test]
fn both_ends_are_devices() {
    let b = bed("tls-ends");
    let socket = b.dir.join("sock");
    let add = |text: &str, id: &str| {
        rt::block_on(b.devices.add(Config::parse(text).unwrap())).unwrap();
        b.devices.claim(id).unwrap()
    };
    let server = add(
        &format!("socket,id=srv,path={},server=on,wait=off,tls-creds=s,tls-authz=who", socket.display()),
        "srv",
    );
    // The far end does not read yet.
    let (far, near) = (Probe::new(0), Probe::new(PLENTY));
    server.attach(far.clone()).unwrap();
    let client = add(&format!("socket,id=cli,path={},reconnect-ms=10,tls-creds=c", socket.display()), "cli");
    client.attach(near.clone()).unwrap();
    eventually("they find each other", || near.events.lock().len() == 1 && far.events.lock().len() == 1);
    // More than the socket takes at once.
    let data = vec![b'x'; 4 << 20];
    let mut sent = 0;
    for _ in 0..200 {
        sent += client.write(&data[sent..]);
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(sent > 0 && sent < data.len(), "{sent}");
    far.room.store(PLENTY, Ordering::SeqCst);
    server.accept_input();
    // Every byte that was taken comes, although nothing is written any more.
    eventually("all comes", || far.got.lock().len() == sent);
    assert_eq!(server.write(b"back"), 4);
    eventually("the answer", || near.text() == "back");
}

#[test]
fn who_may_not_come_is_sent_away() {
    let b = bed("tls-authz");
    let path = b.dir.join("sock");
    let text = format!("socket,id=m,path={},server=on,wait=off,tls-creds=s,tls-authz=late", path.display());
    rt::block_on(async {
        b.devices.add(Config::parse(&text).unwrap()).await.unwrap();
        let _front = CharStream::new(b.devices.claim("m").unwrap()).unwrap();
        let ends = async |s: Stream| s.read(&mut [0; 8]).await.map_or(true, |n| n == 0);
        // There is nothing yet that lets anybody in.
        assert!(ends(client(&b, "sock", "good").await.unwrap()).await);
        object(&b.objects, "{'qom-type':'authz-simple','id':'late','identity':'good'}");
        assert!(ends(client(&b, "sock", "bad").await.unwrap()).await);
        // Somebody who does not speak TLS.
        let plain = io::connect(&Addr::Unix(path.clone())).await.unwrap();
        plain.write_all(b"{\"execute\":\"quit\"}\r\n\r\n").await.unwrap();
        while plain.read(&mut [0; 64]).await.is_ok_and(|n| n > 0) {}
        let good = client(&b, "sock", "good").await.unwrap();
        good.write_all(b"hello").await.unwrap();
        let more = rt::timeout(std::time::Duration::from_millis(50), ends(good)).await;
        assert!(more.is_none(), "who may come stays");
    });
}
