//! Keys of the whole sidecar: where it listens, what it reports, what a connection may take, and how it ends.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::backend::{OK, UNAVAILABLE};
use super::super::merge::scraped;
use super::super::mesh::{A, B, C, Mesh, ORDERS_ID, Pair, Sidecar, Watch, at, identity, secs, settle};
use super::super::peer::Peer;
use super::upstream::{GET, answer_to};
use super::{Key, Row, key, only, shows};
use pillion_base::net::memory::MemoryNetwork;
use pillion_testkit::Scratch;
use pillion_tls::server::{accept, server_config};

pub(super) fn rows() -> Vec<Row> {
    vec![
        only("version", "1", "2"),
        shows("limits.max_memory", ["16MiB", "32MiB"], memory_limit),
        shows("outbound", ["off", "{}"], listens),
        shows("outbound.listen", ["10.9.0.1:1", "[\"10.9.0.2:1\"]"], listens),
        shows("outbound.unknown", ["passthrough", "deny"], answer_to_an_unauthenticated_client),
        shows("admin.listen", ["10.9.0.1:1", "[\"10.9.0.2:1\"]"], listens),
        shows("admin.token", ["token-of-one", "token-of-two"], status_with_the_first_token),
        shows("metrics", ["off", "{}"], listens),
        shows("metrics.listen", ["10.9.0.1:1", "[\"10.9.0.2:1\"]"], listens),
        shows("metrics.max_series", ["100", "1000"], series),
        shows("metrics.compatibility", ["[]", "[\"istio\"]"], series_of_istio),
        shows("metrics.merge", ["off", "[\"http://10.0.0.1:80/\"]"], merged),
        shows("metrics.merge[].name", ["jvm", "shop"], merged),
        shows("metrics.merge[].url", ["http://10.0.0.1:80/", "http://10.0.0.3:80/"], merged),
        shows("metrics.merge[].timeout", ["1s", "4s"], merged),
        shows("metrics.endpoints", ["off", "on"], series_of_endpoints),
        shows("metrics.process_metrics", ["off", "{ \"port\": 1 }"], process),
        shows("metrics.process_metrics.port", ["1", "2"], process),
        shows("metrics.process_metrics.name", ["java", "node"], process),
        shows("tracing", ["off", "{ \"otlp\": \"http://10.0.0.3:80\", \"sample\": \"100%\" }"], traced),
        shows("tracing.otlp", ["http://10.0.0.3:80/a", "grpc://10.0.0.3:80"], traced),
        shows("tracing.sample", ["0%", "100%"], traced),
        shows("tracing.propagate", ["w3c", "[\"b3\", \"b3multi\"]"], traced),
        shows("tracing.headers.*", ["one", "two"], traced),
        // what they do is shown in `tests/e2e/shipping.rs`
        only("logs", "off", "on"),
        only("logs.sources.*.files", "/var/log/*.log", "app.log"),
        only("logs.sources.*.format", "cri", "xml"),
        only("logs.sources.*.multiline.starts", "^a", "("),
        only("logs.sources.*.fields.*", "shop", "[]"),
        only("logs.sources.*.drop", "^a", "("),
        only("logs.sinks.*.elasticsearch", "http://a", "a"),
        only("logs.sinks.*.index", "app-%Y", "App"),
        only("logs.sinks.*.loki", "http://a", "a"),
        only("logs.sinks.*.labels", "level", "a-b"),
        only("logs.sinks.*.otlp", "http://a", "grpc://a"),
        only("logs.sinks.*.syslog", "tls://a", "http://a"),
        only("logs.sinks.*.mongodb", "mongodb://a", "mongodb://a,b"),
        only("logs.sinks.*.database", "logs", "a b"),
        only("logs.sinks.*.collection", "app", "a b"),
        only("logs.sinks.*.http", "http://a", "a"),
        only("logs.sinks.*.headers.*", "one", "[]"),
        only("logs.sinks.*.trust_bundle", "ca.crt", "[]"),
        only("logs.checkpoint", "/tmp/a", "[]"),
        only("logs.batch.max", "1MiB", "1KiB"),
        only("logs.batch.every", "5s", "0s"),
        only("logs.memory", "16MiB", "1KiB"),
        shows("explain", ["off", "{}"], kept_exchanges),
        shows("explain.keep", ["64KiB", "1MiB"], kept_exchanges),
        shows("explain.sample", ["0%", "100%"], kept_exchanges),
        shows("explain.slow", ["1s", "4s"], kept_exchanges),
        shows("access_log", ["off", "{ \"path\": \"a\" }"], lines),
        shows("access_log.path", ["a", "b"], lines),
        shows("access_log.format", ["json", "\"%RESPONSE_CODE%\""], lines),
        shows("access_log.sample", ["0%", "100%"], lines),
        shows("access_log.always", ["errors", "off"], lines),
        shows("workload.name", ["web", "shop"], lines),
        shows("workload.namespace", ["default", "shop"], lines),
        shows("workload.zone", ["a", "b"], lines),
        shows("drain.delay", ["off", "5s"], the_end_while_idle),
        shows("drain.timeout", ["10s", "20s"], the_end_while_busy),
        shows("limits.header_bytes", ["8KiB", "64KiB"], answer_to_long_headers),
        shows("limits.header_count", ["10", "100"], answer_to_long_headers),
        shows("limits.response_header_count", ["10", "200"], answer_with_many_headers),
        shows("limits.header_timeout", ["2s", "5s"], time_for_half_a_head),
        shows("limits.idle_timeout", ["60s", "30m"], time_for_nothing),
        shows("limits.via_passes", ["1", "4"], answer_to_the_second_request),
        shows("workers", ["1", "2"], connections_of_two_clients),
    ]
}

