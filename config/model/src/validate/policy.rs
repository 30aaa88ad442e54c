//! `retry`, and whether it fits the timeouts; the interval of `health_check`; `outlier_detection`.

use std::time::Duration;

use crate::fault::Faults;
use crate::path::Trail;
use crate::policy::{
    Backoff, HealthCheck, HedgeAfter, OutlierDetection, Retry, RetryCondition, RetryMethods, Timeouts,
};

pub(super) fn retry(retry: Option<&Retry>, timeouts: &Timeouts, at: &Trail<'_>, faults: &mut Faults) {
    let Some(retry) = retry else { return };
    if retry.attempts == 0 {
        faults.error(&at.key("attempts"), "is 0, which is no retry").help("write retry: off");
    }
    if retry.methods == RetryMethods::All {
        faults
            .warn(&at.key("methods"), "is all: a POST that the service has handled may be sent again")
            .help("idempotent_or_keyed retries those that carry an Idempotency-Key");
    }
    backoff(&retry.backoff, &at.key("backoff"), faults);
    if retry.max_body > Retry::MOST_BODY {
        faults
            .error(&at.key("max_body"), "is more than 64MiB")
            .help("it is kept in memory for each request in flight");
    }
    if let (Some(HedgeAfter::Time(after)), Some(whole)) = (retry.hedge_after, timeouts.request.bound())
        && after >= whole
    {
        faults.warn(
            &at.key("hedge_after"),
            format!("is {after:?}, not below `timeout` ({whole:?}): no second try is ever made"),
        );
    }
    if let (Some(HedgeAfter::Time(after)), Some(single)) = (retry.hedge_after, retry.per_try_timeout)
        && after >= single
    {
        faults.warn(
            &at.key("hedge_after"),
            format!("is {after:?}, not below `per_try_timeout` ({single:?}): no second try is ever made"),
        );
    }
    warn_of_idle_settings(retry, timeouts, at, faults);
}

/// More checks would be a load of their own.
const LEAST_INTERVAL: Duration = Duration::from_millis(100);

pub(super) fn health_check(check: &HealthCheck, at: &Trail<'_>, faults: &mut Faults) {
    let interval = check.interval;
    if interval < LEAST_INTERVAL {
        faults.error(&at.key("interval"), format!("is {interval:?}, too often")).help("write 100ms or more");
    }
}

pub(super) fn outlier_detection(detection: &OutlierDetection, at: &Trail<'_>, faults: &mut Faults) {
    let interval = detection.interval;
    if interval < LEAST_INTERVAL {
        faults.error(&at.key("interval"), format!("is {interval:?}, too short")).help("write 100ms or more");
    }
    if detection.error_rate.is_some_and(|rate| rate.above >= 1.0) {
        faults
            .error(&at.key("error_rate").key("above"), "is 100%, and no rate is above it")
            .help("write less, or leave `error_rate` out");
    }
}

fn backoff(backoff: &Backoff, at: &Trail<'_>, faults: &mut Faults) {
    let (base, max) = (backoff.base, backoff.cap());
    if max < base {
        faults.error(&at.key("max"), format!("is {max:?}, below `base` ({base:?})"));
    }
}

fn warn_of_idle_settings(retry: &Retry, timeouts: &Timeouts, at: &Trail<'_>, faults: &mut Faults) {
    let Some(per_try) = retry.per_try_timeout else {
        if retry.conditions.contains(&RetryCondition::PerTryTimeout) {
            faults
                .warn(&at.key("conditions"), "has per_try_timeout, but the key `per_try_timeout` is not set");
        }
        return;
    };
    if let Some(whole) = timeouts.request.bound().filter(|whole| per_try >= *whole) {
        faults
            .warn(
                &at.key("per_try_timeout"),
                format!("is {per_try:?}, not below `timeout` ({whole:?}): it never ends a try"),
            )
            .help("leave room for another try");
    }
}
