//! `blkdebug`: the bytes of its child, with errors and needs of alignment by rules.

use crate::breakpoints::Breakpoints;
use crate::config;
use crate::rules::{Io, Rules};
use api::block_core::{
    BlkdebugEvent as Event, BlkdebugIOType as Type, BlockPermission, BlockdevDriverOptions, BlockdevOptions,
    BlockdevOptionsBlkdebug,
};
use base::IoResult;
use block::driver::{
    Caps, ChildOption, ChildSlot, Cx, Driver, DriverType, Extent, ExtentKind, IoFuture, Kind, Limits, OpenCx,
    OpenFuture, Prealloc, WriteFlags, ZeroFlags, default_child_perm,
};
use block::filename::{FileNames, INNER};
use block::perm::{Perm, Role};
use mem::IoBuf;
use parking_lot::Mutex;
use qapi::{Dict, QError, Value, qerr};
use smallvec::{SmallVec, smallvec};
use std::sync::Arc;

/// `blkdebug`.
pub static BLKDEBUG: DriverType = DriverType {
    name: "blkdebug",
    kind: Kind::Filter,
    mutable_opts: &[],
    supports_backing: false,
    supports_reopen: true,
    file_names: Some(FileNames { prefixes: &["blkdebug"], parse: parse_name, older: Some(one_rule) }),
    children,
    child_perm: default_child_perm,
    open,
    probe: None,
    ..DriverType::BASE
};

/// `blkdebug:CONFIG:IMAGE`, where the file with rules may be left out.
fn parse_name(name: &str) -> Result<Dict, QError> {
    let Some(rest) = name.strip_prefix("blkdebug:") else {
        return Ok(Dict::from_iter([(INNER.0, name)]));
    };
    let (config, image) =
        rest.split_once(':').ok_or_else(|| qerr!("blkdebug requires both config file and image path"))?;
    let mut dict = Dict::from_iter([(INNER.0, image)]);
    if !config.is_empty() {
        dict.insert("config", config);
    }
    Ok(dict)
}

/// The options of a single rule may stand under the list's own name.
fn one_rule(d: &mut Dict) -> Result<(), QError> {
    for list in ["inject-error", "set-state"] {
        if let Some(Value::Dict(rule)) = d.get(list)
            && !rule.keys().all(|k| k.parse::<u32>().is_ok())
        {
            let rule = Value::Dict(rule.clone());
            d.insert(list, Value::List(vec![rule]));
        }
    }
    Ok(())
}

const FILE: ChildSlot = ChildSlot::File;

fn perms(list: Option<&Vec<BlockPermission>>) -> Perm {
    let one = |p: &BlockPermission| match p {
        BlockPermission::ConsistentRead => Perm::CONSISTENT_READ,
        BlockPermission::Write => Perm::WRITE,
        BlockPermission::WriteUnchanged => Perm::WRITE_UNCHANGED,
        BlockPermission::Resize => Perm::RESIZE,
    };
    list.into_iter().flatten().map(one).fold(Perm::empty(), Perm::union)
}

fn children(o: &BlockdevOptions) -> SmallVec<[ChildOption; 2]> {
    let more = match &o.driver {
        BlockdevDriverOptions::Blkdebug(b) => {
            Role::with_perms(perms(b.take_child_perms.as_ref()), perms(b.unshare_child_perms.as_ref()))
        }
        _ => Role::empty(),
    };
    let role = Role::FILTERED | Role::PRIMARY | more;
    smallvec![ChildOption { name: "image", slot: FILE, role, required: true }]
}

struct Blkdebug {
    rules: Mutex<Rules>,
    breakpoints: Arc<Breakpoints>,
    /// The name of the file with rules.
    config: String,
    /// What is asked of requests beyond what the child asks; 0 for nothing.
    limits: Limits,
}

/// An alignment or a maximum, from an option; a multiple of `align`.
fn limit(name: &str, v: Option<i32>, align: u64) -> Result<u32, QError> {
    let v = v.unwrap_or(0);
    match u32::try_from(v) {
        Ok(n) if n < i32::MAX as u32 && u64::from(n).is_multiple_of(align) => Ok(n),
        _ => Err(qerr!("Cannot meet constraints with {name} {v}")),
    }
}

fn limits(o: &BlockdevOptionsBlkdebug, below: u32) -> Result<Limits, QError> {
    let align = o.align.unwrap_or(0);
    let own = u32::try_from(align).ok().filter(|a| *a == 0 || (a.is_power_of_two() && *a < i32::MAX as u32));
    let own = own.ok_or_else(|| qerr!("Cannot meet constraints with align {align}"))?;
    let align = own.max(below).max(1);
    let unit = u64::from(align);
    let write_zeroes_alignment = limit("opt-write-zero", o.opt_write_zero, unit)?;
    let discard_alignment = limit("opt-discard", o.opt_discard, unit)?;
    let of = |opt: u32| u64::from(opt.max(align));
    Ok(Limits {
        request_alignment: own,
        max_transfer: limit("max-transfer", o.max_transfer, unit)?.into(),
        write_zeroes_alignment,
        max_write_zeroes: limit("max-write-zero", o.max_write_zero, of(write_zeroes_alignment))?.into(),
        discard_alignment,
        max_discard: limit("max-discard", o.max_discard, of(discard_alignment))?.into(),
        ..Limits::default()
    })
}

