//! Debian's gdb-multiarch at a running machine; and what is told of code, the guest's and that which is made of it.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::{ScratchDir, Vm, VmBuilder, rhea_binary, run_tool, workspace};
use serde_json::json;

const SOON: Duration = Duration::from_secs(60);

/// The guest with its symbols.
fn guest(dir: &ScratchDir) -> Result<String> {
    let elf = dir.file("guest.elf");
    let source = workspace().join("tests/guests/debugged/guest.S");
    run_tool(
        "riscv64-linux-gnu-gcc",
        &[
            "-g",
            "-nostdlib",
            "-static",
            "-march=rv64imac_zicsr",
            "-mabi=lp64",
            "-Wl,-Ttext=0x80200000,--build-id=none,-z,noexecstack,--no-relax",
            "-o",
            &elf,
            &source.display().to_string(),
        ],
    )?;
    Ok(elf)
}

/// A machine of two harts that waits for a debugger at the returned address.
fn machine(dir: &ScratchDir, elf: &str, more: &[&str]) -> Result<(Vm, String)> {
    let socket = dir.file("gdb.sock");
    let vm = VmBuilder::riscv64()
        .args(["-smp", "2", "-m", "64", "-kernel", elf, "-gdb", &format!("unix:{socket}")])
        .args(more.iter().copied())
        .start()?;
    Ok((vm, socket))
}

/// What gdb prints while it does the commands; then what `monitor` lines answered, which is on its standard error.
fn gdb(elf: &str, socket: &str, commands: &[&str]) -> Result<String> {
    let mut gdb = Command::new("timeout");
    gdb.args(["60", "gdb-multiarch", "-nx", "-q", "-batch"]);
    let connect = format!("target remote {socket}");
    for c in ["set pagination off", "set confirm off", "set width 0", &connect].iter().chain(commands) {
        gdb.args(["-ex", c]);
    }
    let out = gdb.arg(elf).stdin(Stdio::null()).output().context("starting gdb-multiarch")?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let text = text + &String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{}: {text}", out.status);
    Ok(text)
}

/// That the pieces stand in the text one after another.
fn in_order(text: &str, pieces: &[&str]) -> Result<()> {
    let mut rest = text;
    for p in pieces {
        let at = rest.find(p).with_context(|| format!("'{p}' is missing in:\n{rest}\nwhole:\n{text}"))?;
        rest = &rest[at + p.len()..];
    }
    Ok(())
}

#[test]
fn breakpoints_watchpoints_and_steps() -> Result<()> {
    let dir = ScratchDir::new("gdb")?;
    let elf = guest(&dir)?;
    for accel in ["tcg", "tcg,one-insn-per-tb=on"] {
        let (mut vm, socket) = machine(&dir, &elf, &["-S", "-accel", accel])?;
        let text = gdb(
            &elf,
            &socket,
            &[
                "info threads",
                "break work",
                "continue",
                "print $s1",
                "backtrace",
                // Hot by then, so run natively.
                "ignore 1 2000",
                "continue",
                "print $s1",
                "delete",
                "watch *(long *)&counter",
                "continue",
                "info symbol $pc",
                "continue",
                "delete",
                "rwatch *(long *)&other",
                "continue",
                "info symbol $pc",
                "delete",
                "set scheduler-locking on",
                "stepi 4",
                "info symbol $pc",
                "stepi",
                "stepi",
                "print $s1 - 2003",
                "set scheduler-locking off",
                "tbreak work",
                "continue",
                "next",
                "next",
                "next",
                "next",
                "print $t0",
            ],
        )?;
        in_order(
            &text,
            &[
                "* 1    Thread 1.1 (CPU#0 [",
                "  2    Thread 1.2 (CPU#1 [halted ])",
                "hit Breakpoint 1, work ()",
                "= 1\n",
                "#0  work ()",
                "#1  0x0000000080200",
                "hit Breakpoint 1, work ()",
                "= 2002\n",
                "hit Hardware watchpoint 2",
                "Old value = 2002\nNew value = 2003\n",
                "loop + 8 in section .text",
                "Old value = 2003\nNew value = 2004\n",
                "hit Hardware read watchpoint 3",
                "Value = 1234605616436508552",
                "work + 24 in section .text",
                "loop in section .text",
                "= 2\n",
                "Temporary breakpoint 4, work ()",
                "= 999\n",
            ],
        )?;
        let status = vm.qmp().run("query-status", json!({}))?;
        ensure!(status["running"] == true, "the debugger has left: {status}");
    }
    Ok(())
}

#[test]
fn harts_are_threads() -> Result<()> {
    let dir = ScratchDir::new("gdb-harts")?;
    let elf = guest(&dir)?;
    let (vm, socket) = machine(&dir, &elf, &[])?;
    let text = gdb(
        &elf,
        &socket,
        &[
            "monitor info status",
            "break seconds_loop",
            "continue",
            "info threads",
            "print $s4 > 0",
            "delete",
            "watch *(long *)&seconds_count",
            "continue",
            "info symbol $pc",
            "delete",
            "set scheduler-locking on",
            "thread 1",
            "set $before = $minstret",
            "thread 2",
            "stepi 30",
            "thread 1",
            "print $minstret - $before",
            "set var $s1 = 5000",
            "set scheduler-locking off",
            "break loop if $s1 >= 5000",
            "continue",
            "print $s1 >= 5000",
            "print *(long *)&other = 77",
            "x/2i loop",
            "print/x $mhartid",
            "print $priv",
        ],
    )?;
    in_order(
        &text,
        &[
            "Thread 2 hit Breakpoint 1, seconds_loop ()",
            "* 2    Thread 1.2 (CPU#1 [running])",
            "= 1\n",
            "Thread 2 hit Hardware watchpoint 2",
            "seconds_loop + 8 in section .text",
            "= 0\n",
            "Thread 1 hit Breakpoint 3, loop ()",
            "= 1\n",
            "= 77\n",
            "s1,s1,1",
            "sd\ts1,0(s0)",
            "= 0x0\n",
            "= 1\n",
            "VM status: paused\n",
        ],
    )?;
    // Killing the guest from the debugger ends the program.
    gdb(&elf, &socket, &["kill"])?;
    let (status, errors) = vm.wait(SOON)?;
    ensure!(status.success(), "{status}: {errors}");
    Ok(())
}

