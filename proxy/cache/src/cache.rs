//! The cache of one service: what is stored, which requests lead, and by which policy. A reload that changes the policy
//! keeps what is stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pillion_http::message::Headers;
use pillion_model::policy::Cache as Policy;

use crate::Stored;
use crate::flight::{Flights, Turn};
use crate::journal::{Journal, Moment};
use crate::key::{Key, KeyRef, Pattern};
use crate::shelf::Shelf;

/// 10 s: so long requests for a target do not wait for one another after its answer was not for all.
const PASSES: Duration = Duration::from_secs(10);

pub struct Cache {
    policy: Policy,
    state: Arc<State>,
}

/// What a reload keeps.
struct State {
    shelf: Shelf,
    flights: Flights,
    journal: Mutex<Journal>,
    /// The bytes of bodies that are on their way into the cache.
    coming: AtomicUsize,
}

/// What is stored for a request.
pub enum Found {
    Nothing,
    /// Something is stored for the target, but other fields of the requests chose it.
    OtherChoices,
    Stored(Arc<Stored>),
}

impl Cache {
    pub fn new(policy: Policy) -> Self {
        let shelf = Shelf::new(policy.max as u64, policy.max_object as u64);
        let (flights, journal, coming) = (Flights::default(), Mutex::default(), AtomicUsize::new(0));
        Self { policy, state: Arc::new(State { shelf, flights, journal, coming }) }
    }

    /// The cache with another policy, and with what is stored so far. Requests that are under way store their answers in
    /// it, and what they invalidate is forgotten there.
    pub fn with(&self, policy: Policy) -> Self {
        self.state.shelf.set_bounds(policy.max as u64, policy.max_object as u64);
        Self { policy, state: self.state.clone() }
    }

    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The largest body that is stored: `max_object`, and never more than a quarter of what the cache may hold, nor
    /// more than one target may take while memory is short.
    pub fn largest(&self) -> usize {
        let share = usize::try_from(self.state.shelf.share()).unwrap_or(usize::MAX);
        self.policy.max_object.min(self.policy.max / 4).min(share)
    }

    /// Takes room for bytes of a body that is on its way. All of these bodies together have a quarter of what the cache may
    /// hold. Returns whether there was room; then [`Self::give_back`] returns it.
    pub fn take_room(&self, bytes: usize) -> bool {
        let before = self.state.coming.fetch_add(bytes, Relaxed);
        let has_room = before.saturating_add(bytes) <= self.policy.max / 4;
        if !has_room {
            self.give_back(bytes);
        }
        has_room
    }

    pub fn give_back(&self, bytes: usize) {
        self.state.coming.fetch_sub(bytes, Relaxed);
    }

    /// What is stored for a request. The second value is whether requests for the target pass without waiting.
    pub fn find(&self, key: KeyRef<'_>, request: &Headers, now: Instant) -> (Found, bool) {
        let Some(entry) = self.state.shelf.get(key) else { return (Found::Nothing, false) };
        let found = match entry.find(request) {
            Some(stored) => Found::Stored(stored.clone()),
            None if entry.is_empty() => Found::Nothing,
            None => Found::OtherChoices,
        };
        (found, entry.passes(now))
    }

    /// The turn of a request that nothing stored answers.
    pub fn join(&self, key: KeyRef<'_>) -> Turn {
        self.state.flights.join(self.state.shelf.hash(key))
    }

    /// The moment at which a request is sent whose answer may be stored.
    pub fn moment(&self) -> Moment {
        self.state.journal.lock().now()
    }

    /// Stores an answer, unless its key was invalidated since its request was sent at `asked`, or the answer of a later
    /// request is stored. Returns whether it is kept.
    pub fn store(&self, key: &Key, asked: Moment, stored: Stored) -> bool {
        self.put(key, asked, Arc::new(stored), None)
    }

    /// Stores what a validation made of `began`, if that is still stored.
    pub fn freshen(&self, key: &Key, asked: Moment, began: &Arc<Stored>, fresh: Arc<Stored>) -> bool {
        self.put(key, asked, fresh, Some(began))
    }

    fn put(&self, key: &Key, asked: Moment, stored: Arc<Stored>, began: Option<&Arc<Stored>>) -> bool {
        let (key, State { shelf, journal, .. }) = (key.borrowed(), &*self.state);
        // Asked while nothing else can be written: an invalidation is either noted before, or removes this answer.
        shelf.put(key, stored, began, || !journal.lock().is_outdated(asked, shelf.hash(key)))
    }

