//! What a QAPI type, command and event is to the rest of the program.

use crate::schema::{ObjectBuilder, Schema, TypeRef};
use crate::visit::Input;
use crate::{Dict, QError, Value};
use std::sync::Arc;

/// The kind of value that a type is read from; alternates choose by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A dictionary.
    Object,
    /// A list.
    Array,
    /// A string: plain or one of an enumeration.
    String,
    /// A truth value.
    Bool,
    /// A whole number.
    Int,
    /// A number.
    Number,
    /// `null`.
    Null,
    /// Anything.
    Any,
}

impl Kind {
    /// Whether an alternate's branch of this kind takes `value`, read from JSON or (`keyval`) from key=value text.
    pub fn takes(self, value: &Value, keyval: bool) -> bool {
        match (self, value) {
            (Kind::Any, _)
            | (Kind::Object, Value::Dict(_))
            | (Kind::Array, Value::List(_))
            | (Kind::String, Value::Str(_))
            | (Kind::Bool, Value::Bool(_))
            | (Kind::Int, Value::Int(_) | Value::Uint(_))
            | (Kind::Number, Value::Int(_) | Value::Uint(_) | Value::Num(_))
            | (Kind::Null, Value::Null) => true,
            (Kind::Bool, Value::Str(s)) if keyval => {
                matches!(s.as_str(), "on" | "off" | "yes" | "no" | "true" | "false")
            }
            (Kind::Int | Kind::Number, Value::Str(s)) if keyval => {
                s.trim_start().trim_start_matches(['-', '+']).starts_with(|c: char| c.is_ascii_digit())
            }
            _ => false,
        }
    }
}

/// A type of the contract: read from input, written to output, and told about in introspection.
///
/// `#[derive(Qapi)]` implements it; see the crate's documentation for the attributes.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a type of the QAPI contract",
    note = "`#[derive(Qapi)]` makes it one"
)]
pub trait Qapi: Sized + 'static {
    /// The kind of value that it is read from.
    const KIND: Kind;

    /// Reads it, strictly.
    fn input(input: &mut Input, value: Value) -> Result<Self, QError>;

    /// Writes it; members that are `None` are left out.
    fn output(&self) -> Value;

    /// Its introspection.
    fn schema(schema: &mut Schema) -> TypeRef;
}

/// A type that is a set of members, which may stand among those of another type.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a set of QAPI members",
    note = "only a struct with named fields or a tagged union can be flattened or be a union's branch"
)]
pub trait Members: Qapi {
    /// Takes its members out of `dict`.
    fn input_members(input: &mut Input, dict: &mut Dict) -> Result<Self, QError>;

    /// Puts its members into `dict`.
    fn output_members(&self, dict: &mut Dict);

    /// Tells its members.
    fn schema_members(schema: &mut Schema, object: &mut ObjectBuilder);
}

/// Members that depend on the value of one of them, the tag.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a tagged QAPI union",
    note = "an enum with `#[qapi(tag = \"…\", tag_enum = \"…\")]` is one"
)]
pub trait Union: Members {
    /// The tag's type.
    type Tag: QapiEnum;
    /// The tag's name.
    const TAG: &'static str;

    /// The tag of the branch that it is.
    fn tag(&self) -> Self::Tag;

    /// Takes the members of the branch `tag` out of `dict`.
    fn input_branch(input: &mut Input, tag: Self::Tag, dict: &mut Dict) -> Result<Self, QError>;

    /// Puts the members of its branch, not the tag, into `dict`.
    fn output_branch(&self, dict: &mut Dict);

    /// Tells the branches.
    fn schema_branches(schema: &mut Schema, object: &mut ObjectBuilder);
}

/// An enumeration of names.
pub trait QapiEnum: Qapi + Copy {
    /// The names in order.
    const NAMES: &'static [&'static str];
    /// The values in the same order.
    const ALL: &'static [Self];

    /// The name.
    fn as_str(self) -> &'static str;

    /// The value called `name`.
    fn from_str(name: &str) -> Option<Self>;
}

/// A command: the type is its arguments.
pub trait Command: Qapi {
    /// What it returns when it succeeds.
    type Ret: Qapi;
    /// Its name.
    const NAME: &'static str;
    /// Whether it may run out of band.
    const ALLOW_OOB: bool;
    /// Whether it may run before the machine is built.
    const ALLOW_PRECONFIG: bool;
    /// Its special features.
    const FEATURES: &'static [&'static str];
    /// Its description, for the reference manual.
    const DOC: &'static str;
}

/// An event: the type is its data.
pub trait Event: Qapi {
    /// Its name.
    const NAME: &'static str;
    /// Its special features.
    const FEATURES: &'static [&'static str];
    /// Its description, for the reference manual.
    const DOC: &'static str;
}

impl Qapi for bool {
    const KIND: Kind = Kind::Bool;

    fn input(input: &mut Input, value: Value) -> Result<Self, QError> {
        input.boolean(&value)
    }

    fn output(&self) -> Value {
        Value::Bool(*self)
    }

    fn schema(schema: &mut Schema) -> TypeRef {
        schema.builtin("bool", "boolean")
    }
}

