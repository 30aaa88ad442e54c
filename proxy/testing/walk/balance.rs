//! Keys that say which endpoint gets a request.

use serde_json::json;

use super::super::backend::{OK, UNAVAILABLE};
use super::super::mesh::{A, B, Mesh, pass, settle};
use super::upstream::{GET, send};
use super::{Key, Row, only, shows};

pub(super) fn rows(of: &str) -> Vec<Row> {
    let key = |key: &str| format!("{of}.{key}");
    vec![
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
    ]
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
