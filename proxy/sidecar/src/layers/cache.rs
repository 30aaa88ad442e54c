//! Answers requests to a service from its cache, and keeps its answers there (RFC 9111, `pillion_cache`).
//!
//! The layer is inside [`amend`](super::amend): what is stored is named by what the service is asked, after a route
//! has rewritten it. It is inside the timeout of the whole request, which thus bounds the wait for another request,
//! and outside the retry layer: a stale answer stands in for an error only when all tries have failed. A service
//! without a cache costs one branch.

mod keep;
mod serve;
mod validate;

use std::future::{Future, ready};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Method;
use pillion_cache::cache::Found;
use pillion_cache::flight::{Landed, Lead, Turn, Wait};
use pillion_cache::journal::Moment;
use pillion_cache::key::{self, Key};
use pillion_cache::origin::same_origin;
use pillion_cache::status::{Forwarded, Kept, Told};
use pillion_cache::verdict::{Use, judge, may_stand_in};
use pillion_cache::{Asked, Cache, Clock, KeyRef, Stored};
use pillion_http1::Known;
use pillion_telemetry::CacheOutcome;
use tokio::time::Instant;
use tokio_util::either::Either;
use tower::layer::layer_fn;
use tower::{Layer, service_fn};

use self::keep::Over;
use super::HttpService;
use crate::http::call::RequestContext;
use crate::http::{Call, FailedCall, Response, answer};
use pillion_http::message::RequestHead;

/// 5 s: so long a request waits for the head of the answer of the request that leads, as nginx does
/// (`proxy_cache_lock_timeout`). Then it is sent.
const PATIENCE_FOR_HEAD: Duration = Duration::from_secs(5);
/// 1 s: so long a request waits for the body of the request that leads, after the head has come. Its client may read
/// slowly.
const PATIENCE_FOR_BODY: Duration = Duration::from_secs(1);

pub fn layer<S: HttpService>() -> impl Layer<S, Service = impl HttpService> + Clone {
    layer_fn(|next: S| service_fn(move |call| cached(next.clone(), call)))
}

fn cached<S: HttpService>(
    mut next: S,
    call: Box<Call>,
) -> impl Future<Output = Result<Response, FailedCall>> + Send {
    let Some(cache) = cache_of(&call) else { return Either::Left(next.call(call)) }; // nearly always
    Either::Right(match at_once(cache, &call) {
        Some(response) => Either::Left(ready(Ok(response))),
        None => Either::Right(Box::pin(answer_from(cache.clone(), next, call))),
    })
}

/// The cache that has to do with the request.
fn cache_of(call: &Call) -> Option<&Arc<Cache>> {
    let cache = call.common.route.as_ref()?.cluster.cache()?;
    let is_for_caches = !call.common.is_grpc && call.common.tunnel.is_none();
    (is_for_caches && call.head.method != Method::CONNECT).then_some(cache)
}

/// The answer to a request for which a stored one may be used as it is. Nothing is copied but the list of its fields.
fn at_once(cache: &Cache, call: &Call) -> Option<Response> {
    let is_read = call.head.method == Method::GET || call.head.method == Method::HEAD;
    if !is_read || !call.body.is_empty() {
        return None;
    }
    let asked = Asked::of(&call.head.headers);
    if is_bypass(&asked) {
        return None;
    }
    let now = Instant::now().into_std();
    let (Found::Stored(stored), _) = cache.find(key_of(call), &call.head.headers, now) else { return None };
    let serving = Serving { common: &call.common, head: &call.head, asked: &asked };
    (judge(&stored, &asked, now) == Use::AsIs).then(|| serving.hit(&stored))
}

/// Whether the cache has nothing to do with a request, because the request says so or only the service can judge it.
const fn is_bypass(asked: &Asked) -> bool {
    asked.directives.no_store || asked.has_precondition
}

fn key_of(call: &Call) -> KeyRef<'_> {
    let host = call.common.host.as_ref().map(|host| key::host(host.as_bytes())).unwrap_or_default();
    let target = call.head.uri.path_and_query().map_or("/", |target| target.as_str());
    KeyRef { host, target: target.as_bytes() }
}

async fn answer_from<S: HttpService>(
    cache: Arc<Cache>,
    mut next: S,
    call: Box<Call>,
) -> Result<Response, FailedCall> {
    let request = Request::of(&cache, &call);
    let is_bypass = is_bypass(&request.asked) || !call.body.is_empty();
    match call.head.method {
        Method::GET | Method::HEAD if is_bypass => {
            let response = next.call(call).await?;
            Ok(request.passed(response, Forwarded::Bypass))
        }
        Method::GET | Method::HEAD => request.answered(next, call).await,
        Method::OPTIONS | Method::TRACE => {
            let response = next.call(call).await?;
            Ok(request.passed(response, Forwarded::Method))
        }
        _ => {
            let response = next.call(call).await?;
            request.invalidate_by(&response);
            Ok(request.passed(response, Forwarded::Method))
        }
    }
}