fn open<'a>(o: OpenCx<'a>) -> OpenFuture<'a> {
    Box::pin(async move {
        let BlockdevDriverOptions::Blkdebug(options) = &o.options.driver else {
            return Err(QError::new("The options are not those of 'blkdebug'"));
        };
        let below = o.cx.child_limits(FILE).map_or(1, |l| l.request_alignment);
        let limits = limits(options, below)?;
        let mut errors = options.inject_error.clone().unwrap_or_default();
        let mut states = options.set_state.clone().unwrap_or_default();
        if let Some(path) = options.config.clone() {
            let (e, s) = rt::unblock(move || config::read(&path)).await?;
            errors.extend(e);
            states.extend(s);
        }
        Ok(Arc::new(Blkdebug {
            rules: Mutex::new(Rules::new(errors, states)),
            breakpoints: Breakpoints::new(o.node_name),
            config: options.config.clone().unwrap_or_default(),
            limits,
        }) as Arc<dyn Driver>)
    })
}

/// The greater need.
fn stricter(a: u32, b: u32) -> u32 {
    a.max(b)
}

/// The smaller maximum, where 0 is none.
fn shorter(a: u64, b: u64) -> u64 {
    if a == 0 || b == 0 { a.max(b) } else { a.min(b) }
}

impl Blkdebug {
    async fn happens(&self, event: Event) {
        self.rules.lock().event(event);
        self.breakpoints.pass(event).await;
    }

    /// The error that a rule has for a request.
    async fn check(&self, kind: Type, off: u64, len: u64) -> IoResult<()> {
        let Some(injected) = self.rules.lock().check(Io { kind, off, len }) else { return Ok(()) };
        let Some(error) = injected.error else { return Ok(()) };
        if !injected.immediately {
            rt::yield_now().await;
        }
        Err(error)
    }
}

impl Driver for Blkdebug {
    fn name_over(&self, child: &dyn Fn(ChildSlot) -> Option<String>) -> Option<String> {
        Some(format!("blkdebug:{}:{}", self.config, child(FILE)?))
    }

    fn len(&self, cx: &Cx<'_>) -> u64 {
        cx.child_len(FILE).unwrap_or(0)
    }

    fn limits(&self, cx: &Cx<'_>) -> Limits {
        let below = cx.child_limits(FILE).unwrap_or_default();
        let own = &self.limits;
        Limits {
            request_alignment: stricter(own.request_alignment, below.request_alignment),
            max_transfer: shorter(own.max_transfer, below.max_transfer),
            write_zeroes_alignment: stricter(own.write_zeroes_alignment, below.write_zeroes_alignment),
            max_write_zeroes: shorter(own.max_write_zeroes, below.max_write_zeroes),
            discard_alignment: stricter(own.discard_alignment, below.discard_alignment),
            max_discard: shorter(own.max_discard, below.max_discard),
            ..below
        }
    }

    fn caps(&self, cx: &Cx<'_>) -> Caps {
        cx.child_caps(FILE).unwrap_or_default()
    }

    fn sees_reads(&self) -> bool {
        true
    }

    fn hears(&self) -> bool {
        true
    }

    fn event<'a>(&'a self, event: Event) -> IoFuture<'a> {
        Box::pin(async move {
            self.happens(event).await;
            Ok(())
        })
    }

    fn locate<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Extent> {
        Box::pin(async move {
            self.check(Type::BlockStatus, off, len).await?;
            let have = cx.child_len(FILE)?.saturating_sub(off);
            let len = len.min(have.max(1));
            Ok(Extent { len, kind: ExtentKind::Child { slot: FILE, offset: off }, eof: len >= have })
        })
    }

    fn read<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf) -> IoFuture<'a> {
        Box::pin(async move {
            self.check(Type::Read, off, buf.len() as u64).await?;
            cx.child_read(FILE, off, buf).await
        })
    }

    fn write<'a>(&'a self, cx: &'a Cx<'a>, off: u64, buf: IoBuf, flags: WriteFlags) -> IoFuture<'a> {
        Box::pin(async move {
            self.happens(Event::Pwritev).await;
            self.check(Type::Write, off, buf.len() as u64).await?;
            cx.child_write(FILE, off, buf, flags).await?;
            self.happens(Event::PwritevDone).await;
            Ok(())
        })
    }

    fn write_zeroes<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64, flags: ZeroFlags) -> IoFuture<'a> {
        Box::pin(async move {
            self.happens(Event::PwritevZero).await;
            self.check(Type::WriteZeroes, off, len).await?;
            cx.child_write_zeroes(FILE, off, len, flags).await?;
            self.happens(Event::PwritevDone).await;
            Ok(())
        })
    }

    fn discard<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a> {
        Box::pin(async move {
            self.check(Type::Discard, off, len).await?;
            cx.child_discard(FILE, off, len).await
        })
    }

    fn flush<'a>(&'a self, _cx: &'a Cx<'a>) -> IoFuture<'a> {
        Box::pin(async move {
            // The core flushes the child afterwards.
            self.check(Type::Flush, 0, 0).await
        })
    }

    fn truncate<'a>(&'a self, cx: &'a Cx<'a>, len: u64, exact: bool, prealloc: Prealloc) -> IoFuture<'a> {
        Box::pin(cx.child_truncate(FILE, len, exact, prealloc))
    }
}
