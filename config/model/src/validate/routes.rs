//! `routes`: the hosts and the services of each route.

use std::collections::{HashMap, HashSet};

use super::covered::Covered;
use super::{actions, policy};
use crate::cluster::UpstreamProtocol;
use crate::fault::Faults;
use crate::path::Trail;
use crate::route::{PathMatch, Route, RouteMatch, ValueMatch, Weighted};
use crate::text::{nearest, shortened};
use crate::{Cluster, Config};

pub(super) fn validate(config: &Config, at: &Trail<'_>, faults: &mut Faults) {
    refuse_shared_names(&config.routes, at, faults);
    let mut directory = Directory::new(&config.clusters);
    for (nth, route) in config.routes.iter().enumerate() {
        self::route(route, &at.index(nth), &mut directory, faults);
    }
    warn_of_unreached(config, at, faults);
    refuse_many_expressions(&config.routes, at, faults);
}

/// The most regular expressions of a file. Each may take [`Pattern::LARGEST`](crate::pattern::Pattern::LARGEST), so together 64 MiB at most.
const MOST_EXPRESSIONS: usize = 1024;

fn refuse_many_expressions(routes: &[Route], at: &Trail<'_>, faults: &mut Faults) {
    let mut sum = 0;
    for (nth, route) in routes.iter().enumerate() {
        sum += expressions(&route.matches);
        if sum > MOST_EXPRESSIONS {
            let what = format!("brings the regular expressions of all routes above {MOST_EXPRESSIONS}");
            faults
                .error(&at.index(nth).key("match"), what)
                .help("they are tried one by one, and each takes up to 64 KiB; `prefix` and `exact` have no such bound");
            return;
        }
    }
}

fn expressions(of: &RouteMatch) -> usize {
    let is_regex = |value: &ValueMatch| matches!(value, ValueMatch::Regex(_));
    usize::from(matches!(of.path, Some(PathMatch::Regex(_))))
        + of.headers.iter().filter(|header| is_regex(&header.value)).count()
        + of.query.iter().filter(|query| is_regex(&query.value)).count()
}

/// Metrics could not distinguish two routes of one name.
fn refuse_shared_names(routes: &[Route], at: &Trail<'_>, faults: &mut Faults) {
    let mut seen: HashSet<&str> = HashSet::new();
    for (nth, name) in routes.iter().enumerate().filter_map(|(nth, it)| Some((nth, it.name.as_deref()?))) {
        if !seen.insert(name) {
            faults
                .error(&at.index(nth).key("name"), format!("is `{name}`, as an earlier route is called"))
                .help("metrics tell routes apart by their names");
        }
    }
}

fn route(route: &Route, at: &Trail<'_>, directory: &mut Directory<'_>, faults: &mut Faults) {
    if route.hosts.is_empty() {
        faults
            .error(&at.key("hosts"), "is empty")
            .help("hosts: [orders], or hosts: [\"*\"] for every host of every service");
    }
    let to = at.key("to");
    match (&route.actions.answer, route.to.is_empty()) {
        (None, true) => drop(faults.error(&to, "is empty").help("to: orders")),
        (Some(_), false) => {
            let what = "says where requests go, and the route answers them itself";
            faults.error(&to, what).help("keep one of `to`, `redirect` and `respond`");
        }
        _ => {}
    }
    actions::validate(&route.actions, at, directory, faults);
    for (nth, one) in route.to.iter().enumerate() {
        let at = to.index(nth);
        directory.look_up(&one.service, &at.key("service"), faults);
        policy::retry(one.retry.as_ref(), &one.timeouts, &at.key("retry"), faults);
    }
    weights(&route.to, &to, faults);
}

fn weights(to: &[Weighted], at: &Trail<'_>, faults: &mut Faults) {
    if !to.is_empty() && to.iter().all(|one| one.weight == 0) {
        faults.error(at, "gives no service any weight").help("give one of them a weight of 1 or more");
    }
    let mut seen = HashSet::new();
    if let Some(twice) = to.iter().find(|one| !seen.insert(&one.service)) {
        faults
            .warn(at, format!("has {} more than once", twice.service))
            .help("once with a higher weight says the same");
    }
}

/// The services that routes can lead to.
pub(super) struct Directory<'a> {
    by_name: HashMap<&'a str, &'a Cluster>,
    /// How many unknown services the routes have named so far.
    strangers: usize,
}

/// For how many unknown names a similar name is searched: each search compares with every service.
const MOST_STRANGERS: usize = 100;

impl<'a> Directory<'a> {
    fn new(clusters: &'a [Cluster]) -> Self {
        let by_name = clusters.iter().map(|cluster| (cluster.name.as_str(), cluster)).collect();
        Self { by_name, strangers: 0 }
    }

    pub(super) fn look_up(&mut self, name: &str, at: &Trail<'_>, faults: &mut Faults) {
        match self.by_name.get(name) {
            None => self.refuse_stranger(name, at, faults),
            Some(cluster) if cluster.protocol == UpstreamProtocol::Tcp => {
                faults
                    .error(at, format!("is {name}, whose protocol is tcp: it has no requests to route"))
                    .help("leave it out, or give the service another `protocol`");
            }
            Some(_) => {}
        }
    }

    fn refuse_stranger(&mut self, name: &str, at: &Trail<'_>, faults: &mut Faults) {
        self.strangers += 1;
        let mut known: Vec<&str> = match self.strangers <= MOST_STRANGERS {
            true => self.by_name.keys().copied().collect(),
            false => Vec::new(),
        };
        known.sort_unstable();
        let help = match nearest(name, &known) {
            Some(meant) => format!("did you mean {meant}?"),
            None if known.is_empty() => "write it under `services` with its endpoints".to_owned(),
            None => shortened(&format!("`services` has {}", known.join(", "))),
        };
        faults
            .error(at, format!("is {}, which is not in `services`", shortened(name)))
            .help(help)
            .depends_on(&Trail::root().key("services").key(name));
    }
}

fn warn_of_unreached(config: &Config, at: &Trail<'_>, faults: &mut Faults) {
    let mut covered = Covered::none_of(&config.clusters);
    for (nth, route) in config.routes.iter().enumerate() {
        if let Some(earlier) = covered.by(&route.hosts) {
            let earlier = at.index(earlier).path();
            faults
                .warn(&at.index(nth), format!("is never reached: {earlier} takes all requests to its hosts"))
                .help("the first match wins; move this route before that one, or give that one a `match`")
                .depends_on(at);
        } else if route.matches == RouteMatch::default() {
            covered.add(nth, &route.hosts);
        }
    }
}
