//! The order in which the reference prints the members of its objects.
//!
//! Its dictionaries are hash tables with 512 places and the hash function of the Trivial Database (Samba's TDB); they are
//! printed place by place. Texts that tools compare to the letter (`json:` file names, the JSON of the image tools) need
//! the same order.

use crate::{Dict, Value};

/// How many places such a table has.
const PLACES: u32 = 512;

/// The place of a member among the members of its object: they are printed from the lowest to the highest.
pub fn member_rank(name: &str) -> u32 {
    let start = 0x238f_13af_u32.wrapping_mul(name.len() as u32);
    let sum = name.bytes().enumerate().fold(start, |sum, (i, b)| {
        // The shift goes around so that all bytes of a word are reached.
        sum.wrapping_add(u32::from(b) << (i * 5 % 24))
    });
    sum.wrapping_mul(1_103_515_243).wrapping_add(12345) % PLACES
}

/// `dict` in that order. Members of the same place follow in the order of their names.
pub fn ranked(dict: Dict) -> Dict {
    let mut members: Vec<(String, Value)> = dict.into_iter().collect();
    members.sort_by(|(a, _), (b, _)| (member_rank(a), a).cmp(&(member_rank(b), b)));
    members.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_that_was_seen() {
        let seen: [&[&str]; 6] = [
            &["offset", "driver", "file"],
            &["driver", "path", "export"],
            &["server.path", "driver", "export", "server.type"],
            &["image", "driver", "inject-error.0.errno", "inject-error.0.event"],
            &["children", "filename", "format", "format-specific", "dirty-flag"],
            &["compat", "compression-type", "lazy-refcounts", "refcount-bits", "corrupt", "extended-l2"],
        ];
        for names in seen {
            let backwards: Dict = names.iter().rev().map(|n| (*n, Value::Null)).collect();
            assert_eq!(ranked(backwards).keys().collect::<Vec<_>>(), names);
        }
    }
}
