use crate::authz::{AuthzList, AuthzListFile, AuthzSimple};
use crate::object::{Object, Property, RngBackend, RngFuture};
use crate::secrets::SecretObject;
use crate::tls::TlsCredsObject;
use crate::tree::ObjectTree;
use api::qom::{
    IothreadProperties, MemoryBackendProperties, ObjectOptions, ObjectProperties, RngRandomProperties,
};
use base::{Errno, IoResult};
use mem::Memory;
use parking_lot::Mutex;
use qapi::{QError, Value, qerr};
use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

/// The types that users can make: name, and the properties' help lines.
const TYPES: &[(&str, &[&str])] = &[
    ("authz-list", &["  policy=<QAuthZListPolicy>", "  rules=<QAuthZListRule>"]),
    ("authz-listfile", &["  filename=<string>", "  refresh=<bool>"]),
    ("authz-simple", &["  identity=<string>"]),
    ("iothread", &["  poll-grow=<int>", "  poll-max-ns=<int>", "  poll-shrink=<int>"]),
    (
        "memory-backend-ram",
        &[
            "  prealloc=<bool>        - Preallocate memory",
            "  size=<int>             - Size of the memory region (ex: 500M)",
        ],
    ),
    ("rng-builtin", &[]),
    ("rng-random", &["  filename=<string>"]),
    (
        "secret",
        &[
            "  data=<string>",
            "  file=<string>",
            "  format=<QCryptoSecretFormat>",
            "  iv=<string>",
            "  keyid=<string>",
        ],
    ),
    (
        "secret_keyring",
        &["  format=<QCryptoSecretFormat>", "  iv=<string>", "  keyid=<string>", "  serial=<int32_t>"],
    ),
    ("tls-creds-anon", &["  endpoint=<QCryptoTLSCredsEndpoint>", "  priority=<string>"]),
    (
        "tls-creds-psk",
        &[
            "  dir=<string>",
            "  endpoint=<QCryptoTLSCredsEndpoint>",
            "  priority=<string>",
            "  username=<string>",
        ],
    ),
    (
        "tls-creds-x509",
        &[
            "  dir=<string>",
            "  endpoint=<QCryptoTLSCredsEndpoint>",
            "  passwordid=<string>",
            "  priority=<string>",
            "  sanity-check=<bool>",
            "  verify-peer=<bool>",
        ],
    ),
    (
        "throttle-group",
        &[
            "  limits=<ThrottleLimits>",
            "  x-bps-read=<int>",
            "  x-bps-read-max=<int>",
            "  x-bps-read-max-length=<int>",
            "  x-bps-total=<int>",
            "  x-bps-total-max=<int>",
            "  x-bps-total-max-length=<int>",
            "  x-bps-write=<int>",
            "  x-bps-write-max=<int>",
            "  x-bps-write-max-length=<int>",
            "  x-iops-read=<int>",
            "  x-iops-read-max=<int>",
            "  x-iops-read-max-length=<int>",
            "  x-iops-size=<int>",
            "  x-iops-total=<int>",
            "  x-iops-total-max=<int>",
            "  x-iops-total-max-length=<int>",
            "  x-iops-write=<int>",
            "  x-iops-write-max=<int>",
            "  x-iops-write-max-length=<int>",
        ],
    ),
];

/// The text of `-object help`.
pub fn help() -> String {
    let lines: Vec<_> = TYPES.iter().map(|(name, _)| format!("  {name}\n")).collect();
    format!("List of user creatable objects:\n{}", lines.concat())
}

/// The text of `-object TYPE,help`.
///
/// # Errors
/// `Parameter 'qom-type' does not accept value 'x'`.
pub fn type_help(name: &str) -> Result<String, QError> {
    let found = TYPES.iter().find(|(n, _)| *n == name);
    let (_, lines) = found.ok_or_else(|| qerr!("Parameter 'qom-type' does not accept value '{name}'"))?;
    if lines.is_empty() {
        return Ok(format!("There are no options for {name}.\n"));
    }
    Ok(format!("{name} options:\n{}\n", lines.join("\n")))
}

