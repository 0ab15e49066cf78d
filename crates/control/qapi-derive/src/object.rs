//! Structs: objects, and the arguments of commands and the data of events.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{DeriveInput, Error, Fields, Ident, Result, Type};

use crate::attrs::{Container, Member};

pub fn expand(input: &DeriveInput, container: &Container, fields: &Fields) -> Result<TokenStream> {
    let ty = &input.ident;
    let body = match fields {
        Fields::Unit => members(ty, container, &[], &quote!(Self)),
        Fields::Unnamed(f) if f.unnamed.len() == 1 => transparent(ty, &f.unnamed[0].ty),
        Fields::Unnamed(f) => return Err(Error::new_spanned(f, "a tuple struct has one field")),
        Fields::Named(f) => {
            let list = f.named.iter().map(Member::parse).collect::<Result<Vec<_>>>()?;
            check(&list)?;
            let idents = list.iter().map(|m| &m.ident);
            members(ty, container, &list, &quote!(Self { #(#idents),* }))
        }
    };
    let command = container.command.as_ref().map(|name| {
        let Container { ret, allow_oob, allow_preconfig, features, doc, .. } = container;
        let ret = ret.as_ref().map_or_else(|| quote!(()), |t| quote!(#t));
        quote! {
            impl ::qapi::Command for #ty {
                type Ret = #ret;
                const NAME: &'static str = #name;
                const ALLOW_OOB: bool = #allow_oob;
                const ALLOW_PRECONFIG: bool = #allow_preconfig;
                const FEATURES: &'static [&'static str] = #features;
                const DOC: &'static str = #doc;
            }
        }
    });
    let event = container.event.as_ref().map(|name| {
        let Container { features, doc, .. } = container;
        quote! {
            impl ::qapi::Event for #ty {
                const NAME: &'static str = #name;
                const FEATURES: &'static [&'static str] = #features;
                const DOC: &'static str = #doc;
            }
        }
    });
    Ok(quote!(#body #command #event))
}

/// Refuses two members of one name, and two unions.
fn check(list: &[Member]) -> Result<()> {
    for (i, m) in list.iter().enumerate() {
        let plain = |m: &Member| !m.flatten && !m.union;
        if plain(m) && list[..i].iter().any(|other| plain(other) && other.name == m.name) {
            return Err(Error::new(m.ident.span(), format_args!("the name `{}` is taken", m.name)));
        }
        if m.union && list[..i].iter().any(|other| other.union) {
            return Err(Error::new(m.ident.span(), "an object has one union at most"));
        }
    }
    Ok(())
}

/// `Qapi` for a type that is `Members`.
pub fn qapi_impl(ty: &Ident, container: &Container) -> TokenStream {
    let Container { schema_name, doc, features, .. } = container;
    // The features of a command or event are its own, not those of its arguments.
    let features = if container.command.is_some() || container.event.is_some() {
        quote!(&[])
    } else {
        quote!(#features)
    };
    quote! {
        impl ::qapi::Qapi for #ty {
            const KIND: ::qapi::Kind = ::qapi::Kind::Object;

            fn input(input: &mut ::qapi::Input, value: ::qapi::Value) -> ::core::result::Result<Self, ::qapi::QError> {
                input.object(value, <Self as ::qapi::Members>::input_members)
            }

            fn output(&self) -> ::qapi::Value {
                let mut dict = ::qapi::Dict::with_capacity(8);
                ::qapi::Members::output_members(self, &mut dict);
                ::qapi::Value::Dict(dict)
            }

            fn schema(schema: &mut ::qapi::schema::Schema) -> ::qapi::schema::TypeRef {
                schema.object::<Self>(#schema_name, #features, #doc)
            }
        }
    }
}

/// A struct that is its one field.
fn transparent(ty: &Ident, inner: &Type) -> TokenStream {
    quote! {
        impl ::qapi::Qapi for #ty {
            const KIND: ::qapi::Kind = <#inner as ::qapi::Qapi>::KIND;

            fn input(input: &mut ::qapi::Input, value: ::qapi::Value) -> ::core::result::Result<Self, ::qapi::QError> {
                <#inner as ::qapi::Qapi>::input(input, value).map(Self)
            }

            fn output(&self) -> ::qapi::Value {
                ::qapi::Qapi::output(&self.0)
            }

            fn schema(schema: &mut ::qapi::schema::Schema) -> ::qapi::schema::TypeRef {
                <#inner as ::qapi::Qapi>::schema(schema)
            }
        }
    }
}

/// How a member is read.
fn read(m: &Member) -> TokenStream {
    let Member { ident, ty, name, .. } = m;
    if m.union {
        let tag = tag_var(ident);
        return quote!(let #tag = input.member::<<#ty as ::qapi::Union>::Tag>(dict, <#ty as ::qapi::Union>::TAG)?;);
    }
    if m.flatten {
        return quote!(let #ident = <#ty as ::qapi::Members>::input_members(input, dict)?;);
    }
    let value = match (&m.inner, m.size) {
        (None, false) => quote!(input.member::<#ty>(dict, #name)?),
        (Some(inner), false) => quote!(input.optional::<#inner>(dict, #name)?),
        (None, true) => quote!(input.member_with(dict, #name, |input, value| input.size(&value))?),
        (Some(_), true) => quote!(input.optional_with(dict, #name, |input, value| input.size(&value))?),
    };
    match &m.condition {
        Some(cond) => {
            quote!(let #ident: #ty = if cfg!(#cond) { #value } else { ::core::option::Option::None };)
        }
        None => quote!(let #ident: #ty = #value;),
    }
}

/// How a member is written.
fn write(m: &Member) -> TokenStream {
    let Member { ident, ty, name, .. } = m;
    if m.union {
        return quote! {
            dict.put(<#ty as ::qapi::Union>::TAG, ::qapi::QapiEnum::as_str(::qapi::Union::tag(&self.#ident)));
        };
    }
    if m.flatten {
        return quote!(::qapi::Members::output_members(&self.#ident, dict););
    }
    match (&m.inner, &m.condition) {
        (None, _) => quote!(dict.put(#name, ::qapi::Qapi::output(&self.#ident));),
        (Some(_), None) => quote! {
            if let ::core::option::Option::Some(v) = &self.#ident {
                dict.put(#name, ::qapi::Qapi::output(v));
            }
        },
        (Some(_), Some(cond)) => quote! {
            if cfg!(#cond) && let ::core::option::Option::Some(v) = &self.#ident {
                dict.put(#name, ::qapi::Qapi::output(v));
            }
        },
    }
}

/// How a member is told about.
fn tell(m: &Member) -> TokenStream {
    let Member { ty, name, doc, features, inner, .. } = m;
    if m.union {
        return quote!(schema.union::<#ty>(object, #doc););
    }
    if m.flatten {
        return quote!(<#ty as ::qapi::Members>::schema_members(schema, object););
    }
    if m.hidden {
        return TokenStream::new();
    }
    let optional = inner.is_some();
    let ty = inner.as_ref().unwrap_or(ty);
    let add = quote! {
        let ty = <#ty as ::qapi::Qapi>::schema(schema);
        object.member(#name, ty, #optional, #features, #doc);
    };
    match &m.condition {
        Some(cond) => quote!(if cfg!(#cond) { #add }),
        None => quote!({ #add }),
    }
}

fn tag_var(ident: &Ident) -> Ident {
    format_ident!("tag_of_{}", ident)
}

fn members(ty: &Ident, container: &Container, list: &[Member], construct: &TokenStream) -> TokenStream {
    let qapi = if list.is_empty() { empty_impl(ty) } else { qapi_impl(ty, container) };
    let reads = list.iter().map(read);
    let branch_reads = list.iter().filter(|m| m.union).map(|Member { ident, ty, .. }| {
        let tag = tag_var(ident);
        quote!(let #ident = <#ty as ::qapi::Union>::input_branch(input, #tag, dict)?;)
    });
    let writes = list.iter().map(write);
    let branch_writes = list.iter().filter(|m| m.union).map(|m| {
        let ident = &m.ident;
        quote!(::qapi::Union::output_branch(&self.#ident, dict);)
    });
    let tells = list.iter().map(tell);
    quote! {
        #qapi

        #[allow(unused_variables, reason = "a type without members uses no argument")]
        impl ::qapi::Members for #ty {
            fn input_members(input: &mut ::qapi::Input, dict: &mut ::qapi::Dict) -> ::core::result::Result<Self, ::qapi::QError> {
                #(#reads)*
                #(#branch_reads)*
                ::core::result::Result::Ok(#construct)
            }

            fn output_members(&self, dict: &mut ::qapi::Dict) {
                #(#writes)*
                #(#branch_writes)*
            }

            fn schema_members(schema: &mut ::qapi::schema::Schema, object: &mut ::qapi::schema::ObjectBuilder) {
                #(#tells)*
            }
        }
    }
}

/// `Qapi` for a struct without fields: all of them are one type in introspection.
fn empty_impl(ty: &Ident) -> TokenStream {
    quote! {
        impl ::qapi::Qapi for #ty {
            const KIND: ::qapi::Kind = ::qapi::Kind::Object;

            fn input(input: &mut ::qapi::Input, value: ::qapi::Value) -> ::core::result::Result<Self, ::qapi::QError> {
                input.object(value, <Self as ::qapi::Members>::input_members)
            }

            fn output(&self) -> ::qapi::Value {
                ::qapi::Value::Dict(::qapi::Dict::new())
            }

            fn schema(schema: &mut ::qapi::schema::Schema) -> ::qapi::schema::TypeRef {
                schema.empty()
            }
        }
    }
}
