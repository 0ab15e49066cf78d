//! Integer operations that are more than one step: M, Zba, Zbb, Zbc, Zbs, Zicond, Zbkb, and the hashes of Zknh and Zksh.

use super::RvSem;
use sem::{Cond, Width};

/// Signed times unsigned, high half: the unsigned one's high half, less `b` where `a` is negative.
#[inline(always)]
pub(super) fn mulhsu<S: RvSem>(s: &mut S, a: S::V, b: S::V) -> S::V {
    let high = s.mulhu(a, b);
    let n = s.imm(63);
    let sign = s.sar(a, n);
    let less = s.and(sign, b);
    s.sub(high, less)
}

/// The divisor, or 1 where the division has no quotient; and whether the divisor is zero.
#[inline(always)]
fn signed_divisor<S: RvSem>(s: &mut S, a: S::V, b: S::V) -> (S::V, S::B) {
    let (zero, one, min, minus) = (s.imm(0), s.imm(1), s.imm(1 << 63), s.imm(u64::MAX));
    let by_zero = s.cmp(Cond::Eq, b, zero);
    let is_min = s.cmp(Cond::Eq, a, min);
    let is_minus = s.cmp(Cond::Eq, b, minus);
    let overflow = s.both(is_min, is_minus);
    let odd = s.either(by_zero, overflow);
    (s.select(odd, one, b), by_zero)
}

#[inline(always)]
fn unsigned_divisor<S: RvSem>(s: &mut S, b: S::V) -> (S::V, S::B) {
    let (zero, one) = (s.imm(0), s.imm(1));
    let by_zero = s.cmp(Cond::Eq, b, zero);
    (s.select(by_zero, one, b), by_zero)
}

/// Overflow gives the dividend back (which a division by 1 does); division by zero gives -1.
#[inline(always)]
pub(super) fn div<S: RvSem>(s: &mut S, a: S::V, b: S::V) -> S::V {
    let (d, by_zero) = signed_divisor(s, a, b);
    let q = s.sdiv(a, d);
    let minus = s.imm(u64::MAX);
    s.select(by_zero, minus, q)
}

#[inline(always)]
pub(super) fn divu<S: RvSem>(s: &mut S, a: S::V, b: S::V) -> S::V {
    let (d, by_zero) = unsigned_divisor(s, b);
    let q = s.udiv(a, d);
    let ones = s.imm(u64::MAX);
    s.select(by_zero, ones, q)
}

/// Overflow gives 0 (the remainder by 1); division by zero gives the dividend.
#[inline(always)]
pub(super) fn rem<S: RvSem>(s: &mut S, a: S::V, b: S::V) -> S::V {
    let (d, by_zero) = signed_divisor(s, a, b);
    let r = s.srem(a, d);
    s.select(by_zero, a, r)
}

#[inline(always)]
pub(super) fn remu<S: RvSem>(s: &mut S, a: S::V, b: S::V) -> S::V {
    let (d, by_zero) = unsigned_divisor(s, b);
    let r = s.urem(a, d);
    s.select(by_zero, a, r)
}

#[inline(always)]
pub(super) fn mulw<S: RvSem>(s: &mut S, a: S::V, b: S::V) -> S::V {
    let v = s.mul(a, b);
    s.sext(v, Width::W32)
}

/// A 32-bit operation as the 64-bit one on sign-extended operands: the one overflow, `-2^31 / -1`, is 2^31
/// in 64 bits, which wraps to the dividend as it shall.
#[inline(always)]
fn signed32<S: RvSem>(s: &mut S, a: S::V, b: S::V, f: fn(&mut S, S::V, S::V) -> S::V) -> S::V {
    let a = s.sext(a, Width::W32);
    let b = s.sext(b, Width::W32);
    let v = f(s, a, b);
    s.sext(v, Width::W32)
}

#[inline(always)]
fn unsigned32<S: RvSem>(s: &mut S, a: S::V, b: S::V, f: fn(&mut S, S::V, S::V) -> S::V) -> S::V {
    let a = s.zext(a, Width::W32);
    let b = s.zext(b, Width::W32);
    let v = f(s, a, b);
    s.sext(v, Width::W32)
}

#[inline(always)]
pub(super) fn divw<S: RvSem>(s: &mut S, a: S::V, b: S::V) -> S::V {
    signed32(s, a, b, div)
}

#[inline(always)]
pub(super) fn divuw<S: RvSem>(s: &mut S, a: S::V, b: S::V) -> S::V {
    unsigned32(s, a, b, divu)
}

#[inline(always)]
pub(super) fn remw<S: RvSem>(s: &mut S, a: S::V, b: S::V) -> S::V {
    signed32(s, a, b, rem)
}

#[inline(always)]
pub(super) fn remuw<S: RvSem>(s: &mut S, a: S::V, b: S::V) -> S::V {
    unsigned32(s, a, b, remu)
}

