use qapi::{QError, qerr};
use std::collections::BTreeMap;

/// The type of a device's property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PropKind {
    /// `on` or `off`.
    Bool,
    /// 8 bits, unsigned.
    U8,
    /// 16 bits, unsigned.
    U16,
    /// 32 bits, unsigned.
    U32,
    /// 64 bits, unsigned.
    U64,
    /// 32 bits, signed.
    I32,
    /// A size in bytes; text may have a suffix.
    Size,
    /// A size of a block: 0 (let the device choose), or a power of two from 512 B to 2 MiB.
    BlockSize,
    /// Any text.
    Str,
    /// `on`, `off` or `auto`.
    OnOffAuto,
    /// One of several names; the type's own name comes first.
    Enum(&'static str, &'static [&'static str]),
    /// The id of an object of this type.
    Link(&'static str),
    /// The node name or id of a block device.
    Drive,
    /// The id of a character device.
    Chardev,
}

/// The values of [`PropKind::OnOffAuto`].
const ON_OFF_AUTO: &[&str] = &["auto", "on", "off"];

impl PropKind {
    /// The type's name, as help shows it.
    pub fn type_name(self) -> String {
        match self {
            PropKind::Bool => "bool".into(),
            PropKind::U8 => "uint8".into(),
            PropKind::U16 => "uint16".into(),
            PropKind::U32 => "uint32".into(),
            PropKind::U64 => "uint64".into(),
            PropKind::I32 => "int32".into(),
            PropKind::Size | PropKind::BlockSize => "size".into(),
            PropKind::Str | PropKind::Drive | PropKind::Chardev => "str".into(),
            PropKind::OnOffAuto => "OnOffAuto".into(),
            PropKind::Enum(name, _) => name.into(),
            PropKind::Link(of) => format!("link<{of}>"),
        }
    }

    fn description(self) -> Option<&'static str> {
        match self {
            PropKind::Bool => Some("on/off"),
            PropKind::OnOffAuto => Some("on/off/auto"),
            PropKind::BlockSize => Some("A power of two between 512 B and 2 MiB"),
            PropKind::Drive => Some("Node name or ID of a block device to use as a backend"),
            PropKind::Chardev => Some("ID of a chardev to use as a backend"),
            _ => None,
        }
    }
}

/// What a property is when nobody sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PropDefault {
    /// Nothing.
    Unset,
    /// A truth value.
    Bool(bool),
    /// A number.
    Uint(u64),
    /// One of an enumeration's names.
    Name(&'static str),
}

/// A property that a user can set.
#[derive(Clone, Copy, Debug)]
pub struct PropSpec {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: PropKind,
    /// Its default.
    pub default: PropDefault,
    /// What it is for; empty for the type's own words.
    pub desc: &'static str,
}

impl PropSpec {
    /// A property with its type's own description.
    pub const fn new(name: &'static str, kind: PropKind, default: PropDefault) -> PropSpec {
        PropSpec { name, kind, default, desc: "" }
    }

    /// A truth value.
    pub const fn bool(name: &'static str, default: bool) -> PropSpec {
        PropSpec::new(name, PropKind::Bool, PropDefault::Bool(default))
    }

    /// A number.
    pub const fn uint(name: &'static str, kind: PropKind, default: u64) -> PropSpec {
        PropSpec::new(name, kind, PropDefault::Uint(default))
    }

    /// A text without default.
    pub const fn str(name: &'static str) -> PropSpec {
        PropSpec::new(name, PropKind::Str, PropDefault::Unset)
    }

    /// The line of `-device TYPE,help`.
    pub fn help_line(&self) -> String {
        let head = format!("  {}=<{}>", self.name, self.kind.type_name());
        let desc = if self.desc.is_empty() { self.kind.description() } else { Some(self.desc) };
        let default = match self.default {
            PropDefault::Unset => None,
            PropDefault::Bool(b) => Some(if b { "on" } else { "off" }.to_owned()),
            PropDefault::Uint(v) => Some(v.to_string()),
            PropDefault::Name(n) => Some(n.to_owned()),
        };
        match (desc, default) {
            (None, None) => head,
            (desc, None) => format!("{head:<24} - {}", desc.unwrap_or("")),
            (desc, Some(d)) => format!("{head:<24} - {} (default: {d})", desc.unwrap_or("")),
        }
    }

    fn default_value(&self) -> Option<PropValue> {
        match self.default {
            PropDefault::Unset => None,
            PropDefault::Bool(b) => Some(PropValue::Bool(b)),
            PropDefault::Uint(v) => Some(PropValue::Uint(v)),
            PropDefault::Name(n) => Some(PropValue::Str(n.into())),
        }
    }

    /// The value that `raw` says, or the reference's message on why it says none.
    fn parse(&self, raw: &RawValue) -> Result<PropValue, QError> {
        let name = self.name;
        let expects = |what: &str| qerr!("Parameter '{name}' expects {what}");
        let mistyped = |what: &str| qerr!("Invalid parameter type for '{name}', expected: {what}");
        match self.kind {
            PropKind::Bool => match raw {
                RawValue::Bool(b) => Ok(PropValue::Bool(*b)),
                RawValue::Text(t) => match t.as_str() {
                    "on" | "yes" | "true" | "y" => Ok(PropValue::Bool(true)),
                    "off" | "no" | "false" | "n" => Ok(PropValue::Bool(false)),
                    _ => Err(expects("'on' or 'off'")),
                },
                _ => Err(mistyped("boolean")),
            },
            PropKind::U8 => self.parse_uint(raw, u64::from(u8::MAX), "uint8_t"),
            PropKind::U16 => self.parse_uint(raw, u64::from(u16::MAX), "uint16_t"),
            PropKind::U32 => self.parse_uint(raw, u64::from(u32::MAX), "uint32_t"),
            PropKind::U64 => self.parse_uint(raw, u64::MAX, "uint64_t"),
            PropKind::I32 => {
                let v = match raw {
                    RawValue::Text(t) => parse_int(t).ok_or_else(|| expects("integer"))?,
                    RawValue::Int(v) => i128::from(*v),
                    RawValue::Uint(v) => i128::from(*v),
                    _ => return Err(mistyped("integer")),
                };
                i32::try_from(v).map(PropValue::Int).map_err(|_| expects("int32_t"))
            }
            PropKind::Size | PropKind::BlockSize => {
                let v = match raw {
                    RawValue::Text(t) => base::units::parse_size(t, 1).map_err(|_| expects("size"))?,
                    RawValue::Uint(v) => *v,
                    RawValue::Int(v) => *v as u64,
                    _ => return Err(expects("uint64")),
                };
                if self.kind == PropKind::BlockSize
                    && v != 0
                    && !(v.is_power_of_two() && (512..=2 << 20).contains(&v))
                {
                    return Err(qerr!("parameter {name} must be a power of 2 between 512 and 2097152"));
                }
                Ok(PropValue::Uint(v))
            }
            PropKind::Str | PropKind::Link(_) | PropKind::Drive | PropKind::Chardev => match raw {
                RawValue::Text(t) | RawValue::Str(t) => Ok(PropValue::Str(t.clone())),
                _ => Err(mistyped("string")),
            },
            PropKind::OnOffAuto => self.one_of(raw, ON_OFF_AUTO),
            PropKind::Enum(_, names) => self.one_of(raw, names),
        }
    }

    fn parse_uint(&self, raw: &RawValue, max: u64, c_type: &str) -> Result<PropValue, QError> {
        let expects = |what: &str| qerr!("Parameter '{}' expects {what}", self.name);
        let v = match raw {
            RawValue::Text(t) => {
                // A negative number stands for its two's complement in 64 bits.
                let v = parse_int(t).ok_or_else(|| expects("integer"))?;
                if v < 0 {
                    i64::try_from(v).map_err(|_| expects("integer"))? as u64
                } else {
                    u64::try_from(v).map_err(|_| expects("integer"))?
                }
            }
            RawValue::Uint(v) => *v,
            RawValue::Int(v) => *v as u64,
            _ => return Err(expects("uint64")),
        };
        if v > max { Err(expects(c_type)) } else { Ok(PropValue::Uint(v)) }
    }

    fn one_of(&self, raw: &RawValue, names: &[&'static str]) -> Result<PropValue, QError> {
        match raw {
            RawValue::Text(t) | RawValue::Str(t) if names.contains(&t.as_str()) => {
                Ok(PropValue::Str(t.clone()))
            }
            RawValue::Text(t) | RawValue::Str(t) => {
                Err(qerr!("Parameter '{}' does not accept value '{t}'", self.name))
            }
            _ => Err(qerr!("Invalid parameter type for '{}', expected: string", self.name)),
        }
    }
}

/// A decimal, `0x` or leading-zero octal number with an optional sign.
fn parse_int(t: &str) -> Option<i128> {
    let t = t.trim_start();
    let (neg, t) = match t.strip_prefix('-') {
        Some(r) => (true, r),
        None => (false, t.strip_prefix('+').unwrap_or(t)),
    };
    let (digits, radix) = match t.strip_prefix("0x").or_else(|| t.strip_prefix("0X")) {
        Some(h) => (h, 16),
        None if t.len() > 1 && t.starts_with('0') => (&t[1..], 8),
        None => (t, 10),
    };
    // 30 digits are far above 2^64; a sign inside is no number.
    if digits.is_empty() || digits.len() > 30 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let v = i128::from_str_radix(digits, radix).ok()?;
    Some(if neg { -v } else { v })
}

/// A property's value as it came from outside.
#[derive(Clone, Debug, PartialEq)]
pub enum RawValue {
    /// From a `key=value` command line: text that the property's type gives a meaning.
    Text(String),
    /// A JSON string.
    Str(String),
    /// A JSON truth value.
    Bool(bool),
    /// A JSON number.
    Int(i64),
    /// A JSON number above `i64::MAX`.
    Uint(u64),
    /// Any other JSON value; no property takes one.
    Other,
}

impl From<&qapi::Value> for RawValue {
    fn from(v: &qapi::Value) -> RawValue {
        match v {
            qapi::Value::Str(s) => RawValue::Str(s.clone()),
            qapi::Value::Bool(b) => RawValue::Bool(*b),
            qapi::Value::Int(n) => RawValue::Int(*n),
            qapi::Value::Uint(n) => RawValue::Uint(*n),
            _ => RawValue::Other,
        }
    }
}

/// A property's value after its type was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PropValue {
    /// Of [`PropKind::Bool`].
    Bool(bool),
    /// Of the unsigned kinds and sizes.
    Uint(u64),
    /// Of [`PropKind::I32`].
    Int(i32),
    /// Of texts, enumerations and links.
    Str(String),
}

/// The checked properties of a device that is being made.
///
/// The getters panic for a name that the type has not declared with that kind: that is a mistake in the device.
#[derive(Clone, Debug)]
pub struct Props {
    type_name: &'static str,
    specs: &'static [&'static [PropSpec]],
    values: BTreeMap<&'static str, PropValue>,
}

