//! Exact arithmetic, slow and plain, to hold the crate against: natural numbers of any length, exact values `±num × 2^exp`, and
//! rounding by the definition: the two numbers next to the value are made, and the distances to them compared.

use fpu::{Bits, Flags, Format, Rounding};
use std::cmp::Ordering;

/// A natural number; the lowest limb first, no zero limb at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Big(Vec<u64>);

impl Big {
    pub fn of(v: u128) -> Big {
        Big(vec![v as u64, (v >> 64) as u64]).trimmed()
    }

    fn trimmed(mut self) -> Big {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
        self
    }

    pub fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    /// How many bits it has.
    pub fn bits(&self) -> i32 {
        self.0.last().map_or(0, |top| self.0.len() as i32 * 64 - top.leading_zeros() as i32)
    }

    pub fn bit(&self, n: i32) -> bool {
        n >= 0 && self.0.get(n as usize / 64).is_some_and(|v| v >> (n % 64) & 1 != 0)
    }

    /// The low 128 bits.
    pub fn low(&self) -> u128 {
        let limb = |n: usize| self.0.get(n).copied().unwrap_or(0) as u128;
        limb(1) << 64 | limb(0)
    }

    pub fn shl(&self, n: i32) -> Big {
        assert!((0..200_000).contains(&n));
        let (limbs, bits) = (n as usize / 64, n as u32 % 64);
        let mut v = vec![0; limbs];
        let mut carry = 0;
        for limb in &self.0 {
            v.push(limb << bits | carry);
            carry = if bits == 0 { 0 } else { limb >> (64 - bits) };
        }
        v.push(carry);
        Big(v).trimmed()
    }

    /// Rounded down.
    pub fn shr(&self, n: i32) -> Big {
        let (limbs, bits) = (n as usize / 64, n as u32 % 64);
        let limb = |n: usize| self.0.get(n).copied().unwrap_or(0);
        let high = |n: usize| if bits == 0 { 0 } else { limb(n + 1) << (64 - bits) };
        Big((limbs..self.0.len().max(limbs)).map(|n| limb(n) >> bits | high(n)).collect()).trimmed()
    }

    pub fn add(&self, o: &Big) -> Big {
        let mut v = Vec::with_capacity(self.0.len().max(o.0.len()) + 1);
        let mut carry = 0u128;
        for n in 0..self.0.len().max(o.0.len()) {
            let limb = |b: &Big| b.0.get(n).copied().unwrap_or(0) as u128;
            carry += limb(self) + limb(o);
            v.push(carry as u64);
            carry >>= 64;
        }
        v.push(carry as u64);
        Big(v).trimmed()
    }

    /// `self - o`, which is not negative.
    pub fn sub(&self, o: &Big) -> Big {
        let mut borrow = false;
        let mut v = Vec::with_capacity(self.0.len());
        for (n, limb) in self.0.iter().enumerate() {
            let (d, a) = limb.overflowing_sub(o.0.get(n).copied().unwrap_or(0));
            let (d, b) = d.overflowing_sub(borrow as u64);
            borrow = a || b;
            v.push(d);
        }
        assert!(!borrow && o.0.len() <= self.0.len());
        Big(v).trimmed()
    }

    pub fn mul(&self, o: &Big) -> Big {
        let mut v = vec![0u64; self.0.len() + o.0.len() + 1];
        for (i, a) in self.0.iter().enumerate() {
            let mut carry = 0u128;
            for (j, b) in o.0.iter().enumerate() {
                carry += v[i + j] as u128 + *a as u128 * *b as u128;
                v[i + j] = carry as u64;
                carry >>= 64;
            }
            v[i + o.0.len()] = carry as u64;
        }
        Big(v).trimmed()
    }

    pub fn order(&self, o: &Big) -> Ordering {
        self.0.len().cmp(&o.0.len()).then_with(|| self.0.iter().rev().cmp(o.0.iter().rev()))
    }

