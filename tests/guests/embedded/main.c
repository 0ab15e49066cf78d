/*
 * The embedded guest: a bare-metal S-mode program for the riscv64 virt board.
 *
 * It drives a virtio block device by itself (virtio 1.2, MMIO transport, legacy or modern; one split queue, polled)
 * and does what the command line of the device tree says:
 *
 *   fill=N        writes pattern N over the whole disk
 *   verify=N      checks that the whole disk shows pattern N
 *   swap=A,B      the disk is an overlay on a backing file that shows pattern A. Writes clusters of its own, says
 *                 that it is ready, then reads and writes without a pause until the host has exchanged the backing
 *                 file for one that shows pattern B; nothing else may ever be read. Ends with a check of every sector.
 *   idle          does nothing, for ever
 *
 * It ends with "PASS" and a power-off, or with "FAIL: reason" and the test finisher's failure code.
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

#define UART 0x10000000UL
#define FINISHER 0x100000UL
#define VIRTIO 0x10001000UL
#define VIRTIO_STEP 0x1000UL
#define VIRTIO_SLOTS 8

static inline u8 in8(u64 a) { return *(volatile u8 *)a; }
static inline void out8(u64 a, u8 v) { *(volatile u8 *)a = v; }
static inline u32 in32(u64 a) { return *(volatile u32 *)a; }
static inline void out32(u64 a, u32 v) { *(volatile u32 *)a = v; }
static inline void fence(void) { __asm__ volatile("fence iorw, iorw" ::: "memory"); }
static inline u64 ticks(void) { u64 t; __asm__ volatile("rdtime %0" : "=r"(t)); return t; }

static void sbi(u64 ext, u64 func, u64 arg0, u64 arg1)
{
	register u64 a0 __asm__("a0") = arg0, a1 __asm__("a1") = arg1, a6 __asm__("a6") = func, a7 __asm__("a7") = ext;
	__asm__ volatile("ecall" : "+r"(a0), "+r"(a1) : "r"(a6), "r"(a7) : "memory");
}

/* -- Console -------------------------------------------------------------- */

static void put(char c)
{
	while (!(in8(UART + 5) & 0x20))
		;
	out8(UART, c);
}

static void text(const char *s)
{
	for (; *s; s++) {
		if (*s == '\n')
			put('\r');
		put(*s);
	}
}

static void number(u64 v)
{
	char b[24];
	int n = 0;
	do {
		b[n++] = '0' + v % 10;
		v /= 10;
	} while (v);
	while (n)
		put(b[--n]);
}

void power_off(void)
{
	sbi(0x53525354, 0, 0, 0); /* SRST: shutdown, no reason */
}

static void fail(const char *why, u64 sector)
{
	text("FAIL: ");
	text(why);
	text(" at sector ");
	number(sector);
	text("\n");
	out32(FINISHER, 0x13333); /* fail, code 1 */
	for (;;)
		;
}

/* The compiler may ask for these. */
void *memset(void *d, int c, u64 n) { u8 *p = d; while (n--) *p++ = c; return d; }
void *memcpy(void *d, const void *s, u64 n) { u8 *p = d; const u8 *q = s; while (n--) *p++ = *q++; return d; }

/* -- Command line: /chosen/bootargs of the device tree --------------------- */

static u32 be32(const u8 *p) { return (u32)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3]; }
static int same(const char *a, const char *b) { while (*a && *a == *b) a++, b++; return *a == *b; }

static const char *bootargs(const u8 *fdt)
{
	if (be32(fdt) != 0xd00dfeed)
		return "";
	const u8 *p = fdt + be32(fdt + 8);
	const char *strings = (const char *)fdt + be32(fdt + 12);
	for (;;) {
		u32 token = be32(p);
		p += 4;
		if (token == 1) { /* a node begins: its name, padded */
			while (*p)
				p++;
			p = (const u8 *)(((u64)p + 4) & ~3UL);
		} else if (token == 3) { /* a property: length, name, value */
			u32 len = be32(p);
			if (same(strings + be32(p + 4), "bootargs"))
				return (const char *)p + 8;
			p += 8 + ((len + 3) & ~3U);
		} else if (token == 9) {
			return "";
		}
	}
}

