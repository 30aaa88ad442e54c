//! `sync`: a thread of its own writes files, which the network in memory does not see. Here each key reaches what that thread
//! follows; `tests/e2e/sync.rs` shows what it does by them.

use std::path::Path;

use super::key::caller;
use super::{Key, Row, only, shows};

pub(super) fn rows() -> Vec<Row> {
    let row = |key: &str, values| shows(format!("sync.*.{key}"), values, followed);
    vec![
        row("from", ["consul://10.0.0.2/a", "etcd://10.0.0.2/a"]),
        row("to", ["/a", "/b"]),
        row("every", ["1s", "2s"]),
        row("mode", ["\"0600\"", "\"0644\""]),
        row("owner", ["\"1\"", "\"1:2\""]),
        only("sync.*.token", "abc", "\"a\\u0001\""),
        row("token_file", ["/a", "/b"]),
        row("check.json", ["on", "off"]),
        row("check.yaml", ["on", "off"]),
        row("check.exec", ["[\"a\", \"{file}\"]", "[\"b\", \"{file}\"]"]),
        row("check.timeout", ["1s", "2s"]),
        row("on_change.signal", ["HUP", "USR1"]),
        row("on_change.process", ["a", "b"]),
        row("on_change.pid_file", ["/a", "/b"]),
        row("on_change.http", ["POST http://10.0.0.2/", "PUT http://10.0.0.2/"]),
        row("on_change.exec", ["a", "[\"a\", \"b\"]"]),
        row("on_change.timeout", ["1s", "2s"]),
        row("required", ["on", "off"]),
    ]
}

async fn followed(key: Key) -> String {
    let config = key.load(caller(serde_json::json!({ "endpoints": ["10.0.0.1:80"] })), Path::new(""));
    format!("{:?}", config.expect("a good file").sync)
}
