use super::*;
use api::crypto::{QCryptoCipherAlgo as A, QCryptoCipherMode as M, QCryptoIVGenAlgo as I};

fn spec(algo: A, mode: M, ivgen: I) -> CipherSpec {
    CipherSpec { algo, mode, ivgen, ivgen_hash: (ivgen == I::Essiv).then_some(QCryptoHashAlgo::Sha256) }
}

fn key(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 7 + 1) as u8).collect()
}

#[test]
fn every_cipher_comes_back_and_sectors_differ() {
    for algo in [
        A::Aes128,
        A::Aes192,
        A::Aes256,
        A::Cast5_128,
        A::Serpent128,
        A::Serpent192,
        A::Serpent256,
        A::Twofish128,
        A::Twofish192,
        A::Twofish256,
    ] {
        for mode in [M::Xts, M::Cbc, M::Ctr, M::Ecb] {
            let s = spec(algo, mode, I::Plain64);
            if mode == M::Xts && algo == A::Cast5_128 {
                assert_eq!(
                    SectorCipher::new(&s, &key(32)).unwrap_err().desc(),
                    "Unsupported cipher mode xts"
                );
                continue;
            }
            let c = SectorCipher::new(&s, &key(s.key_len())).unwrap();
            let mut data = vec![0x11; 3 * SECTOR];
            c.encrypt(1 << 33, &mut data).unwrap();
            assert_ne!(data, [0x11; 3 * SECTOR]);
            if mode != M::Ecb {
                assert_ne!(data[..SECTOR], data[SECTOR..2 * SECTOR], "{algo:?} {mode:?}");
            }
            let mut second = data[SECTOR..2 * SECTOR].to_vec();
            c.decrypt((1 << 33) + 1, &mut second).unwrap();
            assert_eq!(second, [0x11; SECTOR]);
            c.decrypt(1 << 33, &mut data).unwrap();
            assert_eq!(data, [0x11; 3 * SECTOR]);
        }
    }
}

/// Made by the program `openssl`.
#[test]
fn the_old_encryption_of_qcow() {
    let cases: [(&[u8], u64, u8, &str); 2] = [
        (b"pw", 2048, 5, "e594d81941293ee9d2cc3d34177396ead375f12f0a11727bb60aba5fea0f2b26"),
        // Only 16 bytes count, and all bits of the number.
        (
            b"0123456789abcdefXYZ",
            1 << 33,
            0,
            "0bee248bcbda095ee056607417c96229ea00a8f9c16b3ff5ad8c0c636bc15b70",
        ),
    ];
    for (password, sector, fill, begins) in cases {
        let c = old_qcow(&crate::Secret::new(password.to_vec())).unwrap();
        let mut data = [fill; SECTOR];
        c.encrypt(sector, &mut data).unwrap();
        assert_eq!(data[..32], hex(begins));
        c.decrypt(sector, &mut data).unwrap();
        assert_eq!(data, [fill; SECTOR]);
    }
    assert!(old_qcow(&crate::Secret::new(Vec::new())).is_ok());
}

/// IEEE 1619-2007, annex B, vector 4 is a data unit of 512 bytes with AES-128; its first and last bytes are compared. The
/// same vector through the generic XTS shows that this is right for the other ciphers.
#[test]
fn xts_is_the_standards() {
    let mut k = hex("27182818284590452353602874713526");
    k.extend(hex("31415926535897932384626433832795"));
    let c = SectorCipher::new(&spec(A::Aes128, M::Xts, I::Plain64), &k).unwrap();
    let mut data: Vec<u8> = (0..512).map(|i| i as u8).collect();
    c.encrypt(0, &mut data).unwrap();
    assert_eq!(data[..16], hex("27a7479befa1d476489f308cd4cfa6e2"));
    let own = Stream::Xts {
        data: block::new(A::Aes128, &k[..16]).unwrap(),
        tweak: block::new(A::Aes128, &k[16..]).unwrap(),
    };
    let mut again: Vec<u8> = (0..512).map(|i| i as u8).collect();
    own.session(true).unwrap().sector(&[0; 16], &mut again).unwrap();
    assert_eq!(again, data);
    own.session(false).unwrap().sector(&[0; 16], &mut again).unwrap();
    assert_eq!(again[..4], [0, 1, 2, 3]);
}

#[test]
fn plain_and_plain64_differ_behind_four_gibi_sectors_only() {
    let enc = |ivgen, sector| {
        let s = spec(A::Aes256, M::Xts, ivgen);
        let mut d = vec![0; SECTOR];
        SectorCipher::new(&s, &key(64)).unwrap().encrypt(sector, &mut d).unwrap();
        d
    };
    assert_eq!(enc(I::Plain, 5), enc(I::Plain64, 5));
    assert_eq!(enc(I::Plain, 5 + (1 << 32)), enc(I::Plain, 5));
    assert_ne!(enc(I::Plain, 1 << 32), enc(I::Plain64, 1 << 32));
    assert_ne!(enc(I::Essiv, 5), enc(I::Plain64, 5));
}

#[test]
fn what_is_not_there_is_refused() {
    let text = |s: CipherSpec, n| SectorCipher::new(&s, &key(n)).unwrap_err().desc().to_owned();
    assert_eq!(text(spec(A::Sm4, M::Xts, I::Plain), 32), "Algorithm 'sm4' not supported");
    let mut s = spec(A::Aes128, M::Cbc, I::Essiv);
    s.ivgen_hash = Some(QCryptoHashAlgo::Sha512);
    assert_eq!(text(s, 16), "No AES cipher with key size 64 available");
    assert_eq!(text(spec(A::Aes128, M::Cbc, I::Plain), 15), "Cipher key length 15 should be 16");
    let c = SectorCipher::new(&spec(A::Aes128, M::Cbc, I::Plain), &key(16)).unwrap();
    assert_eq!(c.encrypt(0, &mut [0; 100]), Err(Errno::INVAL));
}

fn hex(s: &str) -> Vec<u8> {
    (0..s.len()).step_by(2).map(|i| u8::from_str_radix(&s[i..i + 2], 16).unwrap()).collect()
}
