//! Requests in all forms in which they come, and what the endpoint sees of them.

use http::HeaderValue;

use super::backend::OK;
use super::http2;
use super::mesh::{self, A, Mesh, Watch, pass, settle};
use super::peer::Peer;

const ORDERS: &str = "endpoints: [10.0.0.1:80]";

#[tokio::test(start_paused = true)]
async fn the_endpoint_sees_an_origin_form_the_host_and_a_request_id() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let sidecar = mesh.caller(ORDERS);
    let mut client = sidecar.client().await;
    client
        .ask("GET http://orders/a?b=c HTTP/1.1\r\nhost: other\r\nproxy-connection: keep-alive\r\n\r\n")
        .await;
    client.ask("GET /a?b=c HTTP/1.1\r\nhost: ORDERS:80\r\nconnection: x-mine\r\nx-mine: 1\r\n\r\n").await;
    for (request, host) in a.requests().iter().zip(["orders", "ORDERS:80"]) {
        assert!(request.head.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{}", request.head);
        assert_eq!(request.header("host"), Some(host), "the one that was asked for");
        assert_eq!(request.header("x-forwarded-host"), Some(host));
        assert_eq!(request.header("x-forwarded-proto"), Some("http"));
        assert_eq!(request.header("x-request-id").map(str::len), Some(36));
        for gone in ["proxy-connection", "connection", "x-mine", "x-forwarded-for", "x-pillion-via"] {
            assert_eq!(request.header(gone), None, "{gone}");
        }
    }
}

/// In both versions a target must not begin with a question mark.
#[tokio::test(start_paused = true)]
async fn b13_an_absolute_form_without_a_path_gets_a_slash_before_its_query() {
    let pair = mesh::Pair::new();
    let (alone, a) = (Mesh::default(), pair.mesh.answering(A, OK));
    let b = alone.answering(A, OK);
    let _application = pair.application("10.1.0.1:15006", A);
    let sidecars = [
        pair.caller(&format!("endpoints: [10.1.0.1:15006], {}", mesh::ORDERS)),
        alone.caller(&format!("{ORDERS}, protocol: http1")),
    ];
    for (sidecar, app) in sidecars.iter().zip([a, b]) {
        let mut client = sidecar.client().await;
        let answer = client.ask("GET http://orders?a=b HTTP/1.1\r\nhost: orders\r\n\r\n").await;
        assert_eq!(answer.status_and_reason(), (200, None));
        let head = &app.requests()[0].head;
        assert!(head.starts_with("GET /?a=b HTTP/1.1\r\n"), "{head}");
    }
}

