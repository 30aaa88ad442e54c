//! `inbound.probes`: each probe has a name and asks the application one thing.

use pillion_model::listener::{Probe, Question};

use crate::{bad, good, messages, warnings};

fn probes(list: &str) -> Vec<Probe> {
    good(&format!("inbound: {{ probes: {list} }}")).inbound.expect("an inbound side").probes
}

#[test]
fn a_probe_asks_for_a_path_or_a_connection_or_a_grpc_service() {
    let probe = |name: &str, port, asks| Probe { name: name.into(), port, asks };
    assert_eq!(
        probes(
            "[{ name: a, port: 8080, path: \"/live?x=1\" }, { name: b, port: 3306, tcp: true }, \
             { name: c, port: 9090, grpc: shop.Orders }, { name: d, port: 9090, grpc: \"\", tcp: off }]"
        ),
        [
            probe("a", 8080, Question::Http { path: "/live?x=1".into() }),
            probe("b", 3306, Question::Tcp),
            probe("c", 9090, Question::Grpc { service: "shop.Orders".into() }),
            probe("d", 9090, Question::Grpc { service: String::new() }),
        ]
    );
    assert_eq!(probes("off"), []);
    assert_eq!(probes("[]"), []);
}

#[test]
fn each_fault_of_a_probe_is_reported_at_its_place() {
    let cases = [
        ("{ port: 1, tcp: true }", "2:12 inbound.probes[0] needs `name`"),
        ("{ name: a, tcp: true }", "2:12 inbound.probes[0] needs `port`"),
        ("{ name: a, port: 1 }", "2:12 inbound.probes[0] asks nothing"),
        ("{ name: a, port: 1, tcp: off }", "2:12 inbound.probes[0] asks nothing"),
        (
            "{ name: a, port: 1, tcp: true, path: / }",
            "2:12 inbound.probes[0] has more than one of `path`, `tcp` and `grpc`",
        ),
        ("{ name: a, port: 0, tcp: true }", "2:29 inbound.probes[0].port is `0`, which is not a port"),
        (
            "{ name: a/b, port: 1, tcp: true }",
            "2:20 inbound.probes[0].name is `a/b`, which is not a probe's name",
        ),
        ("{ name: a, port: 1, grpc: true }", "2:38 inbound.probes[0].grpc is `true`, which is not a service"),
        ("{ name: a, port: 1, path: live }", "2:38 inbound.probes[0].path is `live`, which is not a path"),
        (
            "{ name: a, port: 1, tcp: true }, { name: a, port: 2, tcp: true }",
            "2:53 inbound.probes[1].name is `a`, as an earlier probe is called",
        ),
        ("{ name: a, port: 1, http: / }", "2:32 inbound.probes[0] has no key `http`"),
    ];
    for (probe, expected) in cases {
        let messages = messages(&format!("inbound:\n  probes: [{probe}]\n"));
        assert!(messages.iter().any(|message| message.starts_with(expected)), "{probe}: {messages:?}");
    }
}

#[test]
fn a_probe_of_the_sidecar_s_own_port_is_a_fault_unless_the_application_has_it_elsewhere() {
    let probe = |port: u16, rest: &str| {
        format!("inbound: {{ {rest}probes: [{{ name: a, port: {port}, tcp: true }}] }}\n")
    };
    for (port, key) in [
        (15006, "inbound.listen: 0.0.0.0:15006"),
        (15001, "outbound.listen: 127.0.0.1:15001"),
        (15020, "metrics.listen: 0.0.0.0:15020"),
        (15000, "admin.listen: 127.0.0.1:15000"),
    ] {
        let message = bad(&probe(port, "")).to_string();
        assert!(
            message.contains(&format!("is {port}, where the sidecar itself listens ({key})")),
            "{message}"
        );
    }
    let message = bad(&(probe(15053, "") + "dns: {}\n")).to_string();
    assert!(
        message.contains("is 15053, where the sidecar itself listens (dns.listen: 127.0.0.1:15053)"),
        "{message}"
    );
    good(&probe(15053, ""));
    good(&probe(8080, "listen: \"127.0.0.2:8080\", app: \"127.0.0.1:8080\", "));
    good(&probe(9090, "app: \"127.0.0.1:80\", ports: { 9090: { listen: \"127.0.0.2:9090\" } }, "));
}

#[test]
fn probes_without_a_metrics_port_give_a_warning() {
    let file = "metrics: off\ninbound: { probes: [{ name: a, port: 8080, tcp: true }] }\n";
    let messages: Vec<_> = warnings(file).into_iter().map(|fault| fault.message).collect();
    assert_eq!(messages, ["inbound.probes are asked for on the metrics port, and metrics is off"]);
}
