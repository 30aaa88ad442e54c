//! Compiles a checked configuration and the existing clusters to a [`Snapshot`].
//!
//! Nothing here can fail: credentials and listeners have been prepared before.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use pillion_model::Config;
use pillion_model::cluster::HostPattern;
use pillion_model::listener::Unknown;
use pillion_model::policy::RetryBudget;
use pillion_model::route::{
    Actions as ActionsConfig, Mirror as MirrorConfig, Route as RouteConfig, RouteHost, Weighted,
};
use tokio::time::Instant;

use super::actions::{Actions, HeaderChanges, MIRRORED, Mirror, Rewrite, rate};
use super::rules::{Split, Then};
use super::{
    AddressTable, Application, Destinations, DnsNames, HostTable, InboundSide, Route, Rule, Rules, Snapshot,
};
use pillion_base::limits::Limit;
use pillion_base::net::own::OwnListeners;
use pillion_base::rate::{Rate, RateLimit};
use pillion_telemetry::{Metrics, Symbol};
use pillion_upstream::cluster::alike::Policies;
use pillion_upstream::cluster::budget::Budget;
use pillion_upstream::cluster::{Cluster, ClusterContext};

/// The services' clusters, by name.
pub type Clusters = HashMap<String, Arc<Cluster>>;

/// Retry budgets of single routes, by the route (its name, or its place where it has none) and the service.
pub type Budgets = HashMap<(String, String), (RetryBudget, Arc<Budget>)>;

/// Rate limits of routes, by the route (its name, or its place where it has none).
pub type RateLimits = HashMap<String, Arc<RateLimit>>;

/// The limits of copies to mirrors, by the route (its name, or its place where it has none).
pub type MirrorLimits = HashMap<String, Arc<Limit>>;

/// The parts of a snapshot that are compiled elsewhere.
pub struct Sides {
    pub own: OwnListeners,
    pub names: Arc<DnsNames>,
    pub inbound: Option<Arc<InboundSide>>,
    pub applications: Arc<Destinations<Application>>,
}

/// Takes over what goes on from the snapshot of before.
pub fn compile(
    generation: u64,
    config: &Arc<Config>,
    clusters: &Clusters,
    sides: Sides,
    before: Option<&Snapshot>,
    policies: &mut Policies,
    metrics: &Arc<Metrics>,
) -> Snapshot {
    let (budgets, rate_limits, mirrors) = (Budgets::new(), RateLimits::new(), MirrorLimits::new());
    let names = HashSet::new();
    let mut compiled = Compiled { clusters, metrics, policies, before, names, budgets, rate_limits, mirrors };
    let rules = config.routes.iter().enumerate().map(|(nth, route)| Arc::new(compiled.rule(nth, route)));
    let table = Table::new(config, clusters, rules.collect(), before, metrics);
    let (mut hosts, mut addresses, mut services) =
        (HostTable::default(), AddressTable::default(), HashMap::with_capacity(config.clusters.len()));
    for of in &config.clusters {
        let Some(cluster) = clusters.get(&of.name) else { continue };
        let whole = table.service(cluster, &of.hosts);
        of.addresses.iter().for_each(|address| addresses.add(*address, &whole));
        for host in &of.hosts {
            // The rules of one host are a part of those of the whole service.
            match of.hosts.len() == 1 || whole.rules.is_empty() {
                true => hosts.add(host, &whole),
                false => hosts.add(host, &table.service(cluster, std::slice::from_ref(host))),
            }
        }
        services.insert(cluster.name.clone(), whole);
    }
    for claim in &sides.names.claims {
        let route = services.get(claim.service.as_str());
        route.into_iter().for_each(|route| addresses.add(claim.address, route));
    }
    addresses.sort();
    table.hosts_of_routes(&mut hosts);
    let application = sides.inbound.as_ref().and_then(|inbound| inbound.policy.app);
    Snapshot {
        generation,
        config: config.clone(),
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
        route_names: Arc::new(compiled.names),
        budgets: compiled.budgets,
        rate_limits: compiled.rate_limits,
        mirrors: compiled.mirrors,
    }
}

