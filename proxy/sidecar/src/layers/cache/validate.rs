//! Asks the service whether a stored answer still holds (RFC 9111, 4.3), and lets it stand in where the service cannot
//! answer.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http_body::Body as _;
use pillion_cache::Stored;
use pillion_cache::answer::Unstorable;
use pillion_cache::flight::{Landed, Lead, Turn};
use pillion_cache::status::{Forwarded, Told};
use pillion_cache::stored::{Described, Times};
use pillion_http1::Known;
use pillion_telemetry::CacheOutcome;
use tokio::time::Instant;

use super::super::amend::exchange_beside;
use super::super::timeout;
use super::keep::{Over, land};
use super::{Departure, HttpService, Request, clock};
use crate::http::call::RequestContext;
use crate::http::{Body, Call, FailedCall, Response};
use pillion_http::message::{Headers, RequestHead};
use pillion_http::seen::Seen;
use pillion_model::Reason;

/// 60 s: the longest time for a validation that no client waits for.
const LONGEST_BEHIND: Duration = Duration::from_secs(60);

impl Request {
    /// Sends the request with the validators of what is stored.
    pub(super) async fn validate<S: HttpService>(
        self,
        next: S,
        mut call: Box<Call>,
        stored: &Arc<Stored>,
        lead: Option<Lead>,
        why: Forwarded,
    ) -> Result<Response, FailedCall> {
        let mut has_asked = !self.is_head() && ask(call.head_mut(), stored);
        if has_asked {
            call.seen = Seen::of(&call.head.headers);
        }
        let mut departure = self.departs();
        let mut result = self.within_patience(next.clone(), call, stored).await;
        if let Ok(Ok(response)) = &result
            && has_asked
            && is_about_another(response, stored)
        {
            (has_asked, departure) = (false, self.departs());
            result = self.within_patience(next, self.anew(), stored).await;
        }
        if self.is_error(&result)
            && let Some(stale) = self.stand_in()
        {
            lead.into_iter().for_each(|lead| lead.land(Landed::StoodIn(stale.clone())));
            let status =
                result.as_ref().ok().and_then(|answer| Some(answer.as_ref().ok()?.status().as_u16()));
            let ttl = stale.ttl(Instant::now().into_std());
            return Ok(self.serving().hit_as(
                &stale,
                Told::Validated { why, status, ttl },
                CacheOutcome::Stale,
            ));
        }
        let response = match result {
            Ok(Ok(response)) => response,
            Ok(Err(failure)) => {
                self.count(CacheOutcome::Miss);
                lead.into_iter().for_each(|lead| lead.land(Landed::NotShared));
                return Err(failure);
            }
            Err(GaveUp) => {
                // what could stand in has grown too old while the request waited, or was forgotten
                self.count(CacheOutcome::Miss);
                lead.into_iter().for_each(|lead| lead.land(Landed::NotShared));
                let error = pillion_base::error::Error::new(
                    Reason::RequestTimeout,
                    "the service did not answer in time, and what is stored may not stand in any more",
                );
                return Err(error.into());
            }
        };
        Ok(self.validated(response, stored, (departure, has_asked), lead, why))
    }

    /// The request once more, as it came.
    fn anew(&self) -> Box<Call> {
        let (head, seen) = (self.head.clone(), Seen::of(&self.head.headers));
        self.common.clone().first_call(head, seen, Body::empty())
    }

    /// What the answer to a validation means.
    fn validated(
        &self,
        response: Response,
        stored: &Arc<Stored>,
        (departure, has_asked): (Departure, bool),
        lead: Option<Lead>,
        why: Forwarded,
    ) -> Response {
        if has_asked && response.status() == StatusCode::NOT_MODIFIED {
            let fresh = self.freshen(stored, response.headers(), departure);
            land(&self.cache, &self.key, lead, fresh.begins_fresh());
            let told = Told::Validated { why, status: Some(304), ttl: fresh.ttl(Instant::now().into_std()) };
            let own = fresh.own_fields(response.headers());
            let mut served = self.serving().hit_as(&fresh, told, CacheOutcome::Revalidated);
            own.iter().for_each(|(name, value)| served.headers_mut().append_named(name, value));
            return served;
        }
        self.count(CacheOutcome::Miss);
        if self.is_head() {
            self.described(stored, &response, departure);
        }
        let over = self.over_stored(&response);
        self.keep(response, departure, lead, why, over)
    }

