//! `routes`: requests to a host that go to another service, or under other policies. The first match wins. A request
//! that no route matches goes to the service of its host.

use crate::cluster::HostPattern;
use crate::policy::{Retry, Timeouts};

#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// The label of the metric. Names are unique.
    pub name: Option<String>,
    /// The hosts whose requests this route matches. Never empty.
    pub hosts: Vec<RouteHost>,
    pub matches: RouteMatch,
    /// The services that get the requests. Never empty; the sum of the weights is more than zero.
    pub to: Vec<Weighted>,
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
}

/// The pattern is compared with the path as it is sent, without the query; case matters (RFC 3986, 6.2.2.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    Exact(String),
    /// A prefix of whole segments: `/v2` matches `/v2` and `/v2/x`, not `/v2x`. A trailing slash of the pattern is
    /// ignored.
    Prefix(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderMatch {
    /// The name in lower case.
    pub name: String,
    pub value: ValueMatch,
}

/// The required value of a header. Where the header occurs several times, one of its values must match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueMatch {
    Exact(String),
    Prefix(String),
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
