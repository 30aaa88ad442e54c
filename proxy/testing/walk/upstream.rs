//! Keys of a service: where it is, and how it is called.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use hickory_resolver::proto::rr::RecordType;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::super::backend::{Backend, OK, UNAVAILABLE};
use super::super::kubernetes;
use super::super::mesh::{A, B, C, Mesh, Sidecar, Watch, at, pass, secs, settle};
use super::super::peer::{Message, Peer};
use super::key::caller;
use super::sides::listens;
use super::{Key, Row, only, shows};
use crate::app::DnsSource;
use pillion_testkit::Scratch;
use pillion_upstream::cluster::update::EndpointSource as _;
use pillion_upstream::discovery::testing::{DnsServer, Script};
use pillion_upstream::discovery::{Files, Resolver};

/// Keys that `defaults` cannot have.
pub(super) fn of_services_alone() -> Vec<Row> {
    let key = |key: &str| format!("services.*.{key}");
    vec![
        shows(key("hosts"), ["orders", "[\"shop\", \"*.shop\"]"], answer_for_orders),
        shows(key("addresses"), ["10.96.0.10:80", "[\"10.97.0.0/16\"]"], result_for_an_address),
        shows(key("listen"), ["10.9.0.1:1", "[\"10.9.0.2:1\"]"], listens),
        shows(key("endpoints"), ["[\"10.0.0.1:80\"]", "[\"10.0.0.2:80\"]"], who_answers),
        shows(key("endpoints[].address"), ["10.0.0.1:80", "10.0.0.2:80"], who_answers),
        shows(key("endpoints[].weight"), ["1", "9"], how_often_the_first),
        shows(key("endpoints[].zone"), ["a", "b"], who_answers_in_zone_a),
        shows(key("endpoints[].priority"), ["0", "2"], who_answers_before_priority_1),
        shows(key("endpoints.dns"), ["a.test:80", "b.test:80"], owner_of_the_name),
        shows(key("endpoints.srv"), ["_http._tcp.a.test", "_http._tcp.b.test"], target_of_the_srv_record),
        shows(key("endpoints.kubernetes"), ["a.shop:80", "b.shop:80"], addresses_in_kubernetes),
        shows(key("endpoints.port"), ["15006", "15007"], addresses_in_kubernetes),
        shows(key("endpoints.refresh"), ["5s", "60s"], when_a_change_is_learnt),
        shows(key("cache"), ["off", "{\"max\": \"1MiB\"}"], asked_for_the_same),
        shows(key("cache.max"), ["64KiB", "4MiB"], asked_for_many),
        shows(key("cache.max_object"), ["1KiB", "20KiB"], asked_for_many),
        shows(key("cache.stale_if_error"), ["off", "1h"], answer_when_stale_and_ill),
    ]
}

