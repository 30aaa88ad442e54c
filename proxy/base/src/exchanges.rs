//! Bounds the memory that all exchanges (requests with their answers) of one worker hold together.
//!
//! An exchange holds memory that no other bound counts: its head, its policy, its connection to the upstream. Therefore
//! all exchanges together have a bound, which is a share of the memory that the process may take. No single holder can
//! take all of it. A holder is one identity of the mesh, or all clients without an identity together. Each may hold at
//! most as much as is still free. So one greedy holder gets one half; several greedy holders get equal parts, and a
//! part of the same size stays free for others (A. K. Choudhury and E. L. Hahne, "Dynamic queue length thresholds for
//! shared-memory packet switches", 1998, with alpha = 1).

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;

use super::memory::ceiling::Ceiling;

/// Bytes counted for an exchange beside its head and its bodies. An exchange that waits for an HTTP/1 application was
/// measured to hold 13.9 KB, with both of its connections.
const EXCHANGE: usize = 16 * 1024;
/// The number of exchanges with small heads that always fit, however little memory there is.
const AT_LEAST: usize = 64;

/// The exchanges of one worker.
#[derive(Debug)]
pub struct Exchanges {
    held: AtomicUsize,
    ceiling: Arc<Ceiling>,
    share: Share,
    holders: Mutex<HashMap<Box<str>, Weak<Holder>>>,
}

/// The share of the memory: `parts` of what is a bound in sum, divided among the workers.
#[derive(Debug, Clone, Copy)]
struct Share {
    parts: usize,
    workers: usize,
}

/// One identity, or all clients without one. It lives while it has connections or exchanges.
#[derive(Debug)]
pub struct Holder {
    name: Box<str>,
    of: Arc<Exchanges>,
    held: AtomicUsize,
}

/// The right to run one exchange. Dropping it gives the memory back.
#[derive(Debug)]
pub struct ExchangePlace {
    holder: Arc<Holder>,
    bytes: usize,
}

impl Exchanges {
    /// The inbound exchanges of one worker out of `workers`.
    pub fn of_one_in(workers: usize, ceiling: Arc<Ceiling>) -> Arc<Self> {
        Self::sharing(Share { parts: 1, workers: workers.max(1) }, ceiling)
    }

    /// The outbound exchanges of one worker out of `workers`. The application is their only holder, so it gets one half of
    /// two parts.
    pub fn of_application(workers: usize, ceiling: Arc<Ceiling>) -> Arc<Self> {
        Self::sharing(Share { parts: 2, workers: workers.max(1) }, ceiling)
    }

    fn sharing(share: Share, ceiling: Arc<Ceiling>) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), ceiling, share, holders: Mutex::default() })
    }

    /// Bytes that all holders may have together.
    fn most(&self) -> usize {
        let Share { parts, workers } = self.share;
        (self.ceiling.part().saturating_mul(parts) / workers).max(AT_LEAST * EXCHANGE)
    }

    /// The number of exchanges with small heads that one holder may have while no other holder has any.
    pub fn most_of_one(&self) -> usize {
        self.most() / 2 / EXCHANGE
    }

    /// The holder with this name. There are at most as many holders as connections.
    pub fn holder(self: &Arc<Self>, name: &str) -> Arc<Holder> {
        let mut holders = self.holders.lock();
        if let Some(holder) = holders.get(name).and_then(Weak::upgrade) {
            return holder;
        }
        let holder = Arc::new(Holder { name: name.into(), of: self.clone(), held: AtomicUsize::new(0) });
        holders.insert(name.into(), Arc::downgrade(&holder));
        holder
    }
}

impl Holder {
    /// A place for an exchange whose head has `head` bytes. `None` when this holder may not hold more.
    pub fn begin(self: &Arc<Self>, head: usize) -> Option<ExchangePlace> {
        // The head is held twice: as it came, and as it is written for the other side.
        let bytes = EXCHANGE.saturating_add(head.saturating_mul(2));
        let (own, all) = (self.held.load(Relaxed), self.of.held.load(Relaxed));
        if !has_room(bytes, own, all, self.of.most()) {
            return None;
        }
        self.held.fetch_add(bytes, Relaxed);
        self.of.held.fetch_add(bytes, Relaxed);
        Some(ExchangePlace { holder: self.clone(), bytes })
    }

