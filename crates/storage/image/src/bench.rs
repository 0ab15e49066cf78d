//! Timing requests to an image.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::IoResult;
use block::Root;
use block::driver::WriteFlags;
use mem::IoBuf;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Requests.
    pub count: u64,
    /// Requests at a time.
    pub depth: usize,
    /// Where the first one begins, bytes.
    pub offset: u64,
    /// How long each is, bytes.
    pub size: u64,
    /// How far each is behind the one before, bytes.
    pub step: u64,
    /// Write this byte; read otherwise.
    pub write: Option<u8>,
    /// After so many writes, what was written is made stable; 0: never.
    pub flush_interval: u64,
    /// Writing goes on while that is being done.
    pub no_drain: bool,
}

/// Does it, and tells how long it took.
///
/// # Errors
/// The first request that failed.
pub async fn run(root: &Arc<Root>, load: Load) -> IoResult<Duration> {
    let begun = Instant::now();
    let len = root.len();
    let mut flying = VecDeque::new();
    let mut at = load.offset;
    let mut free: Vec<IoBuf> = Vec::new();
    for i in 0..load.count {
        while flying.len() >= load.depth {
            let Some(task) = flying.pop_front() else { break };
            collect(task, &mut free).await?;
        }
        if len <= load.size {
            at = 0;
        } else if i > 0 && at > len - load.size {
            at %= len - load.size;
        }
        let buf = free.pop().unwrap_or_else(|| {
            let b = IoBuf::zeroed(load.size as usize);
            b.fill(load.write.unwrap_or(0));
            b
        });
        let root_of = root.clone();
        let task: rt::JoinHandle<IoResult<Option<IoBuf>>> = rt::spawn_local(async move {
            match load.write {
                Some(_) => root_of.write(at, buf.clone(), WriteFlags::empty()).await?,
                None => root_of.read(at, buf.clone()).await?,
            }
            Ok(Some(buf))
        });
        flying.push_back(task);
        at += load.step;
        if load.flush_interval > 0 && (i + 1) % load.flush_interval == 0 {
            if !load.no_drain {
                while let Some(task) = flying.pop_front() {
                    collect(task, &mut free).await?;
                }
            }
            let root_of = root.clone();
            flying.push_back(rt::spawn_local(async move { root_of.flush().await.map(|()| None) }));
        }
    }
    while let Some(task) = flying.pop_front() {
        collect(task, &mut free).await?;
    }
    Ok(begun.elapsed())
}

async fn collect(task: rt::JoinHandle<IoResult<Option<IoBuf>>>, free: &mut Vec<IoBuf>) -> IoResult<()> {
    free.extend(task.await?);
    Ok(())
}
