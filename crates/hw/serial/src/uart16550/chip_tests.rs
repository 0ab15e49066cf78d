//! The chip against the data sheet.

use super::chip::{Chip, Uart16550State};
use super::spec::{fcr, ier, iir, lcr, lsr, mcr, msr, reg};

fn with_fifo(trigger: u8) -> Chip {
    let mut c = Chip::new();
    c.write(reg::FCR, fcr::ENABLE | trigger);
    c
}

fn iir_id(c: &mut Chip) -> u8 {
    c.read(reg::IIR) & 0x0f
}

#[test]
fn master_reset_leaves_the_registers_of_table_iii() {
    let mut c = Chip::new();
    assert_eq!(c.read(reg::IER), 0);
    assert_eq!(c.read(reg::IIR), iir::NONE);
    assert_eq!(c.read(reg::LCR), 0);
    assert_eq!(c.read(reg::LSR), lsr::THRE | lsr::TEMT);
    assert_eq!(c.read(reg::MSR) & msr::DELTAS, 0);
    assert!(!c.irq());
}

#[test]
fn the_divisor_latch_hides_the_data_and_interrupt_registers() {
    let mut c = Chip::new();
    c.write(reg::LCR, lcr::DLAB | 3);
    c.write(reg::DLL, 0x34);
    c.write(reg::DLM, 0x12);
    assert_eq!((c.read(reg::DLL), c.read(reg::DLM), c.divisor()), (0x34, 0x12, 0x1234));
    c.write(reg::LCR, 3);
    assert_eq!(c.read(reg::IER), 0);
    assert!(c.tx_pending().is_empty(), "the divisor must not be sent");
    c.write(reg::LCR, lcr::DLAB);
    c.write(reg::DLL, 0);
    c.write(reg::DLM, 0);
    assert_eq!(c.divisor(), 1, "a divisor of zero must not divide by zero");
}

#[test]
fn scratch_keeps_any_byte_and_reserved_bits_read_zero() {
    let mut c = Chip::new();
    for v in [0, 0x5a, 0xff] {
        c.write(reg::SCR, v);
        assert_eq!(c.read(reg::SCR), v);
    }
    c.write(reg::IER, 0xf0);
    c.write(reg::MCR, 0xe0);
    assert_eq!((c.read(reg::IER), c.read(reg::MCR)), (0, 0));
}

#[test]
fn received_data_interrupts_until_read() {
    let mut c = Chip::new();
    c.receive(b'a');
    assert!(!c.irq(), "not enabled yet");
    c.write(reg::IER, ier::ERBFI);
    assert!(c.irq());
    assert_eq!(iir_id(&mut c), iir::RDA);
    assert!(c.irq(), "reading the identification does not clear it");
    assert_eq!(c.read(reg::LSR) & lsr::DR, lsr::DR);
    assert_eq!(c.read(reg::RBR), b'a');
    assert!(!c.irq());
    assert_eq!(c.read(reg::LSR) & lsr::DR, 0);
}

#[test]
fn the_transmitter_interrupt_is_latched_and_cleared_by_its_identification() {
    let mut c = Chip::new();
    c.write(reg::IER, ier::ETBEI);
    assert!(c.irq(), "enabling it with an empty register raises it");
    assert_eq!(iir_id(&mut c), iir::THRE);
    assert_eq!(iir_id(&mut c), iir::NONE);
    // Off and on again raises it again: drivers probe with this.
    c.write(reg::IER, 0);
    c.write(reg::IER, ier::ETBEI);
    assert_eq!(iir_id(&mut c), iir::THRE);
    // Writing enabled over enabled does not.
    c.write(reg::IER, ier::ETBEI);
    assert!(!c.irq());
    c.write(reg::THR, b'x');
    assert_eq!(c.read(reg::LSR) & (lsr::THRE | lsr::TEMT), 0);
    assert!(!c.irq());
    c.tx_done(1);
    assert_eq!(c.read(reg::LSR) & (lsr::THRE | lsr::TEMT), lsr::THRE | lsr::TEMT);
    assert!(c.irq());
    c.write(reg::THR, b'y');
    assert!(!c.irq(), "writing a character clears it too");
}

#[test]
fn a_higher_priority_hides_the_transmitter_interrupt_without_clearing_it() {
    let mut c = Chip::new();
    c.write(reg::IER, ier::ETBEI | ier::ERBFI);
    c.receive(b'a');
    assert_eq!(iir_id(&mut c), iir::RDA);
    c.read(reg::RBR);
    assert_eq!(iir_id(&mut c), iir::THRE);
}

