//! Rings: a well-behaved driver against a model, and a driver that writes rubbish.

mod common;

use common::{Buf, Guest, RAM_BASE, Ring};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use virtio::queue::{Chain, Layout, QueueEvents, VirtQueue};
use virtio::spec::feature::*;

#[derive(Default)]
struct Events {
    interrupts: AtomicU32,
    broken: AtomicU32,
}

impl QueueEvents for Events {
    fn used_buffers(&self, _queue: u16) {
        self.interrupts.fetch_add(1, Ordering::Relaxed);
    }

    fn broken(&self, _queue: u16, _why: &str) {
        self.broken.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Clone, Debug)]
enum Op {
    Add { read: Vec<u8>, write: Vec<u8>, indirect: bool },
    Pop,
    Complete(usize, u8),
    Publish,
    Reap,
    Sleep,
    Doze,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (
            proptest::collection::vec(1u8..40, 0..4),
            proptest::collection::vec(1u8..40, 0..4),
            any::<bool>(),
        )
            .prop_filter("not empty", |(r, w, _)| !r.is_empty() || !w.is_empty())
            .prop_map(|(read, write, indirect)| Op::Add { read, write, indirect }),
        5 => Just(Op::Pop),
        5 => (any::<usize>(), any::<u8>()).prop_map(|(i, b)| Op::Complete(i, b)),
        3 => Just(Op::Publish),
        3 => Just(Op::Reap),
        2 => Just(Op::Sleep),
        1 => Just(Op::Doze),
    ]
}

/// A request as the driver remembers it.
#[derive(Clone, Debug)]
struct Sent {
    id: u16,
    bytes: Vec<u8>,
    write: Vec<Buf>,
    room: usize,
}

