//! The conformance suite over `file`, in every mode and on every backend.

mod conformance;

use conformance::*;

#[test]
fn file_conforms() {
    let dir = Dir::new("conform-file");
    on_each_backend(async || {
        let path = dir.path("image");
        for (what, options) in file_variants(&path) {
            println!("{what}");
            dir.file("image", 600 << 10);
            let g = graph(block_file::DRIVERS);
            g.add(options).await.unwrap();
            conformance(&g, "n", Traits { resizes: true }).await;
            g.del("n").await.unwrap();
        }
    });
}

#[test]
fn a_file_of_odd_length_is_padded_with_zeroes() {
    let dir = Dir::new("conform-odd");
    on_each_backend(async || {
        let path = dir.path("image");
        for (what, options) in file_variants(&path) {
            println!("{what}");
            std::fs::write(&path, vec![3; 5000]).unwrap();
            let g = graph(block_file::DRIVERS);
            g.add(options).await.unwrap();
            let all = block::perm::Perm::all();
            let root = attach(&g, "n", all, all).await.unwrap();
            assert_eq!(root.len(), 5120);
            let got = read(&root, 0, 5120).await;
            assert!(got[..5000].iter().all(|b| *b == 3) && got[5000..].iter().all(|b| *b == 0));
            root.detach().await;
        }
    });
}
