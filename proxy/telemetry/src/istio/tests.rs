use pillion_model::Reason;

use super::*;
use crate::flags;
use crate::{Detail, Metrics};

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const ORDERS: &str = "spiffe://cluster.local/ns/back/sa/orders";

fn own(symbols: &Symbols) -> Own {
    let workload =
        Workload { name: Some("web-v1".to_owned()), namespace: Some("shop".to_owned()), zone: None };
    Own::new(&workload, Some(WEB), symbols)
}

fn labels(direction: Direction, service: Symbol, other: Symbol, symbols: &Symbols) -> IstioLabels {
    IstioLabels {
        direction,
        own: own(symbols),
        service,
        other,
        protocol: IstioProtocol::Http,
        status: 503,
        grpc_status: None,
        flag: "UH",
        is_mutual: true,
    }
}

fn value(labels: IstioLabels, name: &str, symbols: &Symbols) -> String {
    let at = IstioLabels::names().iter().position(|known| *known == name).expect("a label of Istio");
    labels.values(symbols).remove(at)
}

#[test]
fn a_caller_reports_as_source_and_names_the_server_by_its_certificate() {
    let symbols = Symbols::new(100);
    let (service, other) = (symbols.intern("orders"), symbols.intern(ORDERS));
    let labels = labels(Direction::Outbound, service, other, &symbols);
    for (name, expected) in [
        ("reporter", "source"),
        ("source_workload", "web-v1"),
        ("source_workload_namespace", "shop"),
        ("source_principal", WEB),
        ("source_app", "unknown"),
        ("destination_workload", "orders"),
        ("destination_workload_namespace", "back"),
        ("destination_principal", ORDERS),
        ("destination_service", "orders.back.svc.cluster.local"),
        ("destination_service_name", "orders"),
        ("destination_service_namespace", "back"),
        ("destination_canonical_service", "orders"),
        ("request_protocol", "http"),
        ("response_code", "503"),
        ("grpc_response_status", ""),
        ("response_flags", "UH"),
        ("connection_security_policy", "unknown"),
    ] {
        assert_eq!(value(labels, name, &symbols), expected, "{name}");
    }
}

#[test]
fn an_application_reports_as_destination_and_strangers_are_unknown() {
    let symbols = Symbols::new(100);
    let labels = labels(Direction::Inbound, Symbol::APP, Symbol::EMPTY, &symbols);
    let labels = IstioLabels { is_mutual: false, flag: "", ..labels };
    for (name, expected) in [
        ("reporter", "destination"),
        ("source_workload", "unknown"),
        ("source_principal", "unknown"),
        ("destination_workload", "web-v1"),
        ("destination_service", "web-v1.shop.svc.cluster.local"),
        ("destination_service_name", "web-v1"),
        ("response_flags", "-"),
        ("connection_security_policy", "none"),
    ] {
        assert_eq!(value(labels, name, &symbols), expected, "{name}");
    }
}

#[test]
fn services_have_the_names_of_their_hosts() {
    let symbols = Symbols::new(100);
    for (service, expected) in [
        ("orders.shop", ["orders.shop", "orders", "shop"]),
        ("orders.shop.svc.cluster.local", ["orders.shop.svc.cluster.local", "orders", "shop"]),
        ("api.example.com", ["api.example.com", "api", "unknown"]),
        ("orders", ["orders", "orders", "unknown"]),
        ("passthrough", ["unknown", "PassthroughCluster", "unknown"]),
    ] {
        let labels = labels(Direction::Outbound, symbols.intern(service), Symbol::EMPTY, &symbols);
        let names = ["destination_service", "destination_service_name", "destination_service_namespace"];
        assert_eq!(names.map(|name| value(labels, name, &symbols)), expected, "{service}");
    }
}

/// Prometheus drops all but one sample of equal series, or refuses them.
#[test]
fn no_two_lines_of_an_exposition_have_equal_labels() {
    let metrics = Metrics::with(100_000, Detail { has_istio: true, ..Detail::default() });
    metrics.set_own(&Workload::default(), Some(WEB));
    let own = metrics.own();
    let names = ["", "other", "app", "passthrough", "orders", "orders.back.svc.cluster.local", "unknown"];
    let mut requests = 0;
    let reasons = flags::FLAGS.iter().flat_map(|(_, reasons)| reasons.iter().copied());
    for reason in reasons.chain([Reason::AuthzDenied, Reason::Draining]).map(Some).chain([None]) {
        for (service, other) in names.iter().flat_map(|name| ["", ORDERS, "other"].map(|id| (*name, id))) {
            for (direction, is_mutual) in
                Direction::ALL.iter().flat_map(|direction| [true, false].map(|is| (*direction, is)))
            {
                let (service, other) = (metrics.intern(service), metrics.intern_peer(other));
                let flag = flags::flag(reason, || other == Symbol::EMPTY, is_mutual);
                let (protocol, status, grpc_status) = (IstioProtocol::Http, 403, None);
                let labels = IstioLabels {
                    direction,
                    own,
                    service,
                    other,
                    protocol,
                    status,
                    grpc_status,
                    flag,
                    is_mutual,
                };
                metrics.istio_requests(labels).observe(0.1, (1, 1));
                requests += 1;
                metrics.istio_began(labels);
                metrics.istio_ended(labels, (1, 1));
            }
        }
    }
    let text = metrics.encode();
    let mut series = HashSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (labels, _) = line.rsplit_once(' ').expect("a name and a value");
        assert!(series.insert(labels), "{labels}");
    }
    assert!(series.len() > 1_000);
    let counted = |line: &&str| line.starts_with("istio_requests_total{");
    let counts = text.lines().filter(counted).filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
    assert_eq!(counts.sum::<u64>(), requests, "each is counted once");
}

