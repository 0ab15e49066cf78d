//! The state between commands, and how a line becomes one.

use super::hmp::OF_THE_PROGRAM;
use super::number;
use super::table::{Command, Needs, Words, find};
use super::text::Text;
use crate::open::Cache;
use block::{BlockGraph, Perm, Root, RootConfig};
use qapi::QError;
use qom::ObjectTree;
use rt::sync::Notify;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// What came of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// It went well.
    Well,
    /// It did not, and said so: the program will fail.
    Failed,
    /// The program shall end.
    Quit,
}

/// An open image.
pub(super) struct Image {
    /// The graph that holds it.
    pub(super) graph: Arc<BlockGraph>,
    /// The node that is used.
    pub(super) node: String,
    /// How it is used.
    pub(super) root: Arc<Root>,
    /// How the cache is used.
    pub(super) cache: Cache,
}

/// The name that the drive of an image has.
pub(super) const DRIVE: &str = "none0";

impl Image {
    /// A user of the open node, which messages call `desc`; where it writes, it may also `resize`.
    pub(super) async fn attach(
        graph: &Arc<BlockGraph>,
        node: &str,
        write: bool,
        resize: bool,
        cache: Cache,
        desc: &str,
    ) -> Result<Arc<Root>, QError> {
        let mut perm = Perm::CONSISTENT_READ;
        if write {
            perm |= if resize { Perm::WRITE | Perm::RESIZE } else { Perm::WRITE };
        }
        let config = RootConfig {
            perm,
            shared: Perm::all(),
            desc: desc.into(),
            write_through: cache.write_through,
            ..RootConfig::default()
        };
        graph.attach(node, config).await
    }
}

/// Requests that go on while other commands run.
#[derive(Default)]
pub(super) struct Background {
    running: Cell<usize>,
    changed: Notify,
}

impl Background {
    /// One more; it is over when the answer is dropped.
    pub(super) fn begin(self: &Rc<Background>) -> OneOfThem {
        self.running.set(self.running.get() + 1);
        OneOfThem(self.clone())
    }

    /// Whether there is any.
    pub(super) fn any(&self) -> bool {
        self.running.get() > 0
    }

    /// Waits until there is none.
    pub(super) async fn idle(&self) {
        while self.any() {
            let changed = self.changed.notified();
            if self.any() {
                changed.await;
            }
        }
    }
}

/// A request in the background.
pub(super) struct OneOfThem(Rc<Background>);

impl Drop for OneOfThem {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
        self.0.changed.notify_all();
    }
}

/// What is different where a human monitor runs a command on a node of a machine.
#[derive(Default)]
pub(super) struct Monitor {
    /// The user of the node is not ours: a guest's device, say. It is never detached.
    pub(super) borrowed: bool,
    /// Errors: the monitor answers with them.
    pub(super) said: RefCell<String>,
}

/// What lasts from command to command.
pub(super) struct Session {
    /// What the program is called.
    pub(super) program: String,
    /// Where text goes.
    pub(super) text: Rc<Text>,
    /// The objects that options may name.
    pub(super) objects: Arc<ObjectTree>,
    /// `--image-opts`: what is opened is described, not named.
    pub(super) image_opts: bool,
    /// The open image.
    pub(super) image: Option<Image>,
    /// Requests in flight.
    pub(super) background: Rc<Background>,
    /// Who runs commands, if that is not the program.
    pub(super) monitor: Option<Monitor>,
}

impl Session {
    /// Nothing is open.
    pub(super) fn new(program: &str, text: Rc<Text>) -> Session {
        Session {
            program: program.to_owned(),
            text,
            objects: Arc::new(ObjectTree::new()),
            image_opts: false,
            image: None,
            background: Rc::default(),
            monitor: None,
        }
    }

