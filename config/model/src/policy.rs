//! What is done with a request on its way: timeouts, retries, limits, outlier detection.
//!
//! Every default is the `Default` of its struct here, and nowhere else; the reason stands at the field.

use std::time::Duration;

/// How long one cluster's requests and connections may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// To connect, TCP and TLS together. Default 2 s: three lost SYNs would take longer.
    pub connect: Duration,
    /// To the response's headers, all tries and pauses included.
    pub request: Timeout,
    /// Between two pieces of a body, or of an opaque stream.
    pub stream_idle: IdleTimeout,
    /// The whole exchange, bodies included. `None`, the default: no bound, as a stream may live for days.
    pub max_duration: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            request: Timeout::default(),
            stream_idle: IdleTimeout::default(),
            max_duration: None,
        }
    }
}

/// How long a caller waits for the response's headers, all tries and pauses included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Timeout {
    /// Nobody chose one: [`Timeout::DEFAULT`], which does not bound gRPC, as its callers bring deadlines of their own.
    #[default]
    Default,
    /// Longer than nothing, at most a year. It bounds gRPC too.
    Set(Duration),
    /// No bound.
    Off,
}

impl Timeout {
    /// 15 s, as Envoy's.
    pub const DEFAULT: Duration = Duration::from_secs(15);

    /// The bound of a request that brings no deadline of its own.
    pub const fn bound(self) -> Option<Duration> {
        match self {
            Self::Default => Some(Self::DEFAULT),
            Self::Set(time) => Some(time),
            Self::Off => None,
        }
    }

    /// The bound of a gRPC call.
    pub const fn grpc_bound(self) -> Option<Duration> {
        match self {
            Self::Set(time) => Some(time),
            Self::Default | Self::Off => None,
        }
    }
}

/// How long a stream may rest between two pieces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IdleTimeout {
    /// Nobody chose one: [`IdleTimeout::BODY`] and [`IdleTimeout::TUNNEL`].
    #[default]
    Default,
    /// Longer than nothing, at most a year; for bodies and for tunnels.
    Set(Duration),
    /// No bound.
    Off,
}

impl IdleTimeout {
    /// The default for HTTP bodies: 5 min, as Envoy's.
    pub const BODY: Duration = Duration::from_secs(300);
    /// The default for TCP, upgrades and CONNECT: 1 h, as databases and sockets rest for long between two words.
    pub const TUNNEL: Duration = Duration::from_secs(3600);

    /// The bound of an HTTP body.
    pub const fn body(self) -> Option<Duration> {
        self.or(Self::BODY)
    }

    /// The bound of TCP, of upgrades and of CONNECT.
    pub const fn tunnel(self) -> Option<Duration> {
        self.or(Self::TUNNEL)
    }

    const fn or(self, default: Duration) -> Option<Duration> {
        match self {
            Self::Default => Some(default),
            Self::Set(time) => Some(time),
            Self::Off => None,
        }
    }
}

/// Pooled connections to an endpoint. `None` is no bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionPolicy {
    /// A connection that is idle for so long is closed. Default 55 s: below the 60 s after which most servers hang up.
    pub idle_timeout: Option<Duration>,
    /// A connection of this age takes no more requests. Default `None`: endpoints say themselves when they leave.
    pub max_age: Option<Duration>,
    /// Requests that a connection takes before another is opened. Default `None`.
    pub max_requests: Option<u32>,
    /// TCP's own keep-alive. Default 60 s: below what firewalls and address translators forget after.
    pub keepalive: Option<Duration>,
}

impl Default for ConnectionPolicy {
    fn default() -> Self {
        Self {
            idle_timeout: Some(Duration::from_secs(55)),
            max_age: None,
            max_requests: None,
            keepalive: Some(Duration::from_secs(60)),
        }
    }
}

/// When a request is sent again.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// Further tries after the first, from 1 to 100. Default 2: with three endpoints each is tried once.
    pub attempts: u32,
    /// What is tried again. Default: what tells of an endpoint rather than of the request.
    pub conditions: Vec<RetryCondition>,
    /// Whose requests may be sent twice. Default: those that RFC 9110 calls idempotent.
    pub methods: RetryMethods,
    /// Bounds every try but the last, and none of a request that may not be tried again. Default `None`.
    pub per_try_timeout: Option<Duration>,
    /// The pause before another try.
    pub backoff: Backoff,
    /// How many retries there may be beside first tries.
    pub budget: RetryBudget,
    /// Bytes of a request body that are kept for another try, at most [`Retry::MOST_BODY`]. Larger bodies stream on
    /// and are not retried. Default 64 KiB: it holds nearly every JSON call.
    pub max_body: usize,
}

