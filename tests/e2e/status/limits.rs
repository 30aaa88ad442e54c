//! Limits that are reached, on both sides.

use super::{check_grpc, check_inbound, check_outbound};
use crate::support::backend::Backend;
use crate::support::eventually;
use crate::support::http2::{Client, collect};
use crate::support::sidecar::{Plan, Sidecar};
use crate::support::wire::Wire;

const GET: &str = "GET / HTTP/1.1\r\nhost: orders\r\n\r\n";

async fn used(sidecar: &Sidecar, limit: &str, wanted: f64) {
    eventually(&format!("{wanted} used of {limit}"), async || {
        let used = sidecar.scrape().await.sum("pillion_circuit_breaker_used", &[("limit", limit)]);
        (used == wanted).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_error_of_a_request_beyond_the_limit_names_the_limit_and_its_value() {
    let backend = Backend::stall().await;
    let breaker = "retry: off, circuit_breaker: { max_requests: 1 }";
    let caller = Plan::calling(backend.address, breaker).start().await;
    let mut first = Wire::connect(caller.outbound()).await;
    first.send(GET).await;
    backend.has_requests(1).await;
    let sentence = super::fails_with(&caller, "limit_requests").await;
    assert!(sentence.contains("max_requests is 1"), "{sentence}");
    let rejections = [("service", "orders"), ("limit", "requests")];
    assert_eq!(caller.scrape().await.sum("pillion_circuit_breaker_rejections_total", &rejections), 2.0);
}

#[tokio::test]
async fn the_error_of_a_waiting_request_beyond_the_limit_names_the_limit() {
    let backend = Backend::stall().await;
    let breaker = "retry: off, circuit_breaker: { max_connections: 1, max_pending_requests: 1 }";
    let caller = Plan::calling(backend.address, breaker).start().await;
    let (mut first, mut second) =
        (Wire::connect(caller.outbound()).await, Wire::connect(caller.outbound()).await);
    first.send(GET).await;
    backend.has_requests(1).await;
    second.send(GET).await;
    used(&caller, "pending", 1.0).await;
    let sentence = super::fails_with(&caller, "limit_pending").await;
    assert!(sentence.contains("max_pending_requests is 1"), "{sentence}");
}

#[tokio::test]
async fn a_waiting_request_is_served_when_a_connection_is_free() {
    let backend = Backend::echo().await;
    let breaker = "circuit_breaker: { max_connections: 1, max_pending_requests: 50 }";
    let caller = Plan::calling(backend.address, breaker).start().await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(Wire::connect(caller.outbound()).await);
    }
    for client in &mut clients {
        client.send(GET).await;
    }
    for client in &mut clients {
        assert_eq!(client.answer().await.status(), 200);
    }
    used(&caller, "pending", 0.0).await;
}

#[tokio::test]
async fn an_application_at_its_limit_gets_no_further_request_and_the_peer_gets_only_the_code() {
    let backend = Backend::stall().await;
    let application = Plan::application(backend.address, "max_requests: 1").start().await;
    let mut first = Wire::connect(application.inbound()).await;
    first.send(GET).await;
    backend.has_requests(1).await;
    let answer = Wire::connect(application.inbound()).await.get("orders", "/").await;
    check_inbound(&answer, "limit_requests");
    let labels = [("direction", "inbound"), ("service", "app"), ("reason", "limit_requests")];
    application.counted(1, &[&labels[..], &[("status", "503")]].concat()).await;
}

#[tokio::test]
async fn a_body_that_announces_too_much_never_reaches_the_application() {
    let backend = Backend::echo().await;
    let application = Plan::application(backend.address, "max_body: 1KiB").start().await;
    let head = "POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 1025\r\n\r\n";
    let answer = Wire::connect(application.inbound()).await.ask(head).await;
    check_inbound(&answer, "body_too_large");
    assert_eq!(backend.connections(), 0);
    application
        .counted(1, &[("direction", "inbound"), ("reason", "body_too_large"), ("status", "413")])
        .await;
    let fits = format!("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 1024\r\n\r\n{:1024}", "");
    assert_eq!(Wire::connect(application.inbound()).await.ask(fits).await.body.len(), 1024);
}

#[tokio::test]
async fn a_body_that_grows_too_large_is_cut() {
    let backend = Backend::echo().await;
    let application = Plan::application(backend.address, "max_body: 1KiB").start().await;
    let chunk = format!("258\r\n{:600}\r\n", "");
    let chunked = format!(
        "POST / HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n"
    );
    let answer = Wire::connect(application.inbound()).await.ask(chunked).await;
    check_inbound(&answer, "body_too_large");
    application
        .counted(1, &[("direction", "inbound"), ("reason", "body_too_large"), ("status", "413")])
        .await;
}

#[tokio::test]
async fn a_grpc_message_that_is_too_large_gets_an_error_of_grpc() {
    // The backend never answers: an answer to half a message might come before the sidecar's error.
    let backend = Backend::serving(async |mut wire, _, _| drop(wire.rest().await)).await;
    let application = Plan::application(backend.address, "max_body: 1B").start().await;
    let mut client = Client::connect(application.inbound()).await;
    let (head, body) = client.call("orders").await.into_parts();
    let (body, trailers) = collect(body).await;
    check_grpc(&head, &body, &trailers, "body_too_large");
}

/// A connection above the limit is closed after accept; those within the limit go on.
#[tokio::test]
async fn connections_beyond_the_limit_are_closed() {
    let backend = Backend::echo().await;
    let application = Plan::application(backend.address, "max_connections: 1").start().await;
    let mut first = Wire::connect(application.inbound()).await;
    assert_eq!(first.ask(GET).await.status(), 200);
    assert!(Wire::connect(application.inbound()).await.rest().await.is_empty());
    assert_eq!(first.ask(GET).await.status(), 200);
    let refused = [("direction", "inbound"), ("outcome", "refused")];
    assert_eq!(application.scrape().await.sum("pillion_connections_total", &refused), 1.0);
}

#[tokio::test]
async fn the_error_of_a_callers_own_limit_names_the_limit_over_http_too() {
    let backend = Backend::stall().await;
    let caller = Plan::calling(backend.address, "circuit_breaker: { max_requests: 1 }").start().await;
    let mut first = Wire::connect(caller.orders()).await;
    first.send(GET).await;
    backend.has_requests(1).await;
    // Retries are on as well: a refusal by a limit is not worth a pause and another try.
    let answer = Wire::connect(caller.orders()).await.get("orders", "/").await;
    assert!(check_outbound(&answer, "limit_requests").contains("\"orders\""), "{answer:?}");
}
