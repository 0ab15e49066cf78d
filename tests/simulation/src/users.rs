//! The user: reads and writes all the time, and goes away from requests.

use crate::bed::Bed;
use crate::model::{ANY, agrees};
use block::driver::{WriteFlags, ZeroFlags};
use mem::IoBuf;
use rt::sim::rng;
use std::rc::Rc;
use std::time::Duration;

fn overlap(list: &[(u64, u64, u64)], off: u64, len: u64) -> bool {
    list.iter().any(|(_, o, l)| *o < off + len && off < o + l)
}

fn range(b: &Bed) -> (u64, u64) {
    let unit = b.pick(&[1, 512, 512, 4096]);
    let off = rng().below(b.size / unit) * unit;
    let max = (b.size - off).min(b.pick(&[unit * 4, 9000, 40_000]));
    (off, 1 + rng().below(max))
}

async fn read(b: &Rc<Bed>, off: u64, len: u64) {
    if overlap(&b.busy.borrow(), off, len) {
        return;
    }
    let id = b.id();
    b.reads.borrow_mut().push((id, off, len));
    // Odd places in memory, too.
    let odd = rng().below(3) as usize;
    let whole = IoBuf::zeroed(len as usize + 4);
    whole.fill(0xAA);
    let buf = whole.slice(odd..odd + len as usize);
    let done = b.user().read(off, buf.clone()).await;
    b.reads.borrow_mut().retain(|r| r.0 != id);
    match done {
        Ok(()) => {
            let model = b.model.borrow();
            if let Err(e) = agrees(&buf.to_vec(), model.bytes(off, len)) {
                panic!("read of {len} at {off}: {e}\n{}", b.layer.graph.describe());
            }
        }
        Err(e) => assert!(b.faulty.get(), "read of {len} at {off} failed without reason: {e}"),
    }
}

async fn change(b: &Rc<Bed>, off: u64, len: u64) {
    if overlap(&b.busy.borrow(), off, len) || overlap(&b.reads.borrow(), off, len) {
        return;
    }
    let kind = rng().below(10);
    let mut data = vec![0; len as usize];
    match kind {
        0..5 => rng().fill(&mut data),
        5 | 6 => data.fill(rng().below(3) as u8),
        _ => {}
    }
    let bytes =
        if kind == 9 { vec![ANY; len as usize] } else { data.iter().map(|b| u16::from(*b)).collect() };
    let id = b.model.borrow_mut().begin(off, bytes);
    b.say(|| format!("   change {kind} at {off} of {len} begins"));
    b.busy.borrow_mut().push((id, off, len));
    let (root, buf) = (b.user(), IoBuf::from_bytes(&data));
    let (fua, unmap) = (rng().chance(1, 4), rng().chance(1, 2));
    let request = async move {
        match kind {
            0..7 => {
                let fua = if fua { WriteFlags::FUA } else { WriteFlags::empty() };
                root.write(off, buf, fua).await
            }
            7 | 8 => {
                let mut flags = ZeroFlags::empty();
                flags.set(ZeroFlags::MAY_UNMAP, unmap);
                flags.set(ZeroFlags::FUA, fua);
                root.write_zeroes(off, len, flags).await
            }
            _ => root.discard(off, len).await,
        }
    };
    let done = match rng().chance(1, 25) {
        true => rt::timeout(Duration::from_micros(rng().below(1000)), request).await,
        false => Some(request.await),
    };
    b.say(|| format!("   change {kind} ({}) at {off} of {len}, fua {fua}, unmap {unmap}: {done:?}", data[0]));
    match done {
        Some(done) => {
            assert!(done.is_ok() || b.faulty.get(), "change {kind} of {len} at {off} failed: {done:?}");
            b.model.borrow_mut().end(id, done.is_ok(), fua && kind < 9);
            b.busy.borrow_mut().retain(|r| r.0 != id);
        }
        // It goes on behind our back.
        None => b.given_up.borrow_mut().push(id),
    }
}

async fn flush(b: &Rc<Bed>) {
    let ids = b.model.borrow().flush_begin();
    let done = b.user().flush().await;
    match done {
        Ok(()) => b.model.borrow_mut().flush_end(&ids),
        Err(e) => assert!(b.faulty.get(), "flush failed without reason: {e}"),
    }
}

/// Works until it is told to stop.
pub async fn work(b: Rc<Bed>) {
    while !b.stop.get() {
        let (off, len) = range(&b);
        match rng().below(12) {
            0..4 => read(&b, off, len).await,
            4..10 => change(&b, off, len).await,
            10 => flush(&b).await,
            _ => {
                let status = b.user().map(off, len).await;
                assert!(status.is_ok() || b.faulty.get(), "status failed without reason: {status:?}");
            }
        }
        if rng().chance(1, 2) {
            rt::sleep(Duration::from_micros(rng().below(1500))).await;
        }
    }
}

/// Waits until nothing is in the air; what was given up is over then.
pub async fn drain(b: &Bed) {
    let given_up = std::mem::take(&mut *b.given_up.borrow_mut());
    let drained = b.layer.graph.drain_all().await;
    assert_eq!(b.user().in_flight(), 0, "requests in flight in a drained section");
    rt::sleep(Duration::from_micros(rng().below(2000))).await;
    assert_eq!(b.user().in_flight(), 0, "a request began in a drained section");
    drop(drained);
    for id in given_up {
        b.model.borrow_mut().end(id, false, false);
        b.busy.borrow_mut().retain(|r| r.0 != id);
    }
}
