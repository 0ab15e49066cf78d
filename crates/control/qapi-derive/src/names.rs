//! Enumerations of names.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{DataEnum, DeriveInput, Error, Result};

use crate::attrs::{Case, Container};

pub fn expand(input: &DeriveInput, container: &Container, data: &DataEnum) -> Result<TokenStream> {
    let cases = Case::parse_all(data)?;
    if let Some(case) = cases.iter().find(|c| c.ty.is_some()) {
        let what = "an enum with data is a union (`#[qapi(tag = \"…\", tag_enum = \"…\")]`) or an alternate (`#[qapi(alternate)]`)";
        return Err(Error::new(case.ident.span(), what));
    }
    let ty = &input.ident;
    let Container { schema_name, doc, features, .. } = container;
    let cfgs: Vec<_> = cases.iter().map(Case::cfg).collect();
    let idents: Vec<_> = cases.iter().map(|c| &c.ident).collect();
    let names: Vec<_> = cases.iter().map(|c| &c.name).collect();
    let docs = cases.iter().map(|c| &c.doc);
    let value_features = cases.iter().map(|c| &c.features);
    Ok(quote! {
        impl ::qapi::QapiEnum for #ty {
            const NAMES: &'static [&'static str] = &[#(#cfgs #names),*];
            const ALL: &'static [Self] = &[#(#cfgs Self::#idents),*];

            fn as_str(self) -> &'static str {
                match self {
                    #(Self::#idents => #names,)*
                }
            }

            fn from_str(name: &str) -> ::core::option::Option<Self> {
                match name {
                    #(#cfgs #names => ::core::option::Option::Some(Self::#idents),)*
                    _ => ::core::option::Option::None,
                }
            }
        }

        impl ::core::fmt::Display for #ty {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.pad(::qapi::QapiEnum::as_str(*self))
            }
        }

        impl ::qapi::Qapi for #ty {
            const KIND: ::qapi::Kind = ::qapi::Kind::String;

            fn input(input: &mut ::qapi::Input, value: ::qapi::Value) -> ::core::result::Result<Self, ::qapi::QError> {
                input.enumeration(value)
            }

            fn output(&self) -> ::qapi::Value {
                ::qapi::Value::from(::qapi::QapiEnum::as_str(*self))
            }

            fn schema(schema: &mut ::qapi::schema::Schema) -> ::qapi::schema::TypeRef {
                schema.define::<Self>(#schema_name, #features, #doc, |_| {
                    ::qapi::schema::Shape::Enum(::std::vec![#(
                        #cfgs
                        ::qapi::schema::NameDef { name: #names, features: #value_features, doc: #docs },
                    )*])
                })
            }
        }
    })
}
