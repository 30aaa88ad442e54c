//! `ext_authz.grpc`: a check in Envoy's messages. They are written here byte by byte, from their numbers in Envoy's files.

use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use pillion_tls::client::Purpose;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::super::backend::OK;
use super::super::http2::read_body;
use super::super::mesh::{A, IDENTITY, Mesh, Pair, Sidecar, application, application_at, identity, secs};
use super::super::peer::Message;
use super::{ALL, AUTHORIZER};

fn file(ext_authz: &str, rest: &str) -> String {
    let ext_authz = format!("ext_authz: {{ grpc: \"{AUTHORIZER}\", {ext_authz} }}");
    application(&format!("app: {A}, mtls: off, authorization: {{ {ext_authz}, {rest} }}"))
}

/// A field with bytes: a text or a message.
fn field(number: u8, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    let mut all = vec![number << 3 | 2];
    varint(content.len() as u64, &mut all);
    [all, content.to_vec()].concat()
}

fn number(field: u8, value: u64) -> Vec<u8> {
    let mut all = vec![field << 3];
    varint(value, &mut all);
    all
}

fn varint(mut value: u64, to: &mut Vec<u8>) {
    while value > 0x7f {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// What a message has at these fields, one in the other. Only the first of several is found.
fn found(message: &[u8], way: &[u64]) -> Option<Vec<u8>> {
    all(message, way).into_iter().next()
}

fn all(message: &[u8], way: &[u64]) -> Vec<Vec<u8>> {
    let Some((wanted, rest)) = way.split_first() else { return vec![message.to_vec()] };
    let (mut found, mut left) = (Vec::new(), message);
    while !left.is_empty() {
        let key = read_varint(&mut left);
        let value = read_varint(&mut left);
        if key & 7 == 0 {
            if key >> 3 == *wanted {
                found.push(value.to_string().into_bytes());
            }
            continue;
        }
        let (content, after) = left.split_at(value as usize);
        if key >> 3 == *wanted {
            found.extend(all(content, rest));
        }
        left = after;
    }
    found
}

fn read_varint(from: &mut &[u8]) -> u64 {
    let length = from.iter().position(|byte| *byte < 0x80).expect("an end") + 1;
    let (bytes, rest) = from.split_at(length);
    *from = rest;
    bytes.iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f))
}

fn text(message: &[u8], way: &[u64]) -> String {
    String::from_utf8(found(message, way).unwrap_or_default()).expect("text")
}

fn header(name: &str, value: &str, action: u64) -> Vec<u8> {
    [field(1, [field(1, name), field(2, value)].concat()), number(3, action)].concat()
}

/// `status: OK` with `ok_response`.
fn allowing(response: &[Vec<u8>]) -> Vec<u8> {
    [field(1, ""), field(3, response.concat())].concat()
}

/// `status: PERMISSION_DENIED` with `denied_response`.
fn denying(response: &[Vec<u8>]) -> Vec<u8> {
    [field(1, number(1, 7)), field(2, response.concat())].concat()
}

/// Answers every check with this message, and gives the questions to the test.
fn authorizer(mesh: &Mesh, answer: Vec<u8>) -> UnboundedReceiver<(http::request::Parts, Vec<u8>)> {
    let (sender, questions) = unbounded_channel();
    drop(mesh.http2(AUTHORIZER, 100, move |_, request: Request<h2::RecvStream>, respond| {
        let (sender, answer) = (sender.clone(), answer.clone());
        async move {
            let (head, mut body) = request.into_parts();
            let framed = read_body(&mut body).await.expect("a question");
            assert_eq!(framed[..5], [&[0], &(framed.len() as u32 - 5).to_be_bytes()[..]].concat());
            sender.send((head, framed[5..].to_vec())).ok();
            answer_with(respond, &[&[0], &(answer.len() as u32).to_be_bytes()[..], &answer].concat(), "0");
        }
    }));
    questions
}

fn answer_with(mut respond: SendResponse<Bytes>, framed: &[u8], status: &'static str) {
    let head = Response::builder().header("content-type", "application/grpc").body(()).expect("a response");
    let mut stream = respond.send_response(head, false).expect("the stream is open");
    stream.send_data(Bytes::copy_from_slice(framed), false).expect("the stream is open");
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.parse().expect("a value"));
    stream.send_trailers(trailers).expect("the stream is open");
}

