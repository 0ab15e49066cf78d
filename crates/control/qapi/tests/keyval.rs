//! key=value text and the older flat options.

use proptest::prelude::*;
use qapi::{Dict, Value, flatten, keyval_parse, keyval_parse_help, opts_parse};

fn error(text: &str) -> String {
    keyval_parse(text, Some("driver")).err().unwrap_or_else(|| panic!("accepted: {text}")).desc().to_owned()
}

fn json(text: &str) -> String {
    Value::Dict(keyval_parse(text, Some("driver")).unwrap()).to_json()
}

#[test]
fn structure() {
    for (text, value) in [
        ("", "{}"),
        ("qcow2", r#"{"driver": "qcow2"}"#),
        (" ", r#"{"driver": " "}"#),
        (
            "qcow2,file.driver=file,file.filename=a,,b",
            r#"{"driver": "qcow2", "file": {"driver": "file", "filename": "a,b"}}"#,
        ),
        ("a=1,", r#"{"a": "1"}"#),
        ("a==1", r#"{"a": "=1"}"#),
        ("a=,b=,,", r#"{"a": "", "b": ","}"#),
        ("a=1,b=2,a=3", r#"{"a": "3", "b": "2"}"#),
        ("a.1=y,a.0=x,a.2.b=z", r#"{"a": ["x", "y", {"b": "z"}]}"#),
        ("a.00=x,a.01=y", r#"{"a": ["x", "y"]}"#),
        ("null-co=,", r#"{"null-co": ""}"#),
        ("__com.redhat_x.b=1,a_b=2", r#"{"__com.redhat_x": {"b": "1"}, "a_b": "2"}"#),
    ] {
        assert_eq!(json(text), value, "{text}");
    }
}

/// The texts are those of the reference for the same mistake.
#[test]
fn mistakes() {
    for (text, message) in [
        ("null-co,read-only", "Expected '=' after parameter 'read-only'"),
        ("a,b,,c", "Expected '=' after parameter 'b'"),
        ("=x", "Invalid parameter ''"),
        (",", "Invalid parameter ''"),
        (",null-co", "Invalid parameter ''"),
        ("null-co,,x", "Invalid parameter ''"),
        ("null-co,,", "Invalid parameter ''"),
        ("null-co,1a=2", "Invalid parameter '1a'"),
        ("null-co,a..b=2", "Invalid parameter 'a..b'"),
        ("null-co,a.=2", "Invalid parameter 'a.'"),
        ("null-co,cache.", "Invalid parameter 'cache.'"),
        ("null-co,.a=2", "Invalid parameter '.a'"),
        ("null-co,-a=1", "Invalid parameter '-a'"),
        ("null-co,_a=1", "Invalid parameter '_a'"),
        ("null-co,a b=1", "Invalid parameter 'a b'"),
        ("null-co,a@=1", "Invalid parameter 'a@'"),
        ("null-co,0=1", "Invalid parameter '0'"),
        ("null-co,a.0.b=1,a.2.b=1", "Parameter 'a.1' missing"),
        ("null-co,a.1=1", "Parameter 'a.0' missing"),
        ("null-co,a.99999999999999999999999=1", "Parameter 'a.0' missing"),
        ("null-co,a.0=1,a.b=1", "Parameters 'a.*' used inconsistently"),
        ("null-co,a.b=1,a=2", "Parameters 'a.*' used inconsistently"),
        ("null-co,a=2,a.b=1", "Parameters 'a.*' used inconsistently"),
        ("null-co,help", "Help is not available for this option"),
        ("?", "Help is not available for this option"),
    ] {
        assert_eq!(error(text), message, "{text}");
    }
    let long = "a".repeat(128);
    assert_eq!(error(&format!("x,{long}=1")), format!("Parameter '{long}' is too long"));
    assert!(error(&format!("x,{}b=1", "a.".repeat(4000))).contains("too deeply"));
    assert!(keyval_parse("a", None).is_err(), "a value without a key needs an implied one");
}

#[test]
fn help() {
    let (dict, help) = keyval_parse_help("help,a=1", Some("driver")).unwrap();
    assert!(help && !dict.contains_key("driver") && dict.contains_key("a"));
    assert!(!keyval_parse_help("a=help", None).unwrap().1);
}

#[test]
fn flat_options() {
    let show = |text: &str, implied| {
        opts_parse(text, implied).iter().map(|(k, v)| format!("{k}={v};")).collect::<String>()
    };
    assert_eq!(
        show("disk.img,if=virtio,snapshot,noboot,x=a,,b", Some("file")),
        "file=disk.img;if=virtio;snapshot=on;boot=off;x=a,b;"
    );
    assert_eq!(show("a,,b,c", Some("file")), "file=a,b;c=on;");
    assert_eq!(show("a=1,a=2,no-wait,no", None), "a=1;a=2;wait=off;no=on;");
    assert_eq!(show("", None), "");
}

#[test]
fn flattening() {
    let v = Value::parse_json("{'a':{'b':[1,{'c':null}],'e':{}},'d':'x'}").unwrap();
    let flat: Vec<String> = flatten(&v).iter().map(|(k, v)| format!("{k}={}", v.to_json())).collect();
    assert_eq!(flat, ["a.b.0=1", "a.b.1.c=null", "d=\"x\""]);
}

#[test]
fn large_dicts_keep_order() {
    let mut d = Dict::new();
    for i in 0..100u32 {
        d.insert(format!("k{i}"), i);
    }
    for i in (0..100).step_by(3) {
        assert_eq!(d.remove(&format!("k{i}")), Some(Value::Int(i)));
    }
    assert_eq!(d.insert("k1", 7u32), Some(Value::Int(1)));
    let expected: Vec<i64> = (0..100).filter(|i| i % 3 != 0).collect();
    assert!(d.keys().map(|k| k[1..].parse::<i64>().unwrap()).eq(expected.iter().copied()));
    for i in expected {
        assert_eq!(d.get(&format!("k{i}")), Some(&Value::Int(if i == 1 { 7 } else { i })));
    }
}

/// Values that key=value text can say: no empty lists and dictionaries, strings for leaves.
fn sayable() -> impl Strategy<Value = Value> {
    let key = "[a-zA-Z][a-zA-Z0-9_-]{0,6}";
    let leaf = "[ -~é]{0,8}".prop_map(Value::Str);
    let inner = leaf.prop_recursive(4, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..5).prop_map(Value::List),
            prop::collection::vec((key, inner), 1..5).prop_map(|e| Value::Dict(e.into_iter().collect())),
        ]
    });
    prop::collection::vec((key, inner), 0..5).prop_map(|e| Value::Dict(e.into_iter().collect()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn round_trip(v in sayable()) {
        let text: Vec<String> = flatten(&v)
            .iter()
            .map(|(k, v)| format!("{k}={}", v.as_str().unwrap().replace(',', ",,")))
            .collect();
        let back = keyval_parse(&text.join(","), None).unwrap();
        prop_assert_eq!(Value::Dict(back), v);
    }

    #[test]
    fn nothing_panics(text in "[a-c0-2=,.?_ é@-]{0,40}") {
        let _ = keyval_parse(&text, Some("a"));
        let _ = keyval_parse(&text, None);
        let _ = opts_parse(&text, Some("a"));
        let _ = Value::parse_json(&text);
    }
}
