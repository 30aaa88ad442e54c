//! The access log: one line for each request or opaque connection, as JSON or by a [`template`]. It never delays them.
//!
//! A line is formatted on the thread that served the request and copied into a bounded buffer; a separate thread writes
//! the buffer to the sink ([`super::shipper`]). If the buffer is full, lines are lost and counted.

mod template;

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use pillion_model::Workload;
use pillion_model::access_format::{LogFormat, Template};

use super::family::IntCounter;
use super::json::{Object, key};
use super::labels::Decision;
use super::propagation::TraceId;
use super::shipper::{Shipper, Sink};
use pillion_model::Direction;
use pillion_model::Reason;

/// A path with its query is cut after this many bytes: enough to recognise the call, and a bound on what scanners send.
pub(crate) const PATH_BYTES: usize = 1024;
/// A DNS name has at most 253 bytes, and a port may follow.
pub(crate) const HOST_BYTES: usize = 260;
/// The sidecar accepts no longer request id.
pub(crate) const REQUEST_ID_BYTES: usize = 128;
pub(crate) const DETAIL_BYTES: usize = 512;
/// The longest SPIFFE ID that the standard allows. Names of the configuration are shorter.
pub(crate) const NAME_BYTES: usize = 2048;

/// The `detail` of a request that was answered with a stored answer.
pub const FROM_CACHE: &str = "cache_hit";

/// How long closing waits for the sink: a sink that takes nothing must not keep the process from ending.
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);

/// The record of one request or opaque connection that has ended. Empty texts and `None` are left out of the line.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// When the request's headers had arrived; for an opaque connection, when the sidecar began to connect to a server.
    pub time: SystemTime,
    pub direction: Direction,
    pub service: &'a str,
    pub route: &'a str,
    /// A name from [`protocol_name`], or [`OPAQUE`].
    pub protocol: &'static str,
    pub request: RequestRecord<'a>,
    pub reason: Option<Reason>,
    /// The sentence that explains `reason`.
    pub detail: &'a str,
    /// The verified SPIFFE ID of the peer.
    pub peer: &'a str,
    pub downstream: Option<SocketAddr>,
    /// The endpoint of the last attempt.
    pub upstream: Option<SocketAddr>,
    /// Bytes of the request body, or of the opaque stream, from the downstream.
    pub bytes_in: u64,
    /// Bytes of the response body, or of the opaque stream, to the downstream.
    pub bytes_out: u64,
    /// The time until the end of the response or of the connection.
    pub duration: Duration,
    /// The time from the first byte that the last attempt sent to its response's headers. For an opaque connection, the
    /// time to the first byte of the server; it starts at the connect if the server spoke first.
    pub upstream_duration: Option<Duration>,
    /// 0 if no endpoint was chosen.
    pub attempts: u32,
    /// What the authorization rules decided; `None` without rules.
    pub authorization: Option<Decision>,
    /// The rule that decided.
    pub rule: &'a str,
}

/// The part of a [`Record`] that only requests have; empty for opaque connections.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestRecord<'a> {
    pub method: &'a str,
    /// The path with its query, cut at 1 KiB.
    pub path: &'a [u8],
    pub host: &'a [u8],
    pub request_id: &'a [u8],
    /// The status sent downstream; 0 if none was sent.
    pub status: u16,
    pub grpc_status: Option<u8>,
    /// The trace; `None` without `tracing`.
    pub trace: Option<TraceId>,
    /// The reason that a verified sidecar gave in its response; written if this sidecar has no reason of its own.
    pub peer_reason: &'a str,
}

/// What a line says only where a template asks for it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Further<'a> {
    pub headers: Option<&'a KeptHeaders>,
    /// The address to which the client connected: the original one where the kernel redirected it.
    pub local: Option<SocketAddr>,
    /// The time until the last byte of the request had come.
    pub request_duration: Option<Duration>,
    /// The time until the first byte of the answer had come from the endpoint.
    pub response_duration: Option<Duration>,
}

/// The values of the headers that a template names, in the order of its two lists. An absent one is empty.
#[derive(Debug, Default)]
pub struct KeptHeaders {
    pub request: Vec<Box<[u8]>>,
    pub answer: Vec<Box<[u8]>>,
}

impl KeptHeaders {
    /// Copies the values, each up to 1 KiB.
    pub fn copied<'v>(values: impl Iterator<Item = Option<&'v [u8]>>) -> Vec<Box<[u8]>> {
        let kept = |value: &'v [u8]| {
            let value = value.trim_ascii();
            value.get(..Template::HEADER_BYTES).unwrap_or(value).into()
        };
        values.map(|value| value.map(kept).unwrap_or_default()).collect()
    }
}

