//! Objects that a user makes.

use qapi::Qapi;

/// A thread that serves devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct IothreadProperties {
    /// The most requests handed to the kernel at once; 0, the default, leaves it to the program.
    pub aio_max_batch: Option<i64>,
    /// Threads kept ready for calls that block; 0 unless given.
    pub thread_pool_min: Option<i64>,
    /// The most threads for calls that block; 64 unless given.
    pub thread_pool_max: Option<i64>,
    /// The longest time in nanoseconds to poll for events before sleeping; 0 for not at all. 32768 unless given.
    pub poll_max_ns: Option<i64>,
    /// Factor by which that time grows while polling pays; 0, the default, leaves it to the program.
    pub poll_grow: Option<i64>,
    /// Divisor by which it shrinks while polling does not pay; 0, the default, leaves it to the program.
    pub poll_shrink: Option<i64>,
}

/// Random bytes from the program's own generator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct RngProperties {
    /// Has no effect.
    #[qapi(deprecated)]
    pub opened: Option<bool>,
}

/// Random bytes from a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct RngRandomProperties {
    /// What every source of random bytes has.
    #[qapi(flatten)]
    pub common: RngProperties,
    /// The device's path; `/dev/urandom` unless given.
    pub filename: Option<String>,
}

/// How memory is spread over the host's NUMA nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Qapi)]
pub enum HostMemPolicy {
    /// As the host does by itself.
    #[default]
    Default,
    /// On the given nodes if they have room.
    Preferred,
    /// On the given nodes only.
    Bind,
    /// In turn on each of the given nodes.
    Interleave,
}

/// Memory for a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Qapi)]
pub struct MemoryBackendProperties {
    /// Whether core dumps contain it. The machine decides unless given.
    pub dump: Option<bool>,
    /// The host's NUMA nodes that it is to be on.
    pub host_nodes: Option<Vec<u16>>,
    /// Whether the host may share equal pages. The machine decides unless given.
    pub merge: Option<bool>,
    /// How it is spread over `host-nodes`; `default` unless given.
    pub policy: Option<HostMemPolicy>,
    /// Take all of it from the host at once. Off unless given.
    pub prealloc: Option<bool>,
    /// Threads that do that; 1 unless given.
    pub prealloc_threads: Option<u32>,
    /// The id of the object whose settings these threads have.
    pub prealloc_context: Option<String>,
    /// Whether other processes can map it. Off unless given.
    pub share: Option<bool>,
    /// Whether swap space is set aside for it where the host does so. On unless given.
    pub reserve: Option<bool>,
    /// Size in bytes.
    #[qapi(size)]
    pub size: u64,
    /// Whether it is known by its full path when a machine is migrated. The machine decides unless given.
    pub x_use_canonical_path_for_ramblock_id: Option<bool>,
}

/// An object to be made.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
pub struct ObjectOptions {
    /// Its type, and the properties that only it has.
    #[qapi(union)]
    pub qom_type: ObjectKind,
    /// Its id.
    pub id: String,
}

/// The types of objects and the properties that only they have.
#[derive(Clone, Debug, PartialEq, Eq, Qapi)]
#[qapi(tag = "qom-type", tag_enum = "ObjectType")]
pub enum ObjectKind {
    /// A thread that serves devices.
    Iothread(IothreadProperties),
    /// Memory of this process.
    MemoryBackendRam(MemoryBackendProperties),
    /// Random bytes from the program's own generator.
    RngBuiltin(RngProperties),
    /// Random bytes from a device.
    RngRandom(RngRandomProperties),
}
