//! Bounds the time of a whole request, and that of a single try. Both end when the response's headers have come.
//!
//! Time in a queue and time to connect count. The time in which the request's body flows does not count: there,
//! `stream_idle_timeout` bounds the pauses between two pieces. From the body's last byte on, time counts again.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Poll, ready};
use std::time::Duration;

use pillion_model::policy::Timeouts;
use tokio::time::Instant;
use tokio_util::either::Either;
use tower::layer::layer_fn;
use tower::{Layer, service_fn};

use super::HttpService;
use crate::exchange::attempts::{AttemptId, AttemptOutcome};
use crate::http::call::RequestContext;
use crate::http::exchange::Exchange;
use crate::http::{Call, FailedCall, Response, headers};
use pillion_base::error::{Error, Sent};
use pillion_http::transfer::BodyView;
use pillion_model::Reason;
use pillion_upstream::cluster::Cluster;

/// Bounds all tries together with their pauses.
pub fn whole<S: HttpService>() -> impl Layer<S, Service = impl HttpService> + Clone {
    layer_fn(|next: S| service_fn(move |call| bound_whole(next.clone(), call)))
}

/// Bounds one try, if another may follow.
pub fn per_try<S: HttpService>() -> impl Layer<S, Service = impl HttpService> + Clone {
    layer_fn(|next: S| service_fn(move |call| bound_try(next.clone(), call)))
}

/// How long the caller still waits for the headers of an answer, with no further time spent on the request's body.
/// `None`: for ever.
pub fn left(common: &RequestContext, timeouts: &Timeouts) -> Option<Duration> {
    let exchange = &common.exchange;
    let deadline = common.deadline.map(|at| at.saturating_duration_since(exchange.started));
    let bounds = Bounds { deadline, ..Bounds::of(timeouts, common.is_grpc) };
    bounds.first_check()?;
    let now = exchange.started.elapsed();
    match bounds.check(exchange.progress.view(), now) {
        Check::At(end) => Some(end.saturating_sub(now)),
        Check::Expired(_) => Some(Duration::ZERO),
    }
}

async fn bound_whole<S: HttpService>(mut next: S, mut call: Box<Call>) -> Result<Response, FailedCall> {
    let Some(route) = call.common.route.clone() else { return next.call(call).await };
    let bounds = Bounds::whole(&route.timeouts, &call);
    call.common.deadline = bounds.deadline.map(|after| call.common.exchange.started + after);
    let exchange = call.common.exchange.clone();
    let mut response = match bounds.first_check() {
        None => next.call(call).await?,
        Some(first) => match within(bounds, first, &exchange, None, pin!(next.call(call))).await {
            Ok(answered) => answered?,
            Err(expired) => {
                let now = exchange.started.elapsed();
                return Err(timeout_error(expired, bounds, now, &route.cluster).into());
            }
        },
    };
    let tail = response.body_mut().response_tail();
    tail.idle = route.timeouts.stream_idle.body();
    tail.hard_stop = bounds.max_duration.map(|after| exchange.started + after);
    Ok(response)
}

fn bound_try<S: HttpService>(
    mut next: S,
    call: Box<Call>,
) -> impl Future<Output = Result<Response, FailedCall>> + Send {
    match call.per_try {
        None => Either::Left(next.call(call)),
        Some(limit) => Either::Right(Box::pin(try_within(limit, next, call))), // boxed: the other one would have its size
    }
}

async fn try_within<S: HttpService>(
    limit: Duration,
    mut next: S,
    call: Box<Call>,
) -> Result<Response, FailedCall> {
    let (exchange, attempt) = (call.common.exchange.clone(), call.attempt);
    let from = exchange.started.elapsed();
    let bounds = Bounds { from, allowed: Some(limit), ..Bounds::default() };
    match within(bounds, from + limit, &exchange, Some(attempt), pin!(next.call(call))).await {
        Ok(answered) => answered,
        Err(_expired) => Err(per_try_error(limit, &exchange).into()),
    }
}

