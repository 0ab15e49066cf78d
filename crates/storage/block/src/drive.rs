//! `-drive`: the command line's short form of a block device, translated into node options.

use crate::control::BlockGraph;
use crate::driver::{DriverType, Kind};
use crate::filename::{self, Named};
use crate::gate::Gate;
use crate::graph::{Graph, NodeId, RootDef, RootId};
use crate::open::{Place, partial_backing};
use crate::options::{insert_path, to_dict};
use crate::perm::{Perm, PermPair};
use crate::probe::raw_warning;
use crate::txn::Txn;
use api::block_core::BlockdevOptions;
use api::qom::ThrottleLimits;
use qapi::{Dict, QError, Value, opts_parse, qerr};
use qom::ThrottleGroup;
use std::sync::Arc;

/// What a device does about an I/O error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorAction {
    /// Tell the guest.
    Report,
    /// Pretend that all went well.
    Ignore,
    /// Stop the machine, to try again when it goes on.
    Stop,
    /// Stop where space ran out, else tell the guest.
    Enospc,
}

/// What a device does about failing reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorPolicy {
    /// `rerror`.
    pub read: ErrorAction,
    /// `werror`.
    pub write: ErrorAction,
}

impl Default for ErrorPolicy {
    fn default() -> Self {
        ErrorPolicy { read: ErrorAction::Report, write: ErrorAction::Enospc }
    }
}

/// A `-drive` option, understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Drive {
    /// `id`.
    pub id: Option<String>,
    /// `if`: `none`, `virtio`, `pflash`, …; `None` for the machine's default.
    pub interface: Option<String>,
    /// `index`, `bus` and `unit`.
    pub place: (Option<u32>, Option<u32>, Option<u32>),
    /// `media=cdrom`.
    pub cdrom: bool,
    /// `rerror` and `werror`.
    pub on_error: ErrorPolicy,
    /// False where a write counts as done only when it is stable.
    pub writeback: bool,
    /// `throttling.…`, and the older names of the same.
    pub limits: ThrottleLimits,
    /// `throttling.group`.
    pub group: Option<String>,
    /// `copy-on-read`.
    pub copy_on_read: bool,
    /// `file`, as a plain name.
    pub file: Option<String>,
    /// `format` or `driver`; `None`: to be guessed.
    pub format: Option<String>,
    /// `aio`, for every file of this host that the options describe and that does not say it itself.
    pub aio: Option<String>,
    /// All other options: those of the node, as key=value text has them.
    pub options: Dict,
}

/// What a drive can be for, in the order of the numbers that messages call them by.
pub(crate) const INTERFACES: [&str; 9] =
    ["none", "ide", "scsi", "floppy", "pflash", "mtd", "sd", "virtio", "xen"];

fn on_off(key: &str, value: &str) -> Result<bool, QError> {
    match value {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => Err(qerr!("Parameter '{key}' expects 'on' or 'off'")),
    }
}

fn number(key: &str, value: &str) -> Result<u32, QError> {
    value.parse().map_err(|_| qerr!("Parameter '{key}' expects a number"))
}

fn action(value: &str, write: bool) -> Result<ErrorAction, QError> {
    match value {
        "ignore" => Ok(ErrorAction::Ignore),
        "stop" => Ok(ErrorAction::Stop),
        "report" => Ok(ErrorAction::Report),
        "enospc" if write => Ok(ErrorAction::Enospc),
        _ => Err(qerr!("'{value}' invalid {} error action", if write { "write" } else { "read" })),
    }
}

/// The older names of throttling, and what they mean.
const THROTTLING: [(&str, &str); 14] = [
    ("bps", "throttling.bps-total"),
    ("bps_rd", "throttling.bps-read"),
    ("bps_wr", "throttling.bps-write"),
    ("iops", "throttling.iops-total"),
    ("iops_rd", "throttling.iops-read"),
    ("iops_wr", "throttling.iops-write"),
    ("bps_max", "throttling.bps-total-max"),
    ("bps_rd_max", "throttling.bps-read-max"),
    ("bps_wr_max", "throttling.bps-write-max"),
    ("iops_max", "throttling.iops-total-max"),
    ("iops_rd_max", "throttling.iops-read-max"),
    ("iops_wr_max", "throttling.iops-write-max"),
    ("iops_size", "throttling.iops-size"),
    ("group", "throttling.group"),
];

