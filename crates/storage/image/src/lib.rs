//! What `rhea img` does, as a library: one module for each operation, which answers data; [`img`] is the command line with its
//! texts; [`io`](mod@io) is `rhea io`, [`nbd`](mod@nbd) `rhea nbd`. All of it goes through the block graph and names no
//! format: drivers say what they can do.

pub mod amend;
pub mod bench;
pub mod bitmap;
mod chain;
pub mod check;
pub mod commit;
pub mod compare;
pub mod convert;
pub mod create;
pub mod img;
pub mod info;
pub mod inspect;
pub mod io;
pub mod map;
pub mod measure;
pub mod nbd;
pub mod open;
pub mod options;
mod pool;
pub mod rebase;
mod traces;
pub mod tree;

use block::driver::DriverType;

/// An executor for a program that does one piece of work.
fn executor() -> base::IoResult<rt::Executor> {
    rt::Executor::with_conduct(rt::Conduct::tool())
}

/// The drivers that images are opened with.
pub fn drivers() -> Vec<&'static DriverType> {
    [
        block_file::DRIVERS,
        block_formats::DRIVERS,
        block_filters::DRIVERS,
        block_crypto::DRIVERS,
        block_test::DRIVERS,
        block_quorum::DRIVERS,
        block_qcow2::DRIVERS,
        block_net::DRIVERS,
        block_http::DRIVERS,
        block_jobs::replication::DRIVERS,
        block_ssh::DRIVERS,
        block_rbd::DRIVERS,
    ]
    .concat()
}
