//! `info`.

use super::args::{Spec, flag, long_flag, long_value, value};
use super::{CmdResult, Tool, wait};
use crate::info;
use crate::open::{OpenFlags, Source};

const SPECS: &[Spec] = &[
    flag('h', "help"),
    value('f', "format"),
    long_flag("image-opts"),
    flag('b', "backing-chain"),
    flag('U', "force-share"),
    long_value("output"),
    long_value("object"),
];

const HELP: &str = "  -f, --format FMT       the image's format; found out where it is not given
  --image-opts           FILENAME is a description (driver=...,file.filename=...), not a file name
  -b, --backing-chain    describe the backing files too
  -U, --force-share      also look at an image that is being written to
  --object TYPE,id=ID,.. an object that a description names, such as a secret
  --output human|json    how to print (default human)
  -h, --help             this text
";

pub(super) fn run(tool: &mut Tool<'_>, given: &[String]) -> CmdResult {
    let p = tool.parse("info", SPECS, given)?;
    let (mut format, mut image_opts, mut chain, mut json) = (None, false, false, false);
    let mut flags = OpenFlags::default();
    let mut objects = Vec::new();
    for (name, v) in p.options {
        match name {
            "help" => {
                let usage = format!(
                    "Tell what an image is.\n\nUsage: {} info [OPTIONS] FILENAME\n\n{HELP}",
                    tool.prog
                );
                tool.print(&usage);
                return Ok(0);
            }
            "format" => format = Some(v),
            "image-opts" => image_opts = true,
            "backing-chain" => chain = true,
            "object" => objects.push(v),
            "force-share" => flags.force_share = true,
            "output" => json = tool.json_wanted("info", &v)?,
            _ => {}
        }
    }
    let [name] = &p.rest[..] else { return tool.usage("info", "Expecting one image file name") };
    if image_opts && format.is_some() {
        return tool.usage("info", "--image-opts and --format are mutually exclusive");
    }
    let objects = Some(super::objects(tool, &objects)?);
    let source = Source { name: name.clone(), format, image_opts, objects };
    match wait(tool, info::info(&source, flags, chain))? {
        Ok(list) => {
            tool.print(&if json { info::json(&list, chain) } else { info::human(&list) });
            Ok(0)
        }
        Err(e) => tool.fail_with(&e),
    }
}
