//! The attribute `#[qapi(…)]` and doc comments.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::meta::ParseNestedMeta;
use syn::spanned::Spanned;
use syn::{
    Attribute, Data, DeriveInput, Error, Expr, Field, Fields, Ident, Lit, LitStr, Meta, Path, Result, Type,
    Variant,
};

/// Special features.
#[derive(Default)]
pub struct Features(Vec<LitStr>);

impl Features {
    /// Takes an attribute that declares features; whether it was one.
    fn take(&mut self, meta: &ParseNestedMeta) -> Result<bool> {
        let span = meta.path.span();
        if meta.path.is_ident("unstable") {
            self.0.push(LitStr::new("unstable", span));
        } else if meta.path.is_ident("deprecated") {
            self.0.push(LitStr::new("deprecated", span));
        } else if meta.path.is_ident("features") {
            let list: syn::ExprArray = meta.value()?.parse()?;
            for item in list.elems {
                match item {
                    Expr::Lit(syn::ExprLit { lit: Lit::Str(s), .. }) => self.0.push(s),
                    other => return Err(Error::new_spanned(other, "a feature is a string")),
                }
            }
        } else {
            return Ok(false);
        }
        Ok(true)
    }
}

impl ToTokens for Features {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        let list = &self.0;
        tokens.extend(quote!(&[#(#list),*]));
    }
}

/// Sets what may be set once.
fn once<T>(meta: &ParseNestedMeta, slot: &mut Option<T>, value: T) -> Result<()> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(meta.error("given twice")),
    }
}

/// A string that is a name on the wire.
fn wire_name(meta: &ParseNestedMeta) -> Result<LitStr> {
    let name: LitStr = meta.value()?.parse()?;
    let text = name.value();
    let ok = !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if ok {
        Ok(name)
    } else {
        Err(Error::new(name.span(), "a name has letters, digits, `-`, `_` and `.` only"))
    }
}

/// Reads all `#[qapi(…)]` of an item through `take`, which tells whether it knew an attribute.
fn parse_all(
    attrs: &[Attribute],
    known: &str,
    mut take: impl FnMut(&ParseNestedMeta) -> Result<bool>,
) -> Result<()> {
    for attr in attrs.iter().filter(|a| a.path().is_ident("qapi")) {
        attr.parse_nested_meta(|meta| {
            if take(&meta)? {
                Ok(())
            } else {
                Err(meta.error(format_args!("not known here; there are: {known}")))
            }
        })?;
    }
    Ok(())
}

/// The text of doc comments, a line each, without the space that usually starts it.
pub fn doc(attrs: &[Attribute]) -> String {
    let mut lines = Vec::new();
    for attr in attrs {
        if let Meta::NameValue(nv) = &attr.meta
            && nv.path.is_ident("doc")
            && let Expr::Lit(syn::ExprLit { lit: Lit::Str(s), .. }) = &nv.value
        {
            let text = s.value();
            lines.push(text.strip_prefix(' ').unwrap_or(&text).trim_end().to_owned());
        }
    }
    lines.join("\n")
}

/// The Rust name of a field or type in lower case with dashes.
fn kebab(ident: &Ident) -> String {
    let text = ident.to_string();
    let text = text.strip_prefix("r#").unwrap_or(&text);
    let mut out = String::new();
    let mut after_lower = false;
    for c in text.chars() {
        if c.is_ascii_uppercase() {
            if after_lower {
                out.push('-');
            }
            out.push(c.to_ascii_lowercase());
        } else {
            out.push(if c == '_' { '-' } else { c });
        }
        after_lower = c.is_ascii_lowercase() || c.is_ascii_digit();
    }
    out
}

/// The type of a union's tag.
pub enum TagType {
    /// To be made, with this name.
    Made(Ident),
    /// One that exists.
    Existing(Path),
}

/// What stands at a type.
#[derive(Default)]
pub struct Container {
    pub schema_name: String,
    pub doc: String,
    pub features: Features,
    pub command: Option<LitStr>,
    pub ret: Option<Type>,
    pub allow_oob: bool,
    pub allow_preconfig: bool,
    pub event: Option<LitStr>,
    pub tag: Option<(LitStr, TagType)>,
    pub wrap: Option<LitStr>,
    pub alternate: bool,
}

