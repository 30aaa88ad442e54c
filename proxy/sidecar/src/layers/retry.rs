//! Sends a request again where that is allowed: after a pause, within a budget, to another endpoint, with its body from
//! the first byte. The pause is the one that the answer asked for, or is drawn at random.
//!
//! Where `hedge_after` says so, a second try is made beside a first one that is slow ([`hedged`]).
//!
//! The first try costs little, because it shares its head with those that may follow. [`again`] makes all further
//! tries.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderValue;
use pillion_http1::Known;
use tokio::time::Instant;
use tower::layer::layer_fn;
use tower::{Layer, service_fn};

use super::HttpService;
use super::hedge::{Raced, race};
use super::pushback::Pushback;
use super::timeout;
use super::verdict::{RetryState, RetrySubject, TryOutcome, Verdict};
use crate::http::call::RequestContext;
use crate::http::{Body, Call, FailedCall, Response, replay};
use crate::state::Route;
use pillion_base::error::Sent;
use pillion_http::headers::grpc_status;
use pillion_http::message::RequestHead;
use pillion_http::seen::Seen;
use pillion_model::policy::HedgeAfter;
use pillion_telemetry::RetryOutcome;
use pillion_upstream::cluster::Cluster;
use pillion_upstream::cluster::backoff;
use pillion_upstream::cluster::retry::Retried;

/// 1 min: the longest pause that an answer may ask for where the request has no deadline. A request that waits holds a
/// place among `max_retries`.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// 10 ms: how often a hedge looks whether the body of its request has come whole, whose end wakes no task.
const LOOK_AT_BODY: Duration = Duration::from_millis(10);

/// 64 KiB, the default of `retry.max_body`: with `retry: off`, a refused request is still sent elsewhere, and its body
/// is kept up to this size.
const KEPT_WITHOUT_RETRY: usize = 64 * 1024;

pub fn layer<S: HttpService>() -> impl Layer<S, Service = impl HttpService> + Clone {
    layer_fn(|next: S| service_fn(move |call| try_first(next.clone(), call)))
}

async fn try_first<S: HttpService>(mut next: S, mut call: Box<Call>) -> Result<Response, FailedCall> {
    let Some(route) = call.common.route.clone() else { return next.call(call).await };
    if let Some(budget) = &route.budget {
        budget.deposit(call.common.exchange.started.into_std());
    }
    let progress = RetryState { tries: 1, replaced: 0, stale_replaced: false, whole: true };
    let mut request = RetriedRequest { spare: Spare::of(&mut call, route), progress };
    call.per_try = request.spare.subject().per_try_timeout(1);
    let result = match request.spare.hedge_after() {
        None => next.call(call).await,
        Some(after) => Box::pin(hedged(&mut next, &mut request, call, after)).await,
    };
    match request.judge(&result) {
        Verdict::Keep => result,
        verdict => Box::pin(again(next, request, result, verdict)).await,
    }
}

/// Makes the first try and, if it is slow, another one beside it, which counts as a retry. The try that is not needed
/// any more is dropped, which resets its connection or stream.
async fn hedged<S: HttpService>(
    next: &mut S,
    request: &mut RetriedRequest,
    call: Box<Call>,
    after: HedgeAfter,
) -> Result<Response, FailedCall> {
    let (began, attempt) = (Instant::now(), call.attempt);
    let mut first = pin!(next.call(call));
    // When the first try ends in time, nothing but a timer is dropped.
    let in_time = tokio::select! {
        biased;
        result = &mut first => Some(result),
        () = request.spare.slow(after) => None,
    };
    let result = match (in_time, request.spare.common.exchange.clone()) {
        (Some(result), _) => result,
        (None, exchange) => match request.begin_hedge() {
            None => first.await,
            Some((mut hedge, call)) => {
                let other = call.attempt;
                let second = pin!(next.call(call));
                let raced = race(first.as_mut(), second, |result| request.is_good_enough(result)).await;
                if !exchange.was_sent(other) {
                    hedge.was_not_made();
                }
                match raced {
                    Raced::First(result) => {
                        exchange.lose_attempt(other, Instant::now());
                        result
                    }
                    Raced::Second(result) => {
                        exchange.lose_attempt(attempt, Instant::now());
                        result
                    }
                    Raced::Neither(first, second) => {
                        let (result, chosen) = better(first, second);
                        let lost = if chosen == Chosen::First { other } else { attempt };
                        exchange.lose_attempt(lost, Instant::now());
                        result
                    }
                }
            }
        },
    };
    // A first try that was dropped is counted too: it took at least this time, so hedging does not lower the percentile.
    if after == HedgeAfter::P95 && request.is_good_enough(&result) {
        request.spare.cluster().latencies().observe(began.elapsed(), Instant::now().into_std());
    }
    result
}

