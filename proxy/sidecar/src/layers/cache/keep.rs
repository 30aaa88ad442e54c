//! Stores an answer of the service, at once where it has come whole, else as its body passes.

use std::sync::Arc;

use bytes::Bytes;
use http_body::Body as _;
use pillion_cache::flight::{Landed, Lead};
use pillion_cache::journal::Moment;
use pillion_cache::key::Key;
use pillion_cache::status::{Forwarded, Kept, Told};
use pillion_cache::stored::{Head, Times};
use pillion_cache::vary::Selector;
use pillion_cache::{AnswerFacts, Cache};
use tokio::time::Instant;

use super::{Departure, Request, clock, serve};
use crate::http::Response;
use pillion_http::transfer::{BodyEnd, Keeper};

/// What an answer means for one that is stored for its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// Nothing, or nothing is stored.
    Nothing,
    /// The stored one holds no more: if the newer one is not stored in its place, it is forgotten.
    Outdated,
}

impl Over {
    fn forget(self, cache: &Cache, key: &Key) {
        if self == Self::Outdated {
            cache.invalidate(key.borrowed());
        }
    }
}

impl Request {
    /// Stores an answer, if it may be stored, and says what was done.
    pub(super) fn keep(
        &self,
        mut response: Response,
        departure: Departure,
        lead: Option<Lead>,
        why: Forwarded,
        over: Over,
    ) -> Response {
        let kept = match self.storable(&response, departure) {
            Some(head) => {
                let kept = if head.facts.sets_cookie { Kept::WithoutCookie } else { Kept::Yes };
                if self.store(&mut response, head, (departure.moment, over), lead) { kept } else { Kept::No }
            }
            None => {
                over.forget(&self.cache, &self.key);
                self.keep_nothing(&response, lead);
                Kept::No
            }
        };
        serve::tell(&mut response, Told::Forwarded { why, kept });
        response
    }

    /// The head of an answer that may be stored.
    fn storable(&self, response: &Response, departure: Departure) -> Option<Head> {
        if self.is_head() || response.opens_tunnel() {
            return None;
        }
        let (status, headers) = (response.status(), response.headers());
        let (facts, received) = (AnswerFacts::of(status, headers), clock());
        facts.storable(&self.asked, received).ok()?;
        let least = response.body().size_hint().lower();
        if usize::try_from(least).unwrap_or(usize::MAX) > self.cache.largest() {
            return None;
        }
        let selector = Selector::of(&facts.vary, &self.head.headers)?;
        let times = Times { asked: departure.at, received };
        Some(Head { status, reason: None, headers: headers.clone(), facts, selector, times })
    }

    /// Stores an answer, or lets it be stored when its body has come. Returns whether it is, or will be.
    fn store(
        &self,
        response: &mut Response,
        mut head: Head,
        (asked, over): (Moment, Over),
        lead: Option<Lead>,
    ) -> bool {
        head.reason.clone_from(&response.head_mut().reason);
        let is_shared = head.begins_fresh();
        if let Some(body) = response.body_mut().in_memory() {
            let is_small = body.len() <= self.cache.largest();
            if !is_small {
                over.forget(&self.cache, &self.key);
            }
            let is_stored = is_small && self.cache.store(&self.key, asked, head.with(&body));
            land(&self.cache, &self.key, lead, is_stored && is_shared);
            return is_stored;
        }
        let lead = if is_shared {
            lead
        } else {
            land(&self.cache, &self.key, lead, false);
            None
        };
        lead.iter().for_each(Lead::comes);
        let (cache, key) = (self.cache.clone(), self.key.clone());
        let mut keeping =
            Keeping { cache, key, asked, over, head: Some(head), body: Vec::new(), room: 0, lead };
        keeping.make_room_for(response.body().size_hint().lower());
        response.body_mut().response_tail().keeper = Some(Box::new(keeping));
        true
    }

    /// An answer that is not stored.
    fn keep_nothing(&self, response: &Response, lead: Option<Lead>) {
        match response.status().is_server_error() {
            true => lead.into_iter().for_each(|lead| lead.land(Landed::NotShared)),
            false => land(&self.cache, &self.key, lead, false),
        }
    }
}

/// Lands a request. `is_shared`: others may use its answer as it is. If they may not, those who waited for it are sent,
/// and those who come next do not wait. If none has waited, the next ones may: nothing is remembered of targets that
/// are asked for one after another.
pub(super) fn land(cache: &Cache, key: &Key, lead: Option<Lead>, is_shared: bool) {
    let Some(lead) = lead else { return };
    if !is_shared && lead.is_awaited() {
        cache.pass(key.borrowed(), Instant::now().into_std());
    }
    lead.land(if is_shared { Landed::Stored } else { Landed::NotShared });
}

