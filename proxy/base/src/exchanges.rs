//! How many exchanges (requests with their answers) one worker has under way at once.
//!
//! An exchange holds memory that no other bound counts: its head, its policy, its connection to the upstream. So there is
//! a bound of all of them together, a share of the memory that the process may take; and nobody can take all of it:
//! one holder (an identity of the mesh, everybody who has none, or the application) may have as many exchanges as are
//! still free. One who asks for as much as he can gets one half; of several such each gets an equal part, and a part of
//! that size stays free for others (A. K. Choudhury and E. L. Hahne, "Dynamic queue length thresholds for shared-memory
//! packet switches", 1998, with alpha = 1).

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// What an exchange is taken to hold at most, beside what its bodies hold: 13.9 KB of memory were measured of one that
/// waits for an HTTP/1 application, its connections included.
const EXCHANGE: u64 = 16 * 1024;
/// The part of the process's memory that is for exchanges: the rest is for connections, bodies and the sidecar itself.
const PART: u64 = 2;
/// However little memory there is.
const AT_LEAST: usize = 64;

/// Those of one worker.
#[derive(Debug)]
pub struct Exchanges {
    open: AtomicUsize,
    most: usize,
    holders: Mutex<HashMap<Box<str>, Weak<Holder>>>,
}

/// Whoever is bounded as one, with the connections that are open.
#[derive(Debug)]
pub struct Holder {
    name: Box<str>,
    of: Arc<Exchanges>,
    open: AtomicUsize,
}

/// The right to one exchange, until it is dropped.
#[derive(Debug)]
pub struct ExchangePlace(Arc<Holder>);

impl Exchanges {
    /// The share of one of `workers` in a process that may take `memory` bytes.
    pub fn of_one_in(workers: usize, memory: u64) -> Arc<Self> {
        let all = usize::try_from(memory / PART / EXCHANGE).unwrap_or(usize::MAX);
        let most = (all / workers.max(1)).max(AT_LEAST);
        Arc::new(Self { open: AtomicUsize::new(0), most, holders: Mutex::default() })
    }

    /// Exchanges that may be under way together.
    pub const fn most(&self) -> usize {
        self.most
    }

    /// The holder of this name. There are at most as many as there are connections.
    pub fn holder(self: &Arc<Self>, name: &str) -> Arc<Holder> {
        let mut holders = self.holders.lock();
        if let Some(holder) = holders.get(name).and_then(Weak::upgrade) {
            return holder;
        }
        let holder = Arc::new(Holder { name: name.into(), of: self.clone(), open: AtomicUsize::new(0) });
        holders.insert(name.into(), Arc::downgrade(&holder));
        holder
    }
}

impl Holder {
    /// `None`: there is no room for another exchange of this holder.
    pub fn begin(self: &Arc<Self>) -> Option<ExchangePlace> {
        let (own, all) = (self.open.load(Relaxed), self.of.open.load(Relaxed));
        if !has_room(own, all, self.of.most) {
            return None;
        }
        self.open.fetch_add(1, Relaxed);
        self.of.open.fetch_add(1, Relaxed);
        Some(ExchangePlace(self.clone()))
    }
}

/// Whether somebody with `own` of `all` open exchanges may have another one. (All threads but one of a worker only read
/// these numbers, or take one away: nothing is lost between looking and adding.)
const fn has_room(own: usize, all: usize, most: usize) -> bool {
    own < most.saturating_sub(all)
}

impl Drop for ExchangePlace {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
        self.0.of.open.fetch_sub(1, Relaxed);
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

    /// Takes all that this holder can get.
    fn all_of(holder: &Arc<Holder>) -> Vec<ExchangePlace> {
        std::iter::from_fn(|| holder.begin()).collect()
    }

    #[test]
    fn a3_who_asks_for_all_gets_half_and_leaves_the_rest_to_others() {
        let exchanges = Exchanges::of_one_in(1, 1024 * PART * EXCHANGE);
        assert_eq!(exchanges.most(), 1024);
        let (mallory, web) = (exchanges.holder("mallory"), exchanges.holder("web"));
        let taken = all_of(&mallory);
        assert_eq!(taken.len(), 512);
        let of_web = all_of(&web);
        assert_eq!(of_web.len(), 256, "half of what is free");
        drop(taken);
        assert_eq!(all_of(&web).len(), 512 - 256, "places that are given back are free for others");
    }

    #[test]
    fn a3_a_holder_is_one_whatever_its_connections_and_is_forgotten_with_the_last() {
        let exchanges = Exchanges::of_one_in(1, u64::MAX);
        let (one, same) = (exchanges.holder("web"), exchanges.holder("web"));
        assert!(Arc::ptr_eq(&one, &same));
        let place = one.begin();
        drop((one, same));
        assert_eq!(exchanges.holders.lock().len(), 1, "its exchange goes on");
        drop(place);
        assert!(exchanges.holders.lock().is_empty());
    }

    #[test]
    fn however_little_memory_there_is_some_exchanges_have_room() {
        assert_eq!(Exchanges::of_one_in(4, 0).most(), AT_LEAST);
    }
}
