//! Keeps answers within a bound of bytes.
//!
//! `quick_cache` evicts by Clock-PRO: an answer that is used once, as by a scan of many targets, does not drive out
//! those that are used again and again.

use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use pillion_http::message::Headers;
use quick_cache::sync::{Cache as Quick, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use crate::Stored;
use crate::content::{Lingering, Place};
use crate::key::{Key, KeyRef, Pattern};

/// 8: the most answers that are kept for one target, chosen by different fields of their requests.
const MOST_VARIANTS: usize = 8;
/// Each part holds at least so many answers of the largest size, else there are fewer parts.
const LARGEST_IN_PART: u64 = 8;
const MOST_PARTS: u64 = 8;
/// 2 KiB: by this size of an answer the list of recently evicted keys is made, some 40 bytes each. With fewer keys,
/// answers of 1 KiB are found less often (46 of 100 instead of 48, where 57 would be the best possible).
const USUAL: u64 = 2 * 1024;

/// 120 bytes: what an entry takes beside itself, its key and its answers: its count of owners, its places in the table
/// and in the list of the cache, and what a heap adds to each piece.
const PLACE: usize = 120;

/// An answer, and its body's place here.
#[derive(Debug, Clone)]
struct Variant {
    _place: Place,
    stored: Arc<Stored>,
}

/// What is kept for one target.
#[derive(Debug)]
pub struct Entry {
    /// The newest first.
    variants: Vec<Variant>,
    /// Until then, requests for the target do not wait for one another: its answers were not for all.
    passes_until: Option<Instant>,
    bytes: u64,
    _counted: Option<Counted>,
}

/// An entry with answers, as long as it is there.
#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Entry {
    /// The newest answer that the request chooses.
    pub fn find(&self, request: &Headers) -> Option<&Arc<Stored>> {
        self.answers().find(|stored| stored.selector.fits(request))
    }

    pub fn passes(&self, now: Instant) -> bool {
        self.passes_until.is_some_and(|until| now < until)
    }

    pub fn is_empty(&self) -> bool {
        self.variants.is_empty()
    }

    fn answers(&self) -> impl Iterator<Item = &Arc<Stored>> {
        self.variants.iter().map(|variant| &variant.stored)
    }

    fn new(
        variants: Vec<Variant>,
        passes_until: Option<Instant>,
        key: &Key,
        count: &Arc<AtomicUsize>,
    ) -> Arc<Self> {
        let answers: usize = variants.iter().map(|variant| variant.stored.bytes()).sum();
        let bytes = (PLACE + size_of::<Self>() + key.bytes() + answers) as u64;
        let counted = (!variants.is_empty()).then(|| Counted::new(count));
        Arc::new(Self { variants, passes_until, bytes, _counted: counted })
    }
}

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<Key, Arc<Entry>> for ByBytes {
    fn weight(&self, _: &Key, entry: &Arc<Entry>) -> u64 {
        entry.bytes
    }
}

type Entries = Quick<Key, Arc<Entry>, ByBytes>;

pub struct Shelf {
    parts: RwLock<Parts>,
    /// Held while an entry is made anew out of the one before, and while bounds change.
    writing: Mutex<Reserve>,
    hasher: DefaultHashBuilder,
    /// The bound that memory allows at present; at most `most`. 0: nothing is stored.
    allowed: AtomicU64,
    most: AtomicU64,
    lingering: Lingering,
    /// The number of entries with answers.
    answered: Arc<AtomicUsize>,
}

/// The entries, in parts that evict each for itself.
struct Parts {
    entries: Entries,
    count: u64,
}

/// How far the parts are below what is allowed.
#[derive(Default)]
struct Reserve {
    /// When they last got less, because evicted bodies take the rest; `None`: they have all of it.
    since: Option<Instant>,
    /// How often their capacity has changed since they were made. Each change rounds the list of recently evicted keys
    /// down.
    changes: u32,
}

