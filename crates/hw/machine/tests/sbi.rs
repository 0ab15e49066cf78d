//! The built-in SBI, by guests in S-mode.

mod common;

use common::*;
use machine::Bios;

/// `ecall` with extension, function and up to three arguments.
fn sbi(asm: Asm, ext: u32, func: u32, args: &[u32]) -> Asm {
    let asm = args.iter().zip([A0, A1, A2]).fold(asm, |a, (v, r)| a.li(r, *v));
    asm.li(A7, ext).li(A6, func).ecall()
}

const DBCN: u32 = 0x4442_434e;
const SRST: u32 = 0x5352_5354;
const HSM: u32 = 0x0048_534d;

#[test]
fn a_kernel_prints_and_powers_off() {
    rt::block_on(async {
        let mut asm = Asm::default();
        for c in b"hi\n" {
            asm = sbi(asm, DBCN, 2, &[u32::from(*c)]);
        }
        asm = sbi(asm, 1, 0, &[u32::from(b'!')]);
        asm = sbi(asm, SRST, 0, &[0, 0]).hang();
        let r = Rig::new(&asm, Bios::BuiltIn, |_| {}).await;
        r.m.start().await.unwrap();
        assert_eq!(r.end().await, 0);
        assert_eq!(r.console.text(), "hi\n!");
        assert_eq!(r.events(), ["RESUME", "SHUTDOWN:guest-shutdown"]);
    });
}

#[test]
fn a_kernel_gets_its_hart_and_a_device_tree() {
    rt::block_on(async {
        // Stores a0 and the first word at a1 where the test looks.
        let asm =
            Asm::default().li(T0, COUNTER as u32).sw(A0, T0).addi(T0, T0, 4).lw(T1, A1).sw(T1, T0).hang();
        let r = Rig::new(&asm, Bios::BuiltIn, |c| c.append = Some("root=/dev/vda".into())).await;
        r.m.memory().unwrap().write(COUNTER, &[0xff; 8]).unwrap();
        r.m.start().await.unwrap();
        r.until("the stores", |r| r.peek(COUNTER + 4) != u32::MAX).await;
        assert_eq!((r.peek(COUNTER), r.peek(COUNTER + 4)), (0, 0xd00d_feed_u32.swap_bytes()));
        let mut blob = vec![0; 1 << 16];
        r.m.memory().unwrap().read(0x83e0_0000, &mut blob).unwrap();
        let tree = firmware::fdt::parse(&blob).unwrap();
        let chosen = tree.find("chosen").unwrap();
        assert_eq!(chosen.get("bootargs"), Some(&b"root=/dev/vda\0"[..]));
        let seed = chosen.get("rng-seed").unwrap().to_vec();
        r.m.system_reset().await.unwrap();
        r.m.memory().unwrap().read(0x83e0_0000, &mut blob).unwrap();
        let again = firmware::fdt::parse(&blob).unwrap();
        assert_ne!(again.find("chosen").unwrap().get("rng-seed").unwrap(), seed, "a new seed at each start");
        r.m.quit().await;
        r.end().await;
    });
}

#[test]
fn a_second_hart_is_started_and_a_reset_stops_it() {
    rt::block_on(async {
        // Hart 0 starts hart 1 at the counter behind its own code; the calls' error is stored first.
        let main = sbi(Asm::default(), HSM, 0, &[1, 0x8030_0000, 77]);
        let main = main.li(T0, 0x8011_0000).sw(A0, T0).hang();
        let r = Rig::new(&main, Bios::BuiltIn, |c| c.cpus = 2).await;
        let space = r.m.memory().unwrap().clone();
        space.write(0x8030_0000, &counter().bytes()).unwrap();
        space.write(0x8011_0000, &[0xff; 4]).unwrap();
        r.m.start().await.unwrap();
        r.until("hart 1's counting", |r| r.peek(COUNTER) > 1000).await;
        // Hart 1 may count before hart 0's thread comes back from the call.
        r.until("the call's error", |r| r.peek(0x8011_0000) != u32::MAX).await;
        assert_eq!(r.peek(0x8011_0000), 0);
        let s = r.m.cpus().unwrap().registers(1).unwrap();
        assert_eq!((s.x[10], s.x[11]), (1, 77));
        r.m.stop().await;
        r.m.system_reset().await.unwrap();
        assert_eq!(r.m.cpus().unwrap().hart_state(1), Some(vcpu::HartState::Stopped));
        space.write(COUNTER, &[0; 4]).unwrap();
        r.m.cont().await.unwrap();
        r.until("hart 1's counting again", |r| r.peek(COUNTER) > 1000).await;
        r.m.quit().await;
        r.end().await;
    });
}

#[test]
fn a_reboot_by_sbi_resets() {
    rt::block_on(async {
        let r = Rig::new(&sbi(Asm::default(), SRST, 0, &[1, 0]).hang(), Bios::BuiltIn, |_| {}).await;
        r.m.start().await.unwrap();
        r.until("a reset", |r| r.events().iter().any(|e| e == "RESET:guest-reset")).await;
        r.m.quit().await;
        r.end().await;
    });
}
