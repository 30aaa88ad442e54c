//! Exports the spans of traced requests to a collector of the OpenTelemetry protocol.
//!
//! There is one exporter for the whole process, beside the data path. It takes traced requests from a bounded queue
//! ([`pillion_sidecar::traces`]), makes spans of them ([`spans`]), and sends these in batches, [`over_http`] or
//! [`over_grpc`]. A collector that is dead, slow or lies costs nothing but a counter: while a batch is tried again, the queue
//! fills, and what does not fit is dropped.

pub(crate) mod messages;
mod notices;
mod over_grpc;
mod over_http;
mod spans;

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use pillion_base::ground::Ground;
use pillion_grpc::prost::Message as _;
use pillion_model::text::shortened;
use pillion_model::tracing::{OtlpTransport, OtlpUrl};
use pillion_sidecar::traces::{Settings, TraceQueue, Traced, Traces};
use pillion_telemetry::SpanOutcome;
use pillion_upstream::discovery::Resolver;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use messages::ExportResponse;
use notices::Notices;
use pillion_companion::asking::AskError;
use spans::Names;

/// The most spans of one request to the collector, as OpenTelemetry's own exporters have it.
const BATCH: usize = 512;
/// 3 MiB: the most bytes of these spans. Servers of gRPC take messages of 4 MiB by default, and the rest of a request is
/// below a KiB.
const BATCH_BYTES: usize = 3 * 1024 * 1024;
/// How long a span waits for others.
const BATCH_TIME: Duration = Duration::from_secs(5);
/// From the connection to the last byte of the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a batch is tried. Meanwhile the queue holds what comes.
const LONGEST_TRY: Duration = Duration::from_secs(60);
/// The pause after a first failure. It doubles with each further one, up to [`LONGEST_PAUSE`], and a random part of up to a
/// half is left out.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// The most that a collector may ask to be left alone. Spans are dropped meanwhile, so a wrong number must not turn traces
/// off.
const LONGEST_REST: Duration = Duration::from_mins(5);
/// How often an exporter that rests looks whether a reload has named another collector.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a sidecar that ends waits for its last spans.
pub(crate) const FLUSH_PATIENCE: Duration = Duration::from_secs(2);

pub(crate) struct Exporter {
    queue: TraceQueue,
    traces: Arc<Traces>,
    ground: Arc<Ground>,
    resolver: Resolver,
    /// The spans of a request that did not fit into the last batch.
    left: Option<Vec<Bytes>>,
    names: Names,
    /// The collector that asked to be left alone, and until when.
    rests: Option<(OtlpUrl, Instant)>,
    notices: Notices,
}

/// Spans that are sent together.
#[derive(Default)]
struct Batch {
    spans: Vec<Bytes>,
    bytes: usize,
}

impl Batch {
    /// Adds the spans of a request. Gives them back where there is no room for them. An empty batch takes all.
    fn add(&mut self, spans: Vec<Bytes>) -> Option<Vec<Bytes>> {
        /// The most that the message adds to a span, for its length and its number.
        const FRAME: usize = 6;
        let bytes: usize = spans.iter().map(|span| span.len() + FRAME).sum();
        let has_room = self.spans.len() + spans.len() <= BATCH && self.bytes + bytes <= BATCH_BYTES;
        if !has_room && !self.spans.is_empty() {
            return Some(spans);
        }
        self.spans.extend(spans);
        self.bytes += bytes;
        None
    }
}

/// What a collector has taken.
#[derive(Debug, PartialEq, Eq)]
struct Taken {
    /// How many spans it has refused, and why.
    rejected: u64,
    why: String,
}

/// Why a collector has taken nothing.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("no answer within {s} s", s = PATIENCE.as_secs())]
    Slow,
    #[error(transparent)]
    NoAnswer(AskError),
    /// `again`: whether the collector wants the spans again, and the pause that it asks for.
    #[error("{what}")]
    Answered { what: String, again: Option<Duration> },
    #[error("the request cannot be written: {0}")]
    Unaskable(#[from] http::Error),
}

