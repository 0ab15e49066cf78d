//! The order in which the reference prints the members of its objects.
//!
//! Its dictionaries are hash tables with 512 places and the hash function of the Trivial Database (Samba's TDB); they are
//! printed place by place. Texts that tools compare to the letter (`json:` file names, QMP, the JSON of the image tools)
//! need the same order.

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

/// The members of `dict` in that order. Of those that have the same place, the one that was put in last comes first.
pub fn by_rank(dict: &Dict) -> Vec<(&str, &Value)> {
    let mut members: Vec<_> = dict.iter().collect();
    members.reverse();
    members.sort_by_cached_key(|(name, _)| member_rank(name));
    members
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
        let seen: [&[&str]; 10] = [
            &["offset", "driver", "file"],
            &["driver", "path", "export"],
            &["server.path", "driver", "export", "server.type"],
            &["image", "driver", "inject-error.0.errno", "inject-error.0.event"],
            &["children", "filename", "format", "format-specific", "dirty-flag"],
            &["compat", "compression-type", "lazy-refcounts", "refcount-bits", "corrupt", "extended-l2"],
            &["children", "snapshots", "virtual-size", "filename", "dirty-flag"],
            &[
                "icount",
                "vm-clock-nsec",
                "name",
                "date-sec",
                "date-nsec",
                "vm-clock-sec",
                "id",
                "vm-state-size",
            ],
            &[
                "image-end-offset",
                "total-clusters",
                "corruptions-fixed",
                "check-errors",
                "leaks-fixed",
                "filename",
            ],
            &["bitmaps", "required", "fully-allocated"],
        ];
        for names in seen {
            let backwards: Dict = names.iter().rev().map(|n| (*n, Value::Null)).collect();
            let by_rank = by_rank(&backwards).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
            assert_eq!(by_rank, names);
            assert_eq!(ranked(backwards).keys().collect::<Vec<_>>(), names);
        }
    }

    #[test]
    fn of_the_same_place_the_last_comes_first() {
        for names in [["children", "backing-filename-format"], ["micro", "minor"]] {
            let backwards: Dict = names.iter().rev().map(|n| (*n, Value::Null)).collect();
            assert_eq!(by_rank(&backwards).into_iter().map(|(name, _)| name).collect::<Vec<_>>(), names);
        }
    }
}