pub(super) fn rows(of: &str) -> Vec<Row> {
    let key = |key: &str| format!("{of}.{key}");
    vec![
        shows(key("protocol"), ["http1", "http2"], first_bytes),
        shows(key("load_balancer"), ["round_robin", "least_request"], whether_a_busy_one_is_avoided),
        shows(key("load_balancer.ring_hash.header"), ["x-user", "x-team"], how_far_users_are_spread),
        shows(key("load_balancer.ring_hash.cookie"), ["sid", "other"], what_cookie_is_set),
        shows(key("load_balancer.ring_hash.cookie.name"), ["sid", "other"], what_cookie_is_set),
        shows(key("load_balancer.ring_hash.cookie.ttl"), ["off", "1h"], what_cookie_is_set),
        only(key("load_balancer.ring_hash.source"), "true", "false"),
        only(key("load_balancer.ring_hash.path"), "true", "false"),
        shows(key("load_balancer.maglev.header"), ["x-user", "x-team"], how_far_users_are_spread),
        shows(key("load_balancer.maglev.cookie"), ["sid", "other"], what_cookie_is_set),
        shows(key("load_balancer.maglev.cookie.name"), ["sid", "other"], what_cookie_is_set),
        shows(key("load_balancer.maglev.cookie.ttl"), ["off", "1h"], what_cookie_is_set),
        only(key("load_balancer.maglev.source"), "true", "false"),
        only(key("load_balancer.maglev.path"), "true", "false"),
        shows(key("slow_start"), ["off", "300s"], whether_one_that_returns_gets_its_half),
        shows(key("connect_timeout"), ["1s", "4s"], time_to_connect),
        shows(key("timeout"), ["3s", "5s"], time_without_answer),
        shows(key("stream_idle_timeout"), ["20s", "40s"], time_for_half_a_body),
        shows(key("max_duration"), ["off", "20s"], time_of_a_long_answer),
        shows(key("connection.idle_timeout"), ["10s", "100s"], connections_now_and_then),
        shows(key("connection.max_age"), ["10s", "100s"], connections_now_and_then),
        shows(key("connection.max_requests"), ["1", "3"], connections_now_and_then),
        shows(key("connection.keepalive"), ["off", "10s"], time_until_the_kernel_asks),
        shows(key("circuit_breaker.max_connections"), ["1", "2"], one_of_two),
        shows(key("circuit_breaker.max_connections_per_endpoint"), ["1", "2"], two_at_one_endpoint),
        shows(key("circuit_breaker.max_pending_requests"), ["0", "10"], one_of_two),
        shows(key("circuit_breaker.max_requests"), ["1", "10"], one_of_two),
        shows(key("circuit_breaker.adaptive"), ["off", "gradient"], limit_when_answers_become_slow),
        shows(key("circuit_breaker.max_retries"), ["0", "10"], tries),
        shows(key("outlier_detection"), ["off", "{}"], asked_while_ill),
        shows(key("outlier_detection.consecutive_errors"), ["5", "9"], asked_while_ill),
        shows(key("outlier_detection.error_rate"), ["off", "{}"], ejected_by_rate),
        shows(key("outlier_detection.error_rate.above"), ["30%", "90%"], ejected_by_rate),
        shows(key("outlier_detection.error_rate.min_requests"), ["5", "50"], ejected_by_rate),
        shows(key("outlier_detection.interval"), ["1s", "100s"], ejected_by_rate_within_the_interval),
        shows(key("outlier_detection.gateway_errors"), ["2", "4"], asked_while_ill),
        shows(key("outlier_detection.connect_failures"), ["2", "4"], dialled_in_vain),
        shows(key("outlier_detection.base_ejection"), ["30s", "300s"], asked_while_ill),
        shows(key("outlier_detection.max_ejected"), ["34%", "100%"], ejected_of_three),
        shows(key("health_check"), ["off", "{\"tcp\": true}"], answer_where_nothing_listens),
        shows(key("health_check.http"), ["/a", "/b"], what_a_check_asks),
        only(key("health_check.tcp"), "true", "false"),
        shows(key("health_check.grpc"), ["shop.Orders", "shop.Carts"], whose_health_is_asked),
        shows(key("health_check.interval"), ["2s", "20s"], checks_in_a_minute),
        shows(key("health_check.timeout"), ["1s", "4s"], when_a_silent_one_is_out),
        shows(key("health_check.healthy"), ["1", "5"], when_it_is_back),
        shows(key("health_check.unhealthy"), ["1", "5"], when_it_is_out),
    ]
}

pub(super) const GET: &str = "GET / HTTP/1.1\r\nhost: orders\r\n\r\n";
pub(super) const HALF_A_BODY: &str =
    "POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 30\r\n\r\nhalf of it";
pub(super) const BY_A: &str = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na";
pub(super) const BY_B: &str = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nb";

/// Status, reason and body, and the time that it took, at most one hour.
pub(super) async fn answer_to(client: &mut Peer, request: &str) -> String {
    let watch = Watch::start();
    client.send(request).await;
    match tokio::time::timeout(secs(3600), client.message()).await {
        Ok(Some(answer)) => {
            let body = if answer.reason().is_none() { &*answer.body } else { "" };
            format!("{:?} {body:?} after {} s", answer.status_and_reason(), watch.seconds())
        }
        Ok(None) => format!("closed after {} s", watch.seconds()),
        Err(_) => "nothing".to_owned(),
    }
}

