//! Tests of the admin port and the metrics port, asked as their clients ask.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::backend::OK;
use super::mesh::{A, B, Mesh};
use super::peer::{Message, Peer};
use crate::admin::Order;
use crate::admin::{Admin, Console, OwnPort, Published, Readiness, Refusal};
use crate::app::OwnPorts;
use crate::takeover::Inherited;
use pillion_base::drain::Drain;
use pillion_base::net::Network;
use pillion_telemetry::{Metrics, ReloadOutcome, Timelines};

const QUIET: &str = "inbound: off\noutbound: { listen: 127.0.0.1:0 }\nadmin: { listen: 127.0.0.1:0 }\n\
                     metrics: { listen: 127.0.0.1:0 }\n";

/// The admin side alone, with the other end of its console.
struct Side {
    mesh: Mesh,
    console: Arc<Console>,
    orders: mpsc::Receiver<Order>,
    readiness: Arc<Readiness>,
    admin: std::net::SocketAddr,
    metrics: std::net::SocketAddr,
}

impl Side {
    fn start() -> Self {
        Self::of(QUIET)
    }

    fn of(file: &str) -> Self {
        let (config, _) = pillion_config::parse(file, Path::new("")).expect("a good file");
        let (mesh, registry) = (Mesh::default(), Metrics::new(1_000));
        let timelines = config.explain.as_ref().map(|explain| Timelines::new(explain, 1));
        let (console, orders) =
            Console::new(crate::app::store(&config, &registry), timelines, Arc::default(), Drain::default());
        let network = Network::Memory(mesh.memory.clone());
        let (mut ports, commands) =
            OwnPorts::bind(&network, &Inherited::default(), &config).expect("free ports");
        ports.open();
        let (admin, metrics) = (ports.addresses(OwnPort::Admin), ports.addresses(OwnPort::Metrics));
        let side = Admin::new(&network, &config, &registry, console.clone());
        let readiness = side.readiness();
        tokio::spawn(side.run(commands));
        Self { mesh, console, orders, readiness, admin: admin[0], metrics: metrics[0] }
    }

    async fn client(&self) -> Peer {
        Peer::new(self.mesh.memory.connect(self.admin).await.expect("the admin port listens"))
    }

    async fn ask(&self, line: &str, headers: &str) -> Message {
        let request = format!("{line} HTTP/1.1\r\nhost: {}\r\n{headers}\r\n", self.admin);
        self.client().await.ask(&request).await
    }

    async fn status(&self, line: &str, headers: &str) -> u16 {
        self.ask(line, headers).await.status_and_reason().0
    }