#[test]
fn priorities_are_line_status_data_transmitter_modem() {
    let mut c = Chip::new();
    c.write(reg::IER, ier::MASK);
    c.write(reg::MCR, mcr::LOOP | mcr::RTS); // Modem status changes…
    c.write(reg::THR, 1); // …one character comes round…
    c.write(reg::THR, 2); // …and a second overruns it.
    assert_eq!(iir_id(&mut c), iir::RLS);
    assert_eq!(c.read(reg::LSR) & lsr::OE, lsr::OE);
    assert_eq!(iir_id(&mut c), iir::RDA);
    assert_eq!(c.read(reg::RBR), 2, "without FIFOs the newest character wins");
    assert_eq!(iir_id(&mut c), iir::THRE);
    assert_eq!(iir_id(&mut c), iir::MS);
    assert_ne!(c.read(reg::MSR) & msr::DELTAS, 0);
    assert_eq!(c.read(reg::MSR) & msr::DELTAS, 0);
    assert_eq!(iir_id(&mut c), iir::NONE);
}

#[test]
fn fifos_show_in_the_identification_and_toggling_them_clears_both() {
    let mut c = Chip::new();
    c.receive(b'a');
    c.write(reg::FCR, fcr::ENABLE);
    assert_eq!(c.read(reg::IIR) & iir::FIFOS, iir::FIFOS);
    assert_eq!(c.read(reg::LSR) & lsr::DR, 0);
    c.receive(b'b');
    c.write(reg::THR, b'c');
    c.write(reg::FCR, 0);
    assert_eq!(c.read(reg::IIR) & iir::FIFOS, 0);
    assert_eq!(c.read(reg::LSR), lsr::THRE | lsr::TEMT);
}

#[test]
fn fifo_resets_need_the_enable_bit() {
    let mut c = with_fifo(0);
    c.receive(b'a');
    c.write(reg::THR, b'x');
    c.write(reg::FCR, fcr::ENABLE | fcr::RX_RESET);
    assert_eq!(c.read(reg::LSR), 0, "receiver empty, transmitter busy");
    c.write(reg::FCR, fcr::ENABLE | fcr::TX_RESET);
    assert_eq!(c.read(reg::LSR), lsr::THRE | lsr::TEMT);
}

#[test]
fn each_trigger_level_interrupts_at_its_count() {
    for (bits, level) in [(0x00, 1), (0x40, 4), (0x80, 8), (0xc0, 14)] {
        let mut c = with_fifo(bits);
        c.write(reg::IER, ier::ERBFI);
        for i in 1..=16 {
            c.receive(i);
            assert_eq!(c.irq(), usize::from(i) >= level, "level {level}, {i} characters");
        }
        assert_eq!(c.room(), 0);
    }
}

#[test]
fn a_lonely_character_times_out_and_reading_clears_it() {
    let mut c = with_fifo(0xc0);
    c.write(reg::IER, ier::ERBFI);
    assert_eq!(c.timeout_chars(), None);
    c.receive(b'a');
    c.receive(b'b');
    assert_eq!(c.timeout_chars(), Some(4));
    assert!(!c.irq());
    c.character_timeout();
    assert_eq!(c.read(reg::IIR), iir::CTI | iir::FIFOS);
    assert_eq!(c.timeout_chars(), None);
    assert_eq!(c.read(reg::RBR), b'a');
    assert!(!c.irq());
    assert_eq!(c.timeout_chars(), Some(4), "it runs again for what is left");
    assert_eq!(c.read(reg::RBR), b'b');
    c.character_timeout();
    assert!(!c.irq(), "an empty FIFO does not time out");
}

#[test]
fn a_full_fifo_overruns_and_keeps_the_old_characters() {
    let mut c = with_fifo(0);
    c.write(reg::IER, ier::ELSI);
    for i in 0..16 {
        c.receive(i);
    }
    assert!(!c.irq());
    c.receive(99);
    assert!(c.irq());
    assert_eq!(c.read(reg::LSR) & lsr::OE, lsr::OE);
    assert_eq!(c.read(reg::LSR) & lsr::OE, 0);
    let got: Vec<u8> = (0..16).map(|_| c.read(reg::RBR)).collect();
    assert_eq!(got, (0..16).collect::<Vec<u8>>());
}

#[test]
fn a_break_is_a_zero_with_its_bit_when_it_comes_to_the_top() {
    let mut c = with_fifo(0);
    c.write(reg::IER, ier::ELSI);
    c.receive(b'a');
    c.receive_break();
    let v = c.read(reg::LSR);
    assert_eq!(v & (lsr::BI | lsr::FIFO_ERROR), lsr::FIFO_ERROR, "hidden behind the first character");
    assert!(!c.irq());
    assert_eq!(c.read(reg::RBR), b'a');
    assert_eq!(iir_id(&mut c), iir::RLS);
    assert_eq!(c.read(reg::LSR) & (lsr::BI | lsr::DR), lsr::BI | lsr::DR);
    assert_eq!(c.read(reg::LSR) & (lsr::BI | lsr::FIFO_ERROR), 0, "told once");
    assert_eq!(c.read(reg::RBR), 0);
}