/// Which of two results is given on.
#[derive(Debug, PartialEq, Eq)]
enum Chosen {
    First,
    Second,
}

/// Chooses between two results that are not good: an answer is better than a failure.
fn better(
    first: Result<Response, FailedCall>,
    second: Result<Response, FailedCall>,
) -> (Result<Response, FailedCall>, Chosen) {
    match (first, second) {
        (Err(_), Ok(second)) => (Ok(second), Chosen::Second),
        (Err(failure), second) if may_have_arrived(&second) => {
            (Err(failure.error.sent_before().into()), Chosen::First)
        }
        (first, _) => (first, Chosen::First),
    }
}

/// Makes the second try and all further ones.
async fn again<S: HttpService>(
    mut next: S,
    mut request: RetriedRequest,
    mut result: Result<Response, FailedCall>,
    mut verdict: Verdict,
) -> Result<Response, FailedCall> {
    let mut arrived = false;
    while verdict != Verdict::Keep {
        arrived |= may_have_arrived(&result);
        // Without a permit of budget and limit, the caller gets the last answer.
        let Some((mut retried, pause)) = request.prepare(verdict, &result) else { break };
        // The answer goes before the pause, with its connection and its place among `max_requests`.
        let failed = result.err();
        if let Some(retried) = &mut retried {
            retried.pause(pause).await;
        }
        let call = request.next_call(failed);
        result = next.call(call).await;
        if let Some(retried) = retried {
            retried.ended(is_good(&result));
        }
        verdict = request.judge(&result);
    }
    result.map_err(|failure| if arrived { failure.error.sent_before().into() } else { failure })
}

/// Whether the upstream may have acted on a try that ended like this.
fn may_have_arrived(result: &Result<Response, FailedCall>) -> bool {
    match outcome(result) {
        TryOutcome::Failed(error) => error.sent != Sent::Never,
        TryOutcome::Refused { .. } => false,
        TryOutcome::Answered { .. } => true,
    }
}

fn is_good(result: &Result<Response, FailedCall>) -> bool {
    result.as_ref().is_ok_and(|response| {
        !response.status().is_server_error()
            && grpc_status(response.headers()).is_none_or(|status| status == 0)
    })
}

/// A request that may be sent again: what is kept for further tries, and how many were made.
struct RetriedRequest {
    spare: Spare,
    progress: RetryState,
}

/// The data of which another try is made.
struct Spare {
    common: RequestContext,
    route: Arc<Route>,
    head: Option<Arc<RequestHead>>,
    seen: Seen,
    /// `None`: the request has no body.
    body: Option<Arc<replay::Shared<Body>>>,
    /// The request has a body that is not kept, so only an untouched call can be sent again.
    is_streaming: bool,
    method: http::Method,
    keyed: bool,
}

impl Spare {
    /// Keeps the head, and begins to keep the body, where the request may be sent again after it was written: by policy,
    /// or because it was refused.
    fn of(call: &mut Call, route: Arc<Route>) -> Self {
        let mut spare = Self {
            common: call.common.clone(),
            route,
            head: None,
            body: None,
            is_streaming: !call.body.is_empty(),
            method: call.head.method.clone(),
            keyed: call.seen.has(Seen::IDEMPOTENCY_KEY),
            seen: call.seen,
        };
        if spare.subject().may_repeat() || spare.may_be_refused(call) {
            spare.head = Some(call.head.clone());
            spare.keep_body(call);
        }
        spare
    }