/// Compiles the entries of `routes`, each once, even if it has many hosts.
struct Compiled<'a> {
    clusters: &'a Clusters,
    metrics: &'a Arc<Metrics>,
    policies: &'a mut Policies,
    /// Its budgets and limits stay in use.
    before: Option<&'a Snapshot>,
    /// Every name that a route has in metrics.
    names: HashSet<Symbol>,
    budgets: Budgets,
    rate_limits: RateLimits,
    mirrors: MirrorLimits,
}

impl Compiled<'_> {
    fn rule(&mut self, nth: usize, of: &RouteConfig) -> Rule {
        let name = of.name.as_deref();
        let symbol = name.map_or(Symbol::EMPTY, |name| self.intern(name));
        let key = name.map_or_else(|| format!("routes[{nth}]"), str::to_owned);
        let actions = self.actions(&key, of);
        let then = match actions {
            Some(actions) if actions.answer.is_some() => Then::Answer(symbol, actions),
            actions => {
                let mut all = Vec::new();
                for to in &of.to {
                    let route = self.diverted(&key, symbol, to, actions.clone());
                    all.extend(route.map(|route| (to.weight, route)));
                }
                Then::To(Split::new(all))
            }
        };
        Rule { nth, matches: of.matches.clone(), then }
    }

    fn diverted(
        &mut self,
        key: &str,
        name: Symbol,
        to: &Weighted,
        actions: Option<Arc<Actions>>,
    ) -> Option<Arc<Route>> {
        let cluster = self.clusters.get(&to.service)?.clone();
        Some(Arc::new(Route {
            name,
            timeouts: self.policies.timeouts.share(&to.timeouts),
            budget: self.budget(key, to, &cluster),
            retry: to.retry.as_ref().map(|retry| self.policies.retries.share(retry)),
            actions,
            ..Route::with(cluster, Rules::default())
        }))
    }

    /// `None`: the route does nothing but send requests to services.
    fn actions(&mut self, key: &str, of: &RouteConfig) -> Option<Arc<Actions>> {
        let ActionsConfig { answer, rewrite, request_headers, response_headers, fault, mirror, rate_limit } =
            &of.actions;
        if of.actions == ActionsConfig::default() {
            return None;
        }
        let (prefix, host) = (rewrite.prefix.as_deref(), rewrite.host.as_deref());
        Some(Arc::new(Actions {
            answer: answer.clone(),
            rewrite: Rewrite::new(prefix, host, of.matches.path.as_ref()),
            request_headers: HeaderChanges::new(request_headers),
            response_headers: HeaderChanges::new(response_headers),
            fault: fault.clone(),
            mirror: mirror.as_ref().and_then(|mirror| self.mirror(key, of.name.as_deref(), mirror)),
            rate_limit: rate_limit.map(|of| self.rate_limit(key, rate(of))),
        }))
    }

    fn intern(&mut self, name: &str) -> Symbol {
        let symbol = self.metrics.intern(name);
        self.names.insert(symbol);
        symbol
    }

    /// The limit of a mirror is always kept: its copies that are under way count after a reload, too.
    fn mirror(&mut self, key: &str, name: Option<&str>, of: &MirrorConfig) -> Option<Mirror> {
        let cluster = self.clusters.get(&of.service)?.clone();
        let name = self.intern(&format!("{}{MIRRORED}", name.unwrap_or_default()));
        let route = Route { name, retry: None, budget: None, ..Route::with(cluster, Rules::default()) };
        let known = self.before.and_then(|before| before.mirrors.get(key)).cloned();
        let limit = known.unwrap_or_else(|| Limit::new("mirrored requests", Mirror::MOST_AT_ONCE));
        self.mirrors.insert(key.to_owned(), limit.clone());
        Some(Mirror { route: Arc::new(route), share: of.share, limit })
    }

    /// The rate limit of a route. It is kept until its settings change.
    fn rate_limit(&mut self, key: &str, rate: Rate) -> Arc<RateLimit> {
        let known = self
            .before
            .and_then(|before| before.rate_limits.get(key))
            .filter(|known| known.rate() == rate)
            .cloned();
        let limit = known.unwrap_or_else(|| Arc::new(RateLimit::new(rate, Instant::now().into_std())));
        self.rate_limits.insert(key.to_owned(), limit.clone());
        limit
    }

    /// The retry budget of a route: the service's own where the route has the same `budget` settings, so that its
    /// retries count for the service. Otherwise the route has a budget of its own, which is kept until its settings
    /// change.
    fn budget(&mut self, route: &str, to: &Weighted, cluster: &Cluster) -> Option<Arc<Budget>> {
        let rule = to.retry.as_ref()?.budget;
        let same = cluster.retry.as_ref().is_some_and(|retry| retry.budget == rule);
        if let Some(own) = cluster.budget.clone().filter(|_| same) {
            return Some(own);
        }
        let key = (route.to_owned(), to.service.clone());
        let known = self
            .before
            .and_then(|before| before.budgets.get(&key))
            .filter(|(known, _)| *known == rule)
            .map(|(_, budget)| budget.clone());
        let budget = known.unwrap_or_else(|| Arc::new(Budget::new(&rule, Instant::now().into_std())));
        self.budgets.insert(key, (rule, budget.clone()));
        Some(budget)
    }
}

