//! Images that a command makes or opens itself: overlays, and the targets of `drive-mirror` and `drive-backup`.

use api::block_core::{BlockdevDriver, NewImageMode};
use block::NodeId;
use block::create::NamedImage;
use block::driver::Kind;
use block::filename::{self, Named};
use block::job::Change;
use block::options::to_dict;
use block::probe::raw_warning;
use qapi::{Dict, QError, QapiEnum, Value, qerr};

/// What the image's node has below it when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backing {
    /// Nothing: that is for later.
    Later,
    /// A node that is there.
    Node(NodeId),
    /// What the header names.
    Header,
}

/// The image.
pub(crate) struct NewTarget<'a> {
    /// Its file.
    pub(crate) path: &'a str,
    /// Unless given, that of `like` where the image is made, else what its first bytes look like.
    pub(crate) format: Option<&'a str>,
    pub(crate) node_name: Option<&'a str>,
    /// Whether it is made.
    pub(crate) mode: NewImageMode,
    /// The node that says how long it is, and how requests are treated.
    pub(crate) like: NodeId,
    /// What the header of a new image names as its backing file.
    pub(crate) below: Option<NodeId>,
    pub(crate) backing: Backing,
    /// Discards free space in it, and zeroes that are written are noticed and do so too, whatever `like` does.
    pub(crate) unmap: bool,
    /// Only to be read.
    pub(crate) read_only: bool,
}

impl NewTarget<'_> {
    /// Makes the image where that is asked for, and opens it as part of a change. Where the change fails, a file that was
    /// made stays.
    pub(crate) async fn open(&self, c: &mut Change<'_, '_>) -> Result<NodeId, QError> {
        let named = match self.mode {
            NewImageMode::Existing => filename::named(c.drivers(), self.path).await?,
            NewImageMode::AbsolutePaths => Named::Protocol(filename::protocol(c.drivers(), self.path).await?),
        };
        let format = match (self.format, self.mode) {
            (Some(f), _) => f.to_owned(),
            (None, NewImageMode::AbsolutePaths) => {
                c.graph().node(self.like).map_or("raw", |n| n.ty.name).to_owned()
            }
            (None, NewImageMode::Existing) => {
                let format = c.probe(&named).await?;
                if format == "raw" {
                    base::print_error(&format!("WARNING: {}\n", raw_warning(self.path)));
                }
                format
            }
        };
        if self.mode == NewImageMode::AbsolutePaths {
            let image = self.image(c, &format)?;
            let maker = c.image_maker().ok_or_else(|| qerr!("Images cannot be created here"))?;
            maker.make(&image).await?;
        }
        c.open(self.options(c, named, &format).await?).await
    }

    fn image(&self, c: &Change<'_, '_>, format: &str) -> Result<NamedImage, QError> {
        if BlockdevDriver::from_str(format).is_none() {
            return Err(qerr!("Unknown file format '{format}'"));
        }
        let ty = c.driver_type(format).map_err(|_| qerr!("Unknown file format '{format}'"))?;
        let creation = ty.create;
        let creation =
            creation.ok_or_else(|| qerr!("Format driver '{format}' does not support image creation"))?;
        let stacks = creation.options.iter().any(|o| o.name == "backing_file");
        if !stacks && self.below.is_some() {
            return Err(qerr!("Backing file not supported for file format '{format}'"));
        }
        let info = c.image_info(self.like).ok_or_else(|| qerr!("The node has gone"))?;
        let size = u64::try_from(info.base.virtual_size).unwrap_or(0);
        let backing = self.below.and_then(|b| c.image_info(b)).map(|below| {
            let format = BlockdevDriver::from_str(&below.base.format).map(|_| below.base.format);
            (below.base.filename, format)
        });
        Ok(NamedImage { name: self.path.to_owned(), format: format.to_owned(), size, backing })
    }

    /// The options of the image's node: what concerns requests is as for `like`.
    async fn options(&self, c: &Change<'_, '_>, named: Named, format: &str) -> Result<Dict, QError> {
        let flags = c.graph().node(self.like).map(|n| n.flags).unwrap_or_default();
        let ty = c.driver_type(format)?;
        let mut dict = match named {
            Named::Whole(dict) => dict,
            Named::Protocol(file) if ty.kind == Kind::Protocol => file,
            Named::Protocol(file) => Dict::from_iter([("file", file)]),
        };
        dict.insert("driver", format);
        if let Some(n) = self.node_name {
            dict.insert("node-name", n);
        }
        let mut cache = Dict::new();
        cache.insert("direct", flags.direct);
        cache.insert("no-flush", flags.no_flush);
        dict.insert("cache", cache);
        dict.insert("auto-read-only", flags.auto_read_only);
        if self.read_only {
            dict.insert("read-only", true);
        }
        dict.insert("discard", if flags.unmap || self.unmap { "unmap" } else { "ignore" });
        if self.unmap {
            dict.insert("detect-zeroes", "unmap");
        }
        if ty.supports_backing {
            match self.backing {
                Backing::Later => drop(dict.insert("backing", Value::Null)),
                Backing::Node(n) => {
                    let name = c.graph().node(n).map_or("", |n| n.name.as_str());
                    dict.insert("backing", name);
                }
                Backing::Header => {}
            }
        }
        Ok(to_dict(&filename::options(c.drivers(), dict).await?))
    }
}
