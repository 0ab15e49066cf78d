//! Introspection: what `query-qmp-schema` tells, and what the reference manual is made from.
//!
//! Type names are not part of the contract. On the wire a type of ours is called by a number, given in the order in which
//! types are first met; built-in types keep their names, and a list of `N` is called `[N]`.

use std::any::TypeId;
use std::collections::HashMap;

use crate::{Command, Dict, Event, Qapi, Value};

/// A type in a [`Schema`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TypeRef(usize);

/// A type's definition.
#[derive(Clone, Debug, Default)]
pub struct TypeDef {
    /// Its name in the source; not on the wire.
    pub name: String,
    /// Its special features.
    pub features: &'static [&'static str],
    /// Its description.
    pub doc: &'static str,
    /// What it is.
    pub shape: Shape,
}

/// What a type is.
#[derive(Clone, Debug, Default)]
pub enum Shape {
    /// Being defined.
    #[default]
    Undefined,
    /// Built in, with its name in JSON's terms.
    Builtin(&'static str),
    /// A list.
    Array(TypeRef),
    /// Names.
    Enum(Vec<NameDef>),
    /// Members and, under a tag, branches.
    Object(ObjectBuilder),
    /// One of several types.
    Alternate(Vec<TypeRef>),
}

/// A value of an enumeration.
#[derive(Clone, Debug)]
pub struct NameDef {
    /// Its name.
    pub name: &'static str,
    /// Its special features.
    pub features: &'static [&'static str],
    /// Its description.
    pub doc: &'static str,
}

/// A member of an object.
#[derive(Clone, Debug)]
pub struct MemberDef {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub ty: TypeRef,
    /// Whether it may be left out.
    pub optional: bool,
    /// Its special features.
    pub features: &'static [&'static str],
    /// Its description.
    pub doc: &'static str,
}

/// An object as it is being put together.
#[derive(Clone, Debug, Default)]
pub struct ObjectBuilder {
    /// Its members.
    pub members: Vec<MemberDef>,
    /// The member that decides about the branch.
    pub tag: Option<&'static str>,
    /// The branches: the tag's value, and the type of the members that it adds.
    pub branches: Vec<(&'static str, TypeRef)>,
}

impl ObjectBuilder {
    /// Adds a member.
    pub fn member(
        &mut self,
        name: &'static str,
        ty: TypeRef,
        optional: bool,
        features: &'static [&'static str],
        doc: &'static str,
    ) {
        self.members.push(MemberDef { name, ty, optional, features, doc });
    }

    /// Adds a branch.
    pub fn branch(&mut self, case: &'static str, ty: TypeRef) {
        self.branches.push((case, ty));
    }
}

/// All types met so far.
#[derive(Debug, Default)]
pub struct Schema {
    types: Vec<TypeDef>,
    named: HashMap<TypeId, TypeRef>,
    builtins: HashMap<&'static str, TypeRef>,
    arrays: HashMap<TypeRef, TypeRef>,
    wrappers: HashMap<TypeRef, TypeRef>,
    empty: Option<TypeRef>,
}

impl Schema {
    /// One without types.
    pub fn new() -> Schema {
        Schema::default()
    }

    /// The definition of a type.
    pub fn get(&self, ty: TypeRef) -> &TypeDef {
        &self.types[ty.0]
    }

    fn add(&mut self, def: TypeDef) -> TypeRef {
        self.types.push(def);
        TypeRef(self.types.len() - 1)
    }

    /// The built-in type `name`.
    pub fn builtin(&mut self, name: &'static str, json: &'static str) -> TypeRef {
        if let Some(&ty) = self.builtins.get(name) {
            return ty;
        }
        let ty = self.add(TypeDef { name: name.into(), shape: Shape::Builtin(json), ..TypeDef::default() });
        self.builtins.insert(name, ty);
        ty
    }

    /// `null`.
    pub fn null(&mut self) -> TypeRef {
        self.builtin("null", "null")
    }

    /// The object without members.
    pub fn empty(&mut self) -> TypeRef {
        if let Some(ty) = self.empty {
            return ty;
        }
        let shape = Shape::Object(ObjectBuilder::default());
        let ty = self.add(TypeDef { name: "Empty".into(), shape, ..TypeDef::default() });
        self.empty = Some(ty);
        ty
    }

