//! The conformance suite over `blklogwrites` and `blkreplay`.

#[path = "../../block-file/tests/conformance/mod.rs"]
mod conformance;

use api::block_core::{
    BlockdevDriverOptions, BlockdevOptionsBlklogwrites, BlockdevOptionsBlkreplay, BlockdevRef,
};
use block::driver::Prealloc;
use conformance::*;

#[test]
fn blklogwrites_conforms() {
    let dir = Dir::new("conform-log");
    on_each_backend(async || {
        for sector in [512, 4096] {
            let (image, log) = (dir.file("image", 600 << 10), dir.file("log", 0));
            let g = graph(&[block_file::DRIVERS, block_test::DRIVERS].concat());
            g.add(file_options("f", &image)).await.unwrap();
            g.add(file_options("l", &log)).await.unwrap();
            let reference = |n: &str| BlockdevRef::Reference(n.into());
            let options = BlockdevOptionsBlklogwrites {
                file: reference("f"),
                log: reference("l"),
                log_sector_size: Some(sector),
                log_append: None,
                log_super_update_interval: None,
            };
            g.add(named("w", BlockdevDriverOptions::Blklogwrites(options))).await.unwrap();
            conformance(&g, "w", Traits { resizes: true }).await;
            g.close_all().await;
            assert!(std::fs::metadata(&log).unwrap().len() > 600 << 10);
        }
    });
}

#[test]
fn blkreplay_conforms() {
    let dir = Dir::new("conform-replay");
    on_each_backend(async || {
        let image = dir.file("image", 600 << 10);
        let g = graph(&[block_file::DRIVERS, block_test::DRIVERS].concat());
        g.add(file_options("f", &image)).await.unwrap();
        let options = BlockdevOptionsBlkreplay { image: BlockdevRef::Reference("f".into()) };
        g.add(named("r", BlockdevDriverOptions::Blkreplay(options))).await.unwrap();
        conformance(&g, "r", Traits { resizes: false }).await;
        let e = g.resize("", "r", 1 << 20, Prealloc::Off).await.unwrap_err();
        assert_eq!(e.desc(), "Image format driver does not support resize");
        g.close_all().await;
    });
}
