//! Brings the directory of the host to what the volume holds now.
//!
//! The volume is read ([`super::volume`]), each file and directory on it is matched with what the host has, and what differs is done:
//! directories are made, names changed, contents written, and at last what is on the volume no more is removed. Nothing that the
//! disk shows changes by that, and nothing is lost that is not on the volume no more: new content is written beside the old and
//! takes its name when it is whole, or goes into the file where blocks of it were written in their place.
//!
//! What somebody changed on the host since the disk showed it is not touched.

use super::folder::{Dir, Found, give, look, set_changed, set_mode};
use super::tree::{Print, moment};
use super::volume::{Disk, Entry, Listing, Unfit, Wrong, list};
use super::writer::{CHUNK, Node, Writer};
use base::Errno;
use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// The most warnings that are remembered as given.
const MAX_TOLD: usize = 1000;

/// Why something could not be done.
enum Fault {
    Io(io::Error),
    /// The host's file is not what the disk showed.
    Changed,
    /// The host has something else of that name.
    Taken,
    Wrong(Wrong),
}

impl From<io::Error> for Fault {
    fn from(e: io::Error) -> Fault {
        Fault::Io(e)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Io(e) => e.fmt(f),
            Fault::Changed => f.write_str("it was changed on the host"),
            Fault::Taken => f.write_str("the host has something else of this name"),
            Fault::Wrong(w) => w.fmt(f),
        }
    }
}

impl Fault {
    fn errno(self) -> Errno {
        match self {
            Fault::Io(e) => e.into(),
            _ => Errno::IO,
        }
    }
}

type Done<T = ()> = Result<T, Fault>;

/// What is to become of a file's content.
enum Change {
    /// Nothing.
    None,
    /// These bytes of it are written in their place.
    Within(Vec<Range<u64>>),
    /// It is written anew.
    Whole,
}

/// What belongs together while the directory is brought to the volume.
struct Match {
    /// The node of each entry.
    of: Vec<Option<usize>>,
    /// The entry of each node.
    entry: HashMap<usize, usize>,
    /// The node of a name on the host.
    at: HashMap<(usize, OsString), usize>,
    /// Nodes that the volume has no more.
    gone: HashSet<usize>,
    /// Directories in which names were changed.
    touched: HashSet<usize>,
}

/// The name that a new file gets. One that is said in capital letters alone is taken for one of DOS, which knows no others.
fn host_name(e: &Entry) -> OsString {
    if e.plain { e.name.to_lowercase().into() } else { e.name.clone().into() }
}

impl Writer {
    /// Brings the directory to the volume. `last`: there will be no other time. `Some`: the volume makes no sense as it is, and
    /// what that concerns was left. Blocks.
    ///
    /// # Errors
    /// Something could not be done; it is tried again the next time.
    pub fn bring(&mut self, last: bool) -> Result<Option<Wrong>, Errno> {
        if !self.overlay.any_fresh() && !self.again {
            return Ok(None);
        }
        let (g, front) = (self.g, self.front.clone());
        let listing = match list(&g, self, &front) {
            Ok(l) => l,
            Err(Unfit::Io(e)) => {
                self.tell(format!("the disk cannot be read: {e}"));
                return Err(e.into());
            }
            Err(Unfit::Wrong(w)) => return Ok(Some(w)),
        };
        let wrong = listing.wrong();
        if wrong.is_some() && !last {
            return Ok(wrong);
        }
        let mut m = self.matched(&listing);
        let mut faults = Vec::new();
        let mut waits = false;
        if wrong.is_some() {
            // Where something cannot be read, what is missed may be there.
            m.gone.clear();
        } else if !last {
            // A name that has gone while the clusters have not may be about to turn up elsewhere.
            let lost = |id: &usize| {
                let first = self.node(*id).ok().and_then(|n| n.chain.first().copied());
                first.is_some_and(|c| listing.is_lost(c))
            };
            let before = m.gone.len();
            m.gone = m.gone.iter().copied().filter(|id| !lost(id)).collect();
            waits = m.gone.len() < before;
        }
        self.let_go();
        for i in 0..listing.entries.len() {
            if let Err(f) = self.structure(&listing, i, &mut m) {
                faults.push((listing.path(i), f));
            }
        }
        for (i, e) in listing.entries.iter().enumerate().filter(|(_, e)| !e.dir) {
            let done = match (e.wrong, m.of[i]) {
                (Some(w), _) => Err(Fault::Wrong(w)),
                (None, Some(id)) => self.update(id, e, &mut m),
                (None, None) => self.create(&listing, i, &mut m),
            };
            if let Err(f) = done {
                faults.push((listing.path(i), f));
            }
        }
        waits |= self.remove_gone(&mut m, &mut faults);
        for id in std::mem::take(&mut m.touched) {
            let synced = self.names(id).and_then(|names| self.folder.dir(&names)?.sync());
            if let Err(e) = synced {
                faults.push((".".into(), e.into()));
            }
        }
        self.let_go();
        self.overlay.known();
        self.again = waits || !faults.is_empty();
        let mut first = None;
        for (path, fault) in faults {
            self.tell(format!("'{path}' is not on the host as the guest has it: {fault}"));
            first.get_or_insert(fault.errno());
        }
        match first {
            Some(e) if wrong.is_none() => Err(e),
            _ => Ok(wrong),
        }
    }

