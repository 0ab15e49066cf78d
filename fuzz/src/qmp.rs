//! What comes over a QMP socket or as an option's value: bytes, values, commands.

use api::block_core::{BlockdevAdd, BlockdevCreate, BlockdevOptions, BlockdevReopen};
use api::block_export::BlockExportAdd;
use qapi::{Dict, JsonStream, Qapi, Value, from_arg, from_json, keyval_parse, opts_parse};
use qom::ObjectOptions;

fn read<T: Qapi>(value: &Value) {
    if let Ok(parsed) = from_json::<T>(value.clone()) {
        let shown = qapi::to_value(&parsed);
        assert!(from_json::<T>(shown.clone()).is_ok(), "{}", shown.to_json());
    }
}

/// Reads the bytes as a stream of JSON in pieces, each value as the arguments of the commands that take most, and all
/// of it as an option's value.
pub fn qmp(data: &[u8]) {
    let mut stream = JsonStream::new();
    let mut values = Vec::new();
    for piece in data.chunks(61) {
        stream.push(piece);
        values.extend(stream.by_ref());
    }
    stream.finish();
    values.extend(stream.by_ref());
    for value in values.into_iter().flatten() {
        // What is written is read as what it was, but for the sign of a zero and where a number has no fraction.
        let again = Value::parse_json(&value.to_json()).expect("what is written can be read");
        assert_eq!(Value::parse_json(&again.to_json()), Ok(again));
        let arguments = match &value {
            Value::Dict(d) => d.get("arguments").cloned().unwrap_or(value),
            _ => Value::Dict(Dict::new()),
        };
        read::<BlockdevAdd>(&arguments);
        read::<BlockdevReopen>(&arguments);
        read::<BlockdevCreate>(&arguments);
        read::<BlockExportAdd>(&arguments);
        read::<ObjectOptions>(&arguments);
    }
    if let Ok(text) = std::str::from_utf8(data) {
        _ = keyval_parse(text, Some("driver"));
        _ = opts_parse(text, Some("driver"));
        _ = from_arg::<BlockdevOptions>(text, Some("driver"));
        _ = from_arg::<ObjectOptions>(text, Some("qom-type"));
    }
}

/// Commands and option values as users write them.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    [
        r#"{"execute":"blockdev-add","arguments":{"driver":"qcow2","node-name":"a","file":{"driver":"file","filename":"x"},"backing":null}}"#,
        r#"{"execute":"blockdev-reopen","arguments":{"options":[{"driver":"raw","node-name":"r","file":"f","offset":512,"read-only":true}]}}"#,
        r#"{"execute":"blockdev-create","arguments":{"job-id":"j","options":{"driver":"qcow2","file":"f","size":1048576}}}"#,
        r#"{"execute":"block-export-add","arguments":{"type":"nbd","id":"e","node-name":"n","writable":true,"bitmaps":["b",{"node":"n","name":"b"}]}}"#,
        r#"{"execute":"object-add","arguments":{"qom-type":"iothread","id":"i"}} {"a":[1,-2,3e4,true,null,"\u00e9\ud83d\ude00"]}"#,
        "{'single': 'quotes', 'n': 18446744073709551615}",
        "driver=qcow2,node-name=a,file.driver=file,file.filename=x,,y,backing=",
        "qcow2,file.driver=host_device,file.filename=/dev/x,l2-cache-size=1M",
        "secret,id=s,data=abc,format=base64",
        "file.0=a,file.1=b",
    ]
    .iter()
    .map(|s| s.as_bytes().to_vec())
    .collect()
}
