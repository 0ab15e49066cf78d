//! Making VHD images.

use super::spec::{self, BLOCK, DYNAMIC, FOOTER, MAX_CHS, MAX_CHS_SECTORS, MAX_SECTORS};
use crate::making::{fill_file, now, switch, text, uuid};
use api::block_core::{BlockdevCreateOptions, BlockdevVpcSubformat};
use block::create::{CreateCx, Creation, SIZE};
use block::driver::{CtlFuture, Prealloc};
use qapi::{Dict, QError, Value, qerr};

/// Making VHD images.
pub(super) static CREATION: Creation = Creation {
    adapt: Some(adapt),
    create: Some(create),
    ..Creation::new(&[
        SIZE,
        text(
            "subformat",
            "Type of virtual hard disk format. Supported formats are {dynamic (default) | fixed} ",
        ),
        switch(
            "force_size",
            "Force disk size calculation to use the actual size specified, rather than using the nearest CHS-based \
             calculation",
        ),
    ])
};

/// The length of the disk (sectors), its geometry and the creator that says which of them counts.
fn shape(size: u64, force: bool) -> Result<(u64, (u16, u8, u8), &'static [u8; 4]), QError> {
    let sectors = size.div_ceil(512);
    if sectors > MAX_SECTORS {
        return Err(qerr!("Disk size is too large, max size is 2040 GiB"));
    }
    if force {
        return Ok((sectors, MAX_CHS, b"qem2"));
    }
    // The next larger disk that has a geometry.
    let mut chs = spec::geometry(sectors);
    let product = |chs: (u16, u8, u8)| u64::from(chs.0) * u64::from(chs.1) * u64::from(chs.2);
    let wanted = sectors.min(MAX_CHS_SECTORS);
    let mut more = 0;
    while wanted > product(chs) {
        more += 1;
        chs = spec::geometry(sectors + more);
    }
    let total = if product(chs) == MAX_CHS_SECTORS { sectors } else { product(chs) };
    Ok((total, chs, b"qemu"))
}

/// The size of a disk that has a geometry, in the place of one that has none.
fn adapt(d: &mut Dict) -> Result<(), QError> {
    let text = |d: &Dict, name: &str| d.get(name).and_then(Value::as_str).map(str::to_owned);
    let Some(size) = text(d, "size").and_then(|s| s.parse::<u64>().ok()) else { return Ok(()) };
    let force = text(d, "force-size").as_deref() == Some("on");
    let (sectors, ..) =
        shape(size, force).map_err(|_| qerr!("The image size is too large for file format 'vpc'"))?;
    d.insert("size", (sectors * 512).to_string());
    Ok(())
}

fn create<'a>(cx: &'a CreateCx, options: &'a BlockdevCreateOptions) -> CtlFuture<'a> {
    Box::pin(async move {
        let BlockdevCreateOptions::Vpc(o) = options else {
            return Err(qerr!("The options are not those of 'vpc'"));
        };
        let dynamic = o.subformat.unwrap_or_default() == BlockdevVpcSubformat::Dynamic;
        let (sectors, chs, creator) = shape(o.size, o.force_size == Some(true))?;
        let size = sectors * 512;
        if size != o.size {
            return Err(qerr!("The requested image size cannot be represented in CHS geometry"));
        }
        let time = now().saturating_sub(spec::EPOCH) as u32;
        let footer = spec::new_footer(dynamic, size, chs, creator, time, uuid()?);
        fill_file(cx, &o.file, |f| {
            Box::pin(async move {
                if !dynamic {
                    f.grow(size, Prealloc::Off).await?;
                    return f.put(size, &footer).await;
                }
                let entries = size.div_ceil(u64::from(BLOCK)) as u32;
                let table = (FOOTER + DYNAMIC) as u64;
                let table_len = (4 * u64::from(entries)).next_multiple_of(512);
                f.put(0, &footer).await?;
                f.put(FOOTER as u64, &spec::new_dynamic(table, entries)).await?;
                f.put(table, &vec![0xff; table_len as usize]).await?;
                f.put(table + table_len, &footer).await
            })
        })
        .await
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_up_to_a_geometry() {
        assert_eq!(shape(5 << 20, false).unwrap(), (10_268, (151, 4, 17), b"qemu"));
        assert_eq!(shape(5 << 20, true).unwrap(), (10_240, MAX_CHS, b"qem2"));
        assert_eq!(shape(127 << 30, false).unwrap().0 * 512, 136_365_219_840);
        assert_eq!(shape(1000, false).unwrap().0, 68);
        assert_eq!(shape(200 << 30, false).unwrap(), (200 << 21, MAX_CHS, b"qemu"));
        assert!(shape(2041 << 30, false).is_err());
    }
}
