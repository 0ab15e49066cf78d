//! What a user gives wrongly, and the device tree against the reference's.

mod common;

use common::*;
use firmware::fdt::{Node, parse};
use machine::{Bios, Machine, MachineConfig, MachineEnv, MachineOptions};
use monitor::EventBus;
use std::path::PathBuf;
use std::process::Command;

fn error(change: impl FnOnce(&mut MachineConfig)) -> String {
    let mut cfg = config();
    change(&mut cfg);
    build_error(cfg)
}

#[test]
fn impossible_images_are_said_to_be_so() {
    let missing = || Some(PathBuf::from("/nonexistent"));
    let kernel = TempFile::new(&finisher(0x5555).bytes());
    let text = TempFile::new(b"this is no device tree; it is a text of more than forty bytes");
    let short = TempFile::new(b"x");
    let large = TempFile::new(&vec![1; 70 << 20]);
    let k = || Some(kernel.0.clone());
    assert_eq!(
        error(|c| c.kernel = missing()),
        "could not load kernel '/nonexistent': No such file or directory"
    );
    assert_eq!(
        error(|c| c.bios = Bios::File("/nonexistent".into())),
        "Unable to load the RISC-V firmware '/nonexistent': No such file or directory"
    );
    let e = error(|c| (c.kernel, c.initrd) = (k(), missing()));
    assert_eq!(e, "could not load ramdisk '/nonexistent': No such file or directory");
    assert!(
        error(|c| (c.kernel, c.dtb) = (k(), Some(text.0.clone())))
            .contains("not a device tree: its magic number")
    );
    assert!(error(|c| (c.kernel, c.dtb) = (k(), Some(short.0.clone()))).contains("cannot have 1 bytes"));
    assert!(error(|c| c.kernel = Some(large.0.clone())).contains("but RAM is 0x80000000 to 0x84000000"));
    assert!(error(|c| (c.kernel, c.initrd) = (k(), Some(large.0.clone()))).contains("do not fit into RAM"));
    assert!(error(|c| c.kernel = Some("/".into())).contains("Is a directory"));
    assert_eq!(error(|c| c.append = Some("x".into())), "-append only allowed with -kernel option");
    assert_eq!(error(|c| c.initrd = k()), "-initrd only allowed with -kernel option");
    let small = |c: &mut MachineConfig| (c.kernel, c.bios, c.ram) = (k(), Bios::None, 2 << 20);
    assert!(error(small).contains("Not enough memory to place DTB"));
    assert!(error(|c| c.options.pflash[0] = Some("nope".into())).contains("can't find value 'nope'"));
    let none = |c: &mut MachineConfig| (c.options, c.kernel) = (MachineOptions::default(), k());
    assert!(error(none).contains("not supported by machine 'none'"));
}

#[test]
fn a_users_device_tree_is_completed() {
    rt::block_on(async {
        let mut t = Node::new("");
        t.str("compatible", "mine").child("chosen").str("bootargs", "old");
        let dtb = TempFile::new(&firmware::fdt::write(&t, 0));
        let initrd = TempFile::new(b"initrd");
        let r = Rig::new(&counter(), Bios::BuiltIn, |c| {
            c.dtb = Some(dtb.0.clone());
            c.initrd = Some(initrd.0.clone());
            c.append = Some("new".into());
        })
        .await;
        let out = TempFile::new(b"");
        r.m.dump_dtb(&out.0).unwrap();
        let tree = parse(&std::fs::read(&out.0).unwrap()).unwrap();
        assert_eq!(tree.get("compatible"), Some(&b"mine\0"[..]));
        let chosen = tree.find("chosen").unwrap();
        assert_eq!(chosen.get("bootargs"), Some(&b"new\0"[..]));
        // Half of RAM behind the kernel, which stands 2 MiB behind its start.
        assert_eq!(chosen.get("linux,initrd-start"), Some(&0x8220_0000u64.to_be_bytes()[..]));
        assert_eq!(chosen.get("linux,initrd-end"), Some(&0x8220_0006u64.to_be_bytes()[..]));
        assert_eq!(r.peek(0x8220_0000), u32::from_le_bytes(*b"init"));
        r.m.close().await;
    });
}