impl Qapi for String {
    const KIND: Kind = Kind::String;

    fn input(input: &mut Input, value: Value) -> Result<Self, QError> {
        input.string(value)
    }

    fn output(&self) -> Value {
        Value::Str(self.clone())
    }

    fn schema(schema: &mut Schema) -> TypeRef {
        schema.builtin("str", "string")
    }
}

impl Qapi for f64 {
    const KIND: Kind = Kind::Number;

    fn input(input: &mut Input, value: Value) -> Result<Self, QError> {
        input.number(&value)
    }

    fn output(&self) -> Value {
        Value::Num(*self)
    }

    fn schema(schema: &mut Schema) -> TypeRef {
        schema.builtin("number", "number")
    }
}

macro_rules! integers {
    ($($t:ty: $read:ident, $name:literal;)*) => { $(impl Qapi for $t {
        const KIND: Kind = Kind::Int;

        fn input(input: &mut Input, value: Value) -> Result<Self, QError> {
            <$t>::try_from(input.$read(&value)?).map_err(|_| input.expects($name))
        }

        fn output(&self) -> Value {
            Value::from(*self)
        }

        fn schema(schema: &mut Schema) -> TypeRef {
            schema.builtin("int", "int")
        }
    })* };
}

integers! {
    i8: int, "int8_t";
    i16: int, "int16_t";
    i32: int, "int32_t";
    i64: int, "integer";
    u8: uint, "uint8_t";
    u16: uint, "uint16_t";
    u32: uint, "uint32_t";
    u64: uint, "uint64";
}

impl Qapi for Value {
    const KIND: Kind = Kind::Any;

    fn input(_: &mut Input, value: Value) -> Result<Self, QError> {
        Ok(value)
    }

    fn output(&self) -> Value {
        self.clone()
    }

    fn schema(schema: &mut Schema) -> TypeRef {
        schema.builtin("any", "value")
    }
}

/// An object without members: a command that returns nothing.
impl Qapi for () {
    const KIND: Kind = Kind::Object;

    fn input(input: &mut Input, value: Value) -> Result<Self, QError> {
        input.object(value, |_, _| Ok(()))
    }

    fn output(&self) -> Value {
        Value::Dict(Dict::new())
    }

    fn schema(schema: &mut Schema) -> TypeRef {
        schema.empty()
    }
}

impl<T: Qapi> Qapi for Vec<T> {
    const KIND: Kind = Kind::Array;

    fn input(input: &mut Input, value: Value) -> Result<Self, QError> {
        input.list(value)
    }

    fn output(&self) -> Value {
        Value::List(self.iter().map(T::output).collect())
    }

    fn schema(schema: &mut Schema) -> TypeRef {
        let element = T::schema(schema);
        schema.array(element)
    }
}

impl<T: Qapi> Qapi for Box<T> {
    const KIND: Kind = T::KIND;

    fn input(input: &mut Input, value: Value) -> Result<Self, QError> {
        T::input(input, value).map(Box::new)
    }

    fn output(&self) -> Value {
        T::output(self)
    }

    fn schema(schema: &mut Schema) -> TypeRef {
        T::schema(schema)
    }
}

impl<T: Qapi> Qapi for Arc<T> {
    const KIND: Kind = T::KIND;

    fn input(input: &mut Input, value: Value) -> Result<Self, QError> {
        T::input(input, value).map(Arc::new)
    }

    fn output(&self) -> Value {
        T::output(self)
    }

    fn schema(schema: &mut Schema) -> TypeRef {
        T::schema(schema)
    }
}

impl<T: Members> Members for Box<T> {
    fn input_members(input: &mut Input, dict: &mut Dict) -> Result<Self, QError> {
        T::input_members(input, dict).map(Box::new)
    }

    fn output_members(&self, dict: &mut Dict) {
        T::output_members(self, dict);
    }

    fn schema_members(schema: &mut Schema, object: &mut ObjectBuilder) {
        T::schema_members(schema, object);
    }
}

/// Reads a `T` from a JSON value.
pub fn from_json<T: Qapi>(value: Value) -> Result<T, QError> {
    T::input(&mut Input::json(), value)
}

/// Reads a `T` from the dictionary that [`crate::keyval_parse`] made.
pub fn from_keyval_dict<T: Qapi>(dict: Dict) -> Result<T, QError> {
    T::input(&mut Input::keyval(), Value::Dict(dict))
}

/// Reads a `T` from key=value text; `implied_key` is the key of a first value that has none.
pub fn from_keyval<T: Qapi>(text: &str, implied_key: Option<&str>) -> Result<T, QError> {
    from_keyval_dict(crate::keyval_parse(text, implied_key)?)
}

/// Reads a `T` from an option's argument: JSON if it starts with `{`, key=value text otherwise.
pub fn from_arg<T: Qapi>(text: &str, implied_key: Option<&str>) -> Result<T, QError> {
    if text.starts_with('{') { from_json(Value::parse_json(text)?) } else { from_keyval(text, implied_key) }
}

/// The value of a `T`.
pub fn to_value<T: Qapi>(v: &T) -> Value {
    v.output()
}
