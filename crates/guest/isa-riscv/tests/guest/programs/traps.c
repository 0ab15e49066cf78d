/* Exceptions, delegation, the return from traps, and what each mode may touch. */
#include "test.h"

void code_ecall(void), code_illegal(void), code_ebreak(void), code_cebreak(void), code_sret(void),
	code_mret(void), code_wfi(void), code_sfence(void), code_satp(void), code_time(void),
	code_cycle(void), code_instret(void), code_mstatus(void), code_sstatus(void), code_ro(void),
	code_fp(void), code_stimecmp(void), code_badload(void), code_badstore(void), code_badjump(void),
	code_lr(void), code_hpm(void), code_fencei(void), code_pmp(void);
asm(".text\n.option push\n.option norvc\n.align 2\n"
    "code_ecall: ecall\n ebreak\n"
    "code_illegal: .word 0xffffffff\n ebreak\n"
    "code_ebreak: ebreak\n"
    "code_sret: sret\n ebreak\n"
    "code_mret: mret\n ebreak\n"
    "code_wfi: wfi\n ebreak\n"
    "code_sfence: sfence.vma\n ebreak\n"
    "code_satp: csrr a0, satp\n ebreak\n"
    "code_time: rdtime a0\n ebreak\n"
    "code_cycle: rdcycle a0\n ebreak\n"
    "code_instret: rdinstret a0\n ebreak\n"
    "code_hpm: csrr a0, hpmcounter3\n ebreak\n"
    "code_mstatus: csrr a0, mstatus\n ebreak\n"
    "code_sstatus: csrr a0, sstatus\n ebreak\n"
    "code_ro: csrw cycle, a0\n ebreak\n"
    "code_pmp: csrr a0, pmpcfg0\n ebreak\n"
    "code_fp: fadd.d f0, f0, f0\n ebreak\n"
    "code_stimecmp: csrr a0, 0x14d\n ebreak\n"
    "code_badload: li a0, 0x300004\n ld a0, 0(a0)\n ebreak\n"
    "code_badstore: li a0, 0x300004\n sd a0, 0(a0)\n ebreak\n"
    "code_badjump: li a0, 0x300005\n jr a0\n ebreak\n"
       "code_lr: la a0, saved\n addi a0, a0, 2\n lr.w a0, (a0)\n ebreak\n"
    "code_fencei: fence.i\n ebreak\n"
    ".option rvc\n"
    "code_cebreak: c.ebreak\n"
    ".option pop\n");

static void (*const codes[])(void) = {
	code_ecall, code_illegal, code_ebreak, code_cebreak, code_sfence, code_satp, code_time,
	code_cycle, code_instret, code_mstatus, code_sstatus, code_ro, code_fp,
	code_stimecmp, code_badload, code_badstore, code_badjump, code_lr, code_fencei,
	code_pmp,
};

static void all(u64 bits)
{
	for (int mode = 0; mode < 4; mode++) {
		if (mode == 2)
			continue;
		for (unsigned i = 0; i < sizeof(codes) / sizeof(*codes); i++) {
			enter((u64)codes[i], MPP(mode) | bits, 0);
			put_trap();
		}
	}
}

/* An S-mode handler that notes what it sees and calls M-mode. */
void s_handler(void);
asm(".text\n.align 8\n"
    "s_handler:\n .rept 16\n j 1f\n .balign 4\n .endr\n"
    "1: csrr a0, scause\n csrr a1, stval\n csrr a2, sepc\n csrr a3, sstatus\n"
    " la a4, seen\n sd a0, 0(a4)\n sd a1, 8(a4)\n sd a2, 16(a4)\n sd a3, 24(a4)\n"
    " auipc a0, 0\n sd a0, 32(a4)\n ecall\n");
u64 seen[5];

static void delegated(u64 bits)
{
	for (int mode = 0; mode < 2; mode++)
		for (unsigned i = 0; i < sizeof(codes) / sizeof(*codes); i++) {
			for (int k = 0; k < 5; k++)
				seen[k] = 0;
			enter((u64)codes[i], MPP(mode) | bits, 0);
			put8(saved.cause);
			put(saved.status & 0x7e79aa);
			for (int k = 0; k < 3; k++)
				put(seen[k]);
			put(seen[3] & 0xfe122); /* without XS and VS */
		}
}

