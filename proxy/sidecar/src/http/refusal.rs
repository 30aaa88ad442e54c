//! Refuses requests that do not pass through a stack: answers, counts and logs them.
//!
//! These are requests with a head that is not HTTP/1, and plaintext requests where only mTLS is accepted. The head of
//! such a request is read leniently, for the access log alone: nothing is decided by it.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::Version;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

use super::answer;
use super::headers::{fresh_request_id, is_well_formed};
use super::linger::linger;
use crate::connection::Connection;
use crate::exchange::{ExchangeEnd, Facts, Upload, unmatched_service};
use crate::worker::Worker;
use pillion_base::net::Io;
use pillion_http::head::HeadLimits;
use pillion_http::message::Headers;
use pillion_http::seen::Seen;
use pillion_http1::{Fault, Fields, Value};
use pillion_model::Reason;
use pillion_telemetry::propagation::is_b3;
use pillion_telemetry::{MethodLabel, RequestLabels, RequestRecord, Symbol};

/// 4 KiB: how much of a head is kept for the access log. Nearly every head is smaller.
pub(super) const KEPT: usize = 4096;
/// 1 s for each of three steps: to read the rest of a head that is refused anyway, to write the answer, and to close.
/// That is enough, since clients send a head in one piece.
const PATIENCE: Duration = Duration::from_secs(1);
/// The error text for plaintext where mTLS is required.
pub const PLAINTEXT: &str =
    "the port accepts only mTLS (inbound.mtls is strict), and the client sent plaintext";
/// The error text for plaintext at a port with TLS for clients outside the mesh.
pub const NO_TLS: &str = "this port speaks TLS, and the client sent plaintext; write https:// in its place";
/// 16: the fields of all formats, and some of them twice. Beyond that a field is not kept.
const MOST_OF_TRACE: usize = 16;
/// 32 bytes: a longer word is not shown as a method.
const METHOD_BYTES: usize = 32;

/// What can be read of a head that may be malformed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Shown<'a> {
    method: &'a str,
    target: &'a [u8],
    host: &'a [u8],
    request_id: Option<&'a [u8]>,
    version: Version,
    /// The fields that tell of the caller's trace.
    trace: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> Shown<'a> {
    /// Reads complete lines only, because the last line may be cut.
    fn read(head: &'a [u8]) -> Self {
        let mut lines = head.split_inclusive(|byte| *byte == b'\n').filter_map(|line| {
            let line = line.strip_suffix(b"\n")?;
            Some(line.strip_suffix(b"\r").unwrap_or(line))
        });
        let first = lines.by_ref().find(|line| !line.is_empty()).unwrap_or_default();
        let mut shown = Self::of_first_line(first);
        let mut ids = 0;
        for line in lines.take_while(|line| !line.is_empty()) {
            let Some((name, value)) = split_at(line, b':') else { continue };
            let value = value.trim_ascii();
            if name.eq_ignore_ascii_case(b"host") {
                shown.host = value;
            } else if name.eq_ignore_ascii_case(b"x-request-id") {
                ids += 1;
                shown.request_id = Some(value).filter(|id| ids == 1 && is_well_formed(id));
            } else if is_of_trace(name) && shown.trace.len() < MOST_OF_TRACE {
                shown.trace.push((name, value));
            }
        }
        shown
    }

    /// The fields of the trace as a head of their own. What cannot be a field is left out.
    fn headers_of_trace(&self) -> Headers {
        let mut fields = Fields::default();
        for (name, value) in &self.trace {
            fields.append_named(name, value).unwrap_or_default();
        }
        Headers::Text(fields)
    }

    fn of_first_line(line: &'a [u8]) -> Self {
        let Some((method, rest)) = split_at(line, b' ') else { return Self::default() };
        let is_token = method.len() <= METHOD_BYTES && method.iter().all(u8::is_ascii_alphabetic);
        let method = std::str::from_utf8(method).ok().filter(|_| is_token);
        let Some(method) = method else { return Self::default() };
        let (target, version) = split_at(rest, b' ').unwrap_or((rest, b""));
        let version = if version == b"HTTP/1.0" { Version::HTTP_10 } else { Version::HTTP_11 };
        Self { method, target, version, ..Self::default() }
    }
}

fn is_of_trace(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"traceparent") || name.eq_ignore_ascii_case(b"tracestate") || is_b3(name)
}

fn split_at(line: &[u8], sign: u8) -> Option<(&[u8], &[u8])> {
    let at = line.iter().position(|byte| *byte == sign)?;
    Some((line.get(..at)?, line.get(at + 1..)?))
}

/// Why a request is refused.
struct Refusal {
    reason: Reason,
    /// The detail for the log. The caller gets it only if it is the sidecar's own application.
    detail: String,
}

/// Refuses a request whose head is not HTTP/1, or is too large: counts and logs it, and returns its answer.
pub(super) fn refuse_fault(fault: Fault, head: &[u8], connection: &Connection, worker: &Worker) -> Vec<u8> {
    let reason = match fault {
        Fault::LargeHead | Fault::ManyFields => Reason::HeadersTooLarge,
        Fault::UnknownCoding => Reason::UnsupportedCoding,
        _ => Reason::BadRequest,
    };
    let detail = explain(fault, connection.head_limits(&worker.limits()));
    refuse(&Refusal { reason, detail }, head, connection, worker)
}

