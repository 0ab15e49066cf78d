//! What differs between architectures, case by case.

use fpu::*;
use std::cmp::Ordering;

const NE: Rounding = Rounding::NearestEven;
const Q1: u64 = 0x7ff8_0000_0000_0001;
const Q2: u64 = 0xfff8_0000_0000_0002;
const S1: u64 = 0x7ff0_0000_0000_0011;
const S2: u64 = 0xfff0_0000_0000_0022;
const QUIET: u64 = 1 << 51;
const ONE: u64 = 0x3ff0_0000_0000_0000;
const INF: u64 = 0x7ff0_0000_0000_0000;
const LEAST: u64 = 0x0010_0000_0000_0000;

#[track_caller]
fn gives<B: PartialEq + std::fmt::Debug>(op: impl FnOnce(&mut Flags) -> B, value: B, flags: Flags) {
    let mut f = Flags::NONE;
    let got = op(&mut f);
    assert_eq!((got, f), (value, flags));
}

#[test]
fn a_nan_comes_from_the_operand_that_the_architecture_chooses() {
    let sum = |rules: Rules, a, b, want, flags| gives(|f| add::<F64>(a, b, NE, rules, f), want, flags);
    let (no, nv) = (Flags::NONE, Flags::NV);
    let default = 0x7ff8_0000_0000_0000;
    for (a, b, f) in [(Q1, ONE, no), (ONE, S1, nv), (Q1, Q2, no), (S2, Q1, nv)] {
        sum(Rules::RISCV, a, b, default, f);
    }
    // The first one.
    sum(Rules::SSE, Q1, S1, Q1, nv);
    sum(Rules::SSE, S1, Q1, S1 | QUIET, nv);
    sum(Rules::SSE, ONE, Q2, Q2, no);
    // The first signalling one.
    sum(Rules::ARM, Q1, S1, S1 | QUIET, nv);
    sum(Rules::ARM, S2, S1, S2 | QUIET, nv);
    sum(Rules::ARM, Q2, Q1, Q2, no);
    // The larger significand, a quiet one first.
    sum(Rules::X87, Q1, Q2, Q2, no);
    sum(Rules::X87, S2, Q1, Q1, nv);
    sum(Rules::X87, S2, S1, S2 | QUIET, nv);
    sum(Rules::X87, S1, S2, S2 | QUIET, nv);
    sum(Rules::X87, Q1 | 1 << 63, Q1, Q1, no);
    // What an invalid operation gives.
    sum(Rules::SSE, INF, INF | 1 << 63, 0xfff8_0000_0000_0000, nv);
    sum(Rules::ARM, INF, INF | 1 << 63, default, nv);
    let ones = Rules { default_nan: DefaultNan { negative: false, ones: true }, ..Rules::ARM };
    sum(ones, INF, INF | 1 << 63, i64::MAX as u64, nv);
}

#[test]
fn a_nan_that_is_subtracted_keeps_its_sign() {
    gives(|f| sub::<F64>(ONE, Q2, NE, Rules::SSE, f), Q2, Flags::NONE);
    gives(|f| sub::<F64>(ONE, Q1, NE, Rules::ARM, f), Q1, Flags::NONE);
}

#[test]
fn a_fused_multiply_add_looks_at_its_operands_in_order() {
    let fused =
        |rules: Rules, a, b, c, want, flags| gives(|f| fma::<F64>(a, b, c, NE, rules, f), want, flags);
    let (no, nv) = (Flags::NONE, Flags::NV);
    fused(Rules::SSE, Q1, ONE, Q2, Q1, no);
    fused(Rules::ARM, Q1, ONE, Q2, Q2, no);
    fused(Rules::POWER, ONE, Q1, Q2, Q2, no);
    fused(Rules::POWER, Q1, ONE, Q2, Q1, no);
    fused(Rules::ARM, S1, ONE, Q2, S1 | QUIET, nv);
    // Infinity times zero.
    fused(Rules::RISCV, INF, 0, Q2, 0x7ff8_0000_0000_0000, nv);
    fused(Rules::ARM, 0, INF, Q2, 0x7ff8_0000_0000_0000, nv);
    fused(Rules::ARM, 0, INF, S2, S2 | QUIET, nv);
    fused(Rules::POWER, INF, 0, Q2, Q2, nv);
    fused(Rules::SSE, INF, 0, Q2, Q2, no);
    fused(Rules::SSE, INF, 0, S2, S2 | QUIET, nv);
    fused(Rules::SSE, INF, 0, ONE, 0xfff8_0000_0000_0000, nv);
}

