//! The kind of export.

use crate::disk::Disk;
use crate::message::{DevInfo, Params};
use crate::spec::*;
use crate::users;
use api::block_export::{BlockExportKind, BlockExportOptionsRheaUblk, BlockExportType};
use base::{Errno, IoResult};
use block::{Perm, Root, RootConfig};
use export::{ExportKind, LocalFuture, NewExport, Running};
use mem::IoBuf;
use parking_lot::Mutex;
use qapi::{QError, qerr};
use rt::ublk::{Command, Control, Device, Queue};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

/// The kind of export: to be registered with [`export::Exports::register`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Ublk;

/// The longest request's data, bytes: each tag of a queue has a buffer of this length.
const MOST: u32 = 256 << 10;
/// What writes are said to be best aligned to at least, bytes.
const PHYSICAL: u32 = 4096;
/// The longest discard and zeroes, bytes.
const MOST_ZEROES: u64 = 1 << 31;
/// How long the kernel may take for a command that waits for nobody.
const PROMPT: Duration = Duration::from_secs(10);
/// How long the kernel may take to show the disk: it looks for partitions meanwhile, and so reads.
const START: Duration = Duration::from_secs(60);
/// How long what was begun has to be undone before the command fails; the rest is done afterwards.
const UNDO: Duration = Duration::from_secs(5);

struct Served {
    root: Arc<Root>,
    closed: AtomicBool,
    control: Control,
    /// The device's number.
    number: u32,
    /// End when the device has no more requests.
    serving: Mutex<Vec<rt::JoinHandle<()>>>,
    /// The export's own threads, unless it has an iothread.
    threads: Mutex<Vec<rt::IoThread>>,
    /// Keeps the iothread from being deleted.
    _iothread: Option<Arc<dyn qom::Object>>,
}

impl ExportKind for Ublk {
    fn ty(&self) -> BlockExportType {
        BlockExportType::RheaUblk
    }

    fn start<'a>(&'a self, new: NewExport<'a>) -> LocalFuture<'a, Result<Arc<dyn Running>, QError>> {
        Box::pin(async move { begin(new).await.map(|s| s as Arc<dyn Running>) })
    }
}

/// What is asked for, within limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    number: u32,
    queues: u16,
    depth: u16,
    logical: u32,
}

fn wanted(o: &BlockExportOptionsRheaUblk) -> Result<Wanted, QError> {
    let queues = o.num_queues.unwrap_or(1);
    if !(1..=64).contains(&queues) {
        return Err(qerr!("num-queues must be between 1 and 64"));
    }
    let depth = o.queue_size.unwrap_or(64);
    if !(1..=1024).contains(&depth) {
        return Err(qerr!("queue-size must be between 1 and 1024"));
    }
    let logical = o.logical_block_size.unwrap_or(512);
    if !logical.is_power_of_two() || !(512..=4096).contains(&logical) {
        return Err(qerr!("parameter logical-block-size must be a power of 2 between 512 and 4096"));
    }
    let number = o.dev_id.unwrap_or(ANY_DEVICE);
    if o.dev_id.is_some_and(|n| n > i32::MAX as u32) {
        return Err(qerr!("dev-id must be at most {}", i32::MAX));
    }
    Ok(Wanted { number, queues, depth, logical: logical as u32 })
}

/// Sends a command from a thread that may wait.
async fn send(
    control: &Control,
    (number, device, inline): (u8, u32, u64),
    data: IoBuf,
    limit: Option<Duration>,
) -> IoResult<()> {
    let (control, command) = (control.clone(), Command { number, device, inline });
    rt::unblock(move || control.send(command, &data, limit)).await
}

/// The side where requests come. Its name appears soon after the device was made.
async fn open(control: &Control, number: u32) -> IoResult<Device> {
    let mut left = 100;
    loop {
        let control = control.clone();
        match rt::unblock(move || Device::open(&control, number)).await {
            Err(Errno::NOENT) if left > 0 => left -= 1,
            done => return done,
        }
        rt::sleep(Duration::from_millis(20)).await;
    }
}

