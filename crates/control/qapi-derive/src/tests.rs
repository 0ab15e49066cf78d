//! What the derive refuses, and what it says then. What it accepts is tested in `qapi`.

use syn::parse_str;

/// The message for a definition that must be refused.
fn error(definition: &str) -> String {
    let input = parse_str(definition).expect("the definition is Rust");
    match crate::expand(&input) {
        Ok(_) => panic!("accepted: {definition}"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn refuses_what_makes_no_sense() {
    for (definition, message) in [
        ("struct S<T> { a: T }", "a QAPI type cannot be generic"),
        ("union U { a: u8 }", "a QAPI union is an enum with `#[qapi(tag = \"…\")]`"),
        ("struct S(u8, u8);", "a tuple struct has one field"),
        ("#[qapi(tag = \"x\")] enum E { A(B) }", "a union needs `tag`, and `tag_enum` or `tag_type`"),
        (
            "#[qapi(tag = \"x\", tag_enum = \"T\", alternate)] enum E { A(B) }",
            "a type is a union or an alternate, not both",
        ),
        ("#[qapi(wrap = \"x\")] enum E { A }", "`wrap` is for unions, which have a `tag`"),
        (
            "#[qapi(command = \"c\", event = \"E\")] struct S;",
            "a type belongs to a command or to an event, not both",
        ),
        ("#[qapi(ret = u8)] struct S;", "`ret`, `allow_oob` and `allow_preconfig` are for a `command`"),
        ("#[qapi(command = \"a b\")] struct S;", "a name has letters, digits, `-`, `_` and `.` only"),
        ("#[qapi(command = \"a\", command = \"b\")] struct S;", "given twice"),
        ("#[qapi(features = [1])] struct S;", "a feature is a string"),
        ("enum E { A { x: u8 } }", "a variant has no data, or one unnamed field"),
        ("enum E { #[qapi(name = \"b\")] A, B }", "the name `b` is taken"),
        ("#[qapi(alternate)] enum E { A, B }", "only one variant can stand for null"),
        (
            "#[qapi(alternate)] enum E { #[qapi(if(unix))] A(u8) }",
            "a variant of an alternate has no condition",
        ),
        ("struct S { a_b: u8, #[qapi(name = \"a-b\")] c: u8 }", "the name `a-b` is taken"),
        ("struct S { #[qapi(union)] a: A, #[qapi(union)] b: B }", "an object has one union at most"),
        ("struct S { #[qapi(union, flatten)] a: A }", "`union` says it all; leave out `flatten`"),
        ("struct S { #[qapi(if(unix))] a: u8 }", "a member with a condition must be an `Option`"),
        ("struct S { #[qapi(hidden)] a: u8 }", "a hidden member must be an `Option`"),
        ("struct S { #[qapi(size)] a: String }", "a size is a `u64`"),
        (
            "struct S { #[qapi(flatten)] a: Option<A> }",
            "a flattened type or union has no name, size or condition, and is not optional",
        ),
    ] {
        assert_eq!(error(definition), message, "{definition}");
    }
    assert!(error("enum E { A(u8) }").starts_with("an enum with data is a union"));
    assert!(
        error("struct S { #[qapi(nam = \"x\")] a: u8 }")
            .starts_with("not known here; there are: name, features")
    );
    assert!(
        error("#[qapi(command = \"x\")] enum E { A }").starts_with("not known here; there are: schema_name")
    );
}

#[test]
fn names_on_the_wire() {
    for (definition, names) in [
        (
            "enum E { NullCo, HTTPServer, Qcow2, V3, LuksAny }",
            &["null-co", "httpserver", "qcow2", "v3", "luks-any"][..],
        ),
        ("struct S { node_name: u8, r#type: u8, x_check: u8 }", &["node-name", "type", "x-check"]),
    ] {
        let tokens = crate::expand(&parse_str(definition).unwrap()).unwrap().to_string();
        for name in names {
            assert!(tokens.contains(&format!("{name:?}")), "{name} in {definition}");
        }
    }
}
