/* Loads for an emulator. As a guest's init: runs each, says how long it took by the guest's clock, and what came out. */
#include "runtime.h"

static u32 rotate(u32 v, int n)
{
	return v >> n | v << (32 - n);
}

/* SHA-256 (FIPS 180-4); the constants are the fractions of cube roots of primes. */
static const u32 K[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static void sha_block(u32 h[8], const u8 *p)
{
	u32 w[64], v[8];
	for (int i = 0; i < 16; i++, p += 4)
		w[i] = (u32)p[0] << 24 | (u32)p[1] << 16 | (u32)p[2] << 8 | p[3];
	for (int i = 16; i < 64; i++) {
		u32 a = w[i - 15], b = w[i - 2];
		w[i] = w[i - 16] + w[i - 7] + (rotate(a, 7) ^ rotate(a, 18) ^ a >> 3) +
		       (rotate(b, 17) ^ rotate(b, 19) ^ b >> 10);
	}
	for (int i = 0; i < 8; i++)
		v[i] = h[i];
	for (int i = 0; i < 64; i++) {
		u32 e = v[4], a = v[0];
		u32 t = v[7] + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & v[5]) ^ (~e & v[6])) + K[i] + w[i];
		u32 u = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]));
		for (int j = 7; j > 0; j--)
			v[j] = v[j - 1];
		v[4] += t;
		v[0] = t + u;
	}
	for (int i = 0; i < 8; i++)
		h[i] += v[i];
}

static u64 sha256(void)
{
	u32 h[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 };
	static u8 data[65536];
	for (int i = 0; i < 65536; i++)
		data[i] = (u8)(i * 7);
	for (int round = 0; round < 160; round++)
		for (int i = 0; i < 65536; i += 64)
			sha_block(h, data + i);
	return h[0];
}

static void quick(u32 *a, i64 lo, i64 hi)
{
	while (lo < hi) {
		u32 pivot = a[(lo + hi) / 2];
		i64 i = lo, j = hi;
		while (i <= j) {
			while (a[i] < pivot)
				i++;
			while (a[j] > pivot)
				j--;
			if (i <= j) {
				u32 t = a[i];
				a[i++] = a[j];
				a[j--] = t;
			}
		}
		if (j - lo < hi - i) {
			quick(a, lo, j);
			lo = i;
		} else {
			quick(a, i, hi);
			hi = j;
		}
	}
}

static u64 sort(void)
{
	enum { N = 1 << 19 };
	static u32 a[N];
	u64 sum = 0;
	for (int round = 0; round < 4; round++) {
		for (int i = 0; i < N; i++)
			a[i] = (u32)next_random();
		quick(a, 0, N - 1);
		sum += a[N / 2];
	}
	return sum;
}

/* Finds repeats by a hash of four bytes, as fast compressors do. */
static u64 compress(void)
{
	enum { N = 1 << 20, H = 1 << 14 };
	static u8 in[N], out[N + N / 8];
	static u32 seen[H];
	for (u32 i = 0; i < N; i++)
		in[i] = i > 4096 && next_random() % 8 ? in[i - 1 - next_random() % 2000] : (u8)(next_random() % 64);
	u64 total = 0;
	for (int round = 0; round < 12; round++) {
		u32 o = 0, i = 0;
		memset(seen, 0, sizeof seen);
		while (i + 8 < N) {
			u32 word = in[i] | (u32)in[i + 1] << 8 | (u32)in[i + 2] << 16 | (u32)in[i + 3] << 24;
			u32 slot = word * 2654435761u >> 18, at = seen[slot];
			seen[slot] = i + 1;
			if (at && in[at - 1] == in[i] && in[at] == in[i + 1] && in[at + 1] == in[i + 2] && i + 1 - at < 65536) {
				u32 len = 3, most = N - i < 255 ? N - i : 255;
				while (len < most && in[at - 1 + len] == in[i + len])
					len++;
				out[o++] = 255;
				out[o++] = (u8)len;
				out[o++] = (u8)(i + 1 - at);
				out[o++] = (u8)((i + 1 - at) >> 8);
				i += len;
			} else {
				out[o++] = in[i++];
			}
		}
		total += o + out[round];
	}
	return total;
}

static u64 search(void)
{
	enum { N = 1 << 20 };
	static char text[N];
	static const char wanted[] = "needle in the stack";
	for (int i = 0; i < N; i++)
		text[i] = (char)('a' + next_random() % 16);
	memcpy(text + N - 100, wanted, sizeof wanted - 1);
	u64 found = 0;
	for (int round = 0; round < 40; round++) {
		text[round] = 'n';
		for (i64 i = 0; i + (i64)sizeof wanted - 1 <= N; i++) {
			u64 j = 0;
			while (j < sizeof wanted - 1 && text[i + (i64)j] == wanted[j])
				j++;
			found += j == sizeof wanted - 1;
		}
	}
	return found;
}

