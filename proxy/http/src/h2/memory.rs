//! The memory that HTTP/2 connections may hold: each connection, and all connections of a worker together.
//!
//! The bound of a connection is a share of the memory that is still free, as in the shared buffers of network switches:
//! for any number of hostile connections, the sum stays below the total, and one more connection finds room. A
//! connection at its bound gets no error: its streams wait until its peer has accepted some of the bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::task::Waker;

use bytes::{Buf, Bytes};
use parking_lot::Mutex;

use super::Room;
use pillion_base::memory::Memory;

/// A connection may hold an eighth of the free memory.
const PART: usize = 8;
/// 1 MiB may wait for a connection's socket: enough even for a fast one.
const MOST_QUEUED: usize = 1024 * 1024;
/// 16 KiB, one frame: what a connection may queue even if no memory is free.
const LEAST_QUEUED: usize = 16 * 1024;
/// 4 MiB may be read for streams whose peer has closed their window: one piece for each stream.
const MOST_WAITING: usize = 4 * 1024 * 1024;
const LEAST_WAITING: usize = 64 * 1024;
/// 64 KiB of a peer's unread bytes, which a connection may hold as long as there is any memory.
const LEAST_UNREAD: usize = 64 * 1024;
/// 1 MiB: the connection's window once its bytes have been passed on for a while.
const LARGE_WINDOW: u32 = 1024 * 1024;
/// 4 MiB: the largest window, including the bytes that wait for slow readers: 64 streams with a full window each.
const LARGEST_WINDOW: u32 = 4 * 1024 * 1024;
const WINDOW_STEP: u32 = 256 * 1024;
/// 64 heads and trailers of answers may be given to `h2` in one move of the connection without being measured, so that
/// ordinary traffic pays only for counting them.
const UNMEASURED_HEADS: usize = 64;
/// 4 MiB for the heads and trailers of answers that wait for a peer that does not read: 1,024 heads of 4 KiB. `h2` queues
/// them without a bound, so the connection ends beyond it.
const MOST_HEADS: usize = 4 * 1024 * 1024;
/// 32 KiB must have been passed on before a connection's window grows from the initial 64 KiB of RFC 9113.
const PROVEN: usize = 32 * 1024;

/// The memory that one connection holds.
pub struct Account {
    memory: Arc<Memory>,
    /// Bytes that were given to `h2`, have a window, and wait for the socket.
    queued: AtomicUsize,
    /// Bytes that were read from the other side and wait for a window.
    waiting: AtomicUsize,
    /// Bytes that came from the peer and wait for their reader.
    unread: AtomicUsize,
    /// Bytes that came from the peer and were passed on, counted until they allow a larger window.
    proven: AtomicUsize,
    /// The connection's window; zero while it is the initial one of RFC 9113.
    window: AtomicU32,
    /// Heads and trailers of answers that were given to `h2` since the socket took all that `h2` had.
    heads: AtomicUsize,
    /// The bytes of those heads that were measured.
    head_bytes: AtomicUsize,
    /// The peer leaves so many heads unread that its connection must end.
    is_over: AtomicBool,
    /// Wakers of streams that wait until they may read again.
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
            heads: AtomicUsize::new(0),
            head_bytes: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
            senders: Mutex::default(),
            has_senders: AtomicBool::new(false),
        }
    }

    /// Whether a stream that holds no piece may read its next one.
    pub fn may_read(&self) -> bool {
        let (queued, waiting) = allowances(self.memory.free());
        self.queued.load(Relaxed) < queued && self.waiting.load(Relaxed) < waiting
    }

    /// Wakes `waker` when reading may be allowed again.
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

    /// Wakes all waiting streams when half of the allowed bytes has been sent, and not after each frame.
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

    /// Counts bytes of the peer that wait to be read. `false`: they are too many, and their stream must end.
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

    /// Counts the head or the trailers of an answer that are given to `h2`, and calls `measure` for its bytes only if heads may pile up.
    /// `false`: they are too many, and the connection must end.
    pub fn hold_head(&self, measure: impl FnOnce() -> usize) -> bool {
        let heads = self.heads.fetch_add(1, Relaxed);
        if heads < UNMEASURED_HEADS {
            return true;
        }
        let bytes = measure();
        let held = self.memory.hold(bytes);
        let waiting = self.head_bytes.fetch_add(bytes, Relaxed) + bytes;
        let fits = waiting <= MOST_HEADS && !is_too_much(held, waiting, self.memory.most());
        if !fits {
            self.is_over.store(true, Relaxed);
        }
        fits
    }

    /// Notes after each move whether the socket took all that `h2` had. If not, all further heads are measured.
    pub(super) fn note_sent(&self, all: bool) {
        if !all {
            self.heads.store(UNMEASURED_HEADS, Relaxed);
        } else if self.heads.load(Relaxed) != 0 {
            self.heads.store(0, Relaxed);
            self.drop_heads();
        }
    }

    fn drop_heads(&self) {
        let bytes = self.head_bytes.swap(0, Relaxed);
        if bytes > 0 {
            self.memory.release(bytes);
        }
    }

    /// Whether the peer leaves so many heads unread that its connection must end.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Relaxed)
    }

    /// Counts bytes of the peer that were passed on.
    pub fn pass(&self, bytes: usize) {
        if self.window.load(Relaxed) == 0 {
            self.proven.fetch_add(bytes, Relaxed);
        }
    }

    /// A new window for the connection, if it should change. It is larger once the peer's bytes are passed on, and
    /// larger by the bytes that wait for slow readers, which would otherwise block the connection's other streams.
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

    /// Whether bytes for slow readers take up so much of the connection's window that it should get no further streams.
    pub fn is_clogged(&self) -> bool {
        self.unread.load(Relaxed) > LARGEST_WINDOW as usize / 2
    }
}

