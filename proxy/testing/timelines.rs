//! What `/requests` and `/tap` show of exchanges that have ended, and whether their stages add up.

use serde_json::Value;

use super::backend::{OK, UNAVAILABLE};
use super::mesh::{A, B, Mesh, Pair, Sidecar, Watch, application, pass, settle};
use super::peer::{Message, Peer};

const TWO: &str = "endpoints: [10.0.0.1:80, 10.0.0.2:80], load_balancer: round_robin";
const ALL: &str = "explain: { sample: 100% }\n";

async fn admin(sidecar: &Sidecar, mesh: &Mesh, path: &str) -> Message {
    let admin = sidecar.addresses.admin[0];
    let mut client = Peer::new(mesh.memory.connect(admin).await.expect("the admin port listens"));
    client.ask(&format!("GET {path} HTTP/1.1\r\nhost: {admin}\r\n\r\n")).await
}

pub(super) async fn page(sidecar: &Sidecar, mesh: &Mesh, path: &str) -> Value {
    let answer = admin(sidecar, mesh, path).await;
    assert_eq!(answer.status_and_reason().0, 200, "{}", answer.body);
    serde_json::from_str(&answer.body).expect("JSON")
}

async fn list(sidecar: &Sidecar, mesh: &Mesh, query: &str) -> Vec<Value> {
    let page = page(sidecar, mesh, &format!("/requests{query}")).await;
    page["requests"].as_array().expect("a list").clone()
}

/// The newest exchange, whole.
async fn newest(sidecar: &Sidecar, mesh: &Mesh) -> Value {
    settle().await;
    let list = list(sidecar, mesh, "").await;
    let id = list[0]["id"].as_str().expect("an ID").to_owned();
    let whole = page(sidecar, mesh, &format!("/requests/{id}")).await;
    assert_adds_up(&whole);
    whole
}

pub(super) fn assert_adds_up(whole: &Value) {
    let stages = whole["stages"].as_array().expect("stages");
    let sum: f64 = stages.iter().map(|stage| stage["took_ms"].as_f64().expect("a time")).sum();
    let total = whole["duration_ms"].as_f64().expect("a time");
    assert!((sum - total).abs() <= total * 0.01 + 0.01, "{sum} of {total}: {whole:#}");
}

/// Stage and outcome of each stage.
pub(super) fn stages(whole: &Value) -> Vec<(&str, &str)> {
    let stages = whole["stages"].as_array().expect("stages");
    let of = |stage: &Value, key: &str| stage[key].as_str().map(|text| text.to_owned().leak() as &str);
    stages.iter().map(|stage| (of(stage, "stage").unwrap(), of(stage, "outcome").unwrap())).collect()
}

#[tokio::test(start_paused = true)]
async fn a_failed_request_is_kept_with_every_attempt_and_the_reason_for_its_end() {
    let mesh = Mesh::default();
    let (_a, _b) = (mesh.answering(A, UNAVAILABLE), mesh.answering(B, UNAVAILABLE));
    let sidecar = mesh.caller(&format!("{TWO}, retry: {{ attempts: 1 }}"));
    let asked =
        "GET /a/b?token=secret HTTP/1.1\r\nhost: orders\r\nx-request-id: call-7\r\ncookie: secret=1\r\n\r\n";
    sidecar.client().await.ask(asked).await;
    let whole = newest(&sidecar, &mesh).await;
    for (key, expected) in [
        ("id", "call-7"),
        ("direction", "outbound"),
        ("service", "orders"),
        ("method", "GET"),
        ("path", "/a/b"),
        ("host", "orders"),
    ] {
        assert_eq!(whole[key], expected, "{key}");
    }
    assert_eq!((&whole["status"], &whole["attempts"], &whole["others"]), (&503.into(), &2.into(), &0.into()));
    assert!(!whole.to_string().contains("secret"), "{whole:#}");
    let expected = [
        ("detect", "ok"),
        ("route", "ok"),
        ("connect", "ok"),
        ("send", "ok"),
        ("first_byte", "503"),
        ("backoff", "ok"),
        ("connect", "ok"),
        ("send", "ok"),
        ("first_byte", "503"),
        ("body", "ok"),
        ("end", "503"),
    ];
    assert_eq!(stages(&whole), expected, "{whole:#}");
    let ends: Vec<&Value> =
        whole["stages"].as_array().unwrap().iter().map(|stage| &stage["endpoint"]).collect();
    assert!(ends.contains(&&A.into()) && ends.contains(&&B.into()), "{ends:?}");
    let detail = whole["detail"].as_str().expect("a sentence");
    assert!(detail.ends_with(":80 answered 503; it was the last of 2 attempts"), "{detail}");
}

