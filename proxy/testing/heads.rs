//! How large a head may be. The limits count what a client or an application sent, without the fields that sidecars
//! add.

use bytes::Bytes;
use h2::server::SendResponse;
use http::Response;

use super::backend::OK;
use super::http2;
use super::mesh::{A, Mesh, ORDERS, Pair, Sidecar, settle};
use crate::testing::backend::Backend;

/// The defaults of `limits`.
const FIELDS: usize = 100;
const BYTES: usize = 64 * 1024;

/// Two sidecars that speak this version of HTTP to each other, and the application behind them.
fn pair(protocol: &str) -> (Sidecar, Sidecar, Backend) {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let second = pair.application("10.1.0.1:15006", A);
    let orders = format!("endpoints: [10.1.0.1:15006], {ORDERS}, protocol: {protocol}, retry: off");
    (pair.caller(&orders), second, app)
}

/// A request with this many fields, `host` among them, and this many bytes.
fn request(fields: usize, bytes: usize) -> String {
    let mut head = "GET / HTTP/1.1\r\nhost: orders\r\n".to_owned();
    for field in 2..fields {
        head += &format!("x-{field}: 1\r\n");
    }
    let rest = bytes.saturating_sub(head.len() + "x-rest: \r\n\r\n".len());
    head + "x-rest: " + &"r".repeat(rest) + "\r\n\r\n"
}

