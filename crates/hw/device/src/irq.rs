use std::fmt;
use std::sync::Arc;

/// Where interrupt lines end: an interrupt controller, or a hart's pins.
pub trait IrqSink: Send + Sync {
    /// Input `n` has this level now. Called with no lock of the source held; may come from any thread, and
    /// repeatedly with the same level.
    fn set_irq(&self, n: u32, level: bool);
}

/// A device's end of an interrupt wire. Cheap to clone; all clones drive the same input.
#[derive(Clone, Default)]
pub struct IrqLine(Option<(Arc<dyn IrqSink>, u32)>);

impl IrqLine {
    /// A wire to input `n` of `sink`.
    pub fn new(sink: Arc<dyn IrqSink>, n: u32) -> IrqLine {
        IrqLine(Some((sink, n)))
    }

    /// A wire that ends nowhere.
    pub fn disconnected() -> IrqLine {
        IrqLine(None)
    }

    /// Sets the level.
    pub fn set(&self, level: bool) {
        if let Some((sink, n)) = &self.0 {
            sink.set_irq(*n, level);
        }
    }

    /// Sets the level to high.
    pub fn raise(&self) {
        self.set(true);
    }

    /// Sets the level to low.
    pub fn lower(&self) {
        self.set(false);
    }

    /// High, then low: for inputs that are triggered by an edge.
    pub fn pulse(&self) {
        self.raise();
        self.lower();
    }
}

impl fmt::Debug for IrqLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some((_, n)) => write!(f, "IrqLine({n})"),
            None => f.write_str("IrqLine(disconnected)"),
        }
    }
}
