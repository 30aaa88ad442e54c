//! Keys of `identity`: which files are read.

use std::path::Path;

use pillion_tls::client::Purpose;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::super::backend::OK;
use super::super::mesh::{A, ORDERS_ID, Pair, identity, pass, secs};
use super::upstream::{GET, answer_to};
use super::{Key, Row, key, shows};
use pillion_testkit::Scratch;
use pillion_tls::identity::credentials::Credentials;
use pillion_tls::identity::issue::Ca;
use pillion_tls::identity::parse;

pub(super) fn rows() -> Vec<Row> {
    vec![
        shows("identity.directory", ["web", "shop"], who_is_seen),
        shows("identity.certificate", ["web/tls.crt", "shop/tls.crt"], who_is_seen),
        shows("identity.key", ["web/tls.key", "shop/tls.key"], who_is_seen),
        shows("identity.trust_bundle", ["web/ca.crt", "other.crt"], who_is_seen),
        shows("identity.crl", ["empty.crl", "orders.crl"], who_is_seen),
        shows("identity.workload_api", ["unix:///run/a.sock", "unix:///run/b.sock"], whose_answer_is_awaited),
        shows("identity.trust_domain", ["cluster.local", "elsewhere"], who_is_seen),
        shows("identity.federation.*", ["web/ca.crt", "none.crt"], who_is_seen),
        shows("identity.max_connection_age", ["off", "1s"], who_is_asked_to_leave),
    ]
}

/// The identity that the sidecar of `orders` has served, and what its caller gets.
async fn who_is_seen(key: Key) -> String {
    let pair = Pair::new();
    let _app = pair.mesh.answering(A, OK);
    let orders = identity(&pair.ca, "orders");
    let scratch = folder(&pair.ca, &orders);
    let inbound = pair.application_as("10.1.0.1:15006", A, orders);
    let mut file = key::caller(json!({ "endpoints": ["10.1.0.1:15006"], "tls": ORDERS_ID, "retry": "off" }));
    file["identity"] = files(&key.path);
    let config = match key.load(file, &scratch.path("")) {
        Ok(config) => config,
        Err(refused) => return refused.to_string(),
    };
    match pair.mesh.start(&config, None) {
        Err(why) => format!("{why:#}").replace(&*scratch.path("").to_string_lossy(), ""),
        Ok(sidecar) => {
            let answer = answer_to(&mut sidecar.client().await, GET).await;
            let seen = |who: &str| {
                inbound
                    .sum(&format!("pillion_requests_total peer=spiffe://cluster.local/ns/default/sa/{who}"))
            };
            format!("{answer}, web {}, shop {}", seen("web"), seen("shop"))
        }
    }
}

/// Why there is no identity yet.
async fn whose_answer_is_awaited(key: Key) -> String {
    let mut file = key::caller(json!({ "endpoints": ["10.1.0.1:15006"], "tls": ORDERS_ID }));
    file["identity"] = json!({});
    let config = key.load(file, Path::new("")).expect("a good file");
    let sidecar = Pair::new().mesh.start(&config, None).expect("a sidecar");
    sidecar.controller.awaits().expect("no identity yet").to_string()
}

/// The content of the block besides the key.
fn files(path: &str) -> Value {
    match path {
        "identity.certificate" | "identity.key" | "identity.trust_bundle" => {
            json!({ "certificate": "web/tls.crt", "key": "web/tls.key", "trust_bundle": "web/ca.crt" })
        }
        _ => json!({ "directory": "web" }),
    }
}

/// Certificates of two workloads and of another CA, and two revocation lists.
fn folder(ca: &Ca, revoked: &Credentials) -> Scratch {
    let scratch = Scratch::new();
    for who in ["web", "shop"] {
        let id = format!("spiffe://cluster.local/ns/default/sa/{who}").parse().expect("an identity");
        let pem = ca.issue(&id, &[], secs(86_400)).expect("a certificate");
        std::fs::create_dir(scratch.path(who)).expect("a folder");
        scratch.write(&format!("{who}/tls.crt"), pem.certificate);
        scratch.write(&format!("{who}/tls.key"), pem.key);
        scratch.write(&format!("{who}/ca.crt"), pem.bundle);
    }
    let other = Ca::generate("cluster.local").expect("a CA");
    scratch.write("other.crt", other.certificate_pem());
    let serial = parse(&revoked.chain()[0]).expect("a certificate").raw_serial().to_vec();
    for (name, serials) in [("empty.crl", vec![]), ("orders.crl", vec![serial])] {
        let tomorrow = OffsetDateTime::now_utc() + secs(86_400);
        scratch.write(name, ca.revoke(&serials, tomorrow).expect("a list"));
    }
    scratch
}

/// Whether a peer is asked to connect again after a rotation.
async fn who_is_asked_to_leave(key: Key) -> String {
    let pair = Pair::new();
    let _app = pair.mesh.answering(A, OK);
    let mut file = json!({
        "workers": 1,
        "admin": { "listen": "127.0.0.1:0" },
        "metrics": "off",
        "outbound": "off",
        "inbound": { "listen": "10.1.0.1:15006", "app": A },
    });
    file["identity"] = json!({ "directory": "never-read" });
    let config = key.load(file, Path::new("")).expect("a good file");
    let mut sidecar = pair.mesh.start(&config, Some(identity(&pair.ca, "orders"))).expect("a sidecar");
    let mut peer = pair.peer("10.1.0.1:15006", Purpose::Http1).await;
    sidecar.rotate(identity(&pair.ca, "orders")).expect("good credentials");
    pass(2).await;
    format!("{:?}", peer.get("/").await.header("connection"))
}
