//! Values of one guest instruction: recorded as they are asked for, computed when something needs them.
//!
//! Until the instruction is finished no guest register changes, so a value can be computed at any time, even twice.

use super::asm::{Alu, Asm, Cc, Label, RAX, RCX, RDX, Reg, Rm, Shift};
use super::asm_fp::Xmm;
use super::float::{BOX, Homes};
use super::groups::Member;
use super::thunks::{self, FRAME_SLOTS, field};
use isa_riscv::engine::layout;
use sem::{Cond, Width};
use std::fmt;

/// A value of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum V {
    Imm(u64),
    /// A guest register as it is before the instruction.
    X(u8),
    F(u8),
    /// A vector register, which has nothing else before the instruction is finished.
    D(Xmm),
    /// The low 32 bits of one, zero-extended; above them it has ones, as a boxed number.
    S(Xmm),
    Node(u16),
}

/// A truth value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum B {
    Cmp(Cond, V, V),
    /// A value is not zero.
    Is(V),
}

/// Operations with two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bin {
    Add,
    Sub,
    And,
    Or,
    Xor,
    Mul,
    Mulh,
    Mulhu,
    Sdiv,
    Udiv,
    Srem,
    Urem,
    Shl,
    Shr,
    Sar,
    Ror,
}

/// Operations with one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Un {
    Clz,
    Ctz,
    Popcount,
    Bswap,
    Sext(Width),
    Zext(Width),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bin(Bin, V, V),
    Un(Un, V),
    Bit(Cond, V, V),
    Select(B, V, V),
    /// An address in the present page, at so many bytes.
    Place(i64),
    /// What something with effects gave, which cannot be computed again.
    Given,
}

pub(super) struct Node {
    kind: Kind,
    /// Others that need it and were not computed yet.
    uses: i32,
    /// It was computed once.
    computed: bool,
    at: Option<Rm>,
}

impl Kind {
    fn operands(self) -> impl Iterator<Item = u16> {
        let operands = match self {
            Kind::Bin(_, a, b) | Kind::Bit(_, a, b) => [Some(a), Some(b), None, None],
            Kind::Un(_, a) => [Some(a), None, None, None],
            Kind::Select(B::Cmp(_, a, b), x, y) => [Some(a), Some(b), Some(x), Some(y)],
            Kind::Select(B::Is(v), x, y) => [Some(v), Some(x), Some(y), None],
            Kind::Place(_) | Kind::Given => [None; 4],
        };
        operands.into_iter().flatten().filter_map(|v| if let V::Node(n) = v { Some(n) } else { None })
    }
}

impl fmt::Display for V {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            V::Imm(i) => write!(f, "{:#x}", *i as i64),
            V::X(r) => write!(f, "x{r}"),
            V::F(r) => write!(f, "f{r}"),
            V::D(x) | V::S(x) => write!(f, "xmm{x}"),
            V::Node(n) => write!(f, "n{n}"),
        }
    }
}

impl fmt::Display for B {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            B::Cmp(c, a, b) => write!(f, "{} {a}, {b}", format!("{c:?}").to_lowercase()),
            B::Is(v) => write!(f, "ne {v}, 0"),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Bin(op, a, b) => write!(f, "{} {a}, {b}", format!("{op:?}").to_lowercase()),
            Kind::Un(op, a) => write!(f, "{} {a}", format!("{op:?}").to_lowercase()),
            Kind::Bit(c, a, b) => write!(f, "bit {}", B::Cmp(*c, *a, *b)),
            Kind::Select(c, a, b) => write!(f, "select {c} ? {a} : {b}"),
            Kind::Place(bytes) => write!(f, "page + {bytes:#x}"),
            Kind::Given => f.write_str("done"),
        }
    }
}

/// Where an operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Src {
    Imm(i32),
    At(Rm),
}

/// Host registers for values; all others have their uses.
const SCRATCH: [Reg; 3] = [RAX, RCX, RDX];