async fn answer_for_orders(key: Key) -> String {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    answer_to(&mut sidecar.client().await, GET).await
}

async fn result_for_an_address(key: Key) -> String {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    let mut client = sidecar.redirected("10.96.0.10:80").await;
    answer_to(&mut client, "GET / HTTP/1.1\r\nhost: 10.96.0.10\r\n\r\n").await
}

async fn who_answers(key: Key) -> String {
    let mesh = Mesh::default();
    let (_a, _b) = (mesh.answering(A, BY_A), mesh.answering(B, BY_B));
    let sidecar = key.caller(&mesh, json!({}));
    answer_to(&mut sidecar.client().await, GET).await
}

async fn who_answers_in_zone_a(key: Key) -> String {
    let mesh = Mesh::default();
    let (a, _b) = (mesh.answering(A, BY_A), mesh.answering(B, BY_B));
    let endpoints = json!([{ "address": A }, { "address": B, "zone": "c" }]);
    let mut file = caller(json!({ "endpoints": endpoints, "load_balancer": "round_robin" }));
    file["workload"] = json!({ "zone": "a" });
    let sidecar = key.start(&mesh, file, None);
    send(&sidecar, 20).await;
    format!("{} of 20", a.hits())
}

async fn who_answers_before_priority_1(key: Key) -> String {
    let mesh = Mesh::default();
    let (a, _b) = (mesh.answering(A, BY_A), mesh.answering(B, BY_B));
    let endpoints = json!([{ "address": A }, { "address": B, "priority": 1 }]);
    let sidecar = key.caller(&mesh, json!({ "endpoints": endpoints }));
    send(&sidecar, 20).await;
    format!("{} of 20", a.hits())
}

async fn how_often_the_first(key: Key) -> String {
    let mesh = Mesh::default();
    let (a, _b) = (mesh.answering(A, BY_A), mesh.answering(B, BY_B));
    let endpoints = json!([{ "address": A }, { "address": B }]);
    let sidecar = key.caller(&mesh, json!({ "endpoints": endpoints, "load_balancer": "round_robin" }));
    send(&sidecar, 20).await;
    format!("{} of 20", a.hits())
}

/// A sidecar with a hosts file. Returns which server answers, and after how many steps of ten seconds the file's next
/// content is used.
async fn by_hosts_file(key: Key, hosts: [&str; 2]) -> (String, u64) {
    let mesh = Mesh::default();
    let (_a, _b) = (mesh.answering(A, BY_A), mesh.answering(B, BY_B));
    let scratch = Scratch::new();
    let files =
        Files { resolv_conf: scratch.path("none"), hosts: scratch.write("hosts", hosts[0]), port: 53 };
    let sidecar = key.caller(&mesh, json!({ "endpoints": { "dns": "a.test:80" } }));
    let mut names = DnsSource::of(Resolver::of(files));
    names.follow(sidecar.controller.config());
    names.first(&sidecar.controller).await;
    let mut client = sidecar.client().await;
    let first = client.get("/").await.body;
    scratch.write("hosts", hosts[1]);
    let watch = Watch::start();
    while client.get("/").await.body == first && watch.seconds() < 200 {
        let news = tokio::time::timeout(secs(10), names.next()).await;
        if let Ok(Some(update)) = news {
            sidecar.controller.learn(update);
        }
    }
    (first, watch.seconds() / 20)
}

async fn owner_of_the_name(key: Key) -> String {
    let hosts = "10.0.0.1 a.test\n10.0.0.2 b.test\n";
    by_hosts_file(key, [hosts, "10.0.0.2 a.test\n10.0.0.1 b.test\n"]).await.0
}

