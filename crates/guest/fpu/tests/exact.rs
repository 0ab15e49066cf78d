//! Every operation against exact arithmetic (`oracle`), with RISC-V's rules: all numbers of the short formats where there is one
//! operand, numbers at random elsewhere. `RHEA_FPU_ROUNDS` sets how many, `RHEA_FPU_SEED` which; the ignored test does all pairs.

mod oracle;

use fpu::*;
use oracle::{Big, Exact, Random, Value, inf, nan, zero};
use std::cmp::Ordering;

const MODES: [Rounding; 6] = [
    Rounding::NearestEven,
    Rounding::TowardZero,
    Rounding::Down,
    Rounding::Up,
    Rounding::NearestMaxMagnitude,
    Rounding::ToOdd,
];

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |v| v.parse().expect("a number"))
}

/// How an operation is done in a test.
#[derive(Clone, Copy, Debug)]
struct How {
    rm: Rounding,
    before: bool,
    precision: Precision,
}

impl How {
    fn rules(self) -> Rules {
        let tininess = if self.before { Tininess::BeforeRounding } else { Tininess::AfterRounding };
        Rules { tininess, precision: self.precision, ..Rules::RISCV }
    }

    /// Bits of results of arithmetic.
    fn precision<F: Format>(self) -> u32 {
        match self.precision {
            Precision::Single if F::EXPLICIT => 24,
            Precision::Double if F::EXPLICIT => 53,
            _ => F::PRECISION,
        }
    }

    fn of(n: u64) -> How {
        let precision = [Precision::Extended, Precision::Double, Precision::Single][(n / 12 % 3) as usize];
        How { rm: MODES[(n % 6) as usize], before: n % 12 >= 6, precision }
    }
}

type Answer<B> = (B, Flags);

fn invalid<F: Format>() -> Answer<F::Bits> {
    (nan::<F>(), Flags::NV)
}

fn nan_of<F: Format>(operands: &[&Value]) -> Option<Answer<F::Bits>> {
    let flags = if operands.iter().any(|v| v.is_signalling()) { Flags::NV } else { Flags::NONE };
    operands.iter().any(|v| v.is_nan()).then_some((nan::<F>(), flags))
}

fn quiet<B>(v: B) -> Answer<B> {
    (v, Flags::NONE)
}

fn arith<F: Format>(v: &Exact, how: How) -> Answer<F::Bits> {
    v.round::<F>(how.precision::<F>(), how.rm, how.before)
}

fn sum<F: Format>(a: &Value, b: &Value, how: How) -> Answer<F::Bits> {
    if let Some(n) = nan_of::<F>(&[a, b]) {
        return n;
    }
    let exact_zero = || quiet(zero::<F>(how.rm == Rounding::Down));
    match (a, b) {
        (Value::Inf(x), Value::Inf(y)) if x != y => invalid::<F>(),
        (Value::Inf(x), _) | (_, Value::Inf(x)) => quiet(inf::<F>(*x)),
        (Value::Zero(x), Value::Zero(y)) if x == y => quiet(zero::<F>(*x)),
        (Value::Zero(_), Value::Zero(_)) => exact_zero(),
        (Value::Number(x), Value::Zero(_)) | (Value::Zero(_), Value::Number(x)) => arith::<F>(x, how),
        (Value::Number(x), Value::Number(y)) => x.add(y).map_or_else(exact_zero, |v| arith::<F>(&v, how)),
        _ => unreachable!(),
    }
}

fn negated(v: &Value) -> Value {
    match v.clone() {
        Value::Inf(n) => Value::Inf(!n),
        Value::Zero(n) => Value::Zero(!n),
        Value::Number(e) => Value::Number(Exact { neg: !e.neg, ..e }),
        n => n,
    }
}

/// The product, exactly; `None` if there is none.
fn product(a: &Value, b: &Value) -> Option<Value> {
    let neg = a.neg() != b.neg();
    match (a, b) {
        (Value::Inf(_), Value::Zero(_)) | (Value::Zero(_), Value::Inf(_)) => None,
        (Value::Inf(_), _) | (_, Value::Inf(_)) => Some(Value::Inf(neg)),
        (Value::Number(x), Value::Number(y)) => Some(Value::Number(x.mul(y))),
        _ => Some(Value::Zero(neg)),
    }
}

fn finish<F: Format>(v: &Value, how: How) -> Answer<F::Bits> {
    match v {
        Value::Nan { .. } => unreachable!(),
        Value::Inf(n) => quiet(inf::<F>(*n)),
        Value::Zero(n) => quiet(zero::<F>(*n)),
        Value::Number(e) => arith::<F>(e, how),
    }
}