/// Every address at which a sidecar listens in these tests.
const PLACES: [&str; 7] = [
    "10.9.0.1:1",
    "10.9.0.2:1",
    "0.0.0.0:15006",
    "127.0.0.1:15001",
    "127.0.0.1:15000",
    "0.0.0.0:15020",
    "[::]:15020",
];

/// The address at which the sidecar accepts connections.
pub(super) async fn listens(key: Key) -> String {
    let mesh = Mesh::default();
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    let mut open = Vec::new();
    for place in PLACES {
        if mesh.memory.connect(at(place)).await.is_ok() {
            open.push(place);
        }
    }
    format!(
        "{open:?} of {} inbound, {} outbound",
        sidecar.addresses.inbound.len(),
        sidecar.addresses.outbound.len()
    )
}

async fn status_with_the_first_token(key: Key) -> String {
    let mesh = Mesh::default();
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    let mut client =
        Peer::new(mesh.memory.connect(sidecar.addresses.admin[0]).await.expect("the admin port listens"));
    let request =
        "PUT /logging?level=warn HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer token-of-one\r\n\r\n";
    answer_to(&mut client, request).await
}

async fn answer_to_an_unauthenticated_client(key: Key) -> String {
    let mesh = Mesh::default();
    let _stranger = mesh.answering("192.0.2.9:80", OK);
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    let mut client = sidecar.redirected("192.0.2.9:80").await;
    answer_to(&mut client, "GET / HTTP/1.1\r\nhost: example.org\r\n\r\n").await
}

/// The series after answers with two hundred different statuses.
async fn memory_limit(key: Key) -> String {
    let sidecar = key.caller(&Mesh::default(), json!({ "endpoints": [A] }));
    settle().await;
    sidecar.sum("pillion_memory_limit_bytes").to_string()
}

async fn series(key: Key) -> String {
    let mesh = Mesh::default();
    let _a = mesh.scripted(A, |mut peer: Peer, _| async move {
        let mut status = 200;
        while peer.message().await.is_some() {
            peer.send(format!("HTTP/1.1 {status} So\r\ncontent-length: 0\r\n\r\n")).await;
            status += 1;
        }
    });
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A], "retry": "off", "outlier_detection": "off" }));
    let mut client = sidecar.client().await;
    for _ in 0..200 {
        client.get("/").await;
    }
    settle().await;
    let text = sidecar.metrics.encode();
    let all = text.lines().filter(|line| !line.starts_with('#')).count();
    format!("more than 200: {}", all > 200)
}

