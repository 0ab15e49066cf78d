//! Where the guests are.

use std::path::{Path, PathBuf};

/// The root of the repository.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().and_then(Path::parent).expect("two folders below the root")
}

/// The embedded guest's image: see tests/guests/embedded.
pub fn embedded_guest() -> PathBuf {
    workspace().join("tests/guests/embedded/embedded.elf")
}

/// Debian's kernel with our initrd, and disk images, as `cargo xtask guests` makes them under target/guests.
pub struct DebianGuest {
    /// Debian's kernel for riscv64.
    pub kernel: PathBuf,
    /// busybox, the modules that the disk needs, and tests/guests/debian/init.
    pub initrd: PathBuf,
    /// A raw ext4 file system whose file `marker` begins with `backing-A`.
    pub disk_a: PathBuf,
    /// The same file system but for the marker, `backing-B`.
    pub disk_b: PathBuf,
}

impl DebianGuest {
    /// The guest's files below the folder `dir`, whether they are there or not.
    pub fn in_dir(dir: &Path) -> DebianGuest {
        DebianGuest {
            kernel: dir.join("vmlinux"),
            initrd: dir.join("initrd"),
            disk_a: dir.join("disk-a.raw"),
            disk_b: dir.join("disk-b.raw"),
        }
    }

    /// The guest that `cargo xtask guests` made; `None` where it was not or could not be made.
    pub fn find() -> Option<DebianGuest> {
        let guest = DebianGuest::in_dir(&workspace().join("target/guests"));
        [&guest.kernel, &guest.initrd, &guest.disk_a, &guest.disk_b]
            .iter()
            .all(|p| p.exists())
            .then_some(guest)
    }
}
