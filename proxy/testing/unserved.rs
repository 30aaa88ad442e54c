//! Requests that reach no stack have an access line like all others, with the request id of their heads.

use serde_json::{Value, json};

use super::backend::OK;
use super::logged;
use super::mesh::{A, IDENTITY, Mesh, Pair, application, application_at, caller, identity, settle};
use pillion_base::unfinished::Side;

const INBOUND: &str = "10.1.0.1:15006";

/// The parts of a line that show which request it was and how it ended.
fn summary(line: &Value) -> Value {
    let id = line["request_id"].as_str().unwrap_or_default();
    let is_made = id.len() == 36 && id.contains('-');
    json!([
        line["direction"],
        line["method"],
        line["path"],
        line["host"],
        line["status"],
        line["reason"],
        if is_made { "made" } else { id }
    ])
}

#[test]
fn c15_plaintext_at_strict_is_logged_and_its_request_id_is_kept() {
    let lines = logged::lines(|log| async move {
        let pair = Pair::new();
        let app = pair.mesh.answering(A, OK);
        let yaml = application_at(INBOUND, &format!("app: {A}")) + IDENTITY + &log;
        let inbound = pair.mesh.sidecar(&yaml, Some(identity(&pair.ca, "orders")));
        let request =
            "POST /a?b HTTP/1.1\r\nhost: orders\r\nx-request-id: of-the-caller\r\ncontent-length: 9\r\n\r\n";
        let mut client = inbound.client().await;
        // In two pieces: what is refused by its first bytes is read to the end of its head all the same.
        client.send(&request[..30]).await;
        settle().await;
        client.send(&request[30..]).await;
        let answer = client.answer().await;
        assert_eq!(answer.status_and_reason(), (403, Some("mtls_required")));
        assert_eq!(answer.header("x-request-id"), Some("of-the-caller"));
        assert_eq!(client.rest().await, b"");

        let mut client = inbound.client().await;
        client.send("GET / HTTP/1.1\r\nhost: orders\r\nx-request-id: not well formed\r\n").await; // and no more
        let answer = client.answer().await;
        assert_eq!(answer.status_and_reason(), (403, Some("mtls_required")));
        assert_eq!(answer.header("x-request-id").map(str::len), Some(36));

        let mut client = inbound.client().await;
        client.send("\0\x01 not HTTP").await;
        assert_eq!(client.rest().await, b"", "closed without a word");
        assert_eq!(app.connections(), 0);
    });
    let summaries: Vec<_> = lines.iter().map(summary).collect();
    assert_eq!(
        summaries,
        [
            json!(["inbound", "POST", "/a?b", "orders", 403, "mtls_required", "of-the-caller"]),
            json!(["inbound", "GET", "/", "orders", 403, "mtls_required", "made"]),
            json!(["inbound", null, null, null, 0, "mtls_required", "made"]),
        ]
    );
    assert!(lines[0]["detail"].as_str().is_some_and(|detail| detail.contains("strict")), "{lines:?}");
}

