//! Each CODE of the public interface, caused in a real sidecar: what the client gets, the access line, the metric, the stored
//! timeline and the trace's span say the same, and the sentence names the thing and the next step.
//!
//! [`scenes`] is the table; [`walk`] looks at all faces of one scene. A new CODE without a scene does not compile.

mod client;
mod sidecar;
mod upstream;

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

use super::logged;
use super::mesh::{self, Mesh, Pair, Sidecar, secs, settle};
use super::timelines::{assert_adds_up, page, stages};
use super::traces::collector::{Export, attribute};
use crate::traces::messages::{Kind, Span, StatusCode};
use client::{Answer, Form, Heard, ID};
use pillion_model::Reason;
use pillion_tls::identity::credentials::Credentials;
use pillion_tls::identity::issue::Ca;

/// All CODEs in the order of the model, the last of which tells how many there are.
const ALL: [Reason; Reason::ClientGone as usize + 1] = [
    Reason::NoRoute,
    Reason::EgressDenied,
    Reason::NoEndpoints,
    Reason::AllUnhealthy,
    Reason::ConnectRefused,
    Reason::ConnectTimeout,
    Reason::DnsError,
    Reason::TlsError,
    Reason::PeerIdentityMismatch,
    Reason::UpstreamReset,
    Reason::UpstreamClosed,
    Reason::ProtocolError,
    Reason::UpgradeFailed,
    Reason::RequestTimeout,
    Reason::PerTryTimeout,
    Reason::StreamIdleTimeout,
    Reason::MaxDuration,
    Reason::LimitPending,
    Reason::LimitRequests,
    Reason::Overloaded,
    Reason::RateLimited,
    Reason::FaultInjected,
    Reason::MtlsRequired,
    Reason::AuthzDenied,
    Reason::JwtInvalid,
    Reason::AuthzUnavailable,
    Reason::BadRequest,
    Reason::UnsupportedCoding,
    Reason::HeadersTooLarge,
    Reason::BodyTooLarge,
    Reason::RequestStalled,
    Reason::LoopDetected,
    Reason::Draining,
    Reason::InternalError,
    Reason::ClientGone,
];