    /// Notes that the answer for a target was not for all.
    pub fn pass(&self, key: KeyRef<'_>, now: Instant) {
        self.state.shelf.pass(key, now, PASSES);
    }

    /// Forgets what is stored for a target, and what is on its way there.
    pub fn invalidate(&self, key: KeyRef<'_>) {
        self.state.journal.lock().invalidate(self.state.shelf.hash(key));
        self.state.shelf.remove(key);
    }

    /// Forgets what fits, and what is on its way. Returns how many targets had answers.
    pub fn purge(&self, pattern: &Pattern) -> usize {
        self.state.journal.lock().purge();
        self.state.shelf.purge(pattern)
    }

    /// The bytes that are kept, with those of evicted bodies that are still read.
    pub fn bytes(&self) -> u64 {
        self.state.shelf.bytes()
    }

    /// For how many targets something is kept.
    pub fn entries(&self) -> usize {
        self.state.shelf.entries()
    }

    /// Gives up half of what is kept, because memory is short. Returns how many bytes were given up.
    pub fn shrink(&self) -> u64 {
        self.state.shelf.shrink()
    }

    /// Lets it keep twice as much, where it was shrunk before. Returns whether it was.
    pub fn grow(&self) -> bool {
        self.state.shelf.grow()
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

    use super::*;
    use crate::stored::{Head, Times};
    use crate::vary::Selector;
    use crate::{AnswerFacts, Clock};

    fn policy() -> Policy {
        Policy { max: 1 << 20, max_object: 1 << 14, ..Policy::default() }
    }

    fn stored() -> Stored {
        let now = Clock { at: Instant::now(), wall: 2_000_000_000 };
        let field = (HeaderName::from_static("cache-control"), HeaderValue::from_static("max-age=60"));
        let headers = Headers::Map([field].into_iter().collect::<HeaderMap>());
        let facts = AnswerFacts::of(StatusCode::OK, &headers);
        let (status, reason, selector) = (StatusCode::OK, None, Selector::default());
        Head { status, reason, headers, facts, selector, times: Times { asked: now, received: now } }
            .with(b"x")
    }

    fn has(cache: &Cache, key: KeyRef<'_>) -> bool {
        matches!(cache.find(key, &Headers::default(), Instant::now()).0, Found::Stored(_))
    }

    #[test]
    fn an_answer_of_before_an_invalidation_or_a_purge_is_not_stored() {
        let (cache, key) = (Cache::new(policy()), KeyRef { host: b"orders", target: b"/" });
        let asked = cache.moment();
        cache.invalidate(key);
        assert!(!cache.store(&key.to_key(), asked, stored()) && !has(&cache, key));
        let asked = cache.moment();
        cache.invalidate(KeyRef { host: b"orders", target: b"/other" });
        assert!(cache.store(&key.to_key(), asked, stored()) && has(&cache, key));
        let asked = cache.moment();
        assert_eq!(cache.purge(&Pattern::parse("/")), 1);
        assert!(!cache.store(&key.to_key(), asked, stored()) && !has(&cache, key));
    }

    #[test]
    fn bodies_on_their_way_have_a_quarter_of_the_memory_in_sum() {
        let cache = Cache::new(policy());
        assert!(cache.take_room(200_000) && !cache.take_room(100_000) && cache.take_room(60_000));
        cache.give_back(200_000);
        assert!(cache.take_room(100_000));
    }

    #[test]
    fn what_a_request_of_before_a_reload_stores_and_invalidates_counts_after_it() {
        let (cache, key) = (Cache::new(policy()), KeyRef { host: b"orders", target: b"/" });
        let (before, other) = (cache.moment(), KeyRef { host: b"orders", target: b"/other" });
        assert!(cache.store(&key.to_key(), before, stored()));
        let next = cache.with(Policy { max: 1 << 24, ..policy() });
        assert!(next.largest() > 0 && has(&next, key), "its parts have another size");
        cache.invalidate(key);
        assert!(!has(&next, key));
        assert!(!next.store(&key.to_key(), before, stored()));
        assert!(cache.store(&other.to_key(), before, stored()) && has(&next, other));
    }

    #[test]
    fn another_policy_keeps_what_is_stored_and_a_smaller_bound_is_kept() {
        let (cache, key) = (Cache::new(policy()), KeyRef { host: b"orders", target: b"/" });
        assert!(cache.store(&key.to_key(), cache.moment(), stored()));
        let next = cache.with(Policy { stale_if_error: Some(Duration::from_secs(1)), ..policy() });
        assert!(has(&next, key));
        let small = next.with(Policy { max: 1, ..policy() });
        assert!(!has(&small, key) && small.bytes() == 0);
    }
}