/// Makes the object that `options` describe; what they name is looked up in `tree`, into which it is not put yet.
///
/// # Errors
/// The type's own: a file that cannot be opened, no memory, no thread.
pub fn create(options: &ObjectOptions, tree: &ObjectTree) -> Result<Arc<dyn Object>, QError> {
    Ok(match &options.qom_type {
        ObjectProperties::Iothread(p) => Arc::new(IoThreadObject::new(&options.id, p)?),
        ObjectProperties::MemoryBackendRam(p) => Arc::new(MemoryObject::new(&options.id, p)?),
        ObjectProperties::RngBuiltin => Arc::new(RngBuiltin),
        ObjectProperties::ThrottleGroup(p) => Arc::new(crate::ThrottleObject::new(p)?),
        ObjectProperties::RngRandom(p) => Arc::new(RngRandom::new(p)?),
        ObjectProperties::Secret(p) => Arc::new(SecretObject::new(p, tree)?),
        ObjectProperties::AuthzList(p) => Arc::new(AuthzList(p.clone())),
        ObjectProperties::AuthzListfile(p) => Arc::new(AuthzListFile::new(p.clone())?),
        ObjectProperties::AuthzSimple(p) => Arc::new(AuthzSimple(p.clone())),
        ObjectProperties::TlsCredsAnon(p) => Arc::new(TlsCredsObject::anon(p)?),
        ObjectProperties::TlsCredsPsk(p) => Arc::new(TlsCredsObject::psk(p)?),
        ObjectProperties::TlsCredsX509(p) => Arc::new(TlsCredsObject::x509(p, tree)?),
        ObjectProperties::SecretKeyring(p) => Arc::new(SecretObject::keyring(p, tree)?),
    })
}

/// `iothread`: an executor on a thread of its own, which ends with the object.
pub struct IoThreadObject {
    thread: rt::IoThread,
    properties: IothreadProperties,
}

/// The default of `poll-max-ns`.
const POLL_MAX_NS: i64 = 32_768;

impl IoThreadObject {
    fn new(id: &str, p: &IothreadProperties) -> Result<IoThreadObject, QError> {
        let number = |name: &str, v: Option<i64>, default: i64| {
            let range = || qerr!("{name} value must be in range [0, {}]", i64::MAX);
            u64::try_from(v.unwrap_or(default)).map_err(|_| range())
        };
        let factor = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let polling = rt::Polling {
            most: Duration::from_nanos(number("poll-max-ns", p.poll_max_ns, POLL_MAX_NS)?),
            grow: factor(number("poll-grow", p.poll_grow, 0)?),
            shrink: factor(number("poll-shrink", p.poll_shrink, 0)?),
        };
        let thread = rt::IoThread::spawn_as(&format!("IO {id}"), rt::Conduct::storage().polling(polling))
            .map_err(|e| qerr!("Could not start I/O thread '{id}': {e}"))?;
        Ok(IoThreadObject { thread, properties: p.clone() })
    }
}

impl Object for IoThreadObject {
    fn type_name(&self) -> &str {
        "iothread"
    }

    fn properties(&self) -> Vec<Property> {
        ["poll-grow", "poll-max-ns", "poll-shrink"].map(|n| Property::new(n, "int")).into()
    }

    fn get(&self, name: &str) -> Option<Value> {
        let p = &self.properties;
        match name {
            "poll-max-ns" => Some(p.poll_max_ns.unwrap_or(POLL_MAX_NS).into()),
            "poll-grow" => Some(p.poll_grow.unwrap_or(0).into()),
            "poll-shrink" => Some(p.poll_shrink.unwrap_or(0).into()),
            _ => None,
        }
    }

    fn iothread(&self) -> Option<rt::Handle> {
        Some(self.thread.handle())
    }
}

/// `memory-backend-ram`: anonymous memory.
pub struct MemoryObject {
    mem: Arc<Memory>,
    prealloc: bool,
}

