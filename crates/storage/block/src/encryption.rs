//! How images are encrypted, by their own headers: people who describe an image need not say it.

use std::future::Future;
use std::pin::Pin;

use base::IoResult;
use mem::IoBuf;
use qapi::{Dict, QError, Value, qerr};

use crate::control::BlockGraph;
use crate::driver::Cx;
use crate::filename;
use crate::open::Place;
use crate::options::to_dict;
use crate::probe;
use crate::txn::Txn;

/// Bytes of a header of qcow and qcow2 up to the number of its encryption.
const HEADER: usize = 40;

/// The encryption that a header of qcow or qcow2 tells of; `none` for every other file.
fn method(header: &[u8]) -> &'static str {
    let number = |at: usize| header.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
    if header.get(..4) != Some(b"QFI\xfb") {
        return "none";
    }
    // It stands elsewhere in version 1.
    match number(if number(4) == Some(1) { 36 } else { 32 }) {
        Some(1) => "aes",
        Some(2) => "luks",
        _ => "none",
    }
}

async fn method_of(cx: &Cx<'_>) -> IoResult<&'static str> {
    let n = cx.len().min(HEADER as u64) as usize;
    let buf = IoBuf::zeroed(n);
    cx.node_read(0, buf.clone()).await?;
    Ok(method(&buf.to_vec()))
}

impl BlockGraph {
    /// Puts the way in which images are encrypted into the options of a node and of its children, where they have `encrypt`
    /// without `format`. An image that is not encrypted needs no `encrypt`: it goes.
    ///
    /// # Errors
    /// A format that is not that of the image; what opening an encrypted image has no option for.
    pub fn fill_encryption<'a>(
        &'a self,
        d: &'a mut Dict,
    ) -> Pin<Box<dyn Future<Output = Result<(), QError>> + 'a>> {
        Box::pin(async move {
            let children: Vec<String> = d.keys().map(str::to_owned).collect();
            for name in children {
                if let Some(Value::Dict(child)) = d.get_mut(&name) {
                    self.fill_encryption(child).await?;
                }
            }
            if !matches!(d.get("encrypt"), Some(Value::Dict(_))) {
                return Ok(());
            }
            let found = match d.get("file") {
                Some(Value::Dict(file)) => self.method_aside(file.clone()).await,
                Some(Value::Str(node)) => {
                    let graph = self.snapshot();
                    match graph.by_name(node) {
                        Some(node) => method_of(&Cx { graph: &graph, node }).await.ok(),
                        None => None,
                    }
                }
                _ => None,
            };
            set(d, found)
        })
    }

    /// The encryption of the image in a file that is opened for this alone.
    async fn method_aside(&self, mut file: Dict) -> Option<&'static str> {
        if !file.contains_key("driver") {
            let path = file.get("filename").and_then(Value::as_str).unwrap_or("").to_owned();
            file.insert("driver", probe::protocol_of(path).await);
        }
        file.insert("read-only", true);
        // Whoever has it open: only the header is read.
        file.insert("force-share", true);
        let file = to_dict(&filename::options(self.drivers(), file).await.ok()?);
        let mut aside = Txn::aside(self);
        let id = aside.open(file, Place::top()).await.ok()?;
        let graph = aside.preview();
        let node = graph.node(id)?;
        method_of(&Cx { graph: &graph, node }).await.ok()
    }
}

/// Puts what was found into the options. `None`: nothing could be read, and opening the image will say why.
fn set(d: &mut Dict, found: Option<&str>) -> Result<(), QError> {
    let Some(Value::Dict(e)) = d.get_mut("encrypt") else { return Ok(()) };
    match (e.get("format").and_then(Value::as_str), found) {
        (None, Some("none")) => drop(d.remove("encrypt")),
        (None, m) => drop(e.insert("format", m.unwrap_or("luks"))),
        (Some(f), Some("none")) => {
            return Err(qerr!("No encryption in image header, but options specified format '{f}'"));
        }
        (Some(f), Some(m)) if f != m => {
            return Err(qerr!("Header reported '{m}' encryption format but options specify '{f}'"));
        }
        _ => {}
    }
    let known = ["format", "key-secret"];
    match d.get("encrypt").and_then(Value::as_dict).and_then(|e| e.keys().find(|k| !known.contains(k))) {
        Some(name) if found.is_some() => Err(qerr!("Parameter '{name}' is unexpected")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_tell() {
        let header = |version: u32, at: usize, number: u32| {
            let mut h = vec![0; HEADER];
            h[..4].copy_from_slice(b"QFI\xfb");
            h[4..8].copy_from_slice(&version.to_be_bytes());
            h[at..at + 4].copy_from_slice(&number.to_be_bytes());
            h
        };
        assert_eq!(method(&header(1, 36, 1)), "aes");
        assert_eq!(method(&header(2, 32, 1)), "aes");
        assert_eq!(method(&header(3, 32, 2)), "luks");
        assert_eq!(method(&header(3, 32, 0)), "none");
        assert_eq!(method(&header(3, 36, 2)), "none");
        assert_eq!(method(b"QFI\xfb"), "none");
        assert_eq!(method(&[0; HEADER]), "none");
    }

    #[test]
    fn options_get_what_the_image_is() {
        let options = |format: Option<&str>| {
            let mut e = Dict::from_iter([("key-secret", "s")]);
            if let Some(f) = format {
                e.insert("format", f);
            }
            Dict::from_iter([("encrypt", Value::Dict(e))])
        };
        let filled = |given: Option<&str>, found: Option<&str>| {
            let mut d = options(given);
            set(&mut d, found).map_err(|e| e.desc().to_owned()).map(|()| {
                let e = d.get("encrypt").and_then(Value::as_dict);
                e.and_then(|e| e.get("format").and_then(Value::as_str).map(str::to_owned))
            })
        };
        assert_eq!(filled(None, Some("aes")), Ok(Some("aes".into())));
        assert_eq!(filled(None, Some("none")), Ok(None));
        assert_eq!(filled(None, None), Ok(Some("luks".into())));
        assert_eq!(filled(Some("aes"), Some("aes")), Ok(Some("aes".into())));
        let text = "Header reported 'aes' encryption format but options specify 'foo'";
        assert_eq!(filled(Some("foo"), Some("aes")), Err(text.into()));
        let text = "No encryption in image header, but options specified format 'aes'";
        assert_eq!(filled(Some("aes"), Some("none")), Err(text.into()));
    }
}
