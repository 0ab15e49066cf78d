//! The part of the manual that is made from the option tables.

use super::COMMANDS;
use std::fmt::Write as _;

/// Where it begins and ends in `docs/rhea-img.md`.
pub const MARKS: (&str, &str) = (
    "<!-- From the option tables: RHEA_BLESS=1 cargo test -p image manual -->\n",
    "<!-- End of the option tables -->\n",
);

/// All commands with their options, as Markdown.
pub fn manual() -> String {
    let mut s = String::new();
    for c in COMMANDS {
        // Writing to a String cannot fail.
        let _ =
            write!(s, "\n### {}\n\n{}.\n\n```\nrhea img {} {}\n```\n\n", c.name, c.about, c.name, c.usage);
        for o in c.options {
            let _ = writeln!(s, "- `{}` — {}", o.usage(), o.help);
        }
        if !c.notes.is_empty() {
            let _ = write!(s, "\n{}\n", c.notes);
        }
    }
    s.push('\n');
    s
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/rhea-img.md");
        let page = std::fs::read_to_string(path).unwrap();
        let (before, rest) = page.split_once(MARKS.0).unwrap();
        let (now, after) = rest.split_once(MARKS.1).unwrap();
        if std::env::var_os("RHEA_BLESS").is_some() {
            let page = format!("{before}{}{}{}{after}", MARKS.0, manual(), MARKS.1);
            std::fs::write(path, page).unwrap();
        } else {
            assert!(now == manual(), "RHEA_BLESS=1 cargo test -p image manual");
        }
    }

    #[test]
    fn every_option_says_what_it_is_for() {
        for c in COMMANDS {
            for (i, o) in c.options.iter().enumerate() {
                assert!(!o.help.is_empty(), "{} --{}", c.name, o.long);
                let twice = c.options[..i]
                    .iter()
                    .any(|p| p.long == o.long || (p.short.is_some() && p.short == o.short));
                assert!(!twice, "{} --{}", c.name, o.long);
            }
        }
    }
}
