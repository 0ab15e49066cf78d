//! The device tree of the `virt` board. Nodes and properties are those of the bindings in the Linux kernel's
//! documentation.

use super::map;
use firmware::fdt::{Node, Phandles, cells};
use misc::finisher;
use vcpu::{CACHE_BLOCK, Ext, TIMEBASE_HZ};

/// What the tree depends on.
pub(crate) struct TreeConfig<'a> {
    pub(crate) harts: u32,
    pub(crate) ext: Ext,
    pub(crate) ram: u64,
    pub(crate) aclint: bool,
    pub(crate) model: &'a str,
    pub(crate) compatible: &'a str,
}

/// Builds the tree without what depends on the images that are loaded.
pub(crate) fn build(c: &TreeConfig<'_>) -> Node {
    let mut ph = Phandles::default();
    let mut root = Node::new("");
    root.u32("#address-cells", 2).u32("#size-cells", 2).str("compatible", c.compatible).str("model", c.model);

    for (name, value) in [("poweroff", finisher::POWEROFF), ("reboot", finisher::REBOOT)] {
        root.child(name)
            .str("compatible", &format!("syscon-{name}"))
            .u32("regmap", ph.of("test"))
            .u32("offset", 0)
            .u32("value", value);
    }
    root.child(&format!("memory@{:x}", map::DRAM))
        .str("device_type", "memory")
        .u32s("reg", &cells(&[map::DRAM, c.ram]));
    cpus(root.child("cpus"), c, &mut ph);
    root.child(&unit("fw-cfg", map::FW_CFG))
        .str("compatible", "qemu,fw-cfg-mmio")
        .u32s("reg", &reg(map::FW_CFG))
        .flag("dma-coherent");
    root.child(&unit("flash", map::FLASH))
        .str("compatible", "cfi-flash")
        .u32s("reg", &[reg(map::flash(0)), reg(map::flash(1))].concat())
        .u32("bank-width", 4);
    let uart = unit("serial", map::UART);
    root.child("aliases").str("serial0", &format!("/soc/{uart}"));
    root.child("chosen").str("stdout-path", &format!("/soc/{uart}"));
    soc(root.child("soc"), c, &mut ph);
    root
}

fn reg(r: map::Range) -> Vec<u32> {
    cells(&[r.base, r.len])
}

fn unit(name: &str, r: map::Range) -> String {
    format!("{name}@{:x}", r.base)
}

fn cpus(cpus: &mut Node, c: &TreeConfig<'_>, ph: &mut Phandles) {
    cpus.u32("#address-cells", 1).u32("#size-cells", 0).u32("timebase-frequency", TIMEBASE_HZ as u32);
    for n in 0..c.harts {
        let cpu = cpus.child(&format!("cpu@{n:x}"));
        let mmu = if c.ext.has(Ext::SV48) { "riscv,sv48" } else { "riscv,sv39" };
        cpu.u32("phandle", ph.of(&format!("cpu{n}")))
            .str("device_type", "cpu")
            .u32("reg", n)
            .str("status", "okay")
            .str("compatible", "riscv")
            .str("riscv,isa", &c.ext.isa_string())
            .str("riscv,isa-base", "rv64i")
            .strs("riscv,isa-extensions", &c.ext.isa_extensions())
            .str("mmu-type", mmu);
        for (ext, name) in [
            (Ext::ZICBOM, "riscv,cbom-block-size"),
            (Ext::ZICBOP, "riscv,cbop-block-size"),
            (Ext::ZICBOZ, "riscv,cboz-block-size"),
        ] {
            if c.ext.has(ext) {
                cpu.u32(name, CACHE_BLOCK as u32);
            }
        }
        cpu.child("interrupt-controller")
            .u32("#interrupt-cells", 1)
            .flag("interrupt-controller")
            .str("compatible", "riscv,cpu-intc")
            .u32("phandle", ph.of(&intc(n)));
    }
    let cluster = cpus.child("cpu-map").child("cluster0");
    for n in 0..c.harts {
        cluster.child(&format!("core{n}")).u32("cpu", ph.of(&format!("cpu{n}")));
    }
}

fn intc(hart: u32) -> String {
    format!("intc{hart}")
}

