//! `create`.

use api::block_core::{
    BlockdevCreateOptionsQcow2, BlockdevDriver, BlockdevQcow2Version, BlockdevRef, PreallocMode,
    Qcow2CompressionType,
};
use api::crypto::{QCryptoBlockCreateOptions, QCryptoBlockCreateOptionsLUKS};
use base::units::{SizeError, parse_size};
use crypto::Secret;
use qapi::{QError, QapiEnum, qerr};
use qom::ObjectTree;
use std::sync::Arc;

use super::args::{Spec, flag, long_value, value};
use super::{CmdResult, Tool, wait};
use crate::create::{NewImage, create, qcow2_defaults};
use crate::open::{OpenFlags, Source, open};

const SPECS: &[Spec] = &[
    flag('h', "help"),
    flag('q', "quiet"),
    value('f', "format"),
    value('o', "options"),
    value('b', "backing"),
    value('F', "backing-format"),
    flag('u', "backing-unsafe"),
    long_value("object"),
];

const HELP: &str = "  -f, --format FMT           the new image's format (default raw)
  -o, --options A=B,...      options of the format; '-o help' lists them
  -b, --backing NAME         the image behind the new one
  -F, --backing-format FMT   its format
  -u, --backing-unsafe       do not look at the backing image
  --object TYPE,id=ID,...    an object that an option names, such as a secret
  -q, --quiet                print errors only
  -h, --help                 this text
FILENAME is replaced if it exists. SIZE takes a suffix (b k M G T P E); with a backing
image it may be left out and is that image's then.
";

/// What an option's value is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Str,
    Size,
    Bool,
    Num,
}

pub(super) struct Opt {
    pub(super) name: &'static str,
    ty: Type,
    /// Empty: known but not there yet.
    help: &'static str,
}

impl Opt {
    /// Its line in a list.
    pub(super) fn line(&self) -> String {
        let ty = match self.ty {
            Type::Str => "str",
            Type::Size => "size",
            Type::Bool => "bool (on/off)",
            Type::Num => "num",
        };
        format!("  {:<22} - {}\n", format!("{}=<{ty}>", self.name), self.help)
    }
}

/// Whether images of the format are made with an option of this name.
pub(super) fn is_option(format: &str, name: &str) -> bool {
    options_of(format, true).is_some_and(|l| l.iter().any(|o| o.name == name))
}

pub(super) const fn opt(name: &'static str, ty: Type, help: &'static str) -> Opt {
    Opt { name, ty, help }
}

/// In the order in which a new image's options are printed.
const QCOW2: &[Opt] = &[
    opt("encryption", Type::Bool, ""),
    opt("encrypt.format", Type::Str, "How the data is encrypted (luks)"),
    opt("encrypt.key-secret", Type::Str, "Id of the secret with the password"),
    opt("encrypt.cipher-alg", Type::Str, "Cipher (aes-256, aes-128, serpent-256, ...)"),
    opt("encrypt.cipher-mode", Type::Str, "Mode of the cipher (xts, cbc, ctr, ecb)"),
    opt("encrypt.ivgen-alg", Type::Str, "How initialisation vectors are made (plain64, plain, essiv)"),
    opt("encrypt.ivgen-hash-alg", Type::Str, "Hash for essiv"),
    opt("encrypt.hash-alg", Type::Str, "Hash of the key derivation (sha256, sha1, sha512, ...)"),
    opt("encrypt.iter-time", Type::Num, "Milliseconds that deriving a key takes"),
    opt("cluster_size", Type::Size, "Bytes of a cluster (512 to 2M)"),
    opt("extended_l2", Type::Bool, "Track 32nds of clusters"),
    opt("preallocation", Type::Str, "What to allocate at once (off, metadata, falloc, full)"),
    opt("compression_type", Type::Str, "How clusters are compressed (zlib, zstd)"),
    opt("size", Type::Size, "Bytes that a guest sees"),
    opt("compat", Type::Str, "Version: v2 (0.10) or v3 (1.1)"),
    opt("data_file", Type::Str, "Name of the file that holds the data"),
    opt("data_file_raw", Type::Bool, "The data file alone is the disk, too"),
    opt("backing_file", Type::Str, "Name of the image behind this one"),
    opt("backing_fmt", Type::Str, "Format of the image behind this one"),
    opt("lazy_refcounts", Type::Bool, "Put updates of refcounts off"),
    opt("refcount_bits", Type::Num, "Bits of a refcount (1 to 64)"),
];

