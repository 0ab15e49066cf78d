//! The RISC-V boards' reset vector: a few instructions that hand over to the firmware with the hart's number in `a0`, the
//! device tree in `a1` and OpenSBI's `fw_dynamic_info` in `a2` (OpenSBI's documentation, "OpenSBI Firmware with Dynamic
//! Information").

/// What the firmware is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResetVector {
    /// Where the firmware (or a kernel that runs without one) starts.
    pub start: u64,
    /// The device tree's address.
    pub dtb: u64,
    /// Where the firmware's next stage starts; 0 if there is none.
    pub next: u64,
}

/// `fw_dynamic_info.magic`, "OSBI".
const INFO_MAGIC: u64 = 0x4942_534f;
const INFO_VERSION: u64 = 2;
/// The next stage runs in S-mode.
const NEXT_MODE_S: u64 = 1;
/// Offset of the information from the first instruction.
const INFO: u32 = 40;
/// Offsets of the two addresses.
const START: u32 = 24;
const DTB: u32 = 32;

impl ResetVector {
    /// The bytes of the read-only memory, to stand at the harts' reset address (a multiple of 8).
    pub fn rom(&self) -> Vec<u8> {
        const T0: u32 = 5;
        const A0: u32 = 10;
        const A1: u32 = 11;
        const A2: u32 = 12;
        let load = |rd: u32, off: u32| off << 20 | T0 << 15 | 3 << 12 | rd << 7 | 0x03;
        let code = [
            T0 << 7 | 0x17,                         // auipc t0, 0
            INFO << 20 | T0 << 15 | A2 << 7 | 0x13, // addi a2, t0, INFO
            0xf14 << 20 | 2 << 12 | A0 << 7 | 0x73, // csrr a0, mhartid
            load(A1, DTB),                          // ld a1, DTB(t0)
            load(T0, START),                        // ld t0, START(t0)
            T0 << 15 | 0x67,                        // jr t0
        ];
        // The last number is the boot hart.
        let data = [self.start, self.dtb, INFO_MAGIC, INFO_VERSION, self.next, NEXT_MODE_S, 0, 0];
        let code = code.iter().flat_map(|v| v.to_le_bytes());
        code.chain(data.iter().flat_map(|v| v.to_le_bytes())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_instructions_load_what_stands_behind_them() {
        let rom = ResetVector { start: 0x8000_0000, dtb: 0x8fe0_0000, next: 0x8020_0000 }.rom();
        let words: Vec<u32> =
            rom.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        // As an assembler gives them.
        assert_eq!(
            words[..6],
            [0x0000_0297, 0x0282_8613, 0xf140_2573, 0x0202_b583, 0x0182_b283, 0x0002_8067]
        );
        assert_eq!(words[6..12], [0x8000_0000, 0, 0x8fe0_0000, 0, 0x4942_534f, 0]);
        assert_eq!(words[12..], [2, 0, 0x8020_0000, 0, 1, 0, 0, 0, 0, 0]);
    }
}
