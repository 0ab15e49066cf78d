//! Alternates: one of several types, told apart by their kind of value.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{DataEnum, DeriveInput, Error, Result};

use crate::attrs::{Case, Container};

pub fn expand(input: &DeriveInput, container: &Container, data: &DataEnum) -> Result<TokenStream> {
    let cases = Case::parse_all(data)?;
    let mut units = cases.iter().filter(|c| c.ty.is_none());
    if let (Some(_), Some(second)) = (units.next(), units.next()) {
        return Err(Error::new(second.ident.span(), "only one variant can stand for null"));
    }
    if let Some(case) = cases.iter().find(|c| c.condition.is_some()) {
        return Err(Error::new(case.ident.span(), "a variant of an alternate has no condition"));
    }
    let ty = &input.ident;
    let Container { schema_name, doc, features, .. } = container;
    let reads = cases.iter().map(|c| {
        let ident = &c.ident;
        match &c.ty {
            Some(t) => quote! {
                if <#t as ::qapi::Qapi>::KIND.takes(&value, input.is_keyval()) {
                    return <#t as ::qapi::Qapi>::input(input, value).map(Self::#ident);
                }
            },
            None => quote! {
                if ::qapi::Kind::Null.takes(&value, input.is_keyval()) {
                    return ::core::result::Result::Ok(Self::#ident);
                }
            },
        }
    });
    let writes = cases.iter().map(|c| {
        let ident = &c.ident;
        match &c.ty {
            Some(t) => quote!(Self::#ident(v) => <#t as ::qapi::Qapi>::output(v)),
            None => quote!(Self::#ident => ::qapi::Value::Null),
        }
    });
    let members = cases.iter().map(|c| match &c.ty {
        Some(t) => quote!(<#t as ::qapi::Qapi>::schema(schema)),
        None => quote!(schema.null()),
    });
    Ok(quote! {
        impl ::qapi::Qapi for #ty {
            const KIND: ::qapi::Kind = ::qapi::Kind::Any;

            fn input(input: &mut ::qapi::Input, value: ::qapi::Value) -> ::core::result::Result<Self, ::qapi::QError> {
                #(#reads)*
                ::core::result::Result::Err(input.no_alternative(#schema_name))
            }

            fn output(&self) -> ::qapi::Value {
                match self {
                    #(#writes,)*
                }
            }

            fn schema(schema: &mut ::qapi::schema::Schema) -> ::qapi::schema::TypeRef {
                schema.define::<Self>(#schema_name, #features, #doc, |schema| {
                    ::qapi::schema::Shape::Alternate(::std::vec![#(#members),*])
                })
            }
        }
    })
}