/// A request to a service that has a cache.
#[derive(Clone)]
struct Request {
    cache: Arc<Cache>,
    common: RequestContext,
    key: Arc<Key>,
    /// The head as it came to this layer; the one that is sent may have other conditions.
    head: Arc<RequestHead>,
    asked: Asked,
}

/// What is needed of a request to answer it with a stored answer.
#[derive(Clone, Copy)]
struct Serving<'a> {
    common: &'a RequestContext,
    head: &'a RequestHead,
    asked: &'a Asked,
}

/// When a request was sent whose answer may be stored.
#[derive(Clone, Copy)]
struct Departure {
    at: Clock,
    moment: Moment,
}

fn clock() -> Clock {
    Clock::new(Instant::now().into_std(), SystemTime::now())
}

impl Request {
    fn of(cache: &Arc<Cache>, call: &Call) -> Self {
        Self {
            cache: cache.clone(),
            common: call.common.clone(),
            key: Arc::new(key_of(call).to_key()),
            asked: Asked::of(&call.head.headers),
            head: call.head.clone(),
        }
    }

    fn is_head(&self) -> bool {
        self.head.method == Method::HEAD
    }

    fn departs(&self) -> Departure {
        Departure { at: clock(), moment: self.cache.moment() }
    }

    fn find(&self) -> (Found, bool) {
        self.cache.find(self.key.borrowed(), &self.head.headers, Instant::now().into_std())
    }

