//! Every 32-bit instruction: its name, format and encoding, from the unprivileged and privileged
//! specifications. Decoder, tests and disassembler read the same table.

use crate::insn::{Ext, Format};

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The operation.
    pub op: Op,
    /// The standard's mnemonic.
    pub name: &'static str,
    /// Where the operands lie.
    pub format: Format,
    /// The extension that it belongs to.
    pub ext: Ext,
    /// The values of the fixed bits.
    pub bits: u32,
    /// Which bits are fixed.
    pub mask: u32,
}

impl Entry {
    /// All extensions that it needs: beside its own those of other formats that it takes.
    pub fn needs(&self) -> Ext {
        let other = match self.op {
            Op::FcvtDH | Op::FcvtHD => Ext::D,
            Op::FliD | Op::FminmD | Op::FmaxmD | Op::FroundD | Op::FroundnxD => Ext::D,
            Op::FltqD | Op::FleqD | Op::FcvtmodWD => Ext::D,
            Op::FliH | Op::FminmH | Op::FmaxmH | Op::FroundH | Op::FroundnxH => Ext::ZFH,
            Op::FltqH | Op::FleqH => Ext::ZFH,
            _ => Ext::I,
        };
        self.ext.with(other)
    }
}

macro_rules! instructions {
    ($( $ext:ident { $( $op:ident $name:literal $format:ident $bits:literal $mask:literal; )* } )*) => {
        /// An operation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Op {
            /// Not decoded yet: a free slot of a code page.
            Undecoded,
            /// A four-byte instruction that starts in a page's last two bytes.
            Straddle,
            /// No instruction.
            Illegal,
            /// A slot of a code page for which there is native code; the immediate is its number.
            Native,
            $($(
                #[doc = concat!("`", $name, "`")]
                $op,
            )*)*
        }

        /// Every 32-bit instruction.
        pub static TABLE: &[Entry] = &[
            $($( Entry {
                op: Op::$op,
                name: $name,
                format: Format::$format,
                ext: Ext::$ext,
                bits: $bits,
                mask: $mask,
            }, )*)*
        ];
    };
}