#[test]
fn an_empty_machine_lives() {
    rt::block_on(async {
        let cfg = MachineConfig::new(MachineOptions::default());
        let m = Machine::build(cfg, MachineEnv { events: EventBus::new(), graph: None }).await.unwrap();
        m.start().await.unwrap();
        assert!(m.status().running && m.cpus().is_none());
        m.system_reset().await.unwrap();
        m.stop().await;
        assert!(m.dump_dtb(&PathBuf::from("/dev/null")).is_err());
        m.quit().await;
        assert_eq!(m.wait_exit().await, 0);
        m.close().await;
    });
}

/// Properties by path, with phandles replaced by what they point to.
fn flatten(root: &Node) -> Vec<(String, String)> {
    fn walk<'a>(n: &'a Node, path: &str, f: &mut dyn FnMut(&'a Node, &str)) {
        f(n, path);
        for c in n.children() {
            walk(c, &format!("{path}/{}", c.name()), f);
        }
    }
    let mut handles = std::collections::HashMap::new();
    walk(root, "", &mut |n, p| {
        if let Some(h) = n.get_u32("phandle") {
            handles.insert(h, p.to_owned());
        }
    });
    let mut out = Vec::new();
    walk(root, "", &mut |n, p| {
        for (name, value) in n.props() {
            let words: Vec<u32> =
                value.chunks_exact(4).map(|w| u32::from_be_bytes(w.try_into().unwrap())).collect();
            let text = match name {
                "phandle" => continue,
                "interrupt-parent" | "regmap" | "cpu" => handles[&words[0]].clone(),
                "interrupts-extended" => {
                    let mut v: Vec<String> =
                        words.chunks_exact(2).map(|w| format!("{}:{}", handles[&w[0]], w[1])).collect();
                    v.sort();
                    v.join(" ")
                }
                _ => format!("{value:x?}"),
            };
            out.push((format!("{p}:{name}"), text));
        }
    });
    out.sort();
    out
}

#[test]
fn the_device_tree_is_the_references_as_far_as_the_board_goes() {
    const REFERENCE: &str = "qemu-system-riscv64";
    for aclint in ["off", "on"] {
        let theirs = TempFile::new(b"");
        let machine = format!("virt,aclint={aclint},dumpdtb={}", theirs.0.display());
        let args = ["-machine", &machine, "-smp", "2", "-m", "64M", "-bios", "none"];
        match Command::new(REFERENCE).args(args).output() {
            Ok(o) if o.status.success() => {}
            _ => {
                println!("skipped: {REFERENCE} is not installed");
                return;
            }
        }
        let ours = rt::block_on(async {
            let mut cfg = config();
            cfg.cpus = 2;
            cfg.options.add(&format!("aclint={aclint}")).unwrap();
            let m = Machine::build(cfg, MachineEnv { events: EventBus::new(), graph: None }).await.unwrap();
            let out = TempFile::new(b"");
            m.dump_dtb(&out.0).unwrap();
            m.close().await;
            flatten(&parse(&std::fs::read(&out.0).unwrap()).unwrap())
        });
        let theirs = flatten(&parse(&std::fs::read(&theirs.0).unwrap()).unwrap());
        // What the board does not have, and what the harts are.
        let absent = ["/soc/pci@", "/platform-bus@", "/pmu", "/chosen:rng-seed"];
        let hart = ["riscv,isa", "riscv,isa-extensions", "mmu-type", "block-size"];
        let compared = |v: &[(String, String)]| -> Vec<(String, String)> {
            let skip =
                |k: &str| absent.iter().any(|a| k.starts_with(a)) || hart.iter().any(|h| k.ends_with(h));
            v.iter().filter(|(k, _)| !skip(k)).cloned().collect()
        };
        assert_eq!(compared(&ours), compared(&theirs));
    }
}
