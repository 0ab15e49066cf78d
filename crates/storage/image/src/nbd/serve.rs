//! Serving one image.

use super::device::{self, Device};
use super::options::{Connection, Image, Options};
use super::snapshot;
use crate::drivers;
use api::block_core::BlockDirtyBitmapOrStr;
use api::block_export::{BlockExportKind, BlockExportOptions, BlockExportOptionsNbd, NbdServerOptions};
use api::sockets::{SocketAddress, UnixSocketAddress};
use block::drive::{Drive, ErrorPolicy};
use block::{BlockGraph, Policy};
use export::Exports;
use io::{Addr, Listener};
use monitor::EventBus;
use qapi::{Dict, QError, Value, from_json, qerr};
use std::future::{Future, poll_fn};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

/// The first descriptor that whoever starts services hands over.
const FIRST_FD: i32 = 3;

/// Longest name of a unix socket, bytes (unix(7)).
const MAX_PATH: usize = 107;

/// The names of the nodes that are made beside the image's own.
const TOP: [&str; 3] = ["nbd-snapshot", "nbd-overlay", "nbd-offset"];

/// The address of a server, as the options say.
///
/// # Errors
/// The port is no number.
pub(super) fn address(c: &Connection) -> Result<Addr, QError> {
    if let Some(path) = &c.socket {
        if path.len() > MAX_PATH {
            return Err(qerr!("UNIX socket path '{path}' is too long")
                .with_hint(format!("Path must be less than {} bytes", MAX_PATH + 1)));
        }
        return Ok(Addr::Unix(path.into()));
    }
    let (host, port) = c.inet();
    let number = port.parse().map_err(|_| {
        qerr!("address resolution failed for {host}:{port}: Servname not supported for ai_socktype")
    })?;
    Ok(Addr::inet(host, number))
}

/// How many sockets this process was handed, if it was (`LISTEN_PID` and `LISTEN_FDS` of the service manager).
fn handed() -> u32 {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u32>().ok());
    match (number("LISTEN_PID"), number("LISTEN_FDS")) {
        (Some(pid), Some(n)) if pid == std::process::id() => n,
        _ => 0,
    }
}

/// Where the server of a device listens.
fn device_socket(o: &Options, device: &str) -> PathBuf {
    o.connection.socket.as_ref().map_or_else(|| device::socket(device), PathBuf::from)
}

/// The SELinux label of the sockets that this thread makes, until it is dropped (proc_pid_attr(5)).
struct Label;

impl Label {
    const FILE: &str = "/proc/thread-self/attr/sockcreate";

    fn set(label: &str, addr: &Addr) -> Result<Label, QError> {
        // Other sockets are made on a thread of their own, since a host's name may have to be found.
        if !matches!(addr, Addr::Unix(_)) {
            return Err(qerr!("An SELinux label can be given to a unix socket only"));
        }
        let failed = |e: std::io::Error| {
            qerr!("Cannot set SELinux socket create context to {label}: {}", base::Errno::from(e))
        };
        std::fs::write(Label::FILE, label).map(|()| Label).map_err(failed)
    }
}

impl Drop for Label {
    fn drop(&mut self) {
        _ = std::fs::write(Label::FILE, []);
    }
}

/// Listens where the options say, or at the socket that the program was handed.
///
/// # Errors
/// It cannot listen there; the options do not go together with a socket that was handed over.
pub async fn bind(o: &Options) -> Result<Listener, QError> {
    let c = &o.connection;
    match handed() {
        0 => {
            let addr = match &o.device {
                Some(d) => Addr::Unix(device_socket(o, d)),
                None => address(c)?,
            };
            let label = o.label.as_deref().map(|l| Label::set(l, &addr)).transpose()?;
            let listener = Listener::bind(&addr).await;
            drop(label);
            listener.map_err(|e| QError::new(e.to_string()))
        }
        1 => {
            let with = [
                (o.device.is_some(), "NBD device can't be set when using socket activation"),
                (c.socket.is_some(), "Unix socket can't be set when using socket activation"),
                (c.bind.is_some(), "The interface can't be set when using socket activation"),
                (c.port.is_some(), "TCP port number can't be set when using socket activation"),
            ];
            if let Some((_, text)) = with.iter().find(|(given, _)| *given) {
                return Err(QError::new(*text));
            }
            Listener::bind(&Addr::Fd(FIRST_FD)).await.map_err(|e| QError::new(e.to_string()))
        }
        n => Err(qerr!("qemu-nbd does not support socket activation with {n} file descriptors")),
    }
}