    fn keep_body(&mut self, call: &mut Call) {
        let bound = self.route.retry.as_ref().map_or(KEPT_WITHOUT_RETRY, |retry| retry.max_body);
        if call.body.is_empty() {
            return;
        }
        call.body.watch_request_once(&self.common.exchange, self.cluster().max_body);
        let room = self.common.exchange.room();
        match replay::Shared::keep(std::mem::replace(&mut call.body, Body::empty()), bound, room) {
            Err(too_large) => call.body = too_large,
            Ok(shared) => {
                call.body = Body::replay(shared.start());
                self.body = Some(shared);
                self.is_streaming = false;
            }
        }
    }

    /// Whether the upstream may refuse the request without processing it: by the means of HTTP/2, or because it is a
    /// sidecar. A refused request is sent again with any method.
    fn may_be_refused(&self, call: &Call) -> bool {
        self.cluster().may_refuse(call.common.is_grpc || call.head.version == http::Version::HTTP_2)
    }

    fn cluster(&self) -> &Cluster {
        &self.route.cluster
    }

    fn subject(&self) -> RetrySubject<'_> {
        let retry = self.route.retry.as_deref();
        RetrySubject { retry, method: &self.method, keyed: self.keyed, marked: self.common.marked }
    }

    /// When a second try is made beside a slow first one. `None`: never, because the policy does not say so, or because
    /// the request may not be sent twice.
    fn hedge_after(&self) -> Option<HedgeAfter> {
        let after = self.route.retry.as_ref()?.hedge_after?;
        let may = self.subject().may_hedge() && !self.is_streaming;
        (may && self.common.tunnel.is_none() && !self.common.waits_to_send).then_some(after)
    }

    /// Waits until the first try is slow: its request has come whole, and so much time has passed since then. Never ends
    /// while it is not known what is slow, nor when the body can no longer be sent again.
    async fn slow(&self, after: HedgeAfter) {
        let time = match after {
            HedgeAfter::Time(time) => Some(time),
            HedgeAfter::P95 => self.cluster().latencies().p95(Instant::now().into_std()),
        };
        let Some(time) = time else { return std::future::pending().await };
        let (exchange, began) = (&self.common.exchange, Instant::now());
        loop {
            let whole_at = match &self.body {
                None => Some(began),
                Some(body) if !body.can_replay() => return std::future::pending().await,
                Some(body) if body.is_complete() => {
                    let complete = exchange.progress.view().complete;
                    Some(complete.map_or(began, |at| began.max(exchange.started + at)))
                }
                Some(_) => None,
            };
            match whole_at {
                Some(at) if at + time <= Instant::now() => return,
                Some(at) => exchange.worker.ground.timers.deadline(at + time).await,
                None => {
                    exchange.worker.ground.timers.deadline(Instant::now() + time.max(LOOK_AT_BODY)).await;
                }
            }
        }
    }

    /// Whether the request can be sent from its first byte, even when the failed try left nothing of it.
    fn is_whole(&self) -> bool {
        self.head.is_some() && !self.is_streaming && self.body.as_ref().is_none_or(|body| body.can_replay())
    }

    /// A new call with the kept head and body.
    fn call(&self) -> Option<Box<Call>> {
        let head = self.head.clone()?;
        let body = self.body.as_ref().map_or_else(Body::empty, |kept| Body::replay(kept.start()));
        Some(self.common.call(head, self.seen, body))
    }
}

impl RetriedRequest {
    fn judge(&self, result: &Result<Response, FailedCall>) -> Verdict {
        let kept = self.spare.is_whole();
        let unsent = result.as_ref().is_err_and(|failure| failure.unsent.is_some());
        let progress = RetryState { whole: kept || unsent, ..self.progress };
        let verdict = self.spare.subject().judge(progress, outcome(result));
        if verdict == Verdict::Keep && !progress.whole {
            self.count_not_replayable(result);
        }
        verdict
    }

    /// Whether a result of one of two tries goes to the caller while the other try is under way: an answer that is not
    /// retried.
    fn is_good_enough(&self, result: &Result<Response, FailedCall>) -> bool {
        let progress = RetryState { tries: 1, ..self.progress };
        result.is_ok() && self.spare.subject().judge(progress, outcome(result)) == Verdict::Keep
    }

    /// Asks the budget and the limit for a try beside the first one. The place among `max_retries` is held with the
    /// returned retry.
    fn begin_hedge(&mut self) -> Option<(Retried, Box<Call>)> {
        let route = &self.spare.route;
        let mut hedge = route.cluster.begin_retry(route.budget.as_deref(), Instant::now()).ok()?;
        hedge.hedges();
        self.progress.tries += 1;
        Some((hedge, self.next_call(None)))
    }