fn run(ops: Vec<Op>, size: u16, features: u64) -> Result<(), TestCaseError> {
    let g = Guest::new();
    let mut ring = Ring::new(RAM_BASE, size, features);
    let events = Arc::new(Events::default());
    let q = VirtQueue::new(0, ring.layout, g.dma(), events.clone()).unwrap();
    let in_order = features & IN_ORDER != 0;
    let (mut waiting, mut taken): (VecDeque<Sent>, Vec<(Sent, Chain)>) = Default::default();
    // Requests in the order in which they were taken, and what was written into those that are complete.
    let mut order: VecDeque<u16> = VecDeque::new();
    let mut done: Vec<(Sent, u8)> = Vec::new();
    let mut visible: VecDeque<(Sent, u8)> = VecDeque::new();
    let mut unpublished: VecDeque<(Sent, u8)> = VecDeque::new();
    let mut next = 0u64;
    let mut asleep = None;
    q.want_kicks(true);
    for op in ops {
        match op {
            Op::Add { read, write, indirect } => {
                let indirect = indirect && features & INDIRECT_DESC != 0;
                let mut bufs: Vec<Buf> = Vec::new();
                let mut bytes = Vec::new();
                let mut at = RAM_BASE + (8 << 20) + (next % 4096) * 512;
                next += 1;
                for len in &read {
                    let b: Vec<u8> = (0..*len).map(|i| i.wrapping_mul(7) ^ next as u8).collect();
                    g.write(at, &b);
                    bufs.push((at, u32::from(*len), false));
                    bytes.extend(b);
                    at += u64::from(*len);
                }
                let mut targets = Vec::new();
                for len in &write {
                    targets.push((at, u32::from(*len), true));
                    at += u64::from(*len);
                }
                bufs.extend(&targets);
                let mark = ring.mark();
                let idle = !q.has_work();
                if let Some(id) = ring.add(&g, &bufs, indirect) {
                    let room = write.iter().map(|l| usize::from(*l)).sum();
                    waiting.push_back(Sent { id, bytes, write: targets, room });
                    // The device asked to be told when it had nothing to do.
                    if idle && waiting.len() == 1 {
                        prop_assert!(ring.must_kick(&g, mark), "a kick was lost");
                    }
                }
            }
            Op::Pop => {
                match (q.pop(), waiting.pop_front()) {
                    (Some(c), Some(s)) => {
                        prop_assert_eq!(c.readable.to_vec(), s.bytes.clone());
                        prop_assert_eq!(c.writable.len(), s.room);
                        order.push_back(s.id);
                        taken.push((s, c));
                    }
                    (None, None) => q.want_kicks(true),
                    (a, b) => prop_assert!(false, "the device has {a:?}, the driver {b:?}"),
                }
                if !q.has_work() {
                    q.want_kicks(true);
                }
            }
            Op::Complete(i, byte) => {
                if taken.is_empty() {
                    continue;
                }
                let (s, c) = taken.swap_remove(i % taken.len());
                c.writable.fill(byte);
                q.complete(c, s.room as u32);
                done.push((s, byte));
                // What the driver may see next: anything, or with IN_ORDER what was taken first.
                while let Some(k) = if in_order {
                    order.front().and_then(|id| done.iter().position(|(s, _)| s.id == *id))
                } else {
                    done.len().checked_sub(1)
                } {
                    let d = done.remove(k);
                    order.retain(|id| *id != d.0.id);
                    unpublished.push_back(d);
                }
                if features & RING_PACKED != 0 {
                    // A packed ring shows them at once; only the interrupt waits.
                    visible.extend(unpublished.iter().cloned());
                    unpublished.clear();
                }
            }
            Op::Publish => {
                q.publish();
                visible.append(&mut unpublished);
                if let Some(before) = asleep
                    && !visible.is_empty()
                {
                    prop_assert!(
                        events.interrupts.load(Ordering::Relaxed) > before,
                        "the driver sleeps and was not woken"
                    );
                }
            }
            Op::Reap => {
                asleep = None;
                while let Some((id, len)) = ring.reap(&g) {
                    let Some((s, byte)) = visible.pop_front() else {
                        return Err(TestCaseError::fail("used out of nothing"));
                    };
                    prop_assert_eq!((id, len as usize), (s.id, s.room));
                    for (at, n, _) in s.write {
                        prop_assert!(g.read(at, n as usize).iter().all(|b| *b == byte));
                    }
                }
                prop_assert!(visible.is_empty(), "the driver does not see {:?}", visible);
            }
            Op::Sleep => {
                // As drivers do: ask, then look once more; sleep if there is nothing.
                ring.want_interrupt(&g, true);
                if visible.is_empty() {
                    asleep = Some(events.interrupts.load(Ordering::Relaxed));
                }
            }
            Op::Doze => {
                ring.want_interrupt(&g, false);
                asleep = None;
            }
        }
    }
    prop_assert_eq!(events.broken.load(Ordering::Relaxed), 0);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_split_ring_is_a_queue(
        ops in proptest::collection::vec(op(), 1..200),
        shift in 2u32..5,
        bits in 0u32..8,
    ) {
        run(ops, 1 << shift, features(bits))?;
    }

    #[test]
    fn a_packed_ring_is_a_queue(
        ops in proptest::collection::vec(op(), 1..200),
        size in 4u16..20,
        bits in 0u32..8,
    ) {
        run(ops, size, features(bits) | RING_PACKED)?;
    }

    #[test]
    fn rubbish_breaks_the_queue_and_nothing_else(
        seed in any::<u64>(),
        packed in any::<bool>(),
        bits in 0u32..8,
        size_shift in 1u32..8,
        places in proptest::array::uniform3(0u64..0x4000),
    ) {
        let g = Guest::new();
        // Words that look like descriptors often enough: small numbers, addresses in RAM, in registers and nowhere.
        let mut x = seed | 1;
        let mut rand = move || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x
        };
        for at in (0..0x8000u64).step_by(8) {
            let r = rand();
            let v = match r % 8 {
                0 | 1 => RAM_BASE + r % 0x8000,
                2 => RAM_BASE - 0x800,
                3 => ((r >> 32) % 64) | ((r % 7) << 32) | ((r >> 50) << 48),
                4 => r,
                5 => (((r >> 8) % 0x100) << 4) | (((r >> 20) % 8) << 32) | (((r >> 40) % 16) << 48),
                _ => r & 0x8087_ffff_0000_00ff,
            };
            g.ram.store(at, v);
        }
        let features = features(bits) | if packed { RING_PACKED } else { 0 };
        let at = |i: usize| RAM_BASE + places[i];
        let layout = Layout { size: 1 << size_shift, desc: at(0) & !15, driver: at(1), device: at(2), features };
        let events = Arc::new(Events::default());
        let q = VirtQueue::new(0, layout, g.dma(), events.clone()).unwrap();
        let mut held = Vec::new();
        for _ in 0..600 {
            match q.pop() {
                Some(c) => {
                    prop_assert!(c.readable.len() + c.writable.len() <= u32::MAX as usize);
                    held.push(c);
                }
                None => break,
            }
            prop_assert!(held.len() <= usize::from(layout.size));
            if rand() % 3 == 0 {
                let c = held.swap_remove(rand() as usize % held.len());
                q.complete(c, rand() as u32);
            }
            if rand() % 4 == 0 {
                q.publish();
                q.want_kicks(rand() % 2 == 0);
            }
        }
        // A broken queue stays silent.
        if events.broken.load(Ordering::Relaxed) > 0 {
            prop_assert!(!q.is_open() && q.pop().is_none() && !q.has_work());
            prop_assert_eq!(events.broken.load(Ordering::Relaxed), 1);
        }
    }
}

fn features(bits: u32) -> u64 {
    let mut f = VERSION_1;
    for (i, bit) in [EVENT_IDX, INDIRECT_DESC, IN_ORDER].into_iter().enumerate() {
        if bits & 1 << i != 0 {
            f |= bit;
        }
    }
    f
}

