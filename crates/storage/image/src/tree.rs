//! Who backs whom among images: what `rhea img tree` draws.
//!
//! Headers are read, and what they name is looked up among the images that the user gave. Nothing that a header names is
//! opened, nor is it even looked whether it is there, unless it lies in a folder that the user named or the user asked
//! to follow. So the headers may be anybody's.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use block::filename::prefix;
use qapi::{QError, qerr};

use crate::create::beside;
use crate::open::{OpenFlags, Source, open};

/// Most images that are looked at.
const MAX_IMAGES: usize = 100_000;
/// Deepest folder below one that was given.
const MAX_DEPTH: usize = 32;

/// What to look at.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// Images and folders.
    pub names: Vec<String>,
    /// Folders within folders, too.
    pub recursive: bool,
    /// Plain files that headers name are opened, wherever they are.
    pub follow: bool,
}

/// What became of a name in a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The image of this number.
    Image(usize),
    /// A file beside the images that is not there.
    Missing,
    /// Elsewhere: not looked at.
    Elsewhere,
    /// No plain file name.
    NoFile,
}

/// What a header names something for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// As backing file.
    Backing,
    /// As the holder of all data.
    Data,
    /// As the holder of a part of the data.
    Extent,
}

/// A name in a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// What for.
    pub purpose: Purpose,
    /// The name as the header has it.
    pub name: String,
    /// The format that the header says.
    pub format: Option<String>,
    /// What it is.
    pub target: Target,
}

/// What could be read of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Its format; `raw` where nothing else fits.
    pub format: String,
    /// Bytes that a guest sees.
    pub virtual_size: u64,
    /// Bytes that it takes on the host, where that is known.
    pub actual_size: Option<u64>,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// Snapshots inside it.
    pub snapshots: usize,
    /// It was not closed properly.
    pub dirty: bool,
}

/// One image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its name, from the one that the user gave.
    pub name: String,
    /// What was read, or why nothing was.
    pub facts: Result<Facts, String>,
    /// What its header names.
    pub links: Vec<Link>,
    /// The images that it backs.
    pub overlays: Vec<usize>,
    /// Its chain comes back to itself.
    pub looped: bool,
    /// Another image keeps its data here.
    pub part: bool,
    /// The user named it or its folder; not only a header.
    pub given: bool,
}

impl Image {
    /// The backing file, where the header names one.
    pub fn backing(&self) -> Option<&Link> {
        self.links.iter().find(|l| l.purpose == Purpose::Backing)
    }
}

/// Looks.
///
/// # Errors
/// Something that the user named is not there or cannot be listed, or there are too many images. Images that cannot be read
/// are told of in their place.
pub async fn look(ask: &Ask) -> Result<Vec<Image>, QError> {
    let mut seen = Seen::default();
    for name in &ask.names {
        seen.give(name, ask.recursive)?;
    }
    let mut next = 0;
    while next < seen.images.len() {
        read(&mut seen.images[next]).await;
        if ask.follow {
            seen.follow(next)?;
        }
        next += 1;
    }
    seen.resolve();
    Ok(seen.images)
}

/// The images so far.
#[derive(Default)]
struct Seen {
    images: Vec<Image>,
    /// Where each lies, without links on the way; `None` where that is no folder of this host.
    places: Vec<Option<PathBuf>>,
    /// By device and inode.
    by_file: HashMap<(u64, u64), usize>,
    /// By place.
    by_path: HashMap<PathBuf, usize>,
    /// The folders in which names may be looked up, also as the user named them, and their names without links.
    folders: HashMap<PathBuf, PathBuf>,
    /// Followed, and not there.
    missing: BTreeSet<PathBuf>,
}

fn reason(name: &str, e: std::io::Error) -> QError {
    qerr!("Could not open '{name}': {}", base::Errno::from(e))
}

