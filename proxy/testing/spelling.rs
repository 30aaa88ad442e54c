//! How the names of headers are spelled from application to application, whatever the sidecars speak between them.

use pillion_tls::client::Purpose;

use super::http2;
use super::mesh::{A, ORDERS, Pair, Sidecar};
use crate::testing::backend::{Backend, OK};

/// Heads in the spelling of clients and servers that exist.
const REQUESTS: [&[&str]; 6] = [
    &["Host", "User-Agent", "Accept"],
    &["host", "connection", "content-type", "accept"],
    &["Host", "user-agent", "x-own"],
    &["Host", "SOAPAction", "X-API-Key", "traceparent", "ETag", "Content-Type"],
    &["HOST", "ACCEPT", "X_Under-score", "a.b"],
    &["Host", "X-Own", "Etag", "Traceparent"],
];
const ANSWERS: [&str; 4] = [
    "HTTP/1.1 200 OK\r\nServer: x\r\nDate: y\r\nX-Powered-By: z\r\nContent-Length: 2\r\nETag: e\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nserver: x\r\ncontent-length: 2\r\nx-powered-by: z\r\n\r\nok",
    "HTTP/1.1 404 Not Found\r\nSERVER: x\r\nx-Powered-BY: z\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 2\r\nWWW-Authenticate: w\r\nx-own: z\r\n\r\nok",
];

/// Two sidecars that speak this version of HTTP to each other, and the application behind them.
fn pair(protocol: &str) -> (Pair, Sidecar, Sidecar, Backend) {
    let pair = Pair::new();
    let app = pair.mesh.http1(A, |nth, _| ANSWERS[nth % ANSWERS.len()]);
    let second = pair.application("10.1.0.1:15006", A);
    let first = pair.caller(&format!("endpoints: [10.1.0.1:15006], {ORDERS}, protocol: {protocol}"));
    (pair, first, second, app)
}

fn request(names: &[&str]) -> String {
    let line = |name: &&str| match name.to_ascii_lowercase().as_str() {
        "host" => format!("{name}: orders\r\n"),
        "connection" => format!("{name}: keep-alive\r\n"),
        _ => format!("{name}: 1\r\n"),
    };
    format!("GET / HTTP/1.1\r\n{}\r\n", names.iter().map(line).collect::<String>())
}

/// The names of a head that are in `of`, in any case, in their order.
fn names<'a>(head: &'a str, of: &[&str]) -> Vec<&'a str> {
    let all = head.lines().skip(1).filter_map(|line| Some(line.split_once(':')?.0));
    all.filter(|name| of.iter().any(|other| other.eq_ignore_ascii_case(name))).collect()
}

/// The names of an answer's text.
fn names_of(answer: &str) -> Vec<&str> {
    answer.lines().skip(1).filter_map(|line| Some(line.split_once(':')?.0)).collect()
}

