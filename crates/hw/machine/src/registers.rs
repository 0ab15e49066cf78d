//! What the human monitor shows of harts and memory.

use crate::machine::Machine;
use mem::FlatKind;
use std::fmt::Write as _;
use vcpu::{CpuState, F_NAMES, X_NAMES};

/// The registers of the first hart, or of all.
pub(crate) fn info(machine: &Machine, all: bool) -> String {
    let Some(cpus) = machine.cpus() else { return "No CPU available\n".into() };
    let n = if all { cpus.len() as u32 } else { 1 };
    (0..n).filter_map(|h| Some(format!("\nCPU#{h}\n{}", draw(&cpus.registers(h)?)))).collect()
}

fn draw(s: &CpuState) -> String {
    let mut out = String::new();
    let rows = [
        ("pc", s.pc),
        ("mhartid", s.hart),
        ("mstatus", s.mstatus),
        ("mip", s.mip),
        ("mie", s.mie),
        ("mideleg", s.mideleg),
        ("medeleg", s.medeleg),
        ("mtvec", s.mtvec),
        ("stvec", s.stvec),
        ("mepc", s.mepc),
        ("sepc", s.sepc),
        ("mcause", s.mcause),
        ("scause", s.scause),
        ("mtval", s.mtval),
        ("stval", s.stval),
        ("mscratch", s.mscratch),
        ("sscratch", s.sscratch),
        ("satp", s.satp),
    ];
    for (name, v) in rows {
        let _ = writeln!(out, " {name:<8} {v:016x}");
    }
    grid(&mut out, 'x', &X_NAMES, &s.x);
    let _ = writeln!(out, " {:<8} {:016x}", "fcsr", s.fcsr);
    grid(&mut out, 'f', &F_NAMES, &s.f);
    out
}

fn grid(out: &mut String, kind: char, names: &[&str; 32], values: &[u64; 32]) {
    for (i, (name, v)) in names.iter().zip(values).enumerate() {
        let _ = write!(out, " {:<8} {v:016x}", format!("{kind}{i}/{name}"));
        if i % 4 == 3 {
            out.push('\n');
        }
    }
}

/// The tree of memory regions, or with `flat` what an access finds.
pub(crate) fn mtree(machine: &Machine, flat: bool) -> String {
    let Some(space) = machine.memory() else { return String::new() };
    if !flat {
        return space.mtree();
    }
    let mut out =
        format!("FlatView #0\n AS \"{0}\", root: system\n Root memory region: system\n", space.name());
    for r in space.map().ranges() {
        let (kind, name) = match &r.kind {
            FlatKind::Ram { writes: Some((dev, _)), .. } => ("romd", dev.name()),
            FlatKind::Ram { read_only: true, mem, .. } => ("rom", mem.name()),
            FlatKind::Ram { mem, .. } => ("ram", mem.name()),
            FlatKind::Io { dev, .. } => ("i/o", dev.name()),
        };
        let _ = writeln!(out, "  {:016x}-{:016x} (prio 0, {kind}): {name}", r.start, r.last);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_stand_in_a_grid_by_their_names() {
        let mut out = String::new();
        let mut x = [0; 32];
        x[10] = 0xdead_beef;
        grid(&mut out, 'x', &X_NAMES, &x);
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines.len(), 8);
        let zero = "0000000000000000";
        assert_eq!(lines[0], format!(" x0/zero  {zero} x1/ra    {zero} x2/sp    {zero} x3/gp    {zero}"));
        assert_eq!(
            lines[2],
            format!(" x8/s0    {zero} x9/s1    {zero} x10/a0   00000000deadbeef x11/a1   {zero}")
        );
    }
}