fn times<F: Format>(a: &Value, b: &Value, how: How) -> Answer<F::Bits> {
    if let Some(n) = nan_of::<F>(&[a, b]) {
        return n;
    }
    product(a, b).map_or_else(invalid::<F>, |v| finish::<F>(&v, how))
}

fn fused<F: Format>(a: &Value, b: &Value, c: &Value, how: How) -> Answer<F::Bits> {
    let nan = nan_of::<F>(&[a, b, c]);
    if a.is_nan() || b.is_nan() {
        return nan.unwrap();
    }
    match product(a, b) {
        None => invalid::<F>(),
        Some(p) => nan.unwrap_or_else(|| sum::<F>(&p, c, how)),
    }
}

fn over<F: Format>(a: &Value, b: &Value, how: How) -> Answer<F::Bits> {
    if let Some(n) = nan_of::<F>(&[a, b]) {
        return n;
    }
    let neg = a.neg() != b.neg();
    match (a, b) {
        (Value::Inf(_), Value::Inf(_)) | (Value::Zero(_), Value::Zero(_)) => invalid::<F>(),
        (Value::Inf(_), _) => quiet(inf::<F>(neg)),
        (Value::Number(_), Value::Zero(_)) => (inf::<F>(neg), Flags::DZ),
        (Value::Number(x), Value::Number(y)) => arith::<F>(&x.div(y, F::PRECISION + 2), how),
        _ => quiet(zero::<F>(neg)),
    }
}

fn left<F: Format>(a: &Value, b: &Value, nearest: bool) -> (Answer<F::Bits>, Option<Big>) {
    if let Some(n) = nan_of::<F>(&[a, b]) {
        return (n, None);
    }
    let whole = |e: &Exact| quiet(e.round::<F>(F::PRECISION, Rounding::NearestEven, false).0);
    match (a, b) {
        (Value::Inf(_), _) | (_, Value::Zero(_)) => (invalid::<F>(), None),
        (Value::Number(x), Value::Number(y)) => {
            let (q, r) = x.rem(y, nearest);
            (r.map_or(quiet(zero::<F>(x.neg)), |r| whole(&r)), Some(q))
        }
        (Value::Number(x), _) => (whole(x), None),
        _ => (quiet(zero::<F>(a.neg())), None),
    }
}

fn order(a: &Value, b: &Value) -> Option<Ordering> {
    Some(match (a, b) {
        _ if a.is_nan() || b.is_nan() => return None,
        (Value::Inf(x), Value::Inf(y)) => y.cmp(x),
        (Value::Inf(n), _) => {
            if *n {
                Ordering::Less
            } else {
                Ordering::Greater
            }
        }
        (_, Value::Inf(n)) => {
            if *n {
                Ordering::Greater
            } else {
                Ordering::Less
            }
        }
        (Value::Zero(_), Value::Zero(_)) => Ordering::Equal,
        (Value::Zero(_), _) => {
            if b.neg() {
                Ordering::Greater
            } else {
                Ordering::Less
            }
        }
        (_, Value::Zero(_)) => {
            if a.neg() {
                Ordering::Less
            } else {
                Ordering::Greater
            }
        }
        (Value::Number(x), Value::Number(y)) => x.order(y),
        _ => unreachable!(),
    })
}

#[track_caller]
fn same<B: Bits>(
    got: impl FnOnce(&mut Flags) -> B,
    want: Answer<B>,
    what: &str,
    operands: &dyn std::fmt::Debug,
) {
    let mut flags = Flags::NONE;
    let bits = got(&mut flags);
    assert!(
        (bits, flags) == want,
        "{what} {operands:x?}: {bits:x} {:x}, wanted {:x} {:x}",
        flags.bits(),
        want.0,
        want.1.bits()
    );
}

