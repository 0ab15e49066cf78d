//! What `--help`, `--version` and an option's `help` print.

use api::block_core::{BlockdevDriver, BlockdevOptions};
use api::block_export::{BlockExportOptions, BlockExportType, NbdServerOptions};
use api::control::MonitorOptions;
use qapi::schema::{Schema, Shape, TypeRef};
use qapi::{Qapi, QapiEnum, Value};

use super::options::{Given, Name};

/// The text of `--help`, for a program called `program`.
pub(super) fn text(program: &str) -> String {
    format!(
        "\
Usage: {program} [options]

Serves block devices, and QMP to control them, without a machine. Options are carried out in their order.

  -h, --help            prints this help
  -V, --version         prints the version
  -T, --trace [enable=]PATTERN[,events=FILE][,file=FILE]
                        trace points; '-T help' tells more

  --blockdev [driver=]DRIVER,node-name=NAME[,…]|JSON
                        adds a block node; '--blockdev help', '--blockdev DRIVER,help'
  --chardev BACKEND,id=ID[,…]
                        makes a character device; '--chardev help'
  --export [type=]TYPE,id=ID,node-name=NAME[,writable=on|off][,…]|JSON
                        exports a block node; '--export help', '--export TYPE,help'
  --monitor [chardev=]ID[,mode=control][,pretty=on|off]
                        serves QMP on a character device
  --nbd-server addr.type=unix,addr.path=PATH[,max-connections=N][,…]
  --nbd-server addr.type=inet,addr.host=HOST,addr.port=PORT[,…]
                        starts the NBD server, which serves the exports of type nbd; '--nbd-server help'
  --object TYPE,id=ID[,PROPERTY=VALUE…]|JSON
                        makes an object; '--object help', '--object TYPE,help'

  --daemonize           goes to the background once everything is set up
  --pidfile FILE        writes the process's number to FILE once everything is set up
"
    )
}