/// Values, and the code that computes them.
#[derive(Default)]
pub(super) struct Values {
    pub(super) a: Asm,
    nodes: Vec<Node>,
    /// Which node's value is in a scratch register.
    owner: [Option<u16>; 3],
    /// Scratch registers that must stay as they are for the present operation: bit `n` for register `n`.
    locked: u8,
    slots: usize,
    /// Vector registers of guest registers in the present region.
    pub(super) homes: Homes,
    /// Brings them back after a helper.
    pub(super) reload: Option<Label>,
    /// Guest registers that surely have a boxed binary32: bit `n` for `fn`.
    pub(super) boxed: u32,
    /// The present instruction boxes what it gives.
    pub(super) boxes: bool,
    /// The group that the present instruction's access is of.
    pub(super) member: Option<Member>,
    /// Places of groups that are in use: bit `n` for place `n`.
    pub(super) open: u8,
    /// Where the page of the present instruction's access is kept.
    pub(super) kept: Option<u8>,
}

fn fold(op: Bin, a: u64, b: u64) -> u64 {
    let (sa, sb) = (a as i64, b as i64);
    match op {
        Bin::Add => a.wrapping_add(b),
        Bin::Sub => a.wrapping_sub(b),
        Bin::And => a & b,
        Bin::Or => a | b,
        Bin::Xor => a ^ b,
        Bin::Mul => a.wrapping_mul(b),
        Bin::Mulh => ((i128::from(sa) * i128::from(sb)) >> 64) as u64,
        Bin::Mulhu => ((u128::from(a) * u128::from(b)) >> 64) as u64,
        Bin::Sdiv => sa.checked_div(sb).unwrap_or(0) as u64,
        Bin::Udiv => a.checked_div(b).unwrap_or(0),
        Bin::Srem => sa.checked_rem(sb).unwrap_or(0) as u64,
        Bin::Urem => a.checked_rem(b).unwrap_or(0),
        Bin::Shl => a << (b & 63),
        Bin::Shr => a >> (b & 63),
        Bin::Sar => (sa >> (b & 63)) as u64,
        Bin::Ror => a.rotate_right((b & 63) as u32),
    }
}

fn fold_one(op: Un, a: u64) -> u64 {
    match op {
        Un::Clz => a.leading_zeros().into(),
        Un::Ctz => a.trailing_zeros().into(),
        Un::Popcount => a.count_ones().into(),
        Un::Bswap => a.swap_bytes(),
        Un::Sext(w) => ((a << (64 - w.bits())) as i64 >> (64 - w.bits())) as u64,
        Un::Zext(w) => a << (64 - w.bits()) >> (64 - w.bits()),
    }
}

fn holds(c: Cond, a: u64, b: u64) -> bool {
    match c {
        Cond::Eq => a == b,
        Cond::Ne => a != b,
        Cond::Lt => (a as i64) < b as i64,
        Cond::Ge => a as i64 >= b as i64,
        Cond::Ltu => a < b,
        Cond::Geu => a >= b,
    }
}

fn is_commutative(op: Bin) -> bool {
    matches!(op, Bin::Add | Bin::And | Bin::Or | Bin::Xor | Bin::Mul)
}

fn is_scratch(r: Reg) -> bool {
    SCRATCH.contains(&r)
}

impl Values {
    /// Forgets the values of an instruction.
    pub(super) fn finish(&mut self) {
        self.nodes.clear();
        self.owner = [None; 3];
        self.locked = 0;
        self.slots = 0;
        self.boxes = false;
    }

    /// What was recorded for the instruction, a line each.
    pub(super) fn listing(&self) -> String {
        self.nodes.iter().enumerate().map(|(n, node)| format!(" n{n} = {}\n", node.kind)).collect()
    }

    fn node(&mut self, kind: Kind) -> V {
        if kind != Kind::Given
            && let Some(same) = self.nodes.iter().position(|n| n.kind == kind)
        {
            return V::Node(same as u16);
        }
        for n in kind.operands() {
            self.nodes[usize::from(n)].uses += 1;
        }
        self.nodes.push(Node { kind, uses: 0, computed: false, at: None });
        V::Node(self.nodes.len() as u16 - 1)
    }

