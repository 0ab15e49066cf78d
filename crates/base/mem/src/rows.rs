//! Looking at many bytes: rows of 64 of them, at the speed of memory.
//!
//! What is looked at may change meanwhile. On x86-64 the loads are made by assembly, for which that is no undefined behaviour;
//! elsewhere by atomic words.

/// Bytes in a row.
pub(crate) const ROW: usize = 64;

/// How many rows from `p` on are zeroes, of `rows`.
///
/// # Safety
/// The rows must lie inside of a block that is held, and begin at a multiple of 8.
#[cfg(target_arch = "x86_64")]
pub(crate) unsafe fn zero_rows(p: *const u8, rows: usize) -> usize {
    if rows == 0 {
        return 0;
    }
    let left: usize;
    // SAFETY: only the rows are read; nothing is written. SSE2 is part of the architecture.
    unsafe {
        std::arch::asm!(
            "pxor {z}, {z}",
            "2:",
            "movdqu {a}, [{p}]",
            "movdqu {b}, [{p} + 16]",
            "por {a}, {b}",
            "movdqu {b}, [{p} + 32]",
            "por {a}, {b}",
            "movdqu {b}, [{p} + 48]",
            "por {a}, {b}",
            "pcmpeqb {a}, {z}",
            "pmovmskb {m:e}, {a}",
            "cmp {m:e}, 0xffff",
            "jne 3f",
            "add {p}, 64",
            "dec {n}",
            "jnz 2b",
            "3:",
            p = inout(reg) p => _,
            n = inout(reg) rows => left,
            m = out(reg) _,
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            z = out(xmm_reg) _,
            options(nostack, readonly),
        );
    }
    rows - left
}

/// How many rows from `p` on are the same as those from `q` on, of `rows`.
///
/// # Safety
/// As for [`zero_rows`], for both.
#[cfg(target_arch = "x86_64")]
pub(crate) unsafe fn equal_rows(p: *const u8, q: *const u8, rows: usize) -> usize {
    if rows == 0 {
        return 0;
    }
    let left: usize;
    // SAFETY: only the rows are read; nothing is written. SSE2 is part of the architecture.
    unsafe {
        std::arch::asm!(
            "2:",
            "movdqu {a}, [{p}]",
            "movdqu {b}, [{q}]",
            "pcmpeqb {a}, {b}",
            "movdqu {c}, [{p} + 16]",
            "movdqu {b}, [{q} + 16]",
            "pcmpeqb {c}, {b}",
            "pand {a}, {c}",
            "movdqu {c}, [{p} + 32]",
            "movdqu {b}, [{q} + 32]",
            "pcmpeqb {c}, {b}",
            "pand {a}, {c}",
            "movdqu {c}, [{p} + 48]",
            "movdqu {b}, [{q} + 48]",
            "pcmpeqb {c}, {b}",
            "pand {a}, {c}",
            "pmovmskb {m:e}, {a}",
            "cmp {m:e}, 0xffff",
            "jne 3f",
            "add {p}, 64",
            "add {q}, 64",
            "dec {n}",
            "jnz 2b",
            "3:",
            p = inout(reg) p => _,
            q = inout(reg) q => _,
            n = inout(reg) rows => left,
            m = out(reg) _,
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            options(nostack, readonly),
        );
    }
    rows - left
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) use words::{equal_rows, zero_rows};

#[cfg(any(test, not(target_arch = "x86_64")))]
mod words {
    use super::ROW;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// The bits of a row, joined.
    ///
    /// # Safety
    /// As for the functions below.
    #[inline(always)]
    unsafe fn joined(word: impl Fn(usize) -> u64) -> u64 {
        (0..ROW / 8).fold(0, |all, k| all | word(k))
    }

    /// # Safety
    /// `p` is a multiple of 8, and the word inside of a block that is held.
    #[inline(always)]
    unsafe fn load(p: *const u8, k: usize) -> u64 {
        // SAFETY: the caller's promise.
        unsafe { AtomicU64::from_ptr(p.add(8 * k).cast_mut().cast()) }.load(Ordering::Relaxed)
    }

    pub(crate) unsafe fn zero_rows(p: *const u8, rows: usize) -> usize {
        // SAFETY: the caller's promise, for each row.
        let row = |i: usize| unsafe { joined(|k| load(p.add(i * ROW), k)) };
        (0..rows).find(|i| row(*i) != 0).unwrap_or(rows)
    }

    pub(crate) unsafe fn equal_rows(p: *const u8, q: *const u8, rows: usize) -> usize {
        // SAFETY: the caller's promise, for each row.
        let row = |i: usize| unsafe { joined(|k| load(p.add(i * ROW), k) ^ load(q.add(i * ROW), k)) };
        (0..rows).find(|i| row(*i) != 0).unwrap_or(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_count_the_same() {
        let a = [0u64; 80];
        for at in 0..640 {
            let mut b = a;
            b[at / 8] = 0x80 << (at % 8 * 8);
            let (p, q) = (a.as_ptr().cast(), b.as_ptr().cast());
            for rows in 0..=10 {
                let want = rows.min(at / ROW);
                // SAFETY: ten rows of aligned words each.
                unsafe {
                    assert_eq!((zero_rows(p, rows), words::zero_rows(p, rows)), (rows, rows));
                    assert_eq!((zero_rows(q, rows), words::zero_rows(q, rows)), (want, want));
                    assert_eq!((equal_rows(p, q, rows), words::equal_rows(p, q, rows)), (want, want));
                    assert_eq!(equal_rows(q, q, rows), rows);
                }
            }
        }
    }
}
