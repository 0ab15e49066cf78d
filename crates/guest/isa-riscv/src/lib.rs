//! RISC-V: decoder, semantics, CPU state, CSRs, MMU, PMP and interpreter.