static const char *option(const char *args, const char *name)
{
	for (; *args; args++) {
		const char *a = args, *n = name;
		while (*n && *a == *n)
			a++, n++;
		if (!*n)
			return a;
	}
	return 0;
}

static u64 digits(const char **s)
{
	u64 v = 0;
	while (**s >= '0' && **s <= '9')
		v = v * 10 + *(*s)++ - '0';
	return v;
}

/* -- The disk --------------------------------------------------------------- */

#define QUEUE 8
#define CLUSTER 65536UL
#define CLUSTER_SECTORS (CLUSTER / 512)

struct desc { u64 addr; u32 len; u16 flags, next; };
static struct {
	struct desc desc[QUEUE];
	u16 avail_flags, avail_idx, avail_ring[QUEUE], used_event;
	u8 pad[4096 - 16 * QUEUE - 6 - 2 * QUEUE];
	volatile u16 used_flags, used_idx;
	struct { u32 id, len; } used_ring[QUEUE];
} ring __attribute__((aligned(4096)));
static struct { u32 type, reserved; u64 sector; } request;
static volatile u8 status;
static u8 buffer[CLUSTER] __attribute__((aligned(4096)));
static u64 dev, sectors;

static void disk_init(void)
{
	for (int i = 0; i < VIRTIO_SLOTS; i++) {
		u64 base = VIRTIO + i * VIRTIO_STEP;
		if (in32(base) == 0x74726976 && in32(base + 8) == 2)
			dev = base;
	}
	if (!dev)
		fail("no virtio block device", 0);
	u32 version = in32(dev + 4);
	out32(dev + 0x70, 0);
	out32(dev + 0x70, 1);
	out32(dev + 0x70, 3);
	if (version == 1) {
		out32(dev + 0x20, 0); /* no features */
		out32(dev + 0x28, 4096);
	} else {
		out32(dev + 0x24, 0);
		out32(dev + 0x20, 0);
		out32(dev + 0x24, 1);
		out32(dev + 0x20, 1); /* VIRTIO_F_VERSION_1 */
		out32(dev + 0x70, 3 | 8);
		if (!(in32(dev + 0x70) & 8))
			fail("features refused", 0);
	}
	out32(dev + 0x30, 0);
	if (in32(dev + 0x34) < QUEUE)
		fail("queue too small", 0);
	out32(dev + 0x38, QUEUE);
	if (version == 1) {
		out32(dev + 0x3c, 4096);
		out32(dev + 0x40, (u64)&ring >> 12);
		out32(dev + 0x70, 7);
	} else {
		u64 d = (u64)ring.desc, a = (u64)&ring.avail_flags, u = (u64)&ring.used_flags;
		out32(dev + 0x80, d), out32(dev + 0x84, d >> 32);
		out32(dev + 0x90, a), out32(dev + 0x94, a >> 32);
		out32(dev + 0xa0, u), out32(dev + 0xa4, u >> 32);
		out32(dev + 0x44, 1);
		out32(dev + 0x70, 15);
	}
	sectors = in32(dev + 0x100) | (u64)in32(dev + 0x104) << 32;
}

static void disk(int write, u64 sector, void *data, u64 len)
{
	static u16 seen;
	request.type = write;
	request.sector = sector;
	status = 0xff;
	ring.desc[0] = (struct desc){ (u64)&request, 16, 1, 1 };
	ring.desc[1] = (struct desc){ (u64)data, len, write ? 1 : 3, 2 };
	ring.desc[2] = (struct desc){ (u64)&status, 1, 2, 0 };
	ring.avail_ring[ring.avail_idx % QUEUE] = 0;
	fence();
	ring.avail_idx++;
	fence();
	out32(dev + 0x50, 0);
	while (ring.used_idx == seen)
		;
	seen++;
	fence();
	out32(dev + 0x64, in32(dev + 0x60));
	if (status)
		fail(write ? "write error" : "read error", sector);
}

/* -- Patterns ---------------------------------------------------------------- */

static u64 word(u64 pattern, u64 sector, u64 i)
{
	u64 z = (pattern << 48 ^ sector << 8 ^ i) * 0x9e3779b97f4a7c15UL;
	z ^= z >> 29;
	return z * 0xbf58476d1ce4e5b9UL ^ z >> 32;
}

