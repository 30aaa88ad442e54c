//! Keys that say when an endpoint gets no requests: ejections and health checks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::super::backend::{OK, UNAVAILABLE};
use super::super::mesh::{A, B, C, Mesh, Sidecar, Watch, pass};
use super::super::peer::Message;
use super::upstream::{GET, answer_to, listening, send};
use super::{Key, Row, only, shows};

pub(super) fn rows(of: &str) -> Vec<Row> {
    let key = |key: &str| format!("{of}.{key}");
    vec![
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