/// The name of an option today; `given` remembers which of them came, and by which name.
fn throttling(given: &mut Vec<(&'static str, bool)>, key: String) -> Result<String, QError> {
    let Some((old, new)) = THROTTLING.iter().find(|(o, n)| *o == key || *n == key) else { return Ok(key) };
    let older = key == *old;
    if given.iter().any(|(n, o)| n == new && *o != older) {
        return Err(qerr!("'{new}' and its alias '{old}' can't be used at the same time"));
    }
    given.push((new, older));
    Ok((*new).to_owned())
}

impl Drive {
    /// Understands the text after `-drive`. What stands in it for the node's driver is checked when the drive is added.
    pub fn parse(text: &str) -> Result<Drive, QError> {
        let mut d = Drive {
            id: None,
            interface: None,
            place: (None, None, None),
            cdrom: false,
            on_error: ErrorPolicy::default(),
            writeback: true,
            limits: ThrottleLimits::default(),
            group: None,
            copy_on_read: false,
            file: None,
            format: None,
            aio: None,
            options: Dict::new(),
        };
        let (mut format, mut driver, mut aio, mut read_only) = (None, None, None, false);
        let mut given = Vec::new();
        for (key, value) in opts_parse(text, Some("file")) {
            let key = throttling(&mut given, key)?;
            if let Some(name) = key.strip_prefix("throttling.") {
                d.throttle(&key, name, value)?;
                continue;
            }
            match key.as_str() {
                "id" => {
                    let mut c = value.chars();
                    let first = c.next().is_some_and(|c| c.is_ascii_alphabetic());
                    if !first || !c.all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)) {
                        return Err(qerr!("Parameter 'id' expects an identifier").with_hint(
                            "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.",
                        ));
                    }
                    d.id = Some(value);
                }
                "if" if INTERFACES.contains(&value.as_str()) => d.interface = Some(value),
                "if" => return Err(qerr!("unsupported bus type '{value}'")),
                "index" => d.place.0 = Some(number(&key, &value)?),
                "bus" => d.place.1 = Some(number(&key, &value)?),
                "unit" => d.place.2 = Some(number(&key, &value)?),
                "media" => match value.as_str() {
                    "disk" => d.cdrom = false,
                    "cdrom" => d.cdrom = true,
                    _ => return Err(qerr!("'{value}' invalid media")),
                },
                "file" => d.file = (!value.is_empty()).then_some(value),
                "format" => format = Some(value),
                "driver" => driver = Some(value),
                "werror" => d.on_error.write = action(&value, true)?,
                "rerror" => d.on_error.read = action(&value, false)?,
                "cache" => {
                    let (direct, no_flush, writeback) = match value.as_str() {
                        "none" | "off" => (true, false, true),
                        "directsync" => (true, false, false),
                        "writeback" => (false, false, true),
                        "unsafe" => (false, true, true),
                        "writethrough" => (false, false, false),
                        _ => return Err(qerr!("invalid cache option")),
                    };
                    d.writeback = writeback;
                    for (k, v) in [("cache.direct", direct), ("cache.no-flush", no_flush)] {
                        insert_path(&mut d.options, k, Value::from(if v { "on" } else { "off" }));
                    }
                }
                "cache.writeback" => d.writeback = on_off(&key, &value)?,
                "aio" => aio = Some(value),
                "readonly" | "read-only" => read_only = on_off("read-only", &value)?,
                "discard" => {
                    let v = match value.as_str() {
                        "ignore" | "off" => "ignore",
                        "unmap" | "on" => "unmap",
                        _ => return Err(qerr!("Invalid discard option")),
                    };
                    d.options.insert("discard", v);
                }
                "detect-zeroes" if ["off", "on", "unmap"].contains(&value.as_str()) => {
                    d.options.insert("detect-zeroes", value);
                }
                "detect-zeroes" => return Err(qerr!("invalid parameter value: {value}")),
                "copy-on-read" => d.copy_on_read = on_off(&key, &value)?,
                "snapshot" => {
                    if on_off(&key, &value)? {
                        return Err(qerr!("-drive {key}=on is not implemented"));
                    }
                }
                _ => insert_path(&mut d.options, &key, Value::from(value)),
            }
        }
        if d.place.0.is_some() && (d.place.1.is_some() || d.place.2.is_some()) {
            return Err(qerr!("index cannot be used with bus and unit"));
        }
        if format.is_some() && driver.is_some() {
            return Err(qerr!("Cannot specify both 'driver' and 'format'"));
        }
        ThrottleGroup::check(&d.limits)?;
        d.format = format.or(driver);
        if let Some(aio) = aio {
            if !["threads", "native", "io_uring"].contains(&aio.as_str()) {
                return Err(qerr!("invalid aio option"));
            }
            d.aio = Some(aio);
        }
        if read_only || d.cdrom {
            d.options.insert("read-only", "on");
        }
        if !d.options.contains_key("auto-read-only") {
            d.options.insert("auto-read-only", "on");
        }
        Ok(d)
    }

    /// An option `throttling.NAME`.
    fn throttle(&mut self, key: &str, name: &str, value: String) -> Result<(), QError> {
        if name == "group" {
            self.group = Some(value);
            return Ok(());
        }
        let l = &mut self.limits;
        let to = match name {
            "bps-total" => &mut l.bps_total,
            "bps-total-max" => &mut l.bps_total_max,
            "bps-total-max-length" => &mut l.bps_total_max_length,
            "bps-read" => &mut l.bps_read,
            "bps-read-max" => &mut l.bps_read_max,
            "bps-read-max-length" => &mut l.bps_read_max_length,
            "bps-write" => &mut l.bps_write,
            "bps-write-max" => &mut l.bps_write_max,
            "bps-write-max-length" => &mut l.bps_write_max_length,
            "iops-total" => &mut l.iops_total,
            "iops-total-max" => &mut l.iops_total_max,
            "iops-total-max-length" => &mut l.iops_total_max_length,
            "iops-read" => &mut l.iops_read,
            "iops-read-max" => &mut l.iops_read_max,
            "iops-read-max-length" => &mut l.iops_read_max_length,
            "iops-write" => &mut l.iops_write,
            "iops-write-max" => &mut l.iops_write_max,
            "iops-write-max-length" => &mut l.iops_write_max_length,
            "iops-size" => &mut l.iops_size,
            _ => {
                self.options.insert(key, value);
                return Ok(());
            }
        };
        *to = Some(value.parse().map_err(|_| qerr!("Parameter '{key}' expects a number"))?);
        Ok(())
    }

    /// The name of the block backend: the id, or one made of interface and place.
    pub fn name(&self) -> String {
        let interface = self.interface.as_deref().unwrap_or("none");
        let index = self.place.0.or(self.place.2).unwrap_or(0);
        let medium = match interface {
            "ide" | "scsi" => {
                if self.cdrom {
                    "-cd"
                } else {
                    "-hd"
                }
            }
            _ => "",
        };
        self.id.clone().unwrap_or_else(|| format!("{interface}{medium}{index}"))
    }

    /// Has a drive without an id and a place stand at the first place whose name is not `taken`.
    pub fn find_place(&mut self, taken: impl Fn(&str) -> bool) {
        if self.id.is_some() || self.place.0.or(self.place.2).is_some() {
            return;
        }
        while taken(&self.name()) {
            self.place.0 = Some(self.place.0.unwrap_or(0) + 1);
        }
    }

    /// Whether there is no medium: neither a file nor a driver was named.
    pub fn is_empty(&self) -> bool {
        self.file.is_none() && self.format.is_none() && !self.options.contains_key("file")
    }

    /// The options of the node, once its format is known, and what its file's name stands for.
    pub async fn node_options(
        &self,
        drivers: &[&'static DriverType],
        format: &str,
        file: Option<Named>,
    ) -> Result<BlockdevOptions, QError> {
        qapi::from_json(Value::Dict(self.typed(drivers, self.node_dict(drivers, format, file)).await?))
    }

    /// The options of the node as QMP has them, of those that are text.
    async fn typed(&self, drivers: &[&'static DriverType], dict: Dict) -> Result<Dict, QError> {
        let mut dict = to_dict(&filename::options(drivers, dict).await?);
        if let Some(aio) = &self.aio {
            say_aio(&mut dict, aio);
        }
        Ok(dict)
    }

    fn node_dict(&self, drivers: &[&'static DriverType], format: &str, file: Option<Named>) -> Dict {
        let mut dict = self.options.clone();
        match file {
            Some(Named::Whole(whole)) => {
                // What the drive says is put over that, but for what it says of every drive.
                let usual = |key: &str| matches!(key, "read-only" | "auto-read-only");
                let own = std::mem::take(&mut dict).into_iter();
                let own = own.filter(|(key, _)| !usual(key) || !whole.contains_key(key)).collect();
                dict = filename::over(drivers, whole, own);
            }
            // The format is the protocol itself: there is one node, with the file's options.
            Some(Named::Protocol(file))
                if filename::is_protocol(drivers, format)
                    || file.get("driver").and_then(Value::as_str) == Some(format) =>
            {
                let more = dict.remove("file");
                dict = filename::over(drivers, file, dict);
                if let Some(Value::Dict(more)) = more {
                    dict = filename::over(drivers, dict, more);
                }
            }
            Some(Named::Protocol(file)) => {
                let more = dict.remove("file");
                let name = self.file.as_deref().unwrap_or("");
                dict.insert("file", child_of_name(drivers, name, file, more));
            }
            None => {}
        }
        dict.insert("driver", format);
        dict
    }

    /// What the file's name stands for.
    pub(crate) async fn named(&self, drivers: &[&'static DriverType]) -> Result<Option<Named>, QError> {
        let Some(file) = &self.file else { return Ok(None) };
        let below = match self.options.get("file") {
            Some(Value::Dict(d)) => d.get("driver").and_then(Value::as_str),
            _ => None,
        };
        // A driver that the user names says itself what the name means, if it knows names.
        let knows = |name: Option<&str>| {
            let ty = *drivers.iter().find(|d| Some(d.name) == name)?;
            (ty.kind == Kind::Protocol || ty.file_names.is_some()).then_some(ty)
        };
        match knows(self.format.as_deref()).or_else(|| knows(below)) {
            Some(ty) if !file.starts_with("json:") => {
                filename::protocol_of_driver(drivers, ty, file).await.map(|d| Some(Named::Protocol(d)))
            }
            _ => filename::named(drivers, file).await.map(Some),
        }
    }
}

/// The options of a child that a file's name stands for, with what is said of it. What is said may name another driver:
/// then the name goes on to the child of that one.
fn child_of_name(drivers: &[&'static DriverType], name: &str, named: Dict, more: Option<Value>) -> Value {
    let mut more = match more {
        Some(Value::Dict(more)) => more,
        _ => return Value::Dict(named),
    };
    let ty = more.get("driver").and_then(Value::as_str).and_then(|d| drivers.iter().find(|t| t.name == d));
    let dict = match ty {
        Some(ty) if ty.kind != Kind::Protocol && ty.file_names.is_none() => {
            let below = more.remove("file");
            Dict::from_iter([("file", child_of_name(drivers, name, named, below))])
        }
        Some(ty) if named.get("driver").and_then(Value::as_str) != Some(ty.name) => {
            match filename::of_driver(ty, name) {
                Ok(mut dict) if dict.contains_key(filename::INNER.0) => {
                    dict.remove(filename::INNER.0);
                    let below = more.remove(filename::INNER.1);
                    dict.insert(filename::INNER.1, child_of_name(drivers, name, named, below));
                    dict
                }
                _ => named,
            }
        }
        _ => named,
    };
    Value::Dict(filename::over(drivers, dict, more))
}

/// Enters how files of this host are read and written where `dict` does not say it.
fn say_aio(dict: &mut Dict, aio: &str) {
    let file = dict.get("driver").and_then(Value::as_str);
    if file.is_some_and(|d| ["file", "host_device", "host_cdrom"].contains(&d)) && !dict.contains_key("aio") {
        dict.insert("aio", aio);
    }
    let keys: Vec<String> = dict.keys().map(str::to_owned).collect();
    for key in keys {
        match dict.get_mut(&key) {
            Some(Value::Dict(below)) => say_aio(below, aio),
            Some(Value::List(all)) => {
                for below in all {
                    if let Value::Dict(below) = below {
                        say_aio(below, aio);
                    }
                }
            }
            _ => {}
        }
    }
}

/// An error where a drive cannot have this name.
fn free_name(graph: &Graph, name: &str) -> Result<(), QError> {
    if graph.drive(name).is_some() || graph.roots().any(|r| r.reserves == name) {
        return Err(qerr!("Duplicate ID '{name}' for drive"));
    }
    if graph.by_name(name).is_some() {
        return Err(qerr!("Device name '{name}' conflicts with an existing node name"));
    }
    Ok(())
}

impl BlockGraph {
    /// Adds a drive: its node, and a block backend of its name that a device can be attached to. Returns a warning to
    /// be shown, if the format had to be guessed and is `raw`.
    pub async fn add_drive(&self, drive: Drive) -> Result<Option<String>, QError> {
        self.run(|me| async move { me.do_add_drive(drive).await }).await
    }

    async fn do_add_drive(&self, drive: Drive) -> Result<Option<String>, QError> {
        let mut txn = Txn::aside(self);
        let opened = self.open_drive(&mut txn, &drive).await;
        let (mut txn, joined, (node, warning)) = txn.join(opened).await?;
        let name = drive.name();
        if let Err(e) = free_name(&txn.next, &name) {
            return joined.end(Err(e)).await;
        }
        let id = RootId(self.next_id());
        let gate = Gate::new();
        let def = RootDef {
            id,
            name,
            qdev: None,
            desc: String::new(),
            node,
            // Who has a drive may look at its medium.
            pair: match node {
                Some(_) => PermPair { perm: Perm::CONSISTENT_READ, shared: Perm::all() },
                None => PermPair::NONE,
            },
            seq: self.next_id(),
            rests: false,
            drive: true,
            writeback: drive.writeback,
            on_error: drive.on_error,
            on_change: None,
            reserves: String::new(),
            job: None,
            held: None,
            gate: gate.clone(),
            stats: Arc::default(),
        };
        txn.next.roots.insert(id, Arc::new(def));
        let limited = self.limit(&gate, drive.group.as_deref(), &drive.name(), &drive.limits);
        let done = match limited {
            Ok(()) => self.settle(txn).await,
            Err(e) => Err(e),
        };
        joined.end(done).await?;
        Ok(warning)
    }

    /// Opens the node of a drive; with it a warning, if there is one.
    async fn open_drive(
        &self,
        txn: &mut Txn<'_>,
        drive: &Drive,
    ) -> Result<(Option<NodeId>, Option<String>), QError> {
        free_name(&txn.base, &drive.name())?;
        if drive.is_empty() {
            // What is for a node needs one.
            let of_none = ["read-only", "auto-read-only", "detect-zeroes"];
            if drive.options.keys().any(|k| !of_none.contains(&k)) {
                return Err(qerr!("Must specify either driver or file"));
            }
            return Ok((None, None));
        }
        let mut warning = None;
        let named = drive.named(self.drivers()).await?;
        let format = match (&drive.format, &named) {
            (Some(f), _) => f.clone(),
            (None, Some(named)) => {
                let (format, guessed) = txn.format_of(named).await?;
                let name = drive.file.as_deref().unwrap_or("");
                warning = (guessed && format == "raw").then(|| raw_warning(name));
                format
            }
            (None, None) => "raw".into(),
        };
        self.driver_type(&format)?;
        let mut dict = drive.node_dict(self.drivers(), &format, named);
        self.fill_encryption(&mut dict).await?;
        let backing = partial_backing(&mut dict);
        let dict = drive.typed(self.drivers(), dict).await?;
        let id = txn.open(dict, Place::over_backing(backing)).await?;
        if warning.is_some()
            && let Some(n) = txn.next.edit(id)
        {
            n.guessed = Some(Arc::new(self.drivers().to_vec()));
        }
        if drive.copy_on_read {
            return Ok((Some(self.copying(txn, id).await?), warning));
        }
        Ok((Some(id), warning))
    }

    /// Puts a filter over a drive's node that stores what is read from backing files.
    async fn copying(&self, txn: &mut Txn<'_>, id: NodeId) -> Result<NodeId, QError> {
        let Some(node) = txn.next.node(id) else { return Ok(id) };
        if node.flags.read_only {
            tracing::warn!("disabling copy-on-read on read-only drive");
            return Ok(id);
        }
        let mut dict = Dict::new();
        dict.insert("driver", "copy-on-read");
        dict.insert("file", node.name.clone());
        let filter = txn.open(dict, Place::top()).await?;
        if let Some(n) = txn.next.edit(filter) {
            n.implicit = true;
        }
        Ok(filter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::DRIVERS;
    use api::block_core::{BlockdevDriverOptions, BlockdevRef};

    fn error(text: &str) -> String {
        let of = async |d: Drive| {
            let named = d.named(DRIVERS).await?;
            d.node_options(DRIVERS, "raw", named).await
        };
        Drive::parse(text).and_then(|d| rt::block_on(of(d))).unwrap_err().desc().to_owned()
    }

    #[test]
    fn the_common_keys() {
        let d = Drive::parse(
            "file=a,,b.img,if=none,id=d0,format=raw,cache=none,aio=io_uring,discard=on,detect-zeroes=unmap,\
             readonly=on,werror=stop,rerror=ignore",
        )
        .unwrap();
        assert_eq!(
            (d.name(), d.file.as_deref(), d.format.as_deref()),
            ("d0".into(), Some("a,b.img"), Some("raw"))
        );
        assert_eq!(d.on_error, ErrorPolicy { read: ErrorAction::Ignore, write: ErrorAction::Stop });
        let file = Dict::from_iter([("driver", "file"), ("filename", "a,b.img")]);
        let o = rt::block_on(d.node_options(DRIVERS, "raw", Some(Named::Protocol(file)))).unwrap();
        assert_eq!((o.read_only, o.auto_read_only), (Some(true), Some(true)));
        assert_eq!(o.cache.unwrap().direct, Some(true));
        let BlockdevDriverOptions::Raw(raw) = o.driver else { panic!() };
        let BlockdevRef::Definition(file) = raw.file else { panic!() };
        let BlockdevDriverOptions::File(file) = file.driver else { panic!() };
        assert_eq!(file.filename, "a,b.img");
        assert!(file.aio.is_some());
    }

    #[test]
    fn limits_by_both_names() {
        let d =
            Drive::parse("x,bps_rd=1,iops_max=9,throttling.iops-total=3,group=g,copy-on-read=on").unwrap();
        assert_eq!(
            (d.limits.bps_read, d.limits.iops_total, d.limits.iops_total_max),
            (Some(1), Some(3), Some(9))
        );
        assert_eq!((d.group.as_deref(), d.copy_on_read), (Some("g"), true));
    }

    #[test]
    fn cache_modes() {
        for (mode, wb) in
            [("writeback", true), ("writethrough", false), ("directsync", false), ("unsafe", true)]
        {
            assert_eq!(Drive::parse(&format!("x,cache={mode}")).unwrap().writeback, wb);
        }
    }

    #[test]
    fn messages() {
        assert_eq!(error("x,bps=x"), "Parameter 'throttling.bps-total' expects a number");
        let alias = "'throttling.bps-total' and its alias 'bps' can't be used at the same time";
        assert_eq!(error("x,bps=1,throttling.bps-total=1"), alias);
        let both = "bps/iops/max total values and read/write values cannot be used at the same time";
        assert_eq!(error("x,bps=1,throttling.bps-read=1"), both);
        assert_eq!(
            error("x,throttling.bogus=1"),
            "Block format 'raw' does not support the option 'throttling.bogus'"
        );
        assert_eq!(error("x,cache=bogus"), "invalid cache option");
        assert_eq!(error("x,aio=bogus"), "invalid aio option");
        assert_eq!(error("x,discard=bogus"), "Invalid discard option");
        assert_eq!(error("x,detect-zeroes=bogus"), "invalid parameter value: bogus");
        assert_eq!(error("x,werror=bogus"), "'bogus' invalid write error action");
        assert_eq!(error("x,readonly=maybe"), "Parameter 'read-only' expects 'on' or 'off'");
        assert_eq!(error("x,if=bogus"), "unsupported bus type 'bogus'");
        assert_eq!(error("x,format=raw,driver=raw"), "Cannot specify both 'driver' and 'format'");
        assert_eq!(error("x,id=1a"), "Parameter 'id' expects an identifier");
        assert_eq!(error("x,index=1,bus=0"), "index cannot be used with bus and unit");
        assert_eq!(error("x,bogus=1"), "Block format 'raw' does not support the option 'bogus'");
        assert_eq!(error("nbd://x/y,format=raw"), "Unknown protocol 'nbd'");
    }

    #[test]
    fn no_file_is_an_empty_drive() {
        assert!(Drive::parse("if=none,id=a").unwrap().is_empty());
        assert!(Drive::parse("file=,if=none,id=a").unwrap().is_empty());
        assert_eq!(Drive::parse("if=none").unwrap().name(), "none0");
    }
}
