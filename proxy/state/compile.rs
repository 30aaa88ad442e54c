//! From a checked configuration and the clusters that live, to a [`Snapshot`].
//!
//! Pure but for the clusters' creation: what can fail (credentials, addresses) has been done before.

use std::collections::HashMap;
use std::sync::Arc;

use pillion_model::Config;
use pillion_model::cluster::HostPattern;
use pillion_model::listener::Unknown;
use pillion_model::policy::RetryBudget;
use pillion_model::route::{Route as RouteConfig, RouteHost, Weighted};
use tokio::time::Instant;

use super::rules::Split;
use super::{AddressTable, Application, Destinations, HostTable, InboundSide, Names, Route, Rule, Snapshot};
use crate::cluster::Cluster;
use crate::cluster::budget::Budget;
use crate::net::own::OwnListeners;
use crate::telemetry::Metrics;

/// The services' clusters, by name.
pub(crate) type Clusters = HashMap<String, Arc<Cluster>>;

/// Retry budgets that routes have for themselves, by the route (its name, else its place) and the service.
pub(crate) type Budgets = HashMap<(String, String), (RetryBudget, Arc<Budget>)>;

/// What surrounds the outbound tables in a snapshot.
pub(crate) struct Sides {
    pub(crate) own: OwnListeners,
    pub(crate) names: Arc<Names>,
    pub(crate) inbound: Option<Arc<InboundSide>>,
    pub(crate) applications: Arc<Destinations<Application>>,
}

pub(crate) fn compile(
    generation: u64,
    config: &Config,
    clusters: &Clusters,
    sides: Sides,
    before: &Budgets,
    metrics: &Metrics,
) -> Snapshot {
    let mut compiled = Compiled { clusters, metrics, before, budgets: Budgets::new() };
    let rules = config.routes.iter().enumerate().map(|(nth, route)| Arc::new(compiled.rule(nth, route)));
    let table = Table { config, clusters, rules: rules.collect() };
    let (mut hosts, mut addresses, mut services) =
        (HostTable::default(), AddressTable::default(), HashMap::new());
    for of in &config.clusters {
        let Some(cluster) = clusters.get(&of.name) else { continue };
        let whole = table.service(cluster, |route| of.hosts.iter().any(|host| is_of(route, host)));
        of.addresses.iter().for_each(|address| addresses.add(*address, &whole));
        for host in &of.hosts {
            hosts.add(host, &table.service(cluster, |route| is_of(route, host)));
        }
        services.insert(cluster.name.clone(), whole);
    }
    for claim in &sides.names.claims {
        let route = services.get(claim.service.as_str());
        route.into_iter().for_each(|route| addresses.add(claim.address, route));
    }
    table.hosts_of_routes(&mut hosts);
    let application = sides.inbound.as_ref().and_then(|inbound| inbound.policy.app);
    Snapshot {
        generation,
        hosts,
        addresses,
        names: sides.names,
        services,
        policy: config.outbound.as_ref().map_or(Unknown::Deny, |outbound| outbound.unknown),
        own: sides.own,
        application: application.map(|app| sides.applications.route(Application::at(app))),
        inbound: sides.inbound,
        applications: sides.applications,
        limits: config.limits,
        budgets: compiled.budgets,
    }
}

/// Routes of the file, each compiled once however many hosts it has.
struct Compiled<'a> {
    clusters: &'a Clusters,
    metrics: &'a Metrics,
    before: &'a Budgets,
    budgets: Budgets,
}

impl Compiled<'_> {
    fn rule(&mut self, nth: usize, of: &RouteConfig) -> Rule {
        let mut all = Vec::new();
        for to in &of.to {
            all.extend(self.diverted(nth, of.name.as_deref(), to).map(|route| (to.weight, route)));
        }
        Rule { matches: of.matches.clone(), to: Split::new(all) }
    }

    fn diverted(&mut self, nth: usize, name: Option<&str>, to: &Weighted) -> Option<Arc<Route>> {
        let cluster = self.clusters.get(&to.service)?.clone();
        Some(Arc::new(Route {
            name: name.map_or(crate::telemetry::Symbol::EMPTY, |name| self.metrics.intern(name)),
            timeouts: to.timeouts.clone(),
            budget: self.budget(name.map_or_else(|| format!("routes[{nth}]"), str::to_owned), to, &cluster),
            retry: to.retry.clone(),
            ..Route::with(cluster, [].into())
        }))
    }

    /// The service's own, where the rule is the same: what a route does counts for its service. Else the route's,
    /// which lives on while its rule does.
    fn budget(&mut self, route: String, to: &Weighted, cluster: &Cluster) -> Option<Arc<Budget>> {
        let rule = to.retry.as_ref()?.budget;
        let same = cluster.retry.as_ref().is_some_and(|retry| retry.budget == rule);
        if let Some(own) = cluster.budget.clone().filter(|_| same) {
            return Some(own);
        }
        let key = (route, to.service.clone());
        let known =
            self.before.get(&key).filter(|(known, _)| *known == rule).map(|(_, budget)| budget.clone());
        let budget = known.unwrap_or_else(|| Arc::new(Budget::new(&rule, Instant::now().into_std())));
        self.budgets.insert(key, (rule, budget.clone()));
        Some(budget)
    }
}

