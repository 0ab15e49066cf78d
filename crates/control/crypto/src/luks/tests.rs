use super::header::HEADER_LEN;
use super::*;
use crate::cipher::{SECTOR, SectorCipher};
use api::crypto::{
    QCryptoCipherAlgo as A, QCryptoCipherMode as M, QCryptoHashAlgo as H, QCryptoIVGenAlgo as I,
};
use proptest::prelude::*;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

const QUICK: Option<Duration> = Some(Duration::from_millis(1));

/// A directory that is removed when the test ends.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let d = std::env::temp_dir().join(format!("rhea-crypto-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&d).unwrap();
        Dir(d)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn have(tool: &str) -> bool {
    let there = Command::new(tool).arg("--version").output().is_ok_and(|o| o.status.success());
    if !there {
        println!("skipped: {tool} is not installed");
    }
    there
}

/// Finds the master key in a whole volume.
fn unlock(image: &[u8], password: &[u8]) -> Option<(Header, crate::Secret)> {
    let header = Header::parse(image, false).unwrap();
    (0..SLOTS).find_map(|i| {
        let (at, len) = header.slot_range(i);
        let material = &image[at as usize..at as usize + len];
        header.open_slot(i, material, password).unwrap().map(|k| (header.clone(), k))
    })
}

/// A whole volume with `data` in it.
fn volume(new: &NewVolume, password: &[u8], data: &[u8]) -> Vec<u8> {
    let v = new.create(password).unwrap();
    let mut image = vec![0; v.header.payload_offset() as usize];
    image[..HEADER_LEN].copy_from_slice(&v.header.to_bytes());
    let (at, len) = v.header.slot_range(0);
    image[at as usize..at as usize + len].copy_from_slice(&v.material);
    let mut data = data.to_vec();
    SectorCipher::new(&v.header.cipher, &v.master).unwrap().encrypt(0, &mut data).unwrap();
    image.extend(data);
    image
}

#[test]
fn slots_come_and_go() {
    let new = NewVolume { iter_time: QUICK, ..NewVolume::default() };
    let mut image = volume(&new, b"one", &[7; 1024]);
    let (mut header, master) = unlock(&image, b"one").unwrap();
    assert!(unlock(&image, b"two").is_none());
    assert_eq!((header.free_slot(), header.active_slots()), (Some(1), 1));
    // The places that the reference and others expect.
    assert_eq!((header.payload_offset(), header.slot_range(1)), (2_068_480, (262_144, 256_000)));

    let material = header.set_slot(5, &master, b"two", QUICK.unwrap()).unwrap();
    let put = |image: &mut Vec<u8>, header: &Header, i, m: &[u8]| {
        let at = header.slot_range(i).0 as usize;
        image[at..at + m.len()].copy_from_slice(m);
        image[..HEADER_LEN].copy_from_slice(&header.to_bytes());
    };
    put(&mut image, &header, 5, &material);
    assert_eq!(*unlock(&image, b"two").unwrap().1, *master);
    let junk = header.erase_slot(0).unwrap();
    put(&mut image, &header, 0, &junk);
    assert!(unlock(&image, b"one").is_none());
    assert_eq!(Header::parse(&image, false).unwrap(), header);
    let info = header.info(false);
    assert_eq!((info.slots[5].active, info.slots[0].active, info.slots[0].iters), (true, false, None));
}

#[test]
fn every_cipher_and_hash_makes_a_volume() {
    for (cipher, mode, ivgen, hash) in [
        (A::Aes128, M::Cbc, I::Essiv, H::Sha1),
        (A::Serpent192, M::Xts, I::Plain, H::Sha512),
        (A::Twofish256, M::Cbc, I::Plain64, H::Ripemd160),
        (A::Cast5_128, M::Cbc, I::Plain64, H::Md5),
        (A::Aes192, M::Cbc, I::Plain64, H::Sha384),
        (A::Aes192, M::Xts, I::Plain64, H::Sha224),
    ] {
        let new = NewVolume {
            cipher: Some(cipher),
            mode: Some(mode),
            ivgen: Some(ivgen),
            hash: Some(hash),
            iter_time: QUICK,
            ..NewVolume::default()
        };
        let image = volume(&new, b"pw", &[1; SECTOR]);
        let (header, key) = unlock(&image, b"pw").unwrap();
        let mut data = image[header.payload_offset() as usize..].to_vec();
        SectorCipher::new(&header.cipher, &key).unwrap().decrypt(0, &mut data).unwrap();
        assert_eq!(data, [1; SECTOR], "{cipher:?}");
    }
    let text = |n: NewVolume| n.create(b"").err().unwrap().desc().to_owned();
    let des = NewVolume { cipher: Some(A::Des), ..NewVolume::default() };
    assert_eq!(text(des), "Algorithm 'des' not supported");
    let sm3 = NewVolume { hash: Some(H::Sm3), ..NewVolume::default() };
    assert_eq!(text(sm3), "Unknown hash algorithm sm3");
}