struct Table<'a> {
    config: &'a Config,
    clusters: &'a Clusters,
    /// One for each of the file's routes, in their order.
    rules: Vec<Arc<Rule>>,
    /// The routes of the file that name a host, by their number.
    named: Patterns<'a, usize>,
    /// The routes of the file that apply to the hosts of all services, by their number.
    any: Vec<usize>,
    /// The rules of `any`, shared by all services that no other route names.
    any_rules: Rules,
    services: Patterns<'a, &'a Cluster>,
    before: Option<&'a Snapshot>,
    metrics: &'a Arc<Metrics>,
}

impl<'a> Table<'a> {
    fn new(
        config: &'a Config,
        clusters: &'a Clusters,
        rules: Vec<Arc<Rule>>,
        before: Option<&'a Snapshot>,
        metrics: &'a Arc<Metrics>,
    ) -> Self {
        let (mut named, mut any, mut services) = (Patterns::default(), Vec::new(), Patterns::default());
        for (nth, route) in config.routes.iter().enumerate() {
            for host in &route.hosts {
                match host {
                    RouteHost::Any => any.push(nth),
                    RouteHost::One(host) => named.add(host, nth),
                }
            }
        }
        any.dedup(); // a route may list "*" twice
        for of in &config.clusters {
            let cluster = clusters.get(&of.name).map(Arc::as_ref);
            cluster
                .into_iter()
                .for_each(|cluster| of.hosts.iter().for_each(|host| services.add(host, cluster)));
        }
        let any_rules = any.iter().filter_map(|nth| rules.get(*nth).cloned()).collect();
        Self {
            config,
            clusters,
            rules,
            named,
            any,
            any_rules: Arc::new(any_rules),
            services,
            before,
            metrics,
        }
    }

    /// A service's own route to its cluster, with the rules that divert some requests for these hosts of the service.
    /// Without rules and with an unchanged cluster, the previous route is used again.
    fn service(&self, cluster: &Arc<Cluster>, hosts: &[HostPattern]) -> Arc<Route> {
        let rules = self.rules(hosts.iter().flat_map(|host| self.named.of(host)), true);
        let before = self.before.and_then(|before| before.services.get(&cluster.name));
        let same = |route: &&Arc<Route>| {
            rules.is_empty() && route.rules.is_empty() && Arc::ptr_eq(&route.cluster, cluster)
        };
        before.filter(same).cloned().unwrap_or_else(|| Arc::new(Route::with(cluster.clone(), rules)))
    }

    /// The rules of the routes with these numbers, in the order of the file. `with_any` adds the routes that apply to
    /// all services.
    fn rules(&self, named: impl Iterator<Item = usize>, with_any: bool) -> Rules {
        let mut all: Vec<usize> = named.collect();
        if all.is_empty() && with_any {
            return self.any_rules.clone();
        }
        all.extend(self.any.iter().filter(|_| with_any));
        all.sort_unstable();
        all.dedup();
        Arc::new(all.into_iter().filter_map(|nth| self.rules.get(nth).cloned()).collect())
    }

