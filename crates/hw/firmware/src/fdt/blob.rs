//! The flattened format: Devicetree Specification 0.4, chapter 5.

use super::Node;
use std::collections::HashMap;

const MAGIC: u32 = 0xd00d_feed;
const VERSION: u32 = 17;
const LAST_COMPATIBLE: u32 = 16;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;
const HEADER: usize = 40;
/// Nodes inside nodes.
const MAX_DEPTH: usize = 64;
/// Properties of one node.
const MAX_PROPS: usize = 1024;
/// The longest name of a node or a property that is taken.
const MAX_NAME: usize = 255;

/// The largest blob that is taken, in bytes; what a boot loader's header can say is 4 GiB.
pub const MAX_BLOB: usize = 1 << 20;

/// Why bytes are not a device tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FdtError {
    /// Shorter or longer than a device tree can be.
    Size(usize),
    /// The magic number is another.
    Magic(u32),
    /// A version that cannot be read.
    Version(u32),
    /// The header's offsets or sizes leave the blob.
    Layout(&'static str),
    /// The structure block is not well formed; the offset in it.
    Structure(&'static str, usize),
}

impl std::fmt::Display for FdtError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FdtError::Size(n) => write!(f, "a device tree cannot have {n} bytes (limit {MAX_BLOB})"),
            FdtError::Magic(m) => {
                write!(f, "not a device tree: its magic number is {m:#010x}, not {MAGIC:#010x}")
            }
            FdtError::Version(v) => write!(f, "a device tree of version {v} cannot be read"),
            FdtError::Layout(what) => write!(f, "damaged device tree: {what} leaves the blob"),
            FdtError::Structure(what, at) => {
                write!(f, "damaged device tree: {what} at offset {at:#x} of its structure")
            }
        }
    }
}

impl std::error::Error for FdtError {}

/// The blob of a tree, version 17, with the boot hart's number `boot_cpu`.
pub fn write(root: &Node, boot_cpu: u32) -> Vec<u8> {
    let mut w = Writer::default();
    w.node(root);
    w.word(END);
    let (reserve, structure) = (HEADER, HEADER + 16);
    let strings = structure + w.out.len();
    let total = strings + w.strings.len();
    let mut blob = Vec::with_capacity(total);
    let header = [
        MAGIC,
        total as u32,
        structure as u32,
        strings as u32,
        reserve as u32,
        VERSION,
        LAST_COMPATIBLE,
        boot_cpu,
        w.strings.len() as u32,
        w.out.len() as u32,
    ];
    blob.extend(header.iter().flat_map(|v| v.to_be_bytes()));
    blob.extend([0; 16]); // No reserved memory: the list's end.
    blob.extend(w.out);
    blob.extend(w.strings);
    blob
}

#[derive(Default)]
struct Writer {
    out: Vec<u8>,
    strings: Vec<u8>,
    offsets: HashMap<String, u32>,
}

impl Writer {
    fn word(&mut self, v: u32) {
        self.out.extend(v.to_be_bytes());
    }

    fn pad(&mut self) {
        self.out.resize(self.out.len().next_multiple_of(4), 0);
    }

    fn node(&mut self, n: &Node) {
        self.word(BEGIN_NODE);
        self.out.extend(n.name().bytes());
        self.out.push(0);
        self.pad();
        for (name, value) in n.props() {
            self.word(PROP);
            self.word(value.len() as u32);
            let at = match self.offsets.get(name) {
                Some(at) => *at,
                None => {
                    let at = self.strings.len() as u32;
                    self.strings.extend(name.bytes());
                    self.strings.push(0);
                    self.offsets.insert(name.to_owned(), at);
                    at
                }
            };
            self.word(at);
            self.out.extend(value);
            self.pad();
        }
        for c in n.children() {
            self.node(c);
        }
        self.word(END_NODE);
    }
}

/// Reads a blob. What is behind its end and its memory reservations are not kept.
///
/// # Errors
/// Where it is not a device tree, is damaged, or is beyond the limits of size, depth and names.
pub fn parse(blob: &[u8]) -> Result<Node, FdtError> {
    if blob.len() < HEADER || blob.len() > MAX_BLOB {
        return Err(FdtError::Size(blob.len()));
    }
    let word = |i: usize| u32::from_be_bytes(blob[i * 4..i * 4 + 4].try_into().expect("four bytes"));
    if word(0) != MAGIC {
        return Err(FdtError::Magic(word(0)));
    }
    if word(6) > VERSION || word(5) < LAST_COMPATIBLE {
        return Err(FdtError::Version(word(5)));
    }
    let total = word(1) as usize;
    let blob = blob.get(..total).filter(|_| total >= HEADER).ok_or(FdtError::Layout("its length"))?;
    let part = |at: u32, len: Option<u32>, what| {
        let at = at as usize;
        let end = len.map_or(Some(total), |l| at.checked_add(l as usize));
        end.and_then(|e| blob.get(at..e)).ok_or(FdtError::Layout(what))
    };
    // Version 16 has no length of the structure block.
    let structure = part(word(2), (word(5) >= 17).then(|| word(9)), "its structure")?;
    let strings = part(word(3), Some(word(8)), "its list of names")?;
    let mut p = Parser { structure, strings, at: 0 };
    loop {
        match p.word()? {
            NOP => {}
            BEGIN_NODE => break,
            _ => return Err(p.bad("no root node")),
        }
    }
    let root = p.node(0)?;
    loop {
        match p.word()? {
            NOP => {}
            END => return Ok(root),
            _ => return Err(p.bad("something behind the root node")),
        }
    }
}

struct Parser<'a> {
    structure: &'a [u8],
    strings: &'a [u8],
    at: usize,
}

