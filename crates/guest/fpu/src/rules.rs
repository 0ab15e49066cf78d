//! What IEEE 754 leaves to the architecture.

/// Which NaN an operation gives whose operands include NaNs. A signalling one becomes quiet by setting its quiet bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NanRule {
    /// The default NaN, always (RISC-V; Arm with FPCR.DN).
    Default,
    /// The first operand that is a NaN (SSE, Power).
    First,
    /// The first operand that is a signalling NaN, else the first that is a NaN (Arm).
    SignallingFirst,
    /// The x87's: a quiet NaN before a signalling one; of two that are alike in this the one with the larger significand, and of
    /// the same significands the positive one.
    Larger,
}

/// What `∞ × 0 + NaN` gives, a quiet NaN being added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InfZeroNan {
    /// The default NaN; invalid (RISC-V, Arm).
    Default,
    /// The NaN; invalid (Power).
    Nan,
    /// The NaN, and no exception (x86).
    NanQuietly,
}

/// When a result counts as tiny.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tininess {
    /// If the exact result is below the least normal number (Arm, Power).
    BeforeRounding,
    /// If it is still so when it was rounded as if exponents had no limit (RISC-V, x86).
    AfterRounding,
}

/// What becomes of a subnormal operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subnormal {
    /// It is a number like others.
    Keep,
    /// It is a number like others, and [`Flags::DN`](crate::Flags::DN) tells that it was there, unless another operand is a NaN
    /// or the operation is invalid or divides by zero (x86).
    KeepFlagged,
    /// It is zero (x86 with MXCSR.DAZ).
    Zero,
    /// It is zero, and [`Flags::DN`](crate::Flags::DN) tells so (Arm with FPCR.FZ).
    ZeroFlagged,
}

/// What becomes of a tiny result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TinyResult {
    /// A subnormal number, as the standard wants it.
    Keep,
    /// Zero, if it is tiny after rounding: underflow and inexact (x86 with MXCSR.FTZ).
    Zero,
    /// Zero, if it is tiny before rounding: underflow alone (Arm with FPCR.FZ).
    ZeroUnderflow,
}

/// The NaN that an invalid operation gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultNan {
    /// Its sign is minus.
    pub negative: bool,
    /// All bits of its fraction are ones, instead of only the quiet bit.
    pub ones: bool,
}

/// What a conversion gives for what the integer cannot hold. It is invalid in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntRule {
    /// The nearest integer; the greatest one for a NaN (RISC-V).
    SaturateNanMax,
    /// The nearest integer; zero for a NaN (Arm).
    SaturateNanZero,
    /// The nearest integer; the least one for a NaN (Power).
    SaturateNanMin,
    /// The bit pattern whose highest bit alone is set, or all bits where the integer is unsigned (x86).
    Indefinite,
}

/// The x87's precision control: to how many bits the results of its arithmetic are rounded. Exponents keep their range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 24 bits.
    Single,
    /// 53 bits.
    Double,
    /// 64 bits.
    Extended,
}

/// The choices of an architecture, as its control registers stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Which NaN is given.
    pub nan: NanRule,
    /// In which order a fused multiply-add `a × b + c` looks at its operands for NaNs: 0 is `a`.
    pub fma_order: [u8; 3],
    /// What `∞ × 0 + NaN` gives.
    pub inf_zero_nan: InfZeroNan,
    /// The default NaN.
    pub default_nan: DefaultNan,
    /// When a result is tiny.
    pub tininess: Tininess,
    /// What becomes of subnormal operands.
    pub inputs: Subnormal,
    /// What becomes of tiny results.
    pub outputs: TinyResult,
    /// What conversions to integers give when invalid.
    pub to_int: IntRule,
    /// Bits of results in [`X80`](crate::X80).
    pub precision: Precision,
}

impl Rules {
    /// RISC-V's F, D, Q, Zfh and their kin.
    pub const RISCV: Rules = Rules {
        nan: NanRule::Default,
        fma_order: [0, 1, 2],
        inf_zero_nan: InfZeroNan::Default,
        default_nan: DefaultNan { negative: false, ones: false },
        tininess: Tininess::AfterRounding,
        inputs: Subnormal::Keep,
        outputs: TinyResult::Keep,
        to_int: IntRule::SaturateNanMax,
        precision: Precision::Extended,
    };

    /// x86's SSE and AVX, with neither DAZ nor FTZ.
    pub const SSE: Rules = Rules {
        nan: NanRule::First,
        inf_zero_nan: InfZeroNan::NanQuietly,
        default_nan: DefaultNan { negative: true, ones: false },
        inputs: Subnormal::KeepFlagged,
        to_int: IntRule::Indefinite,
        ..Rules::RISCV
    };

    /// The x87 with full precision.
    pub const X87: Rules = Rules { nan: NanRule::Larger, ..Rules::SSE };

    /// Arm's with FPCR zero: no default NaN, no flushing.
    pub const ARM: Rules = Rules {
        nan: NanRule::SignallingFirst,
        fma_order: [2, 0, 1],
        tininess: Tininess::BeforeRounding,
        to_int: IntRule::SaturateNanZero,
        ..Rules::RISCV
    };

    /// Power's.
    pub const POWER: Rules = Rules {
        nan: NanRule::First,
        fma_order: [0, 2, 1],
        inf_zero_nan: InfZeroNan::Nan,
        tininess: Tininess::BeforeRounding,
        to_int: IntRule::SaturateNanMin,
        ..Rules::RISCV
    };
}

/// What says the rules: [`Rules`], or a type that always says the same, for which the compiler makes code of its own.
pub trait Env: Copy {
    /// The rules.
    fn rules(self) -> Rules;
}

impl Env for Rules {
    #[inline(always)]
    fn rules(self) -> Rules {
        self
    }
}

/// Says [`Rules::RISCV`].
#[derive(Clone, Copy, Debug)]
pub struct RiscV;

impl Env for RiscV {
    #[inline(always)]
    fn rules(self) -> Rules {
        Rules::RISCV
    }
}