    /// The stored answer with the fields of a 304, which takes its place, if it may be stored.
    fn freshen(&self, stored: &Arc<Stored>, by: &Headers, departure: Departure) -> Arc<Stored> {
        let times = Times { asked: departure.at, received: clock() };
        let fresh = Arc::new(stored.freshened(by, &self.head.headers, times));
        match fresh.facts.storable(&self.asked, times.received) {
            Ok(()) => {
                self.cache.freshen(&self.key, departure.moment, stored, fresh.clone());
            }
            // what this client gets is not for all: what is stored stays as it is for the others
            Err(why) if why != Unstorable::Varies && self.asked.has_credentials() => {}
            Err(_not_any_more) => self.cache.invalidate(self.key.borrowed()),
        }
        fresh
    }

    /// An answer to HEAD freshens the stored answer, or shows that it holds no more (RFC 9111, 4.3.5).
    fn described(&self, stored: &Arc<Stored>, response: &Response, departure: Departure) {
        let are_ok = response.status() == StatusCode::OK && stored.status == StatusCode::OK;
        if !are_ok || self.asked.has_credentials() {
            return;
        }
        match stored.described_by(response.headers()) {
            Described::AsItIs => drop(self.freshen(stored, response.headers(), departure)),
            Described::Otherwise => self.cache.invalidate(self.key.borrowed()),
            Described::Vaguely => {}
        }
    }

    /// What a newer answer says of the stored one. An error, and an answer to one client's credentials, say nothing
    /// about what the others get.
    fn over_stored(&self, response: &Response) -> Over {
        let says = says_what_is(response.status()) && !self.asked.has_credentials() && !self.is_head();
        if says { Over::Outdated } else { Over::Nothing }
    }

    /// Whether the service could not answer: there is no answer, or one that says so (RFC 5861, 4).
    fn is_error(&self, result: &Result<Result<Response, FailedCall>, GaveUp>) -> bool {
        match result {
            Ok(Ok(response)) => says_error(response.status()),
            Ok(Err(_)) | Err(GaveUp) => true,
        }
    }

    /// Sends the request. Where the stored answer can stand in, it does so shortly before the timeout of the request,
    /// which would leave no time for it.
    async fn within_patience<S: HttpService>(
        &self,
        mut next: S,
        call: Box<Call>,
        stored: &Stored,
    ) -> Result<Result<Response, FailedCall>, GaveUp> {
        let left = match (&self.common.route, self.may_stand_in(stored)) {
            (Some(route), true) => timeout::left(&self.common, &route.timeouts),
            _ => None,
        };
        let Some(left) = left else { return Ok(next.call(call).await) };
        let exchange = &self.common.exchange;
        let until = Instant::now() + left.saturating_sub((left / 10).max(Duration::from_millis(5)));
        let mut sent = pin!(next.call(call));
        tokio::select! {
            biased;
            result = &mut sent => Ok(result),
            // the attempts end here, before they are dropped
            () = exchange.worker.ground.timers.deadline(until) => {
                exchange.expire(Reason::RequestTimeout);
                Err(GaveUp)
            }
        }
    }