    pub(super) fn bin(&mut self, op: Bin, a: V, b: V) -> V {
        match (op, a, b) {
            (_, V::Imm(a), V::Imm(b)) => V::Imm(fold(op, a, b)),
            (
                Bin::Add | Bin::Sub | Bin::Or | Bin::Xor | Bin::Shl | Bin::Shr | Bin::Sar | Bin::Ror,
                a,
                V::Imm(0),
            ) => a,
            (Bin::Add | Bin::Or | Bin::Xor, V::Imm(0), b) => b,
            (Bin::Or, V::S(x), V::Imm(BOX)) => {
                self.boxes = true;
                V::D(x)
            }
            (Bin::Or, a, V::Imm(BOX)) => {
                self.boxes = true;
                self.boxed_again(a).unwrap_or_else(|| self.node(Kind::Bin(op, a, b)))
            }
            (Bin::Or | Bin::Xor, V::Node(_), V::Node(_)) | (Bin::Xor, V::F(_), V::Node(_)) => {
                self.with_sign(op, a, b).unwrap_or_else(|| self.node(Kind::Bin(op, a, b)))
            }
            (op, a @ V::Imm(_), b) if is_commutative(op) => self.node(Kind::Bin(op, b, a)),
            _ => self.node(Kind::Bin(op, a, b)),
        }
    }

    /// What was recorded for a value that is not computed yet.
    pub(super) fn kind(&self, v: V) -> Option<Kind> {
        if let V::Node(n) = v { Some(self.nodes[usize::from(n)].kind) } else { None }
    }

    /// The register whose boxed number `v` is.
    pub(super) fn boxed_register(&self, v: V) -> Option<u8> {
        match self.kind(v) {
            Some(Kind::Un(Un::Zext(Width::W32), V::F(r))) if self.boxed >> r & 1 != 0 => Some(r),
            _ => None,
        }
    }

    /// A change of a boxed number that is boxed again, on all of its register.
    fn boxed_again(&mut self, v: V) -> Option<V> {
        if let Some(r) = self.boxed_register(v) {
            return Some(V::F(r));
        }
        match self.kind(v)? {
            Kind::Bin(Bin::Xor, a, V::Imm(m)) if m & BOX == 0 => {
                let a = self.boxed_register(a)?;
                Some(self.node(Kind::Bin(Bin::Xor, V::F(a), V::Imm(m))))
            }
            Kind::Bin(Bin::And, a, V::Imm(m)) => {
                let a = self.boxed_register(a)?;
                Some(self.node(Kind::Bin(Bin::And, V::F(a), V::Imm(m | BOX))))
            }
            _ => None,
        }
    }

    /// Moves, negations and absolute values are written with two operands, of which each gives some bits.
    fn with_sign(&mut self, op: Bin, a: V, b: V) -> Option<V> {
        match (op, self.kind(a), self.kind(b)?) {
            (Bin::Or, Some(Kind::Bin(Bin::And, x, V::Imm(rest))), Kind::Bin(Bin::And, y, V::Imm(m)))
                if x == y && m == !rest =>
            {
                Some(x)
            }
            (Bin::Or, Some(Kind::Bin(Bin::And, x, V::Imm(rest))), Kind::Bin(Bin::Xor, y, V::Imm(m)))
                if m == !rest && self.kind(y) == Some(Kind::Bin(Bin::And, x, V::Imm(m))) =>
            {
                Some(self.node(Kind::Bin(Bin::Xor, x, V::Imm(m))))
            }
            (Bin::Xor, _, Kind::Bin(Bin::And, x, V::Imm(m))) if x == a => {
                Some(self.node(Kind::Bin(Bin::And, a, V::Imm(!m))))
            }
            _ => None,
        }
    }

    /// Whether a number is another one with this sign bit changed, and that other one.
    pub(super) fn without_sign(&self, v: V, sign: u64) -> (bool, V) {
        match self.kind(v) {
            Some(Kind::Bin(Bin::Xor, of, V::Imm(m))) if m == sign => (true, of),
            _ => (false, v),
        }
    }