#[test]
fn a_nan_of_another_format_keeps_the_upper_end_of_its_fraction() {
    let arm = Rules::ARM;
    gives(|f| convert::<F64, F32>(0xfff8_1234_5678_9abc, NE, arm, f), 0xffc0_91a2, Flags::NONE);
    gives(|f| convert::<F32, F64>(0x7f81_2345, NE, arm, f), 0x7ff8_2468_a000_0000, Flags::NV);
    gives(|f| convert::<F32, BF16>(0x7f81_2345, NE, arm, f), 0x7fc1, Flags::NV);
    // None of a signalling NaN's ones fits: it does not become an infinity.
    gives(|f| convert::<F64, F16>(S1, NE, arm, f), 0x7e00, Flags::NV);
    let x80 = 0xffff_c000_0000_0000_0001_u128;
    gives(|f| convert::<F64, X80>(0xfff8_0000_0000_0000, NE, arm, f), x80 - 1, Flags::NONE);
    gives(|f| convert::<X80, F128>(x80, NE, arm, f), 0xffff_8000_0000_0000_0002 << 48, Flags::NONE);
    gives(|f| convert::<X80, F64>(x80, NE, Rules::RISCV, f), 0x7ff8_0000_0000_0000, Flags::NONE);
}

#[test]
fn tininess_is_before_or_after_rounding() {
    // Just below the least normal number, and rounded up to it.
    let a = 0x3810_0000_0000_0000 - 1;
    let least32 = 0x0080_0000;
    let to = |rules, flags| gives(|f| convert::<F64, F32>(a, NE, rules, f), least32, flags);
    to(Rules::RISCV, Flags::NX);
    to(Rules::SSE, Flags::NX);
    to(Rules::ARM, Flags::NX | Flags::UF);
}

#[test]
fn subnormal_operands_are_kept_or_flushed_and_told() {
    let with = |inputs| Rules { inputs, ..Rules::SSE };
    let product = |inputs, want, flags| {
        gives(|f| mul::<F64>(3, ONE + (1 << 52), NE, with(inputs), f), want, flags);
    };
    product(Subnormal::Keep, 6, Flags::NONE);
    product(Subnormal::KeepFlagged, 6, Flags::DN);
    product(Subnormal::Zero, 0, Flags::NONE);
    product(Subnormal::ZeroFlagged, 0, Flags::DN);
    let told = |op: &dyn Fn(&mut Flags), flags| gives(|f| op(f), (), flags);
    let sse = Rules::SSE;
    // A NaN, an invalid operation and a division by zero come first.
    told(&|f| _ = add::<F64>(3, Q1, NE, sse, f), Flags::NONE);
    told(&|f| _ = sqrt::<F64>(1 << 63 | 3, NE, sse, f), Flags::NV);
    told(&|f| _ = div::<F64>(3, 0, NE, sse, f), Flags::DZ);
    told(&|f| _ = div::<F64>(3, INF, NE, sse, f), Flags::DN);
    told(&|f| _ = compare::<F64>(3, ONE, sse, f), Flags::DN);
    told(&|f| _ = to_int::<F64, i32>(3, NE, sse, f), Flags::NX);
    told(&|f| _ = add::<F64>(3, Q1, NE, with(Subnormal::ZeroFlagged), f), Flags::DN);
    // Flushed operands are equal, keep their signs, and divide by zero.
    let daz = with(Subnormal::Zero);
    gives(|f| compare::<F64>(3, 1 << 63 | 5, daz, f), Some(Ordering::Equal), Flags::NONE);
    gives(|f| div::<F64>(ONE, 1 << 63 | 3, NE, daz, f), 1 << 63 | INF, Flags::DZ);
    gives(|f| min_max::<F64>(ONE, 3, Which::Min, MinMax::Second, daz, f), 0, Flags::NONE);
    gives(|f| convert::<F64, F32>(3, Rounding::Up, daz, f), 0, Flags::NONE);
    gives(|f| round_to_integral::<F64>(3, Rounding::Up, true, daz, f), 0, Flags::NONE);
    gives(|f| to_int::<F64, i32>(3, Rounding::Up, daz, f), 0, Flags::NONE);
}

