//! Shipped log files: real files in a folder, rotations of every kind, a sidecar that is killed, and sinks that refuse, stall
//! and take parts.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use pillion_tls::identity::issue::Ca;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, UdpSocket};
use tokio_rustls::TlsAcceptor;

use crate::grpc::Script;
use crate::support::backend::{Backend, free, nobody};
use crate::support::certs::DAY;
use crate::support::sidecar::{Plan, Sidecar};
use crate::support::tools::require_python;
use crate::support::wire::{Message, Wire};
use crate::support::{Scratch, eventually, soon};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";

/// A folder with log files.
struct Volume(Scratch);

impl Volume {
    fn new() -> Self {
        Self(Scratch::new())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn append(&self, name: &str, text: &str) {
        let mut file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path(name))
            .expect("a file of the test");
        file.write_all(text.as_bytes()).expect("a folder that can be written");
    }

    /// Waits until a file is in the checkpoint, so that it is found under whatever name it gets.
    async fn is_known(&self, name: &str) {
        let inode = fs::metadata(self.path(name)).expect("a file").ino();
        let known = format!("\"inode\":{inode},");
        eventually("a checkpoint with the file", async || {
            let checkpoint = fs::read_to_string(self.path("state/checkpoint.json")).unwrap_or_default();
            checkpoint.contains(&known).then_some(())
        })
        .await;
    }

    /// A sidecar that does nothing but ship `*.log`. `rest`: keys of `logs` besides.
    fn plan(&self, sinks: &str, rest: &str) -> Plan {
        let folder = self.0.path().display();
        Plan::new(&format!(
            "inbound: off\noutbound: off\nworkload: {{ name: web, namespace: shop }}\n\
             logs:\n  sources: {{ app: {{ files: \"{folder}/*.log\", fields: {{ team: shop }} }} }}\n  \
             sinks: {{ {sinks} }}\n  checkpoint: \"{folder}/state\"\n  batch: {{ every: 50ms }}\n{rest}"
        ))
    }
}

/// The messages that a sink got, in their order.
#[derive(Clone, Default)]
struct Got(Arc<Mutex<Vec<String>>>);

impl Got {
    fn take(&self, request: &Message) {
        let records = request.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let message = |line: &[u8]| {
            let record: Value = serde_json::from_slice(line).expect("a record is JSON");
            record["message"].as_str().expect("a message").to_owned()
        };
        self.0.lock().extend(records.map(message));
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().clone()
    }

    async fn has(&self, count: usize) {
        eventually("all records", async || (self.distinct() >= count).then_some(())).await;
    }

    fn distinct(&self) -> usize {
        self.0.lock().iter().collect::<HashSet<_>>().len()
    }
}

/// A sink over HTTP that answers the requests with these numbers, counted from 1, with 503, and takes the others.
async fn sink(is_busy: fn(usize) -> bool) -> (Backend, Got) {
    let (got, asked) = (Got::default(), Arc::new(Mutex::new(0)));
    let to = got.clone();
    let backend = Backend::serving(move |mut wire: Wire, _, seen| {
        let (got, asked) = (to.clone(), asked.clone());
        async move {
            while let Some(request) = wire.message().await {
                let number = {
                    let mut asked = asked.lock();
                    *asked += 1;
                    *asked
                };
                if is_busy(number) {
                    wire.send(BUSY).await;
                } else {
                    got.take(&request);
                    wire.send(OK).await;
                }
                seen.request(request);
            }
        }
    })
    .await;
    (backend, got)
}

/// A sink over HTTP, in the form of the file.
fn hook(backend: &Backend) -> String {
    format!("hook: {{ http: \"http://{}/in\", headers: {{ x-key: secret }} }}", backend.address)
}

/// Waits until the value of a metric with these labels is reached.
async fn measured(sidecar: &Sidecar, name: &str, labels: &[(&str, &str)], value: f64) {
    let what = format!("{name} {labels:?} {value}");
    eventually(&what, async || (sidecar.scrape().await.sum(name, labels) == value).then_some(())).await;
}