    pub(super) fn un(&mut self, op: Un, a: V) -> V {
        match (op, a) {
            (_, V::Imm(a)) => V::Imm(fold_one(op, a)),
            (Un::Sext(Width::W64) | Un::Zext(Width::W64), a) => a,
            (Un::Sext(Width::W32), a) if self.is_positive32(a) => a,
            _ => self.node(Kind::Un(op, a)),
        }
    }

    /// Whether a value has zeroes only from bit 31 on, surely.
    fn is_positive32(&self, v: V) -> bool {
        match self.kind(v) {
            Some(Kind::Bin(Bin::Shr, of, V::Imm(1..))) => {
                matches!(self.kind(of), Some(Kind::Un(Un::Zext(Width::W32), _)))
            }
            Some(Kind::Un(Un::Zext(Width::W8 | Width::W16), _) | Kind::Bit(..)) => true,
            _ => false,
        }
    }

    pub(super) fn bit(&mut self, b: B) -> V {
        match b {
            B::Cmp(c, V::Imm(a), V::Imm(b)) => V::Imm(holds(c, a, b).into()),
            B::Cmp(c, a, b) => self.node(Kind::Bit(c, a, b)),
            B::Is(v) => v,
        }
    }

    pub(super) fn select(&mut self, c: B, x: V, y: V) -> V {
        match c {
            B::Cmp(c, V::Imm(a), V::Imm(b)) => {
                if holds(c, a, b) {
                    x
                } else {
                    y
                }
            }
            B::Is(V::Imm(v)) => {
                if v != 0 {
                    x
                } else {
                    y
                }
            }
            c => self.node(Kind::Select(c, x, y)),
        }
    }

    /// The address at so many bytes of the present page.
    pub(super) fn place(&mut self, bytes: i64) -> V {
        self.node(Kind::Place(bytes))
    }

    /// A value that is in scratch register `r` now.
    pub(super) fn given(&mut self, r: Reg) -> V {
        let v = self.node(Kind::Given);
        if let V::Node(n) = v {
            self.nodes[usize::from(n)].at = Some(Rm::Reg(r));
            if is_scratch(r) {
                self.owner[usize::from(r)] = Some(n);
            }
        }
        v
    }

    /// The operands of a sum with a constant that is not computed yet; else the value itself.
    pub(super) fn split(&self, v: V) -> (V, i32) {
        if let V::Node(n) = v
            && let Node { kind: Kind::Bin(Bin::Add, base, V::Imm(d)), at: None, .. } =
                self.nodes[usize::from(n)]
            && let Ok(d) = i32::try_from(d as i64)
        {
            return (base, d);
        }
        (v, 0)
    }

    pub(super) fn new_slot(&mut self) -> Rm {
        assert!(self.slots < FRAME_SLOTS, "an instruction has few values");
        self.slots += 1;
        thunks::slot(self.slots - 1)
    }

    fn spill(&mut self, r: Reg) {
        let Some(n) = self.owner[usize::from(r)].take() else { return };
        let node = &self.nodes[usize::from(n)];
        if node.uses > 0 || matches!(node.kind, Kind::Given) {
            let slot = self.new_slot();
            self.a.mov_to(slot, r);
            self.nodes[usize::from(n)].at = Some(slot);
        } else {
            self.nodes[usize::from(n)].at = None;
        }
    }

    /// Empties all scratch registers; values that are needed stay, elsewhere.
    pub(super) fn spill_all(&mut self) {
        SCRATCH.into_iter().for_each(|r| self.spill(r));
        self.locked = 0;
    }

    /// A scratch register for the present operation. Does not change the flags.
    pub(super) fn scratch(&mut self) -> Reg {
        let open = |s: &Self, r: Reg| s.locked >> r & 1 == 0;
        let free = SCRATCH.into_iter().find(|r| open(self, *r) && self.owner[usize::from(*r)].is_none());
        let r = free.or_else(|| SCRATCH.into_iter().find(|r| open(self, *r)));
        let r = r.expect("an operation needs three registers at most");
        self.spill(r);
        self.locked |= 1 << r;
        r
    }