fn unary<F: Format>(a: F::Bits, v: &Value, how: How) {
    let (rm, rules) = (how.rm, how.rules());
    let at = &(a, how);
    let root = match v {
        Value::Nan { .. } => nan_of::<F>(&[v]).unwrap(),
        Value::Zero(n) => quiet(zero::<F>(*n)),
        _ if v.neg() => invalid::<F>(),
        Value::Inf(n) => quiet(inf::<F>(*n)),
        Value::Number(e) => arith::<F>(&e.sqrt(F::PRECISION + 2), how),
    };
    same(|f| sqrt::<F>(a, rm, rules, f), root, "sqrt", at);
    let integral = match v {
        Value::Number(e) => {
            let (n, inexact) = e.to_multiple(0, rm);
            let flags = if inexact { Flags::NX } else { Flags::NONE };
            let n = Exact { neg: e.neg, num: n, exp: 0, sticky: false };
            let bits =
                if n.num.is_zero() { zero::<F>(e.neg) } else { n.round::<F>(F::PRECISION, rm, false).0 };
            // A pseudo-denormal may stay one only where it is rounded; those are not integral.
            (bits, flags)
        }
        _ => nan_of::<F>(&[v]).unwrap_or((a, Flags::NONE)),
    };
    same(|f| round_to_integral::<F>(a, rm, true, rules, f), integral, "round_to_integral", at);
    let silent = Flags::from_bits(integral.1.bits() & !Flags::NX.bits());
    same(|f| round_to_integral::<F>(a, rm, false, rules, f), (integral.0, silent), "rint", at);
    to::<F, F16>(a, v, how);
    to::<F, BF16>(a, v, how);
    to::<F, F32>(a, v, how);
    to::<F, F64>(a, v, how);
    to::<F, X80>(a, v, how);
    to::<F, F128>(a, v, how);
    whole::<F, i8>(a, v, how);
    whole::<F, u8>(a, v, how);
    whole::<F, i16>(a, v, how);
    whole::<F, u16>(a, v, how);
    whole::<F, i32>(a, v, how);
    whole::<F, u32>(a, v, how);
    whole::<F, i64>(a, v, how);
    whole::<F, u64>(a, v, how);
    whole::<F, i128>(a, v, how);
    whole::<F, u128>(a, v, how);
    classes_and_scales::<F>(a, v, how);
}

fn from_integers<F: Format>(a: F::Bits, how: How) {
    from::<F, i8>(a, how);
    from::<F, u8>(a, how);
    from::<F, i16>(a, how);
    from::<F, u16>(a, how);
    from::<F, i32>(a, how);
    from::<F, u32>(a, how);
    from::<F, i64>(a, how);
    from::<F, u64>(a, how);
    from::<F, i128>(a, how);
    from::<F, u128>(a, how);
}

fn classes_and_scales<F: Format>(a: F::Bits, v: &Value, how: How) {
    let (rm, rules) = (how.rm, how.rules());
    let at = &(a, how);
    let class = match v {
        Value::Inf(n) => {
            if *n {
                0
            } else {
                7
            }
        }
        Value::Zero(n) => 3 + !*n as u16,
        Value::Nan { signalling } => 9 - *signalling as u16,
        Value::Number(e) => {
            let subnormal = F::field(a) == 0;
            if e.neg { 1 + subnormal as u16 } else { 6 - subnormal as u16 }
        }
    };
    assert_eq!(classify::<F>(a), 1 << class, "{a:x}");
    for n in [1, -1, 13, -29, 300, -300, 40_000, i32::MIN] {
        let scaled = match v {
            Value::Number(e) => {
                let e = Exact { exp: e.exp + n.clamp(-70_000, 70_000), ..e.clone() };
                e.round::<F>(F::PRECISION, rm, how.before)
            }
            _ => nan_of::<F>(&[v]).unwrap_or((a, Flags::NONE)),
        };
        same(|f| scale::<F>(a, n, rm, rules, f), scaled, "scale", &(at, n));
    }
}

fn to<F: Format, G: Format>(a: F::Bits, v: &Value, how: How) {
    let want = match v {
        Value::Nan { .. } => nan_of::<G>(&[v]).unwrap(),
        Value::Number(e) => e.round::<G>(G::PRECISION, how.rm, how.before),
        Value::Inf(n) => quiet(inf::<G>(*n)),
        Value::Zero(n) => quiet(zero::<G>(*n)),
    };
    same(|f| convert::<F, G>(a, how.rm, how.rules(), f), want, std::any::type_name::<G>(), &(a, how));
}

