use crate::{CreateCx, CreateFuture, PropSpec, Props};
use qapi::{QError, qerr};
use std::collections::BTreeMap;

/// The heading that a device type stands under in help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Category {
    /// Bridges and hubs.
    Bridge,
    /// USB.
    Usb,
    /// Disks and their controllers.
    Storage,
    /// Network cards.
    Network,
    /// Keyboards, consoles, serial ports.
    Input,
    /// Displays.
    Display,
    /// Sound.
    Sound,
    /// Anything else.
    Misc,
    /// Processors.
    Cpu,
    /// Watchdogs.
    Watchdog,
    /// Nothing said.
    None,
}

impl Category {
    fn title(self) -> &'static str {
        match self {
            Category::Bridge => "Controller/Bridge/Hub",
            Category::Usb => "USB",
            Category::Storage => "Storage",
            Category::Network => "Network",
            Category::Input => "Input",
            Category::Display => "Display",
            Category::Sound => "Sound",
            Category::Misc => "Misc",
            Category::Cpu => "CPU",
            Category::Watchdog => "Watchdog",
            Category::None => "Uncategorized",
        }
    }
}

/// A kind of device: what `-device` and `device_add` can make.
pub struct DeviceType {
    /// Its name.
    pub name: &'static str,
    /// Another name, or empty.
    pub alias: &'static str,
    /// What it is, for people; may be empty.
    pub desc: &'static str,
    /// Its heading.
    pub category: Category,
    /// The kind of bus that it goes on: `virtio-bus`, `System`, ….
    pub bus: &'static str,
    /// Its properties, in groups that types may share.
    pub props: &'static [&'static [PropSpec]],
    /// Makes one.
    pub create: for<'a> fn(CreateCx<'a>, Props) -> CreateFuture<'a>,
    /// Whether a user may make one (otherwise a board only).
    pub user_creatable: bool,
}

impl DeviceType {
    /// The text of `-device TYPE,help`.
    pub fn help(&self) -> String {
        let mut lines: Vec<String> =
            self.props.iter().flat_map(|g| g.iter()).map(PropSpec::help_line).collect();
        if lines.is_empty() {
            return format!("There are no options for {}.\n", self.name);
        }
        lines.sort();
        format!("{} options:\n{}\n", self.name, lines.join("\n"))
    }
}

/// The device types that there are.
#[derive(Clone, Default)]
pub struct Registry {
    types: BTreeMap<&'static str, &'static DeviceType>,
}

impl Registry {
    /// A registry of the types of several crates.
    pub fn new(types: impl IntoIterator<Item = &'static DeviceType>) -> Registry {
        Registry { types: types.into_iter().map(|t| (t.name, t)).collect() }
    }

    /// The type `name`, also by its alias, that a user may make.
    ///
    /// # Errors
    /// `'x' is not a valid device model name`, or that it is not for users.
    pub fn find(&self, name: &str) -> Result<&'static DeviceType, QError> {
        let t = self.types.get(name).copied();
        let t = t.or_else(|| self.types.values().find(|t| !t.alias.is_empty() && t.alias == name).copied());
        let t = t.ok_or_else(|| qerr!("'{name}' is not a valid device model name"))?;
        if t.user_creatable {
            Ok(t)
        } else {
            Err(QError::new("Parameter 'driver' expects a pluggable device type"))
        }
    }

    /// The type `name`, whether or not a user may make one: for help and defaults.
    pub fn get(&self, name: &str) -> Option<&'static DeviceType> {
        self.types.get(name).copied()
    }

    /// All types by name.
    pub fn types(&self) -> impl Iterator<Item = &'static DeviceType> + '_ {
        self.types.values().copied()
    }

    /// The text of `-device help`.
    pub fn help(&self) -> String {
        let mut by_category: BTreeMap<Category, Vec<String>> = BTreeMap::new();
        for t in self.types.values().filter(|t| t.user_creatable) {
            let mut line = format!("name \"{}\", bus {}", t.name, t.bus);
            if !t.alias.is_empty() {
                line += &format!(", alias \"{}\"", t.alias);
            }
            if !t.desc.is_empty() {
                line += &format!(", desc \"{}\"", t.desc);
            }
            by_category.entry(t.category).or_default().push(line);
        }
        let groups: Vec<String> = by_category
            .iter()
            .map(|(c, lines)| format!("{} devices:\n{}\n", c.title(), lines.join("\n")))
            .collect();
        groups.join("\n")
    }
}