#[tokio::test(start_paused = true)]
async fn a_failed_answer_of_an_endpoint_has_a_sentence_that_says_why_it_was_the_last() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n");
    for (method, retry, why) in [
        ("POST", "attempts: 1", "; POST is not tried again"),
        ("POST", "methods: idempotent_or_keyed", "; POST is tried again with an Idempotency-Key only"),
        ("GET", "on: [connect_failure]", "; that is none of retry.conditions"),
    ] {
        let sidecar = mesh.caller(&format!("endpoints: [10.0.0.1:80], retry: {{ {retry} }}"));
        let asked = format!("{method} / HTTP/1.1\r\nhost: orders\r\ncontent-length: 0\r\n\r\n");
        assert_eq!(sidecar.client().await.ask(&asked).await.status_and_reason().0, 503);
        let whole = newest(&sidecar, &mesh).await;
        assert_eq!(whole["detail"], format!("the endpoint {A} answered 503{why}"), "{whole:#}");
    }
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], retry: off");
    sidecar.client().await.get("/").await;
    let whole = newest(&sidecar, &mesh).await;
    assert_eq!(
        whole["detail"],
        format!("the endpoint {A} answered 503; requests to it are not tried again (retry: off)")
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_that_the_sidecar_answers_has_the_sentence_that_its_client_got() {
    let mesh = Mesh::default();
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], retry: off");
    let answer = sidecar.client().await.get("/").await;
    assert_eq!(answer.status_and_reason(), (502, Some("connect_refused")));
    let whole = newest(&sidecar, &mesh).await;
    assert_eq!((&whole["reason"], &whole["status"]), (&"connect_refused".into(), &502.into()));
    let detail = whole["detail"].as_str().expect("a sentence");
    assert!(answer.body.contains(detail), "{detail}: {}", answer.body);
    assert_eq!(
        stages(&whole),
        [
            ("detect", "ok"),
            ("route", "ok"),
            ("connect", "connect_refused"),
            ("body", "connect_refused"),
            ("end", "connect_refused")
        ]
    );
    sidecar.client().await.ask("GET / HTTP/1.1\r\nhost: nobody\r\n\r\n").await;
    let whole = newest(&sidecar, &mesh).await;
    assert_eq!(stages(&whole), [("detect", "ok"), ("route", "no_route"), ("end", "no_route")]);
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_slow_endpoint_is_the_stage_before_its_first_byte() {
    let mesh = Mesh::default();
    let _a = mesh.silent(A);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], timeout: 3s");
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (504, Some("request_timeout")));
    let whole = newest(&sidecar, &mesh).await;
    assert_eq!(whole["duration_ms"], 3000.0);
    let slow = whole["stages"].as_array().unwrap().iter().find(|stage| stage["took_ms"] == 3000.0);
    let slow = slow.unwrap_or_else(|| panic!("{whole:#}"));
    assert_eq!((&slow["stage"], &slow["outcome"]), (&"first_byte".into(), &"request_timeout".into()));
}

#[tokio::test(start_paused = true)]
async fn successful_requests_are_kept_by_the_sample_alone_unless_they_are_slow() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let one = "endpoints: [10.0.0.1:80]";
    for (explain, kept) in [("explain: { sample: 0% }\n", 0), (ALL, 3)] {
        let sidecar = mesh.sidecar(&(super::mesh::caller(one) + explain), None);
        let mut client = sidecar.client().await;
        for _ in 0..3 {
            client.get("/").await;
        }
        settle().await;
        assert_eq!(list(&sidecar, &mesh, "").await.len(), kept, "{explain}");
    }
    let off = mesh.sidecar(&(super::mesh::caller(one) + "explain: off\n"), None);
    for path in ["/requests", "/requests/1"] {
        let answer = admin(&off, &mesh, path).await;
        assert!(
            answer.status_and_reason().0 == 404 && answer.body.contains("explain: off"),
            "{}",
            answer.body
        );
    }
}

