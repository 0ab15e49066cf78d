//! `qemu-io` of the human monitor: a command of this tool on a node or a drive of a running machine.

use super::session::{Image, Monitor, Session};
use super::table::{Needs, find};
use super::text::Text;
use crate::open::Cache;
use block::BlockGraph;
use monitor::HmpTable;
use qapi::{QError, qerr};
use rt::sync::Notify;
use std::cell::Cell;
use std::future::Future;
use std::io::IsTerminal;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

/// What only the program itself can do: here there is no such command.
pub(super) const OF_THE_PROGRAM: [&str; 3] = ["open", "close", "quit"];

/// What would be done to the whole process, and so to a guest.
const OF_THE_PROCESS: [&str; 2] = ["abort", "sigraise"];

/// Registers the command. What it prints goes to the standard output of the program, as the reference has it.
pub fn register(hmp: &mut HmpTable, graph: &Arc<BlockGraph>) {
    let g = graph.clone();
    hmp.register(
        "qemu-io",
        "[-d] device command",
        "run a qemu-io command on a block device (-d: device is the id of a guest's device)",
        move |a| {
            let request = Request {
                graph: g.clone(),
                of_guest: a.flag('d'),
                device: a.get("device").unwrap_or_default().to_owned(),
                line: a.get("command").unwrap_or_default().to_owned(),
            };
            ask(request)
        },
    );
}

/// Runs a command line; the answer. Whoever asked may go away: what was attached is given back all the same.
async fn ask(request: Request) -> Result<String, QError> {
    let client = Rc::new(Client::default());
    let _here = Here(client.clone());
    rt::spawn_local(request.run(client)).await
}

/// Who waits for the answer.
#[derive(Default)]
struct Client {
    gone: Cell<bool>,
    changed: Notify,
}

impl Client {
    /// Waits until nobody waits.
    async fn gone(&self) {
        while !self.gone.get() {
            let changed = self.changed.notified();
            if !self.gone.get() {
                changed.await;
            }
        }
    }
}

/// Somebody waits as long as this is there.
struct Here(Rc<Client>);

impl Drop for Here {
    fn drop(&mut self) {
        self.0.gone.set(true);
        self.0.changed.notify_all();
    }
}

/// A command line.
struct Request {
    graph: Arc<BlockGraph>,
    of_guest: bool,
    device: String,
    line: String,
}

impl Request {
    async fn run(self, client: Rc<Client>) -> Result<String, QError> {
        let Request { graph, of_guest, device, line } = self;
        let command = line.split(' ').find(|w| !w.is_empty()).and_then(find);
        let (drive, guest) = if of_guest { (None, Some(&*device)) } else { (Some(&*device), None) };
        let user = graph.user_of(drive, guest);
        let held = graph.snapshot();
        let node = held.drive_or_node(&device);
        if user.is_none() && of_guest {
            return Err(qerr!("Device '{device}' not found"));
        }
        if user.is_none() && node.is_none() && held.drive(&device).is_none() {
            return Err(qerr!("Cannot find device='' nor node-name='{device}'"));
        }
        if let Some(c) = command.filter(|c| OF_THE_PROCESS.contains(&c.name)) {
            return Err(qerr!("'{}' would end the whole machine: it cannot be used here", c.name));
        }
        let cache = Cache::default();
        let borrowed = user.is_some();
        let root = match user {
            Some(root) => Some(root),
            // Who sleeps needs nothing meanwhile.
            None if command.is_none_or(|c| c.needs == Needs::Nothing) => None,
            None => {
                let write = command.is_some_and(|c| c.needs == Needs::Writing);
                let write = write && node.is_none_or(|n| !n.flags.read_only);
                // Beside a job only what needs no other length is possible.
                let resize = command.is_some_and(|c| c.name == "truncate");
                match Image::attach(&graph, &device, write, resize, cache, "").await {
                    Ok(root) => Some(root),
                    // What is wrong with the request is said as other requests' errors are.
                    Err(e) => return Ok(format!("{}\n", e.desc())),
                }
            }
        };
        drop(held);
        let out = std::io::stdout();
        let seen = out.is_terminal();
        let text = Text::new(Box::new(out), Box::new(std::io::stderr()), seen);
        let mut s = Session::new("qemu-io", text.clone());
        s.monitor = Some(Monitor { borrowed, ..Monitor::default() });
        s.image = root.map(|root| Image { graph, node: root.node_name().unwrap_or_default(), root, cache });
        unless(client.gone(), s.run(&line)).await;
        text.flush();
        let said = s.monitor.as_ref().map_or_else(String::new, |m| m.said.take());
        // What was started in the background goes on; its text comes when it ends.
        if s.background.any() {
            drop(rt::spawn_local(leave(s)));
        } else {
            leave(s).await;
        }
        Ok(said)
    }
}

/// Waits for what goes on, and gives back what is not somebody else's.
async fn leave(mut s: Session) {
    s.background.idle().await;
    s.text.flush();
    if let Some(i) = s.image.take()
        && !s.borrowed()
    {
        i.root.detach().await;
    }
}

/// Runs `f` until it is through or `end` is.
async fn unless(end: impl Future<Output = ()>, f: impl Future) {
    let (mut end, mut f) = (std::pin::pin!(end), std::pin::pin!(f));
    std::future::poll_fn(|cx| match f.as_mut().poll(cx).is_ready() || end.as_mut().poll(cx).is_ready() {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn who_goes_away_leaves_nobody_attached() {
        rt::block_on(async {
            let graph = crate::open::new_graph();
            let options =
                r#"{"driver": "blkdebug", "node-name": "hmp-gone", "image": {"driver": "null-co"}}"#;
            graph.add(qapi::from_json(qapi::Value::parse_json(options).unwrap()).unwrap()).await.unwrap();
            let ask = |line: &str| {
                ask(Request {
                    graph: graph.clone(),
                    of_guest: false,
                    device: "hmp-gone".into(),
                    line: line.into(),
                })
            };
            let users = || graph.snapshot().roots().count();
            assert_eq!(ask("break read_aio A").await.unwrap(), "");
            assert_eq!(users(), 0);
            // Nothing comes to that place: this would wait for ever.
            let attached = async {
                while users() == 0 {
                    rt::sleep(Duration::from_millis(1)).await;
                }
            };
            unless(attached, ask("wait_break A")).await;
            assert_eq!(users(), 1);
            let given_back = rt::timeout(Duration::from_secs(10), async {
                while users() > 0 {
                    rt::sleep(Duration::from_millis(1)).await;
                }
            });
            assert!(given_back.await.is_some());
            assert!(ask("abort").await.unwrap_err().desc().starts_with("'abort' would end"));
            graph.close_all().await;
        });
    }
}