    /// Ends an operation: no register is locked any more.
    pub(super) fn unlock(&mut self) {
        self.locked = 0;
    }

    /// Computes a value, unless that was done.
    pub(super) fn prepare(&mut self, v: V) {
        if let V::Node(n) = v
            && self.nodes[usize::from(n)].at.is_none()
        {
            self.compute(n, None);
        }
    }

    /// Says that something needs the value which is no value itself.
    pub(super) fn keep(&mut self, v: V) {
        if let V::Node(n) = v {
            self.nodes[usize::from(n)].uses += 1;
        }
    }

    /// Where a prepared value is.
    pub(super) fn source(&mut self, v: V) -> Src {
        let at = match v {
            V::Imm(i) => match i32::try_from(i as i64) {
                Ok(i) => return Src::Imm(i),
                Err(_) => {
                    let r = self.scratch();
                    self.a.mov_imm(r, i);
                    Rm::Reg(r)
                }
            },
            V::X(r) => thunks::x(r),
            V::F(r) => thunks::f(r),
            V::D(x) => {
                let r = self.scratch();
                self.a.mov_from_xmm(r, x);
                Rm::Reg(r)
            }
            V::S(x) => {
                let r = self.scratch();
                self.a.mov_from_xmm32(r, x);
                Rm::Reg(r)
            }
            V::Node(n) => self.nodes[usize::from(n)].at.expect("it was prepared"),
        };
        if let Rm::Reg(r) = at
            && is_scratch(r)
        {
            self.locked |= 1 << r;
        }
        Src::At(at)
    }

    /// A register that has a prepared value.
    pub(super) fn in_register(&mut self, v: V) -> Reg {
        match self.source(v) {
            Src::At(Rm::Reg(r)) => r,
            s => {
                let r = self.scratch();
                self.put(r, s);
                r
            }
        }
    }

    /// Does not change the flags.
    pub(super) fn put(&mut self, dst: Reg, s: Src) {
        match s {
            Src::Imm(i) => self.a.mov_imm(dst, i as u64),
            Src::At(m) => self.a.mov(dst, m),
        }
    }

    fn used(&mut self, v: V) {
        if let V::Node(n) = v {
            self.nodes[usize::from(n)].uses -= 1;
        }
    }

    /// The scratch register of a value that nobody needs any more, to be changed.
    fn take_over(&mut self, v: V) -> Option<Reg> {
        let V::Node(n) = v else { return None };
        let node = &mut self.nodes[usize::from(n)];
        let Some(Rm::Reg(r)) = node.at.filter(|_| node.uses <= 0 && !matches!(node.kind, Kind::Given)) else {
            return None;
        };
        if !is_scratch(r) {
            return None;
        }
        node.at = None;
        self.owner[usize::from(r)] = None;
        Some(r)
    }

    fn set(&mut self, n: u16, r: Reg) {
        self.nodes[usize::from(n)].at = Some(Rm::Reg(r));
        if is_scratch(r) {
            self.owner[usize::from(r)] = Some(n);
        }
        self.locked = 0;
    }

    /// Computes a node; into `dst` if that is given, which is a register that nothing needs but this.
    fn compute(&mut self, n: u16, dst: Option<Reg>) {
        let kind = self.nodes[usize::from(n)].kind;
        if std::mem::replace(&mut self.nodes[usize::from(n)].computed, true) {
            // Once more, as its register was wanted for something else.
            for n in kind.operands() {
                self.nodes[usize::from(n)].uses += 1;
            }
        }
        let r = match kind {
            Kind::Bin(op, a, b) => self.compute_bin(op, a, b, dst),
            Kind::Un(op, a) => self.compute_un(op, a, dst),
            Kind::Bit(c, a, b) => {
                let cc = self.compare(c, a, b);
                let r = dst.unwrap_or_else(|| self.scratch());
                self.a.set(cc, r);
                r
            }
            Kind::Select(c, x, y) => self.compute_select(c, x, y, dst),
            Kind::Place(bytes) => {
                let r = dst.unwrap_or_else(|| self.scratch());
                self.a.mov(r, field(layout::PAGE));
                if let (Ok(d), true) = (i32::try_from(bytes), bytes != 0) {
                    self.a.alu_imm(Alu::Add, Rm::Reg(r), d);
                }
                r
            }
            Kind::Given => unreachable!("it is somewhere"),
        };
        match dst.filter(|d| *d != r) {
            Some(d) => {
                self.a.mov(d, Rm::Reg(r));
                self.set(n, d);
            }
            None => self.set(n, r),
        }
    }

