//! `null-co` and `null-aio`: a disk that forgets. For measuring everything but storage.

use api::block_core::{BlockdevDriverOptions, BlockdevOptionsNull};
use base::Errno;
use base::units::{GIB, align_up};
use block::driver::{
    Caps, Cx, Driver, DriverInfo, DriverType, Extent, ExtentKind, IoFuture, Kind, OpenCx, OpenFuture,
    Support, WriteFlags, ZeroFlags, default_child_perm, no_children,
};
use block::filename::FileNames;
use mem::IoBuf;
use qapi::{Dict, QError, qerr};
use std::sync::Arc;
use std::time::Duration;

/// `null-co`.
pub static NULL_CO: DriverType = driver_type("null-co", NULL_CO_NAMES);

/// `null-aio`: the same. The reference has two, for its two ways of waiting.
pub static NULL_AIO: DriverType = driver_type("null-aio", NULL_AIO_NAMES);

const NULL_CO_NAMES: FileNames =
    FileNames { prefixes: &["null-co"], parse: |name| only("null-co://", name), older: None };
const NULL_AIO_NAMES: FileNames =
    FileNames { prefixes: &["null-aio"], parse: |name| only("null-aio://", name), older: None };

/// There is one name.
fn only(wanted: &str, name: &str) -> Result<Dict, QError> {
    if name == wanted {
        Ok(Dict::new())
    } else {
        Err(qerr!("The only allowed filename for this driver is '{wanted}'"))
    }
}

const fn driver_type(name: &'static str, names: FileNames) -> DriverType {
    DriverType {
        name,
        kind: Kind::Protocol,
        mutable_opts: &[],
        supports_backing: false,
        supports_reopen: true,
        file_names: Some(names),
        children: no_children,
        child_perm: default_child_perm,
        open,
        probe: None,
        ..DriverType::BASE
    }
}

struct Null {
    len: u64,
    latency: Duration,
    read_zeroes: bool,
    /// What describes it, where it is of the usual size.
    filename: Option<String>,
}

impl Null {
    fn new(name: &str, o: &BlockdevOptionsNull) -> Result<Null, QError> {
        let size = crate::size_option("size", o.size)?.unwrap_or(GIB);
        let latency = o.latency_ns.unwrap_or(0);
        if i64::try_from(latency).is_err() {
            return Err(QError::new("latency-ns is invalid"));
        }
        Ok(Null {
            // Whole sectors, as disks have.
            len: align_up(size, 512).unwrap_or(size),
            latency: Duration::from_nanos(latency),
            read_zeroes: o.read_zeroes.unwrap_or(false),
            filename: (o.size.is_none() && o.read_zeroes.is_none()).then(|| format!("{name}://")),
        })
    }

    async fn wait(&self) -> Result<(), Errno> {
        if !self.latency.is_zero() {
            rt::sleep(self.latency).await;
        }
        Ok(())
    }
}

fn open<'a>(o: OpenCx<'a>) -> OpenFuture<'a> {
    Box::pin(async move {
        match &o.options.driver {
            BlockdevDriverOptions::NullCo(n) => Ok(Arc::new(Null::new("null-co", n)?) as Arc<dyn Driver>),
            BlockdevDriverOptions::NullAio(n) => Ok(Arc::new(Null::new("null-aio", n)?) as Arc<dyn Driver>),
            _ => Err(QError::new("The options are not those of a null device")),
        }
    })
}

impl Driver for Null {
    fn len(&self, _cx: &Cx<'_>) -> u64 {
        self.len
    }

    fn caps(&self, _cx: &Cx<'_>) -> Caps {
        Caps { fua: Support::Native, write_zeroes: Support::Native, discard: Support::Native }
    }

    fn locate<'a>(&'a self, _cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Extent> {
        let extent = Extent {
            len,
            kind: ExtentKind::Own { offset: Some(off), zero: self.read_zeroes },
            eof: off.saturating_add(len) >= self.len,
        };
        Box::pin(async move { Ok(extent) })
    }

    fn read<'a>(&'a self, _cx: &'a Cx<'a>, _off: u64, buf: IoBuf) -> IoFuture<'a> {
        if self.read_zeroes {
            buf.fill(0);
        }
        Box::pin(self.wait())
    }

    fn write<'a>(&'a self, _cx: &'a Cx<'a>, _off: u64, _buf: IoBuf, _flags: WriteFlags) -> IoFuture<'a> {
        Box::pin(self.wait())
    }

    fn write_zeroes<'a>(&'a self, _cx: &'a Cx<'a>, _off: u64, _len: u64, _flags: ZeroFlags) -> IoFuture<'a> {
        Box::pin(self.wait())
    }

    fn discard<'a>(&'a self, _cx: &'a Cx<'a>, _off: u64, _len: u64) -> IoFuture<'a> {
        Box::pin(self.wait())
    }

    fn flush<'a>(&'a self, _cx: &'a Cx<'a>) -> IoFuture<'a> {
        Box::pin(self.wait())
    }

    fn filename(&self) -> Option<String> {
        self.filename.clone()
    }

    fn info(&self, _cx: &Cx<'_>) -> DriverInfo {
        DriverInfo { actual_size: Some(0), ..DriverInfo::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let open = |size, latency_ns| {
            Null::new("null-co", &BlockdevOptionsNull { size, latency_ns, read_zeroes: None })
        };
        assert_eq!(open(None, None).unwrap().len, GIB);
        assert_eq!(open(None, None).unwrap().filename.as_deref(), Some("null-co://"));
        assert_eq!(open(Some(512), None).unwrap().filename, None);
        assert_eq!(open(Some(1000), None).unwrap().len, 1024);
        assert_eq!(open(Some(0), None).unwrap().len, 0);
        let text = |r: Result<Null, QError>| r.err().unwrap().desc().to_owned();
        assert_eq!(text(open(Some(-1), None)), "Value '-1' is out of range for parameter 'size'");
        assert_eq!(text(open(None, Some(1 << 63))), "latency-ns is invalid");
    }
}