    /// A list.
    pub fn array(&mut self, element: TypeRef) -> TypeRef {
        if let Some(&ty) = self.arrays.get(&element) {
            return ty;
        }
        let name = format!("[{}]", self.get(element).name);
        let ty = self.add(TypeDef { name, shape: Shape::Array(element), ..TypeDef::default() });
        self.arrays.insert(element, ty);
        ty
    }

    /// An object whose one member `name` is a `T`.
    pub fn wrapper<T: Qapi>(&mut self, name: &'static str) -> TypeRef {
        let inner = T::schema(self);
        if let Some(&ty) = self.wrappers.get(&inner) {
            return ty;
        }
        let mut object = ObjectBuilder::default();
        object.member(name, inner, false, &[], "");
        let def = TypeDef {
            name: format!("{}Wrapper", self.get(inner).name),
            shape: Shape::Object(object),
            ..TypeDef::default()
        };
        let ty = self.add(def);
        self.wrappers.insert(inner, ty);
        ty
    }

    /// The type `T`, whose shape `define` tells when it was not met before. It may refer to itself.
    pub fn define<T: 'static>(
        &mut self,
        name: &str,
        features: &'static [&'static str],
        doc: &'static str,
        define: impl FnOnce(&mut Schema) -> Shape,
    ) -> TypeRef {
        let id = TypeId::of::<T>();
        if let Some(&ty) = self.named.get(&id) {
            return ty;
        }
        let ty = self.add(TypeDef { name: name.into(), features, doc, shape: Shape::Undefined });
        self.named.insert(id, ty);
        let shape = define(self);
        self.types[ty.0].shape = shape;
        ty
    }

    /// The object `T`.
    pub fn object<T: crate::Members>(
        &mut self,
        name: &str,
        features: &'static [&'static str],
        doc: &'static str,
    ) -> TypeRef {
        self.define::<T>(name, features, doc, |schema| {
            let mut object = ObjectBuilder::default();
            T::schema_members(schema, &mut object);
            Shape::Object(object)
        })
    }

    /// The members of a union: its tag, described by `doc`, and the branches.
    pub fn union<T: crate::Union>(&mut self, object: &mut ObjectBuilder, doc: &'static str) {
        let tag = T::Tag::schema(self);
        object.member(T::TAG, tag, false, &[], doc);
        object.tag = Some(T::TAG);
        T::schema_branches(self, object);
    }
}

/// Puts together what `query-qmp-schema` tells from the commands and events that there are.
///
/// ```
/// # use qapi::Introspection;
/// let mut introspection = Introspection::new();
/// // introspection.command::<Stop>();
/// assert!(introspection.finish().as_list().is_some());
/// ```
#[derive(Debug, Default)]
pub struct Introspection {
    schema: Schema,
    entries: Vec<Entry>,
}

/// A command or an event.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// Its special features.
    pub features: &'static [&'static str],
    /// Its description.
    pub doc: &'static str,
    /// Arguments or data: an object.
    pub arg: TypeRef,
    /// What a command returns; none for an event.
    pub ret: Option<TypeRef>,
    /// Whether a command may run out of band.
    pub allow_oob: bool,
}

impl Introspection {
    /// One that knows of nothing.
    pub fn new() -> Introspection {
        Introspection::default()
    }

    /// Adds a command; adding it again changes nothing.
    pub fn command<C: Command>(&mut self) {
        if self.names().any(|n| n == C::NAME) {
            return;
        }
        let arg = C::schema(&mut self.schema);
        let ret = C::Ret::schema(&mut self.schema);
        self.entries.push(Entry {
            name: C::NAME,
            features: C::FEATURES,
            doc: C::DOC,
            arg,
            ret: Some(ret),
            allow_oob: C::ALLOW_OOB,
        });
    }

    /// Adds an event; adding it again changes nothing.
    pub fn event<E: Event>(&mut self) {
        if self.names().any(|n| n == E::NAME) {
            return;
        }
        let arg = E::schema(&mut self.schema);
        self.entries.push(Entry {
            name: E::NAME,
            features: E::FEATURES,
            doc: E::DOC,
            arg,
            ret: None,
            allow_oob: false,
        });
    }

