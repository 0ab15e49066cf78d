# Entry, serial output and the return from traps, for programs in C.
	.section .text.start, "ax"
	.globl _start
_start:
	la	sp, stack_top
	la	t0, on_trap
	csrw	mtvec, t0
	li	t0, 0x6000
	csrs	mstatus, t0
	call	main
	li	t0, 0x100000
	li	t1, 0x5555
	sw	t1, 0(t0)
1:	j	1b

	.text
	.macro	SAVE op
	\op	ra, 0(t0)
	\op	sp, 8(t0)
	\op	s0, 16(t0)
	\op	s1, 24(t0)
	\op	s2, 32(t0)
	\op	s3, 40(t0)
	\op	s4, 48(t0)
	\op	s5, 56(t0)
	\op	s6, 64(t0)
	\op	s7, 72(t0)
	\op	s8, 80(t0)
	\op	s9, 88(t0)
	\op	s10, 96(t0)
	\op	s11, 104(t0)
	.endm

# void enter(pc, mstatus, a0): goes there by mret; the next trap into M-mode returns from it.
	.globl	enter
enter:
	la	t0, saved
	SAVE	sd
	csrr	t1, mstatus
	sd	t1, 112(t0)
	csrw	mepc, a0
	csrw	mstatus, a1
	mv	a0, a2
	mret

# void probe(routine, mstatus, addr): calls it in M-mode with that mstatus; a trap returns, too.
	.globl	probe
probe:
	la	t0, saved
	SAVE	sd
	csrr	t1, mstatus
	sd	t1, 112(t0)
	mv	t2, a0
	mv	a0, a2
	csrw	mstatus, a1
	jalr	t2
	# Came back: as if by a trap with cause -1.
	csrw	mstatus, t1
	la	t0, saved
	li	t2, -1
	sd	t2, 120(t0)
	sd	a0, 128(t0)
	SAVE	ld
	ret

	.globl	p_load, p_store, p_amo, p_lr, p_half, p_fetch
p_load:
	ld	a0, 0(a0)
	ret
p_store:
	sd	a0, 0(a0)
	ret
p_amo:
	li	a1, 1
	amoadd.d a0, a1, (a0)
	ret
p_lr:
	lr.w	a0, (a0)
	ret
p_half:
	lhu	a0, 0(a0)
	ret

	.align	8
on_trap:
	.rept	16			# vectored entries
	j	1f
	.balign	4
	.endr
1:	la	t0, saved
	csrr	t1, mcause
	sd	t1, 120(t0)
	csrr	t1, mtval
	sd	t1, 128(t0)
	csrr	t1, mepc
	sd	t1, 136(t0)
	csrr	t1, mstatus
	sd	t1, 144(t0)
	ld	t1, 112(t0)
	csrw	mstatus, t1
	SAVE	ld
	ret

	.bss
	.align	4
	.globl	saved
saved:	.skip	256
	.skip	8192
stack_top:
