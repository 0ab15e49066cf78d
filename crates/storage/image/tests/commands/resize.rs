use crate::common::{Dir, same};

fn set_up(d: &Dir) {
    d.chain();
    std::fs::write(d.at("r"), vec![0; 1024]).unwrap();
}

#[test]
fn disks_grow_and_shrink() {
    let d = Dir::new("resize");
    set_up(&d);
    assert_eq!(d.ok("resize @a +1M"), "Image resized.\n");
    assert!(d.ok("info @a").contains("(9437184 bytes)"));
    assert_eq!(d.img("resize @a 1M").0, 1);
    assert_eq!(d.ok("resize -q --shrink @a -8M"), "");
    assert!(d.ok("info @a").contains("(1048576 bytes)"));
    assert!(d.ok("check @a").starts_with("No errors"));
    d.ok("resize -q -f raw --preallocation=full @r 64k");
    assert_eq!(std::fs::metadata(d.at("r")).unwrap().len(), 65536);
}

#[test]
fn what_is_new_of_an_overlay_is_zeroes_and_not_the_backing_files() {
    let d = Dir::new("resize-overlay");
    set_up(&d);
    for grow in ["resize -q @o 8M", "amend -q -o size=8M @o"] {
        d.ok("create -q -f qcow2 -b a -F qcow2 @o 1M");
        d.ok(grow);
        d.ok("convert -O raw @o @raw");
        let bytes = std::fs::read(d.at("raw")).unwrap();
        assert_eq!(bytes.len(), 8 << 20, "{grow}");
        assert!(bytes[..1 << 20].iter().all(|b| *b == 1), "{grow}");
        assert!(bytes[1 << 20..].iter().all(|b| *b == 0), "{grow}");
    }
}

#[test]
fn words_are_the_references() {
    same(
        "resize",
        set_up,
        "
resize @a 1M
resize @a
resize @a +1M
resize @a foo
resize --shrink @a -1M
resize --shrink @a -- -1M
resize @a 65M
resize @r +512
resize -f raw @r 100
resize -f raw @r -- -5M
resize -f raw @r 4096
resize --preallocation=foo @a 66M
resize --preallocation=falloc @a -- -1M
resize --preallocation=falloc -f raw @r 8192
resize --preallocation=metadata -f raw @r 16384
resize @nope 1M
resize -q @a 70M
resize @a 0
resize @a 9999999T
info @a
check @a
",
    );
}
