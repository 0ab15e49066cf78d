//! The semantics of instructions, recorded: [`Sem`] on values of Cranelift.
//!
//! A guest register is a variable of the function that is built, so it is in a register of the host where the allocator finds
//! one, and the hart's state is out of date meanwhile. Whatever leaves the code first writes back what may have changed.

use crate::helpers::{self, Atomic};
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{
    AbiParam, InstBuilder, MemFlagsData, Opcode, SigRef, Signature, Type, Value, types,
};
use cranelift_codegen::isa::CallConv;
use cranelift_frontend::{FunctionBuilder, Variable};
use isa_riscv::engine::{Left, layout};
use isa_riscv::semantics::{BlockOp, CryptoOp, CsrOp, RvSem, SysOp};
use sem::{AmoOp, Cond, FpFormat, FpOp, FpRound, IntFormat, Sem, Width};
use std::convert::Infallible;

/// The field of `mstatus` that says whether the floating-point unit is on, and dirty.
const FS: i64 = 3 << 13;

/// Where control goes after the last instruction of a block.
pub(crate) enum Then {
    /// Where a jump goes, or what follows in memory.
    On,
    /// Where a branch goes if true, else to what follows in memory.
    Either(Value),
    /// To an address.
    To(Value),
}

/// A function that is being built for a region.
pub(crate) struct Emit<'a, 'b> {
    pub(crate) b: &'a mut FunctionBuilder<'b>,
    pub(crate) cpu: Value,
    /// The virtual address of the region's entry.
    pub(crate) base: Value,
    /// The guest's registers: `x`, then `f`.
    pub(crate) regs: [Option<Variable>; 64],
    /// Instructions that may still be done.
    pub(crate) left: Variable,
    /// How what enters native code is called.
    pub(crate) tail: SigRef,
    /// Registers that may differ from the hart's state here.
    pub(crate) dirty: u64,
    /// Instructions of this block that are done.
    pub(crate) done: i64,
    /// The present instruction's distance from the region's entry, and its length, bytes.
    pub(crate) at: i64,
    pub(crate) len: i64,
    /// What was seen to in this block: that the floating-point unit is on, that it is marked dirty, that `frm` is a mode which
    /// the host has.
    pub(crate) fp_on: bool,
    pub(crate) fp_dirty: bool,
    pub(crate) frm_seen: bool,
    pub(crate) then: Then,
}

/// Ordinary memory that is there.
pub(crate) fn plain() -> MemFlagsData {
    MemFlagsData::trusted()
}

fn off(o: usize) -> i32 {
    o as i32
}

impl Emit<'_, '_> {
    /// A field of the hart's state.
    pub(crate) fn field(&mut self, ty: Type, o: usize) -> Value {
        self.b.ins().load(ty, plain(), self.cpu, off(o))
    }

    pub(crate) fn set_field(&mut self, v: Value, o: usize) {
        self.b.ins().store(plain(), v, self.cpu, off(o));
    }

    /// Where register `n` (of 64) is in the hart's state.
    pub(crate) fn place(n: usize) -> usize {
        if n < 32 { layout::X + 8 * n } else { layout::F + 8 * (n - 32) }
    }

    /// Goes on in a new block, while what `f` records is done somewhere else, if `odd` is not zero.
    pub(crate) fn rarely(&mut self, odd: Value, f: impl FnOnce(&mut Self)) {
        let (cold, go_on) = (self.b.create_block(), self.b.create_block());
        self.b.set_cold_block(cold);
        self.b.ins().brif(odd, cold, &[], go_on, &[]);
        self.b.switch_to_block(cold);
        self.b.seal_block(cold);
        f(self);
        self.b.switch_to_block(go_on);
        self.b.seal_block(go_on);
    }