    /// The sentence for a request that got no place.
    pub fn why_no_room(&self) -> String {
        let (own, all, most) = (self.held.load(Relaxed), self.of.held.load(Relaxed), self.of.most());
        format!(
            "the client's requests under way hold {own} bytes, which may be at most what is free of {most} \
             ({all} are taken); it follows from the memory limit (limits.max_memory), divided among the workers"
        )
    }
}

impl ExchangePlace {
    /// Room of the same holder for bytes that the exchange holds beside its head. It has none yet.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self { holder: self.holder.clone(), bytes: 0 }
    }

    /// See [`Holder::why_no_room`].
    pub fn why_no_room(&self) -> String {
        self.holder.why_no_room()
    }

    /// Takes room for further `bytes`. Returns whether the holder may hold them.
    #[must_use]
    pub fn grow(&mut self, bytes: usize) -> bool {
        let holder = &self.holder;
        let (own, all) = (holder.held.load(Relaxed), holder.of.held.load(Relaxed));
        let is_granted = has_room(bytes, own, all.saturating_add(bytes), holder.of.most());
        if is_granted {
            holder.held.fetch_add(bytes, Relaxed);
            holder.of.held.fetch_add(bytes, Relaxed);
            self.bytes += bytes;
        }
        is_granted
    }
}

/// Bytes that came piece by piece, in one buffer whose memory counts for a holder. The pieces themselves are not kept, since
/// a small one may be a part of a large buffer.
#[derive(Debug, Default)]
pub struct Counted {
    bytes: Vec<u8>,
    /// `None`: the memory is not counted.
    room: Option<ExchangePlace>,
    /// How often the memory counts: once for itself, and once for each copy that is made of it.
    times: usize,
}

impl Counted {
    pub const fn new(room: Option<ExchangePlace>, times: usize) -> Self {
        Self { bytes: Vec::new(), room, times }
    }

    /// Adds a piece. The buffer doubles when it is full, up to `most` bytes. Returns whether the holder has room for it;
    /// otherwise nothing is added.
    #[must_use]
    pub fn add(&mut self, piece: &[u8], most: usize) -> bool {
        let (length, capacity) = (self.bytes.len().saturating_add(piece.len()), self.bytes.capacity());
        if length > capacity {
            let next = length.max(capacity.saturating_mul(2).min(most));
            let more = (next - capacity).saturating_mul(self.times);
            if self.room.as_mut().is_some_and(|room| !room.grow(more)) {
                return false;
            }
            self.bytes.reserve_exact(next - self.bytes.len());
        }
        self.bytes.extend_from_slice(piece);
        true
    }

    /// See [`Holder::why_no_room`]. Empty where the memory is not counted, because then there is room.
    pub fn why_no_room(&self) -> String {
        self.room.as_ref().map_or_else(String::new, ExchangePlace::why_no_room)
    }