#[inline(always)]
fn shift_add<S: RvSem>(s: &mut S, a: S::V, b: S::V, n: u64) -> S::V {
    let n = s.imm(n);
    let a = s.shl(a, n);
    s.add(a, b)
}

#[inline(always)]
fn shift_add_uw<S: RvSem>(s: &mut S, a: S::V, b: S::V, n: u64) -> S::V {
    let a = s.zext(a, Width::W32);
    shift_add(s, a, b, n)
}

#[inline(always)]
pub(super) fn add_uw<S: RvSem>(s: &mut S, a: S::V, b: S::V) -> S::V {
    let a = s.zext(a, Width::W32);
    s.add(a, b)
}

macro_rules! shift_adds {
    ($($name:ident $uw:ident $n:literal;)*) => { $(
        #[inline(always)]
        pub(super) fn $name<S: RvSem>(s: &mut S, a: S::V, b: S::V) -> S::V {
            shift_add(s, a, b, $n)
        }

        #[inline(always)]
        pub(super) fn $uw<S: RvSem>(s: &mut S, a: S::V, b: S::V) -> S::V {
            shift_add_uw(s, a, b, $n)
        }
    )* };
}

shift_adds! {
    sh1add sh1add_uw 1;
    sh2add sh2add_uw 2;
    sh3add sh3add_uw 3;
}

#[inline(always)]
pub(super) fn sll_uw<S: RvSem>(s: &mut S, a: S::V, n: S::V) -> S::V {
    let a = s.zext(a, Width::W32);
    s.shl(a, n)
}

#[inline(always)]
fn not<S: RvSem>(s: &mut S, a: S::V) -> S::V {
    let ones = s.imm(u64::MAX);
    s.xor(a, ones)
}

#[inline(always)]
pub(super) fn andn<S: RvSem>(s: &mut S, a: S::V, b: S::V) -> S::V {
    let b = not(s, b);
    s.and(a, b)
}

#[inline(always)]
pub(super) fn orn<S: RvSem>(s: &mut S, a: S::V, b: S::V) -> S::V {
    let b = not(s, b);
    s.or(a, b)
}

#[inline(always)]
pub(super) fn xnor<S: RvSem>(s: &mut S, a: S::V, b: S::V) -> S::V {
    let v = s.xor(a, b);
    not(s, v)
}

macro_rules! choose {
    ($($name:ident $cond:ident;)*) => { $(
        #[inline(always)]
        pub(super) fn $name<S: RvSem>(s: &mut S, a: S::V, b: S::V) -> S::V {
            let c = s.cmp(Cond::$cond, a, b);
            s.select(c, a, b)
        }
    )* };
}

choose! {
    min Lt;
    minu Ltu;
    max Ge;
    maxu Geu;
}

#[inline(always)]
pub(super) fn rol<S: RvSem>(s: &mut S, a: S::V, n: S::V) -> S::V {
    let zero = s.imm(0);
    let n = s.sub(zero, n);
    s.ror(a, n)
}

/// A rotation of 32 bits: the word twice, side by side, shifted.
#[inline(always)]
pub(super) fn rorw<S: RvSem>(s: &mut S, a: S::V, n: S::V) -> S::V {
    let n = super::count32(s, n);
    let low = s.zext(a, Width::W32);
    let by = s.imm(32);
    let high = s.shl(low, by);
    let twice = s.or(low, high);
    let v = s.shr(twice, n);
    s.sext(v, Width::W32)
}

#[inline(always)]
pub(super) fn rolw<S: RvSem>(s: &mut S, a: S::V, n: S::V) -> S::V {
    let zero = s.imm(0);
    let n = s.sub(zero, n);
    rorw(s, a, n)
}

#[inline(always)]
pub(super) fn clzw<S: RvSem>(s: &mut S, a: S::V) -> S::V {
    let a = s.zext(a, Width::W32);
    let n = s.clz(a);
    let by = s.imm(32);
    s.sub(n, by)
}

#[inline(always)]
pub(super) fn ctzw<S: RvSem>(s: &mut S, a: S::V) -> S::V {
    let stop = s.imm(1 << 32);
    let a = s.or(a, stop);
    s.ctz(a)
}

#[inline(always)]
pub(super) fn cpopw<S: RvSem>(s: &mut S, a: S::V) -> S::V {
    let a = s.zext(a, Width::W32);
    s.popcount(a)
}

/// Each byte that is not zero becomes 0xff.
#[inline(always)]
pub(super) fn orc_b<S: RvSem>(s: &mut S, a: S::V) -> S::V {
    // Bit 7 of each byte: the low seven bits carry into it unless all are zero.
    let low7 = s.imm(0x7f7f_7f7f_7f7f_7f7f);
    let low = s.and(a, low7);
    let carried = s.add(low, low7);
    let any = s.or(carried, a);
    let high = andn(s, any, low7);
    // From 0x80 to 0xff: 0x80 - 0x01 = 0x7f in each byte that has the bit; nothing is borrowed.
    let seven = s.imm(7);
    let ones = s.shr(high, seven);
    let less = s.sub(high, ones);
    s.or(high, less)
}

