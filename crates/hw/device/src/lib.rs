//! Devices and their wires: interrupts, timers, DMA, character and block ports, properties, the registry, saved state.
//!
//! A device is a chip with private state that is handed typed handles: an [`IrqLine`] to raise, a [`mem::Dma`] to
//! reach guest RAM, a [`Timer`], a [`CharBackend`], a block root. One lifecycle, the trait [`Device`], serves all of
//! them. A chip locks its own state and drops that lock before it calls out through a wire.
//!
//! * Wires: [`irq`](IrqLine), [`timer`](TimerService), [`chardev`](CharBackend).
//! * Lifecycle and saved state: [`Device`], [`StateBlob`], [`saved_state!`].
//! * What a user can plug: [`DeviceType`], [`PropSpec`], [`Registry`], [`DeviceTree`].

mod chardev;
mod create;
mod irq;
mod lifecycle;
mod props;
mod registry;
mod state;
mod timer;
mod tree;

pub use chardev::{CharBackend, CharEvent, CharFrontend};
pub use create::{
    CreateCx, CreateFuture, Created, HostEvents, IoErrorReport, LocalBoxFuture, NoHost, Resources,
};
pub use irq::{IrqLine, IrqSink};
pub use lifecycle::{BoxFuture, Device, Reset};
pub use props::{PropDefault, PropKind, PropSpec, PropValue, Props, RawValue, check_id};
pub use registry::{Category, DeviceType, Registry};
pub use state::{Field, StateBlob, StateBytes, StateError, StateField};
pub use timer::{ClockSource, Timer, TimerService};
pub use tree::{Bus, DeviceTree, Instance, PlugEnv};
