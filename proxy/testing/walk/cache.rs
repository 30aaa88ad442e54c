//! Keys of the cache of a service.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde_json::json;

use super::super::backend::UNAVAILABLE;
use super::super::mesh::{A, Mesh, pass};
use super::super::peer::Message;
use super::{Key, Row, shows};

pub(super) fn rows() -> Vec<Row> {
    let key = |key: &str| format!("services.*.{key}");
    vec![
        shows(key("cache"), ["off", "{\"max\": \"1MiB\"}"], asked_for_the_same),
        shows(key("cache.max"), ["64KiB", "4MiB"], asked_for_many),
        shows(key("cache.max_object"), ["1KiB", "20KiB"], asked_for_many),
        shows(key("cache.stale_if_error"), ["off", "1h"], answer_when_stale_and_ill),
    ]
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