async fn ask(sidecar: &Sidecar, fields: &str) -> Message {
    let asked = format!("GET /a?b=c HTTP/1.1\r\nhost: orders\r\n{fields}\r\n");
    sidecar.client().await.ask(&asked).await
}

const HTTP: [u64; 3] = [1, 4, 2];

#[tokio::test(start_paused = true)]
async fn the_question_has_what_envoy_s_message_has() {
    let mesh = Mesh::default();
    let app = mesh.answering(A, OK);
    let mut questions = authorizer(&mesh, allowing(&[]));
    let sidecar = mesh.sidecar(&file("send_headers: [authorization, x-team, cookie],", ALL), None);
    let asked = "POST /x/../a//b?c=%2e HTTP/1.1\r\nhost: orders:80\r\nauthorization: Bearer t\r\nx-team: a\r\nX-Team: b\r\n\
                 x-other: 1\r\nx-forwarded-client-cert: URI=evil\r\nx-request-id: r1\r\ncontent-length: 4\r\n\r\nbody";
    assert_eq!(sidecar.client().await.ask(asked).await.status_and_reason(), (200, None));
    let (head, question) = questions.recv().await.expect("a question");
    assert_eq!(head.uri.path(), "/envoy.service.auth.v3.Authorization/Check");
    assert_eq!(head.uri.authority().map(|it| it.as_str()), Some(AUTHORIZER));
    for (name, value) in
        [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "200000u")]
    {
        assert_eq!(head.headers[name], value, "{name}");
    }
    let http = |number| text(&question, &[&HTTP[..], &[number]].concat());
    assert_eq!([1, 2, 4, 5, 6].map(http), ["r1", "POST", "/a/b?c=%2e", "orders:80", "http"]);
    assert_eq!([9, 10, 11, 12].map(http), ["4", "HTTP/1.1", "", ""], "it gets no body unless it should");
    let headers = all(&question, &[&HTTP[..], &[3]].concat());
    let mut headers: Vec<_> = headers.iter().map(|entry| (text(entry, &[1]), text(entry, &[2]))).collect();
    headers.sort();
    let told: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        told,
        [
            ("authorization", "Bearer t"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-proto", "http"),
            ("x-request-id", "r1"),
            ("x-team", "a,b"),
        ]
    );
    let source = [1, 1, 1, 1, 2].as_slice();
    assert_eq!(
        (text(&question, source), text(&question, &[1, 1, 4])),
        ("127.0.0.1".to_owned(), String::new())
    );
    assert_eq!(
        (text(&question, &[1, 2, 1, 1, 2]), text(&question, &[1, 2, 1, 1, 3])),
        ("10.0.0.1".into(), "80".into())
    );
    assert_eq!(app.requests()[0].body, "body");
    assert_eq!(sidecar.sum("pillion_ext_authz_checks_total outcome=allowed"), 1);
    let other = sidecar.client().await.ask("GET / HTTP/1.1\r\nhost: a\r\nx-team: \u{ff}\r\n\r\n").await;
    assert_eq!(other.status(), Some(200), "two bytes of UTF-8");
    let mut client = sidecar.client().await;
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\nx-team: \xff\r\n\r\n").await;
    assert_eq!(
        client.answer().await.status_and_reason(),
        (403, Some("authz_denied")),
        "it cannot be asked about"
    );
}

#[tokio::test(start_paused = true)]
async fn the_authorizer_over_grpc_learns_the_identities() {
    const AT: &str = "10.1.0.1:15006";
    let pair = Pair::new();
    let _app = pair.mesh.answering(A, OK);
    let mut questions = authorizer(&pair.mesh, allowing(&[]));
    let ext_authz = format!("ext_authz: {{ grpc: \"{AUTHORIZER}\" }}");
    let yaml = application_at(AT, &format!("app: {A}, authorization: {{ {ext_authz}, {ALL} }}")) + IDENTITY;
    let _sidecar = pair.mesh.sidecar(&yaml, Some(identity(&pair.ca, "orders")));
    let mut web = pair.peer_as("web", AT, Purpose::Http1).await;
    assert_eq!(web.get("/a").await.status(), Some(200));
    let (_, question) = questions.recv().await.expect("a question");
    assert_eq!(text(&question, &[1, 1, 4]), "spiffe://cluster.local/ns/default/sa/web");
    assert_eq!(text(&question, &[1, 2, 4]), "spiffe://cluster.local/ns/default/sa/orders");
    assert_eq!(text(&question, &[&HTTP[..], &[6]].concat()), "https");
}

