//! Arguments of one subcommand: short and long options in any order, as GNU getopt takes them. The table of options is also
//! what `--help` and the manual are made from.

/// One option.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// One letter, or none.
    pub short: Option<char>,
    /// The long name, by which the result is known.
    pub long: &'static str,
    /// Other long names.
    pub alias: &'static [&'static str],
    /// What its argument is called, where it takes one.
    pub arg: Option<&'static str>,
    /// What it is for.
    pub help: &'static str,
}

/// A flag.
pub const fn flag(short: char, long: &'static str, help: &'static str) -> Spec {
    Spec { short: Some(short), long, alias: &[], arg: None, help }
}

/// An option with an argument.
pub const fn value(short: char, long: &'static str, arg: &'static str, help: &'static str) -> Spec {
    Spec { short: Some(short), long, alias: &[], arg: Some(arg), help }
}

/// An option with an argument and no short form.
pub const fn long_value(long: &'static str, arg: &'static str, help: &'static str) -> Spec {
    Spec { short: None, long, alias: &[], arg: Some(arg), help }
}

/// A flag without short form.
pub const fn long_flag(long: &'static str, help: &'static str) -> Spec {
    Spec { short: None, long, alias: &[], arg: None, help }
}

/// `-h`.
pub const HELP: Spec = flag('h', "help", "print this text");
/// `-q`.
pub const QUIET: Spec = flag('q', "quiet", "print errors only");
/// `-p`.
pub const PROGRESS: Spec = flag('p', "progress", "show progress");
/// `-f` of an image that is there.
pub const FORMAT: Spec = value('f', "format", "FMT", "the image's format; found out where it is not given");
/// `--image-opts`.
pub const IMAGE_OPTS: Spec =
    long_flag("image-opts", "FILENAME is a description (driver=...,file.filename=...), not a file name");
/// `-U`.
pub const SHARE: Spec = flag('U', "force-share", "open the image even while it is being written to");
/// `--object`.
pub const OBJECT: Spec =
    long_value("object", "TYPE,id=ID,...", "an object that options or descriptions name, such as a secret");
/// `--output`.
pub const OUTPUT: Spec = long_value("output", "human|json", "how to print (default human)");

impl Spec {
    /// The same with other long names.
    pub const fn alias(self, alias: &'static [&'static str]) -> Spec {
        Spec { alias, ..self }
    }

    fn answers_to(&self, name: &str) -> bool {
        self.long == name || self.alias.contains(&name)
    }

    /// `-f, --format FMT`.
    pub fn usage(&self) -> String {
        let arg = self.arg.map_or_else(String::new, |a| format!(" {a}"));
        match self.short {
            Some(c) => format!("-{c}, --{}{arg}", self.long),
            None => format!("--{}{arg}", self.long),
        }
    }
}

/// The table as help shows it: an option and below it what it is for.
pub fn help(specs: &[Spec]) -> String {
    specs.iter().map(|s| format!("  {}\n     {}\n", s.usage(), s.help)).collect()
}

/// What was given.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Options in order.
    pub options: Vec<(&'static str, String)>,
    /// Everything else.
    pub rest: Vec<String>,
}

impl Parsed {
    /// Whether an option was given.
    pub fn has(&self, name: &str) -> bool {
        self.options.iter().any(|o| o.0 == name)
    }

    /// What an option was given with, the last time.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.options.iter().rev().find(|o| o.0 == name).map(|o| o.1.as_str())
    }

    /// All that an option was given with.
    pub fn all(&self, name: &str) -> Vec<String> {
        self.options.iter().filter(|o| o.0 == name).map(|o| o.1.clone()).collect()
    }
}

/// Parses; an error is the message without the program's name.
pub fn parse(specs: &[Spec], args: &[String]) -> Result<Parsed, String> {
    let mut out = Parsed::default();
    let mut it = args.iter();
    let missing = |what: &str| format!("missing argument for option '{what}'");
    while let Some(a) = it.next() {
        if a == "--" {
            out.rest.extend(it.by_ref().cloned());
        } else if let Some(long) = a.strip_prefix("--") {
            let (name, inline) = match long.split_once('=') {
                Some((n, v)) => (n, Some(v.to_string())),
                None => (long, None),
            };
            let unknown = || format!("unrecognized option '{a}'");
            let spec = find_long(specs, name).ok_or_else(unknown)?;
            let v = match (spec.arg, inline) {
                (None, Some(_)) => return Err(unknown()),
                (None, None) => String::new(),
                (Some(_), Some(v)) => v,
                (Some(_), None) => it.next().cloned().ok_or_else(|| missing(a))?,
            };
            out.options.push((spec.long, v));
        } else if let Some(letters) = a.strip_prefix('-').filter(|l| !l.is_empty()) {
            for (i, c) in letters.char_indices() {
                let spec = specs
                    .iter()
                    .find(|s| s.short == Some(c))
                    .ok_or_else(|| format!("unrecognized option '{a}'"))?;
                if spec.arg.is_none() {
                    out.options.push((spec.long, String::new()));
                    continue;
                }
                let attached = &letters[i + c.len_utf8()..];
                let v = if attached.is_empty() {
                    it.next().cloned().ok_or_else(|| missing(a))?
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

/// The option of this long name, or the only one that begins so.
fn find_long<'a>(specs: &'a [Spec], name: &str) -> Option<&'a Spec> {
    if let Some(s) = specs.iter().find(|s| s.answers_to(name)) {
        return Some(s);
    }
    let begins = |s: &&Spec| s.long.starts_with(name) || s.alias.iter().any(|a| a.starts_with(name));
    let mut like = specs.iter().filter(|s| !name.is_empty() && begins(s));
    like.next().filter(|_| like.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(args: &[&str]) -> Result<Parsed, String> {
        let specs = [
            value('f', "format", "FMT", ""),
            value('F', "backing-format", "FMT", "").alias(&["b-format"]),
            flag('q', "quiet", ""),
            flag('b', "backing", ""),
        ];
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
        assert_eq!(run(&["--b-format", "x"]).unwrap().get("backing-format"), Some("x"));
    }

    #[test]
    fn errors_name_the_option() {
        assert_eq!(run(&["-f"]).unwrap_err(), "missing argument for option '-f'");
        assert_eq!(run(&["--format"]).unwrap_err(), "missing argument for option '--format'");
        assert_eq!(run(&["-Z"]).unwrap_err(), "unrecognized option '-Z'");
        for bad in ["--bogus", "--quiet=1", "--back"] {
            assert_eq!(run(&[bad]).unwrap_err(), format!("unrecognized option '{bad}'"));
        }
    }

    #[test]
    fn help_is_made_of_the_table() {
        assert_eq!(help(&[FORMAT]), format!("  -f, --format FMT\n     {}\n", FORMAT.help));
    }
}