impl<'a> Parser<'a> {
    fn bad(&self, what: &'static str) -> FdtError {
        FdtError::Structure(what, self.at)
    }

    fn bytes(&mut self, n: usize) -> Result<&'a [u8], FdtError> {
        let end = self.at.checked_add(n).ok_or(self.bad("a length that overflows"))?;
        let b = self.structure.get(self.at..end).ok_or(self.bad("an early end"))?;
        self.at = end.next_multiple_of(4);
        Ok(b)
    }

    fn word(&mut self) -> Result<u32, FdtError> {
        let b = self.bytes(4)?;
        Ok(u32::from_be_bytes(b.try_into().expect("four bytes")))
    }

    fn name(&self, from: &'a [u8]) -> Result<&'a str, FdtError> {
        let window = &from[..from.len().min(MAX_NAME + 1)];
        let end = window.iter().position(|b| *b == 0).ok_or(self.bad("a name that does not end"))?;
        let name =
            std::str::from_utf8(&window[..end]).ok().filter(|s| s.bytes().all(|b| b.is_ascii_graphic()));
        name.ok_or(self.bad("a name of other than ASCII characters"))
    }

    /// The rest of a node whose opening token has been read.
    fn node(&mut self, depth: usize) -> Result<Node, FdtError> {
        if depth > MAX_DEPTH {
            return Err(self.bad("too deep a tree"));
        }
        let name = self.name(self.structure.get(self.at..).unwrap_or(&[]))?;
        self.bytes(name.len() + 1)?;
        let mut n = Node::new(name);
        loop {
            match self.word()? {
                PROP if n.children().is_empty() => {
                    if n.props().count() >= MAX_PROPS {
                        return Err(self.bad("too many properties"));
                    }
                    let (len, at) = (self.word()?, self.word()?);
                    let name =
                        self.strings.get(at as usize..).ok_or(self.bad("a property without a name"))?;
                    let name = self.name(name)?;
                    let value = self.bytes(len as usize)?;
                    n.set(name, value);
                }
                BEGIN_NODE => {
                    let c = self.node(depth + 1)?;
                    n.add(c);
                }
                END_NODE => return Ok(n),
                NOP => {}
                _ => return Err(self.bad("an unexpected token")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Node {
        let mut root = Node::new("");
        root.u32("#address-cells", 2).str("compatible", "riscv-virtio");
        let soc = root.child("soc");
        soc.flag("ranges").strs("compatible", &["simple-bus", "x"]);
        soc.child("serial@10000000").u32s("reg", &[0, 0x1000_0000, 0, 0x100]).u32("phandle", 3);
        root.child("chosen").str("bootargs", "a b c");
        root
    }

    #[test]
    fn a_tree_survives_its_blob() {
        let blob = write(&sample(), 2);
        assert_eq!(parse(&blob), Ok(sample()));
        assert_eq!(blob[28..32], [0, 0, 0, 2]);
        let longer: Vec<u8> = blob.iter().copied().chain([1, 2, 3]).collect();
        assert_eq!(parse(&longer), Ok(sample()), "padding behind the blob is usual");
    }

    #[test]
    fn lookups_and_changes() {
        let mut t = sample();
        assert_eq!(t.find("/soc/serial@10000000").and_then(|n| n.get_u32("phandle")), Some(3));
        assert_eq!(t.find("soc/none"), None);
        t.child("chosen").str("bootargs", "other").u64("linux,initrd-start", 0x1_0000_0002);
        assert_eq!(t.find("chosen").unwrap().get("bootargs"), Some(&b"other\0"[..]));
        assert_eq!(t.find("chosen").unwrap().get("linux,initrd-start"), Some(&[0, 0, 0, 1, 0, 0, 0, 2][..]));
        t.child("chosen").remove("bootargs");
        assert_eq!(t.find("chosen").unwrap().get("bootargs"), None);
    }

    #[test]
    fn what_is_no_tree_is_said_to_be_none() {
        assert_eq!(parse(b"short"), Err(FdtError::Size(5)));
        assert_eq!(parse(&[0; 64]), Err(FdtError::Magic(0)));
        assert_eq!(parse(&vec![0; MAX_BLOB + 1]), Err(FdtError::Size(MAX_BLOB + 1)));
        let mut b = write(&sample(), 0);
        b[27] = 99;
        b[23] = 99;
        assert_eq!(parse(&b), Err(FdtError::Version(99)));
    }

    #[test]
    fn damage_anywhere_is_an_error_or_another_tree_but_never_a_panic() {
        let good = write(&sample(), 0);
        for n in 0..good.len() {
            let _ = parse(&good[..n]);
        }
        let mut x = 0x1234_5678_9abc_def1u64;
        for _ in 0..20_000 {
            let mut b = good.clone();
            for _ in 0..3 {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                let i = x as usize % b.len();
                b[i] = (x >> 32) as u8;
            }
            let _ = parse(&b);
        }
    }

    #[test]
    fn a_bottomless_tree_is_refused() {
        let mut structure: Vec<u8> = Vec::new();
        for _ in 0..5000 {
            structure.extend(BEGIN_NODE.to_be_bytes());
            structure.extend([b'a', 0, 0, 0]);
        }
        let total = (HEADER + 16 + structure.len()) as u32;
        let header = [MAGIC, total, 56, total, 40, 17, 16, 0, 0, structure.len() as u32];
        let mut b: Vec<u8> = header.iter().flat_map(|v| v.to_be_bytes()).collect();
        b.extend([0; 16]);
        b.extend(structure);
        assert!(matches!(parse(&b), Err(FdtError::Structure("too deep a tree", _))));
    }
}
