//! `dd`.

use qapi::{QError, qerr};

use super::args::{FORMAT, HELP, IMAGE_OPTS, OBJECT, Parsed, SHARE, value};
use super::{CmdResult, Command, Tool, could_not_open, wait};
use crate::convert::{Plan, copy};
use crate::create::{NewImage, create, maker};
use crate::open::{OpenFlags, Opened, Source, open};

/// `dd`.
pub(super) static COMMAND: Command = Command {
    name: "dd",
    about: "Copy a part of an image into a new one",
    usage: "[-f FMT | --image-opts] [-O FMT] [--object OBJDEF] [-U] [bs=BLOCK_SIZE] [count=BLOCKS] [skip=BLOCKS] if=INPUT of=OUTPUT",
    options: &[
        HELP,
        FORMAT,
        IMAGE_OPTS,
        value('O', "output-format", "FMT", "the new image's format (default raw)"),
        SHARE,
        OBJECT,
    ],
    notes: "bs: bytes of a block (default 512). count: where to end, in blocks from the beginning. skip: where to begin.",
    run,
};

fn run(tool: &mut Tool<'_>, p: Parsed) -> CmdResult {
    let (mut input, mut output, mut bs, mut count, mut skip) = (None, None, 512, None, 0);
    for a in &p.rest {
        let Some((name, v)) = a.split_once('=') else {
            return tool.fail(&format!("unrecognized operand {a}"));
        };
        match name {
            "if" => input = Some(v.to_owned()),
            "of" => output = Some(v.to_owned()),
            "bs" => bs = tool.number("bs", v, 1, i32::MAX as u64)?,
            "count" => count = Some(tool.number("count", v, 0, i64::MAX as u64)?),
            "skip" => skip = tool.number("skip", v, 0, i64::MAX as u64)?,
            other => return tool.fail(&format!("unrecognized operand {other}")),
        }
    }
    let (Some(input), Some(output)) = (input, output) else {
        return tool.fail("Must specify both input and output files");
    };
    tool.format_or_options(&p)?;
    let source = tool.source(&p, &input)?;
    let format = p.get("output-format").unwrap_or("raw").to_owned();
    let flags = OpenFlags { force_share: p.has("force-share"), chain: true, ..OpenFlags::default() };
    let mut warning = None;
    let done = wait(tool, async {
        let image = open(&source, flags).await.map_err(|e| could_not_open(&input, &e))?;
        let done = async {
            let (ty, _) = maker(&format).map_err(|_| qerr!("Unknown file format"))?;
            let len = image.len();
            let end = count.map_or(len, |c: u64| c.saturating_mul(bs).min(len));
            let begin = skip.saturating_mul(bs);
            let size = end.saturating_sub(begin);
            if begin > end {
                warning = Some(format!("{input}: cannot skip to specified offset"));
            }
            let mut new = NewImage::new(&output, ty.name, size);
            new.objects = source.objects.clone();
            create(&new).await.map_err(|e| {
                let said = qerr!("{output}: error while creating output image: {}", e.desc());
                match e.hint() {
                    Some(h) => said.with_hint(h),
                    None => said,
                }
            })?;
            let target = Source { objects: source.objects.clone(), ..Source::file(&output, Some(ty.name)) };
            let flags = OpenFlags { write: true, ..OpenFlags::default() };
            let out = open(&target, flags).await.map_err(|e| could_not_open(&output, &e))?;
            let done = fill(&image, &out, begin, size).await;
            out.close().await;
            done
        }
        .await;
        image.close().await;
        done
    })?;
    if let Some(w) = warning {
        tool.report(&w, None);
    }
    match done {
        Ok(()) => Ok(0),
        Err(e) => tool.fail_with(&e),
    }
}

async fn fill(from: &Opened, to: &Opened, skip: u64, total: u64) -> Result<(), QError> {
    let (input, target) = (from.reader().await?, to.writer().await?);
    let info = to.graph.image_info(&to.node).map(|i| i.base);
    let encrypted = info.as_ref().is_some_and(|i| i.encrypted == Some(true));
    let plan = Plan {
        inputs: vec![input.clone()],
        target: target.clone(),
        skip,
        total,
        zero_init: !encrypted && to.graph.fresh_files_are_zero(&to.node),
        over_backing: None,
        compress: None,
        cluster: info.and_then(|i| i.cluster_size).map_or(512, |c| c.max(512) as u64),
        // All is written, zeroes too.
        sparse: 0,
        parallel: 8,
        salvage: false,
        rate: None,
        telling: false,
    };
    let done = copy(plan, &mut |_| ()).await.map_err(|e| qerr!("{e}"));
    input.detach().await;
    target.detach().await;
    done
}