    /// The value that `usually` gives or, if `odd` is not zero, the one that `rarely` gives. Both have 64 bits.
    fn choose(
        &mut self,
        odd: Value,
        usually: impl FnOnce(&mut Self) -> Value,
        rarely: impl FnOnce(&mut Self) -> Value,
    ) -> Value {
        let (usual, cold, go_on) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        self.b.set_cold_block(cold);
        let v = self.b.append_block_param(go_on, types::I64);
        self.b.ins().brif(odd, cold, &[], usual, &[]);
        self.b.switch_to_block(usual);
        self.b.seal_block(usual);
        let a = usually(self);
        self.b.ins().jump(go_on, &[a.into()]);
        self.b.switch_to_block(cold);
        self.b.seal_block(cold);
        let b = rarely(self);
        self.b.ins().jump(go_on, &[b.into()]);
        self.b.switch_to_block(go_on);
        self.b.seal_block(go_on);
        v
    }

    /// Makes the hart's registers what they should be, and `left` with them.
    pub(crate) fn write_back(&mut self) {
        let dirty = self.dirty;
        for n in (0..64).filter(|n| dirty >> n & 1 != 0) {
            if let Some(var) = self.regs[n] {
                let v = self.b.use_var(var);
                self.set_field(v, Self::place(n));
            }
        }
        let left = self.left();
        self.set_field(left, layout::LEFT);
    }

    /// Instructions that are left after those that are done.
    pub(crate) fn left(&mut self) -> Value {
        let left = self.b.use_var(self.left);
        if self.done == 0 { left } else { self.b.ins().iadd_imm_s(left, -self.done) }
    }

    /// An address at a distance from the region's entry.
    pub(crate) fn address(&mut self, distance: i64) -> Value {
        if distance == 0 { self.base } else { self.b.ins().iadd_imm_s(self.base, distance) }
    }

    /// Returns to the hart, which finds itself before the instruction at `pc`.
    pub(crate) fn leave(&mut self, why: Left, pc: Value) {
        self.write_back();
        self.set_field(pc, layout::PC);
        let why = self.b.ins().iconst(types::I64, why as i64);
        self.b.ins().return_(&[why]);
    }

    /// Returns to the hart before the present instruction.
    fn give_up(&mut self, why: Left) {
        let pc = self.address(self.at);
        self.leave(why, pc);
    }

    fn call(&mut self, function: usize, args: &[Value], results: usize) -> Vec<Value> {
        let mut sig = Signature::new(CallConv::SystemV);
        sig.params = args.iter().map(|_| AbiParam::new(types::I64)).collect();
        sig.returns = vec![AbiParam::new(types::I64); results];
        let sig = self.b.import_signature(sig);
        let to = self.b.ins().iconst(types::I64, function as i64);
        let call = self.b.ins().call_indirect(sig, to, args);
        self.b.inst_results(call).to_vec()
    }

    /// Calls a helper that may trap: gives its value.
    fn call_or_trap(&mut self, function: usize, args: &[Value]) -> Value {
        let r = self.call(function, args, 2);
        self.rarely(r[1], |e| e.give_up(Left::Trap));
        r[0]
    }

    fn constant(&mut self, v: u64) -> Value {
        self.b.ins().iconst(types::I64, v as i64)
    }

    /// Looks for the page of an access in the TLB at `table`: the entry's address, and whether it is another page's.
    fn look_up(&mut self, addr: Value, size: Width, table: usize) -> (Value, Value) {
        let shift = layout::TLB_ENTRY.trailing_zeros() as i64;
        let index = self.b.ins().ushr_imm_s(addr, 12 - shift);
        let index = self.b.ins().band_imm_s(index, (layout::TLB_ENTRIES as i64 - 1) << shift);
        let tables = self.field(types::I64, layout::TLB);
        let table = self.b.ins().iadd_imm_s(tables, table as i64);
        let entry = self.b.ins().iadd(table, index);
        let want = self.b.ins().band_imm_s(addr, !0xfff | (size.bytes() as i64 - 1));
        let tag = self.b.ins().load(types::I64, plain(), entry, off(layout::TLB_ENTRY_TAG));
        (entry, self.b.ins().icmp(IntCC::NotEqual, tag, want))
    }

    /// The host address of what `entry` is found for.
    fn host_address(&mut self, entry: Value, addr: Value) -> Value {
        let addend = self.b.ins().load(types::I64, plain(), entry, off(layout::TLB_ENTRY_ADDEND));
        self.b.ins().iadd(addend, addr)
    }

