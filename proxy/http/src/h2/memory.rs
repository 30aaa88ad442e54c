//! How much HTTP/2 connections may hold: each for itself, and all of a worker's together.
//!
//! A connection's bound is a share of what is still free, as in the shared buffers of network switches: however
//! many hostile connections there are, the sum stays below the whole, and one more connection finds room. A
//! connection that was refused more is never told so: its streams wait until it has taken some of what it has.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::task::Waker;

use bytes::{Buf, Bytes};
use parking_lot::Mutex;

use super::Room;
use pillion_base::memory::Memory;

/// A connection may hold this part of what is free.
const PART: usize = 8;
/// Bytes that wait for a connection's socket: enough to fill it however fast it is.
const MOST_QUEUED: usize = 1024 * 1024;
/// One frame, for a connection in the worst of times.
const LEAST_QUEUED: usize = 16 * 1024;
/// Bytes that were read for streams whose peer has closed their window: one piece for each stream.
const MOST_WAITING: usize = 4 * 1024 * 1024;
const LEAST_WAITING: usize = 64 * 1024;
/// Bytes of a peer that nobody has read yet, which no connection is asked to give up while memory can be found.
const LEAST_UNREAD: usize = 64 * 1024;
/// What a connection's peer may send before any of it has gone on, once it has shown that it goes on.
const LARGE_WINDOW: u32 = 1024 * 1024;
/// The same with what waits for slow readers: sixty-four streams of a whole window each.
const LARGEST_WINDOW: u32 = 4 * 1024 * 1024;
const WINDOW_STEP: u32 = 256 * 1024;
/// How much must have gone on before a connection's window grows from the 64 KiB that RFC 9113 begins with.
const PROVEN: usize = 32 * 1024;

/// What one connection holds.
pub struct Account {
    memory: Arc<Memory>,
    /// Given to `h2`, with a window to go; waits for the socket.
    queued: AtomicUsize,
    /// Read from the other side; waits for a window.
    waiting: AtomicUsize,
    /// Came from the peer; waits for whoever reads it.
    unread: AtomicUsize,
    /// Came from the peer and has gone on, until that is enough for a larger window.
    proven: AtomicUsize,
    /// The connection's window; zero while it is what RFC 9113 begins with.
    window: AtomicU32,
    /// Streams that wait until they may read on.
    senders: Mutex<Vec<Waker>>,
    has_senders: AtomicBool,
}

impl Account {
    pub fn new(memory: Arc<Memory>) -> Self {
        Self {
            memory,
            queued: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            unread: AtomicUsize::new(0),
            proven: AtomicUsize::new(0),
            window: AtomicU32::new(0),
            senders: Mutex::default(),
            has_senders: AtomicBool::new(false),
        }
    }

    /// Whether a stream that has nothing in hand may read its next piece.
    pub fn may_read(&self) -> bool {
        let (queued, waiting) = allowances(self.memory.free());
        self.queued.load(Relaxed) < queued && self.waiting.load(Relaxed) < waiting
    }

    /// Wakes `waker` when reading on may be allowed.
    pub fn wait(&self, waker: &Waker) {
        let mut senders = self.senders.lock();
        if !senders.iter().any(|sender| sender.will_wake(waker)) {
            senders.push(waker.clone());
        }
        self.has_senders.store(true, Relaxed);
        self.memory.wait_while_scarce(waker);
    }

    pub fn hold_waiting(&self, bytes: usize) {
        self.memory.hold(bytes);
        self.waiting.fetch_add(bytes, Relaxed);
    }

    pub fn drop_waiting(&self, bytes: usize) {
        if bytes > 0 {
            self.memory.release(bytes);
            self.waiting.fetch_sub(bytes, Relaxed);
            self.wake_senders();
        }
    }

    fn drop_queued(&self, bytes: usize) {
        self.memory.release(bytes);
        self.queued.fetch_sub(bytes, Relaxed);
        self.wake_senders();
    }

    /// All of them, and not for each frame that leaves: when half of what may be queued has left.
    fn wake_senders(&self) {
        if !self.has_senders.load(Relaxed) {
            return;
        }
        let (queued, waiting) = allowances(self.memory.free());
        if self.queued.load(Relaxed) <= queued / 2 && self.waiting.load(Relaxed) < waiting {
            self.has_senders.store(false, Relaxed);
            let senders = std::mem::take(&mut *self.senders.lock());
            senders.into_iter().for_each(Waker::wake);
        }
    }

    /// Bytes of the peer that wait to be read. `false`: they are too many, and their stream must end.
    pub fn hold_unread(&self, bytes: usize) -> bool {
        let held = self.memory.hold(bytes);
        let unread = self.unread.fetch_add(bytes, Relaxed) + bytes;
        !is_too_much(held, unread, self.memory.most())
    }

