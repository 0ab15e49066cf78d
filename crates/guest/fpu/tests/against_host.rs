//! Against the host's arithmetic (round to nearest, values), and against itself in the other directions.

use fpu::*;
use proptest::prelude::*;

const MODES: [Rounding; 5] = [
    Rounding::NearestEven,
    Rounding::TowardZero,
    Rounding::Down,
    Rounding::Up,
    Rounding::NearestMaxMagnitude,
];

/// Bit patterns in which special exponents and sparse fractions are common.
fn bits64() -> impl Strategy<Value = u64> {
    let exp =
        prop_oneof![Just(0u64), Just(1), Just(0x7ff), Just(0x7fe), 1000u64..1046, 0u64..60, 0u64..0x800];
    let frac = prop_oneof![
        Just(0u64),
        Just(1),
        Just((1 << 52) - 1),
        Just(1 << 51),
        0u64..1 << 52,
        (0u32..52).prop_map(|n| 1 << n)
    ];
    (any::<bool>(), exp, frac).prop_map(|(s, e, f)| (s as u64) << 63 | e << 52 | f)
}

fn bits32() -> impl Strategy<Value = u32> {
    let exp = prop_oneof![Just(0u32), Just(1), Just(0xff), Just(0xfe), 110u32..145, 0u32..30, 0u32..0x100];
    let frac = prop_oneof![
        Just(0u32),
        Just(1),
        Just((1 << 23) - 1),
        Just(1 << 22),
        0u32..1 << 23,
        (0u32..23).prop_map(|n| 1 << n)
    ];
    (any::<bool>(), exp, frac).prop_map(|(s, e, f)| (s as u32) << 31 | e << 23 | f)
}

fn canonical64(v: f64) -> u64 {
    if v.is_nan() { 0x7ff8_0000_0000_0000 } else { v.to_bits() }
}

fn canonical32(v: f32) -> u32 {
    if v.is_nan() { 0x7fc0_0000 } else { v.to_bits() }
}