#[test]
fn tiny_results_are_kept_or_flushed() {
    let half = ONE - (1 << 52);
    let product = |outputs, tininess, a, b, want, flags| {
        let rules = Rules { outputs, tininess, ..Rules::RISCV };
        gives(|f| mul::<F64>(a, b, NE, rules, f), want, flags);
    };
    let (before, after) = (Tininess::BeforeRounding, Tininess::AfterRounding);
    let both = Flags::UF | Flags::NX;
    product(TinyResult::Keep, after, LEAST, half, LEAST / 2, Flags::NONE);
    product(TinyResult::Zero, after, LEAST, half, 0, both);
    product(TinyResult::ZeroUnderflow, before, LEAST, half, 0, Flags::UF);
    product(TinyResult::Zero, after, LEAST | 1 << 63, half, 1 << 63, both);
    // One that is rounded up to the least normal number is tiny before only.
    let (a, b) = (LEAST + 1, ONE - 1);
    product(TinyResult::Keep, after, a, b, LEAST, Flags::NX);
    product(TinyResult::Zero, after, LEAST, ONE, LEAST, Flags::NONE);
    product(TinyResult::Zero, after, LEAST, ONE - 1, 0, both);
    product(TinyResult::ZeroUnderflow, before, LEAST, ONE - 1, 0, Flags::UF);
    // A sum that is exact and tiny is flushed, too.
    let ftz = Rules { outputs: TinyResult::Zero, ..Rules::RISCV };
    gives(|f| sub::<F64>(LEAST + 1, LEAST, NE, ftz, f), 0, both);
}

#[test]
fn integers_that_cannot_be() {
    let of = |rules: Rules, a: u64, signed: i32, unsigned: u16| {
        gives(|f| to_int::<F64, i32>(a, NE, rules, f), signed, Flags::NV);
        gives(|f| to_int::<F64, u16>(a, NE, rules, f), unsigned, Flags::NV);
    };
    let (big, small) = (0x4400_0000_0000_0000, 0xc400_0000_0000_0000);
    for rules in [Rules::RISCV, Rules::ARM, Rules::POWER] {
        of(rules, big, i32::MAX, u16::MAX);
        of(rules, small, i32::MIN, 0);
    }
    of(Rules::RISCV, Q1, i32::MAX, u16::MAX);
    of(Rules::ARM, Q1, 0, 0);
    of(Rules::POWER, Q1, i32::MIN, 0);
    for a in [big, small, Q1, INF] {
        of(Rules::SSE, a, i32::MIN, u16::MAX);
    }
    gives(|f| to_int_modular::<F64, i32>(0x41f0_0000_0030_0000, NE, Rules::RISCV, f), 3, Flags::NV);
    gives(|f| to_int_modular::<F64, i32>(INF, NE, Rules::RISCV, f), 0, Flags::NV);
}

#[test]
fn precision_control_shortens_results_of_the_x87() {
    let one = 0x3fff_8000_0000_0000_0000_u128;
    let three = 0x4000_c000_0000_0000_0000_u128;
    let third = |precision, want| {
        let rules = Rules { precision, ..Rules::X87 };
        gives(|f| div::<X80>(one, three, NE, rules, f), want, Flags::NX);
    };
    third(Precision::Extended, 0x3ffd_aaaa_aaaa_aaaa_aaab);
    third(Precision::Double, 0x3ffd_aaaa_aaaa_aaaa_a800);
    third(Precision::Single, 0x3ffd_aaaa_ab00_0000_0000);
    // The exponent keeps its range; the greatest number is as short as others; conversions are not shortened.
    let single = Rules { precision: Precision::Single, ..Rules::X87 };
    let huge = 0x7ffe_8000_0000_0000_0000_u128;
    let zero = Rounding::TowardZero;
    gives(|f| mul::<X80>(huge, one, NE, single, f), huge, Flags::NONE);
    let most = 0x7ffe_ffff_ff00_0000_0000;
    gives(|f| mul::<X80>(huge, huge, zero, single, f), most, Flags::OF | Flags::NX);
    let long = 0x403e_ffff_ffff_ffff_ffff_u128;
    gives(|f| from_int::<u64, X80>(u64::MAX, NE, single, f), long, Flags::NONE);
    gives(|f| add::<X80>(long, 0, zero, single, f), 0x403e_ffff_ff00_0000_0000, Flags::NX);
    // Other formats know nothing of it.
    gives(|f| div::<F64>(ONE, 0x4008 << 48, NE, single, f), 0x3fd5_5555_5555_5555, Flags::NX);
}