#[tokio::test]
async fn records_are_sent_with_what_the_operator_wrote_and_a_sidecar_for_logs_alone_runs() {
    let (volume, (backend, got)) = (Volume::new(), sink(|_| false).await);
    volume.append(
        "a.log",
        "{\"level\":\"error\",\"msg\":\"one\",\"n\":1}\n2026-11-28 17:40:01 WARN two\nthree",
    );
    let mut sidecar = volume.plan(&hook(&backend), "").start().await;
    got.has(2).await;
    let request = backend.last();
    assert!(request.head.starts_with("POST /in HTTP/1.1\r\n"), "{}", request.head);
    assert_eq!(request.header("x-key"), Some("secret"));
    assert_eq!(request.header("content-type"), Some("application/x-ndjson"));
    let first: Value =
        serde_json::from_slice(request.body.split(|byte| *byte == b'\n').next().unwrap()).unwrap();
    for (field, expected) in [
        ("message", "one"),
        ("level", "error"),
        ("source", "app"),
        ("workload", "web"),
        ("namespace", "shop"),
        ("team", "shop"),
    ] {
        assert_eq!(first[field], expected, "{first}");
    }
    assert_eq!((&first["n"], first["file"].as_str()), (&1.into(), volume.path("a.log").to_str()));
    measured(
        &sidecar,
        "pillion_logs_records_total",
        &[("source", "app"), ("sink", "hook"), ("outcome", "delivered")],
        2.0,
    )
    .await;
    measured(&sidecar, "pillion_logs_lag_bytes", &[], 5.0).await;
    measured(&sidecar, "pillion_companion_up", &[("companion", "logs"), ("name", "hook")], 1.0).await;
    // the drain sends what is there, also a line that has not ended
    sidecar.signal("TERM");
    assert!(sidecar.exit().await.success());
    assert_eq!(got.all(), ["one", "2026-11-28 17:40:01 WARN two", "three"]);
}

/// Writes numbered lines through rotations of every kind, and kills the sidecar again and again.
#[tokio::test]
async fn nothing_is_lost_over_rotations_and_kills_and_little_comes_twice() {
    const ROUNDS: usize = 12;
    const LINES: usize = 400;
    let (volume, (backend, got)) = (Volume::new(), sink(|number| number % 4 == 0).await);
    let sinks = hook(&backend);
    let rest = "  memory: 1MiB\n";
    let mut sidecar = volume.plan(&sinks, rest).start().await;
    let mut written = 0;
    for round in 0..ROUNDS {
        for _ in 0..LINES {
            volume.append("a.log", &format!("line {written} of the log {}\n", "x".repeat(written % 90)));
            written += 1;
        }
        volume.is_known("a.log").await;
        match round % 4 {
            0 => fs::rename(volume.path("a.log"), volume.path(&format!("a.log.{round}"))).unwrap(),
            1 => fs::rename(volume.path("a.log"), volume.path(&format!("b{round}.log"))).unwrap(),
            2 => {
                // a copy and a truncation lose nothing once everything was delivered
                got.has(written).await;
                measured(&sidecar, "pillion_logs_lag_bytes", &[], 0.0).await;
                fs::copy(volume.path("a.log"), volume.path("a.copy")).unwrap();
                fs::OpenOptions::new().write(true).truncate(true).open(volume.path("a.log")).unwrap();
            }
            _ => {}
        }
        if round % 2 == 0 {
            drop(sidecar); // SIGKILL
            sidecar = volume.plan(&sinks, rest).start().await;
            // it has read the checkpoint, so that a further truncation and renaming do not come together
            measured(&sidecar, "pillion_companion_up", &[("companion", "logs")], 1.0).await;
        }
    }
    got.has(written).await;
    measured(&sidecar, "pillion_logs_lag_bytes", &[], 0.0).await;
    let all = got.all();
    let numbers: HashSet<usize> =
        all.iter().map(|line| line.split(' ').nth(1).unwrap().parse().expect("a number")).collect();
    assert_eq!(numbers.len(), written);
    let twice = all.len() - written;
    assert!(twice <= ROUNDS / 2 * 10_000, "at most a batch for each kill: {twice}");
    assert_eq!(sidecar.scrape().await.sum("pillion_logs_truncated_bytes_total", &[]), 0.0);
    // without a kill nothing comes twice
    let before = got.all().len();
    for round in 0..8 {
        volume.append("c.log", &format!("last {round}\n"));
        volume.is_known("c.log").await;
        fs::rename(volume.path("c.log"), volume.path(&format!("c.log.{round}"))).unwrap();
        got.has(written + round + 1).await;
    }
    assert_eq!(got.all().len(), before + 8);
}

