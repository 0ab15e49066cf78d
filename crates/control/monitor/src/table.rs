//! The table of QMP commands.

use qapi::{Command, Dict, ErrorClass, Event, QError, Value};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// A future that stays on the thread that polls it first.
pub type LocalFuture<T> = Pin<Box<dyn Future<Output = T> + 'static>>;

type AsyncFn = Arc<dyn Fn(Value) -> LocalFuture<Result<Value, QError>> + Send + Sync>;
/// Checks the arguments and gives what is to be done once the reply is on its way.
type RequestFn = Arc<dyn Fn(Value) -> Result<Box<dyn FnOnce() + Send>, QError> + Send + Sync>;
type SyncFn = Arc<dyn Fn(Value) -> Result<Value, QError> + Send + Sync>;

#[derive(Clone)]
pub(crate) enum Handler {
    /// Runs on the control executor.
    Async(AsyncFn),
    /// Never waits; runs on the control executor, or on the monitor's thread when called out of band.
    Sync(SyncFn),
    /// Answered first and begun then.
    Request(RequestFn),
    /// The session itself does it.
    Session,
}

#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) handler: Handler,
    pub(crate) allow_oob: bool,
    pub(crate) allow_preconfig: bool,
}

/// The QMP commands and events of a process, registered by type.
///
/// A handler gets its arguments already checked; the reply of one that returns an error carries the error's
/// class and text. Registering a name twice is a bug and panics.
#[derive(Default)]
pub struct CommandTable {
    commands: BTreeMap<&'static str, Entry>,
    schema: Vec<fn(&mut qapi::Introspection)>,
}

fn arguments<C: Command>(args: Value) -> Result<C, QError> {
    qapi::from_json(args)
}

/// A command without a result answers with an empty object.
fn result<T: qapi::Qapi>(ret: &T) -> Value {
    match qapi::to_value(ret) {
        Value::Null => Value::Dict(Dict::new()),
        v => v,
    }
}

impl CommandTable {
    /// A table without commands.
    pub fn new() -> CommandTable {
        CommandTable::default()
    }

    /// Registers an in-band command. Its future runs on the control executor and may wait for as long as it
    /// likes; further commands of the same session wait for it, other sessions do not.
    pub fn register<C, F, Fut>(&mut self, f: F)
    where
        C: Command,
        F: Fn(C) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<C::Ret, QError>> + 'static,
    {
        let f = Arc::new(f);
        let handler: AsyncFn = Arc::new(move |args| {
            let f = f.clone();
            Box::pin(async move { Ok(result(&f(arguments::<C>(args)?).await?)) })
        });
        self.insert::<C>(Handler::Async(handler), false);
    }

    /// Registers a command that may be called out of band: it must answer at once, on any thread, without
    /// waiting for a lock that is held while something is waited for.
    pub fn register_oob<C, F>(&mut self, f: F)
    where
        C: Command,
        F: Fn(C) -> Result<C::Ret, QError> + Send + Sync + 'static,
    {
        let handler: SyncFn = Arc::new(move |args| Ok(result(&f(arguments::<C>(args)?)?)));
        self.insert::<C>(Handler::Sync(handler), C::ALLOW_OOB);
    }

    /// Registers a command that only asks for something, such as the program's end: `f` notes the wish, on the
    /// monitor's thread and without waiting, after the reply was put before everything that follows from it.
    pub fn register_request<C, F>(&mut self, f: F)
    where
        C: Command<Ret = ()> + Send + 'static,
        F: Fn(C) + Send + Sync + 'static,
    {
        let f = Arc::new(f);
        let handler: RequestFn = Arc::new(move |args| {
            let (f, command) = (f.clone(), arguments::<C>(args)?);
            Ok(Box::new(move || f(command)))
        });
        self.insert::<C>(Handler::Request(handler), false);
    }

    /// Registers a command that sessions carry out themselves.
    pub(crate) fn register_session<C: Command>(&mut self) {
        self.insert::<C>(Handler::Session, false);
    }

    /// Registers a command that tells a value which is ready; it may run on any thread.
    pub(crate) fn register_value<C: Command>(&mut self, f: impl Fn() -> Value + Send + Sync + 'static) {
        let handler: SyncFn = Arc::new(move |args| arguments::<C>(args).map(|_| f()));
        self.insert::<C>(Handler::Sync(handler), C::ALLOW_OOB);
    }

    fn insert<C: Command>(&mut self, handler: Handler, allow_oob: bool) {
        let entry = Entry { handler, allow_oob, allow_preconfig: C::ALLOW_PRECONFIG };
        let old = self.commands.insert(C::NAME, entry);
        assert!(old.is_none(), "command {} is registered twice", C::NAME);
        self.schema.push(|i| i.command::<C>());
    }

    /// Declares an event for `query-qmp-schema`.
    pub fn event<E: Event>(&mut self) {
        self.schema.push(|i| i.event::<E>());
    }

    /// Runs a command without a session, as its caller's own work: for programs that use commands themselves, and for
    /// tests. A session's own commands cannot be run so.
    pub async fn call(&self, name: &str, arguments: Value) -> Result<Value, QError> {
        match self.get(name).map(|e| &e.handler) {
            Some(Handler::Async(f)) => f(arguments).await,
            Some(Handler::Sync(f)) => f(arguments),
            Some(Handler::Request(f)) => {
                f(arguments)?();
                Ok(Value::Dict(Dict::new()))
            }
            Some(Handler::Session) | None => Err(QError::with_class(
                ErrorClass::CommandNotFound,
                format!("The command {name} has not been found"),
            )),
        }
    }

    /// The names of the commands, sorted.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.commands.keys().copied()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Entry> {
        self.commands.get(name)
    }

    /// What `query-qmp-schema` answers.
    pub fn introspect(&self) -> Value {
        let mut i = qapi::Introspection::new();
        for f in &self.schema {
            f(&mut i);
        }
        i.finish()
    }
}
