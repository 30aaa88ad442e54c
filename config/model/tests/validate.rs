//! A configuration that comes from no file is held to the same rules, and its faults carry their paths in the model.

use std::time::Duration;

use pillion_model::Pattern;
use pillion_model::cluster::{Discovery, DnsDiscovery, DnsRecords, UpstreamProtocol, UpstreamTls};
use pillion_model::listener::{Mtls, PortPolicy, Probe, Question};
use pillion_model::policy::{RetryMethods, Timeout};
use pillion_model::route::{Actions, PathMatch, Route, RouteHost, RouteMatch, Weighted};
use pillion_model::{Cluster, Config, Endpoint, Severity, validate, validate_cluster};

fn cluster(name: &str) -> Cluster {
    Cluster { endpoints: vec![Endpoint::at(([10, 0, 0, 1], 80).into())], ..Cluster::new(name) }
}

fn route(to: &[(&str, u32)]) -> Route {
    let weighted = |(service, weight): &(&str, u32)| Weighted {
        service: (*service).to_owned(),
        weight: *weight,
        timeouts: Default::default(),
        retry: Some(Default::default()),
    };
    Route {
        name: None,
        hosts: vec![RouteHost::Any],
        matches: RouteMatch { methods: vec!["GET".to_owned()], ..RouteMatch::default() },
        to: to.iter().map(weighted).collect(),
        actions: Actions::default(),
    }
}

/// `PATH WHAT` for each fault.
fn faults(config: &Config) -> Vec<String> {
    validate(config).iter().map(|fault| format!("{} {}", fault.path, fault.what)).collect()
}

#[test]
fn the_built_in_defaults_have_no_fault() {
    assert_eq!(faults(&Config::default()), Vec::<String>::new());
    let config = Config { clusters: vec![cluster("orders"), cluster("web")], ..Config::default() };
    assert_eq!(faults(&config), Vec::<String>::new());
}

#[test]
fn each_fault_of_a_cluster_carries_the_path_of_its_key() {
    let mut cluster = cluster("orders");
    cluster.hosts.clear();
    cluster.addresses.clear();
    cluster.endpoints.push(cluster.endpoints[0].clone());
    let records = DnsRecords::Services { name: "_http._tcp.orders".into() };
    cluster.discovery = Some(Discovery::Dns(DnsDiscovery { records, refresh: Duration::from_millis(1) }));
    cluster.tls = UpstreamTls::Mutual { identities: Vec::new(), sni: None, trust_bundle: None };
    cluster.timeouts.request = Timeout::Set(Duration::from_secs(1));
    let retry = cluster.retry.as_mut().unwrap();
    retry.attempts = 0;
    retry.methods = RetryMethods::All;
    retry.backoff.max = Some(Duration::from_millis(1));
    retry.max_body = usize::MAX;
    retry.per_try_timeout = Some(Duration::from_secs(1));
    let paths = |name: &str| {
        [
            "hosts",
            "endpoints[1]",
            "endpoints.refresh",
            "tls",
            "retry.attempts",
            "retry.methods",
            "retry.backoff.max",
            "retry.max_body",
            "retry.per_try_timeout",
        ]
        .map(|key| format!("{name}{key}"))
    };
    let alone: Vec<_> =
        validate_cluster(&cluster, false).iter().map(|fault| fault.path.to_string()).collect();
    assert_eq!(alone, paths(""), "paths of a cluster by itself begin at the cluster");
    let config = Config { clusters: vec![cluster], ..Config::default() };
    let faults: Vec<_> = validate(&config).into_iter().collect();
    let whole: Vec<_> = faults.iter().map(|fault| fault.path.to_string()).collect();
    assert_eq!(whole, paths("services.orders."));
    let warnings: Vec<_> = faults.iter().filter(|fault| fault.severity == Severity::Warning).collect();
    assert_eq!(warnings.len(), 3, "{warnings:#?}");
    let tls = faults.iter().find(|fault| fault.path.to_string().ends_with("tls")).unwrap();
    assert_eq!(tls.depends_on.as_ref().unwrap().to_string(), "identity");
}

