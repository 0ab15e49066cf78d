//! Names of the floating-point operations that an instruction may ask for.

/// Formats of IEEE 754.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FpFormat {
    /// binary16.
    F16,
    /// bfloat16.
    BF16,
    /// binary32.
    F32,
    /// binary64.
    F64,
}

/// Integer formats that conversions know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IntFormat {
    /// 32 bits, signed.
    I32,
    /// 32 bits, unsigned.
    U32,
    /// 64 bits, signed.
    I64,
    /// 64 bits, unsigned.
    U64,
}

/// Floating-point operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FpOp {
    /// `a + b`.
    Add(FpFormat),
    /// `a - b`.
    Sub(FpFormat),
    /// `a * b`.
    Mul(FpFormat),
    /// `a / b`.
    Div(FpFormat),
    /// The square root of `a`.
    Sqrt(FpFormat),
    /// `a * b + c`, rounded once. The other fused forms negate operands first.
    Fma(FpFormat),
    /// IEEE 754-2019 minimumNumber.
    Min(FpFormat),
    /// IEEE 754-2019 maximumNumber.
    Max(FpFormat),
    /// 1 if `a == b`; quiet.
    Eq(FpFormat),
    /// 1 if `a < b`; signalling.
    Lt(FpFormat),
    /// 1 if `a <= b`; signalling.
    Le(FpFormat),
    /// The class of `a` as a bit of ten, in the order of RISC-V's `fclass`.
    Class(FpFormat),
    /// Float to integer.
    ToInt(FpFormat, IntFormat),
    /// Integer to float.
    FromInt(IntFormat, FpFormat),
    /// IEEE 754-2019 minimum: a NaN, if one is a NaN.
    MinNan(FpFormat),
    /// IEEE 754-2019 maximum: a NaN, if one is a NaN.
    MaxNan(FpFormat),
    /// 1 if `a < b`; quiet.
    LtQuiet(FpFormat),
    /// 1 if `a <= b`; quiet.
    LeQuiet(FpFormat),
    /// The integral value that `a` rounds to; inexact is not told.
    Round(FpFormat),
    /// The integral value that `a` rounds to; inexact is told.
    RoundExact(FpFormat),
    /// The low 32 bits of the integer that a binary64 rounds to, sign-extended; invalid where it is not 32 bits long.
    ToIntModular,
    /// Float to float.
    Convert(FpFormat, FpFormat),
}

impl FpOp {
    /// The formats of its operands and its result.
    pub fn formats(self) -> [Option<FpFormat>; 2] {
        match self {
            FpOp::Add(f) | FpOp::Sub(f) | FpOp::Mul(f) | FpOp::Div(f) | FpOp::Sqrt(f) | FpOp::Fma(f) => {
                [Some(f), None]
            }
            FpOp::Min(f) | FpOp::Max(f) | FpOp::MinNan(f) | FpOp::MaxNan(f) | FpOp::Class(f) => {
                [Some(f), None]
            }
            FpOp::Eq(f) | FpOp::Lt(f) | FpOp::Le(f) | FpOp::LtQuiet(f) | FpOp::LeQuiet(f) => [Some(f), None],
            FpOp::Round(f) | FpOp::RoundExact(f) | FpOp::ToInt(f, _) | FpOp::FromInt(_, f) => [Some(f), None],
            FpOp::ToIntModular => [Some(FpFormat::F64), None],
            FpOp::Convert(a, b) => [Some(a), Some(b)],
        }
    }
}

/// How an operation rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FpRound {
    /// As the guest's control register says when the instruction runs.
    Dynamic,
    /// To nearest, ties to even.
    NearestEven,
    /// Towards zero.
    TowardZero,
    /// Towards minus infinity.
    Down,
    /// Towards plus infinity.
    Up,
    /// To nearest, ties away from zero.
    NearestMaxMagnitude,
}
