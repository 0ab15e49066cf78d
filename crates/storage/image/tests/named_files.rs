//! Which files the headers of images may have opened, as the user of the tools allows them.

mod common;

use common::Dir;
use std::process::Command;

const TOOL: &str = env!("CARGO_BIN_EXE_image-tool");

/// Runs the tool with what the environment allows.
fn img(dir: &Dir, allowed: Option<&str>, line: &str) -> (i32, String) {
    let mut c = Command::new(TOOL);
    c.arg("img").args(dir.words(line)).env_remove("RHEA_IMAGE_FILES");
    if let Some(a) = allowed {
        c.env("RHEA_IMAGE_FILES", a);
    }
    let o = c.output().unwrap();
    (o.status.code().unwrap_or(-1), String::from_utf8_lossy(&[o.stdout, o.stderr].concat()).into_owned())
}

#[test]
fn a_header_has_opened_what_the_user_allows() {
    let d = Dir::new("allowed");
    let make = |line: &str| assert_eq!(img(&d, Some("any"), line), (0, String::new()), "{line}");
    make("create -q -f raw @base 1M");
    make("create -q -f qcow2 -F raw -b base @plain");
    make(
        "create -q -f qcow2 -F raw -b json:{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"@base\"}} @other",
    );
    let opens = ["map -f qcow2", "info --backing-chain -f qcow2", "measure -O raw -f qcow2"];
    for (allowed, image, want) in [
        (Some("none"), "plain", Some("images may not have other files opened")),
        (Some("none"), "other", Some("images may not have other files opened")),
        (None, "plain", None),
        (None, "other", Some("which is no plain file name")),
        (Some("plain"), "other", Some("which is no plain file name")),
        (Some("any"), "plain", None),
        (Some("any"), "other", None),
    ] {
        for line in opens {
            let (code, said) = img(&d, allowed, &format!("{line} @{image}"));
            match want {
                None => assert_eq!(code, 0, "{allowed:?} {line} {image}: {said}"),
                Some(why) => assert!(code == 1 && said.contains(why), "{allowed:?} {line} {image}: {said}"),
            }
        }
        // What the header says is told without opening anything else.
        assert_eq!(img(&d, allowed, &format!("info -f qcow2 @{image}")).0, 0, "{allowed:?} {image}");
    }
}