impl Props {
    /// All defaults of a type whose properties stand in `specs`.
    pub fn new(type_name: &'static str, specs: &'static [&'static [PropSpec]]) -> Props {
        Props { type_name, specs, values: BTreeMap::new() }
    }

    fn spec(&self, name: &str) -> Option<&'static PropSpec> {
        self.specs.iter().flat_map(|s| s.iter()).find(|p| p.name == name)
    }

    /// Sets a property.
    ///
    /// # Errors
    /// `Property 'TYPE.x' not found`, or a message on the value.
    pub fn set(&mut self, name: &str, raw: &RawValue) -> Result<(), QError> {
        let spec = self.spec(name).ok_or_else(|| qerr!("Property '{}.{name}' not found", self.type_name))?;
        self.values.insert(spec.name, spec.parse(raw)?);
        Ok(())
    }

    /// The type's name.
    pub fn type_name(&self) -> &'static str {
        self.type_name
    }

    /// Whether a user set it.
    pub fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// The value or the default; `None` where there is neither or no such property.
    pub fn get(&self, name: &str) -> Option<PropValue> {
        self.values.get(name).cloned().or_else(|| self.spec(name)?.default_value())
    }

    fn declared(&self, name: &str) -> Option<PropValue> {
        assert!(self.spec(name).is_some(), "{} has no property '{name}'", self.type_name);
        self.get(name)
    }

    /// A truth value.
    pub fn bool(&self, name: &str) -> bool {
        match self.declared(name) {
            Some(PropValue::Bool(b)) => b,
            v => panic!("{}.{name} is {v:?}, not a truth value", self.type_name),
        }
    }

    /// A number or size.
    pub fn u64(&self, name: &str) -> u64 {
        match self.declared(name) {
            Some(PropValue::Uint(v)) => v,
            v => panic!("{}.{name} is {v:?}, not a number", self.type_name),
        }
    }

    /// A number of at most 32 bits.
    pub fn u32(&self, name: &str) -> u32 {
        u32::try_from(self.u64(name)).expect("the property's type keeps it in range")
    }

    /// A number of at most 16 bits.
    pub fn u16(&self, name: &str) -> u16 {
        u16::try_from(self.u64(name)).expect("the property's type keeps it in range")
    }

    /// A signed number, if it was set.
    pub fn i32(&self, name: &str) -> Option<i32> {
        match self.declared(name) {
            Some(PropValue::Int(v)) => Some(v),
            None => None,
            v => panic!("{}.{name} is {v:?}, not a signed number", self.type_name),
        }
    }

    /// A text, name or link; `None` where it is not set.
    pub fn str(&self, name: &str) -> Option<String> {
        match self.declared(name) {
            Some(PropValue::Str(s)) => Some(s),
            None => None,
            v => panic!("{}.{name} is {v:?}, not a text", self.type_name),
        }
    }

    /// A value of [`PropKind::OnOffAuto`]: `None` for `auto`.
    pub fn on_off_auto(&self, name: &str) -> Option<bool> {
        match self.str(name).as_deref() {
            Some("on") => Some(true),
            Some("off") => Some(false),
            _ => None,
        }
    }
}