    /// Computes a value that only one operation needs, into the register of that one's result: nothing else that the operation
    /// needs may depend on that register.
    fn prepare_into(&mut self, v: V, dst: Option<Reg>) {
        match v {
            V::Node(n) if self.nodes[usize::from(n)].at.is_none() && self.nodes[usize::from(n)].uses == 1 => {
                self.compute(n, dst);
            }
            v => self.prepare(v),
        }
    }

    fn compute_bin(&mut self, op: Bin, a: V, b: V, dst: Option<Reg>) -> Reg {
        if matches!(b, V::Imm(_)) {
            self.prepare_into(a, dst);
        } else {
            self.prepare(b);
            self.prepare(a);
        }
        self.unlock();
        match op {
            Bin::Mulh | Bin::Mulhu | Bin::Sdiv | Bin::Udiv | Bin::Srem | Bin::Urem => {
                self.spill_all();
                let sa = self.source_unloaded(a);
                self.put_value(RAX, sa);
                self.locked = 1 << RAX | 1 << RDX;
                let by = match self.source(b) {
                    Src::At(m) => m,
                    s => {
                        let r = self.scratch();
                        self.put(r, s);
                        Rm::Reg(r)
                    }
                };
                let (signed, r) = match op {
                    Bin::Mulh => (true, RDX),
                    Bin::Mulhu => (false, RDX),
                    Bin::Sdiv => (true, RAX),
                    Bin::Udiv => (false, RAX),
                    Bin::Srem => (true, RDX),
                    _ => (false, RDX),
                };
                if matches!(op, Bin::Mulh | Bin::Mulhu) {
                    self.a.mul_wide(signed, by);
                } else {
                    self.a.div(signed, by);
                }
                self.used(a);
                self.used(b);
                r
            }
            Bin::Ror if !matches!(b, V::Imm(_)) => {
                self.spill_all();
                let (sa, sb) = (self.source_unloaded(a), self.source_unloaded(b));
                self.put_value(RCX, sb);
                self.put_value(RAX, sa);
                self.a.ror_cl(RAX);
                self.used(a);
                self.used(b);
                RAX
            }
            Bin::Shl | Bin::Shr | Bin::Sar | Bin::Ror => self.compute_shift(op, a, b, dst),
            _ => self.compute_alu(op, a, b, dst),
        }
    }

    /// A value's place, without using a register.
    pub(super) fn source_unloaded(&self, v: V) -> Result<Rm, u64> {
        match v {
            V::Imm(i) => Err(i),
            V::X(r) => Ok(thunks::x(r)),
            V::F(r) => Ok(thunks::f(r)),
            V::D(_) | V::S(_) => unreachable!("it goes to a register only"),
            V::Node(n) => Ok(self.nodes[usize::from(n)].at.expect("it was prepared")),
        }
    }

    fn put_value(&mut self, dst: Reg, v: Result<Rm, u64>) {
        match v {
            Ok(m) => self.a.mov(dst, m),
            Err(i) => self.a.mov_imm(dst, i),
        }
    }