#[inline(always)]
fn bit_at<S: RvSem>(s: &mut S, n: S::V) -> S::V {
    let one = s.imm(1);
    s.shl(one, n)
}

#[inline(always)]
pub(super) fn bclr<S: RvSem>(s: &mut S, a: S::V, n: S::V) -> S::V {
    let bit = bit_at(s, n);
    andn(s, a, bit)
}

#[inline(always)]
pub(super) fn bext<S: RvSem>(s: &mut S, a: S::V, n: S::V) -> S::V {
    let v = s.shr(a, n);
    let one = s.imm(1);
    s.and(v, one)
}

#[inline(always)]
pub(super) fn binv<S: RvSem>(s: &mut S, a: S::V, n: S::V) -> S::V {
    let bit = bit_at(s, n);
    s.xor(a, bit)
}

#[inline(always)]
pub(super) fn bset<S: RvSem>(s: &mut S, a: S::V, n: S::V) -> S::V {
    let bit = bit_at(s, n);
    s.or(a, bit)
}

/// Bits 63 to 126 of the carry-less product.
#[inline(always)]
pub(super) fn clmulr<S: RvSem>(s: &mut S, a: S::V, b: S::V) -> S::V {
    let (low, high) = (s.clmul(a, b, false), s.clmul(a, b, true));
    let (one, top) = (s.imm(1), s.imm(63));
    let high = s.shl(high, one);
    let low = s.shr(low, top);
    s.or(high, low)
}

/// Zero if `b` compares so with zero, else `a`.
#[inline(always)]
pub(super) fn czero<S: RvSem>(s: &mut S, a: S::V, b: S::V, cond: Cond) -> S::V {
    let zero = s.imm(0);
    let c = s.cmp(cond, b, zero);
    s.select(c, zero, a)
}

/// The low half of `a`, and above it that of `b`.
#[inline(always)]
pub(super) fn pack<S: RvSem>(s: &mut S, a: S::V, b: S::V) -> S::V {
    let by = s.imm(32);
    let (low, high) = (s.zext(a, Width::W32), s.shl(b, by));
    s.or(low, high)
}

/// The same with bytes.
#[inline(always)]
pub(super) fn packh<S: RvSem>(s: &mut S, a: S::V, b: S::V) -> S::V {
    let by = s.imm(8);
    let (low, high) = (s.zext(a, Width::W8), s.zext(b, Width::W8));
    let high = s.shl(high, by);
    s.or(low, high)
}

/// The same with 16 bits, sign-extended.
#[inline(always)]
pub(super) fn packw<S: RvSem>(s: &mut S, a: S::V, b: S::V) -> S::V {
    let by = s.imm(16);
    let (low, high) = (s.zext(a, Width::W16), s.shl(b, by));
    let v = s.or(low, high);
    s.sext(v, Width::W32)
}

/// The bits of each byte in reverse order.
#[inline(always)]
pub(super) fn brev8<S: RvSem>(s: &mut S, a: S::V) -> S::V {
    let mut v = a;
    for (n, mask) in [(1, 0x5555_5555_5555_5555), (2, 0x3333_3333_3333_3333), (4, 0x0f0f_0f0f_0f0f_0f0f)] {
        let (n, mask) = (s.imm(n), s.imm(mask));
        let low = s.and(v, mask);
        let low = s.shl(low, n);
        let high = s.shr(v, n);
        let high = s.and(high, mask);
        v = s.or(low, high);
    }
    v
}

/// Rotations to the right, and perhaps a shift, all together by exclusive or.
#[inline(always)]
pub(super) fn rotations<S: RvSem, const N: usize>(
    s: &mut S,
    a: S::V,
    by: [u64; N],
    shift: Option<u64>,
) -> S::V {
    let mut v = match shift {
        Some(n) => {
            let n = s.imm(n);
            s.shr(a, n)
        }
        None => s.imm(0),
    };
    for n in by {
        let n = s.imm(n);
        let rotated = s.ror(a, n);
        v = s.xor(v, rotated);
    }
    v
}

/// The same on 32 bits.
#[inline(always)]
pub(super) fn rotations32<S: RvSem, const N: usize>(
    s: &mut S,
    a: S::V,
    by: [u64; N],
    shift: Option<u64>,
) -> S::V {
    let low = s.zext(a, Width::W32);
    let mut v = match shift {
        Some(n) => {
            let n = s.imm(n);
            s.shr(low, n)
        }
        None => s.imm(0),
    };
    for n in by {
        let n = s.imm(n);
        let rotated = rorw(s, a, n);
        v = s.xor(v, rotated);
    }
    s.sext(v, Width::W32)
}