#[test]
fn c19_a_head_that_is_refused_is_logged_and_its_request_id_is_kept() {
    let lines = logged::lines(|log| async move {
        let mesh = Mesh::default();
        let _app = mesh.answering(A, OK);
        let outbound = mesh.sidecar(&(caller(&format!("endpoints: [{A}]")) + &log), None);
        let inbound = mesh.sidecar(&(application(&format!("app: {A}")) + &log), None);
        let many = "x-a: 1\r\n".repeat(200);
        for sidecar in [&outbound, &inbound] {
            for (head, status) in [
                (
                    "GET /n HTTP/1.1\r\nhost: orders\r\nx-request-id: nonsense\r\nno colon\r\n\r\n"
                        .to_owned(),
                    400,
                ),
                ("GET /l HTTP/1.1\r\nx-request-id: length\r\ncontent-length: x\r\n\r\n".to_owned(), 400),
                (format!("GET /m HTTP/1.1\r\nhost: orders\r\nx-request-id: many\r\n{many}\r\n"), 431),
            ] {
                let mut client = sidecar.client().await;
                assert_eq!(client.get("/").await.status(), Some(200), "one before it on the connection");
                settle().await;
                let answer = client.ask(&head).await;
                assert_eq!(answer.status(), Some(status), "{head:.40}");
                assert_ne!(answer.header("x-request-id").map(str::len), Some(36), "{head:.40}");
            }
        }
        let mut client = outbound.client().await;
        client.send("GET / HTTP/1.1\r\nhost: orders\r\nx-request-id: one\r\n\r\nno request\r\n\r\n").await;
        assert_eq!(client.answer().await.status(), Some(200));
        let answer = client.answer().await;
        assert_eq!(answer.status(), Some(400));
        assert_eq!(
            answer.header("x-request-id").map(str::len),
            Some(36),
            "the id is not that of another request"
        );
    });
    let refused: Vec<_> = lines.iter().map(summary).filter(|line| line[4] != 200).collect();
    let of = |direction| {
        [
            json!([direction, "GET", "/n", "orders", 400, "bad_request", "nonsense"]),
            json!([direction, "GET", "/l", null, 400, "bad_request", "length"]),
            json!([direction, "GET", "/m", "orders", 431, "headers_too_large", "many"]),
        ]
    };
    let made = json!(["outbound", "no", "request", null, 400, "bad_request", "made"]);
    let mut expected = [of("outbound"), of("inbound")].concat();
    expected.push(made);
    let key = Value::to_string;
    let sorted = |mut lines: Vec<Value>| {
        lines.sort_by_key(key);
        lines
    };
    assert_eq!(sorted(refused), sorted(expected));
}

/// A client that waits for its server to speak first sends nothing, and has an access line nevertheless.
#[test]
fn c19_a_silent_client_whose_server_is_down_or_closes_is_logged_on_both_sides() {
    let lines = logged::lines(|log| async move {
        for hangs_up in [false, true] {
            let mesh = Mesh::default();
            let _app = hangs_up.then(|| mesh.scripted(A, |peer, _| async move { drop(peer) }));
            let service = format!("endpoints: [{A}], listen: 127.0.0.1:0, retry: off");
            let outbound = mesh.sidecar(&(caller(&service) + &log), None);
            let inbound = mesh.sidecar(&(application(&format!("app: {A}")) + &log), None);
            for sidecar in [&outbound, &inbound] {
                assert_eq!(sidecar.direct_client().await.ends().await, (Vec::new(), !hangs_up));
                assert_eq!(sidecar.sum("pillion_connections_total outcome=failed protocol=unknown"), 1);
                settle().await;
            }
        }
    });
    let mut summaries: Vec<_> = lines
        .iter()
        .map(|line| json!([line["direction"], line["protocol"], line["upstream"], line["reason"]]))
        .collect();
    summaries.sort_by_key(Value::to_string); // the two sidecars write in no fixed order
    let of = |direction, reason| json!([direction, "tcp", A, reason]);
    let expected = [
        of("inbound", "connect_refused"),
        of("inbound", "upstream_closed"),
        of("outbound", "connect_refused"),
        of("outbound", "upstream_closed"),
    ];
    assert_eq!(summaries, expected);
}

/// With and without a declaration, and for both HTTP versions.
#[test]
fn c19_a_head_that_is_incomplete_at_its_deadline_is_logged_and_answered_if_possible() {
    const HEAD: &str = "GET /slow HTTP/1.1\r\nhost: orders\r\nx-request-id: late\r\nx-";
    const HTTP2: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x09\x01\x04\0\0\0\x01";
    let lines = logged::lines(|log| async move {
        let mesh = Mesh::default();
        let _app = mesh.answering(A, OK);
        let service = format!("endpoints: [{A}], listen: 127.0.0.1:0");
        let outbound = mesh.sidecar(&(caller(&service) + &log), None);
        let inbound = mesh.sidecar(&(application(&format!("app: {A}")) + &log), None);
        for sidecar in [&outbound, &inbound] {
            for head in [HEAD, "GET /first-line"] {
                let answer = sidecar.direct_client().await.ask(head).await;
                assert_eq!(answer.status_and_reason(), (408, Some("request_stalled")), "{head:?}");
                settle().await;
            }
            let mut client = sidecar.direct_client().await;
            client.send(HTTP2).await;
            drop(client.rest().await);
            settle().await;
        }
    });
    let mut summaries: Vec<_> = lines.iter().map(summary).collect();
    let of = |direction| {
        [
            json!([direction, "GET", "/slow", "orders", 408, "request_stalled", "late"]),
            json!([direction, null, null, null, 408, "request_stalled", "made"]),
            json!([direction, null, null, null, 408, "request_stalled", "made"]),
        ]
    };
    let mut expected = [of("outbound"), of("inbound")].concat();
    summaries.sort_by_key(Value::to_string);
    expected.sort_by_key(Value::to_string);
    assert_eq!(summaries, expected);
}