/// How each CODE comes about, and the words that its sentence must have.
fn scenes(of: Reason) -> Vec<Scene> {
    match of {
        Reason::NoRoute => [
            both(sidecar::unknown_host, &["\"nobody.example\"", "see `hosts` in `services`"]),
            both(sidecar::no_application, &["no application", "set `inbound.app`"]),
        ]
        .concat(),
        Reason::EgressDenied => {
            both(sidecar::unknown_denied, &["\"example.org\"", "`outbound.unknown` is deny"])
        }
        Reason::NoEndpoints => both(upstream::no_endpoints, &["\"orders\"", "see /clusters"]),
        Reason::AllUnhealthy => {
            both(upstream::unhealthy, &["\"orders\"", "all 1 endpoints", "health check", "see /clusters"])
        }
        Reason::ConnectRefused => [
            both(upstream::refused, &["10.0.0.1:80 of \"orders\"", "is anything listening there?"]),
            both(upstream::application_refused, &["10.0.0.1:80 of \"app\"", "is anything listening there?"]),
        ]
        .concat(),
        Reason::ConnectTimeout => {
            both(upstream::connect_timeout, &["10.0.0.1:80 of \"orders\"", "700ms", "connect_timeout"])
        }
        Reason::DnsError => [
            both(upstream::unresolved_service, &["\"orders\"", "no such name", "see /clusters"]),
            vec![http(sidecar::unresolved_host, &["\"nobody.example\"", "check the name"])],
        ]
        .concat(),
        Reason::TlsError => {
            both(upstream::certificate_refused, &["10.1.0.1:15006 of \"orders\"", "expired", "check"])
        }
        Reason::PeerIdentityMismatch => both(
            upstream::another_server,
            &["10.1.0.1:15006 of \"orders\"", "spiffe://cluster.local/ns/default/sa/orders", "sa/billing"],
        ),
        Reason::UpstreamReset => both(upstream::reset, &["10.0.0.1:80 of \"orders\"", "its own log"]),
        Reason::UpstreamClosed => [
            both(upstream::closed, &["10.0.0.1:80 of \"orders\"", "its own log"]),
            cut(upstream::closed_amid_its_answer, &["10.0.0.1:80 of \"orders\"", "its own log"]),
        ]
        .concat(),
        Reason::ProtocolError => both(upstream::no_http, &["10.0.0.1:80 of \"orders\"", "`protocol`"]),
        Reason::UpgradeFailed => vec![
            http(upstream::switched_unasked, &["10.0.0.1:80 of \"orders\"", "`protocol`"]),
            http(upstream::switched_to_another, &["10.0.0.1:80 of \"orders\"", "`protocol`"]),
        ],
        Reason::RequestTimeout => [
            both(upstream::late, &["\"orders\"", "3s (timeout"]),
            vec![grpc(upstream::later_than_the_caller_waits, &["\"orders\"", "grpc-timeout"])],
        ]
        .concat(),
        Reason::PerTryTimeout => both(upstream::late_try, &["\"orders\"", "2s (retry.per_try_timeout)"]),
        Reason::StreamIdleTimeout => [
            vec![http(upstream::unread_upload, &["\"orders\"", "20s (stream_idle_timeout)"])],
            cut(upstream::pause_in_an_answer, &["10.0.0.1:80 of \"orders\"", "20s (stream_idle_timeout)"]),
        ]
        .concat(),
        Reason::MaxDuration => [
            both(upstream::too_long, &["\"orders\"", "20s (max_duration)"]),
            cut(upstream::too_long_an_answer, &["10.0.0.1:80 of \"orders\"", "20s (max_duration)"]),
        ]
        .concat(),
        Reason::LimitPending => {
            both(upstream::too_many_wait, &["\"orders\"", "circuit_breaker.max_pending_requests is 1"])
        }
        Reason::LimitRequests => both(upstream::too_many, &["\"orders\"", "max_requests is 1"]),
        Reason::Overloaded => vec![
            http(sidecar::full_memory, &["the client's requests", "of 1048576", "memory limit"]),
            grpc(sidecar::full_memory, &["the client's requests", "of 1048576", "memory limit"])
                .ends(Ends::Unanswered),
        ],
        Reason::RateLimited => [
            second(sidecar::rate_limited_route, &["the route \"few\"", "1 requests in 60s", "rate_limit"]),
            second(
                sidecar::rate_limited_application,
                &["the application", "1 requests in 60s", "rate_limit"],
            ),
        ]
        .concat(),
        Reason::FaultInjected => {
            const NAMED: &[&str] = &["the route \"broken\"", "`fault.abort`"];
            const NAMELESS: &[&str] = &["a route to \"orders\"", "`fault.abort`"];
            vec![
                http(sidecar::injected, NAMED).status(418),
                grpc(sidecar::injected, NAMED),
                http(sidecar::injected_not_found, NAMELESS).status(404),
                grpc(sidecar::injected_not_found, NAMELESS).grpc_status(5),
            ]
        }
        Reason::MtlsRequired => [
            vec![http(sidecar::plaintext, &["inbound.mtls is strict", "plaintext"])],
            second(sidecar::plaintext_of_before, &["inbound.mtls became strict", "connect again with TLS"]),
        ]
        .concat(),
        Reason::AuthzDenied => [
            both(sidecar::denied_by_rule, &["\"no-lists\"", "inbound.authorization"]),
            both(sidecar::denied_by_default, &["default is deny", "inbound.authorization"]),
            vec![
                http(sidecar::denied_outside, &["http://10.0.0.9:9191", "451"])
                    .status(451)
                    .has_another_body(),
                grpc(sidecar::denied_outside, &["http://10.0.0.9:9191", "451"]).grpc_status(2),
            ],
        ]
        .concat(),
        Reason::JwtInvalid => [
            both(sidecar::no_token, &["no token in its header `authorization`", "inbound.authorization.jwt"]),
            both(sidecar::bad_token, &["three parts of base64url", "inbound.authorization.jwt"]),
        ]
        .concat(),
        Reason::AuthzUnavailable => {
            both(sidecar::no_authorizer, &["http://10.0.0.9:9191", "refused", "ext_authz.on_error is deny"])
        }
        Reason::BadRequest => [
            vec![http(sidecar::no_colon, &["cannot be forwarded", "RFC 9112"])],
            both(sidecar::ambiguous_path, &["authorization judges paths"]),
        ]
        .concat(),
        Reason::UnsupportedCoding => {
            vec![http(sidecar::unknown_coding, &["cannot be forwarded", "RFC 9112"])]
        }
        Reason::HeadersTooLarge => both(sidecar::many_fields, &["more than 100", "limits.header_count"]),
        Reason::BodyTooLarge => both(sidecar::large_body, &["over 8 bytes", "inbound.max_body"]),
        Reason::RequestStalled => [
            both(sidecar::stalled_body, &["\"orders\"", "20s (stream_idle_timeout)"]),
            vec![http(sidecar::stalled_head, &["7s (limits.header_timeout)"])],
        ]
        .concat(),
        Reason::LoopDetected => {
            second(sidecar::looped, &["2 times (limits.via_passes is 1)", "x-pillion-via"])
        }
        Reason::Draining => vec![
            http(sidecar::draining, &["will stop soon", "drain.delay", "another replica"]),
            grpc(sidecar::draining, &["will stop soon", "drain.delay", "another replica"]).after(1),
        ],
        Reason::InternalError => both(sidecar::panics, &["a bug in the sidecar", "its log has the panic"]),
        Reason::ClientGone => [
            unanswered(
                upstream::left_amid_its_request,
                &["amid its request to \"orders\"", "its own timeout"],
            ),
            unanswered(upstream::given_up, &["10.0.0.1:80 of \"orders\"", "its own timeout"]),
            cut(upstream::left_amid_the_answer, &["10.0.0.1:80 of \"orders\"", "its own timeout"]),
        ]
        .concat(),
    }
}

