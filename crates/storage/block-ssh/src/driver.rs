//! The driver.

use crate::create::CREATION;
use crate::file::File;
use crate::name::{NAMES, filename};
use crate::program::{Program, arguments, explained};
use crate::session::{PATIENCE, Session};
use crate::sftp::{FOR_READ, FOR_WRITE};
use api::block_core::{BlockdevDriverOptions, BlockdevOptionsSsh};
use base::{Errno, IoResult};
use block::driver::{
    Cx, Driver, DriverType, Extent, ExtentKind, IoFuture, Kind, OpenCx, OpenFuture, Prealloc, WriteFlags,
};
use mem::IoBuf;
use qapi::{QError, qerr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// `ssh`.
pub static SSH: DriverType = DriverType {
    name: "ssh",
    kind: Kind::Protocol,
    file_names: Some(NAMES),
    open,
    create: Some(&CREATION),
    ..DriverType::BASE
};

/// The sector of a disk: the node's length is a multiple of it.
const SECTOR: u64 = 512;
/// How long everything up to an open file may take.
const OPENING: Duration = Duration::from_secs(60);

/// The thread on which replies are read, for all nodes: it waits for sockets only.
fn thread() -> IoResult<rt::Handle> {
    static THREAD: OnceLock<IoResult<rt::IoThread>> = OnceLock::new();
    match THREAD.get_or_init(|| rt::IoThread::spawn("ssh-client")) {
        Ok(t) => Ok(t.handle()),
        Err(e) => Err(*e),
    }
}

/// The file of another host as a node.
pub(crate) struct Remote {
    pub(crate) file: File,
    program: Program,
    filename: Option<String>,
}

/// One that never became part of a graph is not closed.
impl Drop for Remote {
    fn drop(&mut self) {
        self.file.session.give_up();
        self.program.kill();
    }
}

fn open<'a>(o: OpenCx<'a>) -> OpenFuture<'a> {
    Box::pin(async move {
        let BlockdevDriverOptions::Ssh(options) = &o.options.driver else {
            return Err(qerr!("The options are not those of a file behind SSH"));
        };
        let flags = if o.flags.read_only { FOR_READ } else { FOR_READ | FOR_WRITE };
        Ok(Arc::new(Remote::open(options, flags).await?) as Arc<dyn Driver>)
    })
}

impl Remote {
    /// Connects and opens the file. What takes too long is given up.
    pub(crate) async fn open(options: &BlockdevOptionsSsh, flags: u32) -> Result<Remote, QError> {
        let args = arguments(options)?;
        let thread = thread().map_err(|e| qerr!("cannot start a thread: {e}"))?;
        let options = options.clone();
        let task = thread.spawn(move || async move { Remote::connect(args, options, flags).await });
        task.outcome().await.unwrap_or_else(|_| Err(qerr!("the thread for SSH has ended")))
    }

    async fn connect(args: Vec<String>, o: BlockdevOptionsSsh, flags: u32) -> Result<Remote, QError> {
        let (program, stream) = Program::start(args).await?;
        let opened = rt::timeout(OPENING, async {
            let session = match Session::begin(stream.clone(), PATIENCE).await {
                Ok(session) => session,
                Err(_) => {
                    stream.shutdown();
                    // It says why before it ends.
                    program.end().await;
                    return Err(explained(&program.said(), &o));
                }
            };
            let listener = session.clone();
            drop(rt::spawn_local(async move { listener.listen().await }));
            let file = File::open(session.clone(), &o.path, flags).await;
            if file.is_err() {
                session.give_up();
            }
            file
        });
        let opened = opened.await.unwrap_or_else(|| {
            let (host, port) = (&o.server.host, &o.server.port);
            Err(qerr!("Failed to connect to '{host}:{port}': {}", Errno::TIMEDOUT))
        });
        match opened {
            Ok(file) => Ok(Remote { file, program, filename: filename(&o) }),
            Err(e) => {
                stream.shutdown();
                program.end().await;
                Err(e)
            }
        }
    }

    /// Ends the conversation, and the program with it.
    pub(crate) async fn end(&self) -> IoResult<()> {
        let closed = self.file.close().await;
        self.program.end().await;
        closed
    }
}

impl Driver for Remote {
    fn len(&self, _cx: &Cx<'_>) -> u64 {
        self.file.len().next_multiple_of(SECTOR)
    }

    fn locate<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Extent> {
        let kind = ExtentKind::Own { offset: Some(off), zero: false };
        let eof = off + len >= self.len(cx);
        Box::pin(std::future::ready(Ok(Extent { len, kind, eof })))
    }

    fn read<'a>(&'a self, _cx: &'a Cx<'a>, off: u64, buf: IoBuf) -> IoFuture<'a> {
        Box::pin(self.file.read(off, buf))
    }

    fn write<'a>(&'a self, _cx: &'a Cx<'a>, off: u64, buf: IoBuf, _flags: WriteFlags) -> IoFuture<'a> {
        Box::pin(self.file.write(off, buf))
    }

    fn flush<'a>(&'a self, _cx: &'a Cx<'a>) -> IoFuture<'a> {
        Box::pin(self.file.flush())
    }

    fn truncate<'a>(&'a self, cx: &'a Cx<'a>, len: u64, _exact: bool, prealloc: Prealloc) -> IoFuture<'a> {
        Box::pin(async move {
            if prealloc != Prealloc::Off || len < self.len(cx) {
                return Err(Errno::NOTSUP);
            }
            self.file.grow(len).await.map_err(|e| e.errno())
        })
    }

    fn close<'a>(&'a self, _cx: &'a Cx<'a>) -> IoFuture<'a> {
        Box::pin(self.end())
    }

    fn filename(&self) -> Option<String> {
        self.filename.clone()
    }
}