/// To an integer.
fn whole<F: Format, I: Int>(a: F::Bits, v: &Value, how: How) {
    let ones = u128::MAX >> (128 - I::BITS);
    let (greatest, least) = if I::SIGNED { (ones >> 1, (ones >> 1) + 1) } else { (ones, 0) };
    let beyond = |neg| (if neg { least } else { greatest }, neg, Flags::NV);
    for scale in [0, 5] {
        let mut modular = Big::of(0);
        let (magnitude, neg, flags) = match v {
            Value::Nan { .. } => beyond(false),
            Value::Inf(n) => beyond(*n),
            Value::Zero(_) => (0, false, Flags::NONE),
            Value::Number(e) => {
                let (n, inexact) = Exact { exp: e.exp + scale, ..e.clone() }.to_multiple(0, how.rm);
                modular = n.clone();
                let fits = n.bits() <= 128 && n.low() <= if e.neg { least } else { greatest };
                let flags = if inexact { Flags::NX } else { Flags::NONE };
                if fits { (n.low(), e.neg, flags) } else { beyond(e.neg) }
            }
        };
        let of = |magnitude: u128, neg: bool| (if neg { magnitude.wrapping_neg() } else { magnitude }) & ones;
        let bits = |i: I| {
            let (neg, magnitude) = i.parts();
            of(magnitude, neg)
        };
        let what = if I::SIGNED { "to signed" } else { "to unsigned" };
        let at = &(a, I::BITS, scale, how);
        let got = |f: &mut Flags| bits(to_int_scaled::<F, I>(a, scale, how.rm, how.rules(), f));
        same(got, (of(magnitude, neg), flags), what, at);
        if scale == 0 {
            let got = |f: &mut Flags| bits(to_int_modular::<F, I>(a, how.rm, how.rules(), f));
            same(got, (of(modular.low(), v.neg()), flags), "modular", at);
        }
    }
}

/// From an integer.
fn from<F: Format, I: Int>(a: F::Bits, how: How) {
    // The operand's bits as an integer, whatever they are.
    let i = I::of(a.wide());
    let (neg, magnitude) = i.parts();
    for scale in [0, -7] {
        let e = Exact { neg, num: Big::of(magnitude), exp: scale, sticky: false };
        let want = if magnitude == 0 {
            quiet(zero::<F>(false))
        } else {
            e.round::<F>(F::PRECISION, how.rm, how.before)
        };
        let got = |f: &mut Flags| from_int_scaled::<I, F>(i, scale, how.rm, how.rules(), f);
        same(got, want, "from_int", &(magnitude, neg, how));
    }
}

fn binary<F: Format>(a: F::Bits, b: F::Bits, how: How) {
    let (rm, rules) = (how.rm, how.rules());
    let (x, y) = (&Value::of::<F>(a), &Value::of::<F>(b));
    let at = &(a, b, how);
    same(|f| add::<F>(a, b, rm, rules, f), sum::<F>(x, y, how), "add", at);
    same(|f| sub::<F>(a, b, rm, rules, f), sum::<F>(x, &negated(y), how), "sub", at);
    same(|f| mul::<F>(a, b, rm, rules, f), times::<F>(x, y, how), "mul", at);
    same(|f| div::<F>(a, b, rm, rules, f), over::<F>(x, y, how), "div", at);
    comparisons::<F>((a, x), (b, y), how);
}

fn comparisons<F: Format>((a, x): (F::Bits, &Value), (b, y): (F::Bits, &Value), how: How) {
    let rules = how.rules();
    let order = order(x, y);
    let flag = |on: bool| if on { Flags::NV } else { Flags::NONE };
    let (any, signalling) = (x.is_nan() || y.is_nan(), x.is_signalling() || y.is_signalling());
    let mut flags = Flags::NONE;
    assert_eq!(compare::<F>(a, b, rules, &mut flags), order, "{a:x} {b:x}");
    assert_eq!(flags, flag(signalling), "{a:x} {b:x}");
    let mut flags = Flags::NONE;
    assert_eq!(compare_signalling::<F>(a, b, rules, &mut flags), order, "{a:x} {b:x}");
    assert_eq!(flags, flag(any), "{a:x} {b:x}");
    let absolute = |v: &Value| if v.neg() { negated(v) } else { v.clone() };
    let by_magnitude = self::order(&absolute(x), &absolute(y));
    for which in [Which::Min, Which::Max, Which::MinMagnitude, Which::MaxMagnitude] {
        for kind in [MinMax::Number, MinMax::Propagating, MinMax::Number2008, MinMax::Second] {
            let magnitude = matches!(which, Which::MinMagnitude | Which::MaxMagnitude);
            if magnitude && kind == MinMax::Second {
                continue;
            }
            let max = matches!(which, Which::Max | Which::MaxMagnitude);
            let number = match kind {
                MinMax::Number => true,
                MinMax::Number2008 => !signalling,
                MinMax::Propagating | MinMax::Second => false,
            };
            let want = match order {
                _ if kind == MinMax::Second => {
                    let first = if max { Ordering::Greater } else { Ordering::Less };
                    (if order == Some(first) { a } else { b }, flag(any))
                }
                None if number && !x.is_nan() => (a, flag(signalling)),
                None if number && !y.is_nan() => (b, flag(signalling)),
                None => (nan::<F>(), flag(signalling)),
                Some(o) => {
                    let o = if magnitude { by_magnitude.unwrap().then(o) } else { o };
                    let o = o.then(y.neg().cmp(&x.neg()));
                    quiet(if o.is_eq() || o.is_lt() != max { a } else { b })
                }
            };
            let mut flags = Flags::NONE;
            let got = min_max::<F>(a, b, which, kind, rules, &mut flags);
            // Of a number and a pseudo-denormal of the same value either will do.
            let equal = got == want.0 || order == Some(Ordering::Equal) && F::EXPLICIT;
            assert!(equal && flags == want.1, "{which:?} {kind:?} {a:x} {b:x}: {got:x}, wanted {want:x?}");
        }
    }
}