    /// Adds the hosts that only routes name. A host that a wider pattern of a service covers goes to that service by
    /// default.
    fn hosts_of_routes(&self, hosts: &mut HostTable) {
        let mut done: HashSet<&HostPattern> =
            self.config.clusters.iter().flat_map(|cluster| &cluster.hosts).collect();
        // Where routes answer and lead nowhere, no cluster is ever asked.
        let nobody = || Cluster::passthrough(([0, 0, 0, 0], 0).into(), &ClusterContext::new(self.metrics, 1));
        for host in self.config.routes.iter().flat_map(|route| &route.hosts) {
            let RouteHost::One(host) = host else { continue };
            if !done.insert(host) {
                continue;
            }
            let wider = self.wider(host);
            // A route for "*" applies only to hosts of services.
            let rules = self.rules(self.named.of(host), wider.is_some());
            let cluster = wider.clone().or_else(|| self.first_named(host)).unwrap_or_else(nobody);
            let route = Route { is_only_rules: wider.is_none(), ..Route::with(cluster, rules) };
            hosts.add(host, &Arc::new(route));
        }
    }

    /// The service that the first route of a host leads to.
    fn first_named(&self, host: &HostPattern) -> Option<Arc<Cluster>> {
        let mut routes: Vec<usize> = self.named.of(host).collect();
        routes.sort_unstable();
        let mut targets = routes.into_iter().filter_map(|nth| self.config.routes.get(nth)?.to.first());
        targets.find_map(|to| self.clusters.get(&to.service).cloned())
    }

    /// The service with the narrowest pattern that covers this one.
    fn wider(&self, host: &HostPattern) -> Option<Arc<Cluster>> {
        let wider = self.services.covering(host);
        let (_, of) = wider.max_by_key(|(pattern, _)| (pattern.name.len(), pattern.port.is_some()))?;
        self.clusters.get(&*of.name).cloned()
    }
}

/// An index of host patterns with their values. It finds the patterns that cover a host without a search through all.
struct Patterns<'a, T>(HashMap<&'a str, Vec<(&'a HostPattern, T)>>);

impl<T> Default for Patterns<'_, T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<'a, T: Copy> Patterns<'a, T> {
    fn add(&mut self, pattern: &'a HostPattern, of: T) {
        self.0.entry(&pattern.name).or_default().push((pattern, of));
    }

    /// The patterns that cover `host`: their name is that of `host`, or a suffix of it that begins after a dot.
    fn covering(&self, host: &HostPattern) -> impl Iterator<Item = (&'a HostPattern, T)> {
        let above = host.name.match_indices('.').filter_map(|(dot, _)| host.name.get(dot + 1..));
        let names = std::iter::once(host.name.as_str()).chain(above);
        let patterns = names.filter_map(|name| self.0.get(name)).flatten().copied();
        patterns.filter(|(pattern, _)| covers(pattern, host))
    }

    /// The values of the patterns that cover `host`.
    fn of(&self, host: &HostPattern) -> impl Iterator<Item = T> {
        self.covering(host).map(|(_, of)| of)
    }
}

/// Whether every request that matches `host` also matches `pattern`.
fn covers(pattern: &HostPattern, host: &HostPattern) -> bool {
    let below = |name: &str| name.strip_suffix(&pattern.name).is_some_and(|rest| rest.ends_with('.'));
    let names = match pattern.wildcard {
        true => below(&host.name) || (host.wildcard && host.name == pattern.name),
        false => !host.wildcard && host.name == pattern.name,
    };
    names && pattern.port.is_none_or(|port| host.port == Some(port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern() -> impl Strategy<Value = HostPattern> {
        let labels = prop::collection::vec(prop::sample::select(vec!["a", "b", "x"]), 1..4);
        let port = prop::option::of(80..82_u16);
        (labels, any::<bool>(), port).prop_map(|(labels, wildcard, port)| HostPattern {
            name: labels.join("."),
            wildcard,
            port,
        })
    }

    proptest! {
        #[test]
        fn c18_the_index_finds_exactly_the_patterns_that_cover_a_host(
            all in prop::collection::vec(pattern(), 0..30), host in pattern(),
        ) {
            let mut patterns = Patterns::default();
            all.iter().enumerate().for_each(|(nth, pattern)| patterns.add(pattern, nth));
            let mut found: Vec<usize> = patterns.of(&host).collect();
            found.sort_unstable();
            let covering = all.iter().enumerate().filter(|(_, pattern)| covers(pattern, &host));
            prop_assert_eq!(found, covering.map(|(nth, _)| nth).collect::<Vec<_>>());
        }
    }
}