static u64 chase(void)
{
	enum { N = 1 << 17 };
	static u32 next[N];
	for (u32 i = 0; i < N; i++)
		next[i] = i;
	/* One cycle through all (Sattolo). */
	for (u32 i = N - 1; i > 0; i--) {
		u32 j = (u32)(next_random() % i), t = next[i];
		next[i] = next[j];
		next[j] = t;
	}
	u32 at = 0;
	for (u32 i = 0; i < 12 * N + 5; i++)
		at = next[at];
	return at;
}

#define MATMUL(name, type)                                            \
	static u64 name(void)                                         \
	{                                                             \
		enum { N = 160 };                                     \
		static type a[N][N], b[N][N], c[N][N];                \
		for (int i = 0; i < N; i++)                           \
			for (int j = 0; j < N; j++) {                 \
				a[i][j] = (type)(i * 3 + j) / N;      \
				b[i][j] = (type)(i - 2 * j) / N;      \
			}                                             \
		type sum = 0;                                         \
		for (int round = 0; round < 8; round++) {             \
			for (int i = 0; i < N; i++)                   \
				for (int j = 0; j < N; j++) {         \
					type s = 0;                   \
					for (int k = 0; k < N; k++)   \
						s += a[i][k] * b[k][j]; \
					c[i][j] = s;                  \
				}                                     \
			sum += c[round][N - 1 - round];               \
		}                                                     \
		return (u64)(i64)(sum * 1000);                        \
	}
MATMUL(matmul64, double)
MATMUL(matmul32, float)

static double root(double v)
{
	double r;
	asm("fsqrt.d %0, %1" : "=f"(r) : "f"(v));
	return r;
}

static u64 nbody(void)
{
	enum { N = 5 };
	static double p[N][3], v[N][3], m[N];
	for (int i = 0; i < N; i++) {
		m[i] = 1.0 + i;
		for (int k = 0; k < 3; k++) {
			p[i][k] = (i + 1) * 1.7 * (k + 1) - i * k;
			v[i][k] = 0.01 * (i - k);
		}
	}
	for (int step = 0; step < 120000; step++) {
		for (int i = 0; i < N; i++)
			for (int j = i + 1; j < N; j++) {
				double d[3], q = 0.01;
				for (int k = 0; k < 3; k++) {
					d[k] = p[i][k] - p[j][k];
					q += d[k] * d[k];
				}
				double f = 0.001 / (q * root(q));
				for (int k = 0; k < 3; k++) {
					v[i][k] -= d[k] * m[j] * f;
					v[j][k] += d[k] * m[i] * f;
				}
			}
		for (int i = 0; i < N; i++)
			for (int k = 0; k < 3; k++)
				p[i][k] += 0.001 * v[i][k];
	}
	return (u64)(i64)(p[0][0] * 1e9);
}

static u64 fft(void)
{
	enum { N = 4096 };
	static double re[N], im[N], wr[N / 2], wi[N / 2];
	double cs = 1, sn = 0, step = 6.283185307179586 / N;
	double c1 = 1 - step * step / 2 + step * step * step * step / 24, s1 = root(1 - c1 * c1);
	for (int i = 0; i < N / 2; i++) {
		wr[i] = cs;
		wi[i] = -sn;
		double t = cs * c1 - sn * s1;
		sn = cs * s1 + sn * c1;
		cs = t;
	}
	double sum = 0;
	for (int round = 0; round < 60; round++) {
		for (int i = 0; i < N; i++) {
			re[i] = (double)(i * 37 % 101) - 50;
			im[i] = 0;
		}
		for (int i = 1, j = 0; i < N; i++) {
			int bit = N >> 1;
			for (; j & bit; bit >>= 1)
				j ^= bit;
			j ^= bit;
			if (i < j) {
				double t = re[i];
				re[i] = re[j];
				re[j] = t;
			}
		}
		for (int len = 2; len <= N; len <<= 1)
			for (int i = 0; i < N; i += len)
				for (int k = 0; k < len / 2; k++) {
					int w = k * (N / len), a = i + k, b = a + len / 2;
					double x = re[b] * wr[w] - im[b] * wi[w], y = re[b] * wi[w] + im[b] * wr[w];
					re[b] = re[a] - x;
					im[b] = im[a] - y;
					re[a] += x;
					im[a] += y;
				}
		sum += re[1] + im[2];
	}
	return (u64)(i64)(sum * 1000);
}

