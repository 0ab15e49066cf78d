//! Values: what JSON text and key=value text are read into, before a type is known.

use std::borrow::Cow;
use std::collections::HashMap;

/// A value of the management protocol.
///
/// Whole numbers keep all 64 bits: [`Value::Int`] holds those of `i64`, [`Value::Uint`] only those above
/// `i64::MAX`, so that equal numbers are equal values. [`Value::Num`] is never infinite or NaN when it was read from text.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// `null`.
    #[default]
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number in the range of `i64`.
    Int(i64),
    /// A whole number above `i64::MAX`.
    Uint(u64),
    /// Any other number.
    Num(f64),
    /// A string.
    Str(String),
    /// A list.
    List(Vec<Value>),
    /// A dictionary.
    Dict(Dict),
}

impl Value {
    /// The string, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        if let Value::Str(s) = self { Some(s) } else { None }
    }

    /// The truth value, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        if let Value::Bool(b) = self { Some(*b) } else { None }
    }

    /// The number, if it is whole and in the range of `i64`.
    pub fn as_i64(&self) -> Option<i64> {
        if let Value::Int(n) = self { Some(*n) } else { None }
    }

    /// The number, if it is whole and in the range of `u64`.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Value::Int(n) => u64::try_from(*n).ok(),
            Value::Uint(n) => Some(*n),
            _ => None,
        }
    }

    /// The number, if it is one; whole numbers are rounded where 53 bits do not hold them.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Int(n) => Some(*n as f64),
            Value::Uint(n) => Some(*n as f64),
            Value::Num(n) => Some(*n),
            _ => None,
        }
    }

    /// The elements, if it is a list.
    pub fn as_list(&self) -> Option<&[Value]> {
        if let Value::List(l) = self { Some(l) } else { None }
    }

    /// The dictionary, if it is one.
    pub fn as_dict(&self) -> Option<&Dict> {
        if let Value::Dict(d) = self { Some(d) } else { None }
    }

    /// The member `key`, if it is a dictionary that has one.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.as_dict()?.get(key)
    }
}

impl From<bool> for Value {
    fn from(v: bool) -> Value {
        Value::Bool(v)
    }
}

impl From<f64> for Value {
    fn from(v: f64) -> Value {
        Value::Num(v)
    }
}

impl From<&str> for Value {
    fn from(v: &str) -> Value {
        Value::Str(v.to_owned())
    }
}

impl From<String> for Value {
    fn from(v: String) -> Value {
        Value::Str(v)
    }
}

impl From<u64> for Value {
    fn from(v: u64) -> Value {
        i64::try_from(v).map_or(Value::Uint(v), Value::Int)
    }
}

macro_rules! from_int {
    ($($t:ty)*) => { $(impl From<$t> for Value {
        fn from(v: $t) -> Value {
            Value::Int(i64::from(v))
        }
    })* };
}
from_int!(i8 i16 i32 i64 u8 u16 u32);

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(v: Vec<T>) -> Value {
        Value::List(v.into_iter().map(Into::into).collect())
    }
}

impl From<Dict> for Value {
    fn from(v: Dict) -> Value {
        Value::Dict(v)
    }
}

