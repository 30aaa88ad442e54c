//! Bounds the bytes that the connections of one worker hold together.
//!
//! Each connection counts what it holds (today the HTTP/2 connections). A connection that finds little left takes less.
//! The bound is a part of the memory that the process may take: see [`ceiling`].

pub mod allocator;
pub mod ceiling;
pub mod cgroup;
pub mod host;
pub mod program;
pub mod resting;
pub mod shedding;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::task::Waker;

use parking_lot::Mutex;

use ceiling::Ceiling;

/// Bytes that all HTTP/2 connections of the process may hold: a quarter of 128 MiB, which is usual for the container of a
/// sidecar. Where the memory has a lower limit, a quarter of that.
const PROCESS: usize = 32 * 1024 * 1024;

/// The share of one worker.
#[derive(Debug)]
pub struct Memory {
    held: AtomicUsize,
    ceiling: Arc<Ceiling>,
    workers: usize,
    /// The tasks of connections that were refused memory while it was scarce.
    refused: Mutex<Vec<Waker>>,
    has_refused: AtomicBool,
}

impl Memory {
    /// The share of one worker out of `workers`.
    pub fn of_one_in(workers: usize, ceiling: Arc<Ceiling>) -> Arc<Self> {
        Arc::new(Self {
            held: AtomicUsize::new(0),
            ceiling,
            workers: workers.max(1),
            refused: Mutex::default(),
            has_refused: AtomicBool::new(false),
        })
    }

    /// Counts further `bytes`. Returns the sum that is held now, which may exceed [`Self::most`].
    pub fn hold(&self, bytes: usize) -> usize {
        self.held.fetch_add(bytes, Relaxed) + bytes
    }

    pub fn release(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Relaxed);
        if self.has_refused.load(Relaxed) && !self.is_scarce() {
            self.has_refused.store(false, Relaxed);
            let refused = std::mem::take(&mut *self.refused.lock());
            refused.into_iter().for_each(Waker::wake);
        }
    }

    /// Whether a connection may be refused memory because of what other connections hold.
    fn is_scarce(&self) -> bool {
        self.free() < self.most() / 2
    }

    /// Wakes `waker` when memory is no longer scarce, whichever connection gives memory back. Does nothing when memory
    /// is not scarce: the connection then waits for its own bytes to be sent.
    pub fn wait_while_scarce(&self, waker: &Waker) {
        if !self.is_scarce() {
            return;
        }
        let mut refused = self.refused.lock();
        if !refused.iter().any(|waiting| waiting.will_wake(waker)) {
            refused.push(waker.clone());
        }
        self.has_refused.store(true, Relaxed);
    }

    /// Bytes that may still be held.
    pub fn free(&self) -> usize {
        self.most().saturating_sub(self.held.load(Relaxed))
    }

    /// Bytes that may be held in total.
    pub fn most(&self) -> usize {
        PROCESS.min(self.ceiling.part_of_limit()) / self.workers
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn a3_a_connection_refused_because_of_others_is_woken_when_they_give_memory_back() {
        let (memory, woken) = (Memory::of_one_in(1, Arc::default()), Arc::<Woken>::default());
        let waker = Waker::from(woken.clone());
        memory.wait_while_scarce(&waker);
        memory.hold(memory.most());
        memory.wait_while_scarce(&waker);
        memory.wait_while_scarce(&waker);
        memory.release(memory.most() / 4);
        assert_eq!(woken.0.load(Relaxed), 0, "memory is still scarce");
        memory.release(memory.most() / 2);
        assert_eq!(woken.0.load(Relaxed), 1);
        memory.release(1);
        assert_eq!(woken.0.load(Relaxed), 1, "no task waits any more");
    }
}