fn broken_by(setup: impl FnOnce(&Guest, &Layout), features: u64) -> bool {
    let g = Guest::new();
    let ring = Ring::new(RAM_BASE, 8, features | VERSION_1);
    setup(&g, &ring.layout);
    let events = Arc::new(Events::default());
    let q = VirtQueue::new(0, ring.layout, g.dma(), events.clone()).unwrap();
    while let Some(c) = q.pop() {
        q.complete(c, 0);
    }
    events.broken.load(Ordering::Relaxed) > 0
}

#[test]
fn every_kind_of_bad_split_chain_is_found() {
    let avail = |g: &Guest, l: &Layout, head: u16, idx: u16| {
        g.store16(l.driver + 4, head);
        g.store16(l.driver + 2, idx);
    };
    let data = RAM_BASE + (8 << 20);
    // A loop.
    assert!(broken_by(
        |g, l| {
            g.desc(l.desc, 0, data, 8, 1, 1);
            g.desc(l.desc, 1, data, 8, 1, 0);
            avail(g, l, 0, 1);
        },
        0
    ));
    // A head, and a next descriptor, outside the ring.
    assert!(broken_by(|g, l| avail(g, l, 8, 1), 0));
    assert!(broken_by(
        |g, l| {
            g.desc(l.desc, 0, data, 8, 1, 8);
            avail(g, l, 0, 1);
        },
        0
    ));
    // The index ran away.
    assert!(broken_by(|g, l| avail(g, l, 0, 9), 0));
    // No RAM; registers; over the end of RAM; around the end of the address space.
    for (addr, len) in [
        (0, 8),
        (RAM_BASE - 0x1000, 8),
        (RAM_BASE + common::RAM_SIZE - 4, 8),
        (u64::MAX - 3, 8),
        (data, u32::MAX),
    ] {
        assert!(broken_by(
            |g, l| {
                g.desc(l.desc, 0, addr, len, 2, 0);
                avail(g, l, 0, 1);
            },
            0
        ));
    }
    // To read behind to write.
    assert!(broken_by(
        |g, l| {
            g.desc(l.desc, 0, data, 8, 3, 1);
            g.desc(l.desc, 1, data, 8, 0, 0);
            avail(g, l, 0, 1);
        },
        0
    ));
    // Tables: not negotiated, inside a table, of an odd size, empty, chained.
    let table = data + 4096;
    let indirect = |len: u32, inner: u16, flags: u16, f: u64| {
        broken_by(
            |g, l| {
                g.desc(table, 0, data, 8, inner, 0);
                g.desc(l.desc, 0, table, len, 4 | flags, 1);
                avail(g, l, 0, 1);
            },
            f,
        )
    };
    assert!(!indirect(16, 0, 0, INDIRECT_DESC));
    assert!(indirect(16, 0, 0, 0));
    assert!(indirect(16, 4, 0, INDIRECT_DESC));
    assert!(indirect(17, 0, 0, INDIRECT_DESC));
    assert!(indirect(0, 0, 0, INDIRECT_DESC));
    assert!(indirect(16, 0, 1, INDIRECT_DESC));
    // A table with more descriptors than a request may have.
    assert!(broken_by(
        |g, l| {
            for i in 0..2000 {
                g.desc(table, i, data, 1, 1, i as u16 + 1);
            }
            g.desc(l.desc, 0, table, 2000 * 16, 4, 0);
            avail(g, l, 0, 1);
        },
        INDIRECT_DESC
    ));
}

#[test]
fn a_head_made_available_again_and_again_does_not_pile_up() {
    let g = Guest::new();
    let ring = Ring::new(RAM_BASE, 8, VERSION_1);
    let l = ring.layout;
    g.desc(l.desc, 0, RAM_BASE + (8 << 20), 8, 0, 0);
    let events = Arc::new(Events::default());
    let q = VirtQueue::new(0, l, g.dma(), events.clone()).unwrap();
    let mut held = Vec::new();
    for i in 1..100 {
        g.store16(l.driver + 2, i);
        held.extend(q.pop());
    }
    assert_eq!(held.len(), 8);
    assert_eq!(events.broken.load(Ordering::Relaxed), 1);
}

#[test]
fn impossible_sizes_are_refused() {
    let g = Guest::new();
    for (size, features, ok) in [
        (0, 0, false),
        (3, 0, false),
        (2048, 0, false),
        (1024, 0, true),
        (3, RING_PACKED, true),
        (0, RING_PACKED, false),
    ] {
        let layout = Ring::new(RAM_BASE, 8, features).layout;
        let q = VirtQueue::new(0, Layout { size, ..layout }, g.dma(), Arc::new(Events::default()));
        assert_eq!(q.is_ok(), ok, "{size}");
    }
}