#[tokio::test]
async fn a_sink_that_is_down_keeps_no_other_waiting_and_gets_all_of_it_later() {
    let (volume, (backend, got)) = (Volume::new(), sink(|_| false).await);
    let later = free();
    let sinks = format!("{}, late: {{ http: \"http://{later}\" }}", hook(&backend));
    let sidecar = volume.plan(&sinks, "").start().await;
    let lines: String = (0..2000).map(|nth| format!("line {nth}\n")).collect();
    volume.append("a.log", &lines);
    got.has(2000).await;
    measured(&sidecar, "pillion_companion_up", &[("name", "late")], 0.0).await;
    measured(&sidecar, "pillion_companion_up", &[("name", "hook")], 1.0).await;
    measured(&sidecar, "pillion_logs_lag_bytes", &[("sink", "late")], lines.len() as f64).await;
    sidecar.has_logged("records cannot be delivered and wait in their files").await;

    let (late, listener) = (Got::default(), TcpListener::bind(later).await.expect("a port that was free"));
    let to = late.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (mut wire, got) = (Wire::new(stream), to.clone());
            tokio::spawn(async move {
                while let Some(request) = wire.message().await {
                    got.take(&request);
                    wire.send(OK).await;
                }
            });
        }
    });
    late.has(2000).await;
    measured(&sidecar, "pillion_companion_up", &[("name", "late")], 1.0).await;
    assert_eq!((late.all().len(), got.all().len()), (2000, 2000));
    sidecar.has_logged("the sink takes records again").await;
}

/// What a server of Elasticsearch has stored, and what it answers: the first time it is busy for every third document, it never
/// takes one with the message `refused`, and it has each id once.
#[derive(Default)]
struct Index {
    documents: BTreeMap<String, Value>,
    busy: HashSet<String>,
    indices: HashSet<String>,
}

impl Index {
    fn bulk(&mut self, body: &[u8]) -> String {
        let lines: Vec<Value> = body
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).expect("JSON"))
            .collect();
        let items =
            lines.chunks(2).enumerate().map(|(nth, pair)| self.create(nth, &pair[0]["create"], &pair[1]));
        let items: Vec<Value> = items.collect();
        let errors = items.iter().any(|item| item["create"]["status"] != 201);
        serde_json::json!({ "errors": errors, "items": items }).to_string()
    }

    fn create(&mut self, nth: usize, action: &Value, document: &Value) -> Value {
        let id = action["_id"].as_str().expect("an id").to_owned();
        self.indices.insert(action["_index"].as_str().expect("an index").to_owned());
        let status = match () {
            () if document["message"] == "refused" => 400,
            () if nth.is_multiple_of(3) && self.busy.insert(id.clone()) => 429,
            () if self.documents.contains_key(&id) => 409,
            () => 201,
        };
        if status == 201 {
            self.documents.insert(id, document.clone());
        }
        serde_json::json!({ "create": { "status": status, "error": { "type": "mapper_parsing_exception", "reason": "no" } } })
    }
}

#[tokio::test]
async fn elasticsearch_gets_each_document_once_whatever_it_answers_for_others() {
    let (volume, index) = (Volume::new(), Arc::new(Mutex::new(Index::default())));
    let shared = index.clone();
    let backend = Backend::serving(move |mut wire: Wire, _, seen| {
        let index = shared.clone();
        async move {
            while let Some(request) = wire.message().await {
                let answer = index.lock().bulk(&request.body);
                wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len()))
                    .await;
                seen.request(request);
            }
        }
    })
    .await;
    let lines: String = (0..300).map(|nth| format!("2026-02-03T04:05:06Z line {nth}\n")).collect();
    volume.append("a.log", &format!("{lines}refused\nlast\n"));
    let sinks =
        format!("search: {{ elasticsearch: \"http://{}\", index: \"app-%Y.%m.%d\" }}", backend.address);
    let sidecar = volume.plan(&sinks, "").start().await;
    eventually("all documents", async || (index.lock().documents.len() == 301).then_some(())).await;
    let outcome = |outcome| vec![("sink", "search"), ("outcome", outcome)];
    measured(&sidecar, "pillion_logs_records_total", &outcome("refused"), 1.0).await;
    measured(&sidecar, "pillion_logs_records_total", &outcome("delivered"), 301.0).await;
    assert!(sidecar.scrape().await.sum("pillion_logs_records_total", &outcome("retried")) >= 100.0);
    assert!(index.lock().indices.contains("app-2026.02.03"));
    sidecar.has_logged("mapper_parsing_exception: no").await;
    // the ids of documents are kept with the checkpoint: a sidecar that has lost it sends everything again, as new documents
    let asked = backend.requests().len();
    drop(sidecar);
    fs::remove_dir_all(volume.path("state")).unwrap();
    let again = volume.plan(&sinks, "").start().await;
    eventually("the same again", async || (backend.requests().len() > asked).then_some(())).await;
    measured(&again, "pillion_logs_records_total", &outcome("delivered"), 301.0).await;
    assert_eq!(index.lock().documents.len(), 602);
}

