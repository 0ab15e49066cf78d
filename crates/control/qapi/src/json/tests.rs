use proptest::prelude::*;

use super::*;
use crate::Dict;

fn parse(text: &str) -> Result<Value, String> {
    Value::parse_json(text).map_err(|e| e.desc().to_owned())
}

/// What a stream makes of bytes that come all at once, errors by their text.
fn stream(bytes: &[u8]) -> Vec<Result<Value, String>> {
    let mut s = JsonStream::new();
    s.push(bytes);
    s.map(|r| r.map_err(|e| e.desc().to_owned())).collect()
}

#[test]
fn numbers_are_exact() {
    for (text, value) in [
        ("0", Value::Int(0)),
        ("-0", Value::Int(0)),
        ("9223372036854775807", Value::Int(i64::MAX)),
        ("-9223372036854775808", Value::Int(i64::MIN)),
        ("9223372036854775808", Value::Uint(1 << 63)),
        ("18446744073709551615", Value::Uint(u64::MAX)),
        ("18446744073709551616", Value::Num(18446744073709551616.0)),
        ("-9223372036854775809", Value::Num(-9223372036854775809.0)),
        ("1.0", Value::Num(1.0)),
        ("-1.5e+3", Value::Num(-1500.0)),
        ("1E2", Value::Num(100.0)),
    ] {
        assert_eq!(parse(text), Ok(value), "{text}");
    }
    assert!(parse("1e999").is_err(), "no number is infinite");
}

#[test]
fn numbers_are_written_as_c_does() {
    for (value, text) in [
        (1e40, "1e+40"),
        (-0.0, "-0"),
        (2.5, "2.5"),
        (1000.0, "1000"),
        (0.1, "0.10000000000000001"),
        (1.8446744073709552e19, "1.8446744073709552e+19"),
        (i64::MIN as f64, "-9.2233720368547758e+18"),
        (1e23, "9.9999999999999992e+22"),
        (123_456_789.123_456_79, "123456789.12345679"),
        (1e-5, "1.0000000000000001e-05"),
        (1e16, "10000000000000000"),
        (1e17, "1e+17"),
        (0.0001, "0.0001"),
    ] {
        assert_eq!(Value::Num(value).to_json(), text);
    }
}