/// A member.
type Entry = (Cow<'static, str>, Value);

/// From this many members on, keys are looked up by hash.
const INDEX_FROM: usize = 24;

/// A map from strings to values that keeps the order in which its members were inserted.
///
/// Two are equal if they have the same members, in whatever order. Small ones, which is nearly all, are searched linearly; large
/// ones keep a hash index, so that input made to be slow is not.
#[derive(Clone, Debug, Default)]
pub struct Dict {
    entries: Vec<Entry>,
    index: Option<HashMap<String, usize>>,
}

impl Dict {
    /// An empty one.
    pub fn new() -> Dict {
        Dict::default()
    }

    /// An empty one with room for `members`.
    pub fn with_capacity(members: usize) -> Dict {
        Dict { entries: Vec::with_capacity(members), index: None }
    }

    /// How many members it has.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn position(&self, key: &str) -> Option<usize> {
        match &self.index {
            Some(index) => index.get(key).copied(),
            None => self.entries.iter().position(|(k, _)| k == key),
        }
    }

    /// The member `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.position(key).map(|i| &self.entries[i].1)
    }

    /// The member `key`, to be changed.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        self.position(key).map(|i| &mut self.entries[i].1)
    }

    /// Whether it has a member `key`.
    pub fn contains_key(&self, key: &str) -> bool {
        self.position(key).is_some()
    }

    /// Sets the member `key`, at its old place where it had one; returns its old value.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Option<Value> {
        self.set(Cow::Owned(key.into()), value.into())
    }

    /// [`Dict::insert`] with a key that need not be copied.
    pub fn put(&mut self, key: &'static str, value: impl Into<Value>) -> Option<Value> {
        self.set(Cow::Borrowed(key), value.into())
    }

    fn set(&mut self, key: Cow<'static, str>, value: Value) -> Option<Value> {
        if let Some(i) = self.position(&key) {
            return Some(std::mem::replace(&mut self.entries[i].1, value));
        }
        if let Some(index) = &mut self.index {
            index.insert(key.clone().into_owned(), self.entries.len());
        }
        self.entries.push((key, value));
        if self.index.is_none() && self.entries.len() >= INDEX_FROM {
            let numbered = self.entries.iter().enumerate();
            self.index = Some(numbered.map(|(i, (k, _))| (k.clone().into_owned(), i)).collect());
        }
        None
    }

    /// Takes the member `key` out; the others keep their order.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.position(key)?;
        let (_, value) = self.entries.remove(at);
        if let Some(index) = &mut self.index {
            index.remove(key);
            for i in index.values_mut().filter(|i| **i > at) {
                *i -= 1;
            }
        }
        Some(value)
    }

    /// The members in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(k, v)| (&**k, v))
    }

    /// The keys in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(k, _)| &**k)
    }
}

impl PartialEq for Dict {
    fn eq(&self, other: &Dict) -> bool {
        self.len() == other.len() && self.iter().all(|(k, v)| other.get(k) == Some(v))
    }
}

impl<K: Into<String>, V: Into<Value>> FromIterator<(K, V)> for Dict {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(iter: I) -> Dict {
        let mut d = Dict::new();
        for (k, v) in iter {
            d.insert(k, v);
        }
        d
    }
}

/// Sets all of them, each at its old place where it had one.
impl<K: Into<String>, V: Into<Value>> Extend<(K, V)> for Dict {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, iter: I) {
        for (k, v) in iter {
            self.insert(k, v);
        }
    }
}

impl IntoIterator for Dict {
    type Item = (String, Value);
    type IntoIter = std::iter::Map<std::vec::IntoIter<Entry>, fn(Entry) -> (String, Value)>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter().map(|(k, v)| (k.into_owned(), v))
    }
}

/// The leaves of a value with their dotted path, e.g. `file.driver`; list elements are numbered (`children.0`).
///
/// An empty list or dictionary inside it has no leaves and so leaves nothing; a value that is itself a leaf gets the path "".
pub fn flatten(value: &Value) -> Vec<(String, Value)> {
    fn walk(value: &Value, path: &mut String, out: &mut Vec<(String, Value)>) {
        let len = path.len();
        let mut child = |path: &mut String, key: &dyn std::fmt::Display, v: &Value| {
            use std::fmt::Write as _;
            if len > 0 {
                path.push('.');
            }
            // Writing to a String cannot fail.
            let _ = write!(path, "{key}");
            walk(v, path, out);
            path.truncate(len);
        };
        match value {
            Value::Dict(d) => d.iter().for_each(|(k, v)| child(path, &k, v)),
            Value::List(l) => l.iter().enumerate().for_each(|(i, v)| child(path, &i, v)),
            leaf => out.push((path.clone(), leaf.clone())),
        }
    }
    let mut out = Vec::new();
    walk(value, &mut String::new(), &mut out);
    out
}
