use super::spec::*;
use crate::common::{COMMON_PROPS, common_features};
use crate::spec::{MAX_CHAIN, MAX_QUEUES, feature};
pub use block::ErrorAction as OnError;
use device::{PropDefault, PropKind, PropSpec, Props};
use qapi::{QError, qerr};

const ON_ERROR: PropKind = PropKind::Enum("BlockdevOnError", &["report", "ignore", "enospc", "stop", "auto"]);
const ON_ERROR_DESC: &str = "Error handling policy (report/ignore/enospc/stop/auto)";

/// The properties of `virtio-blk-device`, with those of all virtio devices.
pub(super) static PROPS: &[&[PropSpec]] = &[
    COMMON_PROPS,
    &[
        PropSpec::new("drive", PropKind::Drive, PropDefault::Unset),
        PropSpec::str("serial"),
        PropSpec::new("bootindex", PropKind::I32, PropDefault::Unset),
        PropSpec::new("iothread", PropKind::Link("iothread"), PropDefault::Unset),
        PropSpec::uint("num-queues", PropKind::U16, AUTO_QUEUES as u64),
        PropSpec::uint("queue-size", PropKind::U16, 256),
        PropSpec::bool("seg-max-adjust", true),
        PropSpec::uint("logical_block_size", PropKind::BlockSize, 0),
        PropSpec::uint("physical_block_size", PropKind::BlockSize, 0),
        PropSpec::uint("min_io_size", PropKind::Size, 0),
        PropSpec::uint("opt_io_size", PropKind::Size, 0),
        PropSpec::uint("cyls", PropKind::U32, 0),
        PropSpec::uint("heads", PropKind::U32, 0),
        PropSpec::uint("secs", PropKind::U32, 0),
        PropSpec::bool("config-wce", true),
        PropSpec::new("write-cache", PropKind::OnOffAuto, PropDefault::Name("auto")),
        PropSpec::bool("share-rw", false),
        PropSpec::bool("discard", true),
        PropSpec::uint("discard_granularity", PropKind::Size, u32::MAX as u64),
        PropSpec::bool("report-discard-granularity", true),
        PropSpec::uint("max-discard-sectors", PropKind::U32, MAX_SECTORS),
        PropSpec::bool("write-zeroes", true),
        PropSpec::uint("max-write-zeroes-sectors", PropKind::U32, MAX_SECTORS),
        PropSpec { name: "rerror", kind: ON_ERROR, default: PropDefault::Name("auto"), desc: ON_ERROR_DESC },
        PropSpec { name: "werror", kind: ON_ERROR, default: PropDefault::Name("auto"), desc: ON_ERROR_DESC },
    ],
];

/// `num-queues`: let the board choose; virtio-mmio has one.
const AUTO_QUEUES: u16 = u16::MAX;

/// The longest request in sectors: under 2 GiB.
const MAX_SECTORS: u64 = (i32::MAX as u64 & !(SECTOR - 1)) / SECTOR;

/// A disk's settings, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlkConf {
    /// Features of all virtio devices (section 6).
    pub common_features: u64,
    /// The serial number; what is beyond 20 bytes is not shown.
    pub serial: String,
    /// The number of queues.
    pub num_queues: u16,
    /// The largest size of each.
    pub queue_size: u16,
    /// The most data segments of a request.
    pub seg_max: u32,
    /// Bytes of a logical block.
    pub logical_block_size: u32,
    /// Bytes of a physical block.
    pub physical_block_size: u32,
    /// Bytes; 0 for none.
    pub min_io_size: u32,
    /// Bytes; 0 for none.
    pub opt_io_size: u32,
    /// Cylinders, heads, sectors; `None` to make them up.
    pub geometry: Option<(u16, u8, u8)>,
    /// The driver may choose the kind of cache.
    pub config_wce: bool,
    /// A write-back cache to begin with.
    pub writeback: bool,
    /// Discard requests are served.
    pub discard: bool,
    /// What discards should be multiples of, bytes.
    pub discard_alignment: u32,
    /// The longest discard in sectors.
    pub max_discard_sectors: u32,
    /// Write-zeroes requests are served.
    pub write_zeroes: bool,
    /// The longest write-zeroes in sectors.
    pub max_write_zeroes_sectors: u32,
    /// On read errors; `None`: as the drive says.
    pub rerror: Option<OnError>,
    /// On write errors; `None`: as the drive says.
    pub werror: Option<OnError>,
}

