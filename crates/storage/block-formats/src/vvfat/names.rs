//! Names in directories: the short one of eight and three letters, and the long one in pieces.

use super::spec::{ENTRY, LONG_NAME, LOWER_EXTENSION, LOWER_STEM, MAX_NAME};
use std::collections::HashSet;

/// A short name, padded with blanks.
pub type Short = [u8; 11];

/// The letter that a short name has for a character; `None` where there is none.
fn letter(c: char) -> Option<u8> {
    let c = c.to_ascii_uppercase();
    let ok = c.is_ascii_alphanumeric() || "$%'-_@~`!(){}^#&".contains(c);
    ok.then_some(c as u8)
}

/// A short name that no other entry of the directory has.
pub fn short(name: &str, taken: &mut HashSet<Short>) -> Short {
    let (stem, ext) = match name.rfind('.') {
        Some(at) if at > 0 => (&name[..at], &name[at + 1..]),
        _ => (name, ""),
    };
    let part = |text: &str, most: usize| -> Vec<u8> {
        let letters = text.chars().filter(|c| !matches!(c, '.' | ' ')).map(|c| letter(c).unwrap_or(b'_'));
        letters.take(most).collect()
    };
    let (mut stem, ext) = (part(stem, 8), part(ext, 3));
    if stem.is_empty() {
        stem.push(b'_');
    }
    let put = |stem: &[u8]| {
        let mut s = [b' '; 11];
        s[..stem.len()].copy_from_slice(stem);
        s[8..8 + ext.len()].copy_from_slice(&ext);
        s
    };
    let mut made = put(&stem);
    let mut n = 1u32;
    while !taken.insert(made) {
        let tail = format!("~{n}");
        let keep = stem.len().min(8 - tail.len());
        made = put(&[&stem[..keep], tail.as_bytes()].concat());
        n += 1;
    }
    made
}

/// Characters of a long name that an entry has.
const PER_ENTRY: usize = 13;

/// Where the characters stand in an entry.
fn places() -> impl Iterator<Item = usize> {
    (1..11).step_by(2).chain((14..26).step_by(2)).chain((28..32).step_by(2))
}

/// What ties the pieces of a long name to the short one.
fn checksum(short: &Short) -> u8 {
    short.iter().fold(0u8, |s, b| s.rotate_right(1).wrapping_add(*b))
}

/// The upper half of the character set in which DOS has names (IBM code page 437).
const UPPER_HALF: &str = concat!(
    "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐",
    "└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}",
);

/// The text of a short name; `case` is the byte of the entry that says which parts are in small letters.
pub fn text(short: &Short, case: u8) -> String {
    let part = |bytes: &[u8], lower: bool| -> String {
        let letters = bytes.iter().enumerate().map(|(i, b)| match b {
            // The value marks a deleted entry at this place, so another stands for it.
            0x05 if i == 0 => '\u{e5}',
            b if b.is_ascii() => char::from(*b),
            b => UPPER_HALF.chars().nth(usize::from(*b) - 0x80).unwrap_or('_'),
        });
        let text: String = letters.collect();
        let text = text.trim_end_matches(' ');
        if lower { text.to_lowercase() } else { text.to_owned() }
    };
    let stem = part(&short[..8], case & LOWER_STEM != 0);
    let ext = part(&short[8..], case & LOWER_EXTENSION != 0);
    if ext.is_empty() { stem } else { format!("{stem}.{ext}") }
}

/// The pieces of a long name, as they are met in a directory.
#[derive(Debug, Default)]
pub struct Pieces {
    units: Vec<u16>,
    /// How many more come before the short name, and what ties them to it.
    left: u8,
    sum: u8,
}

impl Pieces {
    /// The next entry of a directory that is such a piece. One that does not follow the last makes all void.
    pub fn push(&mut self, e: &[u8; ENTRY]) {
        let (order, first) = (e[0] & 0x3f, e[0] & 0x40 != 0);
        if first {
            *self = Pieces { units: Vec::new(), left: order, sum: e[13] };
        }
        let most = MAX_NAME.div_ceil(PER_ENTRY) as u8;
        if order == 0 || order > most || order != self.left || e[13] != self.sum {
            *self = Pieces::default();
            return;
        }
        self.left = order - 1;
        // The last piece comes first.
        let part = places().map(|at| u16::from_le_bytes([e[at], e[at + 1]]));
        self.units.splice(0..0, part);
    }

