//! `create`.

use qapi::{QError, qerr};
use qom::ObjectTree;
use std::sync::Arc;

use super::args::{HELP, OBJECT, Parsed, QUIET, flag, value};
use super::{CmdResult, Command, Tool, wait};
use crate::create::{NewImage, announcement, beside, create, maker, options_of};
use crate::open::{Cache, OpenFlags, Source, open};
use crate::options::{Options, help_line, wants_help};

/// `create`.
pub(super) static COMMAND: Command = Command {
    name: "create",
    about: "Make a new image",
    usage: "[-f FMT] [-o FMT_OPTS] [-b BACKING_FILENAME [-F BACKING_FMT]] [-u] [-q] [--object OBJDEF] FILENAME [SIZE]",
    options: &[
        HELP,
        QUIET,
        value('f', "format", "FMT", "the new image's format (default raw)"),
        value('o', "options", "A=B,...", "options of the format; '-o help' lists them"),
        value('b', "backing", "NAME", "the image behind the new one"),
        value('F', "backing-format", "FMT", "its format"),
        flag('u', "backing-unsafe", "do not look at the backing image"),
        OBJECT,
    ],
    notes: "FILENAME is replaced if it exists. SIZE takes a suffix (b k M G T P E); with a backing image it may be left out and is that image's then.",
    run,
};

fn run(tool: &mut Tool<'_>, p: Parsed) -> CmdResult {
    let (mut format, mut options, mut backing, mut backing_format) =
        ("raw".to_string(), Vec::new(), None, None);
    let (mut quiet, mut unsafe_backing, mut objects) = (false, false, Vec::new());
    for (name, v) in p.options {
        match name {
            "quiet" => quiet = true,
            "format" => format = v,
            "options" => options.push(v),
            "backing" => backing = Some(v),
            "backing-format" => backing_format = Some(v),
            "backing-unsafe" => unsafe_backing = true,
            "object" => objects.push(v),
            _ => {}
        }
    }
    tool.option_lists(&options)?;
    if wants_help(&options) {
        return list_options(tool, &format, p.rest.first().map(String::as_str));
    }
    let (name, size) = match &p.rest[..] {
        [] => return tool.usage("Expecting image file name"),
        [name] => (name, None),
        [name, size] => (name, Some(tool.number("image size", size, 0, i64::MAX as u64)?)),
        [_, _, extra, ..] => return tool.usage(&format!("Unexpected argument: {extra}")),
    };
    let objects = super::objects(tool, &objects)?;
    let job = Job { objects, name, format: &format, size, backing, backing_format, unsafe_backing };
    let done = wait(tool, job.prepare(&options))?;
    let result = match done {
        Ok((line, image)) => {
            if !quiet {
                tool.print(&line);
            }
            wait(tool, create(&image))?
        }
        Err(e) => Err(e),
    };
    match result {
        Ok(()) => Ok(0),
        Err(e) => tool.fail_with(&e.prepend(name)),
    }
}

/// The list of a format's options, with those of the file of this name.
pub(super) fn list_options(tool: &mut Tool<'_>, format: &str, name: Option<&str>) -> CmdResult {
    let mut list = match wait(tool, options_of(format, name))? {
        Ok(list) => list,
        Err(e) => return tool.fail_with(&e),
    };
    list.sort_by_key(|o| o.name);
    let mut text = match name {
        Some(_) => "Supported options:\n".to_string(),
        None => format!("Supported {format} options:\n"),
    };
    list.iter().for_each(|o| text.push_str(&help_line(o)));
    if name.is_none() {
        text.push_str("\nThe protocol level may support further options.\nSpecify the target filename to include those options.\n");
    }
    tool.print(&text);
    Ok(0)
}

struct Job<'a> {
    objects: Arc<ObjectTree>,
    name: &'a str,
    format: &'a str,
    size: Option<u64>,
    backing: Option<String>,
    backing_format: Option<String>,
    unsafe_backing: bool,
}

impl Job<'_> {
    /// Answers the line that announces the image, and the image.
    async fn prepare(&self, options: &[String]) -> Result<(String, NewImage), QError> {
        let table = options_of(self.format, Some(self.name)).await?;
        maker(self.format)?;
        let mut v = Options::default();
        v.defaults(&table);
        v.parse(&table, options)?;
        if let Some(size) = self.size {
            if v.get("size").is_some() {
                return Err(qerr!("The image size must be specified only once"));
            }
            v.set("size", size.to_string());
        }
        for (name, given, what) in [
            ("backing_file", &self.backing, "Backing file"),
            ("backing_fmt", &self.backing_format, "Backing format"),
        ] {
            if let Some(g) = given {
                if !table.iter().any(|o| o.name == name) {
                    return Err(qerr!("{what} not supported for file format '{}'", self.format));
                }
                v.set(name, g.clone());
            }
        }
        if v.get("backing_file") == Some("") {
            return Err(qerr!("Expected backing file name, got empty string"));
        }
        if let Some(backing) = v.get("backing_file").map(str::to_string)
            && let Some(size) =
                self.backing_size(&backing, v.get("backing_fmt"), v.get("size").is_some()).await?
        {
            v.set("size", size.to_string());
        }
        if v.get("size").is_none() {
            return Err(qerr!("Image creation needs a size parameter"));
        }
        let line = announcement(self.name, self.format, &v, &table);
        let image = NewImage {
            name: self.name.into(),
            format: self.format.into(),
            options: v,
            objects: Some(self.objects.clone()),
            cache: Cache::default(),
        };
        Ok((line, image))
    }

    /// Looks at the backing image; answers its size where that is needed.
    async fn backing_size(
        &self,
        backing: &str,
        format: Option<&str>,
        have_size: bool,
    ) -> Result<Option<u64>, QError> {
        let path = beside(self.name, backing);
        if path == self.name {
            return Err(qerr!("Error: Trying to create an image with the same filename as the backing file"));
        }
        let missing = || qerr!("Backing file specified without backing format");
        if self.unsafe_backing {
            return if format.is_none() { Err(missing()) } else { Ok(None) };
        }
        let source = Source::file(&path, format);
        let flags = OpenFlags { no_io: true, chain: true, ..OpenFlags::default() };
        let opened = open(&source, flags)
            .await
            .map_err(|e| qerr!("{}", e.desc()).with_hint("Could not open backing image."))?;
        let (size, found) = (opened.len(), opened.format.clone());
        opened.close().await;
        if format.is_none() {
            return Err(missing().with_hint(format!("Detected format of {found}.")));
        }
        Ok((!have_size).then_some(size))
    }
}
