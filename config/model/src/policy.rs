//! Policies for requests: timeouts, retries, limits, outlier detection, health checks.
//!
//! Every default is in the `Default` of its struct here and nowhere else; its reason is written at the field.

use std::time::Duration;

/// How long one cluster's requests and connections may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// Time to connect, TCP and TLS together. Default 2 s: only three lost SYNs take longer.
    pub connect: Duration,
    /// Time until the response's headers, with all attempts and the pauses between them.
    pub request: Timeout,
    /// The longest pause between two pieces of a body or of an opaque stream.
    pub stream_idle: IdleTimeout,
    /// Time for the whole exchange with its bodies. `None`, the default: no limit, because a stream may live for days.
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

/// How long a client waits for the response's headers, with all attempts and the pauses between them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Timeout {
    /// Not configured: [`Timeout::DEFAULT`]. It does not limit gRPC calls, because gRPC clients send deadlines.
    #[default]
    Default,
    /// More than zero and at most a year. It limits gRPC calls too.
    Set(Duration),
    /// No limit.
    Off,
}

impl Timeout {
    /// 15 s, which is Envoy's default.
    pub const DEFAULT: Duration = Duration::from_secs(15);

    /// The limit of a request that carries no deadline.
    pub const fn bound(self) -> Option<Duration> {
        match self {
            Self::Default => Some(Self::DEFAULT),
            Self::Set(time) => Some(time),
            Self::Off => None,
        }
    }

    /// The limit of a gRPC call.
    pub const fn grpc_bound(self) -> Option<Duration> {
        match self {
            Self::Set(time) => Some(time),
            Self::Default | Self::Off => None,
        }
    }
}

/// The longest pause between two pieces of a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IdleTimeout {
    /// Not configured: [`IdleTimeout::BODY`] and [`IdleTimeout::TUNNEL`].
    #[default]
    Default,
    /// More than zero and at most a year, for bodies and for tunnels.
    Set(Duration),
    /// No limit.
    Off,
}

impl IdleTimeout {
    /// The default for HTTP bodies: 5 min, as in Envoy.
    pub const BODY: Duration = Duration::from_secs(300);
    /// The default for TCP, upgrades and CONNECT: 1 h, because database connections and WebSockets are often silent for
    /// long.
    pub const TUNNEL: Duration = Duration::from_secs(3600);

    /// The limit of an HTTP body.
    pub const fn body(self) -> Option<Duration> {
        self.or(Self::BODY)
    }

    /// The limit of TCP, upgrades and CONNECT.
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

/// Pooled connections to an endpoint. `None` means no limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionPolicy {
    /// An idle connection is closed after this time. Default 55 s: below the 60 s after which most servers close it.
    pub idle_timeout: Option<Duration>,
    /// A connection of this age takes no more requests. Default `None`: endpoints announce that they stop.
    pub max_age: Option<Duration>,
    /// How many requests a connection carries before it is replaced. Default `None`.
    pub max_requests: Option<u32>,
    /// The interval of TCP keep-alive. Default 60 s: firewalls and address translators keep idle connections for
    /// longer.
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
    /// Further attempts after the first, from 1 to 100. Default 2: with three endpoints each is tried once.
    pub attempts: u32,
    /// The failures after which a request is retried. Default: failures that say more about the endpoint than about the
    /// request.
    pub conditions: Vec<RetryCondition>,
    /// The methods whose requests may be sent twice. Default: those that RFC 9110 calls idempotent.
    pub methods: RetryMethods,
    /// The time limit of every attempt but the last. It does not apply to a request that may not be retried. Default
    /// `None`.
    pub per_try_timeout: Option<Duration>,
    /// The pause before another attempt.
    pub backoff: Backoff,
    /// How many retries are allowed in proportion to first attempts.
    pub budget: RetryBudget,
    /// Bytes of a request body that are kept for another attempt, at most [`Retry::MOST_BODY`]. A larger body is
    /// streamed and its request is not retried. Default 64 KiB: it holds nearly every JSON call.
    pub max_body: usize,
    /// After this time without an answer, a second try is made beside the first. Default `None`.
    pub hedge_after: Option<HedgeAfter>,
}

