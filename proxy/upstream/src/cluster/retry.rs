//! Retries of a request or of an opaque connection: which failures allow one, which limits must agree, and how it is
//! counted.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use pillion_base::error::{Error, Sent};
use pillion_base::limits::Permit;
use pillion_model::Reason;
use pillion_model::policy::RetryCondition;
use pillion_telemetry::{LimitLabel, RetryOutcome};
use tokio::time::Instant;

use super::Cluster;
use super::budget::Budget;

/// Why a retry is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withheld {
    /// `max_retries` retries are under way already.
    Limit,
    Budget,
}

/// A retry that was agreed to. It is counted once, also when its client goes away during it.
#[must_use = "a try that is dropped counts as failed"]
pub struct Retried {
    cluster: Arc<Cluster>,
    _permit: Permit,
    /// `None` until the retry is made.
    outcome: Option<RetryOutcome>,
}

impl Cluster {
    /// Asks `max_retries` and `budget` for one retry. A refusal is counted, and takes nothing from either.
    ///
    /// # Errors
    /// The limit that refused.
    pub fn begin_retry(self: &Arc<Self>, budget: Option<&Budget>, now: Instant) -> Result<Retried, Withheld> {
        let Some(permit) = self.limits.retries.try_acquire() else {
            self.rejected(LimitLabel::Retries);
            self.metrics().retries(RetryOutcome::Limit).inc();
            return Err(Withheld::Limit);
        };
        if budget.is_some_and(|budget| !budget.try_withdraw(now.into_std())) {
            self.metrics().retries(RetryOutcome::Budget).inc();
            return Err(Withheld::Budget);
        }
        Ok(Retried { cluster: self.clone(), _permit: permit, outcome: None })
    }
}

impl Cluster {
    /// Asks for a retry that waits long, because the answer asked for the pause. It is refused where half of
    /// `max_retries` is taken, so that an endpoint which asks for pauses leaves room for retries at other endpoints.
    ///
    /// # Errors
    /// The limit that refused.
    pub fn begin_long_retry(
        self: &Arc<Self>,
        budget: Option<&Budget>,
        now: Instant,
    ) -> Result<Retried, Withheld> {
        let retries = &self.limits.retries;
        if retries.used() >= retries.max().div_ceil(2) {
            self.rejected(LimitLabel::Retries);
            self.metrics().retries(RetryOutcome::Limit).inc();
            return Err(Withheld::Limit);
        }
        self.begin_retry(budget, now)
    }
}

impl Retried {
    /// Waits before the retry. After the wait the retry counts as made.
    pub async fn pause(&mut self, pause: Duration) {
        tokio::time::sleep(pause).await;
        self.outcome = Some(RetryOutcome::Failed);
    }

    /// The retry is made at once, beside a try that is still under way, and counts as `hedged` however it ends.
    pub const fn hedges(&mut self) {
        self.outcome = Some(RetryOutcome::Hedged);
    }

    /// The try beside the first one was not sent: a limit refused it, or there was no endpoint for it.
    pub const fn was_not_made(&mut self) {
        self.outcome = None;
    }

    pub fn ended(mut self, is_good: bool) {
        if is_good {
            self.outcome = Some(RetryOutcome::Succeeded);
        }
    }
}

impl Drop for Retried {
    fn drop(&mut self) {
        if let Some(outcome) = self.outcome {
            self.cluster.metrics().retries(outcome).inc();
        }
    }
}

/// The idempotent methods of RFC 9110, section 9.2.2. They are listed here because later versions of the crate `http`
/// may add methods.
#[inline]
pub fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// Whether an answer is one that the condition names.
pub fn answer_meets(condition: RetryCondition, status: u16, grpc: Option<u8>) -> bool {
    match condition {
        RetryCondition::GatewayError => matches!(status, 502..=504),
        RetryCondition::FiveXx => matches!(status, 500..=599),
        RetryCondition::Retriable4xx => status == 409,
        RetryCondition::Status(wanted) => status == wanted,
        RetryCondition::Grpc(wanted) => grpc == Some(wanted),
        RetryCondition::ConnectFailure
        | RetryCondition::RefusedStream
        | RetryCondition::Reset
        | RetryCondition::PerTryTimeout => false,
    }
}

/// Whether `condition` includes a try that failed with this error.
pub fn failure_meets(condition: RetryCondition, error: &Error) -> bool {
    let (connect, lost) = (is_connect_failure(error.reason), is_lost_connection(error.reason));
    match condition {
        RetryCondition::ConnectFailure => connect,
        RetryCondition::RefusedStream => lost && error.sent == Sent::Never,
        RetryCondition::Reset => lost,
        RetryCondition::FiveXx => connect || lost,
        RetryCondition::PerTryTimeout => error.reason == Reason::PerTryTimeout,
        RetryCondition::GatewayError
        | RetryCondition::Retriable4xx
        | RetryCondition::Status(_)
        | RetryCondition::Grpc(_) => false,
    }
}

/// Whether the connection could not be made. `PeerIdentityMismatch` is not included: a wrong certificate does not
/// become right by a retry.
fn is_connect_failure(reason: Reason) -> bool {
    matches!(reason, Reason::ConnectRefused | Reason::ConnectTimeout | Reason::TlsError)
}

pub fn is_lost_connection(reason: Reason) -> bool {
    matches!(reason, Reason::UpstreamReset | Reason::UpstreamClosed | Reason::ProtocolError)
}
