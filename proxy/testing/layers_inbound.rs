//! What each layer of the inbound stack does: the stack with it, compared with the stack without it.

use super::backend::{HANG_UP, OK};
use super::bench::Bench;
use super::mesh::{A, Mesh, Watch, secs, settle};
use super::peer::Peer;
use pillion_sidecar::layers::Name;

const APP: &str = "app: 10.0.0.1:80";

#[tokio::test(start_paused = true)]
async fn without_record_a_request_leaves_no_trace_in_the_metrics() {
    let mesh = Mesh::default();
    let _app = mesh.answering(A, OK);
    let bench = Bench::application(&mesh, APP);
    bench.without(Name::Record).get("/").await;
    settle().await;
    assert_eq!(bench.sum("pillion_requests_total"), 0);
    bench.client().get("/").await;
    settle().await;
    assert_eq!(bench.sum("pillion_requests_total direction=inbound service=app status=200"), 1);
}

#[tokio::test(start_paused = true)]
async fn without_route_no_request_reaches_the_application() {
    let mesh = Mesh::default();
    let app = mesh.answering(A, OK);
    let bench = Bench::application(&mesh, APP);
    assert_eq!(bench.without(Name::Route).get("/").await.status_and_reason(), (404, Some("no_route")));
    assert_eq!(app.connections(), 0);
    assert_eq!(bench.client().get("/").await.status_and_reason(), (200, None));
}

#[tokio::test(start_paused = true)]
async fn without_headers_the_application_gets_forged_headers() {
    const FORGED: &str = "GET / HTTP/1.1\r\nhost: orders\r\nclient-cert: :AAAA:\r\nx-pillion-attempt: 3\r\n\
                          x-forwarded-client-cert: URI=spiffe://evil\r\nx-forwarded-for: 198.51.100.1\r\n\r\n";
    let mesh = Mesh::default();
    let app = mesh.answering(A, OK);
    let bench = Bench::application(&mesh, APP);
    bench.without(Name::Headers).ask(FORGED).await;
    bench.client().ask(FORGED).await;
    let [believed, checked] = &app.requests()[..] else { unreachable!("two requests were made") };
    for claim in ["x-forwarded-client-cert", "client-cert", "x-pillion-attempt"] {
        assert!(believed.header(claim).is_some(), "{claim}");
        assert_eq!(checked.header(claim), None, "{claim}");
    }
    assert_eq!(believed.header("x-forwarded-for"), Some("198.51.100.1"));
    assert_eq!(checked.header("x-forwarded-for"), Some("198.51.100.1, 192.0.2.7"));
}

#[tokio::test(start_paused = true)]
async fn without_timeout_a_silent_application_is_waited_for_for_ever() {
    let mesh = Mesh::default();
    let _app = mesh.silent(A);
    let bench = Bench::application(&mesh, &format!("{APP}, timeout: 7s"));
    let mut patient = bench.without(Name::Timeout);
    assert!(tokio::time::timeout(secs(3600), patient.get("/")).await.is_err());
    let watch = Watch::start();
    assert_eq!(bench.client().get("/").await.status_and_reason(), (504, Some("request_timeout")));
    assert_eq!(watch.seconds(), 7);
}

/// Answers the first request of a connection, and closes on the next one.
fn hangs_up_on_the_second(mesh: &Mesh) -> super::backend::Backend {
    mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.message().await;
        peer.send(OK).await;
        peer.message().await;
        peer.send(HANG_UP).await;
    })
}

#[tokio::test(start_paused = true)]
async fn without_retry_a_connection_that_the_application_closes_costs_a_request() {
    let mesh = Mesh::default();
    let app = hangs_up_on_the_second(&mesh);
    let bench = Bench::application(&mesh, APP);
    let mut client = bench.without(Name::Retry);
    assert_eq!(client.get("/1").await.status_and_reason(), (200, None));
    assert_eq!(client.get("/2").await.status_and_reason(), (502, Some("upstream_closed")));
    assert_eq!(app.connections(), 1);
    let mut client = bench.client();
    assert_eq!(client.get("/3").await.status_and_reason(), (200, None));
    assert_eq!(
        client.get("/4").await.status_and_reason(),
        (200, None),
        "sent once more, on a fresh connection"
    );
    assert_eq!(bench.sum("pillion_retries_total outcome=replaced"), 1);
}

#[tokio::test(start_paused = true)]
async fn without_limit_a_body_of_any_announced_size_is_let_in_to_the_request_limit() {
    const LARGE: &str = "POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 9\r\n\r\n123456789";
    let mesh = Mesh::default();
    let app = mesh.answering(A, OK);
    let bench = Bench::application(&mesh, &format!("{APP}, max_requests: 1"));
    let (mut first, mut second) = (bench.without(Name::Limit), bench.without(Name::Limit));
    assert_eq!(
        (first.ask(LARGE).await.status_and_reason(), second.ask(LARGE).await.status_and_reason()),
        ((200, None), (200, None))
    );
    let bench = Bench::application(&mesh, &format!("{APP}, max_body: 8B"));
    assert_eq!(bench.client().ask(LARGE).await.status_and_reason(), (413, Some("body_too_large")));
    assert_eq!(app.hits(), 2, "it was refused before the application heard of it");
}
