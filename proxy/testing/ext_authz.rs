//! `inbound.authorization.ext_authz`: an external authorizer over HTTP. Over gRPC: [`grpc`]. Without a verdict: [`unjudged`].

mod body;
mod grpc;
mod unjudged;

use http::Request;
use pillion_tls::client::Purpose;

use super::backend::{Backend, OK};
use super::logged;
use super::mesh::{A, B, IDENTITY, Mesh, Pair, Sidecar, application, application_at, identity, settle};
use super::peer::{Message, Peer};

const AUTHORIZER: &str = "10.0.0.9:9191";
const ALLOWS: &str = "HTTP/1.1 200 OK\r\nx-user: a\r\ncontent-length: 2\r\n\r\nok";
const DENIES: &str = "HTTP/1.1 403 Forbidden\r\ncontent-type: text/html\r\nx-why: no\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n\
                      connection: x-hop\r\nx-hop: 1\r\nx-pillion-refused: 1\r\nproxy-status: evil\r\ncontent-length: 4\r\n\r\n<no>";

fn file(ext_authz: &str, rest: &str) -> String {
    let ext_authz = format!("ext_authz: {{ http: \"http://{AUTHORIZER}/check\", {ext_authz} }}");
    application(&format!("app: {A}, mtls: off, authorization: {{ {ext_authz}, {rest} }}"))
}

const ALL: &str = "default: allow";

async fn ask(sidecar: &Sidecar, head: &str) -> Message {
    sidecar.client().await.ask(&format!("{head} HTTP/1.1\r\nhost: orders\r\n\r\n")).await
}

fn lines(of: &Backend) -> Vec<String> {
    let first = |asked: &Message| asked.head.lines().next().unwrap_or_default().to_owned();
    of.requests().iter().map(first).collect()
}

#[tokio::test(start_paused = true)]
async fn a_request_passes_if_the_authorizer_answers_200() {
    let mesh = Mesh::default();
    let (app, authorizer) = (mesh.answering(A, OK), mesh.answering(AUTHORIZER, ALLOWS));
    let sidecar = mesh.sidecar(&file("send_headers: [authorization, X-Team],", ALL), None);
    let asked = "POST /a/b?c=d HTTP/1.1\r\nhost: orders:80\r\nauthorization: Bearer t\r\nx-team: shop\r\nx-team: bank\r\n\
                 cookie: secret=1\r\nx-forwarded-client-cert: URI=evil\r\nx-forwarded-for: 1.2.3.4\r\ncontent-length: 4\r\n\r\nbody";
    let mut client = sidecar.client().await;
    for nth in 1..=3 {
        assert_eq!(client.ask(asked).await.status_and_reason(), (200, None));
        assert_eq!((app.hits(), authorizer.hits()), (nth, nth));
    }
    assert_eq!(authorizer.connections(), 1, "it is kept");
    let question = authorizer.requests()[0].clone();
    assert!(question.head.starts_with("POST /check/a/b?c=d HTTP/1.1\r\n"), "{}", question.head);
    let head = question.head.to_lowercase();
    for field in [
        "host: orders:80\r\n",
        "authorization: bearer t\r\n",
        "x-team: shop\r\n",
        "x-team: bank\r\n",
        "x-request-id: ",
    ] {
        assert!(head.contains(field), "{field} {head}");
    }
    for absent in ["cookie", "evil", "1.2.3.4", "body", "content-length: 4"] {
        assert!(!head.contains(absent), "{absent} {head}");
    }
    assert_eq!(question.body, "");
    let received = app.requests()[0].clone();
    assert_eq!(received.body, "body");
    assert!(
        !received.head.contains("x-user"),
        "nothing of the answer reaches the application: {}",
        received.head
    );
    let sum = |series: &str| sidecar.sum(series);
    assert_eq!(sum("pillion_ext_authz_checks_total outcome=allowed"), 3);
    assert_eq!(sum("pillion_authorization_total decision=allowed rule=default mode=enforce"), 3);
    assert_eq!(sum("pillion_authorization_total"), 3, "each request is counted once");
}