/// The state of the merged sources. One at A answers at once, one at B after 3 s.
async fn merged(key: Key) -> String {
    let mesh = Mesh::default();
    let answering = |address, after| {
        mesh.scripted(address, move |mut peer: Peer, _| async move {
            peer.message().await;
            tokio::time::sleep(Duration::from_secs(after)).await;
            drop(peer.try_send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\na 1\n").await);
        })
    };
    let _sources = [answering(A, 0), answering(B, 3)];
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    let body = scraped(&mesh, &sidecar, "*/*").await.body;
    body.lines().filter(|line| line.starts_with("pillion_merge_up")).collect()
}

/// What is looked for. `tests/e2e/measured.rs` shows what is found.
async fn process(key: Key) -> String {
    let config = key.load(key::caller(json!({ "endpoints": [A] })), Path::new("")).expect("a good file");
    format!("{:?}", config.metrics.expect("the port").process_metrics)
}

async fn series_of_istio(key: Key) -> String {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    sidecar.client().await.get("/").await;
    settle().await;
    sidecar.sum("istio_requests_total reporter=source response_code=200").to_string()
}

/// The series of an endpoint after one request to it.
async fn series_of_endpoints(key: Key) -> String {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    sidecar.client().await.get("/").await;
    settle().await;
    sidecar.sum("pillion_endpoint_requests_total endpoint=10.0.0.1:80 outcome=ok").to_string()
}

/// The content of the files `a` and `b` after an answer and an error. The log is complete when its sidecar has ended.
async fn lines(key: Key) -> String {
    let scratch = Scratch::new();
    let mut file = key::caller(json!({ "endpoints": [A], "retry": "off" }));
    if key.path == "access_log.format" {
        file["access_log"] = json!({ "path": "a" });
    } else if key.path != "access_log" {
        let sample = if key.path == "access_log.always" { "0%" } else { "100%" };
        file["access_log"] = json!({ "path": "a", "sample": sample, "always": "off" });
    }
    let config = key.load(file, &scratch.path("")).expect("a good file");
    let sidecar = async move {
        let mesh = Mesh::default();
        let _a = mesh.http1(A, |nth, _| if nth == 0 { OK } else { UNAVAILABLE });
        let sidecar = mesh.start(&config, None).expect("a sidecar that can start");
        let mut client = sidecar.client().await;
        for _ in 0..2 {
            client.get("/").await;
            settle().await;
        }
    };
    let ended = std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().start_paused(true).build().expect("a runtime").block_on(sidecar);
    });
    ended.join().expect("a sidecar that ends");
    let log = |name: &str| std::fs::read_to_string(scratch.path(name)).unwrap_or_default();
    let all = ["a", "b"].map(log);
    let lines: Vec<Value> = all.iter().flat_map(|log| log.lines().map(line)).collect();
    format!("{:?} {lines:?}", all.map(|log| log.lines().count()))
}

/// The parts of a line that are the same in each run.
fn line(line: &str) -> Value {
    let Ok(line @ Value::Object(_)) = serde_json::from_str::<Value>(line) else { return line.into() };
    json!([line["status"], line["workload"], line["namespace"], line["zone"]])
}

/// The headers of traces that an endpoint gets, and the first bytes that come to a collector without the length of the spans.
async fn traced(key: Key) -> String {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let heard = Arc::new(Mutex::new(String::new()));
    let collected = heard.clone();
    drop(mesh.scripted(C, move |peer: Peer, _| {
        let collected = collected.clone();
        async move {
            let (mut io, mut bytes) = (peer.into_io(), [0; 400]);
            let length = io.read(&mut bytes).await.unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            let lines = text.lines().filter(|line| !line.starts_with("content-length"));
            *collected.lock() = lines.take_while(|line| !line.is_empty()).collect();
        }
    }));
    let mut file = key::caller(json!({ "endpoints": [A] }));
    if key.path != "tracing" {
        file["tracing"] = json!({ "otlp": format!("http://{C}"), "sample": "100%" });
    }
    let sidecar = key.start(&mesh, file, None);
    sidecar.client().await.get("/").await;
    tokio::time::sleep(secs(10)).await;
    let seen = &a.requests()[0];
    let names = ["traceparent", "b3", "x-b3-traceid"].map(|name| seen.header(name).is_some());
    format!("{names:?} {}", heard.lock())
}

/// How many requests are kept after one that takes three seconds, some that are quick, and two hundred that fail.
async fn kept_exchanges(key: Key) -> String {
    let mesh = Mesh::default();
    let _a = mesh.scripted(A, |mut peer: Peer, _| async move {
        let mut nth = 0;
        while peer.message().await.is_some() {
            if nth == 0 {
                tokio::time::sleep(secs(3)).await;
            }
            nth += 1;
            peer.send(if nth < 10 { OK } else { UNAVAILABLE }).await;
        }
    });
    let mut file = key::caller(json!({ "endpoints": [A], "retry": "off", "outlier_detection": "off" }));
    if key.path != "explain" {
        file["explain"] = json!({ "sample": "0%" });
    }
    let sidecar = key.start(&mesh, file, None);
    let mut client = sidecar.client().await;
    for _ in 0..210 {
        client.get("/").await;
    }
    settle().await;
    let (status, page) = on_admin(&sidecar, &mesh, "/requests?limit=1000").await;
    let rows = page["requests"].as_array().map_or(0, Vec::len);
    let succeeded = page["requests"].as_array().into_iter().flatten().filter(|row| row["status"] == 200);
    format!("{status}: {} of them failed: {}", rows, rows - succeeded.count())
}