    /// Warns, once of the same.
    pub fn tell(&mut self, text: String) {
        if self.told.len() >= MAX_TOLD {
            self.told.clear();
        }
        if !self.told.contains(&text) {
            tracing::warn!(target: "report", "vvfat: {text}");
            self.told.insert(text);
        }
    }

    /// Which node each entry is.
    fn matched(&self, l: &Listing) -> Match {
        let nodes = || self.nodes.iter().enumerate().skip(1).filter_map(|(id, n)| Some((id, n.as_ref()?)));
        let place: HashMap<(usize, &str), usize> =
            nodes().map(|(id, n)| ((n.parent, n.shown.as_str()), id)).collect();
        let cluster: HashMap<u32, usize> =
            nodes().filter_map(|(id, n)| Some((*n.chain.first()?, id))).collect();
        let mut of: Vec<Option<usize>> = vec![None; l.entries.len()];
        let mut entry = HashMap::new();
        let at_place = |of: &[Option<usize>], e: &Entry| {
            let parent = e.parent.map_or(Some(0), |p| of[p])?;
            let id = *place.get(&(parent, e.name.as_str()))?;
            self.node(id).ok().filter(|n| n.dir == e.dir).map(|n| (id, n))
        };
        for (i, e) in l.entries.iter().enumerate() {
            let first = e.chain.first();
            let stayed = at_place(&of, e).filter(|(_, n)| n.chain.first() == first).map(|(id, _)| id);
            let moved = || {
                let id = *cluster.get(first?)?;
                // Clusters of a file that went, which another got and was written to, are no sign.
                let fresh = !e.dir && self.overlay.is_fresh(self.g.cluster_at(*first?));
                self.node(id).ok().filter(|n| n.dir == e.dir && !fresh).map(|_| id)
            };
            if let Some(id) = stayed.or_else(moved).filter(|id| !entry.contains_key(id)) {
                of[i] = Some(id);
                entry.insert(id, i);
            }
        }
        for (i, e) in l.entries.iter().enumerate() {
            if of[i].is_none()
                && let Some((id, _)) = at_place(&of, e).filter(|(id, _)| !entry.contains_key(id))
            {
                of[i] = Some(id);
                entry.insert(id, i);
            }
        }
        let gone = nodes().map(|(id, _)| id).filter(|id| !entry.contains_key(id)).collect();
        let at = nodes().map(|(id, n)| ((n.parent, n.name.clone()), id)).collect();
        Match { of, entry, at, gone, touched: HashSet::new() }
    }

    /// The node of the directory that has an entry.
    fn parent(l: &Listing, i: usize, m: &Match) -> Option<usize> {
        l.entries[i].parent.map_or(Some(0), |p| m.of[p])
    }

    fn dir(&self, id: usize) -> io::Result<Dir> {
        self.folder.dir(&self.names(id)?)
    }