/// Checks that `id` may name a device or object.
///
/// # Errors
/// `Parameter 'id' expects an identifier`, with a hint for people.
pub fn check_id(id: &str) -> Result<(), QError> {
    let mut chars = id.chars();
    let ok = chars.next().is_some_and(|c| c.is_ascii_alphabetic())
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
    if ok {
        return Ok(());
    }
    Err(QError::new("Parameter 'id' expects an identifier")
        .with_hint("Identifiers consist of letters, digits, '-', '.', '_', starting with a letter."))
}

#[cfg(test)]
mod tests {
    use super::*;

    static SPECS: &[&[PropSpec]] = &[
        &[
            PropSpec::bool("event_idx", true),
            PropSpec::uint("max-bytes", PropKind::U64, i64::MAX as u64),
            PropSpec::uint("num-queues", PropKind::U16, 65535),
            PropSpec::str("serial"),
        ],
        &[
            PropSpec::uint("logical_block_size", PropKind::BlockSize, 0),
            PropSpec::new("write-cache", PropKind::OnOffAuto, PropDefault::Name("auto")),
            PropSpec::new("bootindex", PropKind::I32, PropDefault::Unset),
            PropSpec::new("rng", PropKind::Link("rng-backend"), PropDefault::Unset),
            PropSpec::new("drive", PropKind::Drive, PropDefault::Unset),
        ],
    ];