    /// The names of commands and events in the order in which they were added.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.entries.iter().map(|e| e.name)
    }

    /// The types of these commands and events.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The commands and events in the order in which they were added, for the reference manual.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The value that `query-qmp-schema` returns: commands and events in the order in which they were added, then types in the
    /// order in which they are first met.
    pub fn finish(&self) -> Value {
        let mut writer = Writer { schema: &self.schema, names: HashMap::new(), queue: Vec::new(), next: 1 };
        if let Some(empty) = self.schema.empty {
            writer.names.insert(empty, "0".into());
            writer.queue.push(empty);
        }
        let mut out: Vec<Value> = self.entries.iter().map(|e| writer.entry(e)).collect();
        let mut at = 0;
        while at < writer.queue.len() {
            let ty = writer.queue[at];
            at += 1;
            out.push(writer.define(ty));
        }
        Value::List(out)
    }
}

struct Writer<'a> {
    schema: &'a Schema,
    /// Names on the wire.
    names: HashMap<TypeRef, String>,
    /// Types met, in that order.
    queue: Vec<TypeRef>,
    next: usize,
}

fn with_features(mut dict: Dict, features: &[&str]) -> Value {
    if !features.is_empty() {
        dict.insert("features", features.to_vec());
    }
    Value::Dict(dict)
}

impl Writer<'_> {
    fn name(&mut self, ty: TypeRef) -> String {
        if let Some(name) = self.names.get(&ty) {
            return name.clone();
        }
        let def = self.schema.get(ty);
        let name = match &def.shape {
            Shape::Builtin(_) => def.name.clone(),
            Shape::Array(element) => format!("[{}]", self.name(*element)),
            _ => {
                self.next += 1;
                (self.next - 1).to_string()
            }
        };
        self.names.insert(ty, name.clone());
        self.queue.push(ty);
        name
    }

    fn entry(&mut self, e: &Entry) -> Value {
        let mut d = Dict::new();
        d.insert("name", e.name);
        match e.ret {
            Some(ret) => {
                d.insert("meta-type", "command");
                d.insert("arg-type", self.name(e.arg));
                d.insert("ret-type", self.name(ret));
                if e.allow_oob {
                    d.insert("allow-oob", true);
                }
            }
            None => {
                d.insert("meta-type", "event");
                d.insert("arg-type", self.name(e.arg));
            }
        }
        with_features(d, e.features)
    }

    fn define(&mut self, ty: TypeRef) -> Value {
        let def = self.schema.get(ty);
        let mut d = Dict::new();
        d.insert("name", self.name(ty));
        match &def.shape {
            Shape::Undefined => unreachable!("type {} was never defined", def.name),
            Shape::Builtin(json) => {
                d.insert("meta-type", "builtin");
                d.insert("json-type", *json);
            }
            Shape::Array(element) => {
                d.insert("meta-type", "array");
                d.insert("element-type", self.name(*element));
            }
            Shape::Enum(values) => {
                d.insert("meta-type", "enum");
                let member = |v: &NameDef| with_features(Dict::from_iter([("name", v.name)]), v.features);
                d.insert("members", values.iter().map(member).collect::<Vec<_>>());
                d.insert("values", values.iter().map(|v| v.name).collect::<Vec<_>>());
            }
            Shape::Object(object) => {
                d.insert("meta-type", "object");
                let members: Vec<Value> = object.members.iter().map(|m| self.member(m)).collect();
                d.insert("members", members);
                if let Some(tag) = object.tag {
                    d.insert("tag", tag);
                    let branch = |(case, ty): &(&'static str, TypeRef)| {
                        let ty = self.name(*ty);
                        Dict::from_iter([("case", (*case).to_owned()), ("type", ty)])
                    };
                    d.insert("variants", object.branches.iter().map(branch).collect::<Vec<_>>());
                }
            }
            Shape::Alternate(types) => {
                d.insert("meta-type", "alternate");
                let member = |ty: &TypeRef| Dict::from_iter([("type", self.name(*ty))]);
                d.insert("members", types.iter().map(member).collect::<Vec<_>>());
            }
        }
        with_features(d, def.features)
    }

    fn member(&mut self, m: &MemberDef) -> Value {
        let mut d = Dict::new();
        d.insert("name", m.name);
        if m.optional {
            d.insert("default", Value::Null);
        }
        d.insert("type", self.name(m.ty));
        with_features(d, m.features)
    }
}
