//! Keys of a service's `tls`, and of `tls` for both sides: which peers are trusted, and what is offered.

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::super::backend::OK;
use super::super::mesh::{A, ORDERS_ID, Pair, settle};
use super::super::outside;
use super::super::peer::Peer;
use super::upstream::{GET, answer_to};
use super::{Key, Row, key, shows};
use pillion_testkit::Scratch;
use pillion_tls::identity::issue::Ca;

const BILLING: &str = "[\"spiffe://cluster.local/ns/default/sa/billing\"]";

/// The rows for a service, or for `defaults`. `tls` itself is among the first.
pub(super) fn rows(of: &str) -> Vec<Row> {
    let path = |key: &str| format!("{of}.tls{key}");
    let mut rows = vec![
        shows(path(""), ["off", ORDERS_ID], answer_of_orders),
        shows(path(".mode"), ["off", "mutual"], answer_of_orders),
        shows(path(".identities"), [ORDERS_ID, BILLING], answer_of_orders),
        shows(path(".trust_bundle"), ["own.crt", "other.crt"], answer_of_orders),
        shows(path(".sni"), ["orders.shop", "billing.shop"], offered),
        shows(path(".certificate"), ["web.crt", "shop.crt"], shown_to_orders),
        shows(path(".key"), ["web.key", "shop.key"], shown_to_orders),
    ];
    if of == "services.*" {
        rows.push(shows("tls.min_version", ["1.2", "1.3"], offered));
        rows.push(shows("tls.post_quantum", ["prefer", "off"], offered));
    }
    rows
}

/// The answer of the sidecar of `orders`, which accepts mTLS alone.
async fn answer_of_orders(key: Key) -> String {
    let pair = Pair::new();
    let _app = pair.mesh.answering(A, OK);
    let _inbound = pair.application("10.1.0.1:15006", A);
    let scratch = Scratch::new();
    scratch.write("own.crt", pair.ca.certificate_pem());
    scratch.write("other.crt", Ca::generate("cluster.local").expect("a CA").certificate_pem());
    let mut file = key::caller(json!({ "endpoints": ["10.1.0.1:15006"], "retry": "off" }));
    file["identity"] = json!({ "directory": "in-memory" });
    let config = key.load(file, &scratch.path("")).expect("a good file");
    let credentials = super::super::mesh::identity(&pair.ca, "web");
    let sidecar = pair.mesh.start(&config, Some(credentials)).expect("a sidecar that can start");
    answer_to(&mut sidecar.client().await, GET).await
}

/// What the server `orders` answers to the certificate that is shown to it, or why the files cannot be used.
async fn shown_to_orders(key: Key) -> String {
    let pair = Pair::new();
    let _app = pair.mesh.answering(A, OK);
    let _inbound = pair.application_as("10.1.0.1:15006", A, outside::host(&pair.ca));
    let scratch = Scratch::new();
    scratch.write("ca.crt", pair.ca.certificate_pem());
    outside::write(&scratch, "web", &pair.ca, "web");
    outside::write(&scratch, "shop", &pair.ca, "shop");
    let tls = json!({
        "mode": "simple", "sni": "orders", "trust_bundle": "ca.crt", "certificate": "web.crt", "key": "web.key",
    });
    let file = key::caller(json!({ "endpoints": ["10.1.0.1:15006"], "retry": "off", "tls": tls }));
    let config = key.load(file, &scratch.path("")).expect("a good file");
    match pair.mesh.start(&config, None) {
        Err(why) => format!("{why:#}").replace(&*scratch.path("").to_string_lossy(), ""),
        Ok(sidecar) => answer_to(&mut sidecar.client().await, GET).await,
    }
}

/// The content of a ClientHello.
async fn offered(key: Key) -> String {
    let (pair, heard) = (Pair::new(), Arc::new(Mutex::new(Vec::new())));
    let hears = heard.clone();
    let _a = pair.mesh.scripted(A, move |mut peer: Peer, _| {
        let hears = hears.clone();
        async move {
            while let (byte, true) = peer.exactly(1).await {
                hears.lock().extend(byte);
            }
        }
    });
    let orders = json!({ "endpoints": [A], "tls": { "mode": "mutual" } });
    let sidecar = key.known_caller(&pair.mesh, &pair.ca, orders);
    let mut client = sidecar.client().await;
    client.send(GET).await;
    settle().await;
    let heard = heard.lock();
    let says = |what: &[u8]| heard.windows(what.len()).any(|window| window == what);
    // extension supported_versions: 1.3 and 1.2
    let both = says(&[0, 43, 0, 5, 4, 3, 4, 3, 3]);
    // the share of a key exchange with ML-KEM alone takes more
    let post_quantum = heard.len() > 1000;
    let names: Value = ["orders.shop", "billing.shop"].iter().map(|name| says(name.as_bytes())).collect();
    format!("names {names}, TLS 1.2 {both}, post-quantum {post_quantum}")
}
