//! The client has caused the error, or has gone away.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::{check_inbound, check_outbound};
use crate::support::backend::{Backend, Task, nobody};
use crate::support::certs::Authority;
use crate::support::http2::{Client, Piped};
use crate::support::sidecar::Plan;
use crate::support::wire::{Message, Wire};

#[tokio::test]
async fn plaintext_at_a_strict_port_gets_the_reason() {
    let backend = Backend::echo().await;
    let application = Plan::application(backend.address, "").identified(&Authority::new(), "orders").start();
    let application = application.await;
    let mut client = Wire::connect(application.inbound()).await;
    let answer = client.get("orders", "/").await;
    assert_eq!(client.rest().await, b"", "the connection is closed");
    assert_eq!(backend.connections(), 0);
    check_inbound(&answer, "mtls_required");
    application.counted(1, &[("direction", "inbound"), ("status", "403"), ("reason", "mtls_required")]).await;
}

#[tokio::test]
async fn anything_else_in_plaintext_is_closed_without_an_answer() {
    let application = Plan::application(nobody(), "").identified(&Authority::new(), "orders").start().await;
    for first in ["SSH-2.0-OpenSSH_9.2\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\0\0\0\0"] {
        let mut client = Wire::connect(application.inbound()).await;
        drop(client.try_send(first).await);
        let heard = client.rest().await;
        assert!(!heard.starts_with(b"SSH") && heard.len() < 300, "{}", String::from_utf8_lossy(&heard));
    }
}

const MALFORMED: [&str; 6] = [
    "GET\r\n\r\n",
    "GET / HTTP/9.9\r\nhost: orders\r\n\r\n",
    "GET / HTTP/1.1\r\nhost: orders\r\nno colon here\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: minus one\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
    "GET /\x01 HTTP/1.1\r\nhost: orders\r\n\r\n",
];