struct Table<'a> {
    config: &'a Config,
    clusters: &'a Clusters,
    /// Of the file's routes, in their order.
    rules: Vec<Arc<Rule>>,
}

impl Table<'_> {
    /// A service's own route, with the rules that divert some of its requests.
    fn service(&self, cluster: &Arc<Cluster>, is_looked_at: impl Fn(&RouteConfig) -> bool) -> Arc<Route> {
        Arc::new(Route::with(cluster.clone(), self.rules(is_looked_at)))
    }

    fn rules(&self, is_looked_at: impl Fn(&RouteConfig) -> bool) -> Box<[Arc<Rule>]> {
        let routes = self.config.routes.iter().zip(&self.rules).filter(|(route, _)| is_looked_at(route));
        routes.map(|(_, rule)| rule.clone()).collect()
    }

    /// Hosts that only routes name. One that a wider pattern of a service covers goes there by default.
    fn hosts_of_routes(&self, hosts: &mut HostTable) {
        let named = self.config.routes.iter().flat_map(|route| &route.hosts);
        let single = named.filter_map(|host| match host {
            RouteHost::One(host) => Some(host),
            RouteHost::Any => None,
        });
        for host in single.filter(|host| !self.is_a_services(host)) {
            let wider = self.wider(host);
            // "*" means the hosts of services.
            let rules = self.rules(|route| is_of(route, host) && (wider.is_some() || names(route, host)));
            let first = || self.config.routes.iter().find(|route| names(route, host))?.to.first();
            let fallback = || first().and_then(|to| self.clusters.get(&to.service).cloned());
            let Some(cluster) = wider.clone().or_else(fallback) else { continue };
            let route = Route { is_only_rules: wider.is_none(), ..Route::with(cluster, rules) };
            hosts.add(host, &Arc::new(route));
        }
    }

    fn is_a_services(&self, host: &HostPattern) -> bool {
        self.config.clusters.iter().any(|cluster| cluster.hosts.contains(host))
    }

    /// The service whose narrowest pattern covers this one.
    fn wider(&self, host: &HostPattern) -> Option<Arc<Cluster>> {
        let patterns = self.config.clusters.iter().flat_map(|of| of.hosts.iter().map(move |host| (of, host)));
        let wider = patterns.filter(|(_, pattern)| covers(pattern, host));
        let (of, _) = wider.max_by_key(|(_, pattern)| (pattern.name.len(), pattern.port.is_some()))?;
        self.clusters.get(&of.name).cloned()
    }
}

/// Whether a route looks at the requests of a host.
fn is_of(route: &RouteConfig, host: &HostPattern) -> bool {
    route.hosts.contains(&RouteHost::Any) || names(route, host)
}

/// Whether it does so by name.
fn names(route: &RouteConfig, host: &HostPattern) -> bool {
    let named = |pattern: &HostPattern| pattern == host || covers(pattern, host);
    route.hosts.iter().any(|pattern| matches!(pattern, RouteHost::One(pattern) if named(pattern)))
}

/// Whether every request for `host` is one for `pattern`.
fn covers(pattern: &HostPattern, host: &HostPattern) -> bool {
    let below = |name: &str| name.strip_suffix(&pattern.name).is_some_and(|rest| rest.ends_with('.'));
    let names = match pattern.wildcard {
        true => below(&host.name) || (host.wildcard && host.name == pattern.name),
        false => !host.wildcard && host.name == pattern.name,
    };
    names && pattern.port.is_none_or(|port| host.port == Some(port))
}