    /// A load whose page is known; zero- or sign-extended.
    fn load_from(&mut self, host: Value, size: Width, signed: bool) -> Value {
        let (i, f, t) = (self.b.ins(), plain(), types::I64);
        match (size, signed) {
            (Width::W8, false) => i.uload8(t, f, host, 0),
            (Width::W8, true) => i.sload8(t, f, host, 0),
            (Width::W16, false) => i.uload16(t, f, host, 0),
            (Width::W16, true) => i.sload16(t, f, host, 0),
            (Width::W32, false) => i.uload32(f, host, 0),
            (Width::W32, true) => i.sload32(f, host, 0),
            (Width::W64, _) => i.load(t, f, host, 0),
        }
    }

    fn store_to(&mut self, host: Value, v: Value, size: Width) {
        let (i, f) = (self.b.ins(), plain());
        match size {
            Width::W8 => i.istore8(f, v, host, 0),
            Width::W16 => i.istore16(f, v, host, 0),
            Width::W32 => i.istore32(f, v, host, 0),
            Width::W64 => i.store(f, v, host, 0),
        };
    }

    /// An atomic operation, by a helper.
    fn atomic(&mut self, what: Atomic, addr: Value, v: Value, size: Width) -> Value {
        let what = self.constant(what.number(size));
        self.call_or_trap(helpers::atomic as *const () as usize, &[self.cpu, what, addr, v])
    }

    /// What was taken for bits to give `v`, if it is of type `ty`.
    fn before_cast(&self, v: Value, ty: Type) -> Option<Value> {
        let dfg = &self.b.func.dfg;
        let inst = dfg.value_def(v).inst().filter(|i| dfg.insts[*i].opcode() == Opcode::Bitcast)?;
        dfg.inst_args(inst).first().copied().filter(|a| dfg.value_type(*a) == ty)
    }

    /// A bit pattern as a number of `format`.
    fn float_of(&mut self, v: Value, format: FpFormat) -> Value {
        if format == FpFormat::F64
            && let Some(v) = self.before_cast(v, types::F64)
        {
            return v;
        }
        let flags = MemFlagsData::new();
        match format {
            FpFormat::F64 => self.b.ins().bitcast(types::F64, flags, v),
            FpFormat::F32 => {
                let low = self.b.ins().ireduce(types::I32, v);
                self.b.ins().bitcast(types::F32, flags, low)
            }
            FpFormat::F16 | FpFormat::BF16 => unreachable!("computed in software"),
        }
    }

    fn bits_of(&mut self, v: Value, format: FpFormat) -> Value {
        let flags = MemFlagsData::new();
        match format {
            FpFormat::F64 => self.b.ins().bitcast(types::I64, flags, v),
            FpFormat::F32 => {
                let low = self.b.ins().bitcast(types::I32, flags, v);
                self.b.ins().uextend(types::I64, low)
            }
            FpFormat::F16 | FpFormat::BF16 => unreachable!("computed in software"),
        }
    }

    fn float(&mut self, format: FpFormat, v: f64) -> Value {
        match format {
            FpFormat::F64 => self.b.ins().f64const(v),
            FpFormat::F32 => self.b.ins().f32const(v as f32),
            FpFormat::F16 | FpFormat::BF16 => unreachable!("computed in software"),
        }
    }

    /// The operation in software, with its flags.
    fn soft(&mut self, op: FpOp, args: [Value; 3], round: FpRound) -> Value {
        let what = self.constant(helpers::number_of(op, round));
        let [a, b, c] = args;
        self.call(helpers::float as *const () as usize, &[self.cpu, what, a, b, c], 1)[0]
    }

    /// The result of an operation that rounds, computed by the host; a NaN is computed anew, in software.
    ///
    /// The test also keeps an operation whose result nobody uses: its flags count.
    fn rounded(&mut self, op: FpOp, format: FpFormat, args: [Value; 3], round: FpRound, v: Value) -> Value {
        let odd = self.b.ins().fcmp(FloatCC::Unordered, v, v);
        let bits = self.bits_of(v, format);
        self.choose(odd, |_| bits, |e| e.soft(op, args, round))
    }

