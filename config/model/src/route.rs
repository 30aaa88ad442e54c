//! `routes`: requests to a host that go to another service, or under other policies. The first match wins. A request
//! that no route matches goes to the service of its host.

use std::time::Duration;

use crate::cluster::HostPattern;
use crate::pattern::Pattern;
use crate::policy::{Retry, Timeouts};

#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// The label of the metric. Names are unique.
    pub name: Option<String>,
    /// The hosts whose requests this route matches. Never empty.
    pub hosts: Vec<RouteHost>,
    pub matches: RouteMatch,
    /// The services that get the requests. The sum of the weights is more than zero. Empty where `actions` have an
    /// answer, and only there.
    pub to: Vec<Weighted>,
    pub actions: Actions,
}

/// What a route does with its requests besides sending them to a service.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Actions {
    /// The sidecar answers itself.
    pub answer: Option<Answer>,
    pub rewrite: Rewrite,
    pub request_headers: HeaderChanges,
    /// Changes of the headers of answers, from an endpoint or from `answer`.
    pub response_headers: HeaderChanges,
    pub fault: FaultInjection,
    pub mirror: Option<Mirror>,
    /// One limit for all requests of the route together.
    pub rate_limit: Option<RateLimit>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Redirect(Redirect),
    Respond(Respond),
}

/// A redirect to another URL. Parts that are `None` are those of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// The query of the request is appended, unless the path has a query of its own.
    pub path: Option<String>,
    /// A host, optionally with a port.
    pub host: Option<String>,
    pub scheme: Option<Scheme>,
    pub status: u16,
}

impl Redirect {
    /// The default status, which is that of Envoy.
    pub const STATUS: u16 = 301;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Respond {
    pub status: u16,
    pub body: String,
}

impl Respond {
    /// 64 KiB: the most bytes of a body, which is kept in memory. It is meant for short texts.
    pub const LONGEST: usize = 64 * 1024;
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// Replaces the matched prefix, or the whole path if the match was `exact` or `regex`.
    pub prefix: Option<String>,
    /// A host, optionally with a port.
    pub host: Option<String>,
}

/// Changes of headers: `remove` is applied first, then `set`, then `add`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    /// Names in lower case, each with the value that replaces all its values.
    pub set: Vec<(String, String)>,
    /// Names in lower case, each with a further value.
    pub add: Vec<(String, String)>,
    pub remove: Vec<String>,
}

/// Injected faults. Each share is a share of all requests, drawn independently of the other.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FaultInjection {
    pub delay: Option<FaultDelay>,
    pub abort: Option<FaultAbort>,
}

/// A delay before a request is sent, which counts in the timeouts of the request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FaultDelay {
    pub time: Duration,
    pub share: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FaultAbort {
    pub with: AbortStatus,
    pub share: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbortStatus {
    Http(u16),
    Grpc(u8),
}

/// A service that gets copies of a share of the requests. The answers to copies are discarded.
#[derive(Debug, Clone, PartialEq)]
pub struct Mirror {
    /// The name of one of [`crate::Config::clusters`].
    pub service: String,
    pub share: f64,
}

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// The number of requests that are allowed in each `per`.
    pub requests: u32,
    pub per: Duration,
    /// The most tokens in the bucket. `None`: as many as `requests`.
    pub burst: Option<u32>,
    pub by: RateLimitBy,
}

impl RateLimit {
    pub const PER: Duration = Duration::from_secs(1);
}

/// The requests that share a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateLimitBy {
    All,
    /// One bucket for each identity, and for each address of clients without an identity.
    Peer,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RouteHost {
    /// `"*"`: every host of every service. It does not include unknown destinations.
    Any,
    One(HostPattern),
}

/// A request must match every field that is set. A match without fields matches every request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteMatch {
    pub path: Option<PathMatch>,
    /// Methods in upper case, of which one must match. An empty list matches every method.
    pub methods: Vec<String>,
    pub headers: Vec<HeaderMatch>,
    pub query: Vec<QueryMatch>,
}

/// The pattern is compared with the path as it is sent, without the query; case matters (RFC 3986, 6.2.2.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    Exact(String),
    /// A prefix of whole segments: `/v2` matches `/v2` and `/v2/x`, not `/v2x`. A trailing slash of the pattern is
    /// ignored.
    Prefix(String),
    /// The whole path.
    Regex(Pattern),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderMatch {
    /// The name in lower case.
    pub name: String,
    pub value: ValueMatch,
}

/// A parameter of the query. Parameters are separated by `&`; the name ends at the first `=`. Both are compared as they
/// are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryMatch {
    pub name: String,
    /// A parameter without `=` has the empty value.
    pub value: ValueMatch,
}

/// The required value of a header or a parameter. Where it occurs several times, one of its values must match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueMatch {
    Exact(String),
    Prefix(String),
    /// The whole value.
    Regex(Pattern),
    Present(bool),
}

/// One service of a route's `to`, with its policies under this route.
#[derive(Debug, Clone, PartialEq)]
pub struct Weighted {
    /// The name of one of [`crate::Config::clusters`].
    pub service: String,
    /// Default 1. A service with weight 0 gets no requests.
    pub weight: u32,
    /// The timeouts of the service, with the `timeout` of the route where it is set.
    pub timeouts: Timeouts,
    /// The retry policy of the service, in which the keys of the route's `retry` replace the service's. `None`: off.
    pub retry: Option<Retry>,
}

impl ValueMatch {
    /// Whether one of the values of a header or a parameter fits.
    pub fn fits<'v>(&self, mut values: impl Iterator<Item = &'v [u8]>) -> bool {
        match self {
            Self::Present(present) => values.next().is_some() == *present,
            _ => values.any(|value| self.fits_one(value)),
        }
    }

    fn fits_one(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => value == exact.as_bytes(),
            Self::Prefix(prefix) => value.starts_with(prefix.as_bytes()),
            Self::Regex(pattern) => pattern.fits(value),
            Self::Present(present) => *present,
        }
    }
}
