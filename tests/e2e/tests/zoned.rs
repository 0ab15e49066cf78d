//! A zoned device of the host, where its kernel can make one: `qemu-io` tells of its zones, manages them and appends.

use std::process::Command;

use anyhow::{Result, ensure};
use e2e::{rhea_binary, run_tool, skip};

/// The device that the module makes.
const DEVICE: &str = "/dev/nullb0";

/// The module that makes it, gone when dropped.
struct Module;

impl Drop for Module {
    fn drop(&mut self) {
        _ = Command::new("modprobe").args(["-r", "null_blk"]).status();
    }
}

impl Module {
    /// 256 zones of 4 MiB (0x2000 sectors), the first of them conventional; why not, otherwise.
    fn load() -> Result<Module, String> {
        if std::path::Path::new("/sys/module/null_blk").exists() {
            return Err("somebody uses the module null_blk".into());
        }
        let shape = ["nr_devices=1", "gb=1", "zoned=1", "zone_size=4", "zone_nr_conv=1", "memory_backed=1"];
        let out = Command::new("modprobe").arg("null_blk").args(shape).output();
        let out = out.map_err(|e| format!("modprobe cannot be started: {e}"))?;
        if !out.status.success() {
            return Err(String::from_utf8_lossy(&out.stderr).trim().replace('\n', "; "));
        }
        let module = Module;
        match std::fs::read_to_string("/sys/block/nullb0/queue/zoned") {
            Ok(model) if model == "host-managed\n" => Ok(module),
            Ok(model) => Err(format!("the module null_blk makes a device that is zoned: {}", model.trim())),
            Err(e) => Err(format!("the module null_blk makes no zoned device: {e}")),
        }
    }
}

fn io(lines: &[&str]) -> Result<String> {
    let description = format!("driver=host_device,filename={DEVICE}");
    let mut args = vec!["io", "--image-opts", "-n", &description];
    args.extend(lines.iter().flat_map(|l| ["-c", l]));
    run_tool(rhea_binary(), &args)
}

#[test]
fn zones_of_a_device_of_the_host() {
    let module = match Module::load() {
        Ok(m) => m,
        Err(why) => skip!("no zoned device: {why}"),
    };
    if let Err(e) = zones() {
        panic!("{e:?}");
    }
    drop(module);
}

fn zones() -> Result<()> {
    let second = |rest: &str| format!("start: 0x2000, len 0x2000, cap 0x2000, wptr {rest}, [type: 2]\n");
    let said = io(&["zrp 0 2"])?;
    let first = "start: 0x0, len 0x2000, cap 0x2000, wptr ";
    ensure!(said.starts_with(first) && said.ends_with(&second("0x2000, zcond:1")), "{said}");
    let last = io(&["zrp 1020M 5"])?;
    ensure!(last.starts_with("start: 0x1fe000, ") && last.lines().count() == 1, "{last}");
    ensure!(io(&["zrp 1G 5"])?.is_empty());
    for (line, after) in [
        ("zo 4M 4M", "0x2000, zcond:3"),
        ("zc 4M 4M", "0x2000, zcond:1"),
        ("zf 4M 4M", "0x4000, zcond:14"),
        ("zrs 4M 4M", "0x2000, zcond:1"),
        ("zrs 0 1G", "0x2000, zcond:1"),
    ] {
        let said = io(&[line, "zrp 4M 1"])?;
        ensure!(said == second(after), "{line}: {said}");
    }
    let said = io(&["zap -p 4M 4k", "zap -p 4M 8k", "write -q 4206592 4k", "zap -p 4M 4k"])?;
    let place = |sector: &str| format!("After zap done, the append sector is {sector}\n");
    ensure!(said == [place("0x2000"), place("0x2008"), place("0x2020")].concat(), "{said}");
    ensure!(io(&["read -q -P 0xcd 4M 20k"])?.is_empty());
    for line in ["write 5M 4k", "zo 0 4M", "zo 4M 4k", "zap 0 4k 4k"] {
        ensure!(io(&[line]).is_err(), "{line}");
    }
    Ok(())
}
