//! The introspection of everything defined here, held against a golden file, and facts that it must keep.

use api::introspect::{SchemaInfo, SchemaInfoKind, schema_info};
use qapi::{Introspection, Value, to_value};

/// One entry a line, so that a change shows as a change of few lines.
fn golden() -> String {
    api::schema().as_list().unwrap().iter().map(|e| e.to_json() + "\n").collect()
}

/// The golden file is what management tools see: look at every change of it. `RHEA_BLESS=1 cargo test -p api` writes it anew.
#[test]
fn golden_file() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/schema.golden");
    let ours = golden();
    if std::env::var_os("RHEA_BLESS").is_some() {
        std::fs::write(path, &ours).unwrap();
    }
    let theirs = std::fs::read_to_string(path).unwrap();
    for (i, (a, b)) in ours.lines().zip(theirs.lines()).enumerate() {
        assert_eq!(a, b, "line {} of schema.golden", i + 1);
    }
    assert_eq!(ours.lines().count(), theirs.lines().count());
}

/// Every type that is referred to is there once, no other is, and built-in types keep their names.
#[test]
fn closed() {
    let schema = api::schema();
    let entries = schema.as_list().unwrap();
    let names: Vec<&str> = entries.iter().map(|e| e.get("name").unwrap().as_str().unwrap()).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), names.len(), "a name is there twice");

    let mut used = vec!["0"];
    fn walk<'a>(v: &'a Value, used: &mut Vec<&'a str>) {
        match v {
            Value::List(l) => l.iter().for_each(|v| walk(v, used)),
            Value::Dict(d) => d.iter().for_each(|(k, v)| match k {
                "type" | "arg-type" | "ret-type" | "element-type" => used.push(v.as_str().unwrap()),
                _ => walk(v, used),
            }),
            _ => {}
        }
    }
    walk(&schema, &mut used);
    used.sort_unstable();
    used.dedup();
    let types: Vec<&str> = entries
        .iter()
        .filter(|e| !matches!(e.get("meta-type").unwrap().as_str(), Some("command" | "event")))
        .map(|e| e.get("name").unwrap().as_str().unwrap())
        .collect();
    let mut types = types;
    types.sort_unstable();
    assert_eq!(used, types);
}

/// What `query-qmp-schema` is said to return is what it returns, to the letter.
#[test]
fn describes_itself() {
    let introspection = api::introspection();
    let infos: Vec<SchemaInfo> = schema_info(&introspection).unwrap();
    let again = to_value(&infos);
    assert_eq!(again, introspection.finish());
}

/// What a tool looks for before it dares to use something.
#[test]
fn features() {
    let infos = schema_info(&api::introspection()).unwrap();
    let find = |name: &str| infos.iter().find(|i| i.name == name).unwrap();
    let has = |i: &SchemaInfo, f: &str| i.features.iter().flatten().any(|x| x == f);
    assert!(has(find("human-monitor-command"), "savevm-monitor-nodes"));
    let SchemaInfoKind::Command(add) = &find("blockdev-add").meta_type else { panic!() };
    let SchemaInfoKind::Object(options) = &find(&add.arg_type).meta_type else { panic!() };
    let file = options.variants.iter().flatten().find(|v| v.case == "file").unwrap();
    let file = find(&file.r#type);
    assert!(has(file, "dynamic-auto-read-only"));
    let SchemaInfoKind::Object(file) = &file.meta_type else { panic!() };
    let member = file.members.iter().find(|m| m.name == "x-check-cache-dropped").unwrap();
    assert_eq!(member.features.as_deref(), Some(&["unstable".to_owned()][..]));
}

/// A program tells of what it registered, no more.
#[test]
fn only_what_is_registered() {
    let mut i = Introspection::new();
    i.command::<api::misc::Stop>();
    i.event::<api::run_state::StopEvent>();
    let lines: Vec<String> = i.finish().as_list().unwrap().iter().map(Value::to_json).collect();
    assert_eq!(
        lines,
        [
            r#"{"name": "stop", "meta-type": "command", "arg-type": "0", "ret-type": "0"}"#,
            r#"{"name": "STOP", "meta-type": "event", "arg-type": "0"}"#,
            r#"{"name": "0", "meta-type": "object", "members": []}"#,
        ]
    );
}

/// Every type and member is described: the descriptions are the reference manual.
#[test]
fn described() {
    use qapi::schema::{Shape, TypeRef};
    let introspection = api::introspection();
    let schema = introspection.schema();
    let mut queue: Vec<TypeRef> = Vec::new();
    for e in introspection.entries() {
        assert!(!e.doc.is_empty(), "{} is not described", e.name);
        for ty in std::iter::once(e.arg).chain(e.ret) {
            if !queue.contains(&ty) {
                queue.push(ty);
            }
        }
    }
    let mut at = 0;
    while at < queue.len() {
        let def = schema.get(queue[at]);
        at += 1;
        let mut met = Vec::new();
        match &def.shape {
            Shape::Object(o) => {
                for m in &o.members {
                    assert!(
                        !m.doc.is_empty() || def.name.ends_with("Wrapper"),
                        "{}.{} is not described",
                        def.name,
                        m.name
                    );
                    met.push(m.ty);
                }
                met.extend(o.branches.iter().map(|b| b.1));
            }
            Shape::Enum(values) => {
                values
                    .iter()
                    .for_each(|v| assert!(!v.doc.is_empty(), "{}.{} is not described", def.name, v.name));
            }
            Shape::Array(element) => met.push(*element),
            Shape::Alternate(types) => met.extend(types),
            Shape::Builtin(_) => {}
            Shape::Undefined => panic!("{} is not defined", def.name),
        }
        for ty in met {
            if !queue.contains(&ty) {
                queue.push(ty);
            }
        }
    }
    assert!(at > 60, "the walk reached the types");
}
