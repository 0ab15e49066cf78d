//! The log items of `-d`.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

macro_rules! items {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal;)*) => {
        /// A class of log lines that `-d` selects.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Item { $($(#[doc = $doc])+ $variant,)* }

        impl Item {
            /// Every item, in the order of the help text.
            pub const ALL: &'static [Item] = &[$(Item::$variant,)*];

            /// The item's name on the command line.
            pub fn name(self) -> &'static str {
                match self { $(Item::$variant => $name,)* }
            }

            /// One line of help.
            pub fn help(self) -> &'static str {
                match self { $(Item::$variant => concat!($($doc,)+).trim_ascii(),)* }
            }
        }
    };
}

items! {
    /// Guest code when it is decoded first.
    InAsm = "in_asm";
    /// What the translator makes of guest code, before it is native code.
    Op = "op";
    /// Native code that was made.
    OutAsm = "out_asm";
    /// Interrupts and exceptions that a CPU takes.
    Int = "int";
    /// Page faults.
    Mmu = "mmu";
    /// CPU registers before each reset.
    CpuReset = "cpu_reset";
    /// Use of what is not implemented.
    Unimp = "unimp";
    /// What a guest does that no correct guest would, such as handing a device an impossible queue.
    GuestErrors = "guest_errors";
    /// Accesses to memory that is not there.
    InvalidMem = "invalid_mem";
}

/// Items of other emulators of the family that have no meaning here (yet).
const NOT_HERE: &[&str] = &[
    "op_opt",
    "op_ind",
    "op_plugin",
    "exec",
    "cpu",
    "fpu",
    "vpu",
    "nochain",
    "pcall",
    "page",
    "plugin",
    "strace",
    "tid",
];

static SELECTED: AtomicU32 = AtomicU32::new(0);

impl Item {
    fn bit(self) -> u32 {
        1 << (self as u32)
    }
}

/// Whether `item` is selected. Cheap; any thread.
#[inline]
pub fn enabled(item: Item) -> bool {
    SELECTED.load(Ordering::Relaxed) & item.bit() != 0
}

/// Selects exactly `items`.
pub fn set_items(items: &[Item]) {
    SELECTED.store(items.iter().fold(0, |m, i| m | i.bit()), Ordering::Relaxed);
}

/// Why a list of log items was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// The user asked for the list (`help` or `?`).
    Help,
    /// Nobody knows this item.
    Unknown(String),
    /// The item exists in the family, not in Rhea.
    NotAvailable(String),
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ParseError::Help => f.write_str(&help()),
            ParseError::Unknown(s) => write!(f, "Unknown log item '{s}'\n{}", help()),
            ParseError::NotAvailable(s) => write!(f, "Log item '{s}' is not available in Rhea"),
        }
    }
}

impl std::error::Error for ParseError {}

/// Parses `-d`'s argument: items and `trace:PATTERN`s between commas; `all` is every item, `none` no item.
///
/// # Errors
/// A name that is not an item; or help was asked for.
pub fn parse(list: &str) -> Result<(Vec<Item>, Vec<String>), ParseError> {
    let (mut items, mut patterns) = (Vec::new(), Vec::new());
    for word in list.split(',') {
        match word {
            "help" | "?" => return Err(ParseError::Help),
            "all" => items.extend(Item::ALL),
            "none" => {}
            _ => {
                if let Some(p) = word.strip_prefix("trace:") {
                    patterns.push(p.to_owned());
                } else if let Some(i) = Item::ALL.iter().find(|i| i.name() == word) {
                    items.push(*i);
                } else if NOT_HERE.contains(&word) {
                    return Err(ParseError::NotAvailable(word.to_owned()));
                } else {
                    return Err(ParseError::Unknown(word.to_owned()));
                }
            }
        }
    }
    Ok((items, patterns))
}

/// The list of items with their help, as `-d help` prints it.
pub fn help() -> String {
    let mut s = String::from("Log items (comma separated):\n");
    for i in Item::ALL {
        s.push_str(&format!("{:<15} {}\n", i.name(), i.help()));
    }
    s.push_str("trace:PATTERN   trace points whose name matches\n");
    s
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        assert_eq!(parse("int,guest_errors"), Ok((vec![Item::Int, Item::GuestErrors], vec![])));
        assert_eq!(parse("trace:virtio*,mmu"), Ok((vec![Item::Mmu], vec!["virtio*".into()])));
        assert_eq!(parse("all").map(|(i, _)| i.len()), Ok(Item::ALL.len()));
        assert_eq!(parse("none"), Ok((vec![], vec![])));
        assert_eq!(parse("int,help"), Err(ParseError::Help));
        assert_eq!(parse("int,bogus"), Err(ParseError::Unknown("bogus".into())));
        assert_eq!(parse("strace"), Err(ParseError::NotAvailable("strace".into())));
        assert!(help().lines().any(|l| l.starts_with("guest_errors    ")));
    }

    #[test]
    fn every_item_has_its_own_bit() {
        let all = Item::ALL.iter().fold(0u32, |m, i| m | i.bit());
        assert_eq!(all.count_ones() as usize, Item::ALL.len());
    }
}