impl Container {
    pub fn parse(input: &DeriveInput) -> Result<Container> {
        let mut c = Container {
            schema_name: input.ident.to_string(),
            doc: doc(&input.attrs),
            ..Container::default()
        };
        let (mut tag, mut tag_type, mut schema_name) = (None, None, None);
        let is_enum = matches!(input.data, Data::Enum(_));
        let known = if is_enum {
            "schema_name, features, unstable, deprecated, tag, tag_enum, tag_type, wrap, alternate"
        } else {
            "schema_name, features, unstable, deprecated, command, ret, allow_oob, allow_preconfig, event"
        };
        parse_all(&input.attrs, known, |meta| {
            if c.features.take(meta)? {
                return Ok(true);
            }
            let name = meta.path.get_ident().map(Ident::to_string).unwrap_or_default();
            match (name.as_str(), is_enum) {
                ("schema_name", _) => once(meta, &mut schema_name, wire_name(meta)?)?,
                ("command", false) => once(meta, &mut c.command, wire_name(meta)?)?,
                ("ret", false) => {
                    let ty = meta.value()?.parse()?;
                    once(meta, &mut c.ret, ty)?;
                }
                ("allow_oob", false) => c.allow_oob = true,
                ("allow_preconfig", false) => c.allow_preconfig = true,
                ("event", false) => once(meta, &mut c.event, wire_name(meta)?)?,
                ("tag", true) => once(meta, &mut tag, wire_name(meta)?)?,
                ("tag_enum", true) => {
                    let ident: LitStr = meta.value()?.parse()?;
                    once(meta, &mut tag_type, TagType::Made(ident.parse()?))?;
                }
                ("tag_type", true) => {
                    let path = meta.value()?.parse()?;
                    once(meta, &mut tag_type, TagType::Existing(path))?;
                }
                ("wrap", true) => once(meta, &mut c.wrap, wire_name(meta)?)?,
                ("alternate", true) => c.alternate = true,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        if let Some(name) = schema_name {
            c.schema_name = name.value();
        }
        let fail = |what: &str| Err(Error::new(input.ident.span(), what));
        c.tag = match (tag, tag_type) {
            (Some(tag), Some(ty)) => Some((tag, ty)),
            (None, None) => None,
            _ => return fail("a union needs `tag`, and `tag_enum` or `tag_type`"),
        };
        if c.alternate && c.tag.is_some() {
            return fail("a type is a union or an alternate, not both");
        }
        if c.wrap.is_some() && c.tag.is_none() {
            return fail("`wrap` is for unions, which have a `tag`");
        }
        if c.command.is_some() && c.event.is_some() {
            return fail("a type belongs to a command or to an event, not both");
        }
        if c.command.is_none() && (c.ret.is_some() || c.allow_oob || c.allow_preconfig) {
            return fail("`ret`, `allow_oob` and `allow_preconfig` are for a `command`");
        }
        Ok(c)
    }
}

/// What stands at a field.
pub struct Member {
    pub ident: Ident,
    pub ty: Type,
    /// The type inside `Option`, where it is one.
    pub inner: Option<Type>,
    pub name: String,
    pub doc: String,
    pub features: Features,
    pub condition: Option<TokenStream>,
    pub size: bool,
    pub flatten: bool,
    pub union: bool,
    pub hidden: bool,
}

impl Member {
    pub fn parse(field: &Field) -> Result<Member> {
        let ident = field.ident.clone().ok_or_else(|| Error::new_spanned(field, "a field needs a name"))?;
        let mut m = Member {
            name: kebab(&ident),
            ident,
            ty: field.ty.clone(),
            inner: option_inner(&field.ty).cloned(),
            doc: doc(&field.attrs),
            features: Features::default(),
            condition: None,
            size: false,
            flatten: false,
            union: false,
            hidden: false,
        };
        let mut name = None;
        parse_all(
            &field.attrs,
            "name, features, unstable, deprecated, if, size, flatten, union, hidden",
            |meta| {
                if m.features.take(meta)? {
                    return Ok(true);
                }
                let key = meta.path.get_ident().map(Ident::to_string).unwrap_or_default();
                match key.as_str() {
                    "name" => once(meta, &mut name, wire_name(meta)?)?,
                    "if" => once(meta, &mut m.condition, condition(meta)?)?,
                    "size" => m.size = true,
                    "flatten" => m.flatten = true,
                    "union" => m.union = true,
                    "hidden" => m.hidden = true,
                    _ => return Ok(false),
                }
                Ok(true)
            },
        )?;
        let fail = |what: &str| Err(Error::new_spanned(&field.ty, what));
        if (m.flatten || m.union) && (name.is_some() || m.size || m.inner.is_some() || m.condition.is_some())
        {
            return fail("a flattened type or union has no name, size or condition, and is not optional");
        }
        if m.flatten && m.union {
            return fail("`union` says it all; leave out `flatten`");
        }
        if m.condition.is_some() && m.inner.is_none() {
            return fail("a member with a condition must be an `Option`");
        }
        if m.hidden && m.inner.is_none() {
            return fail("a hidden member must be an `Option`");
        }
        let size_of = m.inner.as_ref().unwrap_or(&m.ty);
        if m.size && !matches!(size_of, Type::Path(p) if p.path.is_ident("u64")) {
            return fail("a size is a `u64`");
        }
        if let Some(name) = name {
            m.name = name.value();
        }
        Ok(m)
    }
}

/// The type inside `Option<…>`.
fn option_inner(ty: &Type) -> Option<&Type> {
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last().filter(|s| s.ident == "Option")?;
    let syn::PathArguments::AngleBracketed(args) = &last.arguments else { return None };
    match args.args.first()? {
        syn::GenericArgument::Type(ty) => Some(ty),
        _ => None,
    }
}

/// The condition in `if(…)`.
fn condition(meta: &ParseNestedMeta) -> Result<TokenStream> {
    let content;
    syn::parenthesized!(content in meta.input);
    content.parse()
}

/// What stands at a variant.
pub struct Case {
    pub ident: Ident,
    /// The type of its one field, if it has one.
    pub ty: Option<Type>,
    pub name: String,
    pub doc: String,
    pub features: Features,
    pub condition: Option<TokenStream>,
}

impl Case {
    pub fn parse(variant: &Variant) -> Result<Case> {
        let ty = match &variant.fields {
            Fields::Unit => None,
            Fields::Unnamed(f) if f.unnamed.len() == 1 => Some(f.unnamed[0].ty.clone()),
            other => return Err(Error::new_spanned(other, "a variant has no data, or one unnamed field")),
        };
        let mut c = Case {
            ident: variant.ident.clone(),
            ty,
            name: kebab(&variant.ident),
            doc: doc(&variant.attrs),
            features: Features::default(),
            condition: None,
        };
        let mut name = None;
        parse_all(&variant.attrs, "name, features, unstable, deprecated, if", |meta| {
            if c.features.take(meta)? {
                return Ok(true);
            }
            if meta.path.is_ident("name") {
                once(meta, &mut name, wire_name(meta)?)?;
            } else if meta.path.is_ident("if") {
                once(meta, &mut c.condition, condition(meta)?)?;
            } else {
                return Ok(false);
            }
            Ok(true)
        })?;
        if let Some(name) = name {
            c.name = name.value();
        }
        Ok(c)
    }

    /// All variants of an enum, whose names must differ.
    pub fn parse_all(data: &syn::DataEnum) -> Result<Vec<Case>> {
        let cases = data.variants.iter().map(Case::parse).collect::<Result<Vec<_>>>()?;
        for (i, case) in cases.iter().enumerate() {
            if cases[..i].iter().any(|other| other.name == case.name) {
                return Err(Error::new(case.ident.span(), format_args!("the name `{}` is taken", case.name)));
            }
        }
        Ok(cases)
    }

    /// `#[cfg(…)]`, where it has a condition.
    pub fn cfg(&self) -> TokenStream {
        self.condition.as_ref().map(|c| quote!(#[cfg(#c)])).unwrap_or_default()
    }
}