/// The number of parts in which answers are kept, a power of two.
fn parts(most: u64, largest: u64) -> u64 {
    let parts = (most / (largest.max(1) * LARGEST_IN_PART)).clamp(1, MOST_PARTS);
    if parts.is_power_of_two() { parts } else { parts.next_power_of_two() / 2 }
}

impl Parts {
    fn new(most: u64, count: u64, hasher: &DefaultHashBuilder) -> Self {
        let items = usize::try_from(most / USUAL).unwrap_or(usize::MAX).max(64);
        let mut options = OptionsBuilder::new();
        options
            .shards(usize::try_from(count).unwrap_or(1))
            .estimated_items_capacity(items)
            .ghost_allocation(1.0)
            .weight_capacity(most);
        let entries = match options.build() {
            Ok(options) => Quick::with_options(options, ByBytes, hasher.clone(), DefaultLifecycle::default()),
            // all options that are needed are given
            Err(_incomplete) => {
                Quick::with(items, most, ByBytes, hasher.clone(), DefaultLifecycle::default())
            }
        };
        Self { entries, count }
    }
}

impl Shelf {
    pub fn new(most: u64, largest: u64) -> Self {
        let hasher = DefaultHashBuilder::default();
        let parts = RwLock::new(Parts::new(most, parts(most, largest), &hasher));
        let [allowed, most] = [most; 2].map(AtomicU64::new);
        Self {
            parts,
            writing: Mutex::default(),
            hasher,
            allowed,
            most,
            lingering: Lingering::default(),
            answered: Arc::default(),
        }
    }

    /// Keeps to other bounds from now on, with what is kept so far.
    pub fn set_bounds(&self, most: u64, largest: u64) {
        let mut reserve = self.writing.lock();
        let former = self.most.swap(most, Relaxed);
        let (count, allowed) = (parts(most, largest), self.allowed.load(Relaxed));
        if former == most && count == self.parts.read().count {
            return;
        }
        // while memory is short, it stays so
        let next = if allowed < former { allowed.min(most) } else { most };
        self.allowed.store(next, Relaxed);
        self.renew(&mut reserve, next.max(self.floor()), count);
        reserve.since = None;
    }

    /// Puts the entries into new parts, whose lists of recently evicted keys have their due length again: once that is
    /// rounded down to nothing, it never grows.
    fn renew(&self, reserve: &mut Reserve, capacity: u64, count: u64) {
        let most = self.most.load(Relaxed);
        let next = Parts::new(most, count, &self.hasher);
        if capacity < most {
            next.entries.set_capacity(capacity);
        }
        self.parts.read().entries.iter().for_each(|(key, entry)| next.entries.insert(key, entry));
        let _former = std::mem::replace(&mut *self.parts.write(), next); // dropped after the lock
        reserve.changes = 0;
    }

    /// The most bytes that one target may take at present.
    pub fn share(&self) -> u64 {
        self.room() / self.parts.read().count
    }

    /// What is allowed, without the bodies that were evicted and are still read.
    fn room(&self) -> u64 {
        self.allowed.load(Relaxed).saturating_sub(self.lingering.bytes())
    }

    pub fn get(&self, key: KeyRef<'_>) -> Option<Arc<Entry>> {
        self.parts.read().entries.get(&key)
    }

    /// A number for the key, by which invalidations are remembered.
    pub fn hash(&self, key: KeyRef<'_>) -> u64 {
        self.hasher.hash_one(key)
    }

