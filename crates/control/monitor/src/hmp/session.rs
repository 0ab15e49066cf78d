//! A human at a terminal, or a script that behaves like one.

use super::readline::{Editor, Key};
use crate::own::version;
use crate::server::{HmpOptions, Shared};
use base::IoResult;
use io::Channel;
use std::sync::Arc;

const PROMPT: &str = "(qemu) ";
const COLUMNS: usize = 80;

/// Text for a terminal: lines end with a carriage return too.
pub(crate) fn terminal(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\n', "\r\n")
}

/// Serves one client until it is gone.
pub(crate) async fn run(shared: Arc<Shared>, channel: Arc<dyn Channel>, options: HmpOptions) {
    if let Err(e) = serve(&shared, &*channel, options).await {
        trace::point!("monitor_hmp_failed", error = %e);
    }
    channel.shutdown();
}

async fn serve(shared: &Arc<Shared>, channel: &dyn Channel, options: HmpOptions) -> IoResult<()> {
    let mut editor = Editor::new(if options.readline { PROMPT } else { "" });
    let mut buf = [0; 1024];
    if options.readline {
        let banner = format!("{} monitor - type 'help' for more information\r\n", version().package);
        io::write_all(channel, (banner + &editor.start()).as_bytes()).await?;
    }
    loop {
        let n = channel.read(&mut buf).await?;
        if n == 0 {
            return Ok(());
        }
        for byte in &buf[..n] {
            let mut shown = String::new();
            let key = editor.feed(*byte, &mut shown);
            if options.readline && !shown.is_empty() {
                io::write_all(channel, shown.as_bytes()).await?;
            }
            let mut reply = String::new();
            match key {
                Key::None | Key::End => {}
                Key::Complete(before) if options.readline => {
                    reply = complete(shared, &mut editor, &before);
                }
                Key::Complete(_) => {}
                Key::Line(line) => {
                    let s = shared.clone();
                    let task = shared.control.spawn(move || async move { s.hmp_run(&line).await });
                    // A command that was begun is finished even if its client is gone by then.
                    let text = task.outcome().await.unwrap_or_else(|_| {
                        tracing::error!("a monitor command failed inside");
                        String::from("Error: internal error\n")
                    });
                    reply = terminal(&text);
                    if options.readline {
                        reply.push_str(&editor.start());
                    }
                }
            }
            if !reply.is_empty() {
                io::write_all(channel, reply.as_bytes()).await?;
            }
        }
    }
}

/// Completes the last word before the cursor as far as it is certain; else lists what it may be.
fn complete(shared: &Shared, editor: &mut Editor, before: &str) -> String {
    let found = shared.hmp.complete(before);
    let partial = if before.ends_with(' ') { "" } else { before.rsplit(' ').next().unwrap_or("") };
    let Some(first) = found.first() else { return String::new() };
    let mut common = first.len();
    for f in &found {
        common = common.min(first.bytes().zip(f.bytes()).take_while(|(a, b)| a == b).count());
    }
    // Names are ASCII, so any length is a boundary.
    let mut more = first[partial.len()..common].to_owned();
    if found.len() == 1 {
        more.push(' ');
    }
    if !more.is_empty() {
        return editor.insert(&more);
    }
    let width = found.iter().map(|f| f.len()).max().unwrap_or(0).max(10) + 2;
    let per_line = (COLUMNS / width).max(1);
    let mut out = String::from("\r\n");
    for row in found.chunks(per_line) {
        for name in row {
            out.push_str(&format!("{name:<width$}"));
        }
        out.push_str("\r\n");
    }
    out + &editor.redraw()
}
