//! The one visitor: values, whether they came from JSON or from key=value text, into types.

use std::fmt::Write as _;

use crate::{Dict, QError, Qapi, Value, qerr};

/// Deepest nesting of structured types. A type may contain itself (a block node in a block node), and reading
/// one uses the stack, so this is well below what the JSON reader lets through.
pub const MAX_DEPTH: usize = 256;

/// Where in the input a value stands.
enum Step {
    Member(&'static str),
    Element(usize),
}

/// The way into a value: where it came from, and where in it we are, for error messages.
pub struct Input {
    keyval: bool,
    path: Vec<Step>,
    depth: usize,
}

impl Input {
    /// For a value read from JSON: types must match exactly.
    pub fn json() -> Input {
        Input { keyval: false, path: Vec::new(), depth: 0 }
    }

    /// For a value read from key=value text: every leaf is a string, converted to what its type asks for.
    pub fn keyval() -> Input {
        Input { keyval: true, path: Vec::new(), depth: 0 }
    }

    /// Whether leaves are strings to be converted.
    pub fn is_keyval(&self) -> bool {
        self.keyval
    }

    /// The path to the current value, e.g. `options[0].file.driver` (`options.0.file.driver` in key=value text).
    pub fn path(&self) -> String {
        let mut out = String::new();
        for step in &self.path {
            match step {
                Step::Member(name) => {
                    if !out.is_empty() {
                        out.push('.');
                    }
                    out.push_str(name);
                }
                Step::Element(i) if self.keyval => drop(write!(out, ".{i}")),
                Step::Element(i) => drop(write!(out, "[{i}]")),
            }
        }
        if out.is_empty() {
            out.push_str("<anonymous>");
        }
        out
    }

    /// What messages about enumerations and alternates say, which management tools know without the path: the member's own name.
    fn name(&self) -> &'static str {
        match self.path.last() {
            Some(Step::Member(name)) => name,
            _ => "null",
        }
    }

