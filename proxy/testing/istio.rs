//! Istio's metrics of a pair with mutual TLS: the same traffic at both ends, under Istio's names.

use super::backend::OK;
use super::mesh::{
    A, IDENTITY, ORDERS, ORDERS_ID, Pair, application, application_at, caller, identity, settle,
};
use super::peer::Peer;

/// A file with `metrics.compatibility`.
fn compatible(file: &str) -> String {
    file.replace("metrics: off", "metrics: { listen: 127.0.0.1:0, compatibility: [istio] }") + IDENTITY
}

#[tokio::test(start_paused = true)]
async fn both_sides_of_a_request_name_both_workloads() {
    let pair = Pair::new();
    let _app = pair.mesh.answering(A, OK);
    let inbound = compatible(&application_at("10.1.0.1:15006", &format!("app: {A}")));
    let inbound = pair.mesh.sidecar(&inbound, Some(identity(&pair.ca, "orders")));
    let outbound = compatible(&caller(&format!("endpoints: [10.1.0.1:15006], {ORDERS}")));
    let outbound = pair.mesh.sidecar(&outbound, Some(identity(&pair.ca, "web")));
    let mut client = outbound.client().await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.status_and_reason(), (200, None));
    }
    settle().await;
    let workloads = format!(
        "source_workload=web destination_workload=orders destination_principal={ORDERS_ID} \
         destination_service_name=orders response_code=200 response_flags=- request_protocol=http"
    );
    for (sidecar, own) in [
        (&outbound, "reporter=source connection_security_policy=unknown"),
        (&inbound, "reporter=destination connection_security_policy=mutual_tls"),
    ] {
        assert_eq!(
            sidecar.sum(&format!("istio_requests_total {own} {workloads}")),
            3,
            "{}",
            sidecar.metrics.encode()
        );
        assert_eq!(sidecar.sum(&format!("istio_request_duration_milliseconds_count {own}")), 3);
        assert_eq!(sidecar.sum(&format!("istio_response_bytes_sum {own}")), 6);
    }
}

#[tokio::test(start_paused = true)]
async fn an_opaque_connection_is_counted_when_it_begins_and_ends() {
    let pair = Pair::new();
    let _app = pair.mesh.scripted(A, |mut peer: Peer, _| async move {
        drop(peer.try_send("hello").await);
    });
    let file = compatible(&caller("endpoints: [10.0.0.1:80], protocol: tcp, tls: off, listen: 127.0.0.1:0"));
    let sidecar = pair.mesh.sidecar(&file, Some(identity(&pair.ca, "web")));
    let mut client = sidecar.direct_client().await;
    assert_eq!(client.rest().await, b"hello");
    drop(client);
    settle().await;
    let labels = "reporter=source source_workload=web destination_workload=unknown request_protocol=tcp";
    for (name, expected) in [
        ("istio_tcp_connections_opened_total", 1),
        ("istio_tcp_connections_closed_total", 1),
        ("istio_tcp_sent_bytes_total", 5),
        ("istio_tcp_received_bytes_total", 0),
    ] {
        assert_eq!(sidecar.sum(&format!("{name} {labels}")), expected, "{name}");
    }
    assert_eq!(sidecar.sum("istio_requests_total"), 0);
}

/// After a reload that turns TLS off, nobody verifies the server any more, and what was known of it says nothing.
#[tokio::test(start_paused = true)]
async fn a_server_is_named_only_while_it_is_verified() {
    let pair = Pair::new();
    let _app = pair.mesh.answering(A, OK);
    let inbound = application_at("10.1.0.1:15006", &format!("app: {A}, mtls: permissive"));
    let _inbound = pair.mesh.sidecar(&(inbound + IDENTITY), Some(identity(&pair.ca, "orders")));
    let outbound = compatible(&caller(&format!("endpoints: [10.1.0.1:15006], {ORDERS}")));
    let mut sidecar = pair.mesh.sidecar(&outbound, Some(identity(&pair.ca, "web")));
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (200, None));
    sidecar.reload(&outbound.replace(ORDERS, "tls: off")).expect("it is applied");
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (200, None));
    settle().await;
    for (principal, workload) in [(ORDERS_ID, "orders"), ("unknown", "unknown")] {
        let labels = format!("destination_principal={principal} destination_workload={workload}");
        assert_eq!(sidecar.sum(&format!("istio_requests_total {labels}")), 1, "{}", sidecar.metrics.encode());
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_authorizer_refused_has_the_flag_of_the_access_log() {
    let pair = Pair::new();
    let _app = pair.mesh.answering(A, "HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n");
    let _authorizer = pair.mesh.answering("10.0.0.9:1", "HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n");
    for (authorization, flag) in [
        ("ext_authz: { http: \"http://10.0.0.9:1/\" }, default: allow", "UAEX"),
        ("rules: [{ name: none, paths: [/x] }]", "-"),
        ("default: allow", "-"),
    ] {
        let inbound = format!("app: {A}, mtls: off, authorization: {{ {authorization} }}");
        let file = compatible(&application(&inbound));
        let sidecar = pair.mesh.sidecar(&file, Some(identity(&pair.ca, "orders")));
        assert_eq!(sidecar.client().await.get("/").await.status(), Some(403), "{authorization}");
        settle().await;
        let labels = format!("response_code=403 response_flags={flag}");
        assert_eq!(sidecar.sum(&format!("istio_requests_total {labels}")), 1, "{authorization}");
    }
}
