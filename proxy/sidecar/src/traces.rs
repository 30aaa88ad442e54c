//! The traces of requests: whether there are any, the trace of each request, and the queue of the traced requests that have
//! ended.
//!
//! A worker never waits for the collector: the queue is bounded, and what does not fit is counted and left out. The exporter,
//! beside the data path, makes spans of what it takes from the queue.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use pillion_http::message::Headers;
use pillion_http::seen::Seen;
use pillion_http1::Known;
use pillion_model::tracing::Tracing;
use pillion_model::{Reason, Workload};
use pillion_telemetry::family::IntCounter;
use pillion_telemetry::propagation::{
    self, B3, B3_FLAGS, B3_SAMPLED, B3_SPAN, B3_TRACE, B3Fields, Caller, Formats, Sampler, TraceContext, b3,
    b3_multi, is_b3, is_tracestate, traceparent,
};
use pillion_telemetry::timeline::{StageOutcome, Timeline};
use pillion_telemetry::{Metrics, SpanOutcome};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// 2,048: the most spans that wait for the exporter, some seconds of a busy sidecar. They take about 2 MiB.
pub const MOST_WAITING: usize = 2048;
/// There are traces, even if no header is read or written.
const ON: u8 = 1 << 7;
/// 1 KiB: a longer `tracestate` is passed on, and is left out of spans.
const STATE_BYTES: usize = 1024;

/// The traces of a sidecar. All workers share them.
pub struct Traces {
    /// What each request needs of the settings. It costs less than the settings themselves.
    quick: Quick,
    settings: ArcSwapOption<Settings>,
    queue: mpsc::Sender<Box<Traced>>,
    /// The other end, until the exporter takes it.
    unread: Mutex<Option<mpsc::Receiver<Box<Traced>>>>,
    /// The spans of the requests in the queue.
    waiting: AtomicUsize,
    closing: watch::Sender<bool>,
    closed: watch::Sender<bool>,
}

/// What a configuration says of traces.
pub struct Settings {
    pub of: Tracing,
    /// Whose spans these are.
    pub workload: Workload,
    dropped: IntCounter,
}

/// The formats and the sampler of the settings. While a reload changes both, a request may see one of them new and the
/// other one old, which does no harm.
#[derive(Default)]
struct Quick {
    /// The bits of the formats, and [`ON`]. Zero: there are no traces.
    formats: AtomicU8,
    /// The bits of the sampler.
    sampler: AtomicU64,
}

/// The trace of one request.
#[derive(Debug, Clone)]
pub struct Trace {
    pub context: TraceContext,
    /// `tracestate` of a request that is recorded.
    pub state: Option<Box<str>>,
    /// The `tracestate` of the request belongs to this trace and is well formed.
    keeps_state: bool,
}

/// A traced request that has ended: what its spans are made of.
#[derive(Debug)]
pub struct Traced {
    pub timeline: Arc<Timeline>,
    pub context: TraceContext,
    pub state: Option<Box<str>>,
    pub is_grpc: bool,
    /// The client's connection is TLS.
    pub is_tls: bool,
    /// The connections to the endpoints are TLS.
    pub is_tls_upstream: bool,
    /// The attempts that had an endpoint, in the order in which they began.
    pub tries: Vec<Try>,
}

/// One attempt of a traced request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Try {
    /// By which its span has its ID ([`TraceContext::attempt`]).
    pub number: u32,
    /// By which the stages of the timeline name it.
    pub stage: u32,
    pub endpoint: SocketAddr,
    /// When it began, after the beginning of the request.
    pub at: Duration,
    pub took: Duration,
    pub outcome: StageOutcome,
    /// Why its answer, which the client got, broke off before its end.
    pub cut: Option<Reason>,
    /// The status of gRPC in the head of its answer.
    pub grpc_status: Option<u8>,
    /// Whether its head was sent to the endpoint.
    pub is_sent: bool,
    /// Whether another attempt, made beside it, gave the answer.
    pub is_lost: bool,
    /// Whether the request ended as this attempt did: the answer that the client got is its answer.
    pub is_last: bool,
}

impl Traced {
    /// How many spans it has.
    pub const fn spans(&self) -> usize {
        1 + self.tries.len()
    }
}

/// The end of the queue that the exporter reads.
pub struct TraceQueue {
    requests: mpsc::Receiver<Box<Traced>>,
    of: Arc<Traces>,
}

