//! Options of one letter, in the manner of getopt: anywhere among the words, several in one word.

/// What was given.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Letters {
    /// The options in order; those without an argument have an empty one.
    pub(super) options: Vec<(char, String)>,
    /// All other words.
    pub(super) rest: Vec<String>,
}

/// Reads words by `known`: each letter, with `:` behind it where it takes an argument. The error is the message.
pub(super) fn letters(known: &str, words: &[String]) -> Result<Letters, String> {
    let mut out = Letters::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            out.rest.extend(words.by_ref().cloned());
            break;
        }
        let Some(cluster) = word.strip_prefix('-').filter(|c| !c.is_empty()) else {
            out.rest.push(word.clone());
            continue;
        };
        for (at, c) in cluster.char_indices() {
            let place =
                known.find(c).filter(|_| c != ':').ok_or_else(|| format!("invalid option -- '{c}'"))?;
            let after = &cluster[at + c.len_utf8()..];
            if !known[place + 1..].starts_with(':') {
                out.options.push((c, String::new()));
                continue;
            }
            let value = match after {
                "" => words.next().ok_or_else(|| format!("option requires an argument -- '{c}'"))?,
                after => after,
            };
            out.options.push((c, value.to_owned()));
            break;
        }
    }
    Ok(out)
}

impl Letters {
    /// Whether an option was given.
    pub(super) fn has(&self, c: char) -> bool {
        self.options.iter().any(|o| o.0 == c)
    }

    /// The last argument of an option.
    pub(super) fn value(&self, c: char) -> Option<&str> {
        self.options.iter().rev().find(|o| o.0 == c).map(|o| o.1.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Letters, String> {
        letters("abP:", &line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn letters_come_anywhere() {
        for line in ["-ab -P 1 x y", "x -b -aP1 y", "-a -b -P 1 -- x y", "x y -abP 1"] {
            let l = read(line).unwrap();
            assert!(l.has('a') && l.has('b') && l.value('P') == Some("1"), "{line}");
            assert_eq!(l.rest, ["x", "y"], "{line}");
        }
        assert_eq!(read("- x -- -a").unwrap().rest, ["-", "x", "-a"]);
    }

    #[test]
    fn errors() {
        assert_eq!(read("-ac").unwrap_err(), "invalid option -- 'c'");
        assert_eq!(read("--ab").unwrap_err(), "invalid option -- '-'");
        assert_eq!(read("-:").unwrap_err(), "invalid option -- ':'");
        assert_eq!(read("x -P").unwrap_err(), "option requires an argument -- 'P'");
    }
}