fn remainders<F: Format>(a: F::Bits, b: F::Bits, how: How) {
    let (x, y) = (&Value::of::<F>(a), &Value::of::<F>(b));
    for (nearest, quotient) in [(true, Quotient::NearestEven), (false, Quotient::TowardZero)] {
        let (want, q) = left::<F>(x, y, nearest);
        let mut low = 0;
        let got = |f: &mut Flags| {
            let (bits, q) = remainder::<F>(a, b, quotient, how.rules(), f);
            low = q;
            bits
        };
        same(got, want, "remainder", &(a, b, quotient));
        assert_eq!(low, q.map_or(0, |q| q.low() as u64), "{a:x} {b:x} {quotient:?}");
    }
}

fn ternary<F: Format>(a: F::Bits, b: F::Bits, c: F::Bits, how: How) {
    let (x, y, z) = (&Value::of::<F>(a), &Value::of::<F>(b), &Value::of::<F>(c));
    same(|f| fma::<F>(a, b, c, how.rm, how.rules(), f), fused::<F>(x, y, z, how), "fma", &(a, b, c, how));
}

/// All operations on operands at random.
fn random<F: Format>(rounds: u64) {
    let rounds = number("RHEA_FPU_ROUNDS", rounds);
    let mut r = Random(number("RHEA_FPU_SEED", 1));
    let max = (1u32 << F::EXP_BITS) - 1;
    for n in 0..rounds {
        let near = r.next() as u32 & max;
        let (a, b) = (r.bits::<F>(near), r.bits::<F>(near));
        // Near to a product's exponent.
        let c = r.bits::<F>((2 * near).wrapping_sub(max >> 1));
        let how = How::of(r.next());
        binary::<F>(a, b, how);
        ternary::<F>(a, b, c, how);
        if n % 4 == 0 {
            unary::<F>(a, &Value::of::<F>(a), how);
            from_integers::<F>(a, how);
        }
        // What the quotient's length makes slow comes more seldom.
        let length = F::field(a) as i64 - F::field(b) as i64;
        if length < 300 && n % 4 == 1 || length < 3000 && n % 512 == 2 {
            remainders::<F>(a, b, how);
        }
    }
}

/// All numbers of a short format as the only operand.
fn all<F: Format>() {
    for bits in 0..=u16::MAX {
        let a = F::Bits::of(bits.into());
        let v = Value::of::<F>(a);
        // Each direction comes with both kinds of tininess in neighbouring numbers.
        for n in 0..6 {
            unary::<F>(a, &v, How::of(n + 6 * (bits as u64 & 1)));
        }
        from_integers::<F>(a, How::of(bits.into()));
    }
}

#[test]
fn all_of_binary16() {
    all::<F16>();
}

#[test]
fn all_of_bfloat16() {
    all::<BF16>();
}

#[test]
fn pairs_of_binary16() {
    random::<F16>(60_000);
}

#[test]
fn pairs_of_bfloat16() {
    random::<BF16>(60_000);
}

#[test]
fn binary32_at_random() {
    random::<F32>(100_000);
}

#[test]
fn binary64_at_random() {
    random::<F64>(100_000);
}

#[test]
fn double_extended_at_random() {
    random::<X80>(100_000);
}

#[test]
fn binary128_at_random() {
    random::<F128>(100_000);
}

/// `RHEA_FPU_FIRST` and `RHEA_FPU_LAST` choose the first operands.
#[test]
#[ignore = "takes hours: all pairs of the short formats"]
fn all_pairs() {
    for a in number("RHEA_FPU_FIRST", 0)..=number("RHEA_FPU_LAST", 0xffff) {
        for b in 0..=u16::MAX {
            let how = How::of(a.wrapping_mul(7).wrapping_add(b.into()));
            binary::<F16>(a as u16, b, how);
            binary::<BF16>(a as u16, b, how);
            remainders::<F16>(a as u16, b, how);
            remainders::<BF16>(a as u16, b, how);
        }
    }
}
