//! Counts the errors of one endpoint: in a row, and as a share of its requests in an interval.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use pillion_model::policy::{ErrorRate, OutlierDetection};
use pillion_telemetry::EjectionCause;

use super::Cause;

/// The errors in a row, in one word, so that a success costs one load and an error counts all three runs together.
#[derive(Debug, Default)]
pub(super) struct Runs(AtomicU64);

/// How many errors there were in a row. Each count stays at its largest number.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    errors: u32,
    /// 502, 503 and 504. Any other answer ends it; a failure without an answer does not.
    gateway: u16,
    /// Failed connections. Whatever needs a connection ends it.
    connect: u16,
}

impl Runs {
    pub(super) fn count(&self, cause: Cause) -> Run {
        let mut run = Run::default();
        let counted = |word| {
            run = Run::unpack(word).and(cause);
            Some(run.pack())
        };
        let _former: Result<u64, u64> = self.0.fetch_update(Relaxed, Relaxed, counted); // never fails: it always counts
        run
    }

    /// A success ends all runs.
    pub(super) fn end(&self) {
        if self.0.load(Relaxed) != 0 {
            self.0.store(0, Relaxed);
        }
    }
}

impl Run {
    fn and(self, cause: Cause) -> Self {
        Self {
            errors: self.errors.saturating_add(1),
            gateway: match cause {
                Cause::Gateway => self.gateway.saturating_add(1),
                Cause::Status => 0,
                Cause::Reset | Cause::Connect | Cause::Timeout => self.gateway,
            },
            connect: match cause {
                Cause::Connect => self.connect.saturating_add(1),
                Cause::Status | Cause::Gateway | Cause::Reset | Cause::Timeout => 0,
            },
        }
    }

    /// The narrowest cause whose threshold is reached.
    pub(super) fn exceeded(self, policy: &OutlierDetection) -> Option<EjectionCause> {
        let reached = |run: u32, threshold: Option<u32>| threshold.is_some_and(|threshold| run >= threshold);
        if reached(self.connect.into(), policy.connect_failures) {
            Some(EjectionCause::ConnectFailures)
        } else if reached(self.gateway.into(), policy.gateway_errors) {
            Some(EjectionCause::GatewayErrors)
        } else {
            reached(self.errors, policy.consecutive_errors).then_some(EjectionCause::ConsecutiveErrors)
        }
    }

    fn pack(self) -> u64 {
        u64::from(self.errors) << 32 | u64::from(self.gateway) << 16 | u64::from(self.connect)
    }

    const fn unpack(word: u64) -> Self {
        Self { errors: (word >> 32) as u32, gateway: (word >> 16) as u16, connect: word as u16 }
    }
}

/// The requests of one interval. It begins with the first request after the former interval.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// Nanoseconds since the endpoint's epoch.
    began: u64,
    requests: u32,
    errors: u32,
}

impl Window {
    /// Counts a request that ended at `at`. `interval` is in nanoseconds too.
    pub(super) fn count(&mut self, is_error: bool, at: u64, interval: u64) {
        if at.saturating_sub(self.began) >= interval {
            *self = Self { began: at, requests: 0, errors: 0 };
        }
        self.requests = self.requests.saturating_add(1);
        self.errors = self.errors.saturating_add(is_error.into());
    }

    pub(super) fn exceeds(&self, rate: &ErrorRate) -> bool {
        // A millionth is added because floating point makes 29 % of 100 slightly less than 29.
        let most = rate.above * f64::from(self.requests) + 1e-6;
        self.requests >= rate.min_requests && f64::from(self.errors) > most
    }
}