/// A real DNS server answers, so the clock must run.
async fn target_of_the_srv_record(key: Key) -> String {
    tokio::time::resume();
    let server = DnsServer::start().await;
    for (name, target, address) in [("a", "one.test.", A), ("b", "two.test.", B)] {
        let address: SocketAddr = address.parse().expect("an address");
        let record = Script::Services(vec![(0, 1, address.port(), target)]);
        server.say_of(&format!("_http._tcp.{name}.test."), RecordType::SRV, record);
        server.say(target, &Script::Records(vec![address.ip()]));
    }
    let mesh = Mesh::default();
    let (_a, _b) = (mesh.answering(A, BY_A), mesh.answering(B, BY_B));
    let sidecar = key.caller(&mesh, json!({ "endpoints": {} }));
    let (resolver, _folder) = server.resolver("", "");
    let mut names = DnsSource::of(resolver);
    names.follow(sidecar.controller.config());
    loop {
        let update = names.next().await.expect("news");
        let is_known = !update.endpoints.is_empty();
        sidecar.controller.learn(update);
        if is_known {
            break;
        }
    }
    sidecar.client().await.get("/").await.body
}

async fn addresses_in_kubernetes(key: Key) -> String {
    let mesh = Mesh::default();
    let sidecar = key.caller(&mesh, json!({ "endpoints": { "kubernetes": "a.shop:80" } }));
    kubernetes::addresses(mesh, sidecar).await.join(" ")
}

async fn when_a_change_is_learnt(key: Key) -> String {
    let (_, twenties) = by_hosts_file(key, ["10.0.0.1 a.test\n", "10.0.0.2 a.test # moved\n"]).await;
    format!("{twenties} times 20 s")
}

async fn first_bytes(key: Key) -> String {
    let (mesh, heard) = (Mesh::default(), Arc::new(Mutex::new(Vec::new())));
    let _a = listening(&mesh, heard.clone());
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    let mut client = sidecar.client().await;
    client.send(GET).await;
    settle().await;
    let heard = heard.lock();
    String::from_utf8_lossy(&heard[..3]).into_owned()
}

/// Listens at A, and sends only the first frame of HTTP/2.
fn listening(mesh: &Mesh, heard: Arc<Mutex<Vec<u8>>>) -> Backend {
    mesh.scripted(A, move |mut peer: Peer, _| {
        let heard = heard.clone();
        async move {
            while let (byte, true) = peer.exactly(1).await {
                heard.lock().extend(byte);
                if heard.lock().ends_with(b"PRI * HTTP/2.0") {
                    peer.send(b"\0\0\0\x04\0\0\0\0\0").await;
                }
            }
        }
    })
}

async fn time_until_the_kernel_asks(key: Key) -> String {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    key.caller(&mesh, json!({ "endpoints": [A] })).client().await.get("/").await;
    format!("{:?}", mesh.memory.keepalive(at(A)))
}

async fn whether_a_busy_one_is_avoided(key: Key) -> String {
    let mesh = Mesh::default();
    let (a, _b) = (mesh.silent(A), mesh.answering(B, OK));
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A, B] }));
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = sidecar.client().await;
        client.send(GET).await;
        settle().await;
        clients.push(client);
    }
    format!("{}", a.hits() <= 1)
}

/// Users of one team: how many endpoints they come to.
async fn how_far_users_are_spread(key: Key) -> String {
    let mesh = Mesh::default();
    let (a, b) = (mesh.answering(A, OK), mesh.answering(B, OK));
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A, B] }));
    let mut client = sidecar.client().await;
    for user in 0..20 {
        client.ask(&format!("GET / HTTP/1.1\r\nhost: orders\r\nx-user: {user}\r\nx-team: 1\r\n\r\n")).await;
    }
    format!("{}", [a, b].iter().filter(|backend| backend.hits() > 0).count())
}