/// HTTP/2 cannot represent such a host, and the endpoint must not be blamed for that.
#[tokio::test(start_paused = true)]
async fn an_empty_host_or_one_that_is_no_authority_is_refused_before_an_endpoint_is_asked() {
    for protocol in ["http1", "http2"] {
        let mesh = Mesh::default();
        let a = mesh.answering(A, OK);
        let sidecar = mesh.caller(&format!("{ORDERS}, protocol: {protocol}, listen: 127.0.0.1:0"));
        for host in ["", " ", "[1:2:3:4:5:6:7:8:9:a]", ":80", "a:b"] {
            let mut client = sidecar.direct_client().await;
            let answer = client.ask(&format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
            assert_eq!(answer.status_and_reason(), (400, Some("bad_request")), "{protocol} {host:?}");
        }
        assert_eq!(a.connections(), 0, "{protocol}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_http_1_0_client_gets_an_answer_it_can_read() {
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let mesh = Mesh::default();
    let a = mesh.answering(A, CHUNKED);
    let sidecar = mesh.caller(ORDERS);
    for _ in 0..2 {
        let answer = sidecar.client().await.ask("GET / HTTP/1.0\r\nhost: orders\r\n\r\n").await;
        assert_eq!((answer.status_and_reason(), &*answer.body), ((200, None), "ok"));
        assert_eq!(answer.header("transfer-encoding"), None);
        settle().await;
    }
    assert!(a.requests()[0].head.starts_with("GET / HTTP/1.1\r\n"), "{}", a.requests()[0].head);
    assert_eq!(a.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_answer_to_head_has_a_length_and_no_body() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n");
    let sidecar = mesh.caller(ORDERS);
    let mut client = sidecar.client().await;
    for _ in 0..2 {
        client.send("HEAD / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
        let head = client.head().await.expect("headers");
        assert!(head.contains("content-length: 1000\r\n"), "{head}");
        settle().await;
    }
    assert_eq!((a.connections(), sidecar.sum("pillion_requests_total method=HEAD status=200")), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_closes_its_connection_does_not_close_the_endpoints() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let sidecar = mesh.caller(ORDERS);
    for _ in 0..3 {
        let mut client = sidecar.client().await;
        client.ask("GET / HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n").await;
        assert_eq!(client.rest().await, b"");
        settle().await;
    }
    assert_eq!((a.connections(), a.hits()), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn an_http2_client_reaches_an_http1_endpoint() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let sidecar = mesh.caller(&format!("{ORDERS}, protocol: http1"));
    let client = sidecar.http2_client().await;
    let mut request = http2::request("PUT", "/a?b=c");
    for crumb in ["a=1", "b=2"] {
        request.headers_mut().append("cookie", HeaderValue::from_static(crumb));
    }
    let answer = client.ask(request, "the body").await.expect("an answer");
    assert_eq!((answer.head.status().as_u16(), &*answer.body), (200, &b"ok"[..]));
    let request = &a.requests()[0];
    assert!(request.head.starts_with("PUT /a?b=c HTTP/1.1\r\n"), "{}", request.head);
    assert_eq!((request.header("host"), request.header("cookie")), (Some("orders"), Some("a=1; b=2")));
    assert_eq!(request.body, "the body");
}

#[tokio::test(start_paused = true)]
async fn an_http1_client_reaches_an_http2_endpoint() {
    let mesh = Mesh::default();
    let _a = mesh.http2(A, 100, |_, mut request, respond| async move {
        let uri = request.uri().to_string();
        let body = http2::read_body(request.body_mut()).await.expect("the body");
        let expected = uri == "http://orders/a?b=c" && body == b"the body";
        http2::answer(respond, if expected { 200 } else { 400 }, "ok");
    });
    let sidecar = mesh.caller(&format!("{ORDERS}, protocol: http2"));
    let mut client = sidecar.client().await;
    for _ in 0..2 {
        let answer =
            client.ask("POST /a?b=c HTTP/1.1\r\nhost: orders\r\ncontent-length: 8\r\n\r\nthe body").await;
        assert_eq!((answer.status_and_reason(), &*answer.body), ((200, None), "ok"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_services_own_port_is_for_it_whatever_host_is_named() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let sidecar = mesh.caller(&format!("{ORDERS}, listen: 127.0.0.1:9001"));
    let address = sidecar.addresses.services[0].1;
    let mut client = Peer::new(mesh.memory.connect(address).await.expect("it listens"));
    assert_eq!(
        client.ask("GET / HTTP/1.1\r\nhost: localhost:9001\r\n\r\n").await.status_and_reason(),
        (200, None)
    );
    assert_eq!(a.requests()[0].header("host"), Some("localhost:9001"));
}

const UPLOAD: &str = "POST / HTTP/1.1\r\nhost: orders\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_body_is_asked_for_by_the_application_itself() {
    let pair = mesh::Pair::new();
    let app = pair.mesh.scripted(A, |mut peer: Peer, nth| async move {
        let head = peer.head().await.expect("a request");
        assert!(head.to_ascii_lowercase().contains("expect: 100-continue"), "{head}");
        if nth == 0 {
            pass(0).await;
            peer.send("HTTP/1.1 100 Continue\r\n\r\n").await;
            assert_eq!(peer.exactly(4).await, (b"body".to_vec(), true));
            peer.send(OK).await;
        } else {
            peer.send("HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\n\r\n").await;
            assert_eq!(peer.exactly(4).await, (Vec::new(), false), "what is refused is not sent");
        }
    });
    let _inbound = pair.application("10.1.0.1:15006", A);
    let outbound = pair.caller(&format!("endpoints: [10.1.0.1:15006], {}", mesh::ORDERS));
    let mut client = outbound.client().await;
    client.send(UPLOAD).await;
    assert_eq!(client.head().await.as_deref(), Some("HTTP/1.1 100 Continue\r\n\r\n"));
    client.send("body").await;
    assert_eq!(client.answer().await.status_and_reason(), (200, None));
    let mut client = outbound.client().await;
    assert_eq!(client.ask(UPLOAD).await.status_and_reason(), (417, None));
    drop(client);
    settle().await;
    assert_eq!(app.connections(), 2);
}

/// The sidecar meets no other expectation, and keeps none from the application, which may refuse it.
#[tokio::test(start_paused = true)]
async fn b18_an_expectation_that_the_sidecar_does_not_know_is_forwarded() {
    for expected in ["junk", "100-continue, junk", "100-continue\r\nexpect: junk"] {
        let mesh = Mesh::default();
        let app = mesh.answering(A, OK);
        let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
        let upload = UPLOAD.replace("100-continue", expected);
        let answer = sidecar.client().await.ask(&format!("{upload}body")).await;
        assert_eq!(answer.status_and_reason(), (200, None), "{expected}");
        let head = app.requests().remove(0).head;
        assert!(head.contains(&format!("expect: {expected}\r\n")), "{head}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_application_that_never_sends_100_continue_gets_the_body_after_a_second() {
    let mesh = Mesh::default();
    let _app = mesh.answering(A, OK);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.client().await;
    client.send(UPLOAD).await;
    let watch = Watch::start();
    assert_eq!(client.head().await.as_deref(), Some("HTTP/1.1 100 Continue\r\n\r\n"));
    assert_eq!(watch.seconds(), 1);
    client.send("body").await;
    assert_eq!(client.answer().await.status_and_reason(), (200, None));
}
