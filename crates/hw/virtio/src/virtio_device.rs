use crate::queue::VirtQueue;
use device::Device;
use std::sync::Arc;

/// What a virtio device tells its transport, at any time and from any thread.
pub trait TransportEvents: Send + Sync {
    /// The device's configuration changed by itself; the driver is interrupted.
    fn config_changed(&self);
}

/// A virtio device behind a transport (section 2).
///
/// The transport owns the registers, the status and the queues' addresses; the device owns its configuration
/// space and what requests mean. The transport calls with no lock of its registers held. Calls of `activate`,
/// `deactivate` and `reset_queue` come one after the other.
///
/// As a [`Device`], it saves its own state only: the transport saves the rings. Both are paused, saved, loaded
/// (into devices that were just reset, in any order) and resumed.
pub trait VirtioDevice: Device {
    /// Its type (section 5).
    fn device_id(&self) -> u32;

    /// The features that it offers, with those of section 6.
    fn features(&self) -> u64;

    /// The largest size of each of its queues.
    fn queue_sizes(&self) -> Vec<u16>;

    /// Reads the configuration space at `off`; what lies beyond its end reads as zero.
    fn read_config(&self, off: u64, dst: &mut [u8]);

    /// Writes the configuration space at `off`; what is beyond its end or read-only is ignored.
    fn write_config(&self, off: u64, src: &[u8]);

    /// Tells the device whom to tell of changes. Called once.
    fn connect(&self, events: Arc<dyn TransportEvents>);

    /// The driver has taken features: before the driver is ready, after each reset that it sets them.
    fn negotiated(&self, _features: u64) {}

    /// The driver is ready: these queues, by their numbers, may be used.
    fn activate(&self, features: u64, queues: Vec<Option<Arc<VirtQueue>>>);

    /// The device is reset: when this returns, the device touches no guest memory any more.
    fn deactivate(&self);

    /// The driver says that queue `index` has requests. Any vCPU's thread; must return soon.
    fn kick(&self, index: u16);

    /// One queue is reset (2.6.1): when this returns, the device touches none of its buffers.
    fn reset_queue(&self, _index: u16) {}

    /// One queue was set up again after `reset_queue`.
    fn restart_queue(&self, _queue: Arc<VirtQueue>) {}
}