#[tokio::test]
async fn malformed_http_is_a_bad_request() {
    let backend = Backend::echo().await;
    let caller = Plan::calling(backend.address, "").start().await;
    for (count, request) in (1..).zip(MALFORMED) {
        let mut client = Wire::connect(caller.outbound()).await;
        let answer = client.ask(request).await;
        check_outbound(&answer, "bad_request");
        assert_eq!(client.rest().await, b"", "{request:?}: the connection is closed");
        caller
            .counted(count, &[("direction", "outbound"), ("status", "400"), ("reason", "bad_request")])
            .await;
    }
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn a_remote_peer_gets_only_the_code_of_its_bad_request() {
    let application = Plan::application(nobody(), "").start().await;
    // Bytes without a request line of HTTP/1 are opaque here and reach the application.
    for request in MALFORMED.into_iter().filter(|request| request.contains(" / HTTP/1.1\r\n")) {
        check_inbound(&Wire::connect(application.inbound()).await.ask(request).await, "bad_request");
    }
}

/// A second request on the connection is checked like the first.
#[tokio::test]
async fn a_bad_request_after_a_good_one_is_answered_too() {
    let backend = Backend::echo().await;
    let caller = Plan::calling(backend.address, "").start().await;
    let mut client = Wire::connect(caller.outbound()).await;
    assert_eq!(client.get("orders", "/").await.status(), 200);
    check_outbound(&client.ask("this is no request\r\n\r\n").await, "bad_request");
}

#[tokio::test]
async fn headers_beyond_the_limit_are_too_large() {
    let backend = Backend::echo().await;
    let caller = Plan::calling(backend.address, "").start().await;
    let large = format!("GET / HTTP/1.1\r\nhost: orders\r\nx-large: {}\r\n\r\n", "x".repeat(70_000));
    let many = format!("GET / HTTP/1.1\r\nhost: orders\r\n{}\r\n", "x-many: 1\r\n".repeat(101));
    for (count, request) in (1..).zip([large, many]) {
        check_outbound(&Wire::connect(caller.outbound()).await.ask(request).await, "headers_too_large");
        let labels = [("direction", "outbound"), ("status", "431"), ("reason", "headers_too_large")];
        caller.counted(count, &labels).await;
    }
    let fits = format!("GET / HTTP/1.1\r\nhost: orders\r\nx-large: {:x<60000}\r\n\r\n", "");
    assert_eq!(Wire::connect(caller.outbound()).await.ask(fits).await.status(), 200);
}

/// HTTP/2 reports this in its own way. The connection and its other streams must go on.
#[tokio::test]
async fn headers_beyond_the_limit_end_one_stream_of_http2() {
    let (_backend, application) = {
        let (address, task) =
            crate::support::http2::application(async |_| http::Response::new(Piped::empty())).await;
        (task, address)
    };
    let caller = Plan::calling(application, "").start().await;
    let mut client = Client::connect(caller.outbound()).await;
    let get = || http::Request::get("http://orders/");
    let many = (0..300).fold(get(), |request, number| request.header(format!("x-{number}"), "x".repeat(300)));
    let refused = client.try_send(many.body(Piped::empty()).expect("well-formed")).await;
    assert!(refused.is_err() || refused.is_ok_and(|answer| answer.status() == 431));
    let answer = client.send(get().body(Piped::empty()).expect("well-formed")).await;
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn a_client_that_stalls_in_its_body_gets_an_error() {
    let backend = Backend::echo().await;
    let caller = Plan::calling(backend.address, "retry: off, stream_idle_timeout: 200ms").start().await;
    let head = "POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 10\r\n\r\nabc";
    let answer = Wire::connect(caller.outbound()).await.ask(head).await;
    check_outbound(&answer, "request_stalled");
    caller.counted(1, &[("service", "orders"), ("status", "408"), ("reason", "request_stalled")]).await;
}

#[tokio::test]
async fn a_client_that_is_gone_is_in_the_metric_and_the_log() {
    let backend = Backend::stall().await;
    let mut caller = Plan::calling(backend.address, "").start().await;
    let mut client = Wire::connect(caller.outbound()).await;
    client.send("GET /slow HTTP/1.1\r\nhost: orders\r\n\r\n").await;
    backend.has_requests(1).await;
    drop(client);
    caller.counted(1, &[("service", "orders"), ("status", "499"), ("reason", "client_gone")]).await;
    backend.has_ended(1).await;
    let line = caller.log_line().await;
    assert_eq!((&line["status"], &line["reason"]), (&499.into(), &"client_gone".into()), "{line}");
}

/// The test plays the sidecar of `orders`: it sees the header that the caller's sidecar writes, and returns it to the
/// caller.
#[tokio::test]
async fn a_request_that_comes_back_for_the_fifth_time_is_a_loop() {
    let authority = Authority::new();
    let (address, _task) = sidecar_lookalike(&authority).await;
    let caller = Plan::calling(address, "protocol: http1").identified(&authority, "web").start().await;
    let ask = async |via: &str| -> Message {
        let via = if via.is_empty() { String::new() } else { format!("x-pillion-via: {via}\r\n") };
        let request = format!("GET / HTTP/1.1\r\nhost: orders\r\n{via}\r\n");
        Wire::connect(caller.outbound()).await.ask(request).await
    };
    let mut via = String::new();
    for pass in 1..=4 {
        let answer = ask(&via).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        via = answer.text();
        assert!(via.ends_with(&format!("={pass}")), "{via}");
    }
    check_outbound(&ask(&via).await, "loop_detected");
    caller.counted(1, &[("service", "orders"), ("status", "508"), ("reason", "loop_detected")]).await;
}

/// A TLS server with a sidecar's ALPN, which answers with the `x-pillion-via` that it got.
async fn sidecar_lookalike(authority: &Authority) -> (std::net::SocketAddr, Task) {
    let issued = authority.issue("orders");
    let chain = vec![CertificateDer::from_pem_slice(issued.certificate.as_bytes()).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("versions that the provider has").with_no_client_auth();
    let mut config = config.with_single_cert(chain, key).expect("a key that fits");
    config.alpn_protocols = vec![b"pillion-http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await.expect("a handshake");
                tell_via(stream).await;
            });
        }
    });
    (address, Task(task))
}

async fn tell_via(mut stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut head = Vec::new();
    while stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        let via = text.lines().find_map(|line| line.strip_prefix("x-pillion-via: ")).unwrap_or_default();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{via}", via.len());
        drop(stream.write_all(answer.as_bytes()).await);
        head.clear();
    }
}
