//! Makes spans of a traced request that has ended, with OpenTelemetry's stable names for HTTP and those for RPC. Pure.
//!
//! There is a SERVER span for the request, and a CLIENT span inside it for each attempt. The stages of the timeline are
//! their events. No query and no header stands there, because these may have secrets.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use hyper::body::Bytes;

use pillion_model::{Direction, Reason, Workload};
use pillion_sidecar::traces::{Traced, Try};
use pillion_telemetry::MethodLabel;
use pillion_telemetry::propagation::SpanId;
use pillion_telemetry::timeline::{Stage, StageName, StageOutcome, Timeline, is_failure};

use super::messages::{
    AnyValue, Event, ExportRequest, KeyValue, Kind, Resource, ResourceSpans, Scope, ScopeSpans, Span, Status,
    StatusCode, Value,
};

const NAME: &str = "pillion";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The release of OpenTelemetry's semantic conventions that has these names.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.37.0";
/// The name of a service that does not name itself, as OpenTelemetry says.
const UNKNOWN: &str = "unknown_service:pillion";

/// The bits of `Span.flags`: the parent is known to be remote or not, and it is.
const KNOWS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;
const SAMPLED: u32 = 1;

/// One request to the collector.
pub(super) fn request(spans: Vec<Bytes>, by: &Workload) -> ExportRequest {
    let mut attributes = Attributes::default();
    attributes.text("service.name", by.name.as_deref().unwrap_or(UNKNOWN));
    attributes.some("service.namespace", by.namespace.as_deref().unwrap_or_default());
    attributes.some("cloud.availability_zone", by.zone.as_deref().unwrap_or_default());
    attributes.text("telemetry.sdk.name", NAME);
    attributes.text("telemetry.sdk.language", "rust");
    attributes.text("telemetry.sdk.version", VERSION);
    let scope = Scope { name: NAME.to_owned(), version: VERSION.to_owned() };
    let of = ResourceSpans {
        resource: Some(Resource { attributes: attributes.0 }),
        scope_spans: vec![ScopeSpans { scope: Some(scope), spans }],
        schema_url: SCHEMA.to_owned(),
    };
    ExportRequest { resource_spans: vec![of] }
}

/// The spans of a request: its own first, then those of its attempts.
pub(super) fn spans(of: &Traced, names: &mut Names) -> Vec<Span> {
    let name = name(of, names);
    let mut sent = 0;
    let attempts = of.tries.iter().map(|attempt| {
        let before = if attempt.is_sent { sent } else { 0 };
        sent += i64::from(attempt.is_sent);
        Span { name: name.clone(), ..client(of, attempt, before) }
    });
    std::iter::once(Span { name: name.clone(), ..server(of) }).chain(attempts).collect()
}

/// The methods of gRPC after which spans are named. A client may ask for methods that do not exist, and names of spans must
/// be few.
#[derive(Default)]
pub(super) struct Names(HashSet<Box<str>>);

impl Names {
    /// 500: more than the methods of most meshes.
    const MOST: usize = 500;

    /// Whether spans may have this name. `is_sound`: the answer does not say that there is no such method.
    fn admit(&mut self, name: &str, is_sound: bool) -> bool {
        if self.0.contains(name) {
            return true;
        }
        let has_room = is_sound && self.0.len() < Self::MOST;
        has_room && self.0.insert(name.into())
    }
}