static void warl(void)
{
	/* What sticks of all ones and of single fields. */
	csrw(mstatus, -1UL);
	put(csrr(mstatus) & 0x7e79aa);
	csrw(mstatus, MPP(3));
	csrw(mstatus, MPP(2));
	put(csrr(mstatus) & 0x7e79aa);
	csrw(mstatus, FS);
	put(csrr(sstatus) >> 63);
	csrw(mstatus, 0);
	csrw(sstatus, -1UL);
	put(csrr(mstatus) & 0x7e79aa);
	put(csrr(sstatus) & 0xfe122);
	csrw(mstatus, FS);
	csrw(stvec, 0x80000001);
	put(csrr(stvec));
	csrw(mie, -1UL);
	put(csrr(mie) & 0xaaa);
	csrw(mideleg, 0x222);
	put(csrr(mideleg) & 0xaaa);
	put(csrr(sie) & 0xaaa);
	csrw(sie, 0);
	put(csrr(mie) & 0xaaa);
	csrw(mie, 0);
	csrw(mideleg, 0);
	csrw(mip, -1UL);
	put(csrr(mip) & 0x222);
	csrw(mip, 0);
	put(csrr(mip) & 0x222);
	csrw(mscratch, 0x123456789abcdef0);
	put(csrr(mscratch));
	csrw(scause, -1UL);
	put(csrr(scause));
	csrw(mcounteren, 7);
	put(csrr(mcounteren));
	csrw(scounteren, 5);
	put(csrr(scounteren));
	put(csrr(mhartid));
	put(csrr(mvendorid));
	csrw(fcsr, -1UL);
	put(csrr(fcsr));
	put(csrr(frm));
	put(csrr(fflags));
	csrw(fcsr, 0);
	csrw(menvcfg, 1UL << 63);
	put(csrr(menvcfg) >> 63);
	csrw(menvcfg, 0);
	csrw(mcounteren, 0);
	csrw(scounteren, 0);
	for (int i = 0; i < 4; i++) {
		/* rd is x0: no read; rs1 is x0: no write. */
		asm volatile("csrrs x0, cycle, x0");
		asm volatile("csrrw x0, mscratch, x0");
		put(csrr(mscratch));
	}
}

int main(void)
{
	pmp_open();
	warl();
	all(0);
	all(FS);
	csrw(mcounteren, -1UL);
	all(FS | TVM | TW | TSR);
	csrw(scounteren, -1UL);
	all(FS);
	csrw(menvcfg, 1UL << 63);
	all(FS);
	/* What xRET does to the fields. */
	for (int i = 0; i < 64; i++) {
		u64 st = FS | (i & 1 ? 1UL << 1 : 0) | (i & 2 ? 1UL << 5 : 0) | (i & 4 ? 1UL << 8 : 0) |
			 (i & 8 ? MPRV : 0) | (i & 16 ? TSR : 0) | (i & 32 ? 1UL << 7 : 0);
		csrw(sepc, (u64)code_ebreak);
		for (int mode = 0; mode < 4; mode++) {
			if (mode == 2)
				continue;
			if (mode != 3) /* there, interrupts of M-mode would be on; none is pending */
				csrw(mip, 0);
			enter((u64)code_sret, st | MPP(mode), 0);
			put_trap();
		}
		enter((u64)code_mret, st | MPP(1), 0);
		put8(saved.cause); /* the reference's tval is a stale one here */
		put(saved.epc);
	}
	for (int mode = 0; mode < 2; mode++) {
		enter((u64)code_wfi, TW | MPP(mode), 0);
		if (mode == 0)
			put_trap();
	}
	/* Delegation, direct and vectored (exceptions go to the base either way). */
	csrw(medeleg, 0xb1ff);
	csrw(stvec, (u64)s_handler);
	delegated(FS);
	csrw(stvec, (u64)s_handler | 1);
	delegated(0);
	return 0;
}