async fn begin(new: NewExport<'_>) -> Result<Arc<Served>, QError> {
    let BlockExportKind::RheaUblk(options) = &new.options.kind else {
        return Err(qerr!("The options are not those of a ublk export"));
    };
    let wanted = wanted(options)?;
    let control = rt::unblock(Control::open).await.map_err(|e| {
        let error = qerr!("This host makes no ublk devices: '/dev/ublk-control': {e}");
        if e == Errno::NOENT { error.with_hint("Is the module ublk_drv loaded?\n") } else { error }
    })?;
    let (threads, execs) = threads(&new, wanted.queues)?;
    let able = execs[0].spawn(|| async { rt::ublk::is_able() }).outcome().await;
    if !able.unwrap_or(false) {
        return Err(qerr!("ublk needs io_uring, which is refused here"));
    }
    // The kernel is told the length once.
    let shared = new.root.shared - Perm::RESIZE;
    let through = new.options.writethrough.unwrap_or(false);
    let config = RootConfig { shared, write_through: through, ..new.root };
    let root = new.graph.attach(&new.options.node_name, config).await?;
    let device = DevInfo { queues: wanted.queues, depth: wanted.depth, most: MOST, number: wanted.number };
    let info = IoBuf::from_bytes(&device.bytes());
    if let Err(e) = send(&control, (ADD_DEV, wanted.number, 0), info.clone(), Some(PROMPT)).await {
        root.detach().await;
        return Err(match (e, options.dev_id) {
            (Errno::EXIST, Some(n)) => qerr!("There already is a ublk device {n}"),
            _ => qerr!("Failed to make a ublk device: {e}"),
        });
    }
    let mut bytes = [0; rt::ublk::DEV_INFO];
    info.copy_to(0, &mut bytes);
    let served = Arc::new(Served {
        root,
        closed: AtomicBool::new(false),
        control,
        number: DevInfo::parse(&bytes).number,
        serving: Mutex::default(),
        threads: Mutex::new(threads),
        _iothread: new.iothread,
    });
    let writable = new.options.writable.unwrap_or(false);
    match served.run(wanted.logical, writable, through, &execs).await {
        Ok(()) => Ok(served),
        Err((what, e)) => {
            served.closed.store(true, SeqCst);
            _ = rt::timeout(UNDO, rt::spawn_local(served.end())).await;
            Err(qerr!("Failed to {what} a ublk device: {e}"))
        }
    }
}

/// Where queues are served: on the iothread, or on a thread for each.
fn threads(new: &NewExport<'_>, queues: u16) -> Result<(Vec<rt::IoThread>, Vec<rt::Handle>), QError> {
    if let Some(exec) = new.iothread.as_ref().and_then(|o| o.iothread()) {
        return Ok((Vec::new(), vec![exec]));
    }
    let most = std::thread::available_parallelism().map_or(1, usize::from);
    let mut threads = Vec::new();
    for n in 0..usize::from(queues).min(most) {
        let thread = rt::IoThread::spawn_as(&format!("ublk-{n}"), rt::Conduct::storage());
        threads.push(thread.map_err(|e| qerr!("cannot start a thread: {e}"))?);
    }
    let execs = threads.iter().map(rt::IoThread::handle).collect();
    Ok((threads, execs))
}

impl Served {
    /// Makes a disk of the device. What failed, and how.
    async fn run(
        &self,
        logical: u32,
        writable: bool,
        through: bool,
        execs: &[rt::Handle],
    ) -> Result<(), (&'static str, Errno)> {
        let device = open(&self.control, self.number).await.map_err(|e| ("open", e))?;
        let alignment = self.root.limits().request_alignment.max(logical);
        let params = Params {
            len: self.root.len(),
            logical,
            physical: alignment.max(PHYSICAL).next_power_of_two(),
            most: u32::try_from(device.most()).unwrap_or(MOST),
            writable,
            through,
            granularity: alignment,
            most_zeroes: MOST_ZEROES,
        };
        let params = IoBuf::from_bytes(&params.bytes());
        let set = send(&self.control, (SET_PARAMS, self.number, 0), params, Some(PROMPT)).await;
        set.map_err(|e| ("describe", e))?;
        for n in 0..device.queues() {
            let queue = device.queue(n).map_err(|e| ("map a queue of", e))?;
            let disk = Disk::new(self.root.clone(), writable);
            let (depth, most) = (device.depth(), device.most());
            let exec = &execs[usize::from(n) % execs.len()];
            self.serving.lock().push(exec.spawn(move || serve(queue, disk, depth, most)));
        }
        // The kernel waits until there are no more holders before it removes the device.
        drop(device);
        let pid = u64::from(std::process::id());
        let start = send(&self.control, (START_DEV, self.number, pid), IoBuf::new(), Some(START)).await;
        start.map_err(|e| ("start", e))
    }
}