instructions! {
    I { // RV64I, the base; Zifencei, Zicsr and the privileged instructions
        Lui "lui" U 0x00000037 0x0000007f;
        Auipc "auipc" U 0x00000017 0x0000007f;
        Jal "jal" J 0x0000006f 0x0000007f;
        Jalr "jalr" Load 0x00000067 0x0000707f;
        Beq "beq" B 0x00000063 0x0000707f;
        Bne "bne" B 0x00001063 0x0000707f;
        Blt "blt" B 0x00004063 0x0000707f;
        Bge "bge" B 0x00005063 0x0000707f;
        Bltu "bltu" B 0x00006063 0x0000707f;
        Bgeu "bgeu" B 0x00007063 0x0000707f;
        Lb "lb" Load 0x00000003 0x0000707f;
        Lh "lh" Load 0x00001003 0x0000707f;
        Lw "lw" Load 0x00002003 0x0000707f;
        Ld "ld" Load 0x00003003 0x0000707f;
        Lbu "lbu" Load 0x00004003 0x0000707f;
        Lhu "lhu" Load 0x00005003 0x0000707f;
        Lwu "lwu" Load 0x00006003 0x0000707f;
        Sb "sb" S 0x00000023 0x0000707f;
        Sh "sh" S 0x00001023 0x0000707f;
        Sw "sw" S 0x00002023 0x0000707f;
        Sd "sd" S 0x00003023 0x0000707f;
        Addi "addi" I 0x00000013 0x0000707f;
        Slti "slti" I 0x00002013 0x0000707f;
        Sltiu "sltiu" I 0x00003013 0x0000707f;
        Xori "xori" I 0x00004013 0x0000707f;
        Ori "ori" I 0x00006013 0x0000707f;
        Andi "andi" I 0x00007013 0x0000707f;
        Slli "slli" Shift6 0x00001013 0xfc00707f;
        Srli "srli" Shift6 0x00005013 0xfc00707f;
        Srai "srai" Shift6 0x40005013 0xfc00707f;
        Add "add" R 0x00000033 0xfe00707f;
        Sub "sub" R 0x40000033 0xfe00707f;
        Sll "sll" R 0x00001033 0xfe00707f;
        Slt "slt" R 0x00002033 0xfe00707f;
        Sltu "sltu" R 0x00003033 0xfe00707f;
        Xor "xor" R 0x00004033 0xfe00707f;
        Srl "srl" R 0x00005033 0xfe00707f;
        Sra "sra" R 0x40005033 0xfe00707f;
        Or "or" R 0x00006033 0xfe00707f;
        And "and" R 0x00007033 0xfe00707f;
        Addiw "addiw" I 0x0000001b 0x0000707f;
        Slliw "slliw" Shift5 0x0000101b 0xfe00707f;
        Srliw "srliw" Shift5 0x0000501b 0xfe00707f;
        Sraiw "sraiw" Shift5 0x4000501b 0xfe00707f;
        Addw "addw" R 0x0000003b 0xfe00707f;
        Subw "subw" R 0x4000003b 0xfe00707f;
        Sllw "sllw" R 0x0000103b 0xfe00707f;
        Srlw "srlw" R 0x0000503b 0xfe00707f;
        Sraw "sraw" R 0x4000503b 0xfe00707f;
        Fence "fence" Fence 0x0000000f 0x0000707f;
        FenceI "fence.i" None 0x0000100f 0x0000707f;
        Ecall "ecall" None 0x00000073 0xffffffff;
        Ebreak "ebreak" None 0x00100073 0xffffffff;
        Sret "sret" None 0x10200073 0xffffffff;
        Mret "mret" None 0x30200073 0xffffffff;
        Wfi "wfi" None 0x10500073 0xffffffff;
        SfenceVma "sfence.vma" Rs 0x12000073 0xfe007fff;
        Csrrw "csrrw" Csr 0x00001073 0x0000707f;
        Csrrs "csrrs" Csr 0x00002073 0x0000707f;
        Csrrc "csrrc" Csr 0x00003073 0x0000707f;
        Csrrwi "csrrwi" CsrI 0x00005073 0x0000707f;
        Csrrsi "csrrsi" CsrI 0x00006073 0x0000707f;
        Csrrci "csrrci" CsrI 0x00007073 0x0000707f;
    }
    M { // M: multiplication and division
        Mul "mul" R 0x02000033 0xfe00707f;
        Mulh "mulh" R 0x02001033 0xfe00707f;
        Mulhsu "mulhsu" R 0x02002033 0xfe00707f;
        Mulhu "mulhu" R 0x02003033 0xfe00707f;
        Div "div" R 0x02004033 0xfe00707f;
        Divu "divu" R 0x02005033 0xfe00707f;
        Rem "rem" R 0x02006033 0xfe00707f;
        Remu "remu" R 0x02007033 0xfe00707f;
        Mulw "mulw" R 0x0200003b 0xfe00707f;
        Divw "divw" R 0x0200403b 0xfe00707f;
        Divuw "divuw" R 0x0200503b 0xfe00707f;
        Remw "remw" R 0x0200603b 0xfe00707f;
        Remuw "remuw" R 0x0200703b 0xfe00707f;
    }
    A { // A: atomics
        LrW "lr.w" Lr 0x1000202f 0xf9f0707f;
        LrD "lr.d" Lr 0x1000302f 0xf9f0707f;
        ScW "sc.w" Amo 0x1800202f 0xf800707f;
        ScD "sc.d" Amo 0x1800302f 0xf800707f;
        AmoswapW "amoswap.w" Amo 0x0800202f 0xf800707f;
        AmoswapD "amoswap.d" Amo 0x0800302f 0xf800707f;
        AmoaddW "amoadd.w" Amo 0x0000202f 0xf800707f;
        AmoaddD "amoadd.d" Amo 0x0000302f 0xf800707f;
        AmoxorW "amoxor.w" Amo 0x2000202f 0xf800707f;
        AmoxorD "amoxor.d" Amo 0x2000302f 0xf800707f;
        AmoandW "amoand.w" Amo 0x6000202f 0xf800707f;
        AmoandD "amoand.d" Amo 0x6000302f 0xf800707f;
        AmoorW "amoor.w" Amo 0x4000202f 0xf800707f;
        AmoorD "amoor.d" Amo 0x4000302f 0xf800707f;
        AmominW "amomin.w" Amo 0x8000202f 0xf800707f;
        AmominD "amomin.d" Amo 0x8000302f 0xf800707f;
        AmomaxW "amomax.w" Amo 0xa000202f 0xf800707f;
        AmomaxD "amomax.d" Amo 0xa000302f 0xf800707f;
        AmominuW "amominu.w" Amo 0xc000202f 0xf800707f;
        AmominuD "amominu.d" Amo 0xc000302f 0xf800707f;
        AmomaxuW "amomaxu.w" Amo 0xe000202f 0xf800707f;
        AmomaxuD "amomaxu.d" Amo 0xe000302f 0xf800707f;
    }
    ZBA { // Zba: address generation
        AddUw "add.uw" R 0x0800003b 0xfe00707f;
        Sh1add "sh1add" R 0x20002033 0xfe00707f;
        Sh2add "sh2add" R 0x20004033 0xfe00707f;
        Sh3add "sh3add" R 0x20006033 0xfe00707f;
        Sh1addUw "sh1add.uw" R 0x2000203b 0xfe00707f;
        Sh2addUw "sh2add.uw" R 0x2000403b 0xfe00707f;
        Sh3addUw "sh3add.uw" R 0x2000603b 0xfe00707f;
        SlliUw "slli.uw" Shift6 0x0800101b 0xfc00707f;
    }
    ZBB { // Zbb: basic bit manipulation
        Clz "clz" R1 0x60001013 0xfff0707f;
        Ctz "ctz" R1 0x60101013 0xfff0707f;
        Cpop "cpop" R1 0x60201013 0xfff0707f;
        Clzw "clzw" R1 0x6000101b 0xfff0707f;
        Ctzw "ctzw" R1 0x6010101b 0xfff0707f;
        Cpopw "cpopw" R1 0x6020101b 0xfff0707f;
        Max "max" R 0x0a006033 0xfe00707f;
        Maxu "maxu" R 0x0a007033 0xfe00707f;
        Min "min" R 0x0a004033 0xfe00707f;
        Minu "minu" R 0x0a005033 0xfe00707f;
        SextB "sext.b" R1 0x60401013 0xfff0707f;
        SextH "sext.h" R1 0x60501013 0xfff0707f;
        ZextH "zext.h" R1 0x0800403b 0xfff0707f;
        OrcB "orc.b" R1 0x28705013 0xfff0707f;
    }
    ROTATE { // Common to Zbb and Zbkb
        Andn "andn" R 0x40007033 0xfe00707f;
        Orn "orn" R 0x40006033 0xfe00707f;
        Xnor "xnor" R 0x40004033 0xfe00707f;
        Rol "rol" R 0x60001033 0xfe00707f;
        Ror "ror" R 0x60005033 0xfe00707f;
        Rori "rori" Shift6 0x60005013 0xfc00707f;
        Rolw "rolw" R 0x6000103b 0xfe00707f;
        Rorw "rorw" R 0x6000503b 0xfe00707f;
        Roriw "roriw" Shift5 0x6000501b 0xfe00707f;
        Rev8 "rev8" R1 0x6b805013 0xfff0707f;
    }
    ZBS { // Zbs: single bits
        Bclr "bclr" R 0x48001033 0xfe00707f;
        Bclri "bclri" Shift6 0x48001013 0xfc00707f;
        Bext "bext" R 0x48005033 0xfe00707f;
        Bexti "bexti" Shift6 0x48005013 0xfc00707f;
        Binv "binv" R 0x68001033 0xfe00707f;
        Binvi "binvi" Shift6 0x68001013 0xfc00707f;
        Bset "bset" R 0x28001033 0xfe00707f;
        Bseti "bseti" Shift6 0x28001013 0xfc00707f;
    }
    F { // F: single precision
        Flw "flw" FpLoad 0x00002007 0x0000707f;
        Fsw "fsw" FpStore 0x00002027 0x0000707f;
        FmaddS "fmadd.s" Fp4 0x00000043 0x0600007f;
        FmsubS "fmsub.s" Fp4 0x00000047 0x0600007f;
        FnmsubS "fnmsub.s" Fp4 0x0000004b 0x0600007f;
        FnmaddS "fnmadd.s" Fp4 0x0000004f 0x0600007f;
        FaddS "fadd.s" FpR 0x00000053 0xfe00007f;
        FsubS "fsub.s" FpR 0x08000053 0xfe00007f;
        FmulS "fmul.s" FpR 0x10000053 0xfe00007f;
        FdivS "fdiv.s" FpR 0x18000053 0xfe00007f;
        FsqrtS "fsqrt.s" Fp1 0x58000053 0xfff0007f;
        FsgnjS "fsgnj.s" FpN 0x20000053 0xfe00707f;
        FsgnjnS "fsgnjn.s" FpN 0x20001053 0xfe00707f;
        FsgnjxS "fsgnjx.s" FpN 0x20002053 0xfe00707f;
        FminS "fmin.s" FpN 0x28000053 0xfe00707f;
        FmaxS "fmax.s" FpN 0x28001053 0xfe00707f;
        FeqS "feq.s" FpCmp 0xa0002053 0xfe00707f;
        FltS "flt.s" FpCmp 0xa0001053 0xfe00707f;
        FleS "fle.s" FpCmp 0xa0000053 0xfe00707f;
        FclassS "fclass.s" FpToXn 0xe0001053 0xfff0707f;
        FcvtWS "fcvt.w.s" FpToX 0xc0000053 0xfff0007f;
        FcvtWuS "fcvt.wu.s" FpToX 0xc0100053 0xfff0007f;
        FcvtLS "fcvt.l.s" FpToX 0xc0200053 0xfff0007f;
        FcvtLuS "fcvt.lu.s" FpToX 0xc0300053 0xfff0007f;
        FcvtSW "fcvt.s.w" FpFromX 0xd0000053 0xfff0007f;
        FcvtSWu "fcvt.s.wu" FpFromX 0xd0100053 0xfff0007f;
        FcvtSL "fcvt.s.l" FpFromX 0xd0200053 0xfff0007f;
        FcvtSLu "fcvt.s.lu" FpFromX 0xd0300053 0xfff0007f;
        FmvXW "fmv.x.w" FpToXn 0xe0000053 0xfff0707f;
        FmvWX "fmv.w.x" FpFromXn 0xf0000053 0xfff0707f;
    }
    D { // D: double precision
        Fld "fld" FpLoad 0x00003007 0x0000707f;
        Fsd "fsd" FpStore 0x00003027 0x0000707f;
        FmaddD "fmadd.d" Fp4 0x02000043 0x0600007f;
        FmsubD "fmsub.d" Fp4 0x02000047 0x0600007f;
        FnmsubD "fnmsub.d" Fp4 0x0200004b 0x0600007f;
        FnmaddD "fnmadd.d" Fp4 0x0200004f 0x0600007f;
        FaddD "fadd.d" FpR 0x02000053 0xfe00007f;
        FsubD "fsub.d" FpR 0x0a000053 0xfe00007f;
        FmulD "fmul.d" FpR 0x12000053 0xfe00007f;
        FdivD "fdiv.d" FpR 0x1a000053 0xfe00007f;
        FsqrtD "fsqrt.d" Fp1 0x5a000053 0xfff0007f;
        FsgnjD "fsgnj.d" FpN 0x22000053 0xfe00707f;
        FsgnjnD "fsgnjn.d" FpN 0x22001053 0xfe00707f;
        FsgnjxD "fsgnjx.d" FpN 0x22002053 0xfe00707f;
        FminD "fmin.d" FpN 0x2a000053 0xfe00707f;
        FmaxD "fmax.d" FpN 0x2a001053 0xfe00707f;
        FeqD "feq.d" FpCmp 0xa2002053 0xfe00707f;
        FltD "flt.d" FpCmp 0xa2001053 0xfe00707f;
        FleD "fle.d" FpCmp 0xa2000053 0xfe00707f;
        FclassD "fclass.d" FpToXn 0xe2001053 0xfff0707f;
        FcvtWD "fcvt.w.d" FpToX 0xc2000053 0xfff0007f;
        FcvtWuD "fcvt.wu.d" FpToX 0xc2100053 0xfff0007f;
        FcvtLD "fcvt.l.d" FpToX 0xc2200053 0xfff0007f;
        FcvtLuD "fcvt.lu.d" FpToX 0xc2300053 0xfff0007f;
        FcvtDW "fcvt.d.w" FpFromX 0xd2000053 0xfff0007f;
        FcvtDWu "fcvt.d.wu" FpFromX 0xd2100053 0xfff0007f;
        FcvtDL "fcvt.d.l" FpFromX 0xd2200053 0xfff0007f;
        FcvtDLu "fcvt.d.lu" FpFromX 0xd2300053 0xfff0007f;
        FmvXD "fmv.x.d" FpToXn 0xe2000053 0xfff0707f;
        FmvDX "fmv.d.x" FpFromXn 0xf2000053 0xfff0707f;
        FcvtSD "fcvt.s.d" Fp1 0x40100053 0xfff0007f;
        FcvtDS "fcvt.d.s" Fp1 0x42000053 0xfff0007f;
    }
    CLMUL { // Common to Zbc and Zbkc
        Clmul "clmul" R 0x0a001033 0xfe00707f;
        Clmulh "clmulh" R 0x0a003033 0xfe00707f;
    }
    ZBC { // Zbc: carry-less multiplication
        Clmulr "clmulr" R 0x0a002033 0xfe00707f;
    }
    ZBKB { // Zbkb: bits for cryptography
        Pack "pack" R 0x08004033 0xfe00707f;
        Packh "packh" R 0x08007033 0xfe00707f;
        Packw "packw" R 0x0800403b 0xfe00707f;
        Brev8 "brev8" R1 0x68705013 0xfff0707f;
    }
    ZBKX { // Zbkx: permutations
        Xperm4 "xperm4" R 0x28002033 0xfe00707f;
        Xperm8 "xperm8" R 0x28004033 0xfe00707f;
    }
    ZKNE { // Zkne: AES, encryption
        Aes64es "aes64es" R 0x32000033 0xfe00707f;
        Aes64esm "aes64esm" R 0x36000033 0xfe00707f;
    }
    ZKND { // Zknd: AES, decryption
        Aes64ds "aes64ds" R 0x3a000033 0xfe00707f;
        Aes64dsm "aes64dsm" R 0x3e000033 0xfe00707f;
        Aes64im "aes64im" R1 0x30001013 0xfff0707f;
    }
    AESKEY { // Common to Zknd and Zkne
        Aes64ks1i "aes64ks1i" Round 0x31001013 0xff00707f;
        Aes64ks2 "aes64ks2" R 0x7e000033 0xfe00707f;
    }
    ZKNH { // Zknh: SHA-2
        Sha256sum0 "sha256sum0" R1 0x10001013 0xfff0707f;
        Sha256sum1 "sha256sum1" R1 0x10101013 0xfff0707f;
        Sha256sig0 "sha256sig0" R1 0x10201013 0xfff0707f;
        Sha256sig1 "sha256sig1" R1 0x10301013 0xfff0707f;
        Sha512sum0 "sha512sum0" R1 0x10401013 0xfff0707f;
        Sha512sum1 "sha512sum1" R1 0x10501013 0xfff0707f;
        Sha512sig0 "sha512sig0" R1 0x10601013 0xfff0707f;
        Sha512sig1 "sha512sig1" R1 0x10701013 0xfff0707f;
    }
    ZKSED { // Zksed: SM4
        Sm4ed "sm4ed" Byte 0x30000033 0x3e00707f;
        Sm4ks "sm4ks" Byte 0x34000033 0x3e00707f;
    }
    ZKSH { // Zksh: SM3
        Sm3p0 "sm3p0" R1 0x10801013 0xfff0707f;
        Sm3p1 "sm3p1" R1 0x10901013 0xfff0707f;
    }
    ZICOND { // Zicond: zero or not by a condition
        CzeroEqz "czero.eqz" R 0x0e005033 0xfe00707f;
        CzeroNez "czero.nez" R 0x0e007033 0xfe00707f;
    }
    ZIMOP { // Zimop: operations that may be something else one day
        MopR "mop.r.n" R1 0x81c04073 0xb3c0707f;
        MopRr "mop.rr.n" R 0x82004073 0xb200707f;
    }
    ZAWRS { // Zawrs: waiting for a reservation to be lost
        WrsNto "wrs.nto" None 0x00d00073 0xffffffff;
        WrsSto "wrs.sto" None 0x01d00073 0xffffffff;
    }
    ZICBOM { // Zicbom: cache management
        CboInval "cbo.inval" Block 0x0000200f 0xfff07fff;
        CboClean "cbo.clean" Block 0x0010200f 0xfff07fff;
        CboFlush "cbo.flush" Block 0x0020200f 0xfff07fff;
    }
    ZICBOZ { // Zicboz: zeroing a cache block
        CboZero "cbo.zero" Block 0x0040200f 0xfff07fff;
    }
    HALF { // Common to Zfhmin and Zfbfmin
        Flh "flh" FpLoad 0x00001007 0x0000707f;
        Fsh "fsh" FpStore 0x00001027 0x0000707f;
        FmvXH "fmv.x.h" FpToXn 0xe4000053 0xfff0707f;
        FmvHX "fmv.h.x" FpFromXn 0xf4000053 0xfff0707f;
    }
    ZFHMIN { // Zfhmin: half precision, conversions (those of doubles need D, too)
        FcvtSH "fcvt.s.h" Fp1 0x40200053 0xfff0007f;
        FcvtHS "fcvt.h.s" Fp1 0x44000053 0xfff0007f;
        FcvtDH "fcvt.d.h" Fp1 0x42200053 0xfff0007f;
        FcvtHD "fcvt.h.d" Fp1 0x44100053 0xfff0007f;
    }
    ZFBFMIN { // Zfbfmin: conversions of bfloat16
        FcvtSBf16 "fcvt.s.bf16" Fp1 0x40600053 0xfff0007f;
        FcvtBf16S "fcvt.bf16.s" Fp1 0x44800053 0xfff0007f;
    }
    ZFH { // Zfh: half precision
        FmaddH "fmadd.h" Fp4 0x04000043 0x0600007f;
        FmsubH "fmsub.h" Fp4 0x04000047 0x0600007f;
        FnmsubH "fnmsub.h" Fp4 0x0400004b 0x0600007f;
        FnmaddH "fnmadd.h" Fp4 0x0400004f 0x0600007f;
        FaddH "fadd.h" FpR 0x04000053 0xfe00007f;
        FsubH "fsub.h" FpR 0x0c000053 0xfe00007f;
        FmulH "fmul.h" FpR 0x14000053 0xfe00007f;
        FdivH "fdiv.h" FpR 0x1c000053 0xfe00007f;
        FsqrtH "fsqrt.h" Fp1 0x5c000053 0xfff0007f;
        FsgnjH "fsgnj.h" FpN 0x24000053 0xfe00707f;
        FsgnjnH "fsgnjn.h" FpN 0x24001053 0xfe00707f;
        FsgnjxH "fsgnjx.h" FpN 0x24002053 0xfe00707f;
        FminH "fmin.h" FpN 0x2c000053 0xfe00707f;
        FmaxH "fmax.h" FpN 0x2c001053 0xfe00707f;
        FeqH "feq.h" FpCmp 0xa4002053 0xfe00707f;
        FltH "flt.h" FpCmp 0xa4001053 0xfe00707f;
        FleH "fle.h" FpCmp 0xa4000053 0xfe00707f;
        FclassH "fclass.h" FpToXn 0xe4001053 0xfff0707f;
        FcvtWH "fcvt.w.h" FpToX 0xc4000053 0xfff0007f;
        FcvtHW "fcvt.h.w" FpFromX 0xd4000053 0xfff0007f;
        FcvtWuH "fcvt.wu.h" FpToX 0xc4100053 0xfff0007f;
        FcvtHWu "fcvt.h.wu" FpFromX 0xd4100053 0xfff0007f;
        FcvtLH "fcvt.l.h" FpToX 0xc4200053 0xfff0007f;
        FcvtHL "fcvt.h.l" FpFromX 0xd4200053 0xfff0007f;
        FcvtLuH "fcvt.lu.h" FpToX 0xc4300053 0xfff0007f;
        FcvtHLu "fcvt.h.lu" FpFromX 0xd4300053 0xfff0007f;
    }
    ZFA { // Zfa: additional floating point (those of other formats need their extensions, too)
        FliS "fli.s" FpConst 0xf0100053 0xfff0707f;
        FminmS "fminm.s" FpN 0x28002053 0xfe00707f;
        FmaxmS "fmaxm.s" FpN 0x28003053 0xfe00707f;
        FroundS "fround.s" Fp1 0x40400053 0xfff0007f;
        FroundnxS "froundnx.s" Fp1 0x40500053 0xfff0007f;
        FltqS "fltq.s" FpCmp 0xa0005053 0xfe00707f;
        FleqS "fleq.s" FpCmp 0xa0004053 0xfe00707f;
        FliD "fli.d" FpConst 0xf2100053 0xfff0707f;
        FminmD "fminm.d" FpN 0x2a002053 0xfe00707f;
        FmaxmD "fmaxm.d" FpN 0x2a003053 0xfe00707f;
        FroundD "fround.d" Fp1 0x42400053 0xfff0007f;
        FroundnxD "froundnx.d" Fp1 0x42500053 0xfff0007f;
        FltqD "fltq.d" FpCmp 0xa2005053 0xfe00707f;
        FleqD "fleq.d" FpCmp 0xa2004053 0xfe00707f;
        FliH "fli.h" FpConst 0xf4100053 0xfff0707f;
        FminmH "fminm.h" FpN 0x2c002053 0xfe00707f;
        FmaxmH "fmaxm.h" FpN 0x2c003053 0xfe00707f;
        FroundH "fround.h" Fp1 0x44400053 0xfff0007f;
        FroundnxH "froundnx.h" Fp1 0x44500053 0xfff0007f;
        FltqH "fltq.h" FpCmp 0xa4005053 0xfe00707f;
        FleqH "fleq.h" FpCmp 0xa4004053 0xfe00707f;
        FcvtmodWD "fcvtmod.w.d" FpToXn 0xc2801053 0xfff0707f;
    }
}