#[test]
fn a_debugger_that_vanishes_leaves_nothing_behind() -> Result<()> {
    let dir = ScratchDir::new("gdb-gone")?;
    let elf = guest(&dir)?;
    let (mut vm, socket) = machine(&dir, &elf, &[])?;
    let mut lost = Command::new("gdb-multiarch")
        .args([
            "-nx",
            "-q",
            "-ex",
            &format!("target remote {socket}"),
            "-ex",
            "break work",
            "-ex",
            "continue",
        ])
        .args(["-ex", "continue", "-ex", "shell sleep 60", &elf])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let stopped = |vm: &mut Vm, want: &str| -> Result<()> {
        let end = std::time::Instant::now() + SOON;
        loop {
            let status = vm.qmp().run("query-status", json!({}))?;
            if status["status"] == want {
                return Ok(());
            }
            ensure!(std::time::Instant::now() < end, "{status}");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    stopped(&mut vm, "debug")?;
    lost.kill()?;
    lost.wait()?;
    vm.qmp().run("cont", json!({}))?;
    // No breakpoint stops it any more, and the next debugger is served.
    std::thread::sleep(Duration::from_millis(200));
    stopped(&mut vm, "running")?;
    let text = gdb(&elf, &socket, &["print $s1 > 1", "info breakpoints"])?;
    in_order(&text, &["= 1\n", "No breakpoints"])?;

    // Rubbish ends the connection and nothing else.
    use std::io::{Read, Write};
    for rubbish in
        [&b"$#00$m#g9\x03\x03+++"[..], b"$vCont;zz;;#41", &[0xff; 70000], b"$Hg-1#dfqqqq$Z9,0,0#xx"]
    {
        let mut s = std::os::unix::net::UnixStream::connect(&socket)?;
        s.set_read_timeout(Some(Duration::from_millis(200)))?;
        // The other side may have closed in the middle.
        drop(s.write_all(rubbish));
        drop(s.read(&mut [0; 4096]));
    }
    // A debugger that ends its own server: whether the answer still comes does not matter.
    gdb(&elf, &socket, &["monitor gdbserver none"])?;
    stopped(&mut vm, "paused")?;
    vm.qmp().run("quit", json!({}))?;
    let (status, errors) = vm.wait(SOON)?;
    ensure!(status.success(), "{status}: {errors}");
    Ok(())
}

#[test]
fn code_is_listed_and_named_for_perf() -> Result<()> {
    let dir = ScratchDir::new("listing")?;
    let elf = guest(&dir)?;
    let out = Command::new("timeout")
        .arg("3")
        .arg(rhea_binary())
        .args([
            "vm",
            "--arch",
            "riscv64",
            "-M",
            "virt",
            "-smp",
            "2",
            "-m",
            "64",
            "-kernel",
            &elf,
            "-nodefaults",
        ])
        .args(["-display", "none", "-d", "in_asm,op,out_asm", "-D", &dir.file("log"), "-jitdump", "-perfmap"])
        .current_dir(dir.path())
        .output()?;
    ensure!(
        out.status.code() == Some(124),
        "it ran until it was ended: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    let log = std::fs::read_to_string(dir.file("log"))?;
    in_order(
        &log,
        &[
            "----------------\nIN: \n0x80200000:  ",
            "0x8020003c:  00148493          addi                    s1,s1,1\n",
            "OP:\n----",
            "OUT: [size=",
            "  -- guest addr 0x000000008020",
            "movq     ",
        ],
    )?;
    let dumps: Vec<_> = std::fs::read_dir(dir.path())?
        .filter_map(|f| Some(f.ok()?.file_name().to_string_lossy().into_owned()))
        .filter(|f| f.starts_with("jit-"))
        .collect();
    let [dump] = &dumps[..] else { bail!("one dump is there: {dumps:?}") };
    let pid = dump.trim_start_matches("jit-").trim_end_matches(".dump");
    let bytes = std::fs::read(dir.file(dump))?;
    ensure!(bytes.starts_with(&0x4a69_5444u32.to_ne_bytes()));
    let map_file = format!("/tmp/perf-{pid}.map");
    let map = std::fs::read_to_string(&map_file)?;
    std::fs::remove_file(map_file)?;
    ensure!(map.lines().count() > 0);
    for line in map.lines() {
        let parts: Vec<&str> = line.split(' ').collect();
        let [at, len, name] = parts[..] else { bail!("{line}") };
        let len = u64::from_str_radix(len, 16)?;
        ensure!(u64::from_str_radix(at, 16)? > 0 && len > 0 && name.starts_with("guest-0x802000"), "{line}");
        // The same code is in the dump under the same name.
        let name = [name.as_bytes(), &[0]].concat();
        ensure!(bytes.windows(name.len()).any(|w| w == name), "{line}");
    }
    Ok(())
}
