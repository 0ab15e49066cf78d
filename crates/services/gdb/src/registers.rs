//! A riscv64 hart's registers as debuggers number and name them: GDB's "Standard Target Features, RISC-V Features".

use gdbstub::arch::{Arch, RegId, Registers};
use std::fmt::Write as _;
use std::num::NonZeroUsize;
use vcpu::Register;

const FIRST_F: usize = 33;
const FIRST_CSR: usize = 65;
const MODE: usize = FIRST_CSR + 4096;

/// Names of the integer registers.
const X: [&str; 32] = [
    "zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "fp", "s1", "a0", "a1", "a2", "a3", "a4", "a5", "a6",
    "a7", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6",
];
/// Those of the floating-point registers.
const F: [&str; 32] = [
    "ft0", "ft1", "ft2", "ft3", "ft4", "ft5", "ft6", "ft7", "fs0", "fs1", "fa0", "fa1", "fa2", "fa3", "fa4",
    "fa5", "fa6", "fa7", "fs2", "fs3", "fs4", "fs5", "fs6", "fs7", "fs8", "fs9", "fs10", "fs11", "ft8",
    "ft9", "ft10", "ft11",
];
/// Addresses and names of control and status registers; those in a row are numbered.
const CSRS: &[(u16, u16, &str)] = &[
    (0x100, 1, "sstatus"),
    (0x104, 1, "sie"),
    (0x105, 1, "stvec"),
    (0x106, 1, "scounteren"),
    (0x10a, 1, "senvcfg"),
    (0x140, 1, "sscratch"),
    (0x141, 1, "sepc"),
    (0x142, 1, "scause"),
    (0x143, 1, "stval"),
    (0x144, 1, "sip"),
    (0x14d, 1, "stimecmp"),
    (0x180, 1, "satp"),
    (0x300, 1, "mstatus"),
    (0x301, 1, "misa"),
    (0x302, 1, "medeleg"),
    (0x303, 1, "mideleg"),
    (0x304, 1, "mie"),
    (0x305, 1, "mtvec"),
    (0x306, 1, "mcounteren"),
    (0x30a, 1, "menvcfg"),
    (0x320, 1, "mcountinhibit"),
    (0x323, 29, "mhpmevent3"),
    (0x340, 1, "mscratch"),
    (0x341, 1, "mepc"),
    (0x342, 1, "mcause"),
    (0x343, 1, "mtval"),
    (0x344, 1, "mip"),
    (0x3a0, 16, "pmpcfg0"),
    (0x3b0, 64, "pmpaddr0"),
    (0xb00, 1, "mcycle"),
    (0xb02, 1, "minstret"),
    (0xb03, 29, "mhpmcounter3"),
    (0xc00, 1, "cycle"),
    (0xc01, 1, "time"),
    (0xc02, 1, "instret"),
    (0xc03, 29, "hpmcounter3"),
    (0xf11, 1, "mvendorid"),
    (0xf12, 1, "marchid"),
    (0xf13, 1, "mimpid"),
    (0xf14, 1, "mhartid"),
    (0xf15, 1, "mconfigptr"),
];
const FLOAT_CSRS: [(u16, &str); 3] = [(1, "fflags"), (2, "frm"), (3, "fcsr")];
const MISA: u16 = 0x301;

/// The architecture, for the protocol's library.
pub(crate) enum Riscv64 {}

impl Arch for Riscv64 {
    type Usize = u64;
    type Registers = Core;
    type BreakpointKind = usize;
    type RegId = Id;
}

/// What is told in one go: the integer registers and the program counter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Core {
    pub(crate) x: [u64; 32],
    pub(crate) pc: u64,
}

impl Registers for Core {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        self.pc
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        for v in self.x.iter().chain([&self.pc]) {
            v.to_le_bytes().into_iter().for_each(|b| write_byte(Some(b)));
        }
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        let (words, _) = bytes.as_chunks::<8>();
        if words.len() < 33 {
            return Err(());
        }
        for (x, w) in self.x.iter_mut().chain([&mut self.pc]).zip(words) {
            *x = u64::from_le_bytes(*w);
        }
        Ok(())
    }
}

/// A register by its number in the description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id {
    pub(crate) register: Register,
    /// Bytes.
    pub(crate) size: usize,
}

impl RegId for Id {
    fn from_raw_id(id: usize) -> Option<(Id, Option<NonZeroUsize>)> {
        let (register, size) = match id {
            0..32 => (Register::X(id as u8), 8),
            32 => (Register::Pc, 8),
            FIRST_F..FIRST_CSR => (Register::F((id - FIRST_F) as u8), 8),
            FIRST_CSR..MODE => {
                let n = (id - FIRST_CSR) as u16;
                (Register::Csr(n), if (1..=3).contains(&n) { 4 } else { 8 })
            }
            MODE => (Register::Mode, 8),
            _ => return None,
        };
        Some((Id { register, size }, NonZeroUsize::new(size)))
    }
}

