//! Notices endpoints that keep failing and ejects them for a while.
//!
//! Pure: the caller passes `now` and the result of each try. There is one [`Outlier`] for each endpoint and one
//! [`Ejections`] for each cluster, which limits how many endpoints may be ejected at once.
//!
//! ```text
//! Closed ── errors beyond the policy, and Ejections agree ──▶ Ejected(until)
//!   ▲                                                             │ until has passed, one request is admitted
//!   │                                                             ▼
//!   └───────────────────── it succeeds ──────────────────────  Probing ── it fails ──▶ Ejected(until), longer
//! ```
//!
//! The policy has four causes: errors in a row, 502 to 504 in a row, failed connections in a row ([`tally::Runs`]), and
//! the share of errors in an interval ([`tally::Window`]).
//!
//! An ejection lasts `base_ejection` times the number of ejections in a row, at most [`LONGEST_REST`]. Each full
//! `base_ejection` that an endpoint then stays closed lowers that number by one. A request that ends while its endpoint
//! is ejected was sent before the ejection, and changes nothing.

mod tally;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use pillion_model::policy::OutlierDetection;

use pillion_base::error::{Error, Sent};
use pillion_model::Reason;
use pillion_telemetry::EjectionCause;
use tally::{Runs, Window};

/// Envoy's default of `max_ejection_time`. A longer `base_ejection` is used as configured.
const LONGEST_REST: Duration = Duration::from_secs(300);

/// How long no other request may probe while a probe is under way. Without this limit a probe that never reports would
/// keep its endpoint ejected for ever. 5 s: longer than most answers take, and short compared with an ejection.
const PROBE_LEASE: Duration = Duration::from_secs(5);

/// The state of an endpoint that is used without restriction.
const CLOSED: u64 = 0;

/// The kind of an error, for the counts and for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// A 5xx that the endpoint itself answered, other than those of `Gateway`.
    Status,
    /// 502, 503 or 504.
    Gateway,
    Reset,
    Connect,
    Timeout,
}

impl Cause {
    pub const fn label(self) -> &'static str {
        match self {
            Self::Status => "5xx",
            Self::Gateway => "gateway_error",
            Self::Reset => "reset",
            Self::Connect => "connect_failure",
            Self::Timeout => "timeout",
        }
    }

    /// The kind of an error. `None` when it is not the endpoint's fault: an endpoint may refuse a stream, send GOAWAY
    /// and close a pooled connection, and a full limit or a refused certificate of ours is our own fault.
    pub fn of(error: &Error) -> Option<Self> {
        match error.reason {
            _ if error.is_our_fault => None,
            Reason::ConnectRefused
            | Reason::ConnectTimeout
            | Reason::TlsError
            | Reason::PeerIdentityMismatch => Some(Self::Connect),
            Reason::UpstreamReset
            | Reason::UpstreamClosed
            | Reason::ProtocolError
            | Reason::UpgradeFailed => (error.sent == Sent::Perhaps).then_some(Self::Reset),
            Reason::PerTryTimeout | Reason::RequestTimeout => Some(Self::Timeout),
            _ => None,
        }
    }

    pub fn of_status(status: http::StatusCode) -> Option<Self> {
        match status.as_u16() {
            502..=504 => Some(Self::Gateway),
            _ => status.is_server_error().then_some(Self::Status),
        }
    }
}

/// An endpoint was ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejected {
    pub rest: Duration,
    /// What ejected it. After a failed probe: what ejected it before.
    pub cause: EjectionCause,
}

/// The policy of a cluster, which a reload may change, and how many of its endpoints are ejected and may be: the share
/// `max_ejected`, rounded down, and never the last one. Where there are zones or priorities, so many may be ejected as are
/// on all levels but the last, so that each of these levels can fail over as a whole.
#[derive(Debug)]
pub struct Ejections {
    policy: ArcSwap<OutlierDetection>,
    /// Whether `error_rate` is set, so that successes are counted.
    counts_all: AtomicBool,
    allowed: AtomicU32,
    ejected: AtomicU32,
}

impl Ejections {
    /// Allows no ejection until [`Self::allow_of`] says how many endpoints there are.
    pub fn new(policy: Arc<OutlierDetection>) -> Arc<Self> {
        let zero = || AtomicU32::new(0);
        let counts_all = AtomicBool::new(policy.error_rate.is_some());
        Arc::new(Self { policy: ArcSwap::new(policy), counts_all, allowed: zero(), ejected: zero() })
    }

    /// Sets how many of the cluster's endpoints may be ejected at once. `before_last`: how many of them are on levels that
    /// have another level behind them.
    pub fn allow_of(&self, endpoints: usize, before_last: usize) {
        self.allowed.store(allowed(self.policy.load().max_ejected, endpoints, before_last), Relaxed);
    }

    /// Changes the policy from now on. The next call of [`Self::allow_of`] applies the new share. Ejections that have
    /// begun last as long as before.
    pub fn change(&self, policy: Arc<OutlierDetection>) {
        self.counts_all.store(policy.error_rate.is_some(), Relaxed);
        self.policy.store(policy);
    }

