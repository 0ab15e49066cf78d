//! The command line: options with one name each, which may be shortened, in the order in which they were given.

use Takes::{Nothing, Value};

/// An option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Help,
    Version,
    Trace,
    Blockdev,
    Chardev,
    Daemonize,
    Export,
    Monitor,
    NbdServer,
    Object,
    Pidfile,
    /// A word that belongs to no option.
    Word,
}

/// What stands behind an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    Nothing,
    Value,
}

struct Spec {
    name: Name,
    long: &'static str,
    short: Option<char>,
    takes: Takes,
}

const fn long(name: Name, long: &'static str, takes: Takes) -> Spec {
    Spec { name, long, short: None, takes }
}

static SPECS: &[Spec] = &[
    long(Name::Blockdev, "blockdev", Value),
    long(Name::Chardev, "chardev", Value),
    long(Name::Daemonize, "daemonize", Nothing),
    long(Name::Export, "export", Value),
    Spec { name: Name::Help, long: "help", short: Some('h'), takes: Nothing },
    long(Name::Monitor, "monitor", Value),
    long(Name::NbdServer, "nbd-server", Value),
    long(Name::Object, "object", Value),
    long(Name::Pidfile, "pidfile", Value),
    Spec { name: Name::Trace, long: "trace", short: Some('T'), takes: Value },
    Spec { name: Name::Version, long: "version", short: Some('V'), takes: Nothing },
];

/// One option as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) name: Name,
    /// As it was spelt, with its argument: what error messages begin with.
    pub(super) spelt: String,
    /// Its argument, empty for a switch.
    pub(super) value: String,
}

fn find(name: &str) -> Result<&'static Spec, String> {
    let mut like = SPECS.iter().filter(|s| s.long.starts_with(name));
    match (SPECS.iter().find(|s| s.long == name), like.next(), like.next()) {
        (Some(exact), ..) => Ok(exact),
        (None, Some(only), None) => Ok(only),
        (None, None, _) => Err(format!("unrecognized option '--{name}'")),
        (None, Some(_), Some(_)) => {
            let names: Vec<_> = SPECS.iter().filter(|s| s.long.starts_with(name)).collect();
            let names: Vec<_> = names.iter().map(|s| format!(" '--{}'", s.long)).collect();
            Err(format!("option '--{name}' is ambiguous; possibilities:{}", names.concat()))
        }
    }
}

/// The options in their order up to the first mistake, which is told without the program's name.
pub(super) fn parse(args: &[String]) -> (Vec<Given>, Result<(), String>) {
    let mut given = Vec::new();
    let mut args = args.iter();
    let mut words_only = false;
    while let Some(arg) = args.next() {
        let result = if words_only || !arg.starts_with('-') || arg == "-" {
            given.push(Given { name: Name::Word, spelt: arg.clone(), value: arg.clone() });
            Ok(())
        } else if arg == "--" {
            words_only = true;
            Ok(())
        } else if let Some(name) = arg.strip_prefix("--") {
            parse_long(arg, name, &mut args, &mut given)
        } else {
            parse_short(arg, &mut args, &mut given)
        };
        if result.is_err() {
            return (given, result);
        }
    }
    (given, Ok(()))
}

fn parse_long(
    arg: &str,
    name: &str,
    args: &mut std::slice::Iter<'_, String>,
    given: &mut Vec<Given>,
) -> Result<(), String> {
    let (name, inline) = match name.split_once('=') {
        Some((n, v)) => (n, Some(v.to_string())),
        None => (name, None),
    };
    let spec = find(name)?;
    let (value, spelt) = match (spec.takes, inline) {
        (Nothing, None) => (String::new(), arg.to_string()),
        (Nothing, Some(_)) => return Err(format!("option '--{}' doesn't allow an argument", spec.long)),
        (Value, Some(v)) => (v, arg.to_string()),
        (Value, None) => {
            let v = args.next().ok_or_else(|| format!("option '--{}' requires an argument", spec.long))?;
            (v.clone(), format!("{arg} {v}"))
        }
    };
    given.push(Given { name: spec.name, spelt, value });
    Ok(())
}

/// Letters may be joined; the argument of one may follow at once.
fn parse_short(
    arg: &str,
    args: &mut std::slice::Iter<'_, String>,
    given: &mut Vec<Given>,
) -> Result<(), String> {
    for (at, letter) in arg.char_indices().skip(1) {
        let spec = SPECS.iter().find(|s| s.short == Some(letter));
        let spec = spec.ok_or_else(|| format!("invalid option -- '{letter}'"))?;
        if spec.takes == Nothing {
            given.push(Given { name: spec.name, spelt: format!("-{letter}"), value: String::new() });
            continue;
        }
        let rest = &arg[at + letter.len_utf8()..];
        let (value, spelt) = if rest.is_empty() {
            let v = args.next().ok_or_else(|| format!("option requires an argument -- '{letter}'"))?;
            (v.clone(), format!("{arg} {v}"))
        } else {
            (rest.to_string(), arg.to_string())
        };
        given.push(Given { name: spec.name, spelt, value });
        break;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> (Vec<Given>, Result<(), String>) {
        parse(&line.split(' ').map(String::from).collect::<Vec<_>>())
    }

    #[test]
    fn options_may_be_shortened_and_carry_their_argument() {
        let (given, end) = of("--blo x --monitor=c -Tfoo -T bar -hV word -- -x");
        end.unwrap();
        let got: Vec<_> = given.iter().map(|g| (g.name, g.spelt.as_str(), g.value.as_str())).collect();
        assert_eq!(
            got,
            [
                (Name::Blockdev, "--blo x", "x"),
                (Name::Monitor, "--monitor=c", "c"),
                (Name::Trace, "-Tfoo", "foo"),
                (Name::Trace, "-T bar", "bar"),
                (Name::Help, "-h", ""),
                (Name::Version, "-V", ""),
                (Name::Word, "word", "word"),
                (Name::Word, "-x", "-x"),
            ]
        );
    }

    #[test]
    fn mistakes_are_named_as_the_reference_names_them() {
        for (line, text) in [
            ("--foo", "unrecognized option '--foo'"),
            ("--blockdev", "option '--blockdev' requires an argument"),
            ("--version=3", "option '--version' doesn't allow an argument"),
            ("-x", "invalid option -- 'x'"),
            ("-T", "option requires an argument -- 'T'"),
        ] {
            assert_eq!(of(line).1.unwrap_err(), text);
        }
        let (given, end) = of("--help --foo");
        assert!(given[0].name == Name::Help && end.is_err());
    }
}