impl From<AskError> for ExportError {
    fn from(error: AskError) -> Self {
        if matches!(error, AskError::Slow) { Self::Slow } else { Self::NoAnswer(error) }
    }
}

impl ExportError {
    /// The pause that the collector asks for; zero without one. `None`: the spans are not sent again.
    const fn again(&self) -> Option<Duration> {
        match self {
            Self::Slow | Self::NoAnswer(_) => Some(Duration::ZERO),
            Self::Answered { again, .. } => *again,
            Self::Unaskable(_) => None,
        }
    }
}

impl Exporter {
    /// `None`: there is one already.
    pub(crate) fn new(traces: &Arc<Traces>, ground: Arc<Ground>) -> Option<Self> {
        let (queue, traces) = (traces.queue()?, traces.clone());
        Some(Self {
            queue,
            traces,
            ground,
            resolver: Resolver::system(),
            left: None,
            names: Names::default(),
            rests: None,
            notices: Notices::default(),
        })
    }

    /// Until the sidecar ends.
    pub(crate) async fn run(mut self) {
        loop {
            self.rest().await;
            let batch = self.batch().await;
            if batch.spans.is_empty() {
                break;
            }
            self.export(batch).await;
        }
        self.traces.note_closed();
    }

    /// Leaves a collector alone that asked for it. The queue holds what comes, and drops what does not fit.
    async fn rest(&self) {
        while let Some((of, until)) = &self.rests {
            let is_same = self.traces.settings().is_some_and(|settings| settings.of.otlp == *of);
            let now = Instant::now();
            if !is_same || now >= *until || self.traces.is_closing() {
                return;
            }
            tokio::select! { // both only wait
                () = sleep_until((*until).min(now + LOOK_EVERY)) => {}
                () = self.traces.closing() => {}
            }
        }
    }

    /// The spans of the next requests. Empty: the sidecar ends, and none is left.
    async fn batch(&mut self) -> Batch {
        let mut batch = Batch::default();
        let first = match self.left.take() {
            Some(left) => Some(left),
            None => self.next(None).await.map(|first| self.spans(&first)),
        };
        let Some(first) = first else { return batch };
        batch.add(first);
        let until = Instant::now() + BATCH_TIME;
        while batch.spans.len() < BATCH && self.left.is_none() {
            let Some(next) = self.next(Some(until)).await else { break };
            self.left = batch.add(self.spans(&next));
        }
        batch
    }

    fn spans(&mut self, of: &Traced) -> Vec<Bytes> {
        spans::spans(of, &mut self.names).iter().map(|span| span.encode_to_vec().into()).collect()
    }

    /// The next request. `None`: none has come until then, or none waits while the sidecar ends.
    async fn next(&mut self, until: Option<Instant>) -> Option<Box<Traced>> {
        let late = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let next = tokio::select! { // nothing is lost: the queue keeps what was not taken
            biased;
            next = self.queue.next() => return next,
            () = self.traces.closing() => self.queue.next_now(),
            () = late => None,
        };
        next
    }

    /// Sends a batch, and sends it again where the collector or the way to it has failed.
    async fn export(&mut self, batch: Batch) {
        let (began, count) = (Instant::now(), batch.spans.len() as u64);
        for failures in 0.. {
            let Some(settings) = self.traces.settings() else {
                return self.count(SpanOutcome::Dropped, count); // a reload has turned traces off
            };
            let why = match self.send(&settings, &batch).await {
                Ok(taken) => return self.taken(taken, count),
                Err(why) => why,
            };
            self.warn(&settings, &why.to_string());
            let Some(asked) = why.again() else { return self.count(SpanOutcome::Rejected, count) };
            let asked = asked.min(LONGEST_REST);
            self.rests = (!asked.is_zero()).then(|| (settings.of.otlp.clone(), Instant::now() + asked));
            let pause = asked.max(pause(failures, self.ground.rng.lock().f64()));
            if self.traces.is_closing() || began.elapsed() + pause > LONGEST_TRY {
                return self.count(SpanOutcome::Failed, count);
            }
            tokio::select! { // a sidecar that ends sends once more, at once
                () = sleep(pause) => {}
                () = self.traces.closing() => {}
            }
        }
    }

