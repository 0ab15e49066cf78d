//! The machine's commands, for programs and for people.

use crate::machine::Machine;
use crate::registers;
use crate::runstate::hmp_line;
use api::block_core::BlockIoErrorEvent;
use api::char::VserportChangeEvent;
use api::control::Quit;
use api::machine::{QueryUuid, SystemPowerdown, SystemReset, UuidInfo};
use api::misc::{Cont, NameInfo, QueryName, Stop};
use api::run_state::{PowerdownEvent, QueryStatus, ResetEvent, ResumeEvent, ShutdownEvent, StopEvent};
use jit::JitInfo;
use monitor::{CommandTable, HmpTable};
use std::sync::Arc;

/// Registers the machine's commands and events: `query-status`, `query-name`, `query-uuid`, `stop`, `cont`, `quit`, `system_reset`,
/// `system_powerdown`, and what people type for them.
pub fn register(table: &mut CommandTable, hmp: &mut HmpTable, machine: &Arc<Machine>) {
    let m = machine.clone();
    table.register_oob::<QueryStatus, _>(move |_| Ok(m.status()));
    let m = machine.clone();
    table
        .register(move |_: QueryName| std::future::ready(Ok(NameInfo { name: m.name().map(str::to_owned) })));
    let m = machine.clone();
    table.register(move |_: QueryUuid| std::future::ready(Ok(UuidInfo { uuid: m.uuid().to_string() })));
    let m = machine.clone();
    table.register(move |_: Stop| {
        let m = m.clone();
        async move {
            m.stop().await;
            Ok(())
        }
    });
    let m = machine.clone();
    table.register(move |_: Cont| {
        let m = m.clone();
        async move { m.cont().await }
    });
    let m = machine.clone();
    // As in the reference, SHUTDOWN comes before the reply.
    table.register(move |_: Quit| {
        let m = m.clone();
        async move {
            m.quit().await;
            Ok(())
        }
    });
    let m = machine.clone();
    table.register(move |_: SystemReset| {
        let m = m.clone();
        async move { m.system_reset().await }
    });
    let m = machine.clone();
    table.register(move |_: SystemPowerdown| {
        let m = m.clone();
        async move {
            m.powerdown();
            Ok(())
        }
    });
    table.event::<StopEvent>();
    table.event::<ResumeEvent>();
    table.event::<ResetEvent>();
    table.event::<ShutdownEvent>();
    table.event::<PowerdownEvent>();
    table.event::<BlockIoErrorEvent>();
    table.event::<VserportChangeEvent>();
    register_hmp(hmp, machine);
}

fn register_hmp(hmp: &mut HmpTable, machine: &Arc<Machine>) {
    let m = machine.clone();
    hmp.register("info status", "", "show the current VM status (running|paused)", move |_| {
        std::future::ready(hmp_line(m.run_state()))
    });
    let m = machine.clone();
    hmp.register("info name", "", "show the current VM name", move |_| {
        std::future::ready(m.name().map(|n| format!("{n}\n")).unwrap_or_default())
    });
    let m = machine.clone();
    hmp.register("info uuid", "", "show the current VM UUID", move |_| {
        std::future::ready(format!("{}\n", m.uuid()))
    });
    let m = machine.clone();
    hmp.register(
        "info registers",
        "[-a]",
        "show the cpu registers (-a: show register info for all cpus)",
        move |a| {
            let m = m.clone();
            async move { registers::info(&m, a.flag('a')) }
        },
    );
    let m = machine.clone();
    hmp.register(
        "info mtree",
        "[-f]",
        "show memory tree (-f: dump flat view for address spaces)",
        move |a| std::future::ready(registers::mtree(&m, a.flag('f'))),
    );
    let m = machine.clone();
    hmp.register("info jit", "", "show dynamic compiler info", move |_| {
        std::future::ready(translation(m.translation()))
    });
    let m = machine.clone();
    hmp.register("stop|s", "", "stop emulation", move |_| {
        let m = m.clone();
        async move { m.stop().await }
    });
    let m = machine.clone();
    hmp.register("cont|c", "", "resume emulation", move |_| {
        let m = m.clone();
        async move { m.cont().await }
    });
    let m = machine.clone();
    hmp.register("quit|q", "", "quit the emulator", move |_| {
        let m = m.clone();
        async move { m.quit().await }
    });
    let m = machine.clone();
    hmp.register("system_reset", "", "reset the system", move |_| {
        let m = m.clone();
        async move { m.system_reset().await }
    });
    let m = machine.clone();
    hmp.register("system_powerdown", "", "send system power down event", move |_| {
        m.powerdown();
        std::future::ready(())
    });
}

/// What `info jit` shows.
fn translation(info: Option<JitInfo>) -> String {
    let Some(i) = info else { return "Accelerator settings:\none-insn-per-tb: on\n".into() };
    let n = i.regions.max(1);
    format!(
        "Accelerator settings:\none-insn-per-tb: off\n\nTranslation buffer state:\n\
         gen code size       {}/{}\nTB count            {}\nTB avg target size  {} max={} bytes\n\
         TB avg host size    {} bytes (expansion ratio: {:.1})\n\nStatistics:\nTB flush count      {}\n",
        i.used,
        i.size,
        i.regions,
        i.guest_bytes / n,
        i.longest,
        i.native_bytes / n,
        i.native_bytes as f64 / i.guest_bytes.max(1) as f64,
        i.flushes
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_of_nothing_and_of_something() {
        assert!(translation(None).ends_with("one-insn-per-tb: on\n"));
        assert!(translation(Some(JitInfo::default())).contains("TB avg target size  0 max=0 bytes\n"));
        let some = JitInfo {
            regions: 4,
            instructions: 100,
            guest_bytes: 300,
            longest: 200,
            native_bytes: 3000,
            used: 4096,
            size: 1 << 20,
            flushes: 2,
        };
        let text = translation(Some(some));
        for line in [
            "gen code size       4096/1048576",
            "TB count            4",
            "TB avg target size  75 max=200 bytes",
            "TB avg host size    750 bytes (expansion ratio: 10.0)",
            "TB flush count      2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
    }
}