/// The name of a request's protocol in a [`Record`].
pub fn protocol_name(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_09 => "HTTP/0.9",
        http::Version::HTTP_10 => "HTTP/1.0",
        http::Version::HTTP_2 => "HTTP/2",
        http::Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

/// The protocol of an opaque connection in a [`Record`].
pub const OPAQUE: &str = "tcp";

impl Record<'_> {
    /// Whether it is the record of a request. An opaque connection has neither method nor status.
    pub fn is_request(&self) -> bool {
        self.protocol != OPAQUE
    }

    /// Appends the line with its line feed.
    pub fn write_to(&self, line: &mut Vec<u8>, by: &Workload) {
        let mut object = Object::begin(line);
        self.write_request(&mut object);
        self.write_ending(&mut object);
        self.write_cost(&mut object);
        write_workload(by, &mut object);
        object.end();
        line.push(b'\n');
    }

    fn write_request(&self, object: &mut Object<'_>) {
        object.time(key!("time"), self.time);
        object.word(key!("direction"), self.direction.as_str());
        object.text(key!("service"), self.service.as_bytes(), NAME_BYTES);
        object.text(key!("route"), self.route.as_bytes(), NAME_BYTES);
        object.text(key!("method"), self.request.method.as_bytes(), REQUEST_ID_BYTES);
        object.text(key!("path"), self.request.path, PATH_BYTES);
        object.text(key!("host"), self.request.host, HOST_BYTES);
        object.word(key!("protocol"), self.protocol);
        object.text(key!("request_id"), self.request.request_id, REQUEST_ID_BYTES);
        self.request
            .trace
            .into_iter()
            .for_each(|trace| object.text(key!("trace_id"), &trace.text(), TraceId::DIGITS));
        object.text(key!("peer"), self.peer.as_bytes(), NAME_BYTES);
        self.downstream.into_iter().for_each(|address| object.address(key!("downstream"), address));
    }

    fn write_ending(&self, object: &mut Object<'_>) {
        let RequestRecord { status, grpc_status, peer_reason, .. } = self.request;
        object.number(key!("status"), status.into());
        grpc_status.into_iter().for_each(|code| object.number(key!("grpc_status"), code.into()));
        match self.reason {
            Some(reason) => object.word(key!("reason"), reason.code()),
            None if peer_reason.is_empty() => {}
            None => {
                object.text(key!("reason"), peer_reason.as_bytes(), NAME_BYTES);
                object.word(key!("reason_of"), "peer");
            }
        }
        object.text(key!("detail"), self.detail.as_bytes(), DETAIL_BYTES);
        if let Some(decision) = self.authorization {
            object.word(key!("authorization"), decision.as_str());
            object.text(key!("rule"), self.rule.as_bytes(), NAME_BYTES);
        }
        self.upstream.into_iter().for_each(|address| object.address(key!("upstream"), address));
        object.number(key!("attempts"), self.attempts.into());
    }

    fn write_cost(&self, object: &mut Object<'_>) {
        object.number(key!("bytes_in"), self.bytes_in);
        object.number(key!("bytes_out"), self.bytes_out);
        object.number(key!("duration_us"), micros(self.duration));
        self.upstream_duration
            .into_iter()
            .for_each(|took| object.number(key!("upstream_duration_us"), micros(took)));
    }
}

