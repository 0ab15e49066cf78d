//! The contract, told by itself.

use qapi::{Introspection, QError, Qapi, from_json};

/// The kind of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Qapi)]
pub enum SchemaMetaType {
    /// A type built in.
    Builtin,
    /// An enumeration.
    Enum,
    /// A list.
    Array,
    /// An object.
    Object,
    /// One of several types.
    Alternate,
    /// A command.
    Command,
    /// An event.
    Event,
}

/// A kind of value in JSON's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Qapi)]
pub enum JSONType {
    /// A string.
    String,
    /// A number.
    Number,
    /// A whole number.
    Int,
    /// `true` or `false`.
    Boolean,
    /// `null`.
    Null,
    /// An object.
    Object,
    /// A list.
    Array,
    /// Anything.
    Value,
}

/// An entry: a type, a command or an event.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct SchemaInfo {
    /// Its name. Names of types other than built-in ones have no meaning and change from version to version.
    pub name: String,
    /// What only its kind has.
    #[qapi(union)]
    pub meta_type: SchemaInfoKind,
    /// Its special features.
    pub features: Option<Vec<String>>,
}

/// What only one kind of entry has.
#[derive(Clone, Debug, PartialEq, Qapi)]
#[qapi(tag = "meta-type", tag_type = SchemaMetaType)]
pub enum SchemaInfoKind {
    /// A type built in.
    Builtin(SchemaInfoBuiltin),
    /// An enumeration.
    Enum(SchemaInfoEnum),
    /// A list.
    Array(SchemaInfoArray),
    /// An object.
    Object(SchemaInfoObject),
    /// One of several types.
    Alternate(SchemaInfoAlternate),
    /// A command.
    Command(SchemaInfoCommand),
    /// An event.
    Event(SchemaInfoEvent),
}

/// A type built in.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct SchemaInfoBuiltin {
    /// Its kind of value.
    pub json_type: JSONType,
}

/// An enumeration.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct SchemaInfoEnum {
    /// Its values.
    pub members: Vec<SchemaInfoEnumMember>,
    /// Their names alone.
    #[qapi(deprecated)]
    pub values: Vec<String>,
}

/// A value of an enumeration.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct SchemaInfoEnumMember {
    /// Its name.
    pub name: String,
    /// Its special features.
    pub features: Option<Vec<String>>,
}

/// A list.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct SchemaInfoArray {
    /// The name of its elements' type.
    pub element_type: String,
}

/// An object.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct SchemaInfoObject {
    /// Its members, without those of branches.
    pub members: Vec<SchemaInfoObjectMember>,
    /// The member whose value decides about the branch.
    pub tag: Option<String>,
    /// Its branches; only with `tag`.
    pub variants: Option<Vec<SchemaInfoObjectVariant>>,
}

/// A member of an object.
#[derive(Clone, Debug, PartialEq, Qapi)]
pub struct SchemaInfoObjectMember {
    /// Its name.
    pub name: String,
    /// The name of its type.
    pub r#type: String,
    /// There when the member may be left out; null when leaving it out is not the same as giving some value.
    pub default: Option<qapi::Value>,
    /// Its special features.
    pub features: Option<Vec<String>>,
}

/// A branch of an object.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct SchemaInfoObjectVariant {
    /// The tag's value.
    pub case: String,
    /// The name of the type whose members it adds.
    pub r#type: String,
}

/// One of several types.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct SchemaInfoAlternate {
    /// The types.
    pub members: Vec<SchemaInfoAlternateMember>,
}

/// A type of an alternate.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct SchemaInfoAlternateMember {
    /// The type's name.
    pub r#type: String,
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct SchemaInfoCommand {
    /// The name of the type of its arguments: an object.
    pub arg_type: String,
    /// The name of the type that it returns.
    pub ret_type: String,
    /// Whether it may run out of band. No unless given.
    pub allow_oob: Option<bool>,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct SchemaInfoEvent {
    /// The name of the type of its data: an object.
    pub arg_type: String,
}

/// Tells which commands and events there are, and their types.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
#[qapi(command = "query-qmp-schema", ret = Vec<SchemaInfo>, allow_preconfig)]
pub struct QueryQmpSchema;

/// The reply to `query-qmp-schema` for what `introspection` has collected.
pub fn schema_info(introspection: &Introspection) -> Result<Vec<SchemaInfo>, QError> {
    from_json(introspection.finish())
}