#[test]
fn strings() {
    for (text, value) in [
        (r#""it's \"dq\"""#, "it's \"dq\""),
        (r#"'it\'s "dq"'"#, "it's \"dq\""),
        (r#""\u0000\u00e9é\ud83d\ude00\b\f\n\r\t\/\\""#, "\0éé😀\u{8}\u{c}\n\r\t/\\"),
    ] {
        assert_eq!(parse(text), Ok(Value::from(value)), "{text}");
    }
    let shown = r#""\u0000\u00E9\uD83D\uDE00\u007F\"\\/\b\f\n\r\t\u2028'""#;
    assert_eq!(Value::from("\0é😀\u{7f}\"\\/\u{8}\u{c}\n\r\t\u{2028}'").to_json(), shown);
}

#[test]
fn layout() {
    let v = parse("{'a': [1, {}, []], 'b': {'c': null}}").unwrap();
    assert_eq!(v.to_json(), r#"{"a": [1, {}, []], "b": {"c": null}}"#);
    let pretty = "{\n    \"a\": [\n        1,\n        {\n        },\n        [\n        ]\n    ],\n    \"b\": {\n        \"c\": null\n    }\n}";
    assert_eq!(v.to_json_pretty(), pretty);
}

/// Inputs and the reference's words about them.
#[test]
fn errors_of_one_value() {
    for (text, error) in [
        ("", "Expecting a JSON value"),
        (" \n", "Expecting a JSON value"),
        ("{", "JSON parse error, premature EOI"),
        ("{\"a\"", "JSON parse error, premature EOI"),
        ("{} x", "JSON parse error, invalid keyword 'x'"),
        ("{}{}", "Expecting at most one JSON value"),
        ("{]", "JSON parse error, expecting value"),
        ("{\"a\":\"b", "JSON parse error, stray '\"b'"),
        ("{\"a\":tr", "JSON parse error, invalid keyword 'tr'"),
        ("{\"a\":@", "JSON parse error, stray '@'"),
        ("{'a':1,'a':2}", "JSON parse error, duplicate key"),
        ("\"\\", "JSON parse error, stray '\"\\'"),
        ("-", "JSON parse error, stray '-'"),
    ] {
        assert_eq!(parse(text), Err(error.to_owned()), "{text}");
    }
}

/// Rubbish on a stream: each line goes into the stream that the lines before left behind, as the reference was asked.
#[test]
fn errors_of_a_stream() {
    let mut s = JsonStream::new();
    let ok = "ok";
    for (input, expected) in [
        (&b"hello\n"[..], &["invalid keyword 'hello'"][..]),
        (b"{\"a\" 1}\n", &["missing : in object pair"]),
        (b"{\"a\":1 \"b\":2}\n", &["expected separator in dict"]),
        (b"[1 2]\n", &["expected separator in list"]),
        (b"{,}\n", &["expecting value"]),
        (b"{\"a\":1,}\n", &["expecting value"]),
        (b"[1,]\n", &["expecting value"]),
        (b"{1:2}\n", &["key is not a string in object"]),
        (b"True\n", &["stray 'T'"]),
        (b"\"\\x\"\n", &["invalid escape sequence in string"]),
        (b"\"\\ud800\"\n", &["\\ud800 is not a valid Unicode character"]),
        (b"\"a\\ud800\\u0041\"\n", &["\\ud800 is not a valid Unicode character"]),
        (b"\"\\udc00\"\n", &["\\udc00 is not a valid Unicode character"]),
        (b"\"\\u00g0\"\n", &["\\u00g0 is not a valid Unicode character"]),
        (b"\"\\u12\"\n", &["\\u12\" is not a valid Unicode character"]),
        (b"\"\\uffff\"\n", &["\\uffff is not a valid Unicode character"]),
        (b"\"\xef\xbf\xbf\"\n", &["invalid UTF-8 sequence in string"]),
        (b"\"\xe9\"\n", &["invalid UTF-8 sequence in string"]),
        (b"\"\xff\"\n", &["stray '\"\u{fffd}'"]),
        // The line end belongs to the rubbish, so the next line is skipped.
        (b"\"a\nb\"\n", &["stray '\"a\n'"]),
        (b"\"unterminated\n", &["stray '\"unterminated\n'"]),
        (b"'single'\n", &[]),
        (b"'single'\n", &[ok]),
        (b"}\n", &["expecting value"]),
        (b":\n", &["expecting value"]),
        (b"1 2\n", &[ok, ok]),
        (b"01\n", &["stray '01'"]),
        (b"-\n", &["stray '-\n'"]),
        (b"1.\n", &[]),
        (b"1e\n", &["stray '1e\n'"]),
        (b".5\n", &[]),
        (b"--1\n", &["stray '--'"]),
        (b"1-1\n", &[ok, ok]),
        (b"-0x1\n", &[ok, "invalid keyword 'x'", ok]),
        (b"[1,2\n", &[]),
        (b"]\n", &[ok]),
        (b"\x00\n", &["stray ''"]),
        (b"%s{}\n", &["stray '%'", ok]),
        (b"\xff{}\n", &["stray '\u{fffd}'", ok]),
        (b"\xef\xbb\xbf{}\n", &["stray '\u{fffd}'", ok]),
        (b"@\tx\n", &["stray '@'"]),
        (b"@@ [1]\n", &["stray '@'", ok]),
        // While skipping, a control character or a byte that is never valid is an error of its own.
        (b"@x\x01y\xfez\n", &["stray '@'", "stray '\u{1}'", "stray '\u{fffd}'"]),
        // A surrogate's bytes are one sequence; those of no sequence are each their own.
        (b"'\xed\xa0\x80\x80\x80\n\n", &["stray ''\u{fffd}\u{fffd}\u{fffd}\n'"]),
        (b"[\x01]\n", &["stray '\u{1}'", "expecting value"]),
        (b"{'a': truex}\n", &["invalid keyword 'truex'"]),
        (b"[}\n", &["expecting value"]),
        (b"{}{}\n", &[ok, ok]),
    ] {
        s.push(input);
        let got: Vec<String> = s
            .by_ref()
            .map(|r| match r {
                Ok(_) => ok.to_owned(),
                Err(e) => e.desc().strip_prefix("JSON parse error, ").expect("a parse error").to_owned(),
            })
            .collect();
        assert_eq!(got, expected, "{:?}", String::from_utf8_lossy(input));
    }
}

#[test]
fn limits() {
    let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
    assert!(parse(&deep(MAX_NESTING)).is_ok());
    let error = Err("JSON nesting depth limit exceeded".to_owned());
    assert_eq!(parse(&deep(MAX_NESTING + 1)), error);

    let many = format!("[{}]", "0,".repeat(MAX_MESSAGE_TOKENS / 2));
    assert_eq!(parse(&many), Err("JSON token count limit exceeded".to_owned()));

    let mut s = JsonStream::new();
    s.push(b"\"");
    let chunk = vec![b'x'; 1 << 20];
    for _ in 0..65 {
        s.push(&chunk);
    }
    let first = s.next().unwrap().unwrap_err();
    assert_eq!(first.desc(), "JSON token size limit exceeded");
    assert!(s.next().is_none() && !s.is_partial(), "nothing of it is kept");
    s.push(b"\"\n{}");
    assert_eq!(s.next(), Some(Ok(Value::Dict(Dict::new()))));
}

/// The deepest input fits a small thread's stack, to be read, written and dropped.
#[test]
fn deep_values_fit_the_stack() {
    let work = || {
        let text = "{\"a\":[".repeat(MAX_NESTING / 2) + &"]}".repeat(MAX_NESTING / 2);
        let value = Value::parse_json(&text).unwrap();
        assert_eq!(Value::parse_json(&value.to_json_pretty()), Ok(value.clone()));
        crate::flatten(&value);
    };
    std::thread::Builder::new().stack_size(1 << 20).spawn(work).unwrap().join().unwrap();
}

/// Random values, as deep and wide as is useful.
pub(crate) fn values() -> impl Strategy<Value = Value> {
    let text = prop_oneof!["[ -~]{0,8}", "\\PC{0,6}", Just("\0\u{7f}\n😀".to_owned())];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_filter("finite", |n| n.is_finite()).prop_map(Value::Num),
        text.clone().prop_map(Value::Str),
    ];
    leaf.prop_recursive(4, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::List),
            prop::collection::vec((text.clone(), inner), 0..6)
                .prop_map(|entries| Value::Dict(entries.into_iter().collect())),
        ]
    })
}