#[test]
fn a_cluster_may_not_have_the_name_that_metrics_use_for_unknown_destinations() {
    let config = Config { clusters: vec![cluster("passthrough")], ..Config::default() };
    assert_eq!(
        faults(&config),
        ["services.passthrough is a reserved name: metrics use it for unknown destinations"]
    );
    assert!(!validate(&config).are_bearable());
}

#[test]
fn two_clusters_with_one_name_or_host_are_refused() {
    let config = Config { clusters: vec![cluster("a"), cluster("a")], ..Config::default() };
    assert_eq!(faults(&config), ["services.a occurs twice", "services.a.hosts has `a` twice"]);
    let other = Cluster { hosts: cluster("a").hosts, ..cluster("b") };
    let config = Config { clusters: vec![cluster("a"), other], ..Config::default() };
    assert_eq!(faults(&config), ["services.b.hosts has `a`, which means service a already"]);
}

#[test]
fn a_route_may_lead_only_to_known_clusters_that_speak_http() {
    let database = Cluster { protocol: UpstreamProtocol::Tcp, ..cluster("db") };
    let config = Config {
        clusters: vec![cluster("orders"), database],
        routes: vec![
            route(&[("ordrs", 1)]),
            route(&[("orders", 0), ("orders", 0)]),
            route(&[("orders", 1), ("db", 1)]),
            Route { hosts: Vec::new(), ..route(&[]) },
        ],
        ..Config::default()
    };
    assert_eq!(
        faults(&config),
        [
            "routes[0].to[0].service is ordrs, which is not in `services`",
            "routes[1].to gives no service any weight",
            "routes[1].to has orders more than once",
            "routes[2].to[1].service is db, whose protocol is tcp: it has no requests to route",
            "routes[3].hosts is empty",
            "routes[3].to is empty",
        ]
    );
    let stranger = validate(&config).into_iter().next().unwrap();
    assert_eq!(stranger.help.as_deref(), Some("did you mean orders?"));
    assert_eq!(stranger.depends_on.unwrap().to_string(), "services.ordrs");
}

#[test]
fn faults_of_listeners_identity_probes_and_limits_carry_their_paths() {
    let mut config = Config::default();
    let inbound = config.inbound.as_mut().unwrap();
    inbound.mtls = Mtls::Strict;
    inbound.app = Some("127.0.0.1:15006".parse().unwrap());
    inbound.ports.insert(80, PortPolicy { mtls: Some(Mtls::Permissive), ..PortPolicy::default() });
    inbound.probes = vec![
        Probe { name: "a".into(), port: 15020, asks: Question::Tcp },
        Probe { name: "a".into(), port: 1, asks: Question::Tcp },
    ];
    config.outbound.as_mut().unwrap().listen.clear();
    config.admin.listen = vec!["127.0.0.1:15020".parse().unwrap()];
    config.drain.delay = Duration::from_secs(60);
    config.limits.header_bytes = 1;
    let paths: Vec<_> = validate(&config).iter().map(|fault| fault.path.to_string()).collect();
    assert_eq!(
        paths,
        [
            "inbound.mtls",
            "inbound.ports.80.mtls",
            "inbound.app",
            "outbound.listen",
            "drain.delay",
            "limits.header_bytes",
            "admin.listen",
            "inbound.probes[1].name",
            "inbound.probes[0].port",
        ]
    );
}

#[test]
fn the_regular_expressions_of_all_routes_have_a_bound() {
    let expression = Pattern::new("/[a-z]+").expect("a pattern");
    let matches = RouteMatch { path: Some(PathMatch::Regex(expression)), ..RouteMatch::default() };
    let of = |routes: usize| {
        let route = |_| Route { matches: matches.clone(), ..route(&[("orders", 1)]) };
        let routes = (0..routes).map(route).collect();
        Config { clusters: vec![cluster("orders")], routes, ..Config::default() }
    };
    let bound = |config| {
        faults(&config).into_iter().filter(|fault| fault.contains("expressions")).collect::<Vec<_>>()
    };
    assert!(bound(of(1024)).is_empty());
    let fault = "routes[1024].match brings the regular expressions of all routes above 1024";
    assert_eq!(bound(of(1100)), [fault]);
}
