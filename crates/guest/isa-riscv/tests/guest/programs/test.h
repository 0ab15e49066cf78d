/* What the programs share. */
typedef unsigned long u64;
typedef unsigned char u8;

struct saved {
	u64 regs[14], mstatus, cause, tval, epc, status;
};
extern struct saved saved;
void enter(u64 pc, u64 mstatus, u64 a0);
void probe(void (*routine)(void), u64 mstatus, u64 addr);
void p_load(void), p_store(void), p_amo(void), p_lr(void), p_half(void);

#define csrr(name) ({ u64 v_; asm volatile("csrr %0, " #name : "=r"(v_) : : "memory"); v_; })
#define csrw(name, v) asm volatile("csrw " #name ", %0" : : "r"((u64)(v)) : "memory")
#define csrs(name, v) asm volatile("csrs " #name ", %0" : : "r"((u64)(v)) : "memory")
#define csrc(name, v) asm volatile("csrc " #name ", %0" : : "r"((u64)(v)) : "memory")

#define MPP(mode) ((u64)(mode) << 11)
#define MPRV (1UL << 17)
#define SUM (1UL << 18)
#define MXR (1UL << 19)
#define TVM (1UL << 20)
#define TW (1UL << 21)
#define TSR (1UL << 22)
#define FS (3UL << 13)

static inline void put8(u8 c)
{
	volatile u8 *uart = (volatile u8 *)0x10000000;
	while (!(uart[5] & 0x20))
		;
	*uart = c;
}

static inline void put(u64 v)
{
	for (int i = 0; i < 8; i++)
		put8(v >> (8 * i));
}

/* What the last trap was. */
static inline void put_trap(void)
{
	put8(saved.cause);
	put8(saved.cause >> 56);
	put(saved.tval);
	put(saved.epc);
	put(saved.status & 0x7e79aa); /* without what other extensions have */
}

static inline void pmp_open(void)
{
	csrw(pmpaddr0, -1UL);
	csrw(pmpcfg0, 0x1f);
}
