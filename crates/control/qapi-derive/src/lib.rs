//! The derive macro `Qapi`.

use proc_macro::TokenStream;
use proc_macro2 as _;
use quote as _;
use syn as _;

/// Derives `qapi::Qapi`.
#[proc_macro_derive(Qapi, attributes(qapi))]
pub fn derive_qapi(_input: TokenStream) -> TokenStream {
    TokenStream::new()
}
