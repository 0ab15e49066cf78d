//! Tagged unions.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Attribute, DataEnum, DeriveInput, Result};

use crate::attrs::{Case, Container, TagType};
use crate::object;

pub fn expand(input: &DeriveInput, container: &Container, data: &DataEnum) -> Result<TokenStream> {
    let cases = Case::parse_all(data)?;
    let ty = &input.ident;
    let Some((tag, tag_type)) = &container.tag else { unreachable!("a union was told by its tag") };
    let (tag_path, tag_enum) = match tag_type {
        TagType::Existing(path) => (quote!(#path), TokenStream::new()),
        TagType::Made(ident) => (quote!(#ident), make_tag(input, ident, data)),
    };

    // A variant whose condition does not hold stays in the Rust enum, but input cannot make it.
    let reads = cases.iter().map(|c| {
        let (ident, cfg) = (&c.ident, c.cfg());
        let read = match (&c.ty, &container.wrap) {
            (Some(t), None) => quote!(<#t as ::qapi::Members>::input_members(input, dict).map(Self::#ident)),
            (Some(t), Some(wrap)) => quote!(input.member::<#t>(dict, #wrap).map(Self::#ident)),
            (None, None) => quote!(::core::result::Result::Ok(Self::#ident)),
            (None, Some(wrap)) => quote!(input.member::<()>(dict, #wrap).map(|()| Self::#ident)),
        };
        quote!(#cfg #tag_path::#ident => #read)
    });
    let hidden = cases.iter().filter_map(|c| {
        let (ident, cond) = (&c.ident, c.condition.as_ref()?);
        Some(quote! {
            #[cfg(not(#cond))]
            #tag_path::#ident => ::core::result::Result::Err(input.no_such_value(#tag, ::qapi::QapiEnum::as_str(tag)))
        })
    });
    let tags = cases.iter().map(|c| {
        let ident = &c.ident;
        let pattern = if c.ty.is_some() { quote!(Self::#ident(_)) } else { quote!(Self::#ident) };
        quote!(#pattern => #tag_path::#ident)
    });
    let writes = cases.iter().map(|c| {
        let ident = &c.ident;
        match (&c.ty, &container.wrap) {
            (Some(t), None) => quote!(Self::#ident(v) => <#t as ::qapi::Members>::output_members(v, dict)),
            (Some(t), Some(wrap)) => {
                quote!(Self::#ident(v) => { dict.put(#wrap, <#t as ::qapi::Qapi>::output(v)); })
            }
            (None, None) => quote!(Self::#ident => {}),
            (None, Some(wrap)) => quote!(Self::#ident => { dict.put(#wrap, ::qapi::Dict::new()); }),
        }
    });
    let branches = cases.iter().map(|c| {
        let (ident, cfg) = (&c.ident, c.cfg());
        let branch = match (&c.ty, &container.wrap) {
            (Some(t), None) => quote!(<#t as ::qapi::Qapi>::schema(schema)),
            (Some(t), Some(wrap)) => quote!(schema.wrapper::<#t>(#wrap)),
            (None, None) => quote!(schema.empty()),
            (None, Some(wrap)) => quote!(schema.wrapper::<()>(#wrap)),
        };
        quote! {
            #cfg
            {
                let ty = #branch;
                object.branch(::qapi::QapiEnum::as_str(#tag_path::#ident), ty);
            }
        }
    });
    let qapi = object::qapi_impl(ty, container);
    Ok(quote! {
        #tag_enum
        #qapi

        impl ::qapi::Members for #ty {
            fn input_members(input: &mut ::qapi::Input, dict: &mut ::qapi::Dict) -> ::core::result::Result<Self, ::qapi::QError> {
                let tag = input.member(dict, #tag)?;
                <Self as ::qapi::Union>::input_branch(input, tag, dict)
            }

            fn output_members(&self, dict: &mut ::qapi::Dict) {
                dict.put(#tag, ::qapi::QapiEnum::as_str(::qapi::Union::tag(self)));
                ::qapi::Union::output_branch(self, dict);
            }

            fn schema_members(schema: &mut ::qapi::schema::Schema, object: &mut ::qapi::schema::ObjectBuilder) {
                schema.union::<Self>(object, "Which branch it is.");
            }
        }

        impl ::qapi::Union for #ty {
            type Tag = #tag_path;
            const TAG: &'static str = #tag;

            fn tag(&self) -> Self::Tag {
                match self {
                    #(#tags,)*
                }
            }

            #[allow(unused_variables, reason = "a union of empty branches uses no argument")]
            fn input_branch(
                input: &mut ::qapi::Input,
                tag: Self::Tag,
                dict: &mut ::qapi::Dict,
            ) -> ::core::result::Result<Self, ::qapi::QError> {
                match tag {
                    #(#reads,)*
                    #(#hidden,)*
                }
            }

            #[allow(unused_variables, reason = "a union of empty branches uses no argument")]
            fn output_branch(&self, dict: &mut ::qapi::Dict) {
                match self {
                    #(#writes,)*
                }
            }

            #[allow(unused_variables, reason = "a union of empty branches uses no argument")]
            fn schema_branches(schema: &mut ::qapi::schema::Schema, object: &mut ::qapi::schema::ObjectBuilder) {
                #(#branches)*
            }
        }
    })
}

/// The enumeration of a union's tags, with the variants' attributes.
fn make_tag(input: &DeriveInput, ident: &syn::Ident, data: &DataEnum) -> TokenStream {
    let vis = &input.vis;
    let variants = data.variants.iter().map(|v| {
        let kept = |a: &&Attribute| ["doc", "qapi", "cfg"].iter().any(|name| a.path().is_ident(name));
        let attrs = v.attrs.iter().filter(kept);
        let name = &v.ident;
        quote!(#(#attrs)* #name)
    });
    let doc = format!("Which branch of [`{}`] it is.", input.ident);
    quote! {
        #[doc = #doc]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ::qapi::Qapi)]
        #vis enum #ident {
            #(#variants,)*
        }
    }
}