impl Retry {
    /// 64 MiB: past it a few requests in flight would fill the pod's memory.
    pub const MOST_BODY: usize = 64 * 1024 * 1024;
}

impl Default for Retry {
    fn default() -> Self {
        use RetryCondition::{ConnectFailure, GatewayError, RefusedStream, Reset};
        Self {
            attempts: 2,
            conditions: vec![ConnectFailure, RefusedStream, Reset, GatewayError],
            methods: RetryMethods::Idempotent,
            per_try_timeout: None,
            backoff: Backoff::default(),
            budget: RetryBudget::default(),
            max_body: 64 * 1024,
        }
    }
}

/// The pause before another try, with full jitter: drawn evenly from nothing to min(cap, base · 2^n).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The first pause at most. Default 25 ms: longer than a connection takes to be refused, shorter than a person
    /// notices.
    pub base: Duration,
    /// Any pause at most, never below `base`. `None`, the default: [`Backoff::MAX`], or `base` where that is longer.
    pub max: Option<Duration>,
}

impl Backoff {
    /// 250 ms: a caller that waits rarely waits longer for another try.
    pub const MAX: Duration = Duration::from_millis(250);

    /// Any pause at most.
    pub fn cap(&self) -> Duration {
        self.max.unwrap_or_else(|| Self::MAX.max(self.base))
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: Duration::from_millis(25), max: None }
    }
}

/// Retries over first tries of the last 10 s.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudget {
    /// From 0 to 1. Default 0.2: a service that fails gets a fifth more load, and not a multiple.
    pub ratio: f64,
    /// Allowed in any case, per second, so that a quiet service can retry at all. Default 10.
    pub min_per_second: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { ratio: 0.2, min_per_second: 10 }
    }
}

/// A way in which a try can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RetryCondition {
    /// No connection was made.
    ConnectFailure,
    /// The upstream refused the stream before processing it.
    RefusedStream,
    /// The connection or the stream ended before the response's headers.
    Reset,
    /// An answer with 502, 503 or 504.
    GatewayError,
    /// The try took longer than its own timeout.
    PerTryTimeout,
    /// Any 5xx answer, and what `Reset` and `ConnectFailure` mean.
    FiveXx,
    /// 409.
    Retriable4xx,
    /// An answer with this status, from 300 to 599.
    Status(u16),
    /// A gRPC status by its number, in the answer's headers.
    Grpc(u8),
}

/// Whose requests may be sent twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RetryMethods {
    /// RFC 9110 §9.2.2: GET HEAD OPTIONS TRACE PUT DELETE.
    Idempotent,
    /// Those, and any with an `Idempotency-Key`.
    IdempotentOrKeyed,
    /// Every method.
    All,
    /// These alone, in upper case, as requests spell them.
    List(Vec<String>),
}

/// The circuit breaker's limits, of one cluster over all workers. All default to Envoy's 1024 but the retries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Open connections, at least 1; beyond it HTTP waits as pending, and TCP is reset.
    pub max_connections: u32,
    /// Open connections to one endpoint, at least 1; beyond it HTTP waits as pending, and an opaque connection goes to
    /// another endpoint or is reset. `None`, the default: no bound but that of the cluster.
    pub max_connections_per_endpoint: Option<u32>,
    /// Requests that wait for a connection; beyond it the answer is 503.
    pub max_pending_requests: u32,
    /// Requests in flight, at least 1; beyond it the answer is 503.
    pub max_requests: u32,
    /// Retries in flight. Default 32: more of them at once are a storm.
    pub max_retries: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_connections_per_endpoint: None,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_retries: 32,
        }
    }
}

/// When an endpoint that fails is left out for a while.
#[derive(Debug, Clone, PartialEq)]
pub struct OutlierDetection {
    /// Errors in a row, at least 1: 5xx made by the endpoint, resets, connect failures, timeouts. `None`: none of these
    /// ejects. Default 5, as Envoy's.
    pub consecutive_errors: Option<u32>,
    /// How long, times the number of ejections in a row. Default 30 s, as Envoy's.
    pub base_ejection: Duration,
    /// Share of a cluster's endpoints, from 0 to 1; never the last one. Default 0.5: half of them can still carry the
    /// load for a while.
    pub max_ejected: f64,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self { consecutive_errors: Some(5), base_ejection: Duration::from_secs(30), max_ejected: 0.5 }
    }
}