/// What must hold between the results of one operation in the five directions.
fn directions_agree(op: impl Fn(Rounding, &mut Flags) -> u64, as_f64: impl Fn(u64) -> f64) {
    let mut results = Vec::new();
    for rm in MODES {
        let mut f = Flags::NONE;
        results.push((op(rm, &mut f), f));
    }
    let v = |i: usize| as_f64(results[i].0);
    if v(0).is_nan() {
        assert!(results.iter().all(|r| r.0 == results[0].0));
        return;
    }
    let (near, zero, down, up, away) = (v(0), v(1), v(2), v(3), v(4));
    assert!(down <= up, "{down} {up}");
    assert!([near, zero, away].iter().all(|x| *x == down || *x == up), "{results:?}");
    assert_eq!(zero, if down.abs() < up.abs() { down } else { up });
    for (r, f) in &results {
        assert_eq!(f.contains(Flags::NX), down != up, "{r:x} {results:?}");
        assert!(f.contains(Flags::NX) || !f.contains(Flags::UF));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn binary64_is_the_hosts(a in bits64(), b in bits64(), c in bits64()) {
        let (x, y, z) = (f64::from_bits(a), f64::from_bits(b), f64::from_bits(c));
        let rm = Rounding::NearestEven;
        let f = &mut Flags::default();
        prop_assert_eq!(f64_add(a, b, rm, f), canonical64(x + y));
        prop_assert_eq!(f64_sub(a, b, rm, f), canonical64(x - y));
        prop_assert_eq!(f64_mul(a, b, rm, f), canonical64(x * y));
        prop_assert_eq!(f64_div(a, b, rm, f), canonical64(x / y));
        prop_assert_eq!(f64_sqrt(a, rm, f), canonical64(x.sqrt()));
        prop_assert_eq!(f64_fma(a, b, c, rm, f), canonical64(x.mul_add(y, z)));
        prop_assert_eq!(f64_to_f32(a, rm, f), canonical32(x as f32));
        prop_assert_eq!(f64_eq(a, b, f), x == y);
        prop_assert_eq!(f64_lt(a, b, f), x < y);
        prop_assert_eq!(f64_le(a, b, f), x <= y);
    }

    #[test]
    fn binary32_is_the_hosts(a in bits32(), b in bits32(), c in bits32()) {
        let (x, y, z) = (f32::from_bits(a), f32::from_bits(b), f32::from_bits(c));
        let rm = Rounding::NearestEven;
        let f = &mut Flags::default();
        prop_assert_eq!(f32_add(a, b, rm, f), canonical32(x + y));
        prop_assert_eq!(f32_sub(a, b, rm, f), canonical32(x - y));
        prop_assert_eq!(f32_mul(a, b, rm, f), canonical32(x * y));
        prop_assert_eq!(f32_div(a, b, rm, f), canonical32(x / y));
        prop_assert_eq!(f32_sqrt(a, rm, f), canonical32(x.sqrt()));
        prop_assert_eq!(f32_fma(a, b, c, rm, f), canonical32(x.mul_add(y, z)));
        prop_assert_eq!(f32_to_f64(a, f), canonical64(x as f64));
    }

    #[test]
    fn the_five_directions_agree(a in bits64(), b in bits64(), c in bits64()) {
        let id = f64::from_bits;
        directions_agree(|rm, f| f64_add(a, b, rm, f), id);
        directions_agree(|rm, f| f64_mul(a, b, rm, f), id);
        directions_agree(|rm, f| f64_div(a, b, rm, f), id);
        directions_agree(|rm, f| f64_sqrt(a, rm, f), id);
        directions_agree(|rm, f| f64_fma(a, b, c, rm, f), id);
        directions_agree(|rm, f| f64_to_f32(a, rm, f).into(), |v| f32::from_bits(v as u32).into());
    }

    #[test]
    fn binary32_in_every_direction_is_binary64_rounded(a in bits32(), b in bits32()) {
        // A product of two 24-bit significands is exact in binary64, so its rounding there is none.
        for rm in MODES {
            let (mut f, mut g) = (Flags::NONE, Flags::NONE);
            let direct = f32_mul(a, b, rm, &mut f);
            let wide = f64_mul(f32_to_f64(a, &mut g), f32_to_f64(b, &mut g), rm, &mut g);
            prop_assert_eq!(direct, f64_to_f32(wide, rm, &mut g));
            prop_assert_eq!(f, g);
        }
    }

    #[test]
    fn integers_convert_as_the_host_does(a in bits64(), i in any::<i64>(), shift in 0u32..64) {
        let x = f64::from_bits(a);
        let rm = Rounding::TowardZero;
        let mut f = Flags::NONE;
        if !x.is_nan() {
            prop_assert_eq!(f64_to_i32(a, rm, &mut f), x as i32);
            prop_assert_eq!(f64_to_u32(a, rm, &mut f), x as u32);
            prop_assert_eq!(f64_to_i64(a, rm, &mut f), x as i64);
            prop_assert_eq!(f64_to_u64(a, rm, &mut f), x as u64);
            let mut g = Flags::NONE;
            f64_to_i64(a, rm, &mut g);
            let fits = x.trunc() >= -(2f64.powi(63)) && x.trunc() < 2f64.powi(63);
            prop_assert_eq!(g.contains(Flags::NV), !fits);
            prop_assert_eq!(g.contains(Flags::NX), fits && x.trunc() != x);
            let mut g = Flags::NONE;
            let near = f64_to_i64(a, Rounding::NearestEven, &mut g);
            prop_assert_eq!(near, x.round_ties_even() as i64);
            let near = f64_to_i64(a, Rounding::NearestMaxMagnitude, &mut g);
            prop_assert_eq!(near, x.round() as i64);
            prop_assert_eq!(f64_to_i64(a, Rounding::Down, &mut g), x.floor() as i64);
            prop_assert_eq!(f64_to_i64(a, Rounding::Up, &mut g), x.ceil() as i64);
        }
        let i = i >> shift;
        let rm = Rounding::NearestEven;
        prop_assert_eq!(i64_to_f64(i, rm, &mut f), (i as f64).to_bits());
        prop_assert_eq!(i64_to_f32(i, rm, &mut f), (i as f32).to_bits());
        prop_assert_eq!(u64_to_f64(i as u64, rm, &mut f), (i as u64 as f64).to_bits());
        prop_assert_eq!(u64_to_f32(i as u64, rm, &mut f), (i as u64 as f32).to_bits());
        prop_assert_eq!(i32_to_f32(i as i32, rm, &mut f), (i as i32 as f32).to_bits());
        prop_assert_eq!(u32_to_f32(i as u32, rm, &mut f), (i as u32 as f32).to_bits());
    }
}

#[test]
fn exceptions_are_raised_where_the_standard_says() {
    let flags = |op: &dyn Fn(&mut Flags)| {
        let mut f = Flags::NONE;
        op(&mut f);
        f
    };
    let rm = Rounding::NearestEven;
    let (one, zero, inf) = (1f64.to_bits(), 0f64.to_bits(), f64::INFINITY.to_bits());
    let snan = 0x7ff0_0000_0000_0001u64;
    let qnan = 0x7ff8_0000_0000_0000u64;
    assert_eq!(flags(&|f| _ = f64_div(one, zero, rm, f)), Flags::DZ);
    assert_eq!(flags(&|f| _ = f64_div(zero, zero, rm, f)), Flags::NV);
    assert_eq!(flags(&|f| _ = f64_div(inf, zero, rm, f)), Flags::NONE);
    assert_eq!(flags(&|f| _ = f64_sqrt((-1f64).to_bits(), rm, f)), Flags::NV);
    assert_eq!(flags(&|f| _ = f64_add(snan, one, rm, f)), Flags::NV);
    assert_eq!(flags(&|f| _ = f64_add(qnan, one, rm, f)), Flags::NONE);
    assert_eq!(flags(&|f| _ = f64_fma(inf, zero, qnan, rm, f)), Flags::NV);
    assert_eq!(flags(&|f| _ = f64_mul(f64::MAX.to_bits(), 2f64.to_bits(), rm, f)), Flags::OF | Flags::NX);
    assert_eq!(flags(&|f| _ = f64_mul(1, 0.5f64.to_bits(), rm, f)), Flags::UF | Flags::NX);
    // An exact subnormal is no underflow.
    assert_eq!(flags(&|f| _ = f64_mul(2, 0.5f64.to_bits(), rm, f)), Flags::NONE);
    assert_eq!(flags(&|f| _ = f64_eq(qnan, one, f)), Flags::NONE);
    assert_eq!(flags(&|f| _ = f64_eq(snan, one, f)), Flags::NV);
    assert_eq!(flags(&|f| _ = f64_lt(qnan, one, f)), Flags::NV);
    // Just below the least normal number, rounding up to it: tiny before rounding, not after.
    let least = f64::MIN_POSITIVE.to_bits();
    let below_one = 1f64.to_bits() - 1;
    assert_eq!(flags(&|f| assert_eq!(f64_mul(least, below_one, rm, f), least)), Flags::UF | Flags::NX);
    let f32_least = f32::MIN_POSITIVE as f64;
    let just_below = (f32_least * (1.0 - 2f64.powi(-26))).to_bits();
    assert_eq!(flags(&|f| assert_eq!(f64_to_f32(just_below, rm, f), f32::MIN_POSITIVE.to_bits())), Flags::NX);
}

#[test]
fn minimum_and_maximum_order_zeroes_and_skip_nans() {
    let mut f = Flags::NONE;
    let (pz, nz, qnan) = (0u32, 0x8000_0000u32, 0x7fc0_1234u32);
    assert_eq!(f32_min(pz, nz, &mut f), nz);
    assert_eq!(f32_min(nz, pz, &mut f), nz);
    assert_eq!(f32_max(pz, nz, &mut f), pz);
    assert_eq!(f32_max(nz, pz, &mut f), pz);
    assert_eq!(f32_min(qnan, 1, &mut f), 1);
    assert_eq!(f32_max(qnan, qnan, &mut f), 0x7fc0_0000);
    assert_eq!(f, Flags::NONE);
    f32_min(0x7f80_0001, 1, &mut f);
    assert_eq!(f, Flags::NV);
}

#[test]
fn classes_are_numbered_as_fclass() {
    let cases = [
        (f64::NEG_INFINITY.to_bits(), 0),
        ((-1f64).to_bits(), 1),
        (1 << 63 | 1, 2),
        (1 << 63, 3),
        (0, 4),
        (1, 5),
        (1f64.to_bits(), 6),
        (f64::INFINITY.to_bits(), 7),
        (0x7ff0_0000_0000_0001, 8),
        (0x7ff8_0000_0000_0000, 9),
    ];
    for (bits, class) in cases {
        assert_eq!(f64_classify(bits), 1 << class, "{bits:x}");
    }
}