    /// The command of this name, if it is one here.
    pub(super) fn command(&self, name: &str) -> Option<&'static Command> {
        find(name).filter(|c| self.knows(c))
    }

    /// Whether the command can be used here.
    pub(super) fn knows(&self, command: &Command) -> bool {
        self.monitor.is_none() || !OF_THE_PROGRAM.contains(&command.name)
    }

    /// Whether the image's user is somebody else's.
    pub(super) fn borrowed(&self) -> bool {
        self.monitor.as_ref().is_some_and(|m| m.borrowed)
    }

    /// Prints a line and fails.
    pub(super) fn fail(&self, text: &str) -> Done {
        // It has been told what two images that must show the same disagree about: nothing that follows means anything.
        if self.monitor.is_none() && block_test::disagreed() {
            self.text.flush();
            std::process::exit(1);
        }
        self.text.line(text);
        Done::Failed
    }

    /// Tells an error by the program's name.
    pub(super) fn error(&self, text: &str) -> Done {
        self.complain(&format!("{}: ", self.program), text);
        Done::Failed
    }

    fn complain(&self, who: &str, text: &str) {
        match &self.monitor {
            Some(m) => m.said.borrow_mut().push_str(&format!("{text}\n")),
            None => self.text.warn(&format!("{who}{text}")),
        }
    }

    /// The same, with its hint.
    pub(super) fn error_of(&self, e: &QError) -> Done {
        self.error(e.desc());
        if let Some(h) = e.hint() {
            self.complain("", h.trim_end_matches('\n'));
        }
        Done::Failed
    }

    /// How a command is used.
    pub(super) fn usage(&self, command: &Command) -> Done {
        self.fail(&command.usage())
    }

    /// A wrong option.
    pub(super) fn wrong(&self, w: &Words<'_>, e: &str) -> Done {
        self.text.warn(&format!("{}: {e}", w.called));
        self.usage(w.command)
    }

    /// The user of the open image; it is there when a command needs it.
    pub(super) fn root(&self) -> Result<Arc<Root>, Done> {
        match &self.image {
            Some(i) => Ok(i.root.clone()),
            None => {
                self.text.warn("no file open, try 'help open'");
                Err(Done::Failed)
            }
        }
    }

    /// A size, or its message.
    pub(super) fn size(&self, text: &str) -> Result<u64, Done> {
        number::size(text).map_err(|e| self.fail(&e))
    }

    /// Runs a line.
    pub(super) async fn run(&mut self, line: &str) -> Done {
        let words: Vec<String> = line.split(' ').filter(|w| !w.is_empty()).map(str::to_owned).collect();
        let Some((name, words)) = words.split_first() else { return Done::Well };
        let Some(command) = self.command(name) else {
            self.text.warn(&format!("command \"{name}\" not found"));
            return Done::Failed;
        };
        if command.needs != Needs::Nothing
            && let Err(failed) = self.root()
        {
            return failed;
        }
        if let Some(wanted) = wanted(command.words, words.len()) {
            let n = words.len();
            self.text.warn(&format!("bad argument count {n} to {name}, expected {wanted} arguments"));
            return Done::Failed;
        }
        let read_only = |i: &Image| i.root.has_medium() && i.root.read_only();
        if command.needs == Needs::Writing && self.image.as_ref().is_some_and(read_only) {
            return self.error("Block node is read-only");
        }
        let done = (command.run)(self, Words { command, called: name, words }).await;
        super::debug::tell(self);
        done
    }

    /// Gives the image back.
    pub(super) async fn close(&mut self) {
        super::debug::release(self);
        self.background.idle().await;
        if let Some(i) = self.image.take() {
            i.root.detach().await;
            i.graph.close_all().await;
        }
    }
}

/// How many words are wanted, if `n` is wrong.
fn wanted((min, max): (usize, Option<usize>), n: usize) -> Option<String> {
    let wrong = n < min || max.is_some_and(|m| n > m);
    wrong.then(|| match max {
        None => format!("at least {min}"),
        Some(max) if max == min => format!("{min}"),
        Some(max) => format!("between {min} and {max}"),
    })
}

#[cfg(test)]
mod tests {
    use super::wanted;

    #[test]
    fn how_many_words() {
        assert_eq!(wanted((2, None), 5), None);
        assert_eq!(wanted((2, None), 1).unwrap(), "at least 2");
        assert_eq!(wanted((0, Some(0)), 1).unwrap(), "0");
        assert_eq!(wanted((1, Some(3)), 4).unwrap(), "between 1 and 3");
    }
}
