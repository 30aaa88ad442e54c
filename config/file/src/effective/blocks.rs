//! One service, and one route.

use serde_json::Value;

use super::Page;
use super::origin::Scopes;
use super::sections::tell_listen;
use super::spell::{condition, duration, or_off, path, share, size, word};
use crate::words::TlsMode;
use pillion_model::Endpoint;
use pillion_model::cluster::{Cluster, Discovery, UpstreamTls};
use pillion_model::policy::{
    Backoff, ConnectionPolicy, Limits, OutlierDetection, Retry, RetryBudget, RetryMethods, Timeouts,
};
use pillion_model::route::{HeaderMatch, PathMatch, Route, RouteHost, RouteMatch, ValueMatch, Weighted};

pub(super) fn cluster(cluster: &Cluster, at: &Scopes<'_>, page: &mut Page<'_>) {
    let Cluster {
        name: _, // in every key
        hosts,
        addresses,
        listen,
        endpoints,
        discovery,
        protocol,
        tls,
        load_balancer,
        timeouts,
        connection,
        retry,
        limits,
        outlier_detection,
    } = cluster;
    tell_list(hosts.iter().map(|host| host.to_string().into()), &at.whole("hosts"), page);
    tell_list(addresses.iter().map(|it| it.to_string().into()), &at.whole("addresses"), page);
    tell_listen(listen, at, page);
    match discovery {
        Some(discovery) => tell_discovery(discovery, &at.whole("endpoints"), page),
        None => tell_endpoints(endpoints, &at.whole("endpoints"), page),
    }
    page.tell(&at.key("protocol"), word(protocol));
    tell_tls(tls, &at.whole("tls"), page);
    page.tell(&at.key("load_balancer"), word(load_balancer));
    tell_timeouts(timeouts, at, page);
    tell_connection(connection, &at.key("connection"), page);
    tell_retry(retry.as_ref(), &at.key("retry"), page);
    tell_limits(limits, &at.key("circuit_breaker"), page);
    tell_outliers(outlier_detection.as_ref(), &at.key("outlier_detection"), page);
}

fn tell_list(items: impl Iterator<Item = Value>, at: &Scopes<'_>, page: &mut Page<'_>) {
    items.enumerate().for_each(|(nth, item)| page.tell(&at.index(nth), item));
}

fn tell_endpoints(endpoints: &[Endpoint], at: &Scopes<'_>, page: &mut Page<'_>) {
    for (nth, Endpoint { address, weight, .. }) in endpoints.iter().enumerate() {
        let at = at.index(nth);
        page.tell(&at, address.to_string());
        page.tell(&at.key("weight"), weight.get());
    }
}

fn tell_discovery(discovery: &Discovery, at: &Scopes<'_>, page: &mut Page<'_>) {
    let Discovery { name, port, refresh } = discovery;
    page.tell_or(&at.key("dns"), at, format!("{name}:{port}"));
    page.tell(&at.key("refresh"), duration(*refresh));
}

fn tell_tls(tls: &UpstreamTls, at: &Scopes<'_>, page: &mut Page<'_>) {
    let (mode, identities, sni, trust_bundle) = match tls {
        UpstreamTls::Off => (TlsMode::Off, &[][..], &None, &None),
        UpstreamTls::Simple { sni, trust_bundle } => (TlsMode::Simple, &[][..], sni, trust_bundle),
        UpstreamTls::Mutual { identities, sni, trust_bundle } => {
            (TlsMode::Mutual, &identities[..], sni, trust_bundle)
        }
    };
    page.tell_or(&at.key("mode"), at, word(&mode));
    let list = at.key("identities");
    for (nth, id) in identities.iter().enumerate() {
        page.tell_or(&list.index(nth), at, id.as_str());
    }
    if mode != TlsMode::Off {
        page.tell(&at.key("sni"), sni.clone());
        page.tell(&at.key("trust_bundle"), trust_bundle.as_deref().map_or(Value::Null, path));
    }
}

fn tell_timeouts(timeouts: &Timeouts, at: &Scopes<'_>, page: &mut Page<'_>) {
    let Timeouts { connect, request, stream_idle, max_duration } = timeouts;
    page.tell(&at.key("connect_timeout"), duration(*connect));
    page.tell(&at.key("timeout"), or_off(request.bound(), duration));
    let (bodies, tunnels) = (or_off(stream_idle.body(), duration), or_off(stream_idle.tunnel(), duration));
    page.tell(&at.key("stream_idle_timeout"), idle(&bodies, &tunnels));
    page.tell(&at.key("max_duration"), or_off(*max_duration, duration));
}

/// One key rules both, once it is written.
fn idle(bodies: &Value, tunnels: &Value) -> Value {
    match (bodies.as_str(), tunnels.as_str()) {
        (Some(bodies), Some(tunnels)) if bodies != tunnels => {
            format!("{bodies} ({tunnels} for TCP, upgrades and CONNECT)").into()
        }
        _ => bodies.clone(),
    }
}

fn tell_connection(connection: &ConnectionPolicy, at: &Scopes<'_>, page: &mut Page<'_>) {
    let ConnectionPolicy { idle_timeout, max_age, max_requests, keepalive } = connection;
    page.tell(&at.key("idle_timeout"), or_off(*idle_timeout, duration));
    page.tell(&at.key("max_age"), or_off(*max_age, duration));
    page.tell(&at.key("max_requests"), or_off(*max_requests, Value::from));
    page.tell(&at.key("keepalive"), or_off(*keepalive, duration));
}

