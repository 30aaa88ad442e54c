//! How the caller's access log describes an answer that the other sidecar made itself.

use serde_json::Value;

use super::backend::OK;
use super::logged;
use super::mesh::{A, B, IDENTITY, ORDERS, Pair, Sidecar, application_at, caller, identity, settle};

const INBOUND: &str = "10.1.0.1:15006";
/// An application that sends headers which only its sidecar may send, and headers of proxies behind it.
const CLAIMS: &str = "HTTP/1.1 502 Bad Gateway\r\nx-pillion-reason: no_route\r\n\
                      proxy-status: pillion; error=dns_error; details=\"dns_error\"\r\ncontent-length: 0\r\n\r\n";

/// The reason, and the side to which it belongs.
fn summary(line: &Value) -> [&str; 2] {
    ["reason", "reason_of"].map(|key| line[key].as_str().unwrap_or_default())
}

fn pair(pair: &Pair, log: &str, orders: &str) -> (Sidecar, Sidecar) {
    pair_within(pair, log, orders, "")
}

/// With the `limits` of the application's sidecar.
fn pair_within(pair: &Pair, log: &str, orders: &str, limits: &str) -> (Sidecar, Sidecar) {
    let application = application_at(INBOUND, &format!("app: {A}")) + IDENTITY + limits;
    let orders = caller(&format!("endpoints: [{INBOUND}], {ORDERS}, retry: off, {orders}"));
    let inbound = pair.mesh.sidecar(&application, Some(identity(&pair.ca, "orders")));
    (inbound, pair.mesh.sidecar(&(orders + IDENTITY + log), Some(identity(&pair.ca, "web"))))
}

#[test]
fn c14_the_reason_of_the_other_sidecar_stands_in_the_callers_line_as_the_peers() {
    for protocol in ["http1", "http2"] {
        let lines = logged::lines(move |log| async move {
            let both = Pair::new(); // no server listens at the application's address
            let (inbound, outbound) = pair(&both, &log, &format!("protocol: {protocol}"));
            let mut client = outbound.client().await;
            let answer = client.get("/").await;
            assert_eq!(answer.status_and_reason(), (502, Some("connect_refused")));
            assert_eq!(answer.header("x-pillion-reason"), None, "that is between sidecars");
            settle().await;
            let app = both.mesh.answering(A, OK);
            assert_eq!(client.get("/").await.status_and_reason(), (200, None));
            settle().await;
            assert_eq!(app.hits(), 1);
            assert!(inbound.sum("pillion_requests_total reason=connect_refused status=502") > 0);
            assert_eq!(
                outbound.sum("pillion_requests_total reason=connect_refused"),
                0,
                "the peer's, not ours"
            );
        });
        let summaries: Vec<_> = lines.iter().map(summary).collect();
        assert_eq!(summaries, [["connect_refused", "peer"], ["", ""]], "{protocol}: {lines:?}");
    }
}

#[test]
fn a_request_that_another_endpoint_answered_has_no_reason_of_the_first() {
    for protocol in ["http1", "http2"] {
        let lines = logged::lines(move |log| async move {
            let both = Pair::new();
            let _app = both.mesh.answering(B, OK); // the application beside the first sidecar does not listen
            let sidecar = |listen: &str, app: &str| {
                let file = application_at(listen, &format!("app: {app}")) + IDENTITY;
                both.mesh.sidecar(&file, Some(identity(&both.ca, "orders")))
            };
            let _sidecars = [sidecar(INBOUND, A), sidecar("10.1.0.2:15006", B)];
            let orders = format!(
                "endpoints: [{INBOUND}, \"10.1.0.2:15006\"], load_balancer: round_robin, {ORDERS}, protocol: {protocol}"
            );
            let file = caller(&orders) + IDENTITY + &log;
            let outbound = both.mesh.sidecar(&file, Some(identity(&both.ca, "web")));
            let mut client = outbound.client().await;
            for _ in 0..2 {
                assert_eq!(client.get("/").await.status_and_reason(), (200, None));
                settle().await;
            }
            assert!(outbound.sum("pillion_retries_total service=orders") > 0);
        });
        let summaries: Vec<_> = lines.iter().map(summary).collect();
        assert_eq!(summaries, [["", ""]; 2], "{protocol}: {lines:?}");
    }
}

#[test]
fn c14_a_head_that_is_too_large_for_the_other_sidecar_is_refused_with_the_peers_reason() {
    const MANY: &str = "GET / HTTP/1.1\r\nhost: orders\r\n";
    for protocol in ["http1", "http2"] {
        let lines = logged::lines(move |log| async move {
            let both = Pair::new();
            let orders = format!("protocol: {protocol}");
            let (_inbound, outbound) = pair_within(&both, &log, &orders, "limits: { header_count: 10 }\n");
            let fields: String = (0..60).map(|field| format!("x-{field}: 1\r\n")).collect();
            let answer = outbound.client().await.ask(&format!("{MANY}{fields}\r\n")).await;
            assert_eq!(answer.status(), Some(431));
            settle().await;
        });
        let summaries: Vec<_> = lines.iter().map(summary).collect();
        assert_eq!(summaries, [["headers_too_large", "peer"]], "{protocol}: {lines:?}");
    }
}

#[test]
fn c14_only_a_verified_sidecar_can_give_a_reason() {
    let lines = logged::lines(|log| async move {
        let both = Pair::new();
        let _app = both.mesh.answering(A, CLAIMS);
        let (_inbound, outbound) = pair(&both, &log, "");
        assert_eq!(outbound.client().await.get("/").await.status(), Some(502), "through its own sidecar");
        let direct = caller(&format!("endpoints: [{A}], retry: off"));
        let direct = both.mesh.sidecar(&(direct + &log), None);
        let answer = direct.client().await.get("/").await;
        assert_eq!((answer.status(), answer.header("x-pillion-reason")), (Some(502), None));
        settle().await;
    });
    let summaries: Vec<_> = lines.iter().map(summary).collect();
    assert_eq!(summaries, [["", ""], ["", ""]], "{lines:?}");
}
