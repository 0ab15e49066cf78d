//! The kind of export.

use crate::file::{File, Manner};
use crate::mount::Mount;
use crate::session::{Closing, serve};
use api::block_export::{BlockExportKind, BlockExportType, FuseExportAllowOther};
use base::{Errno, IoResult};
use block::{Perm, Root, RootConfig};
use export::{ExportKind, LocalFuture, NewExport, Running};
use parking_lot::Mutex;
use qapi::{QError, qerr};
use rt::AsyncFd;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

/// How long the clients' requests in flight have before the mount is taken from under them.
const GRACE: Duration = Duration::from_secs(1);

/// The kind of export: to be registered with [`export::Exports::register`].
#[derive(Clone, Debug, Default)]
pub struct Fuse {
    /// The mount points in use.
    places: Places,
}

type Places = Arc<Mutex<HashSet<PathBuf>>>;

/// A mount point that is taken, until this is dropped.
struct Place {
    path: PathBuf,
    places: Places,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().remove(&self.path);
    }
}

struct Served {
    root: Arc<Root>,
    closing: Arc<Closing>,
    mount: Arc<Mount>,
    place: Mutex<Option<Place>>,
    /// Ends when no request comes any more; says why, unless the export was closed.
    serving: Mutex<Option<rt::JoinHandle<Option<Errno>>>>,
    /// The mount is gone without us.
    gone: Arc<AtomicBool>,
    /// The export's own thread, unless it has an iothread.
    thread: Mutex<Option<rt::IoThread>>,
    /// Keeps the iothread from being deleted.
    _iothread: Option<Arc<dyn qom::Object>>,
}

impl ExportKind for Fuse {
    fn ty(&self) -> BlockExportType {
        BlockExportType::Fuse
    }

    fn start<'a>(&'a self, new: NewExport<'a>) -> LocalFuture<'a, Result<Arc<dyn Running>, QError>> {
        Box::pin(async move { self.begin(new).await.map(|s| s as Arc<dyn Running>) })
    }
}

/// Mounts, with others let in where that is possible or demanded. Whether they are, too.
fn mount(path: &Path, allow: FuseExportAllowOther) -> IoResult<(Mount, AsyncFd, bool)> {
    let attempt = |others| {
        let (mount, fd) = Mount::new(path, others)?;
        match AsyncFd::new(fd) {
            Ok(fd) => Ok((mount, fd, others)),
            Err(e) => {
                _ = mount.end();
                Err(e)
            }
        }
    };
    match allow {
        FuseExportAllowOther::Off => attempt(false),
        FuseExportAllowOther::On => attempt(true),
        FuseExportAllowOther::Auto => attempt(true).or_else(|_| attempt(false)),
    }
}

impl Fuse {
    /// Takes a mount point, which must be a regular file.
    async fn place(&self, name: &str) -> Result<Place, QError> {
        // The path may lead through a file system that is slow to answer, or does not answer.
        let asked = name.to_owned();
        let path = rt::unblock(move || std::fs::canonicalize(asked)).await;
        let path = path.map_err(|e| qerr!("Failed to stat '{name}': {}", Errno::from(e)))?;
        if !self.places.lock().insert(path.clone()) {
            return Err(qerr!("There already is a FUSE export on '{name}'"));
        }
        let place = Place { path: path.clone(), places: self.places.clone() };
        match rt::unblock(move || std::fs::metadata(path)).await {
            Err(e) => Err(qerr!("Failed to stat '{name}': {}", Errno::from(e))),
            Ok(m) if !m.is_file() => Err(qerr!("'{name}' is not a regular file")),
            Ok(_) => Ok(place),
        }
    }

    async fn begin(&self, new: NewExport<'_>) -> Result<Arc<Served>, QError> {
        let BlockExportKind::Fuse(options) = &new.options.kind else {
            return Err(qerr!("The options are not those of a FUSE export"));
        };
        let writable = new.options.writable.unwrap_or(false);
        let growable = writable && options.growable.unwrap_or(false);
        let mut perm = new.root.perm;
        perm.set(Perm::RESIZE, growable);
        let place = self.place(&options.mountpoint).await?;
        let (thread, exec) = match new.iothread.as_ref().and_then(|o| o.iothread()) {
            Some(exec) => (None, exec),
            None => {
                let thread = rt::IoThread::spawn_as("fuse", rt::Conduct::storage())
                    .map_err(|e| qerr!("cannot start a thread: {e}"))?;
                let exec = thread.handle();
                (Some(thread), exec)
            }
        };
        let config = RootConfig { perm, ..new.root };
        let root = new.graph.attach(&new.options.node_name, config).await?;
        let (path, allow) = (place.path.clone(), options.allow_other.unwrap_or_default());
        let (mount, device, others) = match rt::unblock(move || mount(&path, allow)).await {
            Ok(done) => done,
            Err(e) => {
                root.detach().await;
                return Err(qerr!("Failed to mount FUSE session to export").with_hint(format!("{e}\n")));
            }
        };
        let through = new.options.writethrough.unwrap_or(false);
        let manner = Manner { writable, growable, through, others };
        let served = Arc::new(Served {
            root: root.clone(),
            closing: Arc::default(),
            mount: Arc::new(mount),
            place: Mutex::new(Some(place)),
            serving: Mutex::default(),
            gone: Arc::default(),
            thread: Mutex::new(thread),
            _iothread: new.iothread,
        });
        let (control, closing, gone) = (rt::current(), served.closing.clone(), served.gone.clone());
        let id = new.options.id.clone();
        let task = exec.spawn(move || async move {
            let end = serve(device, File::new(root, manner, control), &closing).await;
            if let Some(e) = end {
                tracing::warn!(export = %id, "a FUSE export loses its mount: {e}");
                gone.store(e == Errno::NODEV, SeqCst);
            }
            end
        });
        *served.serving.lock() = Some(task);
        Ok(served)
    }
}

impl Running for Served {
    fn root(&self) -> &Arc<Root> {
        &self.root
    }

    fn is_closed(&self) -> bool {
        self.closing.is_on()
    }

    /// Who has the file open does not keep the export, as in the reference.
    fn close(&self, _hard: bool) -> bool {
        self.closing.turn();
        true
    }

    fn end(self: Arc<Self>) -> LocalFuture<'static> {
        Box::pin(async move {
            let task = self.serving.lock().take();
            let mut ended = pin!(async {
                if let Some(task) = task {
                    _ = task.outcome().await;
                }
            });
            // Who waits for an answer gets it, if it comes soon.
            let soon = rt::timeout(GRACE, ended.as_mut()).await.is_some();
            // What is mounted there by now may be somebody else's.
            if !self.gone.load(SeqCst) {
                let mount = self.mount.clone();
                if let Err(e) = rt::unblock(move || mount.end()).await {
                    tracing::warn!("unmounting a FUSE export: {e}");
                }
            }
            drop(self.place.lock().take());
            if !soon {
                ended.await;
            }
            let thread = self.thread.lock().take();
            // Its end is waited for elsewhere than on the control thread.
            rt::unblock(move || drop(thread)).await;
            self.root.detach().await;
        })
    }
}
