//! Permissions and roles: what the parents of a node ask of it, and what an edge is for.

use bitflags::bitflags;
use std::fmt;

bitflags! {
    /// What a parent wants to do with a node, or lets the node's other parents do.
    ///
    /// The bit numbers are shared with other programs through byte locks on image files; bit 4 (value 16) was used
    /// once and must stay unused.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct Perm: u8 {
        /// Read data that is meaningful to a guest (as opposed to, say, an intermediate layer being overwritten).
        const CONSISTENT_READ = 1;
        /// Change what a reader of the node sees.
        const WRITE = 2;
        /// Write without changing what a reader sees (allocate, copy up).
        const WRITE_UNCHANGED = 4;
        /// Change the node's length.
        const RESIZE = 8;
    }
}

impl Perm {
    /// The bits that write in any form: a node that is read-only can grant none of them.
    pub const WRITES: Perm = Perm::WRITE.union(Perm::WRITE_UNCHANGED);

    /// The names of the set bits as management interfaces print them: `write, resize`.
    pub fn names(self) -> String {
        self.list().join(", ")
    }

    /// The names of the set bits, lowest bit first.
    pub fn list(self) -> Vec<&'static str> {
        const NAMES: [(Perm, &str); 4] = [
            (Perm::CONSISTENT_READ, "consistent read"),
            (Perm::WRITE, "write"),
            (Perm::WRITE_UNCHANGED, "write unchanged"),
            (Perm::RESIZE, "resize"),
        ];
        NAMES.iter().filter(|(p, _)| self.contains(*p)).map(|(_, n)| *n).collect()
    }
}

impl fmt::Display for Perm {
    /// Four letters, `-` for a bit that is not set: `rwur`-like (`r` consistent read, `w` write, `u` write unchanged,
    /// `s` resize).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = |p, c| if self.contains(p) { c } else { '-' };
        write!(
            f,
            "{}{}{}{}",
            c(Perm::CONSISTENT_READ, 'r'),
            c(Perm::WRITE, 'w'),
            c(Perm::WRITE_UNCHANGED, 'u'),
            c(Perm::RESIZE, 's')
        )
    }
}

/// What one parent requires of a node, and what it lets the node's other parents do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PermPair {
    /// What the parent requires.
    pub perm: Perm,
    /// What the parent's fellow parents may require.
    pub shared: Perm,
}

impl PermPair {
    /// Requires nothing and shares everything: the neutral element of [`PermPair::join`].
    pub const NONE: PermPair = PermPair { perm: Perm::empty(), shared: Perm::all() };

    /// Both together: what either requires, and only what both share.
    #[must_use]
    pub fn join(self, other: PermPair) -> PermPair {
        PermPair { perm: self.perm | other.perm, shared: self.shared & other.shared }
    }
}

bitflags! {
    /// What an edge is for. Permissions follow from it ([`crate::driver::default_child_perm`]).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct Role: u16 {
        /// The child holds guest data.
        const DATA = 1;
        /// The child holds the format's metadata.
        const METADATA = 2;
        /// The parent shows the child's data unchanged.
        const FILTERED = 4;
        /// The child is read where the parent has nothing allocated.
        const COW = 8;
        /// The child that stands for the node (its length, its file name). One at most.
        const PRIMARY = 16;
        /// The node writes to the child on its own account, also where nobody writes to the node.
        const REPAIRED = 32;
        /// A filter's user asked that the filter reads the child on its own account.
        const TAKES_READ = 64;
        /// The same for writing.
        const TAKES_WRITE = 128;
        /// The same for writing what is there already.
        const TAKES_WRITE_UNCHANGED = 256;
        /// The same for resizing.
        const TAKES_RESIZE = 512;
        /// A filter's user asked that nobody else reads the child.
        const UNSHARES_READ = 1024;
        /// The same for writing.
        const UNSHARES_WRITE = 2048;
        /// The same for writing what is there already.
        const UNSHARES_WRITE_UNCHANGED = 4096;
        /// The same for resizing.
        const UNSHARES_RESIZE = 8192;
    }
}

impl Role {
    /// The role of a filter's child of which more is taken, and less shared, than the filter's users ask.
    pub fn with_perms(take: Perm, unshare: Perm) -> Role {
        Role::from_bits_retain(u16::from(take.bits()) << 6 | u16::from(unshare.bits()) << 10)
    }

    /// What a filter's user has the filter take on top of what its users ask.
    pub fn takes(self) -> Perm {
        Perm::from_bits_truncate((self.bits() >> 6) as u8)
    }

    /// What a filter's user has the filter not share on top of what its users forbid.
    pub fn unshares(self) -> Perm {
        Perm::from_bits_truncate((self.bits() >> 10) as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_carry_more_permissions() {
        let r = Role::FILTERED
            | Role::PRIMARY
            | Role::with_perms(Perm::WRITE, Perm::RESIZE | Perm::CONSISTENT_READ);
        assert_eq!((r.takes(), r.unshares()), (Perm::WRITE, Perm::RESIZE | Perm::CONSISTENT_READ));
        let named = Role::TAKES_WRITE | Role::UNSHARES_RESIZE | Role::UNSHARES_READ;
        assert_eq!(r - Role::FILTERED - Role::PRIMARY, named);
        assert_eq!((Role::DATA | Role::REPAIRED).takes(), Perm::empty());
    }

    #[test]
    fn names_are_the_contracts() {
        assert_eq!((Perm::WRITE | Perm::RESIZE).names(), "write, resize");
        assert_eq!(Perm::all().to_string(), "rwus");
        assert_eq!(Perm::all().bits(), 15);
    }

    #[test]
    fn join_is_monotone() {
        let a = PermPair { perm: Perm::WRITE, shared: Perm::CONSISTENT_READ };
        assert_eq!(a.join(PermPair::NONE), a);
        assert_eq!(a.join(a), a);
    }
}