/// The cookie without its random value.
async fn what_cookie_is_set(key: Key) -> String {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let mut orders = json!({ "endpoints": [A] });
    let hashing = if key.path.contains("ring_hash") { "ring_hash" } else { "maglev" };
    if !key.path.ends_with("cookie") {
        orders["load_balancer"] = json!({ hashing: { "cookie": { "name": "sid" } } });
    }
    let sidecar = key.caller(&mesh, orders);
    let answer = sidecar.client().await.ask(GET).await;
    let (name, rest) = answer.header("set-cookie").and_then(|set| set.split_once('=')).expect("a cookie");
    format!("{name} {:?}", rest.split_once("; ").map(|(_random, attributes)| attributes))
}

async fn whether_one_that_returns_gets_its_half(key: Key) -> String {
    let mesh = Mesh::default();
    let (a, _b) = (mesh.http1(A, |nth, _| if nth == 0 { UNAVAILABLE } else { OK }), mesh.answering(B, OK));
    let orders = json!({
        "endpoints": [A, B],
        "load_balancer": "round_robin",
        "retry": "off",
        "outlier_detection": { "consecutive_errors": 1, "base_ejection": "1s" },
    });
    let sidecar = key.caller(&mesh, orders);
    send(&sidecar, 4).await;
    pass(2).await;
    send(&sidecar, 60).await;
    format!("{}", a.hits() > 20)
}

async fn time_to_connect(key: Key) -> String {
    let mesh = Mesh::default();
    mesh.black_hole(A);
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A], "retry": "off" }));
    answer_to(&mut sidecar.client().await, GET).await
}

pub(super) async fn time_without_answer(key: Key) -> String {
    let mesh = Mesh::default();
    let _a = mesh.silent(A);
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    answer_to(&mut sidecar.client().await, GET).await
}

async fn time_for_half_a_body(key: Key) -> String {
    let mesh = Mesh::default();
    let _a = mesh.silent(A);
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    answer_to(&mut sidecar.client().await, HALF_A_BODY).await
}

async fn time_of_a_long_answer(key: Key) -> String {
    let mesh = Mesh::default();
    let _a = mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.message().await;
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 60\r\n\r\n").await;
        for _ in 0..60 {
            pass(1).await;
            if peer.try_send(".").await.is_err() {
                return;
            }
        }
    });
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    let watch = Watch::start();
    let answer = sidecar.client().await.get("/").await;
    format!("whole: {} after {} s", answer.is_whole, watch.seconds())
}

/// The connections of four requests, twenty seconds apart.
async fn connections_now_and_then(key: Key) -> String {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    let mut client = sidecar.client().await;
    for _ in 0..4 {
        client.get("/").await;
        pass(20).await;
    }
    format!("{} connections", a.connections())
}

/// Two requests at once for an endpoint that does not answer and may have one connection.
async fn one_of_two(key: Key) -> String {
    let mesh = Mesh::default();
    let a = mesh.silent(A);
    let limits = json!({ "max_connections": 1 });
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A], "circuit_breaker": limits }));
    let (mut first, mut second) = (sidecar.client().await, sidecar.client().await);
    first.send(GET).await;
    settle().await;
    second.send(GET).await;
    let answer = tokio::time::timeout(secs(1), second.answer()).await;
    format!("{:?} {}", answer.map(|answer| answer.reason().map(str::to_owned)).ok(), a.hits())
}

async fn limit_when_answers_become_slow(key: Key) -> String {
    let mesh = Mesh::default();
    let slowly = Arc::new(AtomicUsize::new(0));
    let a = slowly.clone();
    let _a = mesh.scripted(A, move |mut peer: Peer, _| {
        let slowly = a.clone();
        async move {
            while peer.message().await.is_some() {
                tokio::time::sleep(Duration::from_millis(10 + slowly.load(Relaxed) as u64)).await;
                peer.send(OK).await;
            }
        }
    });
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    send(&sidecar, 200).await;
    slowly.store(100, Relaxed);
    send(&sidecar, 50).await;
    format!("{}", sidecar.sum("pillion_circuit_breaker_limit limit=requests") < 500)
}

