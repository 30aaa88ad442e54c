//! Whether everything that was given to a connection of HTTP/1 has been written.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// Asked by an answer's body that breaks off, answered by the stream that hyper flushes.
#[derive(Debug)]
pub struct Flush(AtomicU8);

/// Nobody answers. So it is over HTTP/2, where the client of a broken stream hears of a reset in any case.
const UNKNOWN: u8 = 0;
const WATCHED: u8 = 1;
const WANTED: u8 = 2;

impl Default for Flush {
    fn default() -> Self {
        Self::new()
    }
}

impl Flush {
    pub const fn new() -> Self {
        Self(AtomicU8::new(UNKNOWN))
    }

    pub fn watch(&self) {
        self.0.store(WATCHED, Relaxed);
    }

    /// Everything has been written. Says whether a body waits for that.
    pub fn done(&self) -> bool {
        self.0.load(Relaxed) == WANTED && self.0.swap(WATCHED, Relaxed) == WANTED
    }

    /// `false`: nobody will tell.
    pub fn want(&self) -> bool {
        self.0.load(Relaxed) != UNKNOWN && self.0.swap(WANTED, Relaxed) != UNKNOWN
    }

    pub fn is_wanted(&self) -> bool {
        self.0.load(Relaxed) == WANTED
    }
}
