//! Making images, whatever their format: what a format says about it ([`Creation`]), and how it reaches the files that
//! it writes ([`CreateCx`]).
//!
//! Options come as `-o` of the image tool writes them (`cluster_size=4k`), are checked by the format's table
//! ([`Creation::options`]), and become the contract's type ([`Creation::contract`]), which is what `blockdev-create`
//! starts from. Both then call [`Creation::create`].

use crate::control::BlockGraph;
use crate::driver::CtlFuture;
use crate::perm::Perm;
use crate::root::{Root, RootConfig};
use api::block_core::{BlockdevCreateOptions, BlockdevRef, PreallocMode};
use qapi::{Dict, QError, Value, qerr};
use std::sync::Arc;

/// What an option's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionType {
    /// Text.
    Str,
    /// Bytes, with an optional suffix.
    Size,
    /// `on` or `off`.
    Bool,
    /// A number.
    Num,
}

impl OptionType {
    /// How help shows it.
    pub const fn text(self) -> &'static str {
        match self {
            OptionType::Str => "str",
            OptionType::Size => "size",
            OptionType::Bool => "bool (on/off)",
            OptionType::Num => "num",
        }
    }
}

/// One option of a new image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateOption {
    /// The name as `-o` has it.
    pub name: &'static str,
    /// What its value is.
    pub ty: OptionType,
    /// Its value where it is not given; printed then, too.
    pub default: Option<&'static str>,
    /// One line of help.
    pub help: &'static str,
}

impl CreateOption {
    /// An option without a default value.
    pub const fn new(name: &'static str, ty: OptionType, help: &'static str) -> CreateOption {
        CreateOption { name, ty, default: None, help }
    }

    /// The same with a default value.
    pub const fn or(self, default: &'static str) -> CreateOption {
        CreateOption { default: Some(default), ..self }
    }
}

/// The option that all formats have.
pub const SIZE: CreateOption = CreateOption::new("size", OptionType::Size, "Virtual disk size");

/// A file that is made with an image, beside the one that has its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The member of the contract's type that gets the node (`data-file`); a list's member has its number (`extents.0`).
    pub member: String,
    /// The file's name: absolute, or relative to the directory of the image.
    pub filename: String,
    /// Its length, bytes.
    pub size: u64,
}

/// An image that a command makes by the name of its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedImage {
    /// Its file.
    pub name: String,
    /// Its format's driver.
    pub format: String,
    /// Bytes that a guest sees.
    pub size: u64,
    /// What its header names as its backing file, and that one's format.
    pub backing: Option<(String, Option<String>)>,
}

/// Makes images by the names of their files, which takes more than nodes. The program says who does it
/// ([`BlockGraph::set_image_maker`]).
pub trait ImageMaker: Send + Sync {
    /// Makes an image; what its file held is lost.
    fn make<'a>(&'a self, image: &'a NamedImage) -> CtlFuture<'a>;
}

/// What a format says about making images.
pub struct Creation {
    /// The options of `-o`, in the order in which the tool prints them.
    pub options: &'static [CreateOption],
    /// Options of the file that the format sees to itself, though they are not in its table (`preallocation`).
    pub takes: &'static [&'static str],
    /// Turns options, named as the contract does, into what the contract's type has. Most need none. A member that is null
    /// gets the image's node, instead of `file`.
    pub adapt: Option<fn(&mut Dict) -> Result<(), QError>>,
    /// The files that are made beside the image's own, from its options and its file's name.
    pub parts: Option<fn(&Dict, &str) -> Result<Vec<Part>, QError>>,
    /// Makes the image inside the nodes that the options name. `None`: the image is the bare file.
    pub create: Option<CreateFn>,
    /// Tells how much space an image takes.
    pub measure: Option<MeasureFn>,
}

/// See [`Creation::create`].
pub type CreateFn = for<'a> fn(&'a CreateCx, &'a BlockdevCreateOptions) -> CtlFuture<'a>;

/// See [`Creation::measure`].
pub type MeasureFn = for<'a> fn(&'a MeasureCx<'a>) -> CtlFuture<'a, Measure>;

impl Creation {
    /// Nothing beside these options; the image is the bare file.
    pub const fn new(options: &'static [CreateOption]) -> Creation {
        Creation { options, takes: &[], adapt: None, parts: None, create: None, measure: None }
    }

    /// The contract's type, from what [`Creation::contract_dict`] answered. `file` is the node that holds the image; `parts` says
    /// which node each of [`Creation::parts`] became.
    ///
    /// # Errors
    /// Values that do not fit, in the contract's words.
    pub fn contract(
        &self,
        driver: &str,
        file: &str,
        parts: &[(Part, String)],
        mut dict: Dict,
    ) -> Result<BlockdevCreateOptions, QError> {
        for (part, node) in parts {
            match part.member.split_once('.') {
                None => drop(dict.insert(part.member.as_str(), node.as_str())),
                Some((list, _)) => match dict.get_mut(list) {
                    Some(Value::List(l)) => l.push(Value::from(node.as_str())),
                    _ => drop(dict.insert(list, vec![Value::from(node.as_str())])),
                },
            }
        }
        let main = dict.iter().find(|(_, v)| **v == Value::Null).map_or("file", |(k, _)| k).to_owned();
        dict.insert(main, file);
        dict.insert("driver", driver);
        qapi::from_keyval_dict(dict)
    }

