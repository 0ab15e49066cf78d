//! The trait [`Sem`]: what a guest instruction may do.
//!
//! A guest instruction is written once, as a function generic over `Sem`. An interpreter implements the
//! trait with plain numbers (`V = u64`) and so *executes* the instruction; a translator implements it with
//! its own values (`V` = a value of the intermediate code) and so *records* it. Hence the one rule for
//! whoever writes instructions: **a `V` is not a number**. It cannot be compared, printed or branched on by
//! Rust code; only the fields of the decoded instruction (register numbers, immediates) are numbers.
//!
//! # Values
//! - [`Sem::V`] is 64 bits wide. Narrower results are kept extended to 64 bits by [`Sem::sext`] and
//!   [`Sem::zext`], as the guest's architecture wants them.
//! - [`Sem::B`] is a truth value, the result of a comparison.
//!
//! # Leaving an instruction early
//! What may trap returns `Result<_, Self::Exit>` and is called with `?`. In an interpreter the error is the
//! trap; in a translator, where every such operation has its own cold exit in the generated code, `Exit` is
//! [`core::convert::Infallible`].
//!
//! # Order
//! Operations take effect in the order they are called. An instruction must do everything that may trap
//! before it changes a register, so that a trap finds the state before the instruction.
//!
//! What belongs to one architecture alone (register files, control registers, privileged operations) is in
//! a trait of that architecture's crate that extends `Sem`.

mod exit;
pub mod fp;

pub use exit::ExitFlag;
pub use fp::{FpFormat, FpOp, FpRound, IntFormat};

/// Widths of a sub-register quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Width {
    /// 8 bits.
    W8,
    /// 16 bits.
    W16,
    /// 32 bits.
    W32,
    /// 64 bits.
    W64,
}

impl Width {
    /// The width in bits.
    #[inline(always)]
    pub const fn bits(self) -> u32 {
        match self {
            Width::W8 => 8,
            Width::W16 => 16,
            Width::W32 => 32,
            Width::W64 => 64,
        }
    }

    /// The width in bytes.
    #[inline(always)]
    pub const fn bytes(self) -> u64 {
        self.bits() as u64 / 8
    }
}

/// Comparisons of two 64-bit values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cond {
    /// Equal.
    Eq,
    /// Not equal.
    Ne,
    /// Less than, signed.
    Lt,
    /// Greater than or equal, signed.
    Ge,
    /// Less than, unsigned.
    Ltu,
    /// Greater than or equal, unsigned.
    Geu,
}

/// Atomic read-modify-write operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AmoOp {
    /// Replace.
    Swap,
    /// Add, wrapping.
    Add,
    /// Exclusive or.
    Xor,
    /// And.
    And,
    /// Or.
    Or,
    /// Signed minimum.
    Min,
    /// Signed maximum.
    Max,
    /// Unsigned minimum.
    Minu,
    /// Unsigned maximum.
    Maxu,
}

/// What a guest instruction may do; see the crate's documentation.
pub trait Sem {
    /// A 64-bit value.
    type V: Copy;
    /// A truth value.
    type B: Copy;
    /// Why an instruction ended early.
    type Exit;

    /// The constant `v`.
    fn imm(&mut self, v: u64) -> Self::V;