/// Opaque bytes without a destination are refused like such requests.
#[test]
fn c15_opaque_bytes_that_go_nowhere_are_logged_with_their_reason() {
    let lines = logged::lines(|log| async move {
        let mesh = Mesh::default();
        let yaml = caller(&format!("endpoints: [{A}]"));
        let denies =
            yaml.replace("listen: 127.0.0.1:0 }\nservices", "listen: 127.0.0.1:0, unknown: deny }\nservices");
        let outbound = mesh.sidecar(&(denies + &log), None);
        for to in ["10.8.0.1:80", "240.240.7.7:80"] {
            let mut client = outbound.redirected(to).await;
            client.send("\0\x01 not HTTP").await;
            assert_eq!(client.ends().await, (Vec::new(), true));
            settle().await;
        }
    });
    let mut summaries: Vec<_> =
        lines.iter().map(|line| json!([line["direction"], line["protocol"], line["reason"]])).collect();
    summaries.sort_by_key(Value::to_string);
    let expected = [json!(["outbound", "tcp", "egress_denied"]), json!(["outbound", "tcp", "no_route"])];
    assert_eq!(summaries, expected);
}

/// The client is refused at the same time whether its line is complete or not, and has its line in the log.
#[test]
fn c15_plaintext_that_comes_just_before_the_deadline_is_logged() {
    let lines = logged::lines(|log| async move {
        let pair = Pair::new();
        let yaml = application_at(INBOUND, &format!("app: {A}")) + IDENTITY + &log;
        let inbound = pair.mesh.sidecar(&yaml, Some(identity(&pair.ca, "orders")));
        let began = tokio::time::Instant::now();
        let (mut line, mut head) = (inbound.client().await, inbound.client().await);
        tokio::time::sleep(std::time::Duration::from_millis(9_500)).await;
        line.send("G").await;
        head.send("GET /late HTTP/1.1\r\nhost: orders\r\nx-").await;
        let answered = async { (head.answer().await, began.elapsed()) };
        let (ends, (answer, after)) = tokio::join!(line.rest(), answered);
        assert_eq!((ends, answer.status_and_reason()), (b"".to_vec(), (403, Some("mtls_required"))));
        assert!(after < std::time::Duration::from_millis(10_100), "{after:?}");
    });
    let mut summaries: Vec<_> = lines.iter().map(summary).collect();
    summaries.sort_by_key(Value::to_string);
    let expected = [
        json!(["inbound", "GET", "/late", "orders", 403, "mtls_required", "made"]),
        json!(["inbound", null, null, null, 0, "mtls_required", "made"]),
    ];
    assert_eq!(summaries, expected);
}

/// First lines without an end, of which the oldest make room for others.
#[test]
fn c19_first_lines_that_are_given_up_are_logged() {
    let lines = logged::lines(|log| async move {
        let mesh = Mesh::default();
        let _app = mesh.answering(A, OK);
        let service = format!("endpoints: [{A}], listen: 127.0.0.1:0");
        let outbound = mesh.sidecar(&(caller(&service) + &log), None);
        let inbound = mesh.sidecar(&(application(&format!("app: {A}")) + &log), None);
        let line = "a".repeat(56 * 1024); // may be a method
        for (sidecar, side) in [(&outbound, Side::Application), (&inbound, Side::Strangers)] {
            let mut clients = Vec::new();
            for _ in 0..side.most() / line.len() + 5 {
                let mut client = sidecar.direct_client().await;
                client.send(&line).await;
                settle().await;
                clients.push(client);
            }
            let refused = sidecar.sum("pillion_connections_total protocol=unknown outcome=refused");
            assert!(refused >= 5, "{refused}");
        }
    });
    for direction in ["outbound", "inbound"] {
        let of = |line: &&Value| line["direction"] == direction && line["reason"] == "overloaded";
        assert!(lines.iter().filter(of).count() >= 5, "{direction}");
    }
}