/// The description of the registers, which debuggers read as `target.xml`; `read` gives a register of the hart, if there
/// is one.
pub(crate) fn description(read: impl Fn(Register) -> Option<u64>) -> String {
    let mut out = String::from(
        "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target version=\"1.0\">\
         <architecture>riscv:rv64</architecture>\n<feature name=\"org.gnu.gdb.riscv.cpu\">\n",
    );
    let reg = |name: &str, bits: u32, kind: &str, n: usize, out: &mut String| {
        let _ = writeln!(out, "<reg name=\"{name}\" bitsize=\"{bits}\" type=\"{kind}\" regnum=\"{n}\"/>");
    };
    for (n, name) in X.iter().enumerate() {
        let kind = match n {
            1 => "code_ptr",
            2 | 3 | 4 | 8 => "data_ptr",
            _ => "int",
        };
        reg(name, 64, kind, n, &mut out);
    }
    reg("pc", 64, "code_ptr", 32, &mut out);
    out.push_str("</feature>\n");
    let letter = |c: u8| read(Register::Csr(MISA)).is_some_and(|m| m >> (c - b'a') & 1 != 0);
    if letter(b'f') {
        out.push_str("<feature name=\"org.gnu.gdb.riscv.fpu\">\n");
        let kind = if letter(b'd') {
            out.push_str(
                "<union id=\"riscv_double\"><field name=\"float\" type=\"ieee_single\"/>\
                 <field name=\"double\" type=\"ieee_double\"/></union>\n",
            );
            "riscv_double"
        } else {
            "ieee_single"
        };
        for (n, name) in F.iter().enumerate() {
            reg(name, 64, kind, FIRST_F + n, &mut out);
        }
        for (n, name) in FLOAT_CSRS {
            reg(name, 32, "int", FIRST_CSR + usize::from(n), &mut out);
        }
        out.push_str("</feature>\n");
    }
    out.push_str("<feature name=\"org.gnu.gdb.riscv.virtual\">\n");
    reg("priv", 64, "int", MODE, &mut out);
    out.push_str("</feature>\n<feature name=\"org.gnu.gdb.riscv.csr\">\n");
    for &(first, count, name) in CSRS {
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let from: u16 = name[stem.len()..].parse().unwrap_or(0);
        for i in (0..count).filter(|i| read(Register::Csr(first + i)).is_some()) {
            let n = FIRST_CSR + usize::from(first + i);
            if count == 1 {
                reg(name, 64, "int", n, &mut out);
            } else {
                reg(&format!("{stem}{}", from + i), 64, "int", n, &mut out);
            }
        }
    }
    out.push_str("</feature>\n</target>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_names_what_there_is() {
        let text = description(|r| match r {
            Register::Csr(MISA) => Some(1 << 5 | 1 << 3),
            Register::Csr(n) => (n != 0x3a1).then_some(0),
            _ => Some(0),
        });
        for has in [
            "name=\"fp\" bitsize=\"64\" type=\"data_ptr\" regnum=\"8\"",
            "name=\"pc\" bitsize=\"64\" type=\"code_ptr\" regnum=\"32\"",
            "name=\"ft11\" bitsize=\"64\" type=\"riscv_double\" regnum=\"64\"",
            "name=\"fcsr\" bitsize=\"32\" type=\"int\" regnum=\"68\"",
            "name=\"satp\" bitsize=\"64\" type=\"int\" regnum=\"449\"",
            "name=\"mhpmcounter31\" bitsize=\"64\" type=\"int\" regnum=\"2912\"",
            "name=\"priv\" bitsize=\"64\" type=\"int\" regnum=\"4161\"",
        ] {
            assert!(text.contains(has), "{has} in {text}");
        }
        assert!(text.contains("\"pmpcfg0\"") && !text.contains("\"pmpcfg1\""));
        let without = description(|r| (r != Register::Csr(MISA)).then_some(0));
        assert!(!without.contains("riscv.fpu"));
    }

    #[test]
    fn numbers_are_those_of_the_description() {
        for n in 0..4200 {
            let known = Id::from_raw_id(n);
            assert_eq!(known.is_some(), n <= MODE);
        }
        let (id, size) = Id::from_raw_id(FIRST_CSR + 2).unwrap();
        assert_eq!((id.register, size.unwrap().get()), (Register::Csr(2), 4));
        assert_eq!(Id::from_raw_id(64).unwrap().0.register, Register::F(31));
    }

    #[test]
    fn registers_survive_the_wire() {
        let core = Core { x: std::array::from_fn(|i| i as u64 * 0x0101_0101_0101), pc: 0x8000_0000 };
        let mut bytes = Vec::new();
        core.gdb_serialize(|b| bytes.extend(b));
        assert_eq!(bytes.len(), 33 * 8);
        let mut back = Core::default();
        back.gdb_deserialize(&bytes).unwrap();
        assert_eq!(back, core);
        assert_eq!(back.gdb_deserialize(&bytes[1..]), Err(()));
    }
}