    /// The quotient rounded down and the remainder, digit by digit.
    pub fn div(&self, o: &Big) -> (Big, Big) {
        if let ([a], [b]) = (&self.0[..], &o.0[..]) {
            return (Big::of((a / b) as u128), Big::of((a % b) as u128));
        }
        let n = self.bits();
        let (mut q, mut rest) = (vec![0u64; n as usize / 64 + 1], Big::of(0));
        for i in (0..n).rev() {
            rest = rest.shl(1);
            if self.bit(i) {
                rest = rest.add(&Big::of(1));
            }
            if rest.order(o).is_ge() {
                rest = rest.sub(o);
                q[i as usize / 64] |= 1 << (i % 64);
            }
        }
        (Big(q).trimmed(), rest)
    }

    /// The square root rounded down, by trying each digit.
    pub fn sqrt(&self) -> Big {
        let mut root = Big::of(0);
        for i in (0..=self.bits() / 2).rev() {
            let more = root.add(&Big::of(1).shl(i));
            if more.mul(&more).order(self).is_le() {
                root = more;
            }
        }
        root
    }
}

/// A value that is not zero: `±num × 2^exp`, and perhaps less than one unit of `num` more (in magnitude) if it is `sticky`.
#[derive(Clone, Debug)]
pub struct Exact {
    pub neg: bool,
    pub num: Big,
    pub exp: i32,
    pub sticky: bool,
}

/// What bits stand for.
#[derive(Clone, Debug)]
pub enum Value {
    Nan { signalling: bool },
    Inf(bool),
    Zero(bool),
    Number(Exact),
}

impl Value {
    pub fn of<F: Format>(bits: F::Bits) -> Value {
        let all = bits.wide();
        let stored = F::PRECISION - !F::EXPLICIT as u32;
        let neg = all >> (stored + F::EXP_BITS) & 1 != 0;
        let field = (all >> stored) as i32 & ((1 << F::EXP_BITS) - 1);
        let frac = all & ((1 << (F::PRECISION - 1)) - 1);
        let integer = if F::EXPLICIT { all >> (F::PRECISION - 1) & 1 != 0 } else { field != 0 };
        if F::EXPLICIT && field != 0 && !integer {
            return Value::Nan { signalling: true };
        }
        if field == (1 << F::EXP_BITS) - 1 {
            return match frac {
                0 => Value::Inf(neg),
                _ => Value::Nan { signalling: frac >> (F::PRECISION - 2) & 1 == 0 },
            };
        }
        let sig = frac | (integer as u128) << (F::PRECISION - 1);
        if sig == 0 {
            return Value::Zero(neg);
        }
        let bias = (1 << (F::EXP_BITS - 1)) - 1;
        let exp = field.max(1) - bias - (F::PRECISION as i32 - 1);
        Value::Number(Exact { neg, num: Big::of(sig), exp, sticky: false })
    }

    pub fn is_nan(&self) -> bool {
        matches!(self, Value::Nan { .. })
    }

    pub fn is_signalling(&self) -> bool {
        matches!(self, Value::Nan { signalling: true })
    }

    pub fn neg(&self) -> bool {
        match self {
            Value::Nan { .. } => false,
            Value::Inf(n) | Value::Zero(n) => *n,
            Value::Number(e) => e.neg,
        }
    }
}

impl Exact {
    /// Both with the same exponent.
    fn aligned(&self, o: &Exact) -> (Big, Big, i32) {
        let exp = self.exp.min(o.exp);
        (self.num.shl(self.exp - exp), o.num.shl(o.exp - exp), exp)
    }

    /// `None` is zero.
    pub fn add(&self, o: &Exact) -> Option<Exact> {
        let (a, b, exp) = self.aligned(o);
        let (neg, num) = match (self.neg == o.neg, a.order(&b)) {
            (true, _) => (self.neg, a.add(&b)),
            (false, Ordering::Equal) => return None,
            (false, Ordering::Greater) => (self.neg, a.sub(&b)),
            (false, Ordering::Less) => (o.neg, b.sub(&a)),
        };
        Some(Exact { neg, num, exp, sticky: false })
    }