type Play = Arc<dyn Fn(Stage) -> Pin<Box<dyn Future<Output = Shown>>> + Send + Sync>;

/// One way in which a CODE comes about.
#[derive(Clone)]
struct Scene {
    play: Play,
    form: Form,
    names: &'static [&'static str],
    ends: Ends,
    /// The status that is sent, where it is not the CODE's own.
    status: Option<u16>,
    grpc_status: Option<u8>,
    /// How many other requests end in the scene.
    others: u64,
    has_another_body: bool,
}

/// What the client gets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// An answer of the sidecar.
    Answered,
    /// The beginning of an answer of the endpoint.
    Cut,
    Unanswered,
}

fn scene<F: Future<Output = Shown> + 'static>(
    play: fn(Stage, Form) -> F,
    form: Form,
    names: &'static [&'static str],
) -> Scene {
    Scene {
        play: Arc::new(move |stage| Box::pin(play(stage, form))),
        form,
        names,
        ends: Ends::Answered,
        status: None,
        grpc_status: None,
        others: 0,
        has_another_body: false,
    }
}

fn http<F: Future<Output = Shown> + 'static>(
    play: fn(Stage, Form) -> F,
    names: &'static [&'static str],
) -> Scene {
    scene(play, Form::Http, names)
}

fn grpc<F: Future<Output = Shown> + 'static>(
    play: fn(Stage, Form) -> F,
    names: &'static [&'static str],
) -> Scene {
    scene(play, Form::Grpc, names)
}

fn both<F: Future<Output = Shown> + 'static>(
    play: fn(Stage, Form) -> F,
    names: &'static [&'static str],
) -> Vec<Scene> {
    vec![http(play, names), grpc(play, names)]
}

/// A request whose answer began and was cut.
fn cut<F: Future<Output = Shown> + 'static>(
    play: fn(Stage, Form) -> F,
    names: &'static [&'static str],
) -> Vec<Scene> {
    both(play, names).into_iter().map(|scene| scene.ends(Ends::Cut)).collect()
}

fn unanswered<F: Future<Output = Shown> + 'static>(
    play: fn(Stage, Form) -> F,
    names: &'static [&'static str],
) -> Vec<Scene> {
    both(play, names).into_iter().map(|scene| scene.ends(Ends::Unanswered)).collect()
}

/// A request after another one, which ended well.
fn second<F: Future<Output = Shown> + 'static>(
    play: fn(Stage, Form) -> F,
    names: &'static [&'static str],
) -> Vec<Scene> {
    both(play, names).into_iter().map(|scene| scene.after(1)).collect()
}

impl Scene {
    fn ends(self, ends: Ends) -> Self {
        let status = if ends == Ends::Cut { Some(200) } else { self.status };
        Self { ends, status, ..self }
    }

