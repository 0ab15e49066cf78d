#!/bin/sh
# Rebuilds embedded.elf with Debian's cross compiler (package gcc-riscv64-linux-gnu).
set -eu
cd "$(dirname "$0")"
riscv64-linux-gnu-gcc -O2 -march=rv64imac_zicsr -mabi=lp64 -mcmodel=medany -ffreestanding -fno-builtin -fno-pic -no-pie \
	-fno-stack-protector -fno-tree-loop-distribute-patterns -fno-asynchronous-unwind-tables -nostdlib -static -Wall -Wextra -Wno-main \
	-Wl,-T,link.ld -Wl,--build-id=none -Wl,-z,noexecstack -o embedded.elf start.S main.c
riscv64-linux-gnu-strip embedded.elf
