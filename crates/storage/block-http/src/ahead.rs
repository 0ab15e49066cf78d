//! Pieces that were read ahead, for reads of a few bytes at a time.

use crate::client::{Client, Thing};
use base::IoResult;
use mem::IoBuf;
use parking_lot::Mutex;
use rt::sync::Notify;
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

/// Most pieces that are kept.
const MAX_PIECES: usize = 16;
/// Most that is read ahead, bytes, whatever was asked for.
pub(crate) const MAX_AHEAD: u64 = 8 << 20;

struct Piece {
    start: u64,
    data: IoBuf,
    /// Set once: whether `data` is there.
    done: OnceLock<IoResult<()>>,
    ready: Notify,
}

impl Piece {
    fn has(&self, off: u64) -> bool {
        (self.start..self.start + self.data.len() as u64).contains(&off)
    }

    async fn wait(&self) -> IoResult<()> {
        loop {
            let ready = self.ready.notified();
            if let Some(done) = self.done.get() {
                return *done;
            }
            ready.await;
        }
    }
}

/// What was read ahead.
pub(crate) struct Ahead {
    /// How far beyond what was asked for, bytes.
    window: u64,
    /// The one used last stands in front.
    pieces: Mutex<VecDeque<Arc<Piece>>>,
}

impl Ahead {
    pub(crate) fn new(window: u64) -> Ahead {
        Ahead { window: window.min(MAX_AHEAD), pieces: Mutex::default() }
    }

    /// Reads what lies within the thing.
    pub(crate) async fn read(&self, client: &Client, thing: &Thing, off: u64, into: &IoBuf) -> IoResult<()> {
        // Who reads much at a time reads ahead on its own.
        if into.len() as u64 >= self.window {
            return client.read(thing, off, into).await;
        }
        let mut done = 0;
        while done < into.len() {
            let at = off + done as u64;
            let piece = match self.find(at) {
                Some(p) => {
                    p.wait().await?;
                    p
                }
                None => self.fetch(client, thing, at, into.len() - done).await?,
            };
            let from = (at - piece.start) as usize;
            let n = (piece.data.len() - from).min(into.len() - done);
            into.slice(done..done + n).copy_from_buf(&piece.data.slice(from..from + n));
            done += n;
        }
        Ok(())
    }

    fn find(&self, off: u64) -> Option<Arc<Piece>> {
        let mut pieces = self.pieces.lock();
        let at = pieces.iter().position(|p| p.has(off))?;
        let piece = pieces.remove(at)?;
        pieces.push_front(piece.clone());
        Some(piece)
    }

    async fn fetch(&self, client: &Client, thing: &Thing, off: u64, len: usize) -> IoResult<Arc<Piece>> {
        let len = (len as u64 + self.window).min(thing.size - off);
        let piece = Arc::new(Piece {
            start: off,
            data: IoBuf::zeroed(len as usize),
            done: OnceLock::new(),
            ready: Notify::new(),
        });
        {
            let mut pieces = self.pieces.lock();
            pieces.push_front(piece.clone());
            pieces.truncate(MAX_PIECES);
        }
        let read = client.read(thing, off, &piece.data).await;
        // Set here alone.
        let _ = piece.done.set(read);
        piece.ready.notify_all();
        if read.is_err() {
            self.pieces.lock().retain(|p| !Arc::ptr_eq(p, &piece));
        }
        read.map(|()| piece)
    }
}