    fn text(name: &str, v: &str) -> Result<PropValue, String> {
        raw(name, RawValue::Text(v.into()))
    }

    fn raw(name: &str, v: RawValue) -> Result<PropValue, String> {
        let mut p = Props::new("virtio-x-device", SPECS);
        p.set(name, &v).map_err(|e| e.desc().to_owned())?;
        Ok(p.get(name).unwrap())
    }

    #[test]
    fn values_of_a_command_line() {
        assert_eq!(text("event_idx", "off"), Ok(PropValue::Bool(false)));
        assert_eq!(text("event_idx", "foo").unwrap_err(), "Parameter 'event_idx' expects 'on' or 'off'");
        assert_eq!(text("max-bytes", "0x10"), Ok(PropValue::Uint(16)));
        assert_eq!(text("max-bytes", "-1"), Ok(PropValue::Uint(u64::MAX)));
        for bad in ["x", "", "10k", "0x10k", "+-1", "99999999999999999999999999"] {
            assert_eq!(text("max-bytes", bad).unwrap_err(), "Parameter 'max-bytes' expects integer", "{bad}");
        }
        assert_eq!(text("num-queues", "99999").unwrap_err(), "Parameter 'num-queues' expects uint16_t");
        assert_eq!(text("num-queues", "-1").unwrap_err(), "Parameter 'num-queues' expects uint16_t");
        assert_eq!(text("logical_block_size", "1k"), Ok(PropValue::Uint(1024)));
        assert_eq!(
            text("logical_block_size", "x").unwrap_err(),
            "Parameter 'logical_block_size' expects size"
        );
        assert_eq!(
            text("logical_block_size", "3").unwrap_err(),
            "parameter logical_block_size must be a power of 2 between 512 and 2097152"
        );
        assert_eq!(
            text("write-cache", "x").unwrap_err(),
            "Parameter 'write-cache' does not accept value 'x'"
        );
        assert_eq!(text("bootindex", "-5"), Ok(PropValue::Int(-5)));
        assert_eq!(text("bootindex", "99999999999").unwrap_err(), "Parameter 'bootindex' expects int32_t");
        assert_eq!(text("foo", "1").unwrap_err(), "Property 'virtio-x-device.foo' not found");
    }

