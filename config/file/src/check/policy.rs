//! What is done with a service's requests: timeouts, connections, retries, limits, ejections.

use std::time::Duration;

use super::{Remarks, Trail};
use crate::file;
use crate::shape::{OneOrMore, Typed};
use crate::value::{Count, OffOr, Share, Size};
use crate::words::Method;
use pillion_model::policy::{
    Backoff, ConnectionPolicy, IdleTimeout, Limits, OutlierDetection, Retry, RetryBudget, RetryCondition,
    RetryMethods, Timeout, Timeouts,
};

/// A duration that may be `off`: what was written, or else the default.
fn or_off(written: Option<Typed<OffOr<Duration>>>, default: Option<Duration>) -> Option<Duration> {
    written.map_or(default, |Typed(written)| written.set())
}

/// The defaults' reasons stand at the fields of [`Timeouts`] and its neighbours.
pub(super) fn timeouts(file: &file::Service) -> Timeouts {
    Timeouts {
        connect: file.connect_timeout.map_or(Duration::from_secs(2), |Typed(time)| time),
        request: match file.timeout {
            None => Timeout::Default,
            Some(Typed(written)) => written.set().map_or(Timeout::Off, Timeout::Set),
        },
        stream_idle: match file.stream_idle_timeout {
            None => IdleTimeout::Default,
            Some(Typed(written)) => written.set().map_or(IdleTimeout::Off, IdleTimeout::Set),
        },
        max_duration: or_off(file.max_duration, None),
    }
}

pub(super) fn connection(file: file::Connection) -> ConnectionPolicy {
    ConnectionPolicy {
        idle_timeout: or_off(file.idle_timeout, Some(Duration::from_secs(55))),
        max_age: or_off(file.max_age, None),
        max_requests: file.max_requests.and_then(|Typed(most)| most.set()).map(|Count(most)| most),
        keepalive: or_off(file.keepalive, Some(Duration::from_secs(60))),
    }
}

pub(super) fn retry(
    file: Option<OffOr<file::Retry>>,
    timeouts: &Timeouts,
    at: &Trail<'_>,
    remarks: &mut Remarks,
) -> Option<Retry> {
    let file = file.unwrap_or_default().set()?;
    remarks.unless_off(&at.key("hedge_after"), &file.hedge_after);
    let retry = Retry {
        attempts: attempts(file.attempts, at, remarks),
        conditions: file.conditions.map_or_else(default_conditions, |OneOrMore(conditions)| conditions),
        methods: methods(file.methods, at, remarks),
        per_try_timeout: or_off(file.per_try_timeout, None),
        backoff: backoff(file.backoff.unwrap_or_default(), &at.key("backoff"), remarks),
        budget: budget(file.budget.unwrap_or_default()),
        max_body: max_body(file.max_body, at, remarks),
    };
    warn_of_idle_settings(&retry, timeouts, at, remarks);
    Some(retry)
}

fn default_conditions() -> Vec<RetryCondition> {
    use RetryCondition::{ConnectFailure, GatewayError, RefusedStream, Reset};
    vec![ConnectFailure, RefusedStream, Reset, GatewayError]
}

fn attempts(file: Option<Typed<Count<0, 100>>>, at: &Trail<'_>, remarks: &mut Remarks) -> u32 {
    let Typed(Count(attempts)) = file.unwrap_or(Typed(Count(2)));
    if attempts == 0 {
        remarks.error(&at.key("attempts"), "is 0, which is no retry").help("write retry: off");
    }
    attempts
}

fn methods(file: Option<file::Methods>, at: &Trail<'_>, remarks: &mut Remarks) -> RetryMethods {
    match file {
        None | Some(file::Methods::Idempotent) => RetryMethods::Idempotent,
        Some(file::Methods::IdempotentOrKeyed) => RetryMethods::IdempotentOrKeyed,
        Some(file::Methods::All) => {
            remarks
                .warn(&at.key("methods"), "is all: a POST that the service has handled may be sent again")
                .help("idempotent_or_keyed retries those that carry an Idempotency-Key");
            RetryMethods::All
        }
        Some(file::Methods::List(list)) => {
            RetryMethods::List(list.into_iter().map(|Method(method)| method).collect())
        }
    }
}