const LUKS: &[Opt] = &[
    opt("size", Type::Size, "Bytes that a guest sees"),
    opt("key-secret", Type::Str, "Id of the secret with the password"),
    opt("cipher-alg", Type::Str, "Cipher (aes-256, aes-128, serpent-256, ...)"),
    opt("cipher-mode", Type::Str, "Mode of the cipher (xts, cbc, ctr, ecb)"),
    opt("ivgen-alg", Type::Str, "How initialisation vectors are made (plain64, plain, essiv)"),
    opt("ivgen-hash-alg", Type::Str, "Hash for essiv"),
    opt("hash-alg", Type::Str, "Hash of the key derivation (sha256, sha1, sha512, ...)"),
    opt("iter-time", Type::Num, "Milliseconds that deriving a key takes"),
    opt("detached-header", Type::Bool, "Make a header only, for data in another file"),
];

const RAW: &[Opt] = &[opt("size", Type::Size, "Bytes that a guest sees")];

/// What the file itself takes.
const FILE: &[Opt] = &[
    opt("preallocation", Type::Str, "What to allocate at once (off, falloc, full)"),
    opt("nocow", Type::Bool, ""),
    opt("extent_size_hint", Type::Size, ""),
];

/// Name and value of each option, in the order of printing; the text is what is printed.
#[derive(Default)]
pub(super) struct Values(Vec<(&'static str, String)>);

impl Values {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|v| v.0 == name).map(|v| v.1.as_str())
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    pub(super) fn set(&mut self, name: &'static str, v: String) {
        self.0.retain(|e| e.0 != name);
        self.0.push((name, v));
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|v| v.0)
    }

    fn sort(&mut self, specs: &[&Opt]) {
        self.0.sort_by_key(|v| specs.iter().position(|s| s.name == v.0));
    }
}

pub(super) fn run(tool: &mut Tool<'_>, given: &[String]) -> CmdResult {
    let p = tool.parse("create", SPECS, given)?;
    let (mut format, mut options, mut backing, mut backing_format) =
        ("raw".to_string(), Vec::new(), None, None);
    let (mut quiet, mut unsafe_backing, mut objects) = (false, false, Vec::new());
    for (name, v) in p.options {
        match name {
            "help" => {
                let text = format!(
                    "Make a new image.\n\nUsage: {} create [OPTIONS] FILENAME [SIZE]\n\n{HELP}",
                    tool.prog
                );
                tool.print(&text);
                return Ok(0);
            }
            "quiet" => quiet = true,
            "format" => format = v,
            "options" => options.push(v),
            "backing" => backing = Some(v),
            "backing-format" => backing_format = Some(v),
            "backing-unsafe" => unsafe_backing = true,
            "object" => objects.push(v),
            _ => {}
        }
    }
    let wants_help = options.iter().flat_map(|o| split(o)).any(|o| o == "help" || o == "?");
    if wants_help {
        return list_options(tool, &format, !p.rest.is_empty());
    }
    let (name, size) = match &p.rest[..] {
        [] => return tool.usage("create", "Expecting image file name"),
        [name] => (name, None),
        [name, size] => match parse_size(size, 1) {
            Ok(n) if n <= i64::MAX as u64 => (name, Some(n)),
            Ok(_) | Err(SizeError::OutOfRange) => {
                return tool
                    .fail(&format!("Invalid image size specified. Must be between 0 and {}.", i64::MAX));
            }
            Err(SizeError::Invalid) => return tool.fail(&format!("Invalid image size specified: '{size}'.")),
        },
        [_, _, extra, ..] => return tool.usage("create", &format!("Unexpected argument: {extra}")),
    };
    let objects = super::objects(tool, &objects)?;
    let job = Job { objects, name, format: &format, size, backing, backing_format, unsafe_backing };
    let done = wait(tool, job.prepare(&options))?;
    let result = match done {
        Ok((line, image)) => {
            if !quiet {
                tool.print(&line);
            }
            match image {
                Ok(image) => wait(tool, create(name, &image))?,
                Err(e) => Err(e),
            }
        }
        Err(e) => Err(e),
    };
    match result {
        Ok(()) => Ok(0),
        Err(e) => tool.fail_with(&e.prepend(name)),
    }
}

