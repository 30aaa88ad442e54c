//! `/probe/NAME` as the kubelet requests it: in plaintext, from a sidecar with strict mTLS.

use std::net::SocketAddr;

use crate::support::backend::{Backend, nobody};
use crate::support::certs::Authority;
use crate::support::curl::curl;
use crate::support::sidecar::{Plan, Sidecar};
use crate::support::tools::{printed, require, require_python};

async fn strict(app: SocketAddr, probes: &str) -> Sidecar {
    let sidecar = Plan::application(app, &format!("probes: [{probes}]"));
    sidecar.identified(&Authority::new(), "orders").start().await
}

/// The status, and the body that curl prints.
async fn asked(at: SocketAddr, path: &str, words: &[&str]) -> (u16, String) {
    let mut curl = curl();
    curl.args(words).args(["--write-out", "\n%{http_code}"]).arg(format!("http://{at}{path}"));
    let printed = printed(curl).await;
    let (body, status) = printed.rsplit_once('\n').expect("a body and a status");
    (status.parse().expect("a status"), body.to_owned())
}

#[tokio::test]
async fn curl_is_refused_by_the_inbound_port_and_answered_by_the_probe() {
    if !require("curl") {
        return;
    }
    let app = Backend::echo().await;
    let (port, closed) = (app.address.port(), nobody().port());
    let probes = format!(
        "{{ name: live, port: {port}, path: /healthz }}, {{ name: open, port: {port}, tcp: true }}, \
         {{ name: closed, port: {closed}, tcp: true }}"
    );
    let sidecar = strict(app.address, &probes).await;
    assert_eq!(asked(sidecar.inbound(), "/healthz", &[]).await.0, 403, "strict");
    assert_eq!(asked(sidecar.metrics(), "/probe/live", &[]).await.0, 200);
    assert_eq!(asked(sidecar.metrics(), "/probe/live", &["--head"]).await.0, 200);
    assert_eq!(asked(sidecar.metrics(), "/probe/open", &[]).await, (200, "open\n".to_owned()));
    let (status, why) = asked(sidecar.metrics(), "/probe/closed", &[]).await;
    assert_eq!(status, 503);
    let refused = format!("cannot connect to 127.0.0.1:{closed}: Connection refused");
    assert!(why.starts_with(&refused), "{why}");
    assert_eq!(asked(sidecar.metrics(), "/probe/other", &[]).await.0, 404);
}

#[tokio::test]
async fn a_grpc_probe_asks_the_health_service_of_grpcio() {
    if !(require("curl") && require_python("grpc")) {
        return;
    }
    let (_server, app) = crate::grpc::server().await;
    let probe =
        |name: &str, service: &str| format!("{{ name: {name}, port: {}, grpc: \"{service}\" }}", app.port());
    let probes =
        [probe("all", ""), probe("zoo", "zoo.Zoo"), probe("asleep", "zoo.Asleep"), probe("none", "zoo.None")];
    let sidecar = strict(app, &probes.join(", ")).await;
    for (name, expected) in [
        ("all", (200, "serving\n".to_owned())),
        ("zoo", (200, "serving\n".to_owned())),
        ("asleep", (503, format!("{app} says: NOT_SERVING\n"))),
        ("none", (503, format!("{app} says: grpc-status 5, the server does not know this service\n"))),
    ] {
        assert_eq!(asked(sidecar.metrics(), &format!("/probe/{name}"), &[]).await, expected, "{name}");
    }
}
