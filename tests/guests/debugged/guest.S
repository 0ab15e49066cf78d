/*
 * The guest that is debugged: two harts in S-mode without paging. The first starts the second, then calls `work` for
 * ever; the second counts.
 */
	.option norvc
	.text
	.globl _start, loop, work, second, seconds_loop, counter, other
_start:
	la	sp, stack_top
	la	s0, counter
	li	s1, 0
	la	s2, other
	li	a0, 1
	la	a1, second
	li	a2, 0
	li	a6, 0
	li	a7, 0x48534d		/* hart state management: start hart a0 at a1 */
	ecall
loop:	addi	s1, s1, 1
	sd	s1, 0(s0)
	ld	t1, 0(s0)
	call	work
	j	loop

work:	addi	sp, sp, -16
	sd	ra, 8(sp)
	li	t0, 1000
1:	addi	t0, t0, -1
	bnez	t0, 1b
	ld	a3, 0(s2)
	ld	ra, 8(sp)
	addi	sp, sp, 16
	ret

second:	la	s3, seconds_count
	li	s4, 0
seconds_loop:
	addi	s4, s4, 1
	amoadd.d zero, s4, (s3)
	j	seconds_loop

	.data
	.balign	4096
counter: .dword 0
	.balign	4096
other:	.dword	0x1122334455667788
	.balign	4096
	.globl	seconds_count
seconds_count: .dword 0
	.space	4096
	.balign	16
stack_top:
