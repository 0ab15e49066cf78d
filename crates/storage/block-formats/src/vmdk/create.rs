//! Making VMDK images.

use super::spec::{self, DESCRIPTOR, GRAIN, GRAIN_TABLE, Header, SECTOR};
use crate::making::{NewFile, fill_file, switch, text};
use api::block_core::{
    BlockdevCreateOptions, BlockdevCreateOptionsVmdk, BlockdevRef, BlockdevVmdkAdapterType,
    BlockdevVmdkSubformat, ImageInfoSpecific,
};
use block::create::{CreateCx, Creation, Part, SIZE};
use block::driver::{CtlFuture, Prealloc};
use qapi::{Dict, QError, QapiEnum, Value, qerr};

/// Making VMDK images.
pub(super) static CREATION: Creation = Creation {
    adapt: Some(adapt),
    parts: Some(parts),
    create: Some(create),
    ..Creation::new(&[
        SIZE,
        text(
            "adapter_type",
            "Virtual adapter type, can be one of ide (default), lsilogic, buslogic or legacyESX",
        ),
        text("backing_file", "File name of a base image"),
        text("backing_fmt", "Must be 'vmdk' if present"),
        switch("compat6", "VMDK version 6 image").or("off"),
        text("hwversion", "VMDK hardware version").or("undefined"),
        text("toolsversion", "VMware guest tools version"),
        text(
            "subformat",
            "VMDK flat extent format, can be one of {monolithicSparse (default) | monolithicFlat | \
             twoGbMaxExtentSparse | twoGbMaxExtentFlat | streamOptimized} ",
        ),
        switch("zeroed_grain", "Enable efficient zero writes using the zeroed-grain GTE feature"),
    ])
};

/// The most bytes of one file of an image that is split.
const SPLIT: u64 = 2 << 30;

fn given<'d>(d: &'d Dict, name: &str) -> Option<&'d str> {
    d.get(name).and_then(Value::as_str)
}

fn adapt(d: &mut Dict) -> Result<(), QError> {
    let six = d.remove("compat6").is_some_and(|v| v.as_str() == Some("on"));
    if given(d, "hwversion") == Some("undefined") {
        d.remove("hwversion");
    }
    if six {
        if d.contains_key("hwversion") {
            return Err(qerr!("compat6 cannot be enabled with hwversion set"));
        }
        d.insert("hwversion", "6");
    }
    if given(d, "backing-file") == Some("") {
        d.remove("backing-file");
    }
    if let Some(f) = d.remove("backing-fmt").as_ref().and_then(Value::as_str)
        && f != "vmdk"
    {
        return Err(qerr!("backing_file must be a vmdk image"));
    }
    for (name, known) in [
        ("adapter-type", given(d, "adapter-type").map(|v| BlockdevVmdkAdapterType::from_str(v).is_some())),
        ("subformat", given(d, "subformat").map(|v| BlockdevVmdkSubformat::from_str(v).is_some())),
    ] {
        if known == Some(false) {
            return Err(qerr!("invalid parameter value: {}", given(d, name).unwrap_or("")));
        }
    }
    Ok(())
}

fn is_flat(s: BlockdevVmdkSubformat) -> bool {
    use BlockdevVmdkSubformat::{MonolithicFlat, TwoGbMaxExtentFlat};
    [MonolithicFlat, TwoGbMaxExtentFlat].contains(&s)
}

fn is_split(s: BlockdevVmdkSubformat) -> bool {
    use BlockdevVmdkSubformat::{TwoGbMaxExtentFlat, TwoGbMaxExtentSparse};
    [TwoGbMaxExtentFlat, TwoGbMaxExtentSparse].contains(&s)
}

/// The lengths of the files that hold the disk.
fn lengths(s: BlockdevVmdkSubformat, size: u64) -> Vec<u64> {
    if !is_split(s) {
        return vec![size];
    }
    (0..size.div_ceil(SPLIT)).map(|i| SPLIT.min(size - i * SPLIT)).collect()
}

/// The name of extent `n` of the image `name`, in the same directory.
fn extent_name(name: &str, s: BlockdevVmdkSubformat, n: usize) -> String {
    let base = name.rsplit('/').next().unwrap_or(name);
    let (stem, end) = base.rfind('.').map_or((base, ""), |at| base.split_at(at));
    match (is_split(s), is_flat(s)) {
        (true, flat) => format!("{stem}-{}{:03}{end}", if flat { 'f' } else { 's' }, n + 1),
        (false, _) => format!("{stem}-flat{end}"),
    }
}