#[tokio::test(start_paused = true)]
async fn the_answer_of_an_authorizer_that_denies_goes_to_the_client() {
    let mesh = Mesh::default();
    let (app, _authorizer) = (mesh.answering(A, OK), mesh.answering(AUTHORIZER, DENIES));
    let sidecar = mesh.sidecar(&file("", ALL), None);
    let mut client = sidecar.client().await;
    for _ in 0..2 {
        let denied = client.get("/a").await;
        assert_eq!(denied.status_and_reason(), (403, Some("authz_denied")));
        assert_eq!(denied.body, "<no>");
        assert_eq!((denied.header("content-type"), denied.header("x-why")), (Some("text/html"), Some("no")));
        let head = denied.head.to_lowercase();
        assert!(head.contains("set-cookie: a=1") && head.contains("set-cookie: b=2"), "{head}");
        for absent in ["x-hop", "x-pillion-refused", "evil", "text/plain"] {
            assert!(!head.contains(absent), "{absent}: {head}");
        }
    }
    let head = ask(&sidecar, "HEAD /a").await;
    assert_eq!((head.status(), head.body.as_str()), (Some(403), ""));
    assert_eq!(app.hits(), 0);
    assert_eq!(sidecar.sum("pillion_authorization_total decision=denied rule=ext_authz mode=enforce"), 3);
    assert_eq!(sidecar.sum("pillion_requests_total reason=authz_denied status=403"), 3);
    let redirecting = "HTTP/1.1 302 Found\r\nlocation: https://id.example/login\r\ncontent-length: 0\r\n\r\n";
    let mesh = Mesh::default();
    let (app, _authorizer) = (mesh.answering(A, OK), mesh.answering(AUTHORIZER, redirecting));
    let sidecar = mesh.sidecar(&file("", ALL), None);
    let answer = sidecar.client().await.get("/a").await;
    assert_eq!((answer.status(), answer.header("location")), (Some(302), Some("https://id.example/login")));
    assert_eq!(app.hits(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_of_grpc_that_is_denied_gets_the_status_that_goes_with_it() {
    for (answer, status) in [
        (DENIES, "7"),
        ("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n", "16"),
        ("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", "14"),
    ] {
        let mesh = Mesh::default();
        let (app, _authorizer) = (mesh.answering(A, OK), mesh.answering(AUTHORIZER, answer));
        let sidecar = mesh.sidecar(&file("", ALL), None);
        let got = sidecar.http2_client().await.grpc(None).await;
        assert_eq!((got.head.status().as_u16(), got.grpc_status(), app.hits()), (200, Some(status), 0));
        let asked = Request::get("http://orders/a").body(()).expect("a request");
        let plain = sidecar.http2_client().await.ask(asked, "").await.expect("an answer");
        assert!(plain.head.status().as_u16() >= 400, "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_cannot_make_a_request_pass_that_cannot_be_asked_about() {
    let mesh = Mesh::default();
    let (app, authorizer) = (mesh.answering(A, OK), mesh.answering(AUTHORIZER, ALLOWS));
    let ext_authz = "on_error: allow, send_headers: [x-user-id],";
    let yaml = file(ext_authz, ALL) + "\nlimits: { header_bytes: 1MiB }\n";
    let sidecar = mesh.sidecar(&yaml, None);
    let get = |path: &str, fields: &str| format!("GET {path} HTTP/1.1\r\nhost: orders\r\n{fields}\r\n");
    for asked in [
        "CONNECT orders:80 HTTP/1.1\r\nhost: orders:80\r\n\r\n".to_owned(),
        get(&format!("/{}", "a".repeat(65_529)), ""),
        get("/a", "x_user_id: admin\r\n"),
        get("/a", "x-user-id: me\r\nX_User-Id: admin\r\n"),
    ] {
        let answer = sidecar.client().await.ask(&asked).await;
        assert_eq!(answer.status_and_reason(), (403, Some("authz_denied")), "{asked:.60}");
    }
    assert_eq!((app.hits(), authorizer.hits()), (0, 0));
    let sum = |series: &str| sidecar.sum(series);
    assert_eq!(sum("pillion_ext_authz_checks_total"), 0, "it was not asked");
    assert_eq!(sum("pillion_authorization_total decision=denied rule=ext_authz mode=enforce"), 4);
    let answer = sidecar.client().await.ask(&get("/a", "X-User-Id: me\r\n")).await;
    assert_eq!((answer.status(), app.hits(), authorizer.hits()), (Some(200), 1, 1));
}

#[tokio::test(start_paused = true)]
async fn authorizer_and_application_see_the_same_headers_where_connection_names_some() {
    let mesh = Mesh::default();
    let (app, authorizer) = (mesh.answering(A, OK), mesh.answering(AUTHORIZER, ALLOWS));
    let sidecar = mesh.sidecar(&file("send_headers: [x-user-id, x-team],", ALL), None);
    let asked = "GET /a HTTP/1.1\r\nhost: orders\r\nConnection: X-User-Id, keep-alive\r\nx-user-id: me\r\nx-team: shop\r\n\r\n";
    assert_eq!(sidecar.client().await.ask(asked).await.status(), Some(200));
    for head in [authorizer.requests()[0].head.to_lowercase(), app.requests()[0].head.to_lowercase()] {
        assert!(head.contains("x-team: shop") && !head.contains("x-user-id"), "{head}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_authorizer_that_does_not_know_a_method_denies() {
    let mesh = Mesh::default();
    let unknown = "HTTP/1.1 501 Not Implemented\r\ncontent-length: 0\r\n\r\n";
    let (app, _authorizer) = (mesh.answering(A, OK), mesh.answering(AUTHORIZER, unknown));
    let sidecar = mesh.sidecar(&file("on_error: allow,", ALL), None);
    let answer = ask(&sidecar, "BREW /a").await;
    assert_eq!((answer.status_and_reason(), app.hits()), ((501, Some("authz_denied")), 0));
}

#[tokio::test(start_paused = true)]
async fn requests_beyond_a_limit_of_the_sidecar_are_denied_whatever_on_error_says() {
    let mesh = Mesh::default();
    let (app, _authorizer) = (mesh.answering(A, OK), mesh.silent(AUTHORIZER));
    let sidecar = mesh.sidecar(&file("timeout: 30s, on_error: allow,", ALL), None);
    let mut waiting = Vec::new();
    for _ in 0..1024 {
        let mut client = sidecar.client().await;
        client.send("GET /a HTTP/1.1\r\nhost: orders\r\n\r\n").await;
        waiting.push(client);
    }
    settle().await;
    let answer = sidecar.client().await.get("/a").await;
    assert_eq!((answer.status_and_reason(), app.hits()), ((503, Some("authz_unavailable")), 0));
    assert_eq!(sidecar.sum("pillion_ext_authz_checks_total"), 0, "nobody was asked about it");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_the_authorizer_had_closed_denies_nothing() {
    let mesh = Mesh::default();
    let app = mesh.answering(A, OK);
    let authorizer = mesh.scripted(AUTHORIZER, |mut peer: Peer, _| async move {
        peer.message().await;
        drop(peer.try_send(ALLOWS).await); // and closes, without a word of it
    });
    let sidecar = mesh.sidecar(&file("", ALL), None);
    let mut client = sidecar.client().await;
    for _ in 0..5 {
        assert_eq!(client.get("/a").await.status_and_reason(), (200, None));
    }
    assert_eq!((app.hits(), authorizer.hits()), (5, 5));
}

#[tokio::test(start_paused = true)]
async fn the_authorizer_is_asked_last_and_about_the_path_that_the_application_gets() {
    let mesh = Mesh::default();
    let (app, authorizer) = (mesh.answering(A, OK), mesh.answering(AUTHORIZER, ALLOWS));
    let rules =
        "rules: [{ name: public, paths: [\"/public/*\"] }, { name: no, action: deny, paths: [/public/no] }]";
    let sidecar = mesh.sidecar(&file("", rules), None);
    for path in ["/admin", "/public/no", "/public/../admin", "/public/%252e"] {
        assert!(ask(&sidecar, &format!("GET {path}")).await.status() >= Some(400), "{path}");
    }
    assert_eq!((app.hits(), authorizer.hits()), (0, 0));
    assert_eq!(ask(&sidecar, "GET http://orders/x/..//public/%61?q=%2e%2e").await.status(), Some(200));
    assert_eq!(lines(&authorizer), ["GET /check/public/a?q=%2e%2e HTTP/1.1"]);
    assert_eq!(lines(&app), ["GET /public/a?q=%2e%2e HTTP/1.1"]);
    assert_eq!(sidecar.sum("pillion_authorization_total decision=allowed rule=public"), 1);
}

#[tokio::test(start_paused = true)]
async fn where_no_rule_names_a_path_authorizer_and_application_see_the_same_one() {
    let mesh = Mesh::default();
    let (app, authorizer) = (mesh.answering(A, OK), mesh.answering(AUTHORIZER, ALLOWS));
    let sidecar = mesh.sidecar(&file("", ALL), None);
    for path in ["/public/..;/admin", "/../healthz", "/public/%252e%252e/admin"] {
        let answer = ask(&sidecar, &format!("GET {path}")).await;
        assert_eq!(answer.status_and_reason(), (400, Some("bad_request")), "{path}");
    }
    assert_eq!((app.hits(), authorizer.hits()), (0, 0));
    for path in ["/public/../admin", "/public/%2e%2e/admin", "//admin", "/%61dmin"] {
        assert_eq!(ask(&sidecar, &format!("GET {path}?a=%2e")).await.status(), Some(200), "{path}");
        assert_eq!(lines(&authorizer).pop().as_deref(), Some("GET /check/admin?a=%2e HTTP/1.1"), "{path}");
        assert_eq!(lines(&app).pop().as_deref(), Some("GET /admin?a=%2e HTTP/1.1"), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn in_audit_mode_the_authorizer_is_asked_and_nothing_is_refused() {
    let mesh = Mesh::default();
    let (app, authorizer) = (mesh.answering(A, OK), mesh.answering(AUTHORIZER, DENIES));
    let sidecar = mesh.sidecar(&file("", "mode: audit, default: allow"), None);
    assert_eq!(sidecar.client().await.get("/a//b").await.status_and_reason(), (200, None));
    assert_eq!((lines(&app), authorizer.hits()), (vec!["GET /a//b HTTP/1.1".to_owned()], 1));
    assert_eq!(sidecar.sum("pillion_authorization_total decision=would_deny rule=ext_authz mode=audit"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_recording_has_only_what_the_authorizer_lets_through() {
    for (rest, recorded) in [("default: allow", 0), ("default: allow, mode: audit", 1)] {
        for (answer, requests) in [(DENIES, recorded), (ALLOWS, 1)] {
            let mesh = Mesh::default();
            let (_app, _authorizer) = (mesh.answering(A, OK), mesh.answering(AUTHORIZER, answer));
            let sidecar = mesh.sidecar(&file("", rest), None);
            let (observation, now) = (&sidecar.controller.store().observation, tokio::time::Instant::now());
            let id = observation.begin(now.into_std()).expect("no other");
            ask(&sidecar, "GET /a//b?c").await;
            let found = observation.read(id, now.into_std()).expect("a recording");
            let paths =
                found.all().flat_map(|(.., from)| from.methods().flat_map(|(_, method)| method.paths()));
            let expected = vec![("/a/b".to_owned(), 1); requests];
            assert_eq!(paths.collect::<Vec<_>>(), expected, "{rest} {answer}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_authorizer_learns_who_the_peer_is_from_its_certificate() {
    const AT: &str = "10.1.0.1:15006";
    let pair = Pair::new();
    let (_app, authorizer) = (pair.mesh.answering(A, OK), pair.mesh.answering(AUTHORIZER, ALLOWS));
    let ext_authz = format!("ext_authz: {{ http: \"http://{AUTHORIZER}\" }}");
    let yaml = application_at(AT, &format!("app: {A}, authorization: {{ {ext_authz}, {ALL} }}")) + IDENTITY;
    let _sidecar = pair.mesh.sidecar(&yaml, Some(identity(&pair.ca, "orders")));
    let mut web = pair.peer_as("web", AT, Purpose::Http1).await;
    let forged = "GET /a HTTP/1.1\r\nhost: orders\r\nx-forwarded-client-cert: URI=spiffe://evil\r\n\r\n";
    assert_eq!(web.ask(forged).await.status(), Some(200));
    let head = authorizer.requests()[0].head.clone();
    assert!(
        head.contains("URI=spiffe://cluster.local/ns/default/sa/web") && !head.contains("evil"),
        "{head}"
    );
    assert!(head.starts_with("GET /a HTTP/1.1"), "{head}");
}

#[tokio::test(start_paused = true)]
async fn detected_opaque_bytes_are_denied_where_an_authorizer_is_asked() {
    let mesh = Mesh::default();
    let (_app, authorizer) = (mesh.answering(A, OK), mesh.answering(AUTHORIZER, ALLOWS));
    let sidecar = mesh.sidecar(&file("", ALL), None);
    let mut client = sidecar.client().await;
    client.send("\0\x01\x02\x03").await;
    settle().await;
    drop(client);
    settle().await;
    assert_eq!(sidecar.sum("pillion_authorization_total decision=denied rule=opaque"), 1);
    assert_eq!(authorizer.hits(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_reload_asks_another_authorizer_and_keeps_the_connections_to_the_same_one() {
    let mesh = Mesh::default();
    let (_app, first) = (mesh.answering(A, OK), mesh.answering(AUTHORIZER, ALLOWS));
    let second = mesh.answering(B, DENIES);
    let mut sidecar = mesh.sidecar(&file("", ALL), None);
    let mut client = sidecar.client().await;
    assert_eq!(client.get("/a").await.status(), Some(200));
    sidecar.reload(&file("", "default: allow, rules: [{ name: a }]")).expect("a good file");
    assert_eq!(client.get("/a").await.status(), Some(200));
    assert_eq!((first.connections(), first.hits()), (1, 2));
    sidecar.reload(&file("", ALL).replace(AUTHORIZER, B)).expect("a good file");
    assert_eq!(client.get("/a").await.status(), Some(403));
    assert_eq!((first.hits(), second.hits()), (2, 1));
    let without = application(&format!("app: {A}, mtls: off, authorization: {{ {ALL} }}"));
    sidecar.reload(&without).expect("a good file");
    assert_eq!(client.get("/a").await.status(), Some(200));
    assert_eq!((first.hits(), second.hits()), (2, 1));
}

#[test]
fn the_access_log_says_what_the_authorizer_has_answered() {
    let lines = logged::lines(|log| async move {
        let mesh = Mesh::default();
        let (_app, authorizer) = (mesh.answering(A, OK), mesh.answering(AUTHORIZER, DENIES));
        let sidecar = mesh.sidecar(&(file("", ALL) + &log), None);
        sidecar.client().await.get("/a").await;
        settle().await;
        assert_eq!(authorizer.hits(), 1);
        drop(sidecar);
    });
    assert_eq!(lines.len(), 1, "a check is no request of its own: {lines:?}");
    let told = ["authorization", "rule", "reason", "detail"].map(|key| lines[0][key].as_str().unwrap_or(""));
    assert_eq!(told[..3], ["denied", "ext_authz", "authz_denied"]);
    assert!(told[3].contains("answered 403"), "{told:?}");
}