/// Opens the image. A format that was guessed is told to `warn`. Returns the name of the node to be exported.
async fn open(graph: &Arc<BlockGraph>, image: &Image, warn: &mut dyn FnMut(&str)) -> Result<String, QError> {
    let drive = drive(image)?;
    let name = drive.name();
    let failed = |e: QError| e.prepend(&format!("Failed to blk_new_open '{}'", image.name));
    if let Some(warning) = graph.add_drive(drive).await.map_err(failed)?
        && !image.read_only
    {
        warn(&format!("WARNING: {warning}\n"));
    }
    let now = graph.snapshot();
    let node = now.drive(&name).and_then(|d| now.node(d.node?)).ok_or_else(|| qerr!("The image has gone"))?;
    let mut top = node.name.clone();
    if image.temporary {
        snapshot::overlay(graph, &top, TOP[1], 0).await.map_err(failed)?;
        top = TOP[1].into();
    }
    if let Some(offset) = image.offset.filter(|o| *o > 0) {
        if offset > i64::MAX as u64 {
            return Err(qerr!("Value '{}' is out of range for parameter 'offset'", offset as i64));
        }
        let len = graph.image_info(&top).map_or(0, |i| i.base.virtual_size);
        let offset = i64::try_from(offset).ok().filter(|o| *o <= len).ok_or_else(|| {
            qerr!("Offset ({offset}) cannot be greater than size of the containing file ({len})")
        })?;
        let mut raw = Dict::from_iter([("driver", "raw"), ("node-name", TOP[2]), ("file", &top)]);
        raw.insert("offset", offset);
        raw.insert("read-only", image.read_only);
        raw.insert("discard", if image.unmap { "unmap" } else { "ignore" });
        graph.add(from_json(Value::Dict(raw))?).await?;
        top = TOP[2].into();
    }
    if let Some(wanted) = &image.snapshot {
        let loaded = snapshot::load(graph, &top, wanted, TOP[0]).await;
        loaded.map_err(|e| e.prepend("Failed to load snapshot"))?;
        top = TOP[0].into();
    }
    Ok(top)
}

/// The image as a drive.
fn drive(image: &Image) -> Result<Drive, QError> {
    let on_off = |on: bool| if on { "on" } else { "off" };
    let mut options = Dict::new();
    let mut cache = Dict::new();
    cache.insert("direct", on_off(image.cache.direct));
    cache.insert("no-flush", on_off(image.cache.no_flush));
    options.insert("cache", cache);
    options.insert("read-only", on_off(image.read_only || image.temporary));
    options.insert("auto-read-only", "off");
    options.insert("discard", if image.unmap { "unmap" } else { "ignore" });
    if let Some(mode) = &image.detect_zeroes {
        options.insert("detect-zeroes", mode.as_str());
    }
    let file = match image.image_opts {
        false => image.name.clone(),
        true => format!(
            "json:{}",
            Value::Dict(qapi::keyval_parse(&qapi::opts_as_keyval(&image.name, Some("file")), None)?)
                .to_json()
        ),
    };
    Ok(Drive {
        id: Some("nbd".into()),
        interface: None,
        place: (None, None, None),
        cdrom: false,
        on_error: ErrorPolicy::default(),
        writeback: !image.cache.write_through,
        limits: Default::default(),
        group: None,
        copy_on_read: false,
        file: Some(file),
        format: image.format.clone(),
        aio: image.aio.clone(),
        options,
    })
}