#[tokio::test(start_paused = true)]
async fn names_keep_their_case_and_order_whatever_the_sidecars_speak_between_them() {
    for protocol in ["http1", "http2"] {
        let (_pair, first, _second, app) = pair(protocol);
        let mut client = first.client().await;
        for nth in 0..24 {
            let sent = REQUESTS[nth % REQUESTS.len()];
            let answer = client.ask(&request(sent)).await;
            let expected: Vec<_> = sent.iter().copied().filter(|name| *name != "connection").collect();
            let came = app.requests().pop().expect("a request");
            assert_eq!(names(&came.head, &expected), expected, "{protocol} {nth}: {}", came.head);
            assert!(!came.head.to_ascii_lowercase().contains("x-pillion"), "{}", came.head);
            let expected = names_of(ANSWERS[nth % ANSWERS.len()]);
            assert_eq!(names(&answer.head, &expected), expected, "{protocol} {nth}: {}", answer.head);
            assert!(!answer.head.to_ascii_lowercase().contains("x-pillion"), "{}", answer.head);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_began_over_http2_stays_in_lower_case_beside_others_that_did_not() {
    let (_pair, first, _second, app) = pair("http2");
    let (mut http1, client) = (first.client().await, first.http2_client().await);
    for _ in 0..3 {
        http1.ask(&request(REQUESTS[0])).await;
        let mut request = http2::request("GET", "/");
        request.headers_mut().insert("x-own", "1".parse().expect("a value"));
        let answer = client.ask(request, "").await.expect("an answer");
        let came = app.requests().pop().expect("a request").head;
        assert_eq!(names(&came, &["host", "x-own"]), ["host", "x-own"], "{came}");
        assert!(answer.head.headers().keys().all(|name| !name.as_str().starts_with("x-pillion")));
    }
}

#[tokio::test(start_paused = true)]
async fn headers_that_a_route_changes_are_changed_and_the_others_keep_their_case() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let _second = pair.application("10.1.0.1:15006", A);
    let orders = format!("endpoints: [10.1.0.1:15006], {ORDERS}, protocol: http2");
    let routes = "routes:\n  - { hosts: [orders], match: { path: { prefix: / } }, to: orders, \
                  request_headers: { set: { x-own: new }, remove: [accept] } }\n";
    let yaml = super::mesh::caller(&orders) + super::mesh::IDENTITY + routes;
    let first = pair.mesh.sidecar(&yaml, Some(super::mesh::identity(&pair.ca, "web")));
    let mut client = first.client().await;
    for _ in 0..2 {
        client.ask(&request(&["Host", "Accept", "X-OWN", "SOAPAction"])).await;
        let came = app.requests().pop().expect("a request").head;
        assert_eq!(names(&came, &["host", "accept", "soapaction"]), ["Host", "SOAPAction"], "{came}");
        let came = came.to_ascii_lowercase();
        assert!(came.contains("x-own: new\r\n") && !came.contains("x-own: 1"), "{came}");
    }
}

/// Only a sidecar with a verified identity is believed; a client or an application that sends the field changes nothing.
#[tokio::test(start_paused = true)]
async fn the_field_of_a_stranger_or_of_an_application_changes_nothing_and_is_removed() {
    let (pair, first, _second, app) = pair("http2");
    let with_field =
        request(&["Host", "X-Own"]).replace("X-Own: 1", "X-Own: 1\r\nX-Pillion-Case: l,HOST;keep");
    let mut client = first.client().await;
    for _ in 0..3 {
        client.ask(&with_field).await;
        let came = app.requests().pop().expect("a request").head;
        assert_eq!(names(&came, &["host", "x-own", "x-pillion-case"]), ["Host", "X-Own"], "{came}");
    }
    let lone = pair.mesh.application("app: 10.0.0.1:80");
    let client = lone.http2_client().await;
    for _ in 0..2 {
        let mut request = http2::request("GET", "/");
        request.headers_mut().insert("x-own", "1".parse().expect("a value"));
        request.headers_mut().insert("x-pillion-case", "t;keep".parse().expect("a value"));
        let answer = client.ask(request, "").await.expect("an answer");
        assert_eq!(answer.header("x-pillion-case"), None);
        let came = app.requests().pop().expect("a request").head;
        assert_eq!(names(&came, &["host", "x-own", "x-pillion-case"]), ["host", "x-own"], "{came}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_malformed_field_of_a_peer_is_ignored_and_removed() {
    let (pair, _first, _second, app) = pair("http2");
    let peer = pair.peer("10.1.0.1:15006", Purpose::Http).await;
    let (send, conn) = h2::client::handshake(peer.into_io()).await.expect("HTTP/2");
    tokio::spawn(conn);
    for (field, expected) in [
        ("t,\u{e9};keep", "x-own"),
        ("t,x own", "x-own"),
        ("z", "x-own"),
        ("t", "X-Own"),
        ("t,X-OWN", "X-OWN"),
    ] {
        let mut request = http2::request("GET", "/");
        request.headers_mut().insert("x-own", "1".parse().expect("a value"));
        let field = http::HeaderValue::from_bytes(field.as_bytes()).expect("a value");
        request.headers_mut().insert("x-pillion-case", field);
        let mut send = send.clone().ready().await.expect("a connection");
        let (answer, _) = send.send_request(request, true).expect("a stream");
        assert!(answer.await.is_ok());
        let came = app.requests().pop().expect("a request").head;
        assert_eq!(names(&came, &["x-own", "x-pillion-case"]), [expected], "{came}");
    }
}

/// What is told once for a connection holds for every request on it, and no request gets what another client has sent.
#[tokio::test(start_paused = true)]
async fn clients_that_share_a_connection_keep_what_they_say_of_themselves() {
    let (_pair, first, _second, app) = pair("http2");
    let mut clients = [first.client().await, first.client().await];
    let own = "X-Forwarded-Proto: https\r\nX-Forwarded-Host: shop\r\nX-Request-Id: mine\r\n";
    for nth in 0..8 {
        let says = nth % 3 == 1;
        let fields = if says { own } else { "" };
        let request = format!("GET / HTTP/1.1\r\nHost: orders\r\n{fields}\r\n");
        clients[nth % 2].ask(&request).await;
        let came = app.requests().pop().expect("a request").head.to_ascii_lowercase();
        let (proto, host) = if says { ("https", "shop") } else { ("http", "orders") };
        for line in [format!("x-forwarded-proto: {proto}\r\n"), format!("x-forwarded-host: {host}\r\n")] {
            assert_eq!(came.matches(&line).count(), 1, "{nth}: {came}");
        }
        assert_eq!(came.matches("x-forwarded-").count(), 3, "with the identity: {came}");
        assert_eq!(came.contains("x-request-id: mine\r\n"), says, "{came}");
    }
}
