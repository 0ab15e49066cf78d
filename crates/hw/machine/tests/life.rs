//! A machine's life: start, stop, reset, shutdown, and the events that tell of them, compared with what the reference
//! does on the same guests.

mod common;

use common::*;
use device::RawValue;
use machine::{Bios, RebootAction, ShutdownAction};
use std::time::Duration;

#[test]
fn a_guest_that_passes_or_fails_ends_the_program_with_its_code() {
    for (value, code, reason) in
        [(0x5555, 0, "guest-shutdown"), (0x5_3333, 5, "guest-panic"), (0xffff_3333, 65535, "guest-panic")]
    {
        rt::block_on(async {
            let r = Rig::new(&finisher(value), Bios::None, |_| {}).await;
            assert_eq!((r.state(), r.m.status().running), ("prelaunch", false));
            r.m.start().await.unwrap();
            assert_eq!(r.end().await, code);
            assert_eq!(r.events(), ["RESUME".to_owned(), format!("SHUTDOWN:{reason}")]);
        });
    }
}

#[test]
fn no_reboot_turns_a_reset_into_the_end() {
    rt::block_on(async {
        let r = Rig::new(&finisher(0x7777), Bios::None, |c| c.actions.reboot = RebootAction::Shutdown).await;
        r.m.start().await.unwrap();
        assert_eq!(r.end().await, 0);
        assert_eq!(r.events(), ["RESUME", "SHUTDOWN:guest-reset"]);
    });
}

#[test]
fn a_guest_can_reset_again_and_again() {
    rt::block_on(async {
        let r = Rig::new(&finisher(0x7777), Bios::None, |_| {}).await;
        r.m.start().await.unwrap();
        let mut seen = 0;
        for _ in 0..2000 {
            seen += r.events().iter().filter(|e| *e == "RESET:guest-reset").count();
            if seen >= 5 {
                break;
            }
            rt::sleep(Duration::from_millis(5)).await;
        }
        assert!(seen >= 5);
        assert_eq!(r.state(), "running");
        r.m.quit().await;
        assert_eq!(r.end().await, 0);
    });
}

#[test]
fn no_shutdown_keeps_the_machine_until_it_is_reset_or_quit() {
    rt::block_on(async {
        let r = Rig::new(&finisher(0x5555), Bios::None, |c| c.actions.shutdown = ShutdownAction::Pause).await;
        r.m.start().await.unwrap();
        r.until("the shutdown", |r| r.state() == "shutdown").await;
        rt::sleep(Duration::from_millis(20)).await;
        assert_eq!(r.events(), ["RESUME", "SHUTDOWN:guest-shutdown", "STOP"]);
        let e = r.m.cont().await.unwrap_err();
        assert_eq!(e.desc(), "Resetting the Virtual Machine is required");
        r.m.system_reset().await.unwrap();
        assert_eq!((r.state(), r.events()), ("prelaunch", vec!["RESET:host-qmp-system-reset".to_owned()]));
        r.m.cont().await.unwrap();
        r.until("the second shutdown", |r| r.state() == "shutdown").await;
        r.events();
        r.m.quit().await;
        assert_eq!(r.events(), ["SHUTDOWN:host-qmp-quit"]);
        assert_eq!(r.end().await, 0);
    });
}

#[test]
fn stop_holds_guest_and_time_and_cont_lets_them_go() {
    rt::block_on(async {
        let r = Rig::new(&counter(), Bios::None, |c| c.cpus = 2).await;
        r.m.stop().await;
        assert_eq!((r.state(), r.events()), ("prelaunch", vec![]), "nothing to stop yet");
        r.m.start().await.unwrap();
        r.until("counting", |r| r.peek(COUNTER) > 1000).await;
        r.m.stop().await;
        assert_eq!((r.state(), r.events()), ("paused", vec!["RESUME".to_owned(), "STOP".to_owned()]));
        let (n, t) = (r.peek(COUNTER), r.m.clock().now_ns());
        rt::sleep(Duration::from_millis(20)).await;
        assert_eq!((r.peek(COUNTER), r.m.clock().now_ns()), (n, t));
        r.m.stop().await;
        assert_eq!(r.events(), Vec::<String>::new(), "stopping twice is stopping once");
        r.m.cont().await.unwrap();
        r.m.cont().await.unwrap();
        assert_eq!(r.events(), ["RESUME"]);
        r.until("counting on", |r| r.peek(COUNTER) > n).await;
        // A reset while it stands still leaves it before its start.
        r.m.stop().await;
        r.m.system_reset().await.unwrap();
        assert_eq!(r.state(), "prelaunch");
        r.events();
        r.m.powerdown();
        assert_eq!(r.events(), ["POWERDOWN"]);
        r.m.quit().await;
        r.end().await;
    });
}