    /// The operation by the host's instructions, which round as `frm` says; `None` if the host has none.
    fn native(&mut self, op: FpOp, args: [Value; 3], round: FpRound) -> Option<Value> {
        let [a, b, c] = args;
        Some(match op {
            FpOp::Add(f) | FpOp::Sub(f) | FpOp::Mul(f) | FpOp::Div(f) => {
                let (x, y) = (self.float_of(a, f), self.float_of(b, f));
                let i = self.b.ins();
                let v = match op {
                    FpOp::Add(_) => i.fadd(x, y),
                    FpOp::Sub(_) => i.fsub(x, y),
                    FpOp::Mul(_) => i.fmul(x, y),
                    _ => i.fdiv(x, y),
                };
                self.rounded(op, f, args, round, v)
            }
            FpOp::Sqrt(f) => {
                let x = self.float_of(a, f);
                let v = self.b.ins().sqrt(x);
                self.rounded(op, f, args, round, v)
            }
            FpOp::Fma(f) if has_fma() => {
                let (x, y, z) = (self.float_of(a, f), self.float_of(b, f), self.float_of(c, f));
                let v = self.b.ins().fma(x, y, z);
                self.rounded(op, f, args, round, v)
            }
            FpOp::Eq(f) => {
                let (x, y) = (self.float_of(a, f), self.float_of(b, f));
                let v = self.b.ins().fcmp(FloatCC::Equal, x, y);
                self.b.ins().uextend(types::I64, v)
            }
            FpOp::Lt(f) | FpOp::Le(f) => {
                let (x, y) = (self.float_of(a, f), self.float_of(b, f));
                let cc = if matches!(op, FpOp::Lt(_)) { FloatCC::LessThan } else { FloatCC::LessThanOrEqual };
                let v = self.b.ins().fcmp(cc, x, y);
                let v = self.b.ins().uextend(types::I64, v);
                // The host's comparison is the quiet one.
                let odd = self.b.ins().fcmp(FloatCC::Unordered, x, y);
                self.choose(odd, |_| v, |e| e.soft(op, args, round))
            }
            FpOp::Convert(from, to) if from != to => {
                let x = self.float_of(a, from);
                let v = match to {
                    FpFormat::F64 => self.b.ins().fpromote(types::F64, x),
                    FpFormat::F32 => self.b.ins().fdemote(types::F32, x),
                    FpFormat::F16 | FpFormat::BF16 => return None,
                };
                self.rounded(op, to, args, round, v)
            }
            FpOp::FromInt(from, to) => {
                let ty = if to == FpFormat::F64 { types::F64 } else { types::F32 };
                let wide = match from {
                    IntFormat::I32 => self.sext(a, Width::W32),
                    IntFormat::U32 => self.zext(a, Width::W32),
                    IntFormat::I64 => a,
                    IntFormat::U64 => return None,
                };
                let v = self.b.ins().fcvt_from_sint(ty, wide);
                self.rounded(op, to, args, round, v)
            }
            _ => return None,
        })
    }

    /// A conversion to an integer that cuts off: by the host where the result fits.
    fn cut_off(&mut self, op: FpOp, from: FpFormat, to: IntFormat, args: [Value; 3]) -> Value {
        const TWO31: f64 = 2147483648.0;
        const TWO32: f64 = 4294967296.0;
        const TWO63: f64 = 9223372036854775808.0;
        // What is above the first, or it, and below the second fits.
        let (low, included, high) = match (to, from) {
            (IntFormat::I32, FpFormat::F64) => (-TWO31 - 1.0, false, TWO31),
            (IntFormat::I32, _) => (-TWO31, true, TWO31),
            (IntFormat::U32, _) => (-1.0, false, TWO32),
            (IntFormat::I64, _) => (-TWO63, true, TWO63),
            // The rest of those that fit goes the long way.
            (IntFormat::U64, _) => (-1.0, false, TWO63),
        };
        let x = self.float_of(args[0], from);
        let (low, high) = (self.float(from, low), self.float(from, high));
        let cc = if included { FloatCC::GreaterThanOrEqual } else { FloatCC::GreaterThan };
        let above = self.b.ins().fcmp(cc, x, low);
        let below = self.b.ins().fcmp(FloatCC::LessThan, x, high);
        let fits = self.b.ins().band(above, below);
        let odd = self.b.ins().icmp_imm_s(IntCC::Equal, fits, 0);
        let by_host = |e: &mut Self| {
            let n = e.b.ins().fcvt_to_sint_sat(types::I64, x);
            // So that the conversion is made, for its flags, even if nobody uses the result.
            e.set_field(n, layout::SCRATCH);
            if matches!(to, IntFormat::U32) { e.sext(n, Width::W32) } else { n }
        };
        self.choose(odd, by_host, |e| e.soft(op, args, FpRound::TowardZero))
    }
}

