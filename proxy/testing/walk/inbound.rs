//! Keys of `inbound`.

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::super::backend::OK;
use super::super::mesh::{A, B, IDENTITY, Mesh, Pair, Sidecar, identity, secs, settle};
use super::super::outside;
use super::super::peer::Peer;
use super::super::probes::{SERVING, asked, health};
use super::routes::three_at_once;
use super::sides::listens;
use super::upstream::{BY_A, BY_B, GET, HALF_A_BODY, answer_to};
use super::{Key, Row, key, shows};
use pillion_testkit::Scratch;
use pillion_tls::client::Purpose;

pub(super) fn rows() -> Vec<Row> {
    let path = |key: &str| format!("inbound.{key}");
    vec![
        shows("inbound", ["off", "{}"], listens),
        shows(path("listen"), ["10.9.0.1:1", "[\"10.9.0.2:1\"]"], listens),
        shows(path("app"), ["10.0.0.1:80", "10.0.0.2:80"], who_answers),
        shows(path("redirect_to"), ["original", "loopback"], owner_of_the_address),
        shows(path("mtls"), ["strict", "permissive"], answer_in_plaintext),
        shows(path("protocol"), ["http1", "http2"], first_bytes),
        shows(path("timeout"), ["off", "9s"], time_without_answer),
        shows(path("stream_idle_timeout"), ["20s", "40s"], time_for_half_a_body),
        shows(path("max_connections"), ["1", "2"], one_of_two),
        shows(path("max_requests"), ["1", "2"], one_of_two),
        shows(path("max_body"), ["4B", "8B"], answer_to_a_body),
        shows(path("rate_limit"), ["off", "{ \"requests\": 1 }"], three_at_once),
        shows(path("rate_limit.requests"), ["1", "2"], three_at_once),
        shows(path("rate_limit.per"), ["10s", "20s"], three_at_once),
        shows(path("rate_limit.burst"), ["1", "2"], three_at_once),
        shows(path("rate_limit.by"), ["peer", "all"], answer_to_a_second_peer),
        shows(
            path("probes"),
            ["off", "[{ \"name\": \"live\", \"port\": 80, \"path\": \"/\" }]"],
            result_of_the_probe,
        ),
        shows(path("probes[].name"), ["live", "ready"], result_of_the_probe),
        shows(path("probes[].port"), ["80", "9090"], result_of_the_probe),
        shows(path("probes[].path"), ["/a", "/b"], asked_by_the_probe),
        shows(path("probes[].tcp"), ["on", "off"], asked_by_the_probe),
        shows(path("probes[].grpc"), ["shop.Orders", "shop.Other"], result_of_the_grpc_probe),
        shows(path("ports.*.listen"), ["10.9.0.1:1", "[\"10.9.0.2:1\"]"], listens),
        shows(path("ports.*.mtls"), ["strict", "permissive"], answer_in_plaintext),
        shows(path("ports.*.protocol"), ["http1", "http2"], first_bytes),
        shows(
            path("ports.*.tls"),
            ["off", "{ \"certificate\": \"site.crt\", \"key\": \"site.key\" }"],
            shown_outside,
        ),
        shows(path("ports.*.tls.certificate"), ["site.crt", "other.crt"], shown_outside),
        shows(path("ports.*.tls.key"), ["site.key", "other.key"], shown_outside),
        shows(path("ports.*.tls.client"), ["request", "require"], shown_outside),
        shows(path("ports.*.tls.trust_bundle"), ["web-ca.crt", "absent.crt"], shown_outside),
        shows(path("ports.*.tls[].certificate"), ["site.crt", "other.crt"], shown_outside),
        shows(path("ports.*.tls[].key"), ["site.key", "other.key"], shown_outside),
        shows(path("ports.*.tls[].client"), ["request", "require"], shown_outside),
        shows(path("ports.*.tls[].trust_bundle"), ["web-ca.crt", "absent.crt"], shown_outside),
    ]
}

/// The port that the rules for single ports use.
const PORT: &str = "10.0.0.1:9090";

/// What a client outside the mesh gets that shows no certificate, or why the files cannot be used.
async fn shown_outside(key: Key) -> String {
    let (mesh, scratch) = (Mesh::default(), Scratch::new());
    let _app = mesh.answering(PORT, OK);
    let ca = outside::public(&scratch);
    outside::site(&scratch, "other", &ca, &["other.test"]);
    let mut tls = json!({ "certificate": "site.crt", "key": "site.key" });
    if key.path.ends_with("client") || key.path.ends_with("trust_bundle") {
        (tls["client"], tls["trust_bundle"]) = ("require".into(), "web-ca.crt".into());
    }
    let tls = if key.path.contains("tls[]") { json!([tls]) } else { tls };
    let ports = json!({ "9090": { "listen": outside::FRONT, "tls": tls } });
    let file = key::application(json!({ "app": A, "ports": ports }));
    let config = match key.load(file, &scratch.path("")) {
        Ok(config) => config,
        Err(refused) => return refused.to_string(),
    };
    let _sidecar = match mesh.start(&config, None) {
        Err(why) => return format!("{why:#}").replace(&*scratch.path("").to_string_lossy(), ""),
        Ok(sidecar) => sidecar,
    };
    match outside::browse(&mesh, &scratch, "shop.test", None).await {
        Err(why) => why.to_string(),
        Ok(mut client) => {
            client.try_send(GET).await.unwrap_or_default();
            client
                .message()
                .await
                .map_or_else(|| "closed".to_owned(), |answer| format!("{:?}", answer.status()))
        }
    }
}