    /// Other requests ended before.
    fn after(self, others: u64) -> Self {
        Self { others, ..self }
    }

    fn status(self, status: u16) -> Self {
        Self { status: Some(status), ..self }
    }

    fn grpc_status(self, status: u8) -> Self {
        Self { grpc_status: Some(status), ..self }
    }

    /// The content of the answer is not the sidecar's own.
    fn has_another_body(self) -> Self {
        Self { has_another_body: true, ..self }
    }

    /// The HTTP status and the gRPC status of this CODE's request, in each face.
    fn statuses(&self, reason: Reason) -> (u16, Option<u8>) {
        let grpc_status = self.grpc_status.unwrap_or_else(|| reason.grpc_status());
        match (self.form, self.ends) {
            _ if reason == Reason::ClientGone => (self.status.unwrap_or_else(|| reason.status()), None),
            (Form::Http, _) => (self.status.unwrap_or_else(|| reason.status()), None),
            (Form::Grpc, Ends::Cut) => (200, None),
            (Form::Grpc, _) => (200, Some(grpc_status)),
        }
    }
}

/// Where a scene plays.
struct Stage {
    mesh: Mesh,
    /// The blocks with which the sidecar that is looked at writes an access log and traces.
    log: String,
}

impl Stage {
    /// The caller's sidecar, with one service called `orders`.
    fn caller(&self, orders: &str) -> Sidecar {
        self.sidecar(&mesh::caller(orders), None)
    }

    /// The application's sidecar.
    fn application(&self, inbound: &str) -> Sidecar {
        self.sidecar(&mesh::application(inbound), None)
    }

    fn sidecar(&self, yaml: &str, own: Option<Credentials>) -> Sidecar {
        self.mesh.sidecar(&(yaml.to_owned() + &self.log), own)
    }

    /// An authority for sidecars that speak mTLS on this network.
    fn pair(&self) -> Pair {
        Pair { mesh: self.mesh.clone(), ca: Ca::generate("cluster.local").expect("a CA") }
    }

    fn shown(self, sidecar: Sidecar, heard: Heard) -> Shown {
        Shown { mesh: self.mesh, sidecar, heard, _kept: Box::new(()) }
    }
}

/// The end of a scene.
struct Shown {
    mesh: Mesh,
    sidecar: Sidecar,
    heard: Heard,
    /// What must live until everything is looked at.
    _kept: Box<dyn Any>,
}

impl Shown {
    fn keeping(self, kept: impl Any) -> Self {
        Self { _kept: Box::new(kept), ..self }
    }
}