    async fn send(&self, settings: &Settings, batch: &Batch) -> Result<Taken, ExportError> {
        let request = spans::request(batch.spans.clone(), &settings.workload);
        let (of, until) = (&settings.of, Instant::now() + PATIENCE);
        match of.otlp.transport {
            OtlpTransport::Http => over_http::send(of, &request, until, &self.ground, &self.resolver).await,
            OtlpTransport::Grpc => {
                let sent = over_grpc::send(of, request, &self.ground, &self.resolver);
                timeout_at(until, sent).await.unwrap_or(Err(ExportError::Slow))
            }
        }
    }

    fn taken(&mut self, Taken { rejected, why }: Taken, count: u64) {
        let rejected = rejected.min(count);
        self.count(SpanOutcome::Exported, count - rejected);
        self.count(SpanOutcome::Rejected, rejected);
        if rejected > 0 {
            if self.notices.problem(&why, Instant::now()) {
                tracing::warn!(rejected, "the collector of traces has refused spans: {why}");
            }
        } else if self.notices.over() {
            tracing::info!("the collector of traces takes spans again");
        }
    }

    fn warn(&mut self, settings: &Settings, why: &str) {
        if self.notices.problem(why, Instant::now()) {
            tracing::warn!(collector = %settings.of.otlp, "spans cannot be exported: {why}");
        }
    }

    fn count(&self, outcome: SpanOutcome, spans: u64) {
        self.ground.metrics.spans(outcome).inc_by(spans);
    }
}

/// The pause before the next attempt. `dice` is in [0, 1): sidecars whose collector was restarted do not come at once.
fn pause(failures: u32, dice: f64) -> Duration {
    PAUSE.saturating_mul(1 << failures.min(10)).min(LONGEST_PAUSE).mul_f64(1.0 - dice / 2.0)
}

/// What an answer says that accepts the request.
fn accepted(answer: ExportResponse) -> Taken {
    let partial = answer.partial_success.unwrap_or_default();
    let rejected = u64::try_from(partial.rejected_spans).unwrap_or(0);
    Taken { rejected, why: shortened(&partial.error_message) }
}

#[cfg(test)]
mod tests {
    use super::messages::PartialSuccess;
    use super::*;

    #[test]
    fn a_batch_is_bounded_in_spans_and_in_bytes() {
        let spans = |count: usize, bytes: usize| vec![Bytes::from(vec![0; bytes]); count];
        let mut batch = Batch::default();
        assert!(batch.add(spans(500, 10)).is_none());
        assert_eq!(batch.add(spans(13, 10)).map(|left| left.len()), Some(13));
        assert!(batch.add(spans(12, 10)).is_none());
        assert_eq!(batch.spans.len(), 512);

        let mut batch = Batch::default();
        let mut added = 0;
        while batch.add(spans(2, 64 * 1024)).is_none() {
            added += 2;
        }
        assert_eq!(added, 46);
        let request = spans::request(batch.spans, &Default::default());
        assert!((2 * 1024 * 1024..=BATCH_BYTES).contains(&request.encoded_len()));
        assert!(Batch::default().add(spans(1, BATCH_BYTES + 1)).is_none(), "it is sent alone");
    }

    #[test]
    fn pauses_grow_and_are_not_the_same_for_all() {
        let secs = |failures, dice| pause(failures, dice).as_secs_f64();
        assert_eq!([0, 1, 2, 10, u32::MAX].map(|failures| secs(failures, 0.0)), [1.0, 2.0, 4.0, 20.0, 20.0]);
        assert!(secs(0, 0.999) > 0.5 && secs(0, 0.999) < 0.51);
    }

    #[test]
    fn an_answer_that_takes_a_part_says_how_many_were_refused() {
        let of = |rejected_spans| {
            let partial = PartialSuccess { rejected_spans, error_message: "too old".to_owned() };
            accepted(ExportResponse { partial_success: Some(partial) }).rejected
        };
        assert_eq!((of(3), of(0), of(-1)), (3, 0, 0));
        assert_eq!(accepted(ExportResponse::default()), Taken { rejected: 0, why: String::new() });
    }
}
