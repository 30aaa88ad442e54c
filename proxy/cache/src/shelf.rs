//! Keeps answers within a bound of bytes.
//!
//! `quick_cache` evicts by Clock-PRO: an answer that is used once, as by a scan of many targets, does not drive out
//! those that are used again and again.

use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use parking_lot::Mutex;
use pillion_http::message::Headers;
use quick_cache::sync::{Cache as Quick, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use crate::Stored;
use crate::key::{Key, KeyRef, Pattern};

/// 8: the most answers that are kept for one target, chosen by different fields of their requests.
const MOST_VARIANTS: usize = 8;
/// Each shard holds at least so many answers of the largest size, else there are fewer shards.
const LARGEST_IN_SHARD: u64 = 8;
const MOST_SHARDS: u64 = 8;
/// 2 KiB: by this size of an answer the list of recently evicted keys is made, some 40 bytes each. With fewer keys,
/// answers of 1 KiB are found less often (46 of 100 instead of 48, where 57 would be the best possible).
const USUAL: u64 = 2 * 1024;

/// What is kept for one target.
#[derive(Debug, Default)]
pub struct Entry {
    /// The newest first.
    variants: Vec<Arc<Stored>>,
    /// Until then, requests for the target do not wait for one another: its answers were not for all.
    passes_until: Option<Instant>,
    bytes: u64,
}

impl Entry {
    /// The newest answer that the request chooses.
    pub fn find(&self, request: &Headers) -> Option<&Arc<Stored>> {
        self.variants.iter().find(|stored| stored.selector.fits(request))
    }

    pub fn passes(&self, now: Instant) -> bool {
        self.passes_until.is_some_and(|until| now < until)
    }

    pub fn is_empty(&self) -> bool {
        self.variants.is_empty()
    }

    fn weighed(mut self, key: &Key) -> Arc<Self> {
        let bytes: usize = self.variants.iter().map(|stored| stored.bytes()).sum();
        self.bytes = (size_of::<Self>() + key.bytes() + bytes) as u64;
        Arc::new(self)
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
    entries: Entries,
    /// Held while an entry is made anew out of the one before.
    writing: Mutex<()>,
    hasher: DefaultHashBuilder,
    /// The bound that memory allows at present; at most `most`.
    allowed: AtomicU64,
    most: AtomicU64,
    shards: u64,
}

/// The number of parts in which answers are kept, a power of two.
fn shards(most: u64, largest: u64) -> u64 {
    let shards = (most / (largest.max(1) * LARGEST_IN_SHARD)).clamp(1, MOST_SHARDS);
    if shards.is_power_of_two() { shards } else { shards.next_power_of_two() / 2 }
}

impl Shelf {
    pub fn new(most: u64, largest: u64) -> Self {
        let shards = shards(most, largest);
        let items = usize::try_from(most / USUAL).unwrap_or(usize::MAX).max(64);
        let mut options = OptionsBuilder::new();
        options
            .shards(usize::try_from(shards).unwrap_or(1))
            .estimated_items_capacity(items)
            .ghost_allocation(1.0)
            .weight_capacity(most);
        let hasher = DefaultHashBuilder::default();
        let entries = match options.build() {
            Ok(options) => Quick::with_options(options, ByBytes, hasher.clone(), DefaultLifecycle::default()),
            // all options that are needed are given
            Err(_incomplete) => {
                Quick::with(items, most, ByBytes, hasher.clone(), DefaultLifecycle::default())
            }
        };
        let [allowed, most] = [most; 2].map(AtomicU64::new);
        Self { entries, writing: Mutex::default(), hasher, allowed, most, shards }
    }

    /// The shelf with other bounds, and with what is kept so far, if its parts have another size by them.
    pub fn resized(&self, most: u64, largest: u64) -> Option<Self> {
        if shards(most, largest) == self.shards {
            return None;
        }
        let next = Self::new(most, largest);
        for (key, entry) in self.entries.iter() {
            next.entries.insert(key, entry);
        }
        Some(next)
    }

    /// The most bytes that one target may take at present.
    pub fn share(&self) -> u64 {
        self.entries.shard_capacity()
    }

    pub fn get(&self, key: KeyRef<'_>) -> Option<Arc<Entry>> {
        self.entries.get(&key)
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
        let _one_writer = self.writing.lock();
        let before = self.entries.peek(&key);
        let all = before.as_ref().map_or(&[][..], |entry| &entry.variants);
        let is_began = |other: &Arc<Stored>| began.is_some_and(|began| Arc::ptr_eq(began, other));
        let is_behind = all.iter().any(|other| other.is_later_than(&stored) && other.competes_with(&stored));
        if is_behind || (began.is_some() && !all.iter().any(is_began)) || !may_put() {
            return false;
        }
        let others = all.iter().filter(|other| !is_began(other));
        // What varies by other fields, or by none, is of another time: the newest answer says what counts.
        let mut variants: Vec<_> = others
            .filter(|other| other.selector != stored.selector && !other.selector.is_empty())
            .cloned()
            .collect();
        // An answer that has to be validated each time is no reason to wait for one another.
        let passes_until =
            before.as_ref().and_then(|entry| entry.passes_until).filter(|_| !stored.begins_fresh());
        variants.insert(0, stored);
        variants.truncate(MOST_VARIANTS);
        let owned = key.to_key();
        let most = self.entries.shard_capacity();
        let mut entry = Entry { variants, passes_until, bytes: 0 }.weighed(&owned);
        while entry.bytes > most / 2 && entry.variants.len() > 1 {
            let fewer = entry.variants.iter().take(entry.variants.len() - 1).cloned().collect();
            entry = Entry { variants: fewer, passes_until, bytes: 0 }.weighed(&owned);
        }
        self.entries.insert(owned, entry.clone());
        // what is too large is not kept
        self.entries.peek(&key).is_some_and(|kept| Arc::ptr_eq(&kept, &entry))
    }

    /// Lets requests for the target pass until then. Answers that are stored for it stay.
    pub fn pass(&self, key: KeyRef<'_>, until: Instant) {
        let _one_writer = self.writing.lock();
        let before = self.entries.peek(&key);
        let variants = before.map(|entry| entry.variants.clone()).unwrap_or_default();
        let key = key.to_key();
        let entry = Entry { variants, passes_until: Some(until), bytes: 0 }.weighed(&key);
        self.entries.insert(key, entry);
    }

    pub fn remove(&self, key: KeyRef<'_>) -> bool {
        let _one_writer = self.writing.lock();
        self.entries.remove(&key).is_some_and(|(_, entry)| !entry.is_empty())
    }

    /// Removes what fits. Returns how many targets had answers.
    pub fn purge(&self, pattern: &Pattern) -> usize {
        let _one_writer = self.writing.lock();
        let removed = AtomicU64::new(0);
        self.entries.retain(|key, entry| {
            let fits = pattern.fits(key.borrowed());
            if fits && !entry.is_empty() {
                removed.fetch_add(1, Relaxed);
            }
            !fits
        });
        usize::try_from(removed.load(Relaxed)).unwrap_or(usize::MAX)
    }

    /// The bytes that are kept.
    pub fn bytes(&self) -> u64 {
        self.entries.weight()
    }

    /// The bound from now on.
    pub fn set_most(&self, most: u64) {
        if self.most.swap(most, Relaxed) != most {
            self.allowed.store(most, Relaxed);
            self.entries.set_capacity(most);
        }
    }

    /// Gives up half of what is kept, or all of it if that is little. Returns how many bytes were given up.
    pub fn shrink(&self) -> u64 {
        let before = self.bytes();
        if before == 0 {
            return 0;
        }
        let _one_writer = self.writing.lock();
        let half = if before < LITTLE { 1 } else { before / 2 };
        self.allowed.store(half, Relaxed);
        self.entries.set_capacity(half);
        before.saturating_sub(self.entries.weight())
    }

    /// Lets it keep twice as much as before, after it was shrunk. Returns whether it was.
    pub fn grow(&self) -> bool {
        let (allowed, most) = (self.allowed.load(Relaxed), self.most.load(Relaxed));
        if allowed < most {
            let next = allowed.saturating_mul(2).clamp(LITTLE.min(most), most);
            self.allowed.store(next, Relaxed);
            self.entries.set_capacity(next);
        }
        allowed < most
    }
}

/// 1 MiB: a cache that keeps less is emptied when memory is short.
const LITTLE: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

    use super::*;
    use crate::stored::{Head, Times};
    use crate::vary::{Selector, Vary};
    use crate::{AnswerFacts, Clock};

    fn headers(name: &'static str, value: &str) -> Headers {
        let value = HeaderValue::from_str(value).unwrap();
        Headers::Map([(HeaderName::from_static(name), value)].into_iter().collect::<HeaderMap>())
    }

    fn stored(body: &[u8], selector: Selector) -> Arc<Stored> {
        let now = Clock { at: Instant::now(), wall: 2_000_000_000 };
        let headers = headers("cache-control", "max-age=60");
        let facts = AnswerFacts::of(StatusCode::OK, &headers);
        let (status, reason) = (StatusCode::OK, None);
        let head =
            Head { status, reason, headers, facts, selector, times: Times { asked: now, received: now } };
        Arc::new(head.with(body))
    }

    fn put(shelf: &Shelf, key: KeyRef<'_>, stored: Arc<Stored>) -> bool {
        shelf.put(key, stored, None, || true)
    }

    fn key(target: &str) -> KeyRef<'_> {
        KeyRef { host: b"orders", target: target.as_bytes() }
    }

    fn nothing() -> Headers {
        Headers::default()
    }

    #[test]
    fn a_scan_of_many_targets_stays_within_the_bound_and_leaves_what_is_used_often() {
        let shelf = Shelf::new(4 << 20, 64 << 10);
        let hot: Vec<String> = (0..50).map(|nth| format!("/hot/{nth}")).collect();
        for target in &hot {
            put(&shelf, key(target), stored(&[b'h'; 10_000], Selector::default()));
        }
        let count = || hot.iter().filter(|target| shelf.get(key(target)).is_some()).count();
        (0..5).for_each(|_| assert!(count() > 45));
        for nth in 0..5_000 {
            put(&shelf, key(&format!("/scan/{nth}")), stored(&[b's'; 10_000], Selector::default()));
            assert!(shelf.bytes() <= 4 << 20, "{}", shelf.bytes());
            if nth % 50 == 0 {
                count();
            }
        }
        assert!(count() > 40, "{}", count());
    }

    #[test]
    fn an_answer_above_the_share_of_a_shard_is_not_kept() {
        let shelf = Shelf::new(1 << 16, 1 << 20);
        assert!(!put(&shelf, key("/"), stored(&[0; 1 << 17], Selector::default())));
        assert!(shelf.get(key("/")).is_none() && shelf.bytes() <= 1 << 16);
    }

    #[test]
    fn each_choice_of_a_target_is_kept_up_to_a_bound_and_the_newest_replaces_its_like() {
        let shelf = Shelf::new(4 << 20, 64 << 10);
        let vary = Vary::Fields(vec!["foo".into()]);
        let chosen = |value: &str| Selector::of(&vary, &headers("foo", value)).unwrap();
        let found = |value: &str| {
            let entry = shelf.get(key("/")).unwrap();
            entry.find(&headers("foo", value)).map(|stored| stored.body.clone())
        };
        put(&shelf, key("/"), stored(b"1", chosen("1")));
        put(&shelf, key("/"), stored(b"2", chosen("2")));
        assert_eq!((found("1"), found("2"), found("3")), (Some("1".into()), Some("2".into()), None));
        put(&shelf, key("/"), stored(b"new", chosen("1")));
        assert_eq!((found("1"), found("2")), (Some("new".into()), Some("2".into())));
        for nth in 0..100 {
            put(&shelf, key("/"), stored(b"x", chosen(&format!("v{nth}"))));
        }
        let entry = shelf.get(key("/")).unwrap();
        assert!(entry.variants.len() == MOST_VARIANTS && found("v99").is_some());
        put(&shelf, key("/"), stored(b"for all", Selector::default()));
        assert_eq!(found("v99").as_deref(), Some(&b"for all"[..]), "it does not vary any more");
    }

    fn stored_at(departed: Instant, body: &[u8], selector: Selector) -> Arc<Stored> {
        let at = Clock { at: departed, wall: 2_000_000_000 };
        let headers = headers("cache-control", "max-age=60");
        let facts = AnswerFacts::of(StatusCode::OK, &headers);
        let (status, reason) = (StatusCode::OK, None);
        let times = Times { asked: at, received: at };
        Arc::new(Head { status, reason, headers, facts, selector, times }.with(body))
    }

    #[test]
    fn an_answer_of_an_earlier_request_replaces_none_of_a_later_one() {
        let shelf = Shelf::new(4 << 20, 64 << 10);
        let (early, late) = (Instant::now(), Instant::now() + std::time::Duration::from_secs(1));
        let chosen =
            |value: &str| Selector::of(&Vary::Fields(vec!["foo".into()]), &headers("foo", value)).unwrap();
        let all = Selector::default;
        assert!(put(&shelf, key("/"), stored_at(late, b"new", all())));
        assert!(!put(&shelf, key("/"), stored_at(early, b"old", all())));
        assert!(!put(&shelf, key("/"), stored_at(early, b"old", chosen("1"))), "it would hide the newer one");
        assert_eq!(shelf.get(key("/")).unwrap().find(&nothing()).unwrap().body, "new");
        assert!(put(&shelf, key("/x"), stored_at(late, b"1", chosen("1"))));
        assert!(put(&shelf, key("/x"), stored_at(early, b"2", chosen("2"))), "for other requests");
        assert!(!put(&shelf, key("/x"), stored_at(early, b"old", all())));
    }

    #[test]
    fn a_freshened_answer_takes_the_place_of_what_it_began_from_and_of_nothing_else() {
        let shelf = Shelf::new(4 << 20, 64 << 10);
        let at = Instant::now();
        let [one, other, fresh] = [b"1", b"2", b"3"].map(|body| stored_at(at, body, Selector::default()));
        put(&shelf, key("/"), one.clone());
        assert!(!shelf.put(key("/"), fresh.clone(), Some(&other), || true));
        assert!(shelf.put(key("/"), fresh.clone(), Some(&one), || true));
        assert!(!shelf.put(key("/"), one, Some(&other), || true));
        shelf.remove(key("/"));
        assert!(!shelf.put(key("/"), other, Some(&fresh), || true), "it was forgotten meanwhile");
    }

    #[test]
    fn other_bounds_make_parts_of_another_size_and_keep_what_there_is() {
        let shelf = Shelf::new(64 << 20, 1 << 20);
        put(&shelf, key("/"), stored(b"1", Selector::default()));
        assert_eq!(shelf.share(), 8 << 20);
        assert!(shelf.resized(128 << 20, 1 << 20).is_none());
        let next = shelf.resized(64 << 20, 8 << 20).unwrap();
        assert!(next.get(key("/")).is_some() && next.share() == 64 << 20);
        assert!(put(&next, key("/large"), stored(&[0; 12 << 20], Selector::default())));
    }

    #[test]
    fn a_target_passes_for_a_while_and_keeps_its_answers() {
        let (shelf, now) = (Shelf::new(1 << 20, 1 << 10), Instant::now());
        put(&shelf, key("/"), stored(b"1", Selector::default()));
        shelf.pass(key("/"), now + std::time::Duration::from_secs(1));
        let entry = shelf.get(key("/")).unwrap();
        assert!(entry.passes(now) && !entry.passes(now + std::time::Duration::from_secs(1)));
        assert!(entry.find(&nothing()).is_some());
        put(&shelf, key("/"), stored(b"2", Selector::default()));
        assert!(!shelf.get(key("/")).unwrap().passes(now), "it can be stored again");
    }

    #[test]
    fn a_purge_removes_what_fits() {
        let shelf = Shelf::new(1 << 20, 1 << 10);
        for target in ["/a", "/a?x=1", "/b"] {
            put(&shelf, key(target), stored(b"1", Selector::default()));
        }
        assert_eq!(shelf.purge(&Pattern::parse("/a")), 2);
        assert!(shelf.get(key("/a")).is_none() && shelf.get(key("/b")).is_some());
        assert!(shelf.remove(key("/b")) && !shelf.remove(key("/b")));
        assert_eq!(shelf.purge(&Pattern::All), 0);
    }

    #[test]
    fn it_shrinks_when_memory_is_short_and_grows_again() {
        let shelf = Shelf::new(8 << 20, 64 << 10);
        let fill = || {
            (0..2_000).for_each(|nth| {
                put(&shelf, key(&format!("/{nth}")), stored(&[0; 8_000], Selector::default()));
            })
        };
        fill();
        let before = shelf.bytes();
        assert!(before > 6 << 20, "{before}");
        assert!(shelf.shrink() > 0 && shelf.bytes() <= before / 2);
        let freed: u64 = (0..10).map(|_| shelf.shrink()).sum();
        assert!(freed > 0);
        assert_eq!(shelf.bytes(), 0);
        fill();
        assert_eq!(shelf.bytes(), 0, "until memory is well again");
        (0..4).for_each(|_| assert!(shelf.grow()));
        assert!(!shelf.grow());
        fill();
        assert!(shelf.bytes() > 6 << 20, "{}", shelf.bytes());
        shelf.set_most(2 << 20);
        assert!(shelf.bytes() <= 2 << 20);
    }
}