fn server(of: &Traced) -> Span {
    let Traced { timeline, context, .. } = of;
    let mut attributes = Attributes::default();
    attributes.of_request(of, of.is_tls);
    attributes.some("network.protocol.version", timeline.protocol.strip_prefix("HTTP/").unwrap_or_default());
    attributes.some("http.route", &timeline.route);
    attributes.status(timeline.status);
    attributes.of_rpc(of, timeline.grpc_status);
    attributes.some("error.type", &error_of_server(timeline));
    if let Some(address) = timeline.downstream {
        attributes.text("client.address", &address.ip().to_canonical().to_string());
        attributes.number("client.port", address.port().into());
    }
    attributes.text("pillion.request_id", &timeline.id);
    attributes.some("pillion.peer", &timeline.peer);
    attributes.some("pillion.rule", &timeline.rule);
    let is_own =
        |stage: &&Stage| stage.attempt == 0 || matches!(stage.name, StageName::Backoff | StageName::Hedge);
    let is_failed = timeline.is_failure();
    Span {
        parent_span_id: context.parent.map(SpanId::bytes).map(Vec::from).unwrap_or_default(),
        kind: Kind::Server.into(),
        start_time_unix_nano: nanos(timeline.time),
        end_time_unix_nano: nanos(timeline.time + timeline.duration),
        attributes: attributes.0,
        events: events(timeline, timeline.stages.iter().filter(is_own)),
        status: status(is_failed, sentence(timeline)),
        flags: context.parent.map_or(0, |_| KNOWS_REMOTE | IS_REMOTE) | SAMPLED,
        ..span(of, context.span)
    }
}

/// `resent`: how often the request was sent before.
fn client(of: &Traced, attempt: &Try, resent: i64) -> Span {
    let Traced { timeline, context, .. } = of;
    let mut attributes = Attributes::default();
    attributes.of_request(of, of.is_tls_upstream);
    attributes.some("url.full", &url(&timeline.host, &timeline.path, of.is_tls_upstream));
    attributes.text("network.peer.address", &attempt.endpoint.ip().to_canonical().to_string());
    attributes.number("network.peer.port", attempt.endpoint.port().into());
    if resent > 0 {
        attributes.number("http.request.resend_count", resent);
    }
    let answered = match attempt.outcome {
        StageOutcome::Status(status) => status,
        _ => 0,
    };
    attributes.status(answered);
    // a status in trailers is known of the attempt whose answer the client got
    let of_trailers = timeline.grpc_status.filter(|_| answered == timeline.status && attempt.is_last);
    let grpc_status = attempt.grpc_status.or(of_trailers);
    attributes.of_rpc(of, grpc_status);
    attributes.some("error.type", &error_of_client(attempt, grpc_status));
    attributes.some("pillion.outcome", if attempt.is_lost { "outrun" } else { "" });
    let began = timeline.time + attempt.at;
    let is_its = |stage: &&Stage| {
        stage.attempt == attempt.stage && !matches!(stage.name, StageName::Backoff | StageName::Hedge)
    };
    let is_failed = is_failed_attempt(attempt, grpc_status);
    let detail = if attempt.is_last { sentence(timeline) } else { "" };
    Span {
        parent_span_id: context.span.bytes().to_vec(),
        kind: Kind::Client.into(),
        start_time_unix_nano: nanos(began),
        end_time_unix_nano: nanos(began + attempt.took),
        attributes: attributes.0,
        events: events(timeline, timeline.stages.iter().filter(is_its)),
        status: status(is_failed, detail),
        flags: KNOWS_REMOTE | SAMPLED,
        ..span(of, context.attempt(attempt.number))
    }
}

/// What all spans of a request have.
fn span(of: &Traced, id: SpanId) -> Span {
    Span {
        trace_id: of.context.trace.bytes().to_vec(),
        span_id: id.bytes().to_vec(),
        trace_state: of.state.as_deref().unwrap_or_default().to_owned(),
        ..Span::default()
    }
}

/// The method of a call of gRPC, if there are not too many; else the method of HTTP with the route. A path would be another
/// name for each request.
fn name(of: &Traced, names: &mut Names) -> String {
    /// PERMISSION_DENIED, UNIMPLEMENTED, UNAUTHENTICATED: whether there is such a method is not known.
    const SAY_NOTHING: [u8; 3] = [7, 12, 16];
    let timeline = &of.timeline;
    let is_sound = timeline.grpc_status.is_none_or(|status| !SAY_NOTHING.contains(&status));
    if let Some(called) = rpc(of).map(|(service, method)| format!("{service}/{method}"))
        && names.admit(&called, is_sound)
    {
        return called;
    }
    let method = method(timeline).unwrap_or("HTTP");
    match &*timeline.route {
        "" => method.to_owned(),
        route => format!("{method} {route}"),
    }
}