    /// Adds an answer, in place of one that was chosen by the same fields, unless that is of a later request. `began`:
    /// the answer that it freshens, which must still be there. `may_put` is asked while nothing else can be written.
    /// Returns whether it is kept.
    pub fn put(
        &self,
        key: KeyRef<'_>,
        stored: Arc<Stored>,
        began: Option<&Arc<Stored>>,
        may_put: impl FnOnce() -> bool,
    ) -> bool {
        let (mut reserve, now) = (self.writing.lock(), stored.received().at);
        self.release(&mut reserve, now);
        let parts = self.parts.read();
        let before = parts.entries.peek(&key);
        let all = before.as_ref().map_or(&[][..], |entry| &entry.variants);
        let is_began = |other: &Variant| began.is_some_and(|began| Arc::ptr_eq(began, &other.stored));
        let is_later = |other: &Stored| other.is_later_than(&stored) && other.competes_with(&stored);
        let is_behind = all.iter().any(|other| is_later(&other.stored));
        let is_over = began.is_some() && !all.iter().any(is_began);
        if is_behind || is_over || self.allowed.load(Relaxed) == 0 || !may_put() {
            return false;
        }
        // An answer that has to be validated each time is no reason to wait for one another.
        let passes_until =
            before.as_ref().and_then(|entry| entry.passes_until).filter(|_| !stored.begins_fresh());
        // What varies by other fields, or by none, is of another time: the newest answer says what counts.
        let others = all.iter().filter(|other| {
            let selector = &other.stored.selector;
            !is_began(other) && *selector != stored.selector && !selector.is_empty()
        });
        let others: Vec<_> = others.cloned().collect();
        let mut variants = vec![Variant { _place: stored.body.place(&self.lingering), stored }];
        variants.extend(others);
        variants.truncate(MOST_VARIANTS);
        let owned = key.to_key();
        let most = parts.entries.shard_capacity();
        let mut entry = Entry::new(variants, passes_until, &owned, &self.answered);
        while entry.bytes > most / 2 && entry.variants.len() > 1 {
            let fewer = entry.variants.iter().take(entry.variants.len() - 1).cloned().collect();
            entry = Entry::new(fewer, passes_until, &owned, &self.answered);
        }
        drop(before);
        parts.entries.insert(owned, entry.clone());
        let has_room = self.keep_within(&parts, &mut reserve, now);
        if !has_room {
            parts.entries.remove(&key);
        }
        // what is too large is not kept
        has_room && parts.entries.peek(&key).is_some_and(|kept| Arc::ptr_eq(&kept, &entry))
    }

    /// Gives the entries back what bodies took that do not linger any more: after a while, and only where it is more than
    /// a little or all of it, so that slow readers that come and go change nothing; at once where it is much.
    fn release(&self, reserve: &mut Reserve, now: Instant) {
        let Some(since) = reserve.since else { return };
        let (room, allowed) = (self.room(), self.allowed.load(Relaxed));
        let (capacity, count) = {
            let parts = self.parts.read();
            (parts.entries.capacity(), parts.count)
        };
        let is_free = room == allowed;
        let is_worth = is_free || room.saturating_sub(capacity) > allowed / RAISES;
        let is_much = room / 2 > capacity;
        let is_due = is_much || (is_worth && now.saturating_duration_since(since) >= RESERVED);
        if !is_due {
            return;
        }
        let next = if is_free { room } else { room.saturating_sub(allowed / SPARES) }.max(self.floor());
        reserve.since = (!is_free).then_some(now);
        if is_much || reserve.changes >= MOST_CHANGES {
            self.renew(reserve, next, count);
        } else {
            self.parts.read().entries.set_capacity(next);
            reserve.changes += 1;
        }
    }

    /// Evicts until entries and lingering bodies together are within the bound. Returns whether they are. What is evicted
    /// while it is read frees nothing, so more may have to go.
    fn keep_within(&self, parts: &Parts, reserve: &mut Reserve, now: Instant) -> bool {
        let allowed = self.allowed.load(Relaxed);
        for _ in 0..=SPARES {
            let room = self.room();
            if room == allowed || parts.entries.weight() <= room {
                return true;
            }
            // some to spare, so that this is not done for each answer
            parts.entries.set_capacity(room.saturating_sub(allowed / SPARES).max(self.floor()));
            *reserve = Reserve { since: Some(now), changes: reserve.changes.saturating_add(1) };
        }
        parts.entries.weight() <= self.room()
    }

    /// The least that the parts may have: by less they would forget what was used often.
    fn floor(&self) -> u64 {
        self.most.load(Relaxed) / 1024
    }

    /// A cache that keeps less is emptied when memory is short.
    fn little(&self) -> u64 {
        LITTLE.max(2 * self.floor()).min(self.most.load(Relaxed))
    }