/// Writes which workload this sidecar serves, if that is known.
fn write_workload(by: &Workload, object: &mut Object<'_>) {
    let parts = [(key!("workload"), &by.name), (key!("namespace"), &by.namespace), (key!("zone"), &by.zone)];
    for (key, text) in parts {
        object.text(key, text.as_deref().unwrap_or_default().as_bytes(), NAME_BYTES);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The access log. Threads share it in an `Arc`.
///
/// Dropping it writes the accepted lines, which may take a second at most.
pub struct AccessLog {
    sample: f64,
    always_errors: bool,
    workload: Workload,
    /// `None`: the lines are JSON.
    template: Option<Template>,
    shipper: Shipper,
}

impl AccessLog {
    /// Opens the sink and starts the thread that writes to it. Every line names `workload`; `dropped` counts lost
    /// lines.
    ///
    /// # Errors
    /// The file cannot be opened for appending, or the thread cannot be started.
    pub fn start(
        config: &pillion_model::telemetry::AccessLog,
        workload: Workload,
        dropped: IntCounter,
    ) -> io::Result<Self> {
        let shipper = Shipper::start(Sink::open(&config.path)?, dropped)?;
        let template = match &config.format {
            LogFormat::Json => None,
            LogFormat::Template(template) => Some(template.clone()),
        };
        Ok(Self { sample: config.sample, always_errors: config.always_errors, workload, template, shipper })
    }

    /// The template, if it names headers, which are then kept while a request runs.
    pub fn names_headers(&self) -> Option<&Template> {
        let names_any = |template: &&Template| {
            !template.request_headers.is_empty() || !template.answer_headers.is_empty()
        };
        self.template.as_ref().filter(names_any)
    }

    /// Whether this request gets a line. Call it once for each request, because the sample is random.
    pub fn wants(&self, failed: bool) -> bool {
        let always = self.sample >= 1.0 || (failed && self.always_errors);
        always || (self.sample > 0.0 && fastrand::f64() < self.sample)
    }

    /// Accepts a line. Never waits for the sink.
    pub fn write<'a>(&self, record: &Record<'_>, further: impl FnOnce() -> Further<'a>) {
        thread_local! {
            static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        LINE.with_borrow_mut(|line| {
            line.clear();
            match &self.template {
                None => record.write_to(line, &self.workload),
                Some(template) => template::write(template, record, &further(), line),
            }
            self.shipper.send(line);
        });
    }

    /// Opens the file again, because it was moved away. Returns at once; the thread that writes does it.
    pub fn reopen(&self) {
        self.shipper.reopen();
    }

    /// Writes the accepted lines and accepts no more. Returns false if the sink did not take them within a second.
    ///
    /// This function blocks, so no thread of the data path may call it.
    pub fn close(&self) -> bool {
        self.shipper.close(FLUSH_PATIENCE)
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        if !self.close() {
            tracing::warn!("the sink of the access log does not accept lines; the last lines are lost");
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::thread;

    use pillion_model::telemetry::{self, LogPath};
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::Metrics;

    /// A path for this test, removed when the test ends.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("pillion-{name}-{}.log", std::process::id())))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_file(&self.0).unwrap_or_default();
        }
    }

    fn config(path: &Scratch, sample: f64, always_errors: bool) -> telemetry::AccessLog {
        let path = LogPath::File(path.0.clone());
        telemetry::AccessLog { path, format: LogFormat::Json, sample, always_errors }
    }

    fn request() -> RequestRecord<'static> {
        RequestRecord {
            method: "GET",
            path: b"/a?b=\"c\"",
            host: b"billing.local:80",
            request_id: b"7",
            status: 503,
            grpc_status: Some(14),
            trace: None,
            peer_reason: "",
        }
    }

    pub(crate) fn record() -> Record<'static> {
        Record {
            time: SystemTime::UNIX_EPOCH,
            direction: Direction::Outbound,
            service: "billing",
            route: "",
            protocol: protocol_name(http::Version::HTTP_2),
            request: request(),
            reason: Some(Reason::NoEndpoints),
            detail: "no endpoint of \"billing\" is known",
            peer: "",
            downstream: "[::1]:5".parse().ok(),
            upstream: None,
            bytes_in: 1,
            bytes_out: 2,
            duration: Duration::from_micros(1_234),
            upstream_duration: None,
            attempts: 0,
            authorization: None,
            rule: "",
        }
    }

    #[test]
    fn a_line_has_the_reason_for_the_end_of_a_request() {
        let mut line = Vec::new();
        record().write_to(&mut line, &Workload::default());
        assert_eq!(
            String::from_utf8(line).expect("UTF-8"),
            concat!(
                r#"{"time":"1970-01-01T00:00:00.000000Z","direction":"outbound","service":"billing","#,
                r#""method":"GET","path":"/a?b=\"c\"","host":"billing.local:80","protocol":"HTTP/2","#,
                r#""request_id":"7","downstream":"[::1]:5","status":503,"grpc_status":14,"#,
                r#""reason":"no_endpoints","detail":"no endpoint of \"billing\" is known","attempts":0,"#,
                r#""bytes_in":1,"bytes_out":2,"duration_us":1234}"#,
                "\n"
            )
        );
    }

    /// A record with every field that a request can have.
    fn full() -> Record<'static> {
        Record {
            route: "r",
            peer: "spiffe://a/b",
            upstream: "10.0.0.1:80".parse().ok(),
            upstream_duration: Some(Duration::ZERO),
            authorization: Some(Decision::Allowed),
            rule: "default",
            request: RequestRecord { trace: TraceId::read(&[b'7'; 32]), ..request() },
            ..record()
        }
    }

    /// The table of the page on logs has the fields of a line, in their order and with their types.
    #[test]
    fn the_documents_list_every_field_of_a_line() {
        let page = include_str!("../../../docs/logs.md");
        let table = page.split_once("| field | type |").expect("a table").1;
        let rows = table.lines().skip(2).map_while(|line| line.strip_prefix("| `")?.split_once("` | "));
        let rows: Vec<(&str, &str)> =
            rows.map(|(field, rest)| (field, rest.split(' ').next().unwrap_or_default())).collect();
        let named = include_str!("access.rs").split("mod tests").next().unwrap_or_default();
        let named = named.split("key!(\"").skip(1).filter_map(|rest| rest.split('"').next());
        let mut declared: Vec<&str> = named.collect();
        declared.dedup(); // two branches write `reason`
        assert_eq!(rows.iter().map(|(field, _)| *field).collect::<Vec<_>>(), declared);

        let name = |name: &str| Some(name.to_owned());
        let by = Workload { name: name("w"), namespace: name("n"), zone: name("z") };
        let of_peer = RequestRecord { peer_reason: "no_route", ..request() };
        let mut found: Vec<(String, &str)> = Vec::new();
        for record in [full(), Record { reason: None, request: of_peer, ..full() }] {
            let mut line = Vec::new();
            record.write_to(&mut line, &by);
            let line: serde_json::Map<String, Value> = serde_json::from_slice(&line).expect("JSON");
            found.extend(
                line.iter().map(|(field, value)| {
                    (field.clone(), if value.is_number() { "number" } else { "string" })
                }),
            );
        }
        for (field, of_type) in rows {
            assert!(found.iter().any(|(name, found)| (name.as_str(), *found) == (field, of_type)), "{field}");
        }
    }

    #[test]
    fn the_sample_decides_unless_errors_are_always_logged() {
        let path = Scratch::new("sample");
        let cases = [
            (0.0, true, true, true),
            (0.0, false, true, false),
            (0.0, true, false, false),
            (1.0, false, false, true),
        ];
        for (sample, always_errors, failed, wanted) in cases {
            let log = AccessLog::start(&config(&path, sample, always_errors), Workload::default(), dropped())
                .expect("starts");
            assert_eq!(log.wants(failed), wanted, "{sample} {always_errors} {failed}");
        }
        let half =
            AccessLog::start(&config(&path, 0.5, false), Workload::default(), dropped()).expect("starts");
        let wanted = (0..10_000).filter(|_| half.wants(true)).count();
        assert!((4_000..6_000).contains(&wanted), "{wanted}");
    }

    #[test]
    fn a_log_that_cannot_be_opened_is_an_error_at_start() {
        let nowhere = Scratch(PathBuf::from("/proc/no/such/place"));
        assert!(AccessLog::start(&config(&nowhere, 1.0, true), Workload::default(), dropped()).is_err());
    }

    #[test]
    fn dropping_the_log_writes_every_accepted_line_of_many_threads() {
        let path = Scratch::new("threads");
        fs::write(&path.0, "kept\n").expect("writes");
        let log = Arc::new(
            AccessLog::start(&config(&path, 1.0, true), Workload::default(), dropped()).expect("starts"),
        );
        let threads: Vec<_> = (0..4)
            .map(|_| log.clone())
            .map(|log| thread::spawn(move || (0..500).for_each(|_| log.write(&record(), Further::default))))
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("writes"));
        drop(log);
        let text = fs::read_to_string(&path.0).expect("reads");
        assert!(text.starts_with("kept\n") && text.ends_with("}\n"));
        assert_eq!(
            text.lines().skip(1).filter(|line| serde_json::from_str::<Value>(line).is_ok()).count(),
            2_000
        );
    }

    fn dropped() -> IntCounter {
        Metrics::new(100).access_log_dropped()
    }

    proptest! {
        #[test]
        fn a_record_is_one_line_of_json_whatever_bytes_peers_send(
            path: Vec<u8>, host: Vec<u8>, request_id: Vec<u8>, names in any::<[String; 5]>(), status: u16
        ) {
            let [service, route, method, peer, detail] = &names;
            let request =
                RequestRecord { path: &path, host: &host, request_id: &request_id, method, status, ..request() };
            let record = Record { service, route, request, peer, detail, ..record() };
            let mut line = Vec::new();
            record.write_to(&mut line, &Workload::default());
            let line = String::from_utf8(line).expect("UTF-8");
            prop_assert_eq!(line.chars().filter(|char| char.is_control()).count(), 1);
            let read: Value = serde_json::from_str(&line).expect("valid JSON");
            prop_assert_eq!(read.get("path").and_then(Value::as_str).unwrap_or_default(), String::from_utf8_lossy(&path));
            prop_assert_eq!(read.get("detail").and_then(Value::as_str).unwrap_or_default(), detail);
            prop_assert_eq!(&read["status"], &Value::from(status));
        }
    }
}