/// Whether the host computes `a * b + c` with one rounding.
fn has_fma() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

fn narrow(w: Width) -> Option<Type> {
    match w {
        Width::W8 => Some(types::I8),
        Width::W16 => Some(types::I16),
        Width::W32 => Some(types::I32),
        Width::W64 => None,
    }
}

macro_rules! binary {
    ($($name:ident $ins:ident;)*) => { $(
        fn $name(&mut self, a: Value, b: Value) -> Value {
            self.b.ins().$ins(a, b)
        }
    )* };
}

macro_rules! unary {
    ($($name:ident $ins:ident;)*) => { $(
        fn $name(&mut self, a: Value) -> Value {
            self.b.ins().$ins(a)
        }
    )* };
}

impl Sem for Emit<'_, '_> {
    type V = Value;
    type B = Value;
    type Exit = Infallible;

    fn imm(&mut self, v: u64) -> Value {
        self.constant(v)
    }

    binary! {
        add iadd;
        sub isub;
        mul imul;
        mulh smulhi;
        mulhu umulhi;
        sdiv sdiv;
        udiv udiv;
        srem srem;
        urem urem;
        and band;
        or bor;
        xor bxor;
        shl ishl;
        shr ushr;
        sar sshr;
        ror rotr;
        both band;
        either bor;
    }

    unary! {
        clz clz;
        ctz ctz;
        popcount popcnt;
        bswap bswap;
    }

    fn sext(&mut self, a: Value, from: Width) -> Value {
        let Some(ty) = narrow(from) else { return a };
        let low = self.b.ins().ireduce(ty, a);
        self.b.ins().sextend(types::I64, low)
    }

    fn zext(&mut self, a: Value, from: Width) -> Value {
        let Some(ty) = narrow(from) else { return a };
        let low = self.b.ins().ireduce(ty, a);
        self.b.ins().uextend(types::I64, low)
    }

    fn cmp(&mut self, c: Cond, a: Value, b: Value) -> Value {
        let cc = match c {
            Cond::Eq => IntCC::Equal,
            Cond::Ne => IntCC::NotEqual,
            Cond::Lt => IntCC::SignedLessThan,
            Cond::Ge => IntCC::SignedGreaterThanOrEqual,
            Cond::Ltu => IntCC::UnsignedLessThan,
            Cond::Geu => IntCC::UnsignedGreaterThanOrEqual,
        };
        self.b.ins().icmp(cc, a, b)
    }

    fn bit(&mut self, b: Value) -> Value {
        self.b.ins().uextend(types::I64, b)
    }

    fn select(&mut self, c: Value, a: Value, b: Value) -> Value {
        self.b.ins().select(c, a, b)
    }

    fn clmul(&mut self, a: Value, b: Value, high: bool) -> Value {
        let high = self.constant(high.into());
        self.call(helpers::clmul as *const () as usize, &[a, b, high], 1)[0]
    }

    fn load(&mut self, addr: Value, size: Width, signed: bool) -> Result<Value, Infallible> {
        let (entry, missed) = self.look_up(addr, size, layout::TLB_READ);
        let found = |e: &mut Self| {
            let host = e.host_address(entry, addr);
            e.load_from(host, size, signed)
        };
        Ok(self.choose(missed, found, |e| {
            let bytes = e.constant(size.bytes());
            let v = e.call_or_trap(helpers::load as *const () as usize, &[e.cpu, addr, bytes]);
            if signed { e.sext(v, size) } else { v }
        }))
    }