fn per_try_error(limit: Duration, exchange: &Exchange) -> Error {
    let route = exchange.route();
    let name = route.as_ref().map_or("", |route| &route.cluster.name);
    let detail = format!("one try at \"{name}\" took longer than {limit:?} (retry.per_try_timeout)");
    Error::new(Reason::PerTryTimeout, detail).sent(Sent::Perhaps)
}

/// The bounds. Points in time are durations since the start of the exchange.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Bounds {
    from: Duration,
    /// The longest counted time until the response's headers.
    allowed: Option<Duration>,
    /// The longest pause between two pieces of the request's body.
    idle: Option<Duration>,
    /// The caller's own deadline (gRPC), which does not stop while the body flows.
    deadline: Option<Duration>,
    max_duration: Option<Duration>,
}

#[derive(Debug, PartialEq, Eq)]
enum Check {
    /// Nothing can expire before then.
    At(Duration),
    Expired(Reason),
}

impl Bounds {
    fn whole(timeouts: &Timeouts, call: &Call) -> Self {
        let is_grpc = call.common.is_grpc;
        Self {
            idle: timeouts.stream_idle.body().filter(|_| !call.body.is_empty()),
            deadline: is_grpc.then(|| headers::grpc_timeout(&call.head.headers)).flatten(),
            ..Self::of(timeouts, is_grpc)
        }
    }

    /// The bounds of the policy, without what the request adds.
    fn of(timeouts: &Timeouts, is_grpc: bool) -> Self {
        let allowed = if is_grpc { timeouts.request.grpc_bound() } else { timeouts.request.bound() };
        Self { allowed, max_duration: timeouts.max_duration, ..Self::default() }
    }

    fn first_check(&self) -> Option<Duration> {
        let waits = [self.allowed, self.idle, self.deadline, self.max_duration];
        waits.into_iter().flatten().min().map(|wait| self.from + wait)
    }

    /// The part of the time since `from` that counts.
    fn counted(&self, body: BodyView, now: Duration) -> Duration {
        let since = |start: Duration| now.saturating_sub(start);
        match (body.first.map(|first| first.max(self.from)), body.complete.map(|end| end.max(self.from))) {
            (None, _) => since(self.from),
            (Some(first), None) => first - self.from,
            (Some(first), Some(end)) => first.saturating_sub(self.from) + since(end),
        }
    }

    fn check(&self, body: BodyView, now: Duration) -> Check {
        let flows = body.first.is_some() && body.complete.is_none();
        let idle_at = self.idle.zip(body.last).filter(|_| flows).map(|(idle, last)| last + idle);
        // While the body flows, this moves on with `now`: it is the time of the next check, not an end. The check is
        // needed because the end of the body does not wake this future.
        let allowed_at = self.allowed.map(|allowed| now + allowed.saturating_sub(self.counted(body, now)));
        let stalled = if body.waits_for_client { Reason::RequestStalled } else { Reason::StreamIdleTimeout };
        let ends = [
            (self.deadline, Reason::RequestTimeout),
            (self.max_duration, Reason::MaxDuration),
            (allowed_at, Reason::RequestTimeout),
            (idle_at, stalled),
        ];
        let first =
            ends.into_iter().filter_map(|(at, reason)| at.map(|at| (at, reason))).min_by_key(|(at, _)| *at);
        match first {
            Some((at, reason)) if at <= now => Check::Expired(reason),
            Some((at, _)) => Check::At(at),
            // The body flows without an idle timeout: check again after the time that may be left when it ends.
            None => Check::At(now + self.allowed.unwrap_or(Duration::from_secs(3600))),
        }
    }
}