fn options_of(format: &str, with_file: bool) -> Option<Vec<&'static Opt>> {
    let own = match format {
        "qcow2" => QCOW2,
        "luks" => LUKS,
        "raw" | "file" => RAW,
        _ => return None,
    };
    let below = FILE.iter().filter(|f| with_file && !own.iter().any(|o| o.name == f.name));
    Some(own.iter().chain(below).collect())
}

fn list_options(tool: &mut Tool<'_>, format: &str, with_file: bool) -> CmdResult {
    let Some(mut list) = options_of(format, with_file) else {
        return tool.fail(&format!("Unknown file format '{format}'"));
    };
    list.retain(|o| !o.help.is_empty());
    list.sort_by_key(|o| o.name);
    let mut text =
        if with_file { "Supported options:\n".to_string() } else { format!("Supported {format} options:\n") };
    for o in list {
        text.push_str(&o.line());
    }
    if !with_file {
        text.push_str("\nThe file itself may take more options: name it to see them.\n");
    }
    tool.print(&text);
    Ok(0)
}

/// Splits at commas; a doubled comma is one of the text.
pub(super) fn split(text: &str) -> Vec<String> {
    let mut out = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, out.last_mut()) {
            (',', Some(last)) if chars.peek() == Some(&',') => {
                chars.next();
                last.push(',');
            }
            (',', _) => out.push(String::new()),
            (c, Some(last)) => last.push(c),
            (_, None) => {}
        }
    }
    out.retain(|s| !s.is_empty());
    out
}

pub(super) fn checked(o: &Opt, v: &str) -> Result<String, QError> {
    const SUFFIXES: &str = "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively.";
    Ok(match o.ty {
        Type::Str => v.to_string(),
        Type::Size => parse_size(v, 1)
            .map_err(|_| {
                qerr!("Parameter '{}' expects a non-negative number below 2^64", o.name).with_hint(SUFFIXES)
            })?
            .to_string(),
        Type::Bool => match v {
            "on" | "yes" | "true" | "y" => "on".to_string(),
            "off" | "no" | "false" | "n" => "off".to_string(),
            _ => return Err(qerr!("Parameter '{}' expects 'on' or 'off'", o.name)),
        },
        Type::Num => {
            v.parse::<u64>().map_err(|_| qerr!("Parameter '{}' expects a number", o.name))?.to_string()
        }
    })
}

struct Job<'a> {
    objects: Arc<ObjectTree>,
    name: &'a str,
    format: &'a str,
    size: Option<u64>,
    backing: Option<String>,
    backing_format: Option<String>,
    unsafe_backing: bool,
}

