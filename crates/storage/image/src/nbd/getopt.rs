//! Options as the C library's getopt takes them, with its messages.

/// One option: letter, long name, what its argument is called, what it does.
pub(super) type Row = (Option<char>, &'static str, Option<&'static str>, &'static str);

/// The options that were given, by their long names and in order, and everything else.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parsed {
    pub(super) options: Vec<(&'static str, String)>,
    pub(super) rest: Vec<String>,
}

/// Takes `args` apart; an error is the message without the program's name.
pub(super) fn parse(rows: &[Row], args: &[String]) -> Result<Parsed, String> {
    let mut out = Parsed::default();
    let mut it = args.iter();
    while let Some(a) = it.next() {
        if a == "--" {
            out.rest.extend(it.by_ref().cloned());
        } else if let Some(long) = a.strip_prefix("--") {
            let (name, value) = long.split_once('=').map_or((long, None), |(n, v)| (n, Some(v.to_owned())));
            let (_, long, arg, _) = find(rows, name, a)?;
            let value = match (arg, value) {
                (None, Some(_)) => return Err(format!("option '--{long}' doesn't allow an argument")),
                (None, None) => String::new(),
                (Some(_), Some(v)) => v,
                (Some(_), None) => {
                    let next = it.next().cloned();
                    next.ok_or_else(|| format!("option '--{long}' requires an argument"))?
                }
            };
            out.options.push((long, value));
        } else if let Some(letters) = a.strip_prefix('-').filter(|l| !l.is_empty()) {
            for (at, c) in letters.char_indices() {
                let (_, long, arg, _) =
                    rows.iter().find(|r| r.0 == Some(c)).ok_or_else(|| format!("invalid option -- '{c}'"))?;
                if arg.is_none() {
                    out.options.push((long, String::new()));
                    continue;
                }
                let attached = &letters[at + c.len_utf8()..];
                let value = match attached {
                    "" => {
                        it.next().cloned().ok_or_else(|| format!("option requires an argument -- '{c}'"))?
                    }
                    v => v.to_owned(),
                };
                out.options.push((long, value));
                break;
            }
        } else {
            out.rest.push(a.clone());
        }
    }
    Ok(out)
}

/// The option of this long name, or the only one that begins so.
fn find(rows: &[Row], name: &str, given: &str) -> Result<Row, String> {
    if let Some(row) = rows.iter().find(|r| r.1 == name) {
        return Ok(*row);
    }
    let like: Vec<&Row> = rows.iter().filter(|r| !name.is_empty() && r.1.starts_with(name)).collect();
    match like[..] {
        [] => Err(format!("unrecognized option '{given}'")),
        [row] => Ok(*row),
        _ => {
            let all: String = like.iter().map(|r| format!(" '--{}'", r.1)).collect();
            Err(format!("option '{given}' is ambiguous; possibilities:{all}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: &[Row] = &[
        (Some('f'), "format", Some("F"), ""),
        (Some('t'), "persistent", None, ""),
        (None, "tls-creds", Some("ID"), ""),
        (None, "tls-authz", Some("ID"), ""),
    ];

    fn run(args: &[&str]) -> Result<Parsed, String> {
        parse(ROWS, &args.iter().map(|s| (*s).to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn every_form() {
        for args in [
            &["-f", "raw", "-t", "x"][..],
            &["-fraw", "x", "-t"],
            &["--format=raw", "-t", "--", "x"],
            &["--form", "raw", "--p", "x"],
        ] {
            let p = run(args).unwrap();
            assert_eq!(p.options, [("format", "raw".into()), ("persistent", String::new())], "{args:?}");
            assert_eq!(p.rest, ["x"]);
        }
        assert_eq!(run(&["-tf", "raw"]).unwrap().options.len(), 2);
        assert_eq!(run(&["-"]).unwrap().rest, ["-"]);
    }

    #[test]
    fn messages() {
        for (arg, want) in [
            ("-f", "option requires an argument -- 'f'"),
            ("--format", "option '--format' requires an argument"),
            ("-Z", "invalid option -- 'Z'"),
            ("--bogus", "unrecognized option '--bogus'"),
            ("--bogus=1", "unrecognized option '--bogus=1'"),
            ("--persistent=1", "option '--persistent' doesn't allow an argument"),
            ("--tls", "option '--tls' is ambiguous; possibilities: '--tls-creds' '--tls-authz'"),
        ] {
            assert_eq!(run(&[arg]).unwrap_err(), want);
        }
    }
}
