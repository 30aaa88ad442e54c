//! `inbound.authorization`: who may send what, over HTTP/1, HTTP/2 and opaque connections.

use http::Request;
use pillion_tls::client::Purpose;

use super::backend::{Backend, OK};
use super::logged;
use super::mesh::{A, B, IDENTITY, ORDERS, Pair, Sidecar, application_at, identity, settle};
use super::peer::Peer;

const AT: &str = "10.1.0.1:15006";
const WEB: &str = "spiffe://cluster.local/ns/default/sa/web";

fn file(inbound: &str, rules: &str) -> String {
    let rules = format!("app: {A}, {inbound} authorization: {{ {rules} }}");
    application_at(AT, &rules) + IDENTITY
}

/// The sidecar of `orders` with these rules.
fn start(pair: &Pair, inbound: &str, rules: &str) -> Sidecar {
    pair.mesh.sidecar(&file(inbound, rules), Some(identity(&pair.ca, "orders")))
}

async fn peer(pair: &Pair, account: &str) -> Peer {
    pair.peer_as(account, AT, Purpose::Http1).await
}

fn targets(app: &Backend) -> Vec<String> {
    let line = |head: &str| head.lines().next().unwrap_or_default().to_owned();
    app.requests().iter().map(|asked| line(&asked.head)).collect()
}

const READS: &str = "rules: [{ name: web-reads, from: [\"spiffe://cluster.local/ns/default/sa/web\"], methods: [GET], \
                     paths: [\"/api/*\"] }]";

#[tokio::test(start_paused = true)]
async fn a_peer_may_send_what_a_rule_allows_and_nothing_else() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let sidecar = start(&pair, "", READS);
    let (mut web, mut batch) = (peer(&pair, "web").await, peer(&pair, "batch").await);
    assert_eq!(web.get("/api/orders").await.status_and_reason(), (200, None));
    let denied = web.ask("POST /api/orders HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(denied.status_and_reason(), (403, Some("authz_denied")));
    assert!(!denied.body.contains("web-reads") && !denied.body.contains("default"), "{}", denied.body);
    assert_eq!(web.get("/other").await.status_and_reason(), (403, Some("authz_denied")));
    assert_eq!(web.get("/api/orders").await.status_and_reason(), (200, None), "the connection lives on");
    assert_eq!(batch.get("/api/orders").await.status_and_reason(), (403, Some("authz_denied")));
    settle().await;
    assert_eq!(app.hits(), 2);
    let sum = |series: &str| sidecar.sum(&format!("pillion_authorization_total {series}"));
    assert_eq!(sum("decision=allowed rule=web-reads mode=enforce"), 2);
    assert_eq!(sum("decision=denied rule=default mode=enforce"), 3);
    assert_eq!(sidecar.sum("pillion_requests_total reason=authz_denied status=403"), 3);
}