fn good() -> &'static [u8] {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let new = NewVolume { iter_time: QUICK, ..NewVolume::default() };
        new.create(b"pw").unwrap().header.to_bytes().to_vec()
    })
}

#[test]
fn damage_is_named_as_the_reference_names_it() {
    let with = |at: usize, bytes: &[u8]| {
        let mut b = good().to_vec();
        b[at..at + bytes.len()].copy_from_slice(bytes);
        Header::parse(&b, false).unwrap_err().desc().to_owned()
    };
    let be = |v: u32| v.to_be_bytes();
    for (at, bytes, text) in [
        (0, &b"X"[..], "Volume is not in LUKS format"),
        (6, &[0, 2], "LUKS version 2 is not supported"),
        (8, &[b'a'; 32], "LUKS header cipher name is not NUL terminated"),
        (40, &[b'a'; 32], "LUKS header cipher mode is not NUL terminated"),
        (72, &[b'a'; 32], "LUKS header hash spec is not NUL terminated"),
        (8, b"foo\0", "Algorithm 'foo' with key size 32 bytes not supported"),
        (40, b"abc-plain64\0", "Cipher mode 'abc' not supported"),
        (40, b"xts\0", "Unexpected cipher mode string format 'xts'"),
        (40, b"xts-foo\0", "IV generator 'foo' not supported"),
        (40, b"cbc-essiv:foo\0", "Hash algorithm 'foo' not supported"),
        (40, b"cbc-plain64:sha256\0", "Algorithm 'aes' with key size 64 bytes not supported"),
        (72, b"foo\0", "Hash algorithm 'foo' not supported"),
        (104, &be(1), "LUKS payload is overlapping with the header"),
        (104, &be(100), "Keyslot 0 is overlapping with the encrypted payload"),
        (108, &be(33), "XTS cipher key length should be a multiple of 2"),
        (108, &be(0xffff_fff0), "Keyslot 0 is overlapping with the encrypted payload"),
        (164, &be(0), "LUKS key iteration count is zero"),
        (164, &be(u32::MAX), "LUKS key iteration count 4294967295 is larger than 1073741824"),
        (208, &be(5), "Keyslot 0 state (active/disable) is corrupted"),
        (212, &be(0), "Keyslot 0 iteration count is zero"),
        (248, &be(1), "Keyslot 0 is overlapping with the LUKS header"),
        (248, &be(513), "Keyslots 0 and 1 are overlapping in the header"),
        (248, &be(u32::MAX), "Keyslot 0 is overlapping with the encrypted payload"),
        (252, &be(3999), "Keyslot 0 is corrupted (stripes 3999 != 4000)"),
        (252, &be(u32::MAX), "Keyslot 0 is corrupted (stripes -1 != 4000)"),
        (296, &be(16), "Keyslots 0 and 1 are overlapping in the header"),
    ] {
        assert_eq!(with(at, bytes), text, "at {at}");
    }
    for n in [0, 5, 8, 100, HEADER_LEN - 1] {
        assert!(Header::parse(&good()[..n], false).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    /// Whatever a header says: it is refused, or all that is used of it is bounded and consistent.
    #[test]
    fn no_header_does_harm(
        changes in prop::collection::vec((0..HEADER_LEN, any::<u8>()), 0..12),
        words in prop::collection::vec((0..120_usize, prop_oneof![any::<u32>(), 0..5000_u32, Just(0x00AC_71F3)]), 0..4),
        len in prop_oneof![9 => Just(HEADER_LEN), 1 => 0..HEADER_LEN],
        detached: bool,
    ) {
        let mut b = good().to_vec();
        for (at, v) in changes {
            b[at] = v;
        }
        for (word, v) in words {
            b[104 + word * 4..][..4].copy_from_slice(&v.to_be_bytes());
        }
        b.truncate(len);
        if let Ok(h) = Header::parse(&b, detached) {
            prop_assert!(h.key_len <= 64 && h.key_len == h.cipher.key_len());
            prop_assert!(h.digest_rounds <= MAX_ROUNDS);
            for i in 0..SLOTS {
                let (at, n) = h.slot_range(i);
                prop_assert!(n <= 256_000 && at >= 1024);
                prop_assert!(detached || at + n as u64 <= h.payload_offset());
                prop_assert!(!h.slots[i].active || (1..=MAX_ROUNDS).contains(&h.slots[i].rounds));
            }
            let again = Header::parse(&h.to_bytes(), detached);
            prop_assert_eq!(again.map(|a| a.slots), Ok(h.slots));
            prop_assert!(h.metadata_end() < 1 << 42);
            h.info(detached);
            // Material that is rubbish opens nothing.
            if h.slots[0].active && h.slots[0].rounds < 30 && h.digest_rounds < 2000 {
                let junk = vec![0x77; h.slot_range(0).1];
                prop_assert!(h.open_slot(0, &junk, b"pw").unwrap().is_none());
            }
        }
    }
}

#[test]
fn cryptsetup_opens_ours() {
    if !have("cryptsetup") {
        return;
    }
    let dir = Dir::new("ours");
    for (cipher, mode, ivgen, hash) in [
        (A::Aes256, M::Xts, I::Plain64, H::Sha256),
        (A::Aes128, M::Cbc, I::Essiv, H::Sha1),
        (A::Aes256, M::Cbc, I::Plain, H::Sha512),
    ] {
        let new = NewVolume {
            cipher: Some(cipher),
            mode: Some(mode),
            ivgen: Some(ivgen),
            hash: Some(hash),
            iter_time: QUICK,
            ..NewVolume::default()
        };
        let path = dir.0.join("v.luks");
        std::fs::write(&path, volume(&new, b"pass word", &[0; 8192])).unwrap();
        std::fs::write(dir.0.join("key"), "pass word").unwrap();
        std::fs::write(dir.0.join("bad"), "pass wort").unwrap();
        let open = |key: &str| {
            let mut c = Command::new("cryptsetup");
            c.args(["open", "--test-passphrase", "--key-file"]).arg(dir.0.join(key)).arg(&path);
            c.output().unwrap()
        };
        let o = open("key");
        assert!(o.status.success(), "{cipher:?}: {}", String::from_utf8_lossy(&o.stderr));
        assert!(!open("bad").status.success());
        let dump = Command::new("cryptsetup").arg("luksDump").arg(&path).output().unwrap();
        let dump = String::from_utf8_lossy(&dump.stdout).into_owned();
        assert!(dump.contains("Key Slot 0: ENABLED") && dump.contains("Key Slot 1: DISABLED"), "{dump}");
    }
}

#[test]
fn we_open_cryptsetups() {
    if !have("cryptsetup") {
        return;
    }
    let dir = Dir::new("theirs");
    let path = dir.0.join("v.luks");
    for (cipher, bits, hash) in [
        ("aes-xts-plain64", "512", "sha256"),
        ("aes-xts-plain64", "256", "sha512"),
        ("aes-cbc-essiv:sha256", "256", "sha1"),
        ("serpent-xts-plain64", "512", "ripemd160"),
        ("twofish-cbc-plain64", "192", "sha256"),
    ] {
        std::fs::write(dir.0.join("key"), "secret").unwrap();
        std::fs::File::create(&path).unwrap().set_len(8 << 20).unwrap();
        let mut c = Command::new("cryptsetup");
        c.args(["luksFormat", "-q", "--type", "luks1", "--pbkdf-force-iterations", "1000"]);
        c.args(["-c", cipher, "-s", bits, "-h", hash, "--key-file"]).arg(dir.0.join("key")).arg(&path);
        let o = c.output().unwrap();
        if !o.status.success() {
            // A kernel without the cipher, for instance.
            println!("skipped: cryptsetup luksFormat {cipher}: {}", String::from_utf8_lossy(&o.stderr));
            continue;
        }
        let image = std::fs::read(&path).unwrap();
        assert!(unlock(&image, b"secret").is_some(), "{cipher}");
        assert!(unlock(&image, b"secret\n").is_none());
    }
}
