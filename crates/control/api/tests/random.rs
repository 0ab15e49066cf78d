//! Random input: nothing panics, what is accepted survives being written and read again, and both syntaxes agree.

use api::block_core::{BlockdevOptions, BlockdevReopen};
use api::char::ChardevOptions;
use api::introspect::SchemaInfo;
use api::qom::ObjectOptions;
use proptest::prelude::*;
use proptest::sample::select;
use qapi::{Dict, Qapi, Value, flatten, from_arg, from_json, from_keyval, to_value};

/// Block options that are right but for an occasional slip.
fn block_options() -> impl Strategy<Value = Value> {
    let text = "[a-z,=. ]{0,6}".prop_map(Value::Str);
    let common = prop::collection::vec(
        prop_oneof![
            text.clone().prop_map(|v| ("node-name", v)),
            select(vec!["ignore", "unmap", "x"]).prop_map(|v| ("discard", Value::from(v))),
            any::<bool>().prop_map(|v| ("read-only", Value::Bool(v))),
            any::<bool>().prop_map(|v| ("cache", Value::Dict(Dict::from_iter([("direct", v)])))),
        ],
        0..4,
    );
    let slip = prop_oneof![
        20 => Just(None),
        1 => select(vec!["bogus", "size", "filename", "driver"]).prop_map(Some),
    ];
    let file = (text.clone(), any::<Option<i64>>()).prop_map(|(name, batch)| {
        let mut d = Dict::from_iter([("driver", Value::from("file")), ("filename", name)]);
        if let Some(n) = batch {
            d.insert("aio-max-batch", n);
        }
        d
    });
    let null = (any::<Option<i64>>(), any::<u64>()).prop_map(|(size, latency)| {
        let mut d =
            Dict::from_iter([("driver", Value::from("null-co")), ("latency-ns", Value::from(latency))]);
        if let Some(n) = size {
            d.insert("size", n);
        }
        d
    });
    let leaf = (prop_oneof![file, null], common.clone(), slip.clone()).prop_map(finish);
    leaf.prop_recursive(4, 12, 3, move |inner| {
        let child = || prop_oneof![4 => inner.clone(), 1 => text.clone()];
        let raw = child().prop_map(|f| Dict::from_iter([("driver", Value::from("raw")), ("file", f)]));
        let qcow2 = (child(), prop::option::of(child()), any::<bool>()).prop_map(|(file, backing, lazy)| {
            let mut d = Dict::from_iter([("driver", Value::from("qcow2")), ("file", file)]);
            d.insert("lazy-refcounts", lazy);
            if let Some(b) = backing {
                d.insert("backing", b);
            }
            d
        });
        (prop_oneof![raw, qcow2], common.clone(), slip.clone()).prop_map(finish)
    })
}

fn finish((mut dict, common, slip): (Dict, Vec<(&'static str, Value)>, Option<&'static str>)) -> Value {
    common.into_iter().for_each(|(k, v)| drop(dict.insert(k, v)));
    if let Some(key) = slip {
        dict.insert(key, "x");
    }
    Value::Dict(dict)
}

/// A value's leaves as key=value text.
fn keyval(v: &Value) -> String {
    let leaf = |v: &Value| match v {
        Value::Str(s) => s.replace(',', ",,"),
        Value::Bool(b) => if *b { "on" } else { "off" }.to_owned(),
        other => other.to_json(),
    };
    flatten(v).iter().map(|(k, v)| format!("{k}={}", leaf(v))).collect::<Vec<_>>().join(",")
}

/// Values of no type in particular, made of words that the types know.
fn anything() -> impl Strategy<Value = Value> {
    let word = select(vec![
        "driver",
        "file",
        "qcow2",
        "raw",
        "options",
        "node-name",
        "id",
        "backend",
        "type",
        "data",
        "socket",
        "addr",
        "qom-type",
        "iothread",
        "meta-type",
        "object",
        "members",
        "name",
        "host-nodes",
        "size",
        "x",
    ]);
    let leaf = prop_oneof![
        word.clone().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::Num),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
    ];
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::List),
            prop::collection::vec((word.clone(), inner), 0..5)
                .prop_map(|e| Value::Dict(e.into_iter().collect())),
        ]
    })
}

fn survives<T: Qapi + PartialEq + std::fmt::Debug>(v: &Value) {
    if let Ok(t) = from_json::<T>(v.clone()) {
        assert_eq!(from_json::<T>(to_value(&t)).unwrap(), t);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn both_syntaxes_agree(v in block_options()) {
        let json = from_json::<BlockdevOptions>(v.clone());
        let text = from_keyval::<BlockdevOptions>(&keyval(&v), None);
        match (json, text) {
            (Ok(a), Ok(b)) => {
                prop_assert_eq!(&a, &b);
                prop_assert_eq!(to_value(&a), v, "writing gives back what was read");
            }
            // A mistake in both is the same mistake; what a string is converted to may be right in text alone.
            (Err(a), Err(b)) if a.desc().ends_with("is unexpected") => prop_assert_eq!(a, b),
            (Ok(a), Err(e)) => prop_assert!(false, "{:?} but {}", a, e),
            _ => {}
        }
    }

    #[test]
    fn nothing_panics(v in anything()) {
        survives::<BlockdevOptions>(&v);
        survives::<BlockdevReopen>(&v);
        survives::<ChardevOptions>(&v);
        survives::<ObjectOptions>(&v);
        survives::<SchemaInfo>(&v);
        let _ = from_keyval::<BlockdevOptions>(&keyval(&v), None);
    }

    #[test]
    fn no_argument_panics(text in "(\\{|)(driver|qcow2|file|size|[.,={}:'\"0-9é-]){0,20}") {
        let _ = from_arg::<BlockdevOptions>(&text, Some("driver"));
        let _ = from_arg::<ObjectOptions>(&text, Some("qom-type"));
    }
}