/// Equal but for numbers that were written without a fraction and so are read as whole ones, and for characters that are never
/// exchanged.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Num(_), _) => a.as_f64() == b.as_f64(),
        (Value::List(a), Value::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Dict(a), Value::Dict(b)) => {
            a.keys().eq(b.keys()) && a.iter().zip(b.iter()).all(|((_, a), (_, b))| same(a, b))
        }
        _ => a == b,
    }
}

fn exchangeable(v: &Value) -> bool {
    let ok =
        |s: &str| !s.chars().any(|c| (c as u32) & 0xfffe == 0xfffe || ('\u{fdd0}'..='\u{fdef}').contains(&c));
    match v {
        Value::Str(s) => ok(s),
        Value::List(l) => l.iter().all(exchangeable),
        Value::Dict(d) => d.iter().all(|(k, v)| ok(k) && exchangeable(v)),
        _ => true,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn round_trip(v in values().prop_filter("exchangeable", exchangeable)) {
        for text in [v.to_json(), v.to_json_pretty()] {
            let back = Value::parse_json(&text).unwrap();
            prop_assert!(same(&v, &back), "{} became {}", text, back.to_json());
        }
    }

    /// However a stream is cut, the same comes out of it.
    #[test]
    fn cuts_do_not_matter(bytes in rubbish(), cut in any::<prop::sample::Index>()) {
        let at = cut.index(bytes.len() + 1);
        let mut s = JsonStream::new();
        s.push(&bytes[..at]);
        s.push(&bytes[at..]);
        let cut: Vec<_> = s.map(|r| r.map_err(|e| e.desc().to_owned())).collect();
        prop_assert_eq!(cut, stream(&bytes));
    }

    /// A line end, a byte that is never valid and another line end bring any stream back, also from within open brackets.
    #[test]
    fn always_recovers(bytes in rubbish()) {
        let mut s = JsonStream::new();
        s.push(&bytes);
        s.push(b"\n\xff\n{}");
        prop_assert_eq!(s.last(), Some(Ok(Value::Dict(Dict::new()))));
    }
}

/// Bytes that are nearly JSON.
fn rubbish() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec![
            "{", "}", "[", "]", ":", ",", " ", "\n", "\"a\"", "'b'", "\"", "'", "\\", "1", "-", ".5", "e", "1e5", "null", "true",
            "\\u12", "\\ud800", "%", "é",
        ])
        .prop_map(|s| s.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..4),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}