impl Default for Traces {
    fn default() -> Self {
        let (queue, unread) = mpsc::channel(MOST_WAITING);
        Self {
            quick: Quick::default(),
            settings: ArcSwapOption::empty(),
            queue,
            unread: Mutex::new(Some(unread)),
            waiting: AtomicUsize::new(0),
            closing: watch::Sender::new(false),
            closed: watch::Sender::new(false),
        }
    }
}

impl Traces {
    /// Applies a configuration.
    pub fn follow(&self, of: Option<&Tracing>, workload: Workload, metrics: &Metrics) {
        let now = self.settings.load();
        let is_same = |now: &Arc<Settings>| of.is_some_and(|of| *of == now.of) && now.workload == workload;
        if now.as_ref().map_or_else(|| of.is_none(), is_same) {
            return;
        }
        let settings = of.map(|of| {
            SpanOutcome::ALL.iter().for_each(|outcome| drop(metrics.spans(*outcome))); // they appear at zero
            Arc::new(Settings { of: of.clone(), workload, dropped: metrics.spans(SpanOutcome::Dropped) })
        });
        self.quick.sampler.store(of.map_or(0, |of| Sampler::of(of.sample).bits()), Relaxed);
        self.quick.formats.store(of.map_or(0, |of| Formats::of(&of.propagate).bits() | ON), Relaxed);
        self.settings.store(settings);
    }

    pub fn is_on(&self) -> bool {
        self.formats().is_some()
    }

    /// `None`: there are no traces.
    fn formats(&self) -> Option<Formats> {
        let bits = self.quick.formats.load(Relaxed);
        (bits != 0).then_some(Formats::of_bits(bits & !ON))
    }

    /// `None`: there are no traces.
    pub fn settings(&self) -> Option<Arc<Settings>> {
        self.settings.load_full()
    }

    /// The trace of a request with this head. `None`: there are no traces.
    pub fn begin(&self, headers: &Headers, seen: Seen, draw: impl FnMut() -> u64) -> Option<Trace> {
        let formats = self.formats()?;
        let sampler = Sampler::of_bits(self.quick.sampler.load(Relaxed));
        let by_w3c = if formats.has(Formats::W3C) { caller_by_w3c(headers, seen) } else { None };
        let caller = by_w3c.or_else(|| if formats.has_b3() { caller_by_b3(headers) } else { None });
        let context = TraceContext::begin(caller, sampler, formats, draw);
        let has_state = by_w3c.is_some() && seen.has(Seen::TRACESTATE);
        let keeps_state = has_state && is_tracestate(headers.all(Known::Tracestate));
        let state = (keeps_state && context.is_sampled).then(|| state(headers)).flatten();
        Some(Trace { context, state, keeps_state })
    }

    /// Whether there is room for the spans of a request. Without room they are counted as dropped, and need not be made.
    pub fn has_room(&self, spans: usize) -> bool {
        let has_room = self.waiting.load(Relaxed) + spans <= MOST_WAITING;
        if !has_room {
            self.count_dropped(spans);
        }
        has_room
    }

    /// Gives a request to the exporter, if there is room for it.
    pub fn tell(&self, traced: Traced) {
        let spans = traced.spans();
        let before = self.waiting.fetch_add(spans, Relaxed);
        if before + spans > MOST_WAITING || self.queue.try_send(Box::new(traced)).is_err() {
            self.waiting.fetch_sub(spans, Relaxed);
            self.count_dropped(spans);
        }
    }

    fn count_dropped(&self, spans: usize) {
        if let Some(settings) = &*self.settings.load() {
            settings.dropped.inc_by(spans as u64);
        }
    }

    /// The end of the queue for the exporter. `None`: it is taken already.
    pub fn queue(self: &Arc<Self>) -> Option<TraceQueue> {
        let requests = self.unread.lock().take()?;
        Some(TraceQueue { requests, of: self.clone() })
    }

    /// Lets the exporter send what waits, and waits for that, at most for `patience`. Returns whether all was sent in time.
    pub async fn close(&self, patience: Duration) -> bool {
        self.closing.send_replace(true);
        if !self.is_on() {
            return true;
        }
        let mut closed = self.closed.subscribe();
        timeout(patience, closed.wait_for(|closed| *closed)).await.is_ok_and(|closed| closed.is_ok())
    }