async fn who_answers(key: Key) -> String {
    let mesh = Mesh::default();
    let (_a, _b) = (mesh.answering(A, BY_A), mesh.answering(B, BY_B));
    let sidecar = key.application(&mesh, json!({}));
    answer_to(&mut sidecar.client().await, GET).await
}

async fn owner_of_the_address(key: Key) -> String {
    let mesh = Mesh::default();
    let (_a, _b) = (mesh.answering(A, BY_A), mesh.answering("127.0.0.1:80", BY_B));
    let sidecar = key.application(&mesh, json!({ "app": B }));
    answer_to(&mut sidecar.redirected(A).await, GET).await
}

async fn answer_in_plaintext(key: Key) -> String {
    let pair = Pair::new();
    let _app = pair.mesh.answering(PORT, OK);
    let mut file = key::application(json!({ "app": A }));
    file["identity"] = json!({ "directory": IDENTITY.trim_end() });
    let sidecar = key.start(&pair.mesh, file, Some(identity(&pair.ca, "orders")));
    answer_to(&mut sidecar.redirected(PORT).await, GET).await
}

async fn first_bytes(key: Key) -> String {
    let (mesh, heard) = (Mesh::default(), Arc::new(Mutex::new(Vec::new())));
    let hears = heard.clone();
    let _app = mesh.scripted(PORT, move |mut peer: Peer, _| {
        let hears = hears.clone();
        async move { *hears.lock() = peer.exactly(3).await.0 }
    });
    let sidecar = key.application(&mesh, json!({ "app": A }));
    let mut client = sidecar.redirected(PORT).await;
    client.send(GET).await;
    settle().await;
    let heard = heard.lock();
    String::from_utf8_lossy(&heard).into_owned()
}

/// The sidecar of an application with the probe `live`, and the application's ports.
fn probed(key: &Key, mesh: &Mesh, probe: Value) -> Sidecar {
    let mut file = key::application(json!({ "app": A, "probes": [probe] }));
    file["metrics"] = json!({ "listen": "127.0.0.1:0" });
    key.start(mesh, file, None)
}

async fn result_of_the_probe(key: Key) -> String {
    let mesh = Mesh::default();
    let (_a, _local) = (mesh.answering(A, BY_A), mesh.answering("127.0.0.1:9090", BY_B));
    let sidecar = probed(&key, &mesh, json!({ "name": "live", "port": 80, "path": "/" }));
    let answer = asked(&mesh, &sidecar, "GET /probe/live").await;
    format!("{:?} {}", answer.status(), answer.body)
}

async fn asked_by_the_probe(key: Key) -> String {
    let mesh = Mesh::default();
    let app = mesh.answering(A, OK);
    let mut probe = json!({ "name": "live", "port": 80 });
    if key.value != "on" {
        probe["path"] = "/".into();
    }
    let sidecar = probed(&key, &mesh, probe);
    asked(&mesh, &sidecar, "GET /probe/live").await;
    app.requests().first().map_or_else(|| "a connection".to_owned(), |asked| asked.head.clone())
}

async fn result_of_the_grpc_probe(key: Key) -> String {
    let mesh = Mesh::default();
    health(&mesh, A, SERVING);
    let sidecar = probed(&key, &mesh, json!({ "name": "live", "port": 80 }));
    asked(&mesh, &sidecar, "GET /probe/live").await.body
}

async fn time_without_answer(key: Key) -> String {
    let mesh = Mesh::default();
    let _app = mesh.silent(A);
    let sidecar = key.application(&mesh, json!({ "app": A }));
    answer_to(&mut sidecar.client().await, GET).await
}

async fn time_for_half_a_body(key: Key) -> String {
    let mesh = Mesh::default();
    let _app = mesh.silent(A);
    let sidecar = key.application(&mesh, json!({ "app": A }));
    answer_to(&mut sidecar.client().await, HALF_A_BODY).await
}

/// Two requests at once, each on a connection of its own.
async fn one_of_two(key: Key) -> String {
    let mesh = Mesh::default();
    let app = mesh.silent(A);
    let sidecar = key.application(&mesh, json!({ "app": A }));
    let (mut first, mut second) = (sidecar.client().await, sidecar.client().await);
    first.send(GET).await;
    settle().await;
    drop(second.try_send(GET).await); // it may have been closed by now
    let answer = tokio::time::timeout(secs(1), second.message()).await;
    let reason = |answer: &super::super::peer::Message| answer.reason().map(str::to_owned);
    format!("{:?} {}", answer.map(|answer| answer.as_ref().map(reason)).ok(), app.hits())
}

async fn answer_to_a_second_peer(key: Key) -> String {
    const AT: &str = "10.0.9.1:15006";
    let pair = Pair::new();
    let _app = pair.mesh.answering(A, OK);
    let mut file = key::application(json!({ "listen": AT, "app": A, "rate_limit": { "requests": 1 } }));
    file["identity"] = json!({ "directory": IDENTITY.trim_end() });
    let _sidecar = key.start(&pair.mesh, file, Some(identity(&pair.ca, "orders")));
    pair.peer_as("web", AT, Purpose::Http1).await.get("/").await;
    format!("{:?}", pair.peer_as("batch", AT, Purpose::Http1).await.get("/").await.status())
}

async fn answer_to_a_body(key: Key) -> String {
    let mesh = Mesh::default();
    let _app = mesh.answering(A, OK);
    let sidecar = key.application(&mesh, Value::from_iter([("app", A)]));
    let post = "POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 6\r\n\r\n123456";
    answer_to(&mut sidecar.client().await, post).await
}
