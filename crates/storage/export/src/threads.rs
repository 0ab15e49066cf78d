//! Threads for clients of exports that have no iothread: each new client goes to the one that has the fewest.

use parking_lot::Mutex;
use std::sync::Arc;

/// The most threads, and no more than the host has processors.
const MOST: usize = 8;

struct Place {
    thread: rt::IoThread,
    clients: usize,
}

/// Threads that are made as clients come, and stay.
pub(crate) struct Threads {
    places: Mutex<Vec<Place>>,
    most: usize,
}

/// A client's place on a thread; free again when dropped.
pub(crate) struct Seat {
    threads: Arc<Threads>,
    number: usize,
    handle: rt::Handle,
}

impl Threads {
    /// None yet.
    pub(crate) fn new() -> Arc<Threads> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Threads::up_to(processors.min(MOST))
    }

    fn up_to(most: usize) -> Arc<Threads> {
        Arc::new(Threads { places: Mutex::default(), most })
    }

    /// A place for one more client; `None` where no thread can be made.
    pub(crate) fn seat(self: &Arc<Self>) -> Option<Seat> {
        let mut places = self.places.lock();
        let least = places.iter().map(|p| p.clients).min();
        if places.len() < self.most && least != Some(0) {
            match rt::IoThread::spawn_as(&format!("nbd-{}", places.len()), rt::Conduct::storage()) {
                Ok(thread) => places.push(Place { thread, clients: 0 }),
                Err(e) => tracing::warn!("one thread less for NBD clients: {e}"),
            }
        }
        let (number, place) = places.iter_mut().enumerate().min_by_key(|(_, p)| p.clients)?;
        place.clients += 1;
        Some(Seat { threads: self.clone(), number, handle: place.thread.handle() })
    }
}

impl Seat {
    /// The thread.
    pub(crate) fn handle(&self) -> &rt::Handle {
        &self.handle
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.threads.places.lock()[self.number].clients -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_spread() {
        let threads = Threads::up_to(2);
        let seats: Vec<_> = (0..4).map(|_| threads.seat().unwrap()).collect();
        assert_eq!(seats.iter().map(|s| s.number).collect::<Vec<_>>(), [0, 1, 0, 1]);
        drop(seats.into_iter().nth(1));
        let again: Vec<_> = (0..2).map(|_| threads.seat().unwrap().number).collect();
        assert_eq!(again, [0, 0], "all places were free, and each seat was given back at once");
        assert_eq!(threads.places.lock().len(), 2);
    }
}