impl BlkConf {
    /// The settings that `props` say.
    ///
    /// # Errors
    /// The reference's messages on values that cannot be.
    pub fn from_props(props: &Props) -> Result<BlkConf, QError> {
        let num_queues = match props.u16("num-queues") {
            AUTO_QUEUES => 1,
            0 => return Err(QError::new("num-queues property must be larger than 0")),
            n if usize::from(n) > MAX_QUEUES => {
                return Err(qerr!("num-queues property must be at most {MAX_QUEUES}"));
            }
            n => n,
        };
        let queue_size = props.u16("queue-size");
        if queue_size <= 2 {
            return Err(qerr!("invalid queue-size property ({queue_size}), must be > 2"));
        }
        if !queue_size.is_power_of_two() || usize::from(queue_size) > MAX_CHAIN {
            return Err(qerr!(
                "invalid queue-size property ({queue_size}), must be a power of 2 (max {MAX_CHAIN})"
            ));
        }
        let size = |name: &str| {
            let v = props.u64(name);
            u32::try_from(v).map_err(|_| qerr!("{name} is too large"))
        };
        let or_default = |v: u32| if v == 0 { SECTOR as u32 } else { v };
        let logical = or_default(size("logical_block_size")?);
        let physical = match size("physical_block_size")? {
            0 => logical.max(SECTOR as u32),
            v => v,
        };
        if logical > physical {
            return Err(QError::new("logical_block_size > physical_block_size not supported"));
        }
        let multiple = |name: &str| {
            let v = size(name)?;
            if v.is_multiple_of(logical) {
                Ok(v)
            } else {
                Err(qerr!("{name} must be a multiple of logical_block_size"))
            }
        };
        let min_io_size = multiple("min_io_size")?;
        if min_io_size / logical > u32::from(u16::MAX) {
            return Err(qerr!("min_io_size must not exceed {}", u64::from(u16::MAX) * u64::from(logical)));
        }
        let opt_io_size = multiple("opt_io_size")?;
        // All ones: nobody has set it.
        let granularity = match size("discard_granularity")? {
            u32::MAX | 0 => logical,
            _ => multiple("discard_granularity")?,
        };
        let limit = |name: &str| match props.u32(name) {
            v if v == 0 || u64::from(v) > MAX_SECTORS => {
                Err(qerr!("invalid {name} property ({v}), must be between 1 and {MAX_SECTORS}"))
            }
            v => Ok(v),
        };
        let on_error = |name: &str| match props.str(name).as_deref() {
            Some("report") => Some(OnError::Report),
            Some("ignore") => Some(OnError::Ignore),
            Some("enospc") => Some(OnError::Enospc),
            Some("stop") => Some(OnError::Stop),
            _ => None,
        };
        Ok(BlkConf {
            common_features: common_features(props)?,
            serial: props.str("serial").unwrap_or_default(),
            num_queues,
            queue_size,
            seg_max: if props.bool("seg-max-adjust") { u32::from(queue_size) - 2 } else { 126 },
            logical_block_size: logical,
            physical_block_size: physical,
            min_io_size,
            opt_io_size,
            geometry: geometry(props.u32("cyls"), props.u32("heads"), props.u32("secs"))?,
            config_wce: props.bool("config-wce"),
            writeback: props.on_off_auto("write-cache").unwrap_or(true),
            discard: props.bool("discard"),
            discard_alignment: if props.bool("report-discard-granularity") { granularity } else { logical },
            max_discard_sectors: limit("max-discard-sectors")?,
            write_zeroes: props.bool("write-zeroes"),
            max_write_zeroes_sectors: limit("max-write-zeroes-sectors")?,
            rerror: on_error("rerror"),
            werror: on_error("werror"),
        })
    }