/// `None`: a method that OpenTelemetry does not name.
fn method(timeline: &Timeline) -> Option<&str> {
    let method = http::Method::from_bytes(timeline.method.as_bytes()).ok()?;
    (MethodLabel::from(&method) != MethodLabel::Other).then_some(&timeline.method)
}

/// Service and method of a call of gRPC.
fn rpc(of: &Traced) -> Option<(&str, &str)> {
    let (service, method) = of.timeline.path.strip_prefix('/').filter(|_| of.is_grpc)?.split_once('/')?;
    (!service.is_empty() && !method.is_empty() && !method.contains('/')).then_some((service, method))
}

/// The CODE of a sidecar, or the status of a server that failed. A client that went away has its CODE, too.
fn error_of_server(timeline: &Timeline) -> String {
    match (timeline.code(), timeline.status) {
        ("", 500..) => timeline.status.to_string(),
        ("", _) if timeline.is_failure() => grpc_error(timeline.grpc_status),
        (code, _) => code.to_owned(),
    }
}

/// For a client, a 4xx is an error, too.
fn error_of_client(attempt: &Try, grpc_status: Option<u8>) -> String {
    match attempt.cut.map_or(attempt.outcome, StageOutcome::Reason) {
        StageOutcome::Reason(reason) => reason.code().to_owned(),
        StageOutcome::Status(status @ 400..) => status.to_string(),
        StageOutcome::Status(_) => grpc_error(grpc_status),
        StageOutcome::Word(_) | StageOutcome::Done => String::new(),
    }
}

fn grpc_error(status: Option<u8>) -> String {
    status.filter(|status| *status != 0).map(|status| status.to_string()).unwrap_or_default()
}

fn is_failed_attempt(attempt: &Try, grpc_status: Option<u8>) -> bool {
    match attempt.cut.map_or(attempt.outcome, StageOutcome::Reason) {
        StageOutcome::Reason(reason) => is_failure(Some(reason), 0, None),
        StageOutcome::Status(status) => status >= 400 || grpc_status.is_some_and(|status| status != 0),
        StageOutcome::Word(_) | StageOutcome::Done => false,
    }
}

/// The sentence of a failure, where the sidecar itself made it. That of a server follows from the status, which is an attribute.
fn sentence(timeline: &Timeline) -> &str {
    if timeline.reason.is_some() { &timeline.detail } else { "" }
}

fn status(is_failed: bool, detail: &str) -> Option<Status> {
    is_failed.then(|| Status { message: detail.to_owned(), code: StatusCode::Error.into() })
}

/// The stages as events, at the time when they began. The span itself says how it ended.
fn events<'s>(timeline: &Timeline, stages: impl Iterator<Item = &'s Stage>) -> Vec<Event> {
    let event = |stage: &Stage| {
        let mut attributes = Attributes::default();
        attributes.push("pillion.took_ms", Value::Double(stage.took.as_secs_f64() * 1e3));
        match stage.outcome {
            StageOutcome::Done => {}
            StageOutcome::Word(word) => attributes.text("pillion.outcome", word),
            StageOutcome::Reason(reason) => attributes.text("pillion.outcome", Reason::code(reason)),
            StageOutcome::Status(status) => attributes.text("pillion.outcome", &status.to_string()),
        }
        attributes.some("pillion.detail", stage.detail.as_deref().unwrap_or_default());
        let time_unix_nano = nanos(timeline.time + stage.at);
        let name = Bytes::from_static(stage.name.as_str().as_bytes());
        Event { time_unix_nano, name, attributes: attributes.0 }
    };
    stages.filter(|stage| stage.name != StageName::End).map(event).collect()
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The host of a request, and its port where one is written.
fn server_address(host: &str) -> (&str, Option<u16>) {
    let is_bare = |name: &str| !name.contains(':') || name.ends_with(']');
    let split = host.rsplit_once(':').filter(|(name, _)| is_bare(name));
    let (name, port) = split.map_or((host, None), |(name, port)| (name, port.parse().ok()));
    (name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name), port)
}

