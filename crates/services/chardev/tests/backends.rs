//! Each kind of device against what it stands for.

#[allow(dead_code, reason = "each test file uses its part")]
mod common;

use chardev::{Config, Legacy};
use common::{PLENTY, Probe, add, eventually, null, path, rig};
use device::CharEvent;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

#[test]
fn a_file_takes_output_and_gives_input() {
    let (_t, devices) = rig();
    let (out, input, log) = (path("out"), path("in"), path("log"));
    std::fs::write(&input, "from the file").unwrap();
    let spec =
        format!("file,id=f,path={},input-path={},logfile={}", out.display(), input.display(), log.display());
    let dev = add(&devices, &spec);
    let probe = Probe::new(4);
    dev.attach(probe.clone()).unwrap();
    eventually("as much as there is room for", || probe.text() == "from");
    assert_eq!(*probe.events.lock(), [CharEvent::Opened]);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(probe.text(), "from");
    probe.room.store(PLENTY, Ordering::SeqCst);
    dev.accept_input();
    eventually("the rest", || probe.text() == "from the file");
    assert_eq!(dev.write(b"hello"), 5);
    assert_eq!(std::fs::read(&out).unwrap(), b"hello");
    assert_eq!(std::fs::read(&log).unwrap(), b"hello");
    assert_eq!(dev.attach(Probe::new(1)).unwrap_err().desc(), "chardev 'f' is already in use");
    dev.detach();
    dev.attach(Probe::new(1)).unwrap();
    drop(dev);
    for p in [out, input, log] {
        std::fs::remove_file(p).unwrap();
    }
}

#[test]
fn files_append_or_not() {
    let (_t, devices) = rig();
    let out = path("append");
    std::fs::write(&out, "old ").unwrap();
    add(&devices, &format!("file,id=a,path={},append=on", out.display())).write(b"new");
    assert_eq!(std::fs::read(&out).unwrap(), b"old new");
    add(&devices, &format!("file,id=b,path={}", out.display())).write(b"x");
    assert_eq!(std::fs::read(&out).unwrap(), b"x");
    std::fs::remove_file(out).unwrap();
}

#[test]
fn null_and_ringbuf() {
    let (_t, devices) = rig();
    assert_eq!(add(&devices, "null,id=n").write(b"gone"), 4);
    let ring = add(&devices, "ringbuf,id=r,size=4");
    assert_eq!(ring.write(b"abcdef"), 6);
    assert_eq!(devices.get("r").unwrap().take_ring(3).unwrap(), b"cde");
    assert_eq!(devices.get("n").unwrap().take_ring(3), None);
    assert_eq!(devices.describe(), "n: filename=null\nr: filename=ringbuf\n");
}

#[test]
fn a_socket_server_serves_one_client_after_another() {
    let (_t, devices) = rig();
    let p = path("server.sock");
    let dev = add(&devices, &format!("socket,id=s,path={},server=on,wait=off", p.display()));
    let probe = Probe::new(PLENTY);
    dev.attach(probe.clone()).unwrap();
    // Output to nobody is thrown away.
    assert_eq!(dev.write(b"lost"), 4);
    let info = devices.get("s").unwrap();
    assert_eq!(info.filename(), format!("disconnected:unix:{},server=on", p.display()));
    for round in 0..5 {
        let mut c = UnixStream::connect(&p).unwrap();
        c.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        c.write_all(b"ping").unwrap();
        eventually("input", || probe.text() == "ping");
        probe.clear();
        assert_eq!(dev.write(b"pong"), 4);
        let mut buf = [0; 4];
        c.read_exact(&mut buf).unwrap();
        assert_eq!(&buf, b"pong", "round {round}");
        drop(c);
        eventually("the end is noticed", || !info.is_open());
    }
    let events = probe.events.lock().clone();
    assert_eq!(events, [CharEvent::Opened, CharEvent::Closed].repeat(5));
    drop((dev, info));
    devices.close_all();
    eventually("the socket's file is removed", || !p.exists());
}

