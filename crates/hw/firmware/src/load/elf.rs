//! ELF programs (the System V ABI's chapter 5) for 64-bit little-endian RISC-V.

use super::Segment;
use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{LittleEndian, elf::ProgramHeader64};

/// A program's loadable parts at the physical addresses that it was linked for.
#[derive(Debug)]
pub(super) struct Program {
    pub segments: Vec<Segment>,
    /// The entry point's physical address.
    pub entry: u64,
    /// Whether it may run elsewhere: it is position-independent, or is linked at virtual addresses of its own.
    pub movable: bool,
}

/// Whether the bytes look like any ELF file.
pub(super) fn is_elf(data: &[u8]) -> bool {
    data.starts_with(&elf::ELFMAG)
}

/// Parses a program; the error says what is wrong with the file.
pub(super) fn parse(data: &[u8]) -> Result<Program, String> {
    let bad = |e: object::read::Error| format!("damaged ELF file: {e}");
    if data.get(4) != Some(&elf::ELFCLASS64.0) || data.get(5) != Some(&elf::ELFDATA2LSB.0) {
        return Err("an ELF file that is not 64-bit little-endian".into());
    }
    let header = FileHeader64::<LittleEndian>::parse(data).map_err(bad)?;
    let e = header.endian().map_err(bad)?;
    if header.e_machine(e) != elf::EM_RISCV {
        return Err(format!("an ELF file for another machine ({}), not RISC-V", header.e_machine(e)));
    }
    let kind = header.e_type(e);
    if kind != elf::ET_EXEC && kind != elf::ET_DYN {
        return Err("an ELF file that is not a program".into());
    }
    let all = header.program_headers(e, data).map_err(bad)?;
    let loads: Vec<&ProgramHeader64<LittleEndian>> =
        all.iter().filter(|p| p.p_type(e) == elf::PT_LOAD && p.p_memsz(e) > 0).collect();
    let mut segments = Vec::new();
    for p in &loads {
        let bytes = p.data(e, data).map_err(|()| "damaged ELF file: a segment leaves the file".to_owned())?;
        let zero = p.p_memsz(e).checked_sub(bytes.len() as u64);
        let zero = zero.ok_or("damaged ELF file: a segment is larger in the file than in memory")?;
        let s = Segment { addr: p.p_paddr(e), data: bytes.into(), zero };
        s.end().ok_or("damaged ELF file: a segment leaves the address space")?;
        segments.push(s);
    }
    if segments.is_empty() {
        return Err("an ELF file without anything to load".into());
    }
    let entry = header.e_entry(e);
    // The entry point is a virtual address; its segment says where that is.
    let home = loads.iter().find(|p| entry >= p.p_vaddr(e) && entry - p.p_vaddr(e) < p.p_memsz(e));
    let entry = match home {
        Some(p) => p.p_paddr(e).checked_add(entry - p.p_vaddr(e)),
        None => loads
            .iter()
            .any(|p| entry >= p.p_paddr(e) && entry - p.p_paddr(e) < p.p_memsz(e))
            .then_some(entry),
    };
    let entry = entry.ok_or("an ELF file whose entry point is in none of its segments")?;
    let movable = kind == elf::ET_DYN || loads.iter().any(|p| p.p_vaddr(e) != p.p_paddr(e));
    Ok(Program { segments, entry, movable })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An ELF file with one segment of `data` and its zeros.
    pub(in super::super) fn file(
        kind: u16,
        vaddr: u64,
        paddr: u64,
        entry: u64,
        data: &[u8],
        memsz: u64,
    ) -> Vec<u8> {
        let mut f = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
        f.resize(16, 0);
        f.extend(kind.to_le_bytes());
        f.extend(elf::EM_RISCV.0.to_le_bytes());
        f.extend(1u32.to_le_bytes());
        for v in [entry, 64, 0] {
            f.extend(v.to_le_bytes());
        }
        f.extend(0u32.to_le_bytes());
        for v in [64u16, 56, 1, 64, 0, 0] {
            f.extend(v.to_le_bytes());
        }
        f.extend(1u32.to_le_bytes());
        f.extend(7u32.to_le_bytes());
        for v in [120, vaddr, paddr, data.len() as u64, memsz, 4096] {
            f.extend(v.to_le_bytes());
        }
        f.extend(data);
        f
    }

    #[test]
    fn a_virtual_entry_becomes_physical() {
        let f = file(elf::ET_EXEC.0, 0xffff_ffff_8000_0000, 0x8020_0000, 0xffff_ffff_8000_0002, b"code", 100);
        let p = parse(&f).unwrap();
        assert_eq!(p.entry, 0x8020_0002);
        assert!(p.movable);
        assert_eq!(p.segments, [Segment { addr: 0x8020_0000, data: (*b"code").into(), zero: 96 }]);
    }

    #[test]
    fn what_cannot_be_loaded_says_why() {
        let good = file(elf::ET_EXEC.0, 0x8000_0000, 0x8000_0000, 0x8000_0000, b"code", 4);
        assert!(!parse(&good).unwrap().movable);
        let why = |f: &[u8]| parse(f).unwrap_err();
        let mut f = good.clone();
        f[4] = 1;
        assert!(why(&f).contains("64-bit"));
        let mut f = good.clone();
        f[18] = 62;
        assert!(why(&f).contains("another machine"));
        let mut f = good.clone();
        f[16] = 1;
        assert!(why(&f).contains("not a program"));
        assert!(why(&good[..121]).contains("leaves the file"));
        let f = file(2, 0x8000_0000, 0x8000_0000, 0x9000_0000, b"code", 4);
        assert!(why(&f).contains("entry point"));
        let f = file(2, 0x8000_0000, 0x8000_0000, 0x8000_0000, b"code", 3);
        assert!(why(&f).contains("larger in the file"));
        let f = file(2, u64::MAX - 1, u64::MAX - 1, u64::MAX - 1, b"code", 4);
        assert!(why(&f).contains("address space"));
    }

    #[test]
    fn damage_never_panics() {
        let good = file(elf::ET_DYN.0, 0, 0, 0, b"code", 4096);
        for n in 0..good.len() {
            let _ = parse(&good[..n]);
        }
        for i in 0..120 {
            for v in [0, 1, 0x7f, 0x80, 0xff] {
                let mut f = good.clone();
                f[i] = v;
                let _ = parse(&f);
            }
        }
    }
}