/// The text of `--version`: its first line is of the form that scripts parse.
pub(super) fn version(program: &str) -> String {
    format!(
        "{program} version 10.0.2 (Rhea {})\nMIT OR Apache-2.0; QEMU is another project\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// Whether an argument asks for help, and about which value of its first key.
fn asked(value: &str, implied: &str) -> Option<Option<String>> {
    if value.starts_with('{') {
        return None;
    }
    let (dict, help) = qapi::keyval_parse_help(value, Some(implied)).ok()?;
    help.then(|| dict.get(implied).and_then(Value::as_str).map(String::from))
}

/// The text that an option's argument asks for, if it does.
///
/// # Errors
/// It is about something that does not exist.
pub(super) fn answer(g: &Given) -> Result<Option<String>, String> {
    let text = match g.name {
        Name::Blockdev => asked(&g.value, "driver").map(|d| match d {
            None => Ok(list("Block drivers", BlockdevDriver::NAMES)),
            Some(d) => branch::<BlockdevOptions>("driver", &d),
        }),
        Name::Export => asked(&g.value, "type").map(|t| match t {
            None => Ok(list("Types of exports", BlockExportType::NAMES)),
            Some(t) => branch::<BlockExportOptions>("type", &t),
        }),
        Name::NbdServer => asked(&g.value, "addr").map(|_| Ok(members::<NbdServerOptions>("nbd-server"))),
        Name::Monitor => asked(&g.value, "chardev").map(|_| Ok(members::<MonitorOptions>("monitor"))),
        Name::Object => asked(&g.value, "qom-type").map(|t| match t {
            None => Ok(qom::help()),
            Some(t) => qom::type_help(&t).map_err(|e| e.desc().to_string()),
        }),
        Name::Chardev => asked(&g.value, "backend").map(|_| Ok(crate::storage::CHARDEV_HELP.into())),
        Name::Trace => asked(&g.value, "enable").map(|_| Ok(crate::process::TRACE_HELP.into())),
        _ => None,
    };
    text.transpose()
}

fn list(title: &str, names: &[&str]) -> String {
    let mut names = names.to_vec();
    names.sort_unstable();
    let names: Vec<_> = names.iter().map(|n| format!("  {n}\n")).collect();
    format!("{title}:\n{}", names.concat())
}

/// The members of `T`.
fn members<T: Qapi>(title: &str) -> String {
    let mut schema = Schema::new();
    let ty = T::schema(&mut schema);
    let mut out = format!("{title} options:\n");
    put_members(&schema, ty, "", None, &mut out, 0);
    out
}

/// The members of the union `T` that its branch `name` has.
fn branch<T: Qapi>(tag: &str, name: &str) -> Result<String, String> {
    let mut schema = Schema::new();
    let ty = T::schema(&mut schema);
    let known = match &schema.get(ty).shape {
        Shape::Object(o) => o.branches.iter().any(|(b, _)| *b == name) || tag_has(&schema, ty, tag, name),
        _ => false,
    };
    if !known {
        return Err(format!("Parameter '{tag}' does not accept value '{name}'"));
    }
    let mut out = format!("{name} options:\n");
    put_members(&schema, ty, "", Some(name), &mut out, 0);
    Ok(out)
}

/// Whether a union's tag has a value that adds no members.
fn tag_has(schema: &Schema, ty: TypeRef, tag: &str, name: &str) -> bool {
    let Shape::Object(o) = &schema.get(ty).shape else { return false };
    let tag = o.members.iter().find(|m| m.name == tag).map(|m| &schema.get(m.ty).shape);
    matches!(tag, Some(Shape::Enum(names)) if names.iter().any(|n| n.name == name))
}

/// How deep members of members are shown.
const MAX_DEPTH: usize = 3;

fn put_members(
    schema: &Schema,
    ty: TypeRef,
    prefix: &str,
    case: Option<&str>,
    out: &mut String,
    depth: usize,
) {
    let Shape::Object(o) = &schema.get(ty).shape else { return };
    for m in &o.members {
        if case.is_some() && o.tag == Some(m.name) {
            continue;
        }
        let name = format!("{prefix}{}", m.name);
        match value(schema, m.ty) {
            Some(kind) => {
                let left = format!("  {name}={kind}");
                // A description's first sentence is enough here.
                let doc = m.doc.split(". ").next().unwrap_or("").trim_end_matches('.').replace('\n', " ");
                let need = if m.optional { "" } else { " (required)" };
                if doc.is_empty() {
                    out.push_str(&format!("{left}{need}\n"));
                } else {
                    out.push_str(&format!("{left:<38} - {doc}{need}\n"));
                }
            }
            None if depth < MAX_DEPTH => {
                put_members(schema, m.ty, &format!("{name}."), None, out, depth + 1);
            }
            None => {}
        }
    }
    for (branch, ty) in &o.branches {
        if case.is_none_or(|c| c == *branch) {
            put_members(schema, *ty, prefix, None, out, depth + 1);
        }
    }
}

/// A value's form; `None` where it consists of members.
fn value(schema: &Schema, ty: TypeRef) -> Option<String> {
    let def = schema.get(ty);
    Some(match &def.shape {
        Shape::Builtin(json) => match *json {
            "boolean" => "on|off".into(),
            json => format!("<{json}>"),
        },
        Shape::Enum(names) => names.iter().map(|n| n.name).collect::<Vec<_>>().join("|"),
        Shape::Alternate(_) => "<node-name>|…".into(),
        Shape::Array(of) => return value(schema, *of).map(|v| format!("[{v}, …]")),
        Shape::Object(_) | Shape::Undefined => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(name: Name, value: &str) -> Result<Option<String>, String> {
        answer(&Given { name, spelt: String::new(), value: value.into() })
    }

    #[test]
    fn help_is_there_for_each_option() {
        for (name, value, wanted) in [
            (Name::Blockdev, "help", "  qcow2\n"),
            (Name::Blockdev, "qcow2,help", "  file=<node-name>|…"),
            (Name::Blockdev, "driver=file,help", "  filename=<string>"),
            (Name::Export, "?", "  nbd\n"),
            (Name::Export, "nbd,help", "  writable=on|off"),
            (Name::NbdServer, "help", "  addr.path=<string>"),
            (Name::Monitor, "help", "  mode=readline|control"),
            (Name::Object, "help", "  iothread\n"),
            (Name::Object, "rng-random,help", "  filename=<string>"),
            (Name::Chardev, "help", "  socket\n"),
            (Name::Trace, "help", "pattern"),
        ] {
            let text = ask(name, value).unwrap().unwrap();
            assert!(text.contains(wanted), "{value}: {text}");
        }
    }

    #[test]
    fn what_is_no_question_is_not_answered() {
        assert_eq!(ask(Name::Blockdev, "null-co,node-name=help"), Ok(None));
        assert_eq!(ask(Name::Blockdev, "{\"driver\": \"help\"}"), Ok(None));
        assert_eq!(ask(Name::Pidfile, "help"), Ok(None));
        assert_eq!(
            ask(Name::Blockdev, "nope,help").unwrap_err(),
            "Parameter 'driver' does not accept value 'nope'"
        );
    }
}