/// A page of the admin port.
async fn on_admin(sidecar: &Sidecar, mesh: &Mesh, path: &str) -> (u16, Value) {
    let admin = sidecar.addresses.admin[0];
    let mut client = Peer::new(mesh.memory.connect(admin).await.expect("the admin port listens"));
    let answer = client.ask(&format!("GET {path} HTTP/1.1\r\nhost: {admin}\r\n\r\n")).await;
    (answer.status_and_reason().0, serde_json::from_str(&answer.body).unwrap_or_default())
}

async fn the_end_while_idle(key: Key) -> String {
    let mesh = Mesh::default();
    the_end(&key.application(&mesh, json!({ "app": A }))).await
}

async fn the_end_while_busy(key: Key) -> String {
    let mesh = Mesh::default();
    let _app = mesh.silent(A);
    let sidecar = key.application(&mesh, json!({ "app": A }));
    let mut client = sidecar.client().await;
    client.send(GET).await;
    settle().await;
    the_end(&sidecar).await
}

/// Ends the sidecar as [`crate::app::Running::drain`] does.
async fn the_end(sidecar: &Sidecar) -> String {
    let watch = Watch::start();
    sidecar.drain.begin();
    let ended = sidecar.drain.finished(sidecar.controller.config().drain).await;
    format!("{ended:?} after {} s", watch.seconds())
}

/// Twenty headers, nine KiB of them.
async fn answer_to_long_headers(key: Key) -> String {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    let headers: String = (0..20).map(|nth| format!("x-{nth}: {}\r\n", "y".repeat(450))).collect();
    answer_to(&mut sidecar.client().await, &format!("GET / HTTP/1.1\r\nhost: orders\r\n{headers}\r\n")).await
}

/// An answer of twenty headers.
async fn answer_with_many_headers(key: Key) -> String {
    let mesh = Mesh::default();
    let _a = mesh.scripted(A, |mut peer: Peer, _| async move {
        let headers: String = (0..20).map(|nth| format!("x-{nth}: y\r\n")).collect();
        while peer.message().await.is_some() {
            peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{headers}\r\n")).await;
        }
    });
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    answer_to(&mut sidecar.client().await, GET).await
}

async fn time_for_half_a_head(key: Key) -> String {
    let mesh = Mesh::default();
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    answer_to(&mut sidecar.client().await, "GET / HTTP/1.1\r\nhos").await
}

async fn time_for_nothing(key: Key) -> String {
    let mesh = Mesh::default();
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    answer_to(&mut sidecar.client().await, "").await
}

/// The test plays the sidecar at the other end, and returns what the caller's sidecar writes into its request.
async fn answer_to_the_second_request(key: Key) -> String {
    let pair = Pair::new();
    mirror(&pair.mesh.memory, &pair);
    let orders = json!({ "endpoints": [A], "protocol": "http1", "tls": ORDERS_ID });
    let sidecar = key.known_caller(&pair.mesh, &pair.ca, orders);
    let mut client = sidecar.client().await;
    let via = client.get("/").await.body;
    answer_to(&mut client, &format!("GET / HTTP/1.1\r\nhost: orders\r\nx-pillion-via: {via}\r\n\r\n"))
        .await
        .replace(&via[..12], "INSTANCE")
}

/// Answers at A as `orders`, with the `x-pillion-via` of the request.
pub(in super::super) fn mirror(memory: &MemoryNetwork, pair: &Pair) {
    let mut listener = memory.bind(at(A)).expect("a free address");
    let config = server_config(&identity(&pair.ca, "orders"), &pillion_model::Config::default().tls);
    let config = config.expect("a server's configuration");
    tokio::spawn(async move {
        while let Ok(arrival) = listener.accept().await {
            let Ok((mut io, ..)) = accept(config.clone(), arrival.io).await else { continue };
            let mut heard = Vec::new();
            while io.read_buf(&mut heard).await.is_ok_and(|read| read > 0) {
                let Some(head) = String::from_utf8_lossy(&heard).strip_suffix("\r\n\r\n").map(str::to_owned)
                else {
                    continue;
                };
                heard.clear();
                let via =
                    head.lines().find_map(|line| line.strip_prefix("x-pillion-via: ")).unwrap_or_default();
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{via}", via.len());
                io.write_all(answer.as_bytes()).await.expect("the sidecar reads");
                io.flush().await.expect("the sidecar reads");
            }
        }
    });
}

/// Connections are kept by the worker that made them.
async fn connections_of_two_clients(key: Key) -> String {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let sidecar = key.caller(&mesh, json!({ "endpoints": [A] }));
    for _ in 0..2 {
        sidecar.client().await.get("/").await;
        settle().await;
    }
    format!("{} connections", a.connections())
}