impl Job<'_> {
    /// Answers the line that announces the image, and the image or what is wrong with its options.
    async fn prepare(&self, options: &[String]) -> Result<(String, Result<NewImage, QError>), QError> {
        let Some(specs) = options_of(self.format, true) else {
            return Err(qerr!("Unknown file format '{}'", self.format));
        };
        let mut v = Values::default();
        if self.format == "qcow2" {
            for (name, default) in [
                ("cluster_size", "65536"),
                ("extended_l2", "off"),
                ("compression_type", "zlib"),
                ("lazy_refcounts", "off"),
                ("refcount_bits", "16"),
            ] {
                v.set(name, default.into());
            }
        }
        for o in options.iter().flat_map(|o| split(o)) {
            let (name, text) = o.split_once('=').unwrap_or((&o, "on"));
            let spec = specs.iter().find(|s| s.name == name);
            let spec = spec.ok_or_else(|| qerr!("Invalid parameter '{name}'"))?;
            v.set(spec.name, checked(spec, text)?);
        }
        if let Some(size) = self.size {
            if v.get("size").is_some() {
                return Err(qerr!("The image size must be specified only once"));
            }
            v.set("size", size.to_string());
        }
        let stacks = specs.iter().any(|s| s.name == "backing_file");
        for (name, given, what) in [
            ("backing_file", &self.backing, "Backing file"),
            ("backing_fmt", &self.backing_format, "Backing format"),
        ] {
            if let Some(g) = given {
                if !stacks {
                    return Err(qerr!("{what} not supported for file format '{}'", self.format));
                }
                v.set(name, g.clone());
            }
        }
        if let Some(backing) = v.get("backing_file").filter(|b| !b.is_empty()).map(str::to_string)
            && let Some(size) =
                self.backing_size(&backing, v.get("backing_fmt"), v.get("size").is_some()).await?
        {
            v.set("size", size.to_string());
        }
        let Some(size) = v.number("size") else { return Err(qerr!("Image creation needs a size parameter")) };
        v.sort(&specs);
        let mut line = format!("Formatting '{}', fmt={}", self.name, self.format);
        v.0.iter().for_each(|(name, text)| line.push_str(&format!(" {name}={text}")));
        line.push('\n');
        let unsupported =
            specs.iter().find(|s| s.help.is_empty() && v.get(s.name).is_some_and(|t| t != "off"));
        let twice = v.get("encryption").is_some() && v.get("encrypt.format").is_some();
        let image = match (unsupported, self.format) {
            _ if twice => {
                Err(qerr!("'encrypt.format' and its alias 'encryption' can't be used at the same time"))
            }
            (Some(s), _) => Err(qerr!("Option '{}' is not supported yet", s.name)),
            (None, "qcow2") => self.qcow2(&v, size),
            (None, "luks") => luks(&v, size, &self.objects),
            (None, _) => {
                preallocation(&v).map(|p| NewImage::Raw { size, preallocation: p.unwrap_or_default() })
            }
        };
        Ok((line, image))
    }

    fn qcow2(&self, v: &Values, size: u64) -> Result<NewImage, QError> {
        let mut o = Box::new(qcow2(v, size)?);
        if v.0.iter().any(|o| o.0.starts_with("encrypt.")) {
            let password = match v.get("encrypt.format") {
                None => return Err(qerr!("Parameter 'encrypt.format' is missing")),
                Some("luks") => {
                    let options = luks_options(v, "encrypt.")?;
                    o.encrypt = Some(QCryptoBlockCreateOptions::Luks(options));
                    password(v, "encrypt.", &self.objects)?
                }
                Some("aes") => {
                    let known = ["encrypt.format", "encrypt.key-secret"];
                    return match v.0.iter().find(|o| o.0.starts_with("encrypt.") && !known.contains(&o.0)) {
                        Some(o) => Err(qerr!("Parameter '{}' is unexpected", o.0)),
                        None => Err(qerr!("Images with the old encryption 'aes' cannot be made; use 'luks'")),
                    };
                }
                Some(f) => return Err(qerr!("Parameter 'format' does not accept value '{f}'")),
            };
            return Ok(NewImage::EncryptedQcow2(o, password));
        }
        Ok(NewImage::Qcow2(o))
    }

    /// Looks at the backing image; answers its size where that is needed.
    async fn backing_size(
        &self,
        backing: &str,
        format: Option<&str>,
        have_size: bool,
    ) -> Result<Option<u64>, QError> {
        let path = beside(self.name, backing);
        if path == self.name {
            return Err(qerr!("Error: Trying to create an image with the same filename as the backing file"));
        }
        let missing = || qerr!("Backing file specified without backing format");
        if self.unsafe_backing {
            return if format.is_none() { Err(missing()) } else { Ok(None) };
        }
        let source = Source::file(&path, format);
        let flags = OpenFlags { no_io: true, ..OpenFlags::default() };
        let opened = open(&source, flags)
            .await
            .map_err(|e| qerr!("{}", e.desc()).with_hint("Could not open backing image."))?;
        let (size, found) = (opened.len(), opened.format.clone());
        opened.close().await;
        if format.is_none() {
            return Err(missing().with_hint(format!("Detected format of {found}.")));
        }
        Ok((!have_size).then_some(size))
    }
}

/// A backing file's name as seen from here: it is relative to the directory of the image that names it.
pub(crate) fn beside(image: &str, backing: &str) -> String {
    match image.rfind('/') {
        Some(i) if !backing.starts_with('/') => format!("{}{backing}", &image[..=i]),
        _ => backing.to_string(),
    }
}