/// How slow the first try is when a second one is made beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HedgeAfter {
    /// More than zero and at most a year.
    Time(Duration),
    /// Slower than 95 % of the service's recent requests.
    P95,
}

impl Retry {
    /// 64 MiB: with more, a few requests in flight would fill the pod's memory.
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
            hedge_after: None,
        }
    }
}

/// The pause before another attempt, with full jitter: a random time from zero to min(cap, base · 2^n).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The longest first pause. Default 25 ms: longer than a refused connection takes, shorter than a person notices.
    pub base: Duration,
    /// The longest of all pauses, never below `base`. `None`, the default: [`Backoff::MAX`], or `base` where that is
    /// longer.
    pub max: Option<Duration>,
}

impl Backoff {
    /// 250 ms: a waiting client seldom gains from a longer pause.
    pub const MAX: Duration = Duration::from_millis(250);

    /// The longest of all pauses.
    pub fn cap(&self) -> Duration {
        self.max.unwrap_or_else(|| Self::MAX.max(self.base))
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: Duration::from_millis(25), max: None }
    }
}

/// The ratio of retries to first attempts in the last 10 s.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudget {
    /// From 0 to 1. Default 0.2: a failing service gets a fifth more load, and not a multiple.
    pub ratio: f64,
    /// Retries per second that are always allowed, so that a service with little traffic can retry at all. Default 10.
    pub min_per_second: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { ratio: 0.2, min_per_second: 10 }
    }
}

/// A way in which an attempt can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RetryCondition {
    /// No connection was made.
    ConnectFailure,
    /// The upstream refused the stream before processing it.
    RefusedStream,
    /// The connection or the stream ended before the response's headers.
    Reset,
    /// A response with status 502, 503 or 504.
    GatewayError,
    /// The attempt took longer than `per_try_timeout`.
    PerTryTimeout,
    /// Any response with a 5xx status, and what `Reset` and `ConnectFailure` mean.
    FiveXx,
    /// A response with status 409.
    Retriable4xx,
    /// A response with this status, from 300 to 599.
    Status(u16),
    /// A gRPC status by its number, in the response's headers.
    Grpc(u8),
}

/// The methods whose requests may be sent twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RetryMethods {
    /// RFC 9110 §9.2.2: GET HEAD OPTIONS TRACE PUT DELETE.
    Idempotent,
    /// The idempotent methods, and any request with an `Idempotency-Key`.
    IdempotentOrKeyed,
    /// Every method.
    All,
    /// Only these methods, in upper case as in requests.
    List(Vec<String>),
}

/// The circuit breaker's limits for one cluster, over all workers. All defaults but that of the retries are Envoy's
/// 1024.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CircuitBreaker {
    /// Open connections, at least 1. Beyond this limit an HTTP request waits as pending, and a TCP connection is reset.
    pub max_connections: u32,
    /// Open connections to one endpoint, at least 1. Beyond this limit an HTTP request waits as pending, and an opaque
    /// connection goes to another endpoint or is reset. `None`, the default: only the cluster's limit applies.
    pub max_connections_per_endpoint: Option<u32>,
    /// Requests that wait for a connection. A request beyond this limit gets 503.
    pub max_pending_requests: u32,
    /// Requests in flight, at least 1. A request beyond this limit gets 503.
    pub max_requests: u32,
    /// How the limit of requests in flight follows the service's latency, below `max_requests`. Default `None`: it stays
    /// where it is configured.
    pub adaptive: Option<Adaptive>,
    /// Retries in flight. Default 32: more retries at once would be a retry storm.
    pub max_retries: u32,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_connections_per_endpoint: None,
            max_pending_requests: 1024,
            max_requests: 1024,
            adaptive: None,
            max_retries: 32,
        }
    }
}

/// How a limit follows latency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adaptive {
    /// By the ratio of the usual latency to the present one.
    Gradient,
}

