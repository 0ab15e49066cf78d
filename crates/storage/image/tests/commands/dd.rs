use crate::common::{Dir, same};

fn set_up(d: &Dir) {
    d.chain();
    std::fs::write(d.at("r"), (0..1000u32).map(|i| i as u8).collect::<Vec<_>>()).unwrap();
}

#[test]
fn parts_are_copied() {
    let d = Dir::new("dd");
    set_up(&d);
    d.ok("dd if=@r of=@x bs=100 skip=2 count=7");
    let (all, part) = (std::fs::read(d.at("r")).unwrap(), std::fs::read(d.at("x")).unwrap());
    // The image's length counts in sectors.
    assert_eq!(part[..500], all[200..700]);
    d.ok("dd -O qcow2 if=@b of=@q bs=1M");
    assert_eq!(d.ok("compare @b @q"), "Images are identical.\n");
}

#[test]
fn words_are_the_references() {
    same(
        "dd",
        set_up,
        "
dd
dd if=@a
dd if=@a of=@o foo=1
dd if=@a of=@o bs=0
dd if=@nope of=@o
dd if=@a of=@o count=2 skip=1 bs=1M -O qcow2
compare @a @o
dd if=@a of=@o2 bs=1M isize=3
dd if=@r of=@o3 bs=1M skip=2
dd -f foo if=@r of=@o3
dd -O foo if=@r of=@o3
dd if=@r of=@o3 count=-1
",
    );
}