/// Two requests at once for an endpoint that does not answer.
async fn two_at_one_endpoint(key: Key) -> String {
    let mesh = Mesh::default();
    let a = mesh.silent(A);
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    let (mut first, mut second) = (sidecar.client().await, sidecar.client().await);
    first.send(GET).await;
    second.send(GET).await;
    settle().await;
    format!("{} arrived", a.hits())
}

async fn tries(key: Key) -> String {
    let mesh = Mesh::default();
    let a = mesh.answering(A, UNAVAILABLE);
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    sidecar.client().await.get("/").await;
    format!("{} tries", a.hits())
}

async fn send(sidecar: &Sidecar, requests: usize) {
    let mut client = sidecar.client().await;
    for _ in 0..requests {
        client.get("/").await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn patiently(endpoints: &[&str]) -> Value {
    json!({ "endpoints": endpoints, "load_balancer": "round_robin", "retry": "off" })
}

/// The endpoints asked by forty requests at once, and by ten some time later.
async fn asked_while_ill(key: Key) -> String {
    let mesh = Mesh::default();
    let (a, _b) = (mesh.answering(A, UNAVAILABLE), mesh.answering(B, OK));
    let sidecar = key.caller(&mesh, patiently(&[A, B]));
    send(&sidecar, 40).await;
    let at_once = a.hits();
    pass(100).await;
    send(&sidecar, 10).await;
    format!("{at_once}, then {}", a.hits() - at_once)
}

/// The requests that reach an endpoint that answers one of four requests well.
async fn answers_one_of_four(key: Key, detection: Value, pause: u64) -> String {
    let mesh = Mesh::default();
    let count = AtomicUsize::new(0);
    let a = mesh.http1(A, move |_, _| match count.fetch_add(1, Relaxed) % 4 {
        0 => OK,
        _ => UNAVAILABLE,
    });
    let _b = mesh.answering(B, OK);
    let mut orders = patiently(&[A, B]);
    orders["outlier_detection"] = detection;
    let sidecar = key.caller(&mesh, orders);
    for _ in 0..20 {
        send(&sidecar, 4).await;
        pass(pause).await;
    }
    format!("{} requests", a.hits())
}

async fn ejected_by_rate(key: Key) -> String {
    answers_one_of_four(key, json!({ "consecutive_errors": "off", "interval": "100s" }), 0).await
}

async fn ejected_by_rate_within_the_interval(key: Key) -> String {
    let rate = json!({ "above": "50%", "min_requests": 20 });
    answers_one_of_four(key, json!({ "consecutive_errors": "off", "error_rate": rate }), 2).await
}

async fn dialled_in_vain(key: Key) -> String {
    let mesh = Mesh::default();
    let _b = mesh.answering(B, OK);
    let sidecar = key.caller(&mesh, patiently(&[A, B]));
    send(&sidecar, 40).await;
    format!("{} refused", sidecar.sum("pillion_connections_total service=orders outcome=refused"))
}

async fn ejected_of_three(key: Key) -> String {
    let mesh = Mesh::default();
    let ill = (mesh.answering(A, UNAVAILABLE), mesh.answering(B, UNAVAILABLE));
    let _c = mesh.answering(C, OK);
    let sidecar = key.caller(&mesh, patiently(&[A, B, C]));
    send(&sidecar, 60).await;
    drop(ill);
    format!("{} ejected", sidecar.sum("pillion_endpoints state=ejected"))
}

async fn answer_where_nothing_listens(key: Key) -> String {
    let mesh = Mesh::default();
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A], "retry": "off" }));
    pass(5).await;
    answer_to(&mut sidecar.client().await, GET).await
}

async fn what_a_check_asks(key: Key) -> String {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let _sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    pass(5).await;
    a.requests()
        .first()
        .map(|check| check.head.lines().next().unwrap_or_default().to_owned())
        .unwrap_or_default()
}

