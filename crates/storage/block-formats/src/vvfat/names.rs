//! Names in directories: the short one of eight and three letters, and the long one in pieces.

use super::spec::{ENTRY, LONG_NAME, MAX_NAME};
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

/// Whether the short name says everything.
pub fn is_short(name: &str, short: &Short) -> bool {
    let text = |b: &[u8]| String::from_utf8_lossy(b).trim_end().to_owned();
    let (stem, ext) = (text(&short[..8]), text(&short[8..]));
    name == if ext.is_empty() { stem } else { format!("{stem}.{ext}") }
}

/// The entries of a long name, which stand in front of that of the short one; `None` where it is too long.
pub fn long(name: &str, short: &Short) -> Option<Vec<[u8; ENTRY]>> {
    let mut units: Vec<u16> = name.encode_utf16().collect();
    if units.is_empty() || units.len() > MAX_NAME {
        return None;
    }
    let sum = short.iter().fold(0u8, |s, b| s.rotate_right(1).wrapping_add(*b));
    if !units.len().is_multiple_of(13) {
        units.push(0);
        units.resize(units.len().next_multiple_of(13), 0xffff);
    }
    let count = units.len() / 13;
    let piece = |(i, part): (usize, &[u16])| {
        let mut e = [0; ENTRY];
        e[0] = (i + 1) as u8 | if i + 1 == count { 0x40 } else { 0 };
        e[11] = LONG_NAME;
        e[13] = sum;
        let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain((28..32).step_by(2));
        for (at, unit) in places.zip(part) {
            e[at..at + 2].copy_from_slice(&unit.to_le_bytes());
        }
        e
    };
    let mut all: Vec<_> = units.chunks(13).enumerate().map(piece).collect();
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
}
