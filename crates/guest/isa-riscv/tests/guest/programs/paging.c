/* Sv39 and Sv48: every combination of permission bits, modes and accesses; superpages; bad entries. */
#include "test.h"

static u64 root[512] __attribute__((aligned(4096)));
static u64 mid[512] __attribute__((aligned(4096)));
static u64 mid48[512] __attribute__((aligned(4096)));
static u64 leaf[512] __attribute__((aligned(4096)));
static u64 page[2][512] __attribute__((aligned(4096)));

static u64 ptr(void *p) { return (u64)p >> 12 << 10; }

static const u64 VA = 0x40201000; /* root 1, mid 1, leaf 1 */

static void fences(void) { asm volatile("sfence.vma\n fence.i" : : : "memory"); }

static void access_all(u64 mode, u64 bits, u64 va)
{
	u64 base = FS | MPP(mode) | bits;
	static void (*const kinds[])(void) = { p_load, p_store, p_amo, p_lr };
	for (int k = 0; k < 4; k++) {
		fences();
		probe(kinds[k], base | MPRV, va);
		put8(saved.cause);
	}
	fences();
	page[0][0] = 0x00100073; /* ebreak */
	asm volatile("fence.i" : : : "memory");
	enter(va, base, 0);
	put8(saved.cause);
}

static void matrix(void)
{
	for (int flags = 0; flags < 256; flags++)
		for (int mode = 0; mode < 2; mode++)
			for (int b = 0; b < 4; b++) {
				leaf[1] = ptr(page[0]) | flags;
				access_all(mode, (b & 1 ? SUM : 0) | (b & 2 ? MXR : 0), VA);
				put8(leaf[1]);
			}
}

static void where(u64 va)
{
	fences();
	probe(p_load, FS | MPP(1) | MPRV, va);
	put8(saved.cause);
	put(saved.tval);
	fences();
	probe(p_store, FS | MPP(1) | MPRV, va);
	put8(saved.cause);
	put(saved.tval);
	page[0][0] = 0x00100073; /* ebreak, which the store replaced */
	fences();
	enter(va, FS | MPP(1), 0);
	put8(saved.cause);
	put(saved.tval);
	put(saved.epc);
}

int main(void)
{
	pmp_open();
	csrw(medeleg, 0);
	root[1] = ptr(mid) | 1;
	mid[1] = ptr(leaf) | 1;
	csrw(satp, 8UL << 60 | (u64)root >> 12);
	put(csrr(satp) >> 60);
	matrix();

	/* Addresses whose upper bits are not copies of bit 38; a missing entry at each level. */
	leaf[1] = ptr(page[0]) | 0xcf;
	where(VA);
	where(VA | 1UL << 39);
	where(VA | 1UL << 63);
	where(~0UL << 38 | VA);
	where(VA + 0x1000);
	where(VA + 0x200000);
	where(VA + 0x40000000);

	/* Accesses across the end of a page: both halves, or the second missing. */
	leaf[2] = ptr(page[1]) | 0xcf;
	page[0][511] = 0x1122334455667788;
	page[1][0] = 0x99aabbccddeeff00;
	for (u64 off = 0xff9; off < 0x1000; off++) {
		fences();
		probe(p_load, FS | MPP(1) | MPRV, VA + off);
		put8(saved.cause);
		put(saved.tval);
		probe(p_store, FS | MPP(1) | MPRV, VA + off);
		put8(saved.cause);
		put(saved.tval);
		put(page[0][511]);
		put(page[1][0]);
		page[0][511] = 0x1122334455667788;
		page[1][0] = 0x99aabbccddeeff00;
	}
	/* A four-byte instruction across the end, too. */
	((unsigned short *)page[0])[2047] = 0x0073; /* ebreak's first half */
	((unsigned short *)page[1])[0] = 0x0010;
	fences();
	enter(VA + 0xffe, FS | MPP(1), 0);
	put_trap();
	leaf[2] = 0;
	fences();
	enter(VA + 0xffe, FS | MPP(1), 0);
	put_trap();
	probe(p_load, FS | MPP(1) | MPRV, VA + 0xffc);
	put8(saved.cause);
	put(saved.tval);
	probe(p_store, FS | MPP(1) | MPRV, VA + 0xffc);
	put8(saved.cause);
	put(saved.tval);
	put(page[0][511]);

	/* Superpages, aligned and not; pointers with bits that are reserved there. */
	page[0][0] = 0x00100073;
	mid[2] = ptr((void *)((u64)page[0] & ~0x1fffffUL)) | 0xcf;
	where(0x40400000 + ((u64)page[0] & 0x1fffff));
	mid[2] |= 1UL << 10;
	where(0x40400000 + ((u64)page[0] & 0x1fffff));
	root[2] = ptr((void *)0x80000000) | 0xcf;
	where((u64)page[0]);
	root[2] |= 1UL << 19;
	where((u64)page[0]);
	for (int bit = 4; bit < 8; bit++) {
		mid[1] = ptr(leaf) | 1 | 1UL << bit;
		where(VA);
	}
	mid[1] = ptr(leaf) | 1;
	for (int bit = 54; bit < 61; bit++) {
		leaf[1] = ptr(page[0]) | 0xcf | 1UL << bit;
		where(VA);
	}
	/* A page where there is nothing. (Of a table there, the standard says access fault, the reference page
	   fault.) */
	leaf[1] = 0x100UL << 28 | 0xcf;
	where(VA);
	leaf[1] = ptr(page[0]) | 0xcf;

	/* Sv48 has a level more; an unknown mode changes nothing. */
	mid48[0] = ptr(root) | 1;
	csrw(satp, 9UL << 60 | 5UL << 44 | (u64)mid48 >> 12);
	put(csrr(satp) >> 60);
	where(VA);
	where(VA | 1UL << 39);
	where(VA | 1UL << 47);
	mid48[3] = ptr((void *)0) | 0xcf; /* 512 GiB */
	where((3UL << 39) + (u64)page[0]);
	csrw(satp, 5UL << 60);
	put(csrr(satp) >> 60);
	csrw(satp, 0);
	where((u64)page[0]);
	return 0;
}
