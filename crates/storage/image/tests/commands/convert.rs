use crate::common::{Dir, same};
use std::os::unix::fs::MetadataExt;

const SAME: &str = "Images are identical.\n";

/// What an overlay that is there shows through its backing file is overwritten, too, by zeroes and parts of clusters.
#[test]
fn an_overlay_that_is_there_becomes_the_disk() {
    let d = Dir::new("convert-n-overlay");
    d.chain();
    let mut bytes = vec![0u8; 8 << 20];
    for at in (0..bytes.len()).step_by(192 << 10) {
        let end = (at + (96 << 10)).min(bytes.len());
        bytes[at..end].fill(9);
    }
    std::fs::write(d.at("raw"), &bytes).unwrap();
    for options in ["", "-S 0", "-c"] {
        d.ok("create -q -f qcow2 -b a -F qcow2 @o");
        d.ok(&format!("convert -n {options} -f raw -O qcow2 @raw @o"));
        assert_eq!(d.ok("compare -f raw -F qcow2 @raw @o"), SAME, "{options}");
    }
}

/// Options of targets; what each holds is the disk.
#[test]
fn what_is_copied_is_the_disk() {
    let d = Dir::new("convert");
    d.chain();
    d.ok("convert -O raw @b @raw");
    for options in [
        "-O qcow2",
        "-O qcow2 -c",
        "-O qcow2 -c -o compression_type=zstd,cluster_size=4k",
        "-O qcow2 -o cluster_size=2M",
        "-O qcow2 -o cluster_size=512 -m 16 -W",
        "-O qcow2 -o extended_l2=on,cluster_size=128k",
        "-O qcow2 -o preallocation=metadata",
        "-O qcow2 -o preallocation=full",
        "-O qcow2 -B a -F qcow2",
        "-O qcow2 -B a -F qcow2 -c",
        "-O qcow2 -S 0",
        "-O raw -S 64k -m 1",
        "-O raw -S 0 -C".trim_end_matches(" -C"),
        "-O raw -C",
        "-O raw -o preallocation=falloc -r 100M",
    ] {
        d.ok(&format!("convert {options} @b @x"));
        assert_eq!(d.ok("compare @x @raw"), SAME, "{options}");
        if options.contains("qcow2") {
            assert!(d.ok("check @x").starts_with("No errors"), "{options}");
        }
        d.ok(&format!("convert {} @raw @x", options.replace("-B a -F qcow2", "")));
        assert_eq!(d.ok("compare @x @b"), SAME, "{options}");
    }
}

#[test]
fn what_lies_in_a_target_that_is_there_is_overwritten() {
    let d = Dir::new("convert-n");
    d.chain();
    for (format, line) in [("raw", "create -q -f raw @x 9M"), ("qcow2", "create -q -f qcow2 @x 9M")] {
        d.ok(line);
        d.write("x", format, 0x55, 0, 9 << 20);
        d.ok(&format!("convert -n -O {format} @b @x"));
        // Behind the disk nothing is touched.
        let (code, out, _) = d.img(&format!("compare -F {format} @b @x"));
        assert_eq!(
            (code, out.as_str()),
            (1, "Warning: Image size mismatch!\nContent mismatch at offset 8388608!\n")
        );
    }
    assert_eq!(
        d.img("convert -n -O raw @x @a"),
        (1, String::new(), "qemu-img: output file is smaller than input file\n".into())
    );
}

#[test]
fn holes_stay_holes_and_sizes_are_bounded() {
    let d = Dir::new("convert-sparse");
    d.ok("create -q -f raw @r 1T");
    d.write("r", "raw", 3, 700 << 30, 5000);
    d.ok("convert -O raw @r @x");
    let m = std::fs::metadata(d.at("x")).unwrap();
    assert_eq!((m.len(), m.blocks() < 200), (1 << 40, true));
    d.ok("convert -O qcow2 @r @y");
    assert_eq!(d.ok("compare @y @r"), SAME);
    assert!(std::fs::metadata(d.at("y")).unwrap().len() < 2 << 20);
    // Zeroes that are stored are found.
    std::fs::write(d.at("z"), vec![0u8; 4 << 20]).unwrap();
    d.ok("convert -O raw @z @x");
    assert!(std::fs::metadata(d.at("x")).unwrap().blocks() < 64);
    d.ok("convert -O raw -S 0 @z @x");
    assert!(std::fs::metadata(d.at("x")).unwrap().blocks() >= 8192);
}