#[tokio::test]
async fn loki_gets_streams_and_a_record_that_it_refuses_is_found() {
    let (volume, got) = (Volume::new(), Got::default());
    let to = got.clone();
    let backend = Backend::serving(move |mut wire: Wire, _, seen| {
        let got = to.clone();
        async move {
            while let Some(request) = wire.message().await {
                let push: Value = serde_json::from_slice(&request.body).expect("JSON");
                let streams = push["streams"].as_array().expect("streams");
                let lines = streams.iter().flat_map(|stream| stream["values"].as_array().expect("values"));
                let lines: Vec<String> =
                    lines.map(|line| line[1].as_str().expect("a line").to_owned()).collect();
                if lines.iter().any(|line| line == "refused") {
                    wire.send("HTTP/1.1 400 Bad Request\r\ncontent-length: 7\r\n\r\ntoo old").await;
                } else {
                    got.0.lock().extend(lines);
                    wire.send("HTTP/1.1 204 No Content\r\n\r\n").await;
                }
                seen.request(request);
            }
        }
    })
    .await;
    volume.append("a.log", "ERROR one\nINFO two\nrefused\nthree\n");
    let sinks = format!("loki: {{ loki: \"http://{}\", labels: [workload, level] }}", backend.address);
    let sidecar = volume.plan(&sinks, "").start().await;
    got.has(3).await;
    measured(&sidecar, "pillion_logs_records_total", &[("outcome", "refused")], 1.0).await;
    let mut all = got.all();
    all.sort_unstable();
    assert_eq!(all, ["ERROR one", "INFO two", "three"]);
    let first = backend.requests().into_iter().next().expect("a request");
    assert!(first.head.starts_with("POST /loki/api/v1/push "), "{}", first.head);
    assert!(String::from_utf8_lossy(&first.body).contains("{\"workload\":\"web\",\"level\":\"error\"}"));
}

/// A sink over HTTP that answers a request with the status that `judge` gives for its messages, and takes those of a 200.
async fn judging(judge: impl Fn(&[String]) -> u16 + Clone + Send + Sync + 'static) -> (Backend, Got) {
    let got = Got::default();
    let to = got.clone();
    let backend = Backend::serving(move |mut wire: Wire, _, seen| {
        let (got, judge) = (to.clone(), judge.clone());
        async move {
            while let Some(request) = wire.message().await {
                let this = Got::default();
                this.take(&request);
                match judge(&this.all()) {
                    200 => {
                        got.take(&request);
                        wire.send(OK).await;
                    }
                    status => {
                        wire.send(&format!("HTTP/1.1 {status} No\r\ncontent-length: 2\r\n\r\nno")).await
                    }
                }
                seen.request(request);
            }
        }
    })
    .await;
    (backend, got)
}

#[tokio::test]
async fn a_record_that_a_sink_refuses_is_found_and_all_others_arrive() {
    let volume = Volume::new();
    let (backend, got) = judging(|messages| match messages {
        messages if messages.len() > 8 => 413,
        messages if messages.iter().any(|message| message.starts_with("refused")) => 400,
        _ => 200,
    })
    .await;
    let lines: String = (0..200).map(|nth| format!("line {nth}\n")).collect();
    volume.append("a.log", &format!("refused 1\n{lines}refused 2\n"));
    let sidecar = volume.plan(&hook(&backend), "").start().await;
    got.has(200).await;
    let refused = [("outcome", "refused")];
    measured(&sidecar, "pillion_logs_records_total", &refused, 2.0).await;
    // one that is alone in its batch stops nothing either
    volume.append("a.log", "refused 3\n");
    measured(&sidecar, "pillion_logs_records_total", &refused, 3.0).await;
    volume.append("a.log", "last\n");
    got.has(201).await;
    measured(&sidecar, "pillion_logs_records_total", &[("outcome", "delivered")], 201.0).await;
    measured(&sidecar, "pillion_companion_up", &[("name", "hook")], 1.0).await;
    assert_eq!(got.all().len(), 201, "nothing comes twice");
    assert!(sidecar.errors().contains("the sink has refused records, which are lost: answered 400"));
}

