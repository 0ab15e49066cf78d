//! From a region to native code.

use crate::Generation;
use crate::emit::{Emit, Then, plain, tail_signature};
use crate::region::{Block, Region, writes};
use crate::report::Made;
use cranelift_codegen::Context;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{
    self, AbiParam, Function, InstBuilder, Signature, SourceLoc, UserFuncName, Value, types,
};
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_codegen::settings::{self, Configurable};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use isa_riscv::SLOTS;
use isa_riscv::engine::{Left, layout};
use isa_riscv::semantics::execute;

/// The back ends for this host.
#[derive(Clone)]
pub(crate) struct Isas {
    /// For integer code.
    optimizing: OwnedTargetIsa,
    /// For code with floating point: the optimizer takes its operations out of loops, also those that may not be done at all,
    /// and their exceptions would be seen.
    faithful: OwnedTargetIsa,
}

impl Isas {
    /// `None` if this host has none.
    pub(crate) fn of_host() -> Option<Isas> {
        Some(Isas { optimizing: host_isa("speed")?, faithful: host_isa("none")? })
    }
}

fn host_isa(opt_level: &str) -> Option<OwnedTargetIsa> {
    let mut flags = settings::builder();
    let wanted = [
        ("opt_level", opt_level),
        ("regalloc_algorithm", "backtracking"),
        // The guest's memory changes without this code's doing, and its accesses are to be what the guest wrote.
        ("enable_alias_analysis", "false"),
        ("enable_verifier", if cfg!(debug_assertions) { "true" } else { "false" }),
        ("unwind_info", "false"),
        ("enable_probestack", "false"),
        // Calls in tail position need them.
        ("preserve_frame_pointers", "true"),
        ("enable_heap_access_spectre_mitigation", "false"),
        ("enable_table_access_spectre_mitigation", "false"),
    ];
    for (name, value) in wanted {
        flags.set(name, value).ok()?;
    }
    cranelift_native::builder().ok()?.finish(settings::Flags::new(flags)).ok()
}

/// Translates; one for each thread that does.
pub(crate) struct Translator {
    isas: Isas,
    context: Context,
    builder: FunctionBuilderContext,
}

impl Translator {
    pub(crate) fn new(isas: Isas) -> Translator {
        Translator { isas, context: Context::new(), builder: FunctionBuilderContext::new() }
    }

    /// The native code of a region whose entry is in slot `entry`; with `places`, also which of it is for which slot.
    ///
    /// # Errors
    /// What the back end says.
    pub(crate) fn region(
        &mut self,
        region: &Region,
        entry: usize,
        generation: &Generation,
        places: bool,
    ) -> Result<Made, String> {
        self.function(tail_signature(), region.has_float(), |b| build(b, region, entry, generation, places))
    }

    fn function(
        &mut self,
        sig: Signature,
        float: bool,
        f: impl FnOnce(&mut FunctionBuilder<'_>),
    ) -> Result<Made, String> {
        let isa = if float { &self.isas.faithful } else { &self.isas.optimizing };
        self.context.clear();
        self.context.func = Function::with_name_signature(UserFuncName::default(), sig);
        let mut b = FunctionBuilder::new(&mut self.context.func, &mut self.builder);
        f(&mut b);
        b.seal_all_blocks();
        b.finalize(isa.frontend_config());
        trace::log!(Op, "OP:\n{}", self.context.func.display());
        let done = self.context.compile(&**isa, &mut ControlPlane::default());
        let code = done.map_err(|e| format!("{:?}", e.inner))?;
        if !code.buffer.relocs().is_empty() {
            return Err("the code calls what is not there".into());
        }
        let mut places = Vec::new();
        for at in code.buffer.get_srclocs_sorted() {
            let slot = at.loc.bits() as usize;
            if !at.loc.is_default() && places.last().is_none_or(|(_, last)| *last != slot) {
                places.push((at.start as usize, slot));
            }
        }
        Ok(Made { code: code.code_buffer().to_vec(), places })
    }
}

/// The present distance of a slot from the entry's, bytes.
fn distance(slot: i64, entry: usize) -> i64 {
    (slot - entry as i64) * 2
}

fn build(b: &mut FunctionBuilder<'_>, region: &Region, entry: usize, generation: &Generation, places: bool) {
    let start = b.create_block();
    b.append_block_params_for_function_params(start);
    b.switch_to_block(start);
    b.seal_block(start);
    let (cpu, base) = (b.block_params(start)[0], b.block_params(start)[1]);
    let mut tail = tail_signature();
    tail.params.push(AbiParam::new(types::I64));
    let tail = b.import_signature(tail);
    let left = b.declare_var(types::I64);
    let mut e = Emit {
        cpu,
        base,
        regs: [None; 64],
        left,
        tail,
        dirty: 0,
        done: 0,
        at: 0,
        len: 0,
        fp_on: false,
        fp_dirty: false,
        frm_seen: false,
        then: Then::On,
        b,
    };
    let v = e.field(types::I64, layout::LEFT);
    e.b.def_var(left, v);
    for n in (0..64).filter(|n| region.used >> n & 1 != 0) {
        let ty = if n < 32 { types::I64 } else { types::F64 };
        let var = e.b.declare_var(ty);
        let v = e.field(ty, Emit::place(n));
        e.b.def_var(var, v);
        e.regs[n] = Some(var);
    }
    let blocks: Vec<ir::Block> = region.blocks.iter().map(|_| e.b.create_block()).collect();
    let maker = Maker { region, entry, blocks, generation, places };
    if let Some(first) = region.block(entry as i64) {
        let first = maker.blocks[first];
        e.b.ins().jump(first, &[]);
    }
    for (n, block) in region.blocks.iter().enumerate() {
        maker.block(&mut e, n, block);
    }
}

struct Maker<'a> {
    region: &'a Region,
    entry: usize,
    blocks: Vec<ir::Block>,
    generation: &'a Generation,
    /// Whether code is marked with the slots that it is for.
    places: bool,
}