async fn whose_health_is_asked(key: Key) -> String {
    let (mesh, heard) = (Mesh::default(), Arc::new(Mutex::new(Vec::new())));
    let _a = listening(&mesh, heard.clone());
    let _sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    pass(5).await;
    let heard = String::from_utf8_lossy(&heard.lock()).into_owned();
    format!("{}", heard.contains("shop.Orders"))
}

const FOR_A_MINUTE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncache-control: max-age=60\r\n\r\na";

async fn asked_for_the_same(key: Key) -> String {
    let mesh = Mesh::default();
    let a = mesh.answering(A, FOR_A_MINUTE);
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    for _ in 0..5 {
        sidecar.client().await.get("/").await;
    }
    format!("{} of 5 requests reached the endpoint", a.hits())
}

/// Each answer has 10 KiB.
async fn asked_for_many(key: Key) -> String {
    let mesh = Mesh::default();
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: 10240\r\ncache-control: max-age=60\r\n\r\n{}",
        "a".repeat(10_240)
    );
    let a = mesh.answering(A, answer.leak());
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A], "cache": {} }));
    for _ in 0..2 {
        for nth in 0..40 {
            sidecar.client().await.get(&format!("/{nth}")).await;
        }
    }
    match a.hits() {
        40 => "all of them were kept".to_owned(),
        _ => "some of them were kept, or none".to_owned(),
    }
}

async fn answer_when_stale_and_ill(key: Key) -> String {
    let mesh = Mesh::default();
    let ill = Arc::new(AtomicBool::new(false));
    let shared = ill.clone();
    let _a = mesh.http1(A, move |_, _: &Message| match shared.load(Relaxed) {
        true => UNAVAILABLE,
        false => FOR_A_MINUTE,
    });
    let orders = json!({ "endpoints": [A], "cache": {}, "retry": "off", "outlier_detection": "off" });
    let sidecar = key.caller(&mesh, orders);
    sidecar.client().await.get("/").await;
    ill.store(true, Relaxed);
    pass(120).await;
    format!("{}", sidecar.client().await.get("/").await.status_and_reason().0)
}

async fn checks_in_a_minute(key: Key) -> String {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let _sidecar = key.caller(&mesh, json!({ "endpoints": [A], "health_check": { "http": "/" } }));
    pass(60).await;
    format!("{} tens", a.hits() / 10)
}

/// How many seconds later the answer to a request has this reason.
async fn seconds_until(sidecar: &Sidecar, reason: Option<&str>) -> u64 {
    let watch = Watch::start();
    while sidecar.client().await.get("/").await.reason() != reason && watch.seconds() < 100 {
        pass(1).await;
    }
    watch.seconds()
}

async fn when_a_silent_one_is_out(key: Key) -> String {
    let mesh = Mesh::default();
    mesh.black_hole(A);
    let check = json!({ "tcp": true, "interval": "100s" });
    let orders = json!({ "endpoints": [A], "retry": "off", "connect_timeout": "10s", "health_check": check });
    let sidecar = key.caller(&mesh, orders);
    pass(3).await;
    answer_to(&mut sidecar.client().await, GET).await
}

/// Its checks fail from the fifth second to the seventieth.
async fn out_and_back(key: Key) -> (u64, u64) {
    let mesh = Mesh::default();
    let ill = Arc::new(AtomicBool::new(false));
    let shared = ill.clone();
    let _a = mesh.http1(A, move |_, request: &Message| match request.head.contains("/healthz") {
        true if shared.load(Relaxed) => UNAVAILABLE,
        _ => OK,
    });
    let check = json!({ "http": "/healthz", "interval": "4s" });
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A], "health_check": check }));
    pass(5).await;
    ill.store(true, Relaxed);
    let out = seconds_until(&sidecar, Some("all_unhealthy")).await;
    ill.store(false, Relaxed);
    (out / 10, seconds_until(&sidecar, None).await / 10)
}

async fn when_it_is_out(key: Key) -> String {
    format!("after {} times ten seconds", out_and_back(key).await.0)
}

async fn when_it_is_back(key: Key) -> String {
    format!("after {} times ten seconds", out_and_back(key).await.1)
}