    /// The features to offer.
    pub(super) fn features(&self, read_only: bool) -> u64 {
        let mut f = self.common_features | F_SEG_MAX | F_GEOMETRY | F_BLK_SIZE | F_TOPOLOGY;
        for (on, bit) in [
            (read_only, F_RO),
            (self.config_wce, F_CONFIG_WCE),
            (self.writeback || self.config_wce, F_FLUSH),
            (self.num_queues > 1, F_MQ),
            (self.discard, F_DISCARD),
            (self.write_zeroes, F_WRITE_ZEROES),
        ] {
            if on {
                f |= bit;
            }
        }
        f | feature::VERSION_1
    }

    /// The configuration space (section 5.2.4) of a disk of `len` bytes.
    pub(super) fn space(&self, len: u64, writeback: bool) -> [u8; config::LEN] {
        let mut b = [0; config::LEN];
        let mut put = |at: usize, v: &[u8]| b[at..at + v.len()].copy_from_slice(v);
        let (cyls, heads, secs) = self.geometry.unwrap_or_else(|| made_up_geometry(len / SECTOR));
        put(config::CAPACITY, &(len / SECTOR).to_le_bytes());
        put(config::SEG_MAX, &self.seg_max.to_le_bytes());
        put(config::CYLINDERS, &cyls.to_le_bytes());
        put(config::HEADS, &[heads]);
        put(config::SECTORS, &[secs]);
        put(config::BLK_SIZE, &self.logical_block_size.to_le_bytes());
        put(
            config::PHYSICAL_BLOCK_EXP,
            &[(self.physical_block_size / self.logical_block_size).ilog2() as u8],
        );
        put(config::MIN_IO_SIZE, &((self.min_io_size / self.logical_block_size) as u16).to_le_bytes());
        put(config::OPT_IO_SIZE, &(self.opt_io_size / self.logical_block_size).to_le_bytes());
        put(config::WRITEBACK, &[u8::from(writeback)]);
        put(config::NUM_QUEUES, &self.num_queues.to_le_bytes());
        if self.discard {
            put(config::MAX_DISCARD_SECTORS, &self.max_discard_sectors.to_le_bytes());
            put(config::MAX_DISCARD_SEG, &1u32.to_le_bytes());
            put(config::DISCARD_ALIGNMENT, &(self.discard_alignment / SECTOR as u32).to_le_bytes());
        }
        if self.write_zeroes {
            put(config::MAX_WRITE_ZEROES_SECTORS, &self.max_write_zeroes_sectors.to_le_bytes());
            put(config::MAX_WRITE_ZEROES_SEG, &1u32.to_le_bytes());
            put(config::WRITE_ZEROES_MAY_UNMAP, &[1]);
        }
        b
    }
}

fn geometry(cyls: u32, heads: u32, secs: u32) -> Result<Option<(u16, u8, u8)>, QError> {
    if cyls == 0 && heads == 0 && secs == 0 {
        return Ok(None);
    }
    let check = |name: &str, v: u32, max: u32| {
        if v == 0 || v > max { Err(qerr!("{name} must be between 1 and {max}")) } else { Ok(()) }
    };
    check("cyls", cyls, 65535)?;
    check("heads", heads, 255)?;
    check("secs", secs, 255)?;
    Ok(Some((cyls as u16, heads as u8, secs as u8)))
}

/// The geometry that disks without one have: 16 heads of 63 sectors, and as many cylinders as fit.
fn made_up_geometry(sectors: u64) -> (u16, u8, u8) {
    ((sectors / (16 * 63)).clamp(2, 16383) as u16, 16, 63)
}
