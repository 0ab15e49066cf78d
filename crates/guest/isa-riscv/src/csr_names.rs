//! Names of the control and status registers, by their addresses.

/// Address, how many in a row are numbered from the name's own number on, and the name.
const NAMES: &[(u16, u16, &str)] = &[
    (0x001, 1, "fflags"),
    (0x002, 1, "frm"),
    (0x003, 1, "fcsr"),
    (0x008, 1, "vstart"),
    (0x009, 1, "vxsat"),
    (0x00a, 1, "vxrm"),
    (0x00f, 1, "vcsr"),
    (0x011, 1, "ssp"),
    (0x015, 1, "seed"),
    (0x017, 1, "jvt"),
    (0x100, 1, "sstatus"),
    (0x104, 1, "sie"),
    (0x105, 1, "stvec"),
    (0x106, 1, "scounteren"),
    (0x10a, 1, "senvcfg"),
    (0x10c, 4, "sstateen0"),
    (0x140, 1, "sscratch"),
    (0x141, 1, "sepc"),
    (0x142, 1, "scause"),
    (0x143, 1, "stval"),
    (0x144, 1, "sip"),
    (0x14d, 1, "stimecmp"),
    (0x150, 1, "siselect"),
    (0x151, 1, "sireg"),
    (0x15c, 1, "stopei"),
    (0x180, 1, "satp"),
    (0xdb0, 1, "stopi"),
    (0x200, 1, "vsstatus"),
    (0x204, 1, "vsie"),
    (0x205, 1, "vstvec"),
    (0x240, 1, "vsscratch"),
    (0x241, 1, "vsepc"),
    (0x242, 1, "vscause"),
    (0x243, 1, "vstval"),
    (0x244, 1, "vsip"),
    (0x280, 1, "vsatp"),
    (0x600, 1, "hstatus"),
    (0x602, 1, "hedeleg"),
    (0x603, 1, "hideleg"),
    (0x604, 1, "hie"),
    (0x605, 1, "htimedelta"),
    (0x606, 1, "hcounteren"),
    (0x607, 1, "hgeie"),
    (0x60a, 1, "henvcfg"),
    (0x643, 1, "htval"),
    (0x644, 1, "hip"),
    (0x645, 1, "hvip"),
    (0x64a, 1, "htinst"),
    (0x680, 1, "hgatp"),
    (0xe12, 1, "hgeip"),
    (0x300, 1, "mstatus"),
    (0x301, 1, "misa"),
    (0x302, 1, "medeleg"),
    (0x303, 1, "mideleg"),
    (0x304, 1, "mie"),
    (0x305, 1, "mtvec"),
    (0x306, 1, "mcounteren"),
    (0x30a, 1, "menvcfg"),
    (0x30c, 4, "mstateen0"),
    (0x320, 1, "mcountinhibit"),
    (0x323, 29, "mhpmevent3"),
    (0x340, 1, "mscratch"),
    (0x341, 1, "mepc"),
    (0x342, 1, "mcause"),
    (0x343, 1, "mtval"),
    (0x344, 1, "mip"),
    (0x34a, 1, "mtinst"),
    (0x34b, 1, "mtval2"),
    (0x350, 1, "miselect"),
    (0x351, 1, "mireg"),
    (0x35c, 1, "mtopei"),
    (0x3a0, 16, "pmpcfg0"),
    (0x3b0, 64, "pmpaddr0"),
    (0x747, 1, "mseccfg"),
    (0x7a0, 1, "tselect"),
    (0x7a1, 3, "tdata1"),
    (0x7a4, 1, "tinfo"),
    (0x7b0, 1, "dcsr"),
    (0x7b1, 1, "dpc"),
    (0x7b2, 2, "dscratch0"),
    (0xb00, 1, "mcycle"),
    (0xb02, 1, "minstret"),
    (0xb03, 29, "mhpmcounter3"),
    (0xc00, 1, "cycle"),
    (0xc01, 1, "time"),
    (0xc02, 1, "instret"),
    (0xc03, 29, "hpmcounter3"),
    (0xc20, 1, "vl"),
    (0xc21, 1, "vtype"),
    (0xc22, 1, "vlenb"),
    (0xf11, 1, "mvendorid"),
    (0xf12, 1, "marchid"),
    (0xf13, 1, "mimpid"),
    (0xf14, 1, "mhartid"),
    (0xf15, 1, "mconfigptr"),
    (0xfb0, 1, "mtopi"),
];

fn numbered(name: &str, i: u16, of: u16) -> String {
    if of == 1 {
        return name.into();
    }
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let from: u16 = name[stem.len()..].parse().unwrap_or(0);
    format!("{stem}{}", from + i)
}

/// Every register that the standards name, whether a hart has it or not: address and name.
pub fn csr_names() -> impl Iterator<Item = (u16, String)> {
    NAMES.iter().flat_map(|&(at, n, name)| (0..n).map(move |i| (at + i, numbered(name, i, n))))
}

/// The name of a register.
pub fn csr_name(csr: u16) -> Option<String> {
    let &(at, n, name) = NAMES.iter().find(|(at, n, _)| (*at..at + n).contains(&csr))?;
    Some(numbered(name, csr - at, n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_register_has_one_name() {
        let mut all: Vec<_> = csr_names().collect();
        for (at, name) in &all {
            assert_eq!(csr_name(*at).as_ref(), Some(name));
        }
        let n = all.len();
        all.sort_by(|a, b| a.1.cmp(&b.1));
        all.dedup_by(|a, b| a.1 == b.1);
        assert_eq!(all.len(), n);
        assert_eq!(csr_name(0x33f).unwrap(), "mhpmevent31");
        assert_eq!((csr_name(0x3b3).unwrap(), csr_name(0x7c0)), ("pmpaddr3".into(), None));
    }
}
