//! Requests that no stack sees have their access line like any, with what their heads say of themselves.

use serde_json::{Value, json};

use super::backend::OK;
use super::logged;
use super::mesh::{A, IDENTITY, Mesh, Pair, application, application_at, caller, identity, settle};

const INBOUND: &str = "10.1.0.1:15006";

/// What of a line tells which request it was, and how it ended.
fn told(line: &Value) -> Value {
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
        assert_eq!(answer.told(), (403, Some("mtls_required")));
        assert_eq!(answer.header("x-request-id"), Some("of-the-caller"));
        assert_eq!(client.rest().await, b"");

        let mut client = inbound.client().await;
        client.send("GET / HTTP/1.1\r\nhost: orders\r\nx-request-id: not well formed\r\n").await; // and no more
        let answer = client.answer().await;
        assert_eq!(answer.told(), (403, Some("mtls_required")));
        assert_eq!(answer.header("x-request-id").map(str::len), Some(36));

        let mut client = inbound.client().await;
        client.send("\0\x01 not HTTP").await;
        assert_eq!(client.rest().await, b"", "closed without a word");
        assert_eq!(app.connections(), 0);
    });
    let told: Vec<_> = lines.iter().map(told).collect();
    assert_eq!(
        told,
        [
            json!(["inbound", "POST", "/a?b", "orders", 403, "mtls_required", "of-the-caller"]),
            json!(["inbound", "GET", "/", "orders", 403, "mtls_required", "made"]),
            json!(["inbound", null, null, null, 0, "mtls_required", ""]),
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
    let refused: Vec<_> = lines.iter().map(told).filter(|told| told[4] != 200).collect();
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
