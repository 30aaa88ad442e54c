//! `routes`: their hosts, their conditions and their services.

pub(super) mod actions;
pub(super) mod matching;

use std::collections::HashMap;

use pillion_model::Cluster;
use pillion_model::policy::{Retry, Timeout, Timeouts};
use pillion_model::route::{Actions, Route, RouteHost, RouteMatch, Weighted};
use serde_json::Value;

use super::service::RETRY;
use super::{Block, Static, field};
use crate::page::{Page, Scopes};
use crate::reading::{Node, Reading, Shape};
use crate::schema::{self, Described};
use crate::value::{Count, Leaf, Opt, Word};
use crate::words::{RouteName, ServiceName};
use matching::MATCH;

/// A route as it is written. Policies that it does not set come from its services.
#[derive(Default)]
struct RouteBlock {
    name: Option<String>,
    hosts: Vec<RouteHost>,
    matches: RouteMatch,
    to: Vec<(String, u32)>,
    timeout: Option<Timeout>,
    actions: Actions,
}

static ROUTE: Static<RouteBlock> = Static::new(|| {
    let block = Block::new(RouteBlock::default)
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
        );
    actions::with_actions(block)
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

/// Reads the routes in the file's order.
pub(super) fn read(clusters: &[Cluster], node: &Node<'_>, reading: &mut Reading<'_>) -> Vec<Route> {
    let clusters: HashMap<&str, &Cluster> = clusters.iter().map(|it| (it.name.as_str(), it)).collect();
    node.items_or_off("a list of routes", reading, |item, reading| Some(route(&clusters, item, reading)))
}

fn route(clusters: &HashMap<&str, &Cluster>, node: &Node<'_>, reading: &mut Reading<'_>) -> Route {
    let RouteBlock { name, hosts, matches, to, timeout, actions } = ROUTE.read_new(node, reading);
    let answers = node.has("redirect", reading) || node.has("respond", reading);
    actions::refuse_beside_answer(answers, node, reading);
    if !node.has("hosts", reading) {
        node.lacks("hosts", "hosts: [orders], or hosts: [\"*\"] for every host of every service", reading);
    }
    if !answers && !node.has("to", reading) {
        node.lacks("to", "to: orders, or to: [{ service: orders, weight: 90 }, …]", reading);
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
    let to = if answers { Vec::new() } else { to.into_iter().map(weighted).collect() };
    Route { name, hosts, matches, to, actions }
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

pub(super) fn tell(routes: &[Route], root: &Scopes<'_>, page: &mut Page<'_>) {
    routes.iter().enumerate().for_each(|(nth, route)| tell_one(nth, route, root, page));
}

/// Reports one route, by its number in the file.
pub(crate) fn tell_one(nth: usize, of: &Route, root: &Scopes<'_>, page: &mut Page<'_>) {
    let Route { name, hosts, matches, to, actions } = of;
    let at = &root.key("routes").index(nth);
    page.tell(&at.key("name"), name.clone());
    page.tell_list(hosts.iter().map(RouteHost::spell), &at.whole("hosts"));
    MATCH.tell(matches, &at.key("match"), page);
    for (nth, weighted) in to.iter().enumerate() {
        tell_weighted(weighted, at, &at.whole("to").index(nth), page);
    }
    actions::tell(actions, at, page);
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