#[test]
fn a_workload_is_named_by_an_id_of_the_own_trust_domain_alone() {
    let symbols = Symbols::new(100);
    for (id, expected) in [
        (ORDERS, ["orders", "back"]),
        ("spiffe://elsewhere/ns/back/sa/orders", ["unknown"; 2]),
        ("spiffe://cluster.local.evil/ns/back/sa/orders", ["unknown"; 2]),
        ("spiffe://cluster.local/x/ns/back/sa/orders", ["unknown"; 2]),
        ("spiffe://cluster.local/ns/back/sa/orders/sa/x", ["unknown"; 2]),
        ("spiffe://cluster.local/ns//sa/orders", ["unknown"; 2]),
    ] {
        let labels = labels(Direction::Outbound, symbols.intern("a.b.c"), symbols.intern(id), &symbols);
        let names = ["destination_workload", "destination_workload_namespace"];
        assert_eq!(names.map(|name| value(labels, name, &symbols)), expected, "{id}");
        assert_eq!(value(labels, "destination_principal", &symbols), id);
    }
}

#[test]
fn a_connection_has_the_same_labels_when_it_begins_and_when_it_has_ended() {
    let metrics = Metrics::with(1_000, Detail { has_istio: true, ..Detail::default() });
    let symbols = Symbols::new(100);
    let began = labels(Direction::Outbound, Symbol::APP, Symbol::EMPTY, &symbols);
    let began = IstioLabels { own: Own::default(), flag: "", protocol: IstioProtocol::Tcp, ..began };
    metrics.istio_began(began);
    metrics.istio_ended(IstioLabels { flag: "UC", ..began }, (1, 2));
    let text = metrics.encode();
    let labels_of = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
    let opened = labels_of("istio_tcp_connections_opened_total{");
    assert!(opened.is_some());
    assert_eq!(opened, labels_of("istio_tcp_connections_closed_total{"));
    assert!(text.contains("response_flags=\"UC\""), "bytes are told with the flag");
}

#[test]
fn the_servers_of_a_removed_service_are_forgotten() {
    let (symbols, servers) = (Symbols::new(100), Servers::default());
    let (kept, gone, id) = (symbols.intern("kept"), symbols.intern("gone"), symbols.intern(ORDERS));
    let address = ([10, 0, 0, 1], 80).into();
    assert!([kept, gone].into_iter().all(|service| servers.note(service, address, id)));
    assert!(!servers.note(kept, address, id), "nothing has changed");
    servers.forget(&HashSet::from([gone]));
    assert_eq!((servers.of(kept, address), servers.of(gone, address)), (id, Symbol::EMPTY));
}

#[test]
fn the_page_has_the_names_of_all_families() {
    const PAGE: &str = include_str!("../../../../docs/metrics.md");
    let metrics = Metrics::with(1_000, Detail { has_istio: true, ..Detail::default() });
    let labels = labels(Direction::Inbound, Symbol::APP, Symbol::EMPTY, &Symbols::new(100));
    let labels = IstioLabels { own: Own::default(), ..labels };
    metrics.istio_requests(labels).observe(0.1, (1, 1));
    metrics.istio_began(labels);
    metrics.istio_ended(labels, (1, 1));
    let text = metrics.encode();
    let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let families: HashSet<&str> = families.filter(|name| name.starts_with("istio_")).collect();
    let named = PAGE.split('`').filter(|word| word.starts_with("istio_") && word.len() > "istio_".len());
    assert_eq!(named.collect::<HashSet<_>>(), families);
}

#[test]
fn every_label_has_one_value_and_a_name_of_its_own() {
    let symbols = Symbols::new(100);
    let labels = labels(Direction::Inbound, Symbol::APP, Symbol::OTHER, &symbols);
    assert_eq!(labels.values(&symbols).len(), IstioLabels::names().len());
    assert_eq!(TcpLabels(labels).values(&symbols).len(), TcpLabels::names().len());
    let names: HashSet<_> = IstioLabels::names().into_iter().collect();
    assert_eq!(names.len(), IstioLabels::names().len());
}
