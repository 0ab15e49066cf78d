use crate::common::{Dir, same};

fn set_up(d: &Dir) {
    d.chain();
    std::fs::write(d.at("r"), vec![0; 1024]).unwrap();
}

#[test]
fn bitmaps_record_and_are_copied() {
    let d = Dir::new("bitmap");
    set_up(&d);
    d.ok("bitmap --add -g 4k @a one");
    d.write("a", "qcow2", 5, 1 << 20, 8192);
    d.ok("bitmap --add --disable @a two");
    d.ok("convert --bitmaps -O qcow2 @a @c");
    let dirty = |name: &str, bitmap: &str| {
        let x = rt::Executor::new().unwrap();
        x.block_on(async {
            let source = image::open::Source::file(&d.at(name), Some("qcow2"));
            let image = image::open::open(&source, Default::default()).await.unwrap();
            let all = image::bitmap::stored(&image);
            let b = all.iter().find(|b| b.name() == bitmap).unwrap();
            let found = (b.granularity(), b.dirty_bytes(), b.next_dirty(0, b.size()), b.enabled());
            image.close().await;
            found
        })
    };
    assert_eq!(dirty("a", "one"), (4096, 8192, Some((1 << 20, 8192)), true));
    assert_eq!(dirty("c", "one"), dirty("a", "one"));
    assert_eq!(dirty("c", "two"), (65536, 0, None, false));
    d.ok("bitmap --merge one -b @a @c two");
    assert_eq!(dirty("c", "two").1, 65536);
    d.ok("bitmap --clear @c two");
    assert_eq!(dirty("c", "two").1, 0);
    assert!(d.ok("check @c").starts_with("No errors"));
}

#[test]
fn words_are_the_references() {
    same(
        "bitmap",
        set_up,
        "
bitmap @a
bitmap @a b
bitmap --add @a b0
bitmap --add @a b0
bitmap --remove @a nope
bitmap --clear @a nope
bitmap --enable @a nope
bitmap --merge nope @a b0
bitmap --add -g 3k @a b1
bitmap --clear -g 64k @a b0
bitmap --clear -b b @a b0
bitmap --clear -F qcow2 @a b0
bitmap --add --enable --disable --clear --remove @a b2
bitmap --merge b0 -b @a @b bb
bitmap --add --merge b0 -b @nope @b bb
bitmap --add --merge b0 -b @a -F qcow2 @b bc
bitmap --disable @b bc
info @b
bitmap --add @b
bitmap --add @b x y
resize -q @a 9M
bitmap --merge b0 -b @a @b bc
convert --bitmaps -O raw @a @x
convert --skip-broken-bitmaps @a @x
convert --bitmaps @a @b @x
",
    );
}