/// The sentence for a fault. For a head that is too large it names the key and the limit that was exceeded.
fn explain(fault: Fault, HeadLimits { fields, bytes, .. }: HeadLimits) -> String {
    match fault {
        Fault::LargeHead => format!("the request's head is over {bytes} bytes (limits.header_bytes)"),
        Fault::ManyFields => {
            format!("the request has more than {fields} header fields (limits.header_count)")
        }
        _ => format!("the request cannot be forwarded: {fault}"),
    }
}

/// Refuses a request whose head was not complete in time. Returns its answer; `None` if only white space had come.
pub(super) fn refuse_late(head: &[u8], connection: &Connection, worker: &Worker) -> Option<Vec<u8>> {
    let has_begun = head.iter().any(|byte| !byte.is_ascii_whitespace());
    has_begun.then(|| refuse(&late(worker), head, connection, worker))
}

/// Counts and logs an HTTP/2 request whose head was not complete in time. An incomplete head of HTTP/2 cannot be read,
/// so there is no answer, and the connection ends.
pub fn note_late_http2(connection: &Connection, worker: &Worker) {
    note(&late(worker), &Shown { version: Version::HTTP_2, ..Shown::default() }, connection, worker);
}

fn late(worker: &Worker) -> Refusal {
    let most = worker.limits().header_timeout;
    let detail = format!("the request's head was not complete within {most:?} (limits.header_timeout)");
    Refusal { reason: Reason::RequestStalled, detail }
}

/// Refuses plaintext HTTP/1 where mTLS is required: reads the head for the access log, answers, and closes. Each step
/// takes at most [`PATIENCE`], and the head is not waited for after `until`.
///
/// `why` has the reason and the detail for the log.
pub async fn refuse_plaintext(
    mut io: Io,
    (reason, detail): (Reason, &str),
    connection: &Connection,
    worker: &Worker,
    until: Instant,
) {
    let head = read_head(&mut io, until.min(Instant::now() + PATIENCE)).await;
    let answer = refuse(&Refusal { reason, detail: detail.to_owned() }, &head, connection, worker);
    if let Ok(Ok(())) = timeout(PATIENCE, io.write_all(&answer)).await {
        drop(timeout(PATIENCE, linger(io, &connection.place.work)).await);
    }
}

/// Counts and logs plaintext HTTP/2 where mTLS is required. The connection is closed without an answer, since a client
/// of HTTP/2 reads none before its SETTINGS frame is answered.
pub fn note_http2_plaintext((reason, detail): (Reason, &str), connection: &Connection, worker: &Worker) {
    let refusal = Refusal { reason, detail: detail.to_owned() };
    note(&refusal, &Shown { version: Version::HTTP_2, ..Shown::default() }, connection, worker);
    tracing::debug!(from = %connection.downstream, "inbound connection closed: {detail}");
}

/// Counts and logs a request whose connection is closed because incomplete heads have reached their memory limit and
/// this one is the oldest. There is no answer, because the request is not complete. `head`: the bytes that have come.
pub fn note_given_up(head: &[u8], version: Version, connection: &Connection, worker: &Worker) {
    let detail = "the limit of memory for incomplete heads is reached, and this one is the oldest";
    let (reason, detail) = (Reason::Overloaded, detail.to_owned());
    let refusal = Refusal { reason, detail };
    note(&refusal, &Shown { version, ..Shown::read(head) }, connection, worker);
}

/// Reads a head until it is complete, has [`KEPT`] bytes, or is late. Returns what has come.
async fn read_head(io: &mut Io, until: Instant) -> Vec<u8> {
    let mut head = Vec::with_capacity(KEPT);
    let whole = async {
        while head.len() < KEPT && !is_whole(&head) {
            let mut rest = (&mut *io).take((KEPT - head.len()) as u64);
            if !matches!(rest.read_buf(&mut head).await, Ok(1..)) {
                return;
            }
        }
    };
    drop(timeout_at(until, whole).await);
    head
}

fn is_whole(head: &[u8]) -> bool {
    head.windows(4).any(|end| end == b"\r\n\r\n") || head.windows(2).any(|end| end == b"\n\n")
}

/// Counts a request that does not pass through a stack, and writes its access line. Returns the bytes of its HTTP/1
/// answer, after which the connection closes.
fn refuse(refusal: &Refusal, head: &[u8], connection: &Connection, worker: &Worker) -> Vec<u8> {
    let request_id = note(refusal, &Shown::read(head), connection, worker);
    answer::written((refusal.reason, &refusal.detail), connection, &request_id)
}

