//! Input as tools and users write it, and the reference's words where it is wrong.

use api::block_core::{
    BlockdevAdd, BlockdevDriver, BlockdevDriverOptions, BlockdevOptions, BlockdevOptionsQcow2, BlockdevRef,
    BlockdevRefOrNull, BlockdevReopen, Qcow2OverlapCheckMode, Qcow2OverlapChecks,
};
use api::char::{ChardevBackend, ChardevOptions};
use api::control::QmpCapabilities;
use api::misc::HumanMonitorCommand;
use api::qom::{ObjectOptions, ObjectProperties};
use qapi::{Qapi, Union, Value, from_arg, from_json, to_value};

fn error<T: Qapi>(json: &str) -> String {
    match from_json::<T>(Value::parse_json(json).unwrap()) {
        Ok(_) => panic!("accepted: {json}"),
        Err(e) => e.desc().to_owned(),
    }
}

fn arg_error(text: &str) -> String {
    match from_arg::<BlockdevOptions>(text, Some("driver")) {
        Ok(_) => panic!("accepted: {text}"),
        Err(e) => e.desc().to_owned(),
    }
}

#[test]
fn reopen() {
    let text = r#"{"options": [{"driver": "qcow2", "node-name": "top", "file": "f", "backing": null, "lazy-refcounts": true, "overlap-check": "all"}, {"driver": "file", "read-only": true, "filename": "/x", "aio": "io_uring"}]}"#;
    let c: BlockdevReopen = from_json(Value::parse_json(text).unwrap()).unwrap();
    let expected = BlockdevOptionsQcow2 {
        backing: Some(BlockdevRefOrNull::Null),
        lazy_refcounts: Some(true),
        overlap_check: Some(Qcow2OverlapChecks::Mode(Qcow2OverlapCheckMode::All)),
        ..BlockdevOptionsQcow2::new(BlockdevRef::Reference("f".into()))
    };
    assert_eq!(c.options[0].driver, BlockdevDriverOptions::Qcow2(expected));
    assert_eq!(c.options[1].driver.tag(), BlockdevDriver::File);
    assert_eq!(to_value(&c), Value::parse_json(text).unwrap());

    for (options, message) in [
        (
            "{'driver':'qcow2','node-name':5,'file':'x'}",
            "Invalid parameter type for 'options[0].node-name', expected: string",
        ),
        (
            "{'driver':'qcow2','file':{'driver':'file','filename':3}}",
            "Invalid parameter type for 'options[0].file.filename', expected: string",
        ),
        ("{'driver':'qcow2'}", "Parameter 'options[0].file' is missing"),
        ("{'driver':'foo'}", "Parameter 'driver' does not accept value 'foo'"),
        ("{'driver':5}", "Invalid parameter type for 'options[0].driver', expected: string"),
        (
            "{'driver':'null-co','size':'5'}",
            "Invalid parameter type for 'options[0].size', expected: integer",
        ),
        (
            "{'driver':'null-co','size':5.5}",
            "Invalid parameter type for 'options[0].size', expected: integer",
        ),
        (
            "{'driver':'null-co','size':18446744073709551615}",
            "Invalid parameter type for 'options[0].size', expected: integer",
        ),
        ("{'driver':'null-co','latency-ns':'x'}", "Parameter 'options[0].latency-ns' expects uint64"),
        (
            "{'driver':'null-co','read-only':'on'}",
            "Invalid parameter type for 'options[0].read-only', expected: boolean",
        ),
        (
            "{'driver':'null-co','cache':[]}",
            "Invalid parameter type for 'options[0].cache', expected: object",
        ),
        (
            "{'driver':'null-co','cache':{'direct':1}}",
            "Invalid parameter type for 'options[0].cache.direct', expected: boolean",
        ),
        ("{'driver':'null-co','cache':{'bogus':1}}", "Parameter 'options[0].cache.bogus' is unexpected"),
        ("{'driver':'qcow2','file':5}", "Invalid parameter type for 'file', expected: BlockdevRef"),
        (
            "{'driver':'qcow2','file':'x','backing':5}",
            "Invalid parameter type for 'backing', expected: BlockdevRefOrNull",
        ),
        (
            "{'driver':'qcow2','file':'x','overlap-check':'zz'}",
            "Parameter 'overlap-check' does not accept value 'zz'",
        ),
        (
            "{'driver':'qcow2','file':'x','overlap-check':5}",
            "Invalid parameter type for 'overlap-check', expected: Qcow2OverlapChecks",
        ),
        ("{'driver':'qcow2','file':'x','bogus':1}", "Parameter 'options[0].bogus' is unexpected"),
        ("{'driver':'raw','file':'x','backing':'y'}", "Parameter 'options[0].backing' is unexpected"),
        (
            "{'driver':'raw','file':{'driver':'raw','file':{'driver':'null-co','x':1}}}",
            "Parameter 'options[0].file.file.x' is unexpected",
        ),
        ("5", "Invalid parameter type for 'options[0]', expected: object"),
    ] {
        assert_eq!(error::<BlockdevReopen>(&format!("{{'options':[{options}]}}")), message, "{options}");
    }
    assert_eq!(error::<BlockdevReopen>("{}"), "Parameter 'options' is missing");
    assert_eq!(
        error::<BlockdevReopen>("{'options':{}}"),
        "Invalid parameter type for 'options', expected: array"
    );
    assert_eq!(error::<BlockdevReopen>("{'options':[],'x':1}"), "Parameter 'x' is unexpected");
}