    /// Validates a stored answer that has been used already. One request for a target does this at a time.
    pub(super) fn validate_behind<S: HttpService>(&self, next: &S, call: &Call, stored: &Arc<Stored>) {
        let Turn::Lead(lead) = self.cache.join(self.key.borrowed()) else { return };
        if self.fresh().is_some() {
            return lead.land(Landed::Stored); // an earlier one has just done it
        }
        let exchange = Arc::new(exchange_beside(&call.common.exchange));
        let common = RequestContext { exchange, waits_to_send: false, deadline: None, ..call.common.clone() };
        let mut head = RequestHead::clone(&call.head);
        head.method = http::Method::GET;
        for own in [Known::IfNoneMatch, Known::IfModifiedSince, Known::Range, Known::IfRange] {
            head.headers.remove(own); // it is validated for all
        }
        let head = Arc::new(head);
        let request = Self { common: common.clone(), head: head.clone(), ..self.clone() };
        let seen = Seen::of(&head.headers);
        let call = common.first_call(head, seen, Body::empty());
        let sent = request.behind(next.clone(), call, stored.clone(), lead);
        // No task waits for it; it ends at the latest after `LONGEST_BEHIND`.
        drop(tokio::spawn(tokio::time::timeout(LONGEST_BEHIND, sent)));
    }

    async fn behind<S: HttpService>(self, mut next: S, mut call: Box<Call>, stored: Arc<Stored>, lead: Lead) {
        let mut has_asked = ask(call.head_mut(), &stored);
        call.seen = Seen::of(&call.head.headers);
        let (mut departure, why) = (self.departs(), Forwarded::Stale);
        let mut result = next.call(call).await;
        if let Ok(response) = &result
            && has_asked
            && is_about_another(response, &stored)
        {
            (has_asked, departure) = (false, self.departs());
            result = next.call(self.anew()).await;
        }
        let response = match result {
            Err(_) => return lead.land(Landed::StoodIn(stored)), // for those for whom it may
            Ok(response) if says_error(response.status()) => return lead.land(Landed::StoodIn(stored)),
            Ok(response) if has_asked && response.status() == StatusCode::NOT_MODIFIED => {
                let fresh = self.freshen(&stored, response.headers(), departure);
                return land(&self.cache, &self.key, Some(lead), fresh.begins_fresh());
            }
            Ok(response) if response.status().is_server_error() => return lead.land(Landed::NotShared),
            Ok(response) => response,
        };
        let over = self.over_stored(&response);
        let mut response = self.keep(response, departure, Some(lead), why, over);
        // The answer is read and not reset, so that it is stored. A large one is given up.
        let (mut read, most) = (0, self.cache.largest());
        let mut next = |cx: &mut std::task::Context<'_>| Pin::new(response.body_mut()).poll_frame(cx);
        while let Some(Ok(frame)) = poll_fn(&mut next).await {
            read += frame.data_ref().map_or(0, bytes::Bytes::len);
            if read > most {
                return;
            }
        }
    }
}

/// Whether an answer with this status says what the target is now: there is another content, another place, or none.
fn says_what_is(status: StatusCode) -> bool {
    let is_other = status.is_success() || status.is_redirection();
    (is_other && status != StatusCode::NOT_MODIFIED)
        || matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE)
}

/// Whether a 304 does not validate the stored answer: then the request is sent as it came.
fn is_about_another(response: &Response, stored: &Stored) -> bool {
    response.status() == StatusCode::NOT_MODIFIED && !stored.is_meant_by(response.headers())
}

/// Whether an answer with this status says that the service could not answer (RFC 5861, 4).
fn says_error(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502..=504)
}

/// The request was given up before its timeout.
struct GaveUp;

/// Writes the validators of what is stored into a request, in place of its own conditions. Returns whether there are
/// any.
fn ask(head: &mut RequestHead, stored: &Stored) -> bool {
    let (etag, modified) = (stored.headers.value(Known::Etag), stored.headers.value(Known::LastModified));
    if etag.is_none() && modified.is_none() {
        return false;
    }
    for own in [Known::IfNoneMatch, Known::IfModifiedSince, Known::Range, Known::IfRange] {
        head.headers.remove(own);
    }
    if let Some(etag) = etag {
        head.headers.put(Known::IfNoneMatch, &etag);
    }
    if let Some(modified) = modified {
        head.headers.put(Known::IfModifiedSince, &modified);
    }
    true
}
