//! What is done with a request on its way: timeouts, retries, limits, outlier detection.

use std::time::Duration;

/// Durations of one cluster. `None` is `off`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP and TLS together. Default 2 s: three lost SYNs would take longer.
    pub connect: Duration,
    /// To the response's headers, all tries and pauses included. Default 15 s, as Envoy's.
    pub request: Option<Duration>,
    /// Whether `timeout` was written: only then does it bound gRPC, whose callers bring deadlines.
    pub request_written: bool,
    /// Between two pieces of a body. Default 5 min for HTTP bodies.
    pub stream_idle: Option<Duration>,
    /// The same for TCP, upgrades and CONNECT. Default 1 h: databases and sockets rest for long between two words.
    /// `stream_idle_timeout`, when written, rules both.
    pub tunnel_idle: Option<Duration>,
    /// The whole exchange, bodies included. Default off.
    pub max_duration: Option<Duration>,
}

/// Pooled connections to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionPolicy {
    /// Default 55 s: below the 60 s after which most servers hang up.
    pub idle_timeout: Option<Duration>,
    pub max_age: Option<Duration>,
    pub max_requests: Option<u64>,
    /// TCP keep-alive. Default 60 s.
    pub keepalive: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// Further tries after the first. Default 2.
    pub attempts: u32,
    pub conditions: Vec<RetryCondition>,
    pub methods: RetryMethods,
    /// Does not bound the last try, nor a request that may not be tried again.
    pub per_try_timeout: Option<Duration>,
    /// Full jitter: a pause is drawn evenly from nothing to min(max, base · 2^n).
    pub backoff: Backoff,
    pub budget: RetryBudget,
    /// Bytes of a request body kept for another try. Larger bodies stream on and are not retried.
    pub max_body: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub base: Duration,
    pub max: Duration,
}

/// Retries over first tries of the last 10 s.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudget {
    /// 0.2 for `20%`.
    pub ratio: f64,
    /// Allowed in any case, per second, so that a quiet service can retry at all.
    pub min_per_second: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RetryCondition {
    ConnectFailure,
    RefusedStream,
    Reset,
    /// 502, 503, 504.
    GatewayError,
    PerTryTimeout,
    /// Any 5xx answer, and what `reset` and `connect_failure` mean.
    FiveXx,
    /// 409.
    Retriable4xx,
    Status(u16),
    /// A gRPC status by its number, in the answer's headers.
    Grpc(u8),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RetryMethods {
    /// RFC 9110 §9.2.2: GET HEAD OPTIONS TRACE PUT DELETE.
    Idempotent,
    /// Those, and any with an `Idempotency-Key`.
    IdempotentOrKeyed,
    All,
    /// Upper case, as requests spell them.
    List(Vec<String>),
}

/// The circuit breaker's limits, per cluster and over all workers. All default to 1024 but `max_retries`, 32.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub max_connections: u32,
    pub max_pending_requests: u32,
    pub max_requests: u32,
    pub max_retries: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct OutlierDetection {
    /// In a row: 5xx made by the endpoint, resets, connect failures, timeouts. `None`: never ejected.
    pub consecutive_errors: Option<u32>,
    /// Times the number of ejections in a row. Default 30 s.
    pub base_ejection: Duration,
    /// Share of a cluster's endpoints, 0.5 for `50%`. Never the last one.
    pub max_ejected: f64,
}