    pub fn mul(&self, o: &Exact) -> Exact {
        Exact { neg: self.neg != o.neg, num: self.num.mul(&o.num), exp: self.exp + o.exp, sticky: false }
    }

    /// With at least `bits` bits.
    pub fn div(&self, o: &Exact, bits: u32) -> Exact {
        let up = (bits as i32 + 1 + o.num.bits() - self.num.bits()).max(0);
        let (q, rest) = self.num.shl(up).div(&o.num);
        Exact { neg: self.neg != o.neg, num: q, exp: self.exp - o.exp - up, sticky: !rest.is_zero() }
    }

    /// With at least `bits` bits.
    pub fn sqrt(&self, bits: u32) -> Exact {
        let up = (2 * bits as i32 - self.num.bits()).max(0);
        let up = up + (self.exp - up).rem_euclid(2);
        let num = self.num.shl(up);
        let root = num.sqrt();
        let sticky = root.mul(&root) != num;
        Exact { neg: false, num: root, exp: (self.exp - up) / 2, sticky }
    }

    /// The quotient `self ÷ o` rounded to an integer, and `self - o × quotient`.
    pub fn rem(&self, o: &Exact, nearest: bool) -> (Big, Option<Exact>) {
        let (a, b, exp) = self.aligned(o);
        let (q, rest) = a.div(&b);
        let twice = rest.shl(1).order(&b);
        if nearest && (twice.is_gt() || twice.is_eq() && q.bit(0)) {
            let r = Exact { neg: !self.neg, num: b.sub(&rest), exp, sticky: false };
            return (q.add(&Big::of(1)), Some(r));
        }
        let r = Exact { neg: self.neg, num: rest.clone(), exp, sticky: false };
        (q, (!rest.is_zero()).then_some(r))
    }

    pub fn order(&self, o: &Exact) -> Ordering {
        let (a, b, _) = self.aligned(o);
        match (self.neg, o.neg) {
            (false, false) => a.order(&b),
            (true, true) => b.order(&a),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        }
    }

    /// The exponent of the highest bit.
    fn top(&self) -> i32 {
        self.exp + self.num.bits() - 1
    }

    /// Of the multiples of `2^quantum` the one that is wanted, as its factor; and whether it is another value.
    pub fn to_multiple(&self, quantum: i32, rm: Rounding) -> (Big, bool) {
        if quantum <= self.exp {
            assert!(!self.sticky, "too few bits were made");
            return (self.num.shl(self.exp - quantum), false);
        }
        // Everything in units of an eighth of the lowest bit, so that being sticky is a distance too.
        let value = self.num.shl(3).add(&Big::of(self.sticky as u128));
        let by = quantum - self.exp + 3;
        let low = value.shr(by);
        let high = low.add(&Big::of(1));
        let below = value.sub(&low.shl(by));
        if below.is_zero() {
            return (low, false);
        }
        let above = high.shl(by).sub(&value);
        let nearer = below.order(&above);
        let up = match rm {
            Rounding::NearestEven => nearer.is_gt() || nearer.is_eq() && low.bit(0),
            Rounding::NearestMaxMagnitude => nearer.is_ge(),
            Rounding::TowardZero => false,
            Rounding::Down => self.neg,
            Rounding::Up => !self.neg,
            Rounding::ToOdd => !low.bit(0),
        };
        (if up { high } else { low }, true)
    }