#[test]
fn a_reset_restores_what_the_guest_changed_of_its_images() {
    rt::block_on(async {
        let r = Rig::new(&counter(), Bios::None, |c| c.append = Some("x".into())).await;
        let first = r.peek(0x8000_0000);
        let space = r.m.memory().unwrap().clone();
        r.m.start().await.unwrap();
        r.until("counting", |r| r.peek(COUNTER) > 0).await;
        r.m.stop().await;
        space.write(0x8000_0000, &[0; 64]).unwrap();
        // The reset vector is memory that a guest cannot write.
        let vector = r.peek(0x1000);
        space.write(0x1000, &[0; 4]).unwrap();
        assert_eq!(r.peek(0x1000), vector);
        r.m.system_reset().await.unwrap();
        assert_eq!(r.peek(0x8000_0000), first);
        assert_eq!(r.m.cpus().unwrap().registers(0).unwrap().pc, 0x1000);
        r.m.cont().await.unwrap();
        r.m.quit().await;
        r.end().await;
    });
}

#[test]
fn a_signal_ends_it_whatever_is_set() {
    rt::block_on(async {
        let r = Rig::new(&counter(), Bios::None, |c| c.actions.shutdown = ShutdownAction::Pause).await;
        r.m.start().await.unwrap();
        r.m.requests().shutdown(machine::ShutdownCause::HostSignal, 0);
        assert_eq!(r.end().await, 0);
        assert_eq!(r.events(), ["RESUME", "SHUTDOWN:host-signal"]);
    });
}

#[test]
fn devices_go_on_the_last_free_transport() {
    struct Nothing;
    impl device::Resources for Nothing {
        fn chardev(&self, _id: &str) -> Option<std::sync::Arc<dyn device::CharBackend>> {
            None
        }
        fn object(&self, _id: &str) -> Option<std::sync::Arc<dyn qom::Object>> {
            None
        }
        fn block(&self) -> Option<std::sync::Arc<block::BlockGraph>> {
            None
        }
    }
    rt::block_on(async {
        let r = Rig::new(&counter(), Bios::None, |_| {}).await;
        let rng = |id: &str| {
            vec![
                ("driver".to_owned(), RawValue::Text("virtio-rng-device".into())),
                ("id".to_owned(), RawValue::Text(id.into())),
            ]
        };
        let mut buses = Vec::new();
        for n in 0..8 {
            buses.push(r.m.plug(&rng(&format!("r{n}")), &Nothing).await.unwrap().bus.clone());
        }
        let want: Vec<String> = (0..8).rev().map(|n| format!("virtio-mmio-bus.{n}")).collect();
        assert_eq!(buses, want);
        let e = r.m.plug(&rng("r8"), &Nothing).await.err().expect("an error");
        assert_eq!(e.desc(), "No 'virtio-bus' bus found for device 'virtio-rng-device'");
        // Its registers: magic, version 1, the device's number, the vendor.
        assert_eq!((r.peek(0x1000_8000), r.peek(0x1000_8004), r.peek(0x1000_8008)), (0x7472_6976, 1, 4));
        r.m.start().await.unwrap();
        r.m.system_reset().await.unwrap();
        assert_eq!(r.peek(0x1000_1008), 4);
        r.m.quit().await;
        r.end().await;
    });
}