#[test]
fn several_inputs_stand_one_behind_the_other() {
    let d = Dir::new("convert-concat");
    d.chain();
    std::fs::write(d.at("odd"), [b'x'; 1536]).unwrap();
    d.ok("convert -O raw @b @raw");
    let whole = [[b'x'; 1536].to_vec(), std::fs::read(d.at("raw")).unwrap(), [b'x'; 1536].to_vec()].concat();
    for options in ["-O raw", "-O qcow2", "-O qcow2 -c"] {
        d.ok(&format!("convert {options} @odd @b @odd @x"));
        d.ok("convert -O raw @x @y");
        assert!(std::fs::read(d.at("y")).unwrap() == whole, "{options}");
    }
}

#[test]
fn encrypted_targets() {
    let d = Dir::new("convert-luks");
    d.chain();
    let secret = "--object secret,id=s,data=pw";
    d.ok(&format!("convert {secret} -O luks -o key-secret=s,iter-time=10 @a @l"));
    let both = format!("compare {secret} --image-opts driver=qcow2,file.filename=@a");
    assert_eq!(d.ok(&format!("{both} driver=luks,key-secret=s,file.filename=@l")), SAME);
    let o = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    d.ok(&format!("convert {secret} -O qcow2 -o {o} @a @l"));
    assert_eq!(d.ok(&format!("{both} driver=qcow2,encrypt.key-secret=s,file.filename=@l")), SAME);
    assert_eq!(d.img(&format!("convert {secret} -c -O qcow2 -o {o} @a @l")).0, 1);
}

#[test]
fn progress_is_shown_as_the_reference_does() {
    let d = Dir::new("convert-progress");
    d.chain();
    let out = d.ok("convert -p -O raw @a @x");
    assert!(out.starts_with("    (0.00/100%)\r") && out.ends_with("    (100.00/100%)\n"), "{out}");
    assert_eq!(d.ok("convert -p -q -O raw @a @x"), "");
}

#[test]
fn words_are_the_references() {
    let set_up = |d: &Dir| {
        d.chain();
        std::fs::write(d.at("r"), vec![0; 1000]).unwrap();
    };
    same(
        "convert",
        set_up,
        "
convert @a
convert
convert -O foo @a @x
convert -O qcow2 @nope @x
convert -f foo @a @x
convert -O qcow2 @a /nonexistent/x
convert -O qcow2 -o foo=1 @a @x
convert -n @a @nope
convert -n -O qcow2 @a @x
convert --target-is-zero @a @x
convert -n -o size=1 @a @x
convert -c -O raw @a @x
convert -c --copy-range @a @x
convert -S 1 @a @x
convert -C -S 0 @a @x
convert -C -c -O qcow2 @a @x
convert -B a -O raw @b @x
convert -B nope -O qcow2 @b @x
convert -B a -F foo -O qcow2 @b @x
convert -F qcow2 -O qcow2 @b @x
convert -B a -F qcow2 -O qcow2 @a @b @x
convert -l snap @a @x
convert -t foo @a @x
convert -T foo @a @x
convert --skip-broken-bitmaps @a @x
convert --target-image-opts @a @x
convert --target-image-opts -O qcow2 -n @a driver=qcow2,file.filename=@x
convert @a @a
convert --salvage -C @a @x
convert --salvage -C -S 4k @a @x
convert -o backing_file=a -O qcow2 @b @x
convert -O qcow2 @a @b @r @x
compare -s @x @x
convert -f raw -F raw @a @x
convert -l s1 @a @b @x
convert -O qcow2 -c -o encryption=on @a @x
convert -O qcow2 -c -o preallocation=full @a @x
convert -O qcow2 -B a -F qcow2 @b @x
map --output json @a
compare @b @x
convert --image-opts a @x
info json:{
",
    );
}
