//! What a translator of guest code to native code offers a hart, and what it gets from it.
//!
//! The hart interprets. Where control comes often it asks its [`Engine`] for native code and goes on interpreting; once the
//! code is there, a slot of the hart's code page stands for it. Native code belongs to the *bytes* of a page of physical
//! memory ([`CodeBytes`]), not to a virtual address, so address spaces and harts share it.

use crate::code::SLOTS;
use crate::cpu::{Cpu, Stop};
use crate::csr::After;
use crate::insn::Ext;
use crate::interp;
use crate::semantics::{BlockOp, CsrOp};
use sem::{AmoOp, FpOp, FpRound, Width};
use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Why native code returned to the hart. The state of the hart is that before the instruction at its pc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Left {
    /// Control goes on at the pc, for which there is no native code as far as the native code knows.
    On = 0,
    /// It did as many instructions as it was to.
    Budget = 1,
    /// The instruction at the pc traps: how is recorded in the state.
    Trap = 2,
    /// The instruction at the pc is to be interpreted, although there may be native code for it.
    Step = 3,
}

impl Left {
    /// From its number.
    pub fn from_number(n: u64) -> Option<Left> {
        [Left::On, Left::Budget, Left::Trap, Left::Step].into_iter().find(|l| *l as u64 == n)
    }
}

/// A translator. Any thread may call it.
pub trait Engine: Send + Sync {
    /// The bytes of a page of code with their translations: those that are there for the same page with the same bytes, or
    /// new ones.
    fn page(&self, number: u64, halves: &[u16; SLOTS]) -> Arc<CodeBytes>;

    /// Asks for a translation of what begins in `slot` of the page, to which control came often. It may be there when this
    /// returns, or later, or never; so may those of other slots.
    fn translate(&self, page: &Arc<CodeBytes>, slot: usize, ext: Ext);

    /// Runs native code at `code`, which one of the [`CodeBytes`] gave, until it returns.
    fn run(&self, cpu: &mut Cpu, code: u64) -> Left;

    /// Lets the native code whose wish to be linked is `link` go on at `code` directly.
    fn link(&self, link: u64, code: u64);

    /// Grows when all translations so far are to be forgotten, for room.
    fn generation(&self) -> u64;
}

/// What is known of the translation of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Translation {
    /// Nobody asked for it yet.
    None,
    /// It was asked for.
    Asked,
    /// It is at this address.
    Native(u64),
    /// There is none: the instruction is for the interpreter.
    Never,
}

/// The bytes of a page of code, and where native code for them is.
pub struct CodeBytes {
    /// The number of the physical page.
    pub number: u64,
    /// The halfwords.
    pub halves: Box<[u16; SLOTS]>,
    known: Mutex<Known>,
    /// Grows with each native code that gets known.
    version: AtomicU64,
    /// Keeps the native code.
    keeps: Arc<dyn Any + Send + Sync>,
}

#[derive(Default)]
struct Known {
    slots: HashMap<u16, Translation>,
    /// How often slots were asked for in vain.
    asked: HashMap<u16, u32>,
    /// Slots in the midst of what was translated for another one.
    inside: HashSet<u16>,
}

impl CodeBytes {
    /// Of these bytes; `keep` is what must live while native code may be run.
    pub fn new(number: u64, halves: &[u16; SLOTS], keep: Arc<dyn Any + Send + Sync>) -> CodeBytes {
        CodeBytes {
            number,
            halves: Box::new(*halves),
            known: Mutex::default(),
            version: AtomicU64::new(0),
            keeps: keep,
        }
    }

    /// What lives while native code may be run.
    pub fn keeps(&self) -> &Arc<dyn Any + Send + Sync> {
        &self.keeps
    }

