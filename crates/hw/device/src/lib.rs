//! Devices and their wires: interrupts, timers, DMA, character and block ports, properties, the registry, saved state.