#[test]
fn other_commands() {
    assert_eq!(error::<BlockdevAdd>("{}"), "Parameter 'driver' is missing");
    assert_eq!(
        error::<BlockdevAdd>("{'driver':'null-co','node-name':null}"),
        "Invalid parameter type for 'node-name', expected: string"
    );
    assert_eq!(
        error::<QmpCapabilities>("{'enable':['foo']}"),
        "Parameter 'null' does not accept value 'foo'"
    );
    assert_eq!(
        error::<QmpCapabilities>("{'enable':[5]}"),
        "Invalid parameter type for 'enable[0]', expected: string"
    );
    assert_eq!(
        error::<HumanMonitorCommand>("{'command-line':'x','cpu-index':1.0}"),
        "Invalid parameter type for 'cpu-index', expected: integer"
    );
}

#[test]
fn blockdev_option() {
    let flat = "qcow2,node-name=top,file.driver=file,file.filename=a,,b.qcow2,file.cache.direct=on,backing=base,l2-cache-size=0x10000";
    let json = "{'driver':'qcow2','node-name':'top','file':{'driver':'file','filename':'a,b.qcow2','cache':{'direct':true}},'backing':'base','l2-cache-size':65536}";
    let read = |text| from_arg::<BlockdevOptions>(text, Some("driver")).unwrap();
    assert_eq!(read(flat), read(json));
    for (text, message) in [
        ("", "Parameter 'driver' is missing"),
        ("foo", "Parameter 'driver' does not accept value 'foo'"),
        ("driver=null-co,,x", "Parameter 'driver' does not accept value 'null-co,x'"),
        ("null-co,size=1M", "Parameter 'size' expects integer"),
        ("null-co,size=", "Parameter 'size' expects integer"),
        ("null-co,size=9223372036854775808", "Parameter 'size' expects integer"),
        ("null-co,latency-ns=18446744073709551616", "Parameter 'latency-ns' expects integer"),
        ("null-co,read-only=TRUE", "Parameter 'read-only' expects 'on' or 'off'"),
        ("null-co,cache.direct=maybe", "Parameter 'cache.direct' expects 'on' or 'off'"),
        ("null-co,cache=1", "Invalid parameter type for 'cache', expected: object"),
        ("null-co,cache.0=1", "Invalid parameter type for 'cache', expected: object"),
        ("null-co,cache.foo=1", "Parameter 'cache.foo' is unexpected"),
        ("qcow2,file.driver=null-co,file=x", "Parameters 'file.*' used inconsistently"),
        ("qcow2,file=x,overlap-check.template=foo", "Parameter 'template' does not accept value 'foo'"),
        ("qcow2,file=x,overlap-check=foo", "Parameter 'overlap-check' does not accept value 'foo'"),
        ("qcow2", "Parameter 'file' is missing"),
        (
            "{\"driver\":\"null-co\",\"node-name\":5}",
            "Invalid parameter type for 'node-name', expected: string",
        ),
        ("{\"driver\":\"null-co\"} x", "JSON parse error, invalid keyword 'x'"),
    ] {
        assert_eq!(arg_error(text), message, "{text}");
    }
}

#[test]
fn objects_and_chardevs() {
    let o: ObjectOptions = from_arg("memory-backend-ram,id=m,size=1.5G", Some("qom-type")).unwrap();
    let ObjectProperties::MemoryBackendRam(m) = &o.qom_type else { panic!("{o:?}") };
    assert_eq!((m.size, m.prealloc), (3 << 29, None));
    assert_eq!(error::<ObjectOptions>("{'qom-type':'iothread'}"), "Parameter 'id' is missing");

    let text = r#"{"id": "c", "backend": {"type": "socket", "data": {"addr": {"type": "unix", "data": {"path": "/x"}}, "server": true}}}"#;
    let c: ChardevOptions = from_json(Value::parse_json(text).unwrap()).unwrap();
    assert!(matches!(&c.backend, ChardevBackend::Socket(s) if s.server == Some(true)));
    assert_eq!(to_value(&c).to_json(), text);
    assert_eq!(
        error::<ChardevOptions>("{'id':'c','backend':{'type':'null','data':{'x':1}}}"),
        "Parameter 'backend.data.x' is unexpected"
    );
}

/// The longest chain of nodes inside nodes that is accepted fits the stack of a small thread.
#[test]
fn deep_chain() {
    let work = || {
        let levels = 200;
        let text = "{\"driver\":\"raw\",\"file\":".repeat(levels) + "\"x\"" + &"}".repeat(levels);
        let options: BlockdevOptions = from_json(Value::parse_json(&text).unwrap()).unwrap();
        assert_eq!(to_value(&options).to_json().replace(' ', ""), text);
        let text = "{\"driver\":\"raw\",\"file\":".repeat(500) + "\"x\"" + &"}".repeat(500);
        assert_eq!(error::<BlockdevOptions>(&text), "Parameters are nested too deeply");
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(work).unwrap().join().unwrap();
}