fn backoff(file: file::Backoff, at: &Trail<'_>, remarks: &mut Remarks) -> Backoff {
    let base = file.base.map_or(Duration::from_millis(25), |Typed(base)| base);
    let max = match file.max {
        Some(Typed(max)) if max < base => {
            remarks.error(&at.key("max"), format!("is {max:?}, below `base` ({base:?})"));
            max
        }
        Some(Typed(max)) => max,
        // ten doublings at most are of use; a long base alone raises the default with it
        None => Duration::from_millis(250).max(base),
    };
    Backoff { base, max }
}

fn budget(file: file::Budget) -> RetryBudget {
    RetryBudget {
        ratio: file.ratio.map_or(0.2, |Typed(Share(ratio))| ratio),
        min_per_second: file.min_per_second.map_or(10, |Typed(Count(least))| least),
    }
}

/// 64 KiB holds nearly every JSON call; past 64 MiB a few requests in flight would fill the pod's memory.
fn max_body(file: Option<Typed<Size>>, at: &Trail<'_>, remarks: &mut Remarks) -> usize {
    const MOST: u64 = 64 * 1024 * 1024;
    let Typed(Size(bytes)) = file.unwrap_or(Typed(Size(64 * 1024)));
    if bytes > MOST {
        remarks
            .error(&at.key("max_body"), "is more than 64MiB")
            .help("it is kept in memory for each request in flight");
    }
    bytes.min(MOST) as usize
}

fn warn_of_idle_settings(retry: &Retry, timeouts: &Timeouts, at: &Trail<'_>, remarks: &mut Remarks) {
    let Some(per_try) = retry.per_try_timeout else {
        if retry.conditions.contains(&RetryCondition::PerTryTimeout) {
            remarks.warn(&at.key("conditions"), "has per_try_timeout, but no `per_try_timeout` is set");
        }
        return;
    };
    if let Some(whole) = timeouts.request.bound().filter(|whole| per_try >= *whole) {
        remarks
            .warn(
                &at.key("per_try_timeout"),
                format!("is {per_try:?}, not below `timeout` ({whole:?}): it never ends a try"),
            )
            .help("leave room for another try");
    }
}

pub(super) fn limits(file: file::CircuitBreaker, at: &Trail<'_>, remarks: &mut Remarks) -> Limits {
    remarks.unless_off(&at.key("max_connections_per_endpoint"), &file.max_connections_per_endpoint);
    remarks.unless_off(&at.key("adaptive"), &file.adaptive);
    Limits {
        max_connections: file.max_connections.map_or(1024, |Typed(Count(most))| most),
        max_pending_requests: file.max_pending_requests.map_or(1024, |Typed(Count(most))| most),
        max_requests: file.max_requests.map_or(1024, |Typed(Count(most))| most),
        max_retries: file.max_retries.map_or(32, |Typed(Count(most))| most),
    }
}

pub(super) fn outliers(
    file: Option<OffOr<file::OutlierDetection>>,
    at: &Trail<'_>,
    remarks: &mut Remarks,
) -> Option<OutlierDetection> {
    let file = file.unwrap_or_default().set()?;
    remarks.unless_off(&at.key("interval"), &file.interval);
    remarks.unless_off(&at.key("error_rate"), &file.error_rate);
    remarks.unless_off(&at.key("gateway_errors"), &file.gateway_errors);
    remarks.unless_off(&at.key("connect_failures"), &file.connect_failures);
    Some(OutlierDetection {
        consecutive_errors: match file.consecutive_errors {
            None => Some(5),
            Some(Typed(errors)) => errors.set().map(|Count(errors)| errors),
        },
        base_ejection: file.base_ejection.map_or(Duration::from_secs(30), |Typed(time)| time),
        max_ejected: file.max_ejected.map_or(0.5, |Typed(Share(share))| share),
    })
}