/// An answer whose body is on its way to the client.
struct Keeping {
    cache: Arc<Cache>,
    key: Arc<Key>,
    asked: Moment,
    over: Over,
    /// `None`: its body is larger than what is stored, or too many others are on their way.
    head: Option<Head>,
    body: Vec<u8>,
    /// What was taken of the room for bodies on their way.
    room: usize,
    lead: Option<Lead>,
}

impl Keeping {
    /// Makes room at once for a body whose least length is known, if there is so much; else it grows as it comes.
    fn make_room_for(&mut self, least: u64) {
        let least = usize::try_from(least).unwrap_or(usize::MAX).min(self.cache.largest());
        self.has_room(least);
    }

    /// Makes room for more of the body. It grows as a vector does, and counts with what it has to spare; where there is
    /// not so much room, it gets what it needs.
    fn grow(&mut self, by: usize) -> bool {
        let (length, most) = (self.body.len().saturating_add(by), self.cache.largest());
        let ample = length.max(2 * self.room).min(most);
        length <= self.room || length <= most && (self.has_room(ample) || self.has_room(length))
    }

    fn has_room(&mut self, room: usize) -> bool {
        let has_room = self.cache.take_room(room.saturating_sub(self.room));
        if has_room && room > self.room {
            self.room = room;
            self.body.reserve_exact(room - self.body.len());
        }
        has_room
    }

    fn keep_nothing(&mut self) {
        self.cache.give_back(std::mem::take(&mut self.room));
        (self.head, self.body) = (None, Vec::new());
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        self.keep_nothing();
    }
}

impl Keeper for Keeping {
    fn data(&mut self, data: &Bytes) {
        if self.head.is_none() {
            return;
        }
        match self.grow(data.len()) {
            true => self.body.extend_from_slice(data),
            false => {
                self.keep_nothing();
                self.over.forget(&self.cache, &self.key);
                land(&self.cache, &self.key, self.lead.take(), false);
            }
        }
    }

    /// A client that left takes its request away: then one of those who wait leads. Where the service ended the body
    /// in a way that cannot be stored, it would do so for each of them in turn: they are sent together.
    fn end(mut self: Box<Self>, how: BodyEnd) {
        match how {
            BodyEnd::Whole => {
                let Some(head) = self.head.take() else { return };
                let is_stored = self.cache.store(
                    &self.key,
                    self.asked,
                    head.holding(std::mem::take(&mut self.body).into()),
                );
                land(&self.cache, &self.key, self.lead.take(), is_stored);
            }
            BodyEnd::Trailers => {
                self.over.forget(&self.cache, &self.key);
                land(&self.cache, &self.key, self.lead.take(), false);
            }
            BodyEnd::Cut => land(&self.cache, &self.key, self.lead.take(), false),
            BodyEnd::ClientLeft => {} // the lead is dropped
        }
    }
}

#[cfg(test)]
mod tests {
    use pillion_cache::KeyRef;
    use pillion_model::policy::Cache as Policy;

    use super::*;

    #[test]
    fn a_body_on_its_way_counts_with_what_it_has_to_spare() {
        let cache = Arc::new(Cache::new(Policy { max: 1 << 20, ..Policy::default() }));
        let key = Arc::new(KeyRef { host: b"orders", target: b"/" }.to_key());
        let (asked, over, body) = (cache.moment(), Over::Nothing, Vec::new());
        let mut keeping =
            Keeping { cache: cache.clone(), key, asked, over, head: None, body, room: 0, lead: None };
        for _ in 0..100 {
            assert!(keeping.grow(1_000));
            keeping.body.extend_from_slice(&[0; 1_000]);
            assert_eq!(keeping.body.capacity(), keeping.room);
        }
        let left = (1 << 18) - keeping.room;
        assert!(!cache.take_room(left + 1) && cache.take_room(left));
        cache.give_back(left);
        assert!(!keeping.grow(1 << 20), "it is larger than what is stored");
        drop(keeping);
        assert!(cache.take_room(1 << 18));
    }

    #[test]
    fn a_body_that_fits_as_it_is_needs_no_room_to_spare() {
        let cache = Arc::new(Cache::new(Policy { max: 1 << 20, ..Policy::default() }));
        let key = Arc::new(KeyRef { host: b"orders", target: b"/" }.to_key());
        let (asked, over, body) = (cache.moment(), Over::Nothing, Vec::new());
        let mut keeping =
            Keeping { cache: cache.clone(), key, asked, over, head: None, body, room: 0, lead: None };
        assert!(cache.take_room((1 << 18) - 5_000));
        keeping.make_room_for(3_000);
        keeping.make_room_for(8_000);
        assert_eq!((keeping.room, keeping.body.capacity()), (3_000, 3_000));
        keeping.body.extend_from_slice(&[0; 3_000]);
        assert!(keeping.grow(1_500) && !keeping.grow(2_500));
        assert_eq!(keeping.room, 4_500, "twice as much would not fit");
    }
}
