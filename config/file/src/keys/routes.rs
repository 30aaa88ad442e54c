//! `routes`: their hosts, their conditions and their services.

use std::collections::{HashMap, HashSet};

use pillion_model::Cluster;
use pillion_model::policy::{Retry, Timeout, Timeouts};
use pillion_model::route::{HeaderMatch, PathMatch, Route, RouteHost, RouteMatch, ValueMatch, Weighted};
use pillion_model::text::shortened;
use serde_json::Value;

use super::service::RETRY;
use super::{Block, Static, field};
use crate::page::{Page, Scopes};
use crate::reading::{Node, Reading, Shape};
use crate::schema::{self, Described};
use crate::value::{BadWord, Count, Leaf, Opt, Word, on_off};
use crate::words::{HeaderName, HeaderText, MatchPath, Method, RouteName, ServiceName};

/// A route as it is written. Policies that it does not set come from its services.
#[derive(Default)]
struct RouteBlock {
    name: Option<String>,
    hosts: Vec<RouteHost>,
    matches: RouteMatch,
    to: Vec<(String, u32)>,
    timeout: Option<Timeout>,
    /// Whether the route answers requests itself, which is not supported yet.
    is_later: bool,
}

static ROUTE: Static<RouteBlock> = Static::new(|| {
    Block::new(RouteBlock::default)
        .word::<Opt<RouteName>>("name", field!(name), "The `route` label of metrics. Default: none.")
        .list::<RouteHost>(
            "hosts",
            field!(hosts),
            "The hosts whose requests it matches, as in `services`, or \"*\" for every host of every service.",
        )
        .block("match", field!(matches), &MATCH, "A request must match every key that is set. Default: every request.")
        .key(
            "to",
            "The service that gets the requests, or several with weights.",
            destinations_schema,
            |route: &mut RouteBlock, node, reading| route.to = destinations(node, reading),
            |_, _, _| {},
        )
        .word::<Opt<Timeout>>("timeout", field!(timeout), "Replaces the timeout of the service.")
        .key(
            "retry",
            "Each key replaces that of the service's `retry`. `off` turns retries off.",
            || schema::or_off(RETRY.schema()),
            // read over the retry policy of each service of the route, see `read`
            |_, _, _| {},
            |_, _, _| {},
        )
        .later_or_off("mirror")
        .later_or_off("fault")
        .later_or_off("rewrite")
        .later("redirect", |route| route.is_later = true)
        .later("respond", |route| route.is_later = true)
        .later_or_off("request_headers")
        .later_or_off("response_headers")
        .later_or_off("rate_limit")
});

static MATCH: Static<RouteMatch> = Static::new(|| {
    Block::new(RouteMatch::default)
        .key(
            "path",
            "The path as it is sent, without the query.",
            || PATH.schema(),
            |matches: &mut RouteMatch, node, reading| matches.path = path(node, reading),
            |matches, at, page| tell_path(matches.path.as_ref(), &at.key("path"), page),
        )
        .key(
            "methods",
            "The methods, one of which must match. Default: every method.",
            schema::words::<Method>,
            |matches: &mut RouteMatch, node, reading| {
                let methods = node.words::<Method>(reading);
                if methods.as_ref().is_some_and(Vec::is_empty) {
                    node.remark("is empty", reading).help("leave it out for every method");
                }
                matches.methods = methods.unwrap_or_default().into_iter().map(Method::value).collect();
            },
            |matches, at, page| {
                page.tell_list(matches.methods.iter().map(|it| it.as_str().into()), &at.whole("methods"));
            },
        )
        .key(
            "headers",
            "The headers by name; if a header has several values, one must match.",
            || {
                let value = schema::any_of([schema::defined("header_text"), VALUE.schema()]);
                schema::entries::<HeaderName>(value)
            },
            |matches: &mut RouteMatch, node, reading| matches.headers = headers(node, reading),
            |matches, at, page| tell_headers(&matches.headers, &at.key("headers"), page),
        )
        .later_or_off("query")
});

#[derive(Default)]
struct PathBlock {
    prefix: Option<String>,
    exact: Option<String>,
    is_later: bool,
}

static PATH: Static<PathBlock> = Static::new(|| {
    Block::new(PathBlock::default)
        .word::<Opt<MatchPath>>(
            "prefix",
            field!(prefix),
            "A prefix of whole segments: /v2 matches /v2 and /v2/x, not /v2x.",
        )
        .word::<Opt<MatchPath>>("exact", field!(exact), "The whole path.")
        .later("regex", |path| path.is_later = true)
});

#[derive(Default)]
struct ValueBlock {
    exact: Option<String>,
    prefix: Option<String>,
    present: Option<bool>,
    is_later: bool,
}

static VALUE: Static<ValueBlock> = Static::new(|| {
    Block::new(ValueBlock::default)
        .word::<Opt<HeaderText>>("exact", field!(exact), "The exact value.")
        .word::<Opt<HeaderText>>("prefix", field!(prefix), "The beginning of the value.")
        .word::<Opt<bool>>("present", field!(present), "Whether the header is present, with any value.")
        .later("regex", |value| value.is_later = true)
});

