use crate::common::{Dir, same};

#[test]
fn an_image_is_as_large_as_was_said() {
    let d = Dir::new("measure");
    d.chain();
    let out = d.ok("measure -O qcow2 @b");
    let required: u64 = out.lines().next().unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    d.ok("convert -O qcow2 @b @x");
    let made = std::fs::metadata(d.at("x")).unwrap().len();
    assert!(made <= required && made + 3 * 65536 > required, "{made} {required}");
    assert_eq!(d.ok("measure @b"), "required size: 8388608\nfully allocated size: 8388608\n");
}

#[test]
fn words_are_the_references() {
    let set_up = |d: &Dir| {
        d.chain();
        d.ok("bitmap --add @a one");
        d.ok("bitmap --add -g 4k @a two");
    };
    same(
        "measure",
        set_up,
        "
measure -O qcow2 @a
measure -O qcow2 @b
measure -O qcow2 -o backing_file=a,backing_fmt=qcow2 @b
measure -O qcow2 -o compat=0.10 @a
measure -O raw @a
measure --size 1G -O qcow2 --output json
measure --size 1T -O qcow2
measure --size 1T -O qcow2 -o cluster_size=4k
measure --size 1T -O qcow2 -o cluster_size=2M,refcount_bits=64
measure --size 1G -O qcow2 -o preallocation=full
measure --size 1G -O qcow2 -o extended_l2=on,cluster_size=64k
measure --size 100000001 -O qcow2
measure --size 1P -O qcow2 -o cluster_size=512
measure --size 1G -O qcow2 -o cluster_size=3
measure @a --size 1G
measure
measure -O foo @a
measure -O qcow2 -o foo=1 @a
measure -O luks --size 1M
measure --object secret,id=s,data=pw -O luks -o key-secret=s --size 1M
measure --object secret,id=s,data=pw -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s --size 1M
measure -O qcow2 -l nope @a
measure -f qcow2 --size 1M
measure @nope
",
    );
}