/// Counts a request that does not pass through a stack, and writes its access line. Returns the request's own ID, or a
/// new one.
fn note(refusal: &Refusal, shown: &Shown<'_>, connection: &Connection, worker: &Worker) -> Value {
    let request_id = shown.request_id.and_then(|id| Value::of_text(id).ok());
    let request_id = request_id.unwrap_or_else(|| fresh_request_id(&mut worker.ground.rng.lock()));
    count(refusal, shown, connection, worker);
    log(refusal, shown, &request_id, connection, worker);
    request_id
}

fn count(refusal: &Refusal, shown: &Shown<'_>, connection: &Connection, worker: &Worker) {
    let method = http::Method::from_bytes(shown.method.as_bytes());
    worker.recorder.lock().count(RequestLabels {
        direction: connection.direction,
        service: unmatched_service(connection.direction),
        route: Symbol::EMPTY,
        method: method.map_or(MethodLabel::Other, |method| (&method).into()),
        status: refusal.reason.status(),
        grpc_status: None,
        reason: Some(refusal.reason),
        peer: connection.peer_label,
    });
}

fn log(refusal: &Refusal, shown: &Shown<'_>, request_id: &Value, connection: &Connection, worker: &Worker) {
    let trace = worker.traces.is_on().then(|| shown.headers_of_trace());
    let trace = trace.and_then(|headers| {
        worker.traces.begin(&headers, Seen::of(&headers), || worker.ground.rng.lock().u64(..))
    });
    let is_traced = trace.as_ref().is_some_and(|trace| trace.context.is_sampled);
    let wanted = worker.wanted(true, Duration::ZERO, is_traced);
    if wanted.by_nobody() {
        return;
    }
    let facts = Facts {
        reason: Some(refusal.reason),
        detail: Some(refusal.detail.as_str().into()),
        ..Facts::default()
    };
    let request = RequestRecord {
        method: shown.method,
        path: shown.target,
        host: shown.host,
        request_id: request_id.as_bytes(),
        status: refusal.reason.status(),
        trace: trace.as_ref().map(|trace| trace.context.trace),
        ..RequestRecord::default()
    };
    let protocol = pillion_telemetry::access::protocol_name(shown.version);
    let now = Instant::now();
    let ended = ExchangeEnd {
        protocol,
        request,
        bytes: (0, 0),
        started: now,
        ended: now,
        upload: Upload::default(),
        is_first: connection.requests.load(Relaxed) == 0,
        authorizer: None,
        delayed_until: None,
        headers: None,
        trace: trace.as_ref(),
        is_grpc: false,
    };
    facts.record(&ended, connection, worker, wanted);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn c19_the_log_shows_what_can_be_read_of_a_refused_head() {
        let shown = |method, target, host, request_id: &'static str| Shown {
            method,
            target,
            host,
            request_id: Some(request_id.as_bytes()).filter(|id| !id.is_empty()),
            version: Version::HTTP_11,
            trace: Vec::new(),
        };
        for (head, expected) in [
            ("GET /a HTTP/1.1\r\nHost: h\r\nX-Request-Id: abc\r\n\r\n", shown("GET", b"/a", b"h", "abc")),
            ("\r\nGET /a HTTP/1.1\nx-request-id:abc\nhost: h\n\n", shown("GET", b"/a", b"h", "abc")),
            ("GET /a\r\nnonsense\r\nx-request-id: abc\r\n", shown("GET", b"/a", b"", "abc")),
            ("G<T /a HTTP/1.1\r\nx-request-id: abc\r\n", shown("", b"", b"", "abc")),
            ("GET /a HTTP/1.1\r\nx-request-id: two words\r\n", shown("GET", b"/a", b"", "")),
            ("GET /a HTTP/1.1\r\nx-request-id: a\r\nx-request-id: b\r\n", shown("GET", b"/a", b"", "")),
            ("GET /a HTTP/1.1\r\nx-request-id: may be cu", shown("GET", b"/a", b"", "")),
            ("GET /a HTTP/1.1\r\n\r\nx-request-id: of-a-body\r\n", shown("GET", b"/a", b"", "")),
            ("\x16\x03\x01", shown("", b"", b"", "")),
        ] {
            assert_eq!(Shown::read(head.as_bytes()), expected, "{head}");
        }
    }

    #[test]
    fn the_fields_of_a_trace_are_kept_and_no_others() {
        let head =
            "GET /a HTTP/1.1\r\nTraceparent: 00-1\r\nauthorization: x\r\nB3: 0\r\ntraceparent: 00-2\r\n\r\n";
        let shown = Shown::read(head.as_bytes());
        let expected: [(&[u8], &[u8]); 3] =
            [(b"Traceparent", b"00-1"), (b"B3", b"0"), (b"traceparent", b"00-2")];
        assert_eq!(shown.trace, expected);
        let headers = shown.headers_of_trace();
        assert!(Seen::of(&headers).has(Seen::TRACEPARENT));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "b3: 0\r\n".repeat(100));
        assert_eq!(Shown::read(many.as_bytes()).trace.len(), MOST_OF_TRACE);
    }

    proptest! {
        #[test]
        fn c19_any_bytes_are_shown_without_a_panic(head: Vec<u8>) {
            let shown = Shown::read(&head);
            prop_assert!(shown.request_id.is_none_or(is_well_formed));
        }
    }
}
