//! The descriptor: a text of lines `NAME=VALUE`, and a line for each extent.

use super::spec::{MAX_EXTENTS, SECTOR};
use qapi::{QError, qerr};

/// One extent's line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Bytes of the disk.
    pub len: u64,
    /// `FLAT`, `SPARSE` and so on.
    pub kind: String,
    /// The file's name.
    pub file: String,
    /// Where in the file it begins, bytes; flat extents have one.
    pub offset: u64,
}

/// What a descriptor says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// The whole text.
    pub text: String,
    /// The kind of image.
    pub create_type: Option<String>,
    /// Content id: changes when the disk is written.
    pub cid: u32,
    /// The parent's content id when this image was made; all ones for no parent.
    pub parent_cid: u32,
    /// The parent's file.
    pub parent: Option<String>,
}

/// The value of `NAME=VALUE` or `NAME="VALUE"`, where a line begins with it.
fn value<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let line =
        text.lines().find_map(|l| l.trim_start().strip_prefix(name)?.trim_start().strip_prefix('='))?;
    let v = line.trim();
    Some(v.strip_prefix('"').map_or(v, |q| q.split('"').next().unwrap_or("")))
}

/// Whether these first bytes are those of a descriptor: comments, then its version.
pub fn is_descriptor(b: &[u8]) -> bool {
    let text = String::from_utf8_lossy(b);
    let first = text.lines().map(str::trim).find(|l| !l.is_empty() && !l.starts_with('#'));
    first.is_some_and(|l| ["version=1", "version=2", "version=3"].contains(&l))
}

impl Descriptor {
    /// Reads a descriptor; what stands behind a zero byte does not belong to it.
    pub fn parse(bytes: &[u8]) -> Descriptor {
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let id = |name| value(&text, name).and_then(|v| u32::from_str_radix(v, 16).ok());
        Descriptor {
            create_type: value(&text, "createType").map(str::to_owned),
            cid: id("CID").unwrap_or(u32::MAX),
            parent_cid: id("parentCID").unwrap_or(u32::MAX),
            parent: value(&text, "parentFileNameHint").map(str::to_owned),
            text,
        }
    }

    /// The lines of extents that may be read and written.
    ///
    /// # Errors
    /// A line that is none; too many.
    pub fn extents(&self) -> Result<Vec<Line>, QError> {
        let mut all = Vec::new();
        for line in self.text.lines() {
            let Some(rest) = line.trim_start().strip_prefix("RW ") else { continue };
            let invalid = || qerr!("Invalid extent line: {line}");
            let (sectors, rest) = rest.trim_start().split_once(' ').ok_or_else(invalid)?;
            let sectors: u64 = sectors.parse().map_err(|_| invalid())?;
            let (kind, rest) = rest.trim_start().split_once(' ').ok_or_else(invalid)?;
            let mut quoted = rest.trim_start().strip_prefix('"').ok_or_else(invalid)?.splitn(2, '"');
            let (file, rest) = (quoted.next().unwrap_or(""), quoted.next().ok_or_else(invalid)?.trim());
            // Flat extents begin somewhere in their files, and only those.
            let offset = match (kind, rest) {
                ("FLAT", n) => n.parse::<u64>().map_err(|_| invalid())?,
                (_, "") => 0,
                _ => return Err(invalid()),
            };
            let bytes = |n: u64| n.checked_mul(SECTOR).filter(|b| *b <= block::MAX_OFFSET);
            let (Some(len), Some(offset)) = (bytes(sectors).filter(|l| *l > 0), bytes(offset)) else {
                return Err(invalid());
            };
            if all.len() == MAX_EXTENTS {
                return Err(qerr!("Too many extents"));
            }
            all.push(Line { len, kind: kind.to_owned(), file: file.to_owned(), offset });
        }
        Ok(all)
    }

    /// The text with another content id.
    pub fn with_cid(&self, cid: u32) -> String {
        let mut done = false;
        let mut out = String::with_capacity(self.text.len() + 8);
        for line in self.text.split_inclusive('\n') {
            if !done && line.trim_start().starts_with("CID=") {
                out.push_str(&format!("CID={cid:08x}\n"));
                done = true;
            } else {
                out.push_str(line);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Disk DescriptorFile\nversion=1\nCID=1c3\nparentCID=ffffffff\ncreateType=\"twoGbMaxExtentFlat\"\n\n\
                        RW 4194304 FLAT \"a b-f001.vmdk\" 0\nRDONLY 1 ZERO\nRW 8 SPARSE \"c\"\n\nddb.adapterType = \"ide\"\n";

    #[test]
    fn descriptors_are_read() {
        let d = Descriptor::parse(format!("{TEXT}\0junk=1").as_bytes());
        assert_eq!((d.cid, d.parent_cid), (0x1c3, u32::MAX));
        assert_eq!(d.create_type.as_deref(), Some("twoGbMaxExtentFlat"));
        let lines = d.extents().unwrap();
        assert_eq!(
            lines[0],
            Line { len: 2 << 30, kind: "FLAT".into(), file: "a b-f001.vmdk".into(), offset: 0 }
        );
        assert_eq!(lines[1], Line { len: 4096, kind: "SPARSE".into(), file: "c".into(), offset: 0 });
        // Those of ESX begin at the start of their files.
        let esx = Descriptor::parse(b"# Disk DescriptorFile\nRW 8 VMFS \"a-flat.vmdk\"\n");
        assert_eq!(esx.extents().unwrap()[0].offset, 0);
        assert_eq!(d.with_cid(0xabc), TEXT.replace("CID=1c3", "CID=00000abc"));
        assert!(is_descriptor(TEXT.as_bytes()));
        assert!(!is_descriptor(b"# a shell script\necho\n"));
    }

    #[test]
    fn broken_lines_are_refused() {
        for line in [
            "RW x FLAT \"a\" 0",
            "RW 8 FLAT \"a\"",
            "RW 8 FLAT a 0",
            "RW 8 VMFS \"a\" 0",
            "RW 0 SPARSE \"a\"",
            "RW 99999999999999999999 SPARSE \"a\"",
            "RW 36028797018963968 SPARSE \"a\"",
        ] {
            assert!(Descriptor::parse(line.as_bytes()).extents().is_err(), "{line}");
        }
    }
}