#[tokio::test]
async fn a_sink_that_is_set_up_wrongly_costs_no_record() {
    let (volume, status) = (Volume::new(), Arc::new(Mutex::new(400)));
    let judged = status.clone();
    let (backend, got) = judging(move |_| *judged.lock()).await;
    let lines: String = (0..300).map(|nth| format!("line {nth}\n")).collect();
    volume.append("a.log", &lines);
    let sidecar = volume.plan(&hook(&backend), "").start().await;
    for wrong in [400, 401, 403, 404] {
        *status.lock() = wrong;
        let asked = backend.requests().len();
        eventually("a further attempt", async || (backend.requests().len() > asked).then_some(())).await;
        measured(&sidecar, "pillion_companion_up", &[("name", "hook")], 0.0).await;
    }
    *status.lock() = 200;
    got.has(300).await;
    measured(&sidecar, "pillion_companion_up", &[("name", "hook")], 1.0).await;
    measured(&sidecar, "pillion_logs_records_total", &[("outcome", "refused")], 0.0).await;
    assert_eq!(got.all().len(), 300);
}

#[tokio::test]
async fn an_answer_of_elasticsearch_that_is_too_long_is_asked_for_in_parts() {
    let volume = Volume::new();
    let backend = Backend::serving(move |mut wire: Wire, _, seen| async move {
        while let Some(request) = wire.message().await {
            let documents = request.body.iter().filter(|byte| **byte == b'\n').count() / 2;
            let error = serde_json::json!({ "type": "mapping", "reason": "x".repeat(4000) });
            let mut items =
                vec![serde_json::json!({ "create": { "status": 400, "error": error } }); documents];
            if request.body.windows(8).any(|bytes| bytes == b"\"line 0\"") {
                items[0] = serde_json::json!({ "create": { "status": 201 } }); // so that it is believed
            }
            let answer = serde_json::json!({ "errors": true, "items": items }).to_string();
            wire.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len())).await;
            seen.request(request);
        }
    })
    .await;
    let lines: String = (0..100).map(|nth| format!("line {nth}\n")).collect();
    volume.append("a.log", &lines);
    let sinks = format!("search: {{ elasticsearch: \"http://{}\", index: app }}", backend.address);
    let sidecar = volume.plan(&sinks, "").start().await;
    measured(&sidecar, "pillion_logs_records_total", &[("outcome", "refused")], 99.0).await;
    measured(&sidecar, "pillion_logs_lag_bytes", &[], 0.0).await;
}

/// The messages of syslog with octet counting in some bytes.
fn counted(mut bytes: &[u8]) -> Vec<String> {
    let mut messages = Vec::new();
    while let Some(space) = bytes.iter().position(|byte| *byte == b' ') {
        let length: usize = std::str::from_utf8(&bytes[..space]).expect("digits").parse().expect("a length");
        let Some(message) = bytes.get(space + 1..space + 1 + length) else { break };
        messages.push(String::from_utf8(message.to_vec()).expect("UTF-8"));
        bytes = &bytes[space + 1 + length..];
    }
    messages
}

