/* Physical memory protection. */
#include "test.h"

static u64 area[1024] __attribute__((aligned(8192)));

static void look(int locked)
{
	static void (*const kinds[])(void) = { p_load, p_store, p_half };
	static const u64 offs[] = { 0, 8, 0x10, 0x14, 0xff8, 0x1000, 0x1008 };
	for (int mode = 0; mode < 4; mode++) {
		if (mode == 2)
			continue;
		for (int k = 0; k < 3; k++)
			for (unsigned o = 0; o < sizeof(offs) / sizeof(*offs); o++) {
				probe(kinds[k], FS | MPP(mode) | MPRV, (u64)area + offs[o]);
				put8(saved.cause);
			}
		for (unsigned o = 0; o < sizeof(offs) / sizeof(*offs); o++) {
			if (!locked)
				((unsigned *)area)[offs[o] / 4] = 0x00100073;
			if (mode != 3) {
				asm volatile("fence.i" : : : "memory");
				enter((u64)area + offs[o], FS | MPP(mode), 0);
				put8(saved.cause);
			}
		}
	}
}

int main(void)
{
	/* Everything else is open by the last entry. */
	csrw(pmpaddr7, -1UL);
	u64 rest = 0x1fUL << 56;
	u64 a = (u64)area >> 2;
	csrw(pmpcfg0, rest);
	look(0);
	for (u64 perm = 0; perm < 8; perm++) {
		if ((perm & 3) == 2)
			continue;
		csrw(pmpaddr0, a | 0x1ff); /* NAPOT 4 KiB */
		csrw(pmpcfg0, rest | 0x18 | perm);
		put(csrr(pmpcfg0));
		look(0);
		csrw(pmpaddr0, a);
		csrw(pmpaddr1, a + 4); /* TOR 16 bytes */
		csrw(pmpcfg0, rest | (0x08 | perm) << 8);
		look(0);
		csrw(pmpaddr0, a + 4); /* NA4 */
		csrw(pmpcfg0, rest | 0x10 | perm);
		look(0);
		csrw(pmpaddr0, a + 1); /* NAPOT 16 bytes */
		csrw(pmpcfg0, rest | 0x18 | perm);
		look(0);
	}
	/* A lock binds machine mode, and stays. */
	csrw(pmpaddr0, a | 0x1ff);
	csrw(pmpcfg0, rest | 0x99);
	look(1);
	csrw(pmpcfg0, 0);
	put(csrr(pmpcfg0));
	csrw(pmpaddr0, 0);
	put(csrr(pmpaddr0) == (a | 0x1ff));
	return 0;
}