    /// The members of the contract's type, without `driver` and `file`, from the options of `-o` (names and checked values). Those
    /// that the format does not know are left out.
    ///
    /// # Errors
    /// What the format finds wrong with them.
    pub fn contract_dict(&self, given: &[(&str, &str)]) -> Result<Dict, QError> {
        let mut dict = Dict::new();
        for (name, value) in given {
            let own = self.options.iter().any(|o| o.name == *name);
            if !own && !self.takes.contains(name) {
                continue;
            }
            put(&mut dict, &name.replace('_', "-"), Value::from(*value));
        }
        // Guests count sectors: a size in between is rounded up.
        if let Some(size) = dict.get("size").and_then(Value::as_str).and_then(|s| s.parse::<u64>().ok()) {
            let whole = size.checked_next_multiple_of(512).ok_or_else(|| qerr!("Image size is too large"))?;
            dict.insert("size", whole.to_string());
        }
        if let Some(adapt) = self.adapt {
            adapt(&mut dict)?;
        }
        Ok(dict)
    }
}

/// Puts a value at a dotted name. Numbered names (`children.0`) make no list: they are read as one.
pub fn put(dict: &mut Dict, name: &str, value: Value) {
    match name.split_once('.') {
        None => drop(dict.insert(name, value)),
        Some((first, rest)) => {
            if !matches!(dict.get(first), Some(Value::Dict(_))) {
                dict.insert(first, Dict::new());
            }
            if let Some(Value::Dict(inner)) = dict.get_mut(first) {
                put(inner, rest, value);
            }
        }
    }
}

/// The world of an image that is being made.
pub struct CreateCx {
    /// The graph with the nodes that the options name.
    pub graph: Arc<BlockGraph>,
    /// What images are to call nodes, where that is not the name that they were opened by.
    pub names: Vec<(String, String)>,
}

impl CreateCx {
    /// With the nodes of a graph.
    pub fn new(graph: Arc<BlockGraph>) -> CreateCx {
        CreateCx { graph, names: Vec::new() }
    }

    /// A user of a node that shall hold the image, or a part of it. Detach it when done.
    ///
    /// # Errors
    /// There is no such node; somebody else uses it.
    pub async fn root(&self, file: &BlockdevRef) -> Result<Arc<Root>, QError> {
        let BlockdevRef::Reference(node) = file else {
            return Err(qerr!("'file' must be the name of a node"));
        };
        let config = RootConfig {
            perm: Perm::WRITE | Perm::RESIZE,
            // Others may have the file open, such as somebody who shares everything to look at it.
            shared: Perm::all(),
            desc: "the making of an image".into(),
            ..RootConfig::default()
        };
        self.graph.attach(node, config).await.map_err(|e| match self.graph.has(node) {
            true => e,
            false => qerr!("Cannot find device='{node}' nor node-name='{node}'"),
        })
    }

    /// The password that the object `id` keeps.
    ///
    /// # Errors
    /// There is none.
    pub fn password(&self, id: &str) -> Result<crypto::Secret, QError> {
        match self.graph.objects() {
            Some(o) => o.password(id),
            None => Err(qerr!("No secret with id '{id}'")),
        }
    }

    /// What an image is to call the file behind a node.
    pub fn filename(&self, node: &str) -> String {
        if let Some((_, name)) = self.names.iter().find(|(n, _)| n == node) {
            return name.clone();
        }
        self.graph.image_info(node).map(|i| i.base.filename).unwrap_or_default()
    }
}

/// How much space an image takes, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measure {
    /// With this content.
    pub required: u64,
    /// When all of it is written.
    pub fully_allocated: u64,
    /// Of the source's bitmaps, where the format can keep them.
    pub bitmaps: Option<u64>,
}

/// What is to be measured.
pub struct MeasureCx<'a> {
    /// The new image's options; `None` where the format is the bare file. `size` counts where there is no source.
    pub options: Option<&'a BlockdevCreateOptions>,
    /// The disk's length, bytes.
    pub size: u64,
    /// The disk whose content the image is to have.
    pub source: Option<&'a Root>,
    /// Names and granularities of the bitmaps that the source keeps, if it is one that can.
    pub bitmaps: Option<Vec<(String, u32)>>,
    /// For passwords.
    pub cx: &'a CreateCx,
}

/// The block layer's name for it.
pub fn prealloc(mode: PreallocMode) -> crate::driver::Prealloc {
    use crate::driver::Prealloc;
    match mode {
        PreallocMode::Off => Prealloc::Off,
        PreallocMode::Metadata => Prealloc::Metadata,
        PreallocMode::Falloc => Prealloc::Falloc,
        PreallocMode::Full => Prealloc::Full,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: &[CreateOption] = &[
        SIZE,
        CreateOption::new("cluster_size", OptionType::Size, "Bytes of a cluster").or("65536"),
        CreateOption::new("encrypt.format", OptionType::Str, ""),
        CreateOption::new("encrypt.key-secret", OptionType::Str, ""),
    ];

    #[test]
    fn options_become_the_contracts() {
        let c = Creation::new(OPTIONS);
        let given = [
            ("size", "1000"),
            ("cluster_size", "4096"),
            ("encrypt.format", "luks"),
            ("encrypt.key-secret", "s"),
            ("nocow", "on"),
        ];
        let dict = c.contract_dict(&given).unwrap();
        assert_eq!(dict.get("nocow"), None);
        let BlockdevCreateOptions::Qcow2(o) = c.contract("qcow2", "f", &[], dict).unwrap() else { panic!() };
        assert_eq!((o.size, o.cluster_size), (1024, Some(4096)));
        assert_eq!(o.file, BlockdevRef::Reference("f".into()));
        assert!(o.encrypt.is_some());
        let dict = c.contract_dict(&[("size", "18446744073709551615")]);
        assert!(dict.is_err());
        let dict = c.contract_dict(&[("encrypt.format", "x")]).unwrap();
        assert!(c.contract("qcow2", "f", &[], dict).is_err());
    }
}
