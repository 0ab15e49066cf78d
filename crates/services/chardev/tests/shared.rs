//! One device, several front ends; and monitors behind devices.

#[allow(dead_code, reason = "each test file uses its part")]
mod common;

use chardev::{Chardevs, Config, MAX_PORTS};
use common::{PLENTY, Probe, add, eventually, path, rig};
use device::{CharBackend, CharEvent};
use monitor::{CommandTable, EventBus, HmpOptions, HmpTable, Monitor, QmpOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn shared(devices: &Chardevs, name: &str) -> (Arc<dyn CharBackend>, UnixStream) {
    let p = path(name);
    let dev = add(devices, &format!("socket,id=m,path={},server=on,wait=off,mux=on", p.display()));
    let c = UnixStream::connect(&p).unwrap();
    c.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let info = devices.get("m").unwrap();
    eventually("connected", || info.is_open());
    (dev, c)
}

fn read(c: &mut UnixStream, want: &str) {
    let mut buf = vec![0; want.len()];
    c.read_exact(&mut buf).unwrap();
    assert_eq!(String::from_utf8_lossy(&buf), want);
}

fn read_until(c: &mut UnixStream, end: &str) -> String {
    let mut got = Vec::new();
    let mut b = [0];
    while !got.ends_with(end.as_bytes()) {
        c.read_exact(&mut b).unwrap_or_else(|e| panic!("{e}: {:?}", String::from_utf8_lossy(&got)));
        got.push(b[0]);
    }
    String::from_utf8(got).unwrap()
}

#[test]
fn the_escape_switches_input_and_output_is_merged() {
    let (_t, devices) = rig();
    let quits = Arc::new(AtomicUsize::new(0));
    let q = quits.clone();
    devices.on_quit(Arc::new(move || {
        q.fetch_add(1, Ordering::SeqCst);
    }));
    let (a, mut c) = shared(&devices, "escape.sock");
    let b = devices.claim("m").unwrap();
    let (pa, pb) = (Probe::new(PLENTY), Probe::new(PLENTY));
    b.attach(pb.clone()).unwrap();
    a.attach(pa.clone()).unwrap();
    eventually("both are told", || !pa.events.lock().is_empty() && !pb.events.lock().is_empty());
    c.write_all(b"to a\x01cto b\x01cto a again\x01\x01").unwrap();
    eventually("a", || pa.text() == "to ato a again\x01");
    eventually("b", || pb.text() == "to b");
    a.write(b"from a,");
    b.write(b"from b");
    read(&mut c, "from a,from b");
    c.write_all(b"\x01b").unwrap();
    eventually("break", || pa.events.lock().contains(&CharEvent::Break));
    assert!(!pb.events.lock().contains(&CharEvent::Break));
    c.write_all(b"\x01h").unwrap();
    assert!(read_until(&mut c, "send C-a\r\n").contains("C-a x"));
    c.write_all(b"\x01x").unwrap();
    read(&mut c, "\r\nRhea: Terminated\r\n");
    eventually("quit", || quits.load(Ordering::SeqCst) == 1);
    // When the one in focus goes, another takes over.
    a.detach();
    c.write_all(b"!").unwrap();
    eventually("b again", || pb.text() == "to b!");
}

#[test]
fn a_full_front_end_holds_back_its_input_only() {
    let (_t, devices) = rig();
    let (a, mut c) = shared(&devices, "full.sock");
    let b = devices.claim("m").unwrap();
    let (pa, pb) = (Probe::new(3), Probe::new(PLENTY));
    b.attach(pb.clone()).unwrap();
    a.attach(pa.clone()).unwrap();
    c.write_all(b"abcdef\x01cB\x01c").unwrap();
    eventually("what fits", || pa.text() == "abc");
    eventually("the other is not held back", || pb.text() == "B");
    pa.room.store(PLENTY, Ordering::SeqCst);
    a.accept_input();
    eventually("the rest", || pa.text() == "abcdef");
    // Much more than any buffer, with little room at a time.
    let data: Vec<u8> = (0..100_000u32).map(|i| b'a' + (i % 26) as u8).collect();
    let sent = data.clone();
    pa.clear();
    pa.room.store(0, Ordering::SeqCst);
    let writer = std::thread::spawn(move || {
        c.write_all(&sent).unwrap();
        c
    });
    eventually("all in order", || {
        pa.room.store(1000, Ordering::SeqCst);
        a.accept_input();
        pa.got.lock().len() >= data.len()
    });
    assert!(*pa.got.lock() == data);
    drop(writer.join().unwrap());
}

#[test]
fn places_are_bounded_and_come_back() {
    let (_t, devices) = rig();
    let (a, _c) = shared(&devices, "places.sock");
    let more: Vec<_> = (1..MAX_PORTS).map(|_| devices.claim("m").unwrap()).collect();
    assert_eq!(
        devices.claim("m").err().unwrap().desc(),
        "too many uses of multiplexed chardev 'm' (maximum is 4)"
    );
    drop(more);
    assert!(devices.claim("m").is_ok());
    drop(a);
}

fn monitor() -> (rt::IoThread, Monitor) {
    let control = rt::IoThread::spawn("control").unwrap();
    let m = Monitor::new(CommandTable::new(), HmpTable::new(), EventBus::new(), control.handle()).unwrap();
    (control, m)
}

#[test]
fn qmp_over_a_device_for_one_client_after_another() {
    let (_t, devices) = rig();
    let (_control, monitor) = monitor();
    let p = path("qmp.sock");
    rt::block_on(devices.open_legacy(&format!("unix:{},server=on,wait=off", p.display()), "compat_monitor0"))
        .unwrap();
    monitor.serve_qmp(devices.monitor_stream("compat_monitor0", false).unwrap(), QmpOptions::default());
    for round in 0..5 {
        let mut c = UnixStream::connect(&p).unwrap();
        c.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut r = BufReader::new(c.try_clone().unwrap());
        let mut line = String::new();
        r.read_line(&mut line).unwrap();
        assert!(line.starts_with(r#"{"QMP""#), "round {round}: {line}");
        c.write_all(br#"{"execute":"qmp_capabilities"}{"execute":"query-version","id":1}"#).unwrap();
        line.clear();
        r.read_line(&mut line).unwrap();
        assert_eq!(line, "{\"return\": {}}\r\n");
        if round % 2 == 0 {
            line.clear();
            r.read_line(&mut line).unwrap();
            assert!(line.ends_with("\"id\": 1}\r\n"), "{line}");
        }
    }
}

#[test]
fn a_console_and_a_monitor_on_one_terminal() {
    let (_t, devices) = rig();
    let (_control, monitor) = monitor();
    let p = path("nographic.sock");
    let opened =
        rt::block_on(devices.open_legacy(&format!("mon:unix:{},server=on,wait=off", p.display()), "serial0"))
            .unwrap();
    monitor.serve_hmp(devices.monitor_stream(&opened.monitor.unwrap(), true).unwrap(), HmpOptions::default());
    let mut c = UnixStream::connect(&p).unwrap();
    c.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let serial = opened.backend.unwrap();
    let uart = Probe::new(PLENTY);
    serial.attach(uart.clone()).unwrap();
    eventually("connected", || !uart.events.lock().is_empty());
    serial.write(b"booting");
    // The monitor is silent until it has the focus.
    read(&mut c, "booting");
    c.write_all(b"x\x01c").unwrap();
    eventually("to the console", || uart.text() == "x");
    assert!(read_until(&mut c, "(qemu) ").contains("monitor - type 'help'"));
    c.write_all(b"info version\r").unwrap();
    assert!(read_until(&mut c, "\r\n(qemu) ").contains("10.0.2"));
    c.write_all(b"inf").unwrap();
    read(&mut c, "inf");
    c.write_all(b"\x01cy").unwrap();
    eventually("to the console again", || uart.text() == "xy");
    c.write_all(b"\x01c").unwrap();
    // Back at the monitor, with the line as it was.
    assert!(read_until(&mut c, "(qemu) inf").starts_with('\r'));
}

#[test]
fn a_monitors_device_has_one_user() {
    let (_t, devices) = rig();
    rt::block_on(devices.add(Config::parse("null,id=n").unwrap())).unwrap();
    let _one = devices.monitor_stream("n", false).unwrap();
    assert_eq!(devices.monitor_stream("n", false).err().unwrap().desc(), "chardev 'n' is already in use");
}

#[test]
fn a_qmp_client_that_does_not_read_its_events_is_hung_up_on() {
    let (_t, devices) = rig();
    let bus = EventBus::new();
    let control = rt::IoThread::spawn("control").unwrap();
    let monitor = Monitor::new(CommandTable::new(), HmpTable::new(), bus.clone(), control.handle()).unwrap();
    let p = path("deaf.sock");
    rt::block_on(devices.open_legacy(&format!("unix:{},server=on,wait=off", p.display()), "q")).unwrap();
    monitor.serve_qmp(devices.monitor_stream("q", false).unwrap(), QmpOptions::default());
    let greet = |c: &UnixStream| {
        c.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut r = BufReader::new(c.try_clone().unwrap());
        let mut line = String::new();
        r.read_line(&mut line).unwrap();
        (&*c).write_all(br#"{"execute":"qmp_capabilities"}"#).unwrap();
        r.read_line(&mut line).unwrap();
        assert!(line.ends_with("{\"return\": {}}\r\n"), "{line}");
    };
    let mut deaf = UnixStream::connect(&p).unwrap();
    greet(&deaf);
    for _ in 0..100_000 {
        bus.emit_value("NOISE", Some(qapi::Value::Dict(qapi::Dict::from_iter([("text", "x".repeat(100))]))));
    }
    let mut all = Vec::new();
    deaf.read_to_end(&mut all).unwrap();
    assert!(all.len() < 12 << 20);
    let next = UnixStream::connect(&p).unwrap();
    greet(&next);
}

#[test]
fn a_client_that_ends_its_side_still_gets_its_answers() {
    let (_t, devices) = rig();
    let (_control, monitor) = monitor();
    let p = path("half.sock");
    rt::block_on(devices.open_legacy(&format!("unix:{},server=on,wait=off", p.display()), "q")).unwrap();
    monitor.serve_qmp(devices.monitor_stream("q", false).unwrap(), QmpOptions::default());
    for _ in 0..10 {
        let mut c = UnixStream::connect(&p).unwrap();
        c.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let ask = r#"{"execute":"query-version"}"#.repeat(50);
        c.write_all(format!(r#"{{"execute":"qmp_capabilities"}}{ask}"#).as_bytes()).unwrap();
        c.shutdown(std::net::Shutdown::Write).unwrap();
        let mut text = String::new();
        let start = std::time::Instant::now();
        c.read_to_string(&mut text).unwrap();
        assert_eq!(text.lines().count(), 52, "{text}");
        assert!(start.elapsed() < Duration::from_secs(4), "the session ends the connection");
    }
}
