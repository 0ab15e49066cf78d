//! Numbers from the privileged specification: CSR addresses, fields, causes.

/// Privilege modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Mode {
    /// User.
    U = 0,
    /// Supervisor.
    S = 1,
    /// Machine.
    M = 3,
}

impl Mode {
    /// From the two bits of `MPP`; `None` for the reserved value.
    pub fn from_bits(v: u64) -> Option<Mode> {
        match v & 3 {
            0 => Some(Mode::U),
            1 => Some(Mode::S),
            3 => Some(Mode::M),
            _ => None,
        }
    }
}

/// Exception codes of `mcause` and `scause`.
#[allow(missing_docs, reason = "the standard's names")]
pub mod cause {
    pub const FETCH_ACCESS: u64 = 1;
    pub const ILLEGAL: u64 = 2;
    pub const BREAKPOINT: u64 = 3;
    pub const LOAD_MISALIGNED: u64 = 4;
    pub const LOAD_ACCESS: u64 = 5;
    pub const STORE_MISALIGNED: u64 = 6;
    pub const STORE_ACCESS: u64 = 7;
    pub const ECALL_U: u64 = 8;
    pub const ECALL_S: u64 = 9;
    pub const ECALL_M: u64 = 11;
    pub const FETCH_PAGE: u64 = 12;
    pub const LOAD_PAGE: u64 = 13;
    pub const STORE_PAGE: u64 = 15;
    /// Set in the cause of an interrupt.
    pub const INTERRUPT: u64 = 1 << 63;
}

/// Interrupt bits of `mip` and `mie`.
#[allow(missing_docs, reason = "the standard's names")]
pub mod irq {
    pub const SSI: u64 = 1 << 1;
    pub const MSI: u64 = 1 << 3;
    pub const STI: u64 = 1 << 5;
    pub const MTI: u64 = 1 << 7;
    pub const SEI: u64 = 1 << 9;
    pub const MEI: u64 = 1 << 11;
    pub const S: u64 = SSI | STI | SEI;
    pub const ALL: u64 = S | MSI | MTI | MEI;
}

/// Fields of `mstatus`.
#[allow(missing_docs, reason = "the standard's names")]
pub mod mstatus {
    pub const SIE: u64 = 1 << 1;
    pub const MIE: u64 = 1 << 3;
    pub const SPIE: u64 = 1 << 5;
    pub const MPIE: u64 = 1 << 7;
    pub const SPP: u64 = 1 << 8;
    pub const MPP_SHIFT: u32 = 11;
    pub const MPP: u64 = 3 << MPP_SHIFT;
    pub const FS: u64 = 3 << 13;
    pub const MPRV: u64 = 1 << 17;
    pub const SUM: u64 = 1 << 18;
    pub const MXR: u64 = 1 << 19;
    pub const TVM: u64 = 1 << 20;
    pub const TW: u64 = 1 << 21;
    pub const TSR: u64 = 1 << 22;
    pub const UXL64: u64 = 2 << 32;
    pub const SXL64: u64 = 2 << 34;
    pub const SD: u64 = 1 << 63;
    /// What a write to `mstatus` changes.
    pub const WRITABLE: u64 = SIE | MIE | SPIE | MPIE | SPP | MPP | FS | MPRV | SUM | MXR | TVM | TW | TSR;
    /// What `sstatus` writes.
    pub const S_WRITABLE: u64 = SIE | SPIE | SPP | FS | SUM | MXR;
    /// What `sstatus` shows.
    pub const S_VISIBLE: u64 = S_WRITABLE | UXL64 | SD;
}

/// Fields of `menvcfg` and `senvcfg`.
#[allow(missing_docs, reason = "the standard's names")]
pub mod envcfg {
    pub const FIOM: u64 = 1;
    pub const CBIE_SHIFT: u32 = 4;
    pub const CBIE: u64 = 3 << CBIE_SHIFT;
    pub const CBCFE: u64 = 1 << 6;
    pub const CBZE: u64 = 1 << 7;
    pub const ADUE: u64 = 1 << 61;
    pub const PBMTE: u64 = 1 << 62;
    pub const STCE: u64 = 1 << 63;
    /// What `senvcfg` has.
    pub const S: u64 = FIOM | CBIE | CBCFE | CBZE;
}

