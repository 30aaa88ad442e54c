//! `routes` as it is typed.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::Retry;
use crate::schema::{self, Described};
use crate::shape::{Entries, NotYet, OffOnly, OneOrMore, Shape, Typed, shaped};
use crate::value::{BadWord, Count, OffOr, Word, on_off};
use crate::words::{HeaderName, HeaderText, MatchPath, Method, RouteName, ServiceName};
use pillion_model::route::RouteHost;
use pillion_model::text::shortened;

blocks! {
    Route {
        /// The `route` label of metrics. Default: none.
        name: Typed<RouteName>,
        /// Whose requests it looks at: hosts as in `services`, or "*" for every host of every service.
        hosts: OneOrMore<RouteHost>,
        /// All that is written must fit. Default: every request.
        r#match: Match,
        /// The service that gets them, or several with their weights.
        to: Destinations,
        /// In place of the service's own.
        timeout: Typed<OffOr<Duration>>,
        /// Key by key in place of the service's own. `off` turns it off.
        retry: OffOr<Retry>,
        mirror: OffOnly,
        fault: OffOnly,
        rewrite: OffOnly,
        redirect: NotYet,
        respond: NotYet,
        request_headers: OffOnly,
        response_headers: OffOnly,
        rate_limit: OffOnly,
    }

    Match {
        /// As it is sent, without the query.
        path: Path,
        /// Any of them. Default: every method.
        methods: OneOrMore<Method>,
        /// By their names; of several values of a header any may fit.
        headers: Entries<HeaderName, Option<HeaderValue>>,
        query: OffOnly,
    }

    PathBlock {
        /// On segment borders: /v2 fits /v2 and /v2/x, not /v2x.
        prefix: Typed<MatchPath>,
        /// The whole path.
        exact: Typed<MatchPath>,
        regex: NotYet,
    }

    ValueBlock {
        /// The whole value.
        exact: Typed<HeaderText>,
        /// How the value begins.
        prefix: Typed<HeaderText>,
        /// Whether the header is there, whatever its value.
        present: Typed<bool>,
        regex: NotYet,
    }

    DestinationBlock {
        /// One of `services`.
        service: Typed<ServiceName>,
        /// How much of the traffic it gets beside others; 0 gets none. Default 1.
        weight: Typed<Count<0, 1_000_000>>,
    }
}

/// In the file's order.
#[derive(Debug, Clone)]
pub(crate) struct Routes(pub(crate) Vec<Route>);

#[derive(Debug, Clone)]
pub(crate) struct Path(pub(crate) PathBlock);

#[derive(Debug, Clone)]
pub(crate) enum HeaderValue {
    Exact(HeaderText),
    Full(ValueBlock),
}

#[derive(Debug, Clone)]
pub(crate) enum Destinations {
    One(Destination),
    Several(Vec<Destination>),
}

#[derive(Debug, Clone)]
pub(crate) enum Destination {
    Name(ServiceName),
    Full(DestinationBlock),
}

impl<'de> Shape<'de> for Routes {
    const EXPECTED: &'static str = "a list of routes";
    type List = Vec<Route>;
    type Block = NotYet;

    /// `off` is as good as an empty list.
    fn word(text: &str) -> Result<Self, BadWord> {
        match on_off(text) {
            Some(false) => Ok(Self(Vec::new())),
            _ => Err(BadWord::not(text, Self::EXPECTED)),
        }
    }

    fn list(list: Vec<Route>) -> Result<Self, BadWord> {
        Ok(Self(list))
    }
}

impl<'de> Shape<'de> for Path {
    const EXPECTED: &'static str = "{ prefix: … } or { exact: … }";
    type List = NotYet;
    type Block = PathBlock;

    fn word(text: &str) -> Result<Self, BadWord> {
        MatchPath::parse(text)?;
        let path = shortened(text);
        Err(BadWord::new(format!("must be {}", Self::EXPECTED))
            .help(format!("write {{ prefix: {path} }}, or {{ exact: {path} }} for this path alone")))
    }

    fn block(block: PathBlock) -> Result<Self, BadWord> {
        Ok(Self(block))
    }
}

impl<'de> Shape<'de> for HeaderValue {
    const EXPECTED: &'static str = "a value, or { exact, prefix or present: … }";
    type List = NotYet;
    type Block = ValueBlock;

    fn word(text: &str) -> Result<Self, BadWord> {
        HeaderText::parse(text).map(Self::Exact)
    }

    fn block(block: ValueBlock) -> Result<Self, BadWord> {
        Ok(Self::Full(block))
    }
}

impl<'de> Shape<'de> for Destinations {
    const EXPECTED: &'static str = "a service's name, or a list of { service: …, weight: … }";
    type List = Vec<Destination>;
    type Block = DestinationBlock;

    fn word(text: &str) -> Result<Self, BadWord> {
        Destination::word(text).map(Self::One)
    }

    fn list(list: Vec<Destination>) -> Result<Self, BadWord> {
        Ok(Self::Several(list))
    }

    fn block(block: DestinationBlock) -> Result<Self, BadWord> {
        Destination::block(block).map(Self::One)
    }
}

impl<'de> Shape<'de> for Destination {
    const EXPECTED: &'static str = "a service's name, or { service: …, weight: … }";
    type List = NotYet;
    type Block = DestinationBlock;

    fn word(text: &str) -> Result<Self, BadWord> {
        ServiceName::parse(text).map(Self::Name)
    }

    fn block(block: DestinationBlock) -> Result<Self, BadWord> {
        Ok(Self::Full(block))
    }
}

shaped!(Routes, Path, HeaderValue, Destinations, Destination);
