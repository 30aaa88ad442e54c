//! What routes do to requests besides sending them to a service.

use super::backend::{HANG_UP, OK, UNAVAILABLE};
use super::http2;
use super::mesh::{self, A, B, Mesh, Pair, Sidecar, Watch, pass, settle};
use super::peer::{Message, Peer};
use super::tunnels;
use pillion_tls::client::Purpose;

const MOVED: &str = "hosts: [orders], match: { path: { prefix: /old } }, redirect";

/// `orders` at A and `shadow` at B, and one route each.
fn file(routes: &[&str]) -> String {
    let (common, _) = mesh::caller("")
        .split_once("services:")
        .map(|(before, after)| (before.to_owned(), after.to_owned()))
        .expect("services");
    let routes: String = routes.iter().map(|route| format!("  - {{ {route} }}\n")).collect();
    format!(
        "{common}services:\n  orders: {{ endpoints: [10.0.0.1:80] }}\n  shadow: {{ endpoints: [10.0.0.2:80] }}\nroutes:\n{routes}"
    )
}

fn sidecar(mesh: &Mesh, route: &str) -> Sidecar {
    mesh.sidecar(&file(&[route]), None)
}

async fn ask(client: &mut Peer, path: &str, headers: &str) -> Message {
    client.ask(&format!("GET {path} HTTP/1.1\r\nhost: orders\r\n{headers}\r\n")).await
}

#[tokio::test(start_paused = true)]
async fn a_rewritten_request_has_another_path_and_host_and_a_header_with_the_first_host() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let route = "hosts: [orders], match: { path: { prefix: /v2 } }, to: orders, rewrite: { prefix: /, host: \"v2.shop:80\" }";
    let sidecar = sidecar(&mesh, route);
    let mut client = sidecar.client().await;
    assert_eq!(ask(&mut client, "/v2/x?y=/v2", "").await.status(), Some(200));
    let asked = &a.requests()[0];
    assert!(asked.head.starts_with("GET /x?y=/v2 HTTP/1.1"), "{}", asked.head);
    assert_eq!(asked.header("host"), Some("v2.shop:80"));
    assert_eq!(asked.header("x-forwarded-host"), Some("orders"));
}

#[tokio::test(start_paused = true)]
async fn every_try_is_rewritten_once() {
    let mesh = Mesh::default();
    let a = mesh.http1(A, |nth, _| if nth == 0 { UNAVAILABLE } else { OK });
    let route =
        "hosts: [orders], to: orders, rewrite: { prefix: /api }, request_headers: { add: { x-a: b } }";
    let sidecar = sidecar(&mesh, route);
    assert_eq!(ask(&mut sidecar.client().await, "/x", "").await.status(), Some(200));
    for asked in a.requests() {
        assert!(asked.head.starts_with("GET /api/x HTTP/1.1"), "{}", asked.head);
        assert_eq!(asked.head.matches("x-a: b").count(), 1, "{}", asked.head);
    }
    assert_eq!(a.hits(), 2);
}

#[tokio::test(start_paused = true)]
async fn headers_are_changed_both_ways_and_the_sidecars_own_cannot_be_forged() {
    let mesh = Mesh::default();
    let a = mesh.answering(
        A,
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nserver: x\r\nvary: a\r\nconnection: x-sent\r\n\r\nok",
    );
    let route = "hosts: [orders], to: orders, \
                 request_headers: { set: { X-User: sidecar }, add: { x-seen: web }, remove: [x-debug] }, \
                 response_headers: { remove: [Server], add: { vary: b }, set: { x-sent: \"1\" } }";
    let sidecar = sidecar(&mesh, route);
    let headers =
        "X-USER: forged\r\nx-user: twice\r\nX-Debug: 1\r\nx-seen: client\r\nconnection: x-user, x-seen\r\n";
    let answer = ask(&mut sidecar.client().await, "/", headers).await;
    let asked = &a.requests()[0].head;
    assert_eq!(asked.to_ascii_lowercase().matches("x-user:").count(), 1, "{asked}");
    assert!(asked.contains("x-user: sidecar") && asked.contains("x-seen: web"), "{asked}");
    assert!(!asked.to_ascii_lowercase().contains("x-debug"), "{asked}");
    assert!(answer.header("server").is_none() && answer.header("x-sent") == Some("1"), "{}", answer.head);
    assert_eq!(answer.head.matches("vary:").count(), 2, "{}", answer.head);
}