static u64 convert(void)
{
	double sum = 0;
	i64 n = 0;
	for (i64 i = 0; i < 12000000; i++) {
		double d = (double)(i * 3);
		float f = (float)(int)i;
		n += (i64)(d * 0.5) + (int)(f * 0.25f);
		sum += (double)(n & 0xff);
	}
	return (u64)(n + (i64)sum);
}

static u64 pipes(void)
{
	int there[2], back[2];
	sys(SYS_pipe2, (long)there, 0, 0, 0, 0, 0);
	sys(SYS_pipe2, (long)back, 0, 0, 0, 0, 0);
	enum { ROUNDS = 20000 };
	u8 c = 1;
	long child = fork();
	if (child == 0) {
		for (int i = 0; i < ROUNDS; i++) {
			sys(SYS_read, there[0], (long)&c, 1, 0, 0, 0);
			sys(SYS_write, back[1], (long)&c, 1, 0, 0, 0);
		}
		end(0);
	}
	for (int i = 0; i < ROUNDS; i++) {
		sys(SYS_write, there[1], (long)&c, 1, 0, 0, 0);
		sys(SYS_read, back[0], (long)&c, 1, 0, 0, 0);
	}
	wait_for(child);
	return ROUNDS;
}

static u64 fork_exec(void)
{
	static char *args[] = { "/bin/busybox", "true", NULL }, *none[] = { NULL };
	enum { ROUNDS = 2000 };
	for (int i = 0; i < ROUNDS; i++) {
		long child = fork();
		if (child == 0) {
			sys(SYS_execve, (long)args[0], (long)args, (long)none, 0, 0, 0);
			end(1);
		}
		wait_for(child);
	}
	return ROUNDS;
}

static u64 mmap_churn(void)
{
	u64 sum = 0;
	for (int round = 0; round < 4000; round++) {
		u8 *p = pages(16 * 4096);
		for (int i = 0; i < 16; i++)
			p[i * 4096] = (u8)(round + i);
		sum += p[5 * 4096];
		sys(SYS_munmap, (long)p, 16 * 4096, 0, 0, 0, 0);
	}
	return sum;
}

static const struct {
	const char *name;
	u64 (*run)(void);
} ALL[] = {
	{ "sha256", sha256 }, { "sort", sort }, { "compress", compress }, { "search", search }, { "chase", chase },
	{ "matmul-f64", matmul64 }, { "matmul-f32", matmul32 }, { "nbody", nbody }, { "fft", fft }, { "convert", convert },
	{ "pipe", pipes }, { "fork-exec", fork_exec }, { "mmap", mmap_churn },
};

static void report(const char *name, u64 ns, u64 result)
{
	print("BENCH ");
	print(name);
	print(" ");
	print_number(ns);
	print(" ");
	print_number(result);
	print("\n");
}

/* Two of one load at once, each on a hart of its own. */
static void both(const char *name, u64 (*run)(void))
{
	u64 start = now();
	long child = fork();
	u64 mask = child ? 1 : 2;
	sys(SYS_sched_setaffinity, 0, 8, (long)&mask, 0, 0, 0);
	run();
	if (child == 0)
		end(0);
	wait_for(child);
	report(name, now() - start, 2);
	mask = 3;
	sys(SYS_sched_setaffinity, 0, 8, (long)&mask, 0, 0, 0);
}

void begin(void)
{
	if (sys(SYS_write, 1, (long)"", 0, 0, 0, 0) < 0) {
		long console = sys(SYS_openat, -100, (long)"/dev/console", 2, 0, 0, 0);
		for (int i = 0; i < 3; i++)
			sys(SYS_dup3, console, i, 0, 0, 0, 0);
	}
	print("BENCH begin 0 0\n");
	for (u64 i = 0; i < sizeof ALL / sizeof *ALL; i++) {
		u64 start = now(), result = ALL[i].run();
		report(ALL[i].name, now() - start, result);
	}
	u64 harts = 0;
	sys(123 /* sched_getaffinity */, 0, 8, (long)&harts, 0, 0, 0);
	if (harts & 2) {
		both("sha256-twice", sha256);
		both("sort-twice", sort);
		both("nbody-twice", nbody);
	}
	print("BENCH end 0 0\n");
	sys(SYS_reboot, (long)0xfee1dead, 672274793, 0x4321fedc, 0, 0, 0);
	end(0);
}

asm(".globl _start\n_start:\n.option push\n.option norelax\nla gp, __global_pointer$\n.option pop\n"
    "mv a0, sp\nandi sp, sp, -16\ncall begin\n");
