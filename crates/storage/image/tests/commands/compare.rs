use crate::common::{Dir, same};

fn set_up(d: &Dir) {
    d.chain();
    d.ok("convert -O raw @b @braw");
    d.ok("convert -c -O qcow2 @b @bc");
    std::fs::copy(d.at("braw"), d.at("long")).unwrap();
    d.ok("resize -q -f raw @long +1M");
    std::fs::copy(d.at("long"), d.at("longer")).unwrap();
    d.write("longer", "raw", 3, (8 << 20) + 4096, 512);
    std::fs::copy(d.at("braw"), d.at("other")).unwrap();
    d.write("other", "raw", 3, 6_300_000, 1000);
}

#[test]
fn differences_are_found() {
    let d = Dir::new("compare");
    set_up(&d);
    let says = |line: &str, code: i32, text: &str| {
        assert_eq!(d.img(line), (code, text.to_string(), String::new()), "{line}");
    };
    says("compare @b @braw", 0, "Images are identical.\n");
    says("compare @bc @braw", 0, "Images are identical.\n");
    says("compare -q @a @b", 1, "");
    says("compare -s @b @braw", 1, "Strict mode: Offset 0 block status mismatch!\n");
    says("compare -f raw @braw @long", 0, "Warning: Image size mismatch!\nImages are identical.\n");
    says(
        "compare -f raw -F raw @longer @braw",
        1,
        "Warning: Image size mismatch!\nContent mismatch at offset 8392704!\n",
    );
    // Sectors of 512 bytes.
    says("compare @other @braw", 1, "Content mismatch at offset 6299648!\n");
    let (code, _, err) = d.img("compare @nope @a");
    assert!(code == 2 && err.contains("Could not open"), "{err}");
}

#[test]
fn words_are_the_references() {
    same(
        "compare",
        set_up,
        "
compare @a @b
compare @b @a
compare @a @a
compare @b @braw
compare @bc @b
compare -s @bc @b
compare -s @a @long
compare @long @b
compare -f raw @longer @b
compare @b @longer
compare @other @b
compare -q @a @b
compare @a @nope
compare @nope @a
compare -f raw -F raw @a @a
compare -f foo @a @a
compare @a
compare -T foo @a @a
",
    );
}