#[tokio::test(start_paused = true)]
async fn an_authorizer_changes_the_headers_of_request_and_answer() {
    let mesh = Mesh::default();
    let app = mesh.answering(A, "HTTP/1.1 200 OK\r\nx-app: 1\r\ncontent-length: 0\r\n\r\n");
    let changes = [
        field(2, header("x-user", "jo", 2)),
        field(2, header("x-team", "b", 0)),
        field(5, "authorization"),
        field(6, header("set-cookie", "s=1", 0)),
        field(6, header("x-app", "2", 2)),
    ];
    let _questions = authorizer(&mesh, allowing(&changes));
    let sidecar = mesh.sidecar(&file("", ALL), None);
    let forged =
        "Connection: x-user, x-team\r\nX_User: admin\r\nx-user: admin\r\nauthorization: Bearer t\r\n";
    let answer = ask(&sidecar, forged).await;
    assert_eq!(
        (answer.status(), answer.header("x-app"), answer.header("set-cookie")),
        (Some(200), Some("2"), Some("s=1"))
    );
    let got = app.requests()[0].head.to_lowercase();
    assert!(got.contains("x-user: jo\r\n") && got.contains("x-team: b\r\n"), "{got}");
    assert!(!got.contains("admin") && !got.contains("bearer"), "{got}");
    let audit = mesh.sidecar(&file("", "default: allow, mode: audit"), None);
    let answer = ask(&audit, "x-user: me\r\n").await;
    assert_eq!(
        (answer.header("x-app"), answer.header("set-cookie")),
        (Some("1"), None),
        "audit changes nothing"
    );
    assert!(app.requests()[1].head.contains("x-user: me"));
}

#[tokio::test(start_paused = true)]
async fn a_value_that_the_client_has_sent_survives_only_where_the_authorizer_says_append() {
    let named = |name: &str| field(1, [field(1, name), field(2, "jo")].concat());
    let append = field(2, number(1, 1));
    let changes = [field(2, named("x-user")), field(2, [named("x-team"), append].concat())];
    let mesh = Mesh::default();
    let app = mesh.answering(A, OK);
    let _questions = authorizer(&mesh, allowing(&changes));
    let sidecar = mesh.sidecar(&file("", ALL), None);
    assert_eq!(ask(&sidecar, "x-user: admin\r\nX_User: root\r\nx-team: shop\r\n").await.status(), Some(200));
    let got = app.requests()[0].head.to_lowercase();
    assert!(got.contains("x-user: jo\r\n") && !got.contains("admin") && !got.contains("root"), "{got}");
    assert!(got.contains("x-team: shop\r\n") && got.contains("x-team: jo\r\n"), "{got}");
}

#[tokio::test(start_paused = true)]
async fn a_denial_over_grpc_has_its_own_status_headers_and_body() {
    let response = [
        field(1, number(1, 451)),
        field(2, header("x-why", "no", 2)),
        field(2, header("connection", "x", 2)),
        field(3, "<no>"),
    ];
    let mesh = Mesh::default();
    let app = mesh.answering(A, OK);
    let _questions = authorizer(&mesh, denying(&response));
    let sidecar = mesh.sidecar(&file("on_error: allow,", ALL), None);
    let answer = ask(&sidecar, "").await;
    assert_eq!(answer.status_and_reason(), (451, Some("authz_denied")));
    assert_eq!((answer.body.as_str(), answer.header("x-why")), ("<no>", Some("no")));
    assert_ne!(answer.header("connection"), Some("x"));
    let grpc = sidecar.http2_client().await.grpc(None).await;
    assert_eq!((grpc.grpc_status(), app.hits()), (Some("2"), 0));
    assert_eq!(sidecar.sum("pillion_authorization_total decision=denied rule=ext_authz mode=enforce"), 2);
}