static void make(u64 pattern, u64 sector, u8 *data, u64 len)
{
	for (u64 s = 0; s < len / 512; s++)
		for (u64 i = 0; i < 64; i++)
			((u64 *)(data + 512 * s))[i] = word(pattern, sector + s, i);
}

static int is(u64 pattern, u64 sector, const u8 *data, u64 len)
{
	for (u64 s = 0; s < len / 512; s++)
		for (u64 i = 0; i < 64; i++)
			if (((const u64 *)(data + 512 * s))[i] != word(pattern, sector + s, i))
				return 0;
	return 1;
}

#define OWN 77 /* the pattern of what the guest writes itself */

static int is_own(u64 cluster) { return cluster % 5 == 2; }

static void check_all(u64 pattern, int with_own)
{
	for (u64 s = 0; s < sectors; s += CLUSTER_SECTORS) {
		disk(0, s, buffer, CLUSTER);
		u64 want = with_own && is_own(s / CLUSTER_SECTORS) ? OWN : pattern;
		if (!is(want, s, buffer, CLUSTER))
			fail("wrong data", s);
	}
}

static void swap(u64 a, u64 b)
{
	u64 clusters = sectors / CLUSTER_SECTORS;
	check_all(a, 0);
	for (u64 c = 0; c < clusters; c++)
		if (is_own(c)) {
			make(OWN, c * CLUSTER_SECTORS, buffer, CLUSTER);
			disk(1, c * CLUSTER_SECTORS, buffer, CLUSTER);
		}
	check_all(a, 1);
	text("ready: every sector checked, own clusters written\n");
	u64 n = 0, now = a, random = 1, start = ticks();
	for (u64 after = 0; after < 200; n++) {
		random = random * 6364136223846793005UL + 1442695040888963407UL;
		u64 c = (random >> 33) % clusters, s = c * CLUSTER_SECTORS + (random >> 20) % (CLUSTER_SECTORS - 8);
		if (is_own(c) && (random >> 60) < 8) {
			make(OWN, s, buffer, 4096);
			disk(1, s, buffer, 4096);
		} else {
			disk(0, s, buffer, 4096);
			if (is_own(c)) {
				if (!is(OWN, s, buffer, 4096))
					fail("own cluster damaged", s);
			} else if (!is(now, s, buffer, 4096)) {
				if (now != a || !is(b, s, buffer, 4096))
					fail("neither backing file", s);
				now = b;
				text("swapped: seen after ");
				number(n);
				text(" operations\n");
			}
		}
		after += now == b;
		if (now == a && ticks() - start > 120UL * 10000000)
			fail("no swap in two minutes", 0);
	}
	check_all(b, 1);
	/* A sector in an untouched cluster: the rest of the cluster is copied up from the new backing file. */
	make(OWN, 8, buffer, 512);
	disk(1, 8, buffer, 512);
	disk(0, 0, buffer, CLUSTER);
	for (u64 s = 0; s < CLUSTER_SECTORS; s++)
		if (!is(s == 8 ? OWN : b, s, buffer + 512 * s, 512))
			fail("wrong data after a partial write", s);
	text("checked: own clusters kept, all others from the new backing file\n");
}

void main(u64 hart, const u8 *fdt)
{
	const char *args = bootargs(fdt), *o;
	text("rhea embedded guest: hart ");
	number(hart);
	text(", \"");
	text(args);
	text("\"\n");
	if (option(args, "idle"))
		for (;;)
			__asm__ volatile("wfi");
	disk_init();
	text("disk: virtio version ");
	number(in32(dev + 4));
	text(", ");
	number(sectors);
	text(" sectors\n");
	if ((o = option(args, "fill="))) {
		u64 pattern = digits(&o);
		for (u64 s = 0; s < sectors; s += CLUSTER_SECTORS) {
			make(pattern, s, buffer, CLUSTER);
			disk(1, s, buffer, CLUSTER);
		}
		check_all(pattern, 0);
	} else if ((o = option(args, "verify="))) {
		check_all(digits(&o), 0);
	} else if ((o = option(args, "swap="))) {
		u64 a = digits(&o);
		o++;
		swap(a, digits(&o));
	} else {
		fail("nothing to do: fill=, verify=, swap= or idle on the command line", 0);
	}
	text("PASS\n");
}
