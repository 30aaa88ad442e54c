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
    at: &Trail<'_>,
    remarks: &mut Remarks,
) -> Option<Retry> {
    let file = file.unwrap_or_default().set()?;
    remarks.unless_off(&at.key("hedge_after"), &file.hedge_after);
    Some(Retry {
        attempts: file.attempts.map_or(2, |Typed(Count(attempts))| attempts),
        conditions: file.conditions.map_or_else(default_conditions, |OneOrMore(conditions)| conditions),
        methods: methods(file.methods),
        per_try_timeout: or_off(file.per_try_timeout, None),
        backoff: backoff(file.backoff.unwrap_or_default()),
        budget: budget(file.budget.unwrap_or_default()),
        max_body: file
            .max_body
            .map_or(64 * 1024, |Typed(Size(bytes))| usize::try_from(bytes).unwrap_or(usize::MAX)),
    })
}

fn default_conditions() -> Vec<RetryCondition> {
    use RetryCondition::{ConnectFailure, GatewayError, RefusedStream, Reset};
    vec![ConnectFailure, RefusedStream, Reset, GatewayError]
}

fn methods(file: Option<file::Methods>) -> RetryMethods {
    match file {
        None | Some(file::Methods::Idempotent) => RetryMethods::Idempotent,
        Some(file::Methods::IdempotentOrKeyed) => RetryMethods::IdempotentOrKeyed,
        Some(file::Methods::All) => RetryMethods::All,
        Some(file::Methods::List(list)) => {
            RetryMethods::List(list.into_iter().map(|Method(method)| method).collect())
        }
    }
}

/// A long base alone raises the default of `max` with it.
fn backoff(file: file::Backoff) -> Backoff {
    let base = file.base.map_or(Duration::from_millis(25), |Typed(base)| base);
    let max = file.max.map_or(Duration::from_millis(250).max(base), |Typed(max)| max);
    Backoff { base, max }
}

fn budget(file: file::Budget) -> RetryBudget {
    RetryBudget {
        ratio: file.ratio.map_or(0.2, |Typed(Share(ratio))| ratio),
        min_per_second: file.min_per_second.map_or(10, |Typed(Count(least))| least),
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