    /// Puts what the host has into its place, and makes directories.
    fn structure(&mut self, l: &Listing, i: usize, m: &mut Match) -> Done {
        let e = &l.entries[i];
        // Of what is in a directory that could not be made, nothing is said again.
        let Some(parent) = Self::parent(l, i, m) else { return Ok(()) };
        if let Some(w) = e.wrong {
            return if e.dir { Err(Fault::Wrong(w)) } else { Ok(()) };
        }
        match m.of[i] {
            Some(id) => {
                let n = self.node(id)?;
                if n.parent != parent || n.shown != e.name {
                    self.move_to(l, id, parent, e, m)?;
                }
                if e.dir
                    && let Some(n) = self.nodes[id].as_mut()
                {
                    n.chain.clone_from(&e.chain);
                }
                Ok(())
            }
            None if e.dir => {
                let name = host_name(e);
                self.evict(l, parent, &name, m)?;
                let d = self.dir(parent)?;
                d.make_dir(&name).map_err(|e| match e.kind() {
                    io::ErrorKind::AlreadyExists => Fault::Taken,
                    _ => Fault::Io(e),
                })?;
                m.touched.insert(parent);
                let found = d.find(&name)?.ok_or(Fault::Changed)?;
                let id = self.add(parent, name, e, found.print, m);
                m.of[i] = Some(id);
                m.entry.insert(id, i);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// A new node.
    fn add(&mut self, parent: usize, name: OsString, e: &Entry, print: Print, m: &mut Match) -> usize {
        let node = Node {
            parent,
            name: name.clone(),
            shown: e.name.clone(),
            dir: e.dir,
            chain: e.chain.clone(),
            size: e.size,
            stamp: e.stamp,
            read_only: e.read_only,
            print,
            whole: false,
            source: 0,
        };
        let id = self.free.pop().unwrap_or(self.nodes.len());
        if id == self.nodes.len() {
            self.nodes.push(None);
        }
        self.nodes[id] = Some(node);
        m.at.insert((parent, name), id);
        id
    }

    /// Changes the name on the host, and what is remembered of it.
    fn rename(&mut self, id: usize, parent: usize, name: OsString, m: &mut Match) -> Done {
        let n = self.node(id)?;
        let (from, was) = (self.dir(n.parent)?, n.name.clone());
        let found = from.find(&was)?.ok_or(Fault::Changed)?;
        if (found.print.dev, found.print.ino) != (n.print.dev, n.print.ino) || found.dir != n.dir {
            return Err(Fault::Changed);
        }
        let old = n.parent;
        from.rename(&was, &self.dir(parent)?, &name).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => Fault::Taken,
            _ => Fault::Io(e),
        })?;
        m.touched.extend([old, parent]);
        m.at.remove(&(old, was));
        m.at.insert((parent, name.clone()), id);
        if let Some(n) = self.nodes[id].as_mut() {
            (n.parent, n.name) = (parent, name);
        }
        Ok(())
    }

    fn move_to(&mut self, l: &Listing, id: usize, parent: usize, e: &Entry, m: &mut Match) -> Done {
        let name = host_name(e);
        let n = self.node(id)?;
        if n.parent != parent || n.name != name {
            self.evict(l, parent, &name, m)?;
            self.rename(id, parent, name, m)?;
        }
        if let Some(n) = self.nodes[id].as_mut() {
            n.shown.clone_from(&e.name);
        }
        Ok(())
    }

    /// Makes room for a name: what the host has there goes elsewhere, or away, if the volume has it elsewhere, or no more.
    fn evict(&mut self, l: &Listing, parent: usize, name: &OsStr, m: &mut Match) -> Done {
        let Some(id) = m.at.get(&(parent, name.to_owned())).copied() else { return Ok(()) };
        let n = self.node(id)?;
        if let Some(i) = m.entry.get(&id) {
            if Self::parent(l, *i, m) == Some(parent) && l.entries[*i].name == n.shown {
                return Err(Fault::Taken);
            }
        } else if !n.dir {
            return self.remove(id, m);
        }
        let aside = self.dir(parent)?.unused(name)?;
        self.rename(id, parent, aside, m)
    }

    /// Removes what the volume has no more. True if something of it has to wait.
    fn remove_gone(&mut self, m: &mut Match, faults: &mut Vec<(String, Fault)>) -> bool {
        let mut gone: Vec<(usize, usize)> = m
            .gone
            .iter()
            .filter(|id| self.node(**id).is_ok())
            .map(|id| (self.names(*id).map_or(0, |n| n.len()), *id))
            .collect();
        // What is deepest first.
        gone.sort_unstable_by(|a, b| b.cmp(a));
        let mut children: HashMap<usize, usize> = HashMap::new();
        for n in self.nodes.iter().skip(1).flatten() {
            *children.entry(n.parent).or_default() += 1;
        }
        let mut waits = false;
        for (_, id) in gone {
            let Ok(n) = self.node(id) else { continue };
            if children.get(&id).is_some_and(|n| *n > 0) {
                waits = true;
                continue;
            }
            let (parent, shown) = (n.parent, n.shown.clone());
            match self.remove(id, m) {
                Ok(()) => *children.entry(parent).or_default() -= 1,
                Err(f) => faults.push((shown, f)),
            }
        }
        waits
    }

    /// Removes a file or an empty directory from the host, and its node.
    fn remove(&mut self, id: usize, m: &mut Match) -> Done {
        let n = self.node(id)?;
        let (parent, name, dir, print) = (n.parent, n.name.clone(), n.dir, n.print);
        let d = self.dir(parent)?;
        // What the host has no more need not be removed.
        if let Some(found) = d.find(&name)? {
            let same = if dir {
                found.dir && (found.print.dev, found.print.ino) == (print.dev, print.ino)
            } else {
                found.file && found.print == print
            };
            if !same {
                return Err(Fault::Changed);
            }
            self.preserve(id, 0)?;
            self.let_go();
            d.remove(&name, dir)?;
            m.touched.insert(parent);
        }
        m.at.remove(&(parent, name));
        m.gone.remove(&id);
        m.touched.remove(&id);
        self.nodes[id] = None;
        // The disk may still ask for those that it was opened with.
        if id > self.items() {
            self.free.push(id);
        }
        Ok(())
    }

    /// Writes bytes of an entry into a file.
    fn fill(&mut self, file: &File, e: &Entry, bytes: Range<u64>) -> Done {
        let mut buf = Vec::new();
        for (place, range) in self.places(&e.chain, bytes) {
            let (mut place, mut at) = (place, range.start);
            while at < range.end {
                let n = (range.end - at).min(CHUNK);
                buf.resize(n as usize, 0);
                self.read(place, &mut buf)?;
                file.write_all_at(&buf, at)?;
                (place, at) = (place + n, at + n);
            }
        }
        Ok(())
    }

    /// Sets what the volume says of a file beside its bytes, and makes it stable.
    fn finish(file: &File, e: &Entry, mode: u32, time: bool) -> Done<Print> {
        let now = look(file)?;
        if now.mode != mode {
            set_mode(file, mode)?;
        }
        if time && let Some(t) = moment(e.stamp) {
            set_changed(file, t)?;
        }
        file.sync_all()?;
        Ok(look(file)?.print)
    }

    /// Makes a file.
    fn create(&mut self, l: &Listing, i: usize, m: &mut Match) -> Done {
        let e = &l.entries[i];
        let Some(parent) = Self::parent(l, i, m) else { return Ok(()) };
        let name = host_name(e);
        let d = self.dir(parent)?;
        // Nothing is written for what cannot get its name.
        if !m.at.contains_key(&(parent, name.clone())) && d.find(&name)?.is_some() {
            return Err(Fault::Taken);
        }
        let (beside, file) = d.make_file(0o666)?;
        let done = (|| {
            self.fill(&file, e, 0..u64::from(e.size))?;
            let mode = look(&file)?.mode & if e.read_only { !0o222 } else { !0 };
            let print = Self::finish(&file, e, mode, true)?;
            self.evict(l, parent, &name, m)?;
            d.rename(&beside, &d, &name).map_err(|e| match e.kind() {
                io::ErrorKind::AlreadyExists => Fault::Taken,
                _ => Fault::Io(e),
            })?;
            Ok(print)
        })();
        match done {
            Ok(print) => {
                m.touched.insert(parent);
                let id = self.add(parent, name, e, print, m);
                m.entry.insert(id, i);
                Ok(())
            }
            Err(f) => {
                _ = d.remove(&beside, false);
                Err(f)
            }
        }
    }

    /// How the content of a file differs from what the host has.
    fn change(&self, n: &Node, e: &Entry) -> Change {
        let (old, new) = (u64::from(n.size), u64::from(e.size));
        let shared = old.min(new);
        let clusters = shared.div_ceil(self.g.cluster_len()) as usize;
        if n.whole || n.chain.get(..clusters) != e.chain.get(..clusters) {
            return Change::Whole;
        }
        let mut ranges = Vec::new();
        for (place, range) in self.places(&e.chain, 0..shared) {
            for fresh in self.overlay.fresh(place..place + (range.end - range.start)) {
                let start = fresh.start.max(place) - place + range.start;
                let end = (fresh.end - place + range.start).min(range.end);
                ranges.push(start..end);
            }
        }
        if new > old {
            ranges.push(old..new);
        }
        if ranges.is_empty() && new == old { Change::None } else { Change::Within(ranges) }
    }

    /// Brings a file of the host to what the volume has of it.
    fn update(&mut self, id: usize, e: &Entry, m: &mut Match) -> Done {
        let n = self.node(id)?;
        let done = match self.change(n, e) {
            Change::None if n.stamp == e.stamp && n.read_only == e.read_only => Ok(Some(n.print)),
            Change::None => self.write_within(id, e, &[], false),
            Change::Within(ranges) => self.write_within(id, e, &ranges, true),
            Change::Whole => Ok(None),
        };
        let done = match done {
            Ok(Some(print)) => Ok(print),
            Ok(None) => self.write_beside(id, e, m),
            Err(f) => Err(f),
        };
        let Some(n) = self.nodes[id].as_mut() else { return Ok(()) };
        match done {
            Ok(print) => {
                n.print = print;
                n.chain.clone_from(&e.chain);
                (n.size, n.stamp, n.read_only, n.whole) = (e.size, e.stamp, e.read_only, false);
                Ok(())
            }
            Err(f) => {
                // What is news now is not the next time.
                n.whole = true;
                Err(f)
            }
        }
    }

    /// What the permissions become.
    fn mode(n: &Node, e: &Entry, found: &Found) -> u32 {
        match (n.read_only, e.read_only) {
            (false, true) => found.mode & !0o222,
            (true, false) => found.mode | 0o200,
            _ => found.mode,
        }
    }

    /// Writes pieces of a file in their place. `None`: that must not be, and it is to be written anew.
    fn write_within(
        &mut self,
        id: usize,
        e: &Entry,
        ranges: &[Range<u64>],
        content: bool,
    ) -> Done<Option<Print>> {
        let n = self.node(id)?;
        let (name, old) = (n.name.clone(), u64::from(n.size));
        let d = self.dir(n.parent)?;
        let file = match d.file(&name, content) {
            Ok(f) => f,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied && content => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::ExecutableFileBusy => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let found = look(&file)?;
        if found.print != n.print {
            return Err(Fault::Changed);
        }
        // Under another name it may be outside.
        if content && found.names > 1 {
            return Ok(None);
        }
        let (mode, time) = (Self::mode(n, e, &found), n.stamp != e.stamp);
        let new = u64::from(e.size);
        let done = (|| {
            if new < old {
                self.preserve(id, new)?;
            }
            for r in ranges {
                self.fill(&file, e, r.clone())?;
            }
            if new < old {
                file.set_len(new)?;
            }
            Self::finish(&file, e, mode, time)
        })();
        if done.is_err()
            && let (Ok(now), Some(n)) = (look(&file), self.nodes[id].as_mut())
        {
            // Whatever it is now, it is our doing.
            n.print = now.print;
        }
        done.map(Some)
    }

    /// Writes a file anew, which takes the place of the one that is there.
    fn write_beside(&mut self, id: usize, e: &Entry, m: &mut Match) -> Done<Print> {
        let n = self.node(id)?;
        let (parent, name, print) = (n.parent, n.name.clone(), n.print);
        let d = self.dir(parent)?;
        let unchanged = |found: &Option<Found>| found.as_ref().is_none_or(|f| f.file && f.print == print);
        let there = d.find(&name)?;
        if !unchanged(&there) {
            return Err(Fault::Changed);
        }
        let (beside, file) = d.make_file(if there.is_some() { 0o600 } else { 0o666 })?;
        let done = (|| {
            self.fill(&file, e, 0..u64::from(e.size))?;
            let n = self.node(id)?;
            let (mode, time) = match &there {
                Some(f) => {
                    give(&file, f.owner);
                    (Self::mode(n, e, f), n.stamp != e.stamp)
                }
                None => (look(&file)?.mode & if e.read_only { !0o222 } else { !0 }, true),
            };
            let print = Self::finish(&file, e, mode, time)?;
            if there.is_some() {
                self.preserve(id, 0)?;
            } else if let Some(n) = self.nodes[id].as_mut() {
                // What the disk showed of it is lost; it is not what is written here.
                n.source = 0;
            }
            self.let_go();
            if !unchanged(&d.find(&name)?) {
                return Err(Fault::Changed);
            }
            d.replace(&beside, &name)?;
            Ok(print)
        })();
        match done {
            Ok(print) => {
                m.touched.insert(parent);
                Ok(print)
            }
            Err(f) => {
                _ = d.remove(&beside, false);
                Err(f)
            }
        }
    }
}