    fn compute_shift(&mut self, op: Bin, a: V, b: V, dst: Option<Reg>) -> Reg {
        let kind = match op {
            Bin::Shl => Some(Shift::Left),
            Bin::Shr => Some(Shift::Right),
            Bin::Sar => Some(Shift::Arithmetic),
            _ => None,
        };
        if let V::Imm(n) = b {
            let sa = self.source(a);
            self.used(a);
            let taken = if dst.is_none() { self.take_over(a) } else { None };
            let r = dst.or(taken).unwrap_or_else(|| self.scratch());
            match (kind, sa) {
                (None, Src::At(m)) => self.a.ror_imm(r, m, (n & 63) as u8),
                (Some(k), sa) => {
                    self.put(r, sa);
                    self.a.shift_imm(k, r, (n & 63) as u8);
                }
                (None, Src::Imm(_)) => unreachable!("it was folded"),
            }
            return r;
        }
        let count = self.in_register(b);
        let of = match self.source(a) {
            Src::At(m) => m,
            s => {
                let r = self.scratch();
                self.put(r, s);
                Rm::Reg(r)
            }
        };
        self.used(a);
        self.used(b);
        let taken = if dst.is_none() { self.take_over(a).or_else(|| self.take_over(b)) } else { None };
        let r = dst.or(taken).unwrap_or_else(|| self.scratch());
        self.a.shift(kind.unwrap_or(Shift::Left), r, of, count);
        r
    }

    fn compute_alu(&mut self, op: Bin, a: V, b: V, dst: Option<Reg>) -> Reg {
        let (mut a, mut b) = (a, b);
        let (mut sa, mut sb) = (self.source(a), self.source(b));
        self.used(a);
        self.used(b);
        let r = match dst {
            Some(d) if sb == Src::At(Rm::Reg(d)) && sa != sb => {
                if is_commutative(op) {
                    std::mem::swap(&mut sa, &mut sb);
                    d
                } else {
                    self.scratch()
                }
            }
            Some(d) => d,
            None => {
                let taken = self.take_over(a);
                match taken {
                    Some(r) => r,
                    None if is_commutative(op) => match self.take_over(b) {
                        Some(r) => {
                            std::mem::swap(&mut sa, &mut sb);
                            std::mem::swap(&mut a, &mut b);
                            r
                        }
                        None => self.scratch(),
                    },
                    None => self.scratch(),
                }
            }
        };
        match (op, sa, sb) {
            (Bin::Add, Src::At(Rm::Reg(x)), Src::Imm(i)) if x != r => self.a.lea(r, Rm::Mem(x, i)),
            (Bin::Add, Src::At(Rm::Reg(x)), Src::At(Rm::Reg(y))) if x != r => self.a.lea(r, Rm::Sum(x, y, 0)),
            (Bin::Mul, Src::At(m), Src::Imm(i)) => self.a.imul_imm(r, m, i),
            (Bin::Mul, _, Src::At(m)) => {
                self.put(r, sa);
                self.a.imul(r, m);
            }
            _ => {
                self.put(r, sa);
                let op = match op {
                    Bin::Add => Alu::Add,
                    Bin::Sub => Alu::Sub,
                    Bin::And => Alu::And,
                    Bin::Or => Alu::Or,
                    _ => Alu::Xor,
                };
                match sb {
                    Src::Imm(i) => self.a.alu_imm(op, Rm::Reg(r), i),
                    Src::At(m) => self.a.alu(op, r, m),
                }
            }
        }
        r
    }

    fn compute_un(&mut self, op: Un, a: V, dst: Option<Reg>) -> Reg {
        self.prepare_into(a, dst);
        self.unlock();
        let Src::At(m) = self.source(a) else { unreachable!("it was folded") };
        self.used(a);
        let taken = if dst.is_none() { self.take_over(a) } else { None };
        let r = dst.or(taken).unwrap_or_else(|| self.scratch());
        match op {
            Un::Clz => self.a.lzcnt(r, m),
            Un::Ctz => self.a.tzcnt(r, m),
            Un::Popcount => self.a.popcnt(r, m),
            Un::Bswap => {
                self.a.mov(r, m);
                self.a.bswap(r);
            }
            Un::Sext(Width::W8) => self.a.movsx8(r, m),
            Un::Sext(Width::W16) => self.a.movsx16(r, m),
            Un::Sext(Width::W32) => self.a.movsx32(r, m),
            Un::Zext(Width::W8) => self.a.movzx8(r, m),
            Un::Zext(Width::W16) => self.a.movzx16(r, m),
            Un::Zext(Width::W32) => self.a.mov32(r, m),
            Un::Sext(Width::W64) | Un::Zext(Width::W64) => self.a.mov(r, m),
        }
        r
    }

