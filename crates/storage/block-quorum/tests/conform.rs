//! The conformance suite over `quorum` on three files; the files are the same afterwards.

#[path = "../../block-file/tests/conformance/mod.rs"]
mod conformance;

use api::block_core::{BlockdevDriverOptions, BlockdevOptionsQuorum, BlockdevRef, QuorumReadPattern};
use conformance::*;

#[test]
fn quorum_conforms() {
    let dir = Dir::new("conform-quorum");
    on_each_backend(async || {
        for pattern in [QuorumReadPattern::Quorum, QuorumReadPattern::Fifo] {
            let paths = ["a", "b", "c"].map(|n| dir.file(n, 600 << 10));
            let g = graph(&[block_file::DRIVERS, block_quorum::DRIVERS].concat());
            for (i, p) in paths.iter().enumerate() {
                g.add(file_options(&format!("f{i}"), p)).await.unwrap();
            }
            let options = BlockdevOptionsQuorum {
                blkverify: None,
                children: (0..3).map(|i| BlockdevRef::Reference(format!("f{i}"))).collect(),
                vote_threshold: 3,
                rewrite_corrupted: None,
                read_pattern: Some(pattern),
            };
            g.add(named("q", BlockdevDriverOptions::Quorum(options))).await.unwrap();
            conformance(&g, "q", Traits { resizes: false }).await;
            let [a, b, c] = paths.map(|p| std::fs::read(p).unwrap());
            assert!(a == b && b == c);
            assert!(a.iter().any(|x| *x != 0));
        }
    });
}
