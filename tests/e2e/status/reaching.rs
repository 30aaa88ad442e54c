//! The request reaches no upstream: the host is unknown, or the endpoint refuses, is silent, or has the wrong identity.

use super::{check_outbound, fails_with, grpc_fails_with};
use crate::support::backend::{Backend, FullBacklog, nobody};
use crate::support::certs::{Authority, spiffe};
use crate::support::sidecar::Plan;
use crate::support::wire::Wire;

#[tokio::test]
async fn a_host_that_no_service_has_is_no_route() {
    let caller = Plan::calling(nobody(), "").start().await;
    let answer = Wire::connect(caller.outbound()).await.get("nowhere.shop", "/").await;
    assert!(check_outbound(&answer, "no_route").contains("nowhere.shop"), "{answer:?}");
    grpc_fails_with(&caller, "nowhere.shop", "no_route").await;
    caller.counted(2, &[("direction", "outbound"), ("service", ""), ("reason", "no_route")]).await;
}

#[tokio::test]
async fn a_refused_connection_names_the_address() {
    let nobody = nobody();
    let caller = Plan::calling(nobody, "retry: off").start().await;
    assert!(fails_with(&caller, "connect_refused").await.contains(&nobody.to_string()));
}

#[tokio::test]
async fn a_full_backlog_is_a_connect_timeout() {
    let full = FullBacklog::new();
    let caller = Plan::calling(full.address, "retry: off, connect_timeout: 200ms").start().await;
    let sentence = fails_with(&caller, "connect_timeout").await;
    assert!(sentence.contains("200ms") && sentence.contains(&full.address.to_string()), "{sentence}");
}

/// TCP connects, and then nothing comes: the connect timeout applies to the handshake too.
#[tokio::test]
async fn a_handshake_that_never_ends_is_a_connect_timeout() {
    let deaf = Backend::deaf().await;
    let caller = Plan::calling(deaf.address, "retry: off, connect_timeout: 200ms, tls: mutual")
        .identified(&Authority::new(), "web");
    fails_with(&caller.start().await, "connect_timeout").await;
}

#[tokio::test]
async fn an_endpoint_that_speaks_no_tls_is_a_tls_error() {
    // The server takes the ClientHello for a malformed request, as a web server would.
    let plain = Backend::serving(async |mut wire, _, _| {
        wire.piece(4096).await;
        drop(wire.try_send("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await);
        wire.rest().await;
    })
    .await;
    let caller = Plan::calling(plain.address, "retry: off").identified(&Authority::new(), "web");
    fails_with(&caller.start().await, "tls_error").await;
}

#[tokio::test]
async fn a_stranger_s_certificate_is_a_tls_error() {
    let app = Backend::echo().await;
    let application =
        Plan::application(app.address, "").identified(&Authority::new(), "orders").start().await;
    let caller = Plan::calling(application.inbound(), "retry: off").identified(&Authority::new(), "web");
    fails_with(&caller.start().await, "tls_error").await;
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn a_wrong_identity_is_refused_and_named() {
    let (app, authority) = (Backend::echo().await, Authority::new());
    let application = Plan::application(app.address, "").identified(&authority, "orders").start().await;
    let expected = format!("retry: off, tls: \"{}\"", spiffe("billing"));
    let caller = Plan::calling(application.inbound(), &expected).identified(&authority, "web").start().await;
    let sentence = fails_with(&caller, "peer_identity_mismatch").await;
    assert!(sentence.contains(&spiffe("orders")), "must name the identity of the peer: {sentence}");
    assert!(sentence.contains(&spiffe("billing")), "must name the expected identity: {sentence}");
    assert_eq!(app.connections(), 0);
}
