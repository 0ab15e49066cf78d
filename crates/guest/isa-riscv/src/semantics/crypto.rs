//! Scalar cryptography: what is more than a few integer operations. From "RISC-V Cryptography Extensions Volume I" and the
//! standards of the ciphers; the substitution boxes are made, not written down.

/// Operations on two 64-bit operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CryptoOp {
    /// `aes64es`.
    AesEncryptLast,
    /// `aes64esm`.
    AesEncrypt,
    /// `aes64ds`.
    AesDecryptLast,
    /// `aes64dsm`.
    AesDecrypt,
    /// `aes64im`.
    AesInverseMix,
    /// `aes64ks1i`; the second operand is the number of the round.
    AesKey1,
    /// `aes64ks2`.
    AesKey2,
    /// `sm4ed` of this byte.
    Sm4Round(u8),
    /// `sm4ks` of this byte.
    Sm4Key(u8),
    /// `xperm4`.
    Permute4,
    /// `xperm8`.
    Permute8,
}

/// The product of two polynomials over the field of two elements, modulo `poly` of degree 8.
const fn times(a: u8, b: u8, poly: u32) -> u8 {
    let (mut a, mut sum, mut n) = (a as u32, 0, 0);
    while n < 8 {
        if b >> n & 1 != 0 {
            sum ^= a;
        }
        a <<= 1;
        if a & 0x100 != 0 {
            a ^= poly;
        }
        n += 1;
    }
    sum as u8
}

/// The multiplicative inverse, which is the 254th power; zero's is zero.
const fn inverse(a: u8, poly: u32) -> u8 {
    let (mut result, mut n) = (1, 0);
    while n < 254 {
        result = times(result, a, poly);
        n += 1;
    }
    result
}

/// Multiplies by the matrix whose row `n` is `row` rotated left by `n`.
const fn circulant(v: u8, row: u8) -> u8 {
    let (mut out, mut n) = (0, 0);
    while n < 8 {
        out |= ((row.rotate_left(n) & v).count_ones() as u8 & 1) << n;
        n += 1;
    }
    out
}

/// Of AES: x^8 + x^4 + x^3 + x + 1.
const AES_POLY: u32 = 0x11b;
/// Of SM4: x^8 + x^7 + x^6 + x^5 + x^4 + x^2 + 1.
const SM4_POLY: u32 = 0x1f5;

const fn aes_box() -> [u8; 256] {
    let (mut table, mut n) = ([0; 256], 0);
    while n < 256 {
        table[n] = circulant(inverse(n as u8, AES_POLY), 0xf1) ^ 0x63;
        n += 1;
    }
    table
}

const fn sm4_box() -> [u8; 256] {
    let (mut table, mut n) = ([0; 256], 0);
    while n < 256 {
        table[n] = circulant(inverse(circulant(n as u8, 0xa7) ^ 0xd3, SM4_POLY), 0xa7) ^ 0xd3;
        n += 1;
    }
    table
}

const fn backwards(table: &[u8; 256]) -> [u8; 256] {
    let (mut back, mut n) = ([0; 256], 0);
    while n < 256 {
        back[table[n] as usize] = n as u8;
        n += 1;
    }
    back
}

static AES: [u8; 256] = aes_box();
static AES_BACK: [u8; 256] = backwards(&aes_box());
static SM4: [u8; 256] = sm4_box();

/// Half of the state of a round: bytes of `low` and `high`, chosen by number (from 8 on: `high`'s) and substituted.
fn shift_rows(low: u64, high: u64, order: [usize; 8], table: &[u8; 256]) -> u64 {
    let bytes = [low.to_le_bytes(), high.to_le_bytes()];
    u64::from_le_bytes(order.map(|n| table[usize::from(bytes[n / 8][n % 8])]))
}

const FORWARD: [usize; 8] = [0, 5, 10, 15, 4, 9, 14, 3];
const BACKWARD: [usize; 8] = [0, 13, 10, 7, 4, 1, 14, 11];

/// Multiplies each column of four bytes by the matrix whose first row is `row`, and each other one the one before, rotated.
fn mix(v: u64, row: [u8; 4]) -> u64 {
    let v = v.to_le_bytes();
    let byte =
        |n: usize| (0..4).fold(0, |sum, k| sum ^ times(v[n & 4 | k], row[(k + 4 - (n & 3)) & 3], AES_POLY));
    u64::from_le_bytes(std::array::from_fn(byte))
}

const MIX: [u8; 4] = [2, 3, 1, 1];
const UNMIX: [u8; 4] = [14, 11, 13, 9];

fn key_schedule_1(v: u64, round: u64) -> u64 {
    let word = (v >> 32) as u32;
    // The tenth is what AES-256 does between the others: neither rotated nor with a constant.
    let word = if round < 10 { word.rotate_right(8) } else { word };
    let constant = (1..=round).fold(1, |c, _| times(c, 2, AES_POLY));
    let word = u32::from_le_bytes(word.to_le_bytes().map(|b| AES[usize::from(b)]));
    let word = if round < 10 { word ^ u32::from(constant) } else { word };
    u64::from(word) << 32 | u64::from(word)
}

/// The linear step of SM4 on one substituted byte; `shifts` are those of the round or of the key.
fn sm4(a: u64, b: u64, byte: u8, shifts: &[u32]) -> u64 {
    let x = u32::from(SM4[usize::from((b >> (8 * byte)) as u8)]);
    // The standard's words begin with their highest byte.
    let first = x << 24;
    let y = shifts.iter().fold(first, |y, n| y ^ first.rotate_left(*n)).swap_bytes();
    (a as u32 ^ y.rotate_left(8 * u32::from(byte))) as i32 as u64
}

/// Does the operation.
pub fn crypto(op: CryptoOp, a: u64, b: u64) -> u64 {
    match op {
        CryptoOp::AesEncryptLast => shift_rows(a, b, FORWARD, &AES),
        CryptoOp::AesEncrypt => mix(shift_rows(a, b, FORWARD, &AES), MIX),
        CryptoOp::AesDecryptLast => shift_rows(a, b, BACKWARD, &AES_BACK),
        CryptoOp::AesDecrypt => mix(shift_rows(a, b, BACKWARD, &AES_BACK), UNMIX),
        CryptoOp::AesInverseMix => mix(a, UNMIX),
        CryptoOp::AesKey1 => key_schedule_1(a, b),
        CryptoOp::AesKey2 => {
            let first = (a >> 32) as u32 ^ b as u32;
            u64::from(first ^ (b >> 32) as u32) << 32 | u64::from(first)
        }
        CryptoOp::Sm4Round(n) => sm4(a, b, n, &[2, 10, 18, 24]),
        CryptoOp::Sm4Key(n) => sm4(a, b, n, &[13, 23]),
        CryptoOp::Permute8 => {
            let from = a.to_le_bytes();
            u64::from_le_bytes(b.to_le_bytes().map(|n| from.get(usize::from(n)).copied().unwrap_or(0)))
        }
        CryptoOp::Permute4 => (0..16).fold(0, |v, n| v | (a >> (4 * (b >> (4 * n) & 15)) & 15) << (4 * n)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boxes_are_the_standards() {
        assert_eq!((AES[0], AES[1], AES[0x53], AES[0xff]), (0x63, 0x7c, 0xed, 0x16));
        assert_eq!((SM4[0], SM4[1], SM4[0x10], SM4[0xff]), (0xd6, 0x90, 0x2b, 0x48));
        assert!((0..=255u8).all(|n| AES_BACK[usize::from(AES[usize::from(n)])] == n));
    }
}