    /// The bits of the number that this rounds to with `precision` bits, and the exceptions.
    pub fn round<F: Format>(&self, precision: u32, rm: Rounding, before: bool) -> (F::Bits, Flags) {
        let p = precision as i32;
        let bias = (1 << (F::EXP_BITS - 1)) - 1;
        let emin = 1 - bias;
        let unbounded = self.top() - (p - 1);
        let quantum = unbounded.max(emin - (p - 1));
        let (n, inexact) = self.to_multiple(quantum, rm);
        let mut flags = if inexact { Flags::NX } else { Flags::NONE };
        let is_tiny = if before {
            self.top() < emin
        } else {
            let (n, _) = self.to_multiple(unbounded, rm);
            unbounded + n.bits() - 1 < emin
        };
        if is_tiny && inexact {
            flags |= Flags::UF;
        }
        let (field, sig) = if n.bits() > p {
            (quantum + 1 + (p - 1) + bias, n.shr(1))
        } else if n.bits() == p {
            (quantum + (p - 1) + bias, n)
        } else {
            (0, n)
        };
        let sig = sig.low() << (F::PRECISION - precision);
        let most = (1 << F::EXP_BITS) - 1;
        if field < most {
            return (encode::<F>(self.neg, field, sig), flags);
        }
        flags |= Flags::OF | Flags::NX;
        let inf = match rm {
            Rounding::NearestEven | Rounding::NearestMaxMagnitude => true,
            Rounding::TowardZero | Rounding::ToOdd => false,
            Rounding::Down => self.neg,
            Rounding::Up => !self.neg,
        };
        if inf {
            return (encode::<F>(self.neg, most, 1 << (F::PRECISION - 1)), flags);
        }
        let ones = ((1u128 << precision) - 1) << (F::PRECISION - precision);
        (encode::<F>(self.neg, most - 1, ones), flags)
    }
}

/// Bits from their parts; `sig` has its integer bit.
pub fn encode<F: Format>(neg: bool, field: i32, sig: u128) -> F::Bits {
    let stored = F::PRECISION - !F::EXPLICIT as u32;
    let sig = sig & ((1 << stored) - 1);
    F::Bits::of((neg as u128) << (stored + F::EXP_BITS) | (field as u128) << stored | sig)
}

/// The NaN that RISC-V gives.
pub fn nan<F: Format>() -> F::Bits {
    encode::<F>(false, (1 << F::EXP_BITS) - 1, 3 << (F::PRECISION - 2))
}

pub fn inf<F: Format>(neg: bool) -> F::Bits {
    encode::<F>(neg, (1 << F::EXP_BITS) - 1, 1 << (F::PRECISION - 1))
}

pub fn zero<F: Format>(neg: bool) -> F::Bits {
    encode::<F>(neg, 0, 0)
}

/// Numbers that are not random enough to need a library, the same in every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn wide(&mut self) -> u128 {
        (self.next() as u128) << 64 | self.next() as u128
    }

    /// A number in which special exponents, exponents near to `near`, and long runs of equal digits are common.
    pub fn bits<F: Format>(&mut self, near: u32) -> F::Bits {
        let (k, w) = (self.next(), self.wide());
        let max = (1u32 << F::EXP_BITS) - 1;
        let n = (k >> 8) as u32;
        let field = match k % 12 {
            0 => 0,
            1 => 1,
            2 => max,
            3 => max - 1,
            4 => max >> 1,
            5..=7 => near.wrapping_add(n % 7).wrapping_sub(3),
            8 => (max >> 1).wrapping_add(n % (2 * F::PRECISION)).wrapping_sub(F::PRECISION),
            9 => n % (F::PRECISION + 2),
            _ => n,
        } & max;
        let place = w as u32 % (F::PRECISION - 1);
        let ones = (1u128 << (F::PRECISION - 1)) - 1;
        let frac = ones
            & match k >> 40 & 7 {
                0 => 0,
                1 => ones,
                2 => 1 << place,
                3 => !(1 << place),
                4 => ones << place,
                5 => (w >> 8) & ((1 << place) - 1),
                _ => w >> 8,
            };
        // Now and then the x87's integer bit is what it should not be.
        let integer = if k >> 50 & 15 == 0 { k >> 54 & 1 != 0 } else { field != 0 };
        encode::<F>(k >> 63 != 0, field as i32, frac | (integer as u128) << (F::PRECISION - 1))
    }
}