/// When an endpoint that fails gets no requests for a while.
#[derive(Debug, Clone, PartialEq)]
pub struct OutlierDetection {
    /// Errors in a row that eject the endpoint, at least 1: 5xx made by the endpoint, resets, connect failures,
    /// timeouts. `None`: these errors do not eject. Default 5, which is Envoy's.
    pub consecutive_errors: Option<u32>,
    /// The time over which `error_rate` counts, from 100 ms. Default 10 s, which is Envoy's.
    pub interval: Duration,
    /// The share of errors that ejects the endpoint. Default `None`.
    pub error_rate: Option<ErrorRate>,
    /// Answers 502, 503 and 504 in a row that eject the endpoint, from 1 to 65535. Default `None`: they count as errors.
    pub gateway_errors: Option<u32>,
    /// Failed connections in a row that eject the endpoint, from 1 to 65535. Default `None`: they count as errors.
    pub connect_failures: Option<u32>,
    /// The length of an ejection; it is multiplied by the number of ejections in a row. Default 30 s, which is Envoy's.
    pub base_ejection: Duration,
    /// The largest share of a cluster's endpoints that may be ejected, from 0 to 1; the last endpoint is never ejected.
    /// Default 0.5: half of the endpoints can carry the load for a while.
    pub max_ejected: f64,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            consecutive_errors: Some(5),
            interval: Duration::from_secs(10),
            error_rate: None,
            gateway_errors: None,
            connect_failures: None,
            base_ejection: Duration::from_secs(30),
            max_ejected: 0.5,
        }
    }
}

impl OutlierDetection {
    /// A detection that never ejects.
    pub fn never() -> Self {
        Self { consecutive_errors: None, ..Self::default() }
    }

    /// Whether anything ejects an endpoint.
    pub const fn ejects(&self) -> bool {
        self.consecutive_errors.is_some()
            || self.error_rate.is_some()
            || self.gateway_errors.is_some()
            || self.connect_failures.is_some()
    }
}

/// The share of an endpoint's requests in one interval that may be errors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ErrorRate {
    /// A larger share ejects the endpoint. From 0 to below 1. Default 0.5.
    pub above: f64,
    /// With fewer requests in the interval nothing is ejected. At least 1. Default 20: fewer say little.
    pub min_requests: u32,
}

impl Default for ErrorRate {
    fn default() -> Self {
        Self { above: 0.5, min_requests: 20 }
    }
}

/// What a health check asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// A GET request for this path and query.
    Http { path: String },
    /// An attempt to connect.
    Tcp,
    /// A call of grpc.health.v1.Health/Check. An empty name asks about the server as a whole.
    Grpc { service: String },
}

/// How each endpoint of a cluster is asked whether it is well. An endpoint is taken as healthy until its first check, which
/// decides alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    pub asks: Question,
    /// The time between two checks of one endpoint, from 100 ms; it varies by a tenth, so that sidecars do not check at
    /// the same moment. Default 5 s.
    pub interval: Duration,
    /// The time of one check, TCP and TLS included. Default 1 s, which is that of Kubernetes' probes.
    pub timeout: Duration,
    /// Passed checks in a row after which an unhealthy endpoint is used again, at least 1. Default 2.
    pub healthy: u32,
    /// Failed checks in a row after which an endpoint is not used, at least 1. Default 3, as in Kubernetes.
    pub unhealthy: u32,
}

impl HealthCheck {
    /// A check with the default times and thresholds.
    pub const fn of(asks: Question) -> Self {
        let (interval, timeout) = (Duration::from_secs(5), Duration::from_secs(1));
        Self { asks, interval, timeout, healthy: 2, unhealthy: 3 }
    }
}

/// What the sidecar keeps of the answers of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cache {
    /// The most bytes that stored answers may take, with their heads. Default 64 MiB: as many as the sidecar itself is
    /// usually given.
    pub max: usize,
    /// A larger body is not stored. Default 1 MiB: nearly every page and every answer of an API is smaller.
    pub max_object: usize,
    /// For how long a stale answer stands in for an error. `None`, the default: only as long as the answer itself says.
    pub stale_if_error: Option<Duration>,
}

impl Cache {
    /// 64 KiB: a smaller cache would hold next to nothing.
    pub const LEAST: usize = 64 * 1024;
}

impl Default for Cache {
    fn default() -> Self {
        Self { max: 64 * 1024 * 1024, max_object: 1024 * 1024, stale_if_error: None }
    }
}