impl Maker<'_> {
    fn block(&self, e: &mut Emit<'_, '_>, n: usize, block: &Block) {
        e.b.switch_to_block(self.blocks[n]);
        e.dirty = block.dirty;
        e.done = 0;
        (e.fp_on, e.fp_dirty, e.frm_seen) = (false, false, false);
        for (slot, insn) in &block.insns {
            e.at = distance(*slot as i64, self.entry);
            e.len = insn.len() as i64;
            if self.places {
                e.b.set_srcloc(SourceLoc::new(*slot as u32));
            }
            match execute(e, *insn) {
                Ok(()) => {}
                Err(never) => match never {},
            }
            e.dirty |= writes(*insn);
            e.done += 1;
        }
        let left = e.left();
        e.b.def_var(e.left, left);
        e.done = 0;
        match (std::mem::replace(&mut e.then, Then::On), &block.next[..]) {
            (Then::To(pc), _) => self.to_anywhere(e, pc),
            (Then::Either(cond), &[taken, next]) => {
                let (yes, no) = (e.b.create_block(), e.b.create_block());
                e.b.ins().brif(cond, yes, &[], no, &[]);
                for (part, to) in [(yes, taken), (no, next)] {
                    e.b.switch_to_block(part);
                    e.b.seal_block(part);
                    self.to(e, block, to);
                }
            }
            (_, next) => self.to(e, block, next.first().copied().unwrap_or(0)),
        }
    }

    /// Goes from a block to a slot.
    fn to(&self, e: &mut Emit<'_, '_>, from: &Block, slot: i64) {
        let target = distance(slot, self.entry);
        if let Some(n) = self.region.block(slot) {
            // A loop goes back somewhere.
            if self.region.blocks[n].start <= from.start {
                self.budget(e, target);
            }
            e.b.ins().jump(self.blocks[n], &[]);
            return;
        }
        self.budget(e, target);
        if usize::try_from(slot).is_ok_and(|s| s < SLOTS) {
            self.by_link(e, target)
        } else {
            let pc = e.address(target);
            self.by_jump_cache(e, pc);
        }
    }

    /// Returns to the hart at a distance if no instruction is left.
    fn budget(&self, e: &mut Emit<'_, '_>, target: i64) {
        let left = e.left();
        let out = e.b.ins().icmp_imm_s(IntCC::SignedLessThan, left, 0);
        e.rarely(out, |e| {
            let pc = e.address(target);
            e.leave(Left::Budget, pc);
        });
    }

    fn to_anywhere(&self, e: &mut Emit<'_, '_>, pc: Value) {
        let left = e.left();
        let out = e.b.ins().icmp_imm_s(IntCC::SignedLessThan, left, 0);
        e.rarely(out, |e| e.leave(Left::Budget, pc));
        self.by_jump_cache(e, pc);
    }

    /// Goes on in another region of the page.
    fn by_link(&self, e: &mut Emit<'_, '_>, target: i64) {
        let pc = e.address(target);
        let Some(link) = self.generation.arena.new_link() else {
            return self.by_jump_cache(e, pc);
        };
        e.write_back();
        let link = e.b.ins().iconst(types::I64, link as i64);
        let code = e.b.ins().load(types::I64, plain(), link, 0);
        let none = e.b.ins().icmp_imm_s(IntCC::Equal, code, 0);
        e.rarely(none, |e| {
            e.set_field(link, layout::LINK);
            e.set_field(pc, layout::PC);
            let why = e.b.ins().iconst(types::I64, Left::On as i64);
            e.b.ins().return_(&[why]);
        });
        self.enter(e, code, pc);
    }

    /// Goes on at a virtual address.
    fn by_jump_cache(&self, e: &mut Emit<'_, '_>, pc: Value) {
        e.write_back();
        let shift = layout::JUMPS_ENTRY.trailing_zeros() as i64 - 1;
        let index = e.b.ins().ishl_imm_s(pc, shift);
        let index = e.b.ins().band_imm_s(index, ((layout::JUMPS_ENTRIES - 1) * layout::JUMPS_ENTRY) as i64);
        let table = e.field(types::I64, layout::JUMPS);
        let entry = e.b.ins().iadd(table, index);
        let its = e.b.ins().load(types::I64, plain(), entry, layout::JUMPS_ENTRY_PC as i32);
        let when = e.b.ins().load(types::I64, plain(), entry, layout::JUMPS_ENTRY_WHEN as i32);
        let now = e.field(types::I64, layout::JUMPS_NOW);
        let (a, b) = (e.b.ins().bxor(its, pc), e.b.ins().bxor(when, now));
        let differs = e.b.ins().bor(a, b);
        e.rarely(differs, |e| {
            e.set_field(pc, layout::PC);
            let why = e.b.ins().iconst(types::I64, Left::On as i64);
            e.b.ins().return_(&[why]);
        });
        let code = e.b.ins().load(types::I64, plain(), entry, layout::JUMPS_ENTRY_CODE as i32);
        self.enter(e, code, pc);
    }

    /// Goes on at code that is entered as by the hart.
    fn enter(&self, e: &mut Emit<'_, '_>, code: Value, pc: Value) {
        let enter = e.b.ins().iconst(types::I64, self.generation.thunks.enter as i64);
        let args = [e.cpu, code, pc];
        e.b.ins().return_call_indirect(e.tail, enter, &args);
    }
}