    /// Waits until the sidecar ends.
    pub async fn closing(&self) {
        let mut closing = self.closing.subscribe();
        drop(closing.wait_for(|closing| *closing).await); // the sender is in `self`
    }

    pub fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// The exporter has sent what waited.
    pub fn note_closed(&self) {
        self.closed.send_replace(true);
    }
}

impl TraceQueue {
    /// The next request. Nothing is lost when the future is dropped. `None`: no worker exists any more.
    pub async fn next(&mut self) -> Option<Box<Traced>> {
        let traced = self.requests.recv().await?;
        self.of.waiting.fetch_sub(traced.spans(), Relaxed);
        Some(traced)
    }

    /// The next request, if one waits.
    pub fn next_now(&mut self) -> Option<Box<Traced>> {
        let traced = self.requests.try_recv().ok()?;
        self.of.waiting.fetch_sub(traced.spans(), Relaxed);
        Some(traced)
    }
}

impl Trace {
    /// The trace of a copy of the request.
    #[must_use]
    pub fn beside(&self, drawn: u64) -> Self {
        Self { context: self.context.beside(drawn), ..self.clone() }
    }

    /// The headers for the next hop, which gets this attempt. Those of the caller are replaced, also where they were bad.
    pub fn write(&self, attempt: u32, headers: &mut Headers) {
        let Self { context, keeps_state, .. } = self;
        if context.formats.has(Formats::W3C) && !keeps_state {
            headers.remove(Known::Tracestate);
        }
        // `connection` of the request may have named the caller's header, which is gone then
        if context.keeps_parent && headers.has(Known::Traceparent) {
            return;
        }
        let (formats, span) = (context.formats, context.attempt(attempt));
        if formats.has(Formats::W3C) {
            headers.set_text(Known::Traceparent, &context.traceparent(span));
        }
        if formats.has_b3() {
            write_b3(context, span, headers);
        }
    }
}

#[inline(never)] // few meshes use it
fn write_b3(context: &TraceContext, span: propagation::SpanId, headers: &mut Headers) {
    headers.remove_where(is_b3);
    if context.formats.has(Formats::B3) {
        headers.append_text(B3, &context.b3(span));
    }
    if context.formats.has(Formats::B3_MULTI) {
        context.b3_multi(span).for_each(|(name, value)| headers.append_text(name, &value));
    }
}

/// What `traceparent` says. A header that stands there twice says nothing.
fn caller_by_w3c(headers: &Headers, seen: Seen) -> Option<Caller> {
    if !seen.has(Seen::TRACEPARENT) {
        return None;
    }
    traceparent(headers.only(Known::Traceparent)?)
}

/// A header that stands there twice makes all of them worthless: nothing says which one is right.
#[inline(never)] // few meshes use it
fn caller_by_b3(headers: &Headers) -> Option<Caller> {
    let single = at_most_one(headers, B3)?;
    let fields = B3Fields {
        trace: at_most_one(headers, B3_TRACE)?,
        span: at_most_one(headers, B3_SPAN)?,
        sampled: at_most_one(headers, B3_SAMPLED)?,
        flags: at_most_one(headers, B3_FLAGS)?,
    };
    single.and_then(b3).or_else(|| b3_multi(fields))
}

/// The value of a header, if it is there. `None`: it is there several times.
fn at_most_one<'h>(headers: &'h Headers, name: &str) -> Option<Option<&'h [u8]>> {
    let mut values = headers.named(name);
    let value = values.next().map(<[u8]>::trim_ascii);
    values.next().is_none().then_some(value)
}

