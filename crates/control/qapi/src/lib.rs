//! The management contract's machinery: values, strict JSON and key=value input, one visitor for both, errors, introspection.
//!
//! A type of the contract is a Rust type with `#[derive(Qapi)]`. Reading it from JSON or from a command line, writing it,
//! checking it and telling about it all follow from that one definition.
//!
//! # The derive
//! Names on the wire are those of the source in lower case with dashes (`node_name` is `node-name`, `NullCo` is `null-co`); `name = "…"`
//! gives another. Doc comments become the reference manual.
//!
//! | on | attribute | meaning |
//! | --- | --- | --- |
//! | any type | `features = ["…"]`, `unstable`, `deprecated` | its special features |
//! | any type | `schema_name = "…"` | its name in messages and the manual, when not the Rust one |
//! | struct | `command = "…"`, `ret = Type`, `allow_oob`, `allow_preconfig` | it is the arguments of a command |
//! | struct | `event = "…"` | it is the data of an event |
//! | field, variant | `name = "…"`, `features = […]`, `unstable`, `deprecated` | |
//! | field, variant | `if(cfg)` | on the wire only where the condition, as in `#[cfg]`, holds; a field must then be an `Option`. (`#[cfg]` itself takes it out of the Rust type too.) |
//! | field | `size` | a number of bytes, which key=value text may write with a suffix |
//! | field | `hidden` | the introspection does not tell of it: what file names mean but management tools need not say |
//! | field | `flatten` | its type's members stand among this type's |
//! | field | `union` | its type is a union, whose tag stands here and whose branch's members come last |
//! | enum | `tag = "…"` and `tag_enum = "Name"` or `tag_type = Type` | a union: the tag's name, and its type, made here or existing |
//! | enum | `wrap = "data"` | with `tag`: a branch's members stand in a member of this name |
//! | enum | `alternate` | one of several types, told apart by their kind of value; a variant without data is `null` |
//!
//! A field of type `Option` may be left out; all others must be given. A struct without fields is an empty object, one with a
//! single unnamed field is that field. An enum without `tag` and `alternate` is an enumeration of names.
//!
//! ```
//! use qapi::{Qapi, Value, from_arg, from_json};
//!
//! /// Where to listen.
//! #[derive(Debug, PartialEq, Qapi)]
//! #[qapi(tag = "type", tag_enum = "ListenType")]
//! enum Listen {
//!     /// On a path.
//!     Unix(UnixListen),
//!     /// Nowhere.
//!     None,
//! }
//!
//! /// Options of `unix`.
//! #[derive(Debug, PartialEq, Qapi)]
//! struct UnixListen {
//!     /// The path.
//!     path: String,
//!     /// How many may wait.
//!     backlog: Option<u32>,
//! }
//!
//! let listen: Listen = from_arg("unix,path=/run/a,backlog=4", Some("type")).unwrap();
//! assert_eq!(listen, Listen::Unix(UnixListen { path: "/run/a".into(), backlog: Some(4) }));
//! let error = from_json::<Listen>(Value::parse_json("{'type': 'unix'}").unwrap()).unwrap_err();
//! assert_eq!(error.desc(), "Parameter 'path' is missing");
//! ```

// The derive writes `::qapi::…`, also in this crate's own tests.
extern crate self as qapi;

mod error;
mod json;
mod keyval;
mod opts;
pub mod order;
pub mod schema;
mod types;
mod value;
pub mod visit;

pub use error::{ErrorClass, QError};
pub use json::{JsonStream, MAX_MESSAGE_BYTES, MAX_MESSAGE_TOKENS, MAX_NESTING};
pub use keyval::{keyval_parse, keyval_parse_help};
pub use opts::{opts_as_keyval, opts_parse, opts_short_forms};
pub use qapi_derive::Qapi;
pub use schema::Introspection;
pub use types::{
    Command, Event, Kind, Members, Qapi, QapiEnum, Union, from_arg, from_json, from_keyval, from_keyval_dict,
    to_value,
};
pub use value::{Dict, Value, flatten};
pub use visit::Input;