#[tokio::test(start_paused = true)]
async fn a_redirect_and_an_answer_of_the_route_are_no_errors_and_reach_no_endpoint() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let all = [
        &format!("name: moved, {MOVED}: {{ path: /v2, status: 308 }}"),
        "name: hello, hosts: [orders], match: { path: { exact: /hello } }, respond: { status: 203, body: hello }, \
         response_headers: { set: { content-type: text/html } }",
        "hosts: [nobodys.example], redirect: { host: new.example, scheme: https }",
    ];
    let sidecar = mesh.sidecar(&file(&all), None);
    let mut client = sidecar.client().await;
    let moved = ask(&mut client, "/old?a=b", "").await;
    assert_eq!((moved.status(), moved.header("location")), (Some(308), Some("/v2?a=b")));
    assert!(
        moved.header("proxy-status").is_none() && moved.header("x-request-id").is_some(),
        "{}",
        moved.head
    );
    let hello = ask(&mut client, "/hello", "").await;
    assert_eq!(
        (hello.status(), hello.body.as_str(), hello.header("content-type")),
        (Some(203), "hello", Some("text/html"))
    );
    let posted = client.ask("POST /old HTTP/1.1\r\nhost: orders\r\ncontent-length: 3\r\n\r\nabc").await;
    assert_eq!(posted.status(), Some(308));
    let nobodys = sidecar.client().await.ask("GET /x HTTP/1.1\r\nhost: Nobodys.Example.\r\n\r\n").await;
    assert_eq!(nobodys.header("location"), Some("https://new.example/x"));
    let head = client.ask("HEAD /hello HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n").await;
    assert_eq!((head.status(), head.body.as_str()), (Some(203), ""));
    settle().await;
    assert_eq!(a.hits(), 0);
    assert_eq!(sidecar.sum("pillion_requests_total service=orders route=moved status=308"), 2);
    assert_eq!(sidecar.sum("pillion_requests_total service=orders route=hello status=203"), 2);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_the_file_makes_never_looks_like_an_open_tunnel() {
    for (route, status) in [
        ("hosts: [orders], respond: { status: 200, body: hello }", 403),
        ("hosts: [orders], respond: { status: 204 }", 403),
        ("hosts: [orders], respond: { status: 503, body: hello }", 503),
        ("hosts: [orders], to: orders, fault: { abort: { status: 200 } }", 403),
    ] {
        let mesh = Mesh::default();
        let a = mesh.answering(A, OK);
        let sidecar = sidecar(&mesh, route);
        let (refused, _stream) = tunnels::extended_connect(&sidecar).await;
        assert_eq!((refused.status().as_u16(), a.connections()), (status, 0), "{route}");
        let plain = ask(&mut sidecar.client().await, "/", "").await;
        assert_ne!(plain.status(), Some(403), "{route}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_injected_error_has_its_status_and_reaches_no_endpoint() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let sidecar = sidecar(&mesh, "hosts: [orders], to: orders, fault: { abort: { status: 418 } }");
    let answer = ask(&mut sidecar.client().await, "/", "").await;
    assert_eq!(answer.status_and_reason(), (418, Some("fault_injected")));
    assert_eq!((a.hits(), sidecar.sum("pillion_requests_total status=418 reason=fault_injected")), (0, 1));
}

/// RFC 9110, 15.3.6: a 205 has no content.
#[tokio::test(start_paused = true)]
async fn an_injected_status_without_content_has_no_body() {
    let mesh = Mesh::default();
    let sidecar = sidecar(&mesh, "hosts: [orders], to: orders, fault: { abort: { status: 205 } }");
    let answer = ask(&mut sidecar.client().await, "/", "").await;
    assert_eq!((answer.status_and_reason(), answer.body.as_str()), ((205, Some("fault_injected")), ""));
}

#[tokio::test(start_paused = true)]
async fn grpc_callers_and_others_get_an_injected_error_in_their_own_protocol() {
    for (abort, grpc, http) in [("grpc: NOT_FOUND", "5", 404), ("status: 503", "14", 503)] {
        let mesh = Mesh::default();
        let sidecar =
            sidecar(&mesh, &format!("hosts: [orders], to: orders, fault: {{ abort: {{ {abort} }} }}"));
        let answer = sidecar.http2_client().await.grpc(None).await;
        assert_eq!((answer.head.status().as_u16(), answer.grpc_status()), (200, Some(grpc)), "{abort}");
        assert_eq!(ask(&mut sidecar.client().await, "/", "").await.status(), Some(http), "{abort}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_injected_delay_counts_into_the_timeout() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let delay =
        |timeout: &str| format!("hosts: [orders], to: orders, fault: {{ delay: {{ time: 2s }} }}{timeout}");
    let (slow, watch) = (sidecar(&mesh, &delay("")), Watch::start());
    assert_eq!((ask(&mut slow.client().await, "/", "").await.status(), watch.seconds()), (Some(200), 2));
    let (late, watch) = (sidecar(&mesh, &delay(", timeout: 1s")), Watch::start());
    let answer = ask(&mut late.client().await, "/", "").await;
    assert_eq!((answer.status_and_reason(), watch.seconds()), ((504, Some("request_timeout")), 1));
    pass(5).await;
    assert_eq!(a.hits(), 1, "the second was never sent");
}

#[tokio::test(start_paused = true)]
async fn the_share_of_injected_errors_is_met() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let sidecar =
        sidecar(&mesh, "hosts: [orders], to: orders, fault: { abort: { status: 500, share: 20% } }");
    let mut client = sidecar.client().await;
    for _ in 0..1000 {
        ask(&mut client, "/", "").await;
    }
    settle().await;
    let aborted = sidecar.sum("pillion_requests_total status=500 reason=fault_injected");
    // Six standard deviations: one run in a thousand million is outside.
    assert!((124..=276).contains(&aborted), "{aborted} of 1000");
}

const MIRRORED: &str = "name: canary, hosts: [orders], to: orders, mirror: { service: shadow }";

#[tokio::test(start_paused = true)]
async fn a_mirror_is_sent_the_same_request_and_its_answer_is_counted_and_thrown_away() {
    let mesh = Mesh::default();
    let (a, b) = (mesh.answering(A, OK), mesh.answering(B, UNAVAILABLE));
    let sidecar = sidecar(&mesh, MIRRORED);
    let mut client = sidecar.client().await;
    let answer =
        client.ask("POST /x?y HTTP/1.1\r\nhost: orders\r\nx-a: b\r\ncontent-length: 3\r\n\r\nabc").await;
    assert_eq!((answer.status(), answer.body.as_str()), (Some(200), "ok"));
    settle().await;
    let (own, copy) = (&a.requests()[0], &b.requests()[0]);
    assert_eq!((&own.head, &own.body), (&copy.head, &copy.body));
    assert_eq!(sidecar.sum("pillion_requests_total service=orders route=canary status=200"), 1);
    assert_eq!(sidecar.sum("pillion_requests_total service=shadow route=canary#mirror status=503"), 1);
    assert_eq!(sidecar.sum("pillion_requests_total"), 2, "a 503 of a mirror is no retry, and no other count");
    assert_eq!(sidecar.sum("pillion_requests_active"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_is_silent_gone_or_closes_does_not_affect_the_request() {
    let mesh = Mesh::default();
    let (_a, b) = (mesh.answering(A, OK), mesh.silent(B));
    let sidecar = sidecar(&mesh, MIRRORED);
    let (mut client, watch) = (sidecar.client().await, Watch::start());
    let answer = client.ask("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 3\r\n\r\nabc").await;
    assert_eq!((answer.status(), watch.seconds()), (Some(200), 0));
    drop(client);
    pass(20).await;
    assert_eq!(b.hits(), 1);
    assert_eq!(sidecar.sum("pillion_requests_total service=shadow reason=request_timeout"), 1);

    let mesh = Mesh::default();
    let (_a, b) = (mesh.answering(A, OK), mesh.answering(B, HANG_UP));
    let hung_up = self::sidecar(&mesh, MIRRORED);
    assert_eq!(ask(&mut hung_up.client().await, "/", "").await.status(), Some(200));
    settle().await;
    assert_eq!((b.hits(), hung_up.sum("pillion_requests_total route=canary#mirror status=502")), (1, 1));
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let nobody = self::sidecar(&mesh, MIRRORED);
    assert_eq!(ask(&mut nobody.client().await, "/", "").await.status(), Some(200));
    settle().await;
    assert_eq!(nobody.sum("pillion_requests_total service=shadow reason=connect_refused"), 1);
}

/// The original's body goes on at its own pace; the copy is cut, and a cut never looks like an end.
#[tokio::test(start_paused = true)]
async fn a_mirror_that_reads_nothing_loses_a_large_body() {
    const SIZE: usize = 4 * 1024 * 1024;
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let _b = mesh.scripted(B, |peer: Peer, _| async move {
        pass(3600).await;
        drop(peer);
    });
    let sidecar = sidecar(&mesh, MIRRORED);
    let (mut client, watch) = (sidecar.client().await, Watch::start());
    client.send(format!("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: {SIZE}\r\n\r\n")).await;
    for _ in 0..SIZE / 65536 {
        client.send(&[b'x'; 65536]).await;
    }
    assert_eq!((client.answer().await.status(), watch.seconds()), (Some(200), 0));
    assert_eq!(a.requests()[0].body.len(), SIZE);
    pass(70).await;
    assert_eq!(sidecar.sum("pillion_requests_total route=canary#mirror"), 1);
    assert_eq!(sidecar.sum("pillion_requests_total route=canary#mirror status=200"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_slow_mirror_gets_no_further_copies() {
    let mesh = Mesh::default();
    let (_a, b) = (mesh.answering(A, OK), mesh.silent(B));
    let sidecar = sidecar(&mesh, MIRRORED);
    let mut client = sidecar.client().await;
    for _ in 0..300 {
        assert_eq!(ask(&mut client, "/", "").await.status(), Some(200));
    }
    settle().await;
    assert_eq!(b.hits(), 256);
    assert_eq!(sidecar.sum("pillion_requests_total route=canary#mirror reason=limit_requests"), 44);
}

#[tokio::test(start_paused = true)]
async fn copies_that_are_under_way_count_after_a_reload_too() {
    let mesh = Mesh::default();
    let (_a, b) = (mesh.answering(A, OK), mesh.silent(B));
    let mut sidecar = sidecar(&mesh, MIRRORED);
    for _ in 0..2 {
        let mut client = sidecar.client().await;
        for _ in 0..200 {
            assert_eq!(ask(&mut client, "/", "").await.status(), Some(200));
        }
        settle().await;
        sidecar.reload(&file(&[MIRRORED, MOVED_AWAY])).expect("a good file");
    }
    assert_eq!(b.hits(), 256);
}

const MOVED_AWAY: &str = "hosts: [orders], match: { path: { prefix: /old } }, redirect: { path: /new }";

#[tokio::test(start_paused = true)]
async fn a_mirror_is_sent_grpc_and_trailers_too() {
    let mesh = Mesh::default();
    let serve = |address: &str| {
        mesh.http2(address, 100, |_, mut request: http::Request<h2::RecvStream>, respond| async move {
            let body = http2::read_body(request.body_mut()).await.expect("a whole body");
            assert_eq!(body.len(), 5);
            http2::answer_grpc(respond, "0");
        })
    };
    let (_a, b) = (serve(A), serve(B));
    let sidecar = sidecar(&mesh, MIRRORED);
    assert_eq!(sidecar.http2_client().await.grpc(None).await.grpc_status(), Some("0"));
    settle().await;
    assert_eq!(b.connections(), 1);
    assert_eq!(sidecar.sum("pillion_requests_total route=canary#mirror grpc_status=0"), 1);
}

const LIMITED: &str = "hosts: [orders], to: orders, rate_limit: { requests: 2, per: 10s }";

#[tokio::test(start_paused = true)]
async fn a_rate_limit_of_a_route_admits_so_many_and_names_the_pause() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let mut sidecar = sidecar(&mesh, LIMITED);
    let mut client = sidecar.client().await;
    for expected in [200, 200] {
        assert_eq!(ask(&mut client, "/", "").await.status(), Some(expected));
    }
    let refused = ask(&mut client, "/", "").await;
    assert_eq!(
        (refused.status_and_reason(), refused.header("retry-after")),
        ((429, Some("rate_limited")), Some("5"))
    );
    sidecar
        .reload(&format!("{}  - {{ hosts: [shadow], to: orders }}\n", file(&[LIMITED])))
        .expect("a good file");
    assert_eq!(ask(&mut client, "/", "").await.status(), Some(429), "a reload does not refill the bucket");
    assert_eq!(sidecar.http2_client().await.grpc(None).await.grpc_status(), Some("8"));
    pass(5).await;
    assert_eq!(ask(&mut client, "/", "").await.status(), Some(200));
    assert_eq!(ask(&mut client, "/", "").await.status(), Some(429));
    assert_eq!(a.hits(), 3);
    assert_eq!(sidecar.sum("pillion_requests_total status=429 reason=rate_limited"), 3);
}

#[tokio::test(start_paused = true)]
async fn peers_are_limited_by_their_identity() {
    const AT: &str = "10.0.9.1:15006";
    for (by, others) in [("peer", 200), ("all", 429)] {
        let pair = Pair::new();
        let _app = pair.mesh.answering(A, OK);
        let inbound = format!("app: {A}, rate_limit: {{ requests: 1, per: 1m, by: {by} }}");
        let yaml = mesh::application_at(AT, &inbound) + mesh::IDENTITY;
        let _sidecar = pair.mesh.sidecar(&yaml, Some(mesh::identity(&pair.ca, "orders")));
        for (account, expected) in [("web", 200), ("web", 429), ("batch", others)] {
            let mut peer = pair.peer_as(account, AT, Purpose::Http1).await;
            let answer = peer.get("/").await;
            assert_eq!(answer.status(), Some(expected), "{by} {account}");
            let refused = (expected == 429).then_some(("60", "rate_limited"));
            assert_eq!(answer.header("retry-after").zip(answer.reason()), refused);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn clients_without_an_identity_share_one_limit_by_address() {
    let mesh = Mesh::default();
    let _app = mesh.answering(A, OK);
    let sidecar =
        mesh.application(&format!("app: {A}, rate_limit: {{ requests: 1, per: 1m, burst: 2, by: peer }}"));
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(sidecar.client().await.get("/").await.status());
    }
    assert_eq!(statuses, [Some(200), Some(200), Some(429)]);
}

#[tokio::test(start_paused = true)]
async fn hosts_are_the_same_in_any_case_with_a_dot_at_the_end_and_with_a_port() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let all = ["hosts: [\"Orders.Shop.\", \"*.Wide.example\"], respond: { status: 203 }"];
    let sidecar = mesh.sidecar(&file(&all), None);
    let mut client = sidecar.client().await;
    for host in [
        "orders.shop",
        "ORDERS.shop",
        "orders.shop.",
        "Orders.Shop.:8080",
        "a.wide.EXAMPLE.",
        "A.b.wide.example:1",
    ] {
        let answer = client.ask(&format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        assert_eq!(answer.status(), Some(203), "{host}");
    }
    for host in ["orders", "Orders.", "ORDERS:80", "orders.:80"] {
        let answer = client.ask(&format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        assert_eq!(answer.status(), Some(200), "{host}");
    }
    for host in ["orders.shop..", "wide.example"] {
        let answer = client.ask(&format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        assert_eq!(answer.status_and_reason(), (404, Some("no_route")), "{host}");
    }
}