    /// Lets requests for the target pass for so long. Answers that are stored for it stay. Where there is no room beside
    /// evicted bodies that are still read, nothing is noted.
    pub fn pass(&self, key: KeyRef<'_>, now: Instant, lasts: Duration) {
        let (mut reserve, parts) = (self.writing.lock(), self.parts.read());
        let before = parts.entries.peek(&key);
        let variants = before.map(|entry| entry.variants.clone()).unwrap_or_default();
        let owned = key.to_key();
        let entry = Entry::new(variants, Some(now + lasts), &owned, &self.answered);
        parts.entries.insert(owned, entry);
        if !self.keep_within(&parts, &mut reserve, now) {
            parts.entries.remove(&key);
        }
    }

    pub fn remove(&self, key: KeyRef<'_>) -> bool {
        let (_one_writer, parts) = (self.writing.lock(), self.parts.read());
        parts.entries.remove(&key).is_some_and(|(_, entry)| !entry.is_empty())
    }

    /// Removes what fits. Returns how many targets had answers.
    pub fn purge(&self, pattern: &Pattern) -> usize {
        let (_one_writer, parts) = (self.writing.lock(), self.parts.read());
        let removed = AtomicU64::new(0);
        parts.entries.retain(|key, entry| {
            let fits = pattern.fits(key.borrowed());
            if fits && !entry.is_empty() {
                removed.fetch_add(1, Relaxed);
            }
            !fits
        });
        usize::try_from(removed.load(Relaxed)).unwrap_or(usize::MAX)
    }

    /// The bytes that are kept, with those of evicted bodies that are still read.
    pub fn bytes(&self) -> u64 {
        self.bytes_of(&self.parts.read())
    }

    fn bytes_of(&self, parts: &Parts) -> u64 {
        parts.entries.weight() + self.lingering.bytes()
    }

    /// For how many targets an answer is kept. Marks of [`Self::pass`] are none.
    pub fn entries(&self) -> usize {
        self.answered.load(Relaxed)
    }

    /// Gives up half of what is kept, or all of it if that is little. Returns how many bytes are free by this: evicted
    /// bodies that are still read are not.
    pub fn shrink(&self) -> u64 {
        let (mut reserve, parts) = (self.writing.lock(), self.parts.read());
        let (kept, before) = (parts.entries.weight(), self.bytes_of(&parts));
        if kept == 0 {
            return 0;
        }
        reserve.since = None;
        let half = if kept < self.little() { 0 } else { kept / 2 };
        self.allowed.store(half, Relaxed);
        if half == 0 {
            parts.entries.clear();
        }
        parts.entries.set_capacity(half.max(self.floor()));
        before.saturating_sub(self.bytes_of(&parts))
    }

    /// Lets it keep twice as much as before, after it was shrunk. Returns whether it was.
    pub fn grow(&self) -> bool {
        let mut reserve = self.writing.lock();
        let (allowed, most) = (self.allowed.load(Relaxed), self.most.load(Relaxed));
        if allowed < most {
            let next = allowed.saturating_mul(2).clamp(self.little(), most);
            self.allowed.store(next, Relaxed);
            reserve.since = None;
            if next == most {
                let count = self.parts.read().count;
                self.renew(&mut reserve, most, count);
            } else {
                self.parts.read().entries.set_capacity(next);
            }
        }
        allowed < most
    }
}

/// 1 MiB: half of less is not worth being kept when memory is short.
const LITTLE: u64 = 1024 * 1024;
/// 10 s: so long room stays reserved at least for evicted bodies that are still read.
const RESERVED: Duration = Duration::from_secs(10);
/// A sixteenth of the bound is kept free beside evicted bodies that are still read.
const SPARES: u64 = 16;
/// While bodies linger, the entries get room back where it is more than an eighth of the bound.
const RAISES: u64 = 8;
/// After so many changes of their capacity, the entries are put into new parts when they get room back: each costs a
/// part about one of its hundreds of remembered keys, and new parts remember none at first.
const MOST_CHANGES: u32 = 16;

#[cfg(test)]
mod tests;