#[tokio::test(start_paused = true)]
async fn a_peer_in_plaintext_never_matches_a_rule_about_identities() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let rules = "rules: [{ name: mesh, from: [\"spiffe://cluster.local/*\"] }, { name: others, not: { from: [\"spiffe://cluster.local/ns/x/*\"] } }]";
    let sidecar = start(&pair, "mtls: permissive,", rules);
    assert_eq!(peer(&pair, "web").await.get("/").await.status_and_reason(), (200, None));
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (403, Some("authz_denied")));
    assert_eq!(app.hits(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_of_grpc_that_is_denied_gets_permission_denied() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let sidecar = start(&pair, "mtls: off,", "rules: []");
    let answer = sidecar.http2_client().await.grpc(None).await;
    assert_eq!((answer.head.status().as_u16(), answer.grpc_status()), (200, Some("7")));
    let plain = Request::get("http://orders/").body(()).expect("a request");
    let answer = sidecar.http2_client().await.ask(plain, "").await.expect("an answer");
    assert_eq!((answer.head.status().as_u16(), app.hits()), (403, 0));
}

#[tokio::test(start_paused = true)]
async fn the_application_receives_the_path_that_was_judged() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let _sidecar = start(&pair, "", "rules: [{ name: a, paths: [\"/public/*\"] }]");
    let mut web = peer(&pair, "web").await;
    for (target, status, received) in [
        ("/public/a?x=%2e%2e/../&b;c", 200, "/public/a?x=%2e%2e/../&b;c"),
        ("/public//a/./b/../%63?x", 200, "/public/a/c?x"),
        ("http://orders/admin/../public/a?x", 200, "/public/a?x"),
        ("http://orders/public/a", 200, "/public/a"),
        ("/public/a;b", 200, "/public/a;b"),
        ("/public/../admin", 403, ""),
        ("/public/%2e%2e/admin", 403, ""),
        ("//public/../admin", 403, ""),
        ("http://orders/public/../admin", 403, ""),
        ("/public;/a", 403, ""),
        ("/public/..;/admin", 400, ""),
        ("/public/%252e%252e/admin", 400, ""),
        ("/public/..%2fadmin", 400, ""),
        ("/public/..%5cadmin", 400, ""),
        ("/public/%00", 400, ""),
        ("/public/%c0%ae", 400, ""),
        ("http://me@orders/public/a", 400, ""),
    ] {
        let before = app.hits();
        let answer = web.ask(&format!("GET {target} HTTP/1.1\r\nhost: orders\r\n\r\n")).await;
        assert_eq!(answer.status(), Some(status), "{target} {}", answer.head);
        let expected = if status == 200 { vec![format!("GET {received} HTTP/1.1")] } else { Vec::new() };
        assert_eq!(targets(&app).split_off(before), expected, "{target}");
        if answer.header("connection") == Some("close") {
            web = peer(&pair, "web").await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_path_is_forwarded_as_it_came_where_only_rules_for_other_ports_name_paths() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let rules = "default: allow, rules: [{ name: a, action: deny, ports: [9999], paths: [/x] }]";
    let _sidecar = start(&pair, "", rules);
    let mut web = peer(&pair, "web").await;
    for target in ["/a//b%61", "/a%2Fb", "/x"] {
        assert_eq!(web.get(target).await.status_and_reason(), (200, None), "{target}");
        assert_eq!(targets(&app).pop(), Some(format!("GET {target} HTTP/1.1")));
    }
}

#[tokio::test(start_paused = true)]
async fn over_http2_too_the_application_receives_the_path_that_was_judged() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let sidecar = start(&pair, "mtls: off,", "rules: [{ name: a, paths: [\"/public/*\"] }]");
    let client = sidecar.http2_client().await;
    for (path, status) in [("/x/..//public/%61?q=1", 200), ("/public/../admin", 403), ("/public/..;/a", 400)]
    {
        let asked = Request::get(format!("http://orders{path}")).body(()).expect("a request");
        let answer = client.ask(asked, "").await.expect("an answer");
        assert_eq!(answer.head.status().as_u16(), status, "{path}");
    }
    assert_eq!(targets(&app), ["GET /public/a?q=1 HTTP/1.1"]);
}

#[tokio::test(start_paused = true)]
async fn where_no_rule_names_a_path_it_is_forwarded_byte_for_byte() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let _sidecar = start(&pair, "", "default: allow, rules: [{ name: a, action: deny, methods: [DELETE] }]");
    let mut web = peer(&pair, "web").await;
    let asked = ["/a/../b//c", "/%252e%61", "/a;b/..;/c", "/a%2Fb%5c", "http://orders/a/./b"];
    for target in asked {
        let answer = web.ask(&format!("GET {target} HTTP/1.1\r\nhost: orders\r\n\r\n")).await;
        assert_eq!(answer.status(), Some(200), "{target}");
    }
    assert_eq!(targets(&app), asked.map(|target| format!("GET {target} HTTP/1.1")));
    assert_eq!(web.ask("delete / HTTP/1.1\r\nhost: orders\r\n\r\n").await.status(), Some(403));
}

