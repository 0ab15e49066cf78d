use crate::common::{Dir, same};

fn set_up(d: &Dir) {
    d.chain();
    d.ok("create -q -f qcow2 -b b -F qcow2 @c");
    d.write("c", "qcow2", 3, 1 << 20, 100 << 10);
    d.ok("create -q -f qcow2 @small 1M");
    d.ok("create -q -f qcow2 -b small -F qcow2 @long 3M");
    d.write("long", "qcow2", 4, 2 << 20, 64 << 10);
    std::fs::write(d.at("r"), vec![0; 1024]).unwrap();
}

#[test]
fn an_image_is_merged_and_emptied() {
    let d = Dir::new("commit");
    set_up(&d);
    d.ok("convert -O raw @b @before");
    assert_eq!(d.ok("commit @b"), "Image committed.\n");
    assert!(d.ok("compare -f raw -F qcow2 @before @a").ends_with("Images are identical.\n"));
    assert!(
        d.ok("map --output=json @b").contains("\"depth\": 1")
            && !d.ok("map --output=json @b").contains("\"depth\": 0, \"present\": true")
    );
    // Into an image further down; what is between is left alone.
    d.ok("convert -O raw @c @before");
    assert_eq!(d.ok("commit -q -b a @c"), "");
    assert!(d.ok("compare -f raw -F qcow2 @before @a").ends_with("Images are identical.\n"));
    assert!(d.ok("map --output=json @c").contains("\"depth\": 0, \"present\": true"));
    for name in ["a", "b", "c"] {
        assert!(d.ok(&format!("check @{name}")).starts_with("No errors"));
    }
    // One that is longer makes the other longer.
    d.ok("commit -q -d @long");
    assert!(d.ok("info @small").contains("(3145728 bytes)"));
    let said = d.ok("commit -p -r 64M @long");
    assert!(
        said.starts_with("    (0.00/100%)\r") && said.ends_with("    (100.00/100%)\nImage committed.\n"),
        "{said}"
    );
}

#[test]
fn words_are_the_references() {
    same(
        "commit",
        set_up,
        "
commit
commit @b @c
commit @nope
commit @a
commit @r
commit -f raw @b
commit -f nope @b
commit -b nope @c
commit -b c @c
commit -t nope @c
commit --image-opts -f qcow2 @c
commit --image-opts driver=qcow2,file.filename=@nope
commit -d @c
commit -q -d @c
commit -b b @c
compare @b @c
commit --image-opts driver=qcow2,file.filename=@c
compare @b @c
commit -t none @b
compare @a @b
commit --base a @c
compare @a @c
commit @long
compare @small @long
info @small
info --backing-chain @c
",
    );
}