#[tokio::test]
async fn syslog_gets_messages_over_tcp_and_udp() {
    let volume = Volume::new();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let sinks = format!(
        "box: {{ syslog: \"tcp://{}\" }}, loose: {{ syslog: \"udp://{}\" }}",
        tcp.local_addr().unwrap(),
        udp.local_addr().unwrap()
    );
    volume.append("a.log", "ERROR one\ntwo\n");
    let _sidecar = volume.plan(&sinks, "").start().await;
    let (mut stream, _) = soon("a connection", tcp.accept()).await.unwrap();
    let mut read = Vec::new();
    let messages = loop {
        assert!(soon("messages", stream.read_buf(&mut read)).await.unwrap() > 0, "it has closed");
        let messages = counted(&read);
        if messages.len() == 2 {
            break messages;
        }
    };
    assert!(messages[0].starts_with("<11>1 ") && messages[0].ends_with("] ERROR one"), "{messages:?}");
    assert!(
        messages[1].contains(" web - - [pillion@32473 source=\"app\" ") && messages[1].ends_with("] two")
    );
    // the receiver closes the connection, and gets the next message over another one
    drop(stream);
    volume.append("a.log", "three\n");
    let (mut stream, _) = soon("another connection", tcp.accept()).await.unwrap();
    let mut read = Vec::new();
    while counted(&read).is_empty() {
        assert!(soon("a message", stream.read_buf(&mut read)).await.unwrap() > 0, "it has closed");
    }
    assert!(counted(&read)[0].ends_with("] three"));
    let mut datagram = vec![0; 9000];
    for expected in ["] ERROR one", "] two", "] three"] {
        let length = soon("a datagram", udp.recv(&mut datagram)).await.unwrap();
        let message = String::from_utf8_lossy(&datagram[..length]).into_owned();
        assert!(message.starts_with('<') && message.ends_with(expected), "{message}");
    }
}

#[tokio::test]
async fn a_receiver_over_tls_is_verified_with_the_authorities_that_are_named() {
    let (volume, ca, stranger) = (Volume::new(), ca(), ca());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let tls = tls(&ca);
    let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = tls.accept(stream).await else { continue };
            let mut read = Vec::new();
            while stream.read_buf(&mut read).await.is_ok_and(|bytes| bytes > 0) && counted(&read).is_empty() {
            }
            drop(sender.send(counted(&read)));
        }
    });
    let bundle = volume.0.write("ca.crt", stranger.certificate_pem());
    volume.append("a.log", "one\n");
    let sinks =
        format!("box: {{ syslog: \"tls://localhost:{port}\", trust_bundle: \"{}\" }}", bundle.display());
    let sidecar = volume.plan(&sinks, "").start().await;
    sidecar.has_logged("unknown issuer").await;
    volume.0.write("ca.crt", ca.certificate_pem()); // it is read for each connection
    let messages = soon("a message", received.recv()).await.expect("a receiver");
    assert!(messages[0].ends_with("] one"), "{messages:?}");
}

fn ca() -> Ca {
    Ca::generate("logs.test").expect("a CA")
}