#[test]
fn what_the_x87_takes_for_no_number() {
    let default = 0xffff_c000_0000_0000_0000_u128;
    let one = 0x3fff_8000_0000_0000_0000_u128;
    let quiet = 0x7fff_c000_0000_0000_0001_u128;
    let (unnormal, pseudo_inf, pseudo_nan) =
        (0x3fff_4000_0000_0000_0000_u128, 0x7fff_u128 << 64, 0x7fff_4000_0000_0000_0000_u128);
    let rules = Rules::X87;
    for v in [unnormal, pseudo_inf, pseudo_nan] {
        gives(|f| add::<X80>(one, v, NE, rules, f), default, Flags::NV);
        gives(|f| mul::<X80>(quiet, v, NE, rules, f), default, Flags::NV);
        gives(|f| sqrt::<X80>(v, NE, rules, f), default, Flags::NV);
        gives(|f| compare::<X80>(v, one, rules, f), None, Flags::NV);
        gives(|f| convert::<X80, F64>(v, NE, rules, f), 0xfff8_0000_0000_0000, Flags::NV);
        gives(|f| to_int::<X80, i64>(v, NE, rules, f), i64::MIN, Flags::NV);
    }
    // A pseudo-denormal is the number that the exponent one gives it, and told as a subnormal one.
    let pseudo_denormal = 0x8000_0000_0000_0001_u128;
    let number = 1 << 64 | pseudo_denormal;
    gives(|f| add::<X80>(pseudo_denormal, 0, NE, rules, f), number, Flags::DN);
    gives(|f| compare::<X80>(pseudo_denormal, number, rules, f), Some(Ordering::Equal), Flags::DN);
}

#[test]
fn kinds_of_minimum() {
    let (no, nv) = (Flags::NONE, Flags::NV);
    let min = |kind, a, b, want, flags| {
        gives(|f| min_max::<F64>(a, b, Which::Min, kind, Rules::ARM, f), want, flags);
    };
    min(MinMax::Number, Q1, ONE, ONE, no);
    min(MinMax::Number, S1, ONE, ONE, nv);
    min(MinMax::Number, S1, Q1, S1 | QUIET, nv);
    min(MinMax::Number2008, Q1, ONE, ONE, no);
    min(MinMax::Number2008, S1, ONE, S1 | QUIET, nv);
    min(MinMax::Propagating, ONE, Q1, Q1, no);
    min(MinMax::Second, Q1, ONE, ONE, nv);
    min(MinMax::Second, ONE, Q1, Q1, nv);
    min(MinMax::Second, 1 << 63, 0, 0, no);
    min(MinMax::Number, 0, 1 << 63, 1 << 63, no);
    let magnitude = |which, a, b, want| {
        gives(|f| min_max::<F64>(a, b, which, MinMax::Number, Rules::RISCV, f), want, no);
    };
    let minus_two = 0xc000_0000_0000_0000;
    magnitude(Which::MinMagnitude, ONE, minus_two, ONE);
    magnitude(Which::MaxMagnitude, ONE, minus_two, minus_two);
    magnitude(Which::MaxMagnitude, ONE | 1 << 63, ONE, ONE);
    magnitude(Which::MinMagnitude, ONE, ONE | 1 << 63, ONE | 1 << 63);
}

#[test]
fn rounding_to_odd_first_makes_rounding_twice_right() {
    let mut v = 1u64;
    for _ in 0..200_000 {
        v = v.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let a = v & !(0x7ff << 52) | (1023 - 20 + (v >> 32) % 40) << 52;
        let mut f = Flags::NONE;
        let between = convert::<F64, F32>(a, Rounding::ToOdd, RiscV, &mut f);
        let twice = convert::<F32, F16>(between, NE, RiscV, &mut f);
        assert_eq!(twice, convert::<F64, F16>(a, NE, RiscV, &mut f), "{a:x}");
    }
}
