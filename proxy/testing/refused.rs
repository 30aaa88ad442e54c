//! The other sidecar refuses our certificate. With TLS 1.3 its alert arrives when our handshake has already ended.

use super::backend::OK;
use super::logged;
use super::mesh::{A, IDENTITY, ORDERS, Pair, Sidecar, application_at, caller, expired, identity, settle};
use pillion_tls::identity::credentials::Credentials;
use pillion_tls::identity::issue::Ca;

const INBOUND: &str = "10.1.0.1:15006";
const EXPIRED: &str = "the peer refused our certificate: expired";

fn orders(more: &str) -> String {
    format!("endpoints: [{INBOUND}], {ORDERS}, {more}")
}

/// What a caller gets, and how many handshakes it took.
async fn refusal_seen_by(
    caller: &Sidecar,
    inbound: &Sidecar,
    method: &str,
) -> (u16, Option<String>, String, u64) {
    let before = inbound.sum("pillion_tls_handshakes_total direction=inbound");
    let request = format!("{method} / HTTP/1.1\r\nhost: orders\r\ncontent-length: 1\r\n\r\n.");
    let answer = caller.client().await.ask(&request).await;
    settle().await;
    let (status, reason) = answer.status_and_reason();
    let tries = inbound.sum("pillion_tls_handshakes_total direction=inbound") - before;
    (status, reason.map(str::to_owned), answer.body.clone(), tries)
}

#[tokio::test(start_paused = true)]
async fn c3_a_refused_certificate_is_a_tls_error_with_its_cause_and_each_try_of_it_counts() {
    for protocol in ["auto", "http1", "http2"] {
        let pair = Pair::new();
        let app = pair.mesh.answering(A, OK);
        let inbound = pair.application(INBOUND, A);
        let outbound = pair.caller_as(
            &orders(&format!("protocol: {protocol}, retry: {{ attempts: 2, methods: all }}")),
            expired(&pair.ca, "web"),
        );
        for method in ["GET", "POST", "GET"] {
            let (status, reason, body, tries) = refusal_seen_by(&outbound, &inbound, method).await;
            assert_eq!((status, reason.as_deref()), (502, Some("tls_error")), "{protocol} {method}: {body}");
            assert!(body.contains(EXPIRED), "{protocol} {method}: {body}");
            assert_eq!(tries, 3, "{protocol} {method}: the first and two more");
        }
        assert_eq!(app.connections(), 0);
        for (sidecar, direction) in [(&inbound, "inbound"), (&outbound, "outbound")] {
            let handshakes = |outcome: &str| {
                let series = format!("pillion_tls_handshakes_total direction={direction} outcome={outcome}");
                sidecar.sum(&series)
            };
            assert_eq!((handshakes("failed"), handshakes("ok")), (9, 0), "{protocol} {direction}");
        }
        assert_eq!(
            outbound.sum("pillion_connections_total service=orders outcome=tls_error"),
            9,
            "{protocol}"
        );
        assert_eq!(outbound.sum("pillion_connections_total service=orders outcome=ok"), 0, "{protocol}");
        assert_eq!(outbound.sum("pillion_retries_total outcome=replaced"), 0, "{protocol}");
    }
}

#[tokio::test(start_paused = true)]
async fn c3_with_retry_off_a_refused_certificate_is_tried_once() {
    for protocol in ["http1", "http2"] {
        let pair = Pair::new();
        let inbound = pair.application(INBOUND, A);
        let outbound =
            pair.caller_as(&orders(&format!("protocol: {protocol}, retry: off")), expired(&pair.ca, "web"));
        let (status, reason, _, tries) = refusal_seen_by(&outbound, &inbound, "POST").await;
        assert_eq!((status, reason.as_deref(), tries), (502, Some("tls_error"), 1), "{protocol}");
    }
}

/// Our own certificate, in a state that the peer refuses.
fn unknown_to(pair: &Pair) -> Credentials {
    let stranger = identity(&Ca::generate("cluster.local").expect("a CA"), "web");
    Credentials { roots: identity(&pair.ca, "web").roots, ..stranger }
}

#[tokio::test(start_paused = true)]
async fn c3_the_caller_gets_every_cause_of_a_refusal() {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let pair = Pair::new();
    let web = identity(&pair.ca, "web");
    let (_, read) = X509Certificate::from_der(&web.chain()[0]).expect("a certificate");
    let tomorrow = time::OffsetDateTime::now_utc() + time::Duration::days(1);
    let crl = pair.ca.revoke(&[read.raw_serial().to_vec()], tomorrow).expect("a list");
    let own = identity(&pair.ca, "orders").with_crl("ca.crl".as_ref(), crl.as_bytes(), 0).expect("a list");
    let inbound = pair.application_as(INBOUND, A, own);
    for (credentials, cause) in
        [(web.clone(), "revoked"), (unknown_to(&pair), "unknown CA"), (expired(&pair.ca, "web"), "expired")]
    {
        let outbound = pair.caller_as(&orders("retry: off"), credentials);
        let (status, reason, body, _) = refusal_seen_by(&outbound, &inbound, "GET").await;
        assert_eq!((status, reason.as_deref()), (502, Some("tls_error")), "{cause}");
        assert!(body.contains(&format!("the peer refused our certificate: {cause};")), "{body}");
    }
    assert_eq!(inbound.sum("pillion_tls_handshakes_total outcome=failed"), 3);
}

#[test]
fn c3_opaque_bytes_to_a_peer_that_refuses_us_end_with_a_tls_error_too() {
    for speaks_first in [true, false] {
        for protocol in ["tcp", "auto"] {
            let lines = logged::lines(move |log| async move {
                let pair = Pair::new();
                let app = pair.mesh.answering(A, OK);
                let yaml = application_at(INBOUND, &format!("app: {A}, protocol: tcp")) + IDENTITY;
                let inbound = pair.mesh.sidecar(&yaml, Some(identity(&pair.ca, "orders")));
                let orders = orders(&format!("protocol: {protocol}, listen: 127.0.0.1:0, retry: off"));
                let own = expired(&pair.ca, "web");
                let outbound = pair.mesh.sidecar(&(caller(&orders) + IDENTITY + &log), Some(own));
                let mut client = outbound.direct_client().await;
                if speaks_first {
                    client.send(b"\0\x01\x02 not HTTP").await;
                }
                assert_eq!(client.rest().await, b"", "closed");
                settle().await;
                assert_eq!(app.connections(), 0);
                for sidecar in [&inbound, &outbound] {
                    assert_eq!(sidecar.sum("pillion_tls_handshakes_total outcome=failed"), 1);
                    assert_eq!(sidecar.sum("pillion_tls_handshakes_total outcome=ok"), 0);
                }
            });
            let reasons: Vec<_> = lines.iter().map(|line| line["reason"].clone()).collect();
            assert_eq!(reasons, ["tls_error"], "{protocol} {speaks_first} {lines:?}");
            assert!(lines[0]["detail"].as_str().is_some_and(|detail| detail.contains(EXPIRED)), "{lines:?}");
        }
    }
}
