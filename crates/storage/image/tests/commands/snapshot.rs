use crate::common::{Dir, same};

fn set_up(d: &Dir) {
    d.chain();
    std::fs::write(d.at("r"), vec![0; 1024]).unwrap();
}

#[test]
fn snapshots_keep_what_the_disk_was() {
    let d = Dir::new("snapshot");
    set_up(&d);
    d.ok("convert -O raw @a @before");
    d.ok("snapshot -c s @a");
    d.write("a", "qcow2", 9, 512, 3 << 20);
    d.ok("convert -O raw @a @after");
    let identical = "Images are identical.\n";
    d.ok("convert -l s -O raw @a @then");
    assert_eq!(d.ok("compare @then @before"), identical);
    d.ok("convert -l snapshot.id=1 -c -O qcow2 @a @then");
    assert_eq!(d.ok("compare @then @before"), identical);
    assert_eq!(d.ok("compare @a @after"), identical);
    d.ok("snapshot -a s @a");
    assert_eq!(d.ok("compare @a @before"), identical);
    d.ok("snapshot -d s @a");
    assert_eq!(d.ok("snapshot -l @a"), "");
    assert!(d.ok("check @a").starts_with("No errors"));
}

#[test]
fn words_are_the_references() {
    same(
        "snapshot",
        set_up,
        "
snapshot @a
snapshot -l @a
snapshot -c s1 @a
snapshot -c s1 @a
snapshot -c s2 @a
snapshot -l @a
info @a
snapshot -a s1 @a
snapshot -a 3 @a
snapshot -a nope @a
snapshot -d nope @a
snapshot -d s1 @a
snapshot -l @a
snapshot -l -c x @a
snapshot
snapshot -c x
snapshot -c x @r
snapshot -l @r
snapshot -d x @r
snapshot -c x @nope
check @a
convert -l nope -O raw @a @x
convert -l s2 -O raw @a @x
convert -l snapshot.name=s2 -O raw @a @x
convert -l snapshot.id=77 -O raw @a @x
convert -l 3 -O raw @a @x
compare -f raw -F qcow2 @x @a
convert -l s2 @a @b @x
",
    );
}