    fn serving(&self) -> Serving<'_> {
        Serving { common: &self.common, head: &self.head, asked: &self.asked }
    }

    fn count(&self, outcome: CacheOutcome) {
        self.serving().count(outcome);
    }

    /// Answers a GET or a HEAD.
    async fn answered<S: HttpService>(self, next: S, call: Box<Call>) -> Result<Response, FailedCall> {
        let now = Instant::now().into_std();
        let (found, passes) = self.find();
        let (stored, why) = match found {
            Found::Nothing => (None, Forwarded::UriMiss),
            Found::OtherChoices => (None, Forwarded::VaryMiss),
            Found::Stored(stored) => match judge(&stored, &self.asked, now) {
                Use::NotAtAll => (None, Forwarded::VaryMiss),
                Use::AsIs => return Ok(self.serving().hit(&stored)),
                Use::WhileValidated => {
                    self.validate_behind(&next, &call, &stored);
                    return Ok(self.serving().hit(&stored));
                }
                Use::Validated { is_stale: true } => (Some(stored), Forwarded::Stale),
                Use::Validated { is_stale: false } => (Some(stored), Forwarded::Request),
            },
        };
        if self.asked.directives.only_if_cached {
            return Ok(self.refused());
        }
        let why = if stored.is_none() && self.asked.is_ranged { Forwarded::Partial } else { why };
        match self.takes_turns(stored.as_deref(), passes) {
            false => self.send(next, call, stored, None, why).await,
            true => self.in_turn(next, call, stored, why).await,
        }
    }

    /// Whether one request of many equal ones is sent first. Where it is known that one's answer is not for the
    /// others, all are sent.
    fn takes_turns(&self, stored: Option<&Stored>, passes: bool) -> bool {
        let Asked { is_authorized, has_cookie, is_conditional, is_ranged, directives, .. } = self.asked;
        let is_own = is_authorized || directives.no_cache || directives.max_age == Some(0);
        match stored {
            _ if is_own || passes || self.is_head() => false,
            // each asks for an answer that is never fresh; each owner of a cookie, if the lifetime is a guess
            Some(stored) => stored.begins_fresh() && (stored.is_explicit() || !has_cookie),
            None => !is_conditional && !is_ranged,
        }
    }

    /// Leads, or waits for the request that leads, in all for [`PATIENCE_FOR_HEAD`] and [`PATIENCE_FOR_BODY`].
    async fn in_turn<S: HttpService>(
        self,
        next: S,
        call: Box<Call>,
        stored: Option<Arc<Stored>>,
        why: Forwarded,
    ) -> Result<Response, FailedCall> {
        let until = Instant::now() + PATIENCE_FOR_HEAD;
        loop {
            let wait = match self.cache.join(self.key.borrowed()) {
                // the answer of an earlier leader may have been stored just now
                Turn::Lead(lead) => match self.fresh() {
                    Some(hit) => {
                        lead.land(Landed::Stored);
                        return Ok(self.serving().hit(&hit));
                    }
                    None => return self.send(next, call, stored, Some(lead), why).await,
                },
                Turn::Wait(wait) => wait,
            };
            match self.wait(wait, until).await {
                Landed::Abandoned => {} // one of those who waited leads now
                Landed::NotShared => return self.send(next, call, stored, None, why).await,
                Landed::StoodIn(stale) => match self.stand_in() {
                    Some(own) if Arc::ptr_eq(&own, &stale) => {
                        return Ok(self.collapsed(&own, why, CacheOutcome::Stale));
                    }
                    _ => return self.send(next, call, stored, None, why).await,
                },
                Landed::Stored => break,
            }
        }
        match self.fresh() {
            Some(hit) => Ok(self.collapsed(&hit, why, CacheOutcome::Hit)),
            None => self.send(next, call, stored, None, why).await,
        }
    }

    /// The stored answer for a request that has waited for an equal one.
    fn collapsed(&self, stored: &Stored, why: Forwarded, outcome: CacheOutcome) -> Response {
        let told = Told::Collapsed { why, ttl: stored.ttl(Instant::now().into_std()) };
        self.serving().hit_as(stored, told, outcome)
    }

    /// The stored answer that may be used as it is.
    fn fresh(&self) -> Option<Arc<Stored>> {
        let Found::Stored(stored) = self.find().0 else { return None };
        (judge(&stored, &self.asked, Instant::now().into_std()) == Use::AsIs).then_some(stored)
    }

    /// Waits for the request that leads: for the head of its answer `until` then, and not for long for its body. However
    /// many leaders leave one after another, the wait is not longer than these two together. When
    /// the patience of one who waits ends, those who come next do not wait for this leader.
    async fn wait(&self, mut wait: Wait, until: Instant) -> Landed {
        let timers = &self.common.exchange.worker.ground.timers;
        let head = tokio::select! {
            biased;
            head = wait.head() => head,
            () = timers.deadline(until) => Some(wait.give_up()), // nothing is lost: the leader goes on
        };
        if let Some(landed) = head {
            return landed;
        }
        tokio::select! {
            biased;
            landed = wait.landed() => landed,
            () = timers.deadline(Instant::now().min(until) + PATIENCE_FOR_BODY) => wait.give_up(), // as above
        }
    }

    /// Sends the request, to validate what is stored if there is something.
    async fn send<S: HttpService>(
        self,
        mut next: S,
        call: Box<Call>,
        stored: Option<Arc<Stored>>,
        lead: Option<Lead>,
        why: Forwarded,
    ) -> Result<Response, FailedCall> {
        if let Some(stored) = stored {
            return self.validate(next, call, &stored, lead, why).await;
        }
        let departure = self.departs();
        match next.call(call).await {
            Ok(response) => {
                self.count(CacheOutcome::Miss);
                Ok(self.keep(response, departure, lead, why, Over::Nothing))
            }
            Err(failure) => {
                self.count(CacheOutcome::Miss);
                // the others are not served one after another by a service that fails
                lead.into_iter().for_each(|lead| lead.land(Landed::NotShared));
                Err(failure)
            }
        }
    }

    /// An answer with which the cache has nothing to do.
    fn passed(&self, mut response: Response, why: Forwarded) -> Response {
        self.count(CacheOutcome::Pass);
        serve::tell(&mut response, Told::Forwarded { why, kept: Kept::No });
        response
    }

    /// The request may be answered from the cache alone, which has nothing for it (RFC 9111, 5.2.1.7).
    fn refused(&self) -> Response {
        self.count(CacheOutcome::Pass);
        let text = "pillion: nothing is stored for this request, and it has only-if-cached\n";
        let mut response = answer::of_route(504, text, &self.common.exchange, false);
        serve::tell(&mut response, Told::Forwarded { why: Forwarded::Bypass, kept: Kept::No });
        response
    }

    /// Forgets what a successful request with an unsafe method has changed (RFC 9111, 4.4).
    fn invalidate_by(&self, response: &Response) {
        let status = response.status();
        if !status.is_success() && !status.is_redirection() {
            return;
        }
        let key = self.key.borrowed();
        self.cache.invalidate(key);
        let named =
            response.headers().all(Known::Location).chain(response.headers().named("content-location"));
        for target in named.filter_map(|reference| same_origin(reference, key)) {
            self.cache.invalidate(KeyRef { host: key.host, target: &target });
        }
    }

    /// The stored answer that stands in for an error, if one may. What was invalidated or purged while the request was
    /// under way does not.
    fn stand_in(&self) -> Option<Arc<Stored>> {
        let Found::Stored(stored) = self.find().0 else { return None };
        self.may_stand_in(&stored).then_some(stored)
    }

    fn may_stand_in(&self, stored: &Stored) -> bool {
        let by_config = self.cache.policy().stale_if_error.unwrap_or_default().as_secs();
        may_stand_in(stored, &self.asked, by_config, Instant::now().into_std())
    }
}