/// The URL of an attempt, without query and credentials. Empty: there is no host, or the target is no path.
fn url(host: &str, path: &str, is_tls: bool) -> String {
    let host = host.rsplit_once('@').map_or(host, |(_credentials, host)| host);
    let scheme = if is_tls { "https" } else { "http" };
    let path = path.split(['?', '#']).next().unwrap_or_default();
    if host.is_empty() || !path.starts_with('/') { String::new() } else { format!("{scheme}://{host}{path}") }
}

#[derive(Default)]
struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn push(&mut self, key: &'static str, value: Value) {
        self.0.push(KeyValue {
            key: Bytes::from_static(key.as_bytes()),
            value: Some(AnyValue { value: Some(value) }),
        });
    }

    fn text(&mut self, key: &'static str, text: &str) {
        self.push(key, Value::Text(text.to_owned()));
    }

    /// Leaves out an empty text.
    fn some(&mut self, key: &'static str, text: &str) {
        if !text.is_empty() {
            self.text(key, text);
        }
    }

    fn number(&mut self, key: &'static str, number: i64) {
        self.push(key, Value::Integer(number));
    }

    /// What the spans of both kinds say of the request.
    fn of_request(&mut self, of: &Traced, is_tls: bool) {
        let timeline = &of.timeline;
        match method(timeline) {
            Some(method) => self.text("http.request.method", method),
            None => {
                self.text("http.request.method", "_OTHER");
                self.some("http.request.method_original", &timeline.method);
            }
        }
        self.some("url.path", &timeline.path);
        self.text("url.scheme", if is_tls { "https" } else { "http" });
        let (host, port) = server_address(&timeline.host);
        self.some("server.address", host);
        port.into_iter().for_each(|port| self.number("server.port", port.into()));
        let direction = match timeline.direction {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        };
        self.text("pillion.direction", direction);
        self.some("pillion.service", &timeline.service);
    }

    fn status(&mut self, status: u16) {
        if status > 0 {
            self.number("http.response.status_code", status.into());
        }
    }

    fn of_rpc(&mut self, of: &Traced, grpc_status: Option<u8>) {
        if !of.is_grpc {
            return;
        }
        self.text("rpc.system", "grpc");
        if let Some((service, method)) = rpc(of) {
            self.text("rpc.service", service);
            self.text("rpc.method", method);
        }
        grpc_status.into_iter().for_each(|status| self.number("rpc.grpc.status_code", status.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_spans_are_few_whatever_clients_ask_for() {
        let mut names = Names::default();
        assert!(!names.admit("a.B/Typo", false) && names.admit("a.B/C", true));
        assert!(names.admit("a.B/C", false), "it is known");
        let admitted = (0..10_000).filter(|nth| names.admit(&format!("a.B/{nth}"), true)).count();
        assert_eq!(admitted, Names::MOST - 1);
        assert!(names.admit("a.B/C", true));
    }

    #[test]
    fn a_url_has_no_query_and_no_credentials() {
        for (host, path, is_tls, expected) in [
            ("orders:80", "/a/b", false, "http://orders:80/a/b"),
            ("orders", "/", true, "https://orders/"),
            ("[::1]:80", "/a?token=hunter2", false, "http://[::1]:80/a"),
            ("me:hunter2@orders", "/a#hunter2", false, "http://orders/a"),
            ("", "/a", false, ""),
            ("orders", "*", false, ""),
            ("orders:443", "", false, ""),
        ] {
            assert_eq!(url(host, path, is_tls), expected);
        }
    }
}