#[test]
fn each_code_is_told_alike_in_answer_access_line_metric_timeline_and_span() {
    let mut failed = Vec::new();
    for (nth, reason) in ALL.into_iter().enumerate() {
        assert_eq!(reason as usize, nth, "{reason:?} has another place in the model");
        for (number, scene) in scenes(reason).into_iter().enumerate() {
            let name = format!("{} {number} {:?}", reason.code(), scene.form);
            if catch_unwind(AssertUnwindSafe(|| walk(reason, &scene, &name))).is_err() {
                failed.push(name);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// Plays a scene and looks at every face of its request.
fn walk(reason: Reason, scene: &Scene, name: &str) {
    let told = Arc::new(Mutex::new(None));
    let (play, shared) = (scene.play.clone(), told.clone());
    let lines = logged::lines(move |log| async move {
        let mesh = Mesh::default();
        let mut exports = mesh.good_collector(COLLECTOR);
        let log = format!("{log}tracing: {{ otlp: \"http://{COLLECTOR}\", sample: 100% }}\n");
        let shown = play(Stage { mesh, log }).await;
        settle().await;
        let metrics = shown.sidecar.metrics.encode();
        let timeline = page(&shown.sidecar, &shown.mesh, &format!("/requests/{ID}")).await;
        *shared.lock() = Some((shown.heard, metrics, timeline, span(&mut exports).await));
    });
    let (heard, metrics, timeline, span) = told.lock().take().expect("a scene that was played");
    let lines: Vec<&Value> = lines.iter().filter(|line| line["request_id"] == ID).collect();
    assert_eq!(lines.len(), 1, "{name}: {lines:#?}");
    let faces = Faces { reason, scene, name, line: lines[0], timeline: &timeline };
    faces.look_at_line();
    faces.look_at_metric(&metrics);
    faces.look_at_timeline();
    faces.look_at_span(&span);
    faces.look_at_client(&heard);
}

const COLLECTOR: &str = "10.0.0.8:4318";

/// The span of the request itself.
async fn span(exports: &mut UnboundedReceiver<Export>) -> Span {
    let is_it = |span: &Span| {
        span.kind == Kind::Server as i32 && attribute(span, "pillion.request_id").as_deref() == Some(ID)
    };
    loop {
        let export = timeout(secs(60), exports.recv()).await.expect("an export in time");
        if let Some(span) = export.expect("the collector runs").spans().into_iter().find(is_it) {
            return span;
        }
    }
}

/// One request, as it is told everywhere.
struct Faces<'a> {
    reason: Reason,
    scene: &'a Scene,
    name: &'a str,
    line: &'a Value,
    timeline: &'a Value,
}

impl Faces<'_> {
    fn detail(&self) -> &str {
        self.line["detail"].as_str().unwrap_or_default()
    }

    /// Whether the client is the sidecar's own application, which alone gets the sentence.
    fn is_own(&self) -> bool {
        self.line["direction"] == "outbound"
    }

    /// CODE and sentence, or the CODE alone for a remote peer.
    fn told(&self) -> String {
        match self.is_own() {
            true => format!("{}: {}", self.reason.code(), self.detail()),
            false => self.reason.code().to_owned(),
        }
    }

    fn look_at_line(&self) {
        let (Self { name, line, .. }, (status, grpc)) = (self, self.scene.statuses(self.reason));
        assert_eq!(line["reason"], self.reason.code(), "{name}: {line:#}");
        assert_eq!(line["status"], status, "{name}: {line:#}");
        assert_eq!(line["grpc_status"], Value::from(grpc), "{name}: {line:#}");
        assert_eq!(line["reason_of"], Value::Null, "{name}: {line:#}");
        for word in self.scene.names {
            assert!(self.detail().contains(word), "{name}: {word} is not in: {}", self.detail());
        }
    }

    /// Exactly this request is counted, and under nothing else.
    fn look_at_metric(&self, metrics: &str) {
        let (status, grpc) = self.scene.statuses(self.reason);
        let text = |of: &Value| of.as_str().unwrap_or_default().to_owned();
        let labels = [
            ("direction", text(&self.line["direction"])),
            ("service", text(&self.line["service"])),
            ("route", text(&self.line["route"])),
            ("status", status.to_string()),
            ("grpc_status", grpc.map_or_else(String::new, |status| status.to_string())),
            ("reason", self.reason.code().to_owned()),
        ];
        let labels = labels.map(|(name, value)| format!("{name}=\"{value}\""));
        let all: Vec<&str> =
            metrics.lines().filter(|line| line.starts_with("pillion_requests_total{")).collect();
        let sum = |wanted: &[String]| -> u64 {
            let has = |line: &&&str| {
                wanted
                    .iter()
                    .all(|label| line.contains(&format!("{{{label}")) || line.contains(&format!(",{label}")))
            };
            let value = |line: &&str| line.rsplit(' ').next().and_then(|value| value.parse::<u64>().ok());
            all.iter().filter(has).filter_map(value).sum()
        };
        assert_eq!(sum(&labels), 1, "{}: {labels:?} in {all:#?}", self.name);
        assert_eq!(sum(&labels[5..]), 1, "{}: {all:#?}", self.name);
        assert_eq!(sum(&[]), 1 + self.scene.others, "{}: {all:#?}", self.name);
    }

    fn look_at_timeline(&self) {
        let Self { name, line, timeline, .. } = self;
        for key in [
            "direction",
            "service",
            "route",
            "method",
            "host",
            "status",
            "grpc_status",
            "reason",
            "detail",
            "peer",
            "authorization",
            "rule",
        ] {
            assert_eq!(timeline[key], line[key], "{name}: {key} of {timeline:#}");
        }
        let is_decided = line["authorization"] == "denied";
        assert_eq!(is_decided, line["rule"].is_string(), "{name}: {line:#}");
        assert_eq!(timeline["others"], 0, "{name}: {timeline:#}");
        let took = timeline["duration_ms"].as_f64().expect("a time") * 1000.0;
        let logged = line["duration_us"].as_f64().expect("a time");
        assert!((took - logged).abs() < 1.0, "{name}: {logged} µs in the log, {timeline:#}");
        assert_adds_up(timeline);
        let stages = stages(timeline);
        assert_eq!(stages.last(), Some(&("end", self.reason.code())), "{name}: {timeline:#}");
        let end = timeline["stages"].as_array().and_then(|stages| stages.last()).expect("an end");
        assert_eq!(end["detail"], line["detail"], "{name}: {timeline:#}");
        let shows = |(stage, outcome): &(&str, &str)| *stage != "end" && *outcome == self.reason.code();
        assert!(is_decided || stages.iter().any(shows), "{name}: no stage ended so: {timeline:#}");
    }

    fn look_at_span(&self, span: &Span) {
        let (Self { name, line, .. }, (status, grpc)) = (self, self.scene.statuses(self.reason));
        assert_eq!(attribute(span, "error.type").as_deref(), Some(self.reason.code()), "{name}: {span:#?}");
        assert_eq!(attribute(span, "pillion.direction").as_deref(), line["direction"].as_str(), "{name}");
        let told = attribute(span, "http.response.status_code");
        assert_eq!(told, Some(status.to_string()), "{name}: {span:#?}");
        let told = attribute(span, "rpc.grpc.status_code");
        assert_eq!(told, grpc.map(|status| status.to_string()), "{name}: {span:#?}");
        let failed = span.status.as_ref().map(|status| (status.code, &*status.message));
        let expected = (StatusCode::Error as i32, self.detail());
        let is_failure = self.reason != Reason::ClientGone;
        assert_eq!(failed, is_failure.then_some(expected), "{name}: {span:#?}");
    }

    fn look_at_client(&self, heard: &Heard) {
        match (self.scene.ends, heard) {
            (Ends::Answered, Heard::Answer(answer)) => self.look_at_answer(answer),
            (Ends::Cut, Heard::Cut(status)) => assert_eq!(self.line["status"], *status, "{}", self.name),
            (Ends::Unanswered, Heard::Nothing) => {}
            _ => unreachable!("{}: the client got {heard:?}", self.name),
        }
    }

    fn look_at_answer(&self, answer: &Answer) {
        let (name, told) = (self.name, self.told());
        let escaped = told.replace('\\', "\\\\").replace('"', "\\\"");
        let expected = format!("pillion; error={}; details=\"{escaped}\"", self.reason.error_type());
        assert_eq!(answer.field("proxy-status"), Some(&*expected), "{name}: {answer:?}");
        assert_eq!(answer.field("x-request-id"), Some(ID), "{name}: {answer:?}");
        let further = match self.reason {
            Reason::RateLimited => Some("retry-after"),
            Reason::JwtInvalid => Some("www-authenticate"),
            _ => None,
        };
        assert!(further.is_none_or(|field| answer.field(field).is_some()), "{name}: {answer:?}");
        match self.scene.form {
            Form::Http => self.look_at_plain_answer(answer, &told),
            Form::Grpc => self.look_at_trailers(answer, &told),
        }
    }

    fn look_at_plain_answer(&self, answer: &Answer, told: &str) {
        assert_eq!(self.line["status"], answer.status, "{}: {answer:?}", self.name);
        assert_eq!(answer.field("grpc-status"), None, "{}: {answer:?}", self.name);
        if !self.scene.has_another_body {
            assert_eq!(answer.body, format!("pillion: {told}\n"), "{}", self.name);
            let content = answer.field("content-type").unwrap_or_default();
            assert!(content.starts_with("text/plain"), "{}: {answer:?}", self.name);
        }
    }

    /// An answer of trailers alone.
    fn look_at_trailers(&self, answer: &Answer, told: &str) {
        let name = self.name;
        assert_eq!(
            (answer.status, &*answer.body, answer.has_trailers),
            (200, "", false),
            "{name}: {answer:?}"
        );
        assert_eq!(answer.field("content-type"), Some("application/grpc"), "{name}: {answer:?}");
        let status = answer.field("grpc-status").and_then(|status| status.parse().ok());
        assert_eq!(self.line["grpc_status"], Value::from(status.unwrap_or(u8::MAX)), "{name}: {answer:?}");
        assert_eq!(answer.grpc_message().as_deref(), Some(&*format!("pillion: {told}")), "{name}");
    }
}
