//! Instructions as text, held against the reference's monitor.

use crate::bench::{RAM, REFERENCE_CPU};
use crate::random::Rng;
use isa_riscv::table::TABLE;
use isa_riscv::text;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

#[test]
fn pseudo_instructions_and_addresses() {
    for (raw, want) in [
        (0x0000_0013, "nop                     "),
        (0x00c5_8533, "add                     a0,a1,a2"),
        (0x8082, "ret                     "),
        (0x4085, "addi                    ra,zero,1"),
        (0xfe05_1ce3, "bnez                    a0,-8                   # 0x7ffffff8"),
        (0x0000_0297, "auipc                   t0,0                    # 0x80000000"),
        (0x1405_212f, "lr.w.aq                 sp,(a0)"),
        (0x14d5_1073, "csrrw                   zero,stimecmp,a0"),
        (0x0000, "illegal                 "),
    ] {
        assert_eq!(text::text(raw, RAM), want);
    }
    assert_eq!(text::line(0x8082, 0x10), "0x00000010:  8082              ret                     ");
}

/// What the reference's monitor shows of an image at [`RAM`]; `None`, having said why, where it is not installed.
fn reference(image: &[u8], count: usize) -> Option<Vec<String>> {
    let file = std::env::temp_dir().join(format!("rhea-text-{}.bin", std::process::id()));
    std::fs::write(&file, image).unwrap();
    let child = Command::new("qemu-system-riscv64")
        .args(["-M", "virt", "-m", "16", "-bios", "none", "-S", "-display", "none", "-serial", "none"])
        .args(["-cpu", REFERENCE_CPU])
        .args(["-monitor", "stdio", "-device"])
        .arg(format!("loader,file={},addr={RAM:#x},force-raw=on", file.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(c) => c,
        Err(e) => {
            println!("skipped: qemu-system-riscv64: {e}");
            return None;
        }
    };
    // It forgets what it has not written when it is told to quit, so that comes last.
    let mut input = child.stdin.take().unwrap();
    input.write_all(format!("x/{count}i {RAM:#x}\n").as_bytes()).unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(|l| l.unwrap());
    let lines = lines.map(|l| l.trim_end_matches('\r').to_owned()).filter(|l| l.starts_with("0x"));
    let lines = lines.take(count).collect();
    input.write_all(b"quit\n").unwrap();
    child.wait().unwrap();
    std::fs::remove_file(file).unwrap();
    Some(lines)
}

#[test]
fn texts_are_the_references() {
    let mut rng = Rng(0x7e47);
    let mut words: Vec<u32> = Vec::new();
    for e in TABLE {
        for n in 0..24 {
            let mut fields = rng.next() as u32;
            // Register 0 and immediates of note, for the names that they give.
            fields &= [!0, !(31 << 15), !(31 << 20), !(31 << 7)][n % 4];
            match n {
                4 => fields = 0,
                5 => fields |= 0xfff << 20,
                6 => fields = fields & !(0xfff << 20) | 1 << 20,
                7 => fields = fields & !(31 << 20) | (fields >> 15 & 31) << 20,
                _ => {}
            }
            words.push(fields & !e.mask | e.bits);
        }
    }
    let mut image: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    let mut short: Vec<u16> = (0..=u16::MAX).filter(|w| w & 3 != 3).step_by(7).collect();
    short.extend([0x8082, 0x9002, 1, 0x4001]);
    image.extend(short.iter().flat_map(|w| w.to_le_bytes()));
    let Some(theirs) = reference(&image, words.len() + short.len()) else { return };
    assert_eq!(theirs.len(), words.len() + short.len());
    let all = words.iter().copied().chain(short.iter().map(|w| u32::from(*w)));
    let mut pc = RAM;
    let mut wrong = Vec::new();
    for (raw, theirs) in all.zip(&theirs) {
        let ours = text::line(raw, pc);
        pc += text::length(raw as u16);
        // It knows instructions that Rhea has not, and old names of control registers and of two moves.
        let theirs = &theirs.replace("fmv.x.s", "fmv.x.w").replace("fmv.s.x", "fmv.w.x");
        let other = ours.ends_with("illegal                 ");
        let csr = ours.contains("csrr");
        // The sign of the one constant that is negative is lost there.
        let theirs =
            &if ours.ends_with(",-0x1p+0") { theirs.replace(",0x1p+0", ",-0x1p+0") } else { theirs.clone() };
        // It shows no second operand of a permutation, no destination of SM4, and one too many of SHA-512's, and takes a packing of zero for RV32's `zext.h`.
        let theirs = &match ours.split_whitespace().nth(2) {
            Some("xperm4" | "xperm8" | "sm4ed" | "sm4ks") => ours.clone(),
            Some(name) if name.starts_with("sha512") => ours.clone(),
            Some("pack") if theirs.contains("zext.h") => ours.clone(),
            _ => theirs.clone(),
        };
        // Hints (shifts by 0 and the like) are instructions here, and it has no text for numbers of 16 bits. It takes
        // operations on cache blocks for loads of RV128.
        let hint = theirs.ends_with("illegal                 ") && (raw & 3 != 3 || ours.contains(".h"))
            || theirs.contains(" lq ") && ours.contains(" cbo.");
        if *theirs != ours && !other && !csr && !hint {
            wrong.push(format!("{theirs}\n{ours}"));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n\n"));
}