#[test]
fn a_client_that_does_not_read_stops_output_and_nothing_else() {
    let (_t, devices) = rig();
    let p = path("slow.sock");
    let dev = add(&devices, &format!("socket,id=s,path={},server=on,wait=off", p.display()));
    let writable = Arc::new(AtomicUsize::new(0));
    let w = writable.clone();
    dev.on_writable(Arc::new(move || {
        w.fetch_add(1, Ordering::SeqCst);
    }));
    let mut c = UnixStream::connect(&p).unwrap();
    let info = devices.get("s").unwrap();
    eventually("connected", || info.is_open());
    let data = vec![7; 1 << 20];
    let mut sent = 0;
    loop {
        let n = dev.write(&data);
        sent += n;
        if n < data.len() {
            break;
        }
    }
    assert_eq!(dev.write(b"x"), 0, "full");
    assert_eq!(writable.load(Ordering::SeqCst), 0);
    let mut got = vec![0; sent];
    c.read_exact(&mut got).unwrap();
    eventually("told that there is room", || writable.load(Ordering::SeqCst) > 0);
    assert_eq!(dev.write(b"x"), 1);
    // Full again, and the client vanishes: the writer is freed.
    while dev.write(&data) == data.len() {}
    let before = writable.load(Ordering::SeqCst);
    drop(c);
    eventually("freed", || writable.load(Ordering::SeqCst) > before);
    eventually("output to nobody", || dev.write(&data) == data.len());
}

#[test]
fn a_front_end_that_takes_nothing_does_not_keep_out_the_next_client() {
    let (_t, devices) = rig();
    let p = path("stuck.sock");
    let dev = add(&devices, &format!("socket,id=s,path={},server=on,wait=off", p.display()));
    let probe = Probe::new(2);
    dev.attach(probe.clone()).unwrap();
    let mut first = UnixStream::connect(&p).unwrap();
    first.write_all(b"stuck").unwrap();
    eventually("two bytes", || probe.text() == "st");
    drop(first);
    let mut second = UnixStream::connect(&p).unwrap();
    eventually("second is served", || {
        probe.events.lock().iter().filter(|e| **e == CharEvent::Opened).count() == 2
    });
    probe.room.store(PLENTY, Ordering::SeqCst);
    dev.accept_input();
    second.write_all(b"!").unwrap();
    eventually("its byte", || probe.text() == "st!");
}

#[test]
fn a_socket_client_connects_again() {
    let (_t, devices) = rig();
    let p = path("client.sock");
    let dev = add(&devices, &format!("socket,id=c,path={},reconnect-ms=20", p.display()));
    let probe = Probe::new(PLENTY);
    dev.attach(probe.clone()).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let l = UnixListener::bind(&p).unwrap();
    for _ in 0..3 {
        let (mut s, _) = l.accept().unwrap();
        s.write_all(b"hi").unwrap();
        eventually("input", || probe.text() == "hi");
        probe.clear();
    }
    std::fs::remove_file(&p).unwrap();
    let refused = Config::parse(&format!("socket,id=d,path={}", p.display())).unwrap();
    assert_eq!(
        rt::block_on(devices.add(refused)).err().unwrap().desc(),
        format!("Failed to connect to '{}': No such file or directory", p.display())
    );
    assert!(devices.get("d").is_none());
}

#[test]
fn a_server_may_wait_for_its_first_client() {
    let (_t, devices) = rig();
    let p = path("wait.sock");
    let config = Config::parse(&format!("socket,id=w,path={},server=on", p.display())).unwrap();
    let p2 = p.clone();
    let client = std::thread::spawn(move || {
        eventually("it listens", || p2.exists());
        std::thread::sleep(Duration::from_millis(50));
        UnixStream::connect(p2).unwrap()
    });
    let start = std::time::Instant::now();
    let dev = rt::block_on(devices.add(config)).unwrap();
    assert!(start.elapsed() > Duration::from_millis(40));
    assert!(dev.is_open());
    drop(client.join().unwrap());
}

