//! A LUKS volume that somebody made: its header, and its key slots where that does not take long.

use crypto::luks::{Header, NewVolume, SLOTS, probe};
use std::time::Duration;

/// Deriving a key of more rounds takes too long here.
const MAX_ROUNDS: u32 = 1000;
/// The longest key material that is looked at, bytes.
const MAX_MATERIAL: usize = 1 << 20;

/// Reads the bytes as a volume, and as a header in a file of its own.
pub fn luks(data: &[u8]) {
    _ = probe(data);
    for detached in [false, true] {
        let Ok(header) = Header::parse(data, detached) else { continue };
        assert!(header.payload_offset() >= header.metadata_end() || detached, "data over key material");
        _ = header.info(detached);
        let again = Header::parse(&header.to_bytes(), detached).expect("what is written can be read");
        assert_eq!(again.to_bytes(), header.to_bytes());
        for slot in 0..SLOTS {
            let (at, len) = header.slot_range(slot);
            let quick = header.slots[slot].rounds <= MAX_ROUNDS && header.digest_rounds <= MAX_ROUNDS;
            if !quick || !header.slots[slot].active || len > MAX_MATERIAL {
                continue;
            }
            let mut material = vec![0; len];
            if let Some(there) = usize::try_from(at).ok().and_then(|at| data.get(at..)) {
                let n = there.len().min(len);
                material[..n].copy_from_slice(&there[..n]);
            }
            _ = header.open_slot(slot, &material, b"password");
        }
    }
}

/// The headers of volumes of several kinds.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    use api::crypto::{QCryptoCipherAlgo as Cipher, QCryptoCipherMode as Mode, QCryptoIVGenAlgo as IvGen};
    let quick = NewVolume { iter_time: Some(Duration::from_millis(1)), ..NewVolume::default() };
    let kinds = [
        quick,
        NewVolume { cipher: Some(Cipher::Aes128), mode: Some(Mode::Cbc), ivgen: Some(IvGen::Plain), ..quick },
        NewVolume { detached: true, ..quick },
    ];
    let mut made = Vec::new();
    for kind in kinds {
        let mut volume = kind.create(b"password").expect("a volume");
        for slow in [true, false] {
            if !slow {
                // The password does not fit any more, but its slot is looked at.
                volume.header.digest_rounds = 10;
                volume.header.slots[0].rounds = 10;
            }
            let (at, len) = volume.header.slot_range(0);
            let mut bytes = vec![0; at as usize + len];
            bytes[..volume.header.to_bytes().len()].copy_from_slice(&volume.header.to_bytes());
            bytes[at as usize..].copy_from_slice(&volume.material);
            made.push(bytes);
        }
    }
    made
}
