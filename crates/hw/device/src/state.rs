//! Saved state: what a device tells about itself so that another process can take over.
//!
//! The schema of a state is a struct of its own, declared with [`saved_state!`](crate::saved_state): it is
//! published and versioned, and changes only by adding a version, whatever happens to the runtime struct.

use std::collections::BTreeMap;
use std::fmt;

/// A value in a saved state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// A number or a truth value.
    U64(u64),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A state inside a state.
    State(StateBlob),
    /// Several values.
    List(Vec<Field>),
}

/// The saved state of a device: the schema's name and version, and named fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateBlob {
    /// The schema's name.
    pub schema: String,
    /// The schema's version, from 1.
    pub version: u32,
    /// The fields by name.
    pub fields: BTreeMap<String, Field>,
}

/// Why a saved state cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateError(String);

impl StateError {
    /// An error with this text.
    pub fn new(text: impl Into<String>) -> StateError {
        StateError(text.into())
    }
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StateError {}

/// Limits on what is decoded.
const MAX_DEPTH: u32 = 16;

impl StateBlob {
    /// A state without fields.
    pub fn new(schema: &str, version: u32) -> StateBlob {
        StateBlob { schema: schema.into(), version, fields: BTreeMap::new() }
    }

    /// A state of a device that has none.
    pub fn empty(schema: &str) -> StateBlob {
        StateBlob::new(schema, 1)
    }

    /// Adds a field.
    pub fn set(&mut self, name: &str, value: impl StateField) {
        self.fields.insert(name.into(), value.to_field());
    }

    /// Reads a field.
    ///
    /// # Errors
    /// Where it is missing, of another type, or out of range.
    pub fn get<T: StateField>(&self, name: &str) -> Result<T, StateError> {
        let f = self.fields.get(name);
        let f = f.ok_or_else(|| StateError(format!("{}: field '{name}' is missing", self.schema)))?;
        T::from_field(f).map_err(|e| StateError(format!("{}.{name}: {e}", self.schema)))
    }

    /// Checks that this is a state of `schema` in a version from 1 to `version`, with no field that is not in
    /// `known`.
    ///
    /// # Errors
    /// If it is not.
    pub fn expect(&self, schema: &str, version: u32, known: &[&str]) -> Result<(), StateError> {
        if self.schema != schema {
            return Err(StateError(format!("state of '{}' where '{schema}' was expected", self.schema)));
        }
        if self.version == 0 || self.version > version {
            return Err(StateError(format!("{schema}: version {} is not supported", self.version)));
        }
        match self.fields.keys().find(|k| !known.contains(&k.as_str())) {
            Some(k) => Err(StateError(format!("{schema}: unknown field '{k}'"))),
            None => Ok(()),
        }
    }

    /// The state as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        encode_state(self, &mut out);
        out
    }

    /// The state from bytes.
    ///
    /// # Errors
    /// Where the bytes are not what [`StateBlob::encode`] gives. Never allocates more than a few times the input.
    pub fn decode(bytes: &[u8]) -> Result<StateBlob, StateError> {
        let mut r = Reader(bytes);
        let s = r.state(0)?;
        if r.0.is_empty() { Ok(s) } else { Err(StateError::new("bytes behind the saved state")) }
    }
}

fn put_len(n: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&(n as u32).to_le_bytes());
}

fn encode_state(s: &StateBlob, out: &mut Vec<u8>) {
    put_len(s.schema.len(), out);
    out.extend_from_slice(s.schema.as_bytes());
    out.extend_from_slice(&s.version.to_le_bytes());
    put_len(s.fields.len(), out);
    for (k, v) in &s.fields {
        put_len(k.len(), out);
        out.extend_from_slice(k.as_bytes());
        encode_field(v, out);
    }
}