/// Serves a queue until the device has ended.
async fn serve(queue: Queue, disk: Disk, depth: u16, most: usize) {
    // Where memory is short, the kernel must not wait on this thread for what only this thread can write. It takes
    // CAP_SYS_RESOURCE; without it all goes well until then.
    if let Err(e) = rustix::process::configure_io_flusher_behavior(true) {
        tracing::debug!("a ublk device's thread may wait for itself where memory is short: {e}");
    }
    let (queue, disk) = (Rc::new(queue), Rc::new(disk));
    let serve = |tag| {
        let (queue, disk) = (queue.clone(), disk.clone());
        rt::spawn_local(async move { disk.serve(&*queue, tag, most).await })
    };
    let tags: Vec<_> = (0..depth).map(serve).collect();
    for tag in tags {
        match tag.outcome().await {
            Ok(Errno::NODEV) => {}
            Ok(e) => tracing::warn!("a ublk device takes no more requests: {e}"),
            Err(_) => tracing::debug!("a ublk device's thread has ended"),
        }
    }
}

impl Running for Served {
    fn root(&self) -> &Arc<Root> {
        &self.root
    }

    fn device(&self) -> Option<String> {
        Some(format!("/dev/ublkb{}", self.number))
    }

    fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    /// Who only has the device open does not keep the export.
    fn close(&self, hard: bool) -> bool {
        if !hard && users::in_use(Path::new("/"), &format!("ublkb{}", self.number)) {
            return false;
        }
        self.closed.store(true, SeqCst);
        true
    }

    fn end(self: Arc<Self>) -> LocalFuture<'static> {
        Box::pin(async move {
            // The disk goes when its last request has ended, however long that takes; then nothing comes any more.
            if let Err(e) = send(&self.control, (STOP_DEV, self.number, 0), IoBuf::new(), None).await {
                tracing::warn!(number = self.number, "stopping a ublk device: {e}");
            }
            let serving = std::mem::take(&mut *self.serving.lock());
            for task in serving {
                _ = task.outcome().await;
            }
            if let Err(e) = send(&self.control, (DEL_DEV, self.number, 0), IoBuf::new(), Some(PROMPT)).await {
                tracing::warn!(number = self.number, "removing a ublk device: {e}");
            }
            let threads = std::mem::take(&mut *self.threads.lock());
            // Their end is waited for elsewhere than on the control thread.
            rt::unblock(move || drop(threads)).await;
            self.root.detach().await;
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_have_limits() {
        let o = BlockExportOptionsRheaUblk::default();
        let plain = Wanted { number: ANY_DEVICE, queues: 1, depth: 64, logical: 512 };
        assert_eq!(wanted(&o).unwrap(), plain);
        let given = BlockExportOptionsRheaUblk {
            dev_id: Some(3),
            num_queues: Some(64),
            queue_size: Some(1024),
            logical_block_size: Some(4096),
        };
        let all = Wanted { number: 3, queues: 64, depth: 1024, logical: 4096 };
        assert_eq!(wanted(&given).unwrap(), all);
        let text = |o: BlockExportOptionsRheaUblk| wanted(&o).unwrap_err().to_string();
        for n in [0, 65] {
            let o = BlockExportOptionsRheaUblk { num_queues: Some(n), ..o.clone() };
            assert_eq!(text(o), "num-queues must be between 1 and 64");
        }
        for n in [0, 1025] {
            let o = BlockExportOptionsRheaUblk { queue_size: Some(n), ..o.clone() };
            assert_eq!(text(o), "queue-size must be between 1 and 1024");
        }
        for n in [0, 256, 513, 8192] {
            let o = BlockExportOptionsRheaUblk { logical_block_size: Some(n), ..o.clone() };
            assert_eq!(text(o), "parameter logical-block-size must be a power of 2 between 512 and 4096");
        }
        let o = BlockExportOptionsRheaUblk { dev_id: Some(u32::MAX), ..o };
        assert_eq!(text(o), "dev-id must be at most 2147483647");
    }
}