impl MemoryObject {
    fn new(id: &str, p: &MemoryBackendProperties) -> Result<MemoryObject, QError> {
        if p.size == 0 {
            return Err(QError::new("property 'size' of memory-backend-ram doesn't take value '0'"));
        }
        let cannot = |e: Errno| qerr!("cannot set up guest memory '{id}': {e}");
        let mem = Memory::ram(id, p.size).map_err(cannot)?;
        let prealloc = p.prealloc.unwrap_or(false);
        if prealloc {
            mem.populate().map_err(cannot)?;
        }
        Ok(MemoryObject { mem, prealloc })
    }
}

impl Object for MemoryObject {
    fn type_name(&self) -> &str {
        "memory-backend-ram"
    }

    fn properties(&self) -> Vec<Property> {
        vec![Property::new("prealloc", "bool"), Property::new("size", "int")]
    }

    fn get(&self, name: &str) -> Option<Value> {
        match name {
            "size" => Some(i64::try_from(self.mem.len()).map_or(Value::Uint(self.mem.len()), Value::Int)),
            "prealloc" => Some(Value::Bool(self.prealloc)),
            _ => None,
        }
    }

    fn memory(&self) -> Option<Arc<Memory>> {
        Some(self.mem.clone())
    }
}

/// `rng-builtin`: the host's system call.
pub struct RngBuiltin;

impl RngBackend for RngBuiltin {
    fn bytes(&self, len: usize) -> RngFuture {
        let mut v = vec![0; len];
        let done = getrandom::fill(&mut v).map(|()| v).map_err(|_| Errno::IO);
        Box::pin(std::future::ready(done))
    }
}

impl Object for RngBuiltin {
    fn type_name(&self) -> &str {
        "rng-builtin"
    }

    fn rng(&self) -> Option<Arc<dyn RngBackend>> {
        Some(Arc::new(RngBuiltin))
    }
}

/// `rng-random`: a file, usually a device.
pub struct RngRandom {
    filename: String,
    source: Arc<FileSource>,
}

struct FileSource(Mutex<File>);

impl RngRandom {
    fn new(p: &RngRandomProperties) -> Result<RngRandom, QError> {
        use std::os::unix::fs::OpenOptionsExt;
        let filename = p.filename.clone().unwrap_or_else(|| "/dev/urandom".into());
        // Not blocking, so that a FIFO without a writer does not hold up whoever opens it.
        let opened = File::options().read(true).custom_flags(O_NONBLOCK).open(&filename);
        let file = opened.map_err(|e| qerr!("Could not open '{filename}': {}", Errno::from(e)))?;
        Ok(RngRandom { filename, source: Arc::new(FileSource(Mutex::new(file))) })
    }
}

/// As Linux numbers it on all architectures that Rhea runs on.
pub(crate) const O_NONBLOCK: i32 = 0o4000;

impl FileSource {
    fn read(&self, len: usize) -> IoResult<Vec<u8>> {
        let mut v = vec![0; len];
        match self.0.lock().read(&mut v) {
            Ok(0) => Err(Errno::IO),
            Ok(n) => {
                v.truncate(n);
                Ok(v)
            }
            Err(e) => Err(Errno::from(e)),
        }
    }
}

impl RngBackend for FileSource {
    fn bytes(&self, len: usize) -> RngFuture {
        let file = self.0.lock().try_clone();
        Box::pin(async move {
            let mut source = FileSource(Mutex::new(file?));
            loop {
                // A device may take its time, so a thread of the pool reads.
                let (result, back) = rt::unblock(move || (source.read(len), source)).await;
                match result {
                    Err(Errno::AGAIN | Errno::INTR) => rt::sleep(RETRY).await,
                    done => return done,
                }
                source = back;
            }
        })
    }
}

/// How long to wait for a source that has nothing at the moment.
const RETRY: std::time::Duration = std::time::Duration::from_millis(50);

impl Object for RngRandom {
    fn type_name(&self) -> &str {
        "rng-random"
    }

    fn properties(&self) -> Vec<Property> {
        vec![Property::new("filename", "string")]
    }

    fn get(&self, name: &str) -> Option<Value> {
        (name == "filename").then(|| Value::Str(self.filename.clone()))
    }

    fn rng(&self) -> Option<Arc<dyn RngBackend>> {
        Some(self.source.clone())
    }
}