#[tokio::test(start_paused = true)]
async fn every_answer_is_a_verdict_or_a_failure() {
    const UNAVAILABLE: (u16, Option<&str>) = (503, Some("authz_unavailable"));
    const DENIED: (u16, Option<&str>) = (403, Some("authz_denied"));
    let set = |name: &str, value: &str| allowing(&[field(2, header(name, value, 2))]);
    for (name, answer, expected) in [
        ("OK alone", field(1, ""), (200, None)),
        ("ok_response without a status", field(3, ""), (200, None)),
        ("nothing", vec![], UNAVAILABLE),
        ("another status alone", field(1, number(1, 5)), DENIED),
        ("another status with ok_response", [field(1, number(1, 7)), field(3, "")].concat(), DENIED),
        ("UNAUTHENTICATED", field(1, number(1, 16)), (401, Some("authz_denied"))),
        ("denied_response without a status", field(2, ""), DENIED),
        ("error_response", [field(1, number(1, 13)), field(5, "")].concat(), UNAVAILABLE),
        ("OK with denied_response", [field(1, ""), field(2, "")].concat(), DENIED),
        ("query parameters", allowing(&[field(7, field(1, "a"))]), UNAVAILABLE),
        ("query parameters to remove", allowing(&[field(8, "a")]), UNAVAILABLE),
        ("a bad value", set("x-a", "a\r\nx-b: 1"), UNAVAILABLE),
        ("a reserved header", set("x-forwarded-client-cert", "URI=spiffe://evil"), UNAVAILABLE),
        ("a path", set(":path", "/admin"), UNAVAILABLE),
        ("no message", vec![0x0a, 0x09], UNAVAILABLE),
        ("a wrong kind", number(1, 1), UNAVAILABLE),
        ("unknown fields", [field(1, ""), field(14, "x"), number(15, 1)].concat(), (200, None)),
        ("a large message", denying(&[field(3, "x".repeat(65 * 1024))]), UNAVAILABLE),
    ] {
        for on_error in ["", "on_error: allow,"] {
            let fails_itself = name == "error_response" && !on_error.is_empty();
            let expected = if fails_itself { (200, None) } else { expected };
            let mesh = Mesh::default();
            let app = mesh.answering(A, OK);
            let _questions = authorizer(&mesh, answer.clone());
            let sidecar = mesh.sidecar(&file(on_error, ALL), None);
            assert_eq!(ask(&sidecar, "").await.status_and_reason(), expected, "{name} {on_error}");
            assert_eq!(app.hits(), usize::from(expected.0 == 200), "{name} {on_error}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_denial_that_cannot_be_forwarded_denies_also_where_failures_are_allowed() {
    for (name, response) in [
        ("a status that is none", field(1, number(1, 99))),
        ("status 101", field(1, number(1, 101))),
        ("status 600", field(1, number(1, 600))),
        ("a negative status", field(1, number(1, u64::MAX))),
        ("a bad value", field(2, header("x-a", "a\r\nx-b: 1", 2))),
        ("a bad name", field(2, header("x a", "b", 2))),
        ("too many headers", field(2, header("x-a", "b", 2)).repeat(101)),
    ] {
        let mesh = Mesh::default();
        let app = mesh.answering(A, OK);
        let _questions = authorizer(&mesh, denying(&[response, field(3, "<no>")]));
        let sidecar = mesh.sidecar(&file("on_error: allow,", ALL), None);
        let answer = ask(&sidecar, "").await;
        assert_eq!((answer.status_and_reason(), app.hits()), ((403, Some("authz_denied")), 0), "{name}");
        assert!(answer.header("x-a").is_none() && !answer.body.contains("<no>"), "{name}");
        assert_eq!(sidecar.sum("pillion_ext_authz_checks_total outcome=denied"), 1, "{name}");
    }
    let mesh = Mesh::default();
    let app = mesh.answering(A, OK);
    let _questions = authorizer(&mesh, denying(&[field(3, "x".repeat(65 * 1024))]));
    let sidecar = mesh.sidecar(&file("on_error: allow,", ALL), None);
    let answer = ask(&sidecar, "").await;
    assert_eq!(
        (answer.status_and_reason(), app.hits()),
        ((503, Some("authz_unavailable")), 0),
        "a message that is too large to be read may deny"
    );
}

/// An empty `CheckResponse` with status OK, and one with PERMISSION_DENIED, as gRPC frames them.
const ALLOWING: [u8; 7] = [0, 0, 0, 0, 2, 10, 0];
const DENYING: [u8; 9] = [0, 0, 0, 0, 4, 10, 2, 8, 7];

/// An authorizer that fails, or whose answer is no verdict.
fn failing(mesh: &Mesh, how: &'static str) {
    let _backend = match how {
        "refuses" => return,
        "is silent" => mesh.silent(AUTHORIZER),
        "speaks HTTP/1" => mesh.answering(AUTHORIZER, OK),
        how => mesh.http2(AUTHORIZER, 100, move |_, _question, mut respond| async move {
            let plain = |status: u16| Response::builder().status(status).body(()).expect("a response");
            match how {
                "does not answer" => tokio::time::sleep(secs(60)).await,
                "resets" => respond.send_reset(h2::Reason::INTERNAL_ERROR),
                "answers 404" => drop(respond.send_response(plain(404), true)),
                "answers 503" => drop(respond.send_response(plain(503), true)),
                "answers 200 without a status" => drop(respond.send_response(plain(200), true)),
                "sends two messages" => answer_with(respond, &ALLOWING.repeat(2), "0"),
                "sends half a message" => answer_with(respond, &ALLOWING[..6], "0"),
                "sends no message" => answer_with(respond, &[], "0"),
                "compresses" => answer_with(respond, &[1, 0, 0, 0, 2, 10, 0], "0"),
                "is UNAVAILABLE" => answer_with(respond, &[], "14"),
                "allows, and fails" => answer_with(respond, &ALLOWING, "13"),
                "allows, and breaks off" => {
                    let mut stream = begin(respond, &ALLOWING);
                    tokio::time::sleep(Duration::from_millis(50)).await; // the message is there before the end
                    stream.send_reset(h2::Reason::INTERNAL_ERROR);
                }
                "allows, and does not end" => {
                    let _stream = begin(respond, &ALLOWING);
                    tokio::time::sleep(secs(60)).await;
                }
                "denies with a long message" => drop(respond.send_response(refusing(130 * 1024), true)),
                "denies with a very long message" => drop(respond.send_response(refusing(1024 * 1024), true)),
                _ => unreachable!("{how}"),
            }
        }),
    };
}

/// Sends the head and this content.
fn begin(mut respond: SendResponse<Bytes>, framed: &[u8]) -> h2::SendStream<Bytes> {
    let mut stream = respond.send_response(Response::new(()), false).expect("an open stream");
    stream.send_data(Bytes::copy_from_slice(framed), false).expect("an open stream");
    stream
}

/// PERMISSION_DENIED, with a `grpc-message` of so many bytes.
fn refusing(bytes: usize) -> Response<()> {
    let head = Response::builder().header("grpc-status", "7").header("grpc-message", "x".repeat(bytes));
    head.body(()).expect("a response")
}

/// Asks once with each way of `on_error`, and expects this outcome of the check.
async fn fails(how: &'static str, outcome: &str, if_allowed: (u16, Option<&str>)) {
    for (on_error, expected) in [("", (503, Some("authz_unavailable"))), ("on_error: allow,", if_allowed)] {
        let mesh = Mesh::default();
        let app = mesh.answering(A, OK);
        failing(&mesh, how);
        let sidecar = mesh.sidecar(&file(on_error, ALL), None);
        let before = tokio::time::Instant::now();
        assert_eq!(ask(&sidecar, "").await.status_and_reason(), expected, "{how} {on_error}");
        assert!(before.elapsed() <= Duration::from_millis(250), "{how}: {:?}", before.elapsed());
        assert_eq!(app.hits(), usize::from(expected.0 == 200), "{how}");
        let sum = |outcome: &str| sidecar.sum(&format!("pillion_ext_authz_checks_total {outcome}"));
        assert_eq!((sum(&format!("outcome={outcome}")), sum("")), (1, 1), "{how}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_authorizer_over_grpc_that_fails_denies_unless_the_file_says_allow() {
    for how in
        ["refuses", "is silent", "does not answer", "answers 503", "is UNAVAILABLE", "allows, and fails"]
    {
        fails(how, "failed", (200, None)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_over_grpc_that_cannot_be_read_denies_also_where_failures_are_allowed() {
    for how in [
        "speaks HTTP/1",
        "resets",
        "answers 404",
        "answers 200 without a status",
        "sends two messages",
        "sends half a message",
        "sends no message",
        "compresses",
        "allows, and breaks off",
        "allows, and does not end",
        "denies with a long message",
        "denies with a very long message",
    ] {
        fails(how, "unreadable", (503, Some("authz_unavailable"))).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_denies_does_so_however_the_call_ends() {
    for how in ["breaks off", "does not end", "fails", "ends with a long message"] {
        let mesh = Mesh::default();
        let app = mesh.answering(A, OK);
        drop(mesh.http2(AUTHORIZER, 100, move |_, _question, respond| async move {
            match how {
                "fails" => return answer_with(respond, &DENYING, "13"),
                "ends with a long message" => {
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-message", "x".repeat(130 * 1024).parse().expect("a value"));
                    return begin(respond, &DENYING).send_trailers(trailers).expect("an open stream");
                }
                _ => {}
            }
            let mut stream = begin(respond, &DENYING);
            tokio::time::sleep(Duration::from_millis(50)).await; // the message is there before the end
            match how {
                "breaks off" => stream.send_reset(h2::Reason::INTERNAL_ERROR),
                _ => tokio::time::sleep(secs(60)).await,
            }
        }));
        let sidecar = mesh.sidecar(&file("on_error: allow,", ALL), None);
        let answer = ask(&sidecar, "").await;
        assert_eq!((answer.status_and_reason(), app.hits()), ((403, Some("authz_denied")), 0), "{how}");
        assert_eq!(sidecar.sum("pillion_ext_authz_checks_total outcome=denied"), 1, "{how}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_header_may_stand_several_times_in_a_denial() {
    let cookie = |value: &str| field(1, [field(1, "set-cookie"), field(2, value)].concat());
    let mesh = Mesh::default();
    let app = mesh.answering(A, OK);
    let _questions = authorizer(&mesh, denying(&[field(2, cookie("a=1")), field(2, cookie("b=2"))]));
    let sidecar = mesh.sidecar(&file("", ALL), None);
    let head = ask(&sidecar, "").await.head.to_lowercase();
    assert!(head.contains("set-cookie: a=1\r\n") && head.contains("set-cookie: b=2\r\n"), "{head}");
    assert_eq!(app.hits(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_answer_for_which_there_is_no_memory_gets_503_and_is_no_failure_of_the_authorizer() {
    let body = "x".repeat(230 * 1024); // twice, of the 512 KiB of a client without an identity
    let asked = format!("POST /a HTTP/1.1\r\nhost: orders\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    for (rest, expected, hits) in
        [(ALL, (503, Some("overloaded")), 0), ("default: allow, mode: audit", (200, None), 1)]
    {
        let mesh = Mesh::default();
        mesh.memory.set_host_memory(0);
        let app = mesh.answering(A, OK);
        let mut questions = authorizer(&mesh, denying(&[field(3, "x".repeat(63 * 1024))]));
        let sidecar = mesh.sidecar(&file("on_error: allow, with_body: 230KiB,", rest), None);
        let answer = sidecar.client().await.ask(&asked).await;
        assert_eq!((answer.status_and_reason(), app.hits()), (expected, hits), "{rest}");
        assert!(questions.try_recv().is_ok(), "it was asked");
        assert_eq!(sidecar.sum("pillion_ext_authz_checks_total"), 0, "{rest}");
        assert_eq!(sidecar.sum("pillion_authorization_total rule=ext_authz"), 0, "{rest}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_the_call_itself_denies_also_where_failures_are_allowed() {
    for (grpc, expected) in [("7", 403), ("16", 401)] {
        let mesh = Mesh::default();
        let app = mesh.answering(A, OK);
        drop(mesh.http2(AUTHORIZER, 100, move |_, _question, respond| async move {
            answer_with(respond, &[], grpc);
        }));
        let sidecar = mesh.sidecar(&file("on_error: allow,", ALL), None);
        let answer = ask(&sidecar, "").await;
        assert_eq!((answer.status_and_reason(), app.hits()), ((expected, Some("authz_denied")), 0));
    }
}