#[tokio::test(start_paused = true)]
async fn requests_with_one_id_are_found_together_and_the_newest_is_shown_whole() {
    let mesh = Mesh::default();
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], retry: off");
    let mut client = sidecar.client().await;
    for path in ["/1", "/2", "/3"] {
        client.ask(&format!("GET {path} HTTP/1.1\r\nhost: orders\r\nx-request-id: a/b%c\r\n\r\n")).await;
        pass(1).await;
    }
    client.ask("GET /4 HTTP/1.1\r\nhost: nobody\r\n\r\n").await;
    settle().await;
    let paths =
        |list: &[Value]| list.iter().map(|row| row["path"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(paths(&list(&sidecar, &mesh, "?id=a/b%25c").await), ["/3", "/2", "/1"]);
    assert_eq!(paths(&list(&sidecar, &mesh, "?id=a/b%25c&limit=1").await), ["/3"]);
    assert_eq!(paths(&list(&sidecar, &mesh, "?reason=no_route").await), ["/4"]);
    assert_eq!(paths(&list(&sidecar, &mesh, "?service=orders&status=5xx").await), ["/3", "/2", "/1"]);
    assert_eq!(paths(&list(&sidecar, &mesh, "?slower=1h").await), Vec::<String>::new());
    let whole = page(&sidecar, &mesh, "/requests/a%2Fb%25c").await;
    assert_eq!((&whole["path"], &whole["others"]), (&"/3".into(), &2.into()));
    assert_eq!(admin(&sidecar, &mesh, "/requests?sevice=orders").await.status_and_reason().0, 400);
    assert_eq!(admin(&sidecar, &mesh, "/requests/unknown").await.status_and_reason().0, 404);
}

#[tokio::test(start_paused = true)]
async fn an_opaque_connection_has_a_timeline_with_an_id_of_its_own() {
    let mesh = Mesh::default();
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], protocol: tcp, listen: 127.0.0.1:0");
    let mut client = sidecar.direct_client().await;
    client.send("hello").await;
    client.rest().await;
    let whole = newest(&sidecar, &mesh).await;
    assert_eq!((&whole["protocol"], &whole["reason"]), (&"tcp".into(), &"connect_refused".into()));
    assert!(stages(&whole).contains(&("connect", "connect_refused")), "{whole:#}");
}

#[tokio::test(start_paused = true)]
async fn the_application_s_sidecar_shows_the_handshake_and_the_peer() {
    let pair = Pair::new();
    let _app = pair.mesh.answering(A, UNAVAILABLE);
    let _orders = pair.application("10.0.1.1:15006", A);
    let caller = pair.caller("endpoints: [10.0.1.1:15006], retry: off");
    caller.client().await.get("/").await;
    settle().await;
    let whole = newest(&_orders, &pair.mesh).await;
    assert_eq!(whole["peer"], "spiffe://cluster.local/ns/default/sa/web");
    assert_eq!((&whole["direction"], &whole["service"]), (&"inbound".into(), &"app".into()));
    assert!(stages(&whole).starts_with(&[("tls", "ok"), ("detect", "ok"), ("route", "ok")]), "{whole:#}");
}

#[tokio::test(start_paused = true)]
async fn a_head_that_is_no_http_is_kept_with_what_could_be_read_of_it() {
    let mesh = Mesh::default();
    let sidecar = mesh.sidecar(&application(&format!("app: {A}, mtls: off, protocol: http1")), None);
    let mut client = sidecar.client().await;
    client.send("GET /x HTTP/1.1\r\nhost: a\r\nbad header\r\n\r\n").await;
    client.rest().await;
    let whole = newest(&sidecar, &mesh).await;
    assert_eq!((&whole["reason"], &whole["path"]), (&"bad_request".into(), &"/x".into()));
    assert_eq!(stages(&whole).last(), Some(&("end", "bad_request")));
}

/// A client of `/tap`.
async fn tap(sidecar: &Sidecar, mesh: &Mesh, query: &str) -> Peer {
    let admin = sidecar.addresses.admin[0];
    let mut client = Peer::new(mesh.memory.connect(admin).await.expect("the admin port listens"));
    client.send(format!("GET /tap?{query} HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n")).await;
    settle().await;
    client
}

