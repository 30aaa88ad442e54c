//! Which endpoint gets a request.

use super::backend::{HANG_UP, OK};
use super::http2::answer_grpc;
use super::mesh::{A, B, C, Mesh, Sidecar, caller};
use super::peer::Message;

const BY_A: &str = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na";
const BY_B: &str = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nb";
const BY_C: &str = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nc";

const THREE: &str = "endpoints: [10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80]";

async fn with(sidecar: &Sidecar, fields: &str) -> Message {
    let mut client = sidecar.client().await;
    client.ask(&format!("GET / HTTP/1.1\r\nhost: orders\r\n{fields}\r\n")).await
}

/// The bodies of the answers to requests of so many users, in their order.
async fn of_users(sidecar: &Sidecar, count: usize) -> Vec<String> {
    let mut answers = Vec::new();
    for user in 0..count {
        answers.push(with(sidecar, &format!("x-user: user-{user}\r\n")).await.body);
    }
    answers
}

#[tokio::test(start_paused = true)]
async fn calls_of_one_http2_connection_are_balanced_one_by_one_and_a_new_endpoint_gets_some_at_once() {
    let mesh = Mesh::default();
    let grpc = |address| {
        let (sender, calls) = tokio::sync::watch::channel(0);
        mesh.http2(address, 100, move |_, _, respond| {
            sender.send_modify(|calls| *calls += 1);
            async move { answer_grpc(respond, "0") }
        });
        calls
    };
    let (a, b, c) = (grpc(A), grpc(B), grpc(C));
    let two = "endpoints: [10.0.0.1:80, 10.0.0.2:80], load_balancer: round_robin";
    let mut sidecar = mesh.caller(two);
    let client = sidecar.http2_client().await;
    for _ in 0..20 {
        assert_eq!(client.grpc(None).await.grpc_status(), Some("0"));
    }
    assert_eq!((*a.borrow(), *b.borrow(), *c.borrow()), (10, 10, 0));
    sidecar.reload(&caller(&format!("{THREE}, load_balancer: round_robin"))).expect("a good file");
    for _ in 0..30 {
        assert_eq!(client.grpc(None).await.grpc_status(), Some("0"));
    }
    assert_eq!((*a.borrow(), *b.borrow(), *c.borrow()), (20, 20, 10), "over the same client's connection");
}

#[tokio::test(start_paused = true)]
async fn requests_with_one_header_go_to_one_endpoint_and_users_are_spread_over_all() {
    for balancer in ["ring_hash", "maglev"] {
        let mesh = Mesh::default();
        let _all = (mesh.answering(A, BY_A), mesh.answering(B, BY_B), mesh.answering(C, BY_C));
        let hashed = format!("{THREE}, load_balancer: {{ {balancer}: {{ header: x-user }} }}");
        let sidecar = mesh.caller(&hashed);
        let first = of_users(&sidecar, 40).await;
        assert_eq!(of_users(&sidecar, 40).await, first);
        assert!(["a", "b", "c"].iter().all(|name| first.iter().any(|body| body == name)), "{first:?}");
        let other = mesh.caller(&hashed);
        assert_eq!(of_users(&other, 40).await, first, "another sidecar chooses the same endpoints");
    }
}

