//! Boards and the machine's life: riscv64 virt, run states, reset and shutdown.