#[test]
fn loopback_wires_data_and_modem_lines() {
    let mut c = Chip::new();
    c.write(reg::LCR, 3);
    c.write(reg::MCR, mcr::LOOP);
    assert_eq!(c.room(), 0);
    c.receive(b'!');
    assert_eq!(c.read(reg::LSR) & lsr::DR, 0, "the line is cut off");
    c.write(reg::THR, 0xa5);
    assert!(c.tx_pending().is_empty(), "nothing leaves the chip");
    assert_eq!(c.read(reg::RBR), 0xa5);
    for (out, input) in
        [(mcr::RTS, msr::CTS), (mcr::DTR, msr::DSR), (mcr::OUT1, msr::RI), (mcr::OUT2, msr::DCD)]
    {
        c.write(reg::MCR, mcr::LOOP | out);
        assert_eq!(c.read(reg::MSR) & 0xf0, input);
    }
    c.write(reg::MCR, mcr::LOOP | mcr::OUT1);
    c.read(reg::MSR);
    c.write(reg::MCR, mcr::LOOP);
    assert_eq!(c.read(reg::MSR), msr::TERI, "only the ring indicator's trailing edge is told");
    c.write(reg::MCR, 0);
    assert_eq!(c.read(reg::MSR) & 0xf0, msr::CTS | msr::DSR | msr::DCD);
}

#[test]
fn loopback_keeps_only_the_bits_of_a_character() {
    let mut c = Chip::new();
    for (wls, mask) in [(0, 0x1f), (1, 0x3f), (2, 0x7f), (3, 0xff)] {
        c.write(reg::LCR, wls);
        c.write(reg::MCR, mcr::LOOP);
        c.write(reg::THR, 0xff);
        assert_eq!(c.read(reg::RBR), mask);
    }
}

#[test]
fn character_length_in_bits() {
    let mut c = Chip::new();
    for (v, bits) in [(0, 7), (3, 10), (3 | lcr::PEN, 11), (3 | lcr::PEN | lcr::STB, 12)] {
        c.write(reg::LCR, v);
        assert_eq!(c.char_bits(), bits);
    }
}

#[test]
fn the_transmit_fifo_holds_sixteen() {
    let mut c = with_fifo(0);
    for i in 0..16 {
        c.write(reg::THR, i);
    }
    assert_eq!(c.tx_pending().len(), 16);
    c.write(reg::THR, 77);
    assert_eq!(c.tx_pending().len(), 16);
    assert_eq!(c.tx_pending().back(), Some(&77));
    c.tx_done(15);
    assert_eq!(c.read(reg::LSR) & lsr::THRE, 0);
    c.tx_done(5);
    assert_eq!(c.read(reg::LSR) & lsr::THRE, lsr::THRE);
}

/// A small deterministic generator (xorshift) so that the walk is the same each time.
fn walk(seed: u64, steps: usize, mut f: impl FnMut(&mut Chip, u64)) -> Chip {
    let (mut c, mut x) = (Chip::new(), seed | 1);
    for _ in 0..steps {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        match x % 8 {
            0..=2 => c.write((x >> 8) as u8 & 7, (x >> 16) as u8),
            3 | 4 => drop(c.read((x >> 8) as u8 & 7)),
            5 => c.receive((x >> 8) as u8),
            6 => c.tx_done((x >> 8) as usize & 3),
            _ if x & 0x100 == 0 => c.receive_break(),
            _ => c.character_timeout(),
        }
        f(&mut c, x);
    }
    c
}

#[test]
fn any_walk_keeps_the_limits_and_survives_a_save() {
    for seed in 1..200 {
        let c = walk(seed, 300, |c, _| {
            assert!(c.tx_pending().len() <= 16 && c.room() <= 16);
            // The line agrees with what a read of the identification would say.
            let mut probe = c.clone();
            assert_eq!(c.irq(), probe.read(reg::IIR) & 1 == 0);
        });
        assert_eq!(Chip::restore(&c.save()), Some(c));
    }
}

#[test]
fn impossible_saved_states_are_refused() {
    let mut good = with_fifo(0);
    good.receive(b'a');
    let good = good.save();
    assert!(Chip::restore(&good).is_some());
    let refused = |change: fn(&mut Uart16550State)| {
        let mut s = good.clone();
        change(&mut s);
        Chip::restore(&s).is_none()
    };
    assert!(refused(|s| s.ier = 0xff), "interrupt bits that do not exist");
    assert!(refused(|s| s.fcr = 0x30));
    assert!(refused(|s| s.rx.0.push(1)), "a character without its error bits");
    assert!(refused(|s| {
        s.fcr = 0;
        s.tx.0 = vec![1, 2];
    }));
    assert!(refused(|s| s.tx.0 = vec![0; 17]));
    assert!(refused(|s| s.rx_errors.0[0] = lsr::OE));
}
