//! A riscv64 hart's registers as debuggers number and name them: GDB's "Standard Target Features, RISC-V Features".

use gdbstub::arch::{Arch, RegId, Registers};
use std::fmt::Write as _;
use std::num::NonZeroUsize;
use vcpu::{F_NAMES, Register, X_NAMES, csr_names};

const FIRST_F: usize = 33;
const FIRST_CSR: usize = 65;
const MODE: usize = FIRST_CSR + 4096;

/// The registers of floating point, which are told among those.
const FLOAT_CSRS: std::ops::RangeInclusive<u16> = 1..=3;
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
                (Register::Csr(n), if FLOAT_CSRS.contains(&n) { 4 } else { 8 })
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
    for (n, name) in X_NAMES.iter().enumerate() {
        let (name, kind) = match n {
            1 => (*name, "code_ptr"),
            // Debuggers call it what it is for.
            8 => ("fp", "data_ptr"),
            2..=4 => (*name, "data_ptr"),
            _ => (*name, "int"),
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
        for (n, name) in F_NAMES.iter().enumerate() {
            reg(name, 64, kind, FIRST_F + n, &mut out);
        }
        for (n, name) in csr_names().filter(|(n, _)| FLOAT_CSRS.contains(n)) {
            reg(&name, 32, "int", FIRST_CSR + usize::from(n), &mut out);
        }
        out.push_str("</feature>\n");
    }
    out.push_str("<feature name=\"org.gnu.gdb.riscv.virtual\">\n");
    reg("priv", 64, "int", MODE, &mut out);
    out.push_str("</feature>\n<feature name=\"org.gnu.gdb.riscv.csr\">\n");
    for (n, name) in csr_names() {
        if !FLOAT_CSRS.contains(&n) && read(Register::Csr(n)).is_some() {
            reg(&name, 64, "int", FIRST_CSR + usize::from(n), &mut out);
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