/// The whole list, if it is short.
fn state(headers: &Headers) -> Option<Box<str>> {
    let mut text = String::new();
    for value in headers.all(Known::Tracestate).flat_map(std::str::from_utf8) {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(value);
    }
    (text.len() <= STATE_BYTES && !text.is_empty()).then(|| text.into())
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue};
    use pillion_model::tracing::{OtlpUrl, Propagation};

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn on(propagate: &[Propagation], sample: f64) -> (Arc<Traces>, Arc<Metrics>) {
        let (traces, metrics) = (Arc::new(Traces::default()), Metrics::new(1000));
        let otlp = OtlpUrl::new("http://c").unwrap();
        let of = Tracing { otlp, sample, propagate: propagate.to_vec(), headers: Vec::new() };
        traces.follow(Some(&of), Workload::default(), &metrics);
        (traces, metrics)
    }

    fn head(fields: &[(&'static str, &str)]) -> Headers {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(HeaderName::from_static(name), HeaderValue::try_from(*value).unwrap());
        }
        Headers::Map(map)
    }

    /// The head for the next hop, as pairs in the order of the names.
    fn passed(traces: &Traces, mut headers: Headers) -> (Trace, Vec<(String, String)>) {
        let mut numbers = 1..;
        let draw = || numbers.next().unwrap();
        let trace = traces.begin(&headers, Seen::of(&headers), draw).unwrap();
        trace.write(0, &mut headers);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut all: Vec<_> = headers.iter().map(|(name, value)| (text(name), text(value))).collect();
        all.sort_unstable();
        (trace, all)
    }

    #[test]
    fn a_good_traceparent_goes_on_with_the_span_of_the_attempt_and_its_state() {
        let (traces, _metrics) = on(&[Propagation::W3c], 0.0);
        let (trace, passed) = passed(&traces, head(&[("traceparent", PARENT), ("tracestate", "a=1")]));
        let span = trace.context.attempt(0);
        let expected = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{span}-01");
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(passed, [pair("traceparent", &expected), pair("tracestate", "a=1")]);
        assert_eq!(trace.state.as_deref(), Some("a=1"));
        assert!(trace.context.is_sampled);
    }

    #[test]
    fn a_trace_that_is_not_recorded_goes_on_with_the_span_of_the_caller() {
        let of = |version: &str, flags: &str| {
            format!("{version}-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}")
        };
        let through = |propagate: &[Propagation], parent: &str| {
            let (traces, _metrics) = on(propagate, 1.0);
            let (trace, passed) = passed(&traces, head(&[("traceparent", parent)]));
            assert!(trace.context.trace.to_string().starts_with("4bf92f35"));
            passed.into_iter().find(|(name, _)| name == "traceparent").unwrap().1
        };
        let w3c = [Propagation::W3c];
        assert_eq!(through(&w3c, &of("00", "00")), of("00", "00"));
        assert_eq!(through(&w3c, &of("00", "02")), of("00", "02"));
        let with_b3 = [Propagation::W3c, Propagation::B3];
        for (propagate, (version, flags), expected) in [
            (&w3c[..], ("00", "01"), "01"),
            (&w3c, ("00", "03"), "03"),
            (&w3c, ("00", "fe"), "02"), // flags that are not known are not passed on
            (&w3c, ("01", "00"), "00"),
            (&with_b3, ("00", "00"), "00"),
        ] {
            let passed = through(propagate, &of(version, flags));
            assert!(!passed.contains("00f067aa0ba902b7"), "{passed}");
            assert!(passed.starts_with("00-") && passed.ends_with(&format!("-{expected}")), "{passed}");
        }
    }

    #[test]
    fn a_header_that_the_request_has_removed_is_written_anew() {
        let (traces, _metrics) = on(&[Propagation::W3c], 0.0);
        let parent = PARENT.replace("-01", "-00");
        let mut headers = head(&[("traceparent", &parent), ("tracestate", "a=1")]);
        let trace = traces.begin(&headers, Seen::of(&headers), || 7).unwrap();
        headers.remove(Known::Traceparent);
        trace.write(0, &mut headers);
        let passed = headers.get(Known::Traceparent).unwrap();
        assert!(passed.starts_with(b"00-4bf92f3577b34da6a3ce929d0e0e4736-") && passed.ends_with(b"-00"));
    }

    #[test]
    fn bad_headers_are_replaced_and_their_state_is_removed() {
        let (traces, _metrics) = on(&[Propagation::W3c], 0.0);
        for fields in [
            &[("traceparent", "00-0-0-01"), ("tracestate", "a=1")][..],
            &[("traceparent", PARENT), ("traceparent", PARENT), ("tracestate", "a=1")],
            &[("traceparent", PARENT), ("tracestate", "a=1,a=2")],
            &[("tracestate", "a=1")],
            &[],
        ] {
            let (trace, passed) = passed(&traces, head(fields));
            let [(name, value)] = &passed[..] else { panic!("{fields:?}: {passed:?}") };
            let goes_on = fields.len() == 2 && fields[1].1 == "a=1,a=2";
            assert_eq!(name, "traceparent");
            assert_eq!(value.contains("4bf92f3577b34da6a3ce929d0e0e4736"), goes_on, "{fields:?}");
            let flags = if goes_on { "-01" } else { "-02" }; // an unsampled decision is passed on, too
            assert!(value.ends_with(flags), "{value}");
            assert_eq!(trace.state, None);
        }
    }

    #[test]
    fn b3_is_read_after_traceparent_and_written_in_the_chosen_forms_alone() {
        let single = ("b3", "a3ce929d0e0e4736-00f067aa0ba902b7-1");
        let multi = [("x-b3-traceid", "a3ce929d0e0e4736"), ("x-b3-spanid", "00f067aa0ba902b7")];
        let names = |passed: &[(String, String)]| -> Vec<String> {
            passed.iter().map(|(name, _)| name.clone()).collect()
        };
        let (traces, _metrics) = on(&[Propagation::W3c, Propagation::B3], 0.0);
        let (trace, all) = passed(&traces, head(&[single, ("traceparent", PARENT)]));
        assert_eq!(names(&all), ["b3", "traceparent"]);
        assert!(trace.context.trace.to_string().starts_with("4bf92f35"));
        let (trace, all) = passed(&traces, head(&[multi[0], multi[1], ("x-b3-sampled", "1")]));
        assert_eq!(names(&all), ["b3", "traceparent"]);
        assert!(trace.context.is_sampled);
        assert!(all[0].1.starts_with("0000000000000000a3ce929d0e0e4736-") && all[0].1.ends_with("-1"));
        let (traces, _metrics) = on(&[Propagation::B3Multi], 1.0);
        let (_, all) = passed(&traces, head(&[single, ("traceparent", PARENT)]));
        assert_eq!(
            names(&all),
            ["traceparent", "x-b3-parentspanid", "x-b3-sampled", "x-b3-spanid", "x-b3-traceid"]
        );
        assert_eq!(all[0].1, PARENT, "a header that is not listed passes as it is");
        let (trace, _) = passed(&traces, head(&[("b3", "0")]));
        assert!(!trace.context.is_sampled && trace.context.parent.is_none());
    }

    #[test]
    fn a_header_of_b3_that_stands_there_twice_refuses_the_whole_set() {
        let (traces, _metrics) = on(&[Propagation::B3, Propagation::B3Multi], 0.0);
        let single = ("b3", "a3ce929d0e0e4736-00f067aa0ba902b7-1");
        let multi = [
            ("x-b3-traceid", "a3ce929d0e0e4736"),
            ("x-b3-spanid", "00f067aa0ba902b7"),
            ("x-b3-sampled", "1"),
        ];
        let is_read = |fields: &[(&'static str, &str)]| {
            let headers = head(fields);
            let trace = traces.begin(&headers, Seen::of(&headers), || 7).unwrap();
            trace.context.parent.is_some()
        };
        assert!(is_read(&[single]) && is_read(&multi) && is_read(&[single, multi[0], multi[1]]));
        for twice in multi {
            assert!(!is_read(&[&multi[..], &[twice]].concat()), "{twice:?}");
            assert!(!is_read(&[single, twice, twice]), "{twice:?}");
        }
        assert!(!is_read(&[single, single]));
        assert!(!is_read(&[&multi[..], &[single, single]].concat()));
    }

    #[test]
    fn the_other_form_of_b3_is_not_left_in_the_text_of_a_head() {
        let (traces, _metrics) = on(&[Propagation::B3], 0.0);
        let mut fields = pillion_http1::Fields::default();
        fields.append_named(b"X-B3-TraceId", b"a3ce929d0e0e4736").unwrap();
        fields.append_named(b"X-B3-SpanId", b"00f067aa0ba902b7").unwrap();
        let (_, all) = passed(&traces, Headers::Text(fields));
        let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["b3"]);
    }

    #[test]
    fn without_settings_there_is_no_trace() {
        let (traces, metrics) = on(&[Propagation::W3c], 1.0);
        assert!(traces.is_on());
        traces.follow(None, Workload::default(), &metrics);
        let empty = head(&[("traceparent", PARENT)]);
        assert!(!traces.is_on() && traces.begin(&empty, Seen::of(&empty), || 1).is_none());
    }
}
