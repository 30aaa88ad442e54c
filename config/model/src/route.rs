//! `routes`: which of a host's requests go elsewhere, or under other rules. The first match wins; what no route
//! matches goes to the host's own service.

use crate::cluster::HostPattern;
use crate::policy::{Retry, Timeouts};

#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// The label of the metric; unique where it is given.
    pub name: Option<String>,
    /// Whose requests it looks at; never empty.
    pub hosts: Vec<RouteHost>,
    pub matches: RouteMatch,
    /// Never empty; the weights add up to more than zero.
    pub to: Vec<Weighted>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RouteHost {
    /// `"*"`: every host of every service, never an unknown destination.
    Any,
    One(HostPattern),
}

/// All that is written must fit; nothing written fits every request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteMatch {
    pub path: Option<PathMatch>,
    /// Any of them, upper case; none: every method.
    pub methods: Vec<String>,
    pub headers: Vec<HeaderMatch>,
}

/// Compared with the path as it is sent, without the query, case and all (RFC 3986, 6.2.2.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    Exact(String),
    /// On segment borders: `/v2` fits `/v2` and `/v2/x`, not `/v2x`. A slash at its end counts for nothing.
    Prefix(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Lower case.
    pub name: String,
    pub value: ValueMatch,
}

/// What a header's value must be. Where the header occurs several times, any of its values may fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueMatch {
    Exact(String),
    Prefix(String),
    Present(bool),
}

/// One service of a route's `to`, with its policies under this route.
#[derive(Debug, Clone, PartialEq)]
pub struct Weighted {
    /// One of [`crate::Config::clusters`].
    pub service: String,
    /// Default 1; 0 gets nothing.
    pub weight: u32,
    /// The service's, and the route's `timeout` where it is written.
    pub timeouts: Timeouts,
    /// The service's, and key by key the route's `retry` where it is written. `None`: off.
    pub retry: Option<Retry>,
}
