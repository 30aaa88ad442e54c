//! Keys of `retry`, for a service, for `defaults` and for a route.

use serde_json::json;

use super::super::backend::UNAVAILABLE;
use super::super::mesh::{A, Mesh, Watch, secs};
use super::{Key, Row, shows};

pub(super) fn rows(of: &str) -> Vec<Row> {
    let key = |key: &str| format!("{of}.retry{key}");
    vec![
        shows(key(""), ["off", "{}"], tries),
        shows(key(".attempts"), ["1", "3"], tries),
        shows(key(".conditions"), ["[\"reset\"]", "[\"5xx\"]"], tries),
        shows(key(".on"), ["reset", "503"], tries),
        shows(key(".methods"), ["[\"GET\"]", "all"], tries),
        shows(key(".max_body"), ["1B", "64KiB"], tries),
        shows(key(".budget.ratio"), ["0%", "100%"], tries_without_floor),
        shows(key(".budget.min_per_second"), ["0", "10"], tries_without_ratio),
        shows(key(".per_try_timeout"), ["off", "2s"], tries_of_silence),
        shows(key(".hedge_after"), ["off", "2s"], tries_of_silence),
        shows(key(".backoff.base"), ["1us", "1000s"], time_for_twenty_tries),
        shows(key(".backoff.max"), ["1s", "1000s"], time_for_twenty_tries),
    ]
}

const PUT: &str = "PUT / HTTP/1.1\r\nhost: orders\r\ncontent-length: 5\r\n\r\n12345";

/// How often an unavailable endpoint is asked.
async fn tries(key: Key) -> String {
    tries_under(key, json!({})).await
}

async fn tries_without_floor(key: Key) -> String {
    tries_under(key, json!({ "budget": { "min_per_second": 0 } })).await
}

async fn tries_without_ratio(key: Key) -> String {
    tries_under(key, json!({ "budget": { "ratio": "0%" } })).await
}

async fn tries_under(key: Key, retry: serde_json::Value) -> String {
    let mesh = Mesh::default();
    let a = mesh.answering(A, UNAVAILABLE);
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A], "retry": retry }));
    sidecar.client().await.ask(PUT).await;
    format!("{} tries", a.hits())
}

async fn tries_of_silence(key: Key) -> String {
    let mesh = Mesh::default();
    let a = mesh.silent(A);
    let retry = json!({ "conditions": ["per_try_timeout"] });
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A], "timeout": "9s", "retry": retry }));
    sidecar.client().await.ask(PUT).await;
    format!("{} tries", a.hits())
}

/// Pauses are drawn between zero and the configured value: ten pauses of up to 1000 s practically never fit into one
/// minute.
async fn time_for_twenty_tries(key: Key) -> String {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, UNAVAILABLE);
    let retry = json!({ "attempts": 20, "backoff": { "base": "1s", "max": "1000s" } });
    let sidecar = key.caller(
        &mesh,
        json!({ "endpoints": [A], "timeout": "off", "outlier_detection": "off", "retry": retry }),
    );
    let watch = Watch::start();
    let mut client = sidecar.client().await;
    let status = tokio::time::timeout(secs(100_000), client.ask(PUT)).await.expect("an answer").status();
    format!("{status:?} within a minute: {}", watch.seconds() < 60)
}