#[test]
fn telnet_over_tcp() {
    let (_t, devices) = rig();
    let dev = add(&devices, "socket,id=t,host=127.0.0.1,port=0,server=on,wait=off,telnet=on");
    let probe = Probe::new(PLENTY);
    dev.attach(probe.clone()).unwrap();
    let name = devices.get("t").unwrap().filename();
    let port: u16 = name
        .trim_start_matches("disconnected:tcp:127.0.0.1:")
        .trim_end_matches(",server=on")
        .parse()
        .unwrap();
    let mut c = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    c.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut hello = [0; 12];
    c.read_exact(&mut hello).unwrap();
    assert_eq!(hello[0], 255);
    c.write_all(&[b'a', 255, 253, 1, 255, 243, b'b']).unwrap();
    eventually("data without commands", || probe.text() == "ab");
    assert!(probe.events.lock().contains(&CharEvent::Break));
    assert_eq!(dev.write(&[1, 255, 2]), 3);
    let mut out = [0; 4];
    c.read_exact(&mut out).unwrap();
    assert_eq!(out, [1, 255, 255, 2]);
}

#[test]
fn a_pty_comes_and_goes() {
    let (_t, devices) = rig();
    let link = path("pty");
    let dev = add(&devices, &format!("pty,id=p,path={}", link.display()));
    let probe = Probe::new(PLENTY);
    dev.attach(probe.clone()).unwrap();
    assert_eq!(dev.write(b"nobody there"), 12);
    let info = devices.get("p").unwrap();
    for _ in 0..2 {
        let mut tty = std::fs::File::options().read(true).write(true).open(&link).unwrap();
        eventually("opened", || info.is_open());
        tty.write_all(b"ls\n").unwrap();
        eventually("input", || probe.text() == "ls\n");
        probe.clear();
        assert_eq!(dev.write(b"out\n"), 4);
        let mut buf = [0; 4];
        tty.read_exact(&mut buf).unwrap();
        assert_eq!(&buf, b"out\n", "raw: nothing is translated");
        drop(tty);
        eventually("closed", || !info.is_open());
    }
    drop((dev, info));
    devices.close_all();
    eventually("the link is removed", || !link.exists());
}

#[test]
fn ids_and_removal() {
    let (_t, devices) = rig();
    let dev = add(&devices, "null,id=a");
    let fails = |c: Config| rt::block_on(devices.add(c)).err().unwrap().desc().to_owned();
    assert_eq!(fails(null("a")), "Duplicate ID 'a' for chardev");
    assert_eq!(fails(null("")), "Parameter 'id' expects an identifier");
    assert_eq!(
        fails(Config::parse("file,id=b,path=/nonexistent/x").unwrap()),
        "Could not open '/nonexistent/x': No such file or directory"
    );
    assert_eq!(
        fails(Config::parse("null,id=b,logfile=/nonexistent/x").unwrap()),
        "Could not create '/nonexistent/x': No such file or directory"
    );
    assert_eq!(devices.claim("b").err().unwrap().desc(), "chardev \"b\" not found");
    dev.attach(Probe::new(1)).unwrap();
    assert_eq!(devices.remove("a").unwrap_err().desc(), "Chardev 'a' is busy");
    dev.detach();
    devices.remove("a").unwrap();
    assert_eq!(devices.remove("a").unwrap_err().desc(), "Chardev 'a' not found");
    assert!(devices.ids().is_empty());
}

#[test]
fn short_forms_make_devices() {
    let (_t, devices) = rig();
    let open = |text: &str, label: &str| rt::block_on(devices.open_legacy(text, label));
    let d = open("null", "serial0").unwrap();
    assert_eq!(d.backend.unwrap().id(), "serial0");
    assert!(open("none", "x").unwrap().backend.is_none());
    assert_eq!(open("chardev:serial0", "x").unwrap().backend.unwrap().id(), "serial0");
    assert!(open("chardev:gone", "x").is_err());
    let d = open("mon:null", "serial1").unwrap();
    assert_eq!(d.monitor.as_deref(), Some("serial1"));
    assert!(devices.is_mux("serial1"));
    assert!(matches!(Legacy::parse("mon:null", "m"), Ok(Legacy::New { monitor: true, .. })));
}