fn enumerated<E: QapiEnum>(v: &Values, option: &str, member: &str) -> Result<Option<E>, QError> {
    let Some(text) = v.get(option) else { return Ok(None) };
    E::from_str(text).map(Some).ok_or_else(|| qerr!("Parameter '{member}' does not accept value '{text}'"))
}

fn preallocation(v: &Values) -> Result<Option<PreallocMode>, QError> {
    enumerated(v, "preallocation", "preallocation")
}

fn qcow2(v: &Values, size: u64) -> Result<BlockdevCreateOptionsQcow2, QError> {
    let version = match v.get("compat") {
        None => None,
        Some("0.10") => Some(BlockdevQcow2Version::V2),
        Some("1.1") => Some(BlockdevQcow2Version::V3),
        Some(_) => enumerated(v, "compat", "version")?,
    };
    let backing_fmt = match v.get("backing_fmt") {
        Some(f) => Some(BlockdevDriver::from_str(f).ok_or_else(|| qerr!("Unknown driver '{f}'"))?),
        None => None,
    };
    // Guests count sectors: a size in between is rounded up.
    let size = size.checked_next_multiple_of(512).ok_or_else(|| qerr!("Image size is too large"))?;
    Ok(BlockdevCreateOptionsQcow2 {
        data_file: v.get("data_file").map(|f| BlockdevRef::Reference(f.into())),
        data_file_raw: v.get("data_file_raw").map(|t| t == "on"),
        extended_l2: v.get("extended_l2").map(|t| t == "on"),
        version,
        backing_file: v.get("backing_file").filter(|b| !b.is_empty()).map(Into::into),
        backing_fmt,
        cluster_size: v.number("cluster_size"),
        preallocation: preallocation(v)?,
        lazy_refcounts: v.get("lazy_refcounts").map(|t| t == "on"),
        refcount_bits: v.number("refcount_bits").map(|n| i64::try_from(n).unwrap_or(i64::MAX)),
        compression_type: enumerated::<Qcow2CompressionType>(v, "compression_type", "compression-type")?,
        ..qcow2_defaults(size)
    })
}

/// Options of a LUKS volume, whose names begin with `prefix`.
fn luks_options(v: &Values, prefix: &str) -> Result<QCryptoBlockCreateOptionsLUKS, QError> {
    let name = |n: &str| format!("{prefix}{n}");
    Ok(QCryptoBlockCreateOptionsLUKS {
        key_secret: v.get(&name("key-secret")).map(Into::into),
        cipher_alg: enumerated(v, &name("cipher-alg"), "cipher-alg")?,
        cipher_mode: enumerated(v, &name("cipher-mode"), "cipher-mode")?,
        ivgen_alg: enumerated(v, &name("ivgen-alg"), "ivgen-alg")?,
        ivgen_hash_alg: enumerated(v, &name("ivgen-hash-alg"), "ivgen-hash-alg")?,
        hash_alg: enumerated(v, &name("hash-alg"), "hash-alg")?,
        iter_time: v.number(&name("iter-time")).map(|n| i64::try_from(n).unwrap_or(i64::MAX)),
    })
}

fn password(v: &Values, prefix: &str, objects: &ObjectTree) -> Result<Secret, QError> {
    let id = v.get(&format!("{prefix}key-secret"));
    objects.password(id.ok_or_else(|| qerr!("Parameter '{prefix}key-secret' is required for cipher"))?)
}

fn luks(v: &Values, size: u64, objects: &ObjectTree) -> Result<NewImage, QError> {
    let options = luks_options(v, "")?;
    let password = password(v, "", objects)?;
    let preallocation = preallocation(v)?.unwrap_or_default();
    let detached = v.get("detached-header") == Some("on");
    Ok(NewImage::Luks { options, password, size, preallocation, detached })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn option_lists_split_at_single_commas() {
        assert_eq!(split("a=b,c=d,,e,"), ["a=b", "c=d,e"]);
        assert_eq!(split(""), Vec::<String>::new());
    }

    #[test]
    fn backing_names_are_relative_to_the_image() {
        assert_eq!(beside("dir/a", "b"), "dir/b");
        assert_eq!(beside("dir/a", "/b"), "/b");
        assert_eq!(beside("a", "b"), "b");
    }
}
