//! The configuration files of the comparison with other proxies.

use std::net::SocketAddr;

use pillion_model::cluster::{UpstreamProtocol, UpstreamTls};
use pillion_model::listener::{AppProtocol, Mtls};

use crate::good;

fn head(me: &str) -> String {
    format!(
        "version: 1\nworkers: 1\n\
         identity: {{ certificate: /lab/{me}.crt, key: /lab/{me}.key, trust_bundle: /lab/ca.crt }}\n\
         tls: {{ min_version: \"1.3\", post_quantum: off }}\n\
         admin: {{ listen: 127.0.0.1:0 }}\nmetrics: {{ listen: 127.0.0.1:0 }}\n"
    )
}

fn outbound(protocol: &str, tls: &str) -> String {
    head("client")
        + &format!(
            "\ninbound: off\noutbound: {{ listen: 127.0.0.1:0 }}\nservices:\n  next:\n    listen: 127.0.0.1:21001\n    \
             endpoints: [\"127.0.0.1:21002\"]\n    protocol: {protocol}\n    tls: {tls}\n    connect_timeout: 1s\n    \
             timeout: 15s\n    retry: {{ attempts: 2, conditions: [5xx, reset, connect_failure] }}\n    \
             circuit_breaker: {{ max_connections: 100000, max_pending_requests: 100000, max_requests: 100000, max_retries: 1000 }}\n"
        )
}

fn inbound(protocol: &str) -> String {
    head("server")
        + &format!(
            "\ninbound:\n  listen: 127.0.0.1:21002\n  app: 127.0.0.1:21003\n  mtls: strict\n  max_connections: 100000\n  \
             max_requests: 100000\n  ports: {{ 21003: {{ protocol: {protocol} }} }}\noutbound: off\n"
        )
}

const MUTUAL: &str = r#"{ mode: mutual, identities: ["spiffe://lab.test/ns/default/sa/server"] }"#;

#[test]
fn the_single_scenario_is_one_plain_sidecar() {
    let cluster = good(&outbound("http1", "off")).clusters.remove(0);
    assert_eq!((cluster.protocol, cluster.tls), (UpstreamProtocol::Http1, UpstreamTls::Off));
    assert_eq!((cluster.limits.max_requests, cluster.limits.max_retries), (100_000, 1000));
}

#[test]
fn the_pair_scenarios_are_two_sidecars_with_mutual_tls_between() {
    for (between, to_app) in [("http1", "http1"), ("http2", "http1"), ("http2", "http2"), ("tcp", "tcp")] {
        let caller = good(&outbound(between, MUTUAL));
        assert!(
            matches!(&caller.clusters[0].tls, UpstreamTls::Mutual { identities, .. } if identities.len() == 1)
        );
        let application = good(&inbound(to_app)).inbound.unwrap();
        assert_eq!((application.mtls, application.max_connections), (Mtls::Strict, Some(100_000)));
        let port = application.app.map(|app: SocketAddr| app.port()).unwrap();
        let expected = match to_app {
            "tcp" => AppProtocol::Tcp,
            "http2" => AppProtocol::Http2,
            _ => AppProtocol::Http1,
        };
        assert_eq!(application.ports[&port].protocol, Some(expected));
    }
}