    /// Counts a request that would have been retried if its body had been kept.
    fn count_not_replayable(&self, result: &Result<Response, FailedCall>) {
        let progress = RetryState { whole: true, ..self.progress };
        if self.spare.subject().judge(progress, outcome(result)) != Verdict::Keep {
            self.spare.cluster().metrics().retries(RetryOutcome::NotReplayable).inc();
        }
    }

    /// Asks the budget and the limit for a retry, and says how long it waits before it is made. The outer `None` means
    /// that there is no further try, the inner one that the further try is a replacement, which needs neither.
    fn prepare(
        &mut self,
        verdict: Verdict,
        result: &Result<Response, FailedCall>,
    ) -> Option<(Option<Retried>, Duration)> {
        if verdict == Verdict::Replace {
            self.progress.replaced += 1;
            self.progress.stale_replaced |= is_stale(result);
            self.spare.cluster().metrics().retries(RetryOutcome::Replaced).inc();
            return Some((None, Duration::ZERO));
        }
        let route = &self.spare.route;
        let pause = self.pause_before_next(result)?;
        let is_long = route.retry.as_ref().is_some_and(|retry| pause > retry.backoff.cap());
        let begin = if is_long { Cluster::begin_long_retry } else { Cluster::begin_retry };
        let retried = begin(&route.cluster, route.budget.as_deref(), Instant::now()).ok()?;
        self.progress.tries += 1;
        Some((Some(retried), pause))
    }

    /// The pause before the next try. `None`: the answer asks for a longer pause than the caller waits, or for no try.
    fn pause_before_next(&self, result: &Result<Response, FailedCall>) -> Option<Duration> {
        let Spare { common, route, .. } = &self.spare;
        let backoff = backoff::pause(
            &route.retry.as_ref()?.backoff,
            self.progress.tries - 1,
            &mut common.exchange.worker.ground.rng.lock(),
        );
        let answer = result.as_ref().ok();
        let pushback =
            answer.and_then(|answer| Pushback::of(answer.headers(), common.is_grpc, SystemTime::now()));
        match pushback {
            None => Some(backoff),
            Some(pushback) => {
                pushback.pause(backoff, timeout::left(common, &route.timeouts).unwrap_or(LONGEST_PAUSE))
            }
        }
    }

    /// The next call: the one that came back untouched, or a new one of the kept head and body.
    fn next_call(&self, failed: Option<FailedCall>) -> Box<Call> {
        let exchange = &self.spare.common.exchange;
        let untouched = failed.and_then(|failure| failure.unsent).map(|mut call| {
            call.attempt = exchange.begin_attempt();
            call
        });
        let mut call =
            untouched.or_else(|| self.spare.call()).expect("judged whole: one of the two is there");
        let tries = self.progress.tries;
        call.permit = None;
        call.number = tries;
        call.per_try = self.spare.subject().per_try_timeout(tries);
        if tries > 1 {
            call.head_mut().headers.set(Known::XPillionAttempt, &HeaderValue::from(tries));
        }
        if exchange.worker.traces.is_on() && !self.spare.cluster().is_passthrough() {
            exchange.write_trace(call.attempt, &mut call.head_mut().headers);
        }
        call
    }
}

fn outcome(result: &Result<Response, FailedCall>) -> TryOutcome<'_> {
    let response = match result {
        Err(failure) => return TryOutcome::Failed(&failure.error),
        Ok(response) => response,
    };
    let (headers, seen) = (response.headers(), response.body().seen());
    if seen.is_none_or(|seen| seen.has(Seen::OURS)) && headers.has(Known::XPillionRefused) {
        return TryOutcome::Refused { status: response.status() };
    }
    let grpc = seen.is_none_or(|seen| seen.has(Seen::GRPC_STATUS)).then(|| grpc_status(headers)).flatten();
    TryOutcome::Answered { status: response.status(), grpc }
}

fn is_stale(result: &Result<Response, FailedCall>) -> bool {
    result.as_ref().is_err_and(|failure| failure.error.sent == Sent::OnStaleConnection)
}
