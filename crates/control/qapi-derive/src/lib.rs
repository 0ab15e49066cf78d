//! The derive macro `Qapi`. The attributes are told in the documentation of the crate `qapi`.
//!
//! Each kind of type has its module: `object` for structs, `names` for enumerations, `union` for tagged unions, `alternate`
//! for alternates. `attrs` reads the attributes and refuses what makes no sense.

mod alternate;
mod attrs;
mod names;
mod object;
mod union;

use proc_macro::TokenStream;
use syn::{Data, DeriveInput, Error, parse_macro_input};

use attrs::Container;

/// Derives `qapi::Qapi` and, by kind of type, `Members`, `QapiEnum`, `Union`, `Command` or `Event`.
#[proc_macro_derive(Qapi, attributes(qapi))]
pub fn derive_qapi(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand(&input).unwrap_or_else(Error::into_compile_error).into()
}

fn expand(input: &DeriveInput) -> syn::Result<proc_macro2::TokenStream> {
    if let Some(param) = input.generics.params.first() {
        return Err(Error::new_spanned(param, "a QAPI type cannot be generic"));
    }
    let container = Container::parse(input)?;
    match &input.data {
        Data::Struct(data) => object::expand(input, &container, &data.fields),
        Data::Enum(data) if container.tag.is_some() => union::expand(input, &container, data),
        Data::Enum(data) if container.alternate => alternate::expand(input, &container, data),
        Data::Enum(data) => names::expand(input, &container, data),
        Data::Union(data) => {
            Err(Error::new_spanned(data.union_token, "a QAPI union is an enum with `#[qapi(tag = \"…\")]`"))
        }
    }
}

#[cfg(test)]
mod tests;