fn encode_field(f: &Field, out: &mut Vec<u8>) {
    match f {
        Field::U64(v) => {
            out.push(1);
            out.extend_from_slice(&v.to_le_bytes());
        }
        Field::Bytes(b) => {
            out.push(2);
            put_len(b.len(), out);
            out.extend_from_slice(b);
        }
        Field::State(s) => {
            out.push(3);
            encode_state(s, out);
        }
        Field::List(l) => {
            out.push(4);
            put_len(l.len(), out);
            for f in l {
                encode_field(f, out);
            }
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], StateError> {
        let (head, rest) =
            self.0.split_at_checked(n).ok_or_else(|| StateError::new("the saved state is cut short"))?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StateError> {
        let mut a = [0; N];
        a.copy_from_slice(self.take(N)?);
        Ok(a)
    }

    fn u32(&mut self) -> Result<u32, StateError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<String, StateError> {
        let n = self.u32()? as usize;
        let b = self.take(n)?;
        String::from_utf8(b.to_vec()).map_err(|_| StateError::new("a name in the saved state is not text"))
    }

    fn state(&mut self, depth: u32) -> Result<StateBlob, StateError> {
        if depth > MAX_DEPTH {
            return Err(StateError::new("the saved state is nested too deeply"));
        }
        let schema = self.text()?;
        let version = self.u32()?;
        let n = self.u32()?;
        let mut fields = BTreeMap::new();
        for _ in 0..n {
            let name = self.text()?;
            let value = self.field(depth)?;
            if fields.insert(name, value).is_some() {
                return Err(StateError::new("a field stands twice in the saved state"));
            }
        }
        Ok(StateBlob { schema, version, fields })
    }

    fn field(&mut self, depth: u32) -> Result<Field, StateError> {
        if depth > MAX_DEPTH {
            return Err(StateError::new("the saved state is nested too deeply"));
        }
        Ok(match self.array::<1>()?[0] {
            1 => Field::U64(u64::from_le_bytes(self.array()?)),
            2 => {
                let n = self.u32()? as usize;
                Field::Bytes(self.take(n)?.to_vec())
            }
            3 => Field::State(self.state(depth + 1)?),
            4 => {
                let n = self.u32()?;
                // Grown as the bytes come, so that a length alone allocates nothing.
                let mut l = Vec::new();
                for _ in 0..n {
                    l.push(self.field(depth + 1)?);
                }
                Field::List(l)
            }
            _ => return Err(StateError::new("unknown field type in the saved state")),
        })
    }
}

/// A type that can stand in a saved state.
pub trait StateField: Sized {
    /// As a field.
    fn to_field(&self) -> Field;

    /// From a field.
    ///
    /// # Errors
    /// Where the field is of another type or out of range.
    fn from_field(f: &Field) -> Result<Self, StateError>;
}

macro_rules! ints {
    ($($t:ty),*) => { $(
        impl StateField for $t {
            fn to_field(&self) -> Field {
                Field::U64(u64::from(*self))
            }

            fn from_field(f: &Field) -> Result<$t, StateError> {
                match f {
                    Field::U64(v) => <$t>::try_from(*v).map_err(|_| StateError::new("value out of range")),
                    _ => Err(StateError::new("not a number")),
                }
            }
        }
    )* };
}
ints!(u16, u32, u64);

impl StateField for u8 {
    fn to_field(&self) -> Field {
        Field::U64(u64::from(*self))
    }

    fn from_field(f: &Field) -> Result<u8, StateError> {
        u8::try_from(u64::from_field(f)?).map_err(|_| StateError::new("value out of range"))
    }
}

impl StateField for bool {
    fn to_field(&self) -> Field {
        Field::U64(u64::from(*self))
    }

    fn from_field(f: &Field) -> Result<bool, StateError> {
        match u64::from_field(f)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(StateError::new("value out of range")),
        }
    }
}

impl StateField for i64 {
    fn to_field(&self) -> Field {
        Field::U64(*self as u64)
    }

    fn from_field(f: &Field) -> Result<i64, StateError> {
        Ok(u64::from_field(f)? as i64)
    }
}

impl StateField for StateBlob {
    fn to_field(&self) -> Field {
        Field::State(self.clone())
    }

    fn from_field(f: &Field) -> Result<StateBlob, StateError> {
        match f {
            Field::State(s) => Ok(s.clone()),
            _ => Err(StateError::new("not a state")),
        }
    }
}

/// Bytes in a saved state (a `Vec<u8>` would be a list of numbers).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateBytes(pub Vec<u8>);

impl StateField for StateBytes {
    fn to_field(&self) -> Field {
        Field::Bytes(self.0.clone())
    }

    fn from_field(f: &Field) -> Result<StateBytes, StateError> {
        match f {
            Field::Bytes(b) => Ok(StateBytes(b.clone())),
            _ => Err(StateError::new("not bytes")),
        }
    }
}

impl StateField for String {
    fn to_field(&self) -> Field {
        Field::Bytes(self.clone().into_bytes())
    }

    fn from_field(f: &Field) -> Result<String, StateError> {
        String::from_utf8(StateBytes::from_field(f)?.0).map_err(|_| StateError::new("not text"))
    }
}

impl<T: StateField> StateField for Vec<T> {
    fn to_field(&self) -> Field {
        Field::List(self.iter().map(T::to_field).collect())
    }

    fn from_field(f: &Field) -> Result<Vec<T>, StateError> {
        match f {
            Field::List(l) => l.iter().map(T::from_field).collect(),
            _ => Err(StateError::new("not a list")),
        }
    }
}

impl<T: StateField, const N: usize> StateField for [T; N] {
    fn to_field(&self) -> Field {
        Field::List(self.iter().map(T::to_field).collect())
    }

    fn from_field(f: &Field) -> Result<[T; N], StateError> {
        Vec::from_field(f)?.try_into().map_err(|_| StateError::new("a list of another length"))
    }
}

impl<T: StateField> StateField for Option<T> {
    fn to_field(&self) -> Field {
        Field::List(self.iter().map(T::to_field).collect())
    }

    fn from_field(f: &Field) -> Result<Option<T>, StateError> {
        let mut l = Vec::from_field(f)?;
        if l.len() > 1 { Err(StateError::new("more than one value")) } else { Ok(l.pop()) }
    }
}

/// Declares the published schema of a saved state: a struct whose fields all are [`StateField`]s, with
/// `to_blob()` and `from_blob(&StateBlob)`. Nested schemas are fields too.
///
/// ```
/// device::saved_state! {
///     /// A counter's state.
///     pub struct CounterState: "counter", 1 {
///         /// The count.
///         pub count: u32,
///         /// Whether it overflowed.
///         pub overflow: bool,
///     }
/// }
/// let s = CounterState { count: 7, overflow: false };
/// assert_eq!(CounterState::from_blob(&s.to_blob()).unwrap(), s);
/// ```
#[macro_export]
macro_rules! saved_state {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident: $schema:literal, $version:literal {
            $($(#[$fmeta:meta])* $fvis:vis $field:ident: $ty:ty),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        $vis struct $name {
            $($(#[$fmeta])* $fvis $field: $ty,)*
        }

        impl $name {
            /// The schema's name.
            #[allow(dead_code, reason = "a part of another state needs no name of its own")]
            $vis const SCHEMA: &'static str = $schema;
            /// The schema's version.
            #[allow(dead_code, reason = "a part of another state needs no name of its own")]
            $vis const VERSION: u32 = $version;

            /// As a blob.
            $vis fn to_blob(&self) -> $crate::StateBlob {
                #[allow(unused_mut, reason = "a state without fields")]
                let mut b = $crate::StateBlob::new($schema, $version);
                $(b.fields.insert(
                    stringify!($field).to_owned(),
                    $crate::StateField::to_field(&self.$field),
                );)*
                b
            }

            /// From a blob.
            ///
            /// # Errors
            /// A blob of another schema or version, or with missing, unknown or impossible fields.
            $vis fn from_blob(b: &$crate::StateBlob) -> ::std::result::Result<Self, $crate::StateError> {
                b.expect($schema, $version, &[$(stringify!($field)),*])?;
                Ok(Self { $($field: b.get(stringify!($field))?,)* })
            }
        }

        impl $crate::StateField for $name {
            fn to_field(&self) -> $crate::Field {
                $crate::Field::State(self.to_blob())
            }

            fn from_field(f: &$crate::Field) -> ::std::result::Result<Self, $crate::StateError> {
                Self::from_blob(&<$crate::StateBlob as $crate::StateField>::from_field(f)?)
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    saved_state! {
        struct Inner: "inner", 1 {
            v: u16,
        }
    }

    saved_state! {
        struct Outer: "outer", 2 {
            a: u8,
            b: Option<u64>,
            c: Vec<Inner>,
            d: [u32; 3],
            e: String,
            f: bool,
            g: StateBytes,
        }
    }

    fn sample() -> Outer {
        Outer {
            a: 3,
            b: Some(u64::MAX),
            c: vec![Inner { v: 1 }, Inner { v: 2 }],
            d: [1, 2, 3],
            e: "text".into(),
            f: true,
            g: StateBytes(vec![1, 2]),
        }
    }

    #[test]
    fn a_state_survives_its_encoding() {
        let blob = sample().to_blob();
        let back = StateBlob::decode(&blob.encode()).unwrap();
        assert_eq!(back, blob);
        assert_eq!(Outer::from_blob(&back).unwrap(), sample());
    }

    #[test]
    fn wrong_states_are_refused() {
        let good = sample().to_blob();
        let mut b = good.clone();
        b.version = 3;
        assert_eq!(Outer::from_blob(&b).unwrap_err().to_string(), "outer: version 3 is not supported");
        let mut b = good.clone();
        b.set("a", 256u32);
        assert_eq!(Outer::from_blob(&b).unwrap_err().to_string(), "outer.a: value out of range");
        let mut b = good.clone();
        b.set("zzz", 0u8);
        assert_eq!(Outer::from_blob(&b).unwrap_err().to_string(), "outer: unknown field 'zzz'");
        let mut b = good.clone();
        b.fields.remove("f");
        assert_eq!(Outer::from_blob(&b).unwrap_err().to_string(), "outer: field 'f' is missing");
        assert!(Inner::from_blob(&good).is_err());
        assert!(Outer::from_blob(&StateBlob::empty("outer")).is_err());
    }

    #[test]
    fn every_cut_or_bent_encoding_is_an_error_or_another_state_but_no_panic() {
        let bytes = sample().to_blob().encode();
        for n in 0..bytes.len() {
            assert!(StateBlob::decode(&bytes[..n]).is_err());
            for bit in 0..8 {
                let mut b = bytes.clone();
                b[n] ^= 1 << bit;
                if let Ok(s) = StateBlob::decode(&b) {
                    let _ = Outer::from_blob(&s);
                }
            }
        }
        let mut deep = Vec::new();
        put_len(0, &mut deep);
        deep.extend_from_slice(&[1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        for _ in 0..100_000 {
            deep.push(4);
            put_len(1, &mut deep);
        }
        assert!(StateBlob::decode(&deep).is_err());
    }
}