/// CSR addresses.
#[allow(missing_docs, reason = "the standard's names")]
pub mod csr {
    pub const FFLAGS: u16 = 0x001;
    pub const FRM: u16 = 0x002;
    pub const FCSR: u16 = 0x003;
    pub const SSTATUS: u16 = 0x100;
    pub const SIE: u16 = 0x104;
    pub const STVEC: u16 = 0x105;
    pub const SCOUNTEREN: u16 = 0x106;
    pub const SENVCFG: u16 = 0x10a;
    pub const SSCRATCH: u16 = 0x140;
    pub const SEPC: u16 = 0x141;
    pub const SCAUSE: u16 = 0x142;
    pub const STVAL: u16 = 0x143;
    pub const SIP: u16 = 0x144;
    pub const STIMECMP: u16 = 0x14d;
    pub const SATP: u16 = 0x180;
    pub const MSTATUS: u16 = 0x300;
    pub const MISA: u16 = 0x301;
    pub const MEDELEG: u16 = 0x302;
    pub const MIDELEG: u16 = 0x303;
    pub const MIE: u16 = 0x304;
    pub const MTVEC: u16 = 0x305;
    pub const MCOUNTEREN: u16 = 0x306;
    pub const MENVCFG: u16 = 0x30a;
    pub const MCOUNTINHIBIT: u16 = 0x320;
    pub const MHPMEVENT3: u16 = 0x323;
    pub const MHPMEVENT31: u16 = 0x33f;
    pub const MSCRATCH: u16 = 0x340;
    pub const MEPC: u16 = 0x341;
    pub const MCAUSE: u16 = 0x342;
    pub const MTVAL: u16 = 0x343;
    pub const MIP: u16 = 0x344;
    pub const PMPCFG0: u16 = 0x3a0;
    pub const PMPCFG14: u16 = 0x3ae;
    pub const PMPADDR0: u16 = 0x3b0;
    pub const PMPADDR63: u16 = 0x3ef;
    pub const MCYCLE: u16 = 0xb00;
    pub const MINSTRET: u16 = 0xb02;
    pub const MHPMCOUNTER3: u16 = 0xb03;
    pub const MHPMCOUNTER31: u16 = 0xb1f;
    pub const CYCLE: u16 = 0xc00;
    pub const TIME: u16 = 0xc01;
    pub const INSTRET: u16 = 0xc02;
    pub const HPMCOUNTER3: u16 = 0xc03;
    pub const HPMCOUNTER31: u16 = 0xc1f;
    pub const MVENDORID: u16 = 0xf11;
    pub const MARCHID: u16 = 0xf12;
    pub const MIMPID: u16 = 0xf13;
    pub const MHARTID: u16 = 0xf14;
    pub const MCONFIGPTR: u16 = 0xf15;
}

/// Fields of `satp` and of page table entries.
#[allow(missing_docs, reason = "the standard's names")]
pub mod paging {
    pub const SATP_MODE_SHIFT: u32 = 60;
    pub const BARE: u64 = 0;
    pub const SV39: u64 = 8;
    pub const SV48: u64 = 9;
    pub const SATP_ASID_SHIFT: u32 = 44;
    pub const SATP_ASID: u64 = 0xffff << SATP_ASID_SHIFT;
    pub const SATP_PPN: u64 = (1 << 44) - 1;

    pub const V: u64 = 1;
    pub const R: u64 = 1 << 1;
    pub const W: u64 = 1 << 2;
    pub const X: u64 = 1 << 3;
    pub const U: u64 = 1 << 4;
    pub const A: u64 = 1 << 6;
    pub const D: u64 = 1 << 7;
    pub const PPN_SHIFT: u32 = 10;
    /// Bits that no extension uses.
    pub const RESERVED: u64 = 0x7f << 54;
    /// Svpbmt's memory type; 3 is reserved.
    pub const PBMT: u64 = 3 << 61;
    /// Svnapot: the page is one of sixteen that are translated together.
    pub const N: u64 = 1 << 63;
    /// The low bits of such an entry's page number, and what they must be.
    pub const NAPOT_MASK: u64 = 15;
    pub const NAPOT_64K: u64 = 8;
}
