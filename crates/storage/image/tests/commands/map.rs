use crate::common::{Dir, same};

#[test]
fn ranges_are_joined_and_told() {
    let d = Dir::new("map");
    d.chain();
    let out = d.ok("map --output json @b");
    let first = "[{ \"start\": 0, \"length\": 131072, \"depth\": 0, \"present\": true, \"zero\": true, \"data\": false, \
                 \"compressed\": false},\n{ \"start\": 131072, \"length\": 917504, \"depth\": 1, \"present\": true, \
                 \"zero\": false, \"data\": true, \"compressed\": false, \"offset\": ";
    assert!(out.starts_with(first), "{out}");
    let out = d.ok("map --start-offset 6M --max-length 64k @b");
    assert!(
        out.starts_with("Offset          Length          Mapped to       File\n0x600000        0x10000 "),
        "{out}"
    );
    d.ok("convert -c -O qcow2 @a @c");
    let (code, _, err) = d.img("map @c");
    assert_eq!(
        (code, err.as_str()),
        (1, "qemu-img: File contains external, encrypted or compressed clusters.\n")
    );
}

#[test]
fn words_are_the_references() {
    let set_up = |d: &Dir| {
        d.chain();
        std::fs::write(d.at("r"), vec![0; 1000]).unwrap();
    };
    same(
        "map",
        set_up,
        "
map @b
map --output json @b
map --output json --start-offset 1M --max-length 3M @b
map -f foo @b
map @nope
map @b @c
map @r
map --output=json -f raw @r
map --output=json -f raw @b
",
    );
}