/// The heads that `h2` still held are gone with the connection.
impl Drop for Account {
    fn drop(&mut self) {
        self.drop_heads();
    }
}

fn window(now: u32, unread: usize, has_memory: bool) -> u32 {
    let unread = u32::try_from(unread).unwrap_or(u32::MAX) / WINDOW_STEP * WINDOW_STEP;
    let wanted = LARGE_WINDOW.saturating_add(unread).min(LARGEST_WINDOW);
    let is_much_less = unread == 0 && now > wanted;
    if wanted > now && has_memory || is_much_less { wanted } else { now }
}

/// How many bytes of a connection may be queued and may wait, with this much free memory.
fn allowances(free: usize) -> (usize, usize) {
    let queued = (free / PART).clamp(LEAST_QUEUED, MOST_QUEUED);
    let waiting = (free / PART).clamp(LEAST_WAITING, MOST_WAITING);
    (queued, waiting)
}

/// Whether a connection must give up unread bytes: if no memory is left and it holds more than its minimum, or if the
/// limit is far exceeded.
fn is_too_much(held: usize, unread: usize, most: usize) -> bool {
    held > most && (unread > LEAST_UNREAD || held > most + most / 2)
}

/// Bytes inside `h2`. Their memory is free again when they are written or dropped.
pub struct Piece {
    bytes: Bytes,
    charged: usize,
    room: Option<Arc<Room>>,
}

impl Piece {
    /// Moves `bytes` from the waiting ones to the queued ones.
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
        let most = Memory::of_one_in(1, Arc::default()).most();
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
    fn a3_heads_are_measured_once_the_socket_does_not_take_them() {
        let memory = Memory::of_one_in(1, Arc::default());
        let account = Account::new(memory.clone());
        for _ in 0..10 {
            assert!(
                (0..UNMEASURED_HEADS)
                    .all(|_| account.hold_head(|| panic!("ordinary traffic is not measured")))
            );
            account.note_sent(true);
        }
        account.note_sent(false);
        let heads = MOST_HEADS / 1024;
        assert!((0..heads).all(|_| account.hold_head(|| 1024)) && !account.is_over());
        assert_eq!(memory.free(), memory.most() - MOST_HEADS);
        account.note_sent(true);
        assert_eq!(memory.free(), memory.most(), "they have left");
        account.note_sent(false);
        assert!(!(0..=heads).all(|_| account.hold_head(|| 1024)) && account.is_over());
        drop(account);
        assert_eq!(memory.free(), memory.most(), "they are gone with the connection");
    }

    #[test]
    fn a3_with_no_memory_left_the_connections_that_hold_most_give_up() {
        let most = 1000 * LEAST_UNREAD;
        assert!(!is_too_much(most, most, most), "there is still memory");
        assert!(is_too_much(most + 1, LEAST_UNREAD + 1, most));
        assert!(!is_too_much(most + 1, LEAST_UNREAD, most), "one that holds little is spared");
        assert!(is_too_much(2 * most, 1, most));
    }
}
