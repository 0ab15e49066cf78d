//! A guest's serial console: a byte stream that is waited on.

use std::io::{Read, Write};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// What is called with each whole line that the guest prints.
pub type LineHook = Box<dyn Fn(&str) + Send>;

#[derive(Default)]
struct Shared {
    text: Mutex<(String, bool)>,
    grown: Condvar,
}

/// One end of a serial line: collects what the guest prints, sends what the host types.
pub struct Console {
    shared: Arc<Shared>,
    input: Option<Box<dyn Write + Send>>,
    /// How much of the text earlier calls of [`Console::expect`] have passed.
    seen: usize,
}

impl Console {
    /// Reads `output` on a thread of its own until it ends; `hook` is called there for each line.
    pub fn new(
        mut output: impl Read + Send + 'static,
        input: Option<Box<dyn Write + Send>>,
        hook: Option<LineHook>,
    ) -> Console {
        let shared = Arc::new(Shared::default());
        let writer = shared.clone();
        std::thread::spawn(move || {
            let mut bytes = [0u8; 4096];
            let mut line = String::new();
            while let Ok(n @ 1..) = output.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..n]).replace('\r', "");
                if let Some(hook) = &hook {
                    for c in text.chars() {
                        if c == '\n' {
                            hook(&line);
                            line.clear();
                        } else {
                            line.push(c);
                        }
                    }
                }
                writer.text.lock().unwrap().0.push_str(&text);
                writer.grown.notify_all();
            }
            writer.text.lock().unwrap().1 = true;
            writer.grown.notify_all();
        });
        Console { shared, input, seen: 0 }
    }

    /// Everything printed so far, without carriage returns.
    pub fn text(&self) -> String {
        self.shared.text.lock().unwrap().0.clone()
    }

    /// Waits until the guest has printed `wanted` after what earlier calls waited for, and returns the line it
    /// stands in. An error shows the last lines when the stream ends first, when `limit` is over, or when the guest
    /// says `FAIL`.
    pub fn expect(&mut self, wanted: &str, limit: Duration) -> Result<String> {
        let end = Instant::now() + limit;
        let mut matched = None;
        let mut guard = self.shared.text.lock().unwrap();
        loop {
            let (text, closed) = &*guard;
            if let Some(at) = text[self.seen..].find(wanted) {
                let at = self.seen + at;
                let stop = text[at..].find('\n').map(|i| at + i);
                // The rest of the line is on its way, unless this is a prompt that no line end follows.
                let prompt_by = *matched.get_or_insert_with(|| Instant::now() + Duration::from_secs(1));
                if stop.is_some() || *closed || Instant::now() >= prompt_by {
                    let start = text[..at].rfind('\n').map_or(0, |i| i + 1);
                    let line = text[start..stop.unwrap_or(text.len())].to_string();
                    self.seen = at + wanted.len();
                    return Ok(line);
                }
                guard = self.shared.grown.wait_timeout(guard, Duration::from_millis(50)).unwrap().0;
                continue;
            }
            let tail =
                || text.lines().rev().take(15).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>();
            // The whole line, which tells why, has come.
            if text[self.seen..].split_once("FAIL").is_some_and(|(_, rest)| rest.contains('\n')) {
                bail!("the guest failed while waiting for '{wanted}':\n{}", tail().join("\n"));
            }
            if *closed {
                bail!("the console ended before '{wanted}':\n{}", tail().join("\n"));
            }
            let now = Instant::now();
            if now >= end {
                bail!("'{wanted}' did not come within {limit:?}:\n{}", tail().join("\n"));
            }
            guard = self.shared.grown.wait_timeout(guard, end - now).unwrap().0;
        }
    }

    /// Types `text` on the guest's console.
    pub fn send(&mut self, text: &str) -> Result<()> {
        let Some(input) = &mut self.input else { bail!("this console has no input") };
        input.write_all(text.as_bytes())?;
        Ok(input.flush()?)
    }
}