struct DestinationBlock {
    service: Option<String>,
    weight: u32,
}

static DESTINATION: Static<DestinationBlock> = Static::new(|| {
    Block::new(|| DestinationBlock { service: None, weight: 1 })
        .word::<Opt<ServiceName>>("service", field!(service), "The name of one of `services`.")
        .word::<Count<0, 1_000_000>>(
            "weight",
            field!(weight),
            "Its share of the traffic relative to the others; 0 gets none.",
        )
});

pub(super) fn schema() -> Option<Value> {
    schema::any_of([schema::list_of(ROUTE.schema()), schema::defined("off"), schema::left_open()])
}

/// Reads the routes in the file's order. `off` is the same as an empty list.
pub(super) fn read(clusters: &[Cluster], node: &Node<'_>, reading: &mut Reading<'_>) -> Vec<Route> {
    const EXPECTED: &str = "a list of routes";
    let clusters: HashMap<&str, &Cluster> = clusters.iter().map(|it| (it.name.as_str(), it)).collect();
    match node.shape(EXPECTED, reading) {
        None => {}
        Some(Shape::Word(leaf)) if on_off(&leaf.text) == Some(false) => {}
        Some(Shape::Word(leaf)) => {
            let bad = BadWord::not(&leaf.text, EXPECTED);
            node.parsed::<()>(&leaf, Err(bad), reading);
        }
        Some(Shape::List) => {
            return node.items(reading, |item, reading| Some(route(&clusters, item, reading)));
        }
        Some(Shape::Block) => node.mismatch(EXPECTED, reading),
    }
    Vec::new()
}

fn route(clusters: &HashMap<&str, &Cluster>, node: &Node<'_>, reading: &mut Reading<'_>) -> Route {
    let RouteBlock { name, hosts, matches, to, timeout, is_later } = ROUTE.read_new(node, reading);
    if !node.has("hosts", reading) {
        node.lacks("hosts", "hosts: [orders], or hosts: [\"*\"] for every host of every service", reading);
    }
    match node.has("to", reading) {
        true => {}
        false if is_later => reading.remarks.lacks(&node.at.key("to")),
        false => node.lacks("to", "to: orders, or to: [{ service: orders, weight: 90 }, …]", reading),
    }
    let own_retry = node.child("retry", reading);
    // read once by itself, so that its faults are reported whatever the services are
    if let Some(own) = &own_retry {
        RETRY.read_or_off(&mut Some(Retry::default()), own, reading);
    }
    let weighted = |(service, weight): (String, u32)| {
        let known = clusters.get(service.as_str());
        let (mut timeouts, mut retry) =
            known.map_or_else(Default::default, |of| (of.timeouts.clone(), of.retry.clone()));
        timeouts.request = timeout.unwrap_or(timeouts.request);
        if let Some(own) = &own_retry {
            reading.muted(|reading| RETRY.read_or_off(&mut retry, own, reading));
        }
        Weighted { service, weight, timeouts, retry }
    };
    Route { name, hosts, matches, to: to.into_iter().map(weighted).collect() }
}

const DESTINATIONS: &str = "a service's name, or a list of { service: …, weight: … }";
const ONE_DESTINATION: &str = "a service's name, or { service: …, weight: … }";

fn destinations_schema() -> Option<Value> {
    let one = || schema::any_of([ServiceName::described(), schema::left_open(), DESTINATION.schema()]);
    schema::any_of([one(), schema::list_of(one())])
}

/// Reads services with their weights.
fn destinations(node: &Node<'_>, reading: &mut Reading<'_>) -> Vec<(String, u32)> {
    match node.shape(DESTINATIONS, reading) {
        Some(Shape::List) => node.items(reading, destination),
        Some(Shape::Word(_) | Shape::Block) => destination(node, reading).into_iter().collect(),
        None => Vec::new(),
    }
}

fn destination(node: &Node<'_>, reading: &mut Reading<'_>) -> Option<(String, u32)> {
    match node.shape(ONE_DESTINATION, reading)? {
        Shape::Word(leaf) => {
            node.parsed(&leaf, ServiceName::parse(&leaf.text), reading).map(|ServiceName(name)| (name, 1))
        }
        Shape::List => {
            node.mismatch(ONE_DESTINATION, reading);
            None
        }
        Shape::Block => {
            let DestinationBlock { service, weight } = DESTINATION.read_new(node, reading);
            if service.is_none() {
                node.lacks("service", "{ service: orders, weight: 90 }", reading);
            }
            Some((service?, weight))
        }
    }
}

