//! The command line, taken apart by the table of options.

use super::options::{self, OptionSpec, Takes};

/// One option as it was given.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Given {
    /// Its canonical name.
    pub(crate) name: &'static str,
    /// As it was spelt, with its argument: what error messages begin with.
    pub(crate) spelt: String,
    /// Its argument, empty for a switch.
    pub(crate) value: String,
}

/// The options in their order, or what is wrong with the command line (without the program's name).
///
/// Options begin with one dash or two. What is no option is a disk image, as `-hda` takes it.
pub(crate) fn parse(args: &[String]) -> Result<Vec<Given>, String> {
    let mut given = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let Some(name) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')).filter(|n| !n.is_empty())
        else {
            given.push(Given { name: "hda", spelt: arg.clone(), value: arg.clone() });
            continue;
        };
        let Some(spec) = options::find(name) else { return Err(format!("{arg}: invalid option")) };
        let OptionSpec { takes, help, canonical, .. } = spec;
        let value = match takes {
            Takes::Nothing => String::new(),
            Takes::Value => args.next().cloned().ok_or_else(|| format!("{arg}: requires an argument"))?,
        };
        if help.is_none() {
            return Err(format!("{arg}: Rhea does not have this option yet"));
        }
        let spelt = if value.is_empty() { format!("-{name}") } else { format!("-{name} {value}") };
        given.push(Given { name: canonical, spelt, value });
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Vec<(&'static str, String)>, String> {
        let args: Vec<String> = line.split(' ').map(String::from).collect();
        Ok(parse(&args)?.into_iter().map(|g| (g.name, g.value)).collect())
    }

    #[test]
    fn options_take_one_dash_or_two_and_have_aliases() {
        let got = of("-M virt --smp 2 -S -nographic").unwrap();
        let want = [("machine", "virt"), ("smp", "2"), ("S", ""), ("nographic", "")];
        assert_eq!(got, want.map(|(n, v)| (n, v.to_string())));
    }

    #[test]
    fn a_bare_word_is_a_disk() {
        assert_eq!(of("disk.qcow2").unwrap(), [("hda", "disk.qcow2".to_string())]);
    }

    #[test]
    fn mistakes_are_named_as_the_reference_names_them() {
        assert_eq!(of("-foo"), Err("-foo: invalid option".into()));
        assert_eq!(of("-kernel"), Err("-kernel: requires an argument".into()));
        assert_eq!(of("-sandbox on"), Err("-sandbox: Rhea does not have this option yet".into()));
    }
}
