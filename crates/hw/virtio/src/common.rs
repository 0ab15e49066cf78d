//! Properties and features that all virtio devices share.

use crate::spec::feature;
use device::{PropSpec, Props};
use qapi::QError;

/// The properties of all virtio devices.
pub(crate) static COMMON_PROPS: &[PropSpec] = &[
    PropSpec::bool("indirect_desc", true),
    PropSpec::bool("event_idx", true),
    PropSpec::bool("notify_on_empty", true),
    PropSpec::bool("any_layout", true),
    PropSpec::bool("iommu_platform", false),
    PropSpec::bool("packed", false),
    PropSpec::bool("queue_reset", true),
    PropSpec::bool("in_order", false),
];

/// The features that they say.
pub(crate) fn common_features(props: &Props) -> Result<u64, QError> {
    if props.bool("iommu_platform") {
        return Err(QError::new("iommu_platform=true is not supported by the device"));
    }
    let bits = [
        ("indirect_desc", feature::INDIRECT_DESC),
        ("event_idx", feature::EVENT_IDX),
        ("notify_on_empty", feature::NOTIFY_ON_EMPTY),
        ("any_layout", feature::ANY_LAYOUT),
        ("packed", feature::RING_PACKED),
        ("queue_reset", feature::RING_RESET),
        ("in_order", feature::IN_ORDER),
    ];
    Ok(bits.iter().filter(|(name, _)| props.bool(name)).fold(feature::VERSION_1, |f, (_, bit)| f | bit))
}

/// Copies the part of a configuration space that begins at `off`; zeroes behind its end.
pub(crate) fn read_config(space: &[u8], off: u64, dst: &mut [u8]) {
    dst.fill(0);
    let rest = usize::try_from(off).ok().and_then(|o| space.get(o..)).unwrap_or(&[]);
    let n = rest.len().min(dst.len());
    dst[..n].copy_from_slice(&rest[..n]);
}