    /// The name, if the pieces are whole and belong to this short name.
    pub fn take(&mut self, short: &Short) -> Option<Vec<u16>> {
        let Pieces { mut units, left, sum } = std::mem::take(self);
        if left != 0 || sum != checksum(short) {
            return None;
        }
        let end = units.iter().position(|u| *u == 0).unwrap_or(units.len());
        units.truncate(end);
        (!units.is_empty() && units.len() <= MAX_NAME).then_some(units)
    }
}

/// Whether the short name says everything.
pub fn is_short(name: &str, short: &Short) -> bool {
    name == text(short, 0)
}

/// The entries of a long name, which stand in front of that of the short one; `None` where it is too long.
pub fn long(name: &str, short: &Short) -> Option<Vec<[u8; ENTRY]>> {
    let mut units: Vec<u16> = name.encode_utf16().collect();
    if units.is_empty() || units.len() > MAX_NAME {
        return None;
    }
    let sum = checksum(short);
    if !units.len().is_multiple_of(PER_ENTRY) {
        units.push(0);
        units.resize(units.len().next_multiple_of(PER_ENTRY), 0xffff);
    }
    let count = units.len() / PER_ENTRY;
    let piece = |(i, part): (usize, &[u16])| {
        let mut e = [0; ENTRY];
        e[0] = (i + 1) as u8 | if i + 1 == count { 0x40 } else { 0 };
        e[11] = LONG_NAME;
        e[13] = sum;
        for (at, unit) in places().zip(part) {
            e[at..at + 2].copy_from_slice(&unit.to_le_bytes());
        }
        e
    };
    let mut all: Vec<_> = units.chunks(PER_ENTRY).enumerate().map(piece).collect();
    all.reverse();
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_made_once() {
        let mut taken = HashSet::new();
        assert_eq!(&short("a.txt", &mut taken), b"A       TXT");
        assert_eq!(&short("A.TXT", &mut taken), b"A~1     TXT");
        assert_eq!(&short("a long name.html", &mut taken), b"ALONGNAMHTM");
        assert_eq!(&short("a long name.htm", &mut taken), b"ALONGN~1HTM");
        assert_eq!(&short(".hidden", &mut taken), b"HIDDEN     ");
        assert_eq!(&short("...", &mut taken), b"_          ");
        assert!(is_short("A.TXT", b"A       TXT") && !is_short("a.txt", b"A       TXT"));
    }

    #[test]
    fn long_names_stand_in_pieces_from_the_last() {
        let made = long("a name of 15 c.", b"ANAMEO~1   ").unwrap();
        assert_eq!((made.len(), made[0][0], made[1][0]), (2, 0x42, 1));
        assert_eq!(made[1][1..5], [b'a', 0, b' ', 0]);
        assert_eq!(made[0][1..9], [b'c', 0, b'.', 0, 0, 0, 0xff, 0xff]);
        assert!(long(&"x".repeat(256), b"X          ").is_none());
        assert_eq!(long(&"x".repeat(13), b"X          ").unwrap().len(), 1);
    }

    #[test]
    fn long_names_are_read_back_when_they_are_whole() {
        let short = b"ANAMEO~1   ";
        for name in ["a name of 15 c.", "x", "exactly-13-ch", &"ä".repeat(255)] {
            let made = long(name, short).unwrap();
            let mut p = Pieces::default();
            made.iter().for_each(|e| p.push(e));
            assert_eq!(String::from_utf16(&p.take(short).unwrap()).unwrap(), name);
            // Neither one of another short name, nor one with a piece that lacks.
            made.iter().for_each(|e| p.push(e));
            assert!(p.take(b"ANAMEO~2   ").is_none());
            made[1..].iter().for_each(|e| p.push(e));
            assert!(p.take(short).is_none());
            made[..made.len() - 1].iter().for_each(|e| p.push(e));
            assert!(p.take(short).is_none());
        }
    }

    #[test]
    fn short_names_have_a_text() {
        assert_eq!(UPPER_HALF.chars().count(), 128);
        assert_eq!(text(b"A       TXT", 0), "A.TXT");
        assert_eq!(text(b"A       TXT", LOWER_STEM), "a.TXT");
        assert_eq!(text(b"\x9aBER       ", LOWER_STEM | LOWER_EXTENSION), "über");
        assert_eq!(text(b"\x05A         ", 0), "\u{e5}A");
        assert_eq!(text(b"\xffB         ", 0), "\u{a0}B");
    }
}