    pub fn drop_unread(&self, bytes: usize) {
        self.memory.release(bytes);
        self.unread.fetch_sub(bytes, Relaxed);
        self.pass(bytes);
    }

    /// Bytes of the peer have gone on.
    pub fn pass(&self, bytes: usize) {
        if self.window.load(Relaxed) == 0 {
            self.proven.fetch_add(bytes, Relaxed);
        }
    }

    /// Another window for the connection, where one is due: larger once what the peer sends has shown to go on, and
    /// larger by what waits for slow readers, who would otherwise hold up the connection's other streams.
    pub fn new_window(&self) -> Option<u32> {
        let now = self.window.load(Relaxed);
        if now == 0 && self.proven.load(Relaxed) < PROVEN {
            return None;
        }
        let new = window(now, self.unread.load(Relaxed), self.memory.free() > self.memory.most() / 4);
        (new != now).then(|| {
            self.window.store(new, Relaxed);
            new
        })
    }

    /// What waits for slow readers has taken so much of the connection that it should not be given further ones.
    pub fn is_clogged(&self) -> bool {
        self.unread.load(Relaxed) > LARGEST_WINDOW as usize / 2
    }
}

fn window(now: u32, unread: usize, has_memory: bool) -> u32 {
    let unread = u32::try_from(unread).unwrap_or(u32::MAX) / WINDOW_STEP * WINDOW_STEP;
    let wanted = LARGE_WINDOW.saturating_add(unread).min(LARGEST_WINDOW);
    let is_much_less = unread == 0 && now > wanted;
    if wanted > now && has_memory || is_much_less { wanted } else { now }
}

/// How much of a connection may be queued and waiting, while so much is free.
fn allowances(free: usize) -> (usize, usize) {
    let queued = (free / PART).clamp(LEAST_QUEUED, MOST_QUEUED);
    let waiting = (free / PART).clamp(LEAST_WAITING, MOST_WAITING);
    (queued, waiting)
}

/// With no memory left a connection that holds more than its least must give up some; far beyond, any must.
fn is_too_much(held: usize, unread: usize, most: usize) -> bool {
    held > most && (unread > LEAST_UNREAD || held > most + most / 2)
}

/// Bytes on their way through `h2`. What they held is free again when they are written, or given up.
pub struct Piece {
    bytes: Bytes,
    charged: usize,
    room: Option<Arc<Room>>,
}

impl Piece {
    /// `bytes` were waiting; they are queued from here on.
    pub fn queue(bytes: Bytes, room: &Arc<Room>) -> Self {
        let (account, charged) = (&room.account, bytes.len());
        account.queued.fetch_add(charged, Relaxed);
        account.waiting.fetch_sub(charged, Relaxed);
        Self { bytes, charged, room: Some(room.clone()) }
    }

    pub const fn empty() -> Self {
        Self { bytes: Bytes::new(), charged: 0, room: None }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(room) = &self.room {
            room.account.drop_queued(self.charged);
        }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a3_hostile_connections_leave_room_for_another_however_many_they_are() {
        let most = Memory::of_one_in(1).most();
        let mut held = vec![0; 500];
        for _ in 0..1000 {
            for index in 0..held.len() {
                let free = most.saturating_sub(held.iter().sum());
                let (queued, _) = allowances(free);
                held[index] = held[index].max(queued);
            }
        }
        let sum: usize = held.iter().sum();
        assert!(sum <= most + held.len() * LEAST_QUEUED, "{sum}");
        assert!(allowances(most.saturating_sub(sum)).0 >= LEAST_QUEUED);
    }

    #[test]
    fn a3_a_window_grows_by_what_waits_and_shrinks_when_nothing_does() {
        assert_eq!(window(0, 0, true), LARGE_WINDOW);
        assert_eq!(window(LARGE_WINDOW, 300_000, true), LARGE_WINDOW + WINDOW_STEP);
        assert_eq!(window(LARGE_WINDOW, usize::MAX, true), LARGEST_WINDOW);
        assert_eq!(window(LARGEST_WINDOW, WINDOW_STEP as usize, true), LARGEST_WINDOW, "not with every byte");
        assert_eq!(window(LARGEST_WINDOW, 0, true), LARGE_WINDOW);
        assert_eq!(window(0, 0, false), 0, "no memory for it");
    }

    #[test]
    fn a3_with_no_memory_left_those_give_up_who_hold_most() {
        let most = 1000 * LEAST_UNREAD;
        assert!(!is_too_much(most, most, most), "there is still memory");
        assert!(is_too_much(most + 1, LEAST_UNREAD + 1, most));
        assert!(!is_too_much(most + 1, LEAST_UNREAD, most), "one that holds little is spared");
        assert!(is_too_much(2 * most, 1, most));
    }
}
