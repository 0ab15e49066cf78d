use crate::common::{Dir, same};

fn set_up(d: &Dir) {
    d.chain();
    d.ok("create -q -f qcow2 -b b -F qcow2 @c");
    d.write("c", "qcow2", 3, 1 << 20, 100 << 10);
    d.ok("create -q -f qcow2 @other 8M");
    d.write("other", "qcow2", 1, 0, 512 << 10);
    d.write("other", "qcow2", 9, 3 << 20, 1 << 20);
    d.ok("create -q -f qcow2 -o extended_l2=on -b a -F qcow2 @sub");
    d.write("sub", "qcow2", 5, 6 << 10, 4 << 10);
    d.ok("create -q -f raw @r 4M");
    d.write("r", "raw", 1, 0, 1 << 20);
}

#[test]
fn an_image_shows_the_same_disk_on_another() {
    let d = Dir::new("rebase");
    set_up(&d);
    d.ok("convert -O raw @c @before");
    for line in [
        "rebase -b a -F qcow2 @c",
        "rebase -q -b other -F qcow2 @c",
        "rebase -c -b r -F raw @c",
        "rebase -b a -F qcow2 -t none -T none @c",
        "rebase -F qcow2 -b @a @c",
    ] {
        assert_eq!(d.ok(line), "");
        assert!(d.ok("compare -f raw -F qcow2 @before @c").ends_with("Images are identical.\n"), "{line}");
        assert!(d.ok("check @c").starts_with("No errors"), "{line}");
    }
    let said = d.ok("rebase -p -b other -F qcow2 @c");
    assert!(said.starts_with("    (0.00/100%)\r") && said.ends_with("    (100.00/100%)\n"), "{said}");
    std::fs::write(d.at("none"), "").unwrap();
    d.ok("rebase -u -b none -F raw @c");
    assert!(d.ok("info @c").contains("backing file: none"));
    d.ok("rebase -u -b other -F qcow2 @c");
    let args = ["rebase", "-b", "", &d.at("c")].map(str::to_owned);
    assert_eq!(image::img::run("qemu-img", &args, &mut Vec::new(), &mut Vec::new()), 0);
    for name in ["a", "b", "other", "r"] {
        std::fs::remove_file(d.at(name)).unwrap();
    }
    assert!(d.ok("compare -f raw -F qcow2 @before @c").ends_with("Images are identical.\n"));
}

#[test]
fn words_are_the_references() {
    same(
        "rebase",
        set_up,
        "
rebase
rebase @c
rebase -F qcow2 @c
rebase -c @c
rebase -b other -F qcow2
rebase -b other -F qcow2 @nope
rebase -b other @c
rebase -u -b nope @c
rebase -b nope @c
rebase -b nope -F qcow2 @c
rebase -b other -F nope @c
rebase -u -b other -F nope @c
rebase -t nope -b other @c
rebase -T nope -b other @c
rebase -b c -F qcow2 @c
rebase -b c -F qcow2 @b
rebase --image-opts -f qcow2 -b other @c
rebase -b other -F qcow2 @r
rebase -f raw -b other -F qcow2 @r
rebase -b b -F qcow2 @c
rebase -b a -F qcow2 @c
info @c
rebase -b other -F qcow2 @sub
info @sub
rebase -U -b other -F qcow2 @c
compare @c @b
rebase --image-opts -b other -F qcow2 driver=qcow2,file.filename=@c
rebase --compress -b r -F raw @c
compare @c @b
rebase -u @c
info @c
",
    );
}
