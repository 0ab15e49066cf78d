/* Entry of the embedded guest: S-mode, a0 = hart id, a1 = device tree. */
	.section .text.start
	.globl _start
_start:
	la	sp, stack_top
	la	t0, bss_start
	la	t1, bss_end
1:	bgeu	t0, t1, 2f
	sd	zero, (t0)
	addi	t0, t0, 8
	j	1b
2:	call	main
	call	power_off
3:	wfi
	j	3b