    /// The length of the first ejection, never zero.
    fn base(&self) -> Duration {
        self.policy.load().base_ejection.max(Duration::from_millis(1))
    }

    /// The number of ejected endpoints, including those that wait for their probe or its result.
    pub fn ejected(&self) -> u32 {
        self.ejected.load(Relaxed)
    }

    fn try_eject(&self) -> bool {
        self.ejected
            .fetch_update(Relaxed, Relaxed, |ejected| {
                (ejected < self.allowed.load(Relaxed)).then(|| ejected + 1)
            })
            .is_ok()
    }

    fn release(&self) {
        self.ejected.fetch_sub(1, Relaxed);
    }
}

fn allowed(share: f64, endpoints: usize, before_last: usize) -> u32 {
    let before_last = u32::try_from(before_last).unwrap_or(u32::MAX);
    let endpoints = u32::try_from(endpoints).unwrap_or(u32::MAX);
    // A millionth is added because floating point makes 29 % of 100 slightly less than 29.
    let by_share = (share * f64::from(endpoints) + 1e-6) as u32;
    let by_level = if share > 0.0 { before_last } else { 0 };
    by_share.max(by_level).min(endpoints.saturating_sub(1))
}

/// The state of an endpoint, for the admin pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Available,
    /// Not used for this time from now.
    Ejected(Duration),
    /// The ejection is over: one request at a time may try the endpoint.
    Probing,
}

/// The state of one endpoint, shared by all workers.
#[derive(Debug)]
pub struct Outlier {
    /// [`CLOSED`], or a packed [`Resting`]. Changed under the lock of `history`, except when a request claims the
    /// probe.
    rest: AtomicU64,
    /// Errors in a row while closed.
    runs: Runs,
    history: Mutex<History>,
    cluster: Arc<Ejections>,
    epoch: Instant,
}

/// The state of an [`Outlier`] that is not closed: not used before a moment, and then by one request at a time.
#[derive(Debug, Clone, Copy)]
struct Resting {
    /// Nanoseconds since the epoch, below 2^62 (146 years): the end of the ejection, or, while probing, the end of the
    /// probe's lease.
    until: u64,
    probing: bool,
}

impl Resting {
    /// Never zero, which means closed: the highest bit is always set. The lowest bit is `probing`.
    fn pack(self) -> u64 {
        1 << 63 | self.until << 1 | u64::from(self.probing)
    }

    fn unpack(word: u64) -> Option<Self> {
        (word != CLOSED).then_some(Self { until: (word & !(1 << 63)) >> 1, probing: word & 1 == 1 })
    }
}

#[derive(Debug)]
struct History {
    /// The number of ejections in a row.
    row: u32,
    closed_since: Instant,
    /// The cause of the last ejection.
    cause: EjectionCause,
    /// Counted while closed, where `error_rate` is set.
    window: Window,
}

impl Outlier {
    /// `epoch` is any moment before the first use. Earlier times count as `epoch`.
    pub fn new(cluster: Arc<Ejections>, epoch: Instant) -> Self {
        Self {
            rest: AtomicU64::new(CLOSED),
            runs: Runs::default(),
            history: Mutex::new(History {
                row: 0,
                closed_since: epoch,
                cause: EjectionCause::ConsecutiveErrors,
                window: Window::default(),
            }),
            cluster,
            epoch,
        }
    }

    /// Whether a request may be sent to the endpoint. After its ejection it is usable for one probe;
    /// [`admit`](Self::admit) decides which request that is. Costs one atomic load for a closed endpoint.
    pub fn is_usable(&self, now: Instant) -> bool {
        self.resting().is_none_or(|rest| self.is_due(rest, now))
    }

    /// Whether the endpoint is neither ejected nor waiting for its probe.
    pub fn is_closed(&self) -> bool {
        self.resting().is_none()
    }

    /// The state, for the admin pages.
    pub fn standing(&self, now: Instant) -> Standing {
        match self.resting() {
            None => Standing::Available,
            Some(rest) if rest.probing || self.is_due(rest, now) => Standing::Probing,
            Some(rest) => {
                let left = rest.until.saturating_sub(self.after(Duration::ZERO, now));
                Standing::Ejected(Duration::from_nanos(left))
            }
        }
    }

    /// Called once for each try after the pick: claims the probe if one is due. `false` when another request probes or
    /// the ejection is not over; the caller then picks again.
    pub fn admit(&self, now: Instant) -> bool {
        let word = self.rest.load(Relaxed);
        let Some(rest) = Resting::unpack(word) else { return true };
        let claim = Resting { until: self.after(PROBE_LEASE, now), probing: true };
        // Not the weak exchange: it may fail without cause, and this request would then skip the endpoint.
        self.is_due(rest, now) && self.rest.compare_exchange(word, claim.pack(), Relaxed, Relaxed).is_ok()
    }

    /// Notes a success. Costs three atomic loads for a closed endpoint without errors, and a lock where `error_rate` is
    /// set. Returns `true` if this was the probe, so that the endpoint is back.
    pub fn on_success(&self, now: Instant) -> bool {
        match self.resting() {
            None => {
                self.runs.end();
                if self.cluster.counts_all.load(Relaxed) {
                    let interval = self.cluster.policy.load().interval;
                    self.history.lock().window.count(false, self.after(Duration::ZERO, now), nanos(interval));
                }
                false
            }
            Some(rest) => rest.probing && self.close(now),
        }
    }

