//! The controller on a bus: 32-bit registers, level inputs, one output a context.

use super::chip::{Chip, PlicState};
use device::{Device, IrqLine, IrqSink, Reset, StateBlob, StateError};
use mem::{Mmio, Size};
use parking_lot::Mutex;
use std::sync::Arc;

/// A platform-level interrupt controller. As an [`IrqSink`], input `n` is source `n`.
pub struct Plic {
    name: String,
    state: Mutex<Chip>,
    /// The outputs by context and their levels; held while they are set, so that levels arrive in order.
    outputs: Mutex<Vec<(IrqLine, bool)>>,
}

impl Plic {
    /// A controller for sources 1 to `sources - 1` with an output a context.
    pub fn new(name: &str, sources: u32, outputs: Vec<IrqLine>) -> Arc<Plic> {
        Arc::new(Plic {
            name: name.to_owned(),
            state: Mutex::new(Chip::new(sources, outputs.len() as u32)),
            outputs: Mutex::new(outputs.into_iter().map(|l| (l, false)).collect()),
        })
    }

    /// Brings each output to its level.
    fn sync(&self) {
        let mut outputs = self.outputs.lock();
        let levels: Vec<bool> = {
            let s = self.state.lock();
            (0..s.contexts()).map(|c| s.output(c)).collect()
        };
        for ((line, was), level) in outputs.iter_mut().zip(levels) {
            if *was != level {
                *was = level;
                line.set(level);
            }
        }
    }
}

impl IrqSink for Plic {
    fn set_irq(&self, n: u32, level: bool) {
        self.state.lock().set_level(n, level);
        self.sync();
    }
}

impl Mmio for Plic {
    fn read(&self, off: u64, _size: Size) -> u64 {
        let v = self.state.lock().read(off);
        self.sync();
        v.into()
    }

    fn write(&self, off: u64, value: u64, _size: Size) {
        self.state.lock().write(off, value as u32);
        self.sync();
    }

    fn accepts(&self, off: u64, size: Size, _write: bool) -> bool {
        size == Size::B4 && off.is_multiple_of(4)
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl Device for Plic {
    fn reset(&self, _kind: Reset) {
        self.state.lock().reset();
        self.sync();
    }

    fn save(&self) -> StateBlob {
        self.state.lock().save().to_blob()
    }

    fn load(&self, state: &StateBlob) -> Result<(), StateError> {
        let saved = PlicState::from_blob(state)?;
        {
            let mut s = self.state.lock();
            *s = s.restored(&saved).ok_or_else(|| StateError::new("plic: an impossible state"))?;
        }
        self.sync();
        Ok(())
    }

    fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::{CLAIM, CONTEXT, ENABLE, PRIORITY};
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    #[derive(Default)]
    struct Pins(AtomicU32);

    impl IrqSink for Pins {
        fn set_irq(&self, n: u32, level: bool) {
            if level {
                self.0.fetch_or(1 << n, SeqCst);
            } else {
                self.0.fetch_and(!(1 << n), SeqCst);
            }
        }
    }

    #[test]
    fn a_source_reaches_its_context() {
        let pins = Arc::new(Pins::default());
        let plic = Plic::new("plic", 96, (0..2).map(|n| IrqLine::new(pins.clone(), n)).collect());
        let line = IrqLine::new(plic.clone(), 10);
        let w = |off, v| Mmio::write(&*plic, off, v, Size::B4);
        w(PRIORITY + 40, 1);
        w(ENABLE, 1 << 10);
        line.raise();
        assert_eq!(pins.0.load(SeqCst), 1);
        assert_eq!(Mmio::read(&*plic, CONTEXT + CLAIM, Size::B4), 10);
        assert_eq!(pins.0.load(SeqCst), 0);
        line.lower();
        w(CONTEXT + CLAIM, 10);
        assert_eq!(pins.0.load(SeqCst), 0);
        line.raise();
        let saved = plic.save();
        plic.reset(Reset::Warm);
        assert_eq!(pins.0.load(SeqCst), 0);
        plic.load(&saved).unwrap();
        assert_eq!(pins.0.load(SeqCst), 1);
        assert!(!plic.accepts(0, Size::B8, false) && !plic.accepts(1, Size::B4, true));
    }
}