/// Runs `inner` within `bounds`. When a bound expires, `attempt` (or, without one, every attempt) ends in the
/// exchange's list, and then `inner` is dropped, which resets its connection or stream.
async fn within<F>(
    bounds: Bounds,
    first: Duration,
    exchange: &Exchange,
    attempt: Option<AttemptId>,
    inner: F,
) -> Result<F::Output, Reason>
where
    F: Future<Output = Result<Response, FailedCall>>,
{
    let mut inner = pin!(inner);
    let mut timer = exchange.worker.ground.timers.deadline(exchange.started + first);
    poll_fn(|cx| {
        if let Poll::Ready(answered) = inner.as_mut().poll(cx) {
            return Poll::Ready(Ok(answered));
        }
        loop {
            ready!(Pin::new(&mut timer).poll(cx));
            match bounds.check(exchange.progress.view(), exchange.started.elapsed()) {
                Check::At(next) => timer.move_to(exchange.started + next),
                Check::Expired(reason) => {
                    match attempt {
                        Some(attempt) => {
                            let outcome = AttemptOutcome::Expired(Reason::PerTryTimeout);
                            exchange.end_attempt(attempt, outcome, Instant::now());
                        }
                        None => exchange.expire(reason),
                    }
                    return Poll::Ready(Err(reason));
                }
            }
        }
    })
    .await
}

/// `now`: since the start of the exchange.
fn timeout_error(reason: Reason, bounds: Bounds, now: Duration, cluster: &Cluster) -> Error {
    let (name, allowed) = (&cluster.name, bounds.allowed.unwrap_or_default());
    let detail = match reason {
        Reason::RequestStalled => {
            format!(
                "the client sent no byte of its body to \"{name}\" for {:?} (stream_idle_timeout)",
                bounds.idle.unwrap_or_default()
            )
        }
        Reason::StreamIdleTimeout => {
            format!(
                "\"{name}\" accepted no byte of the body for {:?} (stream_idle_timeout)",
                bounds.idle.unwrap_or_default()
            )
        }
        Reason::MaxDuration => {
            format!(
                "\"{name}\" did not finish within {:?} (max_duration)",
                bounds.max_duration.unwrap_or_default()
            )
        }
        _ if bounds.deadline.is_some_and(|deadline| deadline <= now) => {
            format!("\"{name}\" did not answer within the caller's deadline (grpc-timeout)")
        }
        _ => format!("\"{name}\" did not answer within {allowed:?} (timeout, all tries together)"),
    };
    Error::new(reason, detail).sent(Sent::Perhaps)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn bounds() -> Bounds {
        Bounds { allowed: Some(s(15)), idle: Some(s(300)), ..Bounds::default() }
    }

    fn body(first: Option<u64>, last: Option<u64>, complete: Option<u64>) -> BodyView {
        let at = |t: Option<u64>| t.map(s);
        BodyView { first: at(first), last: at(last), complete: at(complete), waits_for_client: true }
    }

    #[test]
    fn without_a_body_the_time_counts_from_the_start() {
        let none = BodyView::default();
        assert_eq!(bounds().check(none, s(14)), Check::At(s(15)));
        assert_eq!(bounds().check(none, s(15)), Check::Expired(Reason::RequestTimeout));
    }

    #[test]
    fn while_the_body_flows_only_its_pauses_count() {
        let flowing = body(Some(1), Some(60), None);
        assert_eq!(bounds().check(flowing, s(61)), Check::At(s(75)), "1 s was counted, so 14 s may be left");
        assert_eq!(bounds().check(flowing, s(350)), Check::At(s(360)));
        assert_eq!(bounds().check(flowing, s(360)), Check::Expired(Reason::RequestStalled));
    }

    #[test]
    fn after_the_last_byte_the_rest_of_the_time_runs() {
        let sent = body(Some(5), Some(90), Some(100));
        assert_eq!(bounds().check(sent, s(109)), Check::At(s(110)), "5 s before the body, 10 s after it");
        assert_eq!(bounds().check(sent, s(110)), Check::Expired(Reason::RequestTimeout));
    }

    #[test]
    fn a_grpc_deadline_also_counts_while_the_body_flows() {
        let bounds = Bounds { deadline: Some(s(20)), allowed: None, ..bounds() };
        assert_eq!(
            bounds.check(body(Some(0), Some(19), None), s(20)),
            Check::Expired(Reason::RequestTimeout)
        );
    }

    #[test]
    fn a_body_without_an_idle_timeout_is_checked_from_time_to_time() {
        let bounds = Bounds { idle: None, ..bounds() };
        assert_eq!(bounds.check(body(Some(0), Some(19), None), s(20)), Check::At(s(35)));
    }
}
