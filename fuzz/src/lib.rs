//! Functions that take untrusted bytes and must come back: without a panic, in bounded time and memory.
//!
//! `cargo xtask fuzz` runs them under libFuzzer, guided by coverage. The test of this crate runs the seeds and small
//! changes of them, so that a target that breaks is noticed.

mod formats;
mod luks;
mod nbd;
mod qcow2;
mod qmp;
mod vhost_user;
mod vvfat;

pub use formats::formats;
pub use luks::luks;
pub use nbd::{nbd_client, nbd_server};
pub use qcow2::qcow2;
pub use qmp::qmp;
pub use vhost_user::vhost_user;
pub use vvfat::vvfat;

/// Something that is fuzzed.
pub struct Target {
    /// Its name; the program is `fuzz-NAME`.
    pub name: &'static str,
    /// Takes any bytes.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Everything that is fuzzed.
pub const TARGETS: &[Target] = &[
    Target { name: "qcow2", run: qcow2, seeds: qcow2::seeds },
    Target { name: "formats", run: formats, seeds: formats::seeds },
    Target { name: "luks", run: luks, seeds: luks::seeds },
    Target { name: "nbd-server", run: nbd_server, seeds: nbd::server_seeds },
    Target { name: "nbd-client", run: nbd_client, seeds: nbd::client_seeds },
    Target { name: "qmp", run: qmp, seeds: qmp::seeds },
    Target { name: "vhost-user", run: vhost_user, seeds: vhost_user::seeds },
    Target { name: "vvfat", run: vvfat, seeds: vvfat::seeds },
];