    fn store(&mut self, addr: Value, v: Value, size: Width) -> Result<(), Infallible> {
        let (entry, missed) = self.look_up(addr, size, layout::TLB_WRITE);
        let (found, cold, go_on) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        self.b.set_cold_block(cold);
        self.b.ins().brif(missed, cold, &[], found, &[]);
        self.b.switch_to_block(found);
        self.b.seal_block(found);
        let host = self.host_address(entry, addr);
        self.store_to(host, v, size);
        self.b.ins().jump(go_on, &[]);
        self.b.switch_to_block(cold);
        self.b.seal_block(cold);
        let bytes = self.constant(size.bytes());
        self.call_or_trap(helpers::store as *const () as usize, &[self.cpu, addr, v, bytes]);
        self.b.ins().jump(go_on, &[]);
        self.b.switch_to_block(go_on);
        self.b.seal_block(go_on);
        Ok(())
    }

    fn amo(&mut self, op: AmoOp, addr: Value, v: Value, size: Width) -> Result<Value, Infallible> {
        Ok(self.atomic(Atomic::Amo(op), addr, v, size))
    }

    fn load_reserved(&mut self, addr: Value, size: Width) -> Result<Value, Infallible> {
        let zero = self.constant(0);
        Ok(self.atomic(Atomic::LoadReserved, addr, zero, size))
    }

    fn store_conditional(&mut self, addr: Value, v: Value, size: Width) -> Result<Value, Infallible> {
        Ok(self.atomic(Atomic::StoreConditional, addr, v, size))
    }

    fn fence(&mut self, full: bool) {
        // Everything else is in order on this host anyway.
        if full || !cfg!(target_arch = "x86_64") {
            self.b.ins().fence();
        }
    }

    fn pc(&mut self) -> Value {
        self.address(self.at)
    }

    fn next_pc(&mut self) -> Value {
        self.address(self.at + self.len)
    }

    fn jump(&mut self, _: i64) {
        // The region knows where.
        self.then = Then::On;
    }

    fn jump_to(&mut self, target: Value) {
        self.then = Then::To(target);
    }

    fn branch(&mut self, c: Value, _: i64) {
        self.then = Then::Either(c);
    }

    fn fp(&mut self, op: FpOp, a: Value, b: Value, c: Value, round: FpRound) -> Value {
        let args = [a, b, c];
        if op.formats().iter().flatten().any(|f| matches!(f, FpFormat::F16 | FpFormat::BF16)) {
            return self.soft(op, args, round);
        }
        if let (FpOp::ToInt(from, to), FpRound::TowardZero) = (op, round) {
            return self.cut_off(op, from, to, args);
        }
        // Those that do not round do not care.
        let exact = matches!(
            op,
            FpOp::Eq(_)
                | FpOp::Lt(_)
                | FpOp::Le(_)
                | FpOp::Convert(FpFormat::F32, FpFormat::F64)
                | FpOp::FromInt(IntFormat::I32 | IntFormat::U32, FpFormat::F64)
        );
        let mode = match round {
            FpRound::Dynamic => None,
            _ if exact => None,
            FpRound::NearestEven => Some(0),
            FpRound::TowardZero => Some(1),
            FpRound::Down => Some(2),
            FpRound::Up => Some(3),
            FpRound::NearestMaxMagnitude => return self.soft(op, args, round),
        };
        let has = matches!(
            op,
            FpOp::Add(_) | FpOp::Sub(_) | FpOp::Mul(_) | FpOp::Div(_) | FpOp::Sqrt(_) | FpOp::Fma(_)
        ) || exact
            || matches!(op, FpOp::Convert(FpFormat::F64, FpFormat::F32))
            || matches!(op, FpOp::FromInt(IntFormat::I32 | IntFormat::U32 | IntFormat::I64, _));
        if !has {
            return self.soft(op, args, round);
        }
        let Some(mode) = mode else {
            return match self.native(op, args, round) {
                Some(v) => v,
                None => self.soft(op, args, round),
            };
        };
        // The host rounds as `frm` says, which this instruction does not look at.
        let frm = self.b.ins().uload8(types::I64, plain(), self.cpu, off(layout::FRM));
        let other = self.b.ins().icmp_imm_s(IntCC::NotEqual, frm, mode);
        let by_host = |e: &mut Self| e.native(op, args, round).unwrap_or_else(|| e.soft(op, args, round));
        self.choose(other, by_host, |e| e.soft(op, args, round))
    }
}

