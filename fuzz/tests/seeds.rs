//! The seeds of every target, and small changes of them: what is fuzzed works, and holds against simple damage.

/// Changed copies of each seed.
const COPIES: usize = 40;

/// A fixed generator (SplitMix64), so that no run depends on chance.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) as usize % n
    }
}

#[test]
fn seeds_and_their_neighbours_are_harmless() {
    let mut rng = Rng(1);
    for target in fuzz::TARGETS {
        (target.run)(b"");
        for seed in (target.seeds)() {
            assert!(!seed.is_empty(), "{}", target.name);
            (target.run)(&seed);
            for _ in 0..COPIES {
                let mut bytes = seed.clone();
                for _ in 0..1 + rng.below(4) {
                    // The first bytes of a format decide most.
                    let reach = if rng.below(2) == 0 { bytes.len().min(128) } else { bytes.len() };
                    let at = rng.below(reach);
                    bytes[at] = match rng.below(3) {
                        0 => rng.below(256) as u8,
                        1 => bytes[at] ^ 1 << rng.below(8),
                        _ => [0, 1, 0x7f, 0x80, 0xff][rng.below(5)],
                    };
                }
                if rng.below(8) == 0 {
                    bytes.truncate(rng.below(bytes.len()));
                }
                (target.run)(&bytes);
            }
        }
    }
}
