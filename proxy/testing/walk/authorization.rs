//! Keys of `inbound.authorization`.

use serde_json::json;

use super::super::backend::OK;
use super::super::mesh::{A, IDENTITY, Pair, identity, settle};
use super::{Key, Row, key, shows};
use pillion_tls::client::Purpose;

const AT: &str = "10.0.9.1:15006";

pub(super) fn rows() -> Vec<Row> {
    let path = |key: &str| format!("inbound.authorization{key}");
    let mut rows = vec![
        shows(path(""), ["off", "{}"], judged),
        shows(path(".default"), ["deny", "allow"], judged),
        shows(path(".mode"), ["enforce", "audit"], judged),
        shows(path(".encoded_slash"), ["reject", "keep"], judged),
        shows(path(".rules"), ["off", "[{ \"name\": \"a\" }]"], judged),
        shows(path(".rules[].name"), ["one", "two"], judged),
        shows(path(".rules[].action"), ["allow", "deny"], judged),
    ];
    rows.extend(conditions(&path(".rules[]")));
    rows.extend(conditions(&path(".rules[].not")));
    rows
}

fn conditions(block: &str) -> Vec<Row> {
    let path = |key: &str| format!("{block}.{key}");
    let (web, batch) = ("spiffe://cluster.local/ns/default/sa/web", "spiffe://cluster.local/ns/batch/*");
    vec![
        shows(path("from"), [web, batch], judged),
        shows(path("methods"), ["GET", "[\"POST\"]"], judged),
        shows(path("paths"), ["/a", "/b/*"], judged),
        shows(path("ports"), ["80", "81"], judged),
        shows(path("hosts"), ["orders", "*.shop"], judged),
        shows(path("headers.*"), ["one", "two"], judged),
        shows(path("headers.*.exact"), ["one", "two"], judged),
        shows(path("headers.*.prefix"), ["o", "t"], judged),
        shows(path("headers.*.regex"), ["o.e", "t.*"], judged),
        shows(path("headers.*.present"), ["on", "off"], judged),
        shows(path("sources"), ["0.0.0.0/0", "203.0.113.1"], judged),
    ]
}

/// The answers to three requests of `web`, and the decisions.
async fn judged(key: Key) -> String {
    let pair = Pair::new();
    let _app = pair.mesh.answering(A, OK);
    let rules = match key.path.as_str() {
        "inbound.authorization.default" => json!([]),
        _ => json!([{ "name": "a", "paths": ["/*"] }]),
    };
    let mut file = key::application(json!({ "listen": AT, "app": A, "authorization": { "rules": rules } }));
    file["identity"] = json!({ "directory": IDENTITY.trim_end() });
    let sidecar = key.start(&pair.mesh, file, Some(identity(&pair.ca, "orders")));
    let mut web = pair.peer_as("web", AT, Purpose::Http1).await;
    let mut seen = Vec::new();
    for asked in [
        "GET /a HTTP/1.1\r\nhost: orders\r\nx-test: one\r\n\r\n",
        "POST /b/c HTTP/1.1\r\nhost: a.shop\r\nx-test: two\r\ncontent-length: 0\r\n\r\n",
        "GET /a%2Fb HTTP/1.1\r\nhost: orders\r\n\r\n",
    ] {
        let answer = web.ask(asked).await;
        seen.push(format!("{:?}", answer.status_and_reason()));
    }
    settle().await;
    let metrics = sidecar.metrics.encode();
    let mut decisions: Vec<&str> =
        metrics.lines().filter(|line| line.starts_with("pillion_authorization_total{")).collect();
    decisions.sort_unstable();
    format!("{seen:?} {decisions:?}")
}
