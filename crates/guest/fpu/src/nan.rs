//! Which NaN an operation gives.

use crate::format::Format;
use crate::rules::{Env, NanRule, Subnormal};
use crate::{Flags, InfZeroNan};

/// The default NaN.
#[inline(always)]
pub fn default_nan<F: Format>(env: impl Env) -> F::Bits {
    let rule = env.rules().default_nan;
    let fraction = if rule.ones { F::INTEGER - 1 } else { F::QUIET };
    F::join(rule.negative, F::EXP_MAX, F::INTEGER | fraction)
}

/// The result of an invalid operation.
#[inline(always)]
pub(crate) fn invalid<F: Format>(env: impl Env, flags: &mut Flags) -> F::Bits {
    *flags |= Flags::NV;
    default_nan::<F>(env)
}

/// Raises the flag of subnormal operands where the rules want it: before any finite result.
#[inline(always)]
pub(crate) fn note_subnormals<F: Format>(operands: &[F::Bits], env: impl Env, flags: &mut Flags) {
    if env.rules().inputs == Subnormal::KeepFlagged && operands.iter().any(|&v| F::is_subnormal(v)) {
        *flags |= Flags::DN;
    }
}

/// A NaN made quiet.
fn quiet<F: Format>(v: F::Bits) -> F::Bits {
    use crate::format::Bits;
    F::Bits::of(v.wide() | F::QUIET)
}

/// The result if an operand is no number; the operands in the order in which they are looked at.
#[inline(always)]
pub(crate) fn nan_of<F: Format>(operands: &[F::Bits], env: impl Env, flags: &mut Flags) -> Option<F::Bits> {
    if !operands.iter().any(|&v| F::is_nan(v) || F::unsupported(v)) {
        return None;
    }
    Some(choose::<F>(operands, env, flags))
}

#[inline(always)]
fn choose<F: Format>(operands: &[F::Bits], env: impl Env, flags: &mut Flags) -> F::Bits {
    if operands.iter().any(|&v| F::is_snan(v) || F::unsupported(v)) {
        *flags |= Flags::NV;
    }
    let rules = env.rules();
    if rules.nan == NanRule::Default || operands.iter().any(|&v| F::unsupported(v)) {
        return default_nan::<F>(env);
    }
    let mut nans = operands.iter().copied().filter(|&v| F::is_nan(v));
    let first = || operands.iter().copied().find(|&v| F::is_nan(v));
    let chosen = match rules.nan {
        NanRule::Default | NanRule::First => first(),
        NanRule::SignallingFirst => nans.find(|&v| F::is_snan(v)).or_else(first),
        NanRule::Larger => {
            let any_quiet = nans.clone().any(|v| !F::is_snan(v));
            let among = nans.filter(|&v| !(any_quiet && F::is_snan(v)));
            among.max_by_key(|&v| (F::fraction(v), !F::sign(v)))
        }
    };
    chosen.map_or(default_nan::<F>(env), quiet::<F>)
}

/// The result of `a × b + c` if an operand is no number, or if it is `∞ × 0` (which `inf_zero` tells).
#[inline(always)]
pub(crate) fn nan_of_fma<F: Format>(
    operands: [F::Bits; 3],
    inf_zero: bool,
    env: impl Env,
    flags: &mut Flags,
) -> Option<F::Bits> {
    let rules = env.rules();
    let c = operands[2];
    if inf_zero && !(F::is_snan(c) || F::unsupported(c)) {
        if !F::is_nan(c) || rules.inf_zero_nan == InfZeroNan::Default {
            return Some(invalid::<F>(env, flags));
        }
        if rules.inf_zero_nan == InfZeroNan::Nan {
            *flags |= Flags::NV;
        }
    }
    if !operands.iter().any(|&v| F::is_nan(v) || F::unsupported(v)) {
        return None;
    }
    let at = |n: usize| operands[usize::from(rules.fma_order[n] % 3)];
    Some(choose::<F>(&[at(0), at(1), at(2)], env, flags))
}

/// A NaN of another format: what fits of the fraction's upper end.
pub(crate) fn convert_nan<A: Format, B: Format>(a: A::Bits, env: impl Env, flags: &mut Flags) -> B::Bits {
    if A::is_snan(a) || A::unsupported(a) {
        *flags |= Flags::NV;
    }
    if env.rules().nan == NanRule::Default || A::unsupported(a) {
        return default_nan::<B>(env);
    }
    let fraction = A::fraction(a) << (128 - (A::PRECISION - 1)) >> (128 - (B::PRECISION - 1));
    B::join(A::sign(a), B::EXP_MAX, B::INTEGER | B::QUIET | fraction)
}