    /// What is known of a slot.
    pub fn translation(&self, slot: usize) -> Translation {
        self.known().slots.get(&(slot as u16)).copied().unwrap_or(Translation::None)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells what is known of a slot.
    pub fn set_translation(&self, slot: usize, t: Translation) {
        self.known().slots.insert(slot as u16, t);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Grows with each native code that gets known.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Slots for which there is native code, with its address.
    pub(crate) fn natives(&self) -> Vec<(usize, u64)> {
        let native = |(slot, t): (&u16, &Translation)| match t {
            Translation::Native(code) => Some((usize::from(*slot), *code)),
            _ => None,
        };
        self.known().slots.iter().filter_map(native).collect()
    }

    /// Counts that a slot was asked for: how often it was.
    pub fn ask(&self, slot: usize) -> u32 {
        let mut known = self.known();
        let n = known.asked.entry(slot as u16).or_default();
        *n += 1;
        *n
    }

    /// Tells of native code for slots.
    pub fn set_natives(&self, natives: impl Iterator<Item = (usize, u64)>) {
        let mut known = self.known();
        known.slots.extend(natives.map(|(slot, code)| (slot as u16, Translation::Native(code))));
        drop(known);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Whether a slot is in the midst of what was translated for another one.
    pub fn is_inside(&self, slot: usize) -> bool {
        self.known().inside.contains(&(slot as u16))
    }

    /// Tells that slots are in the midst of what was translated for another one.
    pub fn add_inside(&self, slots: impl Iterator<Item = usize>) {
        self.known().inside.extend(slots.map(|s| s as u16));
    }
}

impl Cpu {
    /// A load of `len` (1, 2, 4, 8) bytes by native code that missed the TLB; `None`: a trap is recorded.
    pub fn native_load(&mut self, addr: u64, len: u64) -> Option<u64> {
        self.load_slow(addr, size_of_len(len)).ok()
    }

    /// A store of the low `len` bytes of `v`.
    pub fn native_store(&mut self, addr: u64, v: u64, len: u64) -> Option<()> {
        self.store_slow(addr, v, size_of_len(len)).ok()
    }

    /// An atomic read-modify-write by native code; `None`: a trap is recorded.
    pub fn native_amo(&mut self, op: AmoOp, addr: u64, v: u64, size: Width) -> Option<u64> {
        interp::amo(self, op, addr, v, size).ok()
    }

    /// `lr`.
    pub fn native_load_reserved(&mut self, addr: u64, size: Width) -> Option<u64> {
        interp::load_reserved(self, addr, size).ok()
    }

    /// `sc`.
    pub fn native_store_conditional(&mut self, addr: u64, v: u64, size: Width) -> Option<u64> {
        interp::store_conditional(self, addr, v, size).ok()
    }

    /// An access to a control and status register other than a counter of instructions: the old value, and whether an
    /// interrupt is to be taken afterwards; `None`: it is illegal.
    pub fn native_csr(&mut self, access: CsrAccess, operand: u64) -> Option<(u64, bool)> {
        let CsrAccess { op, csr, read, write } = access;
        let (v, after) = self.csr_access(op, csr, write.then_some(operand), read).ok()?;
        Some((v, after == After::Look && self.deliverable().is_some()))
    }

    /// An operation on a cache block: whether it is done, or the interpreter has to say why not; `None`: a trap is recorded.
    pub fn native_block(&mut self, op: BlockOp, addr: u64) -> Option<bool> {
        match interp::block(self, op, addr) {
            Ok(()) => Some(true),
            Err(Stop::Illegal) => Some(false),
            Err(_) => None,
        }
    }

    /// A floating-point operation in software, with its flags.
    pub fn native_float(&mut self, op: FpOp, args: [u64; 3], round: FpRound) -> u64 {
        interp::float(self, op, args[0], args[1], args[2], round)
    }

    /// The address of the next instruction.
    pub fn pc(&self) -> u64 {
        self.pc
    }

    /// The rounding mode register.
    pub fn frm(&self) -> u8 {
        self.frm
    }

    /// Adds to the accrued exceptions (bits of `fflags`).
    pub fn accrue(&mut self, flags: u8) {
        if flags != 0 {
            self.fflags |= flags & 31;
            self.mstatus |= crate::spec::mstatus::FS;
        }
    }
}

/// What a CSR instruction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CsrAccess {
    /// How the register changes.
    pub op: CsrOp,
    /// Its number.
    pub csr: u16,
    /// The old value is wanted.
    pub read: bool,
    /// It changes.
    pub write: bool,
}

fn size_of_len(len: u64) -> mem::Size {
    match len {
        1 => mem::Size::B1,
        2 => mem::Size::B2,
        4 => mem::Size::B4,
        _ => mem::Size::B8,
    }
}

/// Where native code finds a hart's state: offsets into [`Cpu`], in bytes.
#[allow(missing_docs, reason = "the names of what is there")]
pub mod layout {
    use crate::cpu::Cpu;
    use crate::{jumps, tlb};
    use std::mem::offset_of;

    pub const X: usize = offset_of!(Cpu, x);
    pub const F: usize = offset_of!(Cpu, f);
    pub const PC: usize = offset_of!(Cpu, pc);
    pub const MSTATUS: usize = offset_of!(Cpu, mstatus);
    /// One byte.
    pub const FRM: usize = offset_of!(Cpu, frm);
    /// Instructions that are left, signed.
    pub const LEFT: usize = offset_of!(Cpu, left);
    /// A word that nobody reads.
    pub const SCRATCH: usize = offset_of!(Cpu, scratch);
    /// The virtual address of the page that code is in.
    pub const PAGE: usize = offset_of!(Cpu, page);
    pub const LINK: usize = offset_of!(Cpu, link);
    /// A pointer to the present tables of the TLB.
    pub const TLB: usize = offset_of!(Cpu, tlb) + tlb::layout::TABLES;
    /// Where in those the entries for loads and for stores are.
    pub const TLB_READ: usize = tlb::layout::READ;
    pub const TLB_WRITE: usize = tlb::layout::WRITE;
    pub const TLB_ENTRIES: usize = tlb::ENTRIES;
    pub const TLB_ENTRY: usize = tlb::layout::ENTRY;
    pub const TLB_ENTRY_TAG: usize = tlb::layout::ENTRY_TAG;
    pub const TLB_ENTRY_ADDEND: usize = tlb::layout::ENTRY_ADDEND;
    /// A pointer to the entries of the jump cache.
    pub const JUMPS: usize = offset_of!(Cpu, jumps) + jumps::layout::ENTRIES;
    pub const JUMPS_NOW: usize = offset_of!(Cpu, jumps) + jumps::layout::NOW;
    pub const JUMPS_ENTRIES: usize = jumps::JumpCache::SIZE;
    pub const JUMPS_ENTRY: usize = jumps::layout::ENTRY;
    pub const JUMPS_ENTRY_PC: usize = jumps::layout::PC;
    pub const JUMPS_ENTRY_WHEN: usize = jumps::layout::WHEN;
    pub const JUMPS_ENTRY_CODE: usize = jumps::layout::CODE;
}