fn path(node: &Node<'_>, reading: &mut Reading<'_>) -> Option<PathMatch> {
    const EXPECTED: &str = "{ prefix: … } or { exact: … }";
    match node.shape(EXPECTED, reading)? {
        Shape::Word(leaf) => {
            let bad = MatchPath::parse(&leaf.text).map_or_else(
                |bad| bad,
                |_| {
                    let path = shortened(&leaf.text);
                    BadWord::new(format!("must be {EXPECTED}")).help(format!(
                        "write {{ prefix: {path} }}, or {{ exact: {path} }} for this path alone"
                    ))
                },
            );
            node.parsed(&leaf, Err(bad), reading)
        }
        Shape::List => {
            node.mismatch(EXPECTED, reading);
            None
        }
        Shape::Block => {
            let PathBlock { prefix, exact, is_later } = PATH.read_new(node, reading);
            match (exact, prefix) {
                (Some(path), None) => Some(PathMatch::Exact(path)),
                (None, Some(path)) => Some(PathMatch::Prefix(path)),
                (Some(_), Some(_)) => {
                    node.remark("has `exact` and `prefix`", reading).help("keep one of the two");
                    None
                }
                (None, None) => {
                    if !is_later {
                        node.remark("is an empty block", reading)
                            .help("write { prefix: /v2 }, or leave it out for every path");
                    }
                    None
                }
            }
        }
    }
}

fn tell_path(path: Option<&PathMatch>, at: &Scopes<'_>, page: &mut Page<'_>) {
    match path {
        None => {}
        Some(PathMatch::Exact(text)) => page.tell_or(&at.key("exact"), at, text.as_str()),
        Some(PathMatch::Prefix(text)) => page.tell_or(&at.key("prefix"), at, text.as_str()),
    }
}

fn headers(node: &Node<'_>, reading: &mut Reading<'_>) -> Vec<HeaderMatch> {
    let mut seen: HashSet<String> = HashSet::new();
    let mut matches = Vec::new();
    for (HeaderName(typed), entry) in node.map::<HeaderName>(reading) {
        let name = typed.to_ascii_lowercase();
        if !seen.insert(name.clone()) {
            entry
                .value
                .remark_on_key(&format!("repeats `{name}`"), reading)
                .help("the names of headers are case-insensitive; keep one");
        }
        matches.extend(header_value(&entry.value, reading).map(|value| HeaderMatch { name, value }));
    }
    matches
}

fn header_value(node: &Node<'_>, reading: &mut Reading<'_>) -> Option<ValueMatch> {
    const EXPECTED: &str = "a value, or { exact, prefix or present: … }";
    let block = match node.is_null(reading)? {
        true => ValueBlock::default(),
        false => match node.shape(EXPECTED, reading)? {
            Shape::Word(leaf) => {
                let exact = node.parsed(&leaf, HeaderText::parse(&leaf.text), reading);
                return exact.map(|HeaderText(text)| ValueMatch::Exact(text));
            }
            Shape::List => {
                node.mismatch(EXPECTED, reading);
                return None;
            }
            Shape::Block => VALUE.read_new(node, reading),
        },
    };
    let exact = block.exact.map(ValueMatch::Exact);
    let prefix = block.prefix.map(ValueMatch::Prefix);
    let present = block.present.map(ValueMatch::Present);
    let mut written = [exact, prefix, present].into_iter().flatten();
    match (written.next(), written.next()) {
        (Some(_), Some(_)) => {
            node.remark("has more than one of `exact`, `prefix` and `present`", reading).help("keep one");
            None
        }
        (None, _) if !block.is_later => {
            node.remark("is empty", reading).help("write a value, or { present: true } for any value");
            None
        }
        (one, _) => one,
    }
}

fn tell_headers(headers: &[HeaderMatch], at: &Scopes<'_>, page: &mut Page<'_>) {
    for HeaderMatch { name, value } in headers {
        let at = at.key(name);
        match value {
            ValueMatch::Exact(text) => page.tell_or(&at.key("exact"), &at, text.as_str()),
            ValueMatch::Prefix(text) => page.tell(&at.key("prefix"), text.as_str()),
            ValueMatch::Present(present) => page.tell(&at.key("present"), *present),
        }
    }
}

pub(super) fn tell(routes: &[Route], root: &Scopes<'_>, page: &mut Page<'_>) {
    for (nth, Route { name, hosts, matches, to }) in routes.iter().enumerate() {
        let at = &root.key("routes").index(nth);
        page.tell(&at.key("name"), name.clone());
        page.tell_list(hosts.iter().map(RouteHost::spell), &at.whole("hosts"));
        MATCH.tell(matches, &at.key("match"), page);
        for (nth, weighted) in to.iter().enumerate() {
            tell_weighted(weighted, at, &at.whole("to").index(nth), page);
        }
    }
}

/// Reports the policies that a route can change, under the name of the service.
fn tell_weighted(weighted: &Weighted, route: &Scopes<'_>, at: &Scopes<'_>, page: &mut Page<'_>) {
    let Weighted { service, weight, timeouts: Timeouts { request, .. }, retry } = weighted;
    page.tell_or(&at.key("service"), at, service.as_str());
    page.tell(&at.key("weight"), *weight);
    let ruled = at.written_at(route).above(&at.service(service));
    page.tell(&ruled.key("timeout"), Timeout::spell(request));
    match retry {
        Some(retry) => RETRY.tell(retry, &ruled.key("retry"), page),
        None => page.tell(&ruled.key("retry"), "off"),
    }
}
