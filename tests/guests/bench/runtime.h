/* What the programs need of a C library, on Linux's system calls for riscv64. */
#pragma once
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long u64;
typedef long i64;
#define NULL ((void *)0)

static inline long sys(long n, long a, long b, long c, long d, long e, long f)
{
	register long a0 asm("a0") = a, a1 asm("a1") = b, a2 asm("a2") = c;
	register long a3 asm("a3") = d, a4 asm("a4") = e, a5 asm("a5") = f, a7 asm("a7") = n;
	asm volatile("ecall" : "+r"(a0) : "r"(a1), "r"(a2), "r"(a3), "r"(a4), "r"(a5), "r"(a7) : "memory");
	return a0;
}

enum {
	SYS_dup3 = 24, SYS_mount = 40, SYS_openat = 56, SYS_close = 57, SYS_pipe2 = 59, SYS_read = 63, SYS_write = 64,
	SYS_exit = 93, SYS_sched_setaffinity = 122, SYS_clock_gettime = 113, SYS_reboot = 142, SYS_munmap = 215,
	SYS_clone = 220, SYS_execve = 221, SYS_mmap = 222, SYS_wait4 = 260,
};

void *memset(void *d, int c, u64 n)
{
	u8 *p = d;
	while (n--)
		*p++ = (u8)c;
	return d;
}

void *memcpy(void *d, const void *s, u64 n)
{
	u8 *p = d;
	const u8 *q = s;
	for (; n >= 8 && !(((u64)p | (u64)q) & 7); n -= 8, p += 8, q += 8)
		*(u64 *)p = *(const u64 *)q;
	while (n--)
		*p++ = *q++;
	return d;
}

static u64 length(const char *s)
{
	u64 n = 0;
	while (s[n])
		n++;
	return n;
}

static void print(const char *s)
{
	sys(SYS_write, 1, (long)s, (long)length(s), 0, 0, 0);
}

static void print_number(u64 v)
{
	char t[24], *p = t + 23;
	*p = 0;
	do
		*--p = (char)('0' + v % 10);
	while (v /= 10);
	print(p);
}

static u64 now(void)
{
	u64 t[2];
	sys(SYS_clock_gettime, 1, (long)t, 0, 0, 0, 0);
	return t[0] * 1000000000 + t[1];
}

static void *pages(u64 bytes)
{
	return (void *)sys(SYS_mmap, 0, (long)bytes, 3, 0x22, -1, 0);
}

static long fork(void)
{
	return sys(SYS_clone, 17, 0, 0, 0, 0, 0);
}

static void wait_for(long child)
{
	sys(SYS_wait4, child, 0, 0, 0, 0, 0);
}

static void end(int code)
{
	sys(SYS_exit, code, 0, 0, 0, 0, 0);
	__builtin_unreachable();
}

static u64 random_state = 88172645463325252;

static u64 next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	return random_state ^= random_state << 17;
}