    /// `a + b`, wrapping.
    fn add(&mut self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`, wrapping.
    fn sub(&mut self, a: Self::V, b: Self::V) -> Self::V;
    /// The low 64 bits of `a * b`.
    fn mul(&mut self, a: Self::V, b: Self::V) -> Self::V;
    /// The high 64 bits of the signed product.
    fn mulh(&mut self, a: Self::V, b: Self::V) -> Self::V;
    /// The high 64 bits of the unsigned product.
    fn mulhu(&mut self, a: Self::V, b: Self::V) -> Self::V;
    /// Signed quotient, rounded towards zero. The caller excludes a zero divisor and the overflow
    /// `i64::MIN / -1` (by selecting another divisor first).
    fn sdiv(&mut self, a: Self::V, b: Self::V) -> Self::V;
    /// Unsigned quotient; the caller excludes a zero divisor.
    fn udiv(&mut self, a: Self::V, b: Self::V) -> Self::V;
    /// Signed remainder with the dividend's sign; the caller excludes what [`Sem::sdiv`]'s does.
    fn srem(&mut self, a: Self::V, b: Self::V) -> Self::V;
    /// Unsigned remainder; the caller excludes a zero divisor.
    fn urem(&mut self, a: Self::V, b: Self::V) -> Self::V;

    /// The low (or `high`) 64 bits of the product of `a` and `b` as polynomials over the field of two elements.
    fn clmul(&mut self, a: Self::V, b: Self::V, high: bool) -> Self::V;

    /// Bitwise and.
    fn and(&mut self, a: Self::V, b: Self::V) -> Self::V;
    /// Bitwise or.
    fn or(&mut self, a: Self::V, b: Self::V) -> Self::V;
    /// Bitwise exclusive or.
    fn xor(&mut self, a: Self::V, b: Self::V) -> Self::V;
    /// Shift left by the low 6 bits of `n`.
    fn shl(&mut self, a: Self::V, n: Self::V) -> Self::V;
    /// Logical shift right by the low 6 bits of `n`.
    fn shr(&mut self, a: Self::V, n: Self::V) -> Self::V;
    /// Arithmetic shift right by the low 6 bits of `n`.
    fn sar(&mut self, a: Self::V, n: Self::V) -> Self::V;
    /// Rotate right by the low 6 bits of `n`.
    fn ror(&mut self, a: Self::V, n: Self::V) -> Self::V;

    /// The number of leading zero bits, 64 for zero.
    fn clz(&mut self, a: Self::V) -> Self::V;
    /// The number of trailing zero bits, 64 for zero.
    fn ctz(&mut self, a: Self::V) -> Self::V;
    /// The number of set bits.
    fn popcount(&mut self, a: Self::V) -> Self::V;
    /// The eight bytes in reverse order.
    fn bswap(&mut self, a: Self::V) -> Self::V;

    /// The low bits of `a`, sign-extended.
    fn sext(&mut self, a: Self::V, from: Width) -> Self::V;
    /// The low bits of `a`, zero-extended.
    fn zext(&mut self, a: Self::V, from: Width) -> Self::V;

    /// Compares.
    fn cmp(&mut self, c: Cond, a: Self::V, b: Self::V) -> Self::B;
    /// Both.
    fn both(&mut self, a: Self::B, b: Self::B) -> Self::B;
    /// Either.
    fn either(&mut self, a: Self::B, b: Self::B) -> Self::B;
    /// 1 if true, 0 if false.
    fn bit(&mut self, b: Self::B) -> Self::V;
    /// `a` if true, `b` if false. Both are evaluated before.
    fn select(&mut self, c: Self::B, a: Self::V, b: Self::V) -> Self::V;

    /// Reads guest memory at a virtual address; the result is sign- or zero-extended. An access need not be
    /// aligned. Traps as the guest's memory management says.
    fn load(&mut self, addr: Self::V, size: Width, signed: bool) -> Result<Self::V, Self::Exit>;
    /// Writes the low bits of `v` to guest memory. An access need not be aligned.
    fn store(&mut self, addr: Self::V, v: Self::V, size: Width) -> Result<(), Self::Exit>;
    /// Atomically replaces memory by `op(memory, v)`; gives the old value, sign-extended. `size` is W32 or
    /// W64; an unaligned address traps. Sequentially consistent.
    fn amo(&mut self, op: AmoOp, addr: Self::V, v: Self::V, size: Width) -> Result<Self::V, Self::Exit>;
    /// Load-reserved, sign-extended: `size` is W32 or W64; an unaligned address traps.
    fn load_reserved(&mut self, addr: Self::V, size: Width) -> Result<Self::V, Self::Exit>;
    /// Store-conditional: 0 if it stored, 1 if the reservation was lost.
    fn store_conditional(&mut self, addr: Self::V, v: Self::V, size: Width) -> Result<Self::V, Self::Exit>;
    /// Orders this hart's earlier memory accesses before its later ones, `full` including earlier stores
    /// before later loads.
    fn fence(&mut self, full: bool);

    /// The address of this instruction.
    fn pc(&mut self) -> Self::V;
    /// The address of the instruction that follows in memory.
    fn next_pc(&mut self) -> Self::V;
    /// Goes on at [`Sem::pc`] + `offset`.
    fn jump(&mut self, offset: i64);
    /// Goes on at an address; its bit 0 is clear.
    fn jump_to(&mut self, target: Self::V);
    /// If true, goes on at [`Sem::pc`] + `offset`.
    fn branch(&mut self, c: Self::B, offset: i64);

    /// A floating-point operation on raw bit patterns: an operand or result of a narrow format stands in the
    /// low bits, the others zero; an integer result is sign-extended from its width. Exceptions accumulate
    /// in the guest's flags. Unused operands are ignored. Never traps: the caller has seen to it that the
    /// guest's floating point is on and its rounding mode is valid.
    fn fp(&mut self, op: FpOp, a: Self::V, b: Self::V, c: Self::V, round: FpRound) -> Self::V;
}
