//! The sentence for a request that failed by the answer of its endpoint. The sidecar passed that answer on, so no error has
//! a sentence for it.

use http::Method;
use pillion_model::Direction;
use pillion_model::policy::{Retry, RetryMethods};
use pillion_telemetry::timeline::Timeline;
use pillion_upstream::cluster::retry::{answer_meets, is_idempotent};

use super::Facts;

/// Who answered what, and why that was the last attempt. `None`: nobody was asked.
pub fn sentence(facts: &Facts, timeline: &Timeline) -> Option<String> {
    let at = facts.attempts.last_picked()?.endpoint?;
    let is_inbound = timeline.direction == Direction::Inbound;
    let who = match (is_inbound, &*timeline.peer_reason) {
        (true, _) => "application at",
        (false, "") => "endpoint",
        (false, _) => "sidecar of",
    };
    let said = match (&*timeline.peer_reason, timeline.grpc_status) {
        ("", Some(code)) if timeline.status < 500 => format!("with grpc-status {code}"),
        ("", _) => timeline.status.to_string(),
        (code, _) => format!("{} ({code})", timeline.status),
    };
    let rest = if is_inbound { String::new() } else { why_last(facts, timeline) };
    Some(format!("the {who} {at} answered {said}{rest}"))
}

/// Why no further attempt was made, as far as it is known. A budget may have ended them too.
fn why_last(facts: &Facts, timeline: &Timeline) -> String {
    let Some(retry) = facts.route.as_ref().and_then(|route| route.retry.as_deref()) else {
        return "; requests to it are not tried again (retry: off)".to_owned();
    };
    let (made, method) = (facts.attempts.made(), &*timeline.method);
    match methods(retry, method) {
        _ if made > 1 => format!("; it was the last of {made} attempts"),
        Some(why) => format!("; {method} is {why}"),
        None if !retry
            .conditions
            .iter()
            .any(|on| answer_meets(*on, timeline.status, timeline.grpc_status)) =>
        {
            "; that is none of retry.conditions".to_owned()
        }
        None => String::new(),
    }
}

/// When this method is tried again; `None`: always.
fn methods(retry: &Retry, method: &str) -> Option<&'static str> {
    match &retry.methods {
        RetryMethods::All => None,
        RetryMethods::List(all) if all.iter().any(|of| of == method) => None,
        RetryMethods::Idempotent | RetryMethods::IdempotentOrKeyed if is_idempotent_named(method) => None,
        RetryMethods::IdempotentOrKeyed => Some("tried again with an Idempotency-Key only"),
        RetryMethods::Idempotent | RetryMethods::List(_) => Some("not tried again"),
    }
}

fn is_idempotent_named(method: &str) -> bool {
    Method::from_bytes(method.as_bytes()).is_ok_and(|method| is_idempotent(&method))
}
