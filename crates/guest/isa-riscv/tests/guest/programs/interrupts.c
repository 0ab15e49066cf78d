/* Interrupts that software makes pending: priorities, delegation, masks, vectors; the S-mode timer. */
#include "test.h"

void code_spin(void), s_entry(void);
asm(".text\n.align 2\n"
    "code_spin: nop\n nop\n ebreak\n"
    ".align 8\n"
    "s_entry:\n .option push\n .option norvc\n"
    ".set n, 0\n .rept 16\n li a0, n\n j 1f\n .set n, n + 1\n .endr\n"
    "1: csrr a1, scause\n la a4, seen\n sd a0, 0(a4)\n sd a1, 8(a4)\n csrr a1, sepc\n sd a1, 16(a4)\n"
    " csrr a1, sstatus\n sd a1, 24(a4)\n ecall\n"
    ".option pop\n");
u64 seen[4];

static void go(u64 mode, u64 bits)
{
	for (int k = 0; k < 4; k++)
		seen[k] = 0;
	enter((u64)code_spin, FS | MPP(mode) | bits, 0);
	put8(saved.cause);
	put8(saved.cause >> 56);
	put(saved.epc);
	put(saved.status & 0x7e79aa);
	for (int k = 0; k < 3; k++)
		put(seen[k]);
	put(seen[3] & 0xfe122);
}

int main(void)
{
	pmp_open();
	static const u64 sets[] = { 0, 0x2, 0x20, 0x200, 0x22, 0x220, 0x202, 0x222 };
	/* One pending at a time: without AIA the reference takes the lowest number first, which is not the
	   standard's order. */
	for (int vectored = 0; vectored < 2; vectored++) {
		csrw(stvec, (u64)s_entry | vectored);
		for (int pending = 0; pending < 4; pending++)
			for (int enabled = 0; enabled < 8; enabled++)
				for (int deleg = 0; deleg < 8; deleg++) {
					csrw(mideleg, sets[deleg]);
					csrw(mie, sets[enabled]);
					csrw(mip, sets[pending]);
					for (int mode = 0; mode < 2; mode++)
						for (int sie = 0; sie < 2; sie++)
							go(mode, sie ? 2 : 0);
				}
	}
	csrw(mip, 0);
	csrw(mideleg, 0x222);
	csrw(mie, 0x222);
	/* SSIP by way of sip; the others cannot be written there. */
	csrw(sip, -1UL);
	put(csrr(mip) & 0x222);
	go(1, 2);
	csrc(sip, 2);
	put(csrr(mip) & 0x222);
	go(1, 2);
	/* Sstc: pending while the time is past stimecmp, and mip.STIP is read-only. */
	csrw(mcounteren, 2);
	csrw(menvcfg, 1UL << 63);
	csrw(0x14d, -1UL);
	put(csrr(mip) & 0x20);
	csrw(mip, 0x20);
	put(csrr(mip) & 0x20);
	go(1, 2);
	csrw(0x14d, 0);
	put(csrr(mip) & 0x20);
	go(0, 0);
	go(1, 2);
	go(1, 0);
	csrw(0x14d, csrr(time) + 2000);
	csrw(mideleg, 0);
	while (!(csrr(mip) & 0x20))
		;
	asm volatile("wfi");
	put(csrr(mip) & 0x20);
	go(0, 0);
	csrw(0x14d, -1UL);
	csrw(menvcfg, 0);
	put(csrr(mip) & 0x20);
	return 0;
}
