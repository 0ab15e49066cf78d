//! How much space an image takes.

use std::sync::Arc;

use block::Root;
use block::create::{CreateCx, Measure, MeasureCx};
use qapi::{QError, qerr};

use crate::create::{NewImage, contract, maker};
use crate::open::{Opened, driver};

/// Measures a new image; `source` is the disk that it is to hold.
///
/// # Errors
/// The format cannot say; options that do not fit.
pub async fn measure(image: &NewImage, source: Option<(&Opened, &Arc<Root>)>) -> Result<Measure, QError> {
    let format = &image.format;
    let known = driver(format).map_err(|_| qerr!("Unknown file format '{format}'"))?;
    let (ty, creation) = maker(known.name)?;
    let measure =
        creation.measure.ok_or_else(|| qerr!("Block driver '{format}' does not support size measurement"))?;
    let options = match creation.create {
        Some(_) => Some(contract(image, ty, creation)?.0),
        None => None,
    };
    let graph = crate::open::new_graph();
    if let Some(o) = &image.objects {
        graph.set_objects(o.clone());
    }
    let bitmaps = source.and_then(|(o, _)| {
        let keeps = o.graph.keeps_bitmaps(&o.node);
        let list = crate::bitmap::stored(o);
        keeps.then(|| list.iter().map(|b| (b.name().to_owned(), b.granularity())).collect())
    });
    let cx = MeasureCx {
        options: options.as_ref(),
        size: image.options.number("size").unwrap_or(0).next_multiple_of(512),
        source: source.map(|(_, r)| &**r),
        bitmaps,
        cx: &CreateCx::new(graph),
    };
    measure(&cx).await
}