/// What the first of two futures gives; `None` where the second one is through.
async fn unless<T>(work: impl Future<Output = T>, end: impl Future<Output = ()>) -> Option<T> {
    let (mut work, mut end) = (pin!(work), pin!(end));
    poll_fn(|cx| match (work.as_mut().poll(cx), end.as_mut().poll(cx)) {
        (Poll::Ready(t), _) => Poll::Ready(Some(t)),
        (Poll::Pending, Poll::Ready(())) => Poll::Ready(None),
        (Poll::Pending, Poll::Pending) => Poll::Pending,
    })
    .await
}

/// Opens the image and serves it to those who come to `listener`, until `stop` is through or, unless the export is
/// persistent, the last client has left. `ready` is called once clients can come. With a device of the kernel, that is connected
/// before, and its end is the end.
///
/// # Errors
/// The image cannot be opened or served; what `ready` says.
pub async fn serve(
    o: &Options,
    listener: Listener,
    warn: &mut dyn FnMut(&str),
    ready: impl FnOnce() -> Result<(), QError>,
    stop: impl Future<Output = ()>,
) -> Result<(), QError> {
    let objects = o.connection.objects.clone();
    if let Some(id) = &o.connection.tls_creds {
        let creds = objects.tls(id, io::tls::Role::Server);
        creds.map_err(|e| e.prepend("Failed to get TLS creds"))?;
    }
    let graph = BlockGraph::new(&drivers(), EventBus::new());
    graph.set_policy(Policy::of_environment()?);
    graph.set_objects(objects.clone());
    if o.device.is_some() {
        // Where memory is short, the kernel must not wait on these threads for what only they can write. It takes
        // CAP_SYS_RESOURCE; without it all goes well until then.
        if let Err(e) = rustix::process::configure_io_flusher_behavior(true) {
            tracing::debug!("the device's server may wait for itself where memory is short: {e}");
        }
    }
    let exports = Exports::new(graph.clone(), objects);
    let mut connected = None;
    let served = async {
        let top = open(&graph, &o.image, warn).await?;
        let device = match &o.device {
            Some(path) => Some((path, Device::open(path).await?)),
            None => None,
        };
        exports.serve(listener, server(o), export(o, top)).await?;
        if let Some((path, device)) = device {
            let here = connected.insert(device.connect(device_socket(o, path), o.name.clone()).await?);
            ready()?;
            if o.verbose {
                base::print(&format!("NBD device {path} is now connected to {}\n", o.image.name));
            }
            here.ended().await;
            return Ok(());
        }
        ready()?;
        let visited = exports.visited(&o.name);
        match o.persistent {
            true => std::future::pending().await,
            false => visited.await,
        }
        Ok(())
    };
    let done = unless(served, stop).await.unwrap_or(Ok(()));
    if let Some(device) = connected {
        device.disconnect().await;
    }
    exports.close_all().await;
    graph.close_all().await;
    done
}

fn server(o: &Options) -> NbdServerOptions {
    NbdServerOptions {
        handshake_max_seconds: Some(o.handshake),
        tls_creds: o.connection.tls_creds.clone(),
        tls_authz: o.connection.tls_authz.clone(),
        max_connections: Some(o.shared),
        // The listener is there already.
        addr: SocketAddress::Unix(UnixSocketAddress::default()),
    }
}

fn export(o: &Options, node_name: String) -> BlockExportOptions {
    BlockExportOptions {
        kind: BlockExportKind::Nbd(BlockExportOptionsNbd {
            name: Some(o.name.clone()),
            description: o.description.clone(),
            bitmaps: (!o.bitmaps.is_empty())
                .then(|| o.bitmaps.iter().cloned().map(BlockDirtyBitmapOrStr::Local).collect()),
            allocation_depth: Some(o.depth),
        }),
        id: "nbd".into(),
        fixed_iothread: None,
        iothread: None,
        node_name,
        writable: Some(!o.image.read_only),
        writethrough: Some(o.image.cache.write_through),
        allow_inactive: None,
    }
}