fn tell_retry(retry: Option<&Retry>, at: &Scopes<'_>, page: &mut Page<'_>) {
    let Some(retry) = retry else { return page.tell(at, "off") };
    let Retry { attempts, conditions, methods, per_try_timeout, backoff, budget, max_body } = retry;
    page.tell(&at.key("attempts"), *attempts);
    let (named, short) = (at.whole("conditions"), at.whole("on"));
    for (nth, one) in conditions.iter().enumerate() {
        let written = if named.is_written() { &named } else { &short };
        page.tell_as(named.index(nth).key_text(), condition(*one), &written.index(nth));
    }
    tell_methods(methods, &at.whole("methods"), page);
    page.tell(&at.key("per_try_timeout"), or_off(*per_try_timeout, duration));
    let Backoff { base, max } = backoff;
    page.tell(&at.key("backoff").key("base"), duration(*base));
    page.tell(&at.key("backoff").key("max"), duration(*max));
    let RetryBudget { ratio, min_per_second } = budget;
    page.tell(&at.key("budget").key("ratio"), share(*ratio));
    page.tell(&at.key("budget").key("min_per_second"), *min_per_second);
    page.tell(&at.key("max_body"), size(u64::try_from(*max_body).unwrap_or(u64::MAX)));
}

fn tell_methods(methods: &RetryMethods, at: &Scopes<'_>, page: &mut Page<'_>) {
    match methods {
        RetryMethods::Idempotent => page.tell(at, "idempotent"),
        RetryMethods::IdempotentOrKeyed => page.tell(at, "idempotent_or_keyed"),
        RetryMethods::All => page.tell(at, "all"),
        RetryMethods::List(list) => tell_list(list.iter().map(|it| it.as_str().into()), at, page),
    }
}

fn tell_limits(limits: &Limits, at: &Scopes<'_>, page: &mut Page<'_>) {
    let Limits { max_connections, max_pending_requests, max_requests, max_retries } = limits;
    page.tell(&at.key("max_connections"), *max_connections);
    page.tell(&at.key("max_pending_requests"), *max_pending_requests);
    page.tell(&at.key("max_requests"), *max_requests);
    page.tell(&at.key("max_retries"), *max_retries);
}

fn tell_outliers(outliers: Option<&OutlierDetection>, at: &Scopes<'_>, page: &mut Page<'_>) {
    let Some(outliers) = outliers else { return page.tell(at, "off") };
    let OutlierDetection { consecutive_errors, base_ejection, max_ejected } = outliers;
    page.tell(&at.key("consecutive_errors"), or_off(*consecutive_errors, Value::from));
    page.tell(&at.key("base_ejection"), duration(*base_ejection));
    page.tell(&at.key("max_ejected"), share(*max_ejected));
}

/// `root` leads to the services, whose policies a route takes over.
pub(super) fn route(route: &Route, root: &Scopes<'_>, at: &Scopes<'_>, page: &mut Page<'_>) {
    let Route { name, hosts, matches, to } = route;
    page.tell(&at.key("name"), name.clone());
    let host = |host: &RouteHost| match host {
        RouteHost::Any => "*".into(),
        RouteHost::One(host) => host.to_string().into(),
    };
    tell_list(hosts.iter().map(host), &at.whole("hosts"), page);
    tell_match(matches, &at.key("match"), page);
    let list = at.whole("to");
    for (nth, weighted) in to.iter().enumerate() {
        tell_weighted(weighted, root, at, &list.index(nth), page);
    }
}

fn tell_match(matches: &RouteMatch, at: &Scopes<'_>, page: &mut Page<'_>) {
    let RouteMatch { path, methods, headers } = matches;
    match path {
        None => {}
        Some(PathMatch::Exact(text)) => {
            page.tell_or(&at.key("path").key("exact"), &at.key("path"), text.as_str())
        }
        Some(PathMatch::Prefix(text)) => {
            page.tell_or(&at.key("path").key("prefix"), &at.key("path"), text.as_str());
        }
    }
    tell_list(methods.iter().map(|it| it.as_str().into()), &at.whole("methods"), page);
    for HeaderMatch { name, value } in headers {
        let at = at.key("headers").key(name);
        match value {
            ValueMatch::Exact(text) => page.tell_or(&at.key("exact"), &at, text.as_str()),
            ValueMatch::Prefix(text) => page.tell(&at.key("prefix"), text.as_str()),
            ValueMatch::Present(present) => page.tell(&at.key("present"), *present),
        }
    }
}

/// What of the service's policies a route can rule, it tells under the name of the target.
fn tell_weighted(
    weighted: &Weighted,
    root: &Scopes<'_>,
    route: &Scopes<'_>,
    at: &Scopes<'_>,
    page: &mut Page<'_>,
) {
    let Weighted { service, weight, timeouts, retry } = weighted;
    page.tell_or(&at.key("service"), at, service.as_str());
    page.tell(&at.key("weight"), *weight);
    let ruled = at.written_at(route).above(&root.service(service));
    page.tell(&ruled.key("timeout"), or_off(timeouts.request.bound(), duration));
    tell_retry(retry.as_ref(), &ruled.key("retry"), page);
}