    fn compute_select(&mut self, c: B, x: V, y: V, dst: Option<Reg>) -> Reg {
        self.prepare(x);
        self.prepare(y);
        let cc = self.flags(c);
        self.unlock();
        let sx = match self.source(x) {
            Src::At(m) => m,
            s => {
                let r = self.scratch();
                self.put(r, s);
                Rm::Reg(r)
            }
        };
        let sy = self.source_unloaded(y);
        if let Ok(Rm::Reg(r)) = sy
            && is_scratch(r)
        {
            self.locked |= 1 << r;
        }
        let r = match dst {
            Some(d) if sx != Rm::Reg(d) => d,
            _ => self.scratch(),
        };
        self.put_value(r, sy);
        self.a.cmov(cc, r, sx);
        self.used(x);
        self.used(y);
        r
    }

    /// Sets the flags by a truth value: the condition that holds then.
    pub(super) fn flags(&mut self, b: B) -> Cc {
        match b {
            B::Cmp(c, x, y) => self.compare(c, x, y),
            B::Is(v) => self.compare(Cond::Ne, v, V::Imm(0)),
        }
    }

    fn compare(&mut self, c: Cond, a: V, b: V) -> Cc {
        let (mut a, mut b, mut mirrored) = (a, b, false);
        if matches!(a, V::Imm(_)) {
            std::mem::swap(&mut a, &mut b);
            mirrored = true;
        }
        self.prepare(a);
        self.prepare(b);
        self.unlock();
        let (sa, sb) = (self.source(a), self.source(b));
        match (sa, sb) {
            (Src::At(Rm::Reg(r)), Src::Imm(0)) => self.a.test(r),
            (Src::At(m), Src::Imm(i)) => self.a.alu_imm(Alu::Cmp, m, i),
            (Src::At(Rm::Reg(r)), Src::At(m)) => self.a.alu(Alu::Cmp, r, m),
            (Src::At(m), Src::At(Rm::Reg(r))) => self.a.alu_to(Alu::Cmp, m, r),
            (sa, sb) => {
                let r = self.scratch();
                self.put(r, sa);
                match sb {
                    Src::Imm(i) => self.a.alu_imm(Alu::Cmp, Rm::Reg(r), i),
                    Src::At(m) => self.a.alu(Alu::Cmp, r, m),
                }
            }
        }
        self.used(a);
        self.used(b);
        self.unlock();
        match (c, mirrored) {
            (Cond::Eq, _) => Cc::E,
            (Cond::Ne, _) => Cc::Ne,
            (Cond::Lt, false) => Cc::L,
            (Cond::Lt, true) => Cc::G,
            (Cond::Ge, false) => Cc::Ge,
            (Cond::Ge, true) => Cc::Le,
            (Cond::Ltu, false) => Cc::B,
            (Cond::Ltu, true) => Cc::A,
            (Cond::Geu, false) => Cc::Ae,
            (Cond::Geu, true) => Cc::Be,
        }
    }

    /// Puts a value into a place that is no scratch register: a guest register, or an argument of a helper.
    pub(super) fn write(&mut self, to: Rm, v: V) {
        self.unlock();
        match (to, v) {
            (Rm::Reg(d), V::Node(n)) if self.nodes[usize::from(n)].at.is_none() => self.compute(n, Some(d)),
            (Rm::Reg(d), V::Imm(i)) => self.a.mov_imm(d, i),
            (Rm::Reg(d), v) => {
                let s = self.source(v);
                self.put(d, s);
            }
            (m, v) => {
                self.prepare(v);
                self.unlock();
                match self.source(v) {
                    Src::Imm(i) => self.a.mov_to_imm(m, i),
                    _ => {
                        let r = self.in_register(v);
                        self.a.mov_to(m, r);
                    }
                }
            }
        }
        self.unlock();
    }
}