#[tokio::test(start_paused = true)]
async fn on_a_ring_the_users_of_other_endpoints_stay_where_they_are_when_one_leaves() {
    let mesh = Mesh::default();
    let _all = (mesh.answering(A, BY_A), mesh.answering(B, BY_B), mesh.answering(C, BY_C));
    let hashed = "load_balancer: { ring_hash: { header: x-user } }";
    let mut sidecar = mesh.caller(&format!("{THREE}, {hashed}"));
    let before = of_users(&sidecar, 40).await;
    let two = format!("endpoints: [10.0.0.1:80, 10.0.0.2:80], {hashed}");
    sidecar.reload(&caller(&two)).expect("a good file");
    for (before, after) in before.into_iter().zip(of_users(&sidecar, 40).await) {
        assert!(before == after || before == "c", "{before} {after}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_returns_its_cookie_comes_back_to_its_endpoint() {
    for balancer in ["ring_hash", "maglev"] {
        let mesh = Mesh::default();
        let _all = (mesh.answering(A, BY_A), mesh.answering(B, BY_B), mesh.answering(C, BY_C));
        let sidecar = mesh.caller(&format!("{THREE}, load_balancer: {{ {balancer}: {{ cookie: sid }} }}"));
        for _ in 0..10 {
            let first = with(&sidecar, "").await;
            let set = first.header("set-cookie").expect("a cookie for a client without one").to_owned();
            let (cookie, attributes) = set.split_once("; ").expect("attributes");
            assert_eq!(attributes, "Path=/; HttpOnly");
            for _ in 0..5 {
                let again = with(&sidecar, &format!("cookie: theme=dark; {cookie}\r\n")).await;
                assert_eq!((&again.body, again.header("set-cookie")), (&first.body, None));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_cookie_is_kept_for_its_ttl_and_stands_beside_the_cookies_of_the_application() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, "HTTP/1.1 200 OK\r\nset-cookie: own=1\r\ncontent-length: 0\r\n\r\n");
    let balancer = "load_balancer: { maglev: { cookie: { name: sid, ttl: 1h } } }";
    let sidecar = mesh.caller(&format!("endpoints: [10.0.0.1:80], {balancer}"));
    let answer = with(&sidecar, "").await;
    let cookies: Vec<&str> = pillion_testkit::http1::headers(&answer.head, "set-cookie").collect();
    assert!(matches!(cookies[..], ["own=1", ours] if ours.contains("; Max-Age=3600; Path=/")), "{cookies:?}");
    let over_http2 = mesh.caller(&format!("endpoints: [10.0.0.1:80], protocol: http1, {balancer}"));
    let answer = over_http2.http2_client().await.get("/").await;
    assert_eq!(answer.head.headers().get_all("set-cookie").iter().count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_retry_goes_to_another_endpoint_than_the_one_of_its_key() {
    for balancer in ["ring_hash", "maglev"] {
        let mesh = Mesh::default();
        let (a, b) = (mesh.answering(A, HANG_UP), mesh.answering(B, OK));
        let hashed = format!("load_balancer: {{ {balancer}: {{ path: true }} }}, outlier_detection: off");
        let sidecar = mesh.caller(&format!("endpoints: [10.0.0.1:80, 10.0.0.2:80], {hashed}"));
        let mut client = sidecar.client().await;
        for nth in 0..10 {
            assert_eq!(client.get(&format!("/{nth}")).await.status(), Some(200));
        }
        assert!((1..10).contains(&a.hits()), "{balancer}: {} first tries", a.hits());
        assert_eq!(b.hits(), 10);
    }
}

#[tokio::test(start_paused = true)]
async fn opaque_connections_are_hashed_by_their_source_alone() {
    let answering = |balancer: &'static str| async move {
        let mesh = Mesh::default();
        let speaks = |name: &'static str| {
            move |mut peer: super::peer::Peer, _| async move { drop(peer.try_send(name).await) }
        };
        let _all = (mesh.scripted(A, speaks("a")), mesh.scripted(B, speaks("b")));
        let service = "endpoints: [10.0.0.1:80, 10.0.0.2:80], protocol: tcp, listen: 127.0.0.1:0";
        let sidecar = mesh.caller(&format!("{service}, load_balancer: {balancer}"));
        let mut heard = std::collections::BTreeSet::new();
        for _ in 0..30 {
            heard.insert(sidecar.direct_client().await.rest().await);
        }
        heard.len()
    };
    assert_eq!(answering("{ maglev: { source: true } }").await, 1);
    assert_eq!(answering("{ ring_hash: { source: true } }").await, 1);
    assert_eq!(answering("{ ring_hash: { header: x-user } }").await, 2, "they have no headers");
}

const NAMED: &str = "workload: { zone: a }\n";

/// A caller's sidecar in zone `a`.
fn in_zone_a(mesh: &Mesh, orders: &str) -> Sidecar {
    mesh.sidecar(&(NAMED.to_owned() + &caller(orders)), None)
}

const ZONES: &str = "endpoints: [{ address: 10.0.0.1:80, zone: a }, { address: 10.0.0.2:80, zone: a }, \
                     { address: 10.0.0.3:80, zone: b }], outlier_detection: { consecutive_errors: 1 }";

async fn send(sidecar: &Sidecar, requests: usize) {
    let mut client = sidecar.client().await;
    for _ in 0..requests {
        assert_eq!(client.get("/").await.status(), Some(200));
    }
}

#[tokio::test(start_paused = true)]
async fn the_own_zone_gets_everything_until_it_can_carry_less() {
    let mesh = Mesh::default();
    let (a, b, c) = (mesh.answering(A, OK), mesh.answering(B, OK), mesh.answering(C, OK));
    let sidecar = in_zone_a(&mesh, ZONES);
    send(&sidecar, 40).await;
    assert_eq!((a.hits() + b.hits(), c.hits()), (40, 0));
    let elsewhere = mesh.caller(ZONES);
    send(&elsewhere, 90).await;
    assert!(c.hits() > 10, "a sidecar that does not know its zone uses all alike: {}", c.hits());
}

#[tokio::test(start_paused = true)]
async fn requests_spill_over_to_other_zones_as_endpoints_of_the_own_one_fail() {
    let mesh = Mesh::default();
    let (a, b, c) = (mesh.answering(A, HANG_UP), mesh.answering(B, OK), mesh.answering(C, OK));
    let sidecar = in_zone_a(&mesh, ZONES);
    send(&sidecar, 20).await; // one request fails at A, which ejects it
    let (at_b, at_c) = (b.hits(), c.hits());
    send(&sidecar, 400).await;
    let (at_b, at_c) = (b.hits() - at_b, c.hits() - at_c);
    assert!(
        (200..=345).contains(&at_b) && at_b + at_c >= 399,
        "70 % stay: {at_b} {at_c}, {} tries at A",
        a.hits()
    );
}

#[tokio::test(start_paused = true)]
async fn the_next_priority_takes_over_when_the_first_one_is_out_and_gives_back_when_it_returns() {
    let mesh = Mesh::default();
    let ill = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let shared = ill.clone();
    let is_ill = move || shared.load(std::sync::atomic::Ordering::Relaxed);
    let (a, b) = (mesh.http1(A, move |_, _| if is_ill() { HANG_UP } else { OK }), mesh.answering(B, OK));
    let two = "endpoints: [{ address: 10.0.0.1:80 }, { address: 10.0.0.2:80, priority: 1 }], \
               outlier_detection: { consecutive_errors: 1 }";
    let sidecar = mesh.caller(two);
    send(&sidecar, 10).await;
    assert_eq!((a.hits(), b.hits()), (1, 10), "the retry and all others go to the next priority");
    ill.store(false, std::sync::atomic::Ordering::Relaxed);
    super::mesh::pass(31).await;
    send(&sidecar, 10).await;
    assert_eq!((a.hits(), b.hits()), (11, 10), "the probe and all others are at the first priority again");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_comes_later_gets_more_and_more_requests_until_it_has_its_share() {
    let mesh = Mesh::default();
    let (a, b, c) = (mesh.answering(A, OK), mesh.answering(B, OK), mesh.answering(C, OK));
    let rest = "load_balancer: round_robin, slow_start: 30s, timeout: 1h";
    let mut sidecar = mesh.caller(&format!("endpoints: [10.0.0.1:80, 10.0.0.2:80], {rest}"));
    send(&sidecar, 20).await;
    assert_eq!((a.hits(), b.hits()), (10, 10), "the first endpoints share everything at once");
    sidecar.reload(&caller(&format!("{THREE}, {rest}"))).expect("a good file");
    let mut of_c = Vec::new();
    for _ in 0..4 {
        let before = c.hits();
        send(&sidecar, 300).await;
        of_c.push(c.hits() - before);
        super::mesh::pass(12).await;
    }
    assert!(of_c.is_sorted() && of_c[0] < 60 && of_c[3] == 100, "{of_c:?}");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_whose_health_check_passes_again_starts_slowly() {
    let mesh = Mesh::default();
    let b = mesh.answering(B, OK);
    let check = "health_check: { tcp: true, interval: 1s, healthy: 1 }";
    let rest = format!("load_balancer: round_robin, slow_start: 300s, {check}");
    let sidecar = mesh.caller(&format!("endpoints: [10.0.0.1:80, 10.0.0.2:80], {rest}"));
    super::mesh::pass(3).await;
    let a = mesh.answering(A, OK);
    super::mesh::pass(3).await;
    let before = b.hits();
    send(&sidecar, 300).await;
    assert!((1..75).contains(&a.hits()) && b.hits() - before >= 225, "{} {}", a.hits(), b.hits());
}
