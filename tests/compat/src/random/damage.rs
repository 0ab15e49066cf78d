//! Images with a field or an entry that says something else than it should.

use super::Dice;

/// Names of images, and how they are made in an empty folder (as `t.q`).
pub const IMAGES: &[(&str, &str)] = &[
    (
        "plain",
        "qemu-img create -q -f qcow2 t.q 4M && qemu-io -c 'write -q -P 1 0 256k' -c 'write -q -P 2 1M 64k' \
         -c 'write -q -z 2M 128k' -c 'write -q -c -P 3 3M 64k' t.q",
    ),
    (
        "v2",
        "qemu-img create -q -f qcow2 -o compat=0.10,cluster_size=4k t.q 4M && qemu-io -c 'write -q -P 1 0 256k' \
         -c 'write -q -P 2 3M 64k' -c 'write -q -c -P 3 2M 8k' t.q",
    ),
    (
        "snapshots",
        "qemu-img create -q -f qcow2 -o cluster_size=4k t.q 2M && qemu-io -c 'write -q -P 1 0 64k' t.q && \
         qemu-img snapshot -c s0 t.q && qemu-io -c 'write -q -P 2 32k 64k' t.q && qemu-img snapshot -c s1 t.q",
    ),
    (
        "bitmaps",
        "qemu-img create -q -f qcow2 t.q 4M && qemu-io -c 'write -q -P 1 0 256k' t.q && qemu-img bitmap --add t.q m0 && \
         qemu-img bitmap --add -g 128k t.q m1",
    ),
    (
        "subclusters",
        "qemu-img create -q -f qcow2 -o extended_l2=on,cluster_size=16k t.q 4M && qemu-io -c 'write -q -P 1 0 100k' \
         -c 'write -q -z 2M 20k' -c 'write -q -c -P 3 3M 16k' t.q",
    ),
];

/// What is done with a damaged one.
pub const LOOKS: &[&str] = &[
    "qemu-img info t.q",
    "qemu-img check t.q",
    "qemu-img check --output=json t.q",
    "qemu-img map --output=json t.q",
    "qemu-img snapshot -l t.q",
    "qemu-io -r -f qcow2 -c 'read -P 1 0 64k' -c 'read 0 4M' t.q",
    "qemu-io -f qcow2 -c 'write -P 5 0 64k' -c 'read -P 5 0 64k' t.q; qemu-img info t.q | grep corrupt",
    "qemu-io -f qcow2 -c 'discard 0 128k' t.q",
    "qemu-img check -r leaks t.q; qemu-img check t.q",
    "qemu-img check -r all t.q; qemu-img check t.q",
    "qemu-img resize t.q 8M; qemu-img check t.q",
    "qemu-img convert -O raw t.q o.raw",
];

/// The fields of the header: where, how many bytes, and what is put there.
const FIELDS: &[(usize, usize, &[u64])] = &[
    (4, 4, &[0, 1, 2, 3, 4]),
    (8, 8, &[1, 104, 65536, 1 << 20, 1 << 63]),
    (16, 4, &[1, 1024, u32::MAX as u64]),
    (20, 4, &[0, 8, 15, 22, 64]),
    (24, 8, &[1 << 20, 1 << 40, 1 << 61, 1 << 63, u64::MAX]),
    (32, 4, &[2, 3, 99]),
    (36, 4, &[0, 1, 8192, (1 << 22) + 1, u32::MAX as u64]),
    (40, 8, &[1, 512, 1 << 56, 1 << 63]),
    (48, 8, &[1, 512, 1 << 56, 1 << 63]),
    (56, 4, &[0, 129, 1 << 16, u32::MAX as u64]),
    (60, 4, &[65537, u32::MAX as u64]),
    (64, 8, &[1, 512]),
    (72, 8, &[2, 8, 32, 1 << 63]),
    (80, 8, &[1, 2, u64::MAX]),
    (88, 8, &[2, 8]),
    (96, 4, &[7, 64, u32::MAX as u64]),
    (100, 4, &[0, 72, 103, 65535, u32::MAX as u64]),
    (104, 1, &[1, 2]),
];

/// The value that stands there, big-endian.
fn number(b: &[u8], at: usize, len: usize) -> Option<u64> {
    Some(b.get(at..at.checked_add(len)?)?.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
}

/// Entries of the L1 table, the L2 tables and the refcount table.
fn entries(b: &[u8]) -> Option<Vec<usize>> {
    const PLACE: u64 = 0x00ff_ffff_ffff_fe00;
    let l1 = number(b, 40, 8)? as usize;
    let mut all = vec![l1, number(b, 48, 8)? as usize];
    for i in 0..number(b, 36, 4)?.min(4) as usize {
        let l2 = (number(b, l1 + 8 * i, 8)? & PLACE) as usize;
        if l2 > 0 {
            all.extend((0..48).map(|n| l2 + 8 * n).filter(|at| number(b, *at, 8).is_some_and(|e| e != 0)));
        }
    }
    Some(all)
}

/// One random damage of the image `bytes`: where, and what stands there then.
pub fn damages(d: &mut Dice, bytes: &[u8]) -> (usize, Vec<u8>) {
    let places = entries(bytes).unwrap_or_default();
    if places.is_empty() || d.percent(40) {
        let (at, len, values) = FIELDS[d.below(FIELDS.len())];
        let v = values[d.below(values.len())];
        return (at, v.to_be_bytes()[8 - len..].to_vec());
    }
    let at = places[d.below(places.len())];
    let old = number(bytes, at, 8).unwrap_or(0);
    let new = [old ^ 1 << 63, old + 512, old ^ 1 << 60, old ^ 2, old | 1 << 40, 1 << 63 | 0x200][d.below(6)];
    (at, new.to_be_bytes().to_vec())
}
