use crate::common::{Dir, same};

#[test]
fn requests_are_counted_and_written() {
    let d = Dir::new("bench");
    d.ok("create -q -f qcow2 @a 1M");
    let out = d.ok("bench -c 64 -d 4 -s 16k -w --pattern 7 --flush-interval 8 @a");
    let said = "Sending 64 write requests, 16384 bytes each, 4 in parallel (starting at offset 0, step size 16384)\n\
                Sending flush every 8 requests\nRun completed in ";
    assert!(out.starts_with(said), "{out}");
    d.ok("create -q -f raw @r 1M");
    d.write("r", "raw", 7, 0, 1 << 20);
    assert_eq!(d.ok("compare @a @r"), "Images are identical.\n");
}

#[test]
fn refusals_are_the_references() {
    same(
        "bench",
        |d| d.chain(),
        "
bench -c 10 -w --flush-interval=5 @a
bench -c 10 --flush-interval=5 @a
bench -s 0 @a
bench -t foo @a
bench --pattern=300 -w @a
bench -i foo @a
bench @nope
bench
",
    );
}
