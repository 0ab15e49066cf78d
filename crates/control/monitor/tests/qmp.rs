//! Transcripts of QMP over real sockets: what the reference answers, and what it should have answered.

#[allow(dead_code, reason = "each test file uses its part")]
mod common;

use common::{CAPS, CAPS_OOB, Client, Plain, Tick, rig, rig_with};
use monitor::QmpOptions;
use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

fn error(class: &str, desc: &str) -> String {
    format!(r#"{{"error": {{"class": "{class}", "desc": "{desc}"}}}}"#)
}

fn generic(desc: &str) -> String {
    error("GenericError", desc)
}

fn eventually(what: &str, mut f: impl FnMut() -> bool) {
    let start = Instant::now();
    while !f() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn greeting_and_negotiation() {
    let rig = rig("greeting");
    let mut c = rig.raw();
    let package = format!("Rhea {}", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        c.line(),
        format!(
            r#"{{"QMP": {{"version": {{"qemu": {{"micro": 2, "minor": 0, "major": 10}}, "package": "{package}"}}, "capabilities": ["oob"]}}}}"#
        )
    );
    let expecting = "Expecting capabilities negotiation with 'qmp_capabilities'";
    assert_eq!(
        c.ask(r#"{"execute":"query-version","id":1}"#),
        format!(r#"{{"id": 1, "error": {{"class": "CommandNotFound", "desc": "{expecting}"}}}}"#)
    );
    assert_eq!(c.ask(r#"{"execute":"foo"}"#), error("CommandNotFound", expecting));
    assert_eq!(
        c.ask(r#"{"exec-oob":"query-version"}"#),
        generic("QMP input member 'exec-oob' is unexpected")
    );
    assert_eq!(
        c.ask(r#"{"execute":"qmp_capabilities","arguments":{"enable":["oob"],"x":1}}"#),
        generic("Parameter 'x' is unexpected")
    );
    assert!(
        c.ask(r#"{"execute":"qmp_capabilities","arguments":{"enable":["bogus"]}}"#)
            .contains("does not accept value 'bogus'")
    );
    // No events before the negotiation.
    rig.bus.emit(Plain {});
    assert_eq!(c.ask(r#"{"execute":"qmp_capabilities","id":{"a":1}}"#), r#"{"return": {}, "id": {"a": 1}}"#);
    assert_eq!(
        c.ask(CAPS),
        error("CommandNotFound", "Capabilities negotiation is already complete, command ignored")
    );
    assert_eq!(
        c.ask(r#"{"execute":"query-version","id":[1,"x"]}"#),
        format!(
            r#"{{"return": {{"qemu": {{"micro": 2, "minor": 0, "major": 10}}, "package": "{package}"}}, "id": [1, "x"]}}"#
        )
    );
    assert_eq!(
        c.ask(r#"{"execute":"query-versio"}"#),
        error("CommandNotFound", "The command query-versio has not been found")
    );
    assert_eq!(c.ask(r#"{"exec-oob":"open-gate"}"#), generic("QMP input member 'exec-oob' is unexpected"));
}

#[test]
fn commands_and_ids() {
    let rig = rig("commands");
    let mut c = rig.client(CAPS);
    for (request, reply) in [
        (r#"{"execute":"echo","arguments":{"n":7},"id":null}"#, r#"{"return": {"n": 7}, "id": null}"#),
        (r#"{'execute':'echo','arguments':{'n':-1},'id':'it\'s'}"#, r#"{"return": {"n": -1}, "id": "it's"}"#),
        (r#"{"execute":"echo","arguments":{"n":1},"id":3.50}"#, r#"{"return": {"n": 1}, "id": 3.5}"#),
        (
            r#"{"execute":"echo","arguments":{"n":7,"fail":true},"id":5}"#,
            r#"{"id": 5, "error": {"class": "GenericError", "desc": "echo failed"}}"#,
        ),
        (r#"{"execute":"open-gate"}"#, r#"{"return": {}}"#),
    ] {
        assert_eq!(c.ask(request), reply);
    }
    assert_eq!(c.ask(r#"{"execute":"echo"}"#), generic("Parameter 'n' is missing"));
    assert_eq!(
        c.ask(r#"{"execute":"echo","arguments":{"n":"7"}}"#),
        generic("Invalid parameter type for 'n', expected: integer")
    );
    assert_eq!(
        c.ask(r#"{"execute":"echo","arguments":{"n":7,"m":1}}"#),
        generic("Parameter 'm' is unexpected")
    );
    let names = c.ask(r#"{"execute":"query-commands"}"#);
    for n in ["qmp_capabilities", "query-qmp-schema", "human-monitor-command", "echo"] {
        assert!(names.contains(&format!(r#"{{"name": "{n}"}}"#)), "{n}: {names}");
    }
    let schema = c.ask(r#"{"execute":"query-qmp-schema"}"#);
    assert!(schema.contains(r#""TICK""#) && schema.contains(r#""allow-oob": true"#));
}

#[test]
fn what_a_command_set_going_tells_of_itself_behind_the_answer() {
    let rig = rig("going");
    let mut c = rig.client(CAPS);
    for n in 0..500 {
        assert_eq!(
            c.ask(&format!(r#"{{"execute":"set-going","arguments":{{"n":{n}}}}}"#)),
            r#"{"return": {}}"#
        );
        let event = c.line();
        assert!(event.contains(r#""event": "TICK""#) && event.contains(&format!(r#""n": {n}"#)), "{event}");
    }
}

#[test]
fn wrong_envelopes_and_rubbish() {
    let rig = rig("rubbish");
    let mut c = rig.client(CAPS);
    for (request, desc) in [
        ("1 ", "QMP input must be a JSON object"),
        ("[1]", "QMP input must be a JSON object"),
        ("\"x\"", "QMP input must be a JSON object"),
        ("{}", "QMP input lacks member 'execute'"),
        (r#"{"execute":1}"#, "QMP input member 'execute' must be a string"),
        (r#"{"execute":"echo","x":1}"#, "QMP input member 'x' is unexpected"),
        (r#"{"execute":"echo","arguments":1}"#, "QMP input member 'arguments' must be an object"),
        ("nonsense\n", "JSON parse error, invalid keyword 'nonsense'"),
        ("}", "JSON parse error, expecting value"),
        (r#"{"execute": tru}"#, "JSON parse error, invalid keyword 'tru'"),
        (r#"{"execute" "x"}"#, "JSON parse error, missing : in object pair"),
        (r#"{"execute":"a","execute":"b"}"#, "JSON parse error, duplicate key"),
        ("\x01", r"JSON parse error, stray '\u0001'"),
    ] {
        assert_eq!(c.ask(request), generic(desc), "{request}");
    }
    // A request in pieces, and several in one.
    c.send(r#"{"execute":"ec"#);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(c.ask("ho\",\n\"arguments\":{\"n\":1}}"), r#"{"return": {"n": 1}}"#);
    c.send(r#"{"execute":"echo","arguments":{"n":2}}{"execute":"echo","arguments":{"n":3}} xx {"execute":"echo","arguments":{"n":4}}"#);
    assert_eq!(c.line(), r#"{"return": {"n": 2}}"#);
    assert_eq!(c.line(), r#"{"return": {"n": 3}}"#);
    assert_eq!(c.line(), generic("JSON parse error, invalid keyword 'xx'"));
    assert_eq!(c.line(), r#"{"return": {"n": 4}}"#);
}

#[test]
fn a_flood_of_rubbish_is_answered_within_bounds() {
    let rig = rig("flood");
    let mut c = rig.client(CAPS);
    // Deep nesting, then bytes of every value, then the session still works.
    c.send(&"[".repeat(5000));
    let all: Vec<u8> = (0..=255u8).cycle().take(20_000).collect();
    let _ = c.writer.write_all(&all);
    c.send("\n\"\n]}]}\n");
    c.send(r#"{"execute":"echo","arguments":{"n":77}}"#);
    let found = (0..50_000).any(|_| {
        let l = c.line();
        assert!(l.starts_with("{\"error\"") || l.contains("77"), "{l}");
        l == r#"{"return": {"n": 77}}"#
    });
    assert!(found);
}

#[test]
fn a_panic_in_a_command_is_an_error_reply() {
    let rig = rig("panic");
    let mut c = rig.client(CAPS_OOB);
    assert!(c.ask(r#"{"exec-oob":"panic-oob"}"#).contains("internal error"));
    assert!(c.ask(r#"{"execute":"panic"}"#).contains("internal error"));
    assert_eq!(c.ask(r#"{"execute":"echo","arguments":{"n":1}}"#), r#"{"return": {"n": 1}}"#);
}

#[test]
fn several_clients_over_unix_and_tcp() {
    let rig = rig("several");
    let mut unix: Vec<_> = (0..4).map(|_| rig.client(CAPS)).collect();
    let tcp = TcpStream::connect(("127.0.0.1", rig.tcp)).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut tcp = Client { reader: BufReader::new(tcp.try_clone().unwrap()), writer: tcp };
    assert!(tcp.line().starts_with(r#"{"QMP""#));
    assert_eq!(tcp.ask(CAPS), r#"{"return": {}}"#);
    // A command that waits in one session delays no other.
    unix[0].send(r#"{"execute":"wait-gate","id":"w"}{"execute":"echo","arguments":{"n":0}}"#);
    for (n, c) in unix.iter_mut().enumerate().skip(1) {
        assert_eq!(
            c.ask(&format!(r#"{{"execute":"echo","arguments":{{"n":{n}}}}}"#)),
            format!(r#"{{"return": {{"n": {n}}}}}"#)
        );
    }
    assert_eq!(tcp.ask(r#"{"execute":"open-gate"}"#), r#"{"return": {}}"#);
    // Order within the session.
    assert_eq!(unix[0].line(), r#"{"return": {}, "id": "w"}"#);
    assert_eq!(unix[0].line(), r#"{"return": {"n": 0}}"#);
    // Events reach everybody, with a timestamp.
    rig.bus.emit(Tick { n: 5, text: "t".into() });
    rig.bus.emit(Plain {});
    for c in &mut unix {
        let l = c.line();
        assert!(l.starts_with(r#"{"timestamp": {"seconds": "#), "{l}");
        assert!(l.ends_with(r#", "event": "TICK", "data": {"text": "t", "n": 5}}"#), "{l}");
        assert!(c.line().ends_with(r#""event": "PLAIN"}"#));
    }
    assert!(tcp.line().contains("TICK"));
}

#[test]
fn out_of_band_while_the_control_thread_is_blocked() {
    let rig = rig("oob");
    let mut c = rig.client(CAPS_OOB);
    for (request, reply) in [
        (
            r#"{"exec-oob":"echo","id":1}"#,
            r#"{"id": 1, "error": {"class": "GenericError", "desc": "The command echo does not support OOB"}}"#,
        ),
        (
            r#"{"exec-oob":"foo","id":1}"#,
            r#"{"id": 1, "error": {"class": "CommandNotFound", "desc": "The command foo has not been found"}}"#,
        ),
        (
            r#"{"exec-oob":"qmp_capabilities","id":1}"#,
            r#"{"id": 1, "error": {"class": "GenericError", "desc": "The command qmp_capabilities does not support OOB"}}"#,
        ),
        (
            r#"{"execute":"echo","exec-oob":"echo","id":7}"#,
            r#"{"id": 7, "error": {"class": "GenericError", "desc": "QMP input member 'execute' clashes with 'exec-oob'"}}"#,
        ),
        (
            r#"{"exec-oob":"open-gate","id":7,"arguments":{"z":1}}"#,
            r#"{"id": 7, "error": {"class": "GenericError", "desc": "Parameter 'z' is unexpected"}}"#,
        ),
    ] {
        assert_eq!(c.ask(request), reply);
    }
    // The control thread is stuck; commands queue up behind; out of band gets through and frees it.
    c.send(r#"{"execute":"block-thread","id":"stuck"}"#);
    for n in 0..7 {
        c.send(&format!(r#"{{"execute":"echo","arguments":{{"n":{n}}}}}"#));
    }
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(c.ask(r#"{"exec-oob":"open-gate","id":"oob"}"#), r#"{"return": {}, "id": "oob"}"#);
    assert_eq!(c.line(), r#"{"return": {}, "id": "stuck"}"#);
    for n in 0..7 {
        assert_eq!(c.line(), format!(r#"{{"return": {{"n": {n}}}}}"#));
    }
}

#[test]
fn the_queue_of_requests_is_bounded() {
    let rig = rig("bounded");
    let mut c = rig.client(CAPS_OOB);
    c.send(r#"{"execute":"wait-gate"}"#);
    let many: String = (0..20).map(|n| format!(r#"{{"execute":"echo","arguments":{{"n":{n}}}}}"#)).collect();
    c.send(&many);
    // Behind a full queue even out of band has to wait: its request is not read.
    c.send(r#"{"exec-oob":"open-gate","id":"late"}"#);
    std::thread::sleep(Duration::from_millis(100));
    assert!(!rig.gate.load(Ordering::SeqCst));
    rig.gate.store(true, Ordering::SeqCst);
    let lines: Vec<String> = (0..22).map(|_| c.line()).collect();
    assert_eq!(lines.iter().filter(|l| l.contains(r#""n": "#)).count(), 20);
    let at = |l: &str| lines.iter().position(|x| x == l).unwrap();
    assert!(at(r#"{"return": {"n": 3}}"#) < at(r#"{"return": {"n": 4}}"#));
    assert!(at(r#"{"return": {"n": 3}}"#) < at(r#"{"return": {}, "id": "late"}"#));
}

#[test]
fn clients_that_vanish() {
    let rig = rig("vanish");
    for stage in 0..4 {
        for _ in 0..10 {
            let mut c = rig.raw();
            match stage {
                0 => {}
                1 => c.send(r#"{"execute":"qmp_cap"#),
                2 => {
                    c.line();
                    c.send(CAPS);
                    c.send(r#"{"execute":"wait-gate"}{"execute":"echo","arguments":{"n":1}}"#);
                }
                _ => {
                    c.line();
                    c.send(CAPS_OOB);
                    c.line();
                    c.send(r#"{"execute":"wait-gate"}{"execute":"echo""#);
                }
            }
        }
    }
    let mut c = rig.client(CAPS);
    // What was begun is finished although nobody waits for it any more.
    assert_eq!(c.ask(r#"{"execute":"open-gate"}"#), r#"{"return": {}}"#);
    eventually("commands of the vanished finish", || rig.waits_done.load(Ordering::SeqCst) >= 10);
    assert_eq!(c.ask(r#"{"execute":"echo","arguments":{"n":1}}"#), r#"{"return": {"n": 1}}"#);
}

#[test]
fn a_client_that_ends_its_side_still_gets_its_answers() {
    let rig = rig("half");
    let mut c = rig.raw();
    c.send(CAPS);
    c.send(r#"{"execute":"wait-gate"}{"execute":"echo","arguments":{"n":1}}{"execute""#);
    c.writer.shutdown(std::net::Shutdown::Write).unwrap();
    std::thread::sleep(Duration::from_millis(30));
    rig.gate.store(true, Ordering::SeqCst);
    let text = c.rest();
    let lines: Vec<&str> = text.split_terminator("\r\n").collect();
    assert_eq!(lines.len(), 5, "{text}");
    assert_eq!(lines[2..4], [r#"{"return": {}}"#, r#"{"return": {"n": 1}}"#]);
    assert!(lines[4].contains("JSON parse error"));
}

#[test]
fn a_client_that_never_reads_is_dropped_and_disturbs_nobody() {
    let rig = rig("deaf");
    let mut deaf = rig.client(CAPS);
    let mut good = rig.client(CAPS);
    let start = Instant::now();
    for _ in 0..10 {
        good.send(r#"{"execute":"emit","arguments":{"count":10000}}"#);
        for n in 0..10_000 {
            let l = good.line();
            assert!(l.contains(&format!(r#""n": {n}}}"#)), "in order, none lost: {l}");
        }
        assert_eq!(good.line(), r#"{"return": {}}"#);
    }
    assert!(start.elapsed() < Duration::from_secs(15));
    assert_eq!(good.ask(r#"{"execute":"echo","arguments":{"n":1}}"#), r#"{"return": {"n": 1}}"#);
    // The deaf one finds what its socket held, and then the end.
    let mut held = 0;
    let mut buf = vec![0; 1 << 16];
    while let Ok(n) = deaf.reader.read(&mut buf) {
        if n == 0 {
            break;
        }
        held += n;
    }
    assert!(held < 12 << 20, "{held}");
    assert!(rig.client(CAPS).ask(r#"{"execute":"echo","arguments":{"n":1}}"#).contains("return"));
}

#[test]
fn a_client_that_does_not_read_replies_is_throttled() {
    let rig = rig("throttled");
    let mut c = rig.client(CAPS);
    let mut sent = 0u32;
    c.writer.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let request = r#"{"execute":"query-qmp-schema"}"#;
    while sent < 200_000 && c.writer.write_all(request.as_bytes()).is_ok() {
        sent += 1;
    }
    assert!(sent < 200_000, "the session stops reading");
    assert_eq!(rig.client(CAPS).ask(r#"{"execute":"echo","arguments":{"n":1}}"#), r#"{"return": {"n": 1}}"#);
}

#[test]
fn pretty_and_without_oob() {
    let rig = rig_with("pretty", QmpOptions { pretty: true, oob: false });
    let mut c = rig.raw();
    // Every line ends with CRLF, those within a message too.
    let mut text = String::new();
    while !text.ends_with("\n}\n") {
        text += &(c.line() + "\n");
    }
    assert!(text.starts_with("{\n    \"QMP\": {\n        \"version\": {\n"), "{text}");
    assert!(text.contains("\"capabilities\": [\n        ]"), "{text}");
    c.send(CAPS_OOB);
    let reply: Vec<String> = (0..6).map(|_| c.line()).collect();
    assert!(reply.concat().contains("Capability oob not available"), "{reply:?}");
}

#[test]
fn the_human_monitor_over_qmp() {
    let rig = rig("hmpq");
    let mut c = rig.client(CAPS);
    let mut hmp = |line: &str| {
        c.ask(&format!(r#"{{"execute":"human-monitor-command","arguments":{{"command-line":"{line}"}}}}"#))
    };
    assert_eq!(hmp("say -u hello"), r#"{"return": "HELLO\r\n"}"#);
    assert_eq!(hmp(""), r#"{"return": ""}"#);
    assert_eq!(hmp("foo bar"), r#"{"return": "unknown command: 'foo'\r\n"}"#);
    assert_eq!(
        hmp("info version x"),
        r#"{"return": "version: extraneous characters at the end of line\r\nTry \"help info version\" for more information\r\n"}"#
    );
    assert!(hmp("log bogus").contains("Unknown log item 'bogus'"));
    assert_eq!(hmp("log none"), r#"{"return": ""}"#);
    assert!(
        hmp("logfile /nonexistent/x").contains("Error: Error opening logfile /nonexistent/x: No such file")
    );
    assert!(hmp("info version").starts_with(r#"{"return": "10.0.2 (Rhea "#));
}

#[test]
fn shutdown_writes_the_last_reply() {
    for round in 0..20 {
        let rig = rig(&format!("quit{round}"));
        let mut c = rig.client(CAPS);
        c.send(r#"{"execute":"emit","arguments":{"count":3}}"#);
        eventually("the command runs", || rig.bus.emitted() == 3);
        let m = rig.monitor.clone();
        rt::block_on(
            rig.control.handle().spawn(move || async move { m.shutdown(Duration::from_secs(2)).await }),
        );
        let text = c.rest();
        assert_eq!(text.matches("TICK").count(), 3, "{text}");
        assert!(text.ends_with("{\"return\": {}}\r\n"), "{text}");
    }
}

#[test]
fn sessions_leave_nothing_behind() {
    let rig = rig("leak");
    let open = || std::fs::read_dir("/proc/self/fd").map(|d| d.count()).unwrap_or(0);
    drop(rig.client(CAPS));
    for _ in 0..300 {
        drop(rig.client(CAPS));
        drop(rig.raw());
    }
    // Other tests of this process open some at the same time; 600 would be ours.
    eventually("their descriptors are closed", || open() < 300);
    // Sessions that live at once are bounded; the others are served in their turn.
    let many: Vec<_> = (0..80).map(|_| rig.raw()).collect();
    let mut last = rig.raw();
    drop(many);
    assert!(last.line().starts_with(r#"{"QMP""#));
}

#[test]
fn held_back_events_arrive_in_the_end() {
    let rig = rig("limit");
    rig.bus.set_rate_limit("TICK", Duration::from_millis(60), None);
    let mut c = rig.client(CAPS);
    let start = Instant::now();
    for n in 0..5 {
        rig.bus.emit(Tick { n, text: String::new() });
    }
    rig.bus.emit(Plain {});
    assert!(c.line().contains(r#""n": 0"#));
    assert!(c.line().contains("PLAIN"));
    assert!(c.line().contains(r#""n": 4"#));
    assert!(start.elapsed() >= Duration::from_millis(55));
}

#[test]
fn preconfig() {
    let rig = rig("preconfig");
    rig.monitor.set_preconfig(true);
    let mut c = rig.client(CAPS);
    assert_eq!(
        c.ask(r#"{"execute":"echo","arguments":{"n":1}}"#),
        generic("The command 'echo' is permitted only after machine initialization has completed")
    );
    assert!(c.ask(r#"{"execute":"query-version"}"#).starts_with(r#"{"return""#));
    rig.monitor.set_preconfig(false);
    assert_eq!(c.ask(r#"{"execute":"echo","arguments":{"n":1}}"#), r#"{"return": {"n": 1}}"#);
}

#[test]
fn what_is_asked_for_is_answered_before_it_begins_and_nothing_follows() {
    let rig = rig("leave");
    let mut c = rig.client(CAPS);
    let r = c.ask(r#"{"execute":"leave","arguments":{"n":-1},"id":1}"#);
    assert!(r.contains("error") && !r.contains("TICK"), "{r}");
    let r = c.ask(r#"{"execute":"leave","arguments":{"n":7},"id":2}{"execute":"echo","arguments":{"n":1}}"#);
    assert_eq!(r, r#"{"return": {}, "id": 2}"#);
    assert!(c.line().contains(r#""event": "TICK", "data": {"text": "", "n": 7}"#));
    let monitor = rig.monitor.clone();
    rt::block_on(rig.control.handle().spawn(move || async move {
        let begun = rt::now();
        monitor.shutdown(Duration::from_secs(10)).await;
        assert!(rt::now() - begun < Duration::from_secs(5), "a request that will not run is not waited for");
    }));
    assert_eq!(c.rest(), "");
}