fn parts(d: &Dict, name: &str) -> Result<Vec<Part>, QError> {
    let s = given(d, "subformat").and_then(BlockdevVmdkSubformat::from_str).unwrap_or_default();
    if !is_flat(s) && !is_split(s) {
        return Ok(Vec::new());
    }
    let size = given(d, "size").and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
    if size.div_ceil(SPLIT) > spec::MAX_EXTENTS as u64 && is_split(s) {
        return Err(qerr!("The image size is too large for file format 'vmdk'"));
    }
    let part = |(n, _): (usize, u64)| Part {
        member: format!("extents.{n}"),
        filename: extent_name(name, s, n),
        size: 0,
    };
    Ok(lengths(s, size).into_iter().enumerate().map(part).collect())
}

/// A content id.
pub(super) fn new_cid() -> Result<u32, QError> {
    let mut b = [0; 4];
    getrandom::fill(&mut b).map_err(|e| qerr!("Unable to read random bytes: {e}"))?;
    // All ones would be none.
    Ok(u32::from_le_bytes(b) & 0x7fff_ffff | 1)
}

/// The content id of the image that a new one is to stand on.
async fn parent_cid(cx: &CreateCx, o: &BlockdevCreateOptionsVmdk, backing: &str) -> Result<u32, QError> {
    let BlockdevRef::Reference(node) = &o.file else {
        return Err(qerr!("'file' must be the name of a node"));
    };
    let own = cx.graph.image_info(node).map(|i| i.base.filename).unwrap_or_default();
    let path = match own.rfind('/') {
        Some(at) if !backing.starts_with('/') => format!("{}{backing}", &own[..=at]),
        _ => backing.to_owned(),
    };
    let mut file = Dict::new();
    file.insert("driver", "file");
    file.insert("filename", path);
    let mut d = Dict::new();
    d.insert("driver", "vmdk");
    d.insert("node-name", "vmdk-parent-of-new");
    d.insert("read-only", true);
    d.insert("file", file);
    d.insert("backing", Value::Null);
    cx.graph.add(qapi::from_json(Value::Dict(d))?).await?;
    let info = cx.graph.image_info("vmdk-parent-of-new").and_then(|i| i.base.format_specific);
    cx.graph.del("vmdk-parent-of-new").await?;
    match info {
        Some(ImageInfoSpecific::Vmdk(i)) => Ok(i.cid as u32),
        _ => Err(qerr!("backing_file must be a vmdk image")),
    }
}

/// The descriptor's text; `lines` are those of the extents.
fn descriptor(o: &BlockdevCreateOptionsVmdk, parent: u32, lines: &str) -> Result<String, QError> {
    let adapter = o.adapter_type.unwrap_or_default();
    let heads = if adapter == BlockdevVmdkAdapterType::Ide { 16 } else { 255 };
    let cylinders = o.size / (63 * heads * SECTOR);
    let parent_line =
        o.backing_file.as_ref().map_or(String::new(), |b| format!("parentFileNameHint=\"{b}\"\n"));
    Ok(format!(
        "# Disk DescriptorFile\nversion=1\nCID={:08x}\nparentCID={parent:x}\ncreateType=\"{}\"\n{parent_line}\n\
         # Extent description\n{lines}\n# The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"{}\"\n\
         ddb.geometry.cylinders = \"{cylinders}\"\nddb.geometry.heads = \"{heads}\"\nddb.geometry.sectors = \"63\"\n\
         ddb.adapterType = \"{}\"\nddb.toolsVersion = \"{}\"\n",
        new_cid()?,
        o.subformat.unwrap_or_default().as_str(),
        o.hwversion.as_deref().unwrap_or("4"),
        adapter.as_str(),
        o.toolsversion.as_deref().unwrap_or("2147483647"),
    ))
}

