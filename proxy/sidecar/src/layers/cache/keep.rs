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

impl Request {
    /// Stores an answer, if it may be stored, and says what was done.
    pub(super) fn keep(
        &self,
        mut response: Response,
        departure: Departure,
        lead: Option<Lead>,
        why: Forwarded,
    ) -> Response {
        let kept = match self.storable(&response, departure) {
            Some(head) => {
                let kept = if head.facts.sets_cookie { Kept::WithoutCookie } else { Kept::Yes };
                if self.store(&mut response, head, departure.moment, lead) { kept } else { Kept::No }
            }
            None => {
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
    fn store(&self, response: &mut Response, mut head: Head, asked: Moment, lead: Option<Lead>) -> bool {
        head.reason.clone_from(&response.head_mut().reason);
        let is_shared = head.begins_fresh();
        if let Some(body) = response.body_mut().in_memory() {
            let is_small = body.len() <= self.cache.largest();
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
        let keeping = Keeping { cache, key, asked, head: Some(head), body: Vec::new(), lead };
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
    /// `None`: its body is larger than what is stored, or too many others are on their way.
    head: Option<Head>,
    body: Vec<u8>,
    lead: Option<Lead>,
}

impl Drop for Keeping {
    fn drop(&mut self) {
        self.cache.give_back(self.body.len());
    }
}

impl Keeper for Keeping {
    fn data(&mut self, data: &Bytes) {
        if self.head.is_none() {
            return;
        }
        let is_small = self.body.len() + data.len() <= self.cache.largest();
        if !is_small || !self.cache.take_room(data.len()) {
            self.cache.give_back(self.body.len());
            (self.head, self.body) = (None, Vec::new());
            land(&self.cache, &self.key, self.lead.take(), false);
            return;
        }
        self.body.extend_from_slice(data);
    }

    /// A client that left takes its request away: then one of those who wait leads. Where the service ended the body
    /// in a way that cannot be stored, it would do so for each of them in turn: they are sent together.
    fn end(mut self: Box<Self>, how: BodyEnd) {
        match how {
            BodyEnd::Whole => {
                let Some(head) = self.head.take() else { return };
                let is_stored = self.cache.store(&self.key, self.asked, head.with(&self.body));
                land(&self.cache, &self.key, self.lead.take(), is_stored);
            }
            BodyEnd::Trailers | BodyEnd::Cut => land(&self.cache, &self.key, self.lead.take(), false),
            BodyEnd::ClientLeft => {} // the lead is dropped
        }
    }
}