    async fn answer_of_metrics_port(&self, line: &str, host: &str) -> (u16, String) {
        let io = self.mesh.memory.connect(self.metrics).await.expect("the metrics port listens");
        let answer = Peer::new(io).ask(&format!("{line} HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        (answer.status_and_reason().0, answer.body)
    }
}

fn page(answer: &Message) -> Value {
    assert_eq!(
        (answer.status_and_reason().0, answer.header("content-type")),
        (200, Some("application/json"))
    );
    serde_json::from_str(&answer.body).expect("JSON")
}

#[tokio::test(start_paused = true)]
async fn the_index_names_every_page_and_every_page_answers() {
    let side = Side::start();
    let index = side.ask("GET /", "").await;
    for path in [
        "/server_info",
        "/listeners",
        "/checks",
        "/config",
        "/clusters",
        "/companions",
        "/certs",
        "/requests",
        "/metrics",
        "/ready",
        "/live",
        "/logging",
    ] {
        assert!(index.body.contains(path), "{path}: {}", index.body);
        let status = side.status(&format!("GET {path}"), "").await;
        assert!([200, 503].contains(&status), "{path} {status}");
    }
    for path in ["/drain", "/reload", "/quitquitquit"] {
        assert!(index.body.contains(&format!("POST {path}")), "{path}: {}", index.body);
    }
    let unknown = side.ask("GET /confg", "").await;
    assert!(unknown.status_and_reason().0 == 404 && unknown.body.contains("/config"), "{}", unknown.body);
}

#[tokio::test(start_paused = true)]
async fn a_check_names_the_endpoint_that_does_not_accept_and_only_one_runs_at_a_time() {
    let side = Side::of(&format!("{QUIET}services: {{ orders: {{ endpoints: [\"{A}\"] }} }}\n"));
    side.mesh.memory.black_hole(A.parse().expect("an address"));
    let began = Instant::now();
    let (one, other) = tokio::join!(side.ask("GET /checks", ""), side.ask("GET /checks", ""));
    let (found, refused) = if one.status_and_reason().0 == 200 { (one, other) } else { (other, one) };
    assert_eq!(refused.status_and_reason().0, 503);
    assert!(refused.body.contains("another check is under way"), "{}", refused.body);
    let what =
        format!("orders: 0 of 1 endpoints accept connections ({A} does not accept a connection within 1 s)");
    let lines = page(&found)["checks"].as_array().expect("a list").clone();
    let endpoints = lines.iter().find(|line| line["check"] == "endpoints").expect("a line");
    assert_eq!((&endpoints["result"], &endpoints["what"]), (&json!("failed"), &json!(what)));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn head_is_get_without_the_body() {
    let side = Side::start();
    let mut client = side.client().await;
    client.send(format!("HEAD /config HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", side.admin)).await;
    let answer = String::from_utf8(client.rest().await).expect("text");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n"), "{answer}");
    assert!(answer.contains("content-length: ") && !answer.contains("content-length: 0"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn the_refusal_of_another_method_lists_the_allowed_ones() {
    let side = Side::start();
    let cases = [
        ("POST /config", "GET, HEAD"),
        ("GET /drain", "POST"),
        ("HEAD /quitquitquit", "POST"),
        ("PUT /reload", "POST"),
        ("POST /logging?level=debug", "GET, HEAD, PUT"),
        ("DELETE /clusters", "GET, HEAD"),
    ];
    for (line, allow) in cases {
        let answer = side.ask(line, "connection: close\r\n").await;
        assert_eq!((answer.status_and_reason().0, answer.header("allow")), (405, Some(allow)), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn unknown_parameters_of_a_page_are_refused() {
    let side = Side::start();
    for (line, expected) in
        [("GET /config?format=xml", 400), ("GET /config?", 200), ("GET /metrics?a=b", 200)]
    {
        assert_eq!(side.status(line, "").await, expected, "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_browser_s_page_of_another_origin_changes_nothing() {
    let mut side = Side::start();
    let own = format!("origin: http://{}\r\nsec-fetch-site: same-origin\r\n", side.admin);
    for line in ["POST /drain", "POST /reload", "POST /quitquitquit", "PUT /logging?level=off"] {
        for headers in
            ["origin: http://evil.example\r\n", "origin: null\r\n", "sec-fetch-site: cross-site\r\n"]
        {
            assert_eq!(side.status(line, headers).await, 403, "{line} {headers}");
        }
        let rebound = format!("{line} HTTP/1.1\r\nhost: evil.example\r\norigin: http://evil.example\r\n\r\n");
        assert_eq!(side.client().await.ask(&rebound).await.status_and_reason().0, 403, "{line}");
    }
    assert!(side.orders.try_recv().is_err());
    for line in ["GET /tap", "GET /events", "GET /checks"] {
        for headers in ["origin: http://evil.example\r\n", "sec-fetch-site: cross-site\r\n"] {
            assert_eq!(side.status(line, headers).await, 403, "{line} {headers}: there are few places");
        }
    }
    assert_eq!(side.status("POST /drain", &own).await, 200);
    assert!(matches!(side.orders.try_recv(), Ok(Order::Drain)));
}

#[tokio::test(start_paused = true)]
async fn a_rebound_name_reads_nothing_on_the_admin_port_and_scrapers_use_names() {
    let side = Side::start();
    let answer = side.client().await.ask("GET /config HTTP/1.1\r\nhost: evil.example\r\n\r\n").await;
    assert!(answer.status_and_reason().0 == 403 && answer.body.contains("localhost"), "{}", answer.body);
    assert_eq!(side.answer_of_metrics_port("GET /metrics", "web.default.svc").await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn the_metrics_port_shows_and_changes_nothing_else() {
    let mut side = Side::start();
    for path in ["/", "/config", "/clusters", "/certs", "/logging", "/drain", "/reload", "/quitquitquit"] {
        for method in ["GET", "POST", "PUT"] {
            let (status, _) = side.answer_of_metrics_port(&format!("{method} {path}"), "x").await;
            assert_eq!(status, 404, "{method} {path}");
        }
    }
    assert_eq!(side.answer_of_metrics_port("POST /ready", "x").await.0, 405);
    assert!(side.orders.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn the_answer_to_a_reload_says_how_it_ended() {
    let mut side = Side::start();
    let faults = "p.yaml:1:1: error: inbund is unknown. help: did you mean inbound?\np.yaml:2:1: error: x";
    for (done, status, said) in [
        (Ok("generation 2 is at work".to_owned()), 200, "generation 2 is at work\n".to_owned()),
        (Err(faults.to_owned()), 422, format!("{faults}\n")),
    ] {
        let mut client = side.client().await;
        client.send(format!("POST /reload HTTP/1.1\r\nhost: {}\r\n\r\n", side.admin)).await;
        let Some(Order::Reload(answer)) = side.orders.recv().await else { unreachable!("a reload") };
        answer.send(done).expect("somebody waits");
        let answer = client.answer().await;
        assert_eq!((answer.status_and_reason().0, answer.body), (status, said));
    }
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_hangs_is_given_up_after_half_a_minute() {
    let side = Side::start();
    let began = Instant::now();
    assert_eq!(side.status("POST /reload", "").await, 503);
    assert_eq!(began.elapsed().as_secs(), 30);
}

/// `QUIET` has no inbound side, so that its drain ends at once.
#[tokio::test(start_paused = true)]
async fn a_drain_of_inbound_alone_is_no_order_and_says_how_far_it_is() {
    for (file, after_a_second) in [
        (QUIET.to_owned(), "idle"),
        (QUIET.replace("inbound: off", "inbound: { listen: 127.0.0.1:0 }"), "draining"),
    ] {
        let mut side = Side::of(&file);
        let (config, _) = pillion_config::parse(&file, Path::new("")).expect("a good file");
        side.console.publish(Published { config: Arc::new(config), ..Published::default() });
        side.readiness.set_ready();
        assert_eq!(side.status("POST /drain?only=outbound", "").await, 400);
        assert!(side.readiness.why_not().is_none());
        for _ in 0..20 {
            assert!(page(&side.ask("POST /drain?only=inbound", "").await)["inbound"].is_string());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(page(&side.ask("POST /drain?only=inbound", "").await)["inbound"], after_a_second);
        assert_eq!(side.readiness.why_not().as_deref(), Some("draining"));
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(page(&side.ask("POST /drain?only=inbound", "").await)["inbound"], "idle");
        assert!(side.orders.try_recv().is_err(), "the process goes on");
    }
}

#[tokio::test(start_paused = true)]
async fn orders_are_bounded_and_refused_when_no_task_takes_them() {
    let mut side = Side::start();
    for _ in 0..16 {
        assert_eq!(side.status("POST /drain", "").await, 200);
    }
    assert_eq!(side.status("POST /quitquitquit", "").await, 503);
    side.orders.close();
    while side.orders.recv().await.is_some() {}
    for line in ["POST /drain", "POST /quitquitquit", "POST /reload"] {
        assert_eq!(side.status(line, "").await, 503, "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_admin_port_does_not_read_a_request_body() {
    let side = Side::start();
    let mut client = side.client().await;
    let head = format!("POST /drain HTTP/1.1\r\nhost: {}\r\ncontent-length: 1000000000\r\n\r\n", side.admin);
    client.send(head).await;
    assert_eq!(client.answer().await.status_and_reason().0, 200);
    let sent = async {
        let piece = vec![b'x'; 64 * 1024];
        while client.try_send(&piece).await.is_ok() {}
    };
    tokio::time::timeout(Duration::from_secs(60), sent).await.expect("the connection is closed");
}

impl Side {
    /// A client of the metrics port that has sent `bytes`, and reads nothing.
    async fn stranger(&self, bytes: &str) -> Peer {
        let mut client = Peer::new(self.mesh.memory.connect(self.metrics).await.expect("the port listens"));
        client.try_send(bytes).await.unwrap_or_default();
        client
    }

    /// How long the kubelet waits for `/live`.
    async fn live(&self) -> Duration {
        let began = Instant::now();
        assert_eq!(self.answer_of_metrics_port("GET /live", "x").await, (200, "live\n".to_owned()));
        began.elapsed()
    }
}

/// Requests whose answers do not fit into the connection's buffer.
fn many(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").repeat(500)
}

#[tokio::test(start_paused = true)]
async fn calls_that_change_state_need_the_token_where_there_is_one() {
    let mut side = Side::of(&QUIET.replace("admin: { listen", "admin: { token: \"s3cret-t0ken\", listen"));
    for headers in [
        "",
        "authorization: Bearer s3cret-t0keN\r\n",
        "authorization: Bearer \r\n",
        "authorization: Basic s3cret-t0ken\r\n",
        "authorization: s3cret-t0ken\r\n",
        "authorization: Bearer s3cret-t0ken\r\nauthorization: Bearer s3cret-t0ken\r\n",
    ] {
        for line in
            ["POST /drain", "POST /quitquitquit", "POST /reload", "PUT /logging?level=debug", "POST /nothing"]
        {
            let answer = side.ask(line, headers).await;
            assert_eq!(answer.status_and_reason().0, 401, "{line} {headers}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"pillion\""));
        }
    }
    assert!(side.orders.try_recv().is_err(), "no order reached the sidecar");
    assert_eq!(side.status("POST /drain", "authorization: bearer s3cret-t0ken\r\n").await, 200);
    assert!(matches!(side.orders.try_recv(), Ok(Order::Drain)));
    for headers in ["", "authorization: Bearer s3cret-t0ken\r\n"] {
        let request = format!("POST /metrics HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
        let io = side.mesh.memory.connect(side.metrics).await.expect("the metrics port listens");
        let status = Peer::new(io).ask(&request).await.status_and_reason().0;
        assert_eq!(status, 405, "the metrics port does not tell a right token from a wrong one");
    }
    for line in ["GET /", "GET /config", "GET /metrics", "HEAD /live"] {
        assert_eq!(side.status(line, "").await, 200, "{line} changes nothing");
    }
    let (config, _) =
        pillion_config::parse("admin: { token: s3cret-t0ken }", Path::new("")).expect("a good file");
    side.console.publish(Published { config: Arc::new(config), ..Published::default() });
    let shown = side.ask("GET /config", "").await.body;
    assert!(!shown.contains("s3cret") && shown.contains("(hidden)"), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn a2_live_answers_at_once_whatever_other_clients_do() {
    let side = Side::start();
    let mut strangers = Vec::new();
    for path in ["/metrics", "/probe/x", "/live", "/nothing"] {
        for _ in 0..70 {
            strangers.push(side.stranger(&many(path)).await);
        }
        assert!(side.live().await < Duration::from_millis(100), "{path}");
    }
    for _ in 0..80 {
        strangers.push(side.stranger("").await);
        strangers.push(side.stranger("GET /li").await);
    }
    assert!(side.live().await < Duration::from_millis(100));
    assert_eq!(side.status("GET /live", "").await, 200, "the admin port has places of its own");
}

#[tokio::test(start_paused = true)]
async fn a2_at_the_limit_the_oldest_connection_is_closed_and_no_new_one_is() {
    let side = Side::start();
    let mut clients = Vec::new();
    for _ in 0..65 {
        clients.push(side.stranger("").await);
    }
    assert!(clients.remove(0).rest().await.is_empty(), "the first one was closed");
    for mut client in clients {
        let answer = client.ask("GET /live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert_eq!(answer.status_and_reason().0, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a2_a_client_that_reads_nothing_is_cut_after_five_seconds() {
    let side = Side::start();
    let began = Instant::now();
    let mut stranger = side.stranger(&many("/live")).await;
    side.live().await;
    tokio::time::sleep(Duration::from_millis(4_900)).await;
    assert!(stranger.try_send("x").await.is_ok(), "it is still open");
    tokio::time::sleep(Duration::from_millis(200)).await;
    stranger.rest().await;
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a2_a_connection_ends_with_its_lifetime_however_busy_it_is() {
    let side = Side::start();
    let began = Instant::now();
    let mut scraper = side.stranger("").await;
    while scraper.try_send("GET /live HTTP/1.1\r\nhost: x\r\n\r\n").await.is_ok() {
        let Some(answer) = scraper.message().await else { break };
        assert!(answer.is_whole);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!((60..=61).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

/// The client reads a little every four seconds, so that no single write waits for long.
#[tokio::test(start_paused = true)]
async fn a2_a_client_that_reads_slowly_is_cut_in_the_end() {
    let side = Side::start();
    let began = Instant::now();
    let mut stranger = side.stranger(&many("/metrics")).await.into_io();
    let mut piece = [0; 16 * 1024];
    while stranger.read(&mut piece).await.is_ok_and(|read| read > 0) && began.elapsed().as_secs() < 300 {
        tokio::time::sleep(Duration::from_secs(4)).await;
    }
    // The lifetime, the time for the last answer, and the 64 KiB that the connection's buffer still held.
    assert!(began.elapsed().as_secs() <= 60 + 35 + 5 * 4, "{:?}", began.elapsed());
}

/// The time for the last answer is that of an ordinary page, although the connection had a stream before, which may last
/// an hour.
#[tokio::test(start_paused = true)]
async fn a_connection_that_once_had_a_stream_is_cut_like_any_other() {
    let services = (1..1_000).map(|nth| format!("  s{nth}: {{ endpoints: [\"10.0.0.1:{nth}\"] }}\n"));
    let side = Side::of(&services.fold(format!("{QUIET}services:\n"), |file, service| file + &service));
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", side.admin);
    let large = side.ask("GET /clusters", "").await.body.len();
    assert!(large > 16 * 1024 * 60 / 4, "one answer takes longer than the time for the last one: {large}");
    let mut operator = side.client().await;
    operator.send(ask("/tap?timeout=1s") + &ask("/clusters").repeat(5)).await;
    let (mut operator, began, mut piece) = (operator.into_io(), Instant::now(), [0; 16 * 1024]);
    while operator.read(&mut piece).await.is_ok_and(|read| read > 0) && began.elapsed().as_secs() < 300 {
        tokio::time::sleep(Duration::from_secs(4)).await;
    }
    // the lifetime, the time for the last answer, and what the connection's buffer still held
    assert!((60..=60 + 35 + 5 * 4).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_unknown_log_level_is_answered_with_the_known_ones() {
    let side = Side::start();
    for query in ["", "?level=", "?level=wat", "?level=debug&x=y", "?lvl=debug", "?level=pillion"] {
        let answer = side.ask(&format!("PUT /logging{query}"), "").await;
        assert!(
            answer.status_and_reason().0 == 400 && answer.body.contains("?level=debug"),
            "{query}: {}",
            answer.body
        );
    }
}

#[tokio::test(start_paused = true)]
async fn certificates_are_shown_as_the_credentials_describe_them() {
    let side = Side::start();
    side.console.amend(|shown| shown.credentials = vec![json!({ "spiffe_id": "spiffe://x/y" })]);
    let shown = page(&side.ask("GET /certs", "").await);
    assert_eq!(
        shown,
        json!({ "identities": [{ "spiffe_id": "spiffe://x/y" }], "others": [], "last_refusal": null })
    );
}

#[tokio::test(start_paused = true)]
async fn c5_the_later_refusal_is_shown_of_configuration_and_certificates() {
    let side = Side::start();
    let refused = |at, why: &str| {
        Some(Refusal { at: SystemTime::UNIX_EPOCH + Duration::from_secs(at), why: why.to_owned() })
    };
    side.console.amend(|shown| {
        shown.last_refusal = refused(1, "p.yaml:1:1: error: no");
        shown.certificates_refused = refused(2, "certificates: tls.crt is expired");
    });
    let certificates = json!({ "at": "1970-01-01T00:00:02Z", "why": "certificates: tls.crt is expired" });
    assert_eq!(page(&side.ask("GET /config", "").await)["last_refusal"], certificates);
    assert_eq!(page(&side.ask("GET /certs", "").await)["last_refusal"], certificates);
    side.console.amend(|shown| shown.certificates_refused = None);
    let configuration = json!({ "at": "1970-01-01T00:00:01Z", "why": "p.yaml:1:1: error: no" });
    assert_eq!(page(&side.ask("GET /config", "").await)["last_refusal"], configuration);
    assert_eq!(page(&side.ask("GET /certs", "").await)["last_refusal"], Value::Null);
}

#[tokio::test(start_paused = true)]
async fn the_configuration_page_shows_the_latest_configuration() {
    let side = Side::start();
    let (config, _) = pillion_config::parse(QUIET, Path::new("")).expect("a good file");
    let (file, text) = (Some("p.yaml".into()), Some(QUIET.into()));
    side.console.publish(Published { config: Arc::new(config), file, text, ..Published::default() });
    let shown = page(&side.ask("GET /config", "").await);
    assert_eq!((&shown["generation"], &shown["last_refusal"]), (&json!(1), &Value::Null));
    let inbound = json!({ "key": "inbound", "value": "off", "from": "p.yaml:1:10" });
    assert!(shown["values"].as_array().expect("a list").contains(&inbound));
    let first = page(&side.ask("GET /config?limit=3", "").await);
    assert_eq!(
        (first["values"].as_array().map(Vec::len), &first["next"]),
        (Some(3), &json!("/config?page=2&limit=3"))
    );
    assert_eq!(side.status("GET /config?service=nobody", "").await, 404);
    assert_eq!(side.status("GET /config?page=none", "").await, 400);
}

#[tokio::test(start_paused = true)]
async fn both_ports_answer_readiness_with_its_reason() {
    let side = Side::start();
    let starting = (503, "not ready: starting\n".to_owned());
    assert_eq!(side.answer_of_metrics_port("GET /ready", "x").await, starting);
    side.readiness.set_ready();
    side.readiness.set_waiting("certificates: certs/tls.crt does not exist");
    let waiting = "not ready: waiting for certificates: certs/tls.crt does not exist\n".to_owned();
    assert_eq!(side.answer_of_metrics_port("GET /ready", "x").await, (503, waiting));
    side.readiness.stop_waiting();
    assert_eq!(side.status("GET /ready", "").await, 200);
}

#[tokio::test(start_paused = true)]
async fn the_clusters_page_shows_the_present_state() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let service = format!(
        "endpoints: [{{ address: \"{A}\", weight: 3, zone: z1 }}, \"{B}\"], load_balancer: round_robin, \
         outlier_detection: {{ consecutive_errors: 1 }}"
    );
    let sidecar = mesh.caller(&service);
    let mut client = sidecar.client().await;
    for _ in 0..8 {
        client.get("/").await;
    }
    let admin = sidecar.addresses.admin[0];
    let mut people = Peer::new(mesh.memory.connect(admin).await.expect("the admin port listens"));
    let shown = page(&people.ask(&format!("GET /clusters HTTP/1.1\r\nhost: {admin}\r\n\r\n")).await);
    let orders = &shown["clusters"][0];
    assert_eq!((&orders["name"], &orders["endpoints_from"]), (&json!("orders"), &json!("static")));
    let [a, b] = [&orders["endpoints"][0], &orders["endpoints"][1]];
    assert_eq!((&a["address"], &a["weight"], &a["state"]), (&json!(A), &json!(3), &json!("healthy")), "{a}");
    assert_eq!((&a["requests"], &a["errors"], &b["errors"]), (&json!(8), &json!(0), &json!(1)), "{a} {b}");
    assert_eq!((&a["connections"], &a["in_flight"]), (&json!({ "idle": 1, "open": 1 }), &json!(0)), "{a}");
    assert!(a["latency_ms"].is_number(), "{a}");
    assert_eq!((&a["zone"], &b["zone"], &a["priority"]), (&json!("z1"), &json!(null), &json!(0)), "{a}");
    assert_eq!(b["state"], json!("ejected"));
    assert!(b["ejected_for_ms"].as_u64().is_some_and(|rest| (29_000..=30_000).contains(&rest)), "{b}");
    assert_eq!(orders["limits"]["max_connections"], json!({ "used": 1, "max": 1024 }));
    assert_eq!(orders["retry_budget"]["left"], json!(99), "{orders}");
}

#[tokio::test(start_paused = true)]
async fn the_clusters_page_shows_a_single_service_on_request() {
    let mesh = Mesh::default();
    let yaml = super::mesh::caller("endpoints: [10.0.0.1:80]") + "  billing: { endpoints: [10.0.0.2:80] }\n";
    let sidecar = mesh.sidecar(&yaml, None);
    let admin = sidecar.addresses.admin[0];
    let ask = async |query: &str| {
        let mut operator = Peer::new(mesh.memory.connect(admin).await.expect("the admin port listens"));
        operator.ask(&format!("GET /clusters{query} HTTP/1.1\r\nhost: {admin}\r\n\r\n")).await
    };
    let names = |answer: &Message| {
        let shown = page(answer);
        let clusters = shown["clusters"].as_array().expect("a list").iter();
        clusters.map(|cluster| cluster["name"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    for (query, expected) in
        [("", &["billing", "orders"][..]), ("?", &["billing", "orders"]), ("?service=orders", &["orders"])]
    {
        assert_eq!(names(&ask(query).await), expected, "{query}");
    }
    for (query, status, text) in [
        ("?service=pay", 404, "there is no service called \"pay\"\n"),
        ("?name=orders", 400, "the only parameter is service=NAME\n"),
        ("?service=orders&limit=1", 400, "the only parameter is service=NAME\n"),
    ] {
        let answer = ask(query).await;
        assert_eq!((answer.status_and_reason().0, answer.body.as_str()), (status, text), "{query}");
    }
}

#[test]
fn reloads_are_counted_from_zero() {
    let metrics = Metrics::new(1_000);
    metrics.config_reloads(ReloadOutcome::Refused).inc();
    metrics.config_generation().set(4);
    let text = metrics.encode();
    for line in [
        "pillion_config_reloads_total{outcome=\"applied\"} 0",
        "pillion_config_reloads_total{outcome=\"refused\"} 1",
        "pillion_config_generation 4",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line}: {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_purge_names_a_service_that_has_a_cache_and_needs_the_token() {
    let services =
        format!("services:\n  a: {{ endpoints: [\"{A}\"], cache: {{}} }}\n  b: {{ endpoints: [\"{A}\"] }}\n");
    let side = Side::of(&format!("{QUIET}{services}"));
    for (query, expected) in [
        ("?service=a", 200),
        ("?service=a&path=/x*", 200),
        ("?service=b", 404),
        ("?service=c", 404),
        ("", 400),
    ] {
        assert_eq!(side.status(&format!("POST /cache/purge{query}"), "").await, expected, "{query}");
    }
    assert_eq!(side.status("GET /cache/purge?service=a", "").await, 405);
    let with_token = QUIET.replace("admin: { listen", "admin: { token: \"s3cret-t0ken\", listen");
    let side = Side::of(&format!("{with_token}{services}"));
    assert_eq!(side.status("POST /cache/purge?service=a", "").await, 401);
    let bearer = "authorization: Bearer s3cret-t0ken\r\n";
    assert_eq!(side.status("POST /cache/purge?service=a", bearer).await, 200);
}