impl RvSem for Emit<'_, '_> {
    fn x(&mut self, r: usize) -> Value {
        match self.regs[r & 31].filter(|_| r != 0) {
            Some(var) => self.b.use_var(var),
            None => self.constant(0),
        }
    }

    fn set_x(&mut self, r: usize, v: Value) {
        if let Some(var) = self.regs[r & 31].filter(|_| r != 0) {
            self.b.def_var(var, v);
        }
    }

    fn f(&mut self, r: usize) -> Value {
        match self.regs[32 + (r & 31)] {
            Some(var) => {
                let v = self.b.use_var(var);
                self.b.ins().bitcast(types::I64, MemFlagsData::new(), v)
            }
            None => self.constant(0),
        }
    }

    fn set_f(&mut self, r: usize, v: Value) {
        if let Some(var) = self.regs[32 + (r & 31)] {
            let v = self.float_of(v, FpFormat::F64);
            self.b.def_var(var, v);
        }
        if !std::mem::replace(&mut self.fp_dirty, true) {
            let m = self.field(types::I64, layout::MSTATUS);
            let m = self.b.ins().bor_imm_s(m, FS);
            self.set_field(m, layout::MSTATUS);
        }
    }

    fn fp_enter(&mut self) -> Result<(), Infallible> {
        if !std::mem::replace(&mut self.fp_on, true) {
            let m = self.field(types::I64, layout::MSTATUS);
            let on = self.b.ins().band_imm_s(m, FS);
            let off = self.b.ins().icmp_imm_s(IntCC::Equal, on, 0);
            self.rarely(off, |e| e.give_up(Left::Step));
        }
        Ok(())
    }

    fn fp_round(&mut self, rm: u8) -> Result<FpRound, Infallible> {
        Ok(match rm {
            0 => FpRound::NearestEven,
            1 => FpRound::TowardZero,
            2 => FpRound::Down,
            3 => FpRound::Up,
            4 => FpRound::NearestMaxMagnitude,
            _ => {
                if !std::mem::replace(&mut self.frm_seen, true) {
                    let frm = self.b.ins().uload8(types::I64, plain(), self.cpu, off(layout::FRM));
                    let odd = self.b.ins().icmp_imm_s(IntCC::UnsignedGreaterThan, frm, 3);
                    self.rarely(odd, |e| e.give_up(Left::Step));
                }
                FpRound::Dynamic
            }
        })
    }

    fn csr(&mut self, _: CsrOp, _: u16, _: Option<Value>, _: bool) -> Result<Value, Infallible> {
        unreachable!("no region has such an instruction")
    }

    fn system(&mut self, _: SysOp) -> Result<(), Infallible> {
        unreachable!("no region has such an instruction")
    }

    fn crypto(&mut self, op: CryptoOp, a: Value, b: Value) -> Value {
        let what = self.constant(helpers::number_of_crypto(op));
        self.call(helpers::crypto as *const () as usize, &[what, a, b], 1)[0]
    }

    fn block(&mut self, op: BlockOp, addr: Value) -> Result<(), Infallible> {
        let what = self.constant(helpers::number_of_block(op));
        let undone = self.call_or_trap(helpers::block as *const () as usize, &[self.cpu, what, addr]);
        self.rarely(undone, |e| e.give_up(Left::Step));
        Ok(())
    }

    fn sfence_vma(&mut self, _: Option<Value>, _: Option<Value>) -> Result<(), Infallible> {
        unreachable!("no region has such an instruction")
    }
}

/// The type of the functions of regions: the hart's state and the virtual address of the entry; a [`Left`].
pub(crate) fn tail_signature() -> Signature {
    let mut sig = Signature::new(CallConv::Tail);
    sig.params = vec![AbiParam::new(types::I64); 2];
    sig.returns = vec![AbiParam::new(types::I64)];
    sig
}
