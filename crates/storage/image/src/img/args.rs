//! Arguments of one subcommand: short and long options in any order, as GNU getopt takes them.

/// One option.
pub struct Spec {
    /// One letter, or none.
    pub short: Option<char>,
    /// The long name, by which the result is known.
    pub long: &'static str,
    /// Whether it takes an argument.
    pub arg: bool,
}

/// A flag.
pub const fn flag(short: char, long: &'static str) -> Spec {
    Spec { short: Some(short), long, arg: false }
}

/// An option with an argument.
pub const fn value(short: char, long: &'static str) -> Spec {
    Spec { short: Some(short), long, arg: true }
}

/// An option with an argument and no short form.
pub const fn long_value(long: &'static str) -> Spec {
    Spec { short: None, long, arg: true }
}

/// A flag without short form.
pub const fn long_flag(long: &'static str) -> Spec {
    Spec { short: None, long, arg: false }
}

/// What was given.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Options in order.
    pub options: Vec<(&'static str, String)>,
    /// Everything else.
    pub rest: Vec<String>,
}

/// Parses; an error is the message without the program's name.
pub fn parse(specs: &[Spec], args: &[String]) -> Result<Parsed, String> {
    let mut out = Parsed::default();
    let mut it = args.iter();
    while let Some(a) = it.next() {
        if a == "--" {
            out.rest.extend(it.by_ref().cloned());
        } else if let Some(long) = a.strip_prefix("--") {
            let (name, inline) = match long.split_once('=') {
                Some((n, v)) => (n, Some(v.to_string())),
                None => (long, None),
            };
            let spec = find_long(specs, name)?;
            let v = match (spec.arg, inline) {
                (false, Some(_)) => {
                    return Err(format!("option '--{}' doesn't allow an argument", spec.long));
                }
                (false, None) => String::new(),
                (true, Some(v)) => v,
                (true, None) => it
                    .next()
                    .cloned()
                    .ok_or_else(|| format!("option '--{}' requires an argument", spec.long))?,
            };
            out.options.push((spec.long, v));
        } else if let Some(letters) = a.strip_prefix('-').filter(|l| !l.is_empty()) {
            for (i, c) in letters.char_indices() {
                let spec = specs
                    .iter()
                    .find(|s| s.short == Some(c))
                    .ok_or_else(|| format!("invalid option -- '{c}'"))?;
                if !spec.arg {
                    out.options.push((spec.long, String::new()));
                    continue;
                }
                let attached = &letters[i + c.len_utf8()..];
                let v = if attached.is_empty() {
                    it.next().cloned().ok_or_else(|| format!("option requires an argument -- '{c}'"))?
                } else {
                    attached.to_string()
                };
                out.options.push((spec.long, v));
                break;
            }
        } else {
            out.rest.push(a.clone());
        }
    }
    Ok(out)
}

fn find_long<'a>(specs: &'a [Spec], name: &str) -> Result<&'a Spec, String> {
    if let Some(s) = specs.iter().find(|s| s.long == name) {
        return Ok(s);
    }
    let mut like = specs.iter().filter(|s| !name.is_empty() && s.long.starts_with(name));
    match (like.next(), like.next()) {
        (Some(s), None) => Ok(s),
        (Some(a), Some(b)) => {
            let all = [a, b].into_iter().chain(like).map(|s| format!(" '--{}'", s.long)).collect::<String>();
            Err(format!("option '--{name}' is ambiguous; possibilities:{all}"))
        }
        _ => Err(format!("unrecognized option '--{name}'")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(args: &[&str]) -> Result<Parsed, String> {
        let specs =
            [value('f', "format"), value('F', "backing-format"), flag('q', "quiet"), flag('b', "backing")];
        parse(&specs, &args.iter().map(|s| (*s).to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_taken_in_every_form() {
        for args in [
            &["-f", "raw", "-q", "x"][..],
            &["-fraw", "x", "-q"],
            &["--format=raw", "-q", "--", "x"],
            &["--form", "raw", "--q", "x"],
        ] {
            let p = run(args).unwrap();
            assert_eq!(p.options, [("format", "raw".into()), ("quiet", String::new())], "{args:?}");
            assert_eq!(p.rest, ["x"]);
        }
        assert_eq!(run(&["-qf", "raw"]).unwrap().options.len(), 2);
        assert_eq!(run(&["-"]).unwrap().rest, ["-"]);
    }

    #[test]
    fn errors_are_getopts() {
        assert_eq!(run(&["-f"]).unwrap_err(), "option requires an argument -- 'f'");
        assert_eq!(run(&["--format"]).unwrap_err(), "option '--format' requires an argument");
        assert_eq!(run(&["-Z"]).unwrap_err(), "invalid option -- 'Z'");
        assert_eq!(run(&["--bogus"]).unwrap_err(), "unrecognized option '--bogus'");
        assert_eq!(run(&["--quiet=1"]).unwrap_err(), "option '--quiet' doesn't allow an argument");
        assert_eq!(
            run(&["--back"]).unwrap_err(),
            "option '--back' is ambiguous; possibilities: '--backing-format' '--backing'"
        );
    }
}
