//! Encrypted images.

use crate::common::Bytes;
use api::block_core::BlockdevCreateOptionsQcow2;
use api::crypto::{QCryptoBlockCreateOptions, QCryptoBlockCreateOptionsLUKS};
use crypto::Secret;

/// The bytes of a new image that is encrypted.
pub fn image(o: &BlockdevCreateOptionsQcow2) -> Vec<u8> {
    let mut o = o.clone();
    let luks = QCryptoBlockCreateOptionsLUKS {
        key_secret: Some("s".into()),
        iter_time: Some(1),
        ..QCryptoBlockCreateOptionsLUKS::default()
    };
    o.encrypt = Some(QCryptoBlockCreateOptions::Luks(luks));
    // Making a key is work for a thread that may wait.
    let made = std::thread::spawn(move || {
        let host = Bytes::default();
        let password = Secret::new(block::testing::PASSWORD.into());
        let e = block_qcow2::create::encryption(&o, |_| Ok(password)).expect("encryption");
        rt::block_on(block_qcow2::create::create_with(&host, &o, None, e)).expect("create");
        host.0.take()
    });
    made.join().expect("made")
}