#[tokio::test(start_paused = true)]
async fn a_host_is_judged_by_its_name_however_its_port_is_written() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let rules = "default: allow, rules: [{ name: a, action: deny, hosts: [admin.test] }]";
    let sidecar = start(&pair, "mtls: off,", rules);
    for host in ["admin.test", "admin.test:", "ADMIN.test.:", "admin.test:80", "admin.test:080"] {
        let ask = async |head: String| sidecar.client().await.ask(&head).await.status();
        let status = ask(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        assert_eq!(status, Some(403), "{host}");
        let status = ask(format!("GET http://{host}/ HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        assert_eq!(status, Some(403), "{host} in absolute-form");
        let asked = Request::get(format!("http://{host}/")).body(()).expect("a request");
        let answer = sidecar.http2_client().await.ask(asked, "").await.expect("an answer");
        assert_eq!(answer.head.status().as_u16(), 403, "{host} over HTTP/2");
    }
    for host in ["admin.test:99999", "admin.test:x", "admin.test::"] {
        let head = format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n");
        assert_eq!(sidecar.client().await.ask(&head).await.status(), Some(400), "{host}");
        if let Ok(asked) = Request::get(format!("http://{host}/")).body(()) {
            let answer = sidecar.http2_client().await.ask(asked, "").await;
            assert!(answer.is_ok_and(|answer| answer.head.status() == 400), "{host} over HTTP/2");
        }
    }
    assert_eq!(app.hits(), 0);
}

/// Between sidecars, `x-forwarded-host` and `x-forwarded-proto` are left out once the other one knows them.
#[tokio::test(start_paused = true)]
async fn headers_that_the_sidecar_adds_are_judged_like_those_that_came() {
    for (name, value) in [("x-forwarded-host", "orders"), ("x-forwarded-proto", "http")] {
        let pair = Pair::new();
        let app = pair.mesh.answering(A, OK);
        let rules = format!(
            "default: allow, rules: [{{ name: a, action: deny, headers: {{ {name}: {{ exact: {value} }} }} }}]"
        );
        let _sidecar = start(&pair, "", &rules);
        let caller = pair.caller(&format!("endpoints: [{AT}], {ORDERS}, protocol: http2"));
        let mut client = caller.client().await;
        for nth in 0..5 {
            assert_eq!(client.get("/").await.status(), Some(403), "{name} {nth}");
        }
        assert_eq!(app.hits(), 0);
        let pair = Pair::new();
        let app = pair.mesh.answering(A, OK);
        let plain = start(&pair, "mtls: off,", &rules);
        assert_eq!(plain.client().await.get("/").await.status(), Some(403), "{name}");
        assert_eq!(app.hits(), 0);
    }
}

/// What `Connection` names does not reach the application, and some applications read `X_Debug` as `x-debug`.
#[tokio::test(start_paused = true)]
async fn a_header_is_judged_in_every_way_in_which_the_application_may_read_it() {
    for (rule, fields, status) in [
        ("action: deny, headers: { x-a: { present: off } }", "X-A: 1", 200),
        ("action: deny, headers: { x-a: { present: off } }", "X-A: 1\r\nConnection: x-a", 403),
        ("action: deny, headers: { x-a: { exact: \"1\" } }", "X-A: 1\r\nConnection: close, X-A", 403),
        ("headers: { x-a: { exact: \"1\" } }", "X-A: 1", 200),
        ("headers: { x-a: { exact: \"1\" } }", "X-A: 1\r\nConnection: x-a", 403),
        ("action: deny, headers: { x-a: { exact: \"1\" } }", "X_A: 1", 403),
        ("action: deny, headers: { x_a: { exact: \"1\" } }", "X-A: 1", 403),
        ("headers: { x-a: { exact: \"1\" } }", "X-A: 1\r\nX_A: 2", 403),
        ("action: deny, headers: { x-a: { exact: \"1\" } }", "X-A: 2, 1", 403),
        ("action: deny, headers: { x-a: { exact: \"1\" } }", "X-A: 2\r\nX-A: 1", 403),
        ("action: deny, headers: { x-a: { exact: \"1\" } }", "X-A: 21", 200),
        ("action: deny, headers: { cookie: { exact: a=1 } }", "Cookie: b=2; a=1", 403),
    ] {
        let pair = Pair::new();
        let _app = pair.mesh.answering(A, OK);
        let default = if rule.starts_with("action") { "allow" } else { "deny" };
        let sidecar =
            start(&pair, "mtls: off,", &format!("default: {default}, rules: [{{ name: a, {rule} }}]"));
        let head = format!("GET / HTTP/1.1\r\nhost: orders\r\n{fields}\r\n\r\n");
        assert_eq!(sidecar.client().await.ask(&head).await.status(), Some(status), "{rule} {fields}");
    }
}

#[tokio::test(start_paused = true)]
async fn cookies_that_http2_splits_are_judged_as_the_application_gets_them() {
    for (default, action, status) in [("allow", "deny", 403), ("deny", "allow", 200)] {
        let pair = Pair::new();
        let _app = pair.mesh.answering(A, OK);
        let cookie = "headers: { cookie: { exact: \"a=1; b=2\" } }";
        let rules = format!("default: {default}, rules: [{{ name: a, action: {action}, {cookie} }}]");
        let sidecar = start(&pair, "mtls: off,", &rules);
        let asked = Request::get("http://orders/").header("cookie", "a=1").header("cookie", "b=2");
        let asked = asked.body(()).expect("a request");
        let answer = sidecar.http2_client().await.ask(asked, "").await.expect("an answer");
        assert_eq!(answer.head.status().as_u16(), status, "{action}");
    }
}

/// Nothing passes that enforced rules would change, and nothing is changed.
#[tokio::test(start_paused = true)]
async fn in_audit_mode_everything_passes_unchanged_and_is_counted() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let rules = "mode: audit, rules: [{ name: a, paths: [\"/public/*\"] }, { name: no, action: deny, paths: [/public/no] }]";
    let sidecar = start(&pair, "", rules);
    let mut web = peer(&pair, "web").await;
    let asked = ["/public/a", "/public/no", "/a/../b//c", "/public/..;/a"];
    for target in asked {
        assert_eq!(web.get(target).await.status_and_reason(), (200, None), "{target}");
    }
    assert_eq!(targets(&app), asked.map(|target| format!("GET {target} HTTP/1.1")));
    let sum = |series: &str| sidecar.sum(&format!("pillion_authorization_total mode=audit {series}"));
    assert_eq!(sum("decision=allowed rule=a"), 1);
    assert_eq!(sum("decision=would_deny rule=no"), 1);
    assert_eq!(sum("decision=would_deny rule=default"), 1);
    assert_eq!(sum("decision=would_deny rule=bad_path"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_reload_changes_the_rules_for_connections_that_are_open() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let mut sidecar = start(&pair, "", READS);
    let mut web = peer(&pair, "web").await;
    assert_eq!(web.get("/api/a").await.status(), Some(200));
    sidecar.reload(&file("", "rules: [{ name: others, paths: [/other] }]")).expect("a good file");
    assert_eq!(web.get("/api/a").await.status(), Some(403));
    assert_eq!(web.get("/other").await.status(), Some(200));
    sidecar.reload(&(application_at(AT, &format!("app: {A}")) + IDENTITY)).expect("a good file");
    assert_eq!(web.get("/api/a").await.status(), Some(200));
    assert_eq!(app.hits(), 3);
    sidecar.controller.free_former();
    assert_eq!(sidecar.sum("pillion_authorization_total"), 0, "series of rules that are gone");
}

/// A server that speaks first and echoes.
fn greeting(pair: &Pair, address: &str) -> Backend {
    pair.mesh.scripted(address, |mut peer: Peer, _| async move {
        if peer.try_send("hello").await.is_ok() {
            let (bytes, _) = peer.exactly(4).await;
            drop(peer.try_send(&bytes).await);
        }
    })
}

async fn greeted(mut client: Peer) -> bool {
    let (greeting, _) = client.exactly(5).await;
    greeting == b"hello"
}

const TCP: &str = "10.0.0.1:3306";

#[tokio::test(start_paused = true)]
async fn an_opaque_connection_is_judged_by_peer_and_port_before_the_application_is_dialled() {
    for protocol in ["protocol: tcp, ", ""] {
        let pair = Pair::new();
        let (app, other) = (greeting(&pair, A), greeting(&pair, B));
        let rules = format!("rules: [{{ name: db, from: [\"{WEB}\"], ports: [80] }}]");
        let sidecar = start(&pair, protocol, &rules);
        assert!(greeted(pair.peer_as("web", AT, Purpose::Tcp).await).await, "{protocol}");
        let mut batch = pair.peer_as("batch", AT, Purpose::Tcp).await;
        drop(batch.try_send("\0\x01\x02\x03").await); // without bytes it might still speak HTTP
        assert!(!greeted(batch).await, "{protocol}");
        settle().await;
        assert_eq!((app.connections(), other.connections()), (1, 0), "{protocol}");
        assert_eq!(sidecar.sum("pillion_authorization_total decision=allowed rule=db"), 1, "{protocol}");
        assert_eq!(sidecar.sum("pillion_authorization_total decision=denied rule=default"), 1, "{protocol}");
    }
    let pair = Pair::new();
    let app = greeting(&pair, TCP);
    let rules = format!("rules: [{{ name: db, from: [\"{WEB}\"], ports: [3306] }}]");
    let _sidecar = start(&pair, "ports: { 3306: { protocol: tcp } },", &rules);
    let io = pair.mesh.memory.redirect(super::mesh::at(TCP), super::mesh::at(AT)).await.expect("it listens");
    assert!(greeted(pair.shaken(io, Purpose::Tcp).await).await);
    assert!(!greeted(pair.peer_as("web", AT, Purpose::Tcp).await).await, "its port is another");
    assert_eq!(app.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn opaque_bytes_are_denied_where_rules_for_requests_apply_unless_the_port_is_declared() {
    let rules = format!("rules: [{{ name: all, from: [\"{WEB}\"] }}, {{ name: reads, methods: [GET] }}]");
    for (protocol, expected) in [("", false), ("protocol: tcp,", true)] {
        let pair = Pair::new();
        let app = greeting(&pair, A);
        let sidecar = start(&pair, protocol, &rules);
        let mut web = pair.peer_as("web", AT, Purpose::Tcp).await;
        web.send("\0\x01\x02\x03").await;
        assert_eq!(greeted(web).await, expected, "{protocol}");
        settle().await;
        assert_eq!(app.connections(), usize::from(expected), "{protocol}");
        let denied = sidecar.sum("pillion_authorization_total decision=denied rule=opaque");
        assert_eq!(denied, u64::from(!expected), "{protocol}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_opaque_connection_whose_rules_change_before_it_is_carried_is_judged_anew() {
    let pair = Pair::new();
    let app = greeting(&pair, A);
    let rules = |name: &str| {
        format!("rules: [{{ name: db, from: [\"spiffe://cluster.local/ns/default/sa/{name}\"] }}]")
    };
    let mut sidecar = start(&pair, "", &rules("web"));
    let web = pair.peer_as("web", AT, Purpose::Tcp).await;
    sidecar.reload(&file("", &rules("batch"))).expect("a good file");
    assert!(!greeted(web).await);
    settle().await;
    assert_eq!(app.open(), 0);
}

#[test]
fn the_access_log_names_the_rule_that_decided() {
    let lines = logged::lines(|log| async move {
        let pair = Pair::new();
        let (_app, _tcp) = (pair.mesh.answering(A, OK), greeting(&pair, B));
        let yaml = file("", READS) + &log;
        let sidecar = pair.mesh.sidecar(&yaml, Some(identity(&pair.ca, "orders")));
        let mut web = peer(&pair, "web").await;
        web.get("/api/a").await;
        web.get("/b").await;
        let mut opaque = pair.peer_as("web", AT, Purpose::Tcp).await;
        opaque.send("\0\x01\x02\x03").await;
        opaque.rest().await;
        settle().await;
        drop(sidecar);
    });
    let told: Vec<[&str; 4]> = lines
        .iter()
        .map(|line| ["authorization", "rule", "reason", "detail"].map(|key| line[key].as_str().unwrap_or("")))
        .collect();
    assert_eq!(told[0], ["allowed", "web-reads", "", ""]);
    assert_eq!(told[1][..3], ["denied", "default", "authz_denied"]);
    assert_eq!(told[1][3], "no rule of inbound.authorization matches, and its default is deny");
    assert_eq!(told[2][..3], ["denied", "opaque", "authz_denied"]);
    assert!(told[2][3].contains("protocol: tcp"), "{told:?}");
}

/// What a recording has found: the peer's account, the port, its connections, and its requests.
fn recorded(sidecar: &Sidecar, id: u64) -> Vec<String> {
    let observation = &sidecar.controller.store().observation;
    let found = observation.read(id, tokio::time::Instant::now().into_std()).expect("a recording");
    let all = found.all().map(|(peer, port, from)| {
        let account = peer.map_or("-", |peer| peer.path().rsplit('/').next().unwrap_or_default());
        let methods = from.methods().map(|(name, method)| format!(" {name} {:?}", method.paths()));
        format!("{account} {port} {}{}", from.connections, methods.collect::<String>())
    });
    all.collect()
}

#[tokio::test(start_paused = true)]
async fn a_recording_has_the_requests_that_rules_let_through_while_it_lasts() {
    let pair = Pair::new();
    let _app = pair.mesh.answering(A, OK);
    let sidecar =
        start(&pair, "mtls: permissive,", "default: allow, rules: [{ name: a, action: deny, paths: [/no] }]");
    let observation = &sidecar.controller.store().observation;
    let (mut web, mut stranger) = (peer(&pair, "web").await, sidecar.client().await);
    assert_eq!(web.get("/before").await.status(), Some(200));
    let id = observation.begin(tokio::time::Instant::now().into_std()).expect("no other");
    for (path, status) in [("/a//b?x", 200), ("/no", 403), ("/users/7", 200), ("/users/8", 200)] {
        assert_eq!(web.get(path).await.status(), Some(status), "{path}");
    }
    assert_eq!(stranger.get("/health").await.status(), Some(200));
    assert_eq!(
        recorded(&sidecar, id),
        [r#"- 80 0 GET [("/health", 1)]"#, r#"web 80 0 GET [("/a/b", 1), ("/users/*", 2)]"#]
    );
    observation.end(id);
    assert_eq!(web.get("/after").await.status(), Some(200));
    assert!(!observation.is_on());
}

#[tokio::test(start_paused = true)]
async fn a_recording_has_opaque_connections_by_peer_and_port() {
    let pair = Pair::new();
    let _app = pair.mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.send("ready\n").await;
    });
    let sidecar = pair.application_of(AT, &format!("app: {A}, protocol: tcp"));
    let id = sidecar.controller.store().observation.begin(tokio::time::Instant::now().into_std());
    let mut web = pair.peer_as("web", AT, Purpose::Tcp).await;
    web.send("hello").await;
    settle().await;
    assert_eq!(recorded(&sidecar, id.expect("no other")), ["web 80 1"]);
}
