//! Carries the options out and serves until somebody asks for the end. All of it happens on the control thread.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use api::block_export::{BlockExportOptions, NbdServerOptions};
use api::control::{MonitorMode, MonitorOptions, Quit};
use chardev::CharStream;
use monitor::{CommandTable, HmpTable, Monitor, QmpOptions};
use qapi::{QError, qerr};

use super::options::{Given, Name};
use super::{at, help};
use crate::process::{PidFile, Stop, daemon, on_signals};
use crate::storage::{Storage, text};

/// How long clients of the monitors have at the end to read what was said to them.
const FAREWELL: Duration = Duration::from_secs(2);

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

/// What the options made beside what is in [`Storage`].
#[derive(Default)]
struct Made {
    monitors: Vec<(Arc<CharStream>, QmpOptions)>,
    pidfile: Option<String>,
    daemonize: bool,
}

enum SetUp {
    Ready(Made),
    /// An option asked for a list instead.
    Answered,
}

/// Serves what the options ask for; the exit code.
pub(super) async fn run(given: &[Given]) -> Result<i32, String> {
    let stop = Arc::new(Stop::default());
    let asked = stop.clone();
    on_signals(false, move || asked.ask())?;
    let storage = Storage::new()?;
    let result = match unless(set_up(given, &storage), stop.wait()).await {
        Some(Ok(SetUp::Ready(made))) => return serve(made, storage, stop).await,
        Some(Err(e)) => Err(e),
        Some(Ok(SetUp::Answered)) | None => Ok(0),
    };
    storage.close().await;
    result
}

async fn set_up(given: &[Given], storage: &Storage) -> Result<SetUp, String> {
    let mut made = Made { daemonize: given.iter().any(|g| g.name == Name::Daemonize), ..Made::default() };
    for g in given {
        if let Some(text) = help::answer(g).map_err(|e| at(g, e))? {
            base::print(&text);
            return Ok(SetUp::Answered);
        }
        carry_out(g, storage, &mut made).await.map_err(|e| at(g, text(e)))?;
    }
    Ok(SetUp::Ready(made))
}

async fn carry_out(g: &Given, storage: &Storage, made: &mut Made) -> Result<(), QError> {
    match g.name {
        Name::Blockdev => storage.add_blockdev(&g.value).await,
        Name::Chardev => {
            if made.daemonize
                && chardev::Config::parse(&g.value)
                    .is_ok_and(|c| matches!(c.kind, chardev::Kind::Stdio { .. }))
            {
                return Err(qerr!("cannot use stdio with -daemonize"));
            }
            storage.add_chardev(&g.value).await
        }
        Name::Export => {
            let options: BlockExportOptions = qapi::from_arg(&g.value, Some("type"))?;
            storage.exports.add(options).await
        }
        Name::Monitor => {
            let m: MonitorOptions = qapi::from_arg(&g.value, Some("chardev"))?;
            if m.mode == Some(MonitorMode::Readline) {
                return Err(qerr!("Only QMP is supported"));
            }
            // A client is served once everything stands.
            let stream = storage.chardevs.monitor_stream(&m.chardev, false)?;
            let oob = !storage.chardevs.is_mux(&m.chardev);
            made.monitors.push((stream, QmpOptions { pretty: m.pretty.unwrap_or(false), oob }));
            Ok(())
        }
        Name::NbdServer => {
            let options: NbdServerOptions = qapi::from_arg(&g.value, None)?;
            storage.exports.start_server(options).await
        }
        Name::Object => storage.add_object(&g.value),
        Name::Pidfile => {
            made.pidfile = Some(g.value.clone());
            Ok(())
        }
        Name::Word => Err(qerr!("Unexpected argument")),
        Name::Daemonize | Name::Help | Name::Trace | Name::Version => Ok(()),
    }
}

async fn serve(made: Made, storage: Storage, stop: Arc<Stop>) -> Result<i32, String> {
    let ended = Arc::new(Stop::default());
    let result = serve_until(&made, &storage, &stop, &ended).await;
    match result {
        Ok((monitor, _pidfile)) => {
            // Clients hear of exports and jobs that end with the program, and change nothing any more.
            monitor.stop_commands();
            storage.close_storage().await;
            ended.ask();
            monitor.shutdown(FAREWELL).await;
            storage.chardevs.close_all();
            Ok(0)
        }
        Err(e) => {
            storage.close().await;
            Err(e)
        }
    }
}

async fn serve_until(
    made: &Made,
    storage: &Storage,
    stop: &Arc<Stop>,
    ended: &Arc<Stop>,
) -> Result<(Monitor, Option<PidFile>), String> {
    let mut commands = CommandTable::new();
    // There is no human monitor; what would be shown there is told by commands.
    storage.register(&mut commands, &mut HmpTable::new());
    let (asked, ended) = (stop.clone(), ended.clone());
    // Answered when all has ended, behind the events of that: whoever asks gets them even if nothing more is read from it.
    commands.register(move |_: Quit| {
        let (asked, ended) = (asked.clone(), ended.clone());
        async move {
            asked.ask();
            ended.wait().await;
            Ok(())
        }
    });
    let monitor = Monitor::new(commands, None, storage.events.clone(), rt::current())
        .map_err(|e| format!("cannot set up the monitors' thread: {e}"))?;
    let pidfile = made.pidfile.as_deref().map(|p| PidFile::create(p.as_ref())).transpose()?;
    if made.daemonize {
        daemon::ready().map_err(|e| format!("--daemonize: {e}"))?;
    }
    for (stream, options) in &made.monitors {
        monitor.serve_qmp(stream.clone(), *options);
    }
    stop.wait().await;
    Ok((monitor, pidfile))
}
