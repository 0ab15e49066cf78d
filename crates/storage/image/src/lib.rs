//! What `rhea img` does, as a library: [`create`], [`info`], [`check`] and [`amend`] answer data; [`img`] is the command line
//! with its texts. All of it goes through the block graph, with the drivers `file`, `host_device`, `raw` and `qcow2`.

pub mod amend;
mod chain;
pub mod check;
pub mod commit;
pub mod create;
pub mod img;
pub mod info;
pub mod json;
pub mod open;
pub mod options;
pub mod rebase;

use block::driver::DriverType;

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
    ]
    .concat()
}