/// `interrupts-extended` to each hart's inputs, by their numbers in `mip`.
fn to_harts(c: &TreeConfig<'_>, ph: &mut Phandles, inputs: &[u32]) -> Vec<u32> {
    let mut v = Vec::new();
    for n in 0..c.harts {
        let intc = ph.of(&intc(n));
        v.extend(inputs.iter().flat_map(|i| [intc, *i]));
    }
    v
}

/// Nodes stand in the order in which Linux is to find them: the first disk that a user names is on the last transport.
fn soc(soc: &mut Node, c: &TreeConfig<'_>, ph: &mut Phandles) {
    soc.u32("#address-cells", 2).u32("#size-cells", 2).str("compatible", "simple-bus").flag("ranges");
    let plic = ph.of("plic");
    soc.child(&unit("rtc", map::RTC))
        .u32("interrupts", map::IRQ_RTC)
        .u32("interrupt-parent", plic)
        .u32s("reg", &reg(map::RTC))
        .str("compatible", "google,goldfish-rtc");
    soc.child(&unit("serial", map::UART))
        .u32("interrupts", map::IRQ_UART)
        .u32("interrupt-parent", plic)
        .u32("clock-frequency", map::UART_CLOCK)
        .u32s("reg", &reg(map::UART))
        .str("compatible", "ns16550a");
    soc.child(&unit("test", map::TEST))
        .u32("phandle", ph.of("test"))
        .u32s("reg", &reg(map::TEST))
        .strs("compatible", &["sifive,test1", "sifive,test0", "syscon"]);
    for n in (0..map::VIRTIO_COUNT).rev() {
        soc.child(&unit("virtio_mmio", map::virtio(n)))
            .u32("interrupts", map::IRQ_VIRTIO + n)
            .u32("interrupt-parent", plic)
            .u32s("reg", &reg(map::virtio(n)))
            .str("compatible", "virtio,mmio");
    }
    let external = to_harts(c, ph, &[11, 9]);
    soc.child(&unit("plic", map::PLIC))
        .u32("phandle", plic)
        .u32("riscv,ndev", map::IRQ_SOURCES - 1)
        .u32s("reg", &reg(map::PLIC))
        .u32s("interrupts-extended", &external)
        .flag("interrupt-controller")
        .strs("compatible", &["sifive,plic-1.0.0", "riscv,plic0"])
        .u32("#address-cells", 0)
        .u32("#interrupt-cells", 1);
    if c.aclint { aclint(soc, c, ph) } else { clint(soc, c, ph) }
}

fn clint(soc: &mut Node, c: &TreeConfig<'_>, ph: &mut Phandles) {
    let lines = to_harts(c, ph, &[3, 7]);
    soc.child(&unit("clint", map::CLINT))
        .u32s("interrupts-extended", &lines)
        .u32s("reg", &reg(map::CLINT))
        .strs("compatible", &["sifive,clint0", "riscv,clint0"]);
}

fn aclint(soc: &mut Node, c: &TreeConfig<'_>, ph: &mut Phandles) {
    use misc::aclint::spec::{MTIME, MTIMER, SWI_LEN};
    let swi = |soc: &mut Node, name: &str, base: u64, lines: &[u32]| {
        soc.child(&format!("{name}@{base:x}"))
            .u32s("reg", &cells(&[base, SWI_LEN]))
            .u32s("interrupts-extended", lines)
            .flag("interrupt-controller")
            .u32("#interrupt-cells", 0)
            .str("compatible", &format!("riscv,aclint-{name}"));
    };
    let ssip = to_harts(c, ph, &[1]);
    swi(soc, "sswi", map::SSWI.base, &ssip);
    let mtip = to_harts(c, ph, &[7]);
    let mtimer = map::CLINT.base + MTIMER;
    // The binding names MTIME first, then the compare registers.
    let mtime = mtimer + MTIME;
    soc.child(&format!("mtimer@{mtimer:x}"))
        .u32s("reg", &cells(&[mtime, map::CLINT.base + map::CLINT.len - mtime, mtimer, MTIME]))
        .u32s("interrupts-extended", &mtip)
        .str("compatible", "riscv,aclint-mtimer");
    let msip = to_harts(c, ph, &[3]);
    swi(soc, "mswi", map::CLINT.base, &msip);
}