/// A server with a certificate for localhost.
fn tls(ca: &Ca) -> TlsAcceptor {
    let id = "spiffe://logs.test/box".parse().expect("an identity");
    let issued = ca.issue(&id, &["localhost".to_owned()], DAY).expect("a certificate");
    let chain = vec![CertificateDer::from_pem_slice(issued.certificate.as_bytes()).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("versions that the provider has").with_no_client_auth();
    TlsAcceptor::from(Arc::new(config.with_single_cert(chain, key).expect("a key that fits")))
}

#[tokio::test]
async fn receivers_with_the_protocols_own_types_read_otlp_and_mongodb() {
    if !require_python("opentelemetry.proto.collector.logs.v1") || !require_python("mockupdb") {
        return;
    }
    let mut script = Script::start("log_sinks.py", &[]);
    let line = script.line().await.expect("its ports");
    let ports: Vec<&str> = line.split(' ').collect();
    let volume = Volume::new();
    volume.append("a.log", "{\"time\":\"2026-11-28T17:40:01.5Z\",\"level\":\"warn\",\"msg\":\"one\",\"n\":7,\"o\":{\"a\":[1.5]}}\nrefused\n");
    let sinks = format!(
        "otel: {{ otlp: \"http://127.0.0.1:{}\" }}, store: {{ mongodb: \"mongodb://127.0.0.1:{}\", database: logs, collection: app }}",
        ports[1], ports[2]
    );
    let sidecar = volume.plan(&sinks, "").start().await;
    let mut seen = BTreeMap::new();
    while seen.len() < 3 {
        let record: Value = serde_json::from_str(&script.line().await.expect("a record")).expect("JSON");
        seen.insert(
            format!("{} {}", record["over"].as_str().unwrap(), record["message"].as_str().unwrap()),
            record,
        );
    }
    let otlp = &seen["otlp one"];
    assert_eq!(
        (&otlp["path"], &otlp["severity"], &otlp["time"]),
        (&"/v1/logs".into(), &13.into(), &1_795_887_601_500_000_000_u64.into())
    );
    assert_eq!(
        (&otlp["resource"]["service.name"], &otlp["fields"]["n"], &otlp["fields"]["team"]),
        (&"web".into(), &7.into(), &"shop".into())
    );
    let stored = &seen["mongodb one"];
    assert_eq!(
        (&stored["database"], &stored["collection"], &stored["o"]["a"][0]),
        (&"logs".into(), &"app".into(), &1.5.into())
    );
    assert!(
        stored["@timestamp"].as_str().is_some_and(|time| time.starts_with("2026-11-28 17:40:01.5")),
        "{stored}"
    );
    measured(&sidecar, "pillion_logs_records_total", &[("sink", "store"), ("outcome", "refused")], 1.0).await;
    sidecar.has_logged("121: Document failed validation").await;
}

#[tokio::test]
async fn a_sink_whose_host_is_a_service_is_asked_through_the_sidecar() {
    let (volume, (backend, got)) = (Volume::new(), sink(|_| false).await);
    let (folder, outbound) = (volume.0.path().display(), free());
    volume.append("a.log", "one\n");
    let plan = Plan::new(&format!(
        "inbound: off\noutbound: {{ listen: \"{outbound}\" }}\n\
         services: {{ logs: {{ hosts: [logs.shop], endpoints: [\"{}\"] }} }}\n\
         logs:\n  sources: {{ app: {{ files: \"{folder}/*.log\" }} }}\n  sinks: {{ hook: {{ http: \"http://logs.shop/in\" }} }}\n  \
         checkpoint: \"{folder}/state\"\n",
        backend.address
    ));
    let sidecar = plan.start().await;
    got.has(1).await;
    assert!(
        backend.last().header("via").is_some() || backend.last().header("x-request-id").is_some(),
        "{}",
        backend.last().head
    );
    sidecar.counted(1, &[("service", "logs"), ("direction", "outbound")]).await;
}

#[tokio::test]
async fn a_reload_changes_sinks_and_sends_nothing_twice() {
    let (volume, (backend, got)) = (Volume::new(), sink(|_| false).await);
    let sidecar = volume.plan(&hook(&backend), "").start().await;
    volume.append("a.log", "one\n");
    got.has(1).await;
    measured(&sidecar, "pillion_logs_lag_bytes", &[], 0.0).await;
    let before = sidecar.reloads("applied").await;
    sidecar.configure(&sidecar.configuration().replace("team: shop", "team: other"));
    sidecar.signal("HUP");
    sidecar.reloaded("applied", before).await;
    volume.append("a.log", "two\n");
    got.has(2).await;
    assert_eq!(got.all(), ["one", "two"]);
    assert!(String::from_utf8_lossy(&backend.last().body).contains("\"team\":\"other\""));
    // without the block nothing is shipped any more
    let configuration = sidecar.configuration();
    sidecar.configure(configuration.split("logs:").next().unwrap());
    sidecar.signal("HUP");
    sidecar.reloaded("applied", before + 1).await;
    eventually("no companion", async || {
        (!sidecar.scrape().await.series().iter().any(|series| series.starts_with("pillion_companion_up")))
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_successor_ships_when_its_predecessor_has_ended() {
    let (volume, (backend, got)) = (Volume::new(), sink(|_| false).await);
    let plan = volume.plan(&hook(&backend), "drain: { delay: off, timeout: 5s }\n").with_takeover();
    let mut old = plan.start().await;
    volume.append("a.log", "one\n");
    got.has(1).await;
    let new = old.successor().await;
    volume.append("a.log", "two\n");
    assert!(old.exit().await.success());
    volume.append("a.log", "three\n");
    got.has(3).await;
    measured(&new, "pillion_companion_up", &[("name", "hook")], 1.0).await;
    assert_eq!(got.all(), ["one", "two", "three"]);
}

#[tokio::test]
async fn a_drain_with_a_dead_sink_ends_in_time() {
    let volume = Volume::new();
    volume.append("a.log", "one\n");
    let sinks = format!("hook: {{ http: \"http://{}\" }}", nobody());
    let mut sidecar = volume.plan(&sinks, "drain: { delay: off, timeout: 5s }\n").start().await;
    measured(&sidecar, "pillion_companion_up", &[], 0.0).await;
    sidecar.signal("TERM");
    assert!(sidecar.exit().await.success());
    sidecar.has_logged("a companion has not delivered everything in time").await;
}
