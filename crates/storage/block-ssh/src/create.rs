//! Making files on other hosts.

use crate::driver::Remote;
use crate::file::told;
use crate::sftp::{CREATE, FOR_READ, FOR_WRITE, TRUNCATE};
use api::block_core::BlockdevCreateOptions;
use block::create::{CreateCx, Creation, SIZE};
use block::driver::CtlFuture;
use qapi::qerr;

/// Making files: what was there is lost.
pub(crate) static CREATION: Creation = Creation { create: Some(create), ..Creation::new(&[SIZE]) };

fn create<'a>(_: &'a CreateCx, options: &'a BlockdevCreateOptions) -> CtlFuture<'a> {
    Box::pin(async move {
        let BlockdevCreateOptions::Ssh(o) = options else {
            return Err(qerr!("The options are not those of a file behind SSH"));
        };
        let remote = Remote::open(&o.location, FOR_READ | FOR_WRITE | CREATE | TRUNCATE).await?;
        let grown = remote.file.grow(o.size).await;
        let grown = grown.map_err(|e| told("Failed to grow file", &e));
        let closed = remote.end().await.map_err(|e| qerr!("Could not close the remote file: {e}"));
        grown.and(closed)
    })
}