/// The lines of an answer in chunks, each of which is a line.
fn tapped(rest: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(rest).expect("text");
    text.lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_tap_shows_requests_as_they_end_and_no_credential() {
    const ASKED: &str = "GET /2?token=a HTTP/1.1\r\nhost: orders\r\nauthorization: Bearer secret\r\ncookie: secret\r\n\
                         x-api-key: secret\r\nx-plain: shown\r\n\r\n";
    let mesh = Mesh::default();
    let _a = mesh
        .answering(A, "HTTP/1.1 200 OK\r\nset-cookie: secret\r\nx-own: told\r\ncontent-length: 0\r\n\r\n");
    let sidecar = mesh.sidecar(&(super::mesh::caller("endpoints: [10.0.0.1:80]") + "explain: off\n"), None);
    let mut client = sidecar.client().await;
    client.get("/1").await;
    let (mut plain, mut whole) =
        (tap(&sidecar, &mesh, "limit=2").await, tap(&sidecar, &mesh, "limit=1&path=/2&headers=on").await);
    client.get("/1").await;
    client.ask(ASKED).await;
    let (plain, whole) = (tapped(&plain.rest().await), tapped(&whole.rest().await));
    let paths: Vec<&Value> = plain.iter().map(|row| &row["path"]).collect();
    assert_eq!(paths, ["/1", "/2"]);
    assert!(plain.iter().all(|row| row["request_headers"].is_null()), "{plain:?}");
    assert_eq!(whole.len(), 1);
    let shown = whole[0].to_string();
    for expected in [r#"["x-plain","shown"]"#, r#"["cookie","[redacted]"]"#, r#"["x-own","told"]"#] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    assert!(!shown.contains("secret"), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn a_tap_ends_by_its_timeout_and_an_open_one_delays_nobody() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut unread = tap(&sidecar, &mesh, "timeout=10m&limit=1000000").await;
    let mut client = sidecar.client().await;
    for _ in 0..2_000 {
        assert_eq!(client.get("/").await.status_and_reason(), (200, None));
    }
    let watch = Watch::start();
    let mut quiet = tap(&sidecar, &mesh, "timeout=7m&status=404").await;
    quiet.rest().await;
    assert_eq!(watch.seconds(), 420, "longer than other answers may take");
    drop(quiet);
    let rest = unread.rest().await; // it was cut, as it had not been read for five seconds
    let shown = rest.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"{\"attempts\"")).count();
    assert!((1..2_000).contains(&shown), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn there_are_at_most_eight_taps_and_one_that_leaves_makes_room() {
    let mesh = Mesh::default();
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut all = Vec::new();
    for _ in 0..8 {
        all.push(tap(&sidecar, &mesh, "").await);
    }
    assert_eq!(admin(&sidecar, &mesh, "/tap").await.status_and_reason().0, 429);
    all.pop();
    settle().await;
    let mut next = tap(&sidecar, &mesh, "timeout=1s").await;
    assert!(String::from_utf8_lossy(&next.rest().await).starts_with("HTTP/1.1 200"));
    assert_eq!(admin(&sidecar, &mesh, "/tap?limit=many").await.status_and_reason().0, 400);
}

#[tokio::test(start_paused = true)]
async fn the_time_of_an_external_authorizer_is_a_stage_of_its_own() {
    let mesh = Mesh::default();
    let _app = mesh.answering(A, OK);
    let _authorizer = mesh.scripted(B, |mut peer: Peer, _| async move {
        while peer.message().await.is_some() {
            tokio::time::sleep(std::time::Duration::from_millis(150)).await;
            peer.send(OK).await;
        }
    });
    let rules = format!("default: allow, ext_authz: {{ http: \"http://{B}/check\" }}");
    let inbound = format!("app: {A}, mtls: off, authorization: {{ {rules} }}");
    let sidecar = mesh.sidecar(&(application(&inbound) + ALL), None);
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (200, None));
    let whole = newest(&sidecar, &mesh).await;
    let authorize = whole["stages"].as_array().unwrap().iter().find(|stage| stage["stage"] == "authorize");
    let authorize = authorize.unwrap_or_else(|| panic!("{whole:#}"));
    assert_eq!((&authorize["took_ms"], &authorize["outcome"]), (&150.0.into(), &"allowed".into()));
    assert_eq!(whole["duration_ms"], 150.0);
}