    /// The bytes, which count as long as a part of them is held.
    pub fn into_bytes(self) -> Bytes {
        if self.bytes.is_empty() { Bytes::new() } else { Bytes::from_owner(self) }
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Whether a holder that has `own` bytes, while all holders have `all`, may take `bytes` more. Other threads only give
/// bytes back, so nothing can go wrong between this check and the addition.
const fn has_room(bytes: usize, own: usize, all: usize, most: usize) -> bool {
    own.saturating_add(bytes) <= most.saturating_sub(all)
}

impl Drop for ExchangePlace {
    fn drop(&mut self) {
        self.holder.held.fetch_sub(self.bytes, Relaxed);
        self.holder.of.held.fetch_sub(self.bytes, Relaxed);
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let mut holders = self.of.holders.lock();
        if holders.get(&*self.name).is_some_and(|known| known.strong_count() == 0) {
            holders.remove(&*self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All places that this holder can get, each for a head of `head` bytes.
    fn all_of(holder: &Arc<Holder>, head: usize) -> Vec<ExchangePlace> {
        std::iter::from_fn(|| holder.begin(head)).collect()
    }

    fn of(places: usize) -> Arc<Exchanges> {
        Exchanges::of_one_in(1, Arc::new(Ceiling::of_host((places * EXCHANGE) as u64 * 4)))
    }

    #[test]
    fn bytes_beside_the_head_of_an_exchange_count_for_its_holder_until_they_are_dropped() {
        let exchanges = of(1024);
        let mallory = exchanges.holder("mallory");
        let place = mallory.begin(0).expect("a place");
        let mut content = place.beside();
        assert!(content.grow(100 * EXCHANGE) && content.grow(200 * EXCHANGE));
        assert!(!content.grow(300 * EXCHANGE), "the holder has more than one half then");
        assert_eq!(all_of(&mallory, 0).len(), 512 - 1 - 300);
        drop((place, content));
        assert_eq!(all_of(&mallory, 0).len(), 512);
    }

    #[test]
    fn gathered_bytes_count_with_their_buffer_until_the_last_part_is_dropped() {
        let exchanges = of(1024);
        let mallory = exchanges.holder("mallory");
        let place = mallory.begin(0).expect("a place");
        let mut counted = Counted::new(Some(place.beside()), 2);
        for length in 1..=5 * EXCHANGE {
            assert!(counted.add(b"x", 6 * EXCHANGE));
            let capacity = counted.bytes.capacity();
            assert!(capacity >= length && capacity <= (2 * length).min(6 * EXCHANGE), "{length} {capacity}");
            assert_eq!(mallory.held.load(Relaxed), EXCHANGE + 2 * capacity);
        }
        assert!(!counted.add(&vec![b'x'; 600 * EXCHANGE], usize::MAX), "one holder has one half");
        let mut bytes = counted.into_bytes();
        assert_eq!(bytes.len(), 5 * EXCHANGE, "what had no room was not added");
        let part = bytes.split_to(1);
        drop(bytes);
        assert_eq!(mallory.held.load(Relaxed), EXCHANGE + 12 * EXCHANGE);
        drop(part);
        assert_eq!(mallory.held.load(Relaxed), EXCHANGE);
        assert!(Counted::default().into_bytes().is_empty());
    }

    #[test]
    fn a3_a_holder_that_asks_for_everything_gets_half_and_leaves_the_rest_to_others() {
        let exchanges = of(1024);
        assert_eq!(exchanges.most_of_one(), 512);
        let (mallory, web) = (exchanges.holder("mallory"), exchanges.holder("web"));
        let taken = all_of(&mallory, 0);
        assert_eq!(taken.len(), 512);
        let of_web = all_of(&web, 0);
        assert_eq!(of_web.len(), 256, "half of what is free");
        drop(taken);
        assert_eq!(all_of(&web, 0).len(), 512 - 256, "places that are given back are free for others");
    }

    #[test]
    fn a3_a_large_head_takes_the_room_of_several_exchanges() {
        let exchanges = of(1024);
        let mallory = exchanges.holder("mallory");
        assert_eq!(all_of(&mallory, 3 * EXCHANGE / 2).len(), 128);
        assert_eq!(exchanges.held.load(Relaxed), 0);
        assert!(mallory.begin(usize::MAX).is_none());
    }

    #[test]
    fn a3_all_connections_of_a_name_share_one_holder_and_it_is_forgotten_with_the_last() {
        let exchanges = Exchanges::of_one_in(1, Arc::default());
        let (one, same) = (exchanges.holder("web"), exchanges.holder("web"));
        assert!(Arc::ptr_eq(&one, &same));
        let place = one.begin(0);
        drop((one, same));
        assert_eq!(exchanges.holders.lock().len(), 1, "its exchange goes on");
        drop(place);
        assert!(exchanges.holders.lock().is_empty());
    }

    #[test]
    fn some_exchanges_have_room_however_little_memory_there_is() {
        assert_eq!(Exchanges::of_one_in(4, Arc::new(Ceiling::of_host(0))).most_of_one(), AT_LEAST / 2);
    }

    #[test]
    fn the_application_alone_may_have_a_quarter_of_the_memory_limit() {
        let ceiling = Arc::<Ceiling>::default();
        let exchanges = Exchanges::of_application(2, ceiling.clone());
        ceiling.set_limit(Some(64 << 20));
        let places = all_of(&exchanges.holder("the application"), 0);
        assert_eq!(places.len() * EXCHANGE, 8 << 20, "half of it, for one of two workers");
        ceiling.set_limit(Some(32 << 20));
        assert!(places[0].holder.begin(0).is_none(), "a lower limit holds at once");
    }
}