/// Writes a sparse extent without any grain.
async fn sparse(f: &NewFile<'_>, len: u64, compress: bool, zeroed: bool) -> Result<(), QError> {
    let sectors = len.div_ceil(SECTOR);
    let tables = sectors.div_ceil(GRAIN).div_ceil(u64::from(GRAIN_TABLE));
    let table_sectors = u64::from(GRAIN_TABLE) * 4 / SECTOR;
    let directory_sectors = (tables * 4).div_ceil(SECTOR);
    let redundant_directory = 1 + DESCRIPTOR;
    let directory = redundant_directory + directory_sectors + tables * table_sectors;
    let end = directory + directory_sectors + tables * table_sectors;
    if end > u64::from(u32::MAX) {
        return Err(qerr!("The image size is too large for file format 'vmdk'"));
    }
    let mut flags = 1 | spec::REDUNDANT;
    if compress {
        flags |= spec::COMPRESSED | spec::MARKERS;
    }
    if zeroed {
        flags |= spec::ZEROED_GRAIN;
    }
    let header = Header {
        version: if compress {
            3
        } else if zeroed {
            2
        } else {
            1
        },
        flags,
        capacity: sectors,
        grain: GRAIN,
        descriptor_offset: 1,
        descriptor_size: DESCRIPTOR,
        table_entries: GRAIN_TABLE,
        redundant_directory,
        directory,
        overhead: end.next_multiple_of(GRAIN),
        compression: u16::from(compress),
        grows_tables: false,
    };
    f.put(0, &header.bytes()).await?;
    f.grow(header.overhead * SECTOR, Prealloc::Off).await?;
    for at in [redundant_directory, directory] {
        let first = at + directory_sectors;
        let entries: Vec<u8> =
            (0..tables).flat_map(|i| ((first + i * table_sectors) as u32).to_le_bytes()).collect();
        f.put(at * SECTOR, &entries).await?;
    }
    Ok(())
}

fn create<'a>(cx: &'a CreateCx, options: &'a BlockdevCreateOptions) -> CtlFuture<'a> {
    Box::pin(async move {
        let BlockdevCreateOptions::Vmdk(o) = options else {
            return Err(qerr!("The options are not those of 'vmdk'"));
        };
        let s = o.subformat.unwrap_or_default();
        let zeroed = o.zeroed_grain == Some(true);
        if !o.size.is_multiple_of(SECTOR) {
            return Err(qerr!("Image size must be a multiple of 512 bytes"));
        }
        if is_flat(s) && o.backing_file.is_some() {
            return Err(qerr!("Flat image can't have backing file"));
        }
        if is_flat(s) && zeroed {
            return Err(qerr!("Flat image can't enable zeroed grain"));
        }
        let parent = match &o.backing_file {
            Some(b) => parent_cid(cx, o, b).await?,
            None => u32::MAX,
        };
        let extents = o.extents.as_deref().unwrap_or(&[]);
        let base = |r: &BlockdevRef| match r {
            BlockdevRef::Reference(n) => cx.filename(n).rsplit('/').next().unwrap_or("").to_owned(),
            BlockdevRef::Definition(_) => String::new(),
        };
        if !is_flat(s) && !is_split(s) {
            let line = format!("RW {} SPARSE \"{}\"\n", o.size / SECTOR, base(&o.file));
            let text = descriptor(o, parent, &line)?;
            let stream = s == BlockdevVmdkSubformat::StreamOptimized;
            let size = o.size;
            return fill_file(cx, &o.file, |f| {
                Box::pin(async move {
                    if text.len() as u64 > DESCRIPTOR * SECTOR {
                        return Err(qerr!("Could not write description"));
                    }
                    sparse(&f, size, stream, zeroed).await?;
                    f.put(SECTOR, text.as_bytes()).await
                })
            })
            .await;
        }
        // Until the descriptor is there, the file is no image: nobody shall take an old one for the new one that failed.
        fill_file(cx, &o.file, |f| {
            Box::pin(async move { if is_flat(s) { Ok(()) } else { sparse(&f, 0, false, zeroed).await } })
        })
        .await?;
        let mut lines = String::new();
        let lengths = lengths(s, o.size);
        let wanted = lengths.len();
        for (n, len) in lengths.into_iter().enumerate() {
            let node = extents.get(n).ok_or_else(|| qerr!("Extent [{n}] not specified"))?;
            let (sectors, name) = (len / SECTOR, base(node));
            match is_flat(s) {
                true => {
                    lines.push_str(&format!("RW {sectors} FLAT \"{name}\" 0\n"));
                    fill_file(cx, node, |f| Box::pin(async move { f.grow(len, Prealloc::Off).await }))
                        .await?;
                }
                false => {
                    lines.push_str(&format!("RW {sectors} SPARSE \"{name}\"\n"));
                    fill_file(cx, node, |f| Box::pin(async move { sparse(&f, len, false, zeroed).await }))
                        .await?;
                }
            }
        }
        if extents.len() > wanted {
            return Err(qerr!("List of extents contains unused extents"));
        }
        let text = descriptor(o, parent, &lines)?;
        fill_file(cx, &o.file, |f| Box::pin(async move { f.put(0, text.as_bytes()).await })).await
    })
}