    #[test]
    fn values_of_json() {
        assert_eq!(raw("max-bytes", RawValue::Int(-1)), Ok(PropValue::Uint(u64::MAX)));
        let s = |v: &str| RawValue::Str(v.into());
        assert_eq!(raw("max-bytes", s("x")).unwrap_err(), "Parameter 'max-bytes' expects uint64");
        assert_eq!(
            raw("event_idx", s("on")).unwrap_err(),
            "Invalid parameter type for 'event_idx', expected: boolean"
        );
        assert_eq!(
            raw("num-queues", RawValue::Int(70000)).unwrap_err(),
            "Parameter 'num-queues' expects uint16_t"
        );
        assert_eq!(
            raw("drive", RawValue::Int(5)).unwrap_err(),
            "Invalid parameter type for 'drive', expected: string"
        );
        assert_eq!(
            raw("logical_block_size", s("1k")).unwrap_err(),
            "Parameter 'logical_block_size' expects uint64"
        );
    }

    #[test]
    fn help_lines_are_the_references() {
        let lines: Vec<_> = SPECS.iter().flat_map(|s| s.iter()).map(PropSpec::help_line).collect();
        assert_eq!(
            lines,
            [
                "  event_idx=<bool>       - on/off (default: on)",
                "  max-bytes=<uint64>     -  (default: 9223372036854775807)",
                "  num-queues=<uint16>    -  (default: 65535)",
                "  serial=<str>",
                "  logical_block_size=<size> - A power of two between 512 B and 2 MiB (default: 0)",
                "  write-cache=<OnOffAuto> - on/off/auto (default: auto)",
                "  bootindex=<int32>",
                "  rng=<link<rng-backend>>",
                "  drive=<str>            - Node name or ID of a block device to use as a backend",
            ]
        );
    }

    #[test]
    fn identifiers() {
        assert!(check_id("a-b.c_1").is_ok());
        for bad in ["", "1a", "#x", "a b", "-a"] {
            assert_eq!(check_id(bad).unwrap_err().desc(), "Parameter 'id' expects an identifier");
        }
    }
}