    /// Notes a try whose end says nothing about the endpoint: its client went away, or its connection had been closed
    /// in the meantime. If the try was the probe, the next request may probe.
    pub fn on_neither(&self, now: Instant) {
        if self.is_closed() {
            return;
        }
        let _turn = self.history.lock();
        if self.resting().is_some_and(|rest| rest.probing) {
            let due = Resting { until: self.after(Duration::ZERO, now), probing: false };
            self.rest.store(due.pack(), Relaxed);
        }
    }

    /// Notes a kept connection that ended under its request. Once it says nothing, because the endpoint may have closed
    /// the connection before the request came; so it is no error in a row. An endpoint to which it happens often is
    /// faulty, so it counts in `error_rate`. `Some` when it ejected the endpoint.
    pub fn on_lost_connection(&self, now: Instant) -> Option<Ejected> {
        if !self.is_closed() {
            self.on_neither(now);
            return None;
        }
        let policy = self.cluster.policy.load();
        self.exceeds_rate(&policy, now).then(|| self.eject(EjectionCause::ErrorRate, now)).flatten()
    }

    /// Notes an error. `Some` when it ejected the endpoint.
    pub fn on_error(&self, now: Instant, cause: Cause) -> Option<Ejected> {
        let policy = self.cluster.policy.load();
        if !policy.ejects() {
            return None;
        }
        match self.resting() {
            Some(rest) if rest.probing => self.eject_again(now),
            Some(_) => None,
            None => self.eject(self.exceeded(&policy, cause, now)?, now),
        }
    }

    /// Counts an error. `Some`: what the policy does not allow any more, beginning with the narrowest cause.
    fn exceeded(&self, policy: &OutlierDetection, cause: Cause, now: Instant) -> Option<EjectionCause> {
        let run = self.runs.count(cause);
        let is_beyond_rate = self.exceeds_rate(policy, now);
        run.exceeded(policy).or_else(|| is_beyond_rate.then_some(EjectionCause::ErrorRate))
    }

    /// Counts an error in the interval, where `error_rate` is set. Whether there are more than it allows.
    fn exceeds_rate(&self, policy: &OutlierDetection, now: Instant) -> bool {
        policy.error_rate.is_some_and(|rate| {
            let mut history = self.history.lock();
            history.window.count(true, self.after(Duration::ZERO, now), nanos(policy.interval));
            history.window.exceeds(&rate)
        })
    }

    fn eject(&self, cause: EjectionCause, now: Instant) -> Option<Ejected> {
        let mut history = self.history.lock();
        // Another worker may have ejected the endpoint between the check and the lock.
        if !self.is_closed() || !self.cluster.try_eject() {
            return None;
        }
        let clean =
            now.saturating_duration_since(history.closed_since).as_nanos() / self.cluster.base().as_nanos();
        history.row = history.row.saturating_sub(u32::try_from(clean).unwrap_or(u32::MAX));
        history.cause = cause;
        Some(self.rest_longer(&mut history, now))
    }

    fn eject_again(&self, now: Instant) -> Option<Ejected> {
        let mut history = self.history.lock();
        self.resting().filter(|rest| rest.probing).map(|_| self.rest_longer(&mut history, now))
    }

    fn rest_longer(&self, history: &mut History, now: Instant) -> Ejected {
        history.row = history.row.saturating_add(1);
        let base = self.cluster.base();
        let rest = base.saturating_mul(history.row).min(LONGEST_REST.max(base));
        self.rest.store(Resting { until: self.after(rest, now), probing: false }.pack(), Relaxed);
        Ejected { rest, cause: history.cause }
    }

    /// Closes after a successful probe. `false` when another worker was faster.
    fn close(&self, now: Instant) -> bool {
        let mut history = self.history.lock();
        let is_probing = self.resting().is_some_and(|rest| rest.probing);
        if is_probing {
            history.closed_since = now;
            history.window = Window::default();
            self.runs.end();
            self.rest.store(CLOSED, Relaxed);
            self.cluster.release();
        }
        is_probing
    }

    fn resting(&self) -> Option<Resting> {
        Resting::unpack(self.rest.load(Relaxed))
    }

    fn is_due(&self, rest: Resting, now: Instant) -> bool {
        self.after(Duration::ZERO, now) >= rest.until
    }

    /// A moment in the unit of [`Resting`]. Not `now + pause`, because a configured pause may be longer than an
    /// `Instant` can represent.
    fn after(&self, pause: Duration, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.epoch).saturating_add(pause))
    }
}

/// At most what fits into 62 bits.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).min(u64::MAX >> 2)
}

impl Drop for Outlier {
    /// Gives the place among the ejected endpoints back when the endpoint leaves its cluster.
    fn drop(&mut self) {
        if !self.is_closed() {
            self.cluster.release();
        }
    }
}

#[cfg(test)]
mod tests;