fn file_id(meta: &std::fs::Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

impl Seen {
    /// Takes up an image or a folder that the user named.
    fn give(&mut self, name: &str, recursive: bool) -> Result<(), QError> {
        if prefix(name).is_some_and(|p| p != "file") {
            return self.add(name.into(), None, None, true);
        }
        let path = name.strip_prefix("file:").unwrap_or(name);
        let meta = std::fs::metadata(path).map_err(|e| reason(name, e))?;
        if meta.is_dir() {
            return self.give_folder(path, recursive);
        }
        let folder = Path::new(path).parent().filter(|p| !p.as_os_str().is_empty());
        let folder = self.add_folder(folder.unwrap_or(Path::new(".")));
        let place = folder.and_then(|f| Some(f.join(Path::new(path).file_name()?)));
        self.add(path.into(), place, Some(file_id(&meta)), true)
    }

    /// From now on names may be looked up in this folder. Its name without links.
    fn add_folder(&mut self, folder: &Path) -> Option<PathBuf> {
        let real = folder.canonicalize().ok()?;
        if let Some(said) = full(folder) {
            self.folders.insert(said, real.clone());
        }
        self.folders.insert(real.clone(), real.clone());
        Some(real)
    }

    fn give_folder(&mut self, path: &str, recursive: bool) -> Result<(), QError> {
        let mut left = VecDeque::from([(PathBuf::from(path), 0)]);
        while let Some((dir, depth)) = left.pop_front() {
            let list = match std::fs::read_dir(&dir) {
                Ok(list) => list,
                Err(e) if depth == 0 => return Err(reason(path, e)),
                // One within it, that may not be read.
                Err(_) => continue,
            };
            let Some(real) = self.add_folder(&dir) else { continue };
            let mut entries: Vec<_> = list.filter_map(Result::ok).collect();
            entries.sort_by_key(std::fs::DirEntry::file_name);
            for entry in entries {
                // Of a link, this is about the link: links may lead anywhere, and are not followed.
                let Ok(meta) = entry.metadata() else { continue };
                let file = entry.file_name();
                let Some(file) = file.to_str().filter(|f| !f.starts_with('.')) else { continue };
                let at = dir.join(file);
                if meta.is_dir() && recursive && depth < MAX_DEPTH {
                    left.push_back((at, depth + 1));
                } else if meta.is_file() {
                    let name = at.display().to_string();
                    self.add(name, Some(real.join(file)), Some(file_id(&meta)), true)?;
                }
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        name: String,
        place: Option<PathBuf>,
        file: Option<(u64, u64)>,
        given: bool,
    ) -> Result<(), QError> {
        let known = file.and_then(|f| self.by_file.get(&f).copied());
        let number = known.unwrap_or(self.images.len());
        if let Some(p) = &place {
            self.by_path.insert(p.clone(), number);
        }
        if known.is_some() {
            return Ok(());
        }
        if self.images.len() >= MAX_IMAGES {
            return Err(qerr!("There are more than {MAX_IMAGES} images"));
        }
        if let Some(f) = file {
            self.by_file.insert(f, number);
        }
        self.places.push(place);
        self.images.push(Image {
            name,
            facts: Err(String::new()),
            links: Vec::new(),
            overlays: Vec::new(),
            looped: false,
            part: false,
            given,
        });
        Ok(())
    }

    /// Takes up the files that an image's header names, wherever they are.
    fn follow(&mut self, image: usize) -> Result<(), QError> {
        let names: Vec<String> = self.images[image].links.iter().map(|l| l.name.clone()).collect();
        for name in names {
            let (Some(place), Some(shown)) =
                (self.place(image, &name), plain(&self.images[image].name, &name))
            else {
                continue;
            };
            match std::fs::metadata(&place) {
                // Not a device, nor a pipe.
                Ok(meta) if meta.is_file() => self.add(shown, Some(place), Some(file_id(&meta)), false)?,
                Ok(_) => {}
                Err(_) => drop(self.missing.insert(place)),
            }
        }
        Ok(())
    }

    /// Where the file lies that an image's header names.
    fn place(&self, image: usize, name: &str) -> Option<PathBuf> {
        let own = self.places[image].as_ref()?;
        let name = plain("", name)?;
        let place = full(&own.parent()?.join(name))?;
        match self.folders.get(place.parent()?) {
            Some(real) => Some(real.join(place.file_name()?)),
            None => Some(place),
        }
    }

    /// Finds out what all names mean.
    fn resolve(&mut self) {
        for i in 0..self.images.len() {
            for l in 0..self.images[i].links.len() {
                let target = self.target(i, &self.images[i].links[l].name);
                self.images[i].links[l].target = target;
                let Target::Image(to) = target else { continue };
                match self.images[i].links[l].purpose {
                    Purpose::Backing => self.images[to].overlays.push(i),
                    Purpose::Data | Purpose::Extent if to != i => self.images[to].part = true,
                    Purpose::Data | Purpose::Extent => {}
                }
            }
        }
        self.find_loops();
    }

    /// Marks those whose chains come back to themselves. Each image has one backing file at most, so each is walked over
    /// once: a walk that meets an image of its own has found a loop.
    fn find_loops(&mut self) {
        let mut walked = vec![0; self.images.len()];
        for first in 0..self.images.len() {
            let (walk, mut at) = (first + 1, first);
            let met = loop {
                match walked[at] {
                    0 => walked[at] = walk,
                    w => break (w == walk).then_some(at),
                }
                match self.images[at].backing().map(|l| l.target) {
                    Some(Target::Image(next)) => at = next,
                    _ => break None,
                }
            };
            let Some(met) = met else { continue };
            let mut at = met;
            loop {
                self.images[at].looped = true;
                match self.images[at].backing().map(|l| l.target) {
                    Some(Target::Image(next)) if next != met => at = next,
                    _ => break,
                }
            }
        }
    }

    fn target(&self, image: usize, name: &str) -> Target {
        if plain("", name).is_none() {
            return Target::NoFile;
        }
        let Some(place) = self.place(image, name) else { return Target::Elsewhere };
        if let Some(i) = self.by_path.get(&place) {
            return Target::Image(*i);
        }
        if self.missing.contains(&place) {
            return Target::Missing;
        }
        if !place.parent().is_some_and(|p| self.folders.contains_key(p)) {
            return Target::Elsewhere;
        }
        // It is one in a folder that the user named, and may be a link that leads to an image.
        match std::fs::metadata(&place) {
            Ok(m) => self.by_file.get(&file_id(&m)).map_or(Target::Elsewhere, |i| Target::Image(*i)),
            Err(_) => Target::Missing,
        }
    }
}

/// A header's name as seen from here, where it is that of a plain file.
fn plain(image: &str, name: &str) -> Option<String> {
    let name = name.strip_prefix("file:").unwrap_or(name);
    (prefix(name).is_none() && !name.is_empty() && !name.contains('\0')).then(|| beside(image, name))
}

/// The name from the root on, without `.` and `..`; nothing on the way is looked at.
fn full(name: &Path) -> Option<PathBuf> {
    let from = std::path::absolute(name).ok()?;
    let mut out = PathBuf::new();
    for c in from.components() {
        match c {
            Component::CurDir => {}
            Component::ParentDir => drop(out.pop()),
            c => out.push(c),
        }
    }
    Some(out)
}

/// Reads an image's header.
async fn read(image: &mut Image) {
    let flags = OpenFlags { no_io: true, force_share: true, alone: true, ..OpenFlags::default() };
    let opened = match open(&Source::file(&image.name, None), flags).await {
        Ok(o) => o,
        Err(e) => {
            image.facts = Err(e.desc().to_owned());
            return;
        }
    };
    let named = opened.named();
    let link = |purpose, name, format| Link { purpose, name, format, target: Target::Elsewhere };
    let backing = named.backing.into_iter().map(|b| link(Purpose::Backing, b.filename, b.format));
    let data = named.data_file.into_iter().map(|n| link(Purpose::Data, n, None));
    let extents = named.extents.into_iter().map(|n| link(Purpose::Extent, n, None));
    image.links = backing.chain(data).chain(extents).collect();
    let info = opened.graph.image_info(&opened.node);
    image.facts = info.ok_or_else(|| "The node has gone".to_owned()).map(|i| Facts {
        format: i.base.format,
        virtual_size: i.base.virtual_size.max(0) as u64,
        actual_size: i.base.actual_size.map(|n| n.max(0) as u64),
        encrypted: i.base.encrypted == Some(true),
        snapshots: i.base.snapshots.map_or(0, |s| s.len()),
        dirty: i.base.dirty_flag == Some(true),
    });
    opened.close().await;
}