    fn path_with(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path()) }
    }

    /// The error for a value of the wrong type.
    pub fn wrong_type(&self, expected: &str) -> QError {
        qerr!("Invalid parameter type for '{}', expected: {expected}", self.path())
    }

    /// The error for a value that cannot be converted.
    pub fn expects(&self, what: &str) -> QError {
        qerr!("Parameter '{}' expects {what}", self.path())
    }

    /// A truth value.
    pub fn boolean(&self, value: &Value) -> Result<bool, QError> {
        match value {
            Value::Bool(b) if !self.keyval => Ok(*b),
            Value::Str(s) if self.keyval => match s.as_str() {
                "on" | "yes" | "true" | "y" => Ok(true),
                "off" | "no" | "false" | "n" => Ok(false),
                _ => Err(self.expects("'on' or 'off'")),
            },
            _ => Err(self.wrong_type("boolean")),
        }
    }

    /// A whole number with a sign.
    pub fn int(&self, value: &Value) -> Result<i64, QError> {
        match value {
            Value::Int(n) if !self.keyval => Ok(*n),
            Value::Str(s) if self.keyval => {
                parse_int(s).and_then(|n| i64::try_from(n).ok()).ok_or_else(|| self.expects("integer"))
            }
            _ => Err(self.wrong_type("integer")),
        }
    }

    /// A whole number without a sign.
    pub fn uint(&self, value: &Value) -> Result<u64, QError> {
        match value {
            Value::Str(s) if self.keyval => {
                parse_int(s).and_then(|n| u64::try_from(n).ok()).ok_or_else(|| self.expects("integer"))
            }
            _ if self.keyval => Err(self.wrong_type("integer")),
            v => v.as_u64().ok_or_else(|| self.expects("uint64")),
        }
    }

    /// A number of bytes: like [`Input::uint`], and in key=value text with the suffixes B, K, M, G, T, P and E.
    pub fn size(&self, value: &Value) -> Result<u64, QError> {
        match value {
            Value::Str(s) if self.keyval => base::units::parse_size(s, 1).map_err(|_| self.expects("size")),
            _ if self.keyval => Err(self.wrong_type("size")),
            v => self.uint(v),
        }
    }

    /// A number.
    pub fn number(&self, value: &Value) -> Result<f64, QError> {
        match value {
            Value::Str(s) if self.keyval => match s.trim_start().parse::<f64>() {
                Ok(n) if n.is_finite() => Ok(n),
                _ => Err(self.expects("number")),
            },
            v => v.as_f64().filter(|_| !self.keyval).ok_or_else(|| self.wrong_type("number")),
        }
    }

    /// A string.
    pub fn string(&self, value: Value) -> Result<String, QError> {
        match value {
            Value::Str(s) => Ok(s),
            _ => Err(self.wrong_type("string")),
        }
    }

    /// A value of the enumeration `T`.
    pub fn enumeration<T: crate::QapiEnum>(&self, value: Value) -> Result<T, QError> {
        let s = self.string(value)?;
        T::from_str(&s).ok_or_else(|| self.no_such_value(self.name(), &s))
    }

    /// The error for a value that is none of those that the enumeration `name` allows.
    pub fn no_such_value(&self, name: &str, value: &str) -> QError {
        qerr!("Parameter '{name}' does not accept value '{value}'")
    }

    /// `null`, which key=value text cannot say.
    pub fn null(&self, value: &Value) -> Result<(), QError> {
        if *value == Value::Null { Ok(()) } else { Err(self.wrong_type("null")) }
    }

    /// The error for a value that is none of those that the alternate called `alternate` allows.
    pub fn no_alternative(&self, alternate: &str) -> QError {
        qerr!("Invalid parameter type for '{}', expected: {alternate}", self.name())
    }

    /// A list.
    pub fn list<T: Qapi>(&mut self, value: Value) -> Result<Vec<T>, QError> {
        let Value::List(items) = value else {
            return Err(self.wrong_type("array"));
        };
        self.nested(|input| {
            let mut out = Vec::with_capacity(items.len().min(1024));
            for (i, item) in items.into_iter().enumerate() {
                input.path.push(Step::Element(i));
                let element = T::input(input, item);
                input.path.pop();
                out.push(element?);
            }
            Ok(out)
        })
    }

    /// A dictionary all of whose members `read` takes out; one that it leaves is an error.
    pub fn object<T>(
        &mut self,
        value: Value,
        read: impl FnOnce(&mut Input, &mut Dict) -> Result<T, QError>,
    ) -> Result<T, QError> {
        let Value::Dict(mut dict) = value else {
            return Err(self.wrong_type("object"));
        };
        self.nested(|input| {
            let out = read(input, &mut dict)?;
            match dict.keys().next() {
                None => Ok(out),
                Some(key) => Err(qerr!("Parameter '{}' is unexpected", input.path_with(key))),
            }
        })
    }

    fn nested<T>(&mut self, f: impl FnOnce(&mut Input) -> Result<T, QError>) -> Result<T, QError> {
        if self.depth == MAX_DEPTH {
            return Err(QError::new("Parameters are nested too deeply"));
        }
        self.depth += 1;
        let out = f(self);
        self.depth -= 1;
        out
    }

    /// A member that must be there.
    pub fn member<T: Qapi>(&mut self, dict: &mut Dict, name: &'static str) -> Result<T, QError> {
        self.member_with(dict, name, T::input)
    }

    /// A member that may be left out.
    pub fn optional<T: Qapi>(&mut self, dict: &mut Dict, name: &'static str) -> Result<Option<T>, QError> {
        self.optional_with(dict, name, T::input)
    }

    /// A member that must be there, read by `read`.
    pub fn member_with<T>(
        &mut self,
        dict: &mut Dict,
        name: &'static str,
        read: impl FnOnce(&mut Input, Value) -> Result<T, QError>,
    ) -> Result<T, QError> {
        match self.optional_with(dict, name, read)? {
            Some(v) => Ok(v),
            None => Err(qerr!("Parameter '{}' is missing", self.path_with(name))),
        }
    }

    /// A member that may be left out, read by `read`.
    pub fn optional_with<T>(
        &mut self,
        dict: &mut Dict,
        name: &'static str,
        read: impl FnOnce(&mut Input, Value) -> Result<T, QError>,
    ) -> Result<Option<T>, QError> {
        let Some(value) = dict.remove(name) else {
            return Ok(None);
        };
        self.path.push(Step::Member(name));
        let out = read(self, value);
        self.path.pop();
        out.map(Some)
    }
}

/// A whole number as the C library reads one with base 0: leading space, a sign, `0x` for hexadecimal, `0` for octal.
fn parse_int(text: &str) -> Option<i128> {
    let text = text.trim_start();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (digits, radix) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(rest) => (rest, 16),
        None if digits.len() > 1 && digits.starts_with('0') => (&digits[1..], 8),
        None => (digits, 10),
    };
    // The library function would take another sign.
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return None;
    }
    let n = i128::from(u64::from_str_radix(digits, radix).ok()?);
    Some(if negative { -n } else { n })
}
