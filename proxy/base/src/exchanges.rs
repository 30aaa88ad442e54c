//! How much memory the exchanges (requests with their answers) of one worker hold together.
//!
//! An exchange holds what no other bound counts: its head, its policy, its connection to the upstream. So there is a bound
//! of all of them together, a share of the memory that the process may take; and nobody can take all of it: one holder (an
//! identity of the mesh, or everybody who has none) may hold as much as is still free. One who asks for as much as he can
//! gets one half; of several such each gets an equal part, and a part of that size stays free for others (A. K. Choudhury and
//! E. L. Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998, with alpha = 1).

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// What an exchange is taken to hold beside its head and its bodies: 13.9 KB were measured of one that waits for an HTTP/1
/// application, with both of its connections.
const EXCHANGE: usize = 16 * 1024;
/// The part of the process's memory that is for exchanges: the rest is for connections, bodies and the sidecar itself.
const PART: u64 = 4;
/// Of exchanges with small heads, however little memory there is.
const AT_LEAST: usize = 64;

/// Those of one worker.
#[derive(Debug)]
pub struct Exchanges {
    held: AtomicUsize,
    most: usize,
    holders: Mutex<HashMap<Box<str>, Weak<Holder>>>,
}

/// Whoever is bounded as one, with the connections that are open.
#[derive(Debug)]
pub struct Holder {
    name: Box<str>,
    of: Arc<Exchanges>,
    held: AtomicUsize,
}

/// The right to one exchange, until it is dropped.
#[derive(Debug)]
pub struct ExchangePlace {
    holder: Arc<Holder>,
    bytes: usize,
}

impl Exchanges {
    /// The share of one of `workers` in a process that may take `memory` bytes.
    pub fn of_one_in(workers: usize, memory: u64) -> Arc<Self> {
        let all = usize::try_from(memory / PART).unwrap_or(usize::MAX);
        let most = (all / workers.max(1)).max(AT_LEAST * EXCHANGE);
        Arc::new(Self { held: AtomicUsize::new(0), most, holders: Mutex::default() })
    }

    /// As many exchanges with small heads as one holder may have while nobody else has any.
    pub const fn most_of_one(&self) -> usize {
        self.most / 2 / EXCHANGE
    }

    /// The holder of this name. There are at most as many as there are connections.
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
    /// A place for an exchange with a head of so many bytes. `None`: there is no room for another one of this holder.
    pub fn begin(self: &Arc<Self>, head: usize) -> Option<ExchangePlace> {
        // As it came, and as it is written for the other side.
        let bytes = EXCHANGE.saturating_add(head.saturating_mul(2));
        let (own, all) = (self.held.load(Relaxed), self.of.held.load(Relaxed));
        if !has_room(bytes, own, all, self.of.most) {
            return None;
        }
        self.held.fetch_add(bytes, Relaxed);
        self.of.held.fetch_add(bytes, Relaxed);
        Some(ExchangePlace { holder: self.clone(), bytes })
    }
}

/// Whether somebody who holds `own` of `all` may hold so many `bytes` more. (All threads but the worker's own only give
/// back: nothing is lost between looking and adding.)
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

    /// Takes all that this holder can get, with heads of so many bytes.
    fn all_of(holder: &Arc<Holder>, head: usize) -> Vec<ExchangePlace> {
        std::iter::from_fn(|| holder.begin(head)).collect()
    }

    fn of(places: usize) -> Arc<Exchanges> {
        Exchanges::of_one_in(1, (places * EXCHANGE) as u64 * PART)
    }

    #[test]
    fn a3_who_asks_for_all_gets_half_and_leaves_the_rest_to_others() {
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
    fn a3_a_holder_is_one_whatever_its_connections_and_is_forgotten_with_the_last() {
        let exchanges = Exchanges::of_one_in(1, u64::MAX);
        let (one, same) = (exchanges.holder("web"), exchanges.holder("web"));
        assert!(Arc::ptr_eq(&one, &same));
        let place = one.begin(0);
        drop((one, same));
        assert_eq!(exchanges.holders.lock().len(), 1, "its exchange goes on");
        drop(place);
        assert!(exchanges.holders.lock().is_empty());
    }

    #[test]
    fn however_little_memory_there_is_some_exchanges_have_room() {
        assert_eq!(Exchanges::of_one_in(4, 0).most_of_one(), AT_LEAST / 2);
    }
}