#[tokio::test(start_paused = true)]
async fn b8_a_head_that_the_first_sidecar_accepts_is_not_refused_by_the_second() {
    for protocol in ["http1", "http2"] {
        for (fields, bytes) in [(FIELDS, 0), (FIELDS, BYTES), (3, BYTES), (98, 0), (20, 65_150)] {
            let (first, _second, app) = pair(protocol);
            let answer = first.client().await.ask(&request(fields, bytes)).await;
            assert_eq!(
                answer.status_and_reason(),
                (200, None),
                "{fields} fields, {bytes} bytes over {protocol}"
            );
            let seen = app.requests()[0].head.lines().filter(|line| line.starts_with("x-")).count();
            assert!(seen >= fields - 1, "{seen} of {fields} fields arrived");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b8_what_a_client_of_http2_may_send_the_second_sidecar_does_not_refuse() {
    for protocol in ["http1", "http2"] {
        let (first, _second, app) = pair(protocol);
        let mut request = http2::request("GET", "/");
        let headers = request.headers_mut();
        for field in 1..FIELDS {
            headers.insert(name(&format!("x-{field}")), "1".parse().expect("a value"));
        }
        // Each field and each of the four pseudo-headers counts 32 bytes more than its text.
        let counted: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        let pseudo = ":methodGET:schemehttp:authorityorders:path/".len() + 4 * 32;
        let rest = BYTES - counted - pseudo - "x-rest".len() - 32;
        headers.insert("x-rest", "r".repeat(rest).parse().expect("a value"));
        let answer = first.http2_client().await.ask(request, "").await.expect("an answer");
        assert_eq!(answer.head.status(), 200, "{protocol}");
        assert_eq!(app.hits(), 1);
    }
}

fn name(name: &str) -> http::HeaderName {
    name.parse().expect("a name")
}

#[tokio::test(start_paused = true)]
async fn b8_a_client_has_no_room_beyond_the_limits() {
    for (fields, bytes) in [(FIELDS + 1, 0), (3, BYTES + 1)] {
        let mesh = Mesh::default();
        let app = mesh.answering(A, OK);
        let inbound = mesh.application("app: 10.0.0.1:80");
        let (first, _second, app_of_pair) = pair("http2");
        for sidecar in [first, inbound] {
            let mut client = sidecar.client().await;
            drop(client.try_send(request(fields, bytes)).await); // the answer may come before its last byte
            assert_eq!(
                client.answer().await.status_and_reason(),
                (431, Some("headers_too_large")),
                "{fields} {bytes}"
            );
        }
        assert_eq!((app.hits(), app_of_pair.hits()), (0, 0));
    }
}

/// The extra room between sidecars is for the fields that they add; it does not raise the limits for clients.
#[tokio::test(start_paused = true)]
async fn b8_a_sidecar_has_no_room_beyond_what_it_adds() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let _second = pair.application("10.1.0.1:15006", A);
    let large = "\nlimits: { header_count: 1000, header_bytes: 1MiB }\n";
    for protocol in ["http1", "http2"] {
        let orders = format!("endpoints: [10.1.0.1:15006], {ORDERS}, protocol: {protocol}, retry: off");
        let yaml = super::mesh::caller(&orders) + super::mesh::IDENTITY + large;
        let first = pair.mesh.sidecar(&yaml, Some(super::mesh::identity(&pair.ca, "web")));
        for (fields, bytes) in [(120, 0), (3, BYTES + 8 * 1024)] {
            let answer = first.client().await.ask(&request(fields, bytes)).await;
            assert_eq!(answer.status(), Some(431), "{fields} fields, {bytes} bytes over {protocol}");
        }
    }
    assert_eq!(app.hits(), 0);
}

#[tokio::test(start_paused = true)]
async fn b8_a_client_of_http1_gets_the_key_and_the_value_of_the_limit() {
    let mesh = Mesh::default();
    let app = mesh.answering(A, OK);
    let limits = "limits: { header_count: 50, header_bytes: 16KiB }\n";
    let sidecar = mesh.sidecar(&(super::mesh::caller("endpoints: [10.0.0.1:80]") + limits), None);
    for (fields, bytes, limit) in [
        (51, 0, "more than 50 header fields (limits.header_count)"),
        (3, 16 * 1024 + 1, "over 16384 bytes (limits.header_bytes)"),
    ] {
        let mut client = sidecar.client().await;
        drop(client.try_send(request(fields, bytes)).await); // the answer may come before its last byte
        let answer = client.answer().await;
        assert_eq!(answer.status_and_reason(), (431, Some("headers_too_large")));
        assert!(answer.body.contains(limit), "{}", answer.body);
    }
    assert_eq!(app.hits(), 0);
}

#[tokio::test(start_paused = true)]
async fn b8_a_client_of_http2_gets_the_key_and_the_value_of_the_limit() {
    let mesh = Mesh::default();
    let _app = mesh.answering(A, OK);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let client = sidecar.http2_client().await;
    let limit = "over 65536 bytes (limits.header_bytes)";
    for bytes in [BYTES, 2 * BYTES - 1024] {
        let mut request = http2::request("GET", "/");
        request.headers_mut().insert("x-rest", "r".repeat(bytes).parse().expect("a value"));
        let answer = client.ask(request, "").await.expect("an answer");
        assert_eq!(answer.head.status(), 431);
        let reason = answer.header("proxy-status").expect("a reason");
        assert!(reason.contains("headers_too_large") && reason.contains(limit), "{reason}");
        assert!(answer.header("x-request-id").is_some());
    }
    settle().await;
    assert_eq!(sidecar.sum("pillion_requests_total status=431 reason=headers_too_large"), 2);
}

/// An answer with this many fields, `content-length` among them.
fn answer(fields: usize) -> String {
    let others: String = (1..fields).map(|field| format!("x-{field}: 1\r\n")).collect();
    format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n{others}\r\nok")
}

fn answering(mesh: &Mesh, fields: usize) {
    let answer: &'static str = answer(fields).leak();
    drop(mesh.answering(A, answer));
}

const ANSWER_FIELDS: usize = 200;

#[tokio::test(start_paused = true)]
async fn b9_an_answer_may_have_two_hundred_fields_and_no_more() {
    for (fields, expected) in
        [(ANSWER_FIELDS, (200, None)), (ANSWER_FIELDS + 1, (502, Some("protocol_error")))]
    {
        let mesh = Mesh::default();
        answering(&mesh, fields);
        let sidecars =
            [mesh.caller("endpoints: [10.0.0.1:80], retry: off"), mesh.application("app: 10.0.0.1:80")];
        for sidecar in sidecars {
            assert_eq!(
                sidecar.client().await.get("/").await.status_and_reason(),
                expected,
                "{fields} fields"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b9_through_two_sidecars_an_answer_may_have_as_many_fields() {
    for protocol in ["http1", "http2"] {
        let pair = Pair::new();
        answering(&pair.mesh, ANSWER_FIELDS);
        let _second = pair.application("10.1.0.1:15006", A);
        let first = pair.caller(&format!("endpoints: [10.1.0.1:15006], {ORDERS}, protocol: {protocol}"));
        let answer = first.client().await.get("/").await;
        assert_eq!(answer.status_and_reason(), (200, None), "{protocol}");
        let seen = answer.head.lines().filter(|line| line.starts_with("x-")).count();
        assert!(seen >= ANSWER_FIELDS - 1, "{seen} fields arrived");
    }
}

#[tokio::test(start_paused = true)]
async fn b9_answers_with_many_fields_and_with_few_share_a_connection() {
    let mesh = Mesh::default();
    let many: &'static str = answer(ANSWER_FIELDS).leak();
    let only_head: &'static str = many.trim_end_matches("ok").to_owned().leak();
    let app = mesh.http1(A, move |nth, request| match (nth, request.head.starts_with("HEAD")) {
        (_, true) => only_head,
        (nth, false) if nth % 2 == 1 => many,
        _ => OK,
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], retry: off");
    let mut client = sidecar.client().await;
    for nth in 0..4 {
        assert_eq!(client.get("/").await.status_and_reason(), (200, None), "request {nth}");
        client.send("HEAD / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
        let head = client.head().await.expect("an answer without a body");
        assert_eq!(head.matches("\r\nx-").count(), ANSWER_FIELDS - 1, "{head}");
    }
    assert_eq!((app.hits(), app.connections()), (8, 1));
}

#[tokio::test(start_paused = true)]
async fn b9_an_answer_with_many_fields_may_come_early_and_in_pieces() {
    let mesh = Mesh::default();
    let many: &'static str = answer(ANSWER_FIELDS).leak();
    let _app = mesh.scripted(A, move |mut peer, _| async move {
        drop(peer.head().await);
        for piece in many.as_bytes().chunks(700) {
            peer.send(piece).await;
            settle().await;
        }
        drop(peer.rest().await);
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], retry: off");
    let upload = "POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 10\r\n\r\n12345";
    assert_eq!(sidecar.client().await.ask(upload).await.status_and_reason(), (200, None));
}

#[tokio::test(start_paused = true)]
async fn b9_over_http2_an_answer_may_have_as_many_fields() {
    for (fields, expected) in
        [(ANSWER_FIELDS, (200, None)), (ANSWER_FIELDS + 1, (502, Some("protocol_error")))]
    {
        let mesh = Mesh::default();
        let _server = mesh.http2(A, 100, move |_, _, mut respond: SendResponse<Bytes>| async move {
            let mut head = Response::new(());
            for field in 0..fields {
                head.headers_mut().insert(name(&format!("x-{field}")), "1".parse().expect("a value"));
            }
            respond.send_response(head, true).expect("the stream is open");
        });
        let sidecar = mesh.caller("endpoints: [10.0.0.1:80], protocol: http2, retry: off");
        let answer = sidecar.client().await.get("/").await;
        assert_eq!(answer.status_and_reason(), expected, "{fields} fields");
    }
}

#[tokio::test(start_paused = true)]
async fn b9_the_limit_of_an_answers_fields_is_named() {
    let mesh = Mesh::default();
    answering(&mesh, ANSWER_FIELDS + 1);
    let answer = mesh.caller("endpoints: [10.0.0.1:80], retry: off").client().await.get("/").await;
    assert!(answer.body.contains("limits.response_header_count"), "{}", answer.body);
    assert!(answer.body.contains("200"), "{}", answer.body);
}
